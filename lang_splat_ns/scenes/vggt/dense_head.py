"""Dense predictions from tokens: DPT (Ranftl et al. 2021), for depth, for world points and for tracking features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lang_splat_ns.scenes.vggt.config import VGGTConfig
from lang_splat_ns.scenes.vggt.dense_parts import Fusion, add_position, enlarge


class Scratch(nn.Module):
    """Brings four scales to one width, fuses them from coarse to fine, and reads out.

    Args:
        channels: of the four scales, fine to coarse.
        features: width of the fusion.
        out: channels of the readout; None gives the fused features, without a readout.
    """

    def __init__(self, channels: Sequence[int], features: int, out: int | None) -> None:
        super().__init__()
        self.layer1_rn = nn.Conv2d(channels[0], features, 3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(channels[1], features, 3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(channels[2], features, 3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(channels[3], features, 3, padding=1, bias=False)
        self.refinenet1 = Fusion(features)
        self.refinenet2 = Fusion(features)
        self.refinenet3 = Fusion(features)
        self.refinenet4 = Fusion(features, finer=False)
        narrow = features if out is None else features // 2
        self.output_conv1 = nn.Conv2d(features, narrow, 3, padding=1)
        if out is not None:
            self.output_conv2 = nn.Sequential(
                nn.Conv2d(narrow, 32, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(32, out, 1)
            )

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """Four scales, fine to coarse, to a map of twice the finest one's size."""
        first, second, third, fourth = scales
        x = self.refinenet4(self.layer4_rn(fourth), _size(third))
        x = self.refinenet3(x, _size(second), self.layer3_rn(third))
        x = self.refinenet2(x, _size(first), self.layer2_rn(second))
        height, width = _size(first)
        x = self.refinenet1(x, (2 * height, 2 * width), self.layer1_rn(first))
        return self.output_conv1(x)


class DenseHead(nn.Module):
    """A map of some frames, from their tokens; its subclasses say what the map means.

    Args:
        config: sizes.
        features: width of the fusion.
        out: channels of a map of the photo's size; None for features of half that size.
    """

    def __init__(self, config: VGGTConfig, features: int, out: int | None) -> None:
        super().__init__()
        self._patch_size, self._predicts = config.patch_size, out is not None
        first, second, third, fourth = channels = config.dense_channels
        dim = 2 * config.embed_dim
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, 4, 4),
                nn.ConvTranspose2d(second, second, 2, 2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, 3, 2, 1),
            ]
        )
        self.scratch = Scratch((first, second, third, fourth), features, out)

    def read(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """The map.

        Args:
            layers: patch tokens of four of the aggregator's layers. Each [F, rows * columns, 2 C]
            grid: rows and columns.

        Returns:
            [F, out, H, W], or features [F, features, H / 2, W / 2].
        """
        height, width = (self._patch_size * cells for cells in grid)
        aspect = width / height
        scales = []
        for tokens, project, resize in zip(layers, self.projects, self.resize_layers, strict=True):
            x = project(self.norm(tokens).transpose(1, 2).unflatten(2, grid))
            scales.append(resize(add_position(x, aspect) if self._predicts else x))
        x = self.scratch(scales)
        if not self._predicts:
            return enlarge(x, (height // 2, width // 2))
        return self.scratch.output_conv2(add_position(enlarge(x, (height, width)), aspect))


class DepthHead(DenseHead):
    """Depth and how sure it is."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__(config, config.dense_features, 2)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """Depth [F, H, W, 1] above 0 and confidence [F, H, W] above 1, see `DenseHead.read`."""
        x = self.read(layers, grid)
        return x[:, :1].exp().movedim(1, -1), 1 + x[:, 1].exp()


class PointHead(DenseHead):
    """World points and how sure they are."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__(config, config.dense_features, 4)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """World points [F, H, W, 3] and confidence [F, H, W] above 1, see `DenseHead.read`."""
        x = self.read(layers, grid)
        # Coordinates are predicted as logarithms of their size on both sides of zero.
        return (x[:, :3].sign() * x[:, :3].abs().expm1()).movedim(1, -1), 1 + x[:, 3].exp()


class FeatureHead(DenseHead):
    """Feature maps of half the photo's size."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__(config, config.track_features, None)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """Features [F, features, H / 2, W / 2], see `DenseHead.read`."""
        return (self.read(layers, grid),)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]
