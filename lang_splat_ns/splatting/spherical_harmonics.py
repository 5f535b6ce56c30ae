"""View-dependent colour: real spherical harmonics in plain torch, with gsplat's signs and ordering."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_DEGREE = 4


def view_directions(
    means: Tensor,  # [N, 3]
    viewmat: Tensor,  # [4, 4]
) -> Tensor:
    """Unit vectors from the camera's centre to each Gaussian, in the world frame.

    Args:
        means: Gaussian centres in the world frame. [N, 3]
        viewmat: world-to-camera transform in OpenCV axes. [4, 4]

    Returns:
        [N, 3]. A Gaussian that sits exactly in the camera's centre gets the zero vector.

    Raises:
        ValueError: a shape is wrong.
    """
    if means.ndim != 2 or means.shape[1] != 3:
        raise ValueError(f"means must be [N, 3], got {list(means.shape)}")
    if viewmat.shape != (4, 4):
        raise ValueError(f"viewmat must be [4, 4], got {list(viewmat.shape)}")
    # The general inverse, not the transpose, because that is what gsplat does for a viewmat that is not rigid.
    center = torch.linalg.inv(viewmat)[:3, 3]  # [3]
    return torch.nn.functional.normalize(means - center, dim=-1)


def spherical_harmonics(
    degree: int,
    dirs: Tensor,  # [..., 3]
    coeffs: Tensor,  # [..., K, 3]
) -> Tensor:
    """Sum of the first `(degree + 1)**2` real spherical harmonics, weighted by their coefficients.

    The polynomial form and the signs are those of Sloan, "Efficient Spherical Harmonic Evaluation" (JCGT 2013),
    the ones that 3D Gaussian splatting uses (Kerbl et al. 2023, section 5.1). The caller adds the 0.5 and the clamp.

    Args:
        degree: highest band, 0 to 4.
        dirs: viewing directions in the world frame; they are normalised here. [..., 3]
        coeffs: coefficients, of which those of higher bands are ignored. [..., K, 3]

    Returns:
        [..., 3]

    Raises:
        ValueError: the degree is out of range, or a shape is wrong.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree must be 0 to {MAX_DEGREE}, got {degree}")
    count = (degree + 1) ** 2
    if coeffs.ndim < 2 or coeffs.shape[-1] != 3 or coeffs.shape[-2] < count:
        raise ValueError(f"coeffs must be [..., K >= {count}, 3] for degree {degree}, got {list(coeffs.shape)}")
    if dirs.shape != (*coeffs.shape[:-2], 3):
        raise ValueError(f"dirs must be {[*coeffs.shape[:-2], 3]} to go with coeffs, got {list(dirs.shape)}")
    basis = spherical_harmonics_basis(degree, dirs)  # [..., count]
    return torch.einsum("...k,...kc->...c", basis, coeffs[..., :count, :])


def spherical_harmonics_basis(
    degree: int,
    dirs: Tensor,  # [..., 3]
) -> Tensor:
    """The first `(degree + 1)**2` real spherical harmonics at the given directions, of any length.

    Returns:
        [..., (degree + 1)**2], in gsplat's order (m = -l..l within band l) and with its signs.

    Raises:
        ValueError: the degree is out of range, or a shape is wrong.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree must be 0 to {MAX_DEGREE}, got {degree}")
    if dirs.ndim < 1 or dirs.shape[-1] != 3:
        raise ValueError(f"dirs must be [..., 3], got {list(dirs.shape)}")
    x, y, z = torch.nn.functional.normalize(dirs, dim=-1).unbind(-1)
    terms = [torch.full_like(x, 0.2820947917738781)]
    if degree == 0:
        return torch.stack(terms, dim=-1)
    terms += [-0.48860251190292 * y, 0.48860251190292 * z, -0.48860251190292 * x]
    if degree == 1:
        return torch.stack(terms, dim=-1)
    # (c, s) are the real and imaginary part of (x + iy)**m: each band needs one more power.
    zz, c2, s2 = z * z, x * x - y * y, 2 * x * y
    band = -1.092548430592079 * z
    terms += [0.5462742152960395 * s2, band * y, 0.9461746957575601 * zz - 0.3153915652525201]
    terms += [band * x, 0.5462742152960395 * c2]
    if degree == 2:
        return torch.stack(terms, dim=-1)
    c3, s3 = x * c2 - y * s2, x * s2 + y * c2
    outer, band = 1.445305721320277 * z, -2.285228997322329 * zz + 0.4570457994644658
    terms += [-0.5900435899266435 * s3, outer * s2, band * y, z * (1.865881662950577 * zz - 1.119528997770346)]
    terms += [band * x, outer * c2, -0.5900435899266435 * c3]
    if degree == 3:
        return torch.stack(terms, dim=-1)
    c4, s4 = x * c3 - y * s3, x * s3 + y * c3
    outer, inner = -1.770130769779931 * z, 3.31161143515146 * zz - 0.47308734787878
    band = z * (-4.683325804901025 * zz + 2.007139630671868)
    top = 1.984313483298443 * zz * (1.865881662950577 * zz - 1.119528997770346)
    top = top - 1.006230589874905 * (0.9461746957575601 * zz - 0.3153915652525201)
    terms += [0.6258357354491763 * s4, outer * s3, inner * s2, band * y, top]
    terms += [band * x, inner * c2, outer * c3, 0.6258357354491763 * c4]
    return torch.stack(terms, dim=-1)
