"""`lang-splat features`: what it leaves in the cache is what training looks for."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from runs import langsplat_config

from lang_splat_ns.cli import main
from lang_splat_ns.perception import feature_store
from lang_splat_ns.perception.extract import missing
from lang_splat_ns.plugin import frame_features
from lang_splat_ns.plugin.frame_features import FrameFeatureSource, PerceptionSpec

NETWORKS = ["--segmenter", "felzenszwalb", "--encoder", "colour-words"]
SPEC = PerceptionSpec("colour-words", "felzenszwalb")


@pytest.fixture
def scene(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny scene, through a lens with distortion, so that photos are undistorted."""
    monkeypatch.delenv("LANG_SPLAT_CACHE", raising=False)
    scene = tmp_path / "scene"
    # Another test may have trained on the shared scene, which leaves a cache in it.
    shutil.copytree(tiny_scene, scene, ignore=shutil.ignore_patterns(".lang_splat_cache"))
    transforms = json.loads((scene / "transforms.json").read_text())
    (scene / "transforms.json").write_text(json.dumps({**transforms, "k1": -0.05}))
    return scene


def records(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob("v*/*/*/*.npz")}


def source(scene: Path) -> FrameFeatureSource:
    outputs = NerfstudioDataParserConfig(data=scene).setup().get_dataparser_outputs("train")
    return FrameFeatureSource(cast(Any, SimpleNamespace(_dataparser_outputs=outputs)), SPEC, scene, "cpu")


def features(*arguments: object) -> None:
    main(["features", *map(str, arguments)])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        features(*arguments)
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_training_finds_everything(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features("--data", scene, *NETWORKS, "--dry-run")
    assert "Left: 7 label maps and 7 embeddings" in capsys.readouterr().out
    assert len(records(scene / ".lang_splat_cache")) == 4
    features("--data", scene, *NETWORKS)
    assert "Segmenting: 2 of 9 photos are in the cache" in capsys.readouterr().out
    config = langsplat_config(scene, scene).pipeline.datamanager
    config.cache_dir = None
    trained = config.setup(device="cpu").features
    assert len(trained.frames) == 9
    assert missing(trained.frames, trained.segmenter.segmenter_id, trained.encoder.encoder_id, trained.store) == (
        [],
        [],
    )
    features("build", "--data", scene, *NETWORKS, "--frames", "all")
    assert len(records(scene / ".lang_splat_cache")) == 2 * 12


def test_ls_verify_and_mend(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features("--data", scene, *NETWORKS)
    before = records(scene / ".lang_splat_cache")
    features("ls", "--data", scene)
    printed = capsys.readouterr().out
    assert "9 records" in printed and "felzenszwalb" in printed and "colour-words" in printed
    features("verify", "--data", scene)
    victim = next(scene.glob(".lang_splat_cache/v*/labels/*/*.npz"))
    victim.write_bytes(victim.read_bytes()[:-90] + b"x" * 16 + victim.read_bytes()[-74:])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        features("verify", "--data", scene)
    printed = capsys.readouterr()
    assert caught.value.code == 1
    assert victim.name in printed.out.replace("\n", "")
    assert "1 of 18 records were broken" in printed.err
    features("--data", scene, *NETWORKS)
    assert records(scene / ".lang_splat_cache") == before


def test_gc_of_a_cache_of_its_own(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features("--data", scene, *NETWORKS)
    kept = records(scene / ".lang_splat_cache")
    transforms = json.loads((scene / "transforms.json").read_text())
    # Another lens gives other undistorted photos.
    (scene / "transforms.json").write_text(json.dumps({**transforms, "k1": -0.04}))
    features("--data", scene, *NETWORKS)
    (scene / "transforms.json").write_text(json.dumps(transforms))
    features("gc", "--data", scene, "--dry-run")
    assert "Would free" in capsys.readouterr().out
    assert len(records(scene / ".lang_splat_cache")) == 2 * len(kept)
    features("gc", "--data", scene)
    assert records(scene / ".lang_splat_cache") == kept


def test_a_methods_own_build_is_the_plain_one(scene: Path, tmp_path: Path) -> None:
    features("--data", scene, "--cache-dir", tmp_path / "plain", *NETWORKS)
    features("--data", scene, "--cache-dir", tmp_path / "method", "--method", "langsplat", *NETWORKS)
    assert len(records(tmp_path / "plain")) == 18
    assert records(tmp_path / "method") == records(tmp_path / "plain")


def test_gc_of_a_shared_cache(scene: Path, tmp_path: Path) -> None:
    other, shared = tmp_path / "other", tmp_path / "shared"
    shutil.copytree(scene, other)
    transforms = json.loads((other / "transforms.json").read_text())
    (other / "transforms.json").write_text(json.dumps({**transforms, "k1": -0.04}))
    for data in (scene, other):
        features("--data", data, "--cache-dir", shared, *NETWORKS)
    both = records(shared)
    features("gc", "--data", scene, "--cache-dir", shared)
    assert records(shared) == both
    features("gc", "--data", scene, "--also", other, "--other-photos", "delete", "--cache-dir", shared)
    assert records(shared) == both
    features("gc", "--data", scene, "--other-photos", "delete", "--cache-dir", shared)
    assert len(records(shared)) == len(both) // 2


def test_a_cache_that_can_only_be_read_serves_training(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source(scene).prepare()
    # Tests may run as root, whom file modes do not bind, so the probe itself is told.
    monkeypatch.setattr(feature_store, "is_writable", lambda folder: not folder.is_relative_to(scene))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "user"))
    reader = source(scene)
    monkeypatch.setattr(reader.segmenter, "segment", lambda image: pytest.fail("segmented again"))
    reader.prepare()
    assert reader.labels(0, 72, 128).shape == (3, 72, 128)
    assert not (tmp_path / "user").exists()


def test_training_mends_what_breaks_meanwhile(scene: Path) -> None:
    reader = source(scene)
    reader.prepare()
    calm = records(reader.store.root)
    expected, rows = reader.labels(0, 72, 128), reader.embeddings(0)
    for path in reader.store.root.glob("v*/*/*/*.npz"):
        content = path.read_bytes()
        path.write_bytes(content[:90] + bytes([content[90] ^ 1]) + content[91:])
    again = source(scene)
    assert torch.equal(again.labels(0, 72, 128), expected)
    assert all(torch.equal(one, other) for one, other in zip(again.embeddings(0), rows, strict=True))
    for index in range(len(again.frames)):
        again.labels(index, 72, 128)
        again.embeddings(index)
    assert records(reader.store.root) == calm


def test_label_maps_in_memory_are_bounded(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = source(scene)
    reader.prepare()
    sizes = [(index, *size) for index in range(len(reader.frames)) for size in ((72, 128), (36, 64))]
    expected = [reader.labels(*size) for size in sizes]
    assert {labels.dtype for labels in expected} == {torch.int32}
    monkeypatch.setattr(frame_features, "LABEL_MEMORY_BYTES", 3 * 3 * 72 * 128 * 2)
    small = source(scene)
    for _ in range(2):
        assert all(torch.equal(small.labels(*size), labels) for size, labels in zip(sizes, expected, strict=True))
        held = sum(labels.nbytes for labels in small._labels.values())
        assert 0 < held == small._label_bytes <= frame_features.LABEL_MEMORY_BYTES


def test_mistakes_cost_one_line(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert "no such folder" in fails(capsys, "--data", tmp_path / "nowhere", *NETWORKS)
    for action in ("ls", "verify", "gc"):
        assert "no such folder" in fails(capsys, action, "--data", tmp_path / "nowhere")
    assert "empty" in fails(capsys, "--data", tmp_path / "empty", *NETWORKS)
    assert "without poses" in fails(capsys, "--data", scene / "images", *NETWORKS)
    assert "--cache-dir" in fails(capsys, "--data", scene, "--cache-dir", tmp_path / "file", *NETWORKS)
    assert "felzenszwalb" in fails(capsys, "--data", scene, "--segmenter", "felsenszwalb")
    features("--data", scene, *NETWORKS)
    assert "--keep 'sam'" in fails(capsys, "gc", "--data", scene, "--keep", "sam")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "lang-splat-ns[ray]" in fails(capsys, "--data", scene, "--engine", "ray", "--frames", "all", *NETWORKS)
