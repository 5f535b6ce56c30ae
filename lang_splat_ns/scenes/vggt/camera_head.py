"""Cameras from camera tokens, refined step by step (section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lang_splat_ns.scenes.vggt.config import VGGTConfig
from lang_splat_ns.scenes.vggt.layers import Block, Mlp

POSE_SIZE = 9
_FIELD_OF_VIEW = 7


class CameraHead(nn.Module):
    """Predicts a change of all cameras from the tokens and the cameras so far, several times over.

    The cameras so far shift, scale and gate the tokens (adaptive layer norm, Peebles and Xie 2023).

    Args:
        config: sizes.
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim = 2 * config.embed_dim
        self._iterations = config.camera_iterations
        self.token_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.embed_pose = nn.Linear(POSE_SIZE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.trunk = nn.ModuleList(Block(dim, config.camera_heads) for _ in range(config.camera_depth))
        self.trunk_norm = nn.LayerNorm(dim)
        self.pose_branch = Mlp(dim, dim // 2, POSE_SIZE)

    def forward(self, tokens: Tensor, iterations: int | None = None) -> list[Tensor]:
        """Encoded cameras after each iteration, the last being the best.

        Args:
            tokens: the aggregator's last layer. [B, S, P, 2 C]
            iterations: how many; the configuration's by default.

        Returns:
            Each [B, S, 9]: translation, quaternion (x, y, z, w), and vertical and horizontal field of view in rad; see
            `geometry.decode_cameras`.
        """
        camera = self.token_norm(tokens[:, :, 0])  # [B, S, 2 C]
        plain = F.layer_norm(camera, camera.shape[-1:], eps=1e-6)
        so_far = self.empty_pose_tokens.expand(*camera.shape[:2], -1)
        # The empty camera is only told to the first iteration; what is changed begins with nothing.
        pose = camera.new_zeros(*camera.shape[:2], POSE_SIZE)
        found = []
        for _ in range(iterations or self._iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(so_far)).chunk(3, dim=-1)
            x = camera + gate * (plain * (1 + scale) + shift)
            for block in self.trunk:
                x = block(x)
            so_far = pose = pose + self.pose_branch(self.trunk_norm(x))
            found.append(torch.cat([pose[..., :_FIELD_OF_VIEW], F.relu(pose[..., _FIELD_OF_VIEW:])], dim=-1))
        return found
