"""LangSplat's answers to text: decode what the rasterizer blended, compare it with the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lang_splat_ns.language.field import Query, RelevancyMaps
from lang_splat_ns.language.relevancy import choose_level, relevancy
from lang_splat_ns.language.splat_field import SplatField

if TYPE_CHECKING:
    import numpy as np

    from lang_splat_ns.langsplat.model import LangSplatModel
    from lang_splat_ns.language.autoencoder import SceneAutoencoder
    from lang_splat_ns.language.codebook import Codebook

_NO_CODE = 1e-8
"""Squared length below which a code is none: no Gaussian with language was hit."""


class LangSplatField(SplatField):
    """The `LanguageField` of a trained LangSplat model."""

    _model: LangSplatModel

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the levels, coarse to fine."""
        return self._model.require_language().levels

    def channels(self, query: Query | None) -> Tensor:
        """The unit codes of all levels, whatever is asked: [N, L * code_dim]."""
        return self._model.unit_codes().flatten(1)

    def answer(self, camera: Any, blended: Tensor, query: Query) -> RelevancyMaps:
        """Relevancy of what was blended: [H, W, L * code_dim]."""
        return self.relevancy_of(self._by_level(blended), query)

    def relevancy_of(self, codes: Tensor, query: Query) -> RelevancyMaps:
        """Relevancy of blended codes [H, W, L, C]; where nothing was hit it is 0."""
        height, width = codes.shape[:2]
        flat = self._compare(codes.reshape(-1, *codes.shape[2:]), query)
        values = flat.reshape(*flat.shape[:2], height, width)
        return RelevancyMaps(values, choose_level(values, query.level, self.levels), self.levels)

    def scores(self, query: Query) -> Tensor:
        """Relevancy of each Gaussian's own code: [Q, L, N]."""
        return self._compare(self._model.unit_codes(), query)

    def known(self) -> Tensor:
        """Gaussians that have a code: bool [L, N]."""
        return (self._model.unit_codes().square().sum(-1) > _NO_CODE).T

    def codebooks(self) -> tuple[Codebook, ...]:
        """The decoded codes, compressed, since 512 numbers for each Gaussian would be gigabytes."""
        # Imported here: a bare GPU machine has no scipy.
        from lang_splat_ns.language.compression import compress

        codes, decoder = self._model.unit_codes(), self._model.require_language().autoencoder
        return tuple(compress(_Decoded(codes[:, level], decoder)) for level in range(codes.shape[1]))

    def features(self, which: Tensor, level: int) -> Tensor:
        """Decoded codes of some Gaussians [M]: [M, D]."""
        codes = self._model.unit_codes()
        decoder = self._model.require_language().autoencoder
        return torch.cat([*decoder.decode_in_chunks(codes[which.to(codes.device), level])])

    def colors(self, blended: Tensor) -> Tensor:
        """The coarsest level's codes as colours: [H, W, 3]."""
        unit = torch.nn.functional.normalize(self._by_level(blended)[..., 0, :], dim=-1)
        padded = torch.nn.functional.pad(unit, (0, max(0, 3 - unit.shape[-1])))
        return (padded[..., :3] + 1) / 2

    def _by_level(self, blended: Tensor) -> Tensor:
        return blended.unflatten(-1, (len(self.levels), -1))

    def _compare(self, codes: Tensor, query: Query) -> Tensor:
        """Relevancy [Q, L, M] of codes [M, L, C]."""
        texts, decoder = self._model.texts(), self._model.require_language().autoencoder
        positives = texts.embed(query.positives, codes.device)
        negatives = texts.negatives(query.negatives, codes.device)
        levels = []
        for level in range(codes.shape[1]):
            chunks = decoder.decode_in_chunks(codes[:, level])
            scores = torch.cat([relevancy(chunk, positives, negatives, texts.temperature) for chunk in chunks], dim=-1)
            # A code of length zero means that no Gaussian with language was hit there.
            levels.append(scores * (codes[:, level].square().sum(-1) > _NO_CODE))
        return torch.stack(levels, dim=1)


class _Decoded:
    """One level's codes [N, C] as unit features; see `language.features.Features`."""

    def __init__(self, codes: Tensor, decoder: SceneAutoencoder) -> None:
        self._codes, self._decoder = codes.detach(), decoder

    def __len__(self) -> int:
        """Number of Gaussians."""
        return len(self._codes)

    @property
    def dim(self) -> int:
        """Length of the features."""
        return self._decoder.dim

    def rows(self, which: slice | np.ndarray) -> Tensor:
        """Features of some Gaussians: float32 [n, D]."""
        codes = self._codes[which]
        decoded = torch.cat(list(self._decoder.decode_in_chunks(codes)))
        return decoded * (codes.square().sum(-1, keepdim=True) > _NO_CODE)
