"""Drives segmenter and encoder over a data set, and reads back what they made.

Two stages, label maps and embeddings, each with one record per image. Only what is missing is computed, so an
interrupted run goes on where it stopped, and another encoder re-embeds without segmenting again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lang_splat_ns.batches import batched
from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.encoders import Encoder, RegionTask, embed_many, photos_at_once
from lang_splat_ns.perception.feature_store import FeatureStore, content_key, make_key
from lang_splat_ns.perception.record import Record
from lang_splat_ns.perception.segmenters import Carry, LabelMaps, Segmenter, segment_photo

__all__ = [
    "Frame",
    "FrameFeatures",
    "MissingRecordError",
    "announced",
    "content_key",
    "extract",
    "labels_digest",
    "missing",
    "read",
    "read_embeddings",
    "read_label_maps",
    "record_keys",
    "silent",
]

LABELS = "labels"
EMBEDDINGS = "embeddings"


class MissingRecordError(UserError):
    """The store has no whole record of something that `extract` should have computed."""


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


Progress = Callable[[Sequence[Frame], str, int], Iterable[Frame]]
"""Called once per stage with the photos that lack it, the stage's name and the number of all photos; gives the photos
back one by one while it shows how far the work is."""


def announced(lacking: Sequence[Frame], what: str, total: int) -> Iterator[Frame]:
    """Progress on the console; nothing at all is said where there is nothing to do."""
    if not lacking:
        return
    hits = total - len(lacking)
    if hits:
        CONSOLE.print(f"{what}: {hits} of {total} photos are in the cache")
    yield from track(lacking, what, len(lacking), unit="photos")


def silent(lacking: Sequence[Frame], what: str, total: int) -> Iterator[Frame]:
    """No progress."""
    yield from lacking


def extract(
    frames: Sequence[Frame],
    segmenter: Segmenter,
    encoder: Encoder | None,
    store: FeatureStore,
    progress: Progress = announced,
) -> None:
    """Compute and store what the store lacks; safe to interrupt anywhere and to run in several processes at once.

    Args:
        frames: photos of any sizes; each is loaded only when it is needed.
        segmenter: makes the label maps.
        encoder: embeds their regions; None = label maps only.
        store: where records are looked up and put.
        progress: see `Progress`.

    Raises:
        UserError: the store cannot be written, the disk is full, or a plug-in returned something that breaks its
            contract.
    """
    segmenter_id = segmenter.segmenter_id
    lacking = [frame for frame in frames if not _has_labels(frame, segmenter_id, store)]
    if lacking:
        store.check_writable()
    for frame in progress(lacking, "Segmenting", len(frames)):
        # Asked again right before the work: another process on the same store may have done it meanwhile.
        if not _has_labels(frame, segmenter_id, store):
            _segment(frame, segmenter, store)
    if encoder is None:
        return
    encoder_id = encoder.encoder_id
    lacking = [frame for frame in frames if not _has_embeddings(frame, segmenter_id, encoder_id, store)]
    if lacking:
        store.check_writable()
    for group in batched(progress(lacking, "Embedding", len(frames)), photos_at_once(encoder)):
        # Asked again right before the work, as above.
        still = [frame for frame in group if not _has_embeddings(frame, segmenter_id, encoder_id, store)]
        _embed(still, segmenter, encoder, store)


def missing(
    frames: Sequence[Frame], segmenter_id: str, encoder_id: str | None, store: FeatureStore
) -> tuple[list[Frame], list[Frame]]:
    """The photos whose (label maps, embeddings) `extract` would have to compute."""
    labels = [frame for frame in frames if not _has_labels(frame, segmenter_id, store)]
    if encoder_id is None:
        return labels, []
    return labels, [frame for frame in frames if not _has_embeddings(frame, segmenter_id, encoder_id, store)]


def read(frame: Frame, segmenter_id: str, encoder_id: str, store: FeatureStore) -> FrameFeatures:
    """Features of a photo that `extract` has seen. The ids suffice: no network is built.

    Raises:
        MissingRecordError: the store has no whole record of it.
    """
    return FrameFeatures(
        read_label_maps(frame, segmenter_id, store), read_embeddings(frame, segmenter_id, encoder_id, store)
    )


def read_label_maps(frame: Frame, segmenter_id: str, store: FeatureStore) -> LabelMaps:
    """Label maps of a photo that `extract` has seen.

    Raises:
        MissingRecordError: the store has no whole record of it.
    """
    arrays = store.load(LABELS, _labels_key(frame, segmenter_id))
    if arrays is None:
        raise _not_there(frame, f"label maps of {segmenter_id}", store)
    return _as_label_maps(arrays)


def read_embeddings(
    frame: Frame, segmenter_id: str, encoder_id: str, store: FeatureStore
) -> tuple[npt.NDArray[np.float32], ...]:
    """Embeddings of a photo that `extract` has seen, one array [count, dim] per level.

    Raises:
        MissingRecordError: the store has no whole record of it.
    """
    key = _embeddings_key(frame, segmenter_id, encoder_id, store)
    arrays = store.load(EMBEDDINGS, key) if key is not None else None
    if arrays is None:
        raise _not_there(frame, f"embeddings of {encoder_id}", store)
    return tuple(arrays[str(level)] for level in range(len(arrays)))


def labels_digest(frame: Frame, segmenter_id: str, store: FeatureStore) -> str | None:
    """Digest of a photo's label maps, which tells whether they are still the same; None where there are none."""
    return store.digest(LABELS, _labels_key(frame, segmenter_id))


def record_keys(
    frames: Sequence[Frame], segmenter_ids: Collection[str], encoder_ids: Collection[str], store: FeatureStore
) -> set[tuple[str, str]]:
    """(stage, key) of every record that these photos, segmenters and encoders can have in a store."""
    keys: set[tuple[str, str]] = set()
    for frame in frames:
        for segmenter_id in segmenter_ids:
            keys.add((LABELS, _labels_key(frame, segmenter_id)))
            for encoder_id in encoder_ids:
                key = _embeddings_key(frame, segmenter_id, encoder_id, store)
                keys.update([(EMBEDDINGS, key)] if key is not None else [])
    return keys


def _segment(frame: Frame, segmenter: Segmenter, store: FeatureStore) -> None:
    image = frame.load()
    label_maps = segment_photo(segmenter, frame.name, image, frame.carry)
    if label_maps.labels.shape[1:] != image.shape[:2]:
        raise UserError(
            f"segmenter {segmenter.segmenter_id} returned label maps of {label_maps.labels.shape[1:]} pixels for "
            f"{frame.name}, which has {image.shape[:2]}"
        )
    # Few photos have 32,768 regions, and half the bytes are read back in half the time.
    small = max(label_maps.counts, default=0) <= np.iinfo(np.int16).max
    labels = label_maps.labels.astype(np.int16) if small else label_maps.labels
    arrays = {"labels": labels, "levels": np.array(label_maps.levels, dtype=np.str_)}
    # The photo's name stays out of the record: equal content must give equal bytes, under whatever name.
    store.save(LABELS, _labels_key(frame, segmenter.segmenter_id), arrays, {"segmenter": segmenter.segmenter_id})


def _embed(frames: Sequence[Frame], segmenter: Segmenter, encoder: Encoder, store: FeatureStore) -> None:
    """Embed photos together, so that an encoder can fill its batches across them; each gets a record of its own."""
    records = [_segmented(frame, segmenter, store) for frame in frames]
    maps = [_as_label_maps(record.arrays) for record in records]
    tasks = [task for frame, levels in zip(frames, maps, strict=True) for task in _tasks(frame.load(), levels)]
    rows = iter(embed_many(encoder, tasks))
    description = {"segmenter": segmenter.segmenter_id, "encoder": encoder.encoder_id}
    for frame, levels, record in zip(frames, maps, records, strict=True):
        arrays: dict[str, npt.NDArray[Any]] = {
            str(level): _checked(next(rows), encoder, count, frame) for level, count in enumerate(levels.counts)
        }
        store.save(EMBEDDINGS, _key_of_embeddings(frame, encoder.encoder_id, record.digest), arrays, description)


def _segmented(frame: Frame, segmenter: Segmenter, store: FeatureStore) -> Record:
    """The record of a photo's label maps, made again if it turns out to be damaged inside."""
    key = _labels_key(frame, segmenter.segmenter_id)
    record = store.read(LABELS, key)
    if record is None:
        # The first stage saw a record; only reading it whole has shown the damage.
        _segment(frame, segmenter, store)
        record = store.read(LABELS, key)
    if record is None:
        raise _not_there(frame, f"label maps of {segmenter.segmenter_id}", store)
    return record


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


def _has_embeddings(frame: Frame, segmenter_id: str, encoder_id: str, store: FeatureStore) -> bool:
    key = _embeddings_key(frame, segmenter_id, encoder_id, store)
    return key is not None and store.has(EMBEDDINGS, key)


def _as_label_maps(arrays: Mapping[str, npt.NDArray[Any]]) -> LabelMaps:
    return LabelMaps(arrays["labels"].astype(np.int32, copy=False), tuple(str(level) for level in arrays["levels"]))


def _labels_key(frame: Frame, segmenter_id: str) -> str:
    return make_key(LABELS, frame.content_key, segmenter_id)


def _embeddings_key(frame: Frame, segmenter_id: str, encoder_id: str, store: FeatureStore) -> str | None:
    """Key of a photo's embeddings, or None where its label maps are missing.

    Embeddings belong to one numbering of the regions. Label maps that broke and were made again by a segmenter that is
    not deterministic may number theirs otherwise, so the digest of the label maps is a part of the key.
    """
    digest = labels_digest(frame, segmenter_id, store)
    return _key_of_embeddings(frame, encoder_id, digest) if digest is not None else None


def _key_of_embeddings(frame: Frame, encoder_id: str, labels_digest: str) -> str:
    return make_key(EMBEDDINGS, frame.content_key, labels_digest, encoder_id)


def _not_there(frame: Frame, what: str, store: FeatureStore) -> MissingRecordError:
    return MissingRecordError(
        f"the feature cache {store.root} has no {what} for {frame.name}; run `lang-splat features` on this data set"
    )
