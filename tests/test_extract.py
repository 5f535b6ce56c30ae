"""Extraction computes what is missing and nothing else, whatever interrupts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kill_and_resume import run
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.colour_words import ColourWordsEncoder
from lang_splat_ns.perception.encoders import RegionTask, make_encoder
from lang_splat_ns.perception.estimate import estimate
from lang_splat_ns.perception.extract import Frame, extract, missing, read, read_label_maps
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.segmenters import LabelMaps, make_segmenter
from lang_splat_ns.perception.store_care import health, verify

LEVELS = ("whole", "part")


class CountingSegmenter:
    """Two levels of stripes; counts its calls. Its labels can be made to differ from run to run."""

    segmenter_id = "counting/1"

    def __init__(self, flip: bool = False) -> None:
        self.calls = 0
        self.flip = flip

    def segment(self, image: np.ndarray) -> LabelMaps:
        self.calls += 1
        columns = np.arange(image.shape[1])[None].repeat(image.shape[0], axis=0)
        labels = np.stack([columns // 8, columns // 4]).astype(np.int32)
        return LabelMaps(np.ascontiguousarray(labels[..., ::-1] if self.flip else labels), LEVELS)


class CountingEncoder(ColourWordsEncoder):
    """Colour words that count their calls."""

    calls = 0

    def embed_regions(self, image: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
        self.calls += 1
        return super().embed_regions(image, labels, count)


def make_frames(count: int, height: int = 12, width: int = 16) -> list[Frame]:
    def image(index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return [Frame(f"{index:03}.png", f"content-{index}", lambda index=index: image(index)) for index in range(count)]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache")


def test_only_missing_things_are_computed(store: FeatureStore) -> None:
    frames, segmenter, encoder = make_frames(4), CountingSegmenter(), CountingEncoder()
    extract(frames[:3], segmenter, encoder, store)
    assert (segmenter.calls, encoder.calls) == (3, 6)
    assert missing(frames, segmenter.segmenter_id, encoder.encoder_id, store) == ([frames[3]], [frames[3]])
    extract(frames, segmenter, encoder, store)
    assert (segmenter.calls, encoder.calls) == (4, 8)
    extract(frames, segmenter, encoder, store)
    assert (segmenter.calls, encoder.calls) == (4, 8)
    assert missing(frames, segmenter.segmenter_id, encoder.encoder_id, store) == ([], [])


def test_another_encoder_embeds_without_segmenting(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, segmenter = make_frames(2), CountingSegmenter()
    extract(frames, segmenter, None, store)
    assert segmenter.calls == 2
    extract(frames, segmenter, CountingEncoder(), store)
    monkeypatch.setattr(CountingEncoder, "encoder_id", "other")
    encoder = CountingEncoder()
    extract(frames, segmenter, encoder, store)
    assert (segmenter.calls, encoder.calls) == (2, 4)


def test_photos_are_embedded_together_as_alone(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, segmenter = make_frames(5), CountingSegmenter()
    extract(frames, segmenter, CountingEncoder(), store)
    groups: list[int] = []

    def embed_many(self: CountingEncoder, tasks: Sequence[RegionTask]) -> list[np.ndarray]:
        groups.append(len(tasks))
        return [self.embed_regions(task.image, task.labels, task.count) for task in tasks]

    monkeypatch.setattr(CountingEncoder, "photos_at_once", 3, raising=False)
    monkeypatch.setattr(CountingEncoder, "embed_many", embed_many, raising=False)
    other = FeatureStore(tmp_path / "together")
    extract(frames[:1], segmenter, CountingEncoder(), other)
    extract(frames, segmenter, CountingEncoder(), other)
    # Two levels per photo: the first photo alone, then three and one.
    assert groups == [2, 6, 2]
    assert whole_records(other.root) == whole_records(store.root)


def test_reading_back(store: FeatureStore) -> None:
    frames, segmenter, encoder = make_frames(1), CountingSegmenter(), ColourWordsEncoder()
    with pytest.raises(UserError, match="lang-splat features"):
        read(frames[0], segmenter.segmenter_id, encoder.encoder_id, store)
    extract(frames, segmenter, encoder, store)
    features = read(frames[0], segmenter.segmenter_id, encoder.encoder_id, store)
    assert features.label_maps.levels == LEVELS
    assert features.label_maps.counts == (2, 4)
    assert [rows.shape for rows in features.embeddings] == [(2, encoder.dim), (4, encoder.dim)]
    image = frames[0].load()
    expected = encoder.embed_regions(image, features.label_maps.labels[1], 4)
    np.testing.assert_array_equal(features.embeddings[1], expected)
    np.testing.assert_array_equal(
        read_label_maps(frames[0], segmenter.segmenter_id, store).labels, segmenter.segment(image).labels
    )


def test_photos_of_different_sizes(store: FeatureStore) -> None:
    frames = [*make_frames(1, 12, 16), Frame("b", "b", make_frames(1, 30, 8)[0].load)]
    extract(frames, CountingSegmenter(), ColourWordsEncoder(), store)
    sizes = [read_label_maps(frame, CountingSegmenter.segmenter_id, store).labels.shape for frame in frames]
    assert sizes == [(2, 12, 16), (2, 30, 8)]


@pytest.mark.parametrize("stage", ["labels", "embeddings"])
def test_a_damaged_record_alone_is_made_again(store: FeatureStore, stage: str) -> None:
    frames, segmenter, encoder = make_frames(3), CountingSegmenter(), CountingEncoder()
    extract(frames, segmenter, encoder, store)
    files = sorted((store.root / "v1" / stage).rglob("*.npz"))
    before = {file: file.read_bytes() for file in sorted(store.root.rglob("*.npz"))}
    files[1].write_bytes(before[files[1]][:100])
    extract(frames, segmenter, encoder, store)
    assert segmenter.calls == 3 + (stage == "labels")
    assert encoder.calls == 6 + 2 * (stage == "embeddings")
    assert {file: file.read_bytes() for file in before} == before


def test_label_maps_that_are_damaged_inside_are_made_again(store: FeatureStore) -> None:
    frames, segmenter = make_frames(2), CountingSegmenter()
    extract(frames, segmenter, None, store)
    before = {file: file.read_bytes() for file in sorted(store.root.rglob("*.npz"))}
    # One bit in the middle, which a look at a record's end does not show.
    file, content = next(iter(before.items()))
    file.write_bytes(content[:90] + bytes([content[90] ^ 1]) + content[91:])
    extract(frames, segmenter, ColourWordsEncoder(), store)
    assert segmenter.calls == 3
    assert {file: file.read_bytes() for file in before} == before


def test_more_regions_than_16_bits_can_number(store: FeatureStore) -> None:
    class Confetti(CountingSegmenter):
        def segment(self, image: np.ndarray) -> LabelMaps:
            return LabelMaps(np.arange(image[..., 0].size, dtype=np.int32).reshape(1, *image.shape[:2]), ("whole",))

    for width in (128, 512):
        frames = [Frame(str(width), str(width), make_frames(1, 128, width)[0].load)]
        extract(frames, Confetti(), None, store)
        labels = read_label_maps(frames[0], Confetti.segmenter_id, store).labels
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, Confetti().segment(frames[0].load()).labels)


def test_progress_tells_hits_rate_and_time(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    extract(make_frames(2), CountingSegmenter(), None, store)
    capsys.readouterr()
    extract(make_frames(5), CountingSegmenter(), None, store)
    printed = capsys.readouterr().out
    assert "Segmenting: 2 of 5 photos are in the cache" in printed
    assert re.search(r"Segmenting: 3 done in [\d.e-]+ s \([\d.,]+ photos/s\)", printed)
    extract(make_frames(5), CountingSegmenter(), None, store)
    assert capsys.readouterr().out == ""


def test_nothing_is_computed_where_it_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    segmenter = CountingSegmenter()
    with pytest.raises(UserError, match="--cache-dir"):
        extract(make_frames(1), segmenter, None, FeatureStore(tmp_path / "file" / "cache"))
    assert segmenter.calls == 0


def test_estimate_measures_and_keeps_two_photos(store: FeatureStore) -> None:
    class Slow(CountingSegmenter):
        def segment(self, image: np.ndarray) -> LabelMaps:
            # The first call stands for loading a network.
            time.sleep(0.02 if self.calls else 0.5)
            return super().segment(image)

    frames, segmenter, encoder = make_frames(10), Slow(), ColourWordsEncoder()
    found = estimate(frames, segmenter, encoder, store)
    assert found.measured == ("000.png", "001.png")
    assert (found.label_maps.missing, found.label_maps.left, found.embeddings.left) == (10, 8, 8)
    assert 8 * 0.02 <= found.seconds < 8 * 0.5
    extract(frames, segmenter, encoder, store)
    assert segmenter.calls == 10
    written = [path.stat().st_size for path in store.root.rglob("*.npz")]
    assert found.size == pytest.approx(sum(written) * 8 / 10, rel=0.1)
    nothing = estimate(frames, segmenter, encoder, store)
    assert (nothing.measured, nothing.seconds, nothing.size) == ((), 0, 0)


def test_estimate_for_another_encoder_leaves_segmentation_out(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, segmenter = make_frames(4), CountingSegmenter()
    extract(frames, segmenter, ColourWordsEncoder(), store)
    monkeypatch.setattr(CountingEncoder, "encoder_id", "other")
    found = estimate(frames, segmenter, CountingEncoder(), store)
    assert (found.label_maps.missing, found.label_maps.seconds) == (0, 0.0)
    assert (found.embeddings.missing, found.embeddings.left) == (4, 2)
    assert segmenter.calls == 4


def test_embeddings_of_other_label_maps_do_not_count(store: FeatureStore) -> None:
    frames, encoder = make_frames(1), CountingEncoder()
    extract(frames, CountingSegmenter(), encoder, store)
    next((store.root / "v1" / "labels").rglob("*.npz")).unlink()
    # The same segmenter, and its regions come in another order this time.
    extract(frames, CountingSegmenter(flip=True), encoder, store)
    assert encoder.calls == 4
    features = read(frames[0], CountingSegmenter.segmenter_id, encoder.encoder_id, store)
    expected = encoder.embed_regions(frames[0].load(), features.label_maps.labels[0], 2)
    np.testing.assert_array_equal(features.embeddings[0], expected)


def test_broken_plug_ins_are_named(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(CountingSegmenter):
        def segment(self, image: np.ndarray) -> LabelMaps:
            return super().segment(image[:2])

    with pytest.raises(UserError, match=r"counting/1 returned label maps of \(2, 16\)"):
        extract(make_frames(1), Small(), None, store)
    for rows, message in [(np.ones((3, 2)), "shape"), (np.full((2, 22), 7.0), "length 1")]:
        monkeypatch.setattr(CountingEncoder, "embed_regions", lambda *_, rows=rows: rows)
        monkeypatch.setattr(CountingEncoder, "dim", 22)
        with pytest.raises(UserError, match=message):
            extract(make_frames(1), CountingSegmenter(), CountingEncoder(), store)


def test_interrupt_keeps_what_was_done(store: FeatureStore) -> None:
    frames, encoder = make_frames(3), ColourWordsEncoder()

    def interrupt() -> np.ndarray:
        raise KeyboardInterrupt

    stopped = [*frames[:2], Frame(frames[2].name, frames[2].content_key, interrupt)]
    segmenter = CountingSegmenter()
    with pytest.raises(KeyboardInterrupt):
        extract(stopped, segmenter, encoder, store)
    extract(frames, segmenter, encoder, store)
    assert segmenter.calls == 3


def test_networks_are_not_built_when_everything_is_there(store: FeatureStore, tmp_path: Path) -> None:
    import torch

    # Weights that cannot work: building the network would fail, and only the file's digest is needed.
    torch.save({}, tmp_path / "mobile_sam.pt")
    segmenter = make_segmenter("mobile-sam", weights=tmp_path / "mobile_sam.pt")
    frames = make_frames(1)

    class Stand(CountingSegmenter):
        segmenter_id = segmenter.segmenter_id

    extract(frames, Stand(), ColourWordsEncoder(), store)
    extract(frames, segmenter, ColourWordsEncoder(), store)
    with pytest.raises(UserError, match="does not fit"):
        extract(make_frames(2), segmenter, ColourWordsEncoder(), store)


# ---- other processes ----

WORKER = """
import sys
import numpy as np
from pathlib import Path
from lang_splat_ns.perception.encoders import make_encoder
from lang_splat_ns.perception.extract import Frame, extract
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.segmenters import make_segmenter

def load(index):
    return np.random.default_rng(index).integers(0, 256, (90, 120, 3), dtype=np.uint8)

frames = [Frame(str(i), f"content-{i}", lambda i=i: load(i)) for i in range(int(sys.argv[2]))]
extract(frames, make_segmenter("felzenszwalb"), make_encoder("colour-words"), FeatureStore(Path(sys.argv[1])))
"""


def start_worker(folder: Path, root: Path, count: int) -> subprocess.Popen[bytes]:
    script = folder / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen([sys.executable, str(script), str(root), str(count)], env=environment)


def whole_records(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted((root / "v1").rglob("*.npz"))}


def test_two_processes_on_one_store(tmp_path: Path) -> None:
    count = 12
    workers = [start_worker(tmp_path, tmp_path / "both", count) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    records = whole_records(tmp_path / "both")
    assert len(records) == 2 * count
    state = health(FeatureStore(tmp_path / "both"))
    assert state.set_aside == state.unfinished == ()
    assert verify(FeatureStore(tmp_path / "both")) == (2 * count, [])
    frames = [Frame(str(index), f"content-{index}", lambda: np.zeros((1, 1, 3), np.uint8)) for index in range(count)]
    ids = make_segmenter("felzenszwalb").segmenter_id, make_encoder("colour-words").encoder_id
    assert missing(frames, *ids, FeatureStore(tmp_path / "both")) == ([], [])


def test_killed_at_random_moments_and_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_SEGMENTERS", "stripes=perception_fakes:Stripes")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    found = run(kills=3, photos=60, segmenter="stripes", folder=tmp_path)
    # Kills that hit nothing would prove nothing.
    assert 0 < found["records_at_each_kill"][0] < found["records_at_each_kill"][-1] < found["records"] == 120
    assert found["byte_equal"]
    assert found["whole_records_computed_twice"] == found["broken_records"] == 0
