"""The semantic feature grid: per level the objects of the scene, what several views see of each, and their codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastlgs_ns.codes import least_distance, spread_codes
from fastlgs_ns.matching import Identities
from lang_splat_ns.errors import UserError

BUFFERS = ("codes", "means", "entries", "owners", "mask_objects", "mask_counts")


class SemanticGrid(torch.nn.Module):
    """Objects of all levels, as buffers, so that a checkpoint holds them; levels lie one after the other.

    Attributes:
        codes: unit codes of the objects. float32 [K, C]
        means: an object's robust mean embedding over its views, unit rows, zero where none is known. float32 [K, D]
        entries: embeddings of objects, of several views each, unit rows. float32 [E, D]
        owners: the object of each entry, numbered within its level. int32 [E]
        mask_objects: the object of every mask, see `Identities`; training paints masks by it. int32 [M]
        mask_counts: number of masks of each view and level. int64 [V, L]
        objects_per_level, entries_per_level: how K and E split into levels.
    """

    codes: Tensor
    means: Tensor
    entries: Tensor
    owners: Tensor
    mask_objects: Tensor
    mask_counts: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], objects: Sequence[int], entries: Sequence[int]) -> None:
        super().__init__()
        for name in BUFFERS:
            self.register_buffer(name, tensors[name])
        self.objects_per_level, self.entries_per_level = list(objects), list(entries)

    @property
    def code_dim(self) -> int:
        """Length of the codes."""
        return self.codes.shape[1]

    def level_codes(self, level: int) -> Tensor:
        """Codes of one level's objects: [K_l, C]."""
        return self.codes.split(self.objects_per_level)[level]

    def level_means(self, level: int) -> Tensor:
        """Mean embeddings of one level's objects: [K_l, D]."""
        return self.means.split(self.objects_per_level)[level]

    def level_entries(self, level: int) -> tuple[Tensor, Tensor]:
        """One level's embeddings [E_l, D] and their objects [E_l]."""
        return (
            self.entries.split(self.entries_per_level)[level],
            self.owners.split(self.entries_per_level)[level].long(),
        )

    def spacing(self, level: int) -> float:
        """Distance of the two nearest codes of a level."""
        return least_distance(self.level_codes(level).detach().cpu().numpy())

    def identities(self) -> Identities:
        """The object of every mask."""
        counts = self.mask_counts.cpu().numpy()
        parts = self.mask_objects.long().cpu().split(counts.sum(0).tolist())
        return Identities(tuple(part.numpy() for part in parts), counts)

    def about(self) -> dict[str, Any]:
        """How the buffers split into levels, for a checkpoint."""
        return {"objects": self.objects_per_level, "entries": self.entries_per_level}

    @staticmethod
    def for_checkpoint(state: Mapping[str, Tensor], prefix: str, about: Mapping[str, Any]) -> SemanticGrid:
        """An empty grid of the shape that a checkpoint's has.

        Raises:
            UserError: a part is missing, or the parts do not go together.
        """
        missing = [prefix + name for name in BUFFERS if prefix + name not in state]
        if missing:
            raise UserError(f"The checkpoint has no {missing[0]}, so its codes mean nothing; it is damaged.")
        tensors = {name: torch.empty_like(state[prefix + name]) for name in BUFFERS}
        if len(tensors["codes"]) != sum(about["objects"]) or len(tensors["entries"]) != sum(about["entries"]):
            raise UserError(
                f"The checkpoint's {prefix}codes has {len(tensors['codes'])} rows for {sum(about['objects'])} objects; "
                "it is damaged."
            )
        return SemanticGrid(tensors, about["objects"], about["entries"])


def make_grid(
    identities: Identities, embeddings: Sequence[Tensor], shares: Sequence[np.ndarray], code_dim: int, most_views: int
) -> SemanticGrid:
    """Collect what is known of each object.

    Args:
        identities: the object of every mask.
        embeddings: of all masks, per level [M_l, D]; NaN rows carry no evidence.
        shares: how large each mask is in its photo, per level [M_l]; large ones are seen best.
        code_dim: length of the codes.
        most_views: embeddings that are kept of an object, those of its largest masks.
    """
    codes, means, entries, owners = [], [], [], []
    for level, rows in enumerate(embeddings):
        count = identities.number_of_objects(level)
        objects = torch.from_numpy(identities.of_mask[level])
        known = (objects >= 0) & torch.isfinite(rows).all(-1)
        weights = torch.from_numpy(np.sqrt(shares[level])).float()
        unit, objects, weights = F.normalize(rows[known], dim=-1), objects[known], weights[known]
        codes.append(torch.from_numpy(spread_codes(count, code_dim)))
        views = identities.view_of_mask(level)[known.numpy()]
        means.append(_robust_means(unit, objects, weights, views, count))
        best = _largest(objects, weights, most_views)
        entries.append(unit[best])
        owners.append(objects[best].int())
    tensors = {
        "codes": torch.cat(codes),
        "means": torch.cat(means),
        "entries": torch.cat(entries),
        "owners": torch.cat(owners),
        "mask_objects": torch.from_numpy(np.concatenate(identities.of_mask)).int(),
        "mask_counts": torch.from_numpy(identities.counts),
    }
    return SemanticGrid(tensors, [len(part) for part in codes], [len(part) for part in entries])


def _robust_means(unit: Tensor, objects: Tensor, weights: Tensor, views: np.ndarray, count: int) -> Tensor:
    """Weighted median directions per object: [K, D], zero rows where nothing is known.

    An object of few views is known badly and moves towards what is common, as in `language.consensus`.
    """
    from scipy import sparse

    from lang_splat_ns.language.consensus import ConsensusSettings, median_directions, towards_common

    members = np.arange(len(objects))
    groups = sparse.csr_array((weights.numpy(), (objects.numpy(), members)), shape=(count, len(objects)))
    pairs = np.unique(np.stack([objects.numpy(), views]), axis=1)
    view_counts = np.bincount(pairs[0], minlength=count)
    return towards_common(median_directions(groups, unit), view_counts, ConsensusSettings.prior)


def _largest(objects: Tensor, weights: Tensor, most: int) -> Tensor:
    """The `most` masks of each object with the largest weights: indices, object by object."""
    order = np.lexsort((-weights.numpy(), objects.numpy()))
    sorted_objects = objects.numpy()[order]
    first = np.searchsorted(sorted_objects, sorted_objects)
    return torch.from_numpy(order[np.arange(len(order)) - first < most])
