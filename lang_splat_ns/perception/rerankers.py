"""The reranker protocol, and rerankers by name. Importing this module loads no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lang_splat_ns.perception.registry import Registry, call_with_known_arguments

RERANKERS = Registry(
    kind="reranker",
    group="lang_splat_ns.rerankers",
    variable="LANG_SPLAT_RERANKERS",
    builtin={"qwen3-vl": "lang_splat_ns.perception.qwen_reranker:QwenReranker"},
)


class Reranker(Protocol):
    """Says how sure it is that a picture shows what a prompt names."""

    @property
    def reranker_id(self) -> str:
        """Names model, weights digest and question; part of the key of its answers."""
        ...

    def judge(self, crops: Sequence[npt.NDArray[np.uint8]], prompt: str) -> list[float]:
        """Probability of yes for each crop, RGB uint8 [S, S, 3], sharp on the thing in question only."""
        ...


def make_reranker(name: str, *, device: str = "cpu", weights: Path | None = None) -> Reranker:
    """Build the reranker that `name` stands for: a built-in or plug-in's name, or `qwen3-vl:REPOSITORY`.

    Raises:
        UserError: unknown name, or weights that cannot be had.
    """
    base, _, variant = (name, "", "") if name in RERANKERS.names() else name.partition(":")
    offers = {"device": str(device), "weights": weights, "variant": variant or None}
    return call_with_known_arguments(RERANKERS.load(base), offers)
