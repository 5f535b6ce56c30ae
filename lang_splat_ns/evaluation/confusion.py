"""What is taken for what: on which labelled things each prompt's mask and peak lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lang_splat_ns.evaluation.scores import Row

LEAST_SHARE = 0.05
"""A mask that has less of itself on a thing only frays at the edge."""


@dataclass(frozen=True)
class Mistake:
    """One prompt whose answers lie on another thing.

    Attributes:
        prompt: what was asked.
        thing: what it was found on; another labelled prompt of the same photos.
        share: mean share of the masks that lies on the thing, over the photos in which something was found, 0..1.
        peaks: number of photos in which the peak lies on the thing, and not on what was asked.
        photos: number of photos in which the prompt was asked.
    """

    prompt: str
    thing: str
    share: float
    peaks: int
    photos: int


def confusion(table: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Share of each prompt's masks on each labelled thing, the prompt itself included.

    Things may overlap, and masks may lie on nothing that is labelled, so shares need not sum to 1. A photo in which
    nothing was found has no say.

    Args:
        table: rows of `LanguageScores.table`.

    Returns:
        prompt -> thing -> mean share over the prompt's photos; prompts that never found anything are left out.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for row in table:
        if row.get("mask_on") is not None and row["area"] > 0:
            found.setdefault(row["prompt"], []).append(row["mask_on"])
    return {prompt: _mean_shares(masks) for prompt, masks in found.items()}


def mistakes(table: Sequence[Row]) -> list[Mistake]:
    """Prompts whose masks or peaks lie on other things, the worst first.

    A thing that overlaps with what was asked (a label within another) is no mistake where both were hit, so peaks
    count only where they miss; shares are told as they are.

    Args:
        table: rows of `LanguageScores.table`.
    """
    peaks: Counter[tuple[str, str]] = Counter()
    photos: Counter[str] = Counter()
    for row in table:
        photos[row["prompt"]] += "peak_on" in row
        # An absent prompt whose mask is empty points at nothing, wherever its faint peak may be.
        if row["prompt"] not in row.get("peak_on", ()) and row.get("area"):
            peaks.update((row["prompt"], thing) for thing in row["peak_on"])
    shares = {(prompt, thing): share for prompt, row in confusion(table).items() for thing, share in row.items()}
    found = [
        Mistake(prompt, thing, shares.get((prompt, thing), 0.0), peaks[prompt, thing], photos[prompt])
        for prompt, thing in dict.fromkeys([*shares, *peaks])
        if prompt != thing
    ]
    told = [one for one in found if one.share >= LEAST_SHARE or one.peaks]
    return sorted(told, key=lambda one: (one.share, one.peaks), reverse=True)


def _mean_shares(masks: Sequence[dict[str, float]]) -> dict[str, float]:
    things = dict.fromkeys(thing for mask in masks for thing in mask)
    return {thing: sum(mask.get(thing, 0.0) for mask in masks) / len(masks) for thing in things}
