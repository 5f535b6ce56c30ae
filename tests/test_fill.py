"""`lang-splat export --remove --fill`: the hole behind a thing that stood on the floor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from lang_splat_ns.cli import main
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.inpainters import make_inpainter
from lang_splat_ns.plugin.fill import _render, fill_hole, joined
from lang_splat_ns.splatting.gaussians import SH_C0, Gaussians


def squares(places: torch.Tensor, colour: tuple[float, float, float], width: float) -> Gaussians:
    count = len(places)
    return Gaussians(
        means=places,
        scales=torch.full((count, 3), width).log(),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        features_dc=((torch.tensor(colour) - 0.5) / SH_C0).repeat(count, 1),
        features_rest=torch.zeros(count, 0, 3),
        opacities=torch.full((count, 1), 6.0),
    )


def scene() -> tuple[SimpleNamespace, Cameras, torch.Tensor]:
    """A blue wall with a hole, and a red thing that hides it, seen from in front."""
    grid = torch.cartesian_prod(torch.arange(-20, 21), torch.arange(-20, 21)).float() * 0.1
    behind = (grid.abs() < 0.45).all(1)
    wall = torch.cat([grid, torch.full((len(grid), 1), -4.0)], dim=1)[~behind]
    thing = torch.cat([grid, torch.full((len(grid), 1), -3.6)], dim=1)[behind]
    gaussians = joined(squares(wall, (0.2, 0.3, 0.9), 0.07), squares(thing, (0.9, 0.1, 0.1), 0.07))
    removed = torch.arange(len(gaussians.means)) >= len(wall)
    model = SimpleNamespace(
        gaussians=lambda: gaussians, config=SimpleNamespace(sh_degree=3, rasterize_mode="classic"), device="cpu"
    )
    full = gaussians.with_sh_degree(3)
    model.gaussians = lambda: full
    poses = torch.eye(4)[None, :3].repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 0.3, -0.3])
    return model, Cameras(poses, 60.0, 60.0, 32.0, 24.0, 64, 48), removed


def test_the_hole_is_filled_with_what_is_around_it() -> None:
    model, cameras, removed = scene()
    added = fill_hole(model, cameras, removed, make_inpainter())
    left = Gaussians(**{name: tensor[~removed] for name, tensor in model.gaussians().tensors().items()})
    before, after = (_render(model, part, cameras[:1]) for part in (left, joined(left, added)))
    assert float(before.alpha[24, 32]) < 0.1, "there was a hole"
    assert float(after.alpha[20:28, 28:36].min()) > 0.8
    assert torch.allclose(after.rgb[24, 32], torch.tensor([0.2, 0.3, 0.9]), atol=0.1)
    assert torch.allclose(added.means[:, 2], torch.tensor(-4.0), atol=0.1), "on the wall"
    from_aside = _render(model, joined(left, added), cameras[1:2])
    assert float(from_aside.alpha[20:28, 24:32].min()) > 0.8


def test_a_wall_without_a_hole_needs_nothing() -> None:
    model, cameras, removed = scene()
    nothing = torch.zeros_like(removed)
    assert len(fill_hole(model, cameras, nothing, make_inpainter()).means) == 0


class Green:
    """Paints everything green, and wants to know where it runs."""

    def __init__(self, device: str) -> None:
        assert device == "cpu"

    def inpaint(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        return np.where(hole[..., None], np.uint8([0, 255, 0]), image)


def test_inpainters_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_INPAINTERS", "green=test_fill:Green,none=test_fill:scene")
    model, cameras, removed = scene()
    added = fill_hole(model, cameras, removed, make_inpainter("green"))
    assert torch.allclose(added.features_dc[0] * SH_C0 + 0.5, torch.tensor([0.0, 1.0, 0.0]), atol=0.01)
    with pytest.raises(UserError, match="unknown inpainter 'gren'; did you mean green"):
        make_inpainter("gren")
    with pytest.raises(UserError, match="'none' has no method inpaint"):
        make_inpainter("none")


def test_the_command(lifted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lang_splat_ns.splatting.ply import read_ply

    common = ["export", "--load-config", str(lifted / "config.yml"), "--text", "sky blue"]
    main([*common, "--out", str(tmp_path / "rest.ply"), "--remove"])
    main([*common, "--out", str(tmp_path / "full.ply"), "--remove", "--fill"])
    rest, full = (read_ply(tmp_path / name) for name in ("rest.ply", "full.ply"))
    assert torch.equal(full.means[: len(rest.means)], rest.means)
    for wrong, told in (((), "add --remove"), (("--remove", "--features"), "leave out --features")):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main([*common, "--out", str(tmp_path / "no.ply"), "--fill", *wrong])
        assert told in capsys.readouterr().err
