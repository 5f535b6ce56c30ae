"""SIFT keypoints of photos and their matches, by which FastLGS says which masks may be the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Keypoints:
    """Keypoints of one photo.

    Attributes:
        rows, columns: pixels that they lie in. int64 [K]
        descriptors: SIFT's, made Hellinger (Arandjelovic and Zisserman 2012). float32 [K, 128]
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    descriptors: NDArray[np.float32]


def find_keypoints(image: NDArray[np.uint8], most: int) -> Keypoints:
    """The strongest SIFT keypoints (Lowe 2004) of a photo, by OpenCV.

    Args:
        image: RGB [H, W, 3].
        most: keypoints to keep.
    """
    import cv2

    # The usual contrast threshold finds next to nothing on plain things.
    sift: Any = cv2.SIFT.create(nfeatures=most, contrastThreshold=0.01)
    points, descriptors = sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    if descriptors is None:
        nothing = np.zeros(0, np.int64)
        return Keypoints(nothing, nothing, np.zeros((0, 128), np.float32))
    places = np.array([point.pt for point in points])
    height, width = image.shape[:2]
    rows, columns = places[:, 1].astype(np.int64), places[:, 0].astype(np.int64)
    roots = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-7)).astype(np.float32)
    return Keypoints(rows.clip(0, height - 1), columns.clip(0, width - 1), roots)


def match_keypoints(one: Keypoints, other: Keypoints, ratio: float) -> NDArray[np.int64]:
    """Pairs of keypoints of two photos that look alike, and much more so than the second best (Lowe's ratio test).

    Returns:
        Indices [P, 2] into the first and the second photo's keypoints.
    """
    if not len(one.rows) or len(other.rows) < 2:
        return np.zeros((0, 2), np.int64)
    import cv2

    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(one.descriptors, other.descriptors, k=2)
    good = [(best.queryIdx, best.trainIdx) for best, second in pairs if best.distance < ratio * second.distance]
    return np.array(good, np.int64).reshape(-1, 2)
