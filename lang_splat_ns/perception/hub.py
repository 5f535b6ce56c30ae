"""Models by repository name: the model hub's own cache, what lies in it, and how it gets there.

The hub's client keeps one cache per user, resumes downloads and checks digests, so nothing is copied elsewhere. A
folder in the form of `save_pretrained` may stand in for a repository everywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import weights as weight_files

WITHOUT = "use the encoder colour-words, which needs no weights"
_TIMEOUT_SECONDS = 10
_SMALL_FILES = (".json", ".txt", ".model", ".jinja")


def model_folder(repository: str, name: str, without: str = WITHOUT) -> Path:
    """Folder with a repository's configuration, tokenizer and weights: from the cache, else by download.

    Args:
        repository: `OWNER/NAME` on the hub, or a folder.
        name: what `lang-splat weights fetch` calls it, for messages.
        without: what can be done without it, for messages.

    Raises:
        UserError: it is neither cached nor can it be downloaded.
    """
    folder = cached_model(repository)
    if folder is not None:
        return folder
    if _looks_like_path(repository):
        raise UserError(
            f"{repository}: no folder with a model in the form of save_pretrained (config.json and weights)"
        )
    files = _wanted(_listing(repository, name, without), with_weights=True)
    if not any(_is_weights(file) for file in files):
        raise UserError(f"the repository {repository} has no weights that transformers could load")
    return _download(repository, files, name, without)


def text_folder(repository: str, name: str, without: str = WITHOUT) -> Path:
    """The same without weights: configuration and tokenizer alone."""
    folder = _cached_folder(repository)
    if folder is not None and any(folder.glob("tokenizer*.json")):
        return folder
    return _download(repository, _wanted(_listing(repository, name, without), with_weights=False), name, without)


def cached_model(repository: str) -> Path | None:
    """The folder of a model that is on this machine with all its weights, or None; no network is asked."""
    folder = _cached_folder(repository)
    if folder is None or not (folder / "config.json").is_file():
        return None
    try:
        weights = weights_of(folder)
    except UserError:
        return None
    return folder if all(file.is_file() for file in weights) else None


def weights_of(folder: Path) -> list[Path]:
    """Weights files of a model's folder, safetensors before pickles; several where the model is split.

    Raises:
        UserError: there are none.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = folder / f"{stem}.{suffix}.index.json"
        if (folder / f"{stem}.{suffix}").is_file():
            return [folder / f"{stem}.{suffix}"]
        if index.is_file():
            return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    raise UserError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


def digest_of(folder: Path) -> str:
    """SHA-256 of a model's weights, 64 hex digits; of a split model over its parts' digests."""
    digests = [file_digest(file) for file in weights_of(folder)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def file_digest(file: Path) -> str:
    """SHA-256 of one file, 64 hex digits."""
    # The hub's cache names each file by its own SHA-256, which saves reading it.
    name = file.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else weight_files.digest(file)


def cached_file(repository: str, names: Iterable[str]) -> Path | None:
    """The first of the files that is in the hub's cache; no network is asked."""
    from huggingface_hub import try_to_load_from_cache

    paths = (try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def download_file(repository: str, names: Sequence[str], name: str, without: str = WITHOUT) -> Path:
    """The first of the files that the repository has, downloaded into the hub's cache.

    Raises:
        UserError: none of them can be had.
    """
    check_reachable(name, repository, without)
    reason = ""
    for file in names:
        try:
            return _get(repository, file)
        except Exception as error:
            reason = first_line(error)
    raise cannot_get(name, repository, reason, without)


def check_reachable(name: str, place: str, without: str = WITHOUT) -> None:
    """Find out at once whether the hub can be asked.

    The hub's client tries again for most of a minute, per file and with a log line each, before it gives up on a
    machine without a connection. One question beforehand answers at once.

    Raises:
        UserError: offline mode, or no connection.
    """
    from huggingface_hub import constants

    if is_offline():
        raise cannot_get(name, place, f"{weight_files.OFFLINE_VARIABLE} is set", without)
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        # Any answer at all is a connection.
        return
    except OSError as error:
        reason = f"no connection to {constants.ENDPOINT}: {getattr(error, 'reason', error)}"
        raise cannot_get(name, place, reason, without) from error


def is_offline() -> bool:
    """Whether the user forbids the network."""
    return os.environ.get(weight_files.OFFLINE_VARIABLE, "") not in ("", "0")


def cannot_get(name: str, place: str, reason: str, without: str = WITHOUT) -> UserError:
    """The one-line error for weights that are not here and cannot be fetched."""
    from huggingface_hub import constants

    return UserError(
        f"the weights of {name} ({place}) are neither in the cache {constants.HF_HUB_CACHE} nor can they be downloaded "
        f"({reason}). Run `lang-splat weights fetch {name}` where there is a connection, or {without}"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _cached_folder(repository: str) -> Path | None:
    if Path(repository).is_dir():
        return Path(repository)
    if _looks_like_path(repository):
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except Exception:
        # Nothing of it was ever downloaded, or the name is none that the hub could have.
        return None


def _looks_like_path(repository: str) -> bool:
    return repository.count("/") > 1 or repository.startswith((".", "/", "~"))


def _listing(repository: str, name: str, without: str) -> list[str]:
    check_reachable(name, repository, without)
    from huggingface_hub import HfApi

    try:
        return HfApi().list_repo_files(repository)
    except Exception as error:
        # The hub's client raises a dozen kinds; for the user they all mean that the model cannot be had.
        raise cannot_get(name, repository, first_line(error), without) from error


def _wanted(files: Sequence[str], *, with_weights: bool) -> list[str]:
    """What of a repository is needed, in an order by which the last things tell that the rest is there too."""
    top = [file for file in files if "/" not in file]
    small = sorted((file for file in top if file.endswith(_SMALL_FILES)), key=lambda file: file.startswith("tokenizer"))
    weights = [file for file in top if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", file)]
    weights = weights or [file for file in top if re.fullmatch(r"pytorch_model(-\d+-of-\d+)?\.bin", file)]
    return small + (weights if with_weights else [])


def _is_weights(file: str) -> bool:
    return file.endswith((".safetensors", ".bin"))


def _download(repository: str, files: Sequence[str], name: str, without: str) -> Path:
    try:
        return [_get(repository, file) for file in files][-1].parent
    except Exception as error:
        raise cannot_get(name, repository, first_line(error), without) from error


def _get(repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, file, etag_timeout=_TIMEOUT_SECONDS))
