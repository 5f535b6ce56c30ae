"""How good a mask would be at other thresholds, found while the maps are at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lang_splat_ns.evaluation import metrics
from lang_splat_ns.evaluation.protocols import PROTOCOLS, EvaluationProtocol, majority, upper_half

CURVE_THRESHOLDS = tuple(round(0.025 * step, 3) for step in range(16, 39))
"""0.4, LangSplat's published one on stretched maps, to 0.95. Ours are above 0.5, and some encoders' maps end at 0.7."""


def _as_it_is(relevancy: np.ndarray, threshold: float) -> np.ndarray:
    return relevancy > threshold


def _voted(stretched: np.ndarray, threshold: float) -> np.ndarray:
    return majority(stretched > threshold)


# Reading again with another threshold would smooth every map again, which takes longer than all the rest. What each
# way to read does after smoothing is a stretch and a cut.
_CUTS: dict[Any, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray, float], np.ndarray]]] = {
    PROTOCOLS["held-out"].read: (np.asarray, _as_it_is),
    PROTOCOLS["lerf-ovs-2d"].read: (upper_half, _voted),
}


def iou_at_thresholds(protocol: EvaluationProtocol, relevancy: np.ndarray, truth: np.ndarray) -> list[float] | None:
    """IoU with the truth at each of `CURVE_THRESHOLDS`, rounded to four digits.

    Args:
        protocol: how maps are read; where they are cut in no known way there is no curve.
        relevancy: float [H, W], the map that the mask was read off (`Reading.maps`).
        truth: bool [H, W].
    """
    if protocol.read not in _CUTS:
        return None
    stretch, cut = _CUTS[protocol.read]
    stretched = stretch(relevancy)
    return [round(metrics.iou(cut(stretched, threshold), truth), 4) for threshold in CURVE_THRESHOLDS]
