"""Pixels of photos of any sizes, held as bytes and drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class DrawnPixels:
    """Some pixels.

    Attributes:
        indices: photo, row, column: int64 [R, 3].
        colours: float32 [R, 3 or 4] in 0..1.
    """

    indices: Tensor
    colours: Tensor


class PixelStore:
    """All pixels of a data set's photos.

    Args:
        dataset: nerfstudio's, whose `get_data(index, "uint8")` gives `image` and perhaps `mask`.
    """

    def __init__(self, dataset: Any) -> None:
        colours, widths, areas, allowed = [], [], [], []
        for index in range(len(dataset)):
            data = dataset.get_data(index, "uint8")
            image = data["image"]
            colours.append(image.reshape(-1, image.shape[-1]))
            widths.append(image.shape[1])
            areas.append(len(colours[-1]))
            allowed.append(data["mask"].reshape(-1).nonzero()[:, 0] if "mask" in data else None)
        channels = min(part.shape[-1] for part in colours)
        self._colours = torch.cat([part[:, :channels] for part in colours])
        self._widths, self._areas = torch.tensor(widths), torch.tensor(areas)
        self._first = self._areas.cumsum(0) - self._areas
        self._allowed = self._join(allowed, areas)

    def _join(self, allowed: list[Tensor | None], areas: list[int]) -> tuple[Tensor, Tensor, Tensor] | None:
        """Pixels inside the masks of all photos, and where each photo's begin and how many it has."""
        if all(part is None for part in allowed):
            return None
        # A mask that covers everything would leave nothing to draw.
        parts = [
            torch.arange(area) if part is None or len(part) == 0 else part
            for part, area in zip(allowed, areas, strict=True)
        ]
        counts = torch.tensor([len(part) for part in parts])
        return torch.cat(parts), counts.cumsum(0) - counts, counts

    def draw(self, count: int) -> DrawnPixels:
        """Pixels at random: a photo, each as likely as any other, and a pixel of it inside of its mask."""
        photos = torch.randint(len(self._areas), (count,))
        share = torch.rand(count, dtype=torch.float64)
        if self._allowed is None:
            place = (share * self._areas[photos]).long()
        else:
            inside, first, counts = self._allowed
            place = inside[first[photos] + (share * counts[photos]).long()]
        widths = self._widths[photos]
        indices = torch.stack([photos, place // widths, place % widths], dim=-1)
        return DrawnPixels(indices, self._colours[self._first[photos] + place].float() / 255.0)
