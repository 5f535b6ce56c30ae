"""Embeddings of a photo's tiles at several sizes, and what they say about a pixel at a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang_splat_ns.batches import batched
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.clip_encoder import ClipEncoder
from lang_splat_ns.perception.encoders import Encoder, RegionTask, embed_many
from lerf_ns.tiles import PyramidPlan, TileGrid, cut_tiles, tile_layers

_CROPS_AT_ONCE = 64


def embed_pyramid(image: npt.NDArray[np.uint8], encoder: Encoder, plan: PyramidPlan) -> list[npt.NDArray[np.float16]]:
    """Embed all tiles of a photo.

    An encoder that embeds crops gets the tiles as they are. Any other one gets them as regions of label maps, whose
    tiles do not overlap, so that it needs a handful of calls per size.

    Args:
        image: RGB, uint8 [H, W, 3].
        encoder: any encoder of the suite, or a plug-in.
        plan: which tiles.

    Returns:
        For each size, smallest first, float16 [rows, columns, dim]; NaN for a tile without evidence.

    Raises:
        UserError: the encoder returns something of another shape.
    """
    grids = plan.grids(*image.shape[:2])
    embed = _embed_crops if isinstance(encoder, ClipEncoder) else _embed_layers
    return [embed(image, encoder, grid).astype(np.float16) for grid in grids]


def _embed_crops(image: npt.NDArray[np.uint8], encoder: Any, grid: TileGrid) -> npt.NDArray[np.float32]:
    import cv2

    side = encoder.network.side
    method = cv2.INTER_AREA if grid.size > side else cv2.INTER_CUBIC
    rows = [
        encoder.encode_crops([cv2.resize(tile, (side, side), interpolation=method) for tile in group])
        for group in batched(cut_tiles(image, grid), _CROPS_AT_ONCE)
    ]
    return np.concatenate(rows).reshape(grid.rows, grid.columns, encoder.dim)


def _embed_layers(image: npt.NDArray[np.uint8], encoder: Encoder, grid: TileGrid) -> npt.NDArray[np.float32]:
    layers = list(tile_layers(grid, *image.shape[:2]))
    found = embed_many(encoder, [RegionTask(image, layer.labels, len(layer.tiles)) for layer in layers])
    result = np.full((grid.rows * grid.columns, encoder.dim), np.nan, dtype=np.float32)
    for layer, rows in zip(layers, found, strict=True):
        if np.shape(rows) != (len(layer.tiles), encoder.dim):
            raise UserError(
                f"encoder {encoder.encoder_id} returned for {len(layer.tiles)} tiles an array of shape "
                f"{np.shape(rows)}, expected {(len(layer.tiles), encoder.dim)}"
            )
        result[layer.tiles] = rows
    return result.reshape(grid.rows, grid.columns, encoder.dim)


@dataclass(frozen=True)
class PhotoPyramid:
    """Embeddings of one photo's tiles.

    Attributes:
        height, width: of the photo, in pixels.
        vectors: see `embed_pyramid`.
    """

    height: int
    width: int
    vectors: Sequence[npt.NDArray[np.float16]]


class Pyramids:
    """What the tiles of a data set's photos say about pixels at scales in 0..1.

    A scale of 0 stands for the smallest tiles, 1 for the largest. Between four tiles' middles vectors are
    interpolated, and between two sizes too; they are not made unit again (Kerr et al. 2023, section 3.2).

    Args:
        photos: one pyramid per photo, all with the same plan; photos may differ in size.
        plan: which tiles they have.
        device: where pixels are asked; the vectors themselves stay in main memory, as half floats.
    """

    def __init__(self, photos: Sequence[PhotoPyramid], plan: PyramidPlan, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._levels = plan.sizes
        self.vectors = torch.from_numpy(
            np.concatenate([level.reshape(-1, level.shape[-1]) for photo in photos for level in photo.vectors])
        )
        grids = [grid for photo in photos for grid in plan.grids(photo.height, photo.width)]
        counts = np.array([grid.rows * grid.columns for grid in grids])
        self._first = self._table(np.cumsum(counts) - counts)  # [P, levels]
        self._rows, self._columns = (
            self._table([getattr(grid, name) for grid in grids]) for name in ("rows", "columns")
        )
        self._strides = self._table([float(grid.stride) for grid in grids])
        self._origins = self._table([grid.first_centre for grid in grids])
        self._sizes = torch.tensor([[photo.height, photo.width] for photo in photos], dtype=torch.float64)

    def _table(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values)).reshape(-1, self._levels)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.vectors.shape[1]

    def __call__(self, photos: Tensor, places: Tensor, scales: Tensor) -> Tensor:
        """Vectors of pixels at scales.

        Args:
            photos: indices of photos. [R]
            places: row and column as shares of the photo's height and width, in 0..1. [R, 2]
            scales: in 0..1. [R]

        Returns:
            float32 [R, dim] on the device, not unit; NaN where one of the tiles around has no evidence.
        """
        photos, places, scales = photos.cpu(), places.double().cpu(), scales.double().cpu()
        level = (scales * (self._levels - 1)).clamp(0, self._levels - 1)
        below = level.floor().long().clamp_max(self._levels - 2)
        share = (level - below).float()[:, None]
        pixels = places * self._sizes[photos] - 0.5
        lower, upper = (self._at_level(photos, pixels, below + step).to(self._device) for step in (0, 1))
        return torch.lerp(lower, upper, share.to(self._device))

    def _at_level(self, photos: Tensor, pixels: Tensor, level: Tensor) -> Tensor:
        """Bilinear interpolation between the tiles of one size per ray: float32 [R, dim]."""
        first, rows, columns, stride, origin = (
            table[photos, level] for table in (self._first, self._rows, self._columns, self._strides, self._origins)
        )
        last = torch.stack([rows, columns], dim=-1) - 1
        place = torch.minimum(((pixels - origin[:, None]) / stride[:, None]).clamp_min(0), last.double())
        corner = place.floor().long()
        share = (place - corner).float()
        following = torch.minimum(corner + 1, last)

        def at(row: Tensor, column: Tensor) -> Tensor:
            return self.vectors[first + row * columns + column].float()

        top = torch.lerp(at(corner[:, 0], corner[:, 1]), at(corner[:, 0], following[:, 1]), share[:, 1:])
        bottom = torch.lerp(at(following[:, 0], corner[:, 1]), at(following[:, 0], following[:, 1]), share[:, 1:])
        return torch.lerp(top, bottom, share[:, :1])


def principal_axes(vectors: Tensor, count: int = 4096) -> Tensor:
    """Three directions along which vectors [M, D] differ most, and their mean: [4, D], the mean first.

    A direction and its opposite are equally good; the sign is settled, so that colours stay when it is run again.
    """
    known = vectors[torch.isfinite(vectors).all(-1)]
    sample = known[:: max(1, len(known) // count)].float()
    result = vectors.new_zeros(4, vectors.shape[1], dtype=torch.float32)
    if len(sample) < 2:
        return result
    mean = sample.mean(0)
    _, strengths, directions = torch.linalg.svd(sample - mean, full_matrices=False)
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    spread = (2 * strengths / len(sample) ** 0.5).clamp_min(1e-6)[:, None]
    parts = (directions * signs / spread)[:3]
    result[0], result[1 : 1 + len(parts)] = mean, parts
    return result


def axis_colours(vectors: Tensor, axes: Tensor) -> Tensor:
    """Colours [..., 3] in 0..1 of vectors [..., D] by `principal_axes` [4, D]."""
    return (((vectors - axes[0]) @ axes[1:].T + 1) / 2).clamp(0, 1)
