"""COCO's format, which annotation tools write: one JSON with images, categories and annotations.

An annotation's `segmentation` is a list of polygons, each a flat list of x and y, or a run-length encoded mask,
`{"size": [height, width], "counts"}`, whose counts run down the columns and are a list or COCO's compressed string.
Its `bbox` is [x, y, width, height]. Photos without any annotation count as not labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.labels import Box, FrameLabels, Mask, Polygon, SceneLabels
from lang_splat_ns.scenes.labels_json import (
    ABSENT_FILE,
    CHINESE_FILE,
    is_number,
    load_json,
    read_size,
)

FILE = "annotations.json"
KEYS = ("images", "categories", "annotations")
OTHER_FILES = frozenset(("transforms.json", "queries.json", "keyframes.json", ABSENT_FILE, CHINESE_FILE))


def find_coco(data: Path) -> list[Path]:
    """Files of this format in folder `data`; `annotations.json` is one whatever is in it."""
    paths = sorted(path for path in data.glob("*.json") if path.name not in OTHER_FILES)
    return [path for path in paths if path.name == FILE or _has_keys(path)]


def read_coco(path: Path) -> SceneLabels:
    """The masks and boxes of every annotated photo.

    Raises:
        UserError: the file is no JSON or does not have the form above; the message names file and fault.
    """
    content = load_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in KEYS):
        raise UserError(f"{path} needs lists {', '.join(KEYS)}.")
    images = {image["id"]: image for image in _entries(content, "images", ("id", "file_name"), path)}
    names = {entry["id"]: str(entry["name"]) for entry in _entries(content, "categories", ("id", "name"), path)}
    entries: dict[Any, list[dict[str, Any]]] = {}
    for entry in _entries(content, "annotations", ("image_id", "category_id"), path):
        if entry["image_id"] not in images or entry["category_id"] not in names:
            raise UserError(f"{path}: annotation {entry.get('id')} is of an image or a category that is not listed.")
        entries.setdefault(entry["image_id"], []).append(entry)
    frames: dict[str, FrameLabels] = {}
    for number, of_image in entries.items():
        frame = _frame(images[number], of_image, names, path)
        stem = PurePosixPath(frame.name).stem
        if stem in frames:
            raise UserError(f"{path}: two of its images are called '{stem}', and photos are told apart by that.")
        frames[stem] = frame
    return SceneLabels(frames)


def _has_keys(path: Path) -> bool:
    try:
        content = load_json(path)
    except UserError:
        # Whatever it is, it does not say that it is ours.
        return False
    return isinstance(content, dict) and all(key in content for key in KEYS)


def _entries(content: dict[str, Any], key: str, needed: Sequence[str], path: Path) -> list[dict[str, Any]]:
    for number, entry in enumerate(content[key]):
        if not isinstance(entry, dict) or any(name not in entry for name in needed):
            raise UserError(f"{path}: entry {number} of its {key} needs {' and '.join(needed)}.")
    return content[key]


def _frame(image: dict[str, Any], entries: Sequence[dict[str, Any]], names: dict[Any, str], path: Path) -> FrameLabels:
    name = str(image["file_name"])
    width, height = read_size(image, ("width", "height"), f"{path}: image {name}")
    polygons: dict[str, list[Polygon]] = {}
    boxes: dict[str, list[Box]] = {}
    runs: dict[str, list[np.ndarray]] = {}
    for entry in entries:
        category, where = names[entry["category_id"]], f"{path}, annotation {entry.get('id')}"
        outline = entry.get("segmentation")
        if isinstance(outline, dict):
            runs.setdefault(category, []).append(_runs(outline, width, height, where))
        elif outline:
            polygons.setdefault(category, []).extend(_polygons(outline, where))
        # The box of a crowd is not that of one thing.
        if entry.get("bbox") is not None and not entry.get("iscrowd"):
            boxes.setdefault(category, []).append(_box(entry["bbox"], where))
    painted = {category: partial(_painted, of_category, width, height) for category, of_category in runs.items()}
    return FrameLabels(name, width, height, polygons, boxes, painted)


def _polygons(value: Any, where: str) -> list[Polygon]:
    flat = value if isinstance(value, list) else [None]
    for points in flat:
        if not isinstance(points, list) or len(points) < 6 or len(points) % 2 or not all(map(is_number, points)):
            raise UserError(f'{where}: a polygon of its "segmentation" must be x and y of 3 points or more.')
    return [np.array(points, np.float64).reshape(-1, 2) for points in flat]


def _box(value: Any, where: str) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
        raise UserError(f'{where}: "bbox" must be [x, y, width, height], but it is {value!r}.')
    x, y, width, height = (float(number) for number in value)
    return x, y, x + width, y + height


def _runs(value: dict[str, Any], width: int, height: int, where: str) -> np.ndarray:
    """Lengths of the runs of 0, 1, 0, ... down the columns, int64 [n]."""
    if value.get("size") != [height, width]:
        raise UserError(f"{where}: its mask has size {value.get('size')!r}, its image [{height}, {width}].")
    counts = value.get("counts")
    if isinstance(counts, str):
        counts = decode_counts(counts)
    if not isinstance(counts, list) or not all(isinstance(run, int) and run >= 0 for run in counts):
        raise UserError(f'{where}: "counts" must be lengths of runs, or COCO\'s compressed string.')
    if sum(counts) != width * height:
        raise UserError(f"{where}: its runs cover {sum(counts)} pixels of {width * height}.")
    return np.array(counts, np.int64)


def decode_counts(text: str) -> list[int]:
    """Lengths of runs in COCO's compressed string.

    Each number is written in groups of five bits, the lowest first, as characters from 48 on; the sixth bit says that
    another group follows, and the highest bit of the last one is the sign. From the third run on it is the difference
    to the run before the last. (pycocotools' own decoder leaves what a torn string does not cover undefined.)

    Returns:
        The runs as far as the string goes; a string that breaks off or does not fit gives numbers that do not add up.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts


def _painted(masks: Sequence[np.ndarray], width: int, height: int) -> Mask:
    """Union of run-length encoded masks, bool [H, W]."""
    return reduce(np.logical_or, (_unrolled(runs, width, height) for runs in masks))


def _unrolled(runs: np.ndarray, width: int, height: int) -> Mask:
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T
