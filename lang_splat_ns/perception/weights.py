"""Published weights: where they come from, where they lie, and how they get there whole.

`LANG_SPLAT_WEIGHTS` names a folder to look in first; the user's cache folder comes next and is where `fetch` writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO

from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text

FOLDER_VARIABLE = "LANG_SPLAT_WEIGHTS"
OFFLINE_VARIABLE = "LANG_SPLAT_OFFLINE"
_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30.0
_META = "https://dl.fbaipublicfiles.com/segment_anything"
_WITHOUT = "the segmenter felzenszwalb needs no weights, nor does the encoder colour-words"


@dataclass(frozen=True)
class Published:
    """One published file.

    Attributes:
        name: what `lang-splat weights fetch` calls it.
        file: its file name.
        url: where its publisher offers it.
        sha256: its digest, 64 hex digits.
        size: bytes, roughly, to tell the user what to expect.
        licence: SPDX name.
    """

    name: str
    file: str
    url: str
    sha256: str
    size: int
    licence: str


# The six digits in Meta's file names begin the files' MD5 sums, not their SHA-256.
PUBLISHED = {
    entry.name: entry
    for entry in (
        Published(
            "sam-vit-h",
            "sam_vit_h_4b8939.pth",
            f"{_META}/sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2_564_550_879,
            "Apache-2.0",
        ),
        Published(
            "sam-vit-l",
            "sam_vit_l_0b3195.pth",
            f"{_META}/sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1_249_524_607,
            "Apache-2.0",
        ),
        Published(
            "sam-vit-b",
            "sam_vit_b_01ec64.pth",
            f"{_META}/sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375_042_383,
            "Apache-2.0",
        ),
        Published(
            "mobile-sam",
            "mobile_sam.pt",
            "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
            "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            40_728_226,
            "Apache-2.0",
        ),
    )
}
ALIASES = {"sam": "sam-vit-h"}


def cache_folder() -> Path:
    """Where `fetch` writes: `LANG_SPLAT_WEIGHTS`, or the user's cache folder."""
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE]).expanduser().absolute()
    return _user_folder() / "weights"


def search_folders() -> list[Path]:
    """Where `find` looks, in order."""
    return list(dict.fromkeys([cache_folder(), _user_folder() / "weights"]))


def find(name: str, explicit: Path | None = None) -> Path:
    """Path of a weights file that is already on this machine.

    Args:
        name: a key of `PUBLISHED`, or "sam".
        explicit: the user's own file; taken as it is.

    Raises:
        UserError: it is not there. The message names the file, the places looked at, the command that gets it and
            the way without.
    """
    if explicit is not None:
        return existing(explicit)
    entry = published(name)
    folders = search_folders()
    for folder in folders:
        if (folder / entry.file).is_file():
            return folder / entry.file
    raise UserError(
        f"the weights {entry.file} are not in {' or '.join(str(folder) for folder in folders)}; get them with "
        f"`lang-splat weights fetch {entry.name}` ({entry.size / 1e6:.0f} MB), or do without: {_WITHOUT}"
    )


def existing(path: Path) -> Path:
    """The user's own weights file, if it is there.

    Raises:
        UserError: it is not.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no weights file {path}")
    return Path(path)


def published(name: str) -> Published:
    """The registry's entry of a name.

    Raises:
        UserError: there is none.
    """
    entry = PUBLISHED.get(ALIASES.get(name, name))
    if entry is None:
        raise UserError(
            f"unknown weights {name!r}; known are {', '.join(PUBLISHED)} and, from the hub, {', '.join(hub_models())}"
        )
    return entry


def hub_models() -> dict[str, Any]:
    """Name -> class of everything whose weights lie on the model hub, or an object of the same form.

    It has `fetch(variant)`, which downloads, `cached(variant)`, which only looks, `address` and `licence`.
    """
    from lang_splat_ns.perception.encoders import ENCODERS
    from lang_splat_ns.perception.hub_checkpoints import VGGT_CHECKPOINTS
    from lang_splat_ns.perception.rerankers import RERANKERS
    from lang_splat_ns.perception.segmenters import SEGMENTERS

    registries = (SEGMENTERS, ENCODERS, RERANKERS)
    classes = {name: registry.load(name) for registry in registries for name in registry.builtin}
    return {name: found for name, found in classes.items() if hasattr(found, "fetch")} | VGGT_CHECKPOINTS


def ls() -> list[dict[str, str | int | None]]:
    """One row per set of weights: name, file, size, licence, url, and path (None where it is not on this machine).

    Models from the hub, which has many sizes of each, are listed by the one that the name alone stands for, without a
    size.
    """
    rows: list[dict[str, str | int | None]] = []
    for entry in PUBLISHED.values():
        paths = [folder / entry.file for folder in search_folders() if (folder / entry.file).is_file()]
        rows.append(
            {
                "name": entry.name,
                "file": entry.file,
                "size": entry.size,
                "licence": entry.licence,
                "url": entry.url,
                "path": str(paths[0]) if paths else None,
            }
        )
    for name, model in hub_models().items():
        path = model.cached()
        row = {"name": name, "file": None, "size": None, "licence": model.licence, "url": model.address}
        rows.append({**row, "path": str(path) if path else None})
    return rows


def digest(path: Path) -> str:
    """SHA-256 of a weights file, 64 hex digits.

    Gigabytes take seconds to read, so the answer is noted together with the file's size and date, and believed as long
    as these stay the same. The note goes to the user's cache folder, since the file may lie in somebody else's.
    """
    path = path.resolve()
    status = path.stat()
    stamp = {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    note = _user_folder() / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        if {key: noted[key] for key in stamp} == stamp:
            return str(noted["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        # No note, or none that can be used: the file itself has the answer.
        pass
    value = _sha256(path)
    try:
        write_text(note, json.dumps({**stamp, "sha256": value}))
    except OSError:
        # A folder that cannot be written costs a second look next time, nothing more.
        pass
    return value


def fetch(name: str, folder: Path | None = None) -> Path:
    """Download a published file, or go on with a download that was interrupted.

    Args:
        name: a key of `PUBLISHED`, "sam", or one of `hub_models`, which goes to the hub's own cache, as
            `NAME:VARIANT` where another model than its usual one is wanted.
        folder: where to; `cache_folder()` by default.

    Returns:
        The file's path. A whole file that is already there is checked and kept.

    Raises:
        UserError: offline mode, no connection, a full disk, or a digest that does not fit.
    """
    base, _, variant = name.partition(":")
    model = hub_models().get(base)
    if model is not None:
        # The model hub keeps a cache of its own; a second copy would only cost disk.
        path = model.fetch(variant or None)
        CONSOLE.print(f"{name}: {path}", markup=False, soft_wrap=True)
        return path
    entry = published(name)
    target = (folder or cache_folder()) / entry.file
    if target.is_file() and _sha256(target) == entry.sha256:
        CONSOLE.print(f"{target} is there and whole")
        return target
    if os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
        raise UserError(
            f"{OFFLINE_VARIABLE} is set, so {entry.file} is not downloaded; put the file from {entry.url} into "
            f"{target.parent}, or do without: {_WITHOUT}"
        )
    partial = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(entry, partial)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise UserError(
            f"cannot download {entry.url}: {error}. Run the same command again to go on where it stopped"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write {partial}: {error.strerror or error}; the part is kept") from error
    found = _sha256(partial)
    if found != entry.sha256:
        partial.unlink()
        raise UserError(
            f"{entry.url} gave a file with SHA-256 {found}, expected {entry.sha256}; it was deleted. Try again, and "
            f"distrust the connection if it happens twice"
        )
    os.replace(partial, target)
    CONSOLE.print(f"{entry.name}: {target}")
    return target


def _user_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("lang-splat-ns", appauthor=False))


def _download(entry: Published, partial: Path) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(entry.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # "Range not satisfiable": nothing is left to send. The digest decides whether the part is whole.
        return
    with response:
        # 206 continues; a server that does not know ranges answers 200 and sends everything again.
        resumed = response.status == 206
        with partial.open("ab" if resumed else "wb") as file:
            done = done if resumed else 0
            _copy(response, file, entry.name, done, done + int(response.headers.get("Content-Length") or 0))


def _copy(response: BinaryIO, file: BinaryIO, name: str, done: int, total: int) -> None:
    steps = max(1, -(-(total - done) // _CHUNK)) if total else None
    for chunk in track(iter(lambda: response.read(_CHUNK), b""), f"Fetching {name} (MB)", steps):
        file.write(chunk)
        done += len(chunk)
    if total and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _sha256(path: Path) -> str:
    value = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value.update(chunk)
    return value.hexdigest()
