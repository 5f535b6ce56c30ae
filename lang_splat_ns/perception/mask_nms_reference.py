"""LangSplat's mask suppression as a plain double loop over full-size masks: slow, and the oracle of `mask_nms`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lang_splat_ns.perception.mask_nms import INNER_SHARE, OUTER_SHARE, MaskNmsSettings


def mask_nms_reference(
    masks: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32], settings: MaskNmsSettings | None = None
) -> list[int]:
    """What `mask_nms` returns, one pair of masks at a time, straight from the formulas.

    Args:
        masks: bool [M, H, W].
        scores: float32 [M].
        settings: thresholds; LangSplat's by default.
    """
    settings = settings or MaskNmsSettings()
    order = sorted(range(len(masks)), key=lambda i: (-scores[i], i))
    areas = [int(mask.sum()) for mask in masks]
    gone = {judged for judged in order if not scores[judged] > settings.score}
    for rank, better in enumerate(order):
        for worse in order[rank + 1 :]:
            intersection = int((masks[better] & masks[worse]).sum())
            union = int((masks[better] | masks[worse]).sum())
            if union and intersection / union > settings.iou:
                gone.add(worse)
            for judged, rival in ((better, worse), (worse, better)):
                if _inside(intersection / max(areas[judged], 1), intersection / max(areas[rival], 1), settings):
                    gone.add(judged)
    return [mask for mask in order if mask not in gone]


def _inside(of_judged: float, of_rival: float, settings: MaskNmsSettings) -> bool:
    """Whether a mask goes because it is nested, by the shares of it and of its rival that both have in common."""
    nested = of_rival < OUTER_SHARE and of_judged >= INNER_SHARE
    return nested and 1.0 - of_judged * of_rival > 1.0 - settings.inner
