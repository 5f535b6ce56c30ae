"""How gsplat is called on CUDA, checked without one: a stand-in takes gsplat's place and draws with our slow twin."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lang_splat_ns import compat
from lang_splat_ns.errors import UserError
from lang_splat_ns.splatting import rasterizer
from lang_splat_ns.splatting.rasterizer import rasterize
from lang_splat_ns.splatting.reference import rasterize_reference
from lang_splat_ns.splatting.spherical_harmonics import spherical_harmonics


class StandIn:
    """gsplat 1.4.0's two functions with their contracts, on the CPU; remembers the arguments of its last call."""

    def __init__(self) -> None:
        # The installed gsplat's own signature decides which names are right, and what is left out.
        self._signature = inspect.signature(pytest.importorskip("gsplat").rasterization)
        self.arguments: dict[str, Any] = {}

    def rasterization(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        a = self.arguments = bound.arguments
        assert a["packed"] is False, "our callers want rows for all Gaussians"
        assert a["viewmats"].shape == (1, 4, 4) and a["Ks"].shape == (1, 3, 3)
        assert a["width"] > 0 and a["height"] > 0, "a kernel cannot be launched on an empty grid"
        background = a["backgrounds"]
        image, alpha, info = rasterize_reference(
            *(a[name] for name in ("means", "quats", "scales", "opacities", "colors")),
            viewmat=a["viewmats"][0], K=a["Ks"][0], width=a["width"], height=a["height"],
            near_plane=a["near_plane"], rasterize_mode=a["rasterize_mode"], sh_degree=a["sh_degree"],
            background=None if background is None else background.squeeze(0),
        )  # fmt: skip
        return image[None], alpha[None], info | {"width": a["width"], "height": a["height"]}

    def spherical_harmonics(self, degree: int, dirs: Tensor, coeffs: Tensor, masks: Tensor) -> Tensor:
        # The kernel divides by the length without a look at it, and leaves masked rows as they happen to be.
        seen = torch.where(masks[:, None], dirs, torch.tensor([0.0, 0.0, 1.0]))
        values = spherical_harmonics(degree, seen / seen.square().sum(-1, keepdim=True).sqrt(), coeffs)
        return torch.where(masks[:, None], values, torch.nan)


@pytest.fixture
def gsplat(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(rasterizer, "_load_gsplat", lambda: stand_in)
    monkeypatch.setattr(rasterizer, "_rasterize_cpu", rasterizer._rasterize_cuda)
    return stand_in


def scene(**more: Tensor) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    return {
        "means": torch.randn(40, 3, generator=rng) + torch.tensor([0.0, 0.0, 4.0]),
        "quats": torch.randn(40, 4, generator=rng),
        "scales": torch.rand(40, 3, generator=rng) * 0.3 + 0.05,
        "opacities": torch.rand(40, generator=rng),
        "viewmat": torch.eye(4),
        "K": torch.tensor([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]]),
        "width": 32,
        "height": 24,
        **more,
    }


def harmonics() -> Tensor:
    return torch.randn(40, 16, 3, generator=torch.Generator().manual_seed(1)) * 0.3


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"colors": torch.rand(40, 5), "background": torch.rand(5)},
        {"colors": harmonics(), "sh_degree": 2},
        {"colors": harmonics(), "sh_degree": 3, "extra": torch.rand(40, 4), "background": torch.rand(7)},
        {"colors": torch.rand(40, 2), "extra": torch.rand(40, 1)},
    ],
    ids=["channels", "harmonics", "harmonics and channels", "channels and channels"],
)
def test_arguments_reach_gsplat(gsplat: StandIn, options: dict[str, Any], antialiased: bool) -> None:
    arguments = scene() | options | {"rasterize_mode": "antialiased" if antialiased else "classic"}
    image, alpha, info = rasterize(**arguments)
    expected = rasterize_reference(**arguments)
    torch.testing.assert_close(image, expected[0])
    torch.testing.assert_close(alpha, expected[1])
    assert (info["width"], info["height"]) == (32, 24)


@pytest.mark.parametrize(("width", "height"), [(0, 24), (32, 0), (0, 0)])
def test_empty_images(gsplat: StandIn, width: int, height: int) -> None:
    image, alpha, info = rasterize(**scene(colors=torch.rand(40, 3)) | {"width": width, "height": height})
    assert image.shape == (height, width, 3) and alpha.shape == (height, width, 1)
    assert (info["width"], info["height"]) == (width, height)


def test_a_gaussian_in_the_cameras_centre_has_no_gradient(gsplat: StandIn) -> None:
    arguments = scene(colors=harmonics(), extra=torch.rand(40, 1))
    arguments["means"][7] = 0.0
    leaves = {name: arguments[name].requires_grad_() for name in ("means", "colors", "extra")}
    rasterize(**arguments, sh_degree=3)[0].sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all(), name


@pytest.mark.parametrize(("channels", "absgrad", "chunk"), [(3, True, 32), (40, False, 32), (40, True, 40)])
def test_absolute_gradients_take_one_pass(gsplat: StandIn, channels: int, absgrad: bool, chunk: int) -> None:
    rasterize(**scene(colors=torch.rand(40, channels)), absgrad=absgrad)
    assert gsplat.arguments["absgrad"] is absgrad
    assert gsplat.arguments["channel_chunk"] == chunk


def test_missing_kernels_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gsplat")
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=None))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no CUDA kernels") as caught:
        rasterizer._load_gsplat()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "two"), [("1.4.0", False), ("1.4.0+pt24cu121", False), ("1.5.0", True), ("1.10.2", True), (None, False)]
)
def test_radii_have_the_shape_of_the_installed_gsplat(
    monkeypatch: pytest.MonkeyPatch, version: str | None, two: bool
) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise compat.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(compat.importlib.metadata, "version", installed)
    monkeypatch.setattr(rasterizer, "gsplat_wants_two_radii", compat.gsplat_wants_two_radii.__wrapped__)
    arguments = scene(colors=torch.rand(40, 3))
    radii = rasterize(**arguments)[2]["radii"]
    expected = rasterize_reference(**arguments)[2]["radii"]
    if two:
        assert radii.shape == (1, 40, 2)
        # What gsplat 1.5's strategy asks for the visible ones.
        assert torch.equal((radii > 0).all(dim=-1), expected > 0)
        expected = expected[..., None].expand(-1, -1, 2)
    assert torch.equal(radii, expected)
