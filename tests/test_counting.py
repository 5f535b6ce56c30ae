"""Votes of many views: a Ray cluster counts what one process counts, bit for bit, also when a worker is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from perception_fakes import DeadlyLabels, MeanColour, Stripes

from lang_splat_ns.errors import UserError
from lang_splat_ns.langsplat_lift.counting import Counting, count_here, count_on_ray
from lang_splat_ns.perception.extract import Frame, extract
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.view_labels import StoredLabels
from lang_splat_ns.splatting.votes import Votes, accumulate

VIEWS = 10


def make_job(store: FeatureStore) -> Counting:
    """Random Gaussians before ten cameras, whose photos differ in size and are segmented at twice the views' size."""
    sizes = [(24, 32) if index % 2 else (36, 28) for index in range(VIEWS)]
    photos = [np.full((2 * height, 2 * width, 3), index, np.uint8) for index, (height, width) in enumerate(sizes)]
    frames = [Frame(f"{index}", f"photo-{index}", lambda photo=photo: photo) for index, photo in enumerate(photos)]
    extract(frames, Stripes(), MeanColour(), store)
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(400, 11, generator=generator)
    viewmats, intrinsics = torch.eye(4).repeat(VIEWS, 1, 1), torch.eye(3).repeat(VIEWS, 1, 1)
    viewmats[:, 0, 3] = torch.linspace(-0.3, 0.3, VIEWS)
    intrinsics[:, :2] *= 30
    intrinsics[:, :2, 2] = torch.tensor([[width / 2, height / 2] for height, width in sizes])
    return Counting(
        gaussians=(
            random[:, :3] * 2 + torch.tensor([-1.0, -1.0, 1.5]),
            random[:, 3:7] - 0.5,
            random[:, 7:10] * 0.1 + 0.01,
            random[:, 10],
        ),
        views=(viewmats, intrinsics),
        sizes=sizes,
        labels=StoredLabels.of(frames, Stripes.segmenter_id, store),
        top_k=4,
        rasterize_mode="classic",
    )


def same(one: Votes, other: Votes) -> bool:
    arrays = [
        (left, right)
        for name in ("views", "counts", "visible", "dropped")
        for left, right in [(getattr(one, name), getattr(other, name))]
    ]
    for left, right in zip(one.levels, other.levels, strict=True):
        arrays += [(left.indptr, right.indptr), (left.indices, right.indices), (left.data, right.data)]
    return all(np.array_equal(left, right) for left, right in arrays)


def test_views_in_parts_are_the_views(tmp_path: Path) -> None:
    job = make_job(FeatureStore(tmp_path))
    found = count_here(job)
    expected = accumulate(((index, job.view(index)) for index in range(VIEWS)), job.top_k)
    assert found.views.tolist() == list(range(VIEWS)) and found.dropped.sum() > 0
    for left, right in zip(found.levels, expected.levels, strict=True):
        assert np.array_equal(left.toarray(), right.toarray())
    assert np.allclose(found.visible, expected.visible, rtol=1e-12)
    # Every view has its own size, and each of its pixels that the Gaussians cover counts once at each level.
    full = count_here(replace(job, top_k=10_000))
    assert np.allclose(full.levels[0].sum(1), full.visible, rtol=1e-4)
    assert np.allclose(full.levels[1].sum(1), full.visible, rtol=1e-4)


def test_antialiased_gaussians_are_counted_as_they_are_drawn(tmp_path: Path) -> None:
    from lang_splat_ns.splatting.rasterizer import rasterize

    job = replace(make_job(FeatureStore(tmp_path)), rasterize_mode="antialiased")
    (height, width), (viewmats, intrinsics) = job.sizes[1], job.views
    means, quats, scales, opacities = job.gaussians
    _, alpha, _ = rasterize(
        means, quats, scales, opacities, torch.ones(len(means), 1), viewmats[1], intrinsics[1], width, height,
        rasterize_mode="antialiased",
    )  # fmt: skip
    assert job.view(1).visible.sum() == pytest.approx(float(alpha.sum()), rel=1e-4)
    assert count_here(job).visible.sum() < 0.99 * count_here(replace(job, rasterize_mode="classic")).visible.sum()


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_counts_the_same_bit_for_bit_although_a_worker_is_killed(tmp_path: Path) -> None:
    job = make_job(FeatureStore(tmp_path / "store"))
    labels = job.labels
    assert isinstance(labels, StoredLabels)
    found = count_on_ray(job, DeadlyLabels(labels, tmp_path, deadly=5), workers=2)
    assert (tmp_path / "killed").exists()
    assert same(found, count_here(job))
    with pytest.raises(UserError, match="label maps of nobody"):
        count_on_ray(job, StoredLabels.of(labels.frames, "nobody", labels.store), workers=1)
