"""A segmenter and an encoder that need no network, work at a known pace, and fail when told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lang_splat_ns.perception.segmenters import LabelMaps
from lang_splat_ns.perception.view_labels import StoredLabels

LEVELS = ("whole", "part")


class Stripes:
    """Two levels of vertical stripes."""

    segmenter_id = "stripes/1"
    seconds = 0.01

    def segment(self, image: np.ndarray) -> LabelMaps:
        time.sleep(self.seconds)
        columns = np.arange(image.shape[1])[None].repeat(image.shape[0], axis=0)
        return LabelMaps(np.stack([columns // 8, columns // 4]).astype(np.int32), LEVELS)


class DeadlyStripes(Stripes):
    """Kills its own process, once, at the photo whose first pixel says so; notes every photo that is begun.

    Args:
        notes: a folder; a note's name is <photo>-<process>-<number of notes before it>.
        deadly: the photo, by the value of its first pixel.
    """

    def __init__(self, notes: Path, deadly: int) -> None:
        self.notes = notes
        self.deadly = deadly

    def segment(self, image: np.ndarray) -> LabelMaps:
        photo = int(image[0, 0, 0])
        (self.notes / f"{photo}-{os.getpid()}-{len(list(self.notes.iterdir()))}").touch()
        if photo == self.deadly and len(list(self.notes.glob(f"{photo}-*"))) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().segment(image)


class MeanColour:
    """A region's mean colour, as a unit vector."""

    encoder_id = "mean-colour/1"
    dim = 3
    negatives = ("object",)

    def embed_regions(self, image: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
        rows = np.stack([image[labels == region].mean(axis=0) for region in range(count)]) + 1.0
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def embed_text(self, texts: list[str]) -> np.ndarray:
        return np.full((len(texts), self.dim), self.dim**-0.5, dtype=np.float32)


class DeadlyLabels:
    """Reads label maps from a store, and kills its own process, once, at one view.

    Args:
        read: the reader that does it.
        notes: a folder for a note that it has happened.
        deadly: number of the view.
    """

    def __init__(self, read: StoredLabels, notes: Path, deadly: int) -> None:
        self.read = read
        self.note = notes / "killed"
        self.deadly = deadly

    def __call__(self, index: int, height: int, width: int) -> tuple[torch.Tensor, Sequence[int]]:
        if index == self.deadly and not self.note.exists():
            self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.read(index, height, width)
