"""Work on a Ray cluster: one process per GPU or core, each with what it needs in memory, pieces of work handed round.

Ray starts a worker again that was killed, and gives its piece to it or to another.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError

RETRIES = 3
"""A piece that kills its worker more often than this ends the work instead of killing workers forever."""


@contextmanager
def cluster(piece: str) -> Iterator[Any]:
    """Ray itself, connected to the cluster of `RAY_ADDRESS`, a running local one, or a new local one.

    Args:
        piece: what a worker does at a time, for the message that it died of it: "photo".

    Raises:
        UserError: Ray is not installed, there is no cluster to reach, workers die again and again, or one of them
            raised a `UserError`.
    """
    ray = _import_ray()
    already_connected = ray.is_initialized()
    if not already_connected:
        _connect(ray)
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise UserError(
            f"a Ray worker died {RETRIES + 1} times at one {piece}, or never started: {str(error).splitlines()[0]} "
            f"Is this package on every machine of the cluster, and memory for all --workers? What is finished is kept."
        ) from error
    finally:
        if not already_connected:
            ray.shutdown()


def work_on_cluster(
    ray: Any, worker: type, job: Any, pieces: Sequence[Any], workers: int | None = None
) -> Iterator[Any]:
    """`worker(job).work(piece)` for every piece, as they are finished, which is not their order.

    Args:
        ray: from `cluster`.
        worker: a class with the method `work`; each process makes one of it.
        job: what all of them need; it is sent to each process once.
        pieces: what one call of `work` gets.
        workers: how many processes; by default one for each of the cluster's GPUs, or, without any, for each core.
    """
    from ray.util import ActorPool

    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    count = min(workers or gpus or cpus or 1, len(pieces))
    CONSOLE.print(f"Ray: {count} workers on a cluster with {cpus} cores and {gpus} GPUs")
    # Ray lets a worker's libraries use as many threads as it has cores. With whole pieces on one core each, no core
    # waits for another.
    actor = ray.remote(
        num_cpus=_share(cpus, count), num_gpus=_share(gpus, count), max_restarts=-1, max_task_retries=RETRIES
    )(worker)
    # Ray remarks that restarted workers need this object again; it lives as long as this reference does.
    shared = ray.put(job)
    pool = ActorPool([actor.remote(shared) for _ in range(count)])
    for piece in pieces:
        pool.submit(lambda actor, piece: actor.work.remote(piece), piece)
    while pool.has_next():
        result = pool.get_next_unordered()
        # A worker without work gives its place back, since one whose machine was lost may wait for a place elsewhere.
        while pool.pop_idle() is not None:
            pass
        yield result


def _share(available: int, workers: int) -> float:
    """Part of a core or GPU for each worker, so that all of them find a place."""
    return min(1.0, 1 / math.ceil(workers / available)) if available else 0.0


def _connect(ray: Any) -> None:
    # Ray itself looks for RAY_ADDRESS, then for a cluster that runs on this machine, and then starts one.
    try:
        ray.init(include_dashboard=False, log_to_driver=True)
    except Exception as error:
        # Ray raises many kinds, among them a bare Exception where a busy machine does not start it within 30 seconds.
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise UserError(
            f"cannot reach a Ray cluster ({where}): {str(error).splitlines()[0]} Is it running, and if it wants a "
            f"token, is this machine set up for that (Ray's RAY_AUTH_MODE)?"
        ) from error


def _import_ray() -> Any:
    # Under `uv run` Ray would pack the current folder and send it to the workers, which have all they need already.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Ray would also report how it is used; whoever wants that can say so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install 'lang-splat-ns[ray]'") from error
    return ray
