"""`lang-splat export` on tiny runs, its files read by programs that are not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plyfile import PlyData

from lang_splat_ns.cli import main
from lang_splat_ns.file_names import MAX_BYTES, distinct_names, safe_name
from lang_splat_ns.language.field import Query
from lang_splat_ns.plugin.init_from import read_start, run_frame
from lang_splat_ns.plugin.runs import open_run


def export(run: Path, out: Path, *options: str) -> None:
    main(["export", "--load-config", str(run / "config.yml"), "--out", str(out), *options])


def refuses(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """One line of error, and exit code 1."""
    with pytest.raises(SystemExit) as caught:
        export(*arguments)
    assert caught.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert line.startswith("error: ")
    return line


def count(ply: Path) -> int:
    return len(PlyData.read(str(ply))["vertex"])


def middling_threshold(run: Path, prompt: str) -> str:
    """A threshold that half of all Gaussians lie above, also in a run that has hardly learned to tell things apart."""
    field = open_run(run / "config.yml").pipeline.model.language_field()
    return f"{float(field.select(Query((prompt,))).smoothed[0].median()):.9f}"


def all_gaussians(run: Path) -> Any:
    model = open_run(run / "config.yml").pipeline.model
    return {name: tensor.detach() for name, tensor in model.gaussians().tensors().items()}


@pytest.mark.parametrize("method", ["lifted", "run"], ids=["langsplat-lift", "langsplat"])
def test_an_object_and_the_scene_without_it_make_up_the_scene(
    method: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = request.getfixturevalue(method)
    options = ("--text", "sky blue", "--threshold", middling_threshold(run, "sky blue"))
    export(run, tmp_path / "blue.ply", *options)
    export(run, tmp_path / "rest.ply", *options, "--remove")
    whole = all_gaussians(run)["means"]
    assert 0 < count(tmp_path / "blue.ply") < len(whole)
    parts = [read_start(tmp_path / name, _frame(run)).gaussians.means for name in ("blue.ply", "rest.ply")]
    both = torch.cat(parts)
    assert len(both) == len(whole)
    torch.testing.assert_close(both.sort(dim=0).values, whole.sort(dim=0).values, atol=1e-5, rtol=1e-5)
    facts = json.loads((tmp_path / "blue.json").read_text())
    assert facts["ply"] == "blue.ply" and not facts["removed"] and facts["frame"] == "dataset"
    (found,) = facts["objects"]
    assert found["prompt"] == "sky blue" and found["level"] in ("whole", "part", "subpart")
    assert found["score"] > found["threshold"] > 0 and found["gaussians"] == count(tmp_path / "blue.ply")


def _frame(run: Path) -> Any:
    frame = run_frame(run)
    assert frame is not None
    return frame


def test_gaussians_come_back_as_they_were_in_either_frame(lifted: Path, tmp_path: Path) -> None:
    export(lifted, tmp_path / "rest.ply", "--text", "sky blue", "--remove", "--threshold", "0.55")
    export(
        lifted,
        tmp_path / "ns.ply",
        "--text",
        "sky blue",
        "--remove",
        "--threshold",
        "0.55",
        "--ply-frame",
        "nerfstudio",
    )
    frame = _frame(lifted)
    back = read_start(tmp_path / "rest.ply", frame).gaussians.tensors()
    stayed = read_start(tmp_path / "ns.ply", frame, "nerfstudio").gaussians.tensors()
    for name in ("means", "scales", "features_dc", "features_rest", "opacities"):
        torch.testing.assert_close(back[name], stayed[name], atol=1e-5, rtol=1e-5)
    dots = (torch.nn.functional.normalize(back["quats"]) * torch.nn.functional.normalize(stayed["quats"])).sum(-1)
    torch.testing.assert_close(dots.abs(), torch.ones_like(dots), atol=1e-5, rtol=0)
    whole = all_gaussians(lifted)
    rows = {tuple(row) for row in whole["means"].tolist()}
    assert all(tuple(row) in rows for row in stayed["means"].tolist()), "nothing is changed on the way"


def test_a_splat_library_reads_the_file(lifted: Path, tmp_path: Path) -> None:
    import gsply

    export(lifted, tmp_path / "blue.ply", "--text", "sky blue")
    data = gsply.plyread(str(tmp_path / "blue.ply"))
    vertex = PlyData.read(str(tmp_path / "blue.ply"))["vertex"]
    np.testing.assert_allclose(data.means, np.stack([vertex[axis] for axis in "xyz"], 1), atol=1e-6)
    np.testing.assert_allclose(data.opacities.ravel(), vertex["opacity"], atol=1e-6)
    np.testing.assert_allclose(data.scales[:, 1], vertex["scale_1"], atol=1e-6)
    np.testing.assert_allclose(data.quats[:, 3], vertex["rot_3"], atol=1e-6)
    assert data.shN.reshape(len(vertex), -1).shape[1] == 45


def test_several_prompts_unite_and_features_go_along(lifted: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    export(lifted, tmp_path / "two.ply", "--text", "sky blue; teal", "--features")
    facts = json.loads((tmp_path / "two.json").read_text())
    assert [one["prompt"] for one in facts["objects"]] == ["sky blue", "teal"]
    assert facts["gaussians"] == count(tmp_path / "two.ply") <= sum(one["gaussians"] for one in facts["objects"])
    with safe_open(str(tmp_path / "two.safetensors"), "np") as file:
        about = file.metadata()
        levels = json.loads(about["levels"])
        entries, index, weights = (file.get_tensor(f"{levels[0]}.{part}") for part in ("entries", "index", "weights"))
    assert levels == ["whole", "part", "subpart"] and "colour-words" in about["encoder"]
    assert len(index) == len(weights) == facts["gaussians"]
    assert weights[index[:, 0] >= 0].sum(1).tolist() == [255] * int((index[:, 0] >= 0).sum())
    # Whoever reads it gets the features that answer prompts here.
    encoder = open_run(lifted / "config.yml").pipeline.model.language_field().encoder
    mixed = (entries[index.clip(0)] * (weights / 255.0)[..., None]).sum(1)
    words = encoder.embed_text(["sky blue", "teal", "orange"])
    best = (mixed @ words.T).argmax(1)
    assert (best < 2).mean() > 0.8


def test_features_of_langsplat_are_decoded(run: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    options = ("--text", "sky blue", "--threshold", middling_threshold(run, "sky blue"))
    export(run, tmp_path / "blue.ply", *options, "--features")
    tensors = load_file(tmp_path / "blue.safetensors")
    np.testing.assert_allclose(np.linalg.norm(tensors["whole.entries"], axis=1), 1.0, atol=1e-4)
    assert len(tensors["part.index"]) == count(tmp_path / "blue.ply")


@pytest.mark.parametrize("method", ["lifted", "run"], ids=["langsplat-lift", "langsplat"])
def test_all_objects_are_named_by_the_vocabulary(
    method: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\n sky blue\nteal/cylinder\norange\n\nbicycle\n", encoding="utf-8")
    run, out = request.getfixturevalue(method), tmp_path / "objects"
    options = ("--vocabulary", str(words), "--threshold", middling_threshold(run, "sky blue"))
    export(run, out, "--all-objects", *options, "--features")
    facts = json.loads((out / "objects.json").read_text(encoding="utf-8"))
    assert facts["vocabulary"] == ["sky blue", "teal/cylinder", "orange"]
    assert "bicycle" in capsys.readouterr().out, "what cannot be asked is said"
    names = [one["file"] for one in facts["objects"]]
    assert names and len(set(names)) == len(names)
    assert {path.name for path in out.glob("*.ply")} == set(names)
    for one in facts["objects"]:
        assert count(out / one["file"]) == one["gaussians"] > 0
        assert np.all(np.array(one["aabb"]["max"]) >= one["aabb"]["min"])
        axes = np.array(one["obb"]["axes"])
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-6)
        assert (out / one["file"]).with_suffix(".safetensors").is_file()
        assert (one["prompt"] is None) == one["file"].startswith("unnamed")


def test_labels_give_the_vocabulary(lifted: Path, tmp_path: Path) -> None:
    export(lifted, tmp_path / "objects", "--all-objects", "--level", "part")
    facts = json.loads((tmp_path / "objects" / "objects.json").read_text(encoding="utf-8"))
    assert "teal cylinder" in facts["vocabulary"]
    assert {one["level"] for one in facts["objects"]} == {"part"}


def test_mistakes_cost_one_line(lifted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, text = tmp_path / "mug.ply", ("--text", "sky blue")
    assert "--text" in refuses(capsys, lifted, out)
    assert "leave out" in refuses(capsys, lifted, tmp_path / "all", "--all-objects", *text)
    assert "leave out" in refuses(capsys, lifted, tmp_path / "all", "--all-objects", "--remove")
    assert "--all-objects" in refuses(capsys, lifted, out, *text, "--vocabulary", "words.txt")
    assert "no such file" in refuses(capsys, lifted, tmp_path / "all", "--all-objects", "--vocabulary", "nowhere.txt")
    assert "is a folder" in refuses(capsys, lifted, tmp_path, *text)
    assert "must end with .ply" in refuses(capsys, lifted, tmp_path / "mug.obj", *text)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refuses(capsys, lifted, tmp_path / "file" / "mug.ply", *text)
    assert "must name a folder" in refuses(capsys, lifted, tmp_path / "file", "--all-objects")
    (tmp_path / "empty.txt").write_text("\n")
    words = ("--all-objects", "--vocabulary", str(tmp_path / "empty.txt"))
    assert "one word or phrase per line" in refuses(capsys, lifted, tmp_path / "all", *words)
    assert "threshold" in refuses(capsys, lifted, out, *text, "--threshold", "2")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--text", "bicycle"), "bicycle"),
        (("--text", "sky blue", "--level", "huge"), "no level 'huge'"),
        (("--text", "sky blue", "--threshold", "1"), "best score is"),
    ],
)
def test_what_cannot_be_answered_writes_nothing(
    options: tuple[str, ...], words: str, lifted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refuses(capsys, lifted, tmp_path / "mug.ply", *options)
    assert not list(tmp_path.iterdir())


def test_a_method_without_gaussians_says_so(lifted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lang_splat_ns.errors import NotSplatError
    from lang_splat_ns.plugin.export import open_scene

    opened = open_run(lifted / "config.yml")
    monkeypatch.setattr(opened.pipeline.model, "language_field", lambda: object())
    with pytest.raises(NotSplatError, match="no Gaussians to export"):
        open_scene(opened)


def test_names_are_safe_on_any_disk() -> None:
    assert safe_name("red mug") == "red-mug"
    assert safe_name("../../etc/passwd") == "etc-passwd"
    assert safe_name("红色的杯子") == "红色的杯子"
    assert safe_name("чашка ☕️ / a:b*c?").startswith("чашка-☕")
    assert safe_name(" /\\:*?\n\0 ") == safe_name("...") == "object"
    assert safe_name("NUL") != "NUL"
    assert len(safe_name("杯" * 500).encode()) <= MAX_BYTES
    assert distinct_names(["Mug", "mug", "mug", "mug-2"]) == ["Mug", "mug-2", "mug-3", "mug-2-2"]
