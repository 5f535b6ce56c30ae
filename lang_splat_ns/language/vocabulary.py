"""Words for what somebody points at: everyday things and colours, ranked by how well they fit an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lang_splat_ns.language.relevancy import relevancy
from lang_splat_ns.language.text import TextCache, refused_texts
from lang_splat_ns.perception.encoders import Encoder

CHUNK = 16
"""Words that are embedded at a time, so that nobody waits long for a slow text tower."""


class Vocabulary:
    """Words that an encoder can represent, with their embeddings.

    A text tower can take seconds for all of them, so they are learned in pieces, by whoever has the time.

    Args:
        encoder: the scene's. One that brings its own phrases in Chinese is asked Chinese words.
        words: instead of the built-in ones.
    """

    def __init__(self, encoder: Encoder, words: Sequence[str] | None = None) -> None:
        chinese = any("一" <= letter <= "鿿" for letter in "".join(encoder.negatives))
        self._ahead = list(words or read_words("zh" if chinese else "en"))
        # A cache of its own: renders wait for the lock of theirs.
        self._texts = TextCache(encoder)
        self.words: tuple[str, ...] = ()

    def learn_some(self) -> bool:
        """Embed the next few words; False once there is none left."""
        some, self._ahead = self._ahead[:CHUNK], self._ahead[CHUNK:]
        refused = refused_texts(self._texts.encoder, some)
        known = [word for word in some if word not in refused]
        self._texts.embed(known)
        self.words += tuple(known)
        return bool(self._ahead)

    def best(self, embedding: Tensor, count: int = 5) -> list[tuple[str, float]]:
        """The words that fit an embedding [D] best, with their relevancy; those that no negative beats come first."""
        if not self.words:
            return []
        row = embedding[None].cpu()
        scores = relevancy(row, self._texts.embed(self.words), self._texts.negatives(), self._texts.temperature)[:, 0]
        values, which = scores.topk(min(count, len(self.words)))
        return [(self.words[index], float(value)) for index, value in zip(which.tolist(), values, strict=True)]


def read_words(language: str) -> tuple[str, ...]:
    """The built-in words in English ("en") or Chinese ("zh")."""
    file = Path(__file__).with_name(f"words_{language}.txt")
    return tuple(file.read_text(encoding="utf-8").split("\n")[:-1])
