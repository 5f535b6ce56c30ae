"""Votes of one view: how much each mask sees of each Gaussian, by the rasterizer's own weights.

For a view and a level, `V[i, m]` is the sum of alpha_i(p) T_i(p) over the pixels p of mask m: the transpose of the
rasterizer, applied to masks. It does not depend on any encoder. All pixels of a mask share one embedding, so
everything that a method would lift per pixel follows from V: features are `V F`, objects come from `V^T V`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lang_splat_ns.splatting.rasterizer import check_arguments, rasterize
from lang_splat_ns.splatting.sparse_rows import csr

if TYPE_CHECKING:
    from lang_splat_ns.splatting.vote_kernels import VoteRows

CHANNELS = 32
"""Masks per call of the gradient's route; gsplat draws 32 channels at a time."""


class ViewVotes(NamedTuple):
    """What the masks of one view see of N Gaussians."""

    levels: tuple[sparse.csr_array, ...]
    """Per level, the sum of alpha T of each Gaussian over each mask's pixels, sorted, without zeros. [N, count]"""
    visible: np.ndarray
    """The sum of alpha T over all pixels, in a mask or not. float64 [N]"""


def view_votes(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    labels: Tensor,  # [L, H, W]
    counts: Sequence[int],
    *,
    near_plane: float = 0.01,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
) -> ViewVotes:
    """Votes of one view, on the tensors' device: compiled loops on the CPU, gsplat's gradient on CUDA.

    Args:
        means, quats, scales, opacities, viewmat, K, near_plane, rasterize_mode: as in `rasterizer.rasterize`; no
            gradient goes through them.
        labels: int32 mask of each pixel, -1 = none; its size is the image's. [L, H, W]
        counts: number of masks of each level, which may be more than the label maps show. L numbers

    Returns:
        Matrices and visible weights in the CPU's memory, in the precision of `means`.

    Raises:
        ValueError: an argument has the wrong shape, type or device, or a label is not below its level's count.
    """
    _check(means, quats, scales, opacities, viewmat, K, labels, counts)
    route = votes_by_gradient if means.is_cuda else _votes_by_lists
    return route(
        means, quats, scales, opacities, viewmat, K, labels, counts,
        near_plane=near_plane, rasterize_mode=rasterize_mode,
    )  # fmt: skip


def votes_by_gradient(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmat: Tensor,
    K: Tensor,
    labels: Tensor,
    counts: Sequence[int],
    *,
    draw: Callable[..., tuple[Tensor, Tensor, Any]] = rasterize,
    **options: Any,
) -> ViewVotes:
    """Votes through the rasterizer's own backward pass, which needs no kernel of its own; see `view_votes`.

    An image is linear in the Gaussians' colours, so the gradient of `sum(image * mask)` by the colours is the sum of
    the blending weights over the mask, whatever the colours are. One channel stands for one mask, and one more for
    the whole image.

    Args:
        draw: any function with the arguments of `rasterize`.
        options: more of its keyword arguments.
    """
    height, width = labels.shape[-2:]
    geometry = [tensor.detach() for tensor in (means, quats, scales, opacities)]
    camera = viewmat.detach(), K.detach(), width, height

    def sums_over(pixels: Tensor) -> Tensor:
        """Sums of the blending weights over areas of the image: [H, W, C] -> [N, C]."""
        colors = means.new_zeros(len(means), pixels.shape[-1], requires_grad=True)
        image, _, _ = draw(*geometry, colors, *camera, **options)
        return torch.autograd.grad(image, colors, pixels)[0]

    visible = sums_over(means.new_ones(height, width, 1))[:, 0]
    levels = []
    for level, count in zip(labels, counts, strict=True):
        parts = []
        for masks in torch.arange(count, device=labels.device).split(CHANNELS):
            sums = sums_over((level[..., None] == masks).to(means)).T  # [C, N]
            mask, gaussian = sums.nonzero(as_tuple=True)
            parts.append((sums[mask, gaussian], gaussian, masks[mask]))
        levels.append(_matrix(parts, (len(means), count), means))
    return ViewVotes(tuple(levels), visible.double().cpu().numpy())


def _matrix(parts: list[tuple[Tensor, Tensor, Tensor]], shape: tuple[int, int], like: Tensor) -> sparse.csr_array:
    """A matrix from pieces of (weights, Gaussians, masks), the masks ascending."""
    if not parts:
        return sparse.csr_array(shape, dtype=like.new_zeros(0).cpu().numpy().dtype)
    weights, gaussians, masks = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    where = gaussians.astype(np.int32), masks.astype(np.int32)
    return sparse.coo_array((weights, where), shape=shape).tocsr()


def _votes_by_lists(
    means, quats, scales, opacities, viewmat, K, labels, counts, *, near_plane: float, rasterize_mode: str
) -> ViewVotes:
    """Votes in compiled loops over the CPU rasterizer's tile lists; see `view_votes`."""
    # Imported here, because numba is slow to import and whoever loads finished votes does not need it.
    from lang_splat_ns.splatting.cpu_compositing import list_splats
    from lang_splat_ns.splatting.cpu_projection import project_compiled
    from lang_splat_ns.splatting.cpu_threads import ONE_AT_A_TIME
    from lang_splat_ns.splatting.vote_kernels import gather_votes

    height, width = labels.shape[-2:]
    with torch.no_grad():
        projection = project_compiled(means, quats, scales, viewmat, K, width, height, near_plane)
        if rasterize_mode == "antialiased":
            opacities = opacities * projection.compensations
    packed, lists = list_splats(projection, opacities, width, height)
    with ONE_AT_A_TIME:
        pieces, visible = gather_votes(packed, lists, labels.contiguous().numpy(), np.asarray(counts, np.int64))
    levels = [_level(pieces, level, (len(means), count)) for level, count in enumerate(counts)]
    return ViewVotes(tuple(levels), visible)


def _level(pieces: list[VoteRows], level: int, shape: tuple[int, int]) -> sparse.csr_array:
    """One level's matrix, from pieces in which the levels lie one below the other."""
    matrices = []
    for starts, masks, weights in pieces:
        ends = starts[level * shape[0] : (level + 1) * shape[0] + 1]
        entries = slice(ends[0], ends[-1])
        matrices.append(csr(weights[entries], masks[entries], ends - ends[0], shape))
    return sum(matrices[1:], matrices[0])


def _check(means, quats, scales, opacities, viewmat, K, labels: Tensor, counts: Sequence[int]) -> None:
    """Raise a ValueError that names the first argument with a wrong shape, type or device."""
    if labels.ndim != 3 or labels.dtype != torch.int32 or len(labels) != len(counts):
        raise ValueError(
            f"labels must be int32 [L, H, W] with one of the {len(counts)} counts per level, got {labels.dtype} "
            f"{list(labels.shape)}"
        )
    if labels.device != means.device:
        raise ValueError(f"labels must be on {means.device} like means, got {labels.device}")
    for level, (pixels, count) in enumerate(zip(labels, counts, strict=True)):
        if pixels.numel() and (int(pixels.max()) >= count or int(pixels.min()) < -1):
            raise ValueError(
                f"labels of level {level} must be -1 to {count - 1} by its count, got {int(pixels.min())} to "
                f"{int(pixels.max())}"
            )
    height, width = labels.shape[-2:]
    check_arguments(means, quats, scales, opacities, means, viewmat, K, width, height, None, None, None)
