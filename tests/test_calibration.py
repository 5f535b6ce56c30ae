"""What a scene's objects do to its prompts' relevancy: a bar and a floor, against plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from lang_splat_ns.language.calibration import calibrate, splat_scores
from lang_splat_ns.language.codebook import Codebook, gaussian_scores
from lang_splat_ns.language.compression import from_shares
from lang_splat_ns.language.relevancy import mask_of

NEGATIVE = torch.tensor([[0.0, 0.0, 1.0]])
PROMPT = torch.tensor([[1.0, 0.0, 0.0]])


def entry(margin: float) -> Tensor:
    """A unit vector whose cosine with the prompt is larger by `margin` than with the negative."""
    return torch.tensor([margin / 2, math.sqrt(1 - margin**2 / 2), -margin / 2])


def scene(*margins: float) -> Codebook:
    """One Gaussian per entry, and one Gaussian of which nothing is known."""
    shares = sparse.csr_array(np.vstack([np.eye(len(margins)), np.zeros(len(margins))]))
    return from_shares(torch.stack([entry(margin) for margin in margins]), shares, 2)


def test_the_median_object_is_one_more_thing_to_beat() -> None:
    scores = splat_scores([scene(0.3, 0.1, 0.08, 0.06, -0.2)], PROMPT, NEGATIVE)[0, 0]
    # Temperature 10, and 0.08 is the median.
    assert torch.allclose(torch.logit(scores[:2]), 10 * torch.tensor([0.22, 0.02]), atol=1e-3)
    assert (scores[2:] <= 0.5 + 1e-5).all()


def test_a_prompt_that_few_objects_fit_keeps_its_relevancy() -> None:
    scores = splat_scores([scene(0.3, 0.1, -0.1, -0.2, -0.3)], PROMPT, NEGATIVE)[0, 0]
    assert torch.allclose(torch.logit(scores[:2]), torch.tensor([3.0, 1.0]), atol=1e-3)
    # What says no and what is not known says it to the same degree.
    assert len(set(scores[2:].tolist())) == 1 and 0.4 < float(scores[2]) < 0.5


def test_a_scene_without_the_thing_stays_without() -> None:
    for margins in ((-0.1, -0.2, -0.3), (-0.01,)):
        assert (splat_scores([scene(*margins)], PROMPT, NEGATIVE) <= 0.5).all()
    empty = Codebook(torch.zeros(1, 3), torch.full((4, 1), -1, dtype=torch.int16), torch.zeros(4, 0, dtype=torch.uint8))
    assert (splat_scores([empty], PROMPT, NEGATIVE) <= 0.5).all()


@pytest.mark.parametrize("far", [-0.5, -0.05])
def test_a_blurred_border_ends_in_its_middle(far: float) -> None:
    """However much the neighbour is not the prompt, the automatic mask covers half of the blur."""
    near, other = splat_scores([scene(0.3, far, far)], PROMPT, NEGATIVE)[0, 0, :2]
    profile = torch.cat([torch.ones(120), torch.linspace(1, 0, 12), torch.zeros(120)])
    found = mask_of((other + (near - other) * profile).expand(200, -1))
    assert abs(int(found[100].sum()) - 126) <= 1


def test_maps_are_calibrated_as_gaussians_are() -> None:
    book = scene(0.3, 0.1, 0.08, 0.06, -0.2)
    maps = gaussian_scores([book], PROMPT, NEGATIVE)[..., None]
    calibrated = calibrate([book], PROMPT, NEGATIVE)(maps)
    assert torch.allclose(calibrated[..., 0], splat_scores([book], PROMPT, NEGATIVE), atol=1e-5)
