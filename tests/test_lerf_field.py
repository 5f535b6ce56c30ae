"""LERF's language field: its size, its grids against a slow twin, its losses, and the scale search."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from lerf_ns.field import FieldShape, LerfField, Targets, blend, contract, language_losses
from lerf_ns.hash_grid import GridShape, HashGrid
from lerf_ns.language_part import LanguageFieldOptions
from lerf_ns.scales import best_scales, candidate_scales, relevancy_per_prompt

PRIMES = (1, 2654435761, 805459861)


def slow_grid(grid: HashGrid, position: list[float]) -> list[float]:
    """One position, one corner at a time, as tiny-cuda-nn reads it."""
    shape, result, first = grid.shape, [], 0
    for level in range(shape.levels):
        scale = shape.coarsest * shape.growth**level - 1
        side = math.ceil(scale) + 1
        size = min((side**3 + 7) // 8 * 8, 2**shape.log2_table)
        scaled = [coordinate * scale + 0.5 for coordinate in position]
        values = np.zeros(shape.features)
        for corner in range(8):
            vertex, weight = [], 1.0
            for axis in range(3):
                step, low = corner >> axis & 1, math.floor(scaled[axis])
                share = scaled[axis] - low
                weight *= share if step else 1 - share
                vertex.append(low + step)
            if side**3 <= size:
                x, y, z = (min(coordinate, side - 1) for coordinate in vertex)
                row = x + y * side + z * side**2
            else:
                row = (vertex[0] * PRIMES[0] ^ vertex[1] * PRIMES[1] ^ vertex[2] * PRIMES[2]) % size
            values += weight * grid.table[first + row].detach().double().numpy()
        result += values.tolist()
        first += size
    return result


def test_grid_is_the_slow_one_dense_and_hashed() -> None:
    grid = HashGrid(GridShape(5, 4, 40, log2_table=9, features=3))
    torch.nn.init.normal_(grid.table)
    assert grid.dense.tolist() == [True, True, False, False, False]
    positions = torch.rand(50, 3)
    positions[0], positions[1] = 0.0, 1.0
    for found in (grid(positions), grid.slow(positions)):
        for index, position in enumerate(positions.double().tolist()):
            assert np.allclose(found[index].detach(), slow_grid(grid, position), atol=2e-4), index


@pytest.mark.parametrize("way", ["forward", "slow"])
def test_gradient_of_the_table_is_torchs_own(way: str) -> None:
    grid = HashGrid(GridShape(4, 4, 20, log2_table=8, features=2))
    positions, wanted = torch.rand(30, 3), torch.randn(30, 8)
    (getattr(grid, way)(positions) * wanted).sum().backward()
    found, grid.table.grad = grid.table.grad, None
    rows, weights = grid.corners(positions)
    ((grid.table[rows] * weights[..., None]).sum(2).flatten(1) * wanted).sum().backward()
    assert found is not None and grid.table.grad is not None
    assert torch.allclose(found, grid.table.grad, atol=1e-6)


def tcnn_weights(shape: FieldShape) -> int:
    """Number of weights that tiny-cuda-nn has for this field, after its documentation."""

    def up(number: int, step: int) -> int:
        return -(-number // step) * step

    def network(inputs: int, outputs: int, hidden: int) -> int:
        sides = [up(inputs, 16), *[shape.width] * hidden, up(outputs, 16)]
        return sum(before * after for before, after in pairwise(sides))

    total = network(shape.grid_dim + 1, shape.clip_dim, shape.clip_layers) + network(shape.grid_dim, shape.dino_dim, 1)
    for grid in shape.grids:
        growth = math.exp((math.log(grid.finest) - math.log(grid.coarsest)) / (grid.levels - 1))
        for level in range(grid.levels):
            side = math.ceil(grid.coarsest * growth**level - 1) + 1
            total += min(up(side**3, 8), 2**grid.log2_table) * grid.features
    return total


@pytest.mark.parametrize("method", ["lerf", "lerf-lite", "lerf-big", "lerf-splat"])
def test_as_many_weights_as_the_tiny_cuda_nn_field(method: str) -> None:
    from lerf_ns import specs

    model = getattr(specs, method.replace("-", "_")).config.pipeline.model
    shape = model.field_shape(768 if method == "lerf-big" else 512, 384)
    with torch.device("meta"):
        count = sum(weight.numel() for weight in LerfField(shape).parameters())
    assert abs(count / tcnn_weights(shape) - 1) < 0.01
    assert shape.width == 256 and shape.clip_layers == 4


def test_the_papers_numbers() -> None:
    from lerf_ns import specs

    expected = {"lerf": (24, 24, 4000), "lerf-lite": (16, 12, 7000), "lerf-big": (32, 32, 3000)}
    for method, (levels, samples, decay) in expected.items():
        config = getattr(specs, method.replace("-", "_")).config
        model, manager = config.pipeline.model, config.pipeline.datamanager
        assert sum(model.hashgrid_layers) == levels and model.num_lerf_samples == samples
        assert config.optimizers["lerf"]["scheduler"].max_steps == decay
        assert (config.max_num_iterations, manager.train_num_rays_per_batch) == (30_000, 4096)
        assert (manager.tile_size_range, manager.tile_sizes, manager.tile_stride) == ((0.05, 0.5), 7, 0.5)
        assert (model.n_scales, model.max_scale, model.clip_loss_weight) == (30, 1.5, 0.1)


def test_contraction_keeps_everything_in_the_cube() -> None:
    positions = torch.cat([torch.zeros(1, 3), torch.randn(100, 3), torch.randn(100, 3) * 1e4])
    inside = contract(positions)
    assert 0 <= inside.min() and inside.max() <= 1
    near = positions.abs().amax(-1) < 1
    assert torch.allclose(inside[near], (positions[near] + 2) / 4)


def test_language_never_moves_geometry() -> None:
    shape = FieldShape((GridShape(2, 4, 8, log2_table=8),), clip_dim=5, dino_dim=3, width=8, clip_layers=2)
    field = LerfField(shape)
    positions, weights = torch.rand(6, 3, requires_grad=True), torch.rand(2, 3, requires_grad=True)
    features = field.read(positions)
    vectors = field.clip(features, torch.rand(6, 1))
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(6), atol=1e-5)
    shown = blend(weights, vectors.unflatten(0, (2, 3)))
    losses = language_losses(shown, blend(weights, field.dino(features).unflatten(0, (2, 3))), _targets(2))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert positions.grad is None and weights.grad is None
    assert all(weight.grad is not None for weight in field.parameters())


def _targets(rays: int) -> Targets:
    return Targets(torch.randn(rays, 5), torch.randn(rays, 3))


def test_losses_are_the_papers_and_leave_out_what_has_no_evidence() -> None:
    clip, dino = torch.randn(4, 5) * 2, torch.randn(4, 3)
    targets = Targets(torch.randn(4, 5) * 2, torch.randn(4, 3))
    targets.clip[2] = torch.nan
    clip.requires_grad_()
    losses = language_losses(clip, dino, targets)
    known = [0, 1, 3]
    huber = 0.0
    for ray in known:
        for error in (clip[ray] - targets.clip[ray]).abs().tolist():
            huber += 0.5 * error**2 if error <= 1.25 else 1.25 * (error - 0.5 * 1.25)
    assert losses["clip_loss"].item() == pytest.approx(0.1 * huber / 3, rel=1e-5)
    assert targets.dino is not None
    assert losses["dino_loss"].item() == pytest.approx((dino - targets.dino).square().sum().item() / 4, rel=1e-5)
    losses["clip_loss"].backward()
    assert clip.grad is not None and clip.grad.isfinite().all() and clip.grad[2].abs().sum() == 0


def test_each_prompt_gets_the_scale_of_its_own_highest_peak() -> None:
    scales = candidate_scales(1.5, 4)
    assert scales == pytest.approx((0.0, 0.5, 1.0, 1.5))
    answers = {
        scales[0]: torch.tensor([[0.1, 0.9], [0.2, 0.3]]),
        scales[1]: torch.tensor([[0.5, 0.5], [0.2, 0.4]]),
        scales[2]: torch.tensor([[0.6, 0.8], [0.7, 0.1]]),
        scales[3]: torch.tensor([[0.0, 0.9], [0.1, 0.7]]),
    }
    asked: list[float] = []

    def relevancy_at(scale: float) -> torch.Tensor:
        asked.append(scale)
        return answers[scale]

    found = best_scales(relevancy_at, scales)
    assert found == (scales[0], scales[2]), "of equal peaks the smallest scale"
    assert asked == list(scales)
    asked.clear()
    assert torch.equal(relevancy_per_prompt(relevancy_at, found), torch.tensor([[0.1, 0.9], [0.7, 0.1]]))
    assert len(asked) == 2
    asked.clear()
    relevancy_per_prompt(relevancy_at, (scales[1], scales[1]))
    assert asked == [scales[1]], "a scale that prompts share is asked once"


def test_configurations_have_no_mutable_defaults() -> None:
    """LERF's own classes cannot be imported on Python 3.11 and later for that reason."""
    from lerf_ns import datamanager, model, splat_model

    for config in (
        LanguageFieldOptions,
        model.LerfModelConfig,
        splat_model.LerfSplatModelConfig,
        datamanager.LerfDataManagerConfig,
        datamanager.LerfSplatDataManagerConfig,
    ):
        for entry in dataclasses.fields(config):
            default = entry.default
            assert default is dataclasses.MISSING or default.__hash__ is not None, entry.name


def test_specs_import_nothing_heavy() -> None:
    from test_imports import HEAVY

    code = f"import sys, lerf_ns.specs; print([name for name in {HEAVY!r} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip().splitlines()[-1] == "[]"


def test_the_benchmark_runs_without_nerfstudio(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['nerfstudio'] = None\n"
        "from benchmarks.gpu_lerf import main\n"
        f"main(['--device', 'cpu', '--tiny', '--out', {str(tmp_path / 'out.json')!r}])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    tiny = json.loads((tmp_path / "out.json").read_text())["tiny"]
    assert tiny["steps_per_second"] > 0 and tiny["query_ms"] > 0


def test_the_benchmarks_sizes_are_those_of_the_methods() -> None:
    from benchmarks.gpu_lerf import METHODS
    from lerf_ns import specs

    for method, (shape, samples) in METHODS.items():
        model = getattr(specs, method.replace("-", "_")).config.pipeline.model
        assert model.field_shape(shape.clip_dim, 384) == shape and model.num_lerf_samples == samples
