"""Segmenters by name, and Felzenszwalb on a drawn scene."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.felzenszwalb import FelzenszwalbSegmenter, dissolve_slivers, join_parts, join_shades
from lang_splat_ns.perception.segmenters import (
    SAM_LEVELS,
    LabelMaps,
    compact,
    default_segmenter,
    make_segmenter,
)


class PlainSegmenter:
    """A plug-in without constructor arguments."""

    segmenter_id = "plain/1"

    def segment(self, image: np.ndarray) -> LabelMaps:
        return LabelMaps(np.zeros((1, *image.shape[:2]), dtype=np.int32), ("whole",))


class Unfinished:
    """A plug-in that does not keep the contract."""

    def segment(self, image: np.ndarray) -> None: ...


def test_default_depends_on_the_device_alone() -> None:
    assert default_segmenter("cuda") == default_segmenter("cuda:1") == "sam"
    assert default_segmenter("cpu") == "mobile-sam"


def test_unknown_name_lists_names_and_near_ones() -> None:
    with pytest.raises(
        UserError, match=r"unknown segmenter 'mobilesam'; did you mean mobile-sam.*LANG_SPLAT_SEGMENTERS"
    ):
        make_segmenter("mobilesam")


def test_plug_in_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_SEGMENTERS", f"plain={__name__}:PlainSegmenter, sam={__name__}:PlainSegmenter")
    assert make_segmenter("plain").segmenter_id == "plain/1"
    # Whoever sets the variable means it, also for a built-in name.
    assert make_segmenter("sam", device="cuda").segmenter_id == "plain/1"


def test_plug_in_by_entry_point_does_not_replace_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    group = "lang_splat_ns.segmenters"
    points = [EntryPoint(name, f"{__name__}:PlainSegmenter", group) for name in ("installed", "felzenszwalb")]
    monkeypatch.setattr("lang_splat_ns.perception.registry.entry_points", lambda group: points)
    assert make_segmenter("installed").segmenter_id == "plain/1"
    assert isinstance(make_segmenter("felzenszwalb"), FelzenszwalbSegmenter)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("broken", "each item must read name=module:Class"),
        ("x=no.such.module:Thing", "cannot import segmenter 'x'"),
        (f"x={__name__}:Nothing", "cannot import segmenter 'x'"),
        (f"x={__name__}:Unfinished", "lacks segmenter_id"),
    ],
)
def test_bad_plug_in_is_a_users_error(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    monkeypatch.setenv("LANG_SPLAT_SEGMENTERS", value)
    with pytest.raises(UserError, match=message):
        make_segmenter("x")


def test_missing_weights_fail_in_one_line_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANG_SPLAT_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "user"))
    with pytest.raises(UserError) as caught:
        make_segmenter("sam")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("sam_vit_h_4b8939.pth", str(tmp_path), "lang-splat weights fetch sam-vit-h", "felzenszwalb"):
        assert part in message


def test_points_per_side_is_checked() -> None:
    with pytest.raises(UserError, match="at least 1"):
        make_segmenter("felzenszwalb", points_per_side=0)


def test_registries_import_nothing_heavy() -> None:
    heavy = ("torch", "skimage", "cv2", "open_clip", "matplotlib", "scipy", "mobile_sam", "nerfstudio")
    code = (
        "import sys, lang_splat_ns.perception.encoders, lang_splat_ns.perception.segmenters;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_label_maps_check_themselves() -> None:
    labels = np.array([[[0, 2]], [[-1, -1]]], dtype=np.int32)
    assert LabelMaps(labels, ("whole", "part")).counts == (3, 0)
    with pytest.raises(ValueError, match="int32"):
        LabelMaps(labels.astype(np.int64), ("whole", "part"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="start at -1"):
        LabelMaps(labels - 1, ("whole", "part"))


@given(st.lists(st.integers(-3, 5), min_size=1, max_size=30))
def test_compact_renumbers_without_gaps(values: list[int]) -> None:
    labels = np.array(values)
    found = compact(labels[None])[0]
    assert found.dtype == np.int32
    assert ((found == -1) == (labels < 0)).all()
    assert sorted(set(found[found >= 0])) == list(range(len(set(labels[labels >= 0]))))
    for value in set(labels[labels >= 0]):
        assert len(set(found[labels == value])) == 1


# ---- Felzenszwalb ----


def shaded_scene(height: int = 120, width: int = 160) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Three shaded balls on a plain floor: uint8 [H, W, 3] and their masks."""
    y, x = np.mgrid[:height, :width].astype(float)
    image = np.full((height, width, 3), (196.0, 190.0, 180.0)) * (0.9 + 0.1 * x / width)[..., None]
    masks = {}
    colours = {"red": (220, 30, 30), "green": (20, 160, 40), "blue": (40, 60, 220)}
    for index, (name, colour) in enumerate(colours.items()):
        u, v = (x - 32 - 48 * index) / 18, (y - 60) / 18
        masks[name] = u**2 + v**2 < 1
        height_of = np.sqrt(np.clip(1 - u**2 - v**2, 0, 1))
        light = 0.35 + 0.65 * np.clip(0.7 * height_of - 0.5 * u - 0.5 * v, 0, 1)
        image = np.where(masks[name][..., None], np.array(colour) * light[..., None] ** (1 / 2.2), image)
    return image.astype(np.uint8), masks


def test_a_shaded_ball_is_one_region() -> None:
    image, masks = shaded_scene()
    maps = FelzenszwalbSegmenter().segment(image)
    assert maps.levels == SAM_LEVELS
    assert maps.labels.shape == (3, *image.shape[:2])
    assert maps.labels.min() == 0
    for level in maps.labels[:2]:
        for name, mask in masks.items():
            region = level == np.bincount(level[mask]).argmax()
            assert (region & mask).sum() / (region | mask).sum() > 0.8, name


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(3, 40), width=st.integers(3, 40))
def test_felzenszwalb_labels_every_pixel_without_gaps(seed: int, height: int, width: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    maps = make_segmenter("felzenszwalb").segment(image)
    for level, count in zip(maps.labels, maps.counts, strict=True):
        assert np.array_equal(np.unique(level), np.arange(count))


def test_slivers_go_to_their_neighbours() -> None:
    labels = np.zeros((10, 12), dtype=np.int32)
    labels[:, 6:] = 2
    labels[:, 5] = 1
    assert set(np.unique(dissolve_slivers(labels))) == {0, 1}


def test_sides_of_a_box_are_one_part_and_two_parts_one_whole() -> None:
    labels = np.zeros((80, 120), dtype=np.int32)
    labels[12:28, 20:30], labels[12:28, 30:38] = 1, 2
    image = np.full((80, 120, 3), 190, dtype=np.uint8)
    image[labels == 1], image[labels == 2] = (40, 60, 220), (22, 33, 130)
    assert join_shades(labels, image).max() == 1
    # Two colours are two parts; what they share of their outline makes them one whole.
    image[labels == 2] = (230, 220, 40)
    assert join_shades(labels, image).max() == 2
    assert join_parts(labels).max() == 1
