"""Mask suppression against a plain double loop written from the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lang_splat_ns.perception.mask_nms import MaskNmsSettings, mask_nms, mask_scores


def slow_mask_nms(masks: np.ndarray, scores: np.ndarray, options: MaskNmsSettings) -> list[int]:
    """The same rule, one pair at a time."""
    order = sorted(range(len(masks)), key=lambda i: (-scores[i], i))
    kept = []
    for rank, judged in enumerate(order):
        keep = scores[judged] > options.score
        for rival_rank, rival in enumerate(order):
            if rival == judged:
                continue
            intersection = int((masks[judged] & masks[rival]).sum())
            union = int((masks[judged] | masks[rival]).sum())
            if rival_rank < rank and union and intersection / union > options.iou:
                keep = False
            of_judged = intersection / max(int(masks[judged].sum()), 1)
            of_rival = intersection / max(int(masks[rival].sum()), 1)
            nested = of_rival < 0.5 and of_judged >= 0.85
            if nested and 1 - of_judged * of_rival > 1 - options.inner:
                keep = False
        if keep:
            kept.append(judged)
    return kept


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 12), inner=st.sampled_from([0.2, 0.5, 0.9]))
def test_equals_the_double_loop(seed: int, count: int, inner: float) -> None:
    random = np.random.default_rng(seed)
    masks = np.zeros((count, 12, 12), dtype=bool)
    for mask in masks:
        top, left = random.integers(0, 8, 2)
        mask[top : top + random.integers(1, 8), left : left + random.integers(1, 8)] = True
        mask &= random.random(mask.shape) > random.choice([0.0, 0.1])
    # Few different values, so that ties occur.
    scores = random.choice([0.5, 0.72, 0.8, 0.9, 0.95], count).astype(np.float32)
    options = MaskNmsSettings(inner=inner)
    found = mask_nms(torch.from_numpy(masks), torch.from_numpy(scores), options)
    assert found.tolist() == slow_mask_nms(masks, scores, options)


def test_no_mask_and_one_mask() -> None:
    assert mask_nms(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0)).tolist() == []
    one = torch.ones(1, 4, 4, dtype=torch.bool)
    assert mask_nms(one, torch.tensor([0.9])).tolist() == [0]
    assert mask_nms(one, torch.tensor([0.7])).tolist() == []


def test_scores_are_products() -> None:
    scores = mask_scores(torch.tensor([0.9, 1.0]), torch.tensor([0.8, 0.5]))
    assert scores.tolist() == pytest.approx([0.72, 0.5])
