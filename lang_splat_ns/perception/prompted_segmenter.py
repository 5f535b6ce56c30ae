"""A segmenter made of a promptable network and the mask generator. The network is built for the first photo."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lang_splat_ns.perception.mask_generator import MaskGenerator, MaskSettings
from lang_splat_ns.perception.promptable import Promptable
from lang_splat_ns.perception.segmenters import LabelMaps

CPU_BATCH = 4
"""Prompts per step on a CPU. MobileSAM on two cores took 15.9 ms a prompt at 1, 14.9 at 2, 15.1 at 4, 14.0 at 8 and
20.1 at 16; beside other busy processes, which leave less of the caches, small steps lose less."""
GPU_BATCH = 64
_VERSION = 2


class PromptedSegmenter:
    """Label maps by LangSplat's levels, thresholds and suppression.

    Args:
        identity: names the network and its weights.
        load: builds the network.
        points_per_side: side of the grid of prompts.
        device: torch device, which `load` heeds.

    Attributes:
        segmenter_id: see `Segmenter`. The device is no part of it, though half precision on a GPU moves some outlines
            by a pixel: what a GPU has cut out is to be used on machines without one.
    """

    def __init__(self, identity: str, load: Callable[[], Promptable], points_per_side: int, device: str) -> None:
        self._load = load
        self._settings = MaskSettings(points_per_side=points_per_side)
        self._batch = GPU_BATCH if device.startswith("cuda") else CPU_BATCH
        self.segmenter_id = f"{identity}/{_VERSION} {self._settings.describe()}"

    def segment(self, image: npt.NDArray[np.uint8]) -> LabelMaps:
        """Label maps of an RGB image, uint8 [H, W, 3]: int32 [3, H, W], -1 where no mask is."""
        return self.generator.generate(image)

    @cached_property
    def generator(self) -> MaskGenerator:
        """The mask generator with its network."""
        return MaskGenerator(self._load(), self._settings, self._batch)
