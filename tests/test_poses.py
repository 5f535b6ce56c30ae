"""Photos whose poses are forgotten: posed by COLMAP, read by every parser, lifted without training, asked."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from posed import noise
from runs import lift_config, train

from benchmarks.pose_errors import compare, read_poses
from lang_splat_ns.cli import main
from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes import colmap_process
from lang_splat_ns.scenes.colmap_pairs import choose_pairs
from lang_splat_ns.scenes.posing import Posing


@pytest.fixture(scope="module")
def photos(sharp_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its photos alone, one of them unreadable."""
    out = tmp_path_factory.mktemp("photos")
    shutil.copytree(sharp_scene / "images", out, dirs_exist_ok=True)
    (out / "torn.png").write_bytes((out / "frame_00001.png").read_bytes()[:2000])
    return out


@pytest.fixture(scope="module")
def posed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that the command has made of them. Read it, do not write into it."""
    out = tmp_path_factory.mktemp("posed") / "scene"
    poses("--images", photos, "--out", out)
    return out


def poses(*arguments: str | Path) -> None:
    main(["poses", *(str(argument) for argument in arguments), "--backend", "colmap"])


def no_posing(monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """Let the test fail where one of COLMAP's steps, by default any, is started."""
    start = colmap_process.subprocess.Popen

    def watched(command: list[str], **options: Any) -> Any:
        assert steps and Path(command[-1]).stem not in steps, f"{command[-1]} was started"
        return start(command, **options)

    monkeypatch.setattr(colmap_process.subprocess, "Popen", watched)


def test_poses_are_found_again(sharp_scene: Path, posed: Path) -> None:
    errors = compare(read_poses(posed / "transforms.json"), read_poses(sharp_scene / "transforms.json"))
    assert errors.photos == 12
    # The photos are tiny; `benchmarks/poses.py` measures real ones.
    assert errors.position_percent < 3 and errors.rotation_degrees < 4
    about = json.loads((posed / "transforms.json").read_text())["poses"]
    assert (about["backend"], about["photos"], about["posed"]) == ("colmap", 13, 12)
    assert list(about["rejected"]) == ["torn.png"]
    assert {path.name for path in posed.iterdir()} == {"transforms.json", "sparse_pc.ply", "images", "colmap"}


def test_every_parser_reads_the_same_cameras_and_points(posed: Path) -> None:
    import pycolmap
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    model = pycolmap.Reconstruction(posed / "colmap" / "sparse" / "0")
    meta = json.loads((posed / "transforms.json").read_text())
    config = NerfstudioDataParserConfig(data=posed, load_3D_points=True, eval_mode="all")
    outputs = config.setup().get_dataparser_outputs("train")
    assert len(outputs.image_filenames) == 12
    points = outputs.metadata["points3D_xyz"].double()
    world = np.array([model.points3D[number].xyz for number in sorted(model.points3D)])
    assert len(points) == len(world) > 100
    assert outputs.metadata["points3D_rgb"].float().std() > 20
    turn = outputs.dataparser_transform.double()
    for path, camera in zip(outputs.image_filenames, outputs.cameras, strict=True):
        image = next(image for image in model.images.values() if image.name == path.name)
        frame = next(frame for frame in meta["frames"] if frame["file_path"] == f"images/{path.name}")
        # Back from nerfstudio's frame.
        pose = torch.cat([camera.camera_to_worlds.double(), torch.tensor([[0, 0, 0, 1.0]], dtype=torch.float64)])
        pose[:3, 3] /= outputs.dataparser_scale
        square = torch.cat([turn, torch.tensor([[0, 0, 0, 1.0]], dtype=torch.float64)])
        back = torch.linalg.inv(square) @ pose
        assert np.abs(back.numpy() - np.array(frame["transform_matrix"])).max() < 1e-5
        with Image.open(path) as photo:
            assert photo.size == (camera.width.item(), camera.height.item())
        pixels, depth = project(points, camera)
        expected = [image.project_point(xyz) for xyz in world]
        # COLMAP gives None for what lies behind a camera.
        ahead = np.array([pixel is not None for pixel in expected]) & (depth > 0.01)
        assert ahead.sum() > 50
        told = np.array([pixel for pixel, seen in zip(expected, ahead, strict=True) if seen])
        assert np.abs(pixels[ahead] - told).max() < 0.05


def project(points: torch.Tensor, camera: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [P, 2] and depths [P] of points in nerfstudio's frame, with its own camera."""
    pose, matrix = camera.camera_to_worlds.double(), camera.get_intrinsics_matrices().double()
    seen = (points - pose[:3, 3]) @ pose[:3, :3] @ torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    flat = seen @ matrix.T
    return (flat[:, :2] / flat[:, 2:]).numpy(), seen[:, 2].numpy()


def test_parsers_and_manager_of_splatfacto(posed: Path) -> None:
    import copy

    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

    manager: Any = copy.deepcopy(all_methods["splatfacto"].pipeline.datamanager)
    manager.data, manager.cache_images = posed, "gpu"
    camera, batch = manager.setup(device="cpu", test_mode="val").next_train(0)
    assert batch["image"].shape[:2] == (camera.height.item(), camera.width.item())
    config = ColmapDataParserConfig(data=posed, downscale_factor=1, colmap_path=Path("colmap/sparse/0"))
    outputs = config.setup().get_dataparser_outputs("train")
    assert len(outputs.image_filenames) >= 10 and len(outputs.metadata["points3D_xyz"]) > 100


def test_photos_to_answers(posed: Path, tmp_path: Path) -> None:
    """Posed photos, trained, lifted, asked."""
    config = lift_config(posed, tmp_path)
    config.pipeline.datamanager.camera_res_scale_factor = 0.5
    run = train(config)
    main(["query", "--load-config", str(run / "config.yml"), "--text", "red", "--out", str(tmp_path / "query")])
    (answer,) = json.loads((tmp_path / "query" / "query.json").read_text())["prompts"]
    assert answer["text"] == "red" and 0 < answer["score"] <= 1


def test_photos_to_answers_with_one_command_and_no_training(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lang_splat_ns.language.field import Query
    from lang_splat_ns.plugin.runs import open_run

    networks = ["--segmenter", "felzenszwalb", "--encoder", "colour-words", "--cache-dir", str(tmp_path / "cache")]
    for out in ("first", "second"):
        main(["lift", "--data", str(photos), *networks, "--output-dir", str(tmp_path / out)])
        # The second time they are posed already.
        no_posing(monkeypatch)
    (config,) = (tmp_path / "first").rglob("config.yml")
    opened = open_run(config)
    model = opened.pipeline.model
    (posed,) = (tmp_path / "cache" / "poses").iterdir()
    assert json.loads((posed / "transforms.json").read_text())["poses"]["posed"] == 12
    assert opened.config.pipeline.datamanager.dataparser.data == photos
    assert model.num_points == len(opened.pipeline.datamanager.train_dataparser_outputs.metadata["points3D_xyz"])
    assert torch.sigmoid(model.opacities).min() > 0.3
    assert model.language_field().select(Query(("red",))).scores.isfinite().all()


def test_other_photos_or_options_are_posed_anew(photos: Path, tmp_path: Path) -> None:
    from lang_splat_ns.scenes.posing import make_request

    keys = [Posing(make_request(photos, backend="colmap", **options)).key for options in ({}, {"longest_side": 100})]
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    keys.append(Posing(make_request(moved, backend="colmap", confidence="5")).key)
    (moved / "torn.png").unlink()
    keys.append(Posing(make_request(moved, backend="colmap")).key)
    assert keys[2] == keys[0] and len(set(keys)) == 3


def test_a_large_set_is_matched_in_order_and_by_likeness(tmp_path: Path) -> None:
    """A walk past 60 places, twice: every photo meets its neighbours, and its like of the other round."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, 255, (60, 40, 128), dtype=np.uint8)
    database = sqlite3.connect(tmp_path / "database.db")
    database.execute("CREATE TABLE images (image_id INTEGER, name TEXT)")
    database.execute("CREATE TABLE descriptors (image_id INTEGER, rows INTEGER, cols INTEGER, data BLOB)")
    names = [f"{number:03d}.jpg" for number in range(120)]
    for number, name in enumerate(names):
        seen = np.clip(places[number % 60] + rng.integers(-3, 4, (40, 128)), 0, 255).astype(np.uint8)
        database.execute("INSERT INTO images VALUES (?, ?)", (number + 1, name))
        database.execute("INSERT INTO descriptors VALUES (?, 40, 128, ?)", (number + 1, seen.tobytes()))
    database.commit()
    database.close()
    pairs = set(choose_pairs(names, tmp_path / "database.db"))
    assert {(names[one], names[one + step]) for one in range(110) for step in (1, 10)} <= pairs
    assert {(names[one], names[one + 60]) for one in range(60)} <= pairs
    assert len(pairs) < 120 * 45 < 120 * 119 / 2


def test_a_large_set_is_posed_from_chosen_pairs(sharp_scene: Path, photos: Path, tmp_path: Path) -> None:
    poses("--images", photos, "--out", tmp_path / "scene", "--matching", "sequential")
    errors = compare(read_poses(tmp_path / "scene" / "transforms.json"), read_poses(sharp_scene / "transforms.json"))
    assert errors.photos == 12 and errors.position_percent < 3


def test_a_video_is_posed(sharp_scene: Path, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "walk.avi"), cv2.VideoWriter.fourcc(*"PNG "), 10.0, (320, 180))
    for path in sorted((sharp_scene / "images").iterdir()):
        frame = cv2.imread(str(path))
        assert frame is not None
        writer.write(frame)
    writer.release()
    poses("--video", tmp_path / "walk.avi", "--out", tmp_path / "scene", "--frames", "12")
    assert len(read_poses(tmp_path / "scene" / "transforms.json")) == 12


def test_what_was_finished_is_not_done_again(
    photos: Path, posed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = colmap_process.Workshop.run

    def stopped(self: Any, name: str, *arguments: Any) -> None:
        if name == "map":
            raise KeyboardInterrupt
        run(self, name, *arguments)

    out = tmp_path / "scene"
    with monkeypatch.context() as patch:
        patch.setattr(colmap_process.Workshop, "run", stopped)
        with pytest.raises(SystemExit) as caught:
            poses("--images", photos, "--out", out)
        assert caught.value.code == 130
    assert not (out / "transforms.json").exists()
    with monkeypatch.context() as patch:
        no_posing(patch, "features", "matches")
        poses("--images", photos, "--out", out)
    found, whole = (read_poses(folder / "transforms.json") for folder in (out, posed))
    # Threads add in the order in which they come.
    assert max(float(np.abs(found[name] - whole[name]).max()) for name in whole) < 1e-9
    no_posing(monkeypatch)
    poses("--images", photos, "--out", out)
    assert "is there already" in capsys.readouterr().out


def test_a_second_part_of_the_scene_is_left_out_and_said(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder, ignore=shutil.ignore_patterns("torn*"))
    noise(folder / "noise.png", 0, (320, 180))
    Image.new("RGB", (320, 180), (90, 90, 90)).save(folder / "wall.png")
    poses("--images", folder, "--out", tmp_path / "scene")
    told = capsys.readouterr().out
    assert "2 of 14 photos are left out" in told
    assert "noise.png: matches no other photo" in told and "wall.png: almost no features" in told


@pytest.fixture
def one_line(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command, which must fail with one line; returns it."""

    def failing(*arguments: str | Path) -> str:
        with pytest.raises(SystemExit) as caught:
            poses(*arguments)
        assert caught.value.code == 1
        told = capsys.readouterr().err
        assert told.startswith("error: ") and told.strip().count("\n") == 0
        return told

    return failing


def test_bad_input_costs_one_line(tmp_path: Path, photos: Path, posed: Path, one_line: Any) -> None:
    out = tmp_path / "scene"
    assert "not both" in one_line("--images", photos, "--video", photos / "torn.png", "--out", out)
    assert "--images" in one_line("--out", out)
    assert "no such file or folder" in one_line("--images", tmp_path / "nowhere", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "no photo in it" in one_line("--images", tmp_path / "empty", "--out", out)
    (tmp_path / "film.mp4").write_text("no film")
    assert "no frame can be read" in one_line("--video", tmp_path / "film.mp4", "--out", out)
    assert "not empty" in one_line("--images", photos, "--out", photos)
    assert "another data set" in one_line("--images", photos, "--out", posed, "--longest-side", "100")
    assert "--frames 0" in one_line("--images", photos, "--out", out, "--frames", "0")
    assert "--confidence" in one_line("--images", photos, "--out", out, "--confidence", "much")


def test_photos_that_cannot_be_posed_cost_one_line(tmp_path: Path, photos: Path, one_line: Any) -> None:
    for number in range(3):
        noise(tmp_path / "noise" / f"{number}.png", number)
        (tmp_path / "copies").mkdir(exist_ok=True)
        shutil.copy(photos / "frame_00001.png", tmp_path / "copies" / f"{number}.png")
    assert "no two of the 3 photos show the same place" in one_line(
        "--images", tmp_path / "noise", "--out", tmp_path / "a"
    )
    assert "all 3 photos are the same picture" in one_line("--images", tmp_path / "copies", "--out", tmp_path / "b")
    for number, quality in enumerate((95, 90, 85)):
        with Image.open(photos / "frame_00001.png") as photo:
            (tmp_path / "same").mkdir(exist_ok=True)
            photo.convert("RGB").save(tmp_path / "same" / f"{number}.jpg", quality=quality)
    assert "hardly moved" in one_line("--images", tmp_path / "same", "--out", tmp_path / "c")
    (tmp_path / "copies" / "1.png").unlink()
    (tmp_path / "copies" / "2.png").unlink()
    assert "two photos or more" in one_line("--images", tmp_path / "copies", "--out", tmp_path / "d")


def test_a_failure_of_colmap_is_told_with_its_log(photos: Path, tmp_path: Path) -> None:
    shop = colmap_process.Workshop(tmp_path)
    groups = [{"names": ["frame_00001.png"], "focal": None, "longest": 320}]
    arguments = {"database": str(shop.database), "images": str(photos), "groups": groups, "camera_model": "NONSENSE"}
    watch = colmap_process.Watch("Finding features", "photos", 1, lambda: shop.count("keypoints"))
    with pytest.raises(UserError, match=r"COLMAP failed while finding features: .*see .*colmap\.log"):
        shop.run("features", "extract_features", arguments, watch)
    assert not shop.is_done("features")


def test_a_broken_database_is_made_anew(tmp_path: Path) -> None:
    shop = colmap_process.Workshop(tmp_path)
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "features").touch()
    shop.database.write_text("no database")
    assert not colmap_process.Workshop(tmp_path).is_done("features")
    assert not shop.database.exists()


def test_the_parser_refuses_what_has_poses(posed: Path) -> None:
    from lang_splat_ns.plugin.unposed import UnposedDataParserConfig

    with pytest.raises(SystemExit, match=r"error: .*has poses already.*leave out `unposed`"):
        UnposedDataParserConfig(data=posed).setup().get_dataparser_outputs("train")


def test_the_entry_point_is_a_data_parser() -> None:
    import importlib
    import re

    from nerfstudio.plugins.registry_dataparser import DataParserSpecification

    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    (module, name) = re.findall(r'^unposed = "(.+):(.+)"$', text, re.MULTILINE)[0]
    assert isinstance(getattr(importlib.import_module(module), name), DataParserSpecification)
