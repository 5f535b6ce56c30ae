"""The benchmark asks for nothing that a user cannot type, and loses nothing; the scale study fits exponents."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cells import METHODS, ON_RAYS, SMOKE_STEPS, Cell, Scene, Settings
from benchmarks.run import Matrix
from benchmarks.scale import PARTS, draw, exponent, measure
from benchmarks.scale_scene import Load
from lang_splat_ns.errors import UserError


def cell(folder: Path, method: str, smoke: bool = False) -> Cell:
    """A cell of the demo scene."""
    scene = Scene("demo", folder / "scene", "felzenszwalb", ("colour-words",))
    return Cell(scene, method, "colour-words", Settings(folder / "work", folder / "cache", "cpu", 0.5, 7, smoke))


@pytest.mark.parametrize("method", METHODS)
def test_cells_train_what_a_user_would(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nerfstudio.scripts import train

    caught: list[Any] = []
    monkeypatch.setattr(train, "main", caught.append)
    one = cell(tmp_path, method, smoke=True)
    monkeypatch.setattr(sys, "argv", one.commands()["training"])
    train.entrypoint()
    config = caught[0]
    config.output_dir = Path(config.output_dir)
    assert config.get_base_dir() == one.run_folder and config.machine.seed == 7
    assert config.pipeline.datamanager.camera_res_scale_factor == 0.5
    assert (config.max_num_iterations == SMOKE_STEPS) == (method in ON_RAYS) == one.is_smoke
    start = getattr(config.pipeline.model, "init_from", None)
    shared = cell(tmp_path, "3dgs").run_folder / "config.yml"
    assert start == (None if method in (*ON_RAYS, "3dgs") else shared)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "3dgs"])
def test_cells_compute_features_for_what_they_train(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lang_splat_ns.cli import main
    from lang_splat_ns.commands.features import Features

    caught: list[Any] = []
    monkeypatch.setattr(Features, "run", lambda features: caught.append(features))
    main(cell(tmp_path, method).commands()["perception"][1:])
    action = caught[0].action
    assert action.method == method and action.encoder == "colour-words"
    assert (action.points_per_side == 16) == ("lerf" not in method)


def test_a_finished_command_is_not_run_again_and_a_failed_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = cell(tmp_path, "langsplat")
    models = one.run_folder / "nerfstudio_models"
    models.mkdir(parents=True)
    (models / "step-000000001.ckpt").write_bytes(bytes(2_000_000))
    (one.run_folder / "eval.json").write_text(json.dumps({"results": {"language_miou": 0.123456, "psnr": 20}}))
    note = one.settings.work / "runs.txt"
    write = f"open({str(note)!r}, 'a').write('perception ')"
    fail = "import sys; sys.stderr.write('no such thing\\n'); sys.exit(3)"
    commands = {"perception": ["python", "-c", write], "evaluation": ["python", "-c", fail]}
    monkeypatch.setattr(Cell, "commands", lambda _: commands)
    with pytest.raises(UserError, match="no such thing") as failure:
        one.measure()
    assert str(one.run_folder / "evaluation.log") in str(failure.value)
    commands["evaluation"] = ["python", "-c", "pass"]
    content = one.measure()
    assert note.read_text() == "perception "
    assert content["results"] == {"language_miou": 0.1235, "psnr": 20.0} and content["checkpoint_mb"] == 2.0
    assert content["costs"]["perception"]["peak_memory_mb"] > 1
    assert str(tmp_path) not in json.dumps(content)


def test_what_cannot_be_scored_or_had_is_told_before_any_training(tmp_path: Path, tiny_scene: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Matrix(scenes=(str(tmp_path / "nowhere"),), work=tmp_path).main()
    with pytest.raises(UserError, match="no-such-encoder"):
        Matrix(scenes=(str(tiny_scene),), encoders=("no-such-encoder",), segmenter="felzenszwalb", work=tmp_path).main()
    assert not list(tmp_path.iterdir())


def test_exponents_of_known_laws() -> None:
    sizes = [1, 10, 100, 1000]
    assert exponent(sizes, [3.0 * size**1.5 for size in sizes]) == 1.5
    assert exponent(sizes, [9.0, 9.0, 2.0, 2.0, 2.0][:4]) != 0.0
    assert exponent(sizes[:2], [1.0, 2.0]) is None


def test_curves_are_drawn(tmp_path: Path) -> None:
    points = [{"size": size, "seconds": {"render": size / 1e6}, "peak_memory_mb": 1} for size in (10, 100, 1000)]
    axes = {"gaussians": {"points": points, "exponents": {"render": 1.0}, "left_out": []}}
    base = {"gaussians": 10, "photos": 2, "prompts": 1, "width": 480}
    draw({"axes": axes, "base": base, "facts": {"device": "cpu"}}, tmp_path / "scale.html")
    text = (tmp_path / "scale.html").read_text(encoding="utf-8")
    assert "render, exponent 1.0" in text and "2 photos, 1 prompts, 480 width" in text


def test_every_part_of_the_work_is_timed() -> None:
    load = Load(gaussians=400, photos=3, prompts=40, width=64)
    found = measure(load, PARTS["gaussians"], torch.device("cpu"))
    assert set(found) == set(PARTS["gaussians"]) and all(seconds > 0 for seconds in found.values())
