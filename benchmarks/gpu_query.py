"""How long a question takes: rendering codes, comparing them with prompts, and the masks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_clock import milliseconds
from benchmarks.gpu_features import FeatureTraining
from benchmarks.posed_photos import Photo
from lang_splat_ns.langsplat.field import LangSplatField
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.relevancy import mask_of
from lang_splat_ns.language.text import TextCache

PROMPT_COUNTS = (1, 10)


class RandomWords:
    """An encoder whose words mean nothing: a query takes the same time, and no text tower has to be there."""

    encoder_id = "random words"
    negatives = ("object", "things", "stuff", "texture")

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def embed_regions(self, image: Any, labels: Any, count: int) -> np.ndarray:
        """Random unit rows [count, dim]."""
        return self._rows(count)

    def embed_text(self, texts: Any) -> np.ndarray:
        """Random unit rows [Q, dim]."""
        return self._rows(len(texts))

    def _rows(self, count: int) -> np.ndarray:
        rows = np.random.default_rng(0).standard_normal((count, self.dim)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class _Scene:
    """What `LangSplatField` asks of its model."""

    def __init__(self, training: FeatureTraining) -> None:
        self._training = training
        self._texts = TextCache(RandomWords(training.autoencoder.dim))

    def texts(self) -> TextCache:
        return self._texts

    def require_language(self) -> Any:
        return SimpleNamespace(
            autoencoder=self._training.autoencoder, levels=self._training.source.levels, encoder_id="random words"
        )

    def unit_codes(self) -> Tensor:
        return self._training.unit_codes()

    def neighbours(self) -> None:
        """Nothing: they are looked up once per scene, which is not what is timed."""

    def blend(self, camera: Photo, values: Tensor, only: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # The training blends its own codes, which are what the field gives as values.
        del only
        return self._training.blend(camera).flatten(-2), values.new_zeros(0)


@torch.no_grad()
def time_queries(training: FeatureTraining, photo: Photo, repeats: int) -> dict[str, Any]:
    """Median milliseconds of a view's relevancy maps, masks and 3D selection; texts are embedded beforehand."""
    field, device = LangSplatField(_Scene(training)), photo.image.device  # type: ignore[arg-type]
    result: dict[str, Any] = {
        "height": photo.image.shape[0],
        "width": photo.image.shape[1],
        "gaussians": len(training.features),
        "repeats": repeats,
        "render_codes_ms": milliseconds(lambda: training.blend(photo), device, repeats),
    }
    for count in PROMPT_COUNTS:
        query = Query(tuple(f"prompt {i}" for i in range(count)))
        maps = field.relevancy(photo, query).best()
        result[f"prompts_{count}"] = {
            "relevancy_ms": milliseconds(lambda query=query: field.relevancy(photo, query), device, repeats),
            "masks_ms": milliseconds(lambda maps=maps: [mask_of(one) for one in maps], device, repeats),
            "select_ms": milliseconds(lambda query=query: field.select(query), device, repeats),
        }
    return result
