"""A user's mistake costs one line, an exit code, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from runs import langsplat_config, train

from lang_splat_ns.cli import main


def _fails(config: object, *words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        train(config)
    message = str(caught.value)
    assert message.startswith("error: ") and "\n" not in message
    for word in words:
        assert word in message


def test_missing_and_empty_data(tmp_path: Path) -> None:
    _fails(langsplat_config(tmp_path / "nowhere", tmp_path), "nowhere", "no such folder")
    (tmp_path / "empty").mkdir()
    _fails(langsplat_config(tmp_path / "empty", tmp_path), "empty")


def test_photos_without_poses(tiny_scene: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_scene / "images", tmp_path / "photos")
    _fails(langsplat_config(tmp_path / "photos", tmp_path), "without poses", "lang-splat poses", "unposed")


def test_unreadable_image_is_named(tiny_scene: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    shutil.copytree(tiny_scene, scene)
    victim = sorted((scene / "images").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:100])
    _fails(langsplat_config(scene, tmp_path), victim.name)
    victim.unlink()
    _fails(langsplat_config(scene, tmp_path), victim.name, "missing")


def test_broken_transforms(tiny_scene: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    shutil.copytree(tiny_scene, scene)
    (scene / "transforms.json").write_text("{")
    _fails(langsplat_config(scene, tmp_path), "transforms.json")
    (scene / "transforms.json").write_text(json.dumps({"frames": []}))
    _fails(langsplat_config(scene, tmp_path), "no frames")


def test_unknown_encoder_names_the_known_ones(tiny_scene: Path, tmp_path: Path) -> None:
    config = langsplat_config(tiny_scene, tmp_path)
    config.pipeline.datamanager.encoder = "colour-word"
    _fails(config, "colour-words", "open_clip")


def test_missing_weights_name_the_way_out(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = langsplat_config(tiny_scene, tmp_path)
    config.pipeline.datamanager.segmenter = "sam"
    _fails(config, "lang-splat weights fetch", "felzenszwalb")


def test_meaningless_query_stops_before_training(tiny_scene: Path, tmp_path: Path) -> None:
    config = langsplat_config(tiny_scene, tmp_path)
    config.pipeline.model.queries = ("a feeling",)
    _fails(config, "a feeling", "colour")


def test_load_dir_without_checkpoints(tiny_scene: Path, tmp_path: Path) -> None:
    config = langsplat_config(tiny_scene, tmp_path)
    config.load_dir = tmp_path / "nothing"
    _fails(config, "nothing", "no readable checkpoint")


def test_init_from_a_point_cloud(tiny_scene: Path, tmp_path: Path) -> None:
    config = langsplat_config(tiny_scene, tmp_path)
    config.pipeline.model.init_from = tiny_scene / "sparse_pc.ply"
    _fails(config, "sparse_pc.ply", "not a 3DGS .ply")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["query", "--load-config", "missing.yml", "--text", "red"], ["missing.yml"]),
        (["query", "--load-config", "missing.yml", "--text", " ; "], ["no prompt"]),
        (["query", "--load-config", "missing.yml", "--text", "red", "--threshold", "2"], ["--threshold"]),
        (["eval", "--load-config", "missing.yml"], ["missing.yml"]),
        (["weights", "fetch", "sam-vit-x"], ["sam-vit-x"]),
        (["demo", "--text", "a feeling"], ["a feeling"]),
    ],
)
def test_command_mistakes(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    for word in words:
        assert word in error


def test_doctor_tells_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    printed = capsys.readouterr().out
    for word in ("nerfstudio", "colour-words", "felzenszwalb", "mobile-sam"):
        assert word in printed


def test_a_prompt_language_without_translations_is_told_before_the_training(tiny_scene: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    shutil.copytree(tiny_scene, scene)
    config = langsplat_config(scene, tmp_path)
    config.pipeline.datamanager.prompt_language = "zh"
    for spoil in (lambda path: path.write_text("{}"), lambda path: path.unlink()):
        spoil(scene / "label" / "queries_zh.json")
        _fails(config, "queries_zh.json", "prompt-language zh")
    (scene / "label" / "queries_zh.json").write_text('["红色"]')
    _fails(config, "queries_zh.json", "must map each prompt")


def test_choices_that_the_encoder_does_not_have_are_told(tiny_scene: Path, tmp_path: Path) -> None:
    config = langsplat_config(tiny_scene, tmp_path)
    config.pipeline.datamanager.crops = "black+context"
    _fails(config, "colour-words", "no choice of crops")
