"""Ground truth in the forms of 3D-OVS, of LERF's boxes and of COCO, as other people wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.labels import SceneLabels, read_labels

LERF_EVAL = Path(__file__).parents[2] / "shared" / "lerf_eval"
W, H = 12, 9


def labels_of(data: Path) -> SceneLabels:
    labels = read_labels(data)
    assert labels is not None
    return labels


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def put_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


class TestPlaces:
    def test_lerf_ovs_is_found_beside_the_scene(self, tmp_path: Path) -> None:
        scene = tmp_path / "figurines"
        scene.mkdir()
        entry = {"category": "duck", "segmentation": [[1, 1], [5, 1], [1, 5]]}
        info = {"name": "frame_00041.jpg", "width": W, "height": H}
        path = tmp_path / "label" / "figurines" / "frame_00041.json"
        put_json(path, {"info": info, "objects": [entry]})
        assert list(labels_of(scene).frames) == ["frame_00041"]
        assert read_labels(tmp_path / "ramen") is None

    def test_labels_that_are_there_twice_are_nobodys_choice(self, tmp_path: Path) -> None:
        put_json(tmp_path / "queries.json", {"imageWidth": W, "imageHeight": H, "keyframes": []})
        put_json(tmp_path / "annotations.json", {"images": [], "categories": [], "annotations": []})
        with pytest.raises(UserError, match=r"twice.*queries\.json and .*annotations\.json"):
            read_labels(tmp_path)

    def test_other_json_is_left_alone(self, tmp_path: Path) -> None:
        put_json(tmp_path / "transforms.json", {"frames": []})
        put_json(tmp_path / "notes.json", ["images", "categories", "annotations"])
        (tmp_path / "torn.json").write_text("{")
        assert read_labels(tmp_path) is None

    def test_lists_of_prompts_lie_beside_any_labels(self, tmp_path: Path) -> None:
        put_json(tmp_path / "queries.json", {"imageWidth": W, "imageHeight": H, "keyframes": []})
        put_json(tmp_path / "absent.json", ["tiger"])
        put_json(tmp_path / "queries_zh.json", {"cup": "杯子"})
        labels = labels_of(tmp_path)
        assert labels.absent == ("tiger",) and labels.in_language("zh", tmp_path) == {"cup": "杯子"}
        (tmp_path / "queries_zh.json").unlink()
        with pytest.raises(UserError, match=rf"{tmp_path}/queries_zh\.json: missing"):
            labels_of(tmp_path).in_language("zh", tmp_path)


class TestThreeDOvs:
    def scene(self, folder: Path, photos: list[str], frames: dict[str, dict[str, np.ndarray]]) -> Path:
        (folder / "images").mkdir()
        for photo in photos:
            Image.new("RGB", (W, H)).save(folder / "images" / photo)
        for frame, masks in frames.items():
            (folder / "segmentations" / frame).mkdir(parents=True)
            for name, mask in masks.items():
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "segmentations" / frame / f"{name}.png")
        (folder / "segmentations" / "classes.txt").write_text("red bag\nwall\n\n", encoding="utf-8")
        return folder

    def test_masks_are_read_as_they_are(self, tmp_path: Path) -> None:
        bag, wall = block(2, 3, 4, 5), ~block(2, 3, 4, 5)
        frames = {"03": {"wall": wall, "red bag": bag}, "11": {"wall": wall}}
        labels = labels_of(self.scene(tmp_path, ["03.jpg", "04.jpg", "11.png"], frames))
        assert list(labels.frames) == ["03", "11"] and labels.classes == ("red bag", "wall")
        frame = labels.frames["03"]
        assert (frame.name, frame.width, frame.height) == ("03.jpg", W, H)
        assert frame.categories == frame.outlined == ("red bag", "wall") and frame.boxes == {}
        assert np.array_equal(frame.mask("red bag"), bag) and np.array_equal(frame.mask("wall"), wall)
        assert labels.frames["11"].categories == ("wall",)
        with pytest.raises(KeyError):
            labels.frames["11"].mask("red bag")

    def test_what_is_dark_or_transparent_is_outside(self, tmp_path: Path) -> None:
        self.scene(tmp_path, ["0.jpg"], {"0": {}})
        shades = np.zeros((H, W, 4), np.uint8)
        shades[0, :4] = [(255, 255, 255, 255), (128, 128, 128, 255), (127, 127, 127, 255), (255, 255, 255, 100)]
        Image.fromarray(shades, "RGBA").save(tmp_path / "segmentations" / "0" / "wall.png")
        assert np.argwhere(labels_of(tmp_path).frames["0"].mask("wall")).tolist() == [[0, 0], [0, 1]]

    @pytest.mark.parametrize(
        ("photos", "folder", "stem"),
        [
            (["00.jpg", "01.jpg", "02.jpg"], "02", "02"),
            # Photo 1 is missing: the place of 02 is 1, and its name counts all the same.
            (["00.jpg", "02.jpg", "03.jpg"], "02", "02"),
            (["00.jpg", "01.jpg", "02.jpg"], "1", "01"),
            (["b.jpg", "a.jpg", "c.jpg"], "0", "a"),
            (["00.jpg", "07.jpg"], "7", "07"),
        ],
        ids=["name", "name with a gap", "number that is a place too", "place", "number that is no place"],
    )
    def test_folders_are_matched_with_photos(self, tmp_path: Path, photos: list[str], folder: str, stem: str) -> None:
        assert list(labels_of(self.scene(tmp_path, photos, {folder: {"wall": block(0, 0, 1, 1)}})).frames) == [stem]

    @pytest.mark.parametrize(
        ("photos", "folders", "fault"),
        [
            (["00.jpg", "02.jpg", "03.jpg"], ["2"], r"segmentations/2: belongs to 02\.jpg or 03\.jpg"),
            (["1.jpg", "01.jpg", "x.jpg"], ["001"], "not clear"),
            (["00.jpg", "01.jpg"], ["2"], "no photo in .*images has this name"),
            (["00.jpg", "01.jpg"], ["00.jpg"], "no photo"),
            (["00.jpg", "01.jpg"], ["01", "1"], r"labels of 01\.jpg, too"),
        ],
    )
    def test_nobody_guesses(self, tmp_path: Path, photos: list[str], folders: list[str], fault: str) -> None:
        self.scene(tmp_path, photos, {folder: {"wall": block(0, 0, 1, 1)} for folder in folders})
        with pytest.raises(UserError, match=fault):
            read_labels(tmp_path)

    def test_mistakes_are_named(self, tmp_path: Path) -> None:
        scene = self.scene(tmp_path, ["0.jpg"], {"0": {"wall": block(0, 0, 1, 1), "wal": block(0, 0, 1, 1)}})
        with pytest.raises(UserError, match=r"0/wal\.png: .*classes\.txt has no such class"):
            read_labels(scene)
        torn = scene / "segmentations" / "0" / "wal.png"
        torn.rename(torn.with_name("red bag.png"))
        torn.with_name("red bag.png").write_bytes(b"\x89PNG")
        with pytest.raises(UserError, match=r"red bag\.png: not a readable image"):
            read_labels(scene)
        Image.new("L", (W, H + 1)).save(torn.with_name("red bag.png"))
        with pytest.raises(UserError, match="different sizes"):
            read_labels(scene)
        (scene / "segmentations" / "classes.txt").write_text("wall\nwall\n")
        with pytest.raises(UserError, match=r"classes\.txt must name each class once"):
            read_labels(scene)


class TestLerfBoxes:
    def put(self, folder: Path, *shapes: dict[str, Any], **more: Any) -> Path:
        content = {"imageWidth": W, "imageHeight": H, "keyframes": [{"shapes": []}, {"shapes": list(shapes)}]}
        put_json(folder / "queries.json", content | more)
        return folder

    def test_rectangles_begin_at_any_corner(self, tmp_path: Path) -> None:
        corners = [[[2, 3], [6, 5]], [[6, 5], [2, 3]], [[2, 5], [6, 3]]]
        shapes = [{"label": "cup", "points": points, "shape_type": "rectangle"} for points in corners]
        labels = labels_of(self.put(tmp_path, *shapes))
        assert list(labels.frames) == ["0_rgb", "1_rgb"] and labels.frames["0_rgb"].categories == ()
        frame = labels.frames["1_rgb"]
        assert frame.name == "1_rgb.png" and frame.boxes == {"cup": [(2.0, 3.0, 6.0, 5.0)] * 3}
        assert frame.categories == ("cup",) and frame.outlined == ()
        assert np.array_equal(frame.box_masks("cup")[0], block(3, 2, 2, 4))
        with pytest.raises(KeyError):
            frame.mask("cup")

    @pytest.mark.parametrize(
        ("shape", "fault"),
        [
            ({"points": [[1, 1], [2, 2]], "shape_type": "rectangle"}, 'no "label"'),
            ({"label": "cup", "points": [[1, 1], [2, 2]], "shape_type": "polygon"}, "only rectangles"),
            ({"label": "cup", "points": [[1, 1]], "shape_type": "rectangle"}, "two opposite corners"),
            ({"label": "cup", "points": [[1, 1], [2, None]], "shape_type": "rectangle"}, "two opposite corners"),
        ],
    )
    def test_a_malformed_shape_is_named(self, tmp_path: Path, shape: dict[str, Any], fault: str) -> None:
        with pytest.raises(UserError, match=rf"queries\.json, keyframe 1.*{fault}"):
            read_labels(self.put(tmp_path, shape))

    @pytest.mark.parametrize(
        ("more", "fault"), [({"imageWidth": 0}, '"imageWidth"'), ({"keyframes": 3}, '"keyframes"')]
    )
    def test_a_malformed_head_is_named(self, tmp_path: Path, more: dict[str, Any], fault: str) -> None:
        with pytest.raises(UserError, match=fault):
            read_labels(self.put(tmp_path, **more))


@pytest.mark.skipif(not LERF_EVAL.is_dir(), reason="LERF's boxes (../shared/lerf_eval) are not on this machine")
@pytest.mark.parametrize(
    ("scene", "counts"),
    [
        ("bouquet", (5, 6, 7, 6)),
        ("figurines", (22, 22, 22, 20)),
        ("ramen", (11, 10, 16, 15)),
        ("teatime", (13, 12, 7)),
        ("waldo_kitchen", (20, 6, 13, 19)),
    ],
)
def test_lerfs_own_boxes_read(scene: str, counts: tuple[int, ...]) -> None:
    labels = labels_of(LERF_EVAL / scene)
    assert tuple(sum(map(len, frame.boxes.values())) for frame in labels.frames.values()) == counts
    for frame in labels.frames.values():
        with Image.open(LERF_EVAL / scene / frame.name) as photo:
            assert photo.size == (frame.width, frame.height) == (480, 270)
        for category in frame.categories:
            for box, mask in zip(frame.boxes[category], frame.box_masks(category), strict=True):
                area = (box[2] - box[0]) * (box[3] - box[1])
                assert mask.any() and mask.sum() == pytest.approx(area, abs=box[2] - box[0] + box[3] - box[1] + 1)


class TestCoco:
    IMAGES = ({"id": 7, "file_name": "photos/a.b.jpg", "width": W, "height": H}, {"id": 8, "file_name": "c.jpg"})
    CATEGORIES = ({"id": 1, "name": "cup"}, {"id": 2, "name": "cat"})

    def put(self, folder: Path, *entries: dict[str, Any], name: str = "annotations.json", **more: Any) -> Path:
        numbered = [{"id": number, "image_id": 7, "category_id": 1} | entry for number, entry in enumerate(entries)]
        content = {"images": self.IMAGES, "categories": self.CATEGORIES, "annotations": numbered}
        put_json(folder / name, content | more)
        return folder

    def test_polygons_and_boxes(self, tmp_path: Path) -> None:
        two = [[1, 1, 4, 1, 4, 3, 1, 3], [6, 6, 8, 6, 8, 8, 6, 8]]
        cup = {"segmentation": two, "bbox": [1, 1, 7, 7]}
        labels = labels_of(self.put(tmp_path, cup, {"category_id": 2, "bbox": [0, 0, 3, 2]}, name="instances.json"))
        assert list(labels.frames) == ["a.b"], "a photo without annotations is not labelled"
        frame = labels.frames["a.b"]
        assert np.array_equal(frame.mask("cup"), block(1, 1, 2, 3) | block(6, 6, 2, 2))
        assert frame.boxes == {"cup": [(1, 1, 8, 8)], "cat": [(0, 0, 3, 2)]}
        assert frame.outlined == ("cup",) and frame.categories == ("cup", "cat")

    def test_runs_are_what_pycocotools_writes(self, tmp_path: Path) -> None:
        coco: Any = pytest.importorskip("pycocotools.mask")
        rng = np.random.default_rng(5)
        masks = [rng.random((H, W)) < share for share in (0.5, 0.02, 0.98)] + [block(0, 0, H, W), block(2, 3, 4, 5)]
        entries, expected = [], []
        for mask in masks:
            written = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
            entries.append({"segmentation": {"size": written["size"], "counts": written["counts"].decode()}})
            flat = mask.T.ravel()
            edges = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
            counts = np.diff([0, *edges, flat.size]).tolist()
            entries.append({"segmentation": {"size": [H, W], "counts": counts}, "iscrowd": 1, "bbox": [0, 0, 1, 1]})
            expected += [mask, mask]
        for entry, mask in zip(entries, expected, strict=True):
            frame = labels_of(self.put(tmp_path, entry)).frames["a.b"]
            assert np.array_equal(frame.mask("cup"), mask) and frame.boxes == {}
        both = labels_of(self.put(tmp_path, entries[0], entries[2], {"segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]}))
        united = masks[0] | masks[1] | block(1, 1, 2, 3)
        assert np.array_equal(both.frames["a.b"].mask("cup"), united)

    @pytest.mark.parametrize(
        ("entry", "fault"),
        [
            ({"segmentation": [[1, 1, 4, 1]]}, "annotation 0: a polygon"),
            ({"segmentation": [[1, 1, 4, 1, 4]]}, "annotation 0: a polygon"),
            ({"segmentation": {"size": [H, W], "counts": [5, 3]}}, f"cover 8 pixels of {W * H}"),
            ({"segmentation": {"size": [H, W], "counts": "i46h"}}, "annotation 0: its runs cover|lengths of runs"),
            ({"segmentation": {"size": [W, H], "counts": [0, W * H]}}, r"size \[12, 9\], its image \[9, 12\]"),
            ({"segmentation": {"size": [H, W], "counts": {}}}, "lengths of runs"),
            ({"bbox": [1, 2, 3]}, '"bbox"'),
            ({"category_id": 9}, "not listed"),
            ({"image_id": 8}, r'image c\.jpg needs "width"'),
        ],
    )
    def test_a_malformed_annotation_is_named(self, tmp_path: Path, entry: dict[str, Any], fault: str) -> None:
        with pytest.raises(UserError, match=fault):
            read_labels(self.put(tmp_path, entry))

    def test_a_malformed_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"annotations\.json needs lists"):
            read_labels(self.put(tmp_path, categories={}))
        with pytest.raises(UserError, match="entry 0 of its categories needs id and name"):
            read_labels(self.put(tmp_path, categories=[{"id": 1}]))
        twins = [{"id": number, "file_name": f"{number}/a.jpg", "width": W, "height": H} for number in (7, 8)]
        with pytest.raises(UserError, match="two of its images are called 'a'"):
            read_labels(self.put(tmp_path, {}, {"image_id": 8}, images=twins))
