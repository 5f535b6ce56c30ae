"""LERF's two stages of the feature store, one record per photo each: pyramids of tile embeddings, and DINO features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.encoders import Encoder
from lang_splat_ns.perception.extract import Frame, Progress, announced
from lang_splat_ns.perception.feature_store import FeatureStore, described_parts, make_key
from lerf_ns.dino import DinoExtractor
from lerf_ns.pyramid import PhotoPyramid, embed_pyramid
from lerf_ns.tiles import PyramidPlan

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Stage:
    """Something that is computed once per photo and kept.

    Attributes:
        name: the stage's folder in the store.
        title: what people read while it runs.
        meta: everything beside the photo that decides the result, by name: a part of the key, and kept in the record
            for whoever looks into the cache.
        compute: from the photo, RGB uint8 [H, W, 3], to the arrays that are kept.
    """

    name: str
    title: str
    meta: Mapping[str, Any]
    compute: Callable[[npt.NDArray[np.uint8]], Arrays]

    def key(self, frame: Frame) -> str:
        """Key of a photo's record: its content and all parameters, never its name or folder."""
        return make_key(self.name, frame.content_key, *described_parts(self.meta))

    def fill(self, frames: Sequence[Frame], store: FeatureStore, progress: Progress = announced) -> None:
        """Compute what the store lacks; it may be interrupted anywhere, and run by several processes at once.

        Raises:
            UserError: the store cannot be written, or a plug-in broke its contract.
        """
        lacking = [frame for frame in frames if not store.has(self.name, self.key(frame))]
        if lacking:
            store.check_writable()
        for frame in progress(lacking, self.title, len(frames)):
            # Asked again right before the work: another process on the same store may have done it meanwhile.
            if not store.has(self.name, self.key(frame)):
                self._compute_one(frame, store)

    def read(self, frame: Frame, store: FeatureStore) -> Arrays:
        """A photo's arrays; a record that turns out to be damaged is made again."""
        for _ in range(2):
            arrays = store.load(self.name, self.key(frame))
            if arrays is not None:
                return arrays
            self._compute_one(frame, store)
        raise UserError(f"the feature cache {store.root} does not keep the {self.name} of {frame.name}")

    def _compute_one(self, frame: Frame, store: FeatureStore) -> None:
        store.save(self.name, self.key(frame), self.compute(frame.load()), self.meta)


def pyramid_stage(encoder: Encoder, plan: PyramidPlan) -> Stage:
    """Embeddings of all tiles; see `as_pyramid` for what is kept."""

    def compute(image: npt.NDArray[np.uint8]) -> Arrays:
        vectors = embed_pyramid(image, encoder, plan)
        return {"size": np.array(image.shape[:2])} | {str(level): rows for level, rows in enumerate(vectors)}

    meta = {"encoder": encoder.encoder_id, "tiles": plan.to_json()}
    return Stage("pyramid", "Embedding tiles", meta, compute)


def as_pyramid(arrays: Arrays) -> PhotoPyramid:
    """A photo's pyramid from its record."""
    height, width = (int(side) for side in arrays["size"])
    return PhotoPyramid(height, width, [arrays[str(level)] for level in range(len(arrays) - 1)])


def dino_stage(extractor: DinoExtractor) -> Stage:
    """DINO features of each patch: `features`, float16 [h, w, dim]."""

    def compute(image: npt.NDArray[np.uint8]) -> Arrays:
        return {"features": extractor(image).astype(np.float16)}

    return Stage("dino", "DINO features", {"encoder": extractor.dino_id}, compute)
