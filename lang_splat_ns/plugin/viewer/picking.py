"""From a click in the view to the object there: its Gaussians, its embedding, and a query for more of its kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.splat_field import SplatField
from lang_splat_ns.language.text import TextCache

LIKE_PICKED = "⟦clicked object⟧"
"""Stands for the embedding of what was clicked, where prompts stand otherwise."""
SCENE_AVERAGE = "⟦scene average⟧"
"""Stands for the scene's mean embedding, which is what a clicked object must be told from."""

WINDOW = 3
"""Side in pixels of the view that a click looks at."""

AS_DISTINCT = 0.05
"""Cosines with the scene's average that differ by less are equal."""

REACH = 3.0
"""How far apart, in typical distances between neighbours, two Gaussians of one object may be."""


@dataclass(frozen=True, eq=False)
class Pick:
    """What is under a click.

    Attributes:
        embedding: what the place looks like to the encoder, a unit row. [D]
        query: asks for what looks like it; its names are known to the text side.
        mask: the object's Gaussians, bool [N], or None for a method without Gaussians.
    """

    embedding: Tensor
    query: Query
    mask: Tensor | None


def camera_at(camera: Cameras, x: float, y: float) -> Cameras:
    """A camera of 3 x 3 pixels that looks where a pixel of another one is.

    Args:
        camera: one camera; its pose and focal lengths are kept.
        x, y: the place, as shares of its width and height.
    """
    width, height = float(camera.width.item()), float(camera.height.item())
    return Cameras(
        camera_to_worlds=camera.camera_to_worlds.reshape(1, 3, 4),
        fx=camera.fx.reshape(1, 1),
        fy=camera.fy.reshape(1, 1),
        cx=camera.cx.reshape(1, 1) - x * width + WINDOW / 2,
        cy=camera.cy.reshape(1, 1) - y * height + WINDOW / 2,
        width=torch.tensor([[WINDOW]]),
        height=torch.tensor([[WINDOW]]),
    )


def pick(model: Any, field: Any, camera: Cameras, level: str) -> Pick:
    """What a small camera sees.

    Args:
        model: whose field it is; gives the text side, and the Gaussians' centres where it has any.
        field: a field that `ReadsFeatures`.
        camera: see `camera_at`.
        level: at which level to look; "auto" is the one at which the place differs most from the scene's average, and
            of equals the coarsest, since people click on things and not on their parts.

    Raises:
        UserError: nothing is there.
    """
    embeddings = field.embeddings(camera)
    number = _most_distinct(field, embeddings) if level == "auto" else field.levels.index(level)
    embedding = embeddings[number]
    if not bool(embedding.any()):
        raise UserError("There is nothing under the click that was in a mask; click on something else.")
    query = name_pick(model.texts(), embedding, field.average(number), field.levels[number])
    if not isinstance(field, SplatField):
        return Pick(embedding, query, None)
    owners, _ = field.owners(camera)
    alike = field.select(query).mask[0]
    mask = connected(model.gaussians().means.detach(), alike, owners)
    return Pick(embedding, query, mask)


def _most_distinct(field: Any, embeddings: Tensor) -> int:
    """The level at which embeddings [L, D] are least like the scene's average; see `pick`."""
    alike = [
        float(row @ field.average(level)) if bool(row.any()) else float("inf") for level, row in enumerate(embeddings)
    ]
    return next(level for level, value in enumerate(alike) if value <= min(alike) + AS_DISTINCT)


def name_pick(texts: TextCache, embedding: Tensor, average: Tensor, level: str) -> Query:
    """A query for what looks like an embedding, after teaching the text side its names."""
    count = 1
    while texts.is_named(name := f"{LIKE_PICKED}{count if count > 1 else ''}"):
        # Renders may still be asking for what was clicked before, so its name keeps its meaning.
        count += 1
    texts.name(name, embedding)
    texts.name(f"{SCENE_AVERAGE}{level}", average)
    return Query((name,), (f"{SCENE_AVERAGE}{level}",), level)


def connected(means: Tensor, alike: Tensor, seeds: Tensor) -> Tensor:
    """The part of a set of Gaussians that hangs together with some of them: bool [N].

    Space is cut into cubes, and cubes that touch belong together. So it takes no list of neighbours of each Gaussian,
    of which a million can have very many.

    Args:
        means: centres. [N, 3]
        alike: the set, bool [N].
        seeds: indices of the ones to begin with; those outside the set are taken along. [M]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    chosen = alike.clone()
    chosen[seeds] = True
    which = chosen.nonzero()[:, 0]
    points = means[which].cpu().double().numpy()
    if len(points) < 3:
        return chosen
    sample = points[:: max(1, len(points) // 4096)]
    spacing = float(np.median(KDTree(points).query(sample, k=3)[0][:, 2]))
    cubes, cube_of = np.unique(np.floor(points / max(REACH * spacing, 1e-9)), axis=0, return_inverse=True)
    cube_of = cube_of.reshape(-1)
    # Cubes that share a corner are at most the root of 3 apart.
    pairs = KDTree(cubes).query_pairs(1.8, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(cubes), len(cubes)))
    _, part = connected_components(graph, directed=False)
    begun = np.isin(which.cpu().numpy(), seeds.cpu().numpy())
    # The strongest seeds decide; a seed in front of the object must not bring its own part along.
    parts = np.bincount(part[cube_of[begun]])
    together = part[cube_of] == parts.argmax()
    result = torch.zeros_like(alike)
    result[which[torch.from_numpy(together).to(which.device)]] = True
    return result & alike if bool((result & alike).any()) else result


def edited(before: Tensor | None, mask: Tensor, action: str) -> Tensor:
    """A selection after another click: `select` begins anew, `add` and `remove` change what there is."""
    if before is None or action == "select" or len(before) != len(mask):
        return torch.zeros_like(mask) if action == "remove" else mask
    return before & ~mask if action == "remove" else before | mask


def like_all(picks: list[Pick], threshold: Any) -> Query:
    """One query for what looks like any of several clicked objects, at the level of the last click."""
    last = picks[-1].query
    same = [one for one in picks if one.query.level == last.level]
    names = tuple(dict.fromkeys(name for one in same for name in one.query.positives))
    return replace(last, positives=names, threshold=threshold)
