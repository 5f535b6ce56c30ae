"""Predicted cameras and depth become a data set: by a tiny random VGGT, and by a network that is always right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from posed import true_views

from lang_splat_ns.errors import UserError
from lang_splat_ns.plugin.features import data_set_frames
from lang_splat_ns.scenes.from_depth import (
    Confidence,
    DepthView,
    grid_in_photo,
    parse_confidence,
    scene_from_depth,
    thin,
)
from lang_splat_ns.scenes.photos import Photos, content_digests, find_photos, prepare_photos
from lang_splat_ns.scenes.posed_scene import write_scene
from lang_splat_ns.scenes.refine import refine_views
from lang_splat_ns.scenes.vggt_poses import VggtOptions, pose_with_network


@pytest.fixture(scope="module")
def network() -> Any:
    """A tiny random VGGT that sees the world through sane lenses."""
    from lang_splat_ns.scenes.vggt import VGGT, VGGTConfig

    torch.manual_seed(0)
    model = VGGT(VGGTConfig.tiny("conv")).eval()
    for name, weight in model.named_parameters():
        if name == "camera_head.pose_branch.fc2.bias":
            # Two fields of view of about 60 degrees, whatever the rest says.
            weight.data[7:] = 1.0
    return model


def prepared(sources: Path, out: Path) -> Photos:
    paths = find_photos(sources)
    return prepare_photos(paths, content_digests(paths), out, 1600)


def read(data: Path) -> Any:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from lang_splat_ns.plugin.one_photo import suited

    return (
        suited(NerfstudioDataParserConfig(data=data, load_3D_points=True), data).setup().get_dataparser_outputs("train")
    )


def in_world(outputs: Any, points: np.ndarray) -> torch.Tensor:
    """Points of the data set's world in nerfstudio's frame."""
    turn = outputs.dataparser_transform.double()
    return (torch.from_numpy(points) @ turn[:, :3].T + turn[:, 3]) * outputs.dataparser_scale


@pytest.mark.parametrize("count", [1, 2, 3])
def test_random_weights_to_files_and_back(network: Any, tmp_path: Path, count: int) -> None:
    """One, two or three photos of mixed sizes: cameras come back, and points land in the pixels that they are from."""
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(200, 120), (120, 200), (200, 120)][:count]):
        colours = rng.integers(0, 255, (size[1] // 20, size[0] // 20, 3), dtype=np.uint8)
        Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).save(tmp_path / "in" / f"{number}.png")
    photos = prepared(tmp_path / "in", tmp_path / "photos")
    everything = VggtOptions(confidence=Confidence(drop=0.0), max_points=10**6)
    scene, rejected = pose_with_network(network, photos, tmp_path / "work", everything)
    assert not rejected and len(scene.images) == count
    write_scene(tmp_path / "scene", scene, {"backend": "vggt"})
    assert len(data_set_frames(tmp_path / "scene", "all")) == count
    outputs = read(tmp_path / "scene")
    meta = json.loads((tmp_path / "scene" / "transforms.json").read_text())
    square = torch.eye(4, dtype=torch.float64)
    square[:3] = outputs.dataparser_transform.double()
    for index, camera in enumerate(outputs.cameras):
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3] = camera.camera_to_worlds.double()
        pose[:3, 3] /= outputs.dataparser_scale
        back = (torch.linalg.inv(square) @ pose).numpy()
        assert np.abs(back - np.array(meta["frames"][index]["transform_matrix"])).max() < 1e-5
        told = camera.get_intrinsics_matrices().numpy()
        assert np.allclose([told[0, 0], told[1, 1], told[0, 2], told[1, 2]], scene.intrinsics[index], rtol=1e-5)
    _check_pixels(network, photos, outputs)


def _check_pixels(network: Any, photos: Photos, outputs: Any) -> None:
    from lang_splat_ns.scenes.vggt.predict import predict
    from lang_splat_ns.scenes.vggt_poses import views_of

    pixels = []
    for path in photos.paths():
        with Image.open(path) as photo:
            pixels.append(np.array(photo.convert("RGB")))
    prediction = predict(network, pixels)
    for index, view in enumerate(views_of(photos, prediction)):
        camera, place = outputs.cameras[index], grid_in_photo(view)
        points = in_world(outputs, prediction.world_points(index).reshape(-1, 3).astype(np.float64))
        pose, matrix = camera.camera_to_worlds.double(), camera.get_intrinsics_matrices().double()
        seen = (points - pose[:3, 3]) @ pose[:3, :3] * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
        flat = seen @ matrix.T
        landed = (flat[:, :2] / flat[:, 2:]).numpy()
        inside = ((place >= 0) & (place < view.size)).all(-1).reshape(-1)
        assert np.abs(landed - place.reshape(-1, 2))[inside].max() < 0.05


def test_points_lie_on_what_is_there(sharp_scene: Path) -> None:
    views = true_views(sharp_scene, 4)
    # The last photo is not believed.
    views[3] = replace(views[3], confidence=views[3].confidence * 0.1)
    scene = scene_from_depth(views, np.ones(4, np.int64), Confidence(least=0.5), 20_000)
    assert 5_000 < len(scene.points) <= 20_000
    alone = scene_from_depth(views[:3], np.ones(3, np.int64), Confidence(drop=0.0), 20_000)
    assert np.array_equal(scene.points, alone.points), "what is not believed gives no points"
    seen = np.c_[scene.points, np.ones(len(scene.points))] @ views[0].world_to_camera.T
    fx, fy, cx, cy = views[0].intrinsics
    column, row = seen[:, 0] / seen[:, 2] * fx + cx, seen[:, 1] / seen[:, 2] * fy + cy
    inside = (seen[:, 2] > 0) & (column >= 0) & (column < 320) & (row >= 0) & (row < 180)
    depth = views[0].depth[row[inside].astype(int), column[inside].astype(int)]
    near = np.abs(seen[inside, 2] - depth) < 0.05 * depth
    assert near.mean() > 0.6, "most of what it sees is at the depth that it says, and the rest is hidden from it"
    with Image.open(views[0].image) as photo:
        pixels = np.asarray(photo.convert("RGB")).astype(float)
    difference = np.abs(pixels[row[inside].astype(int), column[inside].astype(int)] - scene.colors[inside])[near]
    assert np.median(difference) < 12


def test_confidence_as_people_write_it() -> None:
    assert parse_confidence("30%") == Confidence(drop=0.3)
    assert parse_confidence("5") == Confidence(least=5.0)
    for text in ("much", "120%", "%"):
        with pytest.raises(UserError, match="--confidence"):
            parse_confidence(text)


def test_nothing_is_believed(sharp_scene: Path) -> None:
    with pytest.raises(UserError, match="lower --confidence"):
        scene_from_depth(true_views(sharp_scene, 1), np.ones(1, np.int64), Confidence(least=9.0), 100)


def test_thinning_does_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    points, colors = rng.random((5000, 3)), rng.integers(0, 255, (5000, 3), dtype=np.uint8)
    order = rng.permutation(5000)
    one, other = thin(points, colors, 0.01, 800), thin(points[order], colors[order], 0.01, 800)
    assert 400 < len(one[0]) <= 800 and np.allclose(one[0], other[0])
    assert np.abs(one[1].astype(int) - other[1].astype(int)).max() <= 1


def test_refining_brings_disturbed_cameras_back(sharp_scene: Path, tmp_path: Path) -> None:
    from scipy.spatial.transform import Rotation

    from benchmarks.pose_errors import compare

    photos = prepared(sharp_scene / "images", tmp_path / "photos")
    true = true_views(sharp_scene, 12)
    rng = np.random.default_rng(0)
    views = []
    for view in true:
        pose = view.world_to_camera.copy()
        pose[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.03, 3)).as_matrix() @ pose[:3, :3]
        pose[:3, 3] += rng.normal(0, 0.04, 3)
        # A depth of another scale than the cameras', as networks have it.
        views.append(replace(view, world_to_camera=pose, depth=view.depth * np.float32(1.1)))
    refined = refine_views(photos, views, np.ones(12, np.int64), tmp_path / "work")
    before, after = (
        compare(*({view.image.stem: np.linalg.inv(view.world_to_camera) for view in these} for these in (found, true)))
        for found in (views, refined)
    )
    assert after.rotation_degrees < 0.6 * before.rotation_degrees
    assert after.position_percent < 0.9 * before.position_percent
    factors = [float(np.median(new.depth / old.depth)) for new, old in zip(refined, true, strict=True)]
    size = spread(refined) / spread(true)
    assert np.median(factors) == pytest.approx(size, rel=0.05), "depth goes with the cameras again"


def spread(views: list[DepthView]) -> float:
    """Mean distance of the cameras from their centre."""
    centres = np.array([np.linalg.inv(view.world_to_camera)[:3, 3] for view in views])
    return float(np.linalg.norm(centres - centres.mean(0), axis=1).mean())


def test_many_points_answer_without_training(sharp_scene: Path, tmp_path: Path) -> None:
    """The whole way from predicted depth to an answer; what is chosen has the colour that was asked for."""
    from lang_splat_ns.commands.lift import Lift
    from lang_splat_ns.language.field import Query
    from lang_splat_ns.plugin.runs import open_run
    from lang_splat_ns.splatting.gaussians import SH_C0

    scene = scene_from_depth(true_views(sharp_scene, 12), np.ones(12, np.int64), Confidence(drop=0.0), 60_000)
    write_scene(tmp_path / "scene", scene, {"backend": "vggt"})
    Lift(
        data=tmp_path / "scene", segmenter="felzenszwalb", encoder="colour-words", cache_dir=tmp_path / "cache",
        output_dir=tmp_path / "out",
    ).run()  # fmt: skip
    (config,) = tmp_path.glob("out/*/langsplat-lift/*/config.yml")
    model = open_run(config).pipeline.model
    chosen = model.language_field().select(Query(("sky blue",))).mask[0]
    assert 0 < chosen.sum() < 0.2 * len(scene.points)
    red, _, blue = (model.features_dc[chosen].detach() * SH_C0 + 0.5).mean(0)
    assert blue > red + 0.1


def test_a_single_photo_is_lifted_without_training(network: Any, sharp_scene: Path, tmp_path: Path) -> None:
    from lang_splat_ns.cli import main
    from lang_splat_ns.langsplat_lift.new_run import config_from_data
    from lang_splat_ns.plugin.check_data import check_data

    (tmp_path / "in").mkdir()
    photo = sharp_scene / "images" / "frame_00001.png"
    (tmp_path / "in" / photo.name).write_bytes(photo.read_bytes())
    photos = prepared(tmp_path / "in", tmp_path / "photos")
    scene, _ = pose_with_network(network, photos, tmp_path / "work", VggtOptions())
    write_scene(tmp_path / "scene", scene, {"backend": "vggt"})
    networks = ["--segmenter", "felzenszwalb", "--encoder", "colour-words", "--cache-dir", str(tmp_path / "cache")]
    main(["lift", "--data", str(tmp_path / "scene"), *networks, "--output-dir", str(tmp_path / "out")])
    (config,) = tmp_path.glob("out/*/langsplat-lift/*/config.yml")
    main(["query", "--load-config", str(config), "--text", "red", "--out", str(tmp_path / "query")])
    assert len(json.loads((tmp_path / "query" / "query.json").read_text())["prompts"]) == 1
    plain = config_from_data(tmp_path / "scene")
    plain.pipeline.datamanager.dataparser.auto_scale_poses = True
    with pytest.raises(UserError, match=r"one photo only.*--auto-scale-poses False"):
        check_data(plain)
