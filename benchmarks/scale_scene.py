"""A cloud of any size with objects in it, photos of it in label maps, and everything that is timed on it by `scale`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_clock import Clock
from benchmarks.lift_query import DIM, LEVELS, RandomScene, random_camera, random_codebook
from lang_splat_ns.langsplat_lift.counting import Counting, count_here
from lang_splat_ns.langsplat_lift.field import LiftedField
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.lifting import lift, stack_embeddings

OBJECTS = (20, 60, 200)
"""Places that a level's objects gather around, coarse to fine; 200 are more than SAM finds in a photo."""
PROMPTS_PER_CALL = 32
"""As many as the evaluator asks at a time."""


@dataclass(frozen=True)
class Load:
    """How much of everything there is."""

    gaussians: int
    photos: int
    prompts: int
    width: int

    @property
    def height(self) -> int:
        """Height in pixels of a 16:9 image."""
        return self.width * 9 // 16


class ScaleScene:
    """One load, ready to be timed.

    Objects are the cells around random places, so that all photos agree on them, as photos of a real scene mostly do.

    Args:
        load: how much of everything.
        device: where it is.
    """

    def __init__(self, load: Load, device: torch.device) -> None:
        self._load, self._device = load, device
        self._scene = RandomScene(load.gaussians, load.width, load.height, device)
        self._rng = np.random.default_rng(0)
        spread = torch.tensor([2.0, 1.2, 1.0])
        random = torch.Generator().manual_seed(1)
        self._places = [
            (torch.randn(count, 3, generator=random) * spread + torch.tensor([0.0, 0.0, 4.0])).to(device)
            for count in OBJECTS
        ]
        # Features of the objects as a photo sees them: alike, and never the same.
        self._known = [torch.randn(count, DIM, generator=random) for count in OBJECTS]
        self._asked = 0

    @cached_property
    def field(self) -> LiftedField:
        """Answers from random codebooks, whose size is that of a lifted scene's."""
        books = [random_codebook(self._load.gaussians, self._device, seed) for seed in range(len(LEVELS))]
        return LiftedField(self._scene, books, LEVELS, "scalar")

    def render(self) -> None:
        """A photo's colours."""
        self._scene.blend(self._camera(), self._colors)

    def ask(self) -> None:
        """Prompts that were never asked, in a view: every level's relevancy."""
        for start in range(0, self._load.prompts, PROMPTS_PER_CALL):
            count = min(PROMPTS_PER_CALL, self._load.prompts - start)
            texts = tuple(f"prompt {self._asked + number}" for number in range(count))
            self._asked += count
            self._scene.texts().embed(texts)
            self.field.relevancy(self._camera(), Query(texts))

    def score(self) -> None:
        """That part of a prompt which takes no view: the scores of all Gaussians."""
        for start in range(0, self._load.prompts, PROMPTS_PER_CALL):
            texts = tuple(f"prompt {number}" for number in range(min(PROMPTS_PER_CALL, self._load.prompts - start)))
            self.field.scores(Query(texts))

    def lift(self) -> dict[str, float]:
        """Seconds of counting votes over all photos, and of what follows from them."""
        job, clock = self._counting(), Clock(self._device)
        votes = count_here(job)
        counted = clock.seconds()
        lift(votes, stack_embeddings(votes, self._embeddings))
        return {"votes": counted, "consensus": clock.seconds() - counted}

    @cached_property
    def _colors(self) -> Tensor:
        return torch.rand(self._load.gaussians, 3, device=self._device)

    def _camera(self) -> Tensor:
        return random_camera(self._rng, self._device)

    def _counting(self) -> Counting:
        cameras = torch.stack([self._camera() for _ in range(self._load.photos)])
        # Label maps are made beforehand: it is segmenters' work, and not what is timed.
        maps = [self._label_map(camera) for camera in cameras]
        size = (self._load.height, self._load.width)
        intrinsics = self._scene.intrinsics.expand(len(cameras), 3, 3)
        read: Callable[[int, int, int], tuple[Tensor, tuple[int, ...]]] = lambda view, *_: (maps[view], OBJECTS)  # noqa: E731
        means, quats, scales, opacities = self._scene.gaussians
        gaussians = (means, quats, scales, opacities)
        return Counting(gaussians, (cameras, intrinsics), [size] * len(maps), read, None, "classic")

    def _label_map(self, camera: Tensor) -> Tensor:
        """The object in the middle of what each pixel sees, -1 where that is mostly nothing: int32 [L, H, W]."""
        seen, alpha = self._scene.blend(camera, self._scene.gaussians[0])
        points = (seen / alpha.clamp_min(1e-3)).reshape(-1, 3)
        labels = [torch.cdist(points, places).argmin(-1) for places in self._places]
        empty = alpha.reshape(-1) < 0.5
        return torch.stack([torch.where(empty, -1, one).int().reshape(seen.shape[:2]) for one in labels])

    def _embeddings(self, view: int) -> list[Tensor]:
        random = torch.Generator().manual_seed(view)
        rows = [known + 0.5 * torch.randn(known.shape, generator=random) for known in self._known]
        return [torch.nn.functional.normalize(one, dim=-1).to(self._device) for one in rows]


def peak_memory_mb(device: torch.device) -> float:
    """The most memory that this process has had, on a GPU the GPU's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource

    usage: Any = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_maxrss / 1024
