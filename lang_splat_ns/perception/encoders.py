"""The encoder protocol, and encoders by name. Importing this module loads no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.registry import Registry, call_with_known_arguments, takes

DEFAULT_ENCODER = "open_clip"

LERF_NEGATIVES = ("object", "things", "stuff", "texture")
CHINESE_NEGATIVES = ("物体", "东西", "材料", "纹理")
"""LERF's canonical phrases in Chinese, for text towers that read nothing else."""

ENCODERS = Registry(
    kind="encoder",
    group="lang_splat_ns.encoders",
    variable="LANG_SPLAT_ENCODERS",
    builtin={
        "open_clip": "lang_splat_ns.perception.open_clip_encoder:OpenClipEncoder",
        "multilingual-clip": "lang_splat_ns.perception.open_clip_encoder:MultilingualClipEncoder",
        "clip": "lang_splat_ns.perception.hub_clip_encoders:HubClipEncoder",
        "chinese-clip": "lang_splat_ns.perception.hub_clip_encoders:ChineseClipEncoder",
        "siglip2": "lang_splat_ns.perception.hub_clip_encoders:Siglip2Encoder",
        "metaclip2": "lang_splat_ns.perception.hub_clip_encoders:MetaClip2Encoder",
        "dense": "lang_splat_ns.perception.dense_encoder:DenseEncoder",
        "colour-words": "lang_splat_ns.perception.colour_words:ColourWordsEncoder",
    },
)


@runtime_checkable
class Encoder(Protocol):
    """Image regions and texts as unit vectors of one space. Plain numpy at the border, so that anyone can write one.

    Three more parts are looked for and may be missing: `temperature` (LERF's factor on the cosines, see
    `language.text.TextCache.temperature`), `embed_many` and `photos_at_once` (see the functions of these names).
    """

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


@dataclass(frozen=True)
class RegionTask:
    """One label map to embed: the arguments of `Encoder.embed_regions`."""

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    count: int


def embed_many(encoder: Encoder, tasks: Sequence[RegionTask]) -> list[npt.NDArray[np.float32]]:
    """Embed several label maps, of one photo or of several; one array [count, dim] per task.

    An encoder may have a method `embed_many(tasks)` of its own, which fills its batches across them.
    """
    together = getattr(encoder, "embed_many", None)
    if together is not None:
        return list(together(tasks))
    return [encoder.embed_regions(task.image, task.labels, task.count) for task in tasks]


def photos_at_once(encoder: Encoder) -> int:
    """How many photos `embed_many` should get together: the encoder's own `photos_at_once`, or 1."""
    return max(1, int(getattr(encoder, "photos_at_once", 1)))


def make_encoder(
    name: str = DEFAULT_ENCODER,
    *,
    device: str = "cpu",
    weights: Path | None = None,
    crops: str | None = None,
    templates: str | None = None,
) -> Encoder:
    """Build the encoder that `name` stands for.

    Args:
        name: a built-in name, a plug-in's name, or `NAME:VARIANT` where the encoder has variants, for example
            `open_clip:MODEL/TAG`, `chinese-clip:REPOSITORY` or `dense:chinese-clip`.
        device: torch device of the network, where the encoder has one.
        weights: weights to take instead of the published ones: open_clip's file, or a folder for the others.
        crops: how regions are cut out, see `CropPlan.parse`; None is the encoder's own way.
        templates: "phrase" or "ensemble", see `prompt_templates`; None is "phrase".

    Raises:
        UserError: unknown name (the message lists the known ones), weights that cannot be had, or a choice that the
            encoder does not have.
    """
    base, _, variant = (name, "", "") if name in ENCODERS.names() else name.partition(":")
    factory = ENCODERS.load(base)
    choices = {"variant": variant or None, "crops": crops, "templates": templates}
    for choice, value in choices.items():
        if value is not None and not takes(factory, choice):
            raise UserError(f"the encoder {base} has no choice of {choice}, so {value!r} cannot be met; leave it out")
    encoder = call_with_known_arguments(factory, {"device": str(device), "weights": weights, **choices})
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
