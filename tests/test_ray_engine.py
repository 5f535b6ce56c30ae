"""The Ray engine does what `extract` does, also when a worker is killed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from perception_fakes import DeadlyStripes, MeanColour, Stripes

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.extract import Frame, extract
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.ray_engine import Job, Worker, extract_on_ray

PHOTOS = 12


pytestmark = pytest.mark.usefixtures("ray_cluster")


def make_frames() -> list[Frame]:
    def photo(index: int) -> np.ndarray:
        image = np.random.default_rng(index).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        image[0, 0, 0] = index
        return image

    return [Frame(f"{index}.png", f"photo-{index}", lambda index=index: photo(index)) for index in range(PHOTOS)]


def contents(store: FeatureStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.versioned.rglob("*.npz")}


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    frames, calm, store = make_frames(), FeatureStore(tmp_path / "calm"), FeatureStore(tmp_path / "cluster")
    extract(frames, Stripes(), MeanColour(), calm)
    # Three photos are there already and must not be begun again.
    extract(frames[:3], Stripes(), MeanColour(), store)
    ids = Stripes.segmenter_id, MeanColour.encoder_id
    job = Job(frames, lambda: (DeadlyStripes(notes, deadly=5), MeanColour()), *ids, store)
    extract_on_ray(job, workers=2)
    assert contents(store) == contents(calm)
    begun = [path.name.split("-") for path in notes.iterdir()]
    assert sorted(int(photo) for photo, _, _ in begun) == [3, 4, 5, 5, 6, 7, 8, 9, 10, 11]
    # The photo that killed its worker was done by another process.
    assert len({process for photo, process, _ in begun if photo == "5"}) == 2


def test_other_networks_on_a_worker_are_refused(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "store")
    job = Job(make_frames()[:1], lambda: (Stripes(), MeanColour()), "other weights", "encoder", store)
    with pytest.raises(UserError, match="other networks") as caught:
        extract_on_ray(job, workers=1)
    assert "\n" not in str(caught.value)
    assert contents(store) == {}


def test_settings_travel_to_workers_that_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_OFFLINE", "1")
    monkeypatch.setenv("LANG_SPLAT_WEIGHTS", "/here")
    job = Job([], lambda: (Stripes(), MeanColour()), "", "", FeatureStore(tmp_path))
    monkeypatch.delenv("LANG_SPLAT_OFFLINE")
    monkeypatch.setenv("LANG_SPLAT_WEIGHTS", "/there")
    Worker(job)
    assert (os.environ["LANG_SPLAT_OFFLINE"], os.environ["LANG_SPLAT_WEIGHTS"]) == ("1", "/there")
