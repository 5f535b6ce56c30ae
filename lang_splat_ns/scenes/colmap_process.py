"""COLMAP's steps in processes of their own, watched: progress, Ctrl-C, and one line where a step fails."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text

_POLL_SECONDS = 0.25
"""COLMAP tells nobody how far it is, so that its database is asked, as often as a bar wants to move."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Watch:
    """How far a step is: what is shown, and how it is counted from outside."""

    description: str
    unit: str
    total: int
    measure: Callable[[], int]


class Workshop:
    """Folder of one posing, with the database, the log, and a note of each step that is finished.

    A step that was finished by an earlier process with the same arguments is not done again; a step that was stopped
    begins anew, but features and matches that are in the database stay.

    Args:
        folder: for this set of photos and these options alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.database = self.folder / "database.db"
        self.log = self.folder / "colmap.log"
        if self.database.exists() and self._is_broken():
            CONSOLE.print(f"{self.database} is broken; features are found again.", markup=False, soft_wrap=True)
            for path in self.folder.glob("database.db*"):
                path.unlink()
            shutil.rmtree(self.folder / "done", ignore_errors=True)

    def fresh(self, name: str) -> Path:
        """An empty folder in it."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def is_done(self, name: str) -> bool:
        """Whether a step is finished."""
        return self._note(name).is_file()

    def run(self, name: str, step: str, arguments: dict[str, Any], watch: Watch) -> None:
        """Run a step, unless it is finished.

        Args:
            name: under which it is noted.
            step: a function of `colmap_steps`.
            arguments: its arguments, as JSON values.
            watch: what to show meanwhile.

        Raises:
            UserError: COLMAP has failed; the message has its last words and names the log.
            KeyboardInterrupt: Ctrl-C; the process is ended.
        """
        if self.is_done(name):
            return
        job = self.folder / f"{name}.json"
        write_text(job, json.dumps({"step": step, "arguments": arguments}, indent=1))
        with self.log.open("ab") as log:
            start = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", "lang_splat_ns.scenes.colmap_steps", str(job)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, sys.path)])},
            )
            try:
                for _ in track(_ticks(process, watch), watch.description, watch.total, watch.unit):
                    pass
            finally:
                _end(process)
        if process.returncode != 0:
            raise UserError(
                f"COLMAP failed while {watch.description.lower()}: {self._last_words(start)}; see {self.log}."
            )
        write_text(self._note(name), "")

    def count(self, table: str) -> int:
        """Rows of a table of the database; 0 where it is not there yet."""
        try:
            return int(self.query(f"SELECT COUNT(*) FROM {table}")[0][0])
        except sqlite3.DatabaseError:
            return 0

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Rows of a query of the database.

        Raises:
            sqlite3.DatabaseError: there is no such database or table.
        """
        # COLMAP's journal lets others read while it writes.
        connection = sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)
        try:
            return connection.execute(text).fetchall()
        finally:
            connection.close()

    def _is_broken(self) -> bool:
        try:
            return self.query("PRAGMA quick_check(1)") != [("ok",)]
        except sqlite3.DatabaseError:
            return True

    def _note(self, name: str) -> Path:
        return self.folder / "done" / name

    def _last_words(self, start: int) -> str:
        with self.log.open("rb") as log:
            log.seek(start)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        # glog writes a stack after the reason.
        fatal = [line for line in lines if line.startswith(("F2", "E2"))]
        return (fatal or lines or ["no word in its log"])[-1][-300:]


def _ticks(process: subprocess.Popen[bytes], watch: Watch) -> Iterator[int]:
    """A number for each unit that is finished, until the process ends."""
    seen = 0
    while True:
        ended = process.poll() is not None
        done = min(watch.measure(), watch.total)
        yield from range(seen, done)
        seen = max(seen, done)
        if ended:
            return
        time.sleep(_POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing goes on behind the back of whoever has stopped waiting."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
