"""The extraction on a Ray cluster: several GPUs or machines, with the feature store as the only thing they share.

Every worker is a process with its own networks and does one photo at a time, exactly as `extract` does. Ray starts a
worker again that was killed, and gives its photo to it or to another; what was whole in the store is not done twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.encoders import Encoder
from lang_splat_ns.perception.extract import Frame, extract, missing, silent
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.segmenters import Segmenter
from lang_splat_ns.ray_pool import cluster, work_on_cluster


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
    with cluster("photo") as ray:
        hits = len(job.frames) - len(lacking)
        if hits:
            CONSOLE.print(f"{hits} of {len(job.frames)} photos are in the cache")
        done = work_on_cluster(ray, Worker, job, lacking, workers)
        for _ in track(done, "Segmenting and embedding", len(lacking), unit="photos"):
            pass
    if job.lacking():
        raise UserError(
            f"the workers are done, but {job.store.root} lacks {len(job.lacking())} photos' records; "
            f"give a folder that all machines of the cluster share, with --cache-dir."
        )
