"""The one source of 2D features for every method: label maps and mask embeddings of a data set's photos.

Features belong to the photo at its own resolution, undistorted, whatever resolution training runs at: small objects
are segmented and embedded as well as the photo allows, and changing the training resolution recomputes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.encoders import Encoder, make_encoder
from lang_splat_ns.perception.extract import (
    Frame,
    MissingRecordError,
    content_key,
    extract,
    read_embeddings,
    read_label_maps,
)
from lang_splat_ns.perception.feature_store import open_store
from lang_splat_ns.perception.segmenters import LabelMaps, Segmenter, default_segmenter, make_segmenter
from lang_splat_ns.perception.view_labels import read_view_labels, resize_labels
from lang_splat_ns.plugin.undistort import undistort, undistort_ids

LABEL_MEMORY_BYTES = 1 << 30
"""Label maps are kept in memory up to this size; the rest are read again from the store."""

T = TypeVar("T")


def best_device() -> str:
    """Where training, and so perception, runs on this machine."""
    return "cuda" if torch.cuda.is_available() else "cpu"


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

    def settled(self, device: str) -> PerceptionSpec:
        """The same with the device's default segmenter by name, so that it means the same on any other machine."""
        return replace(self, segmenter=self.segmenter or default_segmenter(device))

    def make_networks(self) -> tuple[Segmenter, Encoder]:
        """Segmenter and encoder on this machine's best device."""
        device = best_device()
        return self.make_segmenter(device), self.make_encoder(device)

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
        self.store = open_store(data, spec.cache_dir)
        self.segmenter = spec.make_segmenter(device)
        self.encoder = spec.make_encoder(device)
        outputs = dataset._dataparser_outputs
        self.frames = make_frames(outputs.image_filenames, outputs.cameras)
        self._labels: OrderedDict[tuple[int, int, int], Tensor] = OrderedDict()
        self._label_bytes = 0
        self._levels: tuple[str, ...] | None = None

    def prepare(self) -> None:
        """Compute what the store lacks, with progress; safe to interrupt and to run again."""
        extract(self.frames, self.segmenter, self.encoder, self.store)

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the label levels, coarse to fine."""
        if self._levels is None:
            self._levels = self.label_maps(0).levels
        return self._levels

    def embeddings(self, index: int) -> tuple[Tensor, ...]:
        """Mask embeddings of one photo, one float32 [count, dim] per level; NaN rows carry no evidence."""
        segmenter_id, encoder_id = self.segmenter.segmenter_id, self.encoder.encoder_id
        found = self._read(index, lambda frame: read_embeddings(frame, segmenter_id, encoder_id, self.store))
        return tuple(torch.from_numpy(rows) for rows in found)

    def labels(self, index: int, height: int, width: int) -> Tensor:
        """Label maps of one photo at the given size: int32 [L, height, width], -1 where there is no mask."""
        key = (index, height, width)
        if key not in self._labels:
            labels = resize_labels(torch.from_numpy(self.label_maps(index).labels), height, width)
            # Most photos have few enough regions for half the memory.
            small = labels.numel() == 0 or int(labels.max()) <= torch.iinfo(torch.int16).max
            self._remember(key, labels.to(torch.int16) if small else labels)
        self._labels.move_to_end(key)
        return self._labels[key].int()

    def view_labels(self, index: int, height: int, width: int) -> tuple[Tensor, tuple[int, ...]]:
        """Label maps of one photo as `labels` gives them, and how many masks each level has."""
        return self._read(
            index, lambda frame: read_view_labels(frame, self.segmenter.segmenter_id, self.store, height, width)
        )

    def label_maps(self, index: int) -> LabelMaps:
        """Label maps of one photo at its own size, as the segmenter made them."""
        return self._read(index, lambda frame: read_label_maps(frame, self.segmenter.segmenter_id, self.store))

    def _read(self, index: int, read: Callable[[Frame], T]) -> T:
        try:
            return read(self.frames[index])
        except MissingRecordError:
            # A record that was damaged inside shows it only now, and hours of training should not end with that.
            extract([self.frames[index]], self.segmenter, self.encoder, self.store)
            return read(self.frames[index])

    def _remember(self, key: tuple[int, int, int], labels: Tensor) -> None:
        self._labels[key] = labels
        self._label_bytes += labels.nbytes
        while self._label_bytes > LABEL_MEMORY_BYTES and len(self._labels) > 1:
            self._label_bytes -= self._labels.popitem(last=False)[1].nbytes


def make_frames(paths: Sequence[Path], cameras: Cameras) -> list[Frame]:
    """Photos as the perception room wants them, undistorted exactly as nerfstudio does for training.

    Args:
        paths: image files.
        cameras: their cameras at the files' own resolution, still with distortion.
    """
    return [_make_frame(path, cameras, index) for index, path in enumerate(paths)]


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
