"""Every mask of a photo, from a grid of point prompts, at SAM's three granularities.

The automatic mask generation of Segment Anything (Kirillov et al., 2023, appendix B) with LangSplat's thresholds,
arranged so that a CPU can afford it: quality is judged on the 256 x 256 logits, and only masks that survive all
suppression are drawn at full size. No crops of the photo are taken (`crop_n_layers` 0; LangSplat takes one layer,
which costs four more image embeddings and finds smaller things).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lang_splat_ns.perception.mask_nms import MaskNmsSettings, mask_nms, mask_scores
from lang_splat_ns.perception.parallel import map_on_cores
from lang_splat_ns.perception.sam_decoder import ImageTokens, PointDecoder
from lang_splat_ns.perception.segmenters import SAM_LEVELS, LabelMaps, compact

LOW_RESOLUTION = 256
"""Side of the decoder's square output; the photo fills its upper left part."""


@dataclass(frozen=True)
class MaskSettings:
    """Thresholds of the mask generator; LangSplat's values where not said otherwise.

    Attributes:
        points_per_side: side of the grid of prompts, spread over the photo.
        predicted_iou: masks whose quality the network rates lower go.
        stability: masks go whose area changes by more than this ratio when the cut is moved by one logit up and down.
        box_nms: a mask goes if its box overlaps the box of a better one by more than this IoU.
        min_area: smaller masks go, islands are removed and holes filled up to this size; pixels of the photo.
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
        predicted_iou: float [M].
        stability: float [M].
    """

    logits: Tensor
    predicted_iou: Tensor
    stability: Tensor


class MaskGenerator:
    """Label maps from a promptable model.

    Args:
        sam: a model of `segment_anything` or of a package with the same modules, in eval mode on its device.
        settings: thresholds and grid.
        batch: prompts per step. Few suit a CPU's caches, many a GPU.
    """

    def __init__(self, sam: Any, settings: MaskSettings, batch: int) -> None:
        self._sam = sam
        self._decoder = PointDecoder(sam)
        self._settings = settings
        self._batch = batch

    @torch.inference_mode()
    def generate(self, image: npt.NDArray[np.uint8]) -> LabelMaps:
        """Label maps of an RGB image, uint8 [H, W, 3], at the levels whole, part and subpart."""
        side = self._sam.image_encoder.img_size
        height, width = image.shape[:2]
        scale = side / max(height, width)
        inner = (int(height * scale + 0.5), int(width * scale + 0.5))
        candidates = self._candidates(self._embed(image, inner), inner, side)
        # The network's three outputs per point come as subpart, part, whole; levels are kept coarse to fine.
        maps = [self._label_map(level, (height, width), inner, side) for level in reversed(candidates)]
        return LabelMaps(np.stack(maps), SAM_LEVELS)

    def _embed(self, image: npt.NDArray[np.uint8], inner: tuple[int, int]) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self._sam.device).permute(2, 0, 1)[None].float()
        resized = F.interpolate(pixels, inner, mode="bilinear", align_corners=False, antialias=True)
        return self._sam.image_encoder(self._sam.preprocess(resized.round()))

    def _candidates(self, embedding: Tensor, inner: tuple[int, int], side: int) -> list[Candidates]:
        """Masks that pass the quality thresholds, one entry per output of the network."""
        tokens = self._decoder.prepare(embedding)
        points = grid_points(self._settings.points_per_side, inner).to(embedding.device)
        low = tuple(-(-length * LOW_RESOLUTION // side) for length in inner)
        rows = -(-low[0] // 4)
        batches = points.split(self._batch)

        def decode(batch: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
            return self._passing(tokens, batch, (low[0], low[1]), rows)

        found = map_on_cores(decode, batches) if embedding.device.type == "cpu" else [decode(part) for part in batches]
        return [Candidates(*map(torch.cat, zip(*parts, strict=True))) for parts in zip(*found, strict=True)]

    def _passing(
        self, tokens: ImageTokens, points: Tensor, low: tuple[int, int], rows: int
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Logits, predicted IoU and stability of the masks of a few points that pass, per output of the network."""
        image_tokens, mask_tokens, quality = self._decoder.attend(tokens, points)
        # Quality is known before the masks are drawn, which is a third of the work.
        good = (quality > self._settings.predicted_iou).any(dim=1)
        quality = quality[good]
        logits = self._decoder.draw(image_tokens[good], mask_tokens[good], tokens.grid, rows)
        logits = logits[..., : low[0], : low[1]]
        stability = stability_scores(logits)
        passed = (quality > self._settings.predicted_iou) & (stability >= self._settings.stability)
        return [
            (logits[kept, output].half(), quality[kept, output], stability[kept, output])
            for output, kept in enumerate(passed.T)
        ]

    def _label_map(
        self, candidates: Candidates, size: tuple[int, int], inner: tuple[int, int], side: int
    ) -> npt.NDArray[np.int32]:
        settings = self._settings
        masks = candidates.logits > 0
        low_area = settings.min_area * (LOW_RESOLUTION / side) ** 2 * (inner[0] * inner[1]) / (size[0] * size[1])
        index = torch.nonzero(masks.sum(dim=(1, 2)) >= max(low_area, 1.0))[:, 0]
        index = index[box_nms(masks[index], candidates.predicted_iou[index], settings.box_nms)]
        scores = mask_scores(candidates.stability[index], candidates.predicted_iou[index])
        index = index[mask_nms(masks[index], scores, settings.nms)]
        # Large masks are painted first, so that what lies on them stays visible.
        index = index[torch.argsort(masks[index].sum(dim=(1, 2)), descending=True, stable=True)]
        return paint(candidates.logits[index], size, inner, side, settings.min_area)


def grid_points(points_per_side: int, inner: tuple[int, int]) -> Tensor:
    """Centres of a regular grid of cells over the photo: float [n * n, 2], x and y in the network's pixels."""
    steps = (torch.arange(points_per_side, dtype=torch.float32) + 0.5) / points_per_side
    y, x = torch.meshgrid(steps * inner[0], steps * inner[1], indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


def stability_scores(logits: Tensor, offset: float = 1.0) -> Tensor:
    """IoU of the masks cut `offset` above and below zero: float [...] from logits [..., h, w]."""
    inside = (logits > offset).sum(dim=(-2, -1))
    return inside / (logits > -offset).sum(dim=(-2, -1)).clamp(min=1)


def box_nms(masks: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices that stay in greedy suppression by boxes; `masks` is bool [M, h, w] with no empty mask."""
    from torchvision.ops import masks_to_boxes, nms

    if not len(masks):
        return torch.zeros(0, dtype=torch.long, device=masks.device)
    # Boxes hold the outer edges of the pixels, so that a mask one pixel wide has an area.
    boxes = masks_to_boxes(masks) + masks.new_tensor([0, 0, 1, 1], dtype=torch.float32)
    return nms(boxes, scores.float(), threshold)


def paint(
    logits: Tensor, size: tuple[int, int], inner: tuple[int, int], side: int, min_area: int, chunk: int = 32
) -> npt.NDArray[np.int32]:
    """Draw masks over one another at full size.

    Args:
        logits: float [M, h, w], in painting order.
        size: height and width of the photo.
        inner: height and width of the photo inside the network's square input.
        side: side of that square.
        min_area: see `MaskSettings`.
        chunk: masks enlarged at a time, which bounds the memory.

    Returns:
        int32 [H, W]; -1 where there is no mask, ids without gaps.
    """
    labels = np.full(size, -1, dtype=np.int32)
    grid = _sampling_grid(logits.shape[-2:], size, inner, side).to(logits.device)
    for start in range(0, len(logits), chunk):
        part = logits[start : start + chunk].float()[None]
        large = F.grid_sample(part, grid, mode="bilinear", padding_mode="border", align_corners=False)[0] > 0
        for offset, mask in enumerate(large.cpu().numpy()):
            clean = remove_specks(mask, min_area)
            if clean.sum() >= min_area:
                labels[clean] = start + offset
    return compact(labels)


def _sampling_grid(
    low: torch.Size | tuple[int, ...], size: tuple[int, int], inner: tuple[int, int], side: int
) -> Tensor:
    """Where each pixel of the photo lies in the cropped low-resolution logits: float [1, H, W, 2] for grid_sample."""
    axes = []
    for length, part, count in zip(size, inner, low, strict=True):
        # Pixel centres of the photo, in low-resolution pixels measured from the upper left corner.
        position = (torch.arange(length) + 0.5) * (part / length) * (LOW_RESOLUTION / side)
        axes.append(position / count * 2 - 1)
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y], dim=-1)[None]


def remove_specks(mask: npt.NDArray[np.bool_], min_area: int) -> npt.NDArray[np.bool_]:
    """Fill holes and drop islands smaller than `min_area` pixels; bool [H, W]."""
    import cv2

    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return mask
    window = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    # One pixel of border joins everything outside, so that a gap that opens to the outside is not taken for a hole.
    inside = np.pad(mask[window], 1).astype(np.uint8)
    for value in (0, 1):
        pieces = (inside == value).astype(np.uint8)
        _, component, statistics, _ = cv2.connectedComponentsWithStats(pieces, connectivity=8)
        small = statistics[:, cv2.CC_STAT_AREA] < min_area
        # Component 0 is everything else; while holes are filled, the outside is no hole however thin it is.
        small[0] = False
        if value == 0:
            small[component[0, 0]] = False
        inside[small[component]] = 1 - value
    cleaned = np.zeros_like(mask)
    cleaned[window] = inside[1:-1, 1:-1].astype(bool)
    return cleaned
