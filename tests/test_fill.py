"""`lang-splat export --remove --fill`: the hole behind a thing that stood on the floor."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from lang_splat_ns.cli import main
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.inpainters import make_inpainter
from lang_splat_ns.plugin.fill import fill_hole
from lang_splat_ns.plugin.holes import look_at_ground, render
from lang_splat_ns.plugin.support import Chart
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
    thing = torch.cat([grid, torch.full((len(grid), 1), -3.9)], dim=1)[behind]
    gaussians = squares(wall, (0.2, 0.3, 0.9), 0.07).joined(squares(thing, (0.9, 0.1, 0.1), 0.07))
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
    added = fill_hole(model, cameras, removed, make_inpainter()).added
    left = Gaussians(**{name: tensor[~removed] for name, tensor in model.gaussians().tensors().items()})
    before, after = (render(model, part, cameras[:1]) for part in (left, left.joined(added)))
    assert float(before.alpha[24, 32]) < 0.1, "there was a hole"
    assert float(after.alpha[20:28, 28:36].min()) > 0.8
    assert torch.allclose(after.rgb[24, 32], torch.tensor([0.2, 0.3, 0.9]), atol=0.1)
    assert torch.allclose(added.means[:, 2], torch.tensor(-4.0), atol=0.1), "on the wall"
    from_aside = render(model, left.joined(added), cameras[1:2])
    assert float(from_aside.alpha[20:28, 24:32].min()) > 0.8


def table() -> tuple[SimpleNamespace, Cameras, torch.Tensor]:
    """`scene`, and far behind the wall a green one without a hole, which other photos have seen from beside it."""
    model, cameras, removed = scene()
    grid = torch.cartesian_prod(torch.arange(-40, 41), torch.arange(-40, 41)).float() * 0.2
    far = squares(torch.cat([grid, torch.full((len(grid), 1), -8.0)], dim=1), (0.1, 0.8, 0.2), 0.14).with_sh_degree(3)
    full = model.gaussians().joined(far)
    model.gaussians = lambda: full
    beside = torch.tensor(
        [[[0.0, 0, -1, -6], [0, 1, 0, 0], [1, 0, 0, -6]], [[1.0, 0, 0, -1], [0, 1, 0, 0], [0, 0, 1, -5]]]
    )
    poses = torch.cat([cameras.camera_to_worlds, beside])
    removed = torch.cat([removed, torch.zeros(len(grid), dtype=torch.bool)])
    return model, Cameras(poses, 60.0, 60.0, 32.0, 24.0, 64, 48), removed


def test_what_shows_through_a_hole_does_not_count() -> None:
    model, cameras, removed = table()
    filling = fill_hole(model, cameras, removed, make_inpainter())
    assert not (filling.hidden & removed).any()
    left = model.gaussians().some(~removed)
    before = render(model, left, cameras[:1])
    assert float(before.alpha[24, 32]) > 0.9, "nothing is empty"
    assert torch.allclose(before.rgb[24, 32], torch.tensor([0.1, 0.8, 0.2]), atol=0.1), "the far wall shows through"
    after = render(model, left.some(~filling.hidden[~removed]).joined(filling.added), cameras[:1])
    blue = torch.tensor([0.2, 0.3, 0.9]).expand(8, 8, 3)
    assert torch.allclose(after.rgb[20:28, 28:36], blue, atol=0.1)
    assert torch.allclose(after.depth[20:28, 28:36], torch.tensor(4.0), atol=0.1)


def test_a_place_that_photos_looked_through_stays_empty() -> None:
    model, _, removed = table()
    every = model.gaussians()
    # The thing is held before the hole, so that cameras beside it look through.
    every.means[removed, 2] = -3.0
    poses = torch.eye(4)[None, :3].repeat(5, 1, 1)
    poses[3:, 0, 3] = torch.tensor([3.5, -3.5])
    chart = Chart.around(every.means[removed].double().numpy(), np.array([0.0, 0.0, 1.0, 4.0]), 0.05)
    middle = tuple(side // 2 for side in chart.shape)
    for count, empty in ((3, False), (4, False), (5, True)):
        cameras = [Cameras(pose[None], 30.0, 30.0, 32.0, 24.0, 64, 48) for pose in poses[:count]]
        pictures = [render(model, every, camera) for camera in cameras]
        silhouettes = [render(model, every.some(removed), camera).alpha > 0.5 for camera in cameras]
        ground = look_at_ground(chart, pictures, silhouettes)
        assert ground.hole[middle] != empty, f"{count} photos; a single one that looks through may be wrong"


def edge() -> tuple[SimpleNamespace, Cameras, torch.Tensor]:
    """A red box at the far edge of a table, x = 1, over a grey floor; all cameras look from the near side."""
    steps = torch.arange(-40, 41) * 0.025
    top = torch.cartesian_prod(steps, steps, torch.zeros(1))
    under = ((top[:, :2] - torch.tensor([0.85, 0.0])).abs() < 0.15).all(1)
    side = torch.linspace(-0.15, 0.15, 13)
    cube = torch.cartesian_prod(side, side, side)
    cube = cube[cube.abs().amax(1) > 0.149] + torch.tensor([0.85, 0.0, 0.15])
    floor = torch.cartesian_prod(torch.arange(-20, 41) * 0.2, torch.arange(-30, 31) * 0.2, torch.tensor([-1.5]))
    parts = ((top[~under], (0.6, 0.4, 0.2), 0.018), (floor, (0.5, 0.5, 0.5), 0.15), (cube, (0.9, 0.1, 0.1), 0.015))
    tabletop, ground, box = (squares(places, colour, width) for places, colour, width in parts)
    tabletop.scales[:, 2] = ground.scales[:, 2] = np.log(0.002)
    full = tabletop.joined(ground).joined(box).with_sh_degree(3)
    removed = torch.arange(len(full.means)) >= len(full.means) - len(box.means)
    model = SimpleNamespace(
        gaussians=lambda: full, config=SimpleNamespace(sh_degree=3, rasterize_mode="classic"), device="cpu"
    )
    poses = []
    for aside in (-0.8, -0.3, 0.3, 0.8):
        eye = torch.tensor([-0.7, aside, 1.0])
        back = torch.nn.functional.normalize(eye - torch.tensor([0.8, 0.0, 0.0]), dim=0)
        right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), back), dim=0)
        poses.append(torch.stack([right, torch.linalg.cross(back, right), back, eye], dim=1))
    return model, Cameras(torch.stack(poses), 120.0, 120.0, 64.0, 48.0, 128, 96), removed


def test_a_table_does_not_grow_beyond_its_edge() -> None:
    model, cameras, removed = edge()
    filling = fill_hole(model, cameras, removed, make_inpainter())
    places = filling.added.means
    assert torch.allclose(places[:, 2], torch.zeros(len(places)), atol=0.02), "on the table"
    assert float(places[:, 0].max()) < 1.03, "nothing floats behind the edge, although no photo has looked there"
    left = model.gaussians().some(~removed & ~filling.hidden).joined(filling.added)
    # From straight above.
    pose = torch.tensor([[[0.0, -1, 0, 0.85], [1, 0, 0, 0], [0, 0, 1, 1]]])
    above = render(model, left, Cameras(pose, 60.0, 60.0, 24.0, 24.0, 48, 48))
    assert torch.allclose(above.depth[18:30, 17:31], torch.tensor(1.0), atol=0.03), "and the table is whole"
    assert torch.allclose(above.rgb[18:30, 17:31], torch.tensor([0.6, 0.4, 0.2]).expand(12, 14, 3), atol=0.08)


def test_a_wall_without_a_hole_needs_nothing() -> None:
    model, cameras, removed = scene()
    nothing = torch.zeros_like(removed)
    assert len(fill_hole(model, cameras, nothing, make_inpainter()).added.means) == 0


class Green:
    """Paints everything green, and wants to know where it runs."""

    def __init__(self, device: str) -> None:
        assert device == "cpu"

    def inpaint(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        return np.where(hole[..., None], np.array([0, 255, 0], np.uint8), image)


def test_inpainters_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_INPAINTERS", "green=test_fill:Green,none=test_fill:scene")
    model, cameras, removed = scene()
    added = fill_hole(model, cameras, removed, make_inpainter("green")).added
    middle = added.means[:, :2].square().sum(1).argmin()
    assert torch.allclose(added.features_dc[middle] * SH_C0 + 0.5, torch.tensor([0.0, 1.0, 0.0]), atol=0.01)
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
    content = json.loads((tmp_path / "full.json").read_text())
    assert content["gaussians"] == len(full.means) == len(rest.means) - content["hidden"] + content["filled"]
    for wrong, told in (((), "add --remove"), (("--remove", "--features"), "leave out --features")):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main([*common, "--out", str(tmp_path / "no.ply"), "--fill", *wrong])
        assert told in capsys.readouterr().err
