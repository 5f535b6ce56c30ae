"""The encoder protocol, and encoders by name. Importing this module loads no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.registry import Registry, call_with_known_arguments

DEFAULT_ENCODER = "open_clip"

ENCODERS = Registry(
    kind="encoder",
    group="lang_splat_ns.encoders",
    variable="LANG_SPLAT_ENCODERS",
    builtin={
        "open_clip": "lang_splat_ns.perception.open_clip_encoder:OpenClipEncoder",
        "colour-words": "lang_splat_ns.perception.colour_words:ColourWordsEncoder",
    },
)


@runtime_checkable
class Encoder(Protocol):
    """Image regions and texts as unit vectors of one space. Plain numpy at the border, so that anyone can write one."""

    @property
    def encoder_id(self) -> str:
        """Names model, weights digest and space; part of the cache key."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def negatives(self) -> tuple[str, ...]:
        """Canonical phrases that a prompt must beat (LERF, section 3.3), in the encoder's own language."""
        ...

    def embed_regions(
        self, image: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], count: int
    ) -> npt.NDArray[np.float32]:
        """Embed the regions of one label map.

        Args:
            image: RGB, uint8 [H, W, 3].
            labels: region id per pixel, int32 [H, W]; -1 = no region.
            count: number of regions; ids are 0..count-1.

        Returns:
            float32 [count, dim] with unit rows. A region without evidence gets a row of NaN.
        """
        ...

    def embed_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts: float32 [Q, dim] with unit rows.

        Raises:
            KeyError: a text that the encoder cannot represent; the message is for the user.
        """
        ...


def make_encoder(name: str = DEFAULT_ENCODER, *, device: str = "cpu", weights: Path | None = None) -> Encoder:
    """Build the encoder that `name` stands for.

    Args:
        name: a built-in name, a plug-in's name, or `open_clip:MODEL/TAG`.
        device: torch device of the network, where the encoder has one.
        weights: weights file to take instead of the published one.

    Raises:
        UserError: unknown name (the message lists the known ones), or weights that cannot be had.
    """
    base, _, variant = name.partition(":")
    if base == "open_clip" and variant:
        offers = {"device": str(device), "weights": weights, "variant": variant}
    else:
        base, offers = name, {"device": str(device), "weights": weights}
    encoder = call_with_known_arguments(ENCODERS.load(base), offers)
    missing = [
        part for part in ("encoder_id", "dim", "negatives", "embed_regions", "embed_text") if not hasattr(encoder, part)
    ]
    if missing:
        raise UserError(f"encoder {name!r} lacks {', '.join(missing)}; see lang_splat_ns.perception.encoders.Encoder")
    return encoder


def check_texts(texts: Sequence[str]) -> list[str]:
    """Stripped prompts; the common refusal of empty ones.

    Raises:
        KeyError: a prompt is empty or only white space.
    """
    stripped = [text.strip() for text in texts]
    if not all(stripped):
        raise KeyError("the prompt is empty: type what to look for")
    return stripped
