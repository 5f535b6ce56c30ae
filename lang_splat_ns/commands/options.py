"""Reading of options that several commands share."""

from __future__ import annotations

from typing import Literal

from lang_splat_ns.errors import UserError


def parse_threshold(text: str) -> float | Literal["auto"]:
    """ "auto" or a number in 0..1.

    Raises:
        UserError: anything else.
    """
    if text == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise UserError(f"--threshold {text!r}: give auto or a number from 0 to 1.")
    return value
