"""The cache on disk: whole records or none, whatever happens to files, disks and processes."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import feature_store
from lang_splat_ns.perception.feature_store import FeatureStore, content_key, make_key, open_store, resolve_root
from lang_splat_ns.perception.record import BrokenRecordError, check, pack, unpack
from lang_splat_ns.perception.store_care import health

ARRAYS = {"labels": np.arange(600, dtype=np.int32).reshape(20, 30), "names": np.array(["whole", "part"])}
KEY = make_key("image", "segmenter")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache")


def quarantined(store: FeatureStore) -> list[Path]:
    return sorted((store.root / "quarantine").glob("*"))


def test_round_trip(store: FeatureStore) -> None:
    assert store.load("labels", KEY) is None
    assert not store.has("labels", KEY)
    store.save("labels", KEY, ARRAYS, {"segmenter": "plain"})
    found = store.load("labels", KEY)
    assert found is not None
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert store.has("labels", KEY)
    assert not store.has("embeddings", KEY)


def test_a_record_is_an_ordinary_npz(store: FeatureStore) -> None:
    store.save("labels", KEY, ARRAYS, {})
    with np.load(store.path("labels", KEY), allow_pickle=False) as file:
        np.testing.assert_array_equal(file["labels"], ARRAYS["labels"])


def test_equal_content_gives_equal_bytes() -> None:
    first = pack(ARRAYS, {"a": 1, "b": 2})
    time.sleep(2.1)  # Zip archives know times in steps of two seconds.
    assert pack(ARRAYS, {"b": 2, "a": 1}) == first


def test_nothing_is_pickled() -> None:
    with pytest.raises(ValueError, match="pickle"):
        pack({"x": np.array([{}], dtype=object)}, {})


def test_keys() -> None:
    assert make_key("ab", "c") != make_key("a", "bc")
    assert make_key("a") == make_key("a")


def test_content_key_is_about_bytes_and_treatment(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    (tmp_path / "b.png").write_bytes(b"one")
    assert content_key(tmp_path / "a.png", {"w": 1, "h": 2}) == content_key(tmp_path / "b.png", {"h": 2, "w": 1})
    before = content_key(tmp_path / "a.png", {})
    assert content_key(tmp_path / "a.png", {"w": 1}) != before
    (tmp_path / "a.png").write_bytes(b"two")
    assert content_key(tmp_path / "a.png", {}) != before
    with pytest.raises(UserError, match=r"c\.png"):
        content_key(tmp_path / "c.png", {})


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_damage_is_noticed(data: st.DataObject) -> None:
    content = pack(ARRAYS, {"x": 1})
    position = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BrokenRecordError):
        check(bytes(damaged))
    with pytest.raises(BrokenRecordError):
        unpack(content[:position])
    record = unpack(content)
    assert record.meta == {"x": 1}
    np.testing.assert_array_equal(record.arrays["labels"], ARRAYS["labels"])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def somebody_elses(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, labels=np.zeros(3))


def of_another_key(path: Path) -> None:
    path.write_bytes(pack(ARRAYS, {"schema": feature_store.SCHEMA_VERSION, "stage": "labels", "key": "other"}))


@pytest.mark.parametrize("damage", [truncate, flip, empty, somebody_elses, of_another_key])
def test_a_bad_record_is_set_aside_and_the_others_kept(
    store: FeatureStore, damage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_key("other")
    store.save("labels", KEY, ARRAYS, {})
    store.save("labels", other, ARRAYS, {})
    damage(store.path("labels", KEY))
    assert store.load("labels", KEY) is None
    assert not store.path("labels", KEY).exists()
    assert len(quarantined(store)) == 1
    assert "is broken" in capsys.readouterr().out
    assert store.load("labels", other) is not None
    store.save("labels", KEY, ARRAYS, {})
    assert store.load("labels", KEY) is not None


@pytest.mark.parametrize("damage", [truncate, empty, somebody_elses])
def test_a_look_at_the_end_notices_what_is_torn(store: FeatureStore, damage: Any) -> None:
    store.save("labels", KEY, ARRAYS, {})
    damage(store.path("labels", KEY))
    assert not store.has("labels", KEY)
    assert len(quarantined(store)) == 1


def test_altered_bytes_are_noticed_at_the_latest_when_they_are_used(store: FeatureStore) -> None:
    store.save("labels", KEY, ARRAYS, {})
    flip(store.path("labels", KEY))
    assert store.load("labels", KEY) is None
    assert not store.has("labels", KEY)
    assert len(quarantined(store)) == 1


def test_looking_reads_next_to_nothing(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("labels", KEY, {"noise": np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8)}, {})
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("the whole file was read"))
    digest = store.digest("labels", KEY)
    monkeypatch.undo()
    found = store.read("labels", KEY)
    assert found is not None and found.digest == digest


def test_another_schema_is_left_alone(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("labels", KEY, ARRAYS, {})
    before = store.path("labels", KEY).read_bytes()
    monkeypatch.setattr(feature_store, "SCHEMA_VERSION", feature_store.SCHEMA_VERSION + 1)
    newer = FeatureStore(store.root)
    assert newer.load("labels", KEY) is None
    newer.save("labels", KEY, {"labels": np.zeros(1)}, {})
    assert store.path("labels", KEY).read_bytes() == before
    assert [path.name for path in health(newer).other_versions] == [f"v{feature_store.SCHEMA_VERSION - 1}"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_full_disk_and_read_only_disk(store: FeatureStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    store.save("labels", KEY, ARRAYS, {})

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError) as caught:
        store.save("labels", make_key("new"), ARRAYS, {})
    message = str(caught.value)
    assert str(store.root) in message
    assert "--cache-dir" in message
    assert ("the disk is full" in message) == (number != errno.EROFS)
    assert store.load("labels", KEY) is not None
    assert list(store.root.rglob("*.tmp")) == []


def test_disk_that_fills_while_writing(store: FeatureStore) -> None:
    resource = pytest.importorskip("resource")
    import signal

    store.save("labels", KEY, ARRAYS, {})
    big = {"noise": np.random.default_rng(0).integers(0, 256, 200_000, dtype=np.uint8)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(UserError, match="the disk is full"):
            store.save("labels", make_key("big"), big, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.load("labels", make_key("big")) is None
    assert store.load("labels", KEY) is not None


def test_broken_record_on_a_disk_that_cannot_be_written(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("labels", KEY, ARRAYS, {})
    flip(store.path("labels", KEY))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "replace", refuse)
    assert store.load("labels", KEY) is None


def test_root_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.delenv("LANG_SPLAT_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "user"))
    assert resolve_root(data) == data / ".lang_splat_cache"
    (data / "transforms.json").write_text("{}")
    assert resolve_root(data / "transforms.json") == data / ".lang_splat_cache"
    assert not (data / ".lang_splat_cache").exists()
    # Tests may run as root, whom file modes do not bind, so the probe itself is told.
    monkeypatch.setattr(feature_store, "is_writable", lambda folder: False)
    assert resolve_root(data) == tmp_path / "user" / "features"
    monkeypatch.setenv("LANG_SPLAT_CACHE", str(tmp_path / "variable"))
    assert resolve_root(data) == tmp_path / "variable"
    assert resolve_root(data, tmp_path / "flag") == tmp_path / "flag"


def test_a_cache_on_a_read_only_disk_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, user = tmp_path / "data", tmp_path / "user"
    data.mkdir()
    monkeypatch.delenv("LANG_SPLAT_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(user))
    open_store(data).save("labels", KEY, ARRAYS, {})
    inside = whole_tree(data)
    monkeypatch.setattr(feature_store, "is_writable", lambda folder: not folder.is_relative_to(data))
    layered = open_store(data)
    assert layered.has("labels", KEY) and layered.load("labels", KEY) is not None
    layered.save("labels", make_key("new"), ARRAYS, {})
    assert whole_tree(data) == inside
    assert (user / "features").is_dir()
    # A place that somebody names is taken alone.
    assert not open_store(data, tmp_path / "flag").has("labels", KEY)
    monkeypatch.setenv("LANG_SPLAT_CACHE", str(tmp_path / "variable"))
    assert not open_store(data).has("labels", KEY)


def test_a_broken_record_below_is_made_again_above(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    below = FeatureStore(store.root.with_name("below"))
    layered = FeatureStore(store.root, below=below)
    below.save("labels", KEY, ARRAYS, {})
    flip(below.path("labels", KEY))
    replace = os.replace

    def refuse(source: Any, target: Any) -> None:
        if Path(source).is_relative_to(below.root):
            raise PermissionError(errno.EROFS, "read-only")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    assert layered.load("labels", KEY) is None
    layered.save("labels", KEY, ARRAYS, {})
    assert layered.load("labels", KEY) is not None
    assert quarantined(below) == quarantined(layered) == []


def whole_tree(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_unknown_data_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        open_store(tmp_path / "nowhere", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the feature cache .*--cache-dir"):
        FeatureStore(tmp_path / "file" / "cache").check_writable()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.text(max_size=5), max_size=4))
def test_any_text_makes_a_safe_file_name(parts: list[str], store: FeatureStore) -> None:
    path = store.path("labels", make_key(*parts))
    assert path.is_relative_to(store.root)
    assert len(path.stem) == 64
