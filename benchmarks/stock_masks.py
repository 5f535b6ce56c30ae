"""The stock automatic mask generator as an oracle: its masks, and those of each of the network's outputs alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch

from lang_splat_ns.perception.mask_generator import MaskSettings
from lang_splat_ns.perception.segmenters import SAM_LEVELS


@dataclass(frozen=True)
class StockMasks:
    """What the stock generator found on a photo.

    Attributes:
        masks: bool [M, H, W] by level, and under "all" for its usual way, where the three outputs compete.
        seconds: of the usual way.
        network_seconds: of those, in the network.
    """

    masks: dict[str, np.ndarray]
    seconds: float
    network_seconds: float


def stock_masks(package: str, sam: Any, image: np.ndarray, settings: MaskSettings) -> StockMasks:
    """Run the stock generator at our parameters.

    Args:
        package: `mobile_sam` or `segment_anything`.
        sam: a model of the package, in eval mode.
        image: RGB, uint8 [H, W, 3].
        settings: thresholds; those of LangSplat's own suppression play no part.
    """
    generator = import_module(package).SamAutomaticMaskGenerator(
        sam,
        points_per_side=settings.points_per_side,
        pred_iou_thresh=settings.predicted_iou,
        stability_score_thresh=settings.stability,
        box_nms_thresh=settings.box_nms,
        min_mask_region_area=settings.min_area,
    )
    with _recorded(sam.image_encoder) as encoder, _recorded(sam.mask_decoder) as decoder:
        start = time.perf_counter()
        masks = {"all": _generate(generator, image)}
        seconds = time.perf_counter() - start
        network_seconds = encoder.seconds + decoder.seconds
        # Run again on one output at a time, with what the network has said already: subpart, part, whole.
        for output, level in enumerate(reversed(SAM_LEVELS)):
            encoder.rewind(None)
            decoder.rewind(output)
            masks[level] = _generate(generator, image)
    return StockMasks(masks, seconds, network_seconds)


def _generate(generator: Any, image: np.ndarray) -> np.ndarray:
    found = [record["segmentation"] for record in generator.generate(image)]
    return np.stack(found) if found else np.zeros((0, *image.shape[:2]), dtype=bool)


class _Record:
    """Answers of a module, which after `rewind` are given again, all of them or one output's share."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward
        self._answers: list[Any] = []
        self._replay: Iterator[Any] | None = None
        self._output: int | None = None
        self.seconds = 0.0

    def rewind(self, output: int | None) -> None:
        self._replay, self._output = iter(self._answers), output

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._replay is not None:
            answer = next(self._replay)
            if self._output is None:
                return answer
            return tuple(part[:, self._output : self._output + 1] for part in answer)
        start = time.perf_counter()
        answer = self._forward(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        self._answers.append(answer)
        return answer


@contextmanager
def _recorded(module: Any) -> Iterator[_Record]:
    """While this lasts, the module's answers are recorded or replayed."""
    record = _Record(module.forward)
    module.forward = record
    try:
        yield record
    finally:
        del module.forward


def partners(masks: np.ndarray, others: np.ndarray, iou: float = 0.9) -> int:
    """How many of the masks, bool [M, H, W], have a partner among the others."""
    if not len(masks) or not len(others):
        return 0
    one, other = (torch.from_numpy(array).flatten(1).float() for array in (masks, others))
    shared = one @ other.T
    union = one.sum(dim=1)[:, None] + other.sum(dim=1) - shared
    return int((shared >= iou * union).any(dim=1).sum())
