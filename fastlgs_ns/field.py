"""FastLGS's answers to text: prompts are compared with the grid, and renders say where its objects are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlgs_ns.decode import nearest_objects, object_map
from lang_splat_ns.language.calibration import Calibration, calibration_of
from lang_splat_ns.language.field import Level, Query, RelevancyMaps
from lang_splat_ns.language.relevancy import choose_level, relevancy
from lang_splat_ns.language.splat_field import SplatField

if TYPE_CHECKING:
    from fastlgs_ns.model import FastLGSModel
    from lang_splat_ns.language.codebook import Codebook


class FastLGSField(SplatField):
    """The `LanguageField` of a FastLGS model.

    Codes of all levels are rendered at once; text never meets a pixel, only the grid's objects.
    """

    _model: FastLGSModel

    def __init__(self, model: FastLGSModel) -> None:
        super().__init__(model)
        grid = model.require_grid()
        self._grid = grid
        self._reach = [model.config.tolerance * grid.spacing(level) for level in range(len(self.levels))]

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels, coarse to fine."""
        return tuple(self._model.about_language()["levels"])

    def channels(self, query: Query | None) -> Tensor:
        """The codes of all levels and a one, which becomes alpha, whatever is asked: [N, L * C + 1]."""
        codes = self._model.object_codes.detach()
        return torch.cat([codes, codes.new_ones(len(codes), 1)], dim=1)

    def answer(self, camera: Any, blended: Tensor, query: Query) -> RelevancyMaps:
        """Relevancy of what was blended: [H, W, L * C + 1]."""
        of_objects, calibration = self._of_objects(query)
        alpha, maps = blended[..., -1], []
        for level, codes in enumerate(blended[..., :-1].split(self._grid.code_dim, dim=-1)):
            objects = object_map(codes, alpha, self._grid.level_codes(level), self._reach[level])
            maps.append(_spread(of_objects[level], objects))
        values = calibration.lift_floor(torch.stack(maps, dim=1))
        return RelevancyMaps(values, choose_level(values, query.level, self.levels), self.levels)

    def scores(self, query: Query) -> Tensor:
        """Relevancy of the object that each Gaussian belongs to: [Q, L, N]."""
        of_objects, calibration = self._of_objects(query)
        rows = [_spread(of_objects[level], objects) for level, objects in enumerate(self._gaussian_objects())]
        return calibration.lift_floor(torch.stack(rows, dim=1))

    def known(self) -> Tensor:
        """Gaussians whose code is near enough to an object's: bool [L, N]."""
        return torch.stack([objects >= 0 for objects in self._gaussian_objects()])

    def objects(self, level: Level) -> Tensor | None:
        """The object that each Gaussian belongs to; see `SplatField.objects`."""
        return self._gaussian_objects()[self.levels.index(level)]

    def codebooks(self) -> tuple[Codebook, ...]:
        """The objects' mean embeddings, and for each Gaussian the object that it belongs to."""
        # Imported here, since it brings scipy.
        from lang_splat_ns.language.codebook import Codebook

        books = []
        for level, objects in enumerate(self._gaussian_objects()):
            means = self._grid.level_means(level)
            rows = means if len(means) else means.new_zeros(1, means.shape[1])
            none = torch.zeros(len(objects), 0, dtype=torch.uint8, device=objects.device)
            books.append(Codebook(rows, objects.to(torch.int16)[:, None], none))
        return tuple(books)

    def features(self, which: Tensor, level: int) -> Tensor:
        """Mean embeddings of the objects of some Gaussians [M]: [M, D]."""
        objects = self._gaussian_objects()[level][which.to(self._grid.means.device)]
        # The last row is that of no object.
        return F.pad(self._grid.level_means(level), (0, 0, 0, 1))[objects]

    def colors(self, blended: Tensor) -> Tensor:
        """The coarsest level's codes as colours: [H, W, 3]."""
        codes = blended[..., : min(3, self._grid.code_dim)] / blended[..., -1:].clamp_min(1e-6)
        return (F.pad(codes, (0, 3 - codes.shape[-1])).clamp(-1.0, 1.0) + 1) / 2

    def object_maps(self, camera: Any) -> Tensor:
        """The object that each pixel of a view shows, at every level: int64 [L, H, W], -1 for none."""
        blended, _ = self._model.blend(camera, self.channels(None))
        codes = blended[..., :-1].split(self._grid.code_dim, dim=-1)
        return torch.stack(
            [
                object_map(part, blended[..., -1], self._grid.level_codes(level), self._reach[level])
                for level, part in enumerate(codes)
            ]
        )

    def _gaussian_objects(self) -> list[Tensor]:
        codes = self._model.object_codes.detach().split(self._grid.code_dim, dim=-1)
        return [
            nearest_objects(part, self._grid.level_codes(level), self._reach[level]) for level, part in enumerate(codes)
        ]

    def _of_objects(self, query: Query) -> tuple[list[Tensor], Calibration]:
        """Calibrated relevancy of each level's objects [Q, K_l], 0 for those of which nothing is known."""
        texts, device = self._model.texts(), self._grid.codes.device
        positives, negatives = texts.embed(query.positives, device), texts.negatives(query.negatives, device)
        raw = []
        for level in range(len(self.levels)):
            if self._model.config.query_views == "mean":
                raw.append(relevancy(self._grid.level_means(level), positives, negatives, texts.temperature))
                continue
            entries, owners = self._grid.level_entries(level)
            values = relevancy(entries, positives, negatives, texts.temperature)  # [Q, E]
            best = values.new_zeros(len(values), self._grid.objects_per_level[level])
            raw.append(best.scatter_reduce(1, owners.expand(len(values), -1), values, "amax"))
        together = torch.cat(raw, dim=1)
        known = (together > 0).any(0)
        calibration = calibration_of(together[:, known])
        return [calibration.lower(values) for values in raw], calibration


def _spread(of_objects: Tensor, objects: Tensor) -> Tensor:
    """Give each place the value of its object: [Q, K] and [...] -> [Q, ...], 0 where there is no object."""
    return F.pad(of_objects, (0, 1))[:, objects.flatten()].unflatten(1, objects.shape)
