"""nerfstudio's ns-viewer in this process: the same code as the command's, without the seconds of its start."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from processes import TIMEOUT, free_port
from viewer_client import listens


@contextmanager
def viewer_here(load_config: Path) -> Iterator[int]:
    """`ns-viewer` on a finished run, at a port of this machine alone; fails where it did.

    Args:
        load_config: config.yml of the run.
    """
    from nerfstudio.scripts.viewer import run_viewer

    viewer = run_viewer.ViewerConfigWithoutNumRays(websocket_host="127.0.0.1", websocket_port=free_port())
    assert viewer.websocket_port is not None
    over, failures = threading.Event(), []

    def sleep(_: float) -> None:
        # The command sleeps until it is killed; nothing else in its module does.
        if over.wait(0.1):
            raise KeyboardInterrupt

    def show() -> None:
        try:
            run_viewer.RunViewer(load_config=load_config, viewer=viewer).main()
        except KeyboardInterrupt:
            return
        except BaseException as error:
            failures.append(error)

    with patch.object(run_viewer, "time", SimpleNamespace(sleep=sleep)):
        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            end = time.monotonic() + TIMEOUT
            while not listens("127.0.0.1", viewer.websocket_port):
                assert not failures and time.monotonic() < end, f"nobody listens: {failures}"
                time.sleep(0.1)
            yield viewer.websocket_port
        finally:
            over.set()
            thread.join()
    assert not failures
