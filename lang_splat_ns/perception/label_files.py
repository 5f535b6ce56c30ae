"""Label maps that were made elsewhere: ground truth, another tool, masks drawn by hand.

`labels:FOLDER` takes, for a photo `frame_1.jpg`, whichever of these is in the folder:

- `frame_1.png`: one level; a grey or palette PNG of 8 or 16 bits, whose values are ids and whose 0 means "no mask".
- `frame_1.whole.png`, `frame_1.part.png`, ...: one PNG per level, of any names.
- `whole/frame_1.png`, `part/frame_1.png`, ...: the same in sub-folders.
- `frame_1.npz`: an array `labels`, integers [L, H, W] or [H, W], where negative means "no mask" as in `LabelMaps`, and
  optionally an array `levels` of L names.

Ids need not be without gaps. They lie on the photo as it is on disk, and are undistorted as the photo is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.segmenters import SAM_LEVELS, Carry, LabelMaps, compact

_SUFFIXES = (".png", ".npz")
# What Pillow calls images of one channel with 1, 8 and 16 bits; palette images hold indices.
_SINGLE_CHANNEL = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")

Level = tuple[Path, npt.NDArray[np.int32]]
"""The file that a level comes from, and its ids, int32 [H, W], negative where there is no mask."""


class LabelFiles:
    """A segmenter that reads what lies in a folder.

    Args:
        variant: the folder.

    Attributes:
        segmenter_id: holds a digest of all that is in the folder, so a changed file is noticed.

    Raises:
        UserError: there is no such folder, or nothing in it that could be label maps.
    """

    def __init__(self, variant: str | None = None) -> None:
        if variant is None:
            raise UserError("the segmenter labels reads label maps from a folder; write labels:FOLDER")
        self._folder = Path(variant).expanduser().absolute()
        if not self._folder.is_dir():
            raise UserError(f"there is no folder {self._folder} with label maps")
        files = sorted(file for file in self._folder.rglob("*") if file.suffix in _SUFFIXES)
        if not files:
            raise UserError(f"the folder {self._folder} has no label maps: neither .png nor .npz files")
        self._by_level = _files_by_level(self._folder, files)
        self._levels: tuple[str, tuple[str, ...]] | None = None
        self.segmenter_id = f"labels@{_digest(self._folder, files)[:16]}/1"

    def segment(self, image: npt.NDArray[np.uint8]) -> LabelMaps:
        """Not possible.

        Raises:
            UserError: always; pixels do not tell which photo they are.
        """
        raise UserError("the segmenter labels must know which photo it is given; it works on data sets only")

    def segment_named(self, name: str, image: npt.NDArray[np.uint8], carry: Carry | None = None) -> LabelMaps:
        """Label maps of a photo.

        Args:
            name: the photo's file name.
            image: RGB, uint8 [H, W, 3], as it is used.
            carry: see `Carry`.

        Raises:
            UserError: the folder has nothing for this photo; a file cannot be read as label maps, or is not of the
                photo's size; or the levels differ from another photo's.
        """
        levels = self._read(Path(name).stem)
        if not levels:
            raise UserError(
                f"{self._folder} has no label map for the photo {name}: neither {Path(name).stem}.png, "
                f"{Path(name).stem}.LEVEL.png, LEVEL/{Path(name).stem}.png nor {Path(name).stem}.npz"
            )
        names = tuple(sorted(levels, key=_coarse_first))
        self._check_levels(name, names)
        carried = [compact(_carried(levels[level], name, image, carry)) for level in names]
        return LabelMaps(np.stack(carried), names)

    def _read(self, stem: str) -> Mapping[str, Level]:
        """Ids by level."""
        if (self._folder / f"{stem}.npz").is_file():
            return _read_npz(self._folder / f"{stem}.npz")
        if (self._folder / f"{stem}.png").is_file():
            return {SAM_LEVELS[0]: _read_png(self._folder / f"{stem}.png")}
        return {level: _read_png(file) for level, file in self._by_level.get(stem, {}).items()}

    def _check_levels(self, name: str, levels: tuple[str, ...]) -> None:
        """Every photo of a data set needs the same levels, since methods learn one field for each."""
        if self._levels is None:
            self._levels = (name, levels)
        first, expected = self._levels
        if levels != expected:
            raise UserError(
                f"{self._folder} has the levels {', '.join(levels)} for the photo {name}, and "
                f"{', '.join(expected)} for {first}; give all photos the same"
            )


def _digest(folder: Path, files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()}\0{content}\0".encode())
    return total.hexdigest()


def _files_by_level(folder: Path, files: list[Path]) -> dict[str, dict[str, Path]]:
    """Stem of the photo -> level -> file, for PNGs whose folder or name says a level."""
    found: dict[str, dict[str, Path]] = {}
    for file in files:
        stem, dot, level = file.stem.rpartition(".")
        if file.suffix == ".png" and file.parent.parent == folder:
            found.setdefault(file.stem, {})[file.parent.name] = file
        elif file.suffix == ".png" and file.parent == folder and dot:
            found.setdefault(stem, {})[level] = file
    return found


def _coarse_first(level: str) -> tuple[int, str]:
    return (SAM_LEVELS.index(level) if level in SAM_LEVELS else len(SAM_LEVELS), level)


def _read_png(file: Path) -> Level:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            mode, pixels = image.mode, np.array(image)
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"cannot read the label map {file}: {error}") from error
    if mode not in _SINGLE_CHANNEL:
        raise UserError(f"the label map {file} is a colour image ({mode}); ids must be grey values of 8 or 16 bits")
    return file, pixels.astype(np.int32) - 1


def _read_npz(file: Path) -> Mapping[str, Level]:
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays: dict[str, npt.NDArray[Any]] = {name: content[name] for name in content.files}
    except Exception as error:
        # Whatever the zip and numpy readers make of a foreign file, the answer is the same.
        raise UserError(f"cannot read the label maps {file}: {error}") from error
    labels = arrays.get("labels")
    if labels is None or labels.ndim not in (2, 3) or labels.dtype.kind not in "iu":
        found = "no such array" if labels is None else f"{labels.dtype} {list(labels.shape)}"
        raise UserError(f"{file} must have an array labels of integers [L, H, W] or [H, W], and has {found}")
    labels = labels[None] if labels.ndim == 2 else labels
    names = [str(name) for name in arrays["levels"].ravel()] if "levels" in arrays else _usual_levels(len(labels))
    if len(set(names)) != len(labels):
        raise UserError(f"{file} has {len(labels)} label maps, and {len(set(names))} different names in levels")
    return {name: (file, level.astype(np.int32)) for name, level in zip(names, labels, strict=True)}


def _usual_levels(count: int) -> list[str]:
    return list(SAM_LEVELS[:count]) if count <= len(SAM_LEVELS) else [f"level{index}" for index in range(count)]


def _carried(level: Level, name: str, image: npt.NDArray[np.uint8], carry: Carry | None) -> npt.NDArray[np.int32]:
    file, ids = level
    size = image.shape[:2]
    try:
        carried = ids if carry is None else carry(ids)
    except UserError as error:
        raise UserError(f"the label map {file} does not lie on its photo: {error}") from error
    if carried.shape != size:
        raise UserError(
            f"the label map {file} does not lie on its photo: {ids.shape[1]}x{ids.shape[0]} pixels do not fit the "
            f"photo {name}, {size[1]}x{size[0]}"
        )
    return carried
