"""Multi-resolution hash grids (Müller et al. 2022) in plain torch, with tiny-cuda-nn's layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lang_splat_ns.interrupts import uninterrupted

_PRIMES = (1, 2_654_435_761, 805_459_861)


@dataclass(frozen=True)
class GridShape:
    """One hash grid.

    Attributes:
        levels: number of resolutions.
        coarsest, finest: cells per side of the unit cube at the first and the last level.
        log2_table: a level with more vertices than 2 to this power is hashed, the others are dense.
        features: numbers per vertex.
    """

    levels: int
    coarsest: int
    finest: int
    log2_table: int = 19
    features: int = 8

    @property
    def growth(self) -> float:
        """Factor between the resolutions of neighbouring levels."""
        if self.levels < 2:
            return 1.0
        return float(np.exp((np.log(self.finest) - np.log(self.coarsest)) / (self.levels - 1)))

    def scales(self) -> list[float]:
        """What positions in the unit cube are multiplied with at each level."""
        return [self.coarsest * self.growth**level - 1.0 for level in range(self.levels)]

    def resolutions(self) -> list[int]:
        """Vertices per side at each level."""
        return [int(np.ceil(scale)) + 1 for scale in self.scales()]

    def sizes(self) -> list[int]:
        """Rows of the table at each level: all vertices, up to a multiple of eight, or the table's size."""
        return [min(-(-(side**3) // 8) * 8, 1 << self.log2_table) for side in self.resolutions()]


class HashGrid(nn.Module):
    """A hash grid whose vertices are shared by one table per level; values between them are trilinear.

    Args:
        shape: resolutions and table sizes.
        initial: values begin uniformly between minus and plus this.
    """

    first_rows: Tensor
    sizes: Tensor
    sides: Tensor
    scales: Tensor
    dense: Tensor

    def __init__(self, shape: GridShape, initial: float = 1e-4) -> None:
        super().__init__()
        self.shape = shape
        self.dim = shape.levels * shape.features
        sizes, sides = np.array(shape.sizes()), np.array(shape.resolutions())
        self.table = nn.Parameter(torch.empty(int(sizes.sum()), shape.features).uniform_(-initial, initial))
        constants = {
            "first_rows": torch.from_numpy(np.cumsum(sizes) - sizes),
            "sizes": torch.from_numpy(sizes),
            "sides": torch.from_numpy(sides),
            "scales": torch.tensor(shape.scales()),
            "dense": torch.from_numpy(sides**3 <= sizes),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """Positions in the unit cube [N, 3] -> features [N, levels * features]; positions get no gradient."""
        if positions.device.type == "cpu":
            return cast(Tensor, _CompiledGrid.apply(self.table, positions.detach().contiguous(), self))
        return self.slow(positions)

    def slow(self, positions: Tensor) -> Tensor:
        """The same in torch's own operations, for other devices and as the compiled loops' twin."""
        rows, weights = self.corners(positions.detach())
        values = cast(Tensor, _WeightedRows.apply(self.table, rows.flatten(0, 1), weights.flatten(0, 1)))
        return values.view(len(positions), self.dim)

    def constants(self) -> tuple[Any, ...]:
        """Levels as numpy arrays: first rows, sizes, sides, scales, whether dense."""
        parts = (self.first_rows, self.sizes, self.sides, self.scales, self.dense)
        return tuple(part.numpy() for part in parts)

    def corners(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the table around positions [N, 3], and their weights: int64 and float [N, levels, 8]."""
        scaled = positions[:, None] * self.scales[:, None] + 0.5  # [N, L, 3]
        below = scaled.floor()
        share = scaled - below
        lower = below.long().clamp_min(0)
        # Along each axis: both neighbours and their weights, [N, L, 3, 2].
        ends = torch.stack([lower, lower + 1], dim=-1)
        parts = torch.stack([1 - share, share], dim=-1)
        weights = _combine(parts, torch.mul)
        return self._rows(ends) + self.first_rows[:, None], weights

    def _rows(self, ends: Tensor) -> Tensor:
        """Row within each level's table of the eight corners: [N, L, 3, 2] -> [N, L, 8]."""
        sides, sizes = self.sides, self.sizes[:, None]
        inside = torch.minimum(ends, (sides - 1)[:, None, None])
        strides = torch.stack([torch.ones_like(sides), sides, sides**2], dim=-1)  # [L, 3]
        dense = _combine(inside * strides[..., None], torch.add)
        hashed = _combine(ends * ends.new_tensor(_PRIMES)[:, None], torch.bitwise_xor)
        # Hashed levels have a power of two of rows, so the remainder is in their low bits.
        return torch.where(self.dense[:, None], dense, hashed & (sizes - 1))


class _CompiledGrid(torch.autograd.Function):
    """The loops of `grid_kernels`: 12,000 places at 8 levels and back take a fifth of torch's time."""

    @staticmethod
    @uninterrupted()
    def forward(ctx: Any, table: Tensor, positions: Tensor, grid: HashGrid) -> Tensor:  # type: ignore[override]
        # Imported here, since every ns-* command imports this module and compiling loops is slow.
        from lang_splat_ns.splatting.cpu_threads import ONE_AT_A_TIME
        from lerf_ns import grid_kernels

        ctx.positions, ctx.shape, ctx.constants = positions, table.shape, grid.constants()
        with ONE_AT_A_TIME:
            values = grid_kernels.read(positions.numpy(), table.detach().numpy(), *ctx.constants)
        return torch.from_numpy(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        from lang_splat_ns.splatting.cpu_threads import ONE_AT_A_TIME
        from lerf_ns import grid_kernels

        gradient = gradients[0].contiguous().numpy()
        with ONE_AT_A_TIME:
            result = grid_kernels.spread(ctx.positions.numpy(), gradient, *ctx.shape, *ctx.constants)
        return torch.from_numpy(result), None, None


def _combine(axes: Tensor, operation: Any) -> Tensor:
    """Every combination of one entry per axis: [N, L, 3, 2] -> [N, L, 8]."""
    first, second, third = axes.unbind(-2)
    pairs = operation(first[..., :, None], second[..., None, :]).flatten(-2)
    return operation(pairs[..., :, None], third[..., None, :]).flatten(-2)


class _WeightedRows(torch.autograd.Function):
    """`(table[rows] * weights[..., None]).sum(1)` that never holds the gathered rows in the forward pass."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(rows, weights)
        ctx.shape = table.shape
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights.to(table.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (gradient,) = gradients
        rows, weights = ctx.saved_tensors
        spread = weights[..., None] * gradient[:, None]  # [M, 8, F]
        result = gradient.new_zeros(ctx.shape)
        result.index_add_(0, rows.flatten(), spread.flatten(0, 1).to(result.dtype))
        return result, None, None
