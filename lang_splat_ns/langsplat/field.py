"""LangSplat's answers to text: decode what the rasterizer blended, compare it with the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lang_splat_ns.language.field import Query, RelevancyMaps, Selection
from lang_splat_ns.language.relevancy import choose_level, relevancy, resolve_threshold
from lang_splat_ns.language.text import TextCache
from lang_splat_ns.perception.encoders import Encoder

if TYPE_CHECKING:
    from lang_splat_ns.langsplat.model import LangSplatModel


class LangSplatField:
    """The `LanguageField` of a trained LangSplat model."""

    def __init__(self, model: LangSplatModel) -> None:
        self._model = model

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the features and embeds the prompts."""
        return self._texts().encoder

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels, coarse to fine."""
        return self._model.require_language().levels

    def relevancy(self, camera: Any, query: Query) -> RelevancyMaps:
        """Relevancy maps of one nerfstudio camera; see `LanguageField.relevancy`."""
        return self.relevancy_of(self._model.render_codes(camera), query)

    def relevancy_of(self, codes: Tensor, query: Query) -> RelevancyMaps:
        """Relevancy of blended codes [H, W, L, C]; where nothing was hit it is 0."""
        height, width = codes.shape[:2]
        values = self._compare(codes.reshape(-1, *codes.shape[2:]), query)
        return self._maps(values.reshape(*values.shape[:2], height, width), query)

    def select(self, query: Query) -> Selection:
        """Gaussians whose own code answers the query at the level that suits it best."""
        scores = self._compare(self._model.unit_codes(), query)  # [Q, L, N]
        chosen = self._choose(scores[..., None], query)
        best = torch.stack([scores[prompt, level] for prompt, level in enumerate(chosen)])
        limits = [resolve_threshold(float(row.max()) if row.numel() else 0.0, query.threshold) for row in best]
        return Selection(best, torch.stack([row > limit for row, limit in zip(best, limits, strict=True)]), chosen)

    def _texts(self) -> TextCache:
        self._model.require_language()
        return self._model.texts()

    def _compare(self, codes: Tensor, query: Query) -> Tensor:
        """Relevancy [Q, L, M] of codes [M, L, C]."""
        texts, decoder = self._texts(), self._model.require_language().autoencoder
        positives = texts.embed(query.positives, codes.device)
        negatives = texts.embed(query.negatives or texts.encoder.negatives, codes.device)
        levels = []
        for level in range(codes.shape[1]):
            chunks = decoder.decode_in_chunks(codes[:, level])
            scores = torch.cat([relevancy(chunk, positives, negatives, texts.temperature) for chunk in chunks], dim=-1)
            # A code of length zero means that no Gaussian with language was hit there.
            levels.append(scores * (codes[:, level].square().sum(-1) > 1e-8))
        return torch.stack(levels, dim=1)

    def _maps(self, values: Tensor, query: Query) -> RelevancyMaps:
        return RelevancyMaps(values, self._choose(values, query), self.levels)

    def _choose(self, values: Tensor, query: Query) -> tuple[int, ...]:
        if query.level == "auto":
            return choose_level(values)
        if query.level not in self.levels:
            from lang_splat_ns.errors import UserError

            raise UserError(f"No level {query.level!r}; this scene has auto, {', '.join(self.levels)}.")
        return (self.levels.index(query.level),) * len(query.positives)
