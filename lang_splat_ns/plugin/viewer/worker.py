"""One thread that does the panel's work, so that neither the viewer's callbacks nor its renders wait for it."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

from lang_splat_ns.console import ERROR_CONSOLE
from lang_splat_ns.errors import UserError

Job = Callable[[], None]


class Worker:
    """Runs jobs one after the other, each when it is due.

    A job with the name of one that still waits replaces it: while somebody types, only what is typed last is asked.

    Args:
        on_error: told in one sentence why a job failed. The thread itself goes on, whatever happens.
        idle: called several times a second, when no job is due.
    """

    PULSE = 0.15
    """Seconds between two calls of `idle`."""

    def __init__(self, on_error: Callable[[str], None], idle: Job) -> None:
        self._on_error, self._idle = on_error, idle
        self._jobs: dict[str, tuple[float, Job]] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="language panel", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End after the running job."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def soon(self, name: str, job: Job, delay: float = 0.0) -> None:
        """Do a job after `delay` seconds, instead of one of the same name that waits."""
        with self._changed:
            self._jobs[name] = (time.monotonic() + delay, job)
            self._changed.notify()

    def forget(self, name: str) -> None:
        """Do not do the job of that name, if it still waits."""
        with self._changed:
            self._jobs.pop(name, None)

    def _run(self) -> None:
        while not self._stopped:
            job = self._next()
            try:
                job()
            except UserError as error:
                self._on_error(str(error))
            except Exception as error:
                ERROR_CONSOLE.print(traceback.format_exc(), markup=False)
                self._on_error(f"That went wrong ({type(error).__name__}: {error}); the terminal says more.")

    def _next(self) -> Job:
        with self._changed:
            if not self._due():
                waiting = [due - time.monotonic() for due, _ in self._jobs.values()]
                self._changed.wait(max(min([self.PULSE, *waiting]), 0.0))
            name = self._due()
            return self._jobs.pop(name)[1] if name else self._idle

    def _due(self) -> str | None:
        now = time.monotonic()
        due = [(when, name) for name, (when, _) in self._jobs.items() if when <= now]
        return min(due)[1] if due else None
