"""Every object of a scene as a `.ply` of its own, named by the word that suits it best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lang_splat_ns.batches import batched
from lang_splat_ns.console import track
from lang_splat_ns.errors import UserError
from lang_splat_ns.file_names import distinct_names
from lang_splat_ns.language.field import Query
from lang_splat_ns.plugin.export import Scene, describe, without_floaters, write_json, write_scene_features
from lang_splat_ns.splatting.ply import write_ply

LEAST_GAUSSIANS = 20
"""What has fewer is a speck that a segmenter made up, and not written."""

WORDS_PER_CALL = 16
"""Scores of this many words are in memory together: at three levels and a million Gaussians 200 MB."""

NEGATIVE = 0.5
"""Relevancy that a word must exceed to name an object: it beats every negative."""


@dataclass(frozen=True)
class Named:
    """An object and the word for it.

    Attributes:
        prompt: the best word, or None where none beats the negatives.
        level: the level that it is an object at.
        score: the word's relevancy.
        mask: its Gaussians, bool [N].
    """

    prompt: str | None
    level: str
    score: float
    mask: Tensor


@torch.no_grad()
def export_all(scene: Scene, query: Query, out: Path, *, features: bool) -> dict[str, Any]:
    """Write `<name>.ply` per object and `objects.json`, and return the JSON's content.

    Where the method knows objects (langsplat-lift's consensus), they are those of the query's level, the coarsest for
    "auto"; for other methods a Gaussian goes to the word that suits it best of those whose selection it is in.

    Args:
        scene: the run's Gaussians.
        query: its prompts are the vocabulary.
        out: the folder.
        features: also write `<name>.safetensors`.

    Raises:
        UserError: there is no object.
    """
    level = scene.field.levels[0] if query.level == "auto" else query.level
    owners = scene.field.objects(level)
    found = by_vocabulary(scene, query) if owners is None else by_objects(scene, query, level, owners)
    if not found:
        raise UserError("No word of the vocabulary finds anything here; give other words, or lower --threshold.")
    found = sorted(found, key=lambda one: -one.score)
    names = distinct_names(one.prompt or "unnamed" for one in found)
    objects, files = [], {}
    for name, one in track(list(zip(names, found, strict=True)), "Writing objects", unit="objects"):
        which = one.mask.nonzero()[:, 0]
        write_ply(out / f"{name}.ply", scene.gaussians.some(which))
        files[out / f"{name}.safetensors"] = which
        about = {"file": f"{name}.ply", "prompt": one.prompt, "level": one.level, "score": one.score}
        objects.append(about | describe(scene, one.mask))
    if features:
        write_scene_features(scene, files)
    content = {"objects": objects, "vocabulary": list(query.positives), **scene.about}
    write_json(out / "objects.json", content)
    return content


def by_objects(scene: Scene, query: Query, level: str, owners: Tensor) -> list[Named]:
    """The objects of a level, each with the word of the highest mean relevancy over its Gaussians.

    Args:
        scene: the run's Gaussians.
        query: its prompts are the vocabulary.
        level: the level's name.
        owners: the object of each Gaussian, -1 for none; those of none go with their neighbours. int64 [N]
    """
    weights = torch.sigmoid(scene.gaussians.opacities)[:, 0] * (owners >= 0)
    count = int(owners.max()) + 1 if len(owners) else 0
    totals = weights.new_zeros(count).index_add_(0, owners.clamp_min(0), weights).clamp_min(1e-9)
    means = []
    for part in _parts(query):
        scores = scene.field.scores(part)[:, scene.field.levels.index(level)] * weights  # [V, N]
        means.append(scores.new_zeros(len(scores), count).index_add_(1, owners.clamp_min(0), scores) / totals)
    best, words = torch.cat(means).max(0)
    found = []
    for number, mask in enumerate(_with_unseen(scene, owners, count)):
        if int(mask.sum()) < LEAST_GAUSSIANS:
            continue
        score = float(best[number])
        word = query.positives[int(words[number])] if score > NEGATIVE else None
        found.append(Named(word, level, score, without_floaters(scene, mask)))
    return found


def _with_unseen(scene: Scene, owners: Tensor, count: int) -> list[Tensor]:
    """Masks [N] of objects; what no photo has seen, inside of things, belongs to the object most around it."""
    around = scene.field.neighbours()
    unseen = owners < 0
    masks = [owners == number for number in range(count)]
    if around is None or not unseen.any():
        return masks
    best, winner = torch.zeros(len(owners), device=owners.device), owners.clone()
    for number, mask in enumerate(masks):
        share = around.mean(mask.float(), ~unseen)
        winner = torch.where(unseen & (share > best), number, winner)
        best = torch.maximum(best, share)
    return [winner == number for number in range(count)]


def by_vocabulary(scene: Scene, query: Query) -> list[Named]:
    """What each word selects, without what another word selects with a higher relevancy."""
    highest = torch.zeros(len(scene.gaussians.means), device=scene.gaussians.means.device)
    winner = torch.full_like(highest, -1, dtype=torch.int64)
    levels, peaks = [], []
    for part in _parts(query):
        selection = scene.field.select(part)
        for mask, scores in zip(selection.mask, selection.smoothed, strict=True):
            better = mask & (scores > highest)
            highest, winner = torch.where(better, scores, highest), torch.where(better, len(levels), winner)
            levels.append(scene.field.levels[selection.chosen[len(levels) % WORDS_PER_CALL]])
        peaks += selection.peaks
    found = []
    for number, prompt in enumerate(query.positives):
        mask = winner == number
        if int(mask.sum()) >= LEAST_GAUSSIANS:
            found.append(Named(prompt, levels[number], peaks[number], without_floaters(scene, mask)))
    return found


def _parts(query: Query) -> Iterator[Query]:
    for words in batched(query.positives, WORDS_PER_CALL):
        yield replace(query, positives=tuple(words))
