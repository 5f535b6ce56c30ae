"""A segmenter that needs no network and works at a known pace."""

from __future__ import annotations

import time

import numpy as np

from lang_splat_ns.perception.segmenters import LabelMaps

LEVELS = ("whole", "part")


class Stripes:
    """Two levels of vertical stripes."""

    segmenter_id = "stripes/1"
    seconds = 0.01

    def segment(self, image: np.ndarray) -> LabelMaps:
        time.sleep(self.seconds)
        columns = np.arange(image.shape[1])[None].repeat(image.shape[0], axis=0)
        return LabelMaps(np.stack([columns // 8, columns // 4]).astype(np.int32), LEVELS)
