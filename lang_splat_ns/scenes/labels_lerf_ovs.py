"""Labels of LERF-OVS, which are our own too: polygons and boxes, one JSON per labelled photo.

`{"info": {"name", "width", "height"}, "objects": [{"category", "segmentation", "bbox"}]}`, named as the photo. They
lie in a folder `label` beside the photos, or, as LERF-OVS is downloaded, in `label/<scene>` beside the scene's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text
from lang_splat_ns.scenes.labels import Box, FrameLabels, Polygon, SceneLabels
from lang_splat_ns.scenes.labels_json import (
    ABSENT_FILE,
    CHINESE_FILE,
    is_number,
    load_json,
    read_size,
)

FOLDER = "label"


def find_lerf_ovs(data: Path) -> list[Path]:
    """Folders that hold labels of the data set in folder `data`."""
    data = data.absolute()
    return [folder for folder in (data / FOLDER, data.parent / FOLDER / data.name) if folder.is_dir()]


def read_lerf_ovs(folder: Path) -> SceneLabels:
    """The labels in a folder of JSON files, which may hold the photos too.

    Raises:
        UserError: a file is no JSON or does not have the form above; the message names file and fault.
    """
    frames = {
        path.stem: _frame(path, load_json(path))
        for path in sorted(folder.glob("*.json"))
        if path.name not in (ABSENT_FILE, CHINESE_FILE)
    }
    return SceneLabels(frames)


def write_labels(data: Path, labels: SceneLabels, info: Mapping[str, Any] | None = None) -> None:
    """Write `labels` to `data/label`, so that `read_labels` gives them back.

    Each polygon becomes an entry of its own, with the box of the same index.

    Args:
        data: folder of the data set.
        labels: what to write.
        info: more keys for the `info` of every frame.
    """
    folder = data / FOLDER
    for stem, frame in labels.frames.items():
        objects = [
            {"category": category, "segmentation": _rounded(polygon), "bbox": list(box)}
            for category, polygons in frame.polygons.items()
            for polygon, box in zip(polygons, frame.boxes[category], strict=True)
        ]
        head = {"name": frame.name, "width": frame.width, "height": frame.height, **(info or {})}
        write_text(folder / f"{stem}.json", json.dumps({"info": head, "objects": objects}, ensure_ascii=False) + "\n")
    write_text(folder / ABSENT_FILE, json.dumps(list(labels.absent), ensure_ascii=False, indent=1) + "\n")
    chinese = json.dumps(labels.translations, ensure_ascii=False, indent=1)
    write_text(folder / CHINESE_FILE, chinese + "\n")


def _rounded(polygon: Polygon) -> list[list[float]]:
    return [[round(float(x), 2), round(float(y), 2)] for x, y in polygon]


def _frame(path: Path, content: Any) -> FrameLabels:
    if not isinstance(content, dict) or not isinstance(content.get("info"), dict):
        raise UserError(f'{path} has no "info" with the photo\'s name, width and height.')
    info = content["info"]
    width, height = read_size(info, ("width", "height"), f'{path}: "info"')
    objects = content.get("objects")
    if not isinstance(objects, list):
        raise UserError(f'{path} has no list "objects".')
    polygons: dict[str, list[Polygon]] = {}
    boxes: dict[str, list[Box]] = {}
    for number, entry in enumerate(objects):
        where = f"{path}, object {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("category"), str) or not entry["category"]:
            raise UserError(f'{where} has no "category".')
        found = list(_polygons(entry.get("segmentation"), where))
        polygons.setdefault(entry["category"], []).extend(found)
        boxes.setdefault(entry["category"], []).append(_box(entry.get("bbox"), found, where))
    return FrameLabels(str(info.get("name", path.stem)), width, height, polygons, boxes)


def _polygons(value: Any, where: str) -> Iterator[Polygon]:
    """The polygons in any of the forms in use: points, flat numbers, or lists of those."""
    if not isinstance(value, list) or not value:
        raise UserError(f'{where} has no "segmentation".')
    if all(is_number(item) for item in value):
        if len(value) % 2:
            raise UserError(f"{where}: a segmentation of {len(value)} numbers cannot be pairs of x and y.")
        yield _polygon([value[i : i + 2] for i in range(0, len(value), 2)], where)
    elif all(
        isinstance(item, list) and len(item) == 2 and not any(isinstance(x, list) for x in item) for item in value
    ):
        if not all(is_number(number) for item in value for number in item):
            raise UserError(f'{where}: a point of its "segmentation" is not two numbers.')
        yield _polygon(value, where)
    else:
        for item in value:
            yield from _polygons(item, where)


def _polygon(points: Sequence[Sequence[float]], where: str) -> Polygon:
    if len(points) < 3:
        raise UserError(f"{where}: a polygon needs at least 3 points, this one has {len(points)}.")
    return np.array(points, np.float64)


def _box(value: Any, polygons: Sequence[Polygon], where: str) -> Box:
    if value is None:
        # Without a box the outline gives it.
        points = np.concatenate(polygons)
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
        raise UserError(f'{where}: "bbox" must be [x1, y1, x2, y2], but it is {value!r}.')
    x1, y1, x2, y2 = (float(number) for number in value)
    return x1, y1, x2, y2
