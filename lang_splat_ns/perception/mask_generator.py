"""Every mask of a photo, from a grid of point prompts, at SAM's three granularities.

The automatic mask generation of Segment Anything (Kirillov et al., 2023, appendix B) with LangSplat's thresholds,
arranged so that a CPU can afford it. The stock code enlarges every mask to the photo before it looks at it. Here most
masks go by what the network thinks of them and by their low-resolution logits; of the others, box and stability are
measured at the photo's size inside their windows, since suppression turns on a few pixels, and nothing but these
numbers is kept; only the survivors are drawn. No crops of the photo are taken (`crop_n_layers` 0; LangSplat takes one
layer, which costs four more image embeddings and finds smaller things).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang_splat_ns.perception.full_size import (
    Enlargement,
    Masks,
    measure,
    paint,
    remove_specks,
    stability_scores,
    window_of,
)
from lang_splat_ns.perception.mask_nms import MaskNmsSettings, mask_nms, mask_scores
from lang_splat_ns.perception.parallel import map_on_cores
from lang_splat_ns.perception.promptable import Placement, Promptable
from lang_splat_ns.perception.segmenters import SAM_LEVELS, LabelMaps

STABILITY_DOUBT = 0.12
"""Stability counted on low-resolution pixels is off by up to this for masks of a few of them, by 0.03 for large masks
(measured with MobileSAM on a photo), so a mask that fails by more does not pass at the photo's size."""
GPU_PIXELS_AT_ONCE = 1 << 26
"""Pixels of masks that a GPU enlarges in one step; a few temporary arrays of float32 hold as many."""


@dataclass(frozen=True)
class MaskSettings:
    """Thresholds of the mask generator; LangSplat's values where not said otherwise.

    Attributes:
        points_per_side: side of the grid of prompts, spread over the photo.
        predicted_iou: masks whose quality the network rates lower go.
        stability: masks go whose area changes by more than this ratio when the cut is moved by one logit up and down.
        box_nms: a mask goes if its box overlaps the box of a better one by more than this IoU.
        min_area: islands are removed and holes filled up to this size, and smaller masks are not drawn; pixels.
        nms: see `mask_nms`.
    """

    points_per_side: int = 32
    predicted_iou: float = 0.7
    stability: float = 0.85
    box_nms: float = 0.7
    min_area: int = 100
    nms: MaskNmsSettings = field(default_factory=MaskNmsSettings)

    def describe(self) -> str:
        """All values in one line, for the segmenter's id."""
        nms = f"{self.nms.iou:g}/{self.nms.score:g}/{self.nms.inner:g}"
        return (
            f"points={self.points_per_side} iou={self.predicted_iou:g} stability={self.stability:g} "
            f"box={self.box_nms:g} nms={nms} area={self.min_area} crops=0"
        )


@dataclass(frozen=True)
class Candidates:
    """Masks of one level before suppression.

    Attributes:
        logits: float16 [M, h, w], the photo's part of the low-resolution output.
        boxes: int64 [M, 4] at the photo's size, see `full_size.measure`.
        predicted_iou: float32 [M].
        stability: float32 [M], at the photo's size.
    """

    logits: Tensor
    boxes: Tensor
    predicted_iou: Tensor
    stability: Tensor

    @staticmethod
    def join(parts: Sequence[Candidates]) -> Candidates:
        """All masks of several, in their order."""
        names = ("logits", "boxes", "predicted_iou", "stability")
        return Candidates(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def __getitem__(self, index: Tensor) -> Candidates:
        """Some of the masks."""
        return Candidates(self.logits[index], self.boxes[index], self.predicted_iou[index], self.stability[index])


@dataclass(frozen=True)
class Proposals:
    """What the network proposes for one photo.

    Attributes:
        placement: where the photo lies in the network's output.
        levels: masks that pass the quality thresholds; whole, part, subpart.
    """

    placement: Placement
    levels: tuple[Candidates, ...]


class MaskGenerator:
    """Label maps from a promptable network.

    Args:
        network: see `Promptable`.
        settings: thresholds and grid.
        batch: prompts per step. Few suit a CPU's caches, many a GPU.
    """

    def __init__(self, network: Promptable, settings: MaskSettings, batch: int) -> None:
        self._network = network
        self._settings = settings
        self._batch = batch

    def generate(self, image: npt.NDArray[np.uint8]) -> LabelMaps:
        """Label maps of an RGB image, uint8 [H, W, 3], at the levels whole, part and subpart."""
        return self.label_maps(self.propose(image))

    @torch.inference_mode()
    def propose(self, image: npt.NDArray[np.uint8]) -> Proposals:
        """Ask the network at every point of the grid; image is uint8 [H, W, 3]."""
        network, device = self._network, self._network.device
        placement = network.place(*image.shape[:2])
        embedded = network.embed(image)
        enlarge = Enlargement(placement, device)
        batches = placement.grid(self._settings.points_per_side).to(device).split(self._batch)

        def decode(points: Tensor) -> list[Candidates]:
            logits, quality = network.decode(embedded, points, self._settings.predicted_iou, placement.low)
            return [self._passing(logits[:, output], quality[:, output], enlarge) for output in range(3)]

        found = map_on_cores(decode, batches) if device.type == "cpu" else [decode(points) for points in batches]
        # The network's three outputs per point come as subpart, part, whole; levels are kept coarse to fine.
        outputs = [Candidates.join(parts) for parts in zip(*found, strict=True)]
        return Proposals(placement, tuple(reversed(outputs)))

    def masks(self, proposals: Proposals, *, pooled: bool = False) -> dict[str, Masks]:
        """The masks that the stock generator keeps, best first.

        Args:
            proposals: from `propose`.
            pooled: let masks of all three levels compete, as the stock generator does, instead of each level's alone.

        Returns:
            Masks by level; by the one name "all" if they are pooled.
        """
        if pooled:
            return {"all": self._kept(Candidates.join(proposals.levels), proposals.placement)[0]}
        levels = zip(SAM_LEVELS, proposals.levels, strict=True)
        return {name: self._kept(level, proposals.placement)[0] for name, level in levels}

    def label_maps(self, proposals: Proposals) -> LabelMaps:
        """The masks of each level, after LangSplat's suppression, painted over one another."""
        maps = map_on_cores(lambda level: self._label_map(level, proposals.placement), proposals.levels)
        return LabelMaps(np.stack(maps), SAM_LEVELS)

    def _passing(self, logits: Tensor, quality: Tensor, enlarge: Enlargement) -> Candidates:
        """Masks of one output of a few points that pass."""
        settings = self._settings
        hopeful = (quality > settings.predicted_iou) & (
            stability_scores(logits) >= settings.stability - STABILITY_DOUBT
        )
        logits, quality = logits[hopeful], quality[hopeful]
        boxes, stability = measure(logits, enlarge, self._masks_at_once(enlarge.pixels))
        return Candidates(logits.half(), boxes, quality, stability)[stability >= settings.stability]

    def _masks_at_once(self, pixels: int) -> int:
        """How many masks of a photo with so many pixels are enlarged in one step: one suits a CPU's caches."""
        return 1 if self._network.device.type == "cpu" else max(1, GPU_PIXELS_AT_ONCE // pixels)

    def _kept(self, candidates: Candidates, placement: Placement) -> tuple[Masks, Tensor]:
        """Masks that survive suppression by boxes, cleaned, and their low-resolution masks, bool [M, h, w]."""
        settings = self._settings
        index = box_nms(candidates.boxes, candidates.predicted_iou, settings.box_nms)
        candidates = candidates[index]
        enlarge = Enlargement(placement, candidates.logits.device)
        found = [
            ((enlarge(logits[None], window_of(box))[0] > 0).cpu().numpy(), box)
            for logits, box in zip(candidates.logits, candidates.boxes.cpu().numpy(), strict=True)
        ]
        done = map_on_cores(lambda item: cleaned(*item, placement.size, settings.min_area), found)
        boxes = np.array([box for _, box, _ in done], dtype=np.int64).reshape(-1, 4)
        untouched = torch.tensor([clean for _, _, clean in done], dtype=torch.float32)
        # Cleaning may have made two masks alike; the one that did not need it stays.
        index = box_nms(torch.from_numpy(boxes), untouched, settings.box_nms)
        kept, chosen = candidates[index.to(candidates.boxes.device)], index.numpy()
        masks = Masks(
            placement.size,
            boxes[chosen],
            tuple(done[i][0] for i in chosen),
            kept.predicted_iou.cpu().numpy(),
            kept.stability.cpu().numpy(),
        )
        return masks, kept.logits > 0

    def _label_map(self, candidates: Candidates, placement: Placement) -> npt.NDArray[np.int32]:
        masks, low = self._kept(candidates, placement)
        areas = masks.areas
        large = np.flatnonzero(areas >= self._settings.min_area)
        scores = mask_scores(torch.from_numpy(masks.stability[large]), torch.from_numpy(masks.predicted_iou[large]))
        kept = large[mask_nms(low[torch.from_numpy(large)], scores.to(low.device), self._settings.nms).cpu().numpy()]
        # Large masks are painted first, so that what lies on them stays visible.
        return paint(masks, kept[np.argsort(-areas[kept], kind="stable")])


def box_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices that stay in greedy suppression by boxes [M, 4], which hold the first and the last pixels."""
    from torchvision.ops import nms

    return nms(boxes.float(), scores.float(), threshold)


def cleaned(
    crop: npt.NDArray[np.bool_], box: npt.NDArray[np.int64], size: tuple[int, int], min_area: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], bool]:
    """A mask without specks (see `remove_specks`), its box, and whether it had none.

    Args:
        crop: bool [h, w], the mask inside its box.
        box: first column, first row, last column, last row.
        size: height and width of the photo.
        min_area: in pixels.
    """
    left, top, right, bottom = (int(value) for value in box)
    # A rim of so many pixels holds all of the photo beside the box, or at least more than a hole has.
    wide, high = (-(-min_area // length) for length in crop.shape)
    above, before = min(top, high), min(left, wide)
    rims = (above, min(size[0] - 1 - bottom, high)), (before, min(size[1] - 1 - right, wide))
    padded = np.pad(crop, rims)
    clean = remove_specks(padded, min_area)
    if np.array_equal(clean, padded):
        return crop, box, True
    rows, columns = np.flatnonzero(clean.any(axis=1)), np.flatnonzero(clean.any(axis=0))
    inner = np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.int64)
    return clean[window_of(inner)], inner + np.array([left - before, top - above] * 2), False
