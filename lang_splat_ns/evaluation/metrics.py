"""What is measured on one prompt in one frame. Plain numpy, so that each number can be checked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks, 0..1.

    Args:
        mask: bool [H, W], what was found.
        truth: bool [H, W], what is there.

    Returns:
        1.0 where both are empty, because then they agree.
    """
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def recall(mask: np.ndarray, truth: np.ndarray) -> float:
    """Share of what is there that was found, 0..1; bool [H, W] each, with something there."""
    return np.count_nonzero(mask & truth) / np.count_nonzero(truth)


def peak_hits(relevancy: np.ndarray, boxes: Sequence[np.ndarray]) -> bool:
    """Whether the map points at the prompt: one of its highest pixels lies in a box (LangSplat's localisation).

    Masks share one embedding, so a map often has many highest pixels, and any of them may hit. A map that is the
    same everywhere points nowhere and is a miss; otherwise a field that has learned nothing would score in full.

    Args:
        relevancy: float [H, W], smoothed raw relevancy.
        boxes: bool [H, W] each, one per instance of the prompt.
    """
    highest = relevancy == relevancy.max()
    if highest.all():
        return False
    return any(bool((highest & box).any()) for box in boxes)


def peak_position(relevancy: np.ndarray) -> tuple[int, int]:
    """(x, y) in pixels of the highest pixel, the first in reading order of equals. `relevancy`: float [H, W]."""
    row, column = np.unravel_index(int(np.argmax(relevancy)), relevancy.shape)
    return int(column), int(row)


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean, or None of nothing, so that no score is ever NaN."""
    return float(np.mean(values)) if len(values) else None


def shares_on(mask: np.ndarray, things: Mapping[str, np.ndarray]) -> dict[str, float]:
    """On which labelled things a mask lies.

    Args:
        mask: bool [H, W], what was found.
        things: name -> bool [H, W], what is there; things may overlap.

    Returns:
        The share of the mask's pixels on each thing that it touches, rounded to four digits; nothing of an empty mask.
    """
    covered = np.count_nonzero(mask)
    if not covered:
        return {}
    shares = {name: round(np.count_nonzero(mask & thing) / covered, 4) for name, thing in things.items()}
    return {name: share for name, share in shares.items() if share}


def peak_on(relevancy: np.ndarray, things: Mapping[str, np.ndarray]) -> list[str]:
    """The labelled things that hold one of the map's highest pixels; none of a map that is the same everywhere.

    Args:
        relevancy: float [H, W], as in `peak_hits`.
        things: name -> bool [H, W], what is there.
    """
    return [name for name, thing in things.items() if peak_hits(relevancy, [thing])]
