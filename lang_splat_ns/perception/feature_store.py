"""The feature cache on disk: one whole record per image and stage, or none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_atomically
from lang_splat_ns.perception.record import BrokenRecordError, check, pack, unpack

SCHEMA_VERSION = 1
"""Raised whenever a record's meaning changes. Each version lives in a folder of its own and leaves the others alone."""

CACHE_VARIABLE = "LANG_SPLAT_CACHE"
FOLDER_NAME = ".lang_splat_cache"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def make_key(*parts: str) -> str:
    """Key of a record: SHA-256 (64 hex digits) over the parts and the schema version.

    The parts are encoded as a JSON list, so that ("ab", "c") and ("a", "bc") differ.
    """
    return hashlib.sha256(json.dumps([SCHEMA_VERSION, *parts]).encode("utf-8")).hexdigest()


def content_key(path: Path, spec: Mapping[str, Any]) -> str:
    """Key of an image as the networks will see it.

    Args:
        path: image file. Its bytes count, not its name or date: a moved data set keeps its features, an edited
            photo loses them.
        spec: everything done to the photo before segmentation (resize, undistortion, crop), as JSON values.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}") from error
    return make_key("image", digest, json.dumps(spec, sort_keys=True))


def resolve_root(data: Path, cache_dir: Path | None = None) -> Path:
    """Folder of the feature cache of a data set.

    Precedence: `cache_dir` (the flag `--cache-dir`), the environment variable `LANG_SPLAT_CACHE`,
    `<data>/.lang_splat_cache` where that can be written, the user's cache folder. Keys depend on content alone, so
    several data sets can share one root. Nothing is created here.

    Args:
        data: the data set's folder, or its transforms.json.
        cache_dir: the user's explicit wish.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser().absolute()
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser().absolute()
    folder = data if data.is_dir() else data.parent
    inside = (folder / FOLDER_NAME).absolute()
    if is_writable(inside if inside.exists() else folder):
        return inside
    import platformdirs

    return Path(platformdirs.user_cache_dir("lang-splat-ns", appauthor=False)) / "features"


def is_writable(folder: Path) -> bool:
    """Whether files can be made in an existing folder."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


@dataclass(frozen=True)
class StageHealth:
    """What one stage of a store holds.

    Attributes:
        stage: the stage's name, for example "labels".
        records: number of records.
        size: bytes on disk.
        broken: names of records that do not match their digest (only looked for on request).
    """

    stage: str
    records: int
    size: int
    broken: tuple[str, ...]


@dataclass(frozen=True)
class StoreHealth:
    """State of a feature store, for `lang-splat doctor`.

    Attributes:
        root: where the store lies.
        writable: whether new records can be saved.
        stages: one entry per stage.
        quarantined: number of broken records that were set aside.
        unfinished: number of temporary files that a killed process left behind; harmless, see `sweep`.
        other_versions: folders of other schema versions, which are left alone.
    """

    root: Path
    writable: bool
    stages: tuple[StageHealth, ...]
    quarantined: int
    unfinished: int
    other_versions: tuple[str, ...]


class FeatureStore:
    """Records on disk, found by stage and key.

    Layout: `<root>/v<schema>/<stage>/<first two digits of the key>/<key>.npz`. A record appears in one step
    (temporary file, fsync, `os.replace`) and carries its own digest, so that any number of processes can use one
    store without locks: at worst two compute the same record, and the later one replaces its equal.

        store = FeatureStore(resolve_root(data))
        arrays = store.load("labels", key)
        if arrays is None:
            store.save("labels", key, {"labels": labels}, {"image": "0001.jpg"})
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._versioned = self.root / f"v{SCHEMA_VERSION}"
        self._quarantine = self.root / "quarantine"

    def path(self, stage: str, key: str) -> Path:
        """File of a record, whether it is there or not."""
        return self._versioned / stage / key[:2] / f"{key}.npz"

    def has(self, stage: str, key: str) -> bool:
        """Whether a whole record is there. A broken one is set aside, as in `load`; nothing is unpacked."""
        return self.digest(stage, key) is not None

    def digest(self, stage: str, key: str) -> str | None:
        """Digest of a whole record's content (64 hex digits), or None as in `load`; nothing is unpacked."""
        content = self._read(stage, key)
        if content is None:
            return None
        try:
            return check(content)
        except BrokenRecordError as error:
            self._set_aside(self.path(stage, key), str(error))
            return None

    def load(self, stage: str, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """Arrays of a record, or None where there is none.

        A record that is torn, altered or not what its name says is moved to the folder `quarantine`, reported in
        one line, and None is returned, so that the caller computes it again.

        Raises:
            UserError: the file is there but the system refuses to read it.
        """
        content = self._read(stage, key)
        if content is None:
            return None
        try:
            arrays, meta = unpack(content)
            if (meta.get("schema"), meta.get("stage"), meta.get("key")) != (SCHEMA_VERSION, stage, key):
                raise BrokenRecordError("it belongs to another key, stage or schema")
        except BrokenRecordError as error:
            self._set_aside(self.path(stage, key), str(error))
            return None
        return arrays

    def save(self, stage: str, key: str, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Store a record; an older one under the same key is replaced.

        Args:
            stage: "labels" or "embeddings"; the name of a folder.
            key: see `make_key`.
            arrays: name -> array, no object arrays.
            meta: a description for people who look into the cache; JSON values.

        Raises:
            UserError: the disk is full or the folder cannot be written. All earlier records are kept.
        """
        content = pack(arrays, {**meta, "schema": SCHEMA_VERSION, "stage": stage, "key": key})
        path = self.path(stage, key)
        try:
            write_atomically(path, lambda file: file.write(content))
        except OSError as error:
            reason = "the disk is full" if error.errno in _FULL else (error.strerror or str(error))
            raise UserError(
                f"cannot write to the feature cache {self.root}: {reason}. What was computed before is kept; make "
                f"room or choose another place with --cache-dir or {CACHE_VARIABLE}, and run the same command again."
            ) from error

    def ls(self, stage: str) -> list[dict[str, Any]]:
        """Descriptions of all whole records of a stage, with their size in bytes as `size`."""
        rows: list[dict[str, Any]] = []
        for path in self._records(stage):
            try:
                rows.append({**unpack(path.read_bytes())[1], "size": path.stat().st_size})
            except (BrokenRecordError, OSError):
                # A listing only looks; it is `load` that sets a broken record aside.
                continue
        return rows

    def health(self, verify: bool = False) -> StoreHealth:
        """Count records, leftovers and records set aside.

        Args:
            verify: also compare every record with its digest, which reads all of them.
        """
        stages = sorted(folder.name for folder in self._versioned.glob("*") if folder.is_dir())
        existing = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        return StoreHealth(
            root=self.root,
            writable=is_writable(existing),
            stages=tuple(self._stage_health(stage, verify) for stage in stages),
            quarantined=sum(1 for path in self._quarantine.glob("*") if path.is_file()),
            unfinished=sum(1 for _ in self._versioned.rglob("*.tmp")),
            other_versions=tuple(
                sorted(path.name for path in self.root.glob("v*") if path.is_dir() and path != self._versioned)
            ),
        )

    def sweep(self, older_than_seconds: float = 3600.0) -> int:
        """Delete temporary files that killed processes left behind; returns how many.

        Young ones stay, because another process may be writing them at this moment.
        """
        horizon = time.time() - older_than_seconds
        old = [path for path in self._versioned.rglob("*.tmp") if path.stat().st_mtime < horizon]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)

    def _records(self, stage: str) -> Iterator[Path]:
        return iter(sorted((self._versioned / stage).glob("*/*.npz")))

    def _stage_health(self, stage: str, verify: bool) -> StageHealth:
        paths = list(self._records(stage))
        broken = tuple(path.name for path in paths if verify and not _is_whole(path))
        return StageHealth(stage, len(paths), sum(path.stat().st_size for path in paths), broken)

    def _read(self, stage: str, key: str) -> bytes | None:
        path = self.path(stage, key)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"cannot read the feature cache's {path}: {error.strerror}") from error

    def _set_aside(self, path: Path, reason: str) -> None:
        target = self._quarantine / f"{path.parent.parent.name}-{path.stem}-{time.time_ns()}.npz"
        try:
            self._quarantine.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        except FileNotFoundError:
            # Another process has just set it aside.
            return
        except OSError:
            # A store that can only be read cannot be tidied; the record counts as missing all the same.
            target = path
        CONSOLE.print(f"The cache record {path} is broken ({reason}); it lies in {target} and is computed anew.")


def _is_whole(path: Path) -> bool:
    try:
        check(path.read_bytes())
    except (BrokenRecordError, OSError):
        return False
    return True
