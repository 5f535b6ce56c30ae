"""Photos and videos as people have them become plain upright pictures, and what cannot be used is told."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.photos import Photos, content_digests, find_photos, prepare_photos
from lang_splat_ns.scenes.video_frames import drop_blurry, extract_frames


def prepare(folder: Path, out: Path, longest_side: int = 1600) -> Photos:
    sources = find_photos(folder)
    return prepare_photos(sources, content_digests(sources), out, longest_side)


def half_red(width: int = 40, height: int = 20) -> Image.Image:
    """The left half is red."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    return Image.fromarray(pixels)


def opened(photos: Photos, index: int = 0) -> np.ndarray:
    with Image.open(photos.paths()[index]) as image:
        assert image.getexif().get(0x0112, 1) == 1
        return np.asarray(image)


def test_order_is_that_of_people(tmp_path: Path) -> None:
    for name in ("IMG_10.jpg", "img_2.JPG", "IMG_1.png", "notes.txt", ".hidden.jpg"):
        half_red().save(tmp_path / name, format="PNG")
    assert [path.name for path in find_photos(tmp_path)] == ["IMG_1.png", "img_2.JPG", "IMG_10.jpg"]


def test_photos_of_sub_folders_keep_names_of_their_own(tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        (tmp_path / "in" / folder).mkdir(parents=True)
        half_red(40 + 2 * number).save(tmp_path / "in" / folder / "photo one.png")
    photos = prepare(tmp_path / "in", tmp_path / "out")
    assert [photo.name for photo in photos.photos] == ["photo-one.png", "photo-one-2.png"]


@pytest.mark.parametrize(("orientation", "red"), [(1, "left"), (3, "right"), (6, "top"), (8, "bottom")])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, red: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "in").mkdir()
    half_red().save(tmp_path / "in" / "photo.jpg", exif=exif, quality=95)
    photos = prepare(tmp_path / "in", tmp_path / "out")
    pixels = opened(photos)
    height, width = pixels.shape[:2]
    assert (photos.photos[0].width, photos.photos[0].height) == (width, height)
    assert (width, height) == ((40, 20) if red in ("left", "right") else (20, 40))
    half = {
        "left": pixels[:, : width // 2 - 2],
        "right": pixels[:, width // 2 + 2 :],
        "top": pixels[: height // 2 - 2],
        "bottom": pixels[height // 2 + 2 :],
    }[red]
    assert half[..., 0].min() > 200


def test_all_kinds_and_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    half_red(400, 100).save(folder / "large.jpg")
    half_red().convert("RGBA").save(folder / "alpha.png")
    half_red().convert("P").save(folder / "palette.png")
    half_red(20, 40).save(folder / "tall.webp", lossless=True)
    Image.fromarray(np.full((20, 40), 0x8080, np.uint16)).save(folder / "deep.png")
    photos = prepare(folder, tmp_path / "out", longest_side=200)
    sizes = {photo.name: (photo.width, photo.height) for photo in photos.photos}
    assert sizes == {
        "alpha.jpg": (40, 20), "deep.jpg": (40, 20), "large.jpg": (200, 50), "palette.jpg": (40, 20),
        "tall.jpg": (20, 40),
    }  # fmt: skip
    assert len({photo.lens for photo in photos.photos}) == 3, "photos of one size share a lens where none tells more"
    assert abs(int(opened(photos, 1).mean()) - 0x80) <= 1, "16 bits of grey are scaled and not cut off"


def test_focal_length_of_the_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    half_red(360, 240).save(tmp_path / "photo.jpg", exif=exif)
    (photo,) = prepare(tmp_path, tmp_path / "out").photos
    assert photo.focal == pytest.approx(260.0)


def test_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    half_red(64, 32).save(tmp_path / "photo.heic", quality=95)
    photos = prepare(tmp_path, tmp_path / "out")
    assert photos.photos[0].name == "photo.jpg" and opened(photos)[:, :28, 0].min() > 200
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"photo.heic.*pip install 'lang-splat-ns\[heif\]'"):
        prepare(tmp_path, tmp_path / "other")


def test_what_cannot_be_used_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    half_red().save(folder / "good.png")
    half_red().save(folder / "again.png")
    half_red(400, 400).save(folder / "torn.jpg")
    (folder / "torn.jpg").write_bytes((folder / "torn.jpg").read_bytes()[:-400])
    (folder / "text.jpg").write_text("no photo")
    photos = prepare(folder, tmp_path / "out")
    assert [photo.name for photo in photos.photos] == ["again.png"]
    assert photos.rejected["good.png"] == "the same file as again.png"
    assert photos.rejected["text.jpg"] == "not an image"
    assert "cannot be read" in photos.rejected["torn.jpg"]
    (folder / "good.png").unlink()
    (folder / "again.png").unlink()
    with pytest.raises(UserError, match="none of the 2 photos"):
        prepare(folder, tmp_path / "none")


def video(path: Path, count: int, blurred: set[int]) -> None:
    """A video of a texture that moves; blurred frames are smeared."""
    texture = np.random.default_rng(0).integers(0, 255, (96, 400, 3), dtype=np.uint8)
    texture = cv2.resize(texture, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 96))
    for number in range(count):
        frame = np.ascontiguousarray(texture[:96, 4 * number : 4 * number + 128])
        writer.write(cv2.blur(frame, (31, 31)) if number in blurred else frame)
    writer.release()


def test_sharp_frames_of_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Every other frame is blurred, and of one part all are.
    video(tmp_path / "walk.avi", 40, {number for number in range(40) if number % 2 == 0 or 16 <= number < 20})
    paths = extract_frames(tmp_path / "walk.avi", tmp_path / "frames", 10)
    numbers = [int(path.stem.split("_")[1]) for path in paths]
    assert len(numbers) == 9 and numbers == sorted(numbers)
    assert all(number % 2 == 1 and not 16 <= number < 20 for number in numbers)
    assert "1 of 10 frames of walk.avi are blurred" in capsys.readouterr().out
    before = [path.stat().st_mtime_ns for path in paths]
    assert extract_frames(tmp_path / "walk.avi", tmp_path / "frames", 10) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_smooth_stretch_is_not_taken_for_blurred() -> None:
    assert drop_blurry(dict.fromkeys(range(5), 100.0) | dict.fromkeys(range(5, 15), 5.0)) != list(range(5))
    assert drop_blurry(dict.fromkeys(range(20), 5.0)) == list(range(20))
    assert drop_blurry({0: 100.0, 1: 90.0, 2: 10.0, 3: 100.0, 4: 110.0}) == [0, 1, 3, 4]
