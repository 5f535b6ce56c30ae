"""Counting the votes of a data set's views, in this process or on a Ray cluster, with the same result bit for bit.

Views are counted in parts of a few, and parts are joined in their order, whoever has counted them. Nothing here needs
nerfstudio, which takes long to import in every worker. On a GPU sums of floats have no fixed order, so that counting
twice differs in the last bits, with or without a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.console import track
from lang_splat_ns.ray_pool import cluster, work_on_cluster
from lang_splat_ns.splatting.view_votes import ViewVotes, view_votes
from lang_splat_ns.splatting.votes import Votes, accumulate, join

VIEWS_PER_PART = 4
"""Views that are counted at a time. Few, so that a small data set has work for several workers and a lost one costs
little; with a million Gaussians a part is some 100 MB on its way to the others."""

ReadLabels = Callable[[int, int, int], tuple[Tensor, Sequence[int]]]
"""Label maps int32 [L, height, width] of a view, and the number of masks of each level, by (view, height, width)."""


@dataclass(frozen=True, eq=False)
class Counting:
    """All that it takes to count votes, without model and networks, so that it can travel to other machines.

    Attributes:
        gaussians: means [N, 3], quats [N, 4], scales [N, 3] and opacities [N], as `view_votes` wants them.
        views: world-to-camera [V, 4, 4] and intrinsics [V, 3, 3].
        sizes: height and width of each view, in pixels.
        labels: reads label maps.
        top_k: most masks kept per Gaussian and level; None keeps all.
        rasterize_mode: how the Gaussians were trained.
    """

    gaussians: tuple[Tensor, Tensor, Tensor, Tensor]
    views: tuple[Tensor, Tensor]
    sizes: Sequence[tuple[int, int]]
    labels: ReadLabels
    top_k: int | None
    rasterize_mode: Any

    def view(self, index: int) -> ViewVotes:
        """Votes of one view."""
        labels, counts = self.labels(index, *self.sizes[index])
        viewmats, intrinsics = self.views
        return view_votes(
            *self.gaussians,
            viewmats[index],
            intrinsics[index],
            labels.to(viewmats.device),
            counts,
            rasterize_mode=self.rasterize_mode,
        )

    def part(self, views: Iterable[int]) -> Votes:
        """Votes of some views."""
        return accumulate(((index, self.view(index)) for index in views), self.top_k)

    def parts(self) -> list[range]:
        """All views, a few at a time."""
        count = len(self.sizes)
        return [range(start, min(start + VIEWS_PER_PART, count)) for start in range(0, count, VIEWS_PER_PART)]

    def to(self, device: str) -> Counting:
        """The same with its tensors on another device."""
        means, quats, scales, opacities = (tensor.to(device) for tensor in self.gaussians)
        viewmats, intrinsics = (tensor.to(device) for tensor in self.views)
        return replace(self, gaussians=(means, quats, scales, opacities), views=(viewmats, intrinsics))


def count_here(job: Counting) -> Votes:
    """Votes of all views, counted one after the other."""
    return join(_counted(job))


def count_on_ray(job: Counting, labels: ReadLabels, workers: int | None = None) -> Votes:
    """Votes of all views, counted by the workers of a Ray cluster.

    Args:
        job: what to count.
        labels: as `job.labels`, but works on every machine of the cluster.
        workers: see `work_on_cluster`.

    Raises:
        UserError: see `ray_pool.cluster`; or label maps are missing in the workers' store.
    """
    parts = job.parts()
    with cluster("group of views") as ray:
        # Tensors on a GPU would arrive on the workers' first one, if they have any.
        done = work_on_cluster(ray, CountingWorker, replace(job, labels=labels).to("cpu"), parts, workers)
        return join(_in_order(_tracked(done, len(job.sizes))))


class CountingWorker:
    """One process of the cluster."""

    def __init__(self, job: Counting) -> None:
        self._job = job.to("cuda" if torch.cuda.is_available() else "cpu")

    def work(self, part: range) -> Votes:
        """Votes of some views."""
        return self._job.part(part)


def _counted(job: Counting) -> Iterator[Votes]:
    """The parts, with progress in views."""
    views = iter(track(range(len(job.sizes)), "Counting votes", unit="views"))
    for part in job.parts():
        yield job.part(islice(views, len(part)))
    # The progress has its end when there is no view to fetch any more.
    next(views, None)


def _tracked(done: Iterator[Votes], total: int) -> Iterator[Votes]:
    """Parts as they come, with progress in views."""
    waiting: list[Votes] = []

    def views() -> Iterator[int]:
        for part in done:
            waiting.append(part)
            yield from part.views.tolist()

    for _ in track(views(), "Counting votes", total, unit="views"):
        while waiting:
            yield waiting.pop()


def _in_order(parts: Iterator[Votes]) -> Iterator[Votes]:
    """Parts in the order of their views, each as soon as those before it are there."""
    early: dict[int, Votes] = {}
    wanted = 0
    for part in parts:
        early[int(np.min(part.views))] = part
        while wanted in early:
            ready = early.pop(wanted)
            wanted += len(ready.views)
            yield ready
