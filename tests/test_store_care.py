"""Listing, verifying and tidying a store: nothing that anybody needs is ever deleted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from perception_fakes import LEVELS, Stripes

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.colour_words import ColourWordsEncoder
from lang_splat_ns.perception.extract import Frame, extract, missing
from lang_splat_ns.perception.feature_store import FeatureStore, described_parts, make_key
from lang_splat_ns.perception.store_care import find_garbage, group_records, health, inventory, verify


class Wide(Stripes):
    """Another segmenter."""

    segmenter_id = "wide/1"
    seconds = 0.0


class OtherWords(ColourWordsEncoder):
    """Another encoder."""

    encoder_id = "other-words/1"


WORDS = ColourWordsEncoder.encoder_id


def make_frames(count: int, first: int = 0) -> list[Frame]:
    def photo(index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)

    numbers = range(first, first + count)
    return [Frame(f"{index}.png", f"photo-{index}", lambda index=index: photo(index)) for index in numbers]


@pytest.fixture
def frames() -> list[Frame]:
    return make_frames(3)


@pytest.fixture
def store(tmp_path: Path, frames: list[Frame]) -> FeatureStore:
    """Three photos through two segmenters and two encoders, and two photos of another data set: 18 + 4 records."""
    store = FeatureStore(tmp_path / "cache")
    for segmenter in (Stripes(), Wide()):
        for encoder in (ColourWordsEncoder(), OtherWords()):
            extract(frames, segmenter, encoder, store)
    extract(make_frames(2, first=10), Wide(), ColourWordsEncoder(), store)
    return store


def files(store: FeatureStore) -> set[Path]:
    return {path for path in store.root.rglob("*") if path.is_file()}


def break_one(store: FeatureStore, frames: list[Frame]) -> Path:
    """Flip a bit in the middle of a record."""
    records = group_records(store, frames)[0]["labels", "wide/1", ""]
    path = records[0].path
    content = path.read_bytes()
    path.write_bytes(content[:90] + bytes([content[90] ^ 1]) + content[91:])
    return path


def test_inventory_and_groups(store: FeatureStore, frames: list[Frame]) -> None:
    assert len(inventory(store)) == 22
    groups, others = group_records(store, frames)
    assert {name: len(records) for name, records in groups.items()} == {
        ("labels", "stripes/1", ""): 3,
        ("labels", "wide/1", ""): 3,
        ("embeddings", "stripes/1", WORDS): 3,
        ("embeddings", "stripes/1", "other-words/1"): 3,
        ("embeddings", "wide/1", WORDS): 3,
        ("embeddings", "wide/1", "other-words/1"): 3,
    }
    assert len(others) == 4
    assert health(store).stages["labels"] == (
        8,
        sum(path.stat().st_size for path in store.versioned.glob("labels/*/*")),
    )


def test_verify_sets_aside_what_is_broken(store: FeatureStore, frames: list[Frame]) -> None:
    assert verify(store) == (22, [])
    path = break_one(store, frames)
    # A whole record under another one's name is as wrong as a broken one.
    embeddings = group_records(store, frames)[0]["embeddings", "stripes/1", WORDS]
    embeddings[1].path.write_bytes(embeddings[0].path.read_bytes())
    assert verify(store) == (22, [path, embeddings[1].path])
    assert not path.exists() and len(health(store).set_aside) == 2
    assert verify(store) == (20, [])
    assert [frame.name for frame in missing(frames, "wide/1", None, store)[0]] != []
    extract(frames, Wide(), None, store)
    extract(frames, Stripes(), ColourWordsEncoder(), store)
    assert verify(store) == (22, [])


def test_by_default_only_leftovers_go(store: FeatureStore, frames: list[Frame]) -> None:
    before = files(store)
    break_one(store, frames)
    verify(store)
    old, young = (store.versioned / "labels" / "00" / f".{digit * 40}.x1_y2.tmp" for digit in "ab")
    old.parent.mkdir(exist_ok=True)
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    garbage = find_garbage(store, frames)
    assert (len(garbage.records), len(garbage.set_aside), garbage.unfinished) == (0, 1, (old,))
    assert garbage.size == 4 + garbage.set_aside[0].stat().st_size
    garbage.delete()
    extract(frames, Wide(), None, store)
    assert files(store) == before | {young}


def test_other_photos_go_on_request_only(store: FeatureStore, frames: list[Frame]) -> None:
    assert find_garbage(store, frames).records == ()
    garbage = find_garbage(store, frames, other_photos=True)
    assert set(garbage.records) == set(group_records(store, frames)[1])
    # With the other data set's photos at hand, its records are wanted too.
    assert find_garbage(store, [*frames, *make_frames(2, first=10)], other_photos=True).records == ()
    garbage.delete()
    assert verify(store) == (18, [])


@pytest.mark.parametrize(
    "keep, left",
    [
        (["stripes"], {("stripes/1", ""), ("stripes/1", WORDS), ("stripes/1", "other-words/1")}),
        (["other-words/1"], {(name, words) for name in ("stripes/1", "wide/1") for words in ("", "other-words/1")}),
        (["wide", "colour-words"], {("wide/1", ""), ("wide/1", WORDS)}),
    ],
)
def test_keep(store: FeatureStore, frames: list[Frame], keep: list[str], left: set[tuple[str, str]]) -> None:
    find_garbage(store, frames, keep).delete()
    groups, others = group_records(store, frames)
    assert {(segmenter, encoder) for _, segmenter, encoder in groups} == left
    assert {len(records) for records in groups.values()} == {3}
    # Whatever is kept of these photos, another data set's records are not touched.
    assert len(others) == 4


def test_a_slip_in_keep_deletes_nothing(store: FeatureStore, frames: list[Frame]) -> None:
    with pytest.raises(UserError, match=r"'strips'.*stripes/1"):
        find_garbage(store, frames, ["stripes", "strips"])


def test_files_of_others_stay(store: FeatureStore, frames: list[Frame]) -> None:
    folder = store.versioned / "labels" / "00"
    foreign = [
        store.root / "notes.txt",
        store.root / "v0" / "labels" / "00" / f"{'0' * 64}.npz",
        store.root / "quarantine" / "mine.npz",
        store.versioned / "features" / "00" / f"{'0' * 64}.npz",
        folder / "photo.npz",
        folder / "half.tmp",
        # The name of a record, but nothing that says what it is.
        folder / f"{'0' * 64}.npz",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"somebody's")
        os.utime(path, (0, 0))
    find_garbage(store, make_frames(1, first=99), ["stripes"], other_photos=True).delete()
    assert files(store) == set(foreign)


def test_label_maps_made_anew_make_old_embeddings_garbage(tmp_path: Path, frames: list[Frame]) -> None:
    class Moody(Stripes):
        """Numbers its regions otherwise each time."""

        def segment(self, image: np.ndarray):
            from lang_splat_ns.perception.segmenters import LabelMaps

            return LabelMaps(np.ascontiguousarray(super().segment(image).labels[..., ::-1]), LEVELS)

    store = FeatureStore(tmp_path / "cache")
    extract(frames, Stripes(), ColourWordsEncoder(), store)
    for path in store.versioned.glob("labels/*/*"):
        path.unlink()
    extract(frames, Moody(), ColourWordsEncoder(), store)
    garbage = find_garbage(store, frames, other_photos=True)
    assert [record.stage for record in garbage.records] == ["embeddings"] * 3
    garbage.delete()
    assert missing(frames, Stripes.segmenter_id, WORDS, store) == ([], [])


def test_a_methods_own_stage_is_looked_after(store: FeatureStore, frames: list[Frame]) -> None:
    def save(frame: Frame, encoder: str, sizes: list[float]) -> Path:
        made_with = {"encoder": encoder, "tiles": {"sizes": sizes}}
        key = make_key("pyramid", frame.content_key, *described_parts(made_with))
        store.save("pyramid", key, {"rows": np.zeros(3)}, made_with)
        return store.path("pyramid", key)

    mine = [save(frame, WORDS, [0.1, 0.2]) for frame in frames]
    save(frames[0], "other-words/1", [0.1, 0.2])
    save(make_frames(1, first=10)[0], WORDS, [0.1, 0.2])
    groups, others = group_records(store, frames)
    assert len(groups["pyramid", "", WORDS]) == 3 and len(groups["pyramid", "", "other-words/1"]) == 1
    assert [record.stage for record in others].count("pyramid") == 1
    assert health(store).stages["pyramid"][0] == 5
    # Words that name a segmenter, or another stage's encoder alone, keep a stage as it is.
    assert not [one for one in find_garbage(store, frames, ["wide"]).records if one.stage == "pyramid"]
    gone = find_garbage(store, frames, ["other-words"], other_photos=True).records
    assert {record.path for record in gone if record.stage == "pyramid"} >= set(mine)
    mine[0].write_bytes(mine[0].read_bytes()[:-9])
    assert verify(store) == (27, [mine[0]])
    garbage = find_garbage(store, frames)
    assert not garbage.records and len(garbage.set_aside) == 1
