"""What LangSplat's features are trained towards: each pixel's mask, as a code, at every level."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Protocol

import torch
from torch import Tensor

from lang_splat_ns.language.autoencoder import SceneAutoencoder


class LabelledFrames(Protocol):
    """What is known of a data set's photos, by index; `plugin.frame_features.FrameFeatureSource` is one."""

    @property
    def frames(self) -> Sized:
        """The photos."""
        ...

    def embeddings(self, index: int) -> Sequence[Tensor]:
        """Mask embeddings of one photo, one float32 [count, dim] per level; NaN rows carry no evidence."""
        ...

    def labels(self, index: int, height: int, width: int) -> Tensor:
        """Label maps of one photo at the given size: int32 [L, height, width], -1 where there is no mask."""
        ...


class CodeTargets:
    """Codes of all masks of a data set, looked up per pixel.

    Args:
        source: label maps and embeddings of the training photos.
        autoencoder: turns embeddings into codes.
        device: where targets are wanted.
    """

    def __init__(self, source: LabelledFrames, autoencoder: SceneAutoencoder, device: torch.device | str) -> None:
        self._source = source
        self._device = device
        self._codes = [
            [_encode(rows.to(device), autoencoder) for rows in source.embeddings(index)]
            for index in range(len(source.frames))
        ]

    def __call__(self, index: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Codes [H, W, L, C] and validity [H, W, L, 1] of one photo; pixels without a mask are invalid."""
        labels = self._source.labels(index, height, width).to(self._device).long()  # [L, H, W]
        # Row -1 of each table stands for "no mask", so that labels index it directly.
        codes = torch.stack([table[level] for table, level in zip(self._codes[index], labels, strict=True)], dim=-2)
        return codes, codes.square().sum(-1, keepdim=True) > 0


def code_loss(codes: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """L1 distance of blended codes to the pixels' codes, both [H, W, L, C], where `valid` [H, W, L, 1] says so."""
    return ((codes - target).abs() * valid).mean()


def all_embeddings(source: LabelledFrames) -> Tensor:
    """Every mask embedding with evidence, of all photos and levels: [M, dim]."""
    rows = torch.cat([rows for index in range(len(source.frames)) for rows in source.embeddings(index)])
    return rows[torch.isfinite(rows).all(-1)]


@torch.no_grad()
def _encode(rows: Tensor, autoencoder: SceneAutoencoder) -> Tensor:
    """Codes [count + 1, C]; all-zero for rows without evidence and for the last row, which means no mask."""
    codes = torch.zeros(len(rows) + 1, autoencoder.code_dim, device=rows.device)
    evident = torch.isfinite(rows).all(-1)
    if evident.any():
        codes[:-1][evident] = autoencoder.encode(rows[evident])
    return codes
