"""LERF's answers to text: rays find their scale, then every pixel is compared with the prompt at it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from lang_splat_ns.errors import NotSplatError, UserError
from lang_splat_ns.language.field import Query, RelevancyMaps, Selection
from lang_splat_ns.language.relevancy import choose_level
from lang_splat_ns.perception.encoders import Encoder
from lerf_ns.field import blend, chunks
from lerf_ns.language_part import LEVELS, PromptVectors
from lerf_ns.nerfacto import RaySurface
from lerf_ns.scales import best_scales, relevancy_per_prompt

if TYPE_CHECKING:
    from lerf_ns.model import LerfModel


class RayPlaces:
    """One view's language: where its rays end, at which scales prompts are answered, and what they show.

    Args:
        model: whose rays they are.
        query: prompts, or None to show features alone.
    """

    def __init__(self, model: LerfModel, query: Query | None) -> None:
        self._model, self._query = model, query
        self._prompts = PromptVectors(model.texts(), query, model.device) if query is not None else None
        self.scales: tuple[float, ...] = ()

    def search(self, rays: Iterable[RayBundle]) -> None:
        """Find each prompt's scale on some of the view's rays."""
        config = self._model.config
        seen = [self._heaviest(self._model.trace(part)) for part in rays]

        def relevancy_at(scale: float) -> Tensor:
            return torch.cat([self._compare(features, weights, scale) for features, weights in seen], dim=-1)

        self.scales = best_scales(relevancy_at, config.candidate_scales())

    def read(self, surface: RaySurface, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`features_pca` [R, 3], and with prompts `relevancy` [R, Q], of a chunk of rays that are rendered."""
        made = {"features_pca": self._colours(surface, outputs)}
        if self._prompts is not None:
            features, weights = self._heaviest(surface)
            answer = relevancy_per_prompt(lambda scale: self._compare(features, weights, scale), self.scales)
            made["relevancy"] = answer.T
        return made

    def maps(self, relevancy: Tensor) -> RelevancyMaps:
        """The answer, given relevancy of the whole view [H, W, Q]."""
        assert self._query is not None, "an answer has a question"
        values = relevancy.permute(2, 0, 1)[:, None]
        return RelevancyMaps(values, choose_level(values, self._query.level, LEVELS), LEVELS, self.scales)

    def _heaviest(self, surface: RaySurface) -> tuple[Tensor, Tensor]:
        """What the grids hold at the places that count [R, K, G], and their weights [R, K]."""
        positions, _, weights = surface.heaviest(self._model.config.num_lerf_samples)
        features = self._model.require_language().field.read(positions.flatten(0, 1))
        return features.unflatten(0, weights.shape), weights

    def _compare(self, features: Tensor, weights: Tensor, scale: float) -> Tensor:
        """Relevancy of rays at one scale: [Q, R]. In parts, since whole vectors of every place take much memory."""
        assert self._prompts is not None, "there is something to compare with"
        field = self._model.require_language().field
        found = []
        for part in chunks(len(features), self._model.config.language_chunk // features.shape[1]):
            flat = features[part].flatten(0, 1)
            clip = field.clip(flat, flat.new_full((len(flat), 1), scale)).unflatten(0, weights[part].shape)
            found.append(self._prompts.compare(F.normalize(blend(weights[part], clip), dim=-1)))
        return torch.cat(found, dim=-1)

    def _colours(self, surface: RaySurface, outputs: dict[str, Tensor]) -> Tensor:
        """Colours of the field at one place per ray, the heaviest, in front of black."""
        part, scale = self._model.require_language(), self._model.config.features_scale
        positions, _, _ = surface.heaviest(1)
        made = []
        for piece in chunks(len(positions), self._model.config.language_chunk):
            features = part.field.read(positions[piece, 0])
            made.append(part.colours(part.field.clip(features, features.new_full((len(features), 1), scale))))
        return torch.cat(made) * outputs["accumulation"]


class RayField:
    """The `LanguageField` of a trained LERF on nerfacto.

    Args:
        model: the model.
    """

    levels = LEVELS

    def __init__(self, model: LerfModel) -> None:
        self._model = model

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the pyramids and embeds the prompts."""
        return self._model.texts().encoder

    def relevancy(self, camera: Any, query: Query) -> RelevancyMaps:
        """Relevancy maps of one view: a search of each prompt's scale on some rays, then one render.

        Raises:
            UserError: there is no level of the query's name.
        """
        if query.level not in ("auto", *LEVELS):
            raise UserError(f"There is no level {query.level!r}: LERF has {LEVELS[0]}, or take 'auto'.")
        _, maps = self._model.answer_camera(camera, query)
        assert maps is not None, "a query has an answer"
        return maps

    @torch.no_grad()
    def embeddings(self, camera: Any) -> Tensor:
        """What a small view shows at the scale that colours are shown at; see `field.ReadsFeatures`."""
        part, scale = self._model.require_language().field, self._model.config.features_scale
        total = torch.zeros(1, part.shape.clip_dim, device=self._model.device)
        for surface in self._model.surfaces(camera):
            positions, _, weights = surface.heaviest(self._model.config.num_lerf_samples)
            features = part.read(positions.flatten(0, 1))
            clip = part.clip(features, features.new_full((len(features), 1), scale)).unflatten(0, weights.shape)
            total += blend(weights, clip).sum(0)
        return F.normalize(total, dim=-1)

    def average(self, level: int) -> Tensor:
        """The mean vector of the photos' tiles, which the scene was trained towards; see `field.ReadsFeatures`."""
        del level
        return F.normalize(self._model.require_language().axes[0], dim=-1)

    def select(self, query: Query) -> Selection:
        """Nothing can be selected.

        Raises:
            NotSplatError: always.
        """
        raise NotSplatError("LERF on nerfacto has no Gaussians to select; train lerf-splat for that.")

    def silhouettes(self, camera: Any, masks: Tensor) -> Tensor:
        """Nothing can be drawn alone.

        Raises:
            NotSplatError: always.
        """
        raise NotSplatError("LERF on nerfacto has no Gaussians to draw alone; train lerf-splat for that.")
