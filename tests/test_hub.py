"""The model hub's cache: what counts as there, what is downloaded, in which order, and what is said when it fails."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import hub

REPOSITORY = "owner/model"


class FakeHub:
    """A hub in this process: its files by name, and what was asked of it. It keeps the real cache's layout."""

    def __init__(self, cache: Path) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self._folder = cache / f"models--{REPOSITORY.replace('/', '--')}"

    def list_repo_files(self, repository: str) -> list[str]:
        if repository != REPOSITORY:
            raise RuntimeError(f"404 Client Error: {repository}\nRequest ID: 1")
        return list(self.files)

    def get(self, repository: str, file: str) -> Path:
        self.asked.append(file)
        if file in self.broken or file not in self.files:
            raise RuntimeError(f"no {file}\nsecond line")
        snapshot, blobs = self._folder / "snapshots" / "abc", self._folder / "blobs"
        for folder in (snapshot, blobs, self._folder / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "refs" / "main").write_text("abc")
        blob = blobs / hashlib.sha256(self.files[file]).hexdigest()
        blob.write_bytes(self.files[file])
        if not (snapshot / file).exists():
            (snapshot / file).symlink_to(blob)
        return snapshot / file


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub's client asks this one."""
    from huggingface_hub import constants

    found = FakeHub(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "huggingface_hub.HfApi.list_repo_files", lambda self, repository: found.list_repo_files(repository)
    )
    monkeypatch.setattr(hub, "_get", found.get)
    monkeypatch.setattr(hub, "check_reachable", lambda *_, **__: None)
    return found


def test_safetensors_come_first_and_weights_last(fake: FakeHub) -> None:
    names = (
        "pytorch_model.bin",
        "model.safetensors",
        "tokenizer.json",
        "config.json",
        "README.md",
        "onnx/model.onnx",
        "a.txt",
    )
    fake.files = {name: name.encode() for name in names}
    folder = hub.model_folder(REPOSITORY, "thing")
    assert fake.asked == ["config.json", "a.txt", "tokenizer.json", "model.safetensors"]
    assert hub.weights_of(folder) == [folder / "model.safetensors"]
    assert hub.digest_of(folder) == hashlib.sha256(b"model.safetensors").hexdigest()
    assert hub.model_folder(REPOSITORY, "thing") == folder and len(fake.asked) == 4


def test_a_pickle_where_there_is_nothing_better(fake: FakeHub) -> None:
    fake.files = {"pytorch_model.bin": b"w", "config.json": b"{}", "vocab.txt": b"a", "tf_model.h5": b"x"}
    folder = hub.model_folder(REPOSITORY, "thing")
    assert fake.asked == ["config.json", "vocab.txt", "pytorch_model.bin"]
    assert hub.weights_of(folder) == [folder / "pytorch_model.bin"]


def test_an_interrupted_download_does_not_count(fake: FakeHub) -> None:
    parts = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    index = {"weight_map": {"a": parts[0], "b": parts[1], "c": parts[0]}}
    fake.files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode()}
    fake.files |= {part: part.encode() for part in parts}
    fake.broken = {parts[1]}
    with pytest.raises(UserError, match=r"fetch thing.*") as caught:
        hub.model_folder(REPOSITORY, "thing")
    assert f"no {parts[1]}" in str(caught.value) and "\n" not in str(caught.value)
    assert hub.cached_model(REPOSITORY) is None
    fake.broken = set()
    folder = hub.model_folder(REPOSITORY, "thing")
    assert hub.cached_model(REPOSITORY) == folder
    assert hub.weights_of(folder) == [folder / part for part in parts]
    digests = "".join(hashlib.sha256(part.encode()).hexdigest() for part in parts)
    assert hub.digest_of(folder) == hashlib.sha256(digests.encode()).hexdigest()


def test_texts_alone_leave_the_weights(fake: FakeHub) -> None:
    fake.files = {
        "model.safetensors": b"w",
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "sentencepiece.bpe.model": b"s",
    }
    folder = hub.text_folder(REPOSITORY, "thing")
    assert fake.asked == ["config.json", "sentencepiece.bpe.model", "tokenizer.json"]
    assert hub.text_folder(REPOSITORY, "thing") == folder and len(fake.asked) == 3
    assert hub.cached_model(REPOSITORY) is None


def test_the_first_file_that_is_there(fake: FakeHub) -> None:
    fake.files = {"b.bin": b"w"}
    assert hub.cached_file(REPOSITORY, ["a.safetensors", "b.bin"]) is None
    path = hub.download_file(REPOSITORY, ["a.safetensors", "b.bin"], "thing")
    assert fake.asked == ["a.safetensors", "b.bin"] and path.read_bytes() == b"w"
    assert hub.cached_file(REPOSITORY, ["a.safetensors", "b.bin"]) == path
    assert hub.file_digest(path) == hashlib.sha256(b"w").hexdigest()


def test_what_cannot_be_had_is_said_in_one_line(fake: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights of thing \(owner/other\).*404 Client Error: owner/other\)") as caught:
        hub.model_folder("owner/other", "thing", without="go without")
    message = str(caught.value)
    assert message.endswith("or go without") and str(tmp_path) in message and "\n" not in message
    fake.files = {"config.json": b"{}", "adapter.gguf": b""}
    with pytest.raises(UserError, match="has no weights that transformers could load"):
        hub.model_folder(REPOSITORY, "thing")
    with pytest.raises(UserError, match=r"nor can they be downloaded \(no b\)"):
        hub.download_file(REPOSITORY, ["b"], "thing")


def test_folders_stand_in_for_repositories(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder with a model"):
        hub.model_folder(str(tmp_path / "missing"), "thing")
    with pytest.raises(UserError, match=r"neither model\.safetensors"):
        hub.weights_of(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    assert hub.model_folder(str(tmp_path), "thing") == tmp_path
