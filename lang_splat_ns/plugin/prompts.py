"""The prompts that a model's renders answer, and what they add to nerfstudio's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from nerfstudio.utils.colormaps import apply_float_colormap
from nerfstudio.viewer.viewer_elements import ViewerText
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query, RelevancyMaps
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
    """The active query, set by the configuration, the viewer's text boxes, or a command."""

    def __init__(self, text_side: Callable[[], TextCache], queries: tuple[str, ...]) -> None:
        self._texts = text_side
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

    def submit(self, positives: str, negatives: str) -> str:
        """Take over text as a person types it; returns a status line and never raises for half-typed text."""
        if not positives.strip():
            self.query = None
            return ""
        try:
            asked = parse_prompts(positives)
            against = parse_prompts(negatives) if negatives.strip() else ()
            refused = refused_texts(self._texts().encoder, [*asked, *against])
        except UserError as error:
            return str(error)
        known = tuple(prompt for prompt in asked if prompt not in refused)
        self.query = Query(known, tuple(text for text in against if text not in refused)) if known else None
        return "; ".join(refused.values())


class PromptBoxes:
    """Two plain text boxes and a status line in nerfstudio's viewer."""

    def __init__(self, prompts: Prompts) -> None:
        start = "; ".join(prompts.query.positives) if prompts.query else ""
        hint = "Separate prompts with ';'; each shows as an output relevancy_<i>."
        self._prompts = prompts
        self.positives = ViewerText("Prompts", start, cb_hook=self._submit, hint=hint)
        self.negatives = ViewerText("Negatives", "", cb_hook=self._submit, hint="Empty: the encoder's own.")
        self.status = ViewerText("Status", "", disabled=True)

    def _submit(self, element: ViewerText) -> None:
        del element
        self.status.value = self._prompts.submit(self.positives.value, self.negatives.value)


def prompt_outputs(maps: RelevancyMaps, rgb: Tensor) -> dict[str, Tensor]:
    """What a query adds to a render: per prompt `relevancy_<i>` [H, W, 1] and `composited_<i>` [H, W, 3].

    Args:
        maps: the answer; each prompt's chosen level is shown.
        rgb: the render [H, W, 3] in 0..1.
    """
    outputs: dict[str, Tensor] = {}
    for index, relevancy in enumerate(maps.best()):
        outputs[f"relevancy_{index}"] = relevancy[..., None]
        outputs[f"composited_{index}"] = composite(rgb, relevancy)
    return outputs


def composite(rgb: Tensor, relevancy: Tensor) -> Tensor:
    """A render [H, W, 3] with turbo colours where relevancy [H, W] is above 0.5, stronger where it is higher."""
    strength = ((relevancy - 0.5) * 2).clamp(0, 1)[..., None]
    colors = apply_float_colormap(strength, "turbo")
    return torch.lerp(rgb, colors, 0.35 + 0.45 * strength).where(strength > 0, rgb * 0.6)


def unit_colors(codes: Tensor) -> Tensor:
    """Colours [..., 3] in 0..1 of blended codes [..., C], the same for the same code in every frame."""
    unit = torch.nn.functional.normalize(codes, dim=-1)
    padded = torch.nn.functional.pad(unit, (0, max(0, 3 - unit.shape[-1])))
    return (padded[..., :3] + 1) / 2
