"""The installed console scripts in processes of their own, as a user starts them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from viewer_client import listens

import lang_splat_ns

SCRIPTS = Path(sys.executable).parent
TIMEOUT = 600
"""Seconds; a busy machine takes several times what a quiet one does."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def told(self) -> str:
        """All that it said, for assertions."""
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def start(
    folder: Path, *arguments: object, out: IO[str] | int = subprocess.PIPE, err: IO[str] | int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Start a console script in a folder of its own."""
    name, *rest = map(str, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [str(SCRIPTS / name), *rest],
        cwd=folder,
        env=_environment(folder.parent),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        text=True,
    )


def _environment(shared: Path) -> dict[str, str]:
    checkout = str(Path(lang_splat_ns.__file__).parents[1])
    path = os.pathsep.join(filter(None, (checkout, os.environ.get("PYTHONPATH"))))
    # A wide terminal, so that messages and paths are not broken into lines.
    ours = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    environment = {**os.environ, **ours, "PYTHONPATH": path}
    if sys.dont_write_bytecode:
        # Without bytecode on disk every one of these processes would compile all of torch and nerfstudio anew.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(shared / "bytecode")
    return environment


def finish(process: subprocess.Popen[str]) -> Ended:
    """Wait for a command; one that hangs is ended, and what it said still comes back."""
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return Ended(process.returncode, out, err)


def run(folder: Path, *arguments: object) -> Ended:
    """Run a console script to its end."""
    return finish(start(folder, *arguments))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(process: subprocess.Popen[str], port: int) -> None:
    """Wait until a command listens; fail once it has ended."""
    end = time.monotonic() + TIMEOUT
    while not listens("127.0.0.1", port):
        assert process.poll() is None and time.monotonic() < end, "nobody listens"
        time.sleep(0.2)


@contextmanager
def viewer(folder: Path, *arguments: object, stop: signal.Signals = signal.SIGTERM) -> Iterator[int]:
    """A command with a viewer, at a port of this machine alone; ends it, and fails where it has printed a traceback.

    Args:
        folder: its working directory.
        arguments: the command and its options, without those of the viewer's address.
        stop: what ends it: SIGINT is Ctrl-C.
    """
    port = free_port()
    host = ("--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", port)
    folder.mkdir(parents=True, exist_ok=True)
    # Files, since a command that prints much would wait for somebody to read it.
    with (folder / "out.txt").open("w+") as out, (folder / "err.txt").open("w+") as err:
        process = start(folder, *arguments, *host, out=out, err=err)
        trouble = ""
        try:
            wait_for_port(process, port)
            yield port
        except Exception as error:
            trouble = repr(error)
        finally:
            process.send_signal(stop)
        finish(process)
    ended = Ended(process.returncode, (folder / "out.txt").read_text(), (folder / "err.txt").read_text())
    assert not trouble and "Traceback" not in ended.out + ended.err, f"{trouble}\n{ended.told()}"
