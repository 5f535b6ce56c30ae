"""Photos as people have them, found and laid out as plain upright pictures for everything that follows."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lang_splat_ns.console import track
from lang_splat_ns.errors import UserError
from lang_splat_ns.file_names import distinct_names
from lang_splat_ns.files import write_atomically

PLAIN_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
QUALITY = 95
"""Of the JPEGs that are written; what it loses is below the noise of a camera."""

_ORIENTATION, _MAKE, _MODEL, _EXIF, _FOCAL, _FOCAL_35MM = 0x0112, 0x010F, 0x0110, 0x8769, 0x920A, 0xA405


@dataclass(frozen=True)
class Photo:
    """A prepared photo.

    Attributes:
        name: its file name in the folder of prepared photos and in the data set.
        width: in pixels, upright.
        height: in pixels, upright.
        lens: photos with the same text come from one camera at one size and zoom, as far as they tell.
        focal: focal length in pixels that the camera wrote into the file, or None.
    """

    name: str
    width: int
    height: int
    lens: str
    focal: float | None = None


@dataclass(frozen=True)
class Photos:
    """Prepared photos in the order of their names, and those that could not be used.

    Attributes:
        folder: where the prepared photos lie.
        photos: the usable ones.
        rejected: file name -> why, of the others.
    """

    folder: Path
    photos: tuple[Photo, ...]
    rejected: dict[str, str] = field(default_factory=dict)

    def paths(self) -> list[Path]:
        """Files of the prepared photos."""
        return [self.folder / photo.name for photo in self.photos]


def find_photos(folder: Path) -> list[Path]:
    """Photos of a folder in natural order (IMG_2 before IMG_10): those in it, else those in its sub-folders.

    Raises:
        UserError: there is no such folder, or no photo in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of photos, or a video with --video.")
    suffixes = PLAIN_SUFFIXES | HEIF_SUFFIXES
    for candidates in (folder.iterdir(), folder.rglob("*")):
        found = [
            path
            for path in candidates
            if path.suffix.lower() in suffixes and path.is_file() and not _hidden(path.relative_to(folder))
        ]
        if found:
            return sorted(found, key=lambda path: _natural(str(path.relative_to(folder))))
    raise UserError(f"{folder}: no photo in it; what can be read: {' '.join(sorted(suffixes))}.")


def content_digests(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file's bytes, 64 hex digits; empty where a file cannot be read."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(_digest, paths))


def prepare_photos(sources: Sequence[Path], digests: Sequence[str], folder: Path, longest_side: int) -> Photos:
    """Write photos upright, as JPEG or PNG of 8 bits and at most `longest_side` pixels, into `folder`.

    What is there already is kept, so that an interrupted call goes on where it stopped. A file that is plain and small
    enough is copied as it is.

    Args:
        sources: image files of any kind that Pillow reads, HEIC where pillow-heif is installed.
        digests: of their contents; of several equal files the first counts.
        folder: for these photos alone.
        longest_side: in pixels; 0 keeps all sizes.

    Raises:
        UserError: none of them can be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    heif = _register_heif(sources)
    rejected: dict[str, str] = {}
    first: dict[str, Path] = {}
    for path, digest in zip(sources, digests, strict=True):
        if digest and digest in first:
            rejected[path.name] = f"the same file as {first[digest].name}"
        elif path.suffix.lower() in HEIF_SUFFIXES and not heif:
            rejected[path.name] = "HEIC needs pillow-heif: pip install 'lang-splat-ns[heif]'"
        else:
            first[digest or str(path)] = path
    usable = list(first.values())
    jobs = list(zip(usable, distinct_names(path.stem for path in usable), strict=True))
    photos = []
    with ThreadPoolExecutor(max_workers=4) as pool:
        work = partial(_prepared_or_reason, folder=folder, longest_side=longest_side)
        results = track(pool.map(work, jobs), "Reading photos", len(jobs), "photos")
        for (path, _), result in zip(jobs, results, strict=True):
            if isinstance(result, Photo):
                photos.append(result)
            else:
                rejected[path.name] = result
    if not photos:
        name, reason = next(iter(rejected.items()))
        raise UserError(f"none of the {len(sources)} photos can be used; the first, {name}: {reason}.")
    return Photos(folder, tuple(photos), rejected)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _natural(text: str) -> list[tuple[int, str]]:
    """Digits compare as numbers, all else as text without regard to case."""
    import re

    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text.lower()) if part]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            hasher = hashlib.sha256()
            for block in iter(lambda: file.read(1 << 20), b""):
                hasher.update(block)
            return hasher.hexdigest()
    except OSError:
        return ""


def _register_heif(sources: Sequence[Path]) -> bool:
    """Teach Pillow HEIC where one is among the photos; False where the package is not installed."""
    if not any(path.suffix.lower() in HEIF_SUFFIXES for path in sources):
        return True
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _prepared_or_reason(job: tuple[Path, str], folder: Path, longest_side: int) -> Photo | str:
    from PIL import Image, UnidentifiedImageError

    path, stem = job
    try:
        return _prepare(path, stem, folder, longest_side)
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be read ({error})"


def _prepare(path: Path, stem: str, folder: Path, longest_side: int) -> Photo:
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        exif = image.getexif()
        about = (str(exif.get(_MAKE, "")).strip(" \0"), str(exif.get(_MODEL, "")).strip(" \0"))
        optics = exif.get_ifd(_EXIF)
        upright = exif.get(_ORIENTATION, 1) in (0, 1)
        plain = image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L")
        fits = not longest_side or max(image.size) <= longest_side
        target = folder / f"{stem}{'.png' if image.format == 'PNG' and plain else '.jpg'}"
        if plain and upright and fits:
            # Reading it whole tells a truncated file.
            image.load()
            size = image.size
            if not target.exists():
                with path.open("rb") as file:
                    write_atomically(target, partial(shutil.copyfileobj, file))
        else:
            target = target.with_suffix(".jpg")
            picture = _eight_bits(ImageOps.exif_transpose(image))
            if not fits:
                picture.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
            size = picture.size
            if not target.exists():
                write_atomically(target, partial(picture.save, format="JPEG", quality=QUALITY, subsampling=0))
    focal = _number(optics.get(_FOCAL_35MM))
    lens = "|".join((*about, str(optics.get(_FOCAL, "")), str(optics.get(_FOCAL_35MM, "")), f"{size[0]}x{size[1]}"))
    return Photo(target.name, *size, lens=lens, focal=focal and _in_pixels(focal, *size))


def _eight_bits(image: Any) -> Any:
    """RGB of 8 bits from any mode of Pillow; 16 bits of grey are scaled, which Pillow itself would cut off."""
    from PIL import Image

    if image.mode.startswith("I;16") or image.mode == "I":
        import numpy as np

        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype("uint8")).convert("RGB")
    return image.convert("RGB")


def _in_pixels(focal: float, width: int, height: int) -> float | None:
    """A focal length that is told for 35 mm film, by the diagonal of its frame of 36 x 24 mm."""
    return focal * (width**2 + height**2) ** 0.5 / (36**2 + 24**2) ** 0.5 if focal > 0 else None


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
