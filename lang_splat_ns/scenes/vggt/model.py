"""The whole network: trunk and heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lang_splat_ns.scenes.vggt.aggregator import Aggregator
from lang_splat_ns.scenes.vggt.camera_head import CameraHead
from lang_splat_ns.scenes.vggt.config import VGGTConfig
from lang_splat_ns.scenes.vggt.dense_head import DenseHead, DepthHead, PointHead
from lang_splat_ns.scenes.vggt.track_head import TrackHead

HEADS = ("camera", "depth", "points")
OUTPUTS = {"depth": ("depth", "depth_conf"), "points": ("world_points", "world_points_conf")}
FRAMES_CHUNK_SIZE = 4
"""Frames that a dense head works on at a time. At 518 x 518 pixels each takes about half a GiB there, and one alone
keeps a GPU busy."""


class VGGT(nn.Module):
    """Visual Geometry Grounded Transformer (Wang et al., CVPR 2025).

    The names and shapes in the state dict are those of the official checkpoints.

    Args:
        config: sizes; VGGT-1B by default, whose 1.26 billion weights are filled at random here.

    Example:
        predictions = VGGT(VGGTConfig.tiny())(torch.rand(3, 3, 56, 56))
        predictions["depth"].shape  # [1, 3, 56, 56, 1]
    """

    def __init__(self, config: VGGTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VGGTConfig()
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config) if config.camera else None
        self.point_head = PointHead(config) if config.points else None
        self.depth_head = DepthHead(config) if config.depth_map else None
        self.track_head = TrackHead(config) if config.track else None

    def forward(
        self,
        images: Tensor,
        query_points: Tensor | None = None,
        *,
        heads: Sequence[str] = HEADS,
        frames_chunk_size: int = FRAMES_CHUNK_SIZE,
    ) -> dict[str, Tensor]:
        """Predict everything about some photos of one scene.

        On CUDA the trunk computes in half precision, with weights of either precision; the heads in float32.

        Args:
            images: [S, 3, H, W] or [B, S, 3, H, W] in 0..1, sides multiples of the patch size.
            query_points: x and y in pixels of the first frame, to be found in all. [N, 2] or [B, N, 2]
            heads: which of "camera", "depth" and "points" are wanted. Those that the network lacks are left out.
            frames_chunk_size: frames that the dense heads work on at a time.

        Returns:
            `pose_enc` [B, S, 9], see `geometry.decode_cameras`; `depth` [B, S, H, W, 1] and `depth_conf` [B, S, H, W];
            `world_points` [B, S, H, W, 3] and `world_points_conf` [B, S, H, W]; `images` [B, S, 3, H, W]; with query
            points `track` [B, S, N, 2] in pixels, `vis` and `conf` [B, S, N].

        Raises:
            ValueError: a shape does not fit, or points are queried of a network without a track head.
        """
        images = self._checked(images)
        if query_points is not None and self.track_head is None:
            raise ValueError("this network has no track head, so it cannot find query_points")
        known: dict[str, DenseHead | None] = {"depth": self.depth_head, "points": self.point_head}
        dense = {name: head for name, head in known.items() if head is not None and name in heads}
        layers = set(self.config.dense_layers) if dense or query_points is not None else set()
        with half_precision(images.device):
            tokens = self.aggregator(images, layers | {self.config.depth - 1})
        predictions: dict[str, Tensor] = {}
        with torch.autocast(images.device.type, enabled=False):
            if self.camera_head is not None and "camera" in heads:
                predictions["pose_enc"] = self.camera_head(tokens[self.config.depth - 1].float())[-1]
            for name, head in dense.items():
                found = self._by_frames(tokens, images, head, frames_chunk_size)
                predictions |= dict(zip(OUTPUTS[name], found, strict=True))
            if self.track_head is not None and query_points is not None:
                predictions |= self._tracks(self.track_head, tokens, images, query_points, frames_chunk_size)
        return predictions | {"images": images}

    def _by_frames(self, tokens: dict[int, Tensor], images: Tensor, head: DenseHead, chunk: int) -> list[Tensor]:
        """A head's answers for a few frames at a time, put together: [B, S, ...] each."""
        grid = (images.shape[-2] // self.config.patch_size, images.shape[-1] // self.config.patch_size)
        kept = [tokens[layer].flatten(0, 1) for layer in self.config.dense_layers]
        parts = []
        for start in range(0, len(kept[0]), chunk):
            few = [layer[start : start + chunk, self.aggregator.special_tokens :].float() for layer in kept]
            parts.append(head(few, grid))
        return [torch.cat(part).unflatten(0, images.shape[:2]) for part in zip(*parts, strict=True)]

    def _tracks(
        self, head: TrackHead, tokens: dict[int, Tensor], images: Tensor, queries: Tensor, chunk: int
    ) -> dict[str, Tensor]:
        (maps,) = self._by_frames(tokens, images, head.feature_extractor, chunk)
        queries = queries[None] if queries.ndim == 2 else queries
        if queries.ndim != 3 or len(queries) != len(images) or queries.shape[-1] != 2:
            raise ValueError(f"query_points must be [N, 2] or [B, N, 2], not {tuple(queries.shape)}")
        return dict(zip(("track", "vis", "conf"), head.tracker(maps, queries.to(maps)), strict=True))

    def _checked(self, images: Tensor) -> Tensor:
        images = images[None] if images.ndim == 4 else images
        side = self.config.patch_size
        if images.ndim != 5 or images.shape[2] != 3 or images.shape[-1] % side or images.shape[-2] % side:
            raise ValueError(
                f"images must be [S, 3, H, W] or [B, S, 3, H, W] with sides that are multiples of {side}, not "
                f"{tuple(images.shape)}"
            )
        return images


def half_precision(device: torch.device) -> torch.autocast:
    """Half precision on CUDA, bfloat16 where the GPU has it; no change elsewhere."""
    if device.type != "cuda":
        return torch.autocast(device.type, enabled=False)
    return torch.autocast("cuda", dtype=half_type(device))


def half_type(device: torch.device) -> torch.dtype:
    """bfloat16, or float16 on GPUs before Ampere."""
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
