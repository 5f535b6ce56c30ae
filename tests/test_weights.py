"""Weights: looked up in known places, fetched whole or not at all. The publisher is a server in this process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import weights
from lang_splat_ns.perception.weights import PUBLISHED, digest, fetch, find, ls

CONTENT = np.random.default_rng(0).integers(0, 256, 3_500_000, dtype=np.uint8).tobytes()


class Publisher(BaseHTTPRequestHandler):
    """Serves CONTENT, with ranges if `ranges`; hangs up after `breaks_after` bytes, once."""

    ranges = True
    breaks_after: int | None = None
    status = 200
    requests: list[str | None] = []  # noqa: RUF012  (Filled by the handlers, which http.server makes itself.)

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        Publisher.requests.append(asked)
        if Publisher.status != 200:
            self.send_error(Publisher.status)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and Publisher.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if Publisher.breaks_after is not None:
            body, Publisher.breaks_after = body[: Publisher.breaks_after], None
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The registry's `mobile-sam` points to the server; the folder is the weights folder."""
    Publisher.ranges, Publisher.breaks_after, Publisher.status = True, None, 200
    Publisher.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Publisher)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entry = replace(
        PUBLISHED["mobile-sam"],
        url=f"http://127.0.0.1:{server.server_port}/mobile_sam.pt",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setitem(PUBLISHED, "mobile-sam", entry)
    monkeypatch.setenv("LANG_SPLAT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("LANG_SPLAT_OFFLINE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "user"))
    yield tmp_path / "weights"
    server.shutdown()
    server.server_close()


def test_fetch_and_find(published: Path) -> None:
    path = fetch("mobile-sam")
    assert path == published / "mobile_sam.pt" == find("mobile-sam")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in published.iterdir()] == ["mobile_sam.pt"]
    assert fetch("mobile-sam") == path
    assert len(Publisher.requests) == 1


def test_interrupted_download_is_resumed(published: Path) -> None:
    Publisher.breaks_after = 2_000_000
    with pytest.raises(UserError, match="go on where it stopped"):
        fetch("mobile-sam")
    partial = published / "mobile_sam.pt.part"
    size = partial.stat().st_size
    assert 0 < size < len(CONTENT)
    with pytest.raises(UserError, match="lang-splat weights fetch mobile-sam"):
        find("mobile-sam")
    assert fetch("mobile-sam").read_bytes() == CONTENT
    assert Publisher.requests == [None, f"bytes={size}-"]
    assert not partial.exists()


def test_server_without_ranges_starts_over(published: Path) -> None:
    Publisher.ranges = False
    published.mkdir()
    (published / "mobile_sam.pt.part").write_bytes(b"x" * 1000)
    assert fetch("mobile-sam").read_bytes() == CONTENT


def test_part_that_is_whole_already(published: Path) -> None:
    published.mkdir()
    (published / "mobile_sam.pt.part").write_bytes(CONTENT)
    assert fetch("mobile-sam").read_bytes() == CONTENT


def test_wrong_digest_is_refused(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "mobile-sam", replace(PUBLISHED["mobile-sam"], sha256="0" * 64))
    with pytest.raises(UserError, match="expected 0000"):
        fetch("mobile-sam")
    assert list(published.iterdir()) == []


def test_wrong_file_in_place_is_replaced(published: Path) -> None:
    published.mkdir()
    (published / "mobile_sam.pt").write_bytes(b"torn")
    assert fetch("mobile-sam").read_bytes() == CONTENT


def test_server_says_no(published: Path) -> None:
    Publisher.status = 404
    with pytest.raises(UserError, match="404"):
        fetch("mobile-sam")


def test_offline(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_OFFLINE", "1")
    with pytest.raises(UserError, match="LANG_SPLAT_OFFLINE is set"):
        fetch("mobile-sam")
    assert Publisher.requests == []


def test_full_disk(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "_copy", fail)
    with pytest.raises(UserError, match="No space left"):
        fetch("mobile-sam")


def test_find_says_all_that_helps(published: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find("sam")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("sam_vit_h_4b8939.pth", str(published), str(tmp_path / "user"), "fetch sam-vit-h", "colour-words"):
        assert part in message
    with pytest.raises(UserError, match="unknown weights 'nonsense'"):
        find("nonsense")
    with pytest.raises(UserError, match=r"no weights file .*gone\.pt"):
        find("sam", tmp_path / "gone.pt")
    (tmp_path / "mine.pt").write_bytes(b"")
    assert find("sam", tmp_path / "mine.pt") == tmp_path / "mine.pt"


def test_user_folder_is_looked_at_too(published: Path, tmp_path: Path) -> None:
    (tmp_path / "user" / "weights").mkdir(parents=True)
    (tmp_path / "user" / "weights" / "mobile_sam.pt").write_bytes(b"here")
    assert find("mobile-sam").read_bytes() == b"here"
    rows = {row["name"]: row for row in ls()}
    assert rows["mobile-sam"]["path"] == str(find("mobile-sam"))
    assert rows["sam-vit-b"]["path"] is None


def test_digest_is_noted_and_the_note_ages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "user"))
    (tmp_path / "theirs").mkdir()
    file = tmp_path / "theirs" / "w.pt"
    file.write_bytes(b"one")
    assert digest(file) == hashlib.sha256(b"one").hexdigest()
    # Nothing is written beside a file that may be somebody else's.
    assert list(file.parent.iterdir()) == [file]
    (note,) = (tmp_path / "user" / "digests").iterdir()
    monkeypatch.setattr(weights, "_sha256", lambda path: "read again")
    assert digest(file) == hashlib.sha256(b"one").hexdigest()
    file.write_bytes(b"three")
    assert digest(file) == "read again"
    note.write_text("torn {")
    assert digest(file) == "read again"


def test_registry_is_complete() -> None:
    for entry in PUBLISHED.values():
        assert len(entry.sha256) == 64
        assert entry.url.startswith("https://")
        assert entry.url.endswith(entry.file)
