"""`lang-splat lift` on one tiny scene: new runs on old Gaussians, and what is reused on the way."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import checkpoint_of

from lang_splat_ns.cli import main
from lang_splat_ns.commands.lift import Lift
from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.plugin.runs import open_run
from lang_splat_ns.splatting.gaussians import Gaussians, Similarity, transform
from lang_splat_ns.splatting.ply import write_ply

NETWORKS: dict[str, Any] = {"segmenter": "felzenszwalb", "encoder": "colour-words"}


def lift(out: Path, **options: Any) -> Path:
    """Run the command; returns the new run's folder."""
    Lift(output_dir=out, **options).run()
    (path,) = out.glob("*/langsplat-lift/*/config.yml")
    return path.parent


def language_of(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(checkpoint_of(run), weights_only=True)["pipeline"]
    return {key: value for key, value in state.items() if "language_" in key}


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def gaussians_of(run: Path) -> Gaussians:
    """A run's Gaussians in the data set's own world."""
    from lang_splat_ns.plugin.init_from import read_start

    return read_start(run / "config.yml", Similarity.from_dataparser(torch.eye(4)[:3], 1.0)).gaussians


def no_work(monkeypatch: pytest.MonkeyPatch, *what: str) -> None:
    """Let the test fail where views are counted ("votes") or photos looked at ("perception")."""
    from lang_splat_ns.langsplat_lift import lift as lift_module
    from lang_splat_ns.perception.felzenszwalb import FelzenszwalbSegmenter

    if "votes" in what:
        monkeypatch.setattr(lift_module, "prepare_counting", lambda *arguments: pytest.fail("views were counted"))
    if "segmenting" in what:
        monkeypatch.setattr(FelzenszwalbSegmenter, "segment", lambda *arguments: pytest.fail("a photo was segmented"))


def test_a_lifted_run_is_lifted_anew_from_what_is_there(
    lifted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(lifted)
    no_work(monkeypatch, "votes", "segmenting")
    run = lift(tmp_path, load_config=lifted / "config.yml")
    assert digests(lifted) == before
    for key, value in language_of(lifted).items():
        assert torch.equal(language_of(run)[key], value), key
    said = capsys.readouterr().out
    assert f"ns-viewer --load-config {run}/config.yml --viewer.websocket-host 127.0.0.1" in said
    assert f"lang-splat query --load-config {run}/config.yml" in said
    again = open_run(run / "config.yml")
    assert again.config.pipeline.model.queries == ("red",)
    assert again.pipeline.model.language_field().select(Query(("sky blue",))).mask.any()


def test_another_encoder_needs_no_new_votes_or_masks(
    lifted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG_SPLAT_ENCODERS", "mean-colour=perception_fakes:MeanColour")
    no_work(monkeypatch, "votes", "segmenting")
    run = lift(tmp_path, load_config=lifted / "config.yml", encoder="mean-colour")
    state = torch.load(checkpoint_of(run), weights_only=True)["pipeline"]
    assert state["_model._extra_state"]["language"]["encoder_id"] == "mean-colour/1"
    assert state["_model.language_entries"].shape[1] == 3


def test_another_method_changes_the_language_only(lifted: Path, tmp_path: Path) -> None:
    run = lift(tmp_path, load_config=lifted / "config.yml", method="mean")
    states = [torch.load(checkpoint_of(folder), weights_only=True)["pipeline"] for folder in (lifted, run)]
    assert torch.equal(*(state["_model.gauss_params.means"] for state in states))
    assert states[0]["_model.language_entries"].shape != states[1]["_model.language_entries"].shape


def test_runs_of_methods_without_language(tiny_scene: Path, lifted: Path, tmp_path: Path) -> None:
    """A 3dgs run, and one as nerfstudio's own splatfacto leaves it."""
    from nerfstudio.configs.method_configs import all_methods

    from lang_splat_ns import specs

    for method in (specs.gaussian_splatting.config, all_methods["splatfacto"]):
        out = tmp_path / method.method_name
        config = _as_old_run(method, tiny_scene, out, lifted)
        run = lift(out / "new", load_config=config, cache_dir=lifted.parents[2] / "cache", **NETWORKS)
        for key, value in language_of(lifted).items():
            if value.dtype.is_floating_point:
                assert torch.equal(language_of(run)[key], value), (method.method_name, key)


def _as_old_run(method: Any, scene: Path, out: Path, lifted: Path) -> Path:
    """A run's folder of another method, with the Gaussians of a run that is there."""
    import copy

    config = copy.deepcopy(method)
    config.output_dir, config.experiment_name, config.timestamp = out, "old", "run"
    config.pipeline.datamanager.data = scene
    config.save_config()
    shutil.copytree(lifted / "nerfstudio_models", config.get_base_dir() / "nerfstudio_models")
    shutil.copy(lifted / "dataparser_transforms.json", config.get_base_dir())
    return config.get_base_dir() / "config.yml"


@pytest.mark.parametrize("degree", [0, 2])
def test_somebody_elses_ply(tiny_scene: Path, lifted: Path, tmp_path: Path, degree: int) -> None:
    write_ply(tmp_path / "scene.ply", gaussians_of(lifted).with_sh_degree(degree))
    run = lift(tmp_path / "out", ply=tmp_path / "scene.ply", data=tiny_scene, cache_dir=tmp_path / "cache", **NETWORKS)
    opened = open_run(run / "config.yml")
    model, old = opened.pipeline.model, open_run(lifted / "config.yml").pipeline.model
    assert model.config.sh_degree == max(1, degree)
    assert torch.allclose(model.means, old.means, atol=1e-5)
    masks = [each.language_field().select(Query(("sky blue",))).mask for each in (model, old)]
    assert masks[0].any() and (masks[0] == masks[1]).float().mean() > 0.98


def test_points_are_lifted_without_training(tiny_scene: Path, tmp_path: Path) -> None:
    """The points of a data set, and the same as a file: one Gaussian each, where and in the colour that they are."""
    from lang_splat_ns.splatting.gaussians import SH_C0
    from lang_splat_ns.splatting.ply import read_points

    cache = tmp_path / "cache"
    plain = lift(tmp_path / "plain", data=tiny_scene, cache_dir=cache, **NETWORKS)
    file = lift(tmp_path / "file", ply=tiny_scene / "sparse_pc.ply", data=tiny_scene, cache_dir=cache, **NETWORKS)
    points, colors = read_points(tiny_scene / "sparse_pc.ply")
    assert colors is not None
    for run in (plain, file):
        found = gaussians_of(run)
        assert torch.allclose(found.means, points, atol=1e-5)
        assert torch.allclose(found.features_dc * SH_C0 + 0.5, colors / 255, atol=3e-3)
        assert torch.sigmoid(found.opacities).min() > 0.5
        assert not found.features_rest.any()
    # So few points answer coarsely; test_poses_depth.py asks many.
    field = open_run(plain / "config.yml").pipeline.model.language_field()
    assert field.select(Query(("green",))).scores.isfinite().all()
    # A run of points is lifted anew as any other.
    again = lift(tmp_path / "again", load_config=plain / "config.yml", cache_dir=cache)
    assert torch.equal(gaussians_of(again).means, gaussians_of(plain).means)


def test_a_ply_in_another_frame_is_told_before_perception(
    tiny_scene: Path, lifted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_work(monkeypatch, "segmenting")
    inner = torch.load(checkpoint_of(lifted), weights_only=True)["pipeline"]
    names = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
    exported = Gaussians(**{name: inner[f"_model.gauss_params.{name}"] for name in names})
    write_ply(tmp_path / "exported.ply", exported)
    # Nobody in a room looks up that high.
    above = Similarity(torch.eye(3).double().numpy(), torch.tensor([0, 0, 9e3]).double().numpy(), 1.0)
    write_ply(tmp_path / "away.ply", transform(gaussians_of(lifted), above))
    for name, words in (("exported", "say ply-frame nerfstudio"), ("away", "no training camera sees any")):
        with pytest.raises(SystemExit, match=words) as caught:
            lift(tmp_path / "out", ply=tmp_path / f"{name}.ply", data=tiny_scene, cache_dir=tmp_path / "c", **NETWORKS)
        assert str(caught.value).startswith("error: ") and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out/*/langsplat-lift/*")), "nothing half-made is left"
    assert not (tmp_path / "c").exists()


def test_optimized_poses_are_taken_over(lifted: Path, tmp_path: Path) -> None:
    old = tmp_path / "old" / "tiny" / "langsplat-lift" / "run"
    shutil.copytree(lifted, old)
    text = (old / "config.yml").read_text()
    assert "mode: 'off'" in text
    (old / "config.yml").write_text(text.replace("mode: 'off'", "mode: SO3xR3"))
    state = torch.load(checkpoint_of(old), weights_only=True)
    poses = torch.linspace(-1e-3, 1e-3, 9 * 6).reshape(9, 6)
    state["pipeline"]["_model.camera_optimizer.pose_adjustment"] = poses
    torch.save(state, checkpoint_of(old))
    run = lift(tmp_path / "new", load_config=old / "config.yml")
    found = torch.load(checkpoint_of(run), weights_only=True)["pipeline"]
    assert torch.equal(found["_model.camera_optimizer.pose_adjustment"], poses)
    assert (run / "votes.safetensors").read_bytes() != (lifted / "votes.safetensors").read_bytes()


def test_an_interrupted_lift_goes_on_from_its_votes(
    lifted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lang_splat_ns.langsplat_lift import lift as lift_module

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    old = tmp_path / "old" / "tiny" / "langsplat-lift" / "run"
    shutil.copytree(lifted, old, ignore=shutil.ignore_patterns("votes*"))
    with monkeypatch.context() as patch:
        patch.setattr(lift_module, "stack_embeddings", interrupted)
        with pytest.raises(UserError, match="lang-splat lift --load-config"):
            Lift(load_config=old / "config.yml").run()
    (stopped,) = (path for path in old.parent.iterdir() if path != old)
    assert checkpoint_of(stopped).is_file() and (stopped / "votes.safetensors").is_file()
    no_work(monkeypatch, "votes", "segmenting")
    # The same command again, and the one that the message names.
    for config in (old / "config.yml", stopped / "config.yml"):
        Lift(load_config=config, output_dir=old.parents[2]).run()
    latest = max(old.parent.iterdir(), key=lambda path: path.stat().st_mtime)
    for key, value in language_of(lifted).items():
        assert torch.equal(language_of(latest)[key], value), key


def test_queries_that_another_encoder_does_not_know_are_left_out(
    lifted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old" / "tiny" / "langsplat-lift" / "run"
    shutil.copytree(lifted, old)
    text = (old / "config.yml").read_text()
    (old / "config.yml").write_text(
        text.replace("- red\n", "- a feeling\n    - red\n").replace("colour-words", "mean-colour")
    )
    monkeypatch.setenv("LANG_SPLAT_ENCODERS", "mean-colour=perception_fakes:MeanColour")
    run = lift(tmp_path / "new", load_config=old / "config.yml", encoder="colour-words")
    assert open_run(run / "config.yml").config.pipeline.model.queries == ("red",)


MISTAKES = [
    ([], ["--load-config", "--ply", "--data"]),
    (["--load-config", "a.yml", "--ply", "b.ply"], ["not both"]),
    (["--load-config", "missing.yml"], ["missing.yml", "no such file"]),
    (["--load-config", "CONFIG", "--encoder", "colour-word"], ["colour-words", "open_clip"]),
    (["--load-config", "CONFIG", "--segmenter", "sam-huge"], ["sam-huge", "felzenszwalb"]),
    (["--load-config", "CONFIG", "--data", "nowhere"], ["nowhere", "no such folder"]),
    (["--load-config", "TRANSFORMS"], ["transforms.json", "not the config.yml"]),
    (["--ply", "scene.ply"], ["scene.ply", "--data"]),
    (["--ply", "scene.ply", "--data", "SCENE"], ["scene.ply", "no such file"]),
    (["--ply", "TRANSFORMS", "--data", "SCENE"], ["transforms.json", "not a readable .ply"]),
    (["--data", "nowhere"], ["nowhere", "no such"]),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistakes_cost_one_line(
    arguments: list[str],
    words: list[str],
    lifted: Path,
    tiny_scene: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {
        "CONFIG": lifted / "config.yml",
        "TRANSFORMS": tiny_scene / "transforms.json",
        "SCENE": tiny_scene,
    }
    with pytest.raises(SystemExit) as caught:
        main(["lift", *(str(places.get(word, word)) for word in arguments), "--output-dir", str(tmp_path)])
    # The interpreter prints a text that a program exits with, and its code is 1 then.
    told = capsys.readouterr().err if caught.value.code == 1 else str(caught.value.code)
    assert told.startswith("error: ") and told.strip().count("\n") == 0
    for word in words:
        assert word in told
    assert not list(tmp_path.rglob("config.yml"))


def test_a_run_without_gaussians_or_checkpoints(lifted: Path, tmp_path: Path) -> None:
    from nerfstudio.configs.method_configs import all_methods

    empty = tmp_path / "config.yml"
    shutil.copy(lifted / "config.yml", empty)
    with pytest.raises(UserError, match="no checkpoint yet"):
        Lift(load_config=empty).run()
    rays = _as_old_run(all_methods["nerfacto"], tmp_path, tmp_path / "rays", lifted)
    with pytest.raises(UserError, match="nerfacto has no Gaussians"):
        Lift(load_config=rays).run()


def test_photos_of_different_sizes(tiny_scene: Path, lifted: Path, tmp_path: Path) -> None:
    """Half of the photos at another size: each view is counted at its own."""
    from PIL import Image

    scene = tmp_path / "scene"
    shutil.copytree(tiny_scene, scene, ignore=shutil.ignore_patterns(".lang_splat_cache"))
    meta = json.loads((scene / "transforms.json").read_text())
    shared = {key: meta.pop(key) for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
    for number, frame in enumerate(meta["frames"]):
        factor = 2 if number % 2 else 1
        frame.update({key: value * factor for key, value in shared.items()})
        with Image.open(scene / frame["file_path"]) as photo:
            photo.resize((frame["w"], frame["h"])).save(scene / frame["file_path"])
    (scene / "transforms.json").write_text(json.dumps(meta))
    run = lift(tmp_path / "out", load_config=lifted / "config.yml", data=scene)
    from lang_splat_ns.splatting.votes import load

    counted, _ = load(run / "votes.safetensors")
    assert len(counted.views) == 9
    old = open_run(lifted / "config.yml").pipeline.model
    model = open_run(run / "config.yml").pipeline.model
    masks = [each.language_field().select(Query(("sky blue",))).mask for each in (model, old)]
    assert masks[0].any() and (masks[0] == masks[1]).float().mean() > 0.95
