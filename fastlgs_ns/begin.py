"""From finished Gaussians and a data set's 2D features to the grid and the codes that training starts from."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastlgs_ns.grid import SemanticGrid, make_grid
from fastlgs_ns.matching import Identities, from_views, match_by_votes
from fastlgs_ns.sift_matching import SiftSettings, link, look_at
from fastlgs_ns.video_matching import match_by_video
from fastlgs_ns.views import MaskedView, Views
from lang_splat_ns.console import CONSOLE, duration
from lang_splat_ns.langsplat_lift.lift import VOTES_FILE, get_votes
from lang_splat_ns.plugin.frame_features import FrameFeatureSource
from lang_splat_ns.splatting.votes import Votes

if TYPE_CHECKING:
    from fastlgs_ns.model import FastLGSModel, FastLGSModelConfig


@torch.no_grad()
def begin_language(model: FastLGSModel, datamanager: Any) -> tuple[SemanticGrid, Tensor]:
    """Match masks across views, make the grid, and say what the codes begin with.

    Args:
        model: has finished Gaussians.
        datamanager: gives the training cameras, and the 2D features of their photos.

    Returns:
        The grid, and codes [N, L * C] on the model's device.

    Raises:
        UserError: the matcher's weights cannot be had.
    """
    config, source = model.config, datamanager.features
    needs_votes = "votes" in (config.matcher, config.initial_codes)
    votes = votes_of(model, datamanager) if needs_votes else None
    start = time.perf_counter()
    identities = match(config, views_of(source, datamanager.train_camera_copy()), votes, str(model.device))
    identities = identities.seen_often(config.min_views)
    embeddings = [
        torch.cat([source.embeddings(index)[level] for index in range(len(source.frames))])
        for level in range(len(source.levels))
    ]
    grid = make_grid(identities, embeddings, _shares(source), config.code_dim, config.views_per_object)
    found = ", ".join(f"{count} {name}" for count, name in zip(grid.objects_per_level, source.levels, strict=True))
    CONSOLE.print(f"Objects by {config.matcher} in {duration(time.perf_counter() - start)}: {found}.", markup=False)
    codes = torch.zeros(model.num_points, len(source.levels) * config.code_dim)
    if config.initial_codes == "votes" and votes is not None:
        codes = codes_by_votes(grid, identities, votes)
    return grid.to(model.device), codes.to(model.device)


def match(config: FastLGSModelConfig, views: Views, votes: Votes | None, device: str) -> Identities:
    """The object of every mask, by the configuration's matcher.

    Args:
        config: which matcher, and its settings.
        views: the training photos and their masks.
        votes: wanted by the matcher `votes`.
        device: where networks run.
    """
    if config.matcher == "votes":
        assert votes is not None, "this matcher reads votes"
        return match_by_votes(votes)
    if config.matcher == "sam2-video":
        # Imported here, since it brings transformers.
        from lang_splat_ns.perception.sam2_tracker import Sam2Tracker

        return from_views(match_by_video(views, partial(Sam2Tracker.load, config.sam2_variant, device)))
    looks = look_at(views, SiftSettings(config.match_neighbours, config.match_keypoints, config.match_ratio))
    return from_views(link(looks, config.alpha, config.theta))


def votes_of(model: FastLGSModel, datamanager: Any) -> Votes:
    """Votes of all training views at the photos' own resolution, or those in the run's or the start's folder."""
    cameras = datamanager.train_camera_copy()
    cameras.rescale_output_resolution(1 / datamanager.config.camera_res_scale_factor)
    assert model.run_dir is not None, "a training has a folder"
    start = model.config.init_from
    others = [] if start is None else [Path(start).parent / VOTES_FILE]
    return get_votes(model, datamanager.features, cameras, model.run_dir / VOTES_FILE, others)


def views_of(source: FrameFeatureSource, cameras: Any) -> Views:
    """A data set's photos as matchers want them."""

    def read(index: int) -> MaskedView:
        image = source.frames[index].load()
        labels = source.view_labels(index, *image.shape[:2])[0].numpy()
        return MaskedView(image, labels, tuple(rows.numpy() for rows in source.embeddings(index)))

    return Views(cameras.camera_to_worlds.double().cpu().numpy(), len(source.levels), read)


def codes_by_votes(grid: SemanticGrid, identities: Identities, votes: Votes) -> Tensor:
    """For each Gaussian the code of the object that has most of it, zero where none has any: float32 [N, L * C]."""
    from scipy import sparse

    parts = []
    for level, matrix in enumerate(votes.levels):
        objects = identities.of_mask[level]
        masks = np.flatnonzero(objects >= 0)
        count = identities.number_of_objects(level)
        belongs = sparse.csr_array((np.ones(len(masks)), (masks, objects[masks])), shape=(len(objects), max(count, 1)))
        shares = sparse.csr_array(matrix @ belongs)
        best = np.asarray(shares.argmax(axis=1)).ravel()
        seen = np.diff(shares.indptr) > 0
        codes = torch.nn.functional.pad(grid.level_codes(level).cpu(), (0, 0, 0, 1))
        parts.append(codes[torch.from_numpy(np.where(seen, best, -1))])
    return torch.cat(parts, dim=1)


def _shares(source: FrameFeatureSource) -> list[np.ndarray]:
    """Share of its photo that each mask has, per level [M_l]."""
    shares: list[list[np.ndarray]] = [[] for _ in source.levels]
    for index in range(len(source.frames)):
        maps = source.label_maps(index)
        for level, labels in enumerate(maps.labels):
            sizes = np.bincount(labels[labels >= 0], minlength=maps.counts[level])
            shares[level].append(sizes / labels.size)
    return [np.concatenate(level) for level in shares]
