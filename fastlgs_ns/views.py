"""Photos with their masks, one at a time, for whoever matches them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MaskedView:
    """One photo and what perception knows of it.

    Attributes:
        image: RGB uint8 [H, W, 3].
        labels: label maps, -1 where there is no mask. int32 [L, H, W]
        embeddings: per level float32 [count, D], unit rows; NaN rows carry no evidence.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    embeddings: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class Views:
    """The photos of a data set, read when they are asked for.

    Attributes:
        poses: camera-to-world, OpenGL. float64 [V, 3, 4]
        level_count: number of levels.
        read: gives a photo by its number.
    """

    poses: NDArray[np.float64]
    level_count: int
    read: Callable[[int], MaskedView]

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.poses)

    def __call__(self, view: int) -> MaskedView:
        """One photo."""
        return self.read(view)
