"""A segmenter that needs no weights: Felzenszwalb's graph segmentation at three granularities.

Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004: neighbouring pixels are joined
unless their difference exceeds both sides' inner differences by `k / size`. It sees colour edges and nothing else,
so its levels only stand in for SAM's: "subpart" and "part" are two values of k, and "whole" joins those parts that
share much of their outline and are not background.
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
JOIN_SHARE = 0.2
"""Two parts are one whole if this share of the smaller one's outline touches the other."""
BACKGROUND_SHARE = 0.06
"""A region this large is background, as is one that touches the photo's edge; neither is joined with anything, and
no union grows larger, so that clutter does not become one thing."""


class FelzenszwalbSegmenter:
    """Whole, part and subpart by colour edges alone. Deterministic; about a second for a photo of half a megapixel."""

    segmenter_id = (
        f"felzenszwalb/1 k={PART_SCALE:g},{SUBPART_SCALE:g} sigma={SIGMA:g} dither={DITHER:g} min={MIN_SHARE:.2g} "
        f"join={JOIN_SHARE:g} background={BACKGROUND_SHARE:g}"
    )

    def segment(self, image: npt.NDArray[np.uint8]) -> LabelMaps:
        """Label maps of an RGB image, uint8 [H, W, 3]: int32 [3, H, W], every pixel labelled."""
        part = _regions(image, PART_SCALE)
        subpart = _regions(image, SUBPART_SCALE)
        return LabelMaps(np.stack([join_parts(part), part, subpart]), SAM_LEVELS)


def _regions(image: npt.NDArray[np.uint8], scale: float) -> npt.NDArray[np.int32]:
    from skimage.segmentation import felzenszwalb

    pixels = image.shape[0] * image.shape[1]
    noise = np.random.default_rng(0).normal(0.0, DITHER, image.shape)
    # skimage wants floats in 0..1 and divides k by 255 to match, so k stays in grey levels.
    scale *= (pixels / REFERENCE_PIXELS) ** 0.5
    return compact(felzenszwalb((image + noise) / 255.0, scale, SIGMA, max(4, round(pixels * MIN_SHARE))))


def join_parts(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Join neighbouring parts that look like one thing by their outlines.

    Args:
        labels: int32 [H, W], every pixel labelled, ids without gaps.

    Returns:
        int32 [H, W], ids without gaps; each region is a union of the given ones.
    """
    count = int(labels.max()) + 1
    area = np.bincount(labels.ravel(), minlength=count)
    background = area > BACKGROUND_SHARE * labels.size
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        background[edge] = True
    first, second, shared, outline = _borders(labels, count)
    share = shared / np.minimum(outline[first], outline[second])
    candidates = np.flatnonzero((share >= JOIN_SHARE) & ~background[first] & ~background[second])
    root = np.arange(count)
    # The closest pairs go first, because they are the likeliest to be one thing, and the size limit may stop the rest.
    for pair in candidates[np.argsort(-share[candidates], kind="stable")]:
        one, other = root[first[pair]], root[second[pair]]
        if one != other and area[one] + area[other] <= BACKGROUND_SHARE * labels.size:
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
