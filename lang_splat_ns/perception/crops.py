"""Regions as square crops for image networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def region_crops(
    image: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], count: int, side: int
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Cut out each region that has pixels, as LangSplat does: tight box, black around it, padded to a square.

    Args:
        image: RGB, uint8 [H, W, 3].
        labels: int32 [H, W], -1 = no region.
        count: number of regions.
        side: pixels per side of the result.

    Yields:
        Region id and uint8 [side, side, 3], by rising id.
    """
    import cv2
    from scipy.ndimage import find_objects

    for region, box in enumerate(find_objects(labels + 1, max_label=count)):
        if box is None:
            continue
        inside = (labels[box] == region)[..., None]
        height, width = inside.shape[:2]
        longest = max(height, width)
        square = np.zeros((longest, longest, 3), dtype=np.uint8)
        top, left = (longest - height) // 2, (longest - width) // 2
        square[top : top + height, left : left + width] = np.where(inside, image[box], 0)
        # Averaging avoids aliases where the crop shrinks; where it grows, a cubic keeps edges.
        method = cv2.INTER_AREA if longest > side else cv2.INTER_CUBIC
        resized = cv2.resize(square, (side, side), interpolation=method)
        yield region, resized.astype(np.uint8, copy=False)
