"""Votes against the dense product, over both routes; streaming, merging, pruning and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import pytest
import torch
from scipy import sparse
from test_rasterizer import camera, scene
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.splatting import votes as votes_module
from lang_splat_ns.splatting.rasterizer import rasterize
from lang_splat_ns.splatting.reference import rasterize_reference
from lang_splat_ns.splatting.view_votes import ViewVotes, view_votes, votes_by_gradient
from lang_splat_ns.splatting.votes import Votes, accumulate, load, merge

WIDTH, HEIGHT = 51, 37
COUNTS = (4, 6, 50)


def label_maps(cell: int = 7, seed: int = 0, counts: tuple[int, ...] = COUNTS) -> Tensor:
    """Square patches of masks and of none, with edges inside and along the tiles; cell 1 is noise. int32 [L, H, W]"""
    rng = torch.Generator().manual_seed(seed)
    maps = [torch.randint(-1, count, (HEIGHT // cell + 1, WIDTH // cell + 1), generator=rng) for count in counts]
    grown = torch.stack(maps).repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    return grown[:, :HEIGHT, :WIDTH].int().contiguous()


def splats_and_camera(count: int = 90, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    splats, view = scene(count, seed=seed), camera(WIDTH, HEIGHT)
    del splats["colors"]
    return splats, {name: view[name] for name in ("viewmat", "K")}


def blending_weights(splats: dict[str, Tensor], view: dict[str, Tensor], **options: Any) -> Tensor:
    """alpha T of every Gaussian in every pixel, by the slow twin: an image with one colour per Gaussian. [H, W, N]"""
    colors = torch.eye(len(splats["means"]), dtype=torch.float64)
    return rasterize_reference(**splats, colors=colors, **view, width=WIDTH, height=HEIGHT, **options)[0]


def dense_votes(weights: Tensor, labels: Tensor, counts: tuple[int, ...]) -> list[np.ndarray]:
    """The definition: the transposed weights times one indicator per mask. [N, count] per level"""
    return [
        torch.einsum("hwn,hwm->nm", weights, (level[..., None] == torch.arange(count)).double()).numpy()
        for level, count in zip(labels, counts, strict=True)
    ]


def assert_votes(found: ViewVotes, weights: Tensor, labels: Tensor, counts: tuple[int, ...] = COUNTS) -> None:
    for matrix, expected in zip(found.levels, dense_votes(weights, labels, counts), strict=True):
        np.testing.assert_allclose(matrix.toarray(), expected, rtol=1e-9, atol=1e-12)
        assert matrix.has_sorted_indices and (matrix.data > 0).all() and matrix.indices.dtype == np.int32
    np.testing.assert_allclose(found.visible, weights.sum((0, 1)).numpy(), rtol=1e-9, atol=1e-12)


ROUTES = {
    "compiled": view_votes,
    "gradient": votes_by_gradient,
    "gradient of the twin": lambda *args, **options: votes_by_gradient(*args, draw=rasterize_reference, **options),
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_equals_the_dense_product(route: Callable[..., ViewVotes], mode: Any) -> None:
    splats, view = splats_and_camera()
    if mode == "antialiased":
        splats["scales"] *= 0.2
    labels = label_maps()
    weights = blending_weights(splats, view, rasterize_mode=mode)
    assert weights.max() > 0.9 and (weights.sum((0, 1)) == 0).any()
    assert_votes(route(*splats.values(), *view.values(), labels, COUNTS, rasterize_mode=mode), weights, labels)


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
@pytest.mark.parametrize("case", ["no mask", "no Gaussian", "nothing in view", "no level", "more masks than shown"])
def test_empty_cases(route: Callable[..., ViewVotes], case: str) -> None:
    splats, view = splats_and_camera(0 if case == "no Gaussian" else 20)
    labels, counts = label_maps(), COUNTS
    if case == "no mask":
        labels, counts = torch.full_like(labels, -1), (0, 3, 0)
    elif case == "nothing in view":
        splats["means"][:, 2] = -5.0
    elif case == "no level":
        labels, counts = labels[:0], ()
    elif case == "more masks than shown":
        counts = (70, 6, 51)
    found = route(*splats.values(), *view.values(), labels, counts)
    assert [matrix.shape for matrix in found.levels] == [(len(splats["means"]), count) for count in counts]
    assert_votes(found, blending_weights(splats, view), labels, counts)


def test_pixels_finish_behind_opaque_splats() -> None:
    splats, view = splats_and_camera(300)
    splats["opacities"][:] = 0.97
    weights, labels = blending_weights(splats, view), label_maps()
    assert float(weights.sum(-1).max()) > 0.999, "no pixel came near the end of its light, so nothing was tested"
    assert_votes(view_votes(*splats.values(), *view.values(), labels, COUNTS), weights, labels)


def test_maps_of_noise_are_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from lang_splat_ns.splatting import vote_kernels

    splats, view = splats_and_camera()
    labels = label_maps(cell=1)
    whole = view_votes(*splats.values(), *view.values(), labels, COUNTS)
    assert_votes(whole, blending_weights(splats, view), labels)
    tried = []

    def in_pieces(*args: Any) -> Any:
        pieces, visible = gather(*args, table_size=20_000)
        tried.append(len(pieces))
        return pieces, visible

    gather = vote_kernels.gather_votes
    monkeypatch.setattr(vote_kernels, "gather_votes", in_pieces)
    assert_votes(view_votes(*splats.values(), *view.values(), labels, COUNTS), blending_weights(splats, view), labels)
    assert tried[0] > 2


def test_result_does_not_depend_on_the_threads() -> None:
    splats, view = ({name: tensor.float() for name, tensor in part.items()} for part in splats_and_camera(2000))
    splats["scales"] *= 0.2
    labels, threads = label_maps(), nb.get_num_threads()
    results = []
    try:
        for count in (1, nb.config.NUMBA_NUM_THREADS):
            nb.set_num_threads(count)
            results.append(view_votes(*splats.values(), *view.values(), labels, COUNTS))
    finally:
        nb.set_num_threads(threads)
    assert np.array_equal(results[0].visible, results[1].visible)
    for one, other in zip(results[0].levels, results[1].levels, strict=True):
        assert one.nnz > 1000 and one.dtype == np.float32
        assert all(np.array_equal(getattr(one, part), getattr(other, part)) for part in ("data", "indices", "indptr"))


def test_masks_carry_what_their_pixels_would() -> None:
    """Lifting a feature per pixel is the same as lifting one per mask through the votes."""
    splats, view = splats_and_camera()
    labels, features = label_maps()[:1], torch.randn(COUNTS[0], 8, dtype=torch.float64)
    per_pixel = torch.where((labels[0] >= 0)[..., None], features[labels[0].long()], 0.0)
    colors = torch.zeros(90, 8, dtype=torch.float64, requires_grad=True)
    image = rasterize(**splats, colors=colors, **view, width=WIDTH, height=HEIGHT)[0]
    (image * per_pixel).sum().backward()
    votes = view_votes(*splats.values(), *view.values(), labels, COUNTS[:1]).levels[0]
    np.testing.assert_allclose(votes @ features.numpy(), colors.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", label_maps().long()),
        ("labels", label_maps()[0]),
        ("labels", label_maps()[:2]),
        ("labels of level 1", label_maps(counts=(4, 7, 50))),
        ("labels of level 0", label_maps() - 1),
        ("means", torch.zeros(90, 2)),
        ("opacities", torch.zeros(90, 1, dtype=torch.float64)),
        ("K", torch.eye(4)),
    ],
)
def test_mistakes_are_named(name: str, value: Tensor) -> None:
    splats, view = splats_and_camera()
    arguments: dict[str, Any] = {**splats, **view, "labels": label_maps(), "counts": COUNTS}
    with pytest.raises(ValueError, match=name):
        view_votes(**(arguments | {name.split()[0]: value}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU for gsplat's kernels")
def test_cuda_agrees_with_the_cpu() -> None:
    splats, view = ({name: tensor.float() for name, tensor in part.items()} for part in splats_and_camera(2000))
    labels = label_maps()
    ours = view_votes(*splats.values(), *view.values(), labels, COUNTS)
    theirs = view_votes(*(tensor.cuda() for tensor in (*splats.values(), *view.values(), labels)), COUNTS)
    np.testing.assert_allclose(theirs.visible, ours.visible, rtol=1e-3, atol=1e-2)
    for one, other in zip(ours.levels, theirs.levels, strict=True):
        assert abs(one - other).sum() < 1e-3 * one.sum()


# ---- Many views ----


def random_view(rng: np.random.Generator, gaussians: int = 40, counts: tuple[int, ...] = (5, 8)) -> ViewVotes:
    levels = tuple(
        sparse.csr_array(sparse.random_array((gaussians, count), density=0.4, rng=rng, dtype=np.float32))
        for count in counts
    )
    for matrix in levels:
        matrix.sort_indices()
    return ViewVotes(levels, rng.random(gaussians))


def random_views(count: int = 9) -> list[tuple[int, ViewVotes]]:
    rng = np.random.default_rng(0)
    return [(3 * number, random_view(rng, counts=(number % 4, 8))) for number in range(count)]


def assert_same(one: Votes, other: Votes) -> None:
    assert one.top_k == other.top_k
    for name in ("views", "counts"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ("visible", "dropped"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)
    for left, right in zip(one.levels, other.levels, strict=True):
        assert left.shape == right.shape
        for name in ("data", "indices", "indptr"):
            assert np.array_equal(getattr(left, name), getattr(right, name)), name


def test_views_stand_side_by_side() -> None:
    stream = random_views()
    votes = accumulate(stream)
    assert len(votes) == 40 and votes.views.tolist() == list(range(0, 27, 3))
    for level in range(2):
        expected = np.concatenate([view.levels[level].toarray() for _, view in stream], axis=1)
        assert np.array_equal(votes.levels[level].toarray(), expected)
        assert votes.levels[level].indices.dtype == np.int32
        for (view, mask), column in zip(votes.columns[level], votes.levels[level].T.toarray(), strict=True):
            assert np.array_equal(column, dict(stream)[view].levels[level].toarray()[:, mask])
    np.testing.assert_allclose(votes.visible, sum(view.visible for _, view in stream))
    assert votes.dropped_share.tolist() == [0, 0]


@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("batch", [0, 400, 10**9])
def test_any_order_and_any_split_give_the_same(top_k: int | None, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = accumulate(random_views(), top_k)
    monkeypatch.setattr(votes_module, "_BATCH_ENTRIES", batch)
    stream = random_views()
    assert_same(accumulate(iter(stream[::-1]), top_k), whole)
    assert_same(merge(accumulate(stream[1::2], top_k), accumulate(stream[::2], top_k)), whole)
    parts = [accumulate([one], top_k) for one in stream]
    assert_same(merge(*parts[4:], *parts[:4]), whole)


def test_top_k_keeps_the_strongest_and_says_what_it_costs() -> None:
    full, pruned = accumulate(random_views()), accumulate(random_views(), top_k=4)
    for level in range(2):
        all_rows, kept_rows = full.levels[level].toarray(), pruned.levels[level].toarray()
        for every, kept in zip(all_rows, kept_rows, strict=True):
            assert sorted(kept[kept > 0]) == sorted(every[every > 0])[-4:]
            assert np.array_equal(kept[kept > 0], every[kept > 0])
        lost = 1 - kept_rows.sum() / all_rows.sum()
        assert lost > 0.1
        assert pruned.dropped_share[level] == pytest.approx(lost, rel=1e-5)


def test_ties_go_to_the_earlier_view() -> None:
    one = sparse.csr_array(np.ones((2, 2), np.float32))
    votes = accumulate([(view, ViewVotes((one,), np.ones(2))) for view in (5, 1, 3)], top_k=3)
    assert votes.levels[0].toarray().tolist() == [[1, 1, 1, 0, 0, 0]] * 2
    assert votes.columns[0].tolist() == [[1, 0], [1, 1], [3, 0], [3, 1], [5, 0], [5, 1]]


def test_what_does_not_belong_together_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no votes"):
        accumulate([])
    with pytest.raises(ValueError, match=r"view 7 .* more than once"):
        accumulate([(7, random_view(rng)), (7, random_view(rng))])
    with pytest.raises(ValueError, match="differ"):
        accumulate([(0, random_view(rng, 40)), (1, random_view(rng, 41))])
    with pytest.raises(ValueError, match="differ"):
        merge(accumulate([(0, random_view(rng))]), accumulate([(1, random_view(rng))], top_k=2))


@pytest.mark.parametrize("top_k", [None, 2])
def test_files_give_back_what_was_saved(top_k: int | None, tmp_path: Path) -> None:
    votes, path = accumulate(random_views(), top_k), tmp_path / "sub" / "votes.safetensors"
    votes.save(path, {"images": ["a.jpg", "b.jpg"], "step": 7})
    again, about = load(path)
    assert_same(again, votes)
    assert about == {"images": ["a.jpg", "b.jpg"], "step": 7}
    assert [file.name for file in path.parent.iterdir()] == ["votes.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "another file", "another format"])
def test_broken_files_are_errors_for_users(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "votes.safetensors"
    if damage != "missing":
        accumulate(random_views()).save(path)
        content = path.read_bytes()
        changed = {
            "truncated": content[: len(content) // 2],
            "another file": b"PK" * 100,
            "another format": content.replace(votes_module.FORMAT.encode(), votes_module.FORMAT.encode()[:-1] + b"0"),
        }
        path.write_bytes(changed[damage])
    with pytest.raises(UserError, match=str(path)):
        load(path)
