"""lerf-splat's answers to text: every Gaussian is asked at the prompt's scale, and what it says is splatted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lang_splat_ns.language.codebook import Codebook
from lang_splat_ns.language.compression import compress
from lang_splat_ns.language.field import Query, QueryMode, RelevancyMaps
from lang_splat_ns.language.relevancy import choose_level
from lang_splat_ns.language.splat_field import SplatField
from lerf_ns.field import chunks
from lerf_ns.language_part import LEVELS, PromptVectors
from lerf_ns.scales import best_scales, relevancy_per_prompt

if TYPE_CHECKING:
    from lerf_ns.splat_model import LerfSplatModel

_SOLID = 0.5


@dataclass(frozen=True)
class _Answer:
    """What is remembered of the last query, which the viewer asks again with every camera."""

    query: Query
    scales: tuple[float, ...]
    scores: Tensor  # [Q, N]


class LerfSplatField(SplatField):
    """The `LanguageField` of a trained lerf-splat model.

    A prompt's scale belongs to the scene and not to a view: it is looked for once, on a sample of solid Gaussians. In
    the mode `scalar` all Gaussians are asked at it once, and every view blends one number per prompt. In the mode
    `feature` every view blends the vectors of that scale and compares then.

    Args:
        model: whose Gaussians they are.
        mode: how prompts are answered.
    """

    _model: LerfSplatModel

    def __init__(self, model: LerfSplatModel, mode: QueryMode) -> None:
        super().__init__(model)
        self._mode = mode
        self._last: _Answer | None = None
        self._colors: Tensor | None = None

    @property
    def levels(self) -> tuple[str, ...]:
        """The one level; the scale is chosen per prompt."""
        return LEVELS

    def channels(self, query: Query | None) -> Tensor:
        """Colours, and in the mode `scalar` the prompts' scores: [N, 3 + Q]."""
        if query is None or self._mode == "feature":
            return self._gaussian_colors()
        return torch.cat([self._gaussian_colors(), self._ask(query).scores.T], dim=1)

    @torch.no_grad()
    def answer(self, camera: Any, blended: Tensor, query: Query) -> RelevancyMaps:
        """Relevancy of what was blended [H, W, 3 + Q]; the mode `feature` blends its vectors for it."""
        if self._mode == "feature":
            prompts, scales = self._prompts(query), self._search(query)
            values = relevancy_per_prompt(lambda scale: self._by_features(camera, prompts, scale), scales)
            values = values.unflatten(-1, blended.shape[:2])
        else:
            values, scales = blended[..., 3:].permute(2, 0, 1), self._ask(query).scales
        values = values[:, None]
        return RelevancyMaps(values, choose_level(values, query.level, LEVELS), LEVELS, scales)

    def scores(self, query: Query) -> Tensor:
        """Relevancy of every Gaussian by itself, at each prompt's scale: [Q, 1, N]."""
        return self._ask(query).scores[:, None]

    def known(self) -> Tensor:
        """All of them, since the field is everywhere: bool [1, N]."""
        return torch.ones(1, len(self._model.means), dtype=torch.bool, device=self._model.device)

    def features(self, which: Tensor, level: int) -> Tensor:
        """Vectors of some Gaussians [M] at the scale that colours are shown at: [M, D]."""
        part, scale = self._model.require_language().field, self._model.config.features_scale
        with torch.no_grad():
            read = part.read(self._model.means[which.to(self._model.means.device)])
        return F.normalize(self._clip(read, scale), dim=-1)

    def codebooks(self) -> tuple[Codebook, ...]:
        """The vectors at that scale, compressed."""
        return (compress(_AtOneScale(self)),)

    def colors(self, blended: Tensor) -> Tensor:
        """The field at one scale as colours: [H, W, 3]."""
        return blended[..., :3]

    def _gaussian_colors(self) -> Tensor:
        # Not a cached property, whose lock would stay taken when a render is interrupted at its last line.
        if self._colors is None:
            part, scale = self._model.require_language(), self._model.config.features_scale
            parts = [part.colours(self._clip(read, scale)) for read in self._read(self._model.means)]
            self._colors = torch.cat(parts)
        return self._colors

    def _ask(self, query: Query) -> _Answer:
        last = self._last
        if last is None or last.query != query:
            prompts, scales = self._prompts(query), self._search(query)
            # What the grids hold is read once, however many scales the prompts have.
            parts = [
                relevancy_per_prompt(lambda scale, read=read: prompts.compare(self._clip(read, scale)), scales)
                for read in self._read(self._model.means)
            ]
            # One assignment, since a render may be interrupted at any line.
            self._last = last = _Answer(query, scales, torch.cat(parts, dim=-1))
        return last

    def _search(self, query: Query) -> tuple[float, ...]:
        """Each prompt's scale."""
        if self._last is not None and self._last.query == query:
            return self._last.scales
        means, config, prompts = self._model.means, self._model.config, self._prompts(query)
        solid = means[torch.sigmoid(self._model.opacities[:, 0]) > _SOLID]
        some = solid if len(solid) else means
        reads = list(self._read(some[:: max(1, len(some) // config.search_gaussians)]))

        def relevancy_at(scale: float) -> Tensor:
            return torch.cat([prompts.compare(self._clip(read, scale)) for read in reads], dim=-1)

        return best_scales(relevancy_at, config.candidate_scales())

    def _prompts(self, query: Query) -> PromptVectors:
        return PromptVectors(self._model.texts(), query, self._model.device)

    def _read(self, means: Tensor) -> Iterator[Tensor]:
        """What the grids hold at places [M, 3], in parts that fit into memory."""
        part = self._model.require_language().field
        for piece in chunks(len(means), self._model.config.language_chunk):
            with torch.no_grad():
                features = part.read(means[piece])
            yield features

    @torch.no_grad()
    def _clip(self, features: Tensor, scale: float) -> Tensor:
        """Vectors of what the grids hold, at one scale."""
        return self._model.require_language().field.clip(features, features.new_full((len(features), 1), scale))

    def _by_features(self, camera: Any, prompts: PromptVectors, scale: float) -> Tensor:
        """Relevancy of composited vectors at one scale: [Q, H * W]."""
        blended, _ = self._model.blend(
            camera, torch.cat([self._clip(read, scale) for read in self._read(self._model.means)])
        )
        flat = blended.flatten(0, 1)
        # A pixel that hardly anything covers has no evidence.
        unit = torch.where(flat.norm(dim=-1, keepdim=True) > 1e-4, F.normalize(flat, dim=-1), 0.0)
        return prompts.compare(unit)


class _AtOneScale:
    """What a codebook wants to know of the field; see `language.features.Features`."""

    def __init__(self, field: LerfSplatField) -> None:
        self._field = field

    def __len__(self) -> int:
        return self._field.known().shape[1]

    @property
    def dim(self) -> int:
        return self._field.encoder.dim

    def rows(self, which: slice | np.ndarray) -> Tensor:
        return self._field.features(torch.arange(len(self))[which], 0)
