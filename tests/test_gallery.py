"""The demo scene: what it promises about its things, and that its files agree with each other."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.gallery import SCENE_VERSION, write_gallery
from lang_splat_ns.scenes.gallery_render import Picture, path, render
from lang_splat_ns.scenes.gallery_scene import ABSENT, CHINESE, COLOURS, Thing, prompts, things
from lang_splat_ns.scenes.labels import read_labels
from lang_splat_ns.scenes.solids import Block, Pose, Ring, Shape, ball, cut_cone, cylinder, dome

FULL_SIZE = (480, 270, 40)
# Every fifth view of the full path: enough to see all sides.
SAMPLED_VIEWS = range(2, 40, 5)


def solids() -> list[Thing]:
    return [thing for thing in things() if thing.solid]


@cache
def full_view(index: int) -> Picture:
    return render(path(*FULL_SIZE)[index])


def shares(index: int) -> np.ndarray:
    """Share of the view that each thing has."""
    return np.bincount(full_view(index).instance.ravel(), minlength=len(things())) / (FULL_SIZE[0] * FULL_SIZE[1])


def read_png(file: Path) -> np.ndarray:
    return cv2.imread(str(file), cv2.IMREAD_UNCHANGED)


def read_ply(file: Path) -> tuple[np.ndarray, np.ndarray]:
    from plyfile import PlyData

    vertex = PlyData.read(str(file))["vertex"]
    return (
        np.stack([vertex[name] for name in ("x", "y", "z")], axis=1),
        np.stack([vertex[name] for name in ("red", "green", "blue")], axis=1),
    )


class TestDescription:
    def test_ten_solids_of_eight_colours(self) -> None:
        colours = {part.colour for thing in solids() for part in thing.parts}
        assert len(solids()) >= 10
        assert len(colours) >= 8 and colours <= set(COLOURS)

    def test_one_pair_of_one_colour_shares_it(self) -> None:
        plain = [thing.parts[0].colour for thing in solids() if len(thing.parts) == 1]
        assert sorted(colour for colour in set(plain) if plain.count(colour) > 1) == ["green"]
        assert plain.count("green") == 2

    def test_three_solids_of_two_colours_are_named_by_both_and_no_pair_repeats(self) -> None:
        two = [thing for thing in solids() if len(thing.parts) == 2]
        pairs = {frozenset(part.colour for part in thing.parts) for thing in two}
        assert len(two) == len(pairs) == 3
        for thing in two:
            assert thing.prompted and all(part.colour in thing.name for part in thing.parts)
            assert any(part.prompted for part in thing.parts)

    def test_hues_of_two_coloured_solids_are_on_nothing_else(self) -> None:
        plain = {thing.parts[0].colour for thing in solids() if len(thing.parts) == 1}
        assert not plain & {part.colour for thing in solids() if len(thing.parts) == 2 for part in thing.parts}

    def test_words_of_the_prompts_name_no_other_colour(self) -> None:
        from matplotlib.colors import XKCD_COLORS

        named = {name.removeprefix("xkcd:") for name in XKCD_COLORS}
        owned = {word for colour in COLOURS for word in colour.split()}
        assert {word for prompt in prompts() for word in prompt.split() if word in named} <= owned

    def test_every_prompt_has_chinese_and_no_other_has(self) -> None:
        assert set(CHINESE) == {*prompts(), *ABSENT}
        assert len(set(CHINESE.values())) == len(CHINESE)
        assert not set(ABSENT) & set(prompts())

    def test_photographs_come_with_the_package(self) -> None:
        import skimage

        files = [part.colour.removeprefix("photo:") for thing in things() for part in thing.parts if ":" in part.colour]
        assert len(files) == 3
        for file in files:
            assert (Path(skimage.__file__).parent / "data" / file).is_file()


class TestViews:
    def test_the_smallest_solid_is_at_most_half_a_percent_and_all_are_seen(self) -> None:
        seen = np.array([shares(index) for index in SAMPLED_VIEWS])
        ids = [number for number, thing in enumerate(things()) if thing.solid]
        smallest = min(ids, key=lambda number: seen[:, number].max())
        assert 0 < seen[:, smallest].max() <= 0.005
        # Each is clearly visible somewhere, and each held-out photo shows nearly all.
        assert (seen[:, ids].max(axis=0) > 5e-4).all()
        assert ((seen[:, ids] > 4e-4).sum(axis=1) >= len(ids) - 1).all()

    def test_some_solids_touch_and_some_hide_others(self) -> None:
        names = [thing.name for thing in things()]
        by_name = {thing.name: thing.parts[0].shapes[0] for thing in things()}
        cylinder_, ball_ = by_name["teal cylinder"].pose.centre, by_name["green ball"].pose.centre
        apart = np.linalg.norm((cylinder_ - ball_)[:2])
        reach = by_name["teal cylinder"].extent[0] + by_name["green ball"].extent[0]
        assert apart == pytest.approx(reach, abs=2e-3)
        areas = [shares(index)[names.index("green ball")] for index in SAMPLED_VIEWS]
        assert min(areas) < 0.4 * max(areas)

    def test_a_ring_has_a_hole(self) -> None:
        from skimage.measure import euler_number

        ring = [thing.name for thing in things()].index("purple ring")
        assert any(euler_number(full_view(index).instance == ring, connectivity=1) <= 0 for index in SAMPLED_VIEWS)

    def test_cameras_stand_at_fifty_degrees_on_both_sides_and_held_out_ones_between_others(self) -> None:
        eyes = np.array([view.pose[:3, 3] for view in path(*FULL_SIZE)])
        azimuth = np.rad2deg(np.arctan2(eyes[:, 0], -eyes[:, 1]))
        assert azimuth.min() <= -50 and azimuth.max() >= 50
        held = list(SAMPLED_VIEWS)
        rest = [index for index in range(40) if index not in held]
        for index in held:
            assert {index - 1, index + 1} <= set(rest)
            assert np.linalg.norm(eyes[rest] - eyes[index], axis=1).min() < 0.3

    def test_views_are_filled_and_poses_are_rotations(self) -> None:
        for index in (0, 20, 39):
            assert np.isfinite(full_view(index).depth).all()
            turn = path(*FULL_SIZE)[index].pose[:3, :3]
            assert np.allclose(turn @ turn.T, np.eye(3)) and np.linalg.det(turn) == pytest.approx(1)

    def test_shading_leaves_each_solid_its_hue(self) -> None:
        from skimage.color import rgb2lab

        names = [name for name in COLOURS if name not in ("white", "black")]
        anchors = rgb2lab(np.array([COLOURS[name] for name in names], np.uint8)[None])[0, :, 1:]
        hues = np.arctan2(anchors[:, 1], anchors[:, 0])
        picture = full_view(20)
        for number, thing in enumerate(things()):
            for part_id, part in enumerate(thing.parts, start=1):
                seen = (picture.instance == number) & (picture.part == part_id)
                if part.colour in names and seen.sum() > 50:
                    lab = rgb2lab(picture.colour[seen][None])[0, :, 1:]
                    turn = np.angle(np.exp(1j * (np.arctan2(lab[:, 1], lab[:, 0])[:, None] - hues)))
                    nearest = np.abs(turn).argmin(axis=1)
                    assert (nearest == names.index(part.colour)).mean() > 0.9, part.name


class TestFiles:
    def test_transforms_describe_the_folder(self, tiny_scene: Path) -> None:
        content = json.loads((tiny_scene / "transforms.json").read_text("utf-8"))
        files = [frame["file_path"] for frame in content["frames"]]
        assert content["scene_version"] == SCENE_VERSION and content["camera_model"] == "OPENCV"
        assert len(files) == 12 and all((tiny_scene / file).is_file() for file in files)
        assert content["val_filenames"] == content["test_filenames"] and len(content["val_filenames"]) == 3
        assert sorted(content["train_filenames"] + content["val_filenames"]) == files
        assert (content["w"], content["h"], content["cx"], content["cy"]) == (128, 72, 64, 36)
        assert [content[key] for key in ("k1", "k2", "p1", "p2")] == [0, 0, 0, 0]
        assert content["applied_transform"] == np.eye(4)[:3].tolist()
        field = 2 * np.rad2deg(np.arctan(0.5 * content["h"] / content["fl_y"]))
        assert field == pytest.approx(50, abs=0.1)
        for file in files:
            assert read_png(tiny_scene / file).shape == (72, 128, 3)

    def test_labels_are_of_the_held_out_photos_and_fit_the_masks(self, tiny_scene: Path) -> None:
        content = json.loads((tiny_scene / "transforms.json").read_text("utf-8"))
        labels = read_labels(tiny_scene)
        assert labels is not None
        assert list(labels.frames) == [Path(file).stem for file in content["val_filenames"]]
        assert labels.absent == ABSENT and labels.translations == CHINESE
        for stem, frame in labels.frames.items():
            truth = read_png(tiny_scene / "masks" / f"{stem}.png")
            assert len(frame.categories) >= 12
            for category in frame.categories:
                instance, part = prompts()[category]
                expected = truth // 10 == instance
                expected = expected if part is None else expected & (truth % 10 == part)
                mask = frame.mask(category)
                overlap = (mask & expected).sum() / (mask | expected).sum()
                assert overlap > (0.97 if expected.sum() >= 60 else 0.75), (stem, category)
                assert not (mask & ~np.any(frame.box_masks(category), axis=0)).any()

    def test_scene_version_stands_in_labels_and_masks(self, tiny_scene: Path) -> None:
        instances = json.loads((tiny_scene / "masks" / "instances.json").read_text("utf-8"))
        assert instances["scene_version"] == SCENE_VERSION
        assert [entry["name"] for entry in instances["instances"]] == [thing.name for thing in things()]
        for file in (tiny_scene / "label").glob("frame_*.json"):
            assert json.loads(file.read_text("utf-8"))["info"]["scene_version"] == SCENE_VERSION

    def test_points_lie_on_what_the_photos_show(self, tiny_scene: Path) -> None:
        content = json.loads((tiny_scene / "transforms.json").read_text("utf-8"))
        points, colours = read_ply(tiny_scene / "sparse_pc.ply")
        assert points.shape == (3000, 3) and colours.dtype == np.uint8
        # Each point is a pixel of some training photo: depth, colour and solid must agree there.
        explained = np.zeros(len(points), bool)
        for frame in content["frames"]:
            if frame["file_path"] in content["val_filenames"]:
                continue
            pose, stem = np.array(frame["transform_matrix"]), Path(frame["file_path"]).stem
            local = (points - pose[:3, 3]) @ pose[:3, :3]
            depth = -local[:, 2]
            x = local[:, 0] / depth * content["fl_x"] + content["cx"]
            y = -local[:, 1] / depth * content["fl_y"] + content["cy"]
            inside = (depth > 0) & (x >= 0) & (x < 128) & (y >= 0) & (y < 72)
            column, row = x[inside].astype(int), y[inside].astype(int)
            seen = np.abs(read_png(tiny_scene / "depth" / f"{stem}.png")[row, column] / 1000 - depth[inside]) < 2e-3
            # A point that is a pixel's centre; others project between centres.
            centred = (np.abs(x[inside] % 1 - 0.5) < 1e-2) & (np.abs(y[inside] % 1 - 0.5) < 1e-2)
            image = read_png(tiny_scene / "images" / f"{stem}.png")[..., ::-1]
            close = np.abs(image[row, column].astype(int) - colours[inside]).max(axis=1) < 60
            index = np.flatnonzero(inside)
            explained[index[seen & centred & close]] = True
        # At this size a pixel on an outline mixes two colours, so not all points match their pixel.
        assert explained.mean() > 0.9

    def test_two_views_see_the_same_surfaces(self, tiny_scene: Path) -> None:
        content = json.loads((tiny_scene / "transforms.json").read_text("utf-8"))
        first, second = content["frames"][4], content["frames"][5]
        stems = [Path(frame["file_path"]).stem for frame in (first, second)]
        depths = [read_png(tiny_scene / "depth" / f"{stem}.png") / 1000 for stem in stems]
        masks = [read_png(tiny_scene / "masks" / f"{stem}.png") for stem in stems]
        images = [read_png(tiny_scene / "images" / f"{stem}.png").astype(int) for stem in stems]
        rows, columns = np.mgrid[:72, :128]
        local = np.stack(
            [(columns - 63.5) / content["fl_x"], -(rows - 35.5) / content["fl_y"], -np.ones((72, 128))], -1
        )
        pose, other = np.array(first["transform_matrix"]), np.array(second["transform_matrix"])
        points = (local * depths[0][..., None]) @ pose[:3, :3].T + pose[:3, 3]
        seen = (points - other[:3, 3]) @ other[:3, :3]
        x = np.floor(-seen[..., 0] / seen[..., 2] * content["fl_x"] + 64).astype(int)
        y = np.floor(seen[..., 1] / seen[..., 2] * content["fl_y"] + 36).astype(int)
        inside = (x >= 0) & (x < 128) & (y >= 0) & (y < 72)
        open_ = inside.copy()
        open_[inside] = np.abs(depths[1][y[inside], x[inside]] + seen[..., 2][inside]) < 0.02
        assert open_.mean() > 0.4
        assert (masks[0][open_] == masks[1][y[open_], x[open_]]).mean() > 0.97
        # Light does not depend on the view.
        assert np.median(np.abs(images[0][open_] - images[1][y[open_], x[open_]])) <= 3

    def test_the_same_call_writes_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("first", "second"):
            write_gallery(tmp_path / name, width=64, height=36, views=4, held_out=1, points=200)
        files = sorted(file.relative_to(tmp_path / "first") for file in (tmp_path / "first").rglob("*.*"))
        assert len(files) == 4 * 3 + 1 + 5
        for file in files:
            assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file

    def test_the_seed_moves_the_points_and_nothing_else(self, tmp_path: Path) -> None:
        for seed in (0, 1):
            write_gallery(tmp_path / str(seed), width=32, height=18, views=3, held_out=1, points=50, seed=seed)
        clouds, images = (
            [(tmp_path / str(seed) / name).read_bytes() for seed in (0, 1)]
            for name in ("sparse_pc.ply", "images/frame_00001.png")
        )
        assert clouds[0] != clouds[1] and images[0] == images[1]

    @pytest.mark.parametrize(
        "arguments", [{"views": 4, "held_out": 3}, {"held_out": 0}, {"width": 4}, {"height": 0}, {"points": 0}]
    )
    def test_impossible_numbers_are_refused_before_anything_is_written(
        self, tmp_path: Path, arguments: dict[str, int]
    ) -> None:
        with pytest.raises(UserError):
            write_gallery(tmp_path / "out", **arguments)
        assert not (tmp_path / "out").exists()


SHAPES = [
    ball(Pose.at(0.1, 0.2, 0.3), 0.5, squash=0.7),
    dome(Pose.at(0, 0, 0, turn=30), 0.4, 0.3),
    cylinder(Pose.at(0, 0.1, 0, tilt=90, turn=20), 0.3, 0.5),
    cut_cone(Pose.at(0, 0, -0.2), 0.3, 0.1, 0.5),
    Block(Pose.at(0.1, 0, 0, turn=40, tilt=20), (0.3, 0.2, 0.4)),
    Ring(Pose.at(0, 0, 0.1, tilt=70), 0.35, 0.12),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_rays_meet_a_shape_where_its_surface_is_and_normals_face_them(shape: Shape) -> None:
    random = np.random.default_rng(0)
    origin = random.normal(size=(4000, 3)).astype(np.float32)
    origin *= 2 / np.linalg.norm(origin, axis=1, keepdims=True)
    direction = random.uniform(-0.4, 0.4, (4000, 3)).astype(np.float32) - origin
    t = shape.hit(origin, direction)
    hit = np.isfinite(t)
    assert 0.1 < hit.mean() < 0.99
    points = origin[hit] + t[hit, None] * direction[hit]
    assert (np.abs(points) <= shape.extent * 1.001 + 1e-3).all()
    normals = shape.normal(points)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
    # The first hit of a ray from outside is on a face that looks back at it.
    assert (np.einsum("ni,ni->n", normals, direction[hit]) < 1e-2).mean() > 0.999
    # A step along the normal leaves the shape: from there, the way back meets the surface after that step.
    outside = points + np.float32(0.02) * normals
    back = shape.hit(outside, -normals)
    assert np.median(np.abs(back - 0.02)) < 1e-3


def test_poses_take_points_there_and_back() -> None:
    pose = Pose.at(0.3, -0.2, 1.0, turn=33, tilt=50)
    points = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    assert np.allclose(pose.to_local(pose.to_room(points)), points, atol=1e-5)
    assert np.allclose(pose.turn_to_local(pose.turn_to_room(points)), points, atol=1e-5)
