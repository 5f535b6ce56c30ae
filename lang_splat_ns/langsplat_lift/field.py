"""Answers of a lifted scene: a prompt is compared with the codebook, and what comes out is splatted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lang_splat_ns.language.calibration import calibrate, splat_scores
from lang_splat_ns.language.codebook import Codebook
from lang_splat_ns.language.field import Query, QueryMode, RelevancyMaps
from lang_splat_ns.language.relevancy import choose_level, relevancy
from lang_splat_ns.language.splat_field import SplatField, Splatter

_NEGLIGIBLE = 1e-5
"""Singular values below this share of the largest are left out of a codebook's basis."""


@dataclass(frozen=True)
class _Remembered:
    """The channels of the last query, which the viewer asks for again with every camera."""

    query: Query | None
    channels: Tensor


class LiftedField(SplatField):
    """The `LanguageField` of a codebook per level.

    Two ways to answer. `scalar` compares every entry with the prompt and blends the numbers: a few channels, and the
    answer belongs to the Gaussians, whatever the view. `feature` blends the features themselves and compares then, as
    the papers do. Relevancy is not linear, so the two differ where Gaussians of different objects share a pixel.
    Both are calibrated by what the scene's other objects get (see `language.calibration`).

    Args:
        model: whose Gaussians they are.
        codebooks: one per level, coarse to fine.
        levels: names of the levels.
        mode: how prompts are answered.
        of_objects: entries are objects that views agree on, and not what features happen to have in common.
    """

    def __init__(
        self,
        model: Splatter,
        codebooks: Sequence[Codebook],
        levels: Sequence[str],
        mode: QueryMode,
        of_objects: bool = False,
    ) -> None:
        super().__init__(model)
        self._of_objects = of_objects
        self._codebooks, self._levels, self._mode = tuple(codebooks), tuple(levels), mode
        self._last: _Remembered | None = None
        self._colors: Tensor | None = None

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels, coarse to fine."""
        return self._levels

    def channels(self, query: Query | None) -> Tensor:
        """Colours, and in the mode `scalar` the prompts' scores at all levels: [N, 3 + Q * L]."""
        last = self._last
        if last is None or last.query != query:
            parts = [self._gaussian_colors()]
            if query is not None and self._mode == "scalar":
                parts.append(self.scores(query).flatten(0, 1).T)
            # One assignment, since a render may be interrupted at any line.
            self._last = last = _Remembered(query, torch.cat(parts, dim=1))
        return last.channels

    def answer(self, camera: Any, blended: Tensor, query: Query) -> RelevancyMaps:
        """Relevancy of what was blended [H, W, 3 + Q * L]; the mode `feature` blends its features for it."""
        if self._mode == "feature":
            values = self._calibrated(self._by_features(camera, query), query)
        else:
            values = blended[..., 3:].unflatten(-1, (len(query.positives), -1)).permute(2, 3, 0, 1)
        return RelevancyMaps(values, choose_level(values, query.level, self.levels), self.levels)

    def scores(self, query: Query) -> Tensor:
        """Calibrated relevancy of every Gaussian, looked up in the codebook: [Q, L, N]."""
        return splat_scores(self._codebooks, *self._embedded(query), self._model.texts().temperature)

    def known(self) -> Tensor:
        """Gaussians with an entry that is known: bool [L, N]."""
        return torch.stack([book.spread(_is_known(book)[None])[0] > 0 for book in self._codebooks])

    def codebooks(self) -> tuple[Codebook, ...]:
        """What the answers are looked up in."""
        return self._codebooks

    def objects(self, level: str) -> Tensor | None:
        """The consensus object that has the most of each Gaussian; see `SplatField.objects`."""
        if not self._of_objects:
            return None
        book = self._codebooks[self.levels.index(level)]
        first = book.index[:, 0].long()
        # What mostly lies in no mask has an entry of which nothing is known.
        return torch.where((first >= 0) & (_is_known(book)[first.clamp_min(0)] > 0), first, -1)

    def features(self, which: Tensor, level: int) -> Tensor:
        """The codebook's rows of some Gaussians [M]: [M, D]."""
        book = self._codebooks[level]
        return book.rows(which.cpu().numpy())

    def colors(self, blended: Tensor) -> Tensor:
        """The coarsest level's features as colours: [H, W, 3]."""
        return blended[..., :3]

    def _gaussian_colors(self) -> Tensor:
        """Principal components of the coarsest level's entries as colours: [N, 3]."""
        # Not a cached property: up to Python 3.11 those hold a lock, which a render that is interrupted would keep.
        if self._colors is None:
            book = self._codebooks[0]
            self._colors = book.spread(principal_colors(book.entries).T).T.contiguous()
        return self._colors

    def _embedded(self, query: Query) -> tuple[Tensor, Tensor]:
        texts, device = self._model.texts(), self._codebooks[0].entries.device
        return texts.embed(query.positives, device), texts.negatives(query.negatives, device)

    def _calibrated(self, raw: Tensor, query: Query) -> Tensor:
        """Relevancy of blended features [Q, L, H, W] after what the scene's other objects get."""
        return calibrate(self._codebooks, *self._embedded(query), self._model.texts().temperature)(raw)

    def _by_features(self, camera: Any, query: Query) -> Tensor:
        """Raw relevancy of composited features: [Q, L, H, W].

        Features lie in the span of the entries, so their coordinates in it are blended: cosines are the same, and
        there are far fewer of them than of the features' own.
        """
        levels = []
        for level in range(len(self.levels)):
            coordinates, basis = self._coordinates(level)
            blended, _ = self._model.blend(camera, coordinates)
            positives, negatives = (rows @ basis.T for rows in self._embedded(query))
            # A pixel that hardly anything covers has no evidence.
            unit = torch.where(blended.norm(dim=-1, keepdim=True) > 1e-4, F.normalize(blended, dim=-1), 0.0)
            levels.append(relevancy(unit, positives, negatives, self._model.texts().temperature))
        return torch.stack(levels, dim=1)

    def _coordinates(self, level: int) -> tuple[Tensor, Tensor]:
        """Unit coordinates of all Gaussians [N, R] in an orthonormal basis [R, D] of the entries' span.

        They are made for each query anew: kept, they were gigabytes for a scene of a million Gaussians.
        """
        book = self._codebooks[level]
        left, strengths, basis = torch.linalg.svd(book.entries, full_matrices=False)
        kept = strengths > _NEGLIGIBLE * strengths[0].clamp_min(_NEGLIGIBLE)
        return F.normalize(book.spread((left * strengths)[:, kept].T).T, dim=-1), basis[kept]


def _is_known(book: Codebook) -> Tensor:
    """1 for entries of which something is known: float [K]."""
    return (book.entries.norm(dim=-1) > 0).float()


def principal_colors(entries: Tensor) -> Tensor:
    """Colours [K, 3] in 0..1 of unit vectors [K, D] by their three main directions; grey for zero rows."""
    known = entries.norm(dim=-1) > 0
    colors = entries.new_full((len(entries), 3), 0.5)
    if known.sum() > 1:
        centred = entries[known] - entries[known].mean(0)
        _, _, directions = torch.linalg.svd(centred, full_matrices=False)
        # A direction and its opposite are equally principal; the sign is settled, so that colours stay in a re-run.
        signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
        parts = centred @ (directions * signs)[:3].T
        parts = parts / parts.abs().amax(0).clamp_min(1e-6)
        colors[known, : parts.shape[1]] = (parts + 1) / 2
    return colors
