"""The GPU benchmark does its work on a CPU without nerfstudio, and measures the methods that nerfstudio runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import gpu, gpu_features, gpu_geometry, gpu_parity
from benchmarks.gpu_features import read_labelled_photos
from benchmarks.posed_photos import PosedPhotos, read_points, read_posed_photos
from benchmarks.ssim import ssim
from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.gallery_files import save_points
from lang_splat_ns.splatting.projection import opencv_view
from lang_splat_ns.splatting.rasterizer import rasterize

WIDTH, HEIGHT, FOCAL, PHOTOS = 64, 48, 60.0, 8
CPU = torch.device("cpu")

NOT_ON_A_BARE_MACHINE = (
    "nerfstudio open_clip segment_anything mobile_sam skimage cv2 plyfile pytorch_msssim torchvision transformers tyro "
    "viser matplotlib platformdirs jinja2"
).split()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose photos are drawn from 250 splats, the sparse points being their centres. One is held out."""
    folder = tmp_path_factory.mktemp("splats")
    rng = torch.Generator().manual_seed(0)
    centers, colors = torch.randn(250, 3, generator=rng) * 1.2, torch.rand(250, 3, generator=rng)
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    quats, scales = torch.tensor([[1.0, 0, 0, 0]]).expand(250, 4), torch.full((250, 3), 0.5)
    frames = []
    (folder / "images").mkdir()
    for index in range(PHOTOS):
        pose = _pose(0.08 * index)
        image, _, _ = rasterize(
            centers, quats, scales, torch.full((250,), 0.8), colors, opencv_view(pose), K, WIDTH, HEIGHT
        )
        name = f"images/{index:03d}.png"
        Image.fromarray((image * 255).round().clamp(0, 255).byte().numpy()).save(folder / name)
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    meta = {"camera_model": "OPENCV", "w": WIDTH, "h": HEIGHT, "fl_x": FOCAL, "fl_y": FOCAL}
    meta |= {"cx": WIDTH / 2, "cy": HEIGHT / 2, "ply_file_path": "sparse_pc.ply", "frames": frames}
    names = [frame["file_path"] for frame in frames]
    meta |= {"train_filenames": names[:4] + names[5:], "val_filenames": names[4:5], "test_filenames": names[4:5]}
    (folder / "transforms.json").write_text(json.dumps(meta))
    save_points(folder / "sparse_pc.ply", centers.numpy(), (colors * 255).byte().numpy())
    return folder


def _pose(angle: float) -> torch.Tensor:
    """Camera-to-world [4, 4], OpenGL: on a circle of radius 4 around the z axis, looking at the origin."""
    c, s = np.cos(angle), np.sin(angle)
    columns = [[-s, c, 0, 0], [0, 0, 1, 0], [c, s, 0, 0], [4 * c, 4 * s, 0, 1]]
    return torch.tensor(columns, dtype=torch.float32).T


@pytest.fixture(scope="module")
def photos(scene: Path) -> PosedPhotos:
    return read_posed_photos(scene, CPU)


@pytest.fixture(scope="module")
def result(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program writes where little more than torch and gsplat can be imported."""
    out = tmp_path_factory.mktemp("out") / "gpu.json"
    # Loops this small are finished before a second thread has come, which can take long on a busy machine.
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    known = [name for name in sys.modules if name.partition(".")[0] in NOT_ON_A_BARE_MACHINE]
    with pytest.MonkeyPatch.context() as patch:
        for name in {*known, *NOT_ON_A_BARE_MACHINE}:
            patch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
        gpu.main(["--device", "cpu", "--tiny", "--data", str(scene), "--out", str(out)])
    numba.set_num_threads(threads)
    return json.loads(out.read_text())


def test_all_parts_are_measured(result: dict[str, Any]) -> None:
    assert {"facts", "data", "parity", "geometry", "features", "query"} == result.keys()
    assert result["facts"]["torch"] == torch.__version__ and result["facts"]["device"] == "cpu"
    assert result["parity"]["agrees"] and len(result["parity"]["cases"]) == len(gpu_parity.CASES)
    assert result["geometry"]["steps_per_second"] > 0 and result["features"]["steps_per_second"] > 0
    assert result["query"]["prompts_10"]["relevancy_ms"] > 0


def test_training_learns(result: dict[str, Any]) -> None:
    first, last = result["geometry"]["progress"][0], result["geometry"]["progress"][-1]
    assert (first["step"], last["step"]) == (0, result["geometry"]["steps"])
    assert last["psnr"] > first["psnr"] + 5
    assert last["gaussians"] > first["gaussians"] == 250, "densification never happened"
    assert result["features"]["labels"] == "random" and result["features"]["levels"] == ["whole", "part", "subpart"]
    assert result["features"]["loss_last"] < result["features"]["loss_first"]


@pytest.mark.parametrize("device", ["cuda:99", "abacus"] + ["cuda"] * (not torch.cuda.is_available()))
def test_a_device_that_is_not_there_is_one_line(device: str, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.main(["--device", device, "--data", str(scene)])
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--device {device}" in line and "cpu" in line


def test_parity_notices_a_wrong_rasterizer(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(**arguments: Any) -> Any:
        return rasterize(**(arguments | {"scales": arguments["scales"] * 1.02}))

    monkeypatch.setattr(gpu_parity, "CASES", gpu_parity.CASES[1:2])
    assert gpu_parity.compare(CPU, 150, 40, 32)["agrees"]
    monkeypatch.setattr(gpu_parity, "rasterize", wrong)
    assert not gpu_parity.compare(CPU, 150, 40, 32)["agrees"]


def test_schedules_are_the_methods() -> None:
    from lang_splat_ns.specs import geometry_optimizers
    from lang_splat_ns.splatting.model import GaussianSplattingModel, GaussianSplattingModelConfig

    config, optimizers = GaussianSplattingModelConfig(), geometry_optimizers()
    theirs = GaussianSplattingModel._make_strategy(SimpleNamespace(config=config, num_train_data=40))  # type: ignore[arg-type]
    assert gpu_geometry.make_strategy(gpu_geometry.METHOD_STEPS, 40) == theirs
    for name, rate in gpu_geometry.LEARNING_RATES.items():
        assert optimizers[name]["optimizer"].lr == rate, name
    means = optimizers["means"]["scheduler"]
    assert (means.max_steps, means.lr_final) == (gpu_geometry.METHOD_STEPS, gpu_geometry.LAST_MEANS_RATE)
    assert (config.sh_degree, config.sh_degree_interval) == (gpu_geometry.SH_DEGREE, gpu_geometry.SH_INTERVAL)
    assert config.ssim_lambda == gpu_geometry.SSIM_WEIGHT


def test_feature_training_is_the_methods() -> None:
    from lang_splat_ns.specs import langsplat

    config = langsplat.config.pipeline.model  # type: ignore[union-attr]
    theirs = (config.code_dim, config.autoencoder_epochs, config.autoencoder_lr, config.autoencoder_batch)
    assert theirs == (
        gpu_features.CODE_DIM,
        gpu_features.AUTOENCODER_EPOCHS,
        gpu_features.AUTOENCODER_RATE,
        gpu_features.AUTOENCODER_BATCH,
    )
    assert langsplat.config.optimizers["language_features"]["optimizer"].lr == gpu_features.LEARNING_RATE


def test_ssim_is_the_librarys() -> None:
    from pytorch_msssim import SSIM

    rng = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 30, 23, 3, generator=rng)
    second = 0.7 * first + 0.3 * second
    theirs = SSIM(data_range=1.0, channel=3)(first.movedim(-1, 0)[None], second.movedim(-1, 0)[None])
    assert float(ssim(first, second)) == pytest.approx(float(theirs), abs=1e-5)
    assert float(ssim(first, first)) == pytest.approx(1.0, abs=1e-6)


def test_cameras_and_points_are_nerfstudios(scene: Path, photos: PosedPhotos) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parser = NerfstudioDataParserConfig(data=scene, orientation_method="none", downscale_factor=1, load_3D_points=True)
    outputs = parser.setup().get_dataparser_outputs("train")
    assert [photo.path for photo in photos.train] == list(outputs.image_filenames)
    for photo, pose, K in zip(
        photos.train, outputs.cameras.camera_to_worlds, outputs.cameras.get_intrinsics_matrices(), strict=True
    ):
        torch.testing.assert_close(photo.viewmat, opencv_view(pose))
        torch.testing.assert_close(photo.K, K)
    torch.testing.assert_close(photos.points, outputs.metadata["points3D_xyz"], atol=1e-5, rtol=1e-5)
    assert torch.equal(photos.colors, outputs.metadata["points3D_rgb"])


def test_features_come_from_a_store(scene: Path, photos: PosedPhotos, tmp_path: Path) -> None:
    from nerfstudio.cameras.cameras import Cameras

    from lang_splat_ns.perception.encoders import make_encoder
    from lang_splat_ns.perception.extract import extract
    from lang_splat_ns.perception.feature_store import FeatureStore
    from lang_splat_ns.perception.segmenters import make_segmenter
    from lang_splat_ns.plugin.frame_features import make_frames

    with pytest.raises(UserError, match="holds nothing"):
        read_labelled_photos(photos.train, tmp_path)
    few = photos.train[:2]
    poses = torch.eye(4)[:3].expand(2, 3, 4)
    cameras = Cameras(poses, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT, distortion_params=torch.zeros(2, 6))
    frames = make_frames([photo.path for photo in few], cameras)
    extract(frames, make_segmenter("felzenszwalb"), make_encoder("colour-words"), FeatureStore(tmp_path))
    source = read_labelled_photos(few, tmp_path)
    assert source.labels(1, HEIGHT, WIDTH).shape == (len(source.levels), HEIGHT, WIDTH)
    for maps, rows in zip(source.label_maps, source.rows, strict=True):
        assert [int(level.max()) + 1 for level in maps] == [len(level) for level in rows]


def test_points_of_both_kinds_of_ply(tmp_path: Path) -> None:
    points, colors = np.array([[1.5, -2, 3], [0, 0.25, 1]], np.float32), np.array([[1, 2, 3], [255, 0, 9]], np.uint8)
    save_points(tmp_path / "binary.ply", points, colors)
    kinds = ["float x", "float y", "float z", "uint8 red", "uint8 green", "uint8 blue"]
    head = ["ply", "format ascii 1.0", "element vertex 2", *(f"property {kind}" for kind in kinds), "end_header"]
    (tmp_path / "ascii.ply").write_text("\n".join([*head, "1.5 -2 3 1 2 3", "0 0.25 1 255 0 9", ""]))
    for name in ("binary.ply", "ascii.ply"):
        read = read_points(tmp_path / name)
        assert np.array_equal(read[0], points) and np.array_equal(read[1], colors), name


def test_data_that_cannot_be_read_is_named(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nerfstudio's format"):
        read_posed_photos(tmp_path, CPU)
    meta = json.loads((scene / "transforms.json").read_text())
    (tmp_path / "transforms.json").write_text(json.dumps(meta | {"k1": 0.1}))
    with pytest.raises(UserError, match="no such photo"):
        read_posed_photos(tmp_path, CPU)
    (tmp_path / "images").symlink_to(scene / "images")
    with pytest.raises(UserError, match=r"distorted \(k1 = 0.1\)"):
        read_posed_photos(tmp_path, CPU)
    (tmp_path / "transforms.json").write_text(json.dumps(meta | {"w": 2 * WIDTH}))
    with pytest.raises(UserError, match="64 x 48 pixels"):
        read_posed_photos(tmp_path, CPU)
    (tmp_path / "sparse_pc.ply").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"sparse_pc\.ply is no \.ply"):
        read_points(tmp_path / "sparse_pc.ply")
