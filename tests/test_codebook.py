"""The codebook: what it stores, what it costs in decisions, and that its shortcuts equal plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from lang_splat_ns.language.codebook import MAX_ENTRIES, Codebook, decision_flips, gaussian_scores
from lang_splat_ns.language.compression import compress, from_shares
from lang_splat_ns.language.features import dense
from lang_splat_ns.language.relevancy import relevancy


class Table:
    """Features that are all in memory."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def dim(self) -> int:
        return self.table.shape[1]

    def rows(self, which: slice | np.ndarray) -> Tensor:
        return self.table[which]


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def clip_like(gaussians: int, objects: int, dim: int = 64) -> tuple[Table, Tensor, Tensor]:
    """Features, prompts and negatives that lie as in CLIP: all close together, images apart from texts.

    Features of one object differ a little, and a quarter of the Gaussians lies between two objects. Margins between
    prompts are a tenth of what cosines are.
    """
    rng = torch.Generator().manual_seed(0)
    common, modality = unit_rows(2, dim, seed=1)
    meaning = unit_rows(objects, dim, seed=2)
    of, other = torch.randint(objects, (2, gaussians), generator=rng)
    share = torch.where(torch.rand(gaussians, generator=rng) < 0.25, torch.rand(gaussians, generator=rng), 0.0)[:, None]
    content = F.normalize((1 - share) * meaning[of] + share * meaning[other], dim=-1)
    images = F.normalize(common + 0.5 * content + 0.1 * unit_rows(gaussians, dim, seed=3), dim=-1)
    prompts = F.normalize(modality + 0.3 * meaning + 0.1 * unit_rows(objects, dim, seed=4), dim=-1)
    negatives = F.normalize(modality + 0.3 * unit_rows(4, dim, seed=5), dim=-1)
    return Table(images), prompts, negatives


def test_a_prompt_is_decided_as_by_the_exact_features() -> None:
    """Prompts here are near everything, so that two of five answers are yes and most margins next to nothing."""
    features, prompts, negatives = clip_like(4000, 40)
    values = relevancy(features.table, prompts, negatives)
    answers, clear = values > 0.5, (values - 0.5).abs() > 0.1
    assert 0.3 < float(answers.float().mean()) < 0.6 and float(clear.float().mean()) > 0.25
    shares, clear_shares = {}, {}
    for places in (1, 2):
        book = compress(features, size=128, places=places)
        shares[places] = decision_flips(features, book, prompts, negatives, slice(None))
        flipped = (relevancy(dense(book), prompts, negatives) > 0.5) != answers
        assert shares[places][0] == pytest.approx(float(flipped.float().mean()))
        clear_shares[places] = float((flipped & clear).sum() / clear.sum())
    # Of 160,000 answers at most 4.5 % change with one entry per Gaussian, and 4 % with two; of those that are not on
    # the brink, at most 0.5 % and none.
    assert max(shares[1]) < 0.045 and max(shares[2]) < 0.04
    assert shares[2][0] < shares[1][0]
    assert clear_shares[1] < 0.005 and clear_shares[2] == 0


def test_three_levels_cost_at_most_sixteen_bytes() -> None:
    features, _, _ = clip_like(500, 10)
    for places, expected in ((1, 2), (2, 5)):
        book = compress(features, size=16, places=places)
        assert book.bytes_per_gaussian == expected
        assert book.index.nbytes + book.weights.nbytes == expected * len(book)
        assert 3 * expected <= 16
        assert book.index.shape == (500, places) and len(book.entries) <= 16


def test_the_pair_points_closest() -> None:
    features, entries = unit_rows(30, 5, seed=1), unit_rows(9, 5, seed=2)
    found = compress(Table(entries), size=9)  # As many entries as features: they are the features.
    assert torch.allclose(found.entries, entries, atol=1e-6)
    book = compress(Table(torch.cat([entries, features])), size=9)
    rows = dense(book)
    steps = torch.linspace(0, 1, 256)[:, None, None]
    for feature, row, pair in zip(torch.cat([entries, features]), rows, book.index, strict=True):
        first = int((book.entries @ feature).argmax())
        mixed = F.normalize((1 - steps) * book.entries[first] + steps * book.entries, dim=-1)  # [256, K, D]
        assert int(pair[0]) == first
        assert float(row @ feature) == pytest.approx(float((mixed @ feature).max()), abs=1e-4)


def test_nothing_known_stays_nothing() -> None:
    features = unit_rows(50, 6)
    features[::3] = 0
    book = compress(Table(features), size=8)
    known = features.norm(dim=-1) > 0
    assert torch.equal(dense(book).norm(dim=-1) > 0, known)
    assert torch.equal(book.index[:, 0] >= 0, known)
    assert (book.spread(torch.ones(2, len(book.entries)))[:, ~known] == 0).all()
    assert torch.allclose(book.spread(torch.ones(2, len(book.entries)))[:, known], torch.ones(1))
    empty = compress(Table(torch.zeros(7, 6)), size=8)
    assert (empty.entries == 0).all() and (empty.index == -1).all() and (dense(empty) == 0).all()
    assert gaussian_scores([empty], unit_rows(2, 6), unit_rows(1, 6)).tolist() == [[[0.0] * 7]] * 2
    assert len(compress(Table(torch.zeros(0, 6)))) == 0


def test_scores_are_means_of_the_entries_relevancy() -> None:
    rng = np.random.default_rng(0)
    shares = sparse.csr_array(sparse.random_array((20, 6), density=0.5, rng=rng))
    books = [from_shares(unit_rows(6, 8, seed=seed), shares, places) for seed, places in ((0, 1), (1, 2), (2, 4))]
    positives, negatives = unit_rows(3, 8, seed=5), unit_rows(2, 8, seed=6)
    scores = gaussian_scores(books, positives, negatives, temperature=4.0)
    assert scores.shape == (3, 3, 20)
    for level, (book, places) in enumerate(zip(books, (1, 2, 4), strict=True)):
        values = relevancy(book.entries, positives, negatives, 4.0)
        for g, row in enumerate(shares.toarray()):
            best = [k for k in np.argsort(-row, kind="stable")[:places] if row[k] > 0]
            total = row[best].sum()
            expected = sum((row[k] / total * values[:, k] for k in best), torch.zeros(3, dtype=torch.float64))
            assert torch.allclose(scores[:, level, g].double(), expected, atol=0.5 * places / 255)
            feature = sum((row[k] / total * book.entries[k] for k in best), torch.zeros(8, dtype=torch.float64))
            assert torch.allclose(book.rows(slice(g, g + 1))[0].double(), F.normalize(feature, dim=-1), atol=0.02)


def test_important_gaussians_get_the_entries() -> None:
    features = torch.cat([unit_rows(1, 16, seed=1).expand(900, -1), unit_rows(100, 16, seed=2)])
    importance = np.where(np.arange(1000) < 900, 1e-6, 1.0)
    without, with_importance = (compress(Table(features), 40, 1, weights) for weights in (None, importance))
    closeness = [float((dense(book)[900:] * features[900:]).sum(-1).mean()) for book in (without, with_importance)]
    assert closeness[1] >= closeness[0]


def test_limits_are_named() -> None:
    with pytest.raises(ValueError, match="size"):
        compress(Table(unit_rows(4, 3)), size=0)
    with pytest.raises(ValueError, match="places"):
        compress(Table(unit_rows(4, 3)), places=3)
    index, weights = torch.zeros(4, 2, dtype=torch.int16), torch.zeros(4, 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="1 to"):
        Codebook(torch.zeros(MAX_ENTRIES + 1, 1), index, weights)
    with pytest.raises(ValueError, match="weights"):
        Codebook(torch.zeros(3, 1), index, weights[:, :0])
