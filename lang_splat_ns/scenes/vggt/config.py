"""The sizes of a VGGT network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class VGGTConfig:
    """Sizes of a VGGT network; the defaults are those of the published checkpoint VGGT-1B.

    Example:
        model = VGGT(VGGTConfig.tiny(patch_embed="conv"))
    """

    image_size: int = 518
    """Side in pixels of the square photos for which the position embedding is stored; other sizes interpolate it."""
    patch_size: int = 14
    """Side of a patch in pixels."""
    embed_dim: int = 1024
    """Width C of the tokens. The heads read a frame's and a global layer side by side, 2 C wide."""
    depth: int = 24
    """Pairs of a frame attention and a global attention layer."""
    num_heads: int = 16
    """Attention heads of these layers."""
    register_tokens: int = 4
    """Tokens per frame beside the camera's and the patches'."""
    patch_embed: Literal["dino", "conv"] = "dino"
    """How patches become tokens: a DINOv2 transformer, or one convolution."""
    dino_depth: int = 24
    """Layers of that transformer."""
    dino_heads: int = 16
    """Its attention heads."""
    dino_register_tokens: int = 4
    """Its register tokens."""
    camera_depth: int = 4
    """Layers of the camera head."""
    camera_heads: int = 16
    """Its attention heads."""
    camera_iterations: int = 4
    """How often it refines its answer."""
    dense_features: int = 256
    """Channels in which the depth and point heads fuse their four scales."""
    dense_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    """Channels of the four scales, fine to coarse, before they are fused."""
    dense_layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    """Layers of the aggregator from which the four scales come."""
    track_features: int = 128
    """Channels of the feature maps on which points are tracked."""
    track_iterations: int = 4
    """How often tracks are refined."""
    track_levels: int = 7
    """Levels of the pyramid of feature maps."""
    track_radius: int = 4
    """Correlations are read in a window of 2 r + 1 cells around each point."""
    track_hidden: int = 384
    """Width of the tracker's transformer."""
    camera: bool = True
    """Whether the network has a camera head."""
    depth_map: bool = True
    """Whether it has a depth head."""
    points: bool = True
    """Whether it has a head for world points."""
    track: bool = True
    """Whether it has a track head."""

    @classmethod
    def tiny(cls, patch_embed: Literal["dino", "conv"] = "dino", track: bool = False) -> VGGTConfig:
        """A network of less than 2 million weights, for tests: the one of the reference figures.

        Args:
            patch_embed: see the class.
            track: whether it has a track head.
        """
        return cls(
            image_size=56,
            embed_dim=64,
            depth=4,
            num_heads=4,
            patch_embed=patch_embed,
            dino_depth=2,
            dino_heads=4,
            camera_depth=2,
            camera_heads=4,
            dense_features=32,
            dense_channels=(16, 32, 32, 32),
            dense_layers=(0, 1, 2, 3),
            track_features=32,
            track_iterations=2,
            track_levels=3,
            track_radius=2,
            track_hidden=64,
            track=track,
        )
