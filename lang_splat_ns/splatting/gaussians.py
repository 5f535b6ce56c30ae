"""Gaussians as plain tensors: making them from points, and carrying them from one frame of reference to another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

SH_C0 = 0.28209479177387814
"""Value of the constant spherical harmonic, which turns a colour into its first coefficient."""

_ROWS = 1 << 18
"""Gaussians whose colours are rotated at a time."""

PARAMETER_NAMES = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")


@dataclass(frozen=True)
class Gaussians:
    """A set of N Gaussians in the parametrisation of 3DGS (Kerbl et al. 2023) and nerfstudio's splatfacto.

    Attributes:
        means: [N, 3] centres.
        scales: [N, 3] logarithms of the standard deviations along the Gaussian's own axes.
        quats: [N, 4] rotations, w x y z, not necessarily normalised.
        features_dc: [N, 3] constant spherical-harmonic coefficients of the colour.
        features_rest: [N, K - 1, 3] the other coefficients.
        opacities: [N, 1] logits.
    """

    means: Tensor
    scales: Tensor
    quats: Tensor
    features_dc: Tensor
    features_rest: Tensor
    opacities: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The six tensors by name."""
        return {name: getattr(self, name) for name in PARAMETER_NAMES}

    def some(self, which: Tensor) -> Gaussians:
        """Some of the Gaussians, by a mask [N] or by index."""
        return Gaussians(**{name: tensor[which] for name, tensor in self.tensors().items()})

    def joined(self, others: Gaussians) -> Gaussians:
        """These and others, these first."""
        more = others.tensors()
        return Gaussians(**{name: torch.cat([tensor, more[name]]) for name, tensor in self.tensors().items()})

    def detach(self) -> Gaussians:
        """The same tensors, out of reach of gradients."""
        return Gaussians(**{name: tensor.detach() for name, tensor in self.tensors().items()})

    def with_sh_degree(self, degree: int) -> Gaussians:
        """The same Gaussians with coefficients cut to, or filled with zeros up to, `degree`."""
        wanted = (degree + 1) ** 2 - 1
        have = self.features_rest.shape[1]
        if have >= wanted:
            return replace(self, features_rest=self.features_rest[:, :wanted].contiguous())
        zeros = self.features_rest.new_zeros(len(self.means), wanted - have, 3)
        return replace(self, features_rest=torch.cat([self.features_rest, zeros], dim=1))


def from_points(points: Tensor, colors: Tensor | None, sh_degree: int) -> Gaussians:
    """One Gaussian per point, as wide as the mean distance to its three nearest neighbours (Kerbl et al. 2023, 5.1).

    Args:
        points: [N, 3], N >= 1.
        colors: [N, 3] in 0..255, or None for random ones.
        sh_degree: degree of the spherical harmonics that get room.

    Returns:
        Gaussians on the device of `points`, with opacity 0.1 and random rotations from torch's global generator.
    """
    count = len(points)
    spread = _mean_neighbour_distance(points).clamp_min(1e-7)
    rgb = colors.to(points) / 255.0 if colors is not None and len(colors) else torch.rand(count, 3).to(points)
    return Gaussians(
        means=points.float().clone(),
        scales=torch.log(spread)[:, None].repeat(1, 3),
        quats=_random_quaternions(count).to(points.device),
        features_dc=(rgb.float() - 0.5) / SH_C0,
        features_rest=points.new_zeros(count, (sh_degree + 1) ** 2 - 1, 3, dtype=torch.float32),
        opacities=torch.logit(torch.full((count, 1), 0.1, device=points.device)),
    )


POINT_OPACITY = 0.95
"""Of a point that stands for a surface as a Gaussian."""
POINT_WIDTH = 0.5
"""Standard deviation of such a Gaussian, in mean distances to its neighbours. With 200,000 points of the demo scene,
width 0.5 and opacity 0.95 give 23.4 dB and a mean IoU of 0.70; 0.5 and 0.8 give 0.60, 0.7 and 0.8 give 0.56, 1.0 and
0.8 give 0.34."""
_WIDEST_SHARE = 0.95


def from_point_cloud(points: Tensor, colors: Tensor | None, sh_degree: int) -> Gaussians:
    """One round Gaussian per point that is shown as it is, without training: nearly opaque, as wide as closes the gaps.

    Lonely points would become blobs that hide what is behind; the widest twentieth gets the width of the next one.

    Args:
        points: [N, 3], N >= 1.
        colors: [N, 3] in 0..255, or None for grey.
        sh_degree: degree of the spherical harmonics that get room.
    """
    if colors is None or not len(colors):
        colors = torch.full_like(points, 127.5)
    made = from_points(points, colors, sh_degree)
    widths = made.scales[:, 0].exp() * POINT_WIDTH
    widest = torch.from_numpy(np.quantile(widths.cpu().numpy(), [_WIDEST_SHARE])).to(widths)
    upright = torch.tensor([1.0, 0.0, 0.0, 0.0], device=points.device)
    return replace(
        made,
        scales=torch.minimum(widths, widest).log()[:, None].repeat(1, 3),
        quats=upright.repeat(len(points), 1),
        opacities=torch.logit(torch.full_like(made.opacities, POINT_OPACITY)),
    )


@dataclass(frozen=True)
class Similarity:
    """A change of frame, x -> scale rotation x + translation.

    Attributes:
        rotation: [3, 3] float64.
        translation: [3] float64, in units of the target frame.
        scale: uniform factor.
    """

    rotation: np.ndarray
    translation: np.ndarray
    scale: float

    @staticmethod
    def from_dataparser(transform: Tensor | np.ndarray | list, scale: float) -> Similarity:
        """From the data set's world to nerfstudio's frame, given `dataparser_transform` [3, 4] and `dataparser_scale`.

        nerfstudio rotates and shifts first and scales last.
        """
        matrix = np.asarray(transform, dtype=np.float64)
        return Similarity(matrix[:3, :3], matrix[:3, 3] * scale, float(scale))

    def inverse(self) -> Similarity:
        """The change of frame that undoes this one."""
        return Similarity(self.rotation.T, -(self.rotation.T @ self.translation) / self.scale, 1.0 / self.scale)

    def then(self, second: Similarity) -> Similarity:
        """This change of frame followed by `second`."""
        translation = second.scale * (second.rotation @ self.translation) + second.translation
        return Similarity(second.rotation @ self.rotation, translation, self.scale * second.scale)

    def of_points(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] in the target frame."""
        return self.scale * points @ self.rotation.T + self.translation

    def of_cameras(self, world_to_camera: np.ndarray) -> np.ndarray:
        """Transforms [S, 4, 4] from the target frame to cameras, which measure in its unit then."""
        moved = world_to_camera.copy()
        moved[:, :3, :3] = world_to_camera[:, :3, :3] @ self.rotation.T
        moved[:, :3, 3] = self.scale * world_to_camera[:, :3, 3] - moved[:, :3, :3] @ self.translation
        return moved

    def is_identity(self, tolerance: float = 1e-9) -> bool:
        """True when nothing would move."""
        return bool(
            np.allclose(self.rotation, np.eye(3), atol=tolerance)
            and np.allclose(self.translation, 0.0, atol=tolerance)
            and abs(self.scale - 1.0) <= tolerance
        )


def transform(gaussians: Gaussians, frame: Similarity) -> Gaussians:
    """The same Gaussians seen from another frame: means, scales, rotations and view-dependent colour.

    Computed in float64, since a round trip must agree to 1e-5; the result has the input's dtype.
    """
    if frame.is_identity():
        return gaussians
    rotation = torch.from_numpy(frame.rotation).to(gaussians.means.device)
    translation = torch.from_numpy(frame.translation).to(gaussians.means.device)
    means = frame.scale * gaussians.means.double() @ rotation.T + translation
    quats = _compose(_rotation_quaternion(frame.rotation).to(rotation.device), gaussians.quats.double())
    return replace(
        gaussians,
        means=means.to(gaussians.means),
        scales=(gaussians.scales.double() + np.log(frame.scale)).to(gaussians.scales),
        quats=quats.to(gaussians.quats),
        features_rest=_rotate_harmonics(gaussians.features_rest, frame.rotation),
    )


def _mean_neighbour_distance(points: Tensor) -> Tensor:
    from scipy.spatial import KDTree

    xyz = points.detach().cpu().double().numpy()
    neighbours = min(4, len(xyz))
    if neighbours < 2:
        # A single point has no neighbour to take its size from.
        return torch.full((len(xyz),), 0.01, device=points.device)
    distance, _ = KDTree(xyz).query(xyz, k=neighbours)
    return torch.from_numpy(distance[:, 1:].mean(1)).float().to(points.device)


def _random_quaternions(count: int) -> Tensor:
    # Shoemake's method gives rotations that are uniformly distributed.
    u, v, w = torch.rand(3, count)
    a, b = torch.sqrt(1 - u), torch.sqrt(u)
    return torch.stack(
        [
            a * torch.sin(2 * torch.pi * v),
            a * torch.cos(2 * torch.pi * v),
            b * torch.sin(2 * torch.pi * w),
            b * torch.cos(2 * torch.pi * w),
        ],
        dim=-1,
    )


def _rotation_quaternion(rotation: np.ndarray) -> Tensor:
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return torch.tensor([w, x, y, z], dtype=torch.float64)


def _compose(first: Tensor, second: Tensor) -> Tensor:
    """Hamilton product first * second of w x y z quaternions, [4] and [N, 4]."""
    w1, x1, y1, z1 = first
    w2, x2, y2, z2 = second.unbind(-1)
    return torch.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        dim=-1,
    )


def _rotate_harmonics(rest: Tensor, rotation: np.ndarray) -> Tensor:
    """Rotate coefficients [N, K - 1, 3] of degree >= 1, so that colour(R d) after equals colour(d) before.

    Each degree is closed under rotation. Its matrix follows from the basis itself, evaluated in enough
    directions before and after the rotation, which needs no table of Wigner matrices.
    """
    from lang_splat_ns.splatting.spherical_harmonics import spherical_harmonics_basis

    if rest.shape[1] == 0:
        return rest
    degree = round((rest.shape[1] + 1) ** 0.5) - 1
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(64, 3, generator=generator, dtype=torch.float64), dim=-1)
    before = spherical_harmonics_basis(degree, directions)  # [64, K]
    after = spherical_harmonics_basis(degree, directions @ torch.from_numpy(rotation).T)
    rotated = torch.empty_like(rest, requires_grad=False)
    for band in range(1, degree + 1):
        columns = slice(band * band, (band + 1) ** 2)
        matrix = torch.linalg.lstsq(after[:, columns], before[:, columns]).solution.to(rest.device)  # [2b + 1, 2b + 1]
        kept = slice(band * band - 1, (band + 1) ** 2 - 1)
        # In pieces, since the coefficients are most of a scene, and twice as large in float64.
        for start in range(0, len(rest), _ROWS):
            rows = slice(start, start + _ROWS)
            rotated[rows, kept] = torch.einsum("ij,njc->nic", matrix, rest[rows, kept].double()).to(rest)
    return rotated
