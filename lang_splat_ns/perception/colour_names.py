"""Colour names in texts, what they look like, and the few families that people sort them into.

The names are those of the XKCD colour survey (949 names by 220 000 people, CC0), as matplotlib carries them.
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FAMILIES: dict[str, str] = {
    "red": "red crimson scarlet",
    "maroon": "maroon burgundy",
    "orange": "orange",
    "brown": "brown",
    "beige": "beige tan taupe khaki",
    "yellow": "yellow gold",
    "olive": "olive ochre",
    "lime green": "chartreuse",
    "green": "green",
    "teal": "teal",
    "turquoise": "turquoise aqua cyan aquamarine",
    "light blue": "azure",
    "blue": "blue",
    "navy": "navy",
    "purple": "purple violet indigo",
    "lavender": "lavender lilac mauve periwinkle",
    "magenta": "magenta fuchsia",
    "pink": "pink",
    "white": "white",
    "grey": "grey silver",
    "black": "black",
}
"""Family -> last words of its names. Names that people use for something else than the family's middle stand below."""

_EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "maroon": ("dark red", "deep red"),
    "lime green": (
        *("lime green", "bright lime green", "light lime green", "yellow green", "yellowish green", "apple green"),
        *("bright yellow green", "light yellow green", "neon yellow"),
    ),
    "olive": ("olive green", "dark olive", "mustard yellow", "dark yellow", "brownish yellow", "greenish brown"),
    "turquoise": ("light teal",),
    "light blue": (
        *("light blue", "sky blue", "pale blue", "baby blue", "powder blue", "light sky blue", "bright light blue"),
        *("pale sky blue", "very light blue", "carolina blue", "robin egg blue", "soft blue"),
    ),
    "navy": ("navy blue", "dark navy blue", "dark blue", "very dark blue", "midnight blue", "night blue"),
    "magenta": ("hot pink", "neon pink", "electric pink", "shocking pink"),
}

_NEUTRALS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((0, 0, 0), (15, 15, 15), (30, 30, 30), (40, 40, 42), (20, 20, 30), (35, 25, 20)),
    "grey": tuple((level, level, level) for level in range(70, 200, 20)),
    "white": (*((level, level, level) for level in (225, 235, 245, 255)), (240, 235, 225), (230, 235, 245)),
}
"""Looks that the survey has few names for, since nobody finds a new word for one more grey."""

HUE_WORDS = frozenset(word for words in FAMILIES.values() for word in words.split())
"""Words that stand for a colour and hardly for anything else. The survey also has apple, coffee, mushroom and brick:
in a prompt those are things, so a name counts only if its last word is one of these."""

_LONGEST_NAME = 4


def names_in(text: str) -> list[str]:
    """Colour names in a text, the longest first: "light blue box" has "light blue", and not "blue"."""
    words = _words(text)
    table, found, position = colour_table(), [], 0
    while position < len(words):
        for length in range(min(_LONGEST_NAME, len(words) - position), 0, -1):
            name = " ".join(words[position : position + length])
            if name in table:
                found.append(name)
                position += length
                break
        else:
            position += 1
    return found


def near_names(text: str) -> list[str]:
    """Colour names that are spelled like a word of the text, at most four."""
    near = [name for word in _words(text) for name in difflib.get_close_matches(word, colour_table(), n=2, cutoff=0.75)]
    return list(dict.fromkeys(near))[:4]


@lru_cache(maxsize=1)
def colour_table() -> dict[str, tuple[int, int, int]]:
    """sRGB, 0..255, by name: the XKCD survey's names, and CSS's (`skyblue`) where the survey has none."""
    from matplotlib.colors import CSS4_COLORS, XKCD_COLORS

    named = {name.removeprefix("xkcd:"): str(value) for name, value in XKCD_COLORS.items()}
    named = {**{name: str(value) for name, value in CSS4_COLORS.items()}, **named}
    table = {name.lower().replace("gray", "grey"): value for name, value in named.items()}
    return {name: _rgb(value) for name, value in table.items() if _is_colour(name)}


@lru_cache(maxsize=1)
def examples() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Colours that people sorted: sRGB in 0..1, float [P, 3], and each one's family, an index into `FAMILIES`, [P]."""
    by_word = {word: family for family, words in FAMILIES.items() for word in words.split()}
    by_name = {name: family for family, names in _EXCEPTIONS.items() for name in names}
    table = colour_table()
    pairs = [
        (colour, by_name.get(name) or by_word[name.split(" ")[-1]])
        for name, colour in table.items()
        # CSS's run-together names repeat the survey's colours.
        if name.split(" ")[-1] in HUE_WORDS
    ]
    pairs += [(colour, family) for family, colours in _NEUTRALS.items() for colour in colours]
    index = {family: position for position, family in enumerate(FAMILIES)}
    return np.array([colour for colour, _ in pairs]) / 255.0, np.array([index[family] for _, family in pairs])


def shades_of(name: str, shades: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """A named colour in weaker and weaker light: sRGB in 0..1, float [len(shades), 3]; a shade of 1 is full light."""
    linear = (np.array(colour_table()[name]) / 255.0) ** 2.2
    return (np.array(shades)[:, None] * linear) ** (1 / 2.2)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower().replace("gray", "grey"))


def _is_colour(name: str) -> bool:
    # The survey's "blue/green" and its like cannot come up in a text, whose words are split there.
    if "/" in name:
        return False
    last = name.split(" ")[-1]
    # CSS runs its words together: lightblue, mediumpurple.
    return last in HUE_WORDS or (" " not in name and any(len(word) > 3 and last.endswith(word) for word in HUE_WORDS))


def _rgb(value: str) -> tuple[int, int, int]:
    digits = value.lstrip("#")
    return int(digits[0:2], 16), int(digits[2:4], 16), int(digits[4:6], 16)
