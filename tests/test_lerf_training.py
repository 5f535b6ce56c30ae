"""How LERF trains: resuming, photos of any kind, phases, DINO along with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerf_runs import lerf_config, lerf_splat_config
from runs import checkpoint_of, train

from lang_splat_ns.errors import UserError
from lang_splat_ns.plugin.runs import frame_camera, open_run
from lerf_ns.datamanager import PIXEL_SPREAD, SCALE_LABEL, LerfDataManagerConfig, UndistortedDataset


@pytest.mark.parametrize(("method", "stop_at", "steps"), [("lerf-lite", 4, 8), ("lerf-splat", 64, 68)])
def test_resume_equals_not_having_stopped(
    tiny_scene: Path, tmp_path: Path, method: str, stop_at: int, steps: int
) -> None:
    def config(name: str, count: int) -> Any:
        make = lerf_splat_config if method == "lerf-splat" else lerf_config
        made = make(tiny_scene, tmp_path)
        made.timestamp, made.max_num_iterations = name, count
        return made

    whole = train(config("whole", steps))
    first = train(config("first", stop_at))
    second_config = config("second", steps - stop_at)
    second_config.load_dir = first / "nerfstudio_models"
    second = train(second_config)
    expected, got = (torch.load(checkpoint_of(folder), weights_only=True) for folder in (whole, second))
    assert got["step"] == expected["step"] == steps - 1
    for key, value in expected["pipeline"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(got["pipeline"][key], value), key


def test_splat_before_its_language_phase_says_what_to_do(tiny_scene: Path, tmp_path: Path) -> None:
    config = lerf_splat_config(tiny_scene, tmp_path)
    config.max_num_iterations = 10
    run = open_run(train(config) / "config.yml")
    model = run.pipeline.model
    assert "relevancy_0" not in model.get_outputs_for_camera(frame_camera(run, None)[1])
    with pytest.raises(UserError, match="trained from step 60"):
        model.language_field()


def test_photos_of_any_sizes_and_intrinsics(tiny_scene: Path, tmp_path: Path) -> None:
    """Every other photo is halved, and two are distorted; rays, colours and targets must still belong together."""
    scene = _mixed_scene(tiny_scene, tmp_path / "scene")
    config = lerf_config(scene, tmp_path / "out", steps=3)
    run = train(config)
    manager = open_run(run / "config.yml").pipeline.datamanager
    cameras = manager.train_dataset.cameras
    assert len({(int(w), int(h)) for w, h in zip(cameras.width, cameras.height, strict=True)}) >= 2
    assert cameras.distortion_params is None, "rays are not distorted again"
    rays, batch = manager.next_train(0)
    photos, rows, columns = batch["indices"].T
    images = [manager.train_dataset.get_data(index, "uint8")["image"] for index in range(len(cameras))]
    for ray in range(len(photos)):
        photo = int(photos[ray])
        assert images[photo].shape[:2] == (int(cameras.height[photo]), int(cameras.width[photo]))
        expected = images[photo][rows[ray], columns[ray]].float() / 255
        assert torch.allclose(batch["image"][ray], expected, atol=1e-6)
    spread = (cameras.height / cameras.fy)[photos]
    assert torch.allclose(rays.metadata[PIXEL_SPREAD], spread)
    # What a ray is trained towards is its own photo's pyramid, at its own place and scale.
    heights, widths = cameras.height[photos, 0], cameras.width[photos, 0]
    places = torch.stack([(rows + 0.5) / heights, (columns + 0.5) / widths], dim=-1)
    again = manager.features.pyramids(photos, places, rays.metadata[SCALE_LABEL][:, 0])
    assert torch.equal(again.nan_to_num(), batch["language"].clip.nan_to_num())


def _mixed_scene(scene: Path, out: Path) -> Path:
    from PIL import Image

    meta = json.loads((scene / "transforms.json").read_text())
    shared = {key: meta.pop(key) for key in ("fl_x", "fl_y", "cx", "cy", "w", "h") if key in meta}
    for index, frame in enumerate(meta["frames"]):
        path = out / frame["file_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        factor = 0.5 if index % 2 else 1.0
        image = Image.open(scene / frame["file_path"])
        image.resize((int(image.width * factor), int(image.height * factor))).save(path)
        frame.update({key: type(value)(value * factor) for key, value in shared.items()})
        frame.update({"k1": 0.12 if index in (1, 4) else 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0})
        for extra in ("depth_file_path", "mask_path"):
            frame.pop(extra, None)
    meta.pop("ply_file_path", None)
    (out / "transforms.json").write_text(json.dumps(meta))
    return out


def test_labels_and_photos_are_undistorted_alike(tiny_scene: Path, tmp_path: Path) -> None:
    """A distorted photo of rays is what the splatting methods' manager makes of it."""
    from lang_splat_ns.plugin.datamanager import SplatDataManagerConfig

    scene = _mixed_scene(tiny_scene, tmp_path / "scene")
    ours = LerfDataManagerConfig(data=scene)
    theirs = SplatDataManagerConfig(data=scene)
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    for config in (ours, theirs):
        config.dataparser = NerfstudioDataParserConfig(data=scene)
    rays, splats = ours.setup(device="cpu"), theirs.setup(device="cpu")
    assert isinstance(rays.train_dataset, UndistortedDataset)
    expected = splats.cached_train
    for index, data in enumerate(expected):
        found = rays.train_dataset.get_data(index, "uint8")["image"]
        assert torch.equal(found, data["image"])
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        assert torch.allclose(getattr(rays.train_dataset.cameras, name), getattr(splats.train_dataset.cameras, name))


def test_missing_dino_switches_the_regulariser_off_and_says_so(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANG_SPLAT_OFFLINE", "1")
    config = lerf_config(tiny_scene, tmp_path, steps=1)
    config.pipeline.datamanager.dino = "nobody/has-this-dino"
    run = train(config)
    assert "without the DINO regulariser" in " ".join(capsys.readouterr().out.split())
    assert (
        torch.load(checkpoint_of(run), weights_only=True)["pipeline"]["_model._extra_state"]["language"]["dino_dim"]
        == 0
    )


@pytest.mark.parametrize("method", ["lerf-lite", "lerf-splat"])
def test_dino_trains_along(tiny_scene: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Extractor:
        dino_id, dim = "colours", 3

        def __init__(self, name: str, device: str) -> None:
            assert name == "dino-vits8"

        def __call__(self, image: np.ndarray) -> np.ndarray:
            return image[::8, ::8].astype(np.float32) / 255.0

    monkeypatch.setattr("lerf_ns.source.DinoExtractor", Extractor)
    config = (
        lerf_config(tiny_scene, tmp_path, steps=2)
        if method == "lerf-lite"
        else lerf_splat_config(tiny_scene, tmp_path, 60, 2)
    )
    config.pipeline.datamanager.dino = "dino-vits8"
    state = torch.load(checkpoint_of(train(config)), weights_only=True)["pipeline"]
    heads = [value for key, value in state.items() if "language.field.dino_head" in key]
    assert heads and heads[-1].shape[0] == 3
    assert state["_model._extra_state"]["language"]["dino_dim"] == 3
