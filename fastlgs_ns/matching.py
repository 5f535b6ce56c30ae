"""Which masks of different photos are the same object: three ways, one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lang_splat_ns.splatting.votes import Votes

Matcher = Literal["fastlgs", "votes", "sam2-video"]


@dataclass(frozen=True)
class Identities:
    """The object of every mask.

    Attributes:
        of_mask: per level, for the masks of all views one after the other, the object's number, counted from 0 without
            gaps, or -1 for a mask that is no object's. int64 [M_l]
        counts: number of masks of each view and level. int64 [V, L]
    """

    of_mask: tuple[NDArray[np.int64], ...]
    counts: NDArray[np.int64]

    def of_view(self, view: int, level: int) -> NDArray[np.int64]:
        """Objects of one view's masks: int64 [count]."""
        start = int(self.counts[:view, level].sum())
        return self.of_mask[level][start : start + int(self.counts[view, level])]

    def view_of_mask(self, level: int) -> NDArray[np.int64]:
        """The view of each mask: int64 [M_l]."""
        return np.repeat(np.arange(len(self.counts)), self.counts[:, level])

    def number_of_objects(self, level: int) -> int:
        """How many objects a level has."""
        return int(self.of_mask[level].max(initial=-1)) + 1

    def seen_often(self, least: int) -> Identities:
        """Without the objects that fewer than `least` views have seen, numbered anew, those with most masks first."""
        return Identities(
            tuple(_seen_often(objects, self.view_of_mask(level), least) for level, objects in enumerate(self.of_mask)),
            self.counts,
        )


def from_views(found: Sequence[Sequence[NDArray[np.int64]]]) -> Identities:
    """From objects per level and view."""
    counts = np.array([[len(objects) for objects in level] for level in found], np.int64).T
    return Identities(tuple(np.concatenate([*level, np.zeros(0, np.int64)]) for level in found), counts)


def match_by_votes(votes: Votes) -> Identities:
    """Masks that own the same Gaussians are one object; see `lang_splat_ns.language.consensus`.

    Masks that most other views contradict are no object's.
    """
    from lang_splat_ns.language.consensus import find_objects

    found = [
        find_objects(matrix, columns[:, 0]).of_mask for matrix, columns in zip(votes.levels, votes.columns, strict=True)
    ]
    return Identities(tuple(found), votes.counts)


def _seen_often(objects: NDArray[np.int64], views: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    kept = objects >= 0
    if not kept.any():
        return objects
    pairs = np.unique(np.stack([objects[kept], views[kept]]), axis=1)
    view_counts = np.bincount(pairs[0], minlength=int(objects.max()) + 1)
    # An object that all views together have seen too seldom is left out, unless there would be none at all.
    enough = view_counts >= min(least, int(view_counts.max()))
    order = np.argsort(-view_counts, kind="stable")
    numbers = np.full(len(view_counts) + 1, -1, np.int64)
    numbers[order[enough[order]]] = np.arange(int(enough.sum()))
    return numbers[objects]
