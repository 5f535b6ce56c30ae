"""LERF-OVS and 3D-OVS as they are downloaded: who sees which photo, and scores that can be had by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sets import CLASSES, lerf_ovs, read, three_d_ovs
from runs import lift_config, train
from scipy.ndimage import convolve, uniform_filter
from skimage.measure import points_in_poly

from lang_splat_ns.cli import main as lang_splat
from lang_splat_ns.language.field import Query
from lang_splat_ns.plugin.data_sets import LerfOvsDataParserConfig, ThreeDOvsDataParserConfig
from lang_splat_ns.plugin.datamanager import SplatDataManagerConfig
from lang_splat_ns.plugin.labelled_frames import labelled_frames, scene_labels
from lang_splat_ns.plugin.runs import Run, open_run
from lang_splat_ns.scenes.labels import SceneLabels

LABELLED = ["frame_00003", "frame_00007", "frame_00011"]


@pytest.fixture(scope="module")
def downloaded(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene's folder in a LERF-OVS of one scene. Read it only."""
    return lerf_ovs(tiny_scene, tmp_path_factory.mktemp("lerf_ovs"))


@pytest.fixture(scope="module")
def masked(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene's folder of a 3D-OVS. Read it only."""
    return three_d_ovs(tiny_scene, tmp_path_factory.mktemp("3d_ovs"))


@pytest.fixture(scope="module")
def trained(downloaded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a langsplat-lift run on it whose data parser names the protocol. Read it only."""
    config = lift_config(downloaded, tmp_path_factory.mktemp("trained"))
    config.pipeline.datamanager.dataparser = LerfOvsDataParserConfig(protocol="lerf-ovs-2d")
    return train(config)


def stems(config: LerfOvsDataParserConfig, split: str) -> list[str]:
    return [path.stem for path in config.setup().get_dataparser_outputs(split).image_filenames]


def test_nerfstudio_finds_the_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    from nerfstudio.plugins.registry_dataparser import discover_dataparsers

    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    lines = re.findall(r"^(lerf-ovs|3d-ovs) = \"(.+)\"$", project, re.MULTILINE)
    monkeypatch.setenv("NERFSTUDIO_DATAPARSER_CONFIGS", ",".join(f"{name}={place}" for name, place in lines))
    found, _ = discover_dataparsers()
    assert isinstance(found["lerf-ovs"], LerfOvsDataParserConfig)
    assert isinstance(found["3d-ovs"], ThreeDOvsDataParserConfig)


def test_labelled_photos_are_held_out_by_their_exact_names(downloaded: Path, tmp_path: Path) -> None:
    config = LerfOvsDataParserConfig(data=downloaded)
    kept = stems(config, "train")
    assert len(kept) == 9 and not set(kept) & set(LABELLED)
    assert stems(config, "val") == stems(config, "test") == LABELLED
    published = LerfOvsDataParserConfig(data=downloaded, views="as-published")
    assert len(stems(published, "train")) == 12 and stems(published, "val") == LABELLED
    # A name that holds another is another name.
    root = shutil.copytree(downloaded.parent, tmp_path / "lerf_ovs")
    label = root / "label" / "gallery"
    (label / "frame_00007.json").rename(label / "frame_0000.json")
    assert stems(LerfOvsDataParserConfig(data=root / "gallery"), "val") == ["frame_00003", "frame_00011"]


def test_the_cameras_are_those_of_the_model(downloaded: Path, tiny_scene: Path) -> None:
    config = LerfOvsDataParserConfig(data=downloaded, orientation_method="none", center_method="none")
    config.auto_scale_poses = config.assume_colmap_world_coordinate_convention = False
    outputs = config.setup().get_dataparser_outputs("val")
    meta = json.loads((tiny_scene / "transforms.json").read_text())
    true = {Path(frame["file_path"]).stem: frame["transform_matrix"] for frame in meta["frames"]}
    for path, pose in zip(outputs.image_filenames, outputs.cameras.camera_to_worlds, strict=True):
        assert np.abs(pose.numpy() - np.array(true[path.stem])[:3]).max() < 1e-5
    assert len(outputs.metadata["points3D_xyz"]) > 2000


def test_masks_of_3d_ovs_fit_their_photos(masked: Path, tiny_scene: Path) -> None:
    config = SplatDataManagerConfig(data=masked, dataparser=ThreeDOvsDataParserConfig())
    manager: Any = config.setup(device="cpu", test_mode="val")
    labels = scene_labels(manager)
    assert labels is not None and labels.classes == CLASSES
    frames = labelled_frames(manager, labels)
    assert [frame.name for frame in frames] == ["02.jpg", "06.jpg", "10.jpg"]
    shown = read(tiny_scene / "masks" / "frame_00007.png") // 10
    assert np.array_equal(frames[1].masks["blue cube"], shown == 8)
    assert ThreeDOvsDataParserConfig().protocol == "3d-ovs"
    # A labelled photo that was trained on counts where the papers' roles are asked for.
    moved = SceneLabels({"00": labels.frames["02"]})
    assert labelled_frames(manager, moved) == []
    assert [frame.name for frame in labelled_frames(manager, moved, seen=True)] == ["00.jpg"]
    # The photos of a run with the papers' view roles are both.
    config.dataparser.views = "as-published"
    everything: Any = config.setup(device="cpu", test_mode="val")
    assert len(everything.train_dataset) == 12
    assert [frame.name for frame in labelled_frames(everything, labels, seen=True)] == ["02.jpg", "06.jpg", "10.jpg"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("model", r"sparse/0: no COLMAP model there; --colmap-path"),
        ("labels", r"gallery: no labels, looked for label/<scene>/<photo>\.json"),
        ("names", r"labels are of frame_3, .* has none of these, but frame_00001\.jpg"),
        ("all", "every photo is labelled"),
    ],
)
def test_mistakes_are_named(downloaded: Path, tmp_path: Path, fault: str, message: str) -> None:
    root = shutil.copytree(downloaded.parent, tmp_path / "lerf_ovs")
    label, model = root / "label" / "gallery", root / "gallery" / "sparse"
    if fault == "model":
        shutil.rmtree(model)
    elif fault in ("labels", "names"):
        kept = (label / "frame_00003.json").read_text()
        shutil.rmtree(label)
        if fault == "names":
            label.mkdir()
            (label / "frame_3.json").write_text(kept)
    else:
        for photo in (root / "gallery" / "images").iterdir():
            (label / f"{photo.stem}.json").write_bytes((label / "frame_00003.json").read_bytes())
    with pytest.raises(SystemExit, match=message):
        LerfOvsDataParserConfig(data=root / "gallery").setup().get_dataparser_outputs("train")


def test_labels_without_a_camera_are_told(downloaded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(downloaded.parent, tmp_path / "lerf_ovs")
    label = root / "label" / "gallery"
    shutil.copy(label / "frame_00003.json", label / "frame_00099.json")
    LerfOvsDataParserConfig(data=root / "gallery").setup().get_dataparser_outputs("train")
    assert "without a camera, and so left out: frame_00099" in capsys.readouterr().out


def test_held_out_photos_are_seen_by_nothing(trained: Path) -> None:
    run = open_run(trained / "config.yml")
    names = {path.stem for path in run.pipeline.datamanager.train_dataset.image_filenames}
    assert len(names) == 9 and not names & set(LABELLED)
    # Nothing but training photos was segmented or embedded.
    records = list((trained.parents[2] / "cache").rglob("*.npz"))
    assert len(records) == 2 * 9, "label maps and embeddings of each photo"


def test_scores_equal_those_worked_out_by_hand(trained: Path, downloaded: Path) -> None:
    """LangSplat's evaluation of the label files on disk, with other people's filters and polygons."""
    run = open_run(trained / "config.yml")
    scores = run.pipeline.evaluate_language()
    assert scores is not None and run.pipeline.protocol == "lerf-ovs-2d"
    found = {(row["frame"], row["prompt"]): row for row in scores.table if row["scored"]}
    ious, hits = [], []
    for stem in LABELLED:
        content = json.loads((downloaded.parent / "label" / "gallery" / f"{stem}.json").read_text())
        truths, boxes = _read_by_hand(content)
        for prompt, truth in truths.items():
            if (f"{stem}.jpg", prompt) in found and truth.any():
                mask, peaks = _langsplat_by_hand(_maps(run, stem, prompt))
                ious.append((mask & truth).sum() / (mask | truth).sum())
                hits.append(any((peaks & box).any() for box in boxes[prompt]))
                row = found[f"{stem}.jpg", prompt]
                assert row["iou"] == pytest.approx(ious[-1], abs=1e-6) and row["hit"] == hits[-1], (stem, prompt)
    assert len(ious) == len(found) > 30
    assert scores.summary["language_miou"] == pytest.approx(np.mean(ious), abs=1e-6)
    assert scores.summary["language_localization"] == pytest.approx(np.mean(hits), abs=1e-6)


def test_the_parsers_protocol_is_the_default(trained: Path, tmp_path: Path) -> None:
    results = {}
    for name, options in {
        "": [],
        "held-out": ["--protocol", "held-out"],
        "all": ["--protocol", "as-published"],
    }.items():
        out = tmp_path / f"{name}.json"
        lang_splat(["eval", "--load-config", str(trained / "config.yml"), "--out", str(out), *options])
        results[name] = json.loads(out.read_text())
    assert [result["protocol"] for result in results.values()] == ["lerf-ovs-2d", "held-out", "as-published"]
    # No labelled photo was trained on, so that the papers' roles and ours have the same photos.
    assert results["all"]["results"] == results[""]["results"] != results["held-out"]["results"]


def _read_by_hand(content: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    width, height = content["info"]["width"], content["info"]["height"]
    rows, columns = (values + 0.5 for values in np.mgrid[:height, :width])
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    truths: dict[str, np.ndarray] = {}
    boxes: dict[str, list[np.ndarray]] = {}
    for entry in content["objects"]:
        inside = points_in_poly(centres, np.array(entry["segmentation"])).reshape(height, width)
        truths[entry["category"]] = truths.get(entry["category"], np.zeros_like(inside)) | inside
        x1, y1, x2, y2 = entry["bbox"]
        box = (columns >= x1) & (columns <= x2) & (rows >= y1) & (rows <= y2)
        boxes.setdefault(entry["category"], []).append(box)
    return truths, boxes


def _maps(run: Run, stem: str, prompt: str) -> np.ndarray:
    manager = run.pipeline.datamanager
    index = [path.stem for path in manager.eval_dataset.image_filenames].index(stem)
    camera = manager.eval_camera_copy()[index : index + 1]
    return run.pipeline.model.language_field().relevancy(camera, Query((prompt,))).values[0].detach().cpu().numpy()


def _langsplat_by_hand(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask, and the pixels where the averaged map peaks, at the levels of the highest peaks."""
    blurred = np.stack([uniform_filter(level.astype(np.float64), 30, mode="mirror") for level in maps])
    level = ((maps + blurred) / 2)[((maps + blurred) / 2).max((1, 2)).argmax()]
    stretched = np.clip((level - level.min()) / (level.max() - level.min()) * 2 - 1, 0, 1)
    window = np.ones((7, 7))
    votes = convolve((stretched > 0.4).astype(np.float64), window, mode="constant")
    mask = votes > convolve(np.ones(level.shape), window, mode="constant") / 2
    pointing = blurred[blurred.max((1, 2)).argmax()]
    return mask, pointing == pointing.max()
