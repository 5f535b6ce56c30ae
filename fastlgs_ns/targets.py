"""What the Gaussians' codes are trained towards: each pixel's mask, painted in its object's code, at every level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fastlgs_ns.grid import SemanticGrid

ReadLabels = Callable[[int, int, int], Tensor]
"""Label maps int32 [L, height, width] of a photo by (index, height, width), -1 where there is no mask."""


class PaintedMasks:
    """Codes of the objects that a photo's pixels belong to.

    Args:
        labels: reads label maps.
        grid: objects and codes.
    """

    def __init__(self, labels: ReadLabels, grid: SemanticGrid) -> None:
        self._labels, self._grid = labels, grid
        self._identities = grid.identities()

    def __call__(self, index: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Codes [H, W, L, C] and validity [H, W, L, 1] of one photo; pixels without an object are invalid."""
        device = self._grid.codes.device
        labels = self._labels(index, height, width).to(device).long()
        painted = []
        for level, level_labels in enumerate(labels):
            # The last object is none, and so is the last mask.
            codes = torch.nn.functional.pad(self._grid.level_codes(level), (0, 0, 0, 1))
            objects = np.append(self._identities.of_view(index, level), -1)
            painted.append(codes[torch.from_numpy(objects).to(device)][level_labels])
        target = torch.stack(painted, dim=-2)
        return target, target.square().sum(-1, keepdim=True) > 0
