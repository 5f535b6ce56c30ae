"""Drives segmenter and encoder over a data set, and reads back what they made.

Two stages, label maps and embeddings, each with one record per image. Only what is missing is computed, so an
interrupted run goes on where it stopped, and another encoder re-embeds without segmenting again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lang_splat_ns.batches import batched
from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.encoders import Encoder, RegionTask, embed_many, photos_at_once
from lang_splat_ns.perception.feature_store import FeatureStore, content_key, make_key
from lang_splat_ns.perception.segmenters import Carry, LabelMaps, Segmenter, segment_photo

__all__ = ["Frame", "FrameFeatures", "content_key", "extract", "missing", "read", "read_label_maps"]

LABELS = "labels"
EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class Frame:
    """One photo of a data set.

    Attributes:
        name: what people call it, for messages.
        content_key: see `feature_store.content_key`; two frames with equal keys share their records.
        load: returns the photo as RGB uint8 [H, W, 3], resized and undistorted as the key's specification says.
        carry: takes ids that lie on the photo as it is on disk the same way; None where nothing is done to it.
    """

    name: str
    content_key: str
    load: Callable[[], npt.NDArray[np.uint8]]
    carry: Carry | None = None


@dataclass(frozen=True)
class FrameFeatures:
    """What perception knows of one photo.

    Attributes:
        label_maps: int32 [L, H, W] and the level names.
        embeddings: for each level float32 [count, dim], unit rows; a NaN row = no evidence.
    """

    label_maps: LabelMaps
    embeddings: tuple[npt.NDArray[np.float32], ...]


def extract(frames: Sequence[Frame], segmenter: Segmenter, encoder: Encoder | None, store: FeatureStore) -> None:
    """Compute and store what the store lacks; safe to interrupt anywhere and to run in several processes at once.

    Args:
        frames: photos of any sizes; each is loaded only when it is needed.
        segmenter: makes the label maps.
        encoder: embeds their regions; None = label maps only.
        store: where records are looked up and put.

    Raises:
        UserError: the disk is full, or a plug-in returned something that breaks its contract.
    """
    segmenter_id = segmenter.segmenter_id
    lacking = [frame for frame in frames if not _has_labels(frame, segmenter_id, store)]
    for frame in _announced(lacking, "Segmenting", len(frames)):
        # Asked again right before the work: another process on the same store may have done it meanwhile.
        if not _has_labels(frame, segmenter_id, store):
            _segment(frame, segmenter, store)
    if encoder is None:
        return
    encoder_id = encoder.encoder_id
    lacking = [frame for frame in frames if not _has_embeddings(frame, segmenter_id, encoder_id, store)]
    for group in batched(_announced(lacking, "Embedding", len(frames)), photos_at_once(encoder)):
        still = [frame for frame in group if not _has_embeddings(frame, segmenter_id, encoder_id, store)]
        _embed(still, segmenter, encoder, store)


def missing(frames: Sequence[Frame], segmenter_id: str, encoder_id: str | None, store: FeatureStore) -> tuple[int, int]:
    """Numbers of (label maps, embeddings) that `extract` would have to compute."""
    labels = sum(not _has_labels(frame, segmenter_id, store) for frame in frames)
    if encoder_id is None:
        return labels, 0
    return labels, sum(not _has_embeddings(frame, segmenter_id, encoder_id, store) for frame in frames)


def read(frame: Frame, segmenter_id: str, encoder_id: str, store: FeatureStore) -> FrameFeatures:
    """Features of a photo that `extract` has seen. The ids suffice: no network is built.

    Raises:
        UserError: the store has no whole record of it.
    """
    label_maps = read_label_maps(frame, segmenter_id, store)
    embeddings = _load_embeddings(frame, segmenter_id, encoder_id, store)
    if embeddings is None:
        raise _not_there(frame, f"embeddings of {encoder_id}", store)
    return FrameFeatures(label_maps, embeddings)


def read_label_maps(frame: Frame, segmenter_id: str, store: FeatureStore) -> LabelMaps:
    """Label maps of a photo that `extract` has seen.

    Raises:
        UserError: the store has no whole record of it.
    """
    label_maps = _load_label_maps(frame, segmenter_id, store)
    if label_maps is None:
        raise _not_there(frame, f"label maps of {segmenter_id}", store)
    return label_maps


def _segment(frame: Frame, segmenter: Segmenter, store: FeatureStore) -> LabelMaps:
    image = frame.load()
    label_maps = segment_photo(segmenter, frame.name, image, frame.carry)
    if label_maps.labels.shape[1:] != image.shape[:2]:
        raise UserError(
            f"segmenter {segmenter.segmenter_id} returned label maps of {label_maps.labels.shape[1:]} pixels for "
            f"{frame.name}, which has {image.shape[:2]}"
        )
    arrays = {"labels": label_maps.labels, "levels": np.array(label_maps.levels, dtype=np.str_)}
    # The photo's name stays out of the record: equal content must give equal bytes, under whatever name.
    store.save(LABELS, _labels_key(frame, segmenter.segmenter_id), arrays, {"segmenter": segmenter.segmenter_id})
    return label_maps


def _embed(frames: Sequence[Frame], segmenter: Segmenter, encoder: Encoder, store: FeatureStore) -> None:
    """Embed photos together, so that an encoder can fill its batches across them; each gets a record of its own."""
    segmenter_id = segmenter.segmenter_id
    # The first stage has just made or checked these records; one that broke since then is simply made again.
    maps = [_load_label_maps(frame, segmenter_id, store) or _segment(frame, segmenter, store) for frame in frames]
    digests = [store.digest(LABELS, _labels_key(frame, segmenter_id)) for frame in frames]
    images = [frame.load() for frame in frames]
    rows = iter(
        embed_many(
            encoder, [task for image, levels in zip(images, maps, strict=True) for task in _tasks(image, levels)]
        )
    )
    description = {"segmenter": segmenter_id, "encoder": encoder.encoder_id}
    for frame, levels, digest in zip(frames, maps, digests, strict=True):
        arrays: dict[str, npt.NDArray[Any]] = {
            str(level): _checked(next(rows), encoder, count, frame) for level, count in enumerate(levels.counts)
        }
        arrays["labels_digest"] = np.array(digest or "", dtype=np.str_)
        store.save(EMBEDDINGS, _embeddings_key(frame, segmenter_id, encoder.encoder_id), arrays, description)


def _tasks(image: npt.NDArray[np.uint8], maps: LabelMaps) -> list[RegionTask]:
    return [RegionTask(image, labels, count) for labels, count in zip(maps.labels, maps.counts, strict=True)]


def _checked(rows: Any, encoder: Encoder, count: int, frame: Frame) -> npt.NDArray[np.float32]:
    """The encoder's answer as float32, after a look at its shape and norms, since anyone can write an encoder."""
    rows = np.asarray(rows, dtype=np.float32)
    whose = f"encoder {encoder.encoder_id} returned for {frame.name}"
    if rows.shape != (count, encoder.dim):
        raise UserError(f"{whose} an array of shape {rows.shape}, expected {(count, encoder.dim)}")
    known = ~np.isnan(rows).all(axis=1)
    norms = np.linalg.norm(rows[known], axis=1)
    if not np.allclose(norms, 1.0, atol=1e-2):
        raise UserError(f"{whose} rows that are neither of length 1 nor all NaN")
    return rows


def _has_labels(frame: Frame, segmenter_id: str, store: FeatureStore) -> bool:
    return store.has(LABELS, _labels_key(frame, segmenter_id))


def _load_label_maps(frame: Frame, segmenter_id: str, store: FeatureStore) -> LabelMaps | None:
    arrays = store.load(LABELS, _labels_key(frame, segmenter_id))
    if arrays is None:
        return None
    return LabelMaps(arrays["labels"], tuple(str(level) for level in arrays["levels"]))


def _has_embeddings(frame: Frame, segmenter_id: str, encoder_id: str, store: FeatureStore) -> bool:
    return _load_embeddings(frame, segmenter_id, encoder_id, store) is not None


def _load_embeddings(
    frame: Frame, segmenter_id: str, encoder_id: str, store: FeatureStore
) -> tuple[npt.NDArray[np.float32], ...] | None:
    arrays = store.load(EMBEDDINGS, _embeddings_key(frame, segmenter_id, encoder_id))
    # Label maps that broke and were made again by a segmenter that is not deterministic may number their regions
    # otherwise; embeddings of the earlier ones would then be silently wrong, so they count as missing.
    if arrays is None or str(arrays.pop("labels_digest")) != store.digest(LABELS, _labels_key(frame, segmenter_id)):
        return None
    return tuple(arrays[str(level)] for level in range(len(arrays)))


def _announced(lacking: list[Frame], what: str, total: int) -> Iterator[Frame]:
    """The frames with a progress bar; nothing at all is said where there is nothing to do."""
    if not lacking:
        return
    if len(lacking) < total:
        CONSOLE.print(f"{what}: {total - len(lacking)} of {total} photos are in the cache")
    yield from track(lacking, what, len(lacking))


def _labels_key(frame: Frame, segmenter_id: str) -> str:
    return make_key(LABELS, frame.content_key, segmenter_id)


def _embeddings_key(frame: Frame, segmenter_id: str, encoder_id: str) -> str:
    return make_key(EMBEDDINGS, frame.content_key, segmenter_id, encoder_id)


def _not_there(frame: Frame, what: str, store: FeatureStore) -> UserError:
    return UserError(
        f"the feature cache {store.root} has no {what} for {frame.name}; run `lang-splat features` on this data set"
    )
