"""What lies around each Gaussian: means over nearest neighbours in space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 16
"""Gaussians that a mean is taken over, itself included."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest Gaussians of each of N Gaussians.

    Attributes:
        index: int32 [N, k], by distance of the centres; the first is usually the Gaussian itself.
        opacities: [N] in 0..1, how much each counts in a mean, so that faint floaters have little to say.
    """

    index: Tensor
    opacities: Tensor

    def mean(self, values: Tensor, known: Tensor) -> Tensor:
        """Mean of each Gaussian's neighbours, weighted by opacity.

        Args:
            values: [..., N].
            known: bool [..., N], whose values count.

        Returns:
            [..., N]; 0 where no neighbour counts.
        """
        weights = known * self.opacities
        weighted = values * weights
        sums, totals = torch.zeros_like(weighted), torch.zeros_like(weighted)
        # One place after the other, so that nothing of the size [..., N, k] is made.
        for place in self.index.T:
            sums += weighted.index_select(-1, place)
            totals += weights.index_select(-1, place)
        return torch.where(totals > 0, sums / totals.clamp_min(torch.finfo(sums.dtype).tiny), 0.0)


def nearest_neighbours(means: Tensor, opacities: Tensor, count: int = NEIGHBOURS) -> Neighbours:
    """Find the nearest Gaussians of each Gaussian by their centres, with scipy's k-d tree.

    Args:
        means: [N, 3].
        opacities: [N] in 0..1.
        count: neighbours to find, the Gaussian itself included; fewer where there are fewer Gaussians.
    """
    # Imported here: a bare GPU machine has no scipy and does not select.
    from scipy.spatial import KDTree

    xyz = means.detach().double().nan_to_num().cpu().numpy()
    places = min(count, len(xyz))
    if places == 0:
        index = torch.zeros(0, 0, dtype=torch.int32)
    else:
        index = torch.from_numpy(KDTree(xyz).query(xyz, k=places, workers=-1)[1].reshape(len(xyz), places)).int()
    return Neighbours(index.to(means.device), opacities.detach())
