"""From rendered codes back to objects: the nearest code, if it is near enough."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 1 << 14
COVERED = 0.5
"""Alpha below which a pixel shows no object."""
_ROUNDS = 4
"""How many pixels wide half a border may be that neighbours decide about."""
_LINE = 3
"""Pixels of one object around and at each pixel of a straight line."""


def nearest_objects(codes: Tensor, known: Tensor, reach: float) -> Tensor:
    """The object whose code is nearest to each given one: int64 [M], -1 where none is near enough.

    Args:
        codes: float [M, C].
        known: unit codes of the objects. float [K, C]
        reach: distance up to which a code is near enough.
    """
    if not len(known):
        return torch.full((len(codes),), -1, dtype=torch.int64, device=codes.device)
    parts = []
    for chunk in codes.split(_CHUNK):
        # The codes have unit length, so that the nearest one has the largest product.
        product, nearest = (chunk @ known.T).max(-1)
        square = chunk.square().sum(-1) + 1.0 - 2.0 * product
        parts.append(torch.where(square <= reach * reach, nearest, -1))
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=codes.device)


def object_map(codes: Tensor, alpha: Tensor, known: Tensor, reach: float) -> Tensor:
    """The object that each pixel shows: int64 [H, W], -1 for none.

    Along borders codes of two objects are mixed and near to neither. Such a pixel goes to that one of the objects
    beside it whose code is nearest.

    Args:
        codes: blended codes, not divided by alpha. [H, W, C]
        alpha: [H, W]
        known, reach: as in `nearest_objects`.
    """
    height, width, dim = codes.shape
    covered = alpha > COVERED
    pure = codes / alpha.clamp_min(COVERED)[..., None]
    objects = nearest_objects(pure.reshape(-1, dim), known, reach).reshape(height, width)
    objects = _supported(torch.where(covered, objects, -1))
    for _ in range(_ROUNDS if len(known) else 0):
        rows, columns = ((objects < 0) & covered).nonzero(as_tuple=True)
        padded = F.pad(objects, (1, 1, 1, 1), value=-1)
        beside = torch.stack([padded[rows + down, columns + right] for down in range(3) for right in range(3)])
        squares = (known[beside.clamp_min(0)] - pure[rows, columns]).square().sum(-1)  # [9, n]
        best = torch.where(beside >= 0, squares, torch.inf).argmin(0, keepdim=True)
        objects[rows, columns] = beside.gather(0, best)[0]
    return objects


def _supported(objects: Tensor) -> Tensor:
    """Without the pixels whose object fewer than three of the eight pixels around show: [H, W] -> [H, W].

    On its way from one object's code to another's, a border may pass by a third one's. That gives lines one pixel wide.
    """
    height, width = objects.shape
    padded = F.pad(objects, (1, 1, 1, 1), value=-1)
    alike = torch.zeros_like(objects, dtype=torch.uint8)
    for down in range(3):
        for right in range(3):
            alike += padded[down : down + height, right : right + width] == objects
    return torch.where(alike > _LINE, objects, -1)
