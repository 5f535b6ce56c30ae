"""Ground truth in the folder format of LERF-OVS: who reads it and who writes it.

A folder `label` stands beside the photos. It holds one JSON per labelled frame, named as the photo:
`{"info": {"name", "width", "height"}, "objects": [{"category", "segmentation", "bbox"}]}`, and, if there are any,
`absent.json` (prompts for what is nowhere) and `queries_zh.json` (Chinese for every prompt).

Coordinates are pixels with the origin in the image's upper left corner, so the first pixel's centre is
(0.5, 0.5). Each polygon is filled by itself with the even-odd rule, so that a hole can be cut by a bridge of no
width, and the polygons of a category are united.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text

PromptLanguage = Literal["en", "zh"]
"""The labels' own prompts, or their Chinese translations."""

Box = tuple[float, float, float, float]
Polygon = NDArray[np.float64]
Mask = NDArray[np.bool_]

FOLDER = "label"
ABSENT_FILE = "absent.json"
CHINESE_FILE = "queries_zh.json"


@dataclass(frozen=True)
class FrameLabels:
    """What one labelled photo shows.

    Attributes:
        name: file name of the photo, as the label file says it.
        width: width in pixels of the photo that the coordinates belong to.
        height: height in pixels.
        polygons: category -> polygons [k, 2], x and y in pixels from the upper left corner of the image.
        boxes: category -> boxes (x1, y1, x2, y2) in the same pixels, one per object entry.
    """

    name: str
    width: int
    height: int
    polygons: dict[str, list[Polygon]]
    boxes: dict[str, list[Box]]

    @property
    def categories(self) -> tuple[str, ...]:
        """The prompts that are labelled here, in the order of the file."""
        return tuple(self.polygons)

    def mask(self, category: str) -> Mask:
        """Union of the category's polygons, bool [H, W]; a pixel belongs to a polygon that holds its centre.

        Raises:
            KeyError: the frame has no such category.
        """
        united = np.zeros((self.height, self.width), bool)
        for polygon in self.polygons[category]:
            united |= fill_polygon(polygon, self.width, self.height)
        return united

    def box_masks(self, category: str) -> list[Mask]:
        """One bool [H, W] per box of the category: the pixels whose centres lie in it.

        A box that is too thin to hold a centre marks the pixel that its middle lies in, so that every box that
        touches the image can be hit.

        Raises:
            KeyError: the frame has no such category.
        """
        masks = []
        for box in self.boxes[category]:
            mask = np.zeros((self.height, self.width), bool)
            mask[_centres(box[1], box[3], self.height), _centres(box[0], box[2], self.width)] = True
            masks.append(mask)
        return masks


@dataclass(frozen=True)
class SceneLabels:
    """The ground truth of a data set.

    Attributes:
        frames: stem of the photo's file name -> its labels. Stems are matched exactly, upper and lower case too.
        absent: prompts for what no photo shows.
        translations: English prompt -> Chinese prompt.
    """

    frames: dict[str, FrameLabels]
    absent: tuple[str, ...] = ()
    translations: dict[str, str] = field(default_factory=dict)

    def in_language(self, language: PromptLanguage, data: Path) -> dict[str, str] | None:
        """Label prompt -> what is asked for it in that language, or None where prompts are asked as they stand.

        Args:
            language: "en" is the labels' own.
            data: folder of the data set, for the message.

        Raises:
            UserError: nothing is translated.
        """
        if language == "en":
            return None
        if not self.translations:
            raise UserError(
                f"{data / FOLDER / CHINESE_FILE}: missing or empty, and prompt-language {language} asks what it says; "
                f'write {{"red cup": "红色的杯子", ...}} for the labelled prompts, or score with prompt-language en.'
            )
        return self.translations


def fill_polygon(polygon: Polygon, width: int, height: int) -> Mask:
    """Pixels whose centres lie inside the polygon by the even-odd rule.

    `cv2.fillPoly` is not used: it also paints every pixel that the outline touches, which widens each mask by
    about half a pixel and paints the bridges to holes.

    Args:
        polygon: [k, 2] x and y in pixels, the origin in the image's corner. The last point joins the first.
        width: width of the image in pixels.
        height: height of the image in pixels.

    Returns:
        bool [H, W].
    """
    x0, y0 = polygon.T
    x1, y1 = np.roll(polygon, -1, axis=0).T
    # Rows whose centre line an edge crosses, its upper end included and its lower end not: a corner that lies on
    # a centre line is then counted once, and level edges never.
    top = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    count = bottom - top
    edge = np.repeat(np.arange(len(polygon)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + top[edge]
    crossing = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    # Each crossing turns inside and outside round for all centres to the right of it.
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), np.int32)
    np.add.at(turns, (row, column), 1)
    return (np.cumsum(turns, axis=1)[:, :width] & 1).astype(bool)


def read_labels(data: Path) -> SceneLabels | None:
    """Ground truth of the data set in folder `data`; None where it has no folder `label`.

    Raises:
        UserError: a label file is no JSON or does not have the form above; the message names file and fault.
    """
    folder = data / FOLDER
    if not folder.is_dir():
        return None
    frames: dict[str, FrameLabels] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name not in (ABSENT_FILE, CHINESE_FILE):
            frames[path.stem] = _frame(path, _load(path))
    return SceneLabels(frames, _absent(folder / ABSENT_FILE), _translations(folder / CHINESE_FILE))


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


def _centres(low: float, high: float, size: int) -> slice:
    # Index i has its centre at i + 0.5.
    first, last = int(np.ceil(min(low, high) - 0.5)), int(np.floor(max(low, high) - 0.5))
    if last < first:
        first = last = int(np.floor(0.5 * (low + high)))
    return slice(min(max(first, 0), size), min(max(last + 1, 0), size))


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}). Mend it or take it out of the folder.") from None


def _frame(path: Path, content: Any) -> FrameLabels:
    if not isinstance(content, dict) or not isinstance(content.get("info"), dict):
        raise UserError(f'{path} has no "info" with the photo\'s name, width and height.')
    info = content["info"]
    sizes = []
    for key in ("width", "height"):
        value = info.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise UserError(f'{path}: "info" needs "{key}" as a positive number of pixels, but it is {value!r}.')
        sizes.append(value)
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
    return FrameLabels(str(info.get("name", path.stem)), sizes[0], sizes[1], polygons, boxes)


def _polygons(value: Any, where: str) -> Iterator[Polygon]:
    """The polygons in any of the forms in use: points, flat numbers, or lists of those."""
    if not isinstance(value, list) or not value:
        raise UserError(f'{where} has no "segmentation".')
    if all(_is_number(item) for item in value):
        if len(value) % 2:
            raise UserError(f"{where}: a segmentation of {len(value)} numbers cannot be pairs of x and y.")
        yield _polygon([value[i : i + 2] for i in range(0, len(value), 2)], where)
    elif all(
        isinstance(item, list) and len(item) == 2 and not any(isinstance(x, list) for x in item) for item in value
    ):
        if not all(_is_number(number) for item in value for number in item):
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
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise UserError(f'{where}: "bbox" must be [x1, y1, x2, y2], but it is {value!r}.')
    x1, y1, x2, y2 = (float(number) for number in value)
    return x1, y1, x2, y2


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _absent(path: Path) -> tuple[str, ...]:
    content = _load(path) if path.is_file() else []
    if not isinstance(content, list) or not all(isinstance(item, str) and item for item in content):
        raise UserError(f"{path} must be a list of prompts.")
    return tuple(content)


def _translations(path: Path) -> dict[str, str]:
    content = _load(path) if path.is_file() else {}
    if not isinstance(content, dict) or not all(isinstance(item, str) and item for item in content.values()):
        raise UserError(f"{path} must map each prompt to its translation.")
    return content
