"""The one source of 2D features for every method: label maps and mask embeddings of a data set's photos.

Features belong to the photo at its own resolution, undistorted, whatever resolution training runs at: small objects
are segmented and embedded as well as the photo allows, and changing the training resolution recomputes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.encoders import Encoder, make_encoder
from lang_splat_ns.perception.extract import Frame, FrameFeatures, content_key, extract, read
from lang_splat_ns.perception.feature_store import FeatureStore, resolve_root
from lang_splat_ns.perception.segmenters import Segmenter, default_segmenter, make_segmenter
from lang_splat_ns.plugin.undistort import undistort, undistort_ids

LABEL_MEMORY_BYTES = 1 << 30
"""Label maps are kept in memory up to this size; the rest are read again from the store."""


@dataclass(frozen=True)
class PerceptionSpec:
    """Which networks look at the photos, and where their results are kept.

    Attributes:
        encoder: name of an encoder, see `make_encoder`.
        segmenter: name of a segmenter, or None for the device's default.
        points_per_side: point grid of the SAM family, or None for its own default.
        cache_dir: root of the feature store, or None for the usual places.
        crops: how regions are cut out, or None for the encoder's own way.
        prompt_templates: what prompts are put into, or None for nothing.
    """

    encoder: str
    segmenter: str | None = None
    points_per_side: int | None = None
    cache_dir: Path | None = None
    crops: str | None = None
    prompt_templates: str | None = None

    def make_encoder(self, device: str) -> Encoder:
        """Build the encoder; raises `UserError` when it is unknown or its weights are missing."""
        return make_encoder(self.encoder, device=device, crops=self.crops, templates=self.prompt_templates)

    def make_segmenter(self, device: str) -> Segmenter:
        """Build the segmenter; raises `UserError` when it is unknown or its weights are missing."""
        return make_segmenter(
            self.segmenter or default_segmenter(device), device=device, points_per_side=self.points_per_side
        )


class FrameFeatureSource:
    """Features of a data set's photos by image index, computed once and read lazily.

    Args:
        dataset: nerfstudio's data set; its parser outputs say where photos lie and how they are distorted.
        spec: networks and cache.
        data: the data set's folder, beside which the cache lies by default.
        device: where the networks run.
    """

    def __init__(self, dataset: InputDataset, spec: PerceptionSpec, data: Path, device: str) -> None:
        self.store = FeatureStore(resolve_root(data, spec.cache_dir))
        self.segmenter = spec.make_segmenter(device)
        self.encoder = spec.make_encoder(device)
        outputs = dataset._dataparser_outputs
        self.frames = make_frames(outputs.image_filenames, outputs.cameras)
        self._labels: OrderedDict[tuple[int, int, int], Tensor] = OrderedDict()
        self._levels: tuple[str, ...] | None = None

    def prepare(self) -> None:
        """Compute what the store lacks, with progress; safe to interrupt and to run again."""
        extract(self.frames, self.segmenter, self.encoder, self.store)

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the label levels, coarse to fine."""
        if self._levels is None:
            self._levels = self._read(0).label_maps.levels
        return self._levels

    def embeddings(self, index: int) -> tuple[Tensor, ...]:
        """Mask embeddings of one photo, one float32 [count, dim] per level; NaN rows carry no evidence."""
        return tuple(torch.from_numpy(np.asarray(rows)) for rows in self._read(index).embeddings)

    def labels(self, index: int, height: int, width: int) -> Tensor:
        """Label maps of one photo at the given size: int32 [L, height, width], -1 where there is no mask."""
        key = (index, height, width)
        if key not in self._labels:
            maps = torch.from_numpy(self._read(index).label_maps.labels)
            self._labels[key] = resize_labels(maps, height, width)
            self._forget_surplus()
        self._labels.move_to_end(key)
        return self._labels[key]

    def _read(self, index: int) -> FrameFeatures:
        return read(self.frames[index], self.segmenter.segmenter_id, self.encoder.encoder_id, self.store)

    def _forget_surplus(self) -> None:
        size = next(iter(self._labels.values())).nbytes
        while len(self._labels) > max(1, LABEL_MEMORY_BYTES // max(size, 1)):
            self._labels.popitem(last=False)


def make_frames(paths: Sequence[Path], cameras: Cameras) -> list[Frame]:
    """Photos as the perception room wants them, undistorted exactly as nerfstudio does for training.

    Args:
        paths: image files.
        cameras: their cameras at the files' own resolution, still with distortion.
    """
    return [_make_frame(path, cameras, index) for index, path in enumerate(paths)]


def resize_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour resize of label maps [L, h, w], since ids cannot be averaged."""
    if labels.shape[-2:] == (height, width):
        return labels
    # float32 holds ids up to 2**24 exactly, far more than an image has masks.
    resized = torch.nn.functional.interpolate(labels[None].float(), size=(height, width), mode="nearest-exact")
    return resized[0].to(labels.dtype)


def _make_frame(path: Path, cameras: Cameras, index: int) -> Frame:
    def load() -> np.ndarray:
        return undistort(_read_photo(path), cameras[index])[0]

    def carry(ids: np.ndarray) -> np.ndarray:
        height, width = _photo_size(path)
        if ids.shape != (height, width):
            raise UserError(f"{ids.shape[1]}x{ids.shape[0]} pixels do not fit the photo {path}, {width}x{height}")
        return undistort_ids(ids, cameras[index])

    return Frame(path.name, content_key(path, _undistort_spec(cameras[index])), load, carry)


def _read_photo(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def _photo_size(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        return image.height, image.width


def _undistort_spec(camera: Cameras) -> dict[str, object]:
    distortion = camera.distortion_params
    if distortion is None or not bool(distortion.any()):
        # Without distortion the photo is used as it is, and intrinsics play no part.
        return {"undistort": None}
    return {
        "undistort": [float(value) for value in distortion.flatten()],
        "intrinsics": [float(value) for value in camera.get_intrinsics_matrices().flatten()],
        "camera_type": int(camera.camera_type.item()),
    }
