"""`colour-words`: an encoder that knows colours by their English and Chinese names, and needs no download."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lang_splat_ns.perception.colour_names import FAMILIES, examples, names_in, near_names, shades_of
from lang_splat_ns.perception.colour_names_zh import chinese_names_in, near_chinese_names
from lang_splat_ns.perception.encoders import CHINESE_NEGATIVES, LERF_NEGATIVES, check_texts

GENERIC_WORDS = (*LERF_NEGATIVES, *CHINESE_NEGATIVES)
"""All of them have one vector, so that a prompt beats the same in either language."""

# Settled on shaded spheres of sixteen colours under weak and strong ambient light (the worst right colour has relevancy
# 0.72, four wrong ones of 720 exceed 0.5), on the demo room, and on colours picked from photos of a desk.
TINT_SIZE, HALF_TINT, LIGHT_WEIGHT, GREY_LIGHT_WEIGHT, GREY_TINT = 90.0, 0.4, 0.5, 0.9, 0.12
"""See `_shading_free`."""
BANDWIDTH = 4.0
"""How far, in the coordinates of `_shading_free`, an example speaks for colours around it."""
CROWD_POWER = 0.7
"""Examples of a family with n of them weigh n to the minus this: the survey has 160 greens and 9 navies."""
SHADES = (1.0, 0.7)
"""A colour's name stands for its look in full light and in weaker light."""
GENERIC_COSINE = 0.68
"""Cosine with a colour's own vector that a region must exceed to beat "object"."""
MIN_INNER_PIXELS = 64
"""Regions with at least this many inner pixels are read without their rim, where colours mix."""
_BITS = 5
"""Colours are looked up with this many bits per channel."""


class ColourWordsEncoder:
    """A region is a histogram over 21 families of colour; a text is the same for the colour names in it.

    Which family a pixel belongs to is read off the examples of the XKCD survey, in coordinates that shading hardly
    changes. Vectors hold the square roots of the shares, so that a dot product is the Bhattacharyya coefficient of two
    histograms, and "red and white" fits best what is half red and half white. A last entry is used by the generic
    phrases only; every region has it, and it is the cosine that a region must exceed to be more than "object". So
    LERF's relevancy crosses 0.5 exactly where colours match.

        encoder = ColourWordsEncoder()
        regions = encoder.embed_regions(image, labels, count)  # [count, 22]
        red = regions @ encoder.embed_text(["red mug"])[0]  # "红色的杯子" has the same vector.
    """

    encoder_id = (
        f"colour-words/4 families={len(FAMILIES)} tint={TINT_SIZE:g}/{HALF_TINT:g}/{GREY_TINT:g} "
        f"light={LIGHT_WEIGHT:g}/{GREY_LIGHT_WEIGHT:g} width={BANDWIDTH:g} crowd={CROWD_POWER:g} "
        f"shades={'/'.join(f'{shade:g}' for shade in SHADES)} generic={GENERIC_COSINE:g}"
    )
    dim = len(FAMILIES) + 1
    negatives = LERF_NEGATIVES

    def embed_regions(
        self, image: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], count: int
    ) -> npt.NDArray[np.float32]:
        """Colour histograms of the regions; see `Encoder.embed_regions`."""
        rows = np.full((count, self.dim), np.nan, dtype=np.float32)
        ids = without_rims(labels, count)
        inside = ids >= 0
        if not inside.any():
            return rows
        # Pixels are counted per region and colour first, so that each colour of a region is looked up once.
        red, green, blue = (image[inside] >> (8 - _BITS)).astype(np.int64).T
        colour = (red << 2 * _BITS) | (green << _BITS) | blue
        keys, counts = np.unique((ids[inside].astype(np.int64) << 3 * _BITS) | colour, return_counts=True)
        weighted = _membership_table()[keys & ((1 << 3 * _BITS) - 1)] * counts[:, None]
        seen, first = np.unique(keys >> 3 * _BITS, return_index=True)
        histograms = np.add.reduceat(weighted, first, axis=0)
        histograms /= histograms.sum(axis=1, keepdims=True)
        rows[seen] = np.concatenate([np.sqrt(histograms), np.full((len(seen), 1), GENERIC_COSINE)], axis=1)
        # The roots of shares have length 1, so all regions have the same length before this.
        rows[seen] /= np.sqrt(1.0 + GENERIC_COSINE**2)
        return rows

    def embed_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of texts; see `Encoder.embed_text`.

        Raises:
            KeyError: a text is empty or names no colour.
        """
        rows = [_embed_one(text) for text in check_texts(texts)]
        return np.array(rows, dtype=np.float32).reshape(-1, self.dim)


def _embed_one(text: str) -> npt.NDArray[np.float64]:
    names = [*names_in(text), *chinese_names_in(text)]
    if names:
        shares = np.mean([_membership(shades_of(name, SHADES)).mean(axis=0) for name in dict.fromkeys(names)], axis=0)
        return np.append(np.sqrt(shares / shares.sum()), 0.0)
    if text.lower() in GENERIC_WORDS:
        return np.append(np.zeros(len(FAMILIES)), 1.0)
    near = [*near_names(text), *near_chinese_names(text)][:4]
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise KeyError(
        f"{text!r} names no colour, and colour-words knows colours and nothing else{hint} The encoder open_clip knows "
        f"things"
    )


def _membership(rgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Share of each family in colours, sRGB in 0..1 [P, 3]: float32 [P, families], rows sum to 1."""
    colours, family = examples()
    points, around = _shading_free(rgb), _shading_free(colours)
    squared = (points**2).sum(axis=1)[:, None] + (around**2).sum(axis=1) - 2 * points @ around.T
    # Subtracting the nearest example's distance keeps colours that are far from every example from vanishing.
    nearness = np.exp(-(squared - squared.min(axis=1, keepdims=True)) / (2 * BANDWIDTH**2))
    # One column per family: 1 for its examples, scaled by how many there are.
    belongs = np.eye(len(FAMILIES))[family] / np.bincount(family)[family][:, None] ** CROWD_POWER
    shares = nearness @ belongs
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def _shading_free(rgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Coordinates, float [P, 3], in which a surface hardly moves when its light dims, and greys still differ.

    All three of CIELAB's cube roots shrink by one factor when light does, so the tint, a* and b* over L* + 16, stays
    where it is (+ 20 here, against noise in the dark). Its length is compressed, since people call a dull green green.
    Lightness counts little, except for greys, which have nothing else.
    """
    from skimage.color import rgb2lab

    lab = rgb2lab(rgb[:, None])[:, 0]
    tint = lab[:, 1:] / (lab[:, :1] + 20.0)
    strength = np.linalg.norm(tint, axis=1, keepdims=True)
    weight = LIGHT_WEIGHT + (GREY_LIGHT_WEIGHT - LIGHT_WEIGHT) * np.exp(-((strength / GREY_TINT) ** 2))
    return np.concatenate([weight * lab[:, :1], TINT_SIZE * tint / (strength + HALF_TINT)], axis=1)


@lru_cache(maxsize=1)
def _membership_table() -> npt.NDArray[np.float32]:
    """Family shares of every colour with `_BITS` bits per channel: float32 [2 ** (3 * _BITS), families]."""
    middles = ((np.arange(1 << _BITS) + 0.5) * (256 >> _BITS) - 0.5) / 255.0
    colours = np.stack(np.meshgrid(middles, middles, middles, indexing="ij"), axis=-1).reshape(-1, 3)
    # In parts, since each is compared with some seven hundred examples.
    return np.concatenate([_membership(part) for part in np.array_split(colours, 16)])


def without_rims(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
    """Labels, int32 [H, W], with -1 along the borders of regions that are large enough to do without them."""
    from scipy.ndimage import maximum_filter, minimum_filter

    inner = np.where(maximum_filter(labels, 3) == minimum_filter(labels, 3), labels, -1)
    large = np.bincount(inner[inner >= 0], minlength=count) >= MIN_INNER_PIXELS
    # Label -1 reads the appended entry.
    return np.where(np.append(large, False)[labels], inner, labels).astype(np.int32)
