"""LERF's language field (Kerr et al. 2023, section 3.2): a place and a scale in, a CLIP vector out."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerf_ns.hash_grid import GridShape, HashGrid

Implementation = Literal["tcnn", "torch"]


@dataclass(frozen=True)
class FieldShape:
    """Sizes of a language field.

    Attributes:
        grids: the hash grids that are read side by side. LERF has two, since tiny-cuda-nn fails above 16 levels.
        clip_dim: length of the encoder's vectors.
        dino_dim: length of the regulariser's features; 0 leaves that head out.
        width: neurons per hidden layer.
        clip_layers: hidden layers of the CLIP head; the DINO head has one.
    """

    grids: tuple[GridShape, ...]
    clip_dim: int
    dino_dim: int = 384
    width: int = 256
    clip_layers: int = 4

    @property
    def grid_dim(self) -> int:
        """Length of what the grids give together."""
        return sum(grid.levels * grid.features for grid in self.grids)


def settle_implementation(wanted: Implementation, device: torch.device | str) -> Implementation:
    """tiny-cuda-nn where it is wanted, installed and can run; torch otherwise."""
    usable = torch.device(device).type == "cuda" and importlib.util.find_spec("tinycudann") is not None
    return "tcnn" if wanted == "tcnn" and usable else "torch"


def contract(positions: Tensor) -> Tensor:
    """All of space into the unit cube: mip-NeRF 360's contraction with the maximum norm, as nerfacto has it.

    Args:
        positions: [..., 3] in nerfstudio's frame, where the cameras lie within 1 of the origin.
    """
    distance = positions.abs().amax(-1, keepdim=True).clamp_min(1e-9)
    inside = torch.where(distance < 1, positions, (2 - 1 / distance) * (positions / distance))
    return (inside + 2) / 4


class LerfField(nn.Module):
    """Hash grids, a CLIP head that also reads a scale, and a DINO head.

        field = LerfField(FieldShape((GridShape(16, 16, 512),), clip_dim=512))
        features = field.read(positions)  # Once per place,
        vectors = field.clip(features, torch.full((len(features), 1), 0.4))  # and once per scale that is asked.

    Args:
        shape: its sizes.
        implementation: tiny-cuda-nn, or torch with the same layout and, but for padding, the same number of weights.
    """

    def __init__(self, shape: FieldShape, implementation: Implementation = "torch") -> None:
        super().__init__()
        self.shape = shape
        grid, network = (_tcnn_grid, _tcnn_network) if implementation == "tcnn" else (HashGrid, _network)
        self.grids = nn.ModuleList([grid(part) for part in shape.grids])
        self.clip_head = network(shape.grid_dim + 1, shape.clip_dim, shape.width, shape.clip_layers)
        self.dino_head = network(shape.grid_dim, shape.dino_dim, shape.width, 1) if shape.dino_dim else None

    def read(self, positions: Tensor) -> Tensor:
        """What the grids hold at positions [N, 3] of nerfstudio's frame: [N, grid_dim]. Positions get no gradient."""
        inside = contract(positions.detach())
        return torch.cat([grid(inside).float() for grid in self.grids], dim=-1)

    def clip(self, features: Tensor, scales: Tensor) -> Tensor:
        """Unit CLIP vectors [N, clip_dim] of what `read` gave [N, grid_dim], at scales [N, 1] in nerfstudio's units."""
        return F.normalize(self.clip_head(torch.cat([features, scales], dim=-1)).float(), dim=-1)

    def dino(self, features: Tensor) -> Tensor:
        """DINO features [N, dino_dim] of what `read` gave [N, grid_dim].

        Raises:
            RuntimeError: the field has no such head.
        """
        if self.dino_head is None:
            raise RuntimeError("this field has no DINO head")
        return self.dino_head(features).float()


def chunks(count: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` out of `count`; one empty slice where there is nothing."""
    for start in range(0, max(count, 1), max(size, 1)):
        yield slice(start, min(start + size, count))


def _network(inputs: int, outputs: int, width: int, hidden: int) -> nn.Module:
    """Fully connected layers without biases and with ReLU between them, as tiny-cuda-nn's CutlassMLP."""
    sides = [inputs, *[width] * hidden, outputs]
    layers: list[nn.Module] = []
    for before, after in pairwise(sides):
        linear = nn.Linear(before, after, bias=False)
        nn.init.xavier_uniform_(linear.weight)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _tcnn_grid(shape: GridShape) -> nn.Module:
    import tinycudann as tcnn  # type: ignore[import-not-found]

    return tcnn.Encoding(
        n_input_dims=3,
        encoding_config={
            "otype": "HashGrid",
            "n_levels": shape.levels,
            "n_features_per_level": shape.features,
            "log2_hashmap_size": shape.log2_table,
            "base_resolution": shape.coarsest,
            "per_level_scale": shape.growth,
        },
    )


def _tcnn_network(inputs: int, outputs: int, width: int, hidden: int) -> nn.Module:
    import tinycudann as tcnn  # type: ignore[import-not-found]

    return tcnn.Network(
        n_input_dims=inputs,
        n_output_dims=outputs,
        network_config={
            "otype": "CutlassMLP",
            "activation": "ReLU",
            "output_activation": "None",
            "n_neurons": width,
            "n_hidden_layers": hidden,
        },
    )


@dataclass(frozen=True)
class Targets:
    """What some pixels should show.

    Attributes:
        clip: the pyramid's vectors [R, clip_dim]; a row with NaN has no evidence.
        dino: DINO's features [R, dino_dim], or None where the regulariser is off.
    """

    clip: Tensor
    dino: Tensor | None = None


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts."""

    clip: float = 0.1
    dino: float = 1.0
    huber_delta: float = field(default=1.25)


def language_losses(
    clip: Tensor, dino: Tensor | None, targets: Targets, weights: LossWeights = LossWeights()
) -> dict[str, Tensor]:
    """LERF's losses (section 3.2): Huber on CLIP and squared error on DINO, summed over entries, mean over pixels.

    Args:
        clip: rendered unit vectors [R, clip_dim].
        dino: rendered features [R, dino_dim], or None.
        targets: see `Targets`; pixels without evidence are left out of the mean.
        weights: see `LossWeights`.
    """
    known = torch.isfinite(targets.clip).all(-1)
    huber = F.huber_loss(clip[known], targets.clip[known], delta=weights.huber_delta, reduction="none")
    losses: dict[str, Any] = {"clip_loss": weights.clip * _mean_of_sums(huber)}
    if dino is not None and targets.dino is not None:
        losses["dino_loss"] = weights.dino * _mean_of_sums(F.mse_loss(dino, targets.dino, reduction="none"))
    return losses


def blend(weights: Tensor, values: Tensor) -> Tensor:
    """Weighted sums along rays: weights [R, S], which get no gradient, and values [R, S, E] -> [R, E]."""
    return (weights.detach()[..., None] * values).sum(-2)


def make_grid_shapes(
    levels: Sequence[int], resolutions: Sequence[tuple[int, int]], log2_tables: Sequence[int], features: int = 8
) -> tuple[GridShape, ...]:
    """Grids from the lists that configurations hold, one entry per grid."""
    return tuple(
        GridShape(count, *ends, size, features)
        for count, ends, size in zip(levels, resolutions, log2_tables, strict=True)
    )


def _mean_of_sums(errors: Tensor) -> Tensor:
    return errors.sum(-1).mean() if len(errors) else errors.sum()
