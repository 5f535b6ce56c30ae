"""`colour-words`: an encoder that knows named colours and nothing else, and needs no download."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lang_splat_ns.perception.encoders import check_texts

GENERIC_WORDS = ("object", "things", "stuff", "texture")

# The colours that regions are described by. They are spread over hue, chroma and lightness, so that each common
# colour word has an anchor of its own; all 949 names of the XKCD survey can be asked for.
ANCHORS = (
    "black", "dark grey", "grey", "light grey", "white", "red", "dark red", "orange", "brown", "tan", "yellow",
    "mustard", "olive", "lime green", "green", "dark green", "teal", "turquoise", "cyan", "sky blue", "blue", "navy",
    "light blue", "indigo", "purple", "lavender", "magenta", "pink", "hot pink", "maroon", "salmon", "beige",
)  # fmt: skip

LIGHTNESS_WEIGHT = 0.55
"""Shading moves lightness far more than hue, so it counts less."""
CHROMA_WEIGHT = 60.0
"""Brings a* and b* over L* + 16 back to about the size of a* and b*."""
BANDWIDTH = 16.0
"""Width of the soft histogram's bins in (weighted) CIELAB units."""
GENERIC_COSINE = 0.52
"""Cosine with a colour's own vector that a region must exceed to beat "object": settled on rendered shaded solids."""
MIXED_EDGE_PIXELS = 64
"""Regions with at least this many inner pixels are read without their rim, where colours mix."""


class ColourWordsEncoder:
    """A region is a soft histogram over named colours in CIELAB; a text is the vector of the colour names in it.

    The vector has one entry per anchor colour and a last one that only the generic phrases use. It holds, for every
    unit vector, the cosine that a region must exceed to be more than "object"; so LERF's relevancy crosses 0.5
    exactly where colours match.
    """

    encoder_id = (
        f"colour-words/3 anchors={len(ANCHORS)} lightness={LIGHTNESS_WEIGHT} chroma={CHROMA_WEIGHT} "
        f"width={BANDWIDTH} generic={GENERIC_COSINE}"
    )
    dim = len(ANCHORS) + 1
    negatives = GENERIC_WORDS

    def embed_regions(
        self, image: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], count: int
    ) -> npt.NDArray[np.float32]:
        """Soft colour histograms of the regions; see `Encoder.embed_regions`."""
        from skimage.color import rgb2lab

        rows = np.full((count, self.dim), np.nan, dtype=np.float32)
        if count == 0:
            return rows
        lab = rgb2lab(image).reshape(-1, 3).astype(np.float32)
        ids = _without_rims(labels, count).ravel()
        inside = np.flatnonzero(ids >= 0)
        membership = _membership(lab[inside])
        totals = np.stack(
            [np.bincount(ids[inside], weights=column, minlength=count) for column in membership.T], axis=1
        )
        seen = np.bincount(ids[inside], minlength=count) > 0
        rows[seen] = _lift(_unit(totals[seen]))
        return rows

    def embed_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of texts; see `Encoder.embed_text`.

        Raises:
            KeyError: a text is empty or names no colour.
        """
        return (
            np.stack([self._embed_one(text) for text in check_texts(texts)])
            if len(texts)
            else np.zeros((0, self.dim), np.float32)
        )

    def _embed_one(self, text: str) -> npt.NDArray[np.float32]:
        found = colour_names_in(text)
        if found:
            vector = sum(_membership(_lab_of(name)[None])[0] / len(found) for name in found)
            return np.append(_unit(np.asarray(vector)[None])[0], 0.0).astype(np.float32)
        if text.lower() in GENERIC_WORDS:
            return np.append(np.zeros(self.dim - 1), 1.0).astype(np.float32)
        raise KeyError(_refusal(text))


def colour_names_in(text: str) -> list[str]:
    """Colour names in a text, longest first: "light blue box" has "light blue", and not "blue"."""
    words = re.findall(r"[a-z]+", text.lower().replace("gray", "grey"))
    table, found, position = colour_table(), [], 0
    while position < len(words):
        for length in range(min(4, len(words) - position), 0, -1):
            name = " ".join(words[position : position + length])
            if name in table:
                found.append(name)
                position += length
                break
        else:
            position += 1
    return found


@lru_cache(maxsize=1)
def colour_table() -> dict[str, str]:
    """Hexadecimal colours by name: the XKCD survey's, then CSS's for names that it lacks."""
    from matplotlib.colors import CSS4_COLORS, XKCD_COLORS

    table = {name.lower(): value for name, value in CSS4_COLORS.items()}
    table |= {name.removeprefix("xkcd:"): value for name, value in XKCD_COLORS.items()}
    return {name.replace("gray", "grey"): value for name, value in table.items()}


def _refusal(text: str) -> str:
    words = re.findall(r"[a-z]+", text.lower())
    near = [hit for word in words for hit in difflib.get_close_matches(word, colour_table(), n=2, cutoff=0.75)]
    hint = f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    return f"{text!r} names no colour, and colour-words knows colours and nothing else{hint} Use open_clip for things."


@lru_cache(maxsize=1024)
def _lab_of(name: str) -> np.ndarray:
    from skimage.color import rgb2lab

    value = colour_table()[name].lstrip("#")
    rgb = np.array([int(value[i : i + 2], 16) for i in (0, 2, 4)], dtype=np.uint8)
    return rgb2lab(rgb[None, None])[0, 0].astype(np.float32)


@lru_cache(maxsize=1)
def _anchor_labs() -> np.ndarray:
    return np.stack([_lab_of(name) for name in ANCHORS])


def _membership(lab: np.ndarray) -> np.ndarray:
    """Share of each anchor in colours [P, 3]: float32 [P, A], rows sum to 1."""
    pixels, anchors = _shading_free(lab), _shading_free(_anchor_labs())
    squared = (pixels**2).sum(1)[:, None] + (anchors**2).sum(1)[None] - 2 * pixels @ anchors.T
    # Subtracting the nearest anchor's distance keeps colours that are far from every anchor from vanishing.
    nearness = np.exp(-(squared - squared.min(1, keepdims=True)) / (2 * BANDWIDTH**2))
    return nearness / nearness.sum(1, keepdims=True)


def _shading_free(lab: np.ndarray) -> np.ndarray:
    """Coordinates [P, 3] of CIELAB colours [P, 3] in which a surface hardly moves when its light dims.

    All three of CIELAB's cube roots shrink by the same factor when linear light does, so a* and b* over L* + 16
    stay exactly where they are; only lightness itself moves, and it is given little weight.
    """
    lightness = lab[:, :1]
    return np.concatenate([LIGHTNESS_WEIGHT * lightness, CHROMA_WEIGHT * lab[:, 1:] / (lightness + 16.0)], axis=1)


def _lift(units: np.ndarray) -> np.ndarray:
    """Append the generic entry to unit histograms [n, A] and normalise again.

    A colour text with cosine s to the histogram scores s, the generic text scores g, both over the same norm: the
    colour wins exactly when s > g, so g is the cosine that is asked for.
    """
    lifted = np.concatenate([units, np.full((len(units), 1), GENERIC_COSINE)], axis=1)
    return _unit(lifted).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _without_rims(labels: np.ndarray, count: int) -> np.ndarray:
    """Labels with -1 along region borders, for regions that are large enough to do without them."""
    from scipy.ndimage import maximum_filter, minimum_filter

    inner = np.where(maximum_filter(labels, 3) == minimum_filter(labels, 3), labels, -1)
    kept = np.bincount(inner[inner >= 0], minlength=count) >= MIXED_EDGE_PIXELS
    large = np.append(kept, False)[labels]  # Label -1 reads the appended entry.
    return np.where(large, inner, labels)
