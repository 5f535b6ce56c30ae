"""From votes to features: the closed forms against plain loops, and objects that views agree on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from lang_splat_ns.language.codebook import Codebook, gaussian_scores
from lang_splat_ns.language.consensus import ConsensusSettings, find_objects, median_directions
from lang_splat_ns.language.features import dense
from lang_splat_ns.language.lifting import LiftSettings, gate, lift, stack_embeddings
from lang_splat_ns.splatting.view_votes import ViewVotes
from lang_splat_ns.splatting.votes import Votes, accumulate

DIM = 24


def unit_rows(count: int, seed: int, dim: int = DIM) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def random_votes(gaussians: int = 60, views: int = 5, masks: int = 6) -> Votes:
    rng = np.random.default_rng(0)
    matrices = [
        sparse.csr_array(sparse.random_array((gaussians, masks), density=0.3, rng=rng, dtype=np.float32))
        for _ in range(views)
    ]
    for matrix in matrices:
        matrix.sort_indices()
    return accumulate((view, ViewVotes((matrix,), matrix.sum(axis=1))) for view, matrix in enumerate(matrices))


def test_mean_is_the_weighted_average() -> None:
    votes, embeddings = random_votes(), unit_rows(30, 1)
    embeddings[4] = torch.nan
    embeddings[7, 3] = torch.nan
    (features,) = lift(votes, [embeddings], LiftSettings("mean"))
    assert len(features) == 60 and features.dim == DIM
    for found, row in zip(dense(features), votes.levels[0].toarray(), strict=True):
        expected = sum((w * e for w, e in zip(row, embeddings, strict=True) if not e.isnan().any()), torch.zeros(DIM))
        assert torch.allclose(found, F.normalize(expected, dim=-1), atol=1e-6)
    some = np.array([5, 1, 59])
    assert torch.allclose(features.rows(some), dense(features)[some], atol=1e-6)


def slow_median(row: np.ndarray, embeddings: Tensor, mass: float) -> Tensor:
    """VALA's update, mask by mask, the strongest first, up to the given share of all votes."""
    z, total, limit = torch.zeros(embeddings.shape[1]), 0.0, mass * row.sum()
    for mask in np.argsort(-row, kind="stable"):
        if row[mask] == 0 or total >= limit:
            break
        total += float(row[mask])
        f = embeddings[mask]
        z = F.normalize(z + row[mask] / total * (f - (f @ z) * z), dim=-1)
    return z


@pytest.mark.parametrize("mass", [1.0, 0.6])
def test_gated_median_is_the_streaming_update(mass: float) -> None:
    votes, embeddings = random_votes(), unit_rows(30, 1)
    (features,) = lift(votes, [embeddings], LiftSettings("gated-median", mass=mass, faint=0.0))
    expected = [slow_median(row, embeddings, mass) for row in votes.levels[0].toarray().astype(np.float64)]
    assert torch.allclose(dense(features), torch.stack(expected).float(), atol=1e-5)


def test_median_depends_on_ratios_only() -> None:
    votes, embeddings = random_votes(), unit_rows(30, 1)
    sizes = sparse.diags_array(np.geomspace(1e-3, 1e3, 60).astype(np.float32))
    scaled = replace(votes, levels=(sparse.csr_array(sizes @ votes.levels[0]),))
    both = [dense(lift(one, [embeddings], LiftSettings("gated-median"))[0]) for one in (votes, scaled)]
    assert torch.allclose(*both, atol=1e-5)


def test_median_resists_what_pulls_the_mean() -> None:
    truth, wrong = unit_rows(2, 3)
    embeddings = torch.stack([truth] * 7 + [wrong] * 3) + 0.05 * unit_rows(10, 4)
    one = sparse.csr_array(np.linspace(2, 1, 10, dtype=np.float32)[None])
    votes = accumulate([(0, ViewVotes((one,), one.sum(axis=1)))])
    cosine = {
        method: float(dense(lift(votes, [embeddings], LiftSettings(method, mass=1.0))[0])[0] @ truth)
        for method in ("mean", "gated-median")
    }
    assert cosine["gated-median"] > cosine["mean"]
    assert (
        float(median_directions(sparse.csr_array(np.ones((1, 10))), F.normalize(embeddings, dim=-1))[0] @ truth) > 0.97
    )


def test_gate_keeps_the_strongest() -> None:
    matrix = random_votes().levels[0]
    kept = gate(matrix, 0.5)
    for row, left in zip(matrix.toarray(), kept.toarray(), strict=True):
        expected, total = np.zeros_like(row), 0.0
        for mask in np.argsort(-row, kind="stable"):
            if row[mask] > 0 and total < 0.5 * row.sum():
                expected[mask] = row[mask]
                total += row[mask]
        assert np.array_equal(left, expected)


def test_faint_gaussians_get_no_feature() -> None:
    votes, embeddings = random_votes(), unit_rows(30, 1)
    visible = np.ones(60)
    visible[:10] = 0.001
    features = dense(lift(replace(votes, visible=visible), [embeddings], LiftSettings("gated-median"))[0])
    assert (features[:10] == 0).all() and (features[10:] != 0).any()


def test_faint_gaussians_belong_to_no_object(world: World) -> None:
    visible = world.votes.visible.copy()
    visible[world.owner < 2] *= 1e-5
    (book,) = lift(replace(world.votes, visible=visible), [world.embeddings])
    assert torch.equal(book.index[:, 0] < 0, torch.from_numpy(world.owner < 2))


def test_embeddings_must_go_with_the_votes() -> None:
    votes = random_votes()
    with pytest.raises(ValueError, match=r"\[30\]"):
        lift(votes, [unit_rows(29, 0)])
    rows = [unit_rows(6, view) for view in range(5)]
    (stacked,) = stack_embeddings(votes, lambda view: [rows[view]])
    assert torch.equal(stacked, torch.cat(rows))
    with pytest.raises(ValueError, match="view 3 has"):
        stack_embeddings(votes, lambda view: [rows[view][: 5 if view == 3 else 6]])


# ---- Objects ----


def few_masks(*views: list[int]) -> Votes:
    """Votes of some Gaussians of which every view sees the same. `views`: the mask of each Gaussian, -1 for none."""
    stream = []
    for number, labels in enumerate(views):
        one_hot = np.array([[float(label == mask) for mask in range(max(labels) + 1)] for label in labels])
        matrix = sparse.csr_array(one_hot.astype(np.float32))
        stream.append((number, ViewVotes((matrix,), np.ones(len(labels)))))
    return accumulate(stream)


def test_where_most_views_draw_nothing_nothing_is() -> None:
    """One of four views draws the mask around Gaussians 4 and 5 too, where the others have no mask."""
    votes = few_masks([0] * 6, *[[0] * 4 + [-1] * 2] * 3)
    believed = LiftSettings(consensus=ConsensusSettings(silence=0.0))
    assert (dense(lift(votes, [unit_rows(4, 1)], believed)[0]).norm(dim=-1) > 0).all()
    (book,) = lift(votes, [unit_rows(4, 1)])
    index, weights = book.mixture()
    nothing = (weights * (index == len(book.entries) - 1)).sum(1)
    # Three silent views count as one and a half against one, and squared as 0.69 of all.
    assert nothing[:4].tolist() == [0.0] * 4
    assert nothing[4:].tolist() == pytest.approx([0.692] * 2, abs=0.004)


def test_an_object_of_one_view_does_not_win_by_chance() -> None:
    """Gaussians 0..2 are an object in eight views, 3..5 in one only, whose embedding happens to fit the prompt best."""
    common, other = unit_rows(2, 5)
    prompt = F.normalize(common + 0.2 * other, dim=-1)
    votes = few_masks([0] * 3 + [1] * 3, *[[0] * 3 + [-1] * 3] * 7)
    by_chance = (votes.columns[0] == (0, 1)).all(1)
    embeddings = torch.where(torch.from_numpy(by_chance)[:, None], prompt, common)
    fits = {}
    for prior in (0.0, 1.0):
        (book,) = lift(votes, [embeddings], LiftSettings(consensus=ConsensusSettings(prior=prior)))
        assert torch.allclose(book.entries[:-1].norm(dim=-1), torch.ones(2))
        fits[prior] = (book.entries[:-1] @ prompt).tolist()
    many, single = fits[0.0]
    assert single > many
    assert fits[1.0][1] - fits[1.0][0] < 0.85 * (single - many)
    assert fits[1.0][0] - many < 0.2 * (single - many)


def test_sharpness_favours_the_main_object() -> None:
    """Three of four views have Gaussian 9 with the first object, and one with the second."""
    votes = few_masks(*[[0] * 10 + [1] * 10] * 3, [0] * 9 + [1] * 11)
    for sharpness, expected in ((1.0, 0.75), (2.0, 0.9)):
        (book,) = lift(votes, [unit_rows(8, 2)], LiftSettings(consensus=ConsensusSettings(sharpness=sharpness)))
        _, weights = book.mixture()
        assert float(weights[9, 0]) == pytest.approx(expected, abs=0.004)


class World:
    """Twelve objects of 40 Gaussians, seen in 20 views by a segmenter that makes mistakes.

    Every view sees a random 70 % of the objects, and of these most Gaussians. In views 3, 8 and 15 two neighbouring
    objects are one mask. In views 5 and 12 every object falls into two masks. A tenth of each Gaussian's votes leaks
    into its neighbour's mask, as at borders. Embeddings are the object's vector and noise; one in six masks has been
    taken for something else altogether.
    """

    objects, per_object, views = 12, 40, 20
    joined, split = (3, 8, 15), (5, 12)

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)
        self.meaning = unit_rows(self.objects + 20, 9)
        self.owner = np.repeat(np.arange(self.objects), self.per_object)
        self.truth: list[int] = []
        self.rows: list[Tensor] = []
        self.votes = accumulate((view, self._look(view)) for view in range(self.views))
        self.embeddings = torch.stack(self.rows)
        self.truth_of_mask = np.array(self.truth)

    def _look(self, view: int) -> ViewVotes:
        mask_of = np.full(len(self.owner), -1)
        count = 0
        seen = self.rng.random(self.objects) < 0.7
        for thing in np.flatnonzero(seen):
            inside = np.flatnonzero((self.owner == thing) & (self.rng.random(len(self.owner)) < 0.8))
            join = view in self.joined and thing % 2 == 1 and seen[thing - 1]
            if not join:
                count = self._add_mask(count, thing)
            mask_of[inside] = count - 1
            if join:
                self.truth[-1] = -1
                self.rows[-1] = F.normalize(self.meaning[thing - 1] + self.meaning[thing], dim=-1)
            elif view in self.split:
                count = self._add_mask(count, thing)
                mask_of[inside[len(inside) // 2 :]] = count - 1
        area = self.rng.gamma(2.0, 5.0, len(self.owner)) * (mask_of >= 0)
        votes = np.zeros((len(self.owner), count), np.float32)
        visible = mask_of >= 0
        votes[np.flatnonzero(visible), mask_of[visible]] = 0.9 * area[visible]
        votes[np.flatnonzero(visible), (mask_of[visible] + 1) % count] += 0.1 * area[visible]
        return ViewVotes((sparse.csr_array(votes),), area)

    def _add_mask(self, count: int, thing: int) -> int:
        wrong = self.rng.random() < 1 / 6
        center = self.meaning[self.objects + self.rng.integers(20)] if wrong else self.meaning[thing]
        noise = torch.from_numpy(self.rng.normal(size=DIM).astype(np.float32)) * 0.15
        self.truth.append(thing)
        self.rows.append(F.normalize(center + noise, dim=-1))
        return count + 1


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_views_agree_on_the_objects(world: World) -> None:
    found = find_objects(world.votes.levels[0], world.votes.columns[0][:, 0])
    whole = world.truth_of_mask >= 0
    assert (~whole).sum() >= 8
    # Masks of two objects are contradicted by the other views.
    assert (found.of_mask[~whole] == -1).all()
    # All other masks, halves of objects too, find their object and nothing else.
    pairs = {(int(thing), int(found.of_mask[mask])) for mask, thing in enumerate(world.truth_of_mask) if thing >= 0}
    assert len(pairs) == world.objects
    assert {one for _, one in pairs} == set(range(world.objects))
    assert ((found.shown > 0) == whole).all() and found.shown.max() <= 1


def test_consensus_beats_the_mean_where_views_err(world: World) -> None:
    """By how much a Gaussian's own object beats everything else that masks were or were mistaken for, at the worst."""
    margins = {}
    for method in ("mean", "gated-median", "consensus"):
        (features,) = lift(world.votes, [world.embeddings], LiftSettings(method))
        cosines = dense(features) @ world.meaning.T
        own = cosines.gather(1, torch.from_numpy(world.owner)[:, None])
        others = cosines.scatter(1, torch.from_numpy(world.owner)[:, None], -1.0)
        margins[method] = float((own[:, 0] - others.max(-1).values).min())
    assert margins["consensus"] > 0.3
    assert margins["consensus"] > 1.2 * max(margins["mean"], margins["gated-median"])


def test_consensus_is_a_codebook_with_the_largest_object_first(world: World) -> None:
    (book,) = lift(world.votes, [world.embeddings])
    assert isinstance(book, Codebook) and len(book.entries) == world.objects + 1
    assert (book.entries[-1] == 0).all() and (book.entries[:-1].norm(dim=-1) > 0).all()
    first = book.index[:, 0].numpy()
    assert all(len(set(first[world.owner == thing])) == 1 for thing in range(world.objects))
    things = [world.owner[first == entry][0] for entry in range(world.objects)]
    pixels = world.votes.levels[0].sum(axis=0)
    totals = [pixels[world.truth_of_mask == thing].sum() for thing in things]
    assert totals == sorted(totals, reverse=True)
    # Leaks over the border show as the second place, and weigh less.
    _, weights = book.mixture()
    assert (weights[:, 0] > 0.5).all() and (weights[:, 1] > 0).any()


def test_masks_without_evidence_still_vote_for_objects(world: World) -> None:
    embeddings = world.embeddings.clone()
    embeddings[np.flatnonzero(world.truth_of_mask == 4)] = torch.nan
    only_one = np.flatnonzero(world.truth_of_mask == 7)
    embeddings[only_one[1:]] = torch.nan
    embeddings[only_one[0]] = world.meaning[7]
    (book,) = lift(world.votes, [embeddings])
    rows = dense(book)
    assert (rows[world.owner == 7] @ world.meaning[7] > 0.9).all()
    # An object of which no mask is known has the larger share in its Gaussians, and it answers to nothing.
    scores = gaussian_scores([book], rows[world.owner == 4], -rows[world.owner == 4])
    assert (scores[:, 0, world.owner == 4] < 0.5).all()


def test_one_view_alone_is_believed(world: World) -> None:
    votes = accumulate([(4, World()._look(0))])
    found = find_objects(votes.levels[0], votes.columns[0][:, 0])
    assert np.array_equal(found.of_mask, np.arange(votes.levels[0].shape[1]))


def test_sampling_gaussians_changes_nothing_in_a_clear_case(world: World) -> None:
    settings = replace(LiftSettings().consensus, sample=200)
    views = world.votes.columns[0][:, 0]
    all_of_them, some = (find_objects(world.votes.levels[0], views, one).of_mask for one in (None, settings))
    assert np.array_equal(all_of_them >= 0, some >= 0)
    assert len(set(zip(all_of_them, some, strict=True))) == world.objects + 1


def test_no_votes_no_objects() -> None:
    empty = ViewVotes(
        (sparse.csr_array((5, 3), dtype=np.float32), sparse.csr_array((5, 0), dtype=np.float32)), np.zeros(5)
    )
    books = lift(accumulate([(0, empty), (1, empty)]), [unit_rows(6, 0), unit_rows(0, 0)])
    for book in books:
        assert len(book) == 5 and (dense(book) == 0).all()
