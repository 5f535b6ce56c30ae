"""What all encoders with an image and a text tower share: crops into batches, sentences into means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lang_splat_ns.batches import batched
from lang_splat_ns.perception.crops import Box, CropKind, CropPlan, cut, region_boxes
from lang_splat_ns.perception.encoders import LERF_NEGATIVES, RegionTask, check_texts
from lang_splat_ns.perception.prompt_templates import checked_choice, sentences

_BATCH = {"cpu": 32, "cuda": 256}
_TEXTS = 256
_PHOTOS_ON_CUDA = 8
_CUTTERS = 8


class ClipNetwork(Protocol):
    """An image and a text tower into one space, in eval mode on their device.

    Attributes:
        dim: length of the vectors.
        side: pixels per side of the images.
        mean, std: per channel, for pixels in 0..1.
        logit_scale: the factor on the cosines that the network was trained with.
    """

    dim: int
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    logit_scale: float

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, side, side] -> [B, dim]."""
        ...

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Texts -> [Q, dim]."""
        ...

    def encode_patches(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W], sides multiples of `patch` -> [B, H / patch, W / patch, dim].

        Raises:
            UserError: the network's patches do not lie in the space of its texts.
        """
        ...

    @property
    def patch(self) -> int:
        """Pixels per side of a patch."""
        ...


class ClipEncoder:
    """An `Encoder` over a network with two towers.

    A region's vector is the weighted mean of the unit vectors of its crops (see `CropPlan`), made unit again. Crops of
    all regions, levels and photos that come in one `embed_many` fill common batches.

    Args:
        network_id: names the network and its weights' digest.
        dim: length of the vectors.
        network: makes the network, when it is first needed.
        device: torch device that the network is on.
        crops: see `CropPlan.parse`.
        templates: "phrase" or "ensemble", see `prompt_templates`. Texts are embedded when they are asked, so the
            choice is no part of `encoder_id`.
        negatives: canonical phrases in a language that the text tower reads.
    """

    def __init__(
        self,
        network_id: str,
        dim: int,
        network: Callable[[], ClipNetwork],
        *,
        device: str = "cpu",
        crops: str = "black",
        templates: str = "phrase",
        negatives: tuple[str, ...] = LERF_NEGATIVES,
    ) -> None:
        self.plan = CropPlan.parse(crops)
        self.network_id = network_id
        self.encoder_id = f"{network_id} {self.plan.name}"
        self.dim = dim
        self.negatives = negatives
        self._templates = checked_choice(templates)
        self._make_network = network
        self._device = device
        self._kind = torch.device(device).type

    @cached_property
    def network(self) -> ClipNetwork:
        """The network itself; made when it is first needed, so that reading cached features needs none."""
        return self._make_network()

    @property
    def temperature(self) -> float:
        """LERF's factor on the cosines: a tenth of what the network was trained with.

        LERF took 10 for a CLIP that was trained with 100. A network with another scale (SigLIP's is about 112) spreads
        its cosines accordingly, and the tenth of its own scale makes the same margin mean the same.
        """
        return self.network.logit_scale / 10.0

    @property
    def photos_at_once(self) -> int:
        """How many photos fill common batches. On a CPU one, whose vectors then depend on no other, to the bit."""
        return 1 if self._kind == "cpu" else _PHOTOS_ON_CUDA

    def embed_regions(
        self, image: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], count: int
    ) -> npt.NDArray[np.float32]:
        """Embed regions; see `Encoder.embed_regions`."""
        return self.embed_many([RegionTask(image, labels, count)])[0]

    @torch.inference_mode()
    def embed_many(self, tasks: Sequence[RegionTask]) -> list[npt.NDArray[np.float32]]:
        """Embed the regions of several label maps in common batches; see `encoders.embed_many`."""
        starts = np.cumsum([0, *(task.count for task in tasks)])
        sums = np.full((starts[-1], self.dim), np.nan, dtype=np.float32)
        for orders, crops in self._batches(tasks):
            vectors = self.encode_crops(crops)
            for order, vector in zip(orders, vectors, strict=True):
                row = sums[starts[order.task] + order.region]
                # The first crop of a region replaces NaN, which stands for a region without pixels.
                row[:] = order.weight * vector + (0.0 if np.isnan(row[0]) else row)
        if len(self.plan.kinds) > 1:
            sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        return [sums[start:end] for start, end in pairwise(starts)]

    def encode_crops(self, crops: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Unit vectors [B, dim] of square crops, uint8 [side, side, 3] each."""
        return self._unit(self.network.encode_images, self.normalised(np.stack(crops)))

    def encode_patches(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Unit vectors [h, w, dim] of a photo's patches, uint8 [H, W, 3] with sides that are multiples of a patch."""
        return self._unit(self.network.encode_patches, self.normalised(image[None]))[0]

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed prompts as they stand, or as means over an ensemble of sentences; see `Encoder.embed_text`."""
        asked = [sentences(text, self._templates) for text in check_texts(texts)]
        if not asked:
            return np.zeros((0, self.dim), dtype=np.float32)
        flat = [sentence for group in asked for sentence in group]
        parts = [self.network.encode_texts(flat[start : start + _TEXTS]) for start in range(0, len(flat), _TEXTS)]
        units = F.normalize(torch.cat(parts).float(), dim=-1)
        means = torch.stack([group.mean(dim=0) for group in units.split([len(group) for group in asked])])
        return F.normalize(means, dim=-1).cpu().numpy()

    def normalised(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [B, H, W, 3] -> float [B, 3, H, W] with the network's own mean and deviation."""
        pixels = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float() / 255.0
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.network.mean, self.network.std))
        return (pixels - mean) / std

    @torch.inference_mode()
    def _unit(self, encode: Callable[[Tensor], Tensor], pixels: Tensor) -> npt.NDArray[np.float32]:
        # Half precision on the GPU as LangSplat has it; on a CPU it would only be slower.
        with torch.autocast(self._kind, dtype=torch.float16, enabled=self._kind == "cuda"):
            vectors = encode(pixels)
        return F.normalize(vectors.float(), dim=-1).cpu().numpy()

    def _batches(self, tasks: Sequence[RegionTask]) -> Iterator[tuple[list[_Order], list[npt.NDArray[np.uint8]]]]:
        """Crops in batches. For a GPU, threads cut the next batch meanwhile; on a CPU the network wants the cores."""
        orders = batched(_orders(tasks, self.plan), _BATCH.get(self._kind, _BATCH["cuda"]))
        side = self.network.side
        if self._kind == "cpu":
            for batch in orders:
                yield batch, [order.cut(side) for order in batch]
            return
        with ThreadPoolExecutor(min(_CUTTERS, os.cpu_count() or 1)) as pool:
            waiting: tuple[list[_Order], list[Future[npt.NDArray[np.uint8]]]] | None = None
            for batch in orders:
                started = batch, [pool.submit(order.cut, side) for order in batch]
                if waiting is not None:
                    yield waiting[0], [crop.result() for crop in waiting[1]]
                waiting = started
            if waiting is not None:
                yield waiting[0], [crop.result() for crop in waiting[1]]


@dataclass(frozen=True)
class _Order:
    """One crop that is to be made: of which region of which task, and what it weighs."""

    source: RegionTask
    task: int
    region: int
    box: Box
    kind: CropKind
    weight: float

    def cut(self, side: int) -> npt.NDArray[np.uint8]:
        return cut(self.source.image, self.source.labels, self.region, self.box, self.kind, side)


def _orders(tasks: Sequence[RegionTask], plan: CropPlan) -> Iterator[_Order]:
    for index, task in enumerate(tasks):
        for region, box in region_boxes(task.labels, task.count):
            for kind, weight in zip(plan.kinds, plan.weights, strict=True):
                yield _Order(task, index, region, box, kind, weight)
