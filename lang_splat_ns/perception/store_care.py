"""What lies in a feature store, whether it is whole, and what may go: `lang-splat features ls`, `verify` and `gc`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lang_splat_ns.console import track
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.extract import EMBEDDINGS, LABELS, Frame, record_keys
from lang_splat_ns.perception.feature_store import FeatureStore, check_identity, described_parts, make_key
from lang_splat_ns.perception.record import BrokenRecordError, check, read_meta

SHARED_STAGES = (LABELS, EMBEDDINGS)
"""Stages of every method but LERF's; all others are a method's own, and their records tell what they were made with."""
YOUNG_SECONDS = 3600.0
"""An unfinished file that is younger may be what another process is writing at this moment."""

# Only files with names that the suite itself gives are ever looked at or deleted.
_RECORD = re.compile(r"[0-9a-f]{64}\.npz")
_UNFINISHED = re.compile(r"\.[0-9a-f]{40}\..+\.tmp")
_STAGE = re.compile(r"[a-z][a-z0-9_]*")
_SET_ASIDE = re.compile(_STAGE.pattern + r"-[0-9a-f]{64}-\d+\.npz")


@dataclass(frozen=True)
class StoredRecord:
    """A record as its own description tells it.

    Attributes:
        stage, key: where it belongs.
        path: its file.
        size: bytes on disk.
        segmenter: id of the segmenter; empty where there is none.
        encoder: id of the encoder; empty for label maps.
        parts: see `described_parts`.
    """

    stage: str
    key: str
    path: Path
    size: int
    segmenter: str
    encoder: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class StoreHealth:
    """State of a feature store.

    Attributes:
        writable: whether new records can be saved.
        stages: stage -> (number of records, bytes on disk).
        set_aside: broken records that were moved away.
        unfinished: temporary files, most of them left behind by killed processes; harmless.
        other_versions: folders of other schema versions, which are left alone.
    """

    writable: bool
    stages: dict[str, tuple[int, int]]
    set_aside: tuple[Path, ...]
    unfinished: tuple[Path, ...]
    other_versions: tuple[Path, ...]


@dataclass(frozen=True)
class Garbage:
    """What `find_garbage` would delete.

    Attributes:
        records: records that nobody needs.
        set_aside: broken records that were moved away.
        unfinished: what killed processes left behind.
    """

    records: tuple[StoredRecord, ...]
    set_aside: tuple[Path, ...]
    unfinished: tuple[Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file of it."""
        return (*(record.path for record in self.records), *self.set_aside, *self.unfinished)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(_size(path) for path in self.paths)

    def delete(self) -> None:
        """Delete the files; one that another process has just deleted is no fault.

        Raises:
            UserError: the system refuses.
        """
        for path in self.paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"cannot delete {path}: {error.strerror}") from error


def health(store: FeatureStore) -> StoreHealth:
    """Count records and leftovers; no record is opened."""
    sizes = {stage: [_size(path) for path in _record_paths(store, stage)] for stage in _stages(store)}
    return StoreHealth(
        writable=store.is_writable(),
        stages={stage: (len(found), sum(found)) for stage, found in sizes.items() if found},
        set_aside=_named(store.quarantine.glob("*"), _SET_ASIDE),
        unfinished=_named(store.versioned.rglob("*.tmp"), _UNFINISHED),
        other_versions=tuple(
            sorted(path for path in store.root.glob("v*") if path.is_dir() and path != store.versioned)
        ),
    )


def inventory(store: FeatureStore) -> list[StoredRecord]:
    """All records of a store whose description can be read; broken ones are for `verify`."""
    return [
        record for stage in _stages(store) for path in _record_paths(store, stage) for record in _described(path, stage)
    ]


def group_records(
    store: FeatureStore, frames: Sequence[Frame]
) -> tuple[dict[tuple[str, str, str], list[StoredRecord]], list[StoredRecord]]:
    """Records of these photos by (stage, segmenter, encoder), and the records of all other photos."""
    records = inventory(store)
    known = _known(records, frames, store)
    groups: dict[tuple[str, str, str], list[StoredRecord]] = {}
    others: list[StoredRecord] = []
    for record in records:
        group = (record.stage, record.segmenter, record.encoder)
        (groups.setdefault(group, []) if (record.stage, record.key) in known else others).append(record)
    return groups, others


def verify(store: FeatureStore) -> tuple[int, list[Path]]:
    """Compare every record with its digest and its place, and set the broken ones aside.

    Returns:
        Number of records, and the files that were broken.
    """
    paths = [(stage, path) for stage in _stages(store) for path in _record_paths(store, stage)]
    broken: list[Path] = []
    for stage, path in track(paths, "Verifying", unit="records"):
        try:
            check(path.read_bytes())
            with path.open("rb") as file:
                check_identity(read_meta(file), stage, path.stem)
        except FileNotFoundError:
            # Another process has deleted it meanwhile.
            continue
        except (BrokenRecordError, OSError) as error:
            store.set_aside(path, str(error))
            broken.append(path)
    return len(paths), broken


def find_garbage(
    store: FeatureStore, frames: Sequence[Frame], keep: Sequence[str] = (), other_photos: bool = False
) -> Garbage:
    """What may be deleted without loss for these photos.

    Unfinished files older than an hour and what was set aside always may. A record may if it belongs to one of the
    photos, but to a segmenter or encoder that is not to be kept; or, on request, if it belongs to none of the photos.
    Files that the suite did not name itself never may.

    Args:
        store: where to look.
        frames: all photos whose records are wanted.
        keep: beginnings of segmenters' and encoders' ids. Naming none of a kind keeps all of that kind,
            where each stage's encoders are a kind of their own.
        other_photos: whether records of other photos may go. In a store that several data sets share they may be
            theirs, so say yes only if `frames` has the photos of all.

    Raises:
        UserError: a word of `keep` fits nothing in the store, most likely a slip that would cost hours.
    """
    records = inventory(store)
    segmenters = {record.segmenter for record in records} - {""}
    encoders = {stage: {one.encoder for one in records if one.stage == stage} - {""} for stage in _stages(store)}
    _check_words(keep, segmenters.union(*encoders.values()))
    known = _known(records, frames, store)
    kept_segmenters = _kept(segmenters, keep) | {""}
    kept_encoders = {stage: _kept(ids, keep) | {""} for stage, ids in encoders.items()}

    def may_go(record: StoredRecord) -> bool:
        if (record.stage, record.key) not in known:
            return other_photos
        return record.segmenter not in kept_segmenters or record.encoder not in kept_encoders[record.stage]

    now, state = time.time(), health(store)
    return Garbage(
        records=tuple(record for record in records if may_go(record)),
        set_aside=state.set_aside,
        unfinished=tuple(path for path in state.unfinished if now - _modified(path) > YOUNG_SECONDS),
    )


def _known(records: Sequence[StoredRecord], frames: Sequence[Frame], store: FeatureStore) -> set[tuple[str, str]]:
    """(stage, key) of all that these photos can have, made with what the records were made with."""
    shared = [record for record in records if record.stage in SHARED_STAGES]
    segmenters, encoders = {record.segmenter for record in shared}, {record.encoder for record in shared} - {""}
    own = {(record.stage, record.parts) for record in records if record.stage not in SHARED_STAGES}
    described = {(stage, make_key(stage, frame.content_key, *parts)) for stage, parts in own for frame in frames}
    return record_keys(frames, segmenters, encoders, store) | described


def _check_words(words: Sequence[str], ids: set[str]) -> None:
    for word in words:
        if not any(name.startswith(word) for name in ids):
            known = "; ".join(sorted(ids)) or "nothing at all"
            raise UserError(f"--keep {word!r} fits nothing in the cache, which has: {known}.")


def _kept(ids: set[str], words: Sequence[str]) -> set[str]:
    return {name for name in ids if any(name.startswith(word) for word in words)} or ids


def _stages(store: FeatureStore) -> tuple[str, ...]:
    """The stages that a store has, those that all methods share first."""
    found = {path.name for path in store.versioned.glob("*/") if _STAGE.fullmatch(path.name)}
    return (*(stage for stage in SHARED_STAGES if stage in found), *sorted(found.difference(SHARED_STAGES)))


def _record_paths(store: FeatureStore, stage: str) -> tuple[Path, ...]:
    return _named((store.versioned / stage).glob("*/*.npz"), _RECORD)


def _named(paths: Iterator[Path], pattern: re.Pattern[str]) -> tuple[Path, ...]:
    return tuple(sorted(path for path in paths if pattern.fullmatch(path.name)))


def _described(path: Path, stage: str) -> Iterator[StoredRecord]:
    try:
        with path.open("rb") as file:
            meta = read_meta(file)
        check_identity(meta, stage, path.stem)
    except (BrokenRecordError, OSError):
        return
    segmenter, encoder = (str(meta.get(name, "")) for name in ("segmenter", "encoder"))
    yield StoredRecord(stage, path.stem, path, _size(path), segmenter, encoder, described_parts(meta))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # Another process has just deleted or replaced it.
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
