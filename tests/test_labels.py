"""Ground truth in the form of LERF-OVS: how polygons become masks, and what a broken file says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.labels import FrameLabels, SceneLabels, fill_polygon, read_labels
from lang_splat_ns.scenes.labels_lerf_ovs import write_labels
from lang_splat_ns.scenes.outlines import trace

SHARED_SCENES = Path(__file__).parents[2] / "shared" / "scenes"
INFO = {"name": "a.png", "width": 10, "height": 8}
TRIANGLE = [[1, 1], [5, 1], [1, 5]]


def polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float64)


def square(low: float, high: float) -> list[tuple[float, float]]:
    return [(low, low), (high, low), (high, high), (low, high)]


def put(folder: Path, content: object, name: str = "a.json") -> Path:
    (folder / "label").mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "label" / name).write_text(text, encoding="utf-8")
    return folder


def put_object(folder: Path, **entry: object) -> Path:
    return put(folder, {"info": INFO, "objects": [{"category": "thing", **entry}]})


class TestFilling:
    def test_whole_pixels_are_filled_exactly(self) -> None:
        mask = fill_polygon(polygon((2, 3), (6, 3), (6, 5), (2, 5)), 10, 8)
        expected = np.zeros((8, 10), bool)
        expected[3:5, 2:6] = True
        assert np.array_equal(mask, expected)

    def test_a_pixel_belongs_by_its_centre_at_one_half(self) -> None:
        def reaches_pixel_2(edge: float) -> bool:
            return bool(fill_polygon(polygon((0, 0), (edge, 0), (edge, 8), (0, 8)), 10, 8)[4, 2])

        assert reaches_pixel_2(2.51)
        assert not reaches_pixel_2(2.49)

    def test_the_first_pixel_is_inside_a_polygon_around_its_centre(self) -> None:
        mask = fill_polygon(polygon((0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6)), 10, 8)
        assert mask[0, 0] and mask.sum() == 1

    def test_a_bridge_of_no_width_cuts_a_hole(self) -> None:
        outer, inner = square(1, 9), square(3, 6)
        mask = fill_polygon(polygon(*outer, outer[0], *inner, inner[0]), 10, 10)
        assert mask.sum() == 8 * 8 - 3 * 3
        assert not mask[3:6, 3:6].any()

    def test_crossing_itself_leaves_a_hole_by_the_even_odd_rule(self) -> None:
        # The five-pointed star: its middle is inside by winding, outside by even-odd.
        angles = np.pi * (-0.5 + 0.8 * np.arange(5))
        star = np.stack([50 + 45 * np.cos(angles), 50 + 45 * np.sin(angles)], axis=1)
        mask = fill_polygon(star, 100, 100)
        assert not mask[50, 50]
        assert mask[10, 50]

    def test_even_odd_holds_within_a_polygon_but_overlapping_polygons_unite(self) -> None:
        two = [polygon(*square(1, 6)), polygon(*square(3, 8))]
        labels = FrameLabels("a.png", 10, 10, {"thing": two}, {"thing": []})
        assert labels.mask("thing").sum() == 25 + 25 - 9
        assert labels.mask("thing")[4, 4]

    def test_what_lies_beyond_the_image_is_cut_off(self) -> None:
        assert fill_polygon(polygon((-50, -50), (50, -50), (50, 50), (-50, 50)), 10, 8).all()
        assert not fill_polygon(polygon((-9, 0), (-2, 0), (-2, 8)), 10, 8).any()

    def test_it_agrees_with_point_in_polygon(self) -> None:
        from skimage.measure import points_in_poly

        random = np.random.default_rng(3)
        rows, columns = np.mgrid[:30, :40]
        centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
        for _ in range(20):
            points = random.uniform(-5, 45, (9, 2))
            expected = points_in_poly(centres, points).reshape(30, 40)
            assert np.array_equal(fill_polygon(points, 40, 30), expected)


class TestTracing:
    def test_outlines_give_the_mask_back(self) -> None:
        rows, columns = np.mgrid[:60, :80]
        away = np.hypot(rows - 28, columns - 40)
        mask = ((away < 25) & (away > 12)) | (away < 5) | ((rows < 20) & (columns > 70))
        polygons, boxes = trace(mask)
        assert len(polygons) == len(boxes) == 3
        again = FrameLabels("a.png", 80, 60, {"thing": polygons}, {"thing": boxes}).mask("thing")
        assert np.array_equal(again, mask)

    def test_two_holes_are_both_cut(self) -> None:
        mask = np.ones((20, 30), bool)
        mask[5:10, 5:10] = mask[8:16, 18:25] = False
        polygons, _ = trace(mask)
        assert len(polygons) == 1
        assert np.array_equal(fill_polygon(polygons[0], 30, 20), mask)

    def test_boxes_bound_the_pixels(self) -> None:
        mask = np.zeros((20, 30), bool)
        mask[4:9, 6:17] = True
        assert trace(mask)[1] == [(6.0, 4.0, 17.0, 9.0)]

    def test_nothing_gives_nothing(self) -> None:
        assert trace(np.zeros((5, 5), bool)) == ([], [])


class TestBoxes:
    def test_a_box_marks_the_centres_inside(self) -> None:
        labels = FrameLabels("a.png", 10, 8, {}, {"thing": [(1.0, 2.0, 4.0, 5.0), (2.6, 0.0, 99.0, 0.6)]})
        first, second = labels.box_masks("thing")
        assert first.sum() == 9 and first[2:5, 1:4].all()
        assert np.array_equal(np.argwhere(second)[:, 1], np.arange(3, 10))

    def test_a_thin_box_still_has_a_pixel(self) -> None:
        (mask,) = FrameLabels("a.png", 10, 8, {}, {"thing": [(3.1, 2.0, 3.3, 5.0)]}).box_masks("thing")
        assert np.argwhere(mask)[:, 1].tolist() == [3, 3, 3]


class TestReading:
    def test_without_a_label_folder_there_is_no_ground_truth(self, tmp_path: Path) -> None:
        assert read_labels(tmp_path) is None

    @pytest.mark.parametrize(
        "segmentation",
        [TRIANGLE, [TRIANGLE], [1, 1, 5, 1, 1, 5], [[1, 1, 5, 1, 1, 5]], [[TRIANGLE]]],
        ids=["points", "list of polygons", "flat", "list of flat", "nested"],
    )
    def test_every_form_of_a_segmentation_is_the_same_polygon(self, tmp_path: Path, segmentation: object) -> None:
        labels = read_labels(put_object(tmp_path, segmentation=segmentation, bbox=[1, 1, 5, 5]))
        assert labels is not None
        (found,) = labels.frames["a"].polygons["thing"]
        assert found.tolist() == TRIANGLE

    def test_a_list_of_polygons_of_one_object_is_united(self, tmp_path: Path) -> None:
        two = [square(0, 2), square(4, 7)]
        labels = read_labels(put_object(tmp_path, segmentation=two))
        assert labels is not None
        assert labels.frames["a"].mask("thing").sum() == 4 + 9
        assert labels.frames["a"].boxes["thing"] == [(0.0, 0.0, 7.0, 7.0)]

    def test_what_is_written_is_read_back(self, tmp_path: Path) -> None:
        frame = FrameLabels(
            "a.png", 10, 8, {"猫": [polygon((1.25, 1), (5, 1.5), (1, 5))]}, {"猫": [(1.0, 1.0, 5.0, 5.0)]}
        )
        write_labels(tmp_path, SceneLabels({"a": frame, "A": frame}, ("dog",), {"猫": "猫"}), {"scene_version": 7})
        labels = read_labels(tmp_path)
        assert labels is not None
        assert set(labels.frames) == {"a", "A"}
        assert labels.absent == ("dog",) and labels.translations == {"猫": "猫"}
        assert labels.frames["a"].boxes == frame.boxes
        assert np.array_equal(labels.frames["a"].polygons["猫"][0], frame.polygons["猫"][0])
        assert json.loads((tmp_path / "label" / "a.json").read_text("utf-8"))["info"]["scene_version"] == 7

    def test_stems_with_dots_and_capitals_are_kept(self, tmp_path: Path) -> None:
        put(tmp_path, {"info": INFO, "objects": []}, "frame-000019.Color.json")
        labels = read_labels(tmp_path)
        assert labels is not None and list(labels.frames) == ["frame-000019.Color"]

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            ("{not json", "not valid JSON"),
            ([], '"info"'),
            ({"objects": []}, '"info"'),
            ({"info": {"width": 4}, "objects": []}, '"height"'),
            ({"info": {"width": 0, "height": 4}, "objects": []}, '"width"'),
            ({"info": {"width": True, "height": 4}, "objects": []}, '"width"'),
            ({"info": {"width": 4, "height": -4}, "objects": []}, "-4"),
            ({"info": INFO}, '"objects"'),
            ({"info": INFO, "objects": [3]}, '"category"'),
            ({"info": INFO, "objects": [{"segmentation": TRIANGLE}]}, '"category"'),
        ],
    )
    def test_a_malformed_file_is_named_with_its_fault(self, tmp_path: Path, content: object, fault: str) -> None:
        with pytest.raises(UserError, match=r"a\.json") as error:
            read_labels(put(tmp_path, content))
        assert fault in str(error.value)

    @pytest.mark.parametrize(
        ("entry", "fault"),
        [
            ({}, '"segmentation"'),
            ({"segmentation": []}, '"segmentation"'),
            ({"segmentation": "abc"}, '"segmentation"'),
            ({"segmentation": [[1, 1], [2, 2]]}, "at least 3 points"),
            ({"segmentation": [1, 1, 5, 1]}, "at least 3 points"),
            ({"segmentation": [1, 1, 5, 1, 1]}, "pairs"),
            ({"segmentation": [[1, 1], [2, "x"], [3, 3]]}, '"segmentation"'),
            ({"segmentation": [[1, 1], [2, None], [3, 3]]}, '"segmentation"'),
            ({"segmentation": TRIANGLE, "bbox": [1, 2, 3]}, '"bbox"'),
        ],
    )
    def test_a_malformed_object_is_named_by_file_and_number(
        self, tmp_path: Path, entry: dict[str, object], fault: str
    ) -> None:
        with pytest.raises(UserError, match=r"a\.json, object 0") as error:
            read_labels(put_object(tmp_path, **entry))
        assert fault in str(error.value)

    @pytest.mark.parametrize(("name", "content"), [("absent.json", {"a": 1}), ("queries_zh.json", ["a"])])
    def test_malformed_prompt_lists_are_named(self, tmp_path: Path, name: str, content: object) -> None:
        with pytest.raises(UserError, match=name):
            read_labels(put(tmp_path, content, name))


@pytest.mark.skipif(not SHARED_SCENES.is_dir(), reason="the real scenes (../shared/scenes) are not on this machine")
@pytest.mark.parametrize(("scene", "frames", "prompts"), [("desk", 6, 13), ("bear", 4, 4), ("redkitchen", 7, 13)])
def test_hand_made_ground_truth_reads(scene: str, frames: int, prompts: int) -> None:
    labels = read_labels(SHARED_SCENES / scene)
    assert labels is not None and len(labels.frames) == frames and len(labels.absent) == 6
    assert len({category for frame in labels.frames.values() for category in frame.categories}) == prompts
    photos = {path.stem for path in (SHARED_SCENES / scene / "images").iterdir()}
    assert set(labels.frames) <= photos
    for frame in labels.frames.values():
        for category in frame.categories:
            mask = frame.mask(category)
            assert mask.any() and mask.shape == (frame.height, frame.width)
            # Boxes were drawn around the same outlines.
            boxes = np.any(frame.box_masks(category), axis=0)
            assert (mask & boxes).sum() >= 0.97 * mask.sum()
            assert set(labels.translations) >= {category}
