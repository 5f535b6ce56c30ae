"""The prompts that a model's renders answer, and what they add to nerfstudio's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from nerfstudio.utils.colormaps import apply_float_colormap
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query, RelevancyMaps
from lang_splat_ns.language.relevancy import relevancy
from lang_splat_ns.language.text import TextCache, parse_prompts, refused_texts
from lang_splat_ns.perception.encoders import Encoder, make_encoder


class TextSide:
    """A field's encoder, built when the first text comes and checked against the one that made the features.

    Args:
        name: the encoder's name, as in the data manager's configuration.
        device: where its network runs.
        options: the encoder's other choices, see `make_encoder`.
    """

    def __init__(self, name: str, device: str, **options: str | None) -> None:
        self._name = name
        self._device = device
        self._options: dict[str, Any] = options
        self._cache: TextCache | None = None

    def cache(self, expected_id: str | None = None) -> TextCache:
        """Texts and their embeddings.

        Raises:
            UserError: the encoder cannot be built, or is not the one with the id that the features were made with.
        """
        if self._cache is None:
            self._cache = TextCache(make_encoder(self._name, device=self._device, **self._options))
        found = self._cache.encoder.encoder_id
        if expected_id is not None and found != expected_id:
            raise UserError(
                f"This scene's features were made by {expected_id}, but {self._name!r} is now {found}; "
                "make that encoder available again, or train the language part anew."
            )
        return self._cache

    @property
    def encoder(self) -> Encoder:
        """The encoder itself."""
        return self.cache().encoder


class Prompts:
    """The active query, set by the configuration, the viewer's text boxes, or a command.

    Args:
        texts: gives the text side; raises `UserError` where the encoder cannot be had or is not the scene's.
        queries: prompts to begin with.
    """

    def __init__(self, texts: Callable[[], TextCache], queries: tuple[str, ...]) -> None:
        self._texts = texts
        self._silent = False
        self.query = Query(positives=queries) if queries else None

    def active(self) -> Query | None:
        """The query that renders answer now."""
        return None if self._silent else self.query

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Answer no prompt for a while, for example while image quality is timed."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before

    def submit(self, positives: str, negatives: str, most: int | None = None) -> str:
        """Take over text as a person types it; returns what is wrong with it and never raises for half-typed text.

        While nothing in a text can be understood the last query stays, so that the picture does not jump with every
        key; no text at all ends it.

        Args:
            positives: prompts, separated by ';'.
            negatives: phrases that they must beat, separated likewise.
            most: how many prompts to take over; None is all.
        """
        if not positives.strip():
            self.query = None
            return ""
        try:
            prompts = parse_prompts(positives)
            against = parse_prompts(negatives) if negatives.strip() else ()
            refused = self.ask(Query(prompts[:most], against))
        except UserError as error:
            return str(error)
        if most is None or len(prompts) <= most:
            return refused
        left = f"Only the first {most} of {len(prompts)} prompts are shown here; lang-splat query takes them all."
        return "\n".join(filter(None, (refused, left)))

    def ask(self, query: Query) -> str:
        """Take over what the encoder can represent of a query, if that is anything; returns what it cannot, by lines.

        Raises:
            UserError: there is no encoder to ask, or it does not keep its promises.
        """
        texts = self._texts()
        refused = _refused(texts, (*query.positives, *query.negatives))
        positives, negatives = (
            tuple(text for text in asked if text not in refused) for asked in (query.positives, query.negatives)
        )
        if positives:
            # A rehearsal of what renders do: texts are remembered, and what is wrong shows here, not in the viewer's
            # render thread, which would end.
            rows = texts.embed(positives)
            relevancy(rows, rows, texts.negatives(negatives), texts.temperature)
            self.query = replace(query, positives=positives, negatives=negatives)
        return "\n".join(refused.values())

    def recheck(self) -> str:
        """Ask the present query anew, and end it where it cannot be answered; returns why."""
        if self.query is None:
            return ""
        query, self.query = self.query, None
        try:
            return self.ask(query)
        except UserError as error:
            return str(error)


def _refused(texts: TextCache, asked: tuple[str, ...]) -> dict[str, str]:
    try:
        texts.embed(asked)
    except KeyError:
        return refused_texts(texts.encoder, asked)
    return {}


def prompt_outputs(maps: RelevancyMaps, rgb: Tensor) -> dict[str, Tensor]:
    """What a query adds to a render: per prompt `relevancy_<i>` [H, W, 1] and `composited_<i>` [H, W, 3].

    Args:
        maps: the answer; each prompt's chosen level is shown.
        rgb: the render [H, W, 3] in 0..1.
    """
    outputs: dict[str, Tensor] = {}
    for index, best in enumerate(maps.best()):
        outputs[f"relevancy_{index}"] = best[..., None]
        outputs[f"composited_{index}"] = composite(rgb, best)
    return outputs


def composite(rgb: Tensor, best: Tensor) -> Tensor:
    """A render [H, W, 3] with turbo colours where relevancy [H, W] is above 0.5, stronger where it is higher."""
    strength = ((best - 0.5) * 2).clamp(0, 1)[..., None]
    colors = apply_float_colormap(strength, "turbo")
    return torch.lerp(rgb, colors, 0.35 + 0.45 * strength).where(strength > 0, rgb * 0.6)
