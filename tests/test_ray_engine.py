"""The Ray engine does what `extract` does, also when a worker is killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from perception_fakes import DeadlyStripes, MeanColour, Stripes

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.extract import Frame, extract
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.ray_engine import Job, Worker, extract_on_ray

PHOTOS = 12


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A local cluster, started once, whose workers find this folder."""
    settings = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**settings, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}.items():
            patch.setenv(name, value)
        import ray

        _start(ray)
        yield
        ray.shutdown()


def _start(ray: Any, tries: int = 3) -> None:
    try:
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80_000_000)
    except Exception:
        # Ray gives itself 30 seconds, which a busy machine may miss.
        ray.shutdown()
        if tries == 1:
            raise
        _start(ray, tries - 1)


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
