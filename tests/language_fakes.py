"""An encoder and a language field that answer whatever a test tells them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lang_splat_ns.errors import NotSplatError
from lang_splat_ns.language.field import Query, RelevancyMaps, Selection
from lang_splat_ns.language.relevancy import choose_level


class FakeEncoder:
    """Embeds texts by a table; a text that is not in it is refused, as colour words refuse things."""

    encoder_id = "fake/1"
    negatives = ("thing",)

    def __init__(self, table: Mapping[str, Sequence[float]]) -> None:
        self.table = {text: np.asarray(row, np.float32) / np.linalg.norm(row) for text, row in table.items()}
        self.dim = len(next(iter(self.table.values())))
        self.calls: list[tuple[str, ...]] = []

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append(tuple(texts))
        for text in texts:
            if text not in self.table:
                raise KeyError(f"unknown word: {text}")
        return np.stack([self.table[text] for text in texts])

    def embed_regions(self, image: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
        raise NotImplementedError


class FakeField:
    """Looks maps up: `answers[camera][text]` is float [L, H, W]."""

    def __init__(
        self, answers: Mapping[Any, Mapping[str, np.ndarray]], levels: tuple[str, ...], encoder: FakeEncoder
    ) -> None:
        self.answers = answers
        self.levels = levels
        self.encoder = encoder
        self.queries: list[Query] = []

    def relevancy(self, camera: Any, query: Query) -> RelevancyMaps:
        self.queries.append(query)
        maps = np.stack([self.answers[camera][text] for text in query.positives])
        values = torch.from_numpy(maps.astype(np.float32))
        if query.level == "auto":
            return RelevancyMaps(values, choose_level(values), self.levels)
        return RelevancyMaps(values, (self.levels.index(query.level),) * len(values), self.levels)

    def select(self, query: Query) -> Selection:
        raise NotSplatError("a fake has no Gaussians")

    def silhouettes(self, camera: Any, masks: torch.Tensor) -> torch.Tensor:
        raise NotSplatError("a fake has no Gaussians")
