"""From exact masks to the polygons of a label file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.scenes.labels import Box, Polygon

# Specks of a thing seen through a gap make no outline: nobody would draw them.
SMALLEST_PIECE = 4


def trace(mask: NDArray[np.bool_]) -> tuple[list[Polygon], list[Box]]:
    """Outlines of a mask's pieces, one polygon and one box per piece.

    The outline runs half-way between the centres of pixels inside and outside, so that filling the polygon by
    the centres of pixels gives the piece back. Holes are cut by a bridge of no width that is walked to and fro.

    Args:
        mask: bool [H, W].

    Returns:
        Polygons [k, 2] and boxes (x1, y1, x2, y2), in pixels from the upper left corner of the image. Pieces of
        fewer than `SMALLEST_PIECE` pixels are left out.
    """
    from skimage.measure import label

    pieces = np.asarray(label(mask, connectivity=1))
    polygons: list[Polygon] = []
    boxes: list[Box] = []
    for number in range(1, int(pieces.max()) + 1):
        piece = pieces == number
        if piece.sum() < SMALLEST_PIECE:
            continue
        rows, columns = np.nonzero(piece)
        polygons.append(_outline(piece))
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        boxes.append((float(box[0]), float(box[1]), float(box[2]), float(box[3])))
    return polygons, boxes


def _outline(piece: NDArray[np.bool_]) -> Polygon:
    from skimage.measure import approximate_polygon, find_contours

    height, width = piece.shape
    # A margin closes outlines along the image's border.
    contours = find_contours(np.pad(piece, 1).astype(np.float32), 0.5)
    # Index (r, c) of the padded image is the centre of pixel (r - 1, c - 1): x = c - 1 + 0.5. A third of a pixel
    # is less than the distance from any centre to the outline, so straightening moves no centre across it.
    loops = [approximate_polygon(contour, 0.3)[:-1, ::-1] - 0.5 for contour in contours]
    loops = sorted((loop for loop in loops if len(loop) >= 3), key=_area, reverse=True)
    outline = loops[0]
    for hole in loops[1:]:
        outline = _cut(outline, hole)
    return np.clip(outline, 0, (width, height))


def _cut(outline: Polygon, hole: Polygon) -> Polygon:
    apart = np.linalg.norm(outline[:, None] - hole[None], axis=-1)
    at, to = np.unravel_index(int(apart.argmin()), apart.shape)
    around = np.roll(hole, -int(to), axis=0)
    return np.concatenate([outline[: at + 1], around, around[:1], outline[at:]])


def _area(loop: Polygon) -> float:
    x, y = loop.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
