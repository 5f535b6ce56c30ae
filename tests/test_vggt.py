"""VGGT's network equals the official one: names, shapes and, for tiny random networks, every number."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lang_splat_ns.scenes.vggt import VGGT, VGGTConfig
from lang_splat_ns.scenes.vggt.geometry import decode_cameras, unproject
from lang_splat_ns.scenes.vggt.weights import store_half

SHARED = Path(__file__).resolve().parents[2] / "shared" / "vggt"
PREFIX = "weights."

needs_references = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/vggt, the official code's figures")

IMPORT_ALONE = """
import importlib, pkgutil, sys
for name in sys.argv[1].split():
    sys.modules[name] = None
package = importlib.import_module("lang_splat_ns.scenes.vggt")
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
import torch

from benchmarks.gpu_vggt import main

# See conftest.py.
torch.set_num_threads(1)
main(["--device", "cpu", "--tiny", "--out", sys.argv[2]])
print(len(names))
"""


def reference(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and figures of a reference file."""
    from safetensors.torch import load_file

    content = load_file(SHARED / f"tiny_{name}.safetensors")
    weights = {key.removeprefix(PREFIX): value for key, value in content.items() if key.startswith(PREFIX)}
    return weights, {key: value for key, value in content.items() if not key.startswith(PREFIX)}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tiny() -> VGGT:
    """A tiny network with random weights, lively enough that everything matters."""
    torch.manual_seed(0)
    model = VGGT(VGGTConfig.tiny("conv", track=True)).eval()
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    return model


@needs_references
def test_names_and_shapes_of_the_full_network() -> None:
    with torch.device("meta"):
        model = VGGT()
    found = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == json.loads((SHARED / "vggt_1b_state_dict.json").read_text())
    assert len(found) == 1797 and sum(weight.numel() for weight in model.parameters()) == 1_256_537_516


@needs_references
@pytest.mark.parametrize("name", ["conv", "dino", "dino_wide"])
def test_equals_the_official_network(name: str) -> None:
    weights, figures = reference(name)
    model = VGGT(VGGTConfig.tiny("conv") if name == "conv" else VGGTConfig.tiny()).eval()
    model.load_state_dict(weights)
    images = figures["images"]
    found = model(images)
    assert model.camera_head is not None
    assert found.keys() == {"pose_enc", "depth", "depth_conf", "world_points", "world_points_conf", "images"}
    tokens = model.aggregator(images)[model.config.depth - 1]
    found |= {"last_tokens": tokens, "pose_enc_first_iteration": model.camera_head(tokens)[0]}
    found["extrinsics"], found["intrinsics"] = decode_cameras(found["pose_enc"], *images.shape[-2:])
    depth = found["depth"][0, ..., 0]
    lifted = unproject(depth, found["extrinsics"][0], found["intrinsics"][0], pixel_centre=0)
    torch.testing.assert_close(lifted, figures.pop("unprojected"), rtol=1e-4, atol=1e-4)
    for key, value in figures.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


@needs_references
def test_equals_the_official_tracker() -> None:
    weights, figures = reference("conv")
    track_weights, track_figures = reference("track")
    model = VGGT(VGGTConfig.tiny("conv", track=True)).eval()
    model.load_state_dict(weights | track_weights)
    found = model(figures["images"], track_figures["query_points"])
    for key in ("track", "vis", "conf"):
        torch.testing.assert_close(found[key], track_figures[key], rtol=0, atol=1e-4)


def test_batches_and_chunks_change_nothing(tiny: VGGT) -> None:
    images, queries = torch.rand(2, 3, 3, 28, 42), torch.rand(2, 5, 2) * 28
    together = tiny(images, queries)
    assert together["depth"].shape == (2, 3, 28, 42, 1) and together["track"].shape == (2, 3, 5, 2)
    alone = tiny(images[1], queries[1], frames_chunk_size=2)
    for key, value in alone.items():
        torch.testing.assert_close(value[0], together[key][1], rtol=1e-4, atol=1e-4)
    assert torch.equal(alone["track"][0, 0], queries[1]), "a point was moved where it was given"


def test_only_what_is_wanted_is_done_and_kept(tiny: VGGT) -> None:
    images = torch.rand(2, 3, 28, 28)
    assert tiny(images, heads=("camera",)).keys() == {"pose_enc", "images"}
    few = tiny.aggregator(images[None], {1})
    assert list(few) == [1]
    assert torch.equal(few[1], tiny.aggregator(images[None], {0, 1, 3})[1])


def test_the_first_frame_makes_the_world(tiny: VGGT) -> None:
    """Frames but the first are a set: their order does not matter."""
    images = torch.rand(4, 3, 28, 28)
    order = [0, 3, 1, 2]
    found, other = tiny(images), tiny(images[order])
    torch.testing.assert_close(found["pose_enc"][:, order], other["pose_enc"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found["pose_enc"][:, 1], tiny(images[[1, 0, 2, 3]])["pose_enc"][:, 0], atol=1e-2)


def test_wrong_shapes_are_named(tiny: VGGT) -> None:
    with pytest.raises(ValueError, match=r"multiples of 14, not \(1, 2, 3, 28, 30\)"):
        tiny(torch.rand(2, 3, 28, 30))
    with pytest.raises(ValueError, match="query_points"):
        tiny(torch.rand(2, 3, 28, 28), torch.rand(5, 3))
    with pytest.raises(ValueError, match="no track head"):
        VGGT(VGGTConfig.tiny())(torch.rand(2, 3, 28, 28), torch.rand(5, 2))


def test_stored_half_is_what_autocast_makes(tiny: VGGT) -> None:
    images = torch.rand(1, 2, 3, 28, 28)
    weights = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    stored = VGGT(tiny.config).eval()
    stored.load_state_dict(weights)
    store_half(stored.aggregator, torch.bfloat16)
    assert stored.aggregator.frame_blocks[0].get_parameter("attn.qkv.weight").dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = tiny.aggregator(images)[3], stored.aggregator(images)[3]
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    torch.testing.assert_close(found, tiny.aggregator(images)[3], rtol=0.1, atol=0.1)


def test_needs_torch_only_and_is_measured(tmp_path: Path) -> None:
    blocked = "nerfstudio numba einops scipy PIL cv2 transformers huggingface_hub pycolmap jaxtyping torchvision tyro"
    arguments = [sys.executable, "-c", IMPORT_ALONE, blocked, str(tmp_path / "vggt.json")]
    root = Path(__file__).parents[1]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=root)
    assert int(done.stdout.splitlines()[-1]) >= 15
    rows = json.loads((tmp_path / "vggt.json").read_text())["vggt"]
    assert [(row["part"], row["frames"]) for row in rows] == [
        (part, frames) for part in ("aggregator", "network") for frames in (1, 2)
    ]
    assert all(row["seconds"] > 0 for row in rows)
