"""What a whole scene knows about a prompt, brought into its relevancy: two corrections that a photo alone cannot have.

- The bar. Negatives like "object" are weak against some prompts: "container" beats them on half of a kitchen. A prompt
  is not about most of the things in a scene, so what its median object gets is one more thing to beat.
- The floor. Blended pixels at an object's border average its relevancy with its neighbours'. How much a neighbour is
  *not* the prompt says nothing about where the object ends, but a neighbour at 0.1 pulls more than one at 0.4, and
  masks lose their rims. What lies below 0.5 is therefore raised to where a mask ends in the middle of a blurred border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lang_splat_ns.language.codebook import Codebook
from lang_splat_ns.language.relevancy import AUTO_FRACTION, TEMPERATURE, relevancy

_TINY = 1e-6


@dataclass(frozen=True)
class Calibration:
    """What to do with raw relevancy of some prompts in one scene.

    Attributes:
        bar: how much is taken from every logit, at least 0. float32 [Q]
        floor: least value, at most 0.5. float32 [Q]
    """

    bar: Tensor
    floor: Tensor

    def lower(self, values: Tensor) -> Tensor:
        """Apply the bar: [Q, ...] -> [Q, ...]. Where nothing is known, at 0, it stays 0; no value gets larger."""
        lowered = torch.sigmoid(torch.logit(values, _TINY) - self._wide(self.bar, values))
        return torch.where(values > 0, lowered, 0.0)

    def lift_floor(self, values: Tensor) -> Tensor:
        """Apply the floor: [Q, ...] -> [Q, ...]."""
        return torch.maximum(values, self._wide(self.floor, values))

    def __call__(self, values: Tensor) -> Tensor:
        """Both, for maps of blended features: raw relevancy [Q, ...] -> [Q, ...]."""
        return self.lift_floor(self.lower(values))

    @staticmethod
    def _wide(numbers: Tensor, values: Tensor) -> Tensor:
        return numbers.reshape(-1, *[1] * (values.ndim - 1))


def calibrate(
    codebooks: Sequence[Codebook],
    positives: Tensor,  # [Q, D]
    negatives: Tensor,  # [Nn, D]
    temperature: float = TEMPERATURE,
) -> Calibration:
    """Learn from the objects of a scene what its prompts have to beat.

    The bar is the logit of the median entry over all levels, or 0 if that does not beat the negatives anyway. The
    floor follows from the automatic mask's fraction f and the scene's peak P: on a straight border, a smoothed map
    crosses `0.5 + f (P - 0.5)` in the middle of the blur if the far side is at `0.5 - (1 - 2 f) (P - 0.5)`.

    Args:
        codebooks: one per level.
        positives, negatives, temperature: as in `relevancy.relevancy`.
    """
    entries = torch.cat([book.entries for book in codebooks])
    return calibration_of(relevancy(entries[entries.norm(dim=-1) > 0], positives, negatives, temperature))


def calibration_of(values: Tensor) -> Calibration:
    """The same from raw relevancy of the scene's objects of all levels, those of which something is known: [Q, K]."""
    if values.shape[1] == 0:
        nothing = values.new_zeros(len(values))
        return Calibration(nothing, nothing + 0.5)
    bar = torch.logit(values, _TINY).quantile(0.5, dim=1).clamp_min(0.0)
    peak = Calibration(bar, bar).lower(values).amax(1)
    return Calibration(bar, 0.5 - max(1 - 2 * AUTO_FRACTION, 0.0) * (peak - 0.5).clamp_min(0.0))


def splat_scores(
    codebooks: Sequence[Codebook],
    positives: Tensor,  # [Q, D]
    negatives: Tensor,  # [Nn, D]
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Calibrated relevancy of every Gaussian at every level, to be blended as channels: float32 [Q, L, N] in 0..1.

    As `codebook.gaussian_scores`, with both corrections. Above 0.5 is still only what beats every negative.

    Args:
        codebooks: one per level, of the same Gaussians.
        positives, negatives, temperature: as in `relevancy.relevancy`.
    """
    scene = calibrate(codebooks, positives, negatives, temperature)
    levels = [
        book.spread(scene.lower(relevancy(book.entries, positives, negatives, temperature))) for book in codebooks
    ]
    return scene.lift_floor(torch.stack(levels, dim=1))
