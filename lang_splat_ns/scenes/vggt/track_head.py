"""Points of the first frame, found in all others (section 3.3; after CoTracker, Karaev et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lang_splat_ns.scenes.vggt.config import VGGTConfig
from lang_splat_ns.scenes.vggt.dense_head import FeatureHead
from lang_splat_ns.scenes.vggt.layers import Mlp, learned_tokens
from lang_splat_ns.scenes.vggt.track_parts import Correlations, embed_grid, embed_shifts, sample
from lang_splat_ns.scenes.vggt.track_transformer import TrackTransformer

CELL = 2
"""Pixels per cell of the feature maps."""
_LARGEST_SHIFT = 518
"""What shifts are divided by, so that they are of the size of 1."""


class Tracker(nn.Module):
    """Moves points, frame by frame, until their features fit those around them.

    Args:
        config: sizes.
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        features = config.track_features
        self.config = config
        # A shift's embedding and its two coordinates, twice; correlations; features.
        size = 3 * features + 4
        self.query_ref_token = learned_tokens(1, 2, size, size=1.0)
        window = (2 * config.track_radius + 1) ** 2
        self.corr_mlp = Mlp(config.track_levels * window, config.track_hidden, features)
        self.updateformer = TrackTransformer(size, config.track_hidden, features + 2)
        self.fmap_norm = nn.LayerNorm(features)
        self.ffeat_norm = nn.GroupNorm(1, features)
        self.ffeat_updater = nn.Sequential(nn.Linear(features, features), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(features, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(features, 1))

    def forward(self, maps: Tensor, queries: Tensor, iterations: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Track points.

        Args:
            maps: feature maps. [B, S, features, h, w]
            queries: x and y in pixels of the first frame. [B, N, 2]
            iterations: how many; the configuration's by default.

        Returns:
            Places in pixels [B, S, N, 2], how visible they are [B, S, N] and how sure [B, S, N], both in 0..1.
        """
        batch, frames = maps.shape[:2]
        maps = self.fmap_norm(maps.movedim(2, -1)).movedim(-1, 2)
        places = (queries / CELL)[:, None].expand(-1, frames, -1, -1)  # [B, S, N, 2]
        features = sample(maps[:, 0], places[:, 0])[:, None].expand(-1, frames, -1, -1)
        correlations = Correlations(maps.flatten(0, 1), self.config.track_levels, self.config.track_radius)
        tag = self._tag(maps, places)
        for _ in range(iterations or self.config.track_iterations):
            likeness = correlations.read(features.flatten(0, 1), places.flatten(0, 1)).unflatten(0, (batch, frames))
            shift, change = self._update(places, features, likeness, tag)
            features = features + self.ffeat_updater(change)
            # Where a point is in the first frame is given, not to be found.
            places = torch.cat([places[:, :1], (places + shift)[:, 1:]], dim=1)
        visible, sure = (head(features)[..., 0].sigmoid() for head in (self.vis_predictor, self.conf_predictor))
        return places * CELL, visible, sure

    def _tag(self, maps: Tensor, places: Tensor) -> Tensor:
        """What tells points and frames apart: where a point began, and whether a frame is the first. [B, S, N, size]"""
        size = self.query_ref_token.shape[-1]
        grid = embed_grid(size, maps.shape[-2], maps.shape[-1], maps.device).expand(len(maps), -1, -1, -1)
        origin = sample(grid, places[:, 0])[:, None]  # [B, 1, N, size]
        first, other = self.query_ref_token[:, :1], self.query_ref_token[:, 1:]
        return origin + torch.cat([first, other.expand(-1, places.shape[1] - 1, -1)], dim=1)[:, :, None]

    def _update(self, places: Tensor, features: Tensor, likeness: Tensor, tag: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts in cells [B, S, N, 2] and normalized changes of the features [B, S, N, features]."""
        moved = places - places[:, :1]
        scaled = moved / _LARGEST_SHIFT
        told = [embed_shifts(moved, features.shape[-1] // 2), scaled, scaled, self.corr_mlp(likeness), features]
        x = torch.cat(told, dim=-1) + tag
        update = self.updateformer(x.transpose(1, 2)).transpose(1, 2)
        shift, change = update[..., :2], update[..., 2:]
        return shift, self.ffeat_norm(change.flatten(0, 2)).reshape(change.shape)


class TrackHead(nn.Module):
    """Feature maps from tokens, and a tracker on them.

    Args:
        config: sizes.
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.feature_extractor = FeatureHead(config)
        self.tracker = Tracker(config)
