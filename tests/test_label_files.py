"""Label maps from a folder: every form of them, undistorted as the photos are, and errors that say what to mend."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.extract import Frame, extract, read_label_maps
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.label_files import LabelFiles
from lang_splat_ns.perception.segmenters import LabelMaps, Segmenter, make_segmenter

PHOTO = np.zeros((6, 8, 3), dtype=np.uint8)
IDS = np.zeros((6, 8), dtype=np.int32)
IDS[:3, :4], IDS[3:, 4:] = 7, 200
EXPECTED = np.where(IDS == 7, 0, np.where(IDS == 200, 1, -1))


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)


def labels_of(folder: Path, name: str = "a.jpg") -> LabelMaps:
    segmenter = make_segmenter(f"labels:{folder}")
    assert isinstance(segmenter, LabelFiles)
    assert isinstance(segmenter, Segmenter)
    return segmenter.segment_named(name, PHOTO)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, "palette"])
def test_one_png_is_one_level(tmp_path: Path, kind: type | str) -> None:
    if kind == "palette":
        image = Image.fromarray(IDS.astype(np.uint8), mode="P")
        image.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
        image.save(tmp_path / "a.png")
    else:
        write(tmp_path / "a.png", (IDS * (300 if kind is np.uint16 else 1)).astype(kind))
    maps = labels_of(tmp_path)
    assert maps.levels == ("whole",)
    assert np.array_equal(maps.labels[0], EXPECTED)


@pytest.mark.parametrize("form", ["{stem}.{level}.png", "{level}/{stem}.png"])
def test_a_png_per_level(tmp_path: Path, form: str) -> None:
    for level, value in (("part", 1), ("whole", 2), ("hull", 3)):
        for stem in ("a", "a.b"):
            write(tmp_path / form.format(stem=stem, level=level), np.where(IDS > 0, value, 0).astype(np.uint8))
    write(tmp_path / form.format(stem="a", level="part"), IDS.astype(np.uint8))
    maps = labels_of(tmp_path)
    # SAM's own levels go from coarse to fine, and before others.
    assert maps.levels == ("whole", "part", "hull")
    assert maps.counts == (1, 2, 1)
    assert np.array_equal(maps.labels[1], EXPECTED)
    assert labels_of(tmp_path, "a.b.jpg").counts == (1, 1, 1)


def test_npz(tmp_path: Path) -> None:
    stack = np.stack([EXPECTED, np.where(EXPECTED == 1, 40, -5)]).astype(np.int64)
    np.savez(tmp_path / "a.npz", labels=stack)
    np.savez(tmp_path / "b.npz", labels=stack, levels=np.array(["rooms", "things"]))
    np.savez(tmp_path / "c.npz", labels=EXPECTED)
    np.savez(tmp_path / "d.npz", labels=np.zeros((5, *EXPECTED.shape), dtype=np.uint8))
    maps = labels_of(tmp_path)
    assert maps.levels == ("whole", "part")
    assert np.array_equal(maps.labels, np.stack([EXPECTED, np.where(EXPECTED == 1, 0, -1)]))
    assert labels_of(tmp_path, "b.png").levels == ("rooms", "things")
    assert labels_of(tmp_path, "c.png").labels.shape == (1, *EXPECTED.shape)
    assert labels_of(tmp_path, "d.png").levels == ("level0", "level1", "level2", "level3", "level4")
    assert labels_of(tmp_path, "d.png").counts == (1,) * 5


def test_the_id_follows_the_content(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a.png", IDS.astype(np.uint8))
    write(tmp_path / "one" / "whole" / "b.png", IDS.astype(np.uint8))
    first = make_segmenter(f"labels:{tmp_path}/one").segmenter_id
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert make_segmenter(f"labels:{tmp_path}/two").segmenter_id == first
    write(tmp_path / "two" / "whole" / "b.png", (IDS * 0).astype(np.uint8))
    changed = make_segmenter(f"labels:{tmp_path}/two").segmenter_id
    assert changed != first
    (tmp_path / "two" / "whole" / "b.png").rename(tmp_path / "two" / "whole" / "c.png")
    assert make_segmenter(f"labels:{tmp_path}/two").segmenter_id not in (first, changed)


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("labels", "write labels:FOLDER"),
        (f"labels:{tmp_path}/gone", "there is no folder .*gone"),
        (f"labels:{tmp_path}/empty", "empty has no label maps"),
        ("felzenszwalb:3", "felzenszwalb has no variants"),
        ("mobile-sam:large", "mobile-sam has no variants"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            make_segmenter(name)
        assert "\n" not in str(caught.value)
    write(tmp_path / "a.png", IDS.astype(np.uint8))
    with pytest.raises(UserError, match="works on data sets only"):
        make_segmenter(f"labels:{tmp_path}").segment(PHOTO)
    with pytest.raises(UserError, match=r"no label map for the photo c.jpg: neither c.png"):
        labels_of(tmp_path, "c.jpg")


def test_files_that_are_no_label_maps(tmp_path: Path) -> None:
    write(tmp_path / "colour.png", PHOTO)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "torn.npz").write_bytes(b"PK broken")
    np.savez(tmp_path / "floats.npz", labels=EXPECTED.astype(np.float32))
    np.savez(tmp_path / "nothing.npz", ids=EXPECTED)
    np.savez(tmp_path / "twice.npz", labels=np.stack([EXPECTED] * 2), levels=np.array(["whole", "whole"]))
    write(tmp_path / "small.png", IDS[:4].astype(np.uint8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    for stem, message in (
        ("colour", r"colour.png is a colour image \(RGB\)"),
        ("broken", "cannot read the label map .*broken.png"),
        ("torn", "cannot read the label maps .*torn.npz"),
        ("floats", r"has float32 \[6, 8\]"),
        ("nothing", "has no such array"),
        ("twice", "2 label maps, and 1 different names"),
        ("small", r"small.png does not lie on its photo: 8x4 pixels do not fit the photo small.jpg, 8x6"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            labels_of(tmp_path, f"{stem}.jpg")
        assert "\n" not in str(caught.value)


def test_photos_with_other_levels_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.whole.png", IDS.astype(np.uint8))
    write(tmp_path / "a.part.png", IDS.astype(np.uint8))
    write(tmp_path / "b.whole.png", IDS.astype(np.uint8))
    segmenter = LabelFiles(str(tmp_path))
    segmenter.segment_named("a.jpg", PHOTO)
    with pytest.raises(UserError, match=r"the levels whole for the photo b.jpg, and whole, part for a.jpg"):
        segmenter.segment_named("b.jpg", PHOTO)


def test_extraction_names_the_photo_and_carries_its_labels(tmp_path: Path) -> None:
    write(tmp_path / "labels" / "b.png", IDS.astype(np.uint8))
    segmenter = make_segmenter(f"labels:{tmp_path}/labels")
    frame = Frame("b.jpg", "content", lambda: PHOTO[:, 1:], lambda ids: ids[:, 1:])
    store = FeatureStore(tmp_path / "cache")
    extract([frame], segmenter, None, store)
    assert np.array_equal(read_label_maps(frame, segmenter.segmenter_id, store).labels[0], EXPECTED[:, 1:])


def test_labels_shrink_with_their_photo(tmp_path: Path) -> None:
    from lang_splat_ns.evaluation.evaluator import LabelledFrame
    from lang_splat_ns.evaluation.oracle import shrink

    write(tmp_path / "labels" / "b.png", IDS.astype(np.uint8))
    photo = Frame("b.jpg", "content", lambda: PHOTO[:, 1:], lambda ids: ids[:, 1:])
    _, smaller = shrink(LabelledFrame("b", photo, {}, {}), photo, 2.0)
    maps = LabelFiles(str(tmp_path / "labels")).segment_named("b.jpg", smaller.load(), smaller.carry)
    # Of the rows 0..5 and the columns 1..7, these lie in the middle of the larger pixels.
    assert np.array_equal(maps.labels[0], EXPECTED[[1, 3, 5]][:, [1, 3, 5, 7]])


def test_labels_are_undistorted_as_the_photo_is(tmp_path: Path) -> None:
    import torch
    from nerfstudio.cameras.cameras import Cameras, CameraType

    from lang_splat_ns.plugin.frame_features import make_frames

    height, width = 96, 128
    camera = Cameras(
        torch.eye(4)[None, :3], 100.0, 100.0, width / 2, height / 2, width, height,
        distortion_params=torch.tensor([[0.2, -0.05, 0.0, 0.0, 0.001, -0.002]]), camera_type=CameraType.PERSPECTIVE,
    )  # fmt: skip
    y, x = np.mgrid[:height, :width]
    ids = (1 + y // 24 * 4 + x // 32).astype(np.uint8)
    write(tmp_path / "photo.png", np.repeat(ids[..., None] * 10, 3, axis=2))
    write(tmp_path / "labels" / "photo.png", ids)
    (frame,) = make_frames([tmp_path / "photo.png"], camera)
    photo = frame.load()
    maps = LabelFiles(str(tmp_path / "labels")).segment_named(frame.name, photo, frame.carry)
    assert maps.labels.shape[1:] == photo.shape[:2]
    assert maps.counts == (16,)
    # Where the undistorted photo is not mixed from two regions, the id is the region's own.
    pure = photo[..., 0] % 10 == 0
    assert pure.mean() > 0.8
    assert np.mean(10 * (maps.labels[0][pure] + 1) == photo[..., 0][pure]) > 0.995
    # Plain nearest neighbour on the photo's own grid would not do: something has moved.
    assert (10 * ids[: photo.shape[0], : photo.shape[1]] != photo[..., 0])[pure].mean() > 0.02
    write(tmp_path / "labels" / "photo.png", ids[:, :100])
    with pytest.raises(UserError, match=r"photo.png does not lie on its photo: 100x96 pixels .*photo.png, 128x96"):
        LabelFiles(str(tmp_path / "labels")).segment_named(frame.name, photo, frame.carry)


def test_ids_without_distortion_stay_as_they_are(tmp_path: Path) -> None:
    import torch
    from nerfstudio.cameras.cameras import Cameras

    from lang_splat_ns.plugin.frame_features import make_frames

    write(tmp_path / "photo.png", PHOTO)
    (frame,) = make_frames([tmp_path / "photo.png"], Cameras(torch.eye(4)[None, :3], 10.0, 10.0, 4.0, 3.0, 8, 6))
    assert frame.carry is not None
    assert np.array_equal(frame.carry(IDS), IDS)
