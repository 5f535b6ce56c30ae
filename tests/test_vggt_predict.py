"""Photos of any shape and number become one posed scene whose points lie in the right pixels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.vggt import VGGT, VGGTConfig
from lang_splat_ns.scenes.vggt.photos import place_photos
from lang_splat_ns.scenes.vggt.predict import predict
from lang_splat_ns.scenes.vggt.prediction import Prediction
from lang_splat_ns.scenes.vggt.windows import plan_windows

Array = npt.NDArray[np.floating]
FOCAL, RADIUS = 45.0, 4.0
"""Of the known scene's cameras, in pixels of their 40 x 30 photos, and of the sphere that they stand in."""


@pytest.fixture(scope="module")
def tiny() -> VGGT:
    torch.manual_seed(0)
    model = VGGT(VGGTConfig.tiny("conv")).eval()
    assert model.camera_head is not None
    # Fields of view that a camera could have.
    model.camera_head.pose_branch.fc2.bias.data[7:] += 0.4
    return model


def photo(width: int, height: int, value: int | None = None) -> npt.NDArray[np.uint8]:
    if value is not None:
        return np.full((height, width, 3), value, np.uint8)
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pose(index: int) -> Array:
    """World-to-camera of a photo: somewhere inside the sphere, looking somewhere."""
    rng = np.random.default_rng(index)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec([0.2 * rng.normal(), 0.05 * index, 0.2 * rng.normal()]).as_matrix()
    matrix[:3, 3] = -matrix[:3, :3] @ rng.uniform(-1, 1, 3)
    return matrix


class KnownScene(nn.Module):
    """In place of the network: tells the truth, but in each window in a world of its own.

    Photos are inside a sphere and all of one colour, their index. `wrong` is the share of depths that are off in every
    window but the first.
    """

    def __init__(self, wrong: float = 0.0) -> None:
        super().__init__()
        self.config, self.wrong = VGGTConfig.tiny(), wrong
        self.anchor = nn.Parameter(torch.zeros(()))
        self.windows: list[list[int]] = []
        self.worlds: list[tuple[float, Array, Array]] = []

    def forward(self, images: Tensor, *, heads: tuple[str, ...], frames_chunk_size: int) -> dict[str, Tensor]:
        assert set(heads) == {"camera", "depth"} and frames_chunk_size > 0
        indices = (images[:, 0, 28, 28] * 255).round().int().tolist()
        rng = np.random.default_rng(1000 + len(self.worlds))
        turn = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
        world = (float(rng.uniform(0.2, 5)), turn, rng.normal(size=3))
        self.windows.append(indices)
        self.worlds.append(world)
        found = [self._frame(index, world, images.shape[-2:], rng) for index in indices]
        pose_enc, depth, confidence = (torch.tensor(np.array(part))[None].float() for part in zip(*found, strict=True))
        return {"pose_enc": pose_enc, "depth": depth[..., None], "depth_conf": confidence}

    def _frame(
        self, index: int, world: tuple[float, Array, Array], size: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        (scale, turn, shift), view, (height, width) = world, pose(index), size
        focal = FOCAL * 56 / 40
        u, v = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
        rays = np.stack([u / focal, v / focal, np.ones_like(u)], axis=-1) @ view[:3, :3]
        centre = -view[:3, :3].T @ view[:3, 3]
        a, b, c = (rays**2).sum(-1), rays @ centre, centre @ centre - RADIUS**2
        depth = scale * (-b + np.sqrt(b**2 - a * c)) / a
        confidence = 1 + rng.random(depth.shape)
        if len(self.worlds) > 1:
            off = rng.random(depth.shape) < self.wrong
            depth[off] *= rng.uniform(0.3, 3, off.sum())
        rotation = view[:3, :3] @ turn.T
        translation = scale * view[:3, 3] - rotation @ shift
        views = 2 * np.arctan(np.array([height, width]) / 2 / focal)
        return np.concatenate([translation, Rotation.from_matrix(rotation).as_quat(), views]), depth, confidence

    def truth(self, index: int) -> tuple[Array, float]:
        """World-to-camera and scale of a photo in the first window's world."""
        (scale, turn, shift), view = self.worlds[0], pose(index)
        view[:3, :3] = view[:3, :3] @ turn.T
        view[:3, 3] = scale * view[:3, 3] - view[:3, :3] @ shift
        return view, scale


def check(found: Prediction, model: KnownScene, count: int, tolerance: float) -> None:
    assert [sorted(window) for window in model.windows] == found.windows
    for index in range(count):
        view, scale = model.truth(index)
        np.testing.assert_allclose(found.extrinsics[index], view, atol=tolerance * scale)
        # All points lie on the sphere, wherever the first window's world has it.
        (scale, _, shift), inside = model.worlds[0], found.confidence[index] > 0
        radii = np.linalg.norm(found.world_points(index)[inside] - shift, axis=-1)
        assert abs(np.median(radii) / scale - RADIUS) < tolerance


@pytest.mark.parametrize("layout", ["interleaved", "sequence"])
@pytest.mark.parametrize(("count", "window", "shared"), [(23, 8, 3), (5, 4, 1), (9, 2, 1), (7, 7, None), (8, 3, None)])
def test_windows_become_one_world(count: int, window: int, shared: int | None, layout: str) -> None:
    model = KnownScene()
    photos = [photo(40, 30, index) if index % 3 else photo(30, 40, index) for index in range(count)]
    found = predict(model, photos, window=window, shared=shared, layout=layout)  # type: ignore[arg-type]
    assert len(model.windows) == 1 if window >= count else len(model.windows) > 1
    assert all(len(part) <= window for part in model.windows)
    check(found, model, count, 1e-4)
    for index, K in enumerate(found.intrinsics):
        width, height = (40, 30) if index % 3 else (30, 40)
        np.testing.assert_allclose(K, [[FOCAL, 0, width / 2], [0, FOCAL, height / 2], [0, 0, 1]], atol=1e-3)


def test_windows_agree_where_many_points_are_wrong() -> None:
    model = KnownScene(wrong=0.35)
    found = predict(model, [photo(40, 30, index) for index in range(12)], window=6, shared=2)
    check(found, model, 12, 1e-3)


def test_plans_hold_every_photo_and_overlap() -> None:
    for count in (1, 2, 7, 30, 101):
        for size, shared in ((2, 1), (6, 1), (6, 5), (20, 4)):
            for layout in ("interleaved", "sequence"):
                windows = plan_windows(count, size, shared, layout)  # type: ignore[arg-type]
                assert set().union(*windows) == set(range(count)) and windows[0][0] == 0
                assert all(window == sorted(set(window)) and len(window) <= size for window in windows)
                for before, after in pairwise(windows):
                    assert len(set(before) & set(after)) >= shared
                    assert set(after) - set(before)
    with pytest.raises(UserError, match="windows of 3 photos cannot share 3"):
        plan_windows(9, 3, 3)


def test_windows_shrink_when_the_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(KnownScene):
        def forward(self, images: Tensor, **options: object) -> dict[str, Tensor]:
            if len(images) > 4:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(images, **options)  # type: ignore[arg-type]

    model = Small()
    found = predict(model, [photo(40, 30, index) for index in range(10)], window=9, shared=5)  # type: ignore[arg-type]
    assert max(map(len, found.windows)) == 4
    check(found, model, 10, 1e-4)
    monkeypatch.setattr(Small, "forward", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(UserError, match="does not hold 2 photos"):
        predict(model, [photo(40, 30, index) for index in range(10)])  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [[(40, 30)], [(123, 77), (77, 123)], [(56, 56), (300, 20), (9, 200), (1, 1)]])
def test_points_land_in_their_pixels(sizes: list[tuple[int, int]], tiny: VGGT) -> None:
    found = predict(tiny, (photo(*size) for size in sizes))
    for index, (width, height) in enumerate(sizes):
        placement, K = found.placements[index], found.intrinsics[index]
        assert placement.photo == (width, height)
        np.testing.assert_allclose(K[:2, 2], [width / 2, height / 2], rtol=1e-6)
        view = found.extrinsics[index].astype(np.float64)
        points = found.world_points(index).astype(np.float64) @ view[:3, :3].T + view[:3, 3]
        image = points @ K.T
        rows, columns = found.depth[index].shape
        centres = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), axis=-1)
        expected = placement.to_photo(centres)
        np.testing.assert_allclose(image[..., :2] / image[..., 2:], expected, atol=2e-3 * max(width, height))
        np.testing.assert_allclose(points[..., 2], found.depth[index], rtol=1e-3)
        np.testing.assert_allclose(placement.to_canvas(expected), centres, atol=1e-9)
        inside = (expected > 0).all(-1) & (expected[..., 0] < width) & (expected[..., 1] < height)
        assert np.array_equal(found.confidence[index] > 0, inside)


def test_canvas_shows_the_photo_where_the_placement_says() -> None:
    width, height = 90, 64
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = 2 * np.arange(width)
    ramp[..., 1] = 2 * np.arange(height)[:, None]
    scaled, placements = place_photos([ramp, photo(50, 100)], 112, 14)
    canvas, place = placements[0].put(scaled[0]).numpy() * 255, placements[0]
    assert canvas.shape == (3, 112, 112) and place.scaled == (112, 84) and place.offset == (0, 14)
    rows, columns = np.mgrid[20:92, 6:106]
    expected = 2 * (place.to_photo(np.stack([columns + 0.5, rows + 0.5], axis=-1)) - 0.5)
    np.testing.assert_allclose(canvas[:2, 20:92, 6:106].transpose(1, 2, 0), expected, atol=1.5)
    assert (canvas[:, :14] == 255).all() and (canvas[:, -14:] == 255).all()
    assert np.abs(place.colors(ramp).astype(float) - canvas.transpose(1, 2, 0)).max() < 0.51


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no photo"),
        ([photo(20, 20), np.zeros((20, 20), np.uint8)], r"photo 1 is uint8 \[20, 20\]"),
        ([np.zeros((20, 20, 3), np.float32)], r"photo 0 is float32"),
        ([np.zeros((20, 20, 4), np.uint8)], r"\[20, 20, 4\], but must be RGB"),
        ([np.zeros((0, 20, 3), np.uint8)], r"photo 0"),
    ],
)
def test_what_is_no_photo_is_named(bad: list[npt.NDArray[np.uint8]], message: str, tiny: VGGT) -> None:
    with pytest.raises(UserError, match=message):
        predict(tiny, bad)


def test_senseless_answers_are_said(tiny: VGGT, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.camera_head is not None
    bias = tiny.camera_head.pose_branch.fc2.bias.data
    kept = bias.clone()
    try:
        bias[7:] = -1e3
        assert np.isfinite(predict(tiny, [photo(40, 30)]).intrinsics).all()
        assert "fields of view that no camera has" in " ".join(capsys.readouterr().out.split())
        bias[0] = float("nan")
        with pytest.raises(UserError, match="infinite numbers"):
            predict(tiny, [photo(40, 30)])
    finally:
        bias.copy_(kept)


def test_windows_that_see_nothing_in_common_are_said() -> None:
    class Random(KnownScene):
        def forward(self, images: Tensor, **options: object) -> dict[str, Tensor]:
            found = super().forward(images, **options)  # type: ignore[arg-type]
            return found | {"depth": torch.exp(3 * torch.randn(found["depth"].shape))}

    torch.manual_seed(0)
    with pytest.raises(UserError, match="do not agree on the 2 that they share"):
        predict(Random(), [photo(40, 30, index) for index in range(6)], window=4, shared=2)  # type: ignore[arg-type]
