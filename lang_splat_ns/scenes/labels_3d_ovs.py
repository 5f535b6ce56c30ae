"""Labels of 3D-OVS (Liu et al., NeurIPS 2023) as they are downloaded: a mask per class and labelled photo.

`segmentations/classes.txt` is the closed list of the scene's classes, one a line; `segmentations/<photo>/<class>.png`
is white where the photo shows the class. The folder has the photo's name without its suffix, `03` for `images/03.jpg`.

The authors' code takes the folder's name for a number and that for the photo's place among the sorted names, from 0.
Names and places are the same thing only while no photo is missing, so here the name counts. A folder of no photo's
name is looked for by its number, once among the numbers in photos' names and once as a place, and where that finds
two different photos nobody guesses.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.labels import FrameLabels, Mask, SceneLabels
from lang_splat_ns.scenes.photos import PLAIN_SUFFIXES

FOLDER = "segmentations"
CLASSES_FILE = "classes.txt"
PHOTOS = "images"


def find_3d_ovs(data: Path) -> list[Path]:
    """The folder of masks in folder `data`, if it is there."""
    return [data / FOLDER] if (data / FOLDER / CLASSES_FILE).is_file() else []


def read_3d_ovs(folder: Path) -> SceneLabels:
    """The masks of every labelled photo, whose classes stay in the order of the file.

    A class without a file is not in the photo. There are no boxes, so localisation is not scored.

    Raises:
        UserError: a file cannot be read, no class has its name, the class list is empty or names one twice, or it is
            not clear which photo a folder belongs to.
    """
    classes = _classes(folder / CLASSES_FILE)
    photos = sorted(
        (path for path in (folder.parent / PHOTOS).glob("*") if path.suffix.lower() in PLAIN_SUFFIXES),
        key=lambda path: path.name,
    )
    frames: dict[str, FrameLabels] = {}
    for masks in sorted(path for path in folder.iterdir() if path.is_dir()):
        photo = _photo(masks, photos)
        if photo.stem in frames:
            raise UserError(f"{masks}: another folder beside it has labels of {photo.name}, too; take one away.")
        frames[photo.stem] = _frame(masks, photo.name, classes)
    return SceneLabels(frames, classes=tuple(classes))


def _classes(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a text file in UTF-8 ({error}).") from error
    classes = [line for line in lines if line]
    if not classes or len(set(classes)) < len(classes):
        raise UserError(f"{path} must name each class once, one a line, but it has {classes}.")
    return classes


def _photo(masks: Path, photos: list[Path]) -> Path:
    """The photo that a folder belongs to, see above."""
    found = [photo for photo in photos if photo.stem == masks.name]
    if not found and masks.name.isdecimal():
        number = int(masks.name)
        named = [photo for photo in photos if photo.stem.isdecimal() and int(photo.stem) == number]
        found = list(dict.fromkeys([*named, *photos[number : number + 1]]))
    if not found:
        raise UserError(
            f"{masks}: no photo in {masks.parents[1] / PHOTOS} has this name; name the folder as its photo."
        )
    if len(found) > 1:
        names = " or ".join(photo.name for photo in found)
        raise UserError(f"{masks}: belongs to {names}, which is not clear; name the folder as its photo.")
    return found[0]


def _frame(folder: Path, name: str, classes: list[str]) -> FrameLabels:
    files = {path.stem.strip(): path for path in sorted(folder.glob("*.png"))}
    strange = [path.name for stem, path in files.items() if stem not in classes]
    if strange:
        raise UserError(f"{folder / strange[0]}: {folder.parent / CLASSES_FILE} has no such class.")
    if not files:
        raise UserError(f"{folder}: no masks in it (<class>.png).")
    sizes = {_size(path) for path in files.values()}
    if len(sizes) > 1:
        raise UserError(f"{folder}: its masks have different sizes, {sorted(sizes)}.")
    width, height = sizes.pop()
    painted = {name: partial(_mask, files[name]) for name in classes if name in files}
    return FrameLabels(name, width, height, {}, {}, painted)


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            # Finds torn files without decoding the pixels, which wait until they are needed.
            image.verify()
            return image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable image ({error}).") from error


def _mask(path: Path) -> Mask:
    """bool [H, W], the pixels nearer to white than to black that are not transparent."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("LA"))
    return (pixels[..., 0] > 127) & (pixels[..., 1] > 127)
