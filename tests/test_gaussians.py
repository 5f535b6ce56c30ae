"""Gaussians keep their looks when they change frames or pass through a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from lang_splat_ns.errors import UserError
from lang_splat_ns.splatting.gaussians import Gaussians, Similarity, from_points, transform
from lang_splat_ns.splatting.ply import read_ply, write_ply
from lang_splat_ns.splatting.rasterizer import rasterize


def _some(count: int = 40, degree: int = 3) -> Gaussians:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Gaussians(
        means=normal(count, 3),
        scales=normal(count, 3) * 0.3 - 2,
        quats=normal(count, 4),
        features_dc=normal(count, 3),
        features_rest=normal(count, (degree + 1) ** 2 - 1, 3) * 0.2,
        opacities=normal(count, 1),
    )


def _frame() -> Similarity:
    rotation = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
    return Similarity(rotation, np.array([0.3, -2.0, 1.0]), 0.37)


def _render(gaussians: Gaussians, view: torch.Tensor) -> torch.Tensor:
    colors = torch.cat([gaussians.features_dc[:, None], gaussians.features_rest], dim=1)
    intrinsics = torch.tensor([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]])
    image, _, _ = rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales.exp(),
        gaussians.opacities.sigmoid()[:, 0],
        colors,
        view,
        intrinsics,
        64,
        48,
        sh_degree=3,
        near_plane=1e-3,
    )
    return image


def test_a_moved_camera_sees_moved_gaussians_as_before() -> None:
    gaussians, frame = _some(), _frame()
    view = torch.eye(4)
    view[2, 3] = 5.0
    # The camera moves along: world-to-camera after the change of frame, with the same scale on all distances.
    moved_view = torch.eye(4, dtype=torch.float64)
    moved_view[:3, :3] = torch.from_numpy(frame.rotation.T)
    moved_view[:3, 3] = frame.scale * view[:3, 3] - torch.from_numpy(frame.rotation.T @ frame.translation)
    seen = _render(transform(gaussians, frame), moved_view.float())
    assert torch.allclose(seen, _render(gaussians, view), atol=2e-4)


def test_there_and_back() -> None:
    gaussians, frame = _some(), _frame()
    back = transform(transform(gaussians, frame), frame.inverse())
    assert frame.then(frame.inverse()).is_identity()
    for name in ("means", "scales", "features_dc", "features_rest", "opacities"):
        assert torch.allclose(getattr(back, name), getattr(gaussians, name), atol=1e-5), name


def test_dataparser_rotates_before_it_scales() -> None:
    matrix = np.concatenate([_frame().rotation, [[1.0], [2.0], [3.0]]], axis=1)
    frame = Similarity.from_dataparser(matrix, 0.5)
    point = np.array([0.2, 0.5, -1.0])
    expected = 0.5 * (matrix[:, :3] @ point + matrix[:, 3])
    assert np.allclose(frame.scale * frame.rotation @ point + frame.translation, expected)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_ply_round_trip(tmp_path: Path, degree: int) -> None:
    gaussians = _some(degree=degree)
    write_ply(tmp_path / "a.ply", gaussians)
    again = read_ply(tmp_path / "a.ply")
    for name, tensor in gaussians.tensors().items():
        assert torch.equal(getattr(again, name), tensor), name


def test_files_that_are_no_gaussians(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_ply(tmp_path / "missing.ply")
    (tmp_path / "bad.ply").write_text("hello")
    with pytest.raises(UserError, match=r"bad\.ply"):
        read_ply(tmp_path / "bad.ply")


def test_points_become_gaussians_of_their_neighbours_distance() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), dim=-1).reshape(-1, 3)
    made = from_points(grid, torch.full((64, 3), 255), sh_degree=2)
    assert torch.allclose(made.scales.exp(), torch.ones(64, 3), atol=1e-5)
    assert made.features_rest.shape == (64, 8, 3)
    assert torch.allclose(from_points(grid[:1], None, 0).opacities.sigmoid(), torch.tensor(0.1))
