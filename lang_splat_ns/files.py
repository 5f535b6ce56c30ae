"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lang_splat_ns.errors import UserError


def check_exists(data: Path) -> None:
    """Check that a data set is there at all.

    Raises:
        UserError: it is not.
    """
    if not data.exists():
        raise UserError(f"{data}: no such folder; --data wants a nerfstudio data set (a folder with transforms.json).")


def check_writable(folder: Path) -> None:
    """Make a folder where it is missing, and check that files can be written into it, before any work.

    Raises:
        UserError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); give another --out.") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object], temporary_folder: Path | None = None) -> None:
    """Create or replace `path` so that no reader ever sees a part of it.

    The content goes to a temporary file in the same folder, is flushed to disk, and then takes the place of
    `path` in one step. If `write` raises (disk full, interrupt), the temporary file is removed and whatever
    stood at `path` is left as it was.

    Args:
        path: target file; its folder is made where it is missing.
        write: writes the content into the binary file object that it is given.
        temporary_folder: where the unfinished file lies, on the same file system; the target's folder by default.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = temporary_folder or path.parent
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; the result gets the permissions that an ordinary open() would give.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically (see `write_atomically`)."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def _umask() -> int:
    # The mask can only be read by setting it; setting it back at once is the documented way.
    mask = os.umask(0)
    os.umask(mask)
    return mask
