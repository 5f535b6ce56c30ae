"""LERF's boxes: what its authors drew around prompts in rendered views, to score where relevancy peaks.

`queries.json` holds labelme rectangles per view, `{"imageWidth", "imageHeight", "keyframes": [{"shapes": [{"label",
"points", "shape_type": "rectangle"}]}]}`, and the picture of view N, from 0, is `N_rgb.png`. They have no masks, so
nothing but localisation can be scored with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.labels import Box, FrameLabels, SceneLabels
from lang_splat_ns.scenes.labels_json import is_number, load_json, read_size

FILE = "queries.json"


def find_lerf_boxes(data: Path) -> list[Path]:
    """The file in folder `data`, if it is there."""
    return [data / FILE] if (data / FILE).is_file() else []


def read_lerf_boxes(path: Path) -> SceneLabels:
    """The boxes of every view.

    Raises:
        UserError: the file is no JSON or does not have the form above; the message names file and fault.
    """
    content = load_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("keyframes"), list):
        raise UserError(f'{path} has no list "keyframes" with the labelled views.')
    width, height = read_size(content, ("imageWidth", "imageHeight"), str(path))
    frames = {}
    for number, view in enumerate(content["keyframes"]):
        stem = f"{number}_rgb"
        boxes = _boxes(view, f"{path}, keyframe {number}")
        frames[stem] = FrameLabels(f"{stem}.png", width, height, {}, boxes)
    return SceneLabels(frames)


def _boxes(view: Any, where: str) -> dict[str, list[Box]]:
    shapes = view.get("shapes") if isinstance(view, dict) else None
    if not isinstance(shapes, list):
        raise UserError(f'{where} has no list "shapes".')
    boxes: dict[str, list[Box]] = {}
    for shape in shapes:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"]:
            raise UserError(f'{where}: a shape has no "label".')
        if shape.get("shape_type") != "rectangle":
            raise UserError(
                f"{where}: '{shape['label']}' is a {shape.get('shape_type')!r}, and only rectangles are read."
            )
        boxes.setdefault(shape["label"], []).append(_box(shape.get("points"), f"{where}, '{shape['label']}'"))
    return boxes


def _box(points: Any, where: str) -> Box:
    corners: list[Any] = points if isinstance(points, list) and len(points) == 2 else [None]
    if not all(isinstance(corner, list) and len(corner) == 2 and all(map(is_number, corner)) for corner in corners):
        raise UserError(f"{where}: a rectangle needs two opposite corners [x, y], but it has {points!r}.")
    # Whoever drew it may have begun at any of its corners.
    (x1, x2), (y1, y2) = (sorted(float(corner[axis]) for corner in corners) for axis in (0, 1))
    return x1, y1, x2, y2
