"""The feature cache on disk: one whole record per image and stage, or none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import check_exists, write_atomically
from lang_splat_ns.perception.record import BrokenRecordError, Record, claimed_digest, pack, unpack

SCHEMA_VERSION = 1
"""Raised whenever a record's meaning changes. Each version lives in a folder of its own and leaves the others alone."""

CACHE_VARIABLE = "LANG_SPLAT_CACHE"
FOLDER_NAME = ".lang_splat_cache"
_PLACE = ("schema", "stage", "key")
"""What `FeatureStore.save` adds to a description: where the record lies."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def make_key(*parts: str) -> str:
    """Key of a record: SHA-256 (64 hex digits) over the parts and the schema version.

    The parts are encoded as a JSON list, so that ("ab", "c") and ("a", "bc") differ.
    """
    return hashlib.sha256(json.dumps([SCHEMA_VERSION, *parts]).encode("utf-8")).hexdigest()


def described_parts(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """What a record was made with beside its photo, as its own description tells it, in the order of the names.

    A stage that no room here knows keys its records by `make_key(stage, photo, *described_parts(meta))`, so that
    whoever looks after the store can tell which photo a record belongs to. Texts count as they stand, all else as JSON.
    """
    named = sorted((name, value) for name, value in meta.items() if name not in _PLACE)
    return tuple(value if isinstance(value, str) else json.dumps(value, sort_keys=True) for _, value in named)


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
    inside = cache_inside(data)
    if is_writable(inside if inside.exists() else inside.parent):
        return inside
    import platformdirs

    return Path(platformdirs.user_cache_dir("lang-splat-ns", appauthor=False)) / "features"


def open_store(data: Path, cache_dir: Path | None = None) -> FeatureStore:
    """The feature cache of a data set, see `resolve_root`.

    A cache that lies in a data folder on a read-only disk is read; what it lacks goes to the user's cache folder.

    Raises:
        UserError: there is no such data set.
    """
    check_exists(data)
    root, inside = resolve_root(data, cache_dir), cache_inside(data)
    # Whoever names a place gets that place alone, and an empty one starts from nothing.
    named = cache_dir is not None or os.environ.get(CACHE_VARIABLE)
    readable = inside != root and os.access(inside, os.R_OK | os.X_OK)
    return FeatureStore(root, below=FeatureStore(inside) if readable and not named else None)


def cache_inside(data: Path) -> Path:
    """Where the cache of a data set lies by default, whether it is there or not: in the data folder itself."""
    return ((data if data.is_dir() else data.parent) / FOLDER_NAME).absolute()


def is_writable(folder: Path) -> bool:
    """Whether files can be made in an existing folder."""
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


class FeatureStore:
    """Records on disk, found by stage and key.

    Layout: `<root>/v<schema>/<stage>/<first two digits of the key>/<key>.npz`. A record appears in one step
    (temporary file, fsync, `os.replace`) and carries its own digest, so that any number of processes can use one
    store without locks: at worst two compute the same record, and the later one replaces its equal.

        store = open_store(data)
        arrays = store.load("labels", key)
        if arrays is None:
            store.save("labels", key, {"labels": labels}, {"segmenter": segmenter_id})

    Args:
        root: folder of the store; made when the first record is saved.
        below: another store that is read where this one lacks a record, and never written.
    """

    def __init__(self, root: Path, below: FeatureStore | None = None) -> None:
        self.root = Path(root).absolute()
        self.below = below
        self.versioned = self.root / f"v{SCHEMA_VERSION}"
        self.quarantine = self.root / "quarantine"

    def path(self, stage: str, key: str) -> Path:
        """File of a record in this store, whether it is there or not."""
        return self.versioned / stage / key[:2] / f"{key}.npz"

    def has(self, stage: str, key: str) -> bool:
        """Whether a record is there that is not truncated; see `digest`."""
        return self.digest(stage, key) is not None

    def digest(self, stage: str, key: str) -> str | None:
        """The digest that a record carries (64 hex digits), or None where there is none.

        Only the last bytes are read, so that thousands of records are looked through in a second. A truncated or
        foreign file is set aside, as in `load`; it takes `load` or `verify` to notice that bytes were altered.

        Raises:
            UserError: as `load`.
        """
        path = self.path(stage, key)
        try:
            with path.open("rb") as file:
                return claimed_digest(file)
        except BrokenRecordError as error:
            self.set_aside(path, str(error))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise _cannot_read(path, error) from error
        return self.below.digest(stage, key) if self.below else None

    def load(self, stage: str, key: str) -> dict[str, npt.NDArray[Any]] | None:
        """Arrays of a record, or None where there is none; see `read`."""
        record = self.read(stage, key)
        return record and record.arrays

    def read(self, stage: str, key: str) -> Record | None:
        """A record, or None where there is none.

        A record that is torn, altered or not what its name says is moved to the folder `quarantine`, reported in
        one line, and counts as missing, so that the caller computes it again.

        Raises:
            UserError: the file is there but the system refuses to read it.
        """
        path = self.path(stage, key)
        try:
            record = unpack(path.read_bytes())
            check_identity(record.meta, stage, key)
            return record
        except BrokenRecordError as error:
            self.set_aside(path, str(error))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise _cannot_read(path, error) from error
        return self.below.read(stage, key) if self.below else None

    def save(self, stage: str, key: str, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Store a record; an older one under the same key is replaced.

        Args:
            stage: "labels", "embeddings", or a method's own in small letters; the name of a folder.
            key: see `make_key`, and `described_parts` for a method's own stage.
            arrays: name -> array, no object arrays.
            meta: a description for people who look into the cache; JSON values.

        Raises:
            UserError: the disk is full or the folder cannot be written. All earlier records are kept.
        """
        content = pack(arrays, {**meta, "schema": SCHEMA_VERSION, "stage": stage, "key": key})
        try:
            write_atomically(self.path(stage, key), lambda file: file.write(content))
        except OSError as error:
            reason = "the disk is full" if error.errno in _FULL else (error.strerror or str(error))
            raise self._cannot_write(reason) from error

    def is_writable(self) -> bool:
        """Whether records can be saved, as far as permissions tell."""
        return is_writable(next(folder for folder in (self.root, *self.root.parents) if folder.exists()))

    def check_writable(self) -> None:
        """Look whether records can be saved, before anything long is computed.

        Raises:
            UserError: they cannot.
        """
        if not self.is_writable():
            raise self._cannot_write("no files can be made there")

    def set_aside(self, path: Path, reason: str) -> None:
        """Move a broken record of this store to `quarantine` and say so; the others are not touched."""
        target = self.quarantine / f"{path.parent.parent.name}-{path.stem}-{time.time_ns()}.npz"
        try:
            self.quarantine.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        except FileNotFoundError:
            # Another process has just set it aside.
            return
        except OSError:
            # A store that can only be read cannot be tidied; the record counts as missing all the same.
            target = path
        CONSOLE.print(f"The cache record {path} is broken ({reason}); it lies in {target} and counts as missing.")

    def _cannot_write(self, reason: str) -> UserError:
        return UserError(
            f"cannot write to the feature cache {self.root}: {reason}. What was computed before is kept; make "
            f"room or choose another place with --cache-dir or {CACHE_VARIABLE}, and run the same command again."
        )


def check_identity(meta: Mapping[str, Any], stage: str, key: str) -> None:
    """Compare a record's description with the place where it lies.

    Raises:
        BrokenRecordError: it belongs elsewhere.
    """
    if (meta.get("schema"), meta.get("stage"), meta.get("key")) != (SCHEMA_VERSION, stage, key):
        raise BrokenRecordError("it belongs to another key, stage or schema")


def _cannot_read(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read the feature cache's {path}: {error.strerror}")
