"""What the mask generator knows of a network that answers point prompts, and how a photo lies in its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """Where a photo lies in a network's square input and in its square low-resolution output.

    It fills a rectangle from the upper left corner; what is left of the square is padding.

    Attributes:
        size: height and width of the photo.
        inner: height and width of that rectangle, in pixels of the input.
        side: side of the input.
        low_side: side of the output.
    """

    size: tuple[int, int]
    inner: tuple[int, int]
    side: int
    low_side: int

    @property
    def low(self) -> tuple[int, int]:
        """Rows and columns of the output in which the photo lies."""
        return self._low(self.inner[0]), self._low(self.inner[1])

    def _low(self, length: int) -> int:
        return -(-length * self.low_side // self.side)

    def positions(self, axis: int) -> Tensor:
        """Where the centres of the photo's rows (axis 0) or columns (1) lie, in pixels of the output: float64 [n]."""
        scale = self.inner[axis] / self.size[axis] * self.low_side / self.side
        return (torch.arange(self.size[axis], dtype=torch.float64) + 0.5) * scale - 0.5

    def grid(self, points_per_side: int) -> Tensor:
        """Centres of a regular grid of cells over the photo: float [n * n, 2], x and y in pixels of the input."""
        steps = (torch.arange(points_per_side, dtype=torch.float64) + 0.5) / points_per_side
        y, x = torch.meshgrid(steps * self.inner[0], steps * self.inner[1], indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], dim=-1).float()


class Promptable(Protocol):
    """A network that embeds a photo once and then cuts out what lies at any of its points."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    def place(self, height: int, width: int) -> Placement:
        """How a photo of this size is laid into the input."""
        ...

    def embed(self, image: npt.NDArray[np.uint8]) -> Any:
        """Whatever `decode` needs of an RGB photo, uint8 [H, W, 3]."""
        ...

    def decode(self, embedded: Any, points: Tensor, least: float, low: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Three masks for each point: the smallest thing it lies on, a larger one, and the largest.

        Args:
            embedded: from `embed`.
            points: float [B, 2], x and y in pixels of the input.
            least: points of which no mask is rated above this predicted IoU may be left out.
            low: the photo's part of the output, see `Placement.low`.

        Returns:
            Logits float32 [K, 3, *low] of the K points that are not left out, positive inside, and the IoU that the
            network predicts for each, float32 [K, 3].
        """
        ...


def resized(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """An RGB photo at another height and width, bilinear and anti-aliased as Pillow does it for the stock code."""
    from PIL import Image

    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def half_precision(device: torch.device) -> torch.autocast:
    """Half precision for an image encoder on a GPU; on a CPU nothing changes.

    bfloat16 where the GPU has it, since no activation is too large for it, else float16. The decoder keeps to float32
    everywhere: it is the smaller part on a GPU, and bfloat16 in it changes one mask in fifteen (measured with MobileSAM
    on a CPU, where it would take a little more than half the time).
    """
    on_gpu = device.type == "cuda"
    dtype = torch.float16 if on_gpu and not torch.cuda.is_bf16_supported() else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=on_gpu)
