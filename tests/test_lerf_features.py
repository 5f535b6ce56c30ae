"""`lang-splat features` with LERF's stages of the cache: built ahead, listed, verified, collected."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lerf_runs import lerf_config
from runs import train

from lang_splat_ns.cli import main
from lerf_ns import stages


@pytest.fixture
def scene(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny scene without a cache."""
    monkeypatch.delenv("LANG_SPLAT_CACHE", raising=False)
    shutil.copytree(tiny_scene, tmp_path / "scene", ignore=shutil.ignore_patterns(".lang_splat_cache"))
    return tmp_path / "scene"


def features(*arguments: object) -> None:
    main(["features", *map(str, arguments)])


def records(scene: Path) -> set[Path]:
    return set(scene.glob(".lang_splat_cache/v*/*/*/*.npz"))


def test_pyramids_are_built_ahead_and_looked_after(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    features("--data", scene, "--method", "lerf", "--encoder", "colour-words")
    built = records(scene)
    assert [path.parent.parent.name for path in built] == ["pyramid"] * 9
    assert "9 photos are ready for lerf" in capsys.readouterr().out
    features("ls", "--data", scene)
    listed = next(line for line in capsys.readouterr().out.splitlines() if "pyramid  " in line)
    assert listed.split()[:2] == ["9", "records"] and "colour-words" in listed
    features("gc", "--data", scene)
    assert records(scene) == built
    # Training finds them.
    config = lerf_config(scene, tmp_path / "out", steps=1)
    config.pipeline.datamanager.cache_dir = None
    plan = lerf_config(scene, tmp_path / "out", "lerf").pipeline.datamanager
    config.pipeline.datamanager.tile_sizes = plan.tile_sizes
    monkeypatch.setattr(stages, "embed_pyramid", lambda *_: pytest.fail("embedded again"))
    train(config)
    capsys.readouterr()
    broken = sorted(built)[0]
    broken.write_bytes(broken.read_bytes()[:-9])
    with pytest.raises(SystemExit):
        features("verify", "--data", scene)
    assert "1 of 9 records were broken" in capsys.readouterr().err
    features("gc", "--data", scene)
    assert not list(scene.glob(".lang_splat_cache/quarantine/*"))


def test_what_a_method_does_not_have_costs_one_line(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--method", "nerfacto"], "lerf-splat"),
        (["--method", "lerv"], "take one of"),
        (["--method", "lerf", "--segmenter", "felzenszwalb"], "no segmenter"),
        (["--method", "lerf", "--dry-run"], "--dry-run"),
    ):
        with pytest.raises(SystemExit):
            features("--data", scene, *words)
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and told in error
    assert not records(scene)
