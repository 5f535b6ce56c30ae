"""How a photo is cut into overlapping square tiles of several sizes (LERF, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError

_FULL_STRIDE_UP_TO, _OWN_STRIDE_FROM = 0.05, 0.15


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one size on one photo; tile (r, c) begins at pixel (r, c) * stride - size // 2.

    Attributes:
        size: pixels per side of a tile.
        stride: pixels between neighbouring tiles.
        rows, columns: number of tiles.
    """

    size: int
    stride: int
    rows: int
    columns: int

    @property
    def first_centre(self) -> float:
        """Pixel coordinate of the middle of the first row's (and the first column's) tiles."""
        return (self.size - 1) / 2 - self.size // 2

    def start(self, index: int) -> int:
        """First pixel of the tiles of a row or column; negative where they begin outside of the photo."""
        return index * self.stride - self.size // 2


@dataclass(frozen=True)
class PyramidPlan:
    """Which tiles a photo is cut into.

    Attributes:
        smallest, largest: sides of the smallest and the largest tile, as shares of the photo's height.
        sizes: number of sizes, evenly spaced between these two.
        stride: share of a tile's side between neighbouring tiles, for tiles of 0.15 of the height and more. It rises
            to 1 for tiles of 0.05, which would be too many otherwise.
    """

    smallest: float = 0.05
    largest: float = 0.5
    sizes: int = 7
    stride: float = 0.5

    def check(self) -> None:
        """Look whether the numbers make sense.

        Raises:
            UserError: they do not.
        """
        if not 0 < self.smallest < self.largest <= 1 or self.sizes < 2 or not 0 < self.stride <= 1:
            raise UserError(
                f"tiles from {self.smallest:g} to {self.largest:g} of the height, {self.sizes} sizes, stride "
                f"{self.stride:g}: give two rising shares up to 1, at least 2 sizes, and a stride up to 1"
            )

    def grids(self, height: int, width: int) -> list[TileGrid]:
        """The tiles of a photo of this size, smallest first."""
        return [
            self._grid(float(share), height, width) for share in np.linspace(self.smallest, self.largest, self.sizes)
        ]

    def to_json(self) -> dict[str, float | int]:
        """The plan as a part of keys."""
        return asdict(self)

    def _grid(self, share: float, height: int, width: int) -> TileGrid:
        size = max(1, int(height * share))
        stride = np.interp(share, [_FULL_STRIDE_UP_TO, _OWN_STRIDE_FROM], [1.0, self.stride])
        step = max(1, int(size * stride))
        rows, columns = ((side + 2 * (size // 2) - size) // step + 1 for side in (height, width))
        return TileGrid(size, step, rows, columns)


def cut_tiles(image: npt.NDArray[np.uint8], grid: TileGrid) -> Iterator[npt.NDArray[np.uint8]]:
    """The tiles row by row, uint8 [size, size, 3], black where they reach beyond the photo.

    Args:
        image: RGB, uint8 [H, W, 3].
        grid: its tiles.
    """
    margin, size = grid.size // 2, grid.size
    padded = np.pad(image, ((margin, size), (margin, size), (0, 0)))
    for row in range(grid.rows):
        for column in range(grid.columns):
            top, left = row * grid.stride, column * grid.stride
            yield padded[top : top + size, left : left + size]


@dataclass(frozen=True)
class TileLayer:
    """Tiles that do not overlap, as a label map.

    Attributes:
        labels: int32 [H, W], number of the tile within the layer; -1 = none.
        tiles: for each number the tile's place in the grid, row by row: int64 [count].
    """

    labels: npt.NDArray[np.int32]
    tiles: npt.NDArray[np.int64]


def tile_layers(grid: TileGrid, height: int, width: int) -> Iterator[TileLayer]:
    """Label maps that hold every tile once, for encoders that embed regions: as few as the overlap allows."""
    steps = -(-grid.size // grid.stride)
    for first_row in range(min(steps, grid.rows)):
        rows = np.arange(first_row, grid.rows, steps)
        row_of = _owner(rows, grid, height)
        for first_column in range(min(steps, grid.columns)):
            columns = np.arange(first_column, grid.columns, steps)
            column_of = _owner(columns, grid, width)
            inside = (row_of >= 0)[:, None] & (column_of >= 0)
            labels = np.where(inside, row_of[:, None] * len(columns) + column_of, -1).astype(np.int32)
            yield TileLayer(labels, (rows[:, None] * grid.columns + columns).reshape(-1))


def _owner(indices: npt.NDArray[np.int64], grid: TileGrid, length: int) -> npt.NDArray[np.int64]:
    """For each pixel along an axis the position in `indices` of the tile that covers it, or -1."""
    owner = np.full(length, -1, dtype=np.int64)
    for position, index in enumerate(indices.tolist()):
        start = grid.start(index)
        owner[max(start, 0) : max(start + grid.size, 0)] = position
    return owner
