"""Which photos of a large set are worth matching: neighbours in order, and photos that look alike."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ALL_PAIRS_UP_TO = 100
"""Photos up to which every pair is matched: 4,950 pairs. 500 photos would have 124,750."""
OVERLAP = 10
"""Photos before and after each one that it is matched with; beyond those, at distances of 16, 32, 64, ..."""
ALIKE = 20
"""Photos that look most alike and are matched wherever they stand in the order, which closes loops."""
WORDS = 64
_SAMPLE = 100_000


def choose_pairs(names: Sequence[str], database: Path) -> list[tuple[str, str]]:
    """Pairs of photos to match: every photo with those around it and with those that look alike.

    Args:
        names: in order of recording.
        database: COLMAP's, with descriptors of the photos.
    """
    pairs = _in_order(len(names))
    vectors = _global_descriptors(names, database)
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    count = min(ALIKE, len(names) - 1)
    for one, others in enumerate(np.argpartition(-likeness, count - 1, axis=1)[:, :count]):
        pairs |= {(min(one, int(other)), max(one, int(other))) for other in others}
    return [(names[one], names[other]) for one, other in sorted(pairs)]


def _in_order(count: int) -> set[tuple[int, int]]:
    steps = list(range(1, OVERLAP + 1))
    far = 16
    while far < count:
        steps.append(far)
        far *= 2
    return {(one, one + step) for one in range(count) for step in steps if one + step < count}


def _global_descriptors(names: Sequence[str], database: Path) -> np.ndarray:
    """One unit vector per photo, float32: VLAD (Jegou et al. 2010) over its SIFT, with words of this set."""
    from sklearn.cluster import MiniBatchKMeans

    connection = sqlite3.connect(database)
    try:
        ids = dict(connection.execute("SELECT name, image_id FROM images").fetchall())
        each = max(1, _SAMPLE // len(names))
        sample = np.concatenate([_descriptors(connection, ids.get(name))[:each] for name in names])
        if len(sample) < WORDS:
            return np.eye(len(names), dtype=np.float32)
        words = MiniBatchKMeans(WORDS, random_state=0, n_init="auto", max_iter=20).fit(sample)
        return np.stack([_vlad(_descriptors(connection, ids.get(name)), words) for name in names])
    finally:
        connection.close()


def _descriptors(connection: sqlite3.Connection, image: int | None) -> np.ndarray:
    """Root-SIFT as COLMAP stores it, float32 [N, 128]; none where a photo has none."""
    query = "SELECT rows, cols, data FROM descriptors WHERE image_id = ?"
    row = connection.execute(query, (image,)).fetchone() if image is not None else None
    if row is None or row[0] == 0:
        return np.zeros((0, 128), np.float32)
    return np.frombuffer(row[2], np.uint8).reshape(row[0], row[1]).astype(np.float32) / 255


def _vlad(descriptors: np.ndarray, words: object) -> np.ndarray:
    centres = words.cluster_centers_  # type: ignore[attr-defined]
    vector = np.zeros_like(centres, dtype=np.float32)
    if len(descriptors):
        nearest = words.predict(descriptors)  # type: ignore[attr-defined]
        np.add.at(vector, nearest, descriptors - centres[nearest])
    # Each word by itself first, so that a texture that repeats does not drown the rest.
    vector /= np.linalg.norm(vector, axis=1, keepdims=True) + 1e-12
    flat = vector.reshape(-1)
    return flat / (np.linalg.norm(flat) + 1e-12)
