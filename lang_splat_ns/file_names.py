"""File names made from what people type."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

MAX_BYTES = 100
"""A file name has at most 255 bytes in UTF-8; this leaves room for numbers and endings."""

# Windows reserves these, with any ending.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}


def safe_name(text: str, fallback: str = "object") -> str:
    """A name that every file system takes: letters of any script, digits and symbols like emoji stay.

    Whitespace, slashes, control characters and what Windows forbids become a single "-"; dots and dashes at the ends
    go, and what is too long is cut between characters.

    Args:
        text: anything.
        fallback: the name if nothing is left of it.
    """
    kept = "".join(_safe(character) for character in unicodedata.normalize("NFC", text))
    name = "-".join(part for part in kept.split("-") if part).strip(".-_ ")
    name = name.encode()[:MAX_BYTES].decode(errors="ignore").strip(".-_ ")
    if name.split(".")[0].lower() in _RESERVED:
        name = f"{name}-"
    return name or fallback


def _safe(character: str) -> str:
    # C: control characters, half surrogates, private use; Z: blanks. Both also in what looks like nothing at all.
    forbidden = unicodedata.category(character)[0] in "CZ" or character in '/\\:*?"<>|;%'
    return "-" if forbidden else character


def distinct_names(texts: Iterable[str]) -> list[str]:
    """A safe name per text, numbered from the second on where names collide, also on disks that ignore case."""
    taken: set[str] = set()
    names = []
    for text in texts:
        base = name = safe_name(text)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names
