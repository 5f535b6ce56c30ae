"""Ground truth of a data set: what labelled photos show, whoever wrote it down.

The formats have a file each, `labels_<format>.py`; `read_labels` finds whichever is there. Photos are matched by the
stem of their file name, exactly.

Coordinates are pixels with the origin in the image's upper left corner, so the first pixel's centre is
(0.5, 0.5). Each polygon is filled by itself with the even-odd rule, so that a hole can be cut by a bridge of no
width, and the polygons of a category are united.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.labels_json import CHINESE_FILE, read_absent, read_translations

PromptLanguage = Literal["en", "zh"]
"""The labels' own prompts, or their Chinese translations."""

Box = tuple[float, float, float, float]
Polygon = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class FrameLabels:
    """What one labelled photo shows.

    Attributes:
        name: file name of the photo, as the label file says it.
        width: width in pixels of the photo that the coordinates belong to.
        height: height in pixels.
        polygons: category -> polygons [k, 2], x and y in pixels from the upper left corner of the image.
        boxes: category -> boxes (x1, y1, x2, y2) in the same pixels, one per object entry. A category may have nothing
            else: then where it is can be scored, and its shape cannot.
        painted: category -> gives the pixels that belong to it, bool [H, W], in formats that hold pixels instead of
            outlines. They are read when they are asked for, since those of a whole data set fill the memory.
    """

    name: str
    width: int
    height: int
    polygons: dict[str, list[Polygon]]
    boxes: dict[str, list[Box]]
    painted: Mapping[str, Callable[[], Mask]] = field(default_factory=dict)

    @property
    def categories(self) -> tuple[str, ...]:
        """The prompts that are labelled here, in the order of the file."""
        return tuple(dict.fromkeys([*self.outlined, *self.boxes]))

    @property
    def outlined(self) -> tuple[str, ...]:
        """Those of them that have a mask and not boxes alone."""
        return tuple(dict.fromkeys([*self.polygons, *self.painted]))

    def mask(self, category: str) -> Mask:
        """Union of the category's polygons and pixels, bool [H, W]; a polygon's pixels have their centres in it.

        Raises:
            KeyError: the frame has no such category, or nothing but boxes of it.
        """
        if category not in self.outlined:
            raise KeyError(category)
        united = np.zeros((self.height, self.width), bool)
        for polygon in self.polygons.get(category, ()):
            united |= fill_polygon(polygon, self.width, self.height)
        if category in self.painted:
            united |= self.painted[category]()
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
        classes: the closed list of everything there is to see, in data sets that have one; also those of no frame.
        source: folder that they were read from.
    """

    frames: dict[str, FrameLabels]
    absent: tuple[str, ...] = ()
    translations: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    source: Path | None = None

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
            file = (self.source or data) / CHINESE_FILE
            raise UserError(
                f"{file}: missing or empty, and prompt-language {language} asks what it says; "
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
    """Ground truth of the data set in folder `data`, in whichever form it is there; None where it has none.

    - LERF-OVS, ours too: a folder `label` in it, or `../label/<its name>` (`labels_lerf_ovs`).
    - 3D-OVS: a folder `segmentations` with `classes.txt` (`labels_3d_ovs`).
    - LERF's boxes: `queries.json` (`labels_lerf_boxes`).
    - COCO: a `.json` with images, categories and annotations (`labels_coco`).

    Raises:
        UserError: labels are there twice, or a label file does not have its form; the message names file and fault.
    """
    # The formats' modules need the types above.
    from lang_splat_ns.scenes.labels_3d_ovs import find_3d_ovs, read_3d_ovs
    from lang_splat_ns.scenes.labels_coco import find_coco, read_coco
    from lang_splat_ns.scenes.labels_lerf_boxes import find_lerf_boxes, read_lerf_boxes
    from lang_splat_ns.scenes.labels_lerf_ovs import find_lerf_ovs, read_lerf_ovs

    formats: tuple[tuple[Callable[[Path], list[Path]], Callable[[Path], SceneLabels]], ...] = (
        (find_lerf_ovs, read_lerf_ovs),
        (find_3d_ovs, read_3d_ovs),
        (find_lerf_boxes, read_lerf_boxes),
        (find_coco, read_coco),
    )
    found = [(path, read) for find, read in formats for path in find(data)]
    if len(found) > 1:
        places = " and ".join(str(path) for path, _ in found)
        raise UserError(f"{data} has labels twice, in {places}: take all but one of them away.")
    for path, read in found:
        # Whatever the format, these lie beside it.
        folder = path if path.is_dir() else path.parent
        return replace(read(path), absent=read_absent(folder), translations=read_translations(folder), source=folder)
    return None


def _centres(low: float, high: float, size: int) -> slice:
    # Index i has its centre at i + 0.5.
    first, last = int(np.ceil(min(low, high) - 0.5)), int(np.floor(max(low, high) - 0.5))
    if last < first:
        first = last = int(np.floor(0.5 * (low + high)))
    return slice(min(max(first, 0), size), min(max(last + 1, 0), size))
