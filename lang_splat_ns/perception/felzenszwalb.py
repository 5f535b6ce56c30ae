"""A segmenter that needs no weights: Felzenszwalb's graph segmentation at three granularities.

Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004: neighbouring pixels are joined
unless their difference exceeds both sides' inner differences by `k / size`. It sees colour edges and nothing else,
so its levels only stand in for SAM's: "subpart" and "part" are two values of k, where "part" also joins one colour
across the edges of its shading, and "whole" joins parts that share much of their outline and are not background.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lang_splat_ns.perception.segmenters import SAM_LEVELS, LabelMaps, compact

# Chosen on rendered shaded solids and on photos of a desk; given for the reference size and scaled with the photo's
# side: a larger photo has more pixels per region (k counts for less) and flatter gradients (k needs to do less).
REFERENCE_PIXELS = 320 * 240
PART_SCALE = 200.0
SUBPART_SCALE = 60.0
SIGMA = 0.5
DITHER = 1.5
"""Standard deviation, in grey levels, of the fixed noise that is added: without any, a clean rendering's smooth
gradient falls apart along its steps of one grey level, since everything between two steps is exactly flat."""
MIN_SHARE = 1 / 2500
"""Smaller regions than this share of the photo go to their nearest neighbour; no pixel is left without one."""
SLIVER_CORE = 0.2
"""A region of which a smaller share than this is left without its outermost pixels is the rim of something else."""
SAME_TINT = 0.2
"""Two neighbours are one colour in different light if their tints differ by less than this share of the stronger."""
MIN_TINT = 0.3
"""Below this tint a region counts as grey (a skin tone has about 0.3, a red ball 1.5)."""
TOUCHING_SHARE = 0.05
"""Shades are only joined where they share at least this much of the smaller one's outline."""
JOIN_SHARE = 0.3
"""Two parts are one whole if this share of the smaller one's outline touches the other."""
BACKGROUND_SHARE = 0.05
"""A region this large is background, as is one that touches the photo's edge; neither is joined with anything, and
no union grows larger, so that clutter does not become one thing."""


class FelzenszwalbSegmenter:
    """Whole, part and subpart by colour edges alone. Deterministic; about a second for a photo of half a megapixel."""

    segmenter_id = (
        f"felzenszwalb/3 k={PART_SCALE:g},{SUBPART_SCALE:g} sigma={SIGMA:g} dither={DITHER:g} min={MIN_SHARE:.2g} "
        f"sliver={SLIVER_CORE:g} tint={SAME_TINT:g}/{MIN_TINT:g}/{TOUCHING_SHARE:g} join={JOIN_SHARE:g} "
        f"background={BACKGROUND_SHARE:g}"
    )

    def segment(self, image: npt.NDArray[np.uint8]) -> LabelMaps:
        """Label maps of an RGB image, uint8 [H, W, 3]: int32 [3, H, W], every pixel labelled."""
        part = join_shades(_regions(image, PART_SCALE), image)
        subpart = _regions(image, SUBPART_SCALE)
        return LabelMaps(np.stack([join_parts(part), part, subpart]), SAM_LEVELS)


def _regions(image: npt.NDArray[np.uint8], scale: float) -> npt.NDArray[np.int32]:
    from skimage.segmentation import felzenszwalb

    pixels = image.shape[0] * image.shape[1]
    noise = np.random.default_rng(0).normal(0.0, DITHER, image.shape)
    # skimage wants floats in 0..1 and divides k by 255 to match, so k stays in grey levels.
    scale *= (pixels / REFERENCE_PIXELS) ** 0.5
    labels = felzenszwalb((image + noise) / 255.0, scale, SIGMA, max(4, round(pixels * MIN_SHARE)))
    return dissolve_slivers(compact(labels))


def dissolve_slivers(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Give the pixels of regions that are hardly more than a line to the nearest proper region.

    Along an edge between two colours lie mixed pixels, unlike either side, and they make thin regions of their own.

    Args:
        labels: int32 [H, W], every pixel labelled, ids without gaps.

    Returns:
        int32 [H, W], ids without gaps.
    """
    from scipy.ndimage import distance_transform_edt, maximum_filter, minimum_filter

    inner = maximum_filter(labels, 3) == minimum_filter(labels, 3)
    count = int(labels.max()) + 1
    core = np.bincount(labels[inner], minlength=count) / np.bincount(labels.ravel(), minlength=count)
    sliver = (core < SLIVER_CORE)[labels]
    if sliver.all():
        return labels
    rows, columns = np.asarray(distance_transform_edt(sliver, return_distances=False, return_indices=True))
    return compact(labels[rows, columns])


def join_shades(labels: npt.NDArray[np.int32], image: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Join neighbouring regions that are one colour in different light, like the sides of a painted box.

    All three of CIELAB's cube roots shrink by one factor when light does, so a* and b* over L* + 16 do not depend on
    the light. Greys have no hue to tell them apart by and are left as they are.

    Args:
        labels: int32 [H, W], every pixel labelled, ids without gaps.
        image: RGB, uint8 [H, W, 3].

    Returns:
        int32 [H, W], ids without gaps; each region is a union of the given ones.
    """
    from skimage.color import rgb2lab

    lab = rgb2lab(image).reshape(-1, 3)
    area = np.bincount(labels.ravel())
    mean = np.stack([np.bincount(labels.ravel(), weights=channel) for channel in lab.T], axis=1) / area[:, None]
    tint = mean[:, 1:] / (mean[:, :1] + 16.0)
    strength = np.linalg.norm(tint, axis=1)
    first, second, shared, outline = _borders(labels, len(area))
    distance = np.linalg.norm(tint[first] - tint[second], axis=1)
    alike = distance < SAME_TINT * np.maximum(strength[first], strength[second])
    coloured = np.minimum(strength[first], strength[second]) > MIN_TINT
    share = shared / np.minimum(outline[first], outline[second])
    share[~(alike & coloured)] = 0.0
    return _joined(labels, first, second, share, TOUCHING_SHARE, area, labels.size)


def join_parts(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Join neighbouring parts that look like one thing by their outlines.

    Args:
        labels: int32 [H, W], every pixel labelled, ids without gaps.

    Returns:
        int32 [H, W], ids without gaps; each region is a union of the given ones.
    """
    area = np.bincount(labels.ravel())
    background = area > BACKGROUND_SHARE * labels.size
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        background[edge] = True
    first, second, shared, outline = _borders(labels, len(area))
    share = shared / np.minimum(outline[first], outline[second])
    share[background[first] | background[second]] = 0.0
    return _joined(labels, first, second, share, JOIN_SHARE, area, BACKGROUND_SHARE * labels.size)


def _joined(
    labels: npt.NDArray[np.int32],
    first: npt.NDArray[np.intp],
    second: npt.NDArray[np.intp],
    share: npt.NDArray[np.float64],
    least: float,
    area: npt.NDArray[np.intp],
    largest: float,
) -> npt.NDArray[np.int32]:
    """Unite the pairs that share at least `least` of an outline, the closest first, up to `largest` pixels."""
    root = np.arange(len(area))
    area = area.copy()
    candidates = np.flatnonzero(share >= least)
    # The closest pairs go first, because they are the likeliest to be one thing, and the size limit may stop the rest.
    for pair in candidates[np.argsort(-share[candidates], kind="stable")]:
        one, other = root[first[pair]], root[second[pair]]
        if one != other and area[one] + area[other] <= largest:
            root[root == other] = one
            area[one] += area[other]
    return compact(root[labels])


def _borders(
    labels: npt.NDArray[np.int32], count: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pairs of neighbouring regions (ids, ids), pixel edges between them, and each region's outline in pixel edges."""
    sides = np.concatenate(
        [
            np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()]),
            np.stack([labels[:-1].ravel(), labels[1:].ravel()]),
        ],
        axis=1,
    ).astype(np.int64)
    sides = np.sort(sides[:, sides[0] != sides[1]], axis=0)
    pairs, shared = np.unique(sides[0] * count + sides[1], return_counts=True)
    first, second = np.divmod(pairs, count)
    outline = np.bincount(np.concatenate([first, second]), weights=np.tile(shared, 2), minlength=count)
    return first.astype(np.intp), second.astype(np.intp), shared, outline.astype(np.intp)
