"""Which scale answers a prompt (LERF, section 3.3): the one at which the prompt is most relevant anywhere in view."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def candidate_scales(largest: float, count: int) -> tuple[float, ...]:
    """`count` scales from 0 to `largest`, in nerfstudio's units."""
    return tuple(torch.linspace(0.0, largest, count).tolist())


def best_scales(relevancy_at: Callable[[float], Tensor], scales: Sequence[float]) -> tuple[float, ...]:
    """For each prompt the scale with the highest relevancy; of equals the smallest.

    Args:
        relevancy_at: relevancy of all prompts at a scale, [Q, M]; it is asked once per scale.
        scales: candidates.
    """
    peaks = torch.stack([relevancy_at(scale).amax(-1) for scale in scales])  # [S, Q]
    return tuple(scales[index] for index in peaks.argmax(0).tolist())


def relevancy_per_prompt(relevancy_at: Callable[[float], Tensor], scales: Sequence[float]) -> Tensor:
    """Relevancy of each prompt at its own scale [Q, M]; a scale that several prompts share is asked once.

    Args:
        relevancy_at: relevancy of all prompts at a scale, [Q, M].
        scales: one per prompt.
    """
    answers = {scale: relevancy_at(scale) for scale in dict.fromkeys(scales)}
    return torch.stack([answers[scale][prompt] for prompt, scale in enumerate(scales)])
