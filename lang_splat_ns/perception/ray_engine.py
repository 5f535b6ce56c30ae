"""The extraction on a Ray cluster: several GPUs or machines, with the feature store as the only thing they share.

Every worker is a process with its own networks and does one photo at a time, exactly as `extract` does. Ray starts a
worker again that was killed, and gives its photo to it or to another; what was whole in the store is not done twice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.encoders import Encoder
from lang_splat_ns.perception.extract import Frame, extract, missing, silent
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.segmenters import Segmenter

RETRIES = 3
"""A photo that kills its worker more often than this ends the extraction instead of killing workers forever."""


def _settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("LANG_SPLAT_")}


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know; it is sent to each once.

    Attributes:
        frames: photos; their `load` must work on every machine, so files lie where all of them see them.
        make_networks: builds segmenter and encoder on the worker's machine.
        segmenter_id, encoder_id: what these must be, down to the weights' digest.
        store: likewise in a folder that all machines see.
        settings: the variables LANG_SPLAT_*; they hold on workers that have none of their own.
    """

    frames: Sequence[Frame]
    make_networks: Callable[[], tuple[Segmenter, Encoder]]
    segmenter_id: str
    encoder_id: str
    store: FeatureStore
    settings: dict[str, str] = field(default_factory=_settings)

    def lacking(self) -> list[int]:
        """Indices of the photos that lack anything."""
        # Where label maps are missing, embeddings are too.
        keys = {frame.content_key for frame in self._missing_embeddings()}
        return [index for index, frame in enumerate(self.frames) if frame.content_key in keys]

    def _missing_embeddings(self) -> list[Frame]:
        return missing(self.frames, self.segmenter_id, self.encoder_id, self.store)[1]


class Worker:
    """One process of the cluster, with the networks that it loads for its first photo."""

    def __init__(self, job: Job) -> None:
        self._job = job
        for name, value in job.settings.items():
            os.environ.setdefault(name, value)

    def work(self, index: int) -> None:
        """Do what one photo lacks."""
        segmenter, encoder = self._networks
        extract([self._job.frames[index]], segmenter, encoder, self._job.store, silent)

    @cached_property
    def _networks(self) -> tuple[Segmenter, Encoder]:
        segmenter, encoder = self._job.make_networks()
        wanted = self._job.segmenter_id, self._job.encoder_id
        found = segmenter.segmenter_id, encoder.encoder_id
        if found != wanted:
            raise UserError(
                f"a worker on {os.uname().nodename} has other networks ({' + '.join(found)}) than this machine "
                f"({' + '.join(wanted)}); install the same version of lang-splat-ns and the same weights on both."
            )
        return segmenter, encoder


def extract_on_ray(job: Job, workers: int | None = None) -> None:
    """Compute and store what the store lacks, on the cluster of `RAY_ADDRESS`, a running local one, or a new local one.

    Args:
        job: what to do.
        workers: how many at once; by default one for each of the cluster's GPUs, or, without any, for each core.

    Raises:
        UserError: Ray is not installed, the store cannot be written or is not shared, workers have other networks or
            die again and again, or as `extract`.
    """
    lacking = job.lacking()
    if not lacking:
        return
    job.store.check_writable()
    ray = _import_ray()
    already_connected = ray.is_initialized()
    if not already_connected:
        _connect(ray)
    try:
        _run(ray, job, lacking, workers)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        raise UserError(
            f"a Ray worker died {RETRIES + 1} times at one photo, or never started: {str(error).splitlines()[0]} "
            f"Is this package on every machine of the cluster, and memory for all --workers? What is finished is kept."
        ) from error
    finally:
        if not already_connected:
            ray.shutdown()
    if job.lacking():
        raise UserError(
            f"the workers are done, but {job.store.root} lacks {len(job.lacking())} photos' records; "
            f"give a folder that all machines of the cluster share, with --cache-dir."
        )


def _run(ray: Any, job: Job, lacking: list[int], workers: int | None) -> None:
    from ray.util import ActorPool

    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    count = min(workers or gpus or cpus or 1, len(lacking))
    CONSOLE.print(f"Ray: {count} workers on a cluster with {cpus} cores and {gpus} GPUs")
    hits = len(job.frames) - len(lacking)
    if hits:
        CONSOLE.print(f"{hits} of {len(job.frames)} photos are in the cache")
    # Ray lets a worker's libraries use as many threads as it has cores. With whole photos on one core each, no core
    # waits for another.
    actor = ray.remote(
        num_cpus=_share(cpus, count), num_gpus=_share(gpus, count), max_restarts=-1, max_task_retries=RETRIES
    )(Worker)
    # Ray remarks that restarted workers need this object again; it lives as long as this reference does.
    shared = ray.put(job)
    pool = ActorPool([actor.remote(shared) for _ in range(count)])
    for index in lacking:
        pool.submit(lambda worker, index: worker.work.remote(index), index)
    for _ in track(_results(pool), "Segmenting and embedding", len(lacking), unit="photos"):
        pass


def _results(pool: Any) -> Iterator[None]:
    while pool.has_next():
        pool.get_next_unordered()
        # A worker without work gives its place back, since one whose machine was lost may wait for a place elsewhere.
        while pool.pop_idle() is not None:
            pass
        yield


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
