"""Values between the pixels of a picture, for any number of places at once."""

from __future__ import annotations

import numpy as np

from lang_splat_ns.scenes.solids import FloatArray


def look_up(picture: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
    """Bilinear values of a picture; beyond its border the nearest pixel holds.

    Args:
        picture: float32 [h, w] or [h, w, c].
        u: [n] places along the width, 0..1 from edge to edge.
        v: [n] places along the height, 0..1 from the first row's edge.

    Returns:
        float32 [n] or [n, c].
    """
    import cv2

    height, width = picture.shape[:2]
    # cv2.remap takes at most 32767 rows or columns, so the places are laid out in a square.
    side = max(int(np.ceil(np.sqrt(len(u)))), 1)
    spare = (0, side * side - len(u))
    columns = np.pad((u * width - 0.5).astype(np.float32), spare).reshape(side, side)
    rows = np.pad((v * height - 0.5).astype(np.float32), spare).reshape(side, side)
    values = cv2.remap(picture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values, np.float32).reshape(side * side, *picture.shape[2:])[: len(u)]
