"""The rasterizer against its slow twin, against finite differences, and against gsplat."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numba as nb
import numpy as np
import pytest
import torch
from torch import Tensor

from lang_splat_ns.compat import gsplat_wants_two_radii
from lang_splat_ns.splatting import simd
from lang_splat_ns.splatting.cpu_projection import project_compiled
from lang_splat_ns.splatting.projection import project
from lang_splat_ns.splatting.rasterizer import rasterize, spherical_harmonics, view_directions
from lang_splat_ns.splatting.reference import rasterize_reference

NAMES = ("means", "quats", "scales", "opacities", "colors")


def scene(count: int, channels: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Splats of all kinds before a camera at the origin: some behind it, beside the image, huge, tiny, opaque."""
    rng = torch.Generator().manual_seed(seed)
    kinds = torch.arange(count) % 7
    means = torch.randn(count, 3, generator=rng, dtype=dtype) * torch.tensor([1.2, 0.8, 1.0], dtype=dtype)
    means = means + torch.tensor([0.0, 0.0, 4.0], dtype=dtype)
    means[kinds == 1, 2] *= -1
    means[kinds == 2, 0] *= 8
    scales = torch.exp(torch.randn(count, 3, generator=rng, dtype=dtype) * 0.7 - 2.3)
    scales[kinds == 3] *= 12
    scales[kinds == 4] *= 1e-3
    opacities = torch.rand(count, generator=rng, dtype=dtype)
    opacities[kinds == 5] = 1.0
    quats = torch.randn(count, 4, generator=rng, dtype=dtype) * 3
    colors = torch.rand(count, channels, generator=rng, dtype=dtype)
    return dict(zip(NAMES, (means, quats, scales, opacities, colors), strict=True))


def camera(width: int, height: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """A camera that is shifted and turned a little, with its principal point off the middle."""
    turn = torch.tensor(0.1, dtype=dtype)
    viewmat = torch.eye(4, dtype=dtype)
    viewmat[0, 0], viewmat[0, 2], viewmat[2, 0], viewmat[2, 2] = turn.cos(), turn.sin(), -turn.sin(), turn.cos()
    viewmat[:3, 3] = torch.tensor([0.1, -0.05, 0.2], dtype=dtype)
    size = float(max(width, height, 1))
    K = torch.tensor([[0.9 * size, 0, 0.48 * width], [0, 0.95 * size, 0.53 * height], [0, 0, 1]], dtype=dtype)
    return {"viewmat": viewmat, "K": K, "width": width, "height": height}


def draw(
    function: Any, splats: dict[str, Tensor], view: dict[str, Any], background: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor, dict[str, Any], dict[str, Any]]:
    """Render, backpropagate a random loss; returns image, alpha, info and the gradients by name."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in splats.items()}
    backdrop = None if background is None else background.clone().requires_grad_()
    image, alpha, info = function(**leaves, **view, background=backdrop, **options)
    info["means2d"].retain_grad()
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(*image.shape[:2], image.shape[2] + 1, generator=rng).to(image.dtype)
    ((image * noise[..., 1:]).sum() + (alpha * noise[..., :1]).sum()).backward()
    gradients = {name: leaf.grad for name, leaf in leaves.items()} | {"means2d": info["means2d"].grad}
    if backdrop is not None:
        gradients["background"] = backdrop.grad
    return image.detach(), alpha.detach(), info, gradients


def assert_same(ours, twin, tolerance: float = 1e-9) -> None:
    image, alpha, info, gradients = ours
    torch.testing.assert_close(image, twin[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(alpha, twin[1], rtol=tolerance, atol=tolerance)
    assert torch.equal(info["radii"], twin[2]["radii"])
    torch.testing.assert_close(info["depths"], twin[2]["depths"], rtol=tolerance, atol=tolerance)
    for name, expected in twin[3].items():
        scale = float(expected.abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(
            gradients[name], expected, rtol=tolerance, atol=tolerance * max(scale, 1.0), msg=name
        )


@pytest.mark.parametrize(
    ("count", "channels", "width", "height"),
    [(120, 3, 83, 50), (60, 1, 16, 16), (60, 9, 33, 17), (60, 20, 40, 31), (60, 37, 40, 31), (80, 3, 5, 70)],
)
def test_equals_the_twin(count: int, channels: int, width: int, height: int) -> None:
    splats, view = scene(count, channels, seed=channels), camera(width, height)
    background = torch.linspace(0, 1, channels, dtype=torch.float64)
    assert_same(draw(rasterize, splats, view, background), draw(rasterize_reference, splats, view, background))


@pytest.mark.parametrize("channels", [3, 37])
def test_pixels_finish_behind_opaque_splats(channels: int) -> None:
    splats, view = scene(300, channels), camera(40, 30)
    splats["opacities"][:] = 0.97
    ours, twin = draw(rasterize, splats, view), draw(rasterize_reference, splats, view)
    assert float(ours[1].max()) > 0.999, "no pixel came near the end of its light, so nothing was tested"
    assert_same(ours, twin)


def test_antialiased_equals_the_twin() -> None:
    splats, view = scene(120), camera(61, 45)
    splats["scales"] *= 0.2
    ours = draw(rasterize, splats, view, rasterize_mode="antialiased")
    assert_same(ours, draw(rasterize_reference, splats, view, rasterize_mode="antialiased"))
    assert not torch.allclose(ours[0], draw(rasterize, splats, view)[0])


def test_harmonics_and_extra_channels_equal_the_twin() -> None:
    splats, view = scene(80), camera(45, 33)
    splats["colors"] = torch.randn(80, 16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    splats["extra"] = torch.rand(80, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for degree in (0, 2, 3):
        ours = draw(rasterize, splats, view, sh_degree=degree)
        assert ours[0].shape == (33, 45, 7)
        assert_same(ours, draw(rasterize_reference, splats, view, sh_degree=degree))


def test_single_precision_is_close_to_the_twin() -> None:
    splats, view = scene(500, 5, dtype=torch.float32), camera(120, 80, torch.float32)
    image, alpha, _, gradients = draw(rasterize, splats, view)
    exact = draw(
        rasterize_reference,
        {name: tensor.double() for name, tensor in splats.items()},
        {name: value.double() if isinstance(value, Tensor) else value for name, value in view.items()},
    )
    # A pixel on the edge of a splat may fall to either side of 1/255, so the mean is compared and not the maximum.
    assert float((image - exact[0]).abs().mean()) < 1e-5
    assert float((alpha - exact[1]).abs().mean()) < 1e-5
    for name, expected in exact[3].items():
        assert float((gradients[name] - expected).norm() / expected.norm()) < 1e-2, name


@pytest.mark.parametrize(("count", "width", "height"), [(0, 20, 10), (10, 0, 10), (10, 10, 0), (0, 0, 0)])
def test_nothing_to_draw(count: int, width: int, height: int) -> None:
    background = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    image, alpha, info, gradients = draw(rasterize, scene(count), camera(width, height), background)
    assert image.shape == (height, width, 3) and alpha.shape == (height, width, 1)
    torch.testing.assert_close(image, background.expand(height, width, 3))
    assert info["radii"].shape == (1, count)
    assert all(not torch.isnan(gradient).any() for gradient in gradients.values())


def test_broken_splats_are_left_out() -> None:
    splats, view = scene(30), camera(30, 20)
    whole = rasterize(**{name: tensor[10:] for name, tensor in splats.items()}, **view)[0]
    splats["means"][0], splats["means"][1, 2], splats["scales"][2] = torch.nan, torch.inf, torch.inf
    splats["opacities"][3], splats["scales"][4, 0], splats["opacities"][5:10] = torch.nan, torch.nan, 0.0
    torch.testing.assert_close(rasterize(**splats, **view)[0], whole)


def test_gradients_equal_finite_differences() -> None:
    splats, view = scene(5, 2, seed=2), camera(19, 14)
    splats["means"] = splats["means"].abs() * 0.3 + torch.tensor([-0.2, -0.2, 2.0], dtype=torch.float64)
    splats["scales"] = splats["scales"].clamp(0.1, 0.6)
    splats["opacities"] = splats["opacities"].clamp(0.2, 0.8)
    background = torch.rand(2, dtype=torch.float64)

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return rasterize(*tensors[:5], **view, background=tensors[5], rasterize_mode="antialiased")[:2]

    inputs = [*splats.values(), background]
    assert torch.autograd.gradcheck(function, [tensor.requires_grad_() for tensor in inputs], atol=1e-6)


def test_gradients_of_the_camera_equal_the_twin() -> None:
    splats, gradients = scene(60), []
    for function in (rasterize, rasterize_reference):
        view = camera(40, 30)
        view["viewmat"].requires_grad_()
        function(**splats, **view)[0].square().sum().backward()
        gradients.append(view["viewmat"].grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("mode", ["far field", "wide angle"])
def test_compiled_projection_equals_torch(mode: str) -> None:
    splats, view = scene(500), camera(120, 90)
    if mode == "wide angle":
        view["K"][:2, :2] *= 0.1
    outputs, gradients = [], []
    for function in (project_compiled, project):
        leaves = [splats[name].clone().requires_grad_() for name in NAMES[:3]]
        projection = function(*leaves, **view)
        rng = torch.Generator().manual_seed(5)
        smooth = [tensor for tensor in projection if tensor.requires_grad]
        assert len(smooth) == 4
        sum((t * torch.randn(t.shape, generator=rng, dtype=t.dtype)).sum() for t in smooth).backward()
        outputs.append(projection)
        gradients.append([leaf.grad for leaf in leaves])
    for ours, expected in zip(outputs[0] + tuple(gradients[0]), outputs[1] + tuple(gradients[1]), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


def test_absolute_gradients_equal_the_twin() -> None:
    splats, view = scene(100), camera(50, 40)
    _, _, info, _ = draw(rasterize, splats, view, absgrad=True)
    assert info["means2d"].absgrad.shape == (1, 100, 2)
    _, _, twin, _ = draw(rasterize_reference, splats, view)
    expected = torch.zeros(100, 2, dtype=torch.float64)
    for ids, centers in twin["pixel_means2d"]:
        if centers.grad is not None:
            expected.index_add_(0, ids, centers.grad.abs().sum(0))
    torch.testing.assert_close(info["means2d"].absgrad[0], expected, rtol=1e-9, atol=1e-9)
    assert not hasattr(draw(rasterize, splats, view)[2]["means2d"], "absgrad")


def test_two_runs_are_bit_equal() -> None:
    splats, view = scene(3000, 7, dtype=torch.float32), camera(150, 110, torch.float32)
    first, second = (draw(rasterize, splats, view, absgrad=True) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert torch.equal(first[2]["means2d"].absgrad, second[2]["means2d"].absgrad)
    for name, gradient in first[3].items():
        assert torch.equal(gradient, second[3][name]), name


@nb.njit
def _exponentials(x, y):
    for i in range(0, x.size, simd.LANES):
        simd.store(y, i, simd.exp2(simd.load(x, i)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-7), (np.float64, 1e-15)])
def test_fast_exponential_is_accurate(dtype: type, tolerance: float) -> None:
    x = np.linspace(-60, 3, 160_000).astype(dtype)
    y = np.empty_like(x)
    _exponentials(x, y)
    assert np.abs(y / np.exp2(x.astype(np.float64)) - 1).max() < tolerance


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_harmonics_equal_gsplat(degree: int) -> None:
    oracle = pytest.importorskip("gsplat.cuda._torch_impl")
    rng = torch.Generator().manual_seed(degree)
    dirs, coeffs = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((50, 3), (50, 25, 3)))
    torch.testing.assert_close(
        spherical_harmonics(degree, dirs, coeffs), oracle._spherical_harmonics(degree, dirs, coeffs)
    )


def test_projection_equals_gsplat_in_torch() -> None:
    oracle = pytest.importorskip("gsplat.cuda._torch_impl")
    if gsplat_wants_two_radii():
        pytest.skip("we follow gsplat 1.4 in where a splat ends")
    splats, view = scene(400), camera(120, 90)
    covariances, _ = oracle._quat_scale_to_covar_preci(splats["quats"], splats["scales"], compute_preci=False)
    radii, means2d, depths, conics, compensations = oracle._fully_fused_projection(
        splats["means"], covariances, view["viewmat"][None], view["K"][None], 120, 90, calc_compensations=True
    )
    ours = project(splats["means"], splats["quats"], splats["scales"], **view)
    assert torch.equal(ours.radii, radii[0])
    seen = ours.radii > 0
    for mine, theirs in ((ours.means2d, means2d), (ours.depths, depths), (ours.conics, conics)):
        torch.testing.assert_close(mine[seen], theirs[0][seen])
    torch.testing.assert_close(ours.compensations[seen], compensations[0][seen])


def test_gsplat_strategy_densifies_with_our_info() -> None:
    strategies = pytest.importorskip("gsplat.strategy")
    splats, view = scene(200, dtype=torch.float32), camera(48, 32, torch.float32)
    splats |= {"scales": splats["scales"].log(), "opacities": torch.logit(splats["opacities"].clamp(0.01, 0.99))}
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(tensor) for name, tensor in splats.items()})
    optimizers = {name: torch.optim.Adam([parameter], lr=1e-3) for name, parameter in params.items()}
    strategy = strategies.DefaultStrategy(refine_start_iter=4, refine_every=5, grow_grad2d=1e-7, absgrad=True)
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    for step in range(1, 12):
        scales, opacities = params["scales"].exp(), params["opacities"].sigmoid()
        image, _, info = rasterize(
            params["means"], params["quats"], scales, opacities, params["colors"], **view, absgrad=True
        )
        strategy.step_pre_backward(params, optimizers, state, step, info)
        (image - 0.5).square().mean().backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        strategy.step_post_backward(params, optimizers, state, step, info)
    assert len(params["means"]) > 200
    assert all(torch.isfinite(parameter).all() for parameter in params.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so gsplat may be loaded")
def test_gsplat_cuda_stays_out_without_a_gpu() -> None:
    code = (
        "import sys, torch; from lang_splat_ns.splatting.rasterizer import rasterize; "
        "n = 4; rasterize(torch.rand(n, 3) + 1, torch.rand(n, 4), torch.rand(n, 3), torch.rand(n), torch.rand(n, 3), "
        "torch.eye(4), torch.eye(3) * 20, 8, 8); assert 'gsplat.cuda._backend' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU for gsplat's kernels")
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_equals_gsplat_on_cuda(mode: str) -> None:
    splats, view = scene(2000, 5, dtype=torch.float32), camera(200, 130, torch.float32)
    background = torch.rand(5)
    ours = draw(rasterize, splats, view, background, rasterize_mode=mode, absgrad=True)
    splats, view = ({k: v.cuda() if isinstance(v, Tensor) else v for k, v in d.items()} for d in (splats, view))
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in splats.items()}
    image, alpha, info = rasterize(**leaves, **view, background=background.cuda(), rasterize_mode=mode, absgrad=True)
    info["means2d"].retain_grad()
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(130, 200, 6, generator=rng).cuda()
    ((image * noise[..., 1:]).sum() + (alpha * noise[..., :1]).sum()).backward()
    assert float((ours[0] - image.detach().cpu()).abs().mean()) < 1e-4
    assert float((ours[1] - alpha.detach().cpu()).abs().mean()) < 1e-4
    pairs = {name: (ours[3][name], leaf.grad) for name, leaf in leaves.items()}
    pairs["absgrad"] = (ours[2]["means2d"].absgrad, info["means2d"].absgrad)
    for name, (mine, theirs) in pairs.items():
        assert float((mine - theirs.cpu()).norm() / theirs.norm().cpu()) < 2e-2, name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("means", torch.zeros(10, 2)),
        ("quats", torch.zeros(10, 3)),
        ("scales", torch.zeros(9, 3)),
        ("opacities", torch.zeros(10, 1)),
        ("colors", torch.zeros(10, 4, 3)),
        ("viewmat", torch.eye(3)),
        ("K", torch.eye(4)),
        ("background", torch.zeros(4)),
        ("extra", torch.zeros(9, 1)),
        ("colors", torch.zeros(10, 3, dtype=torch.float16)),
        ("width", -1),
        ("rasterize_mode", "sharp"),
    ],
)
def test_mistakes_are_named(name: str, value) -> None:
    arguments: dict[str, Any] = scene(10, dtype=torch.float32) | camera(8, 8, torch.float32)
    with pytest.raises(ValueError, match=name):
        rasterize(**(arguments | {name: value}))


def test_view_directions_are_unit_vectors_from_the_camera() -> None:
    view = camera(8, 8)["viewmat"]
    center = torch.linalg.inv(view)[:3, 3]
    directions = view_directions(center + torch.tensor([[0.0, 0.0, 5.0], [2.0, 0.0, 0.0]], dtype=torch.float64), view)
    torch.testing.assert_close(directions, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64))
