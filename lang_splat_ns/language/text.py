"""Prompts: taken apart, embedded once, remembered."""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.interrupts import uninterrupted
from lang_splat_ns.language.relevancy import TEMPERATURE

if TYPE_CHECKING:
    from lang_splat_ns.perception.encoders import Encoder

MAX_PROMPTS = 500
MAX_PROMPT_LENGTH = 2000

# Chinese keyboards type the full-width semicolon, so both separate prompts.
_SEPARATOR = re.compile("[;；]")


def parse_prompts(text: str) -> tuple[str, ...]:
    """Take "red mug; lamp；键盘" apart at its semicolons, dropping blanks around prompts and empty prompts.

    Raises:
        UserError: no prompt remains, there are more than 500, or one is longer than 2,000 characters.
    """
    prompts = tuple(part.strip() for part in _SEPARATOR.split(text) if part.strip())
    if not prompts:
        raise UserError("There is no prompt: write one, or several separated by ';'.")
    if len(prompts) > MAX_PROMPTS:
        raise UserError(f"{len(prompts)} prompts are too many for one query: ask at most {MAX_PROMPTS} at a time.")
    for prompt in prompts:
        if len(prompt) > MAX_PROMPT_LENGTH:
            raise UserError(
                f"The prompt '{prompt[:40]}...' has {len(prompt)} characters: at most {MAX_PROMPT_LENGTH} are read."
            )
    return prompts


def refused_texts(encoder: Encoder, texts: Sequence[str]) -> dict[str, str]:
    """The texts that the encoder cannot represent, each with the encoder's own message; usually none."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    try:
        encoder.embed_text(distinct)
    except KeyError:
        return {text: message for text in distinct if (message := _refusal(encoder, text)) is not None}
    return {}


def _refusal(encoder: Encoder, text: str) -> str | None:
    try:
        encoder.embed_text([text])
    except KeyError as error:
        # str() of a KeyError puts quotes around its message, which belong to Python and not to the user.
        return str(error.args[0]) if error.args else "the encoder cannot represent it"
    return None


class TextCache:
    """Embeds each text once and remembers the rows of the most recently used ones.

    A viewer asks for the same prompts on every frame, and a text tower is slower than everything else that a query
    does. The cache may be shared between threads.

    Args:
        encoder: whose text side to ask.
        capacity: how many texts to remember; the least recently used are forgotten first.

    Attributes:
        hits: texts that were asked for and remembered.
        misses: texts that the encoder had to embed.
    """

    def __init__(self, encoder: Encoder, capacity: int = 4096) -> None:
        self.encoder = encoder
        self.capacity = capacity
        self._rows: OrderedDict[str, np.ndarray] = OrderedDict()
        self._named: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()
        self.hits, self.misses = 0, 0

    @uninterrupted()
    def embed(self, texts: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Embeddings of `texts`, in their order: float32 [Q, D], unit rows, on `device`.

        Raises:
            KeyError: a text that the encoder cannot represent, with the encoder's message for the user.
            UserError: the encoder (a plug-in, perhaps) returns rows of another shape than it promises.
        """
        with self._lock:
            named = {text: self._named[text] for text in texts if text in self._named}
            known = {text: self._rows[text] for text in texts if text in self._rows}
            missing = [text for text in dict.fromkeys(texts) if text not in known and text not in named]
            self.hits, self.misses = self.hits + len(known), self.misses + len(missing)
            if missing:
                known.update(zip(missing, self._ask(missing), strict=True))
            self._remember(known)
            known |= named
        if not texts:
            return torch.zeros(0, self.encoder.dim, device=device)
        return torch.from_numpy(np.stack([known[text] for text in texts])).to(device)

    @uninterrupted()
    def name(self, text: str, row: Tensor) -> None:
        """Let `text` stand for an embedding that no text has, for example that of an object in the scene.

        Args:
            text: from now on it is never shown to the encoder.
            row: what it stands for, a unit row. [D]
        """
        with self._lock:
            self._named[text] = row.detach().float().cpu().numpy()

    def is_named(self, text: str) -> bool:
        """True if `text` stands for an embedding of its own."""
        return text in self._named

    @property
    def temperature(self) -> float:
        """The factor on cosines that goes with these texts (see `relevancy`): the encoder's own, or LERF's 10.

        It never moves what relevancy 0.5 means, only how fast relevancy rises and falls around it.

        Raises:
            UserError: the encoder (a plug-in, perhaps) gives something that is no positive number.
        """
        value = float(getattr(self.encoder, "temperature", TEMPERATURE))
        if not 0.0 < value < math.inf:
            raise UserError(
                f"The encoder {self.encoder.encoder_id} has the temperature {value}: mend it to be positive."
            )
        return value

    def negatives(self, texts: Sequence[str] = (), device: torch.device | str = "cpu") -> Tensor:
        """Embeddings of the phrases to beat: `texts`, or the encoder's own where there are none. float32 [Nn, D]."""
        return self.embed(tuple(texts) or tuple(self.encoder.negatives), device)

    def _ask(self, texts: list[str]) -> np.ndarray:
        rows = np.asarray(self.encoder.embed_text(texts), dtype=np.float32)
        expected = (len(texts), self.encoder.dim)
        if rows.shape != expected or not np.isfinite(rows).all():
            raise UserError(
                f"The encoder {self.encoder.encoder_id} returned text embeddings of shape {rows.shape}, "
                f"where finite rows of shape {expected} were expected: mend its embed_text()."
            )
        return rows

    def _remember(self, rows: dict[str, np.ndarray]) -> None:
        for text, row in rows.items():
            self._rows[text] = row
            self._rows.move_to_end(text)
        while len(self._rows) > self.capacity:
            self._rows.popitem(last=False)
