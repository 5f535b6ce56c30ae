"""`lang-splat export` of a lerf-splat run: Gaussians, boxes and features; and what LERF on nerfacto says to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData
from safetensors import safe_open

from lang_splat_ns.cli import main
from lang_splat_ns.language.field import Query
from lang_splat_ns.plugin.runs import open_run


def export(run: Path, out: Path, *options: str) -> None:
    main(["export", "--load-config", str(run / "config.yml"), "--out", str(out), *options])


def test_gaussians_boxes_and_features(lerf_splat: Path, tmp_path: Path) -> None:
    model = open_run(lerf_splat / "config.yml").pipeline.model
    field = model.language_field()
    # Half of all Gaussians, whatever a run of so few steps has learned.
    threshold = float(field.select(Query(("sky blue",))).smoothed[0].median())
    options = ("--text", "sky blue", "--threshold", f"{threshold:.9f}")
    export(lerf_splat, tmp_path / "blue.ply", *options, "--features", "--ply-frame", "nerfstudio")
    export(lerf_splat, tmp_path / "rest.ply", *options, "--remove")
    vertex = PlyData.read(str(tmp_path / "blue.ply"))["vertex"]
    means = np.stack([vertex[axis] for axis in "xyz"], axis=1)
    rest = len(PlyData.read(str(tmp_path / "rest.ply"))["vertex"])
    assert 0 < len(means) < model.num_points and len(means) + rest == model.num_points
    (found,) = json.loads((tmp_path / "blue.json").read_text())["objects"]
    assert found["level"] == "scale" and found["gaussians"] == len(means)
    low, high = (np.array(found["aabb"][name]) for name in ("min", "max"))
    assert (low < high).all() and (((means >= low - 1e-4) & (means <= high + 1e-4)).all(1)).mean() > 0.5

    mask = (model.means.detach()[:, None].cpu() == torch.from_numpy(means)[None]).all(-1).any(1)
    expected = field.features(mask.nonzero()[:, 0], 0)
    with safe_open(str(tmp_path / "blue.safetensors"), "pt") as file:
        assert file.metadata()["levels"] == '["scale"]' and file.metadata()["encoder"].startswith("colour-words")
        entries, index, weights = (file.get_tensor(f"scale.{name}") for name in ("entries", "index", "weights"))
    rows = (entries[index.long().clamp_min(0)] * weights[..., None] / 255).sum(1)
    assert torch.cosine_similarity(rows, expected).mean() > 0.9, "compressed, and still the field's own vectors"


def test_every_object_of_a_vocabulary(lerf_splat: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("red\nsky blue\nteal\n")
    export(lerf_splat, tmp_path / "all", "--all-objects", "--vocabulary", str(tmp_path / "words.txt"))
    objects = json.loads((tmp_path / "all" / "objects.json").read_text())["objects"]
    assert {one["prompt"] for one in objects} <= {"red", "sky blue", "teal"}
    assert all((tmp_path / "all" / one["file"]).is_file() for one in objects)


def test_nerfacto_has_no_gaussians_to_export(
    lerf_lite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        export(lerf_lite, tmp_path / "red.ply", "--text", "red")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "Gaussians" in line and not (tmp_path / "red.ply").exists()
