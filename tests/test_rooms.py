"""The rooms that are a library of their own stay one: no nerfstudio, and on a GPU little more than torch and gsplat."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

IMPORT_WITHOUT = """
import importlib, json, pkgutil, sys
blocked, roots, exempt = json.loads(sys.argv[1])
for name in blocked:
    sys.modules[name] = None
names, failed = [], {}
for root in roots:
    names.append(root)
    path = getattr(importlib.import_module(root), "__path__", ())
    names += [module.name for module in pkgutil.walk_packages(path, root + ".") if module.name not in exempt]
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps([names, failed]))
"""

ROOMS = [f"lang_splat_ns.{room}" for room in ("perception", "splatting", "language", "evaluation")]
BENCHMARK = [
    "benchmarks.gpu",
    "lang_splat_ns.splatting.rasterizer",
    "lang_splat_ns.splatting.reference",
    "lang_splat_ns.splatting.gaussians",
    "lang_splat_ns.perception.extract",
    "lang_splat_ns.language.autoencoder",
    "lang_splat_ns.language.relevancy",
    "lang_splat_ns.langsplat.field",
    "lang_splat_ns.langsplat.targets",
    "benchmarks.lift_query",
    "lang_splat_ns.langsplat_lift.field",
    "lang_splat_ns.language.calibration",
]
NOT_ON_A_BARE_MACHINE = (
    "nerfstudio numba skimage open_clip segment_anything mobile_sam scipy PIL cv2 plyfile pytorch_msssim torchvision "
    "transformers tyro viser jinja2 matplotlib platformdirs jaxtyping gsplat"
).split()


@pytest.mark.parametrize(
    ("blocked", "roots", "exempt", "least"),
    [
        (["nerfstudio"], ROOMS, ["lang_splat_ns.splatting.model"], 40),
        (NOT_ON_A_BARE_MACHINE, BENCHMARK, [], len(BENCHMARK)),
    ],
    ids=["rooms without nerfstudio", "GPU benchmark with torch and numpy"],
)
def test_imports(blocked: list[str], roots: list[str], exempt: list[str], least: int) -> None:
    arguments = json.dumps([blocked, roots, exempt])
    done = subprocess.run([sys.executable, "-c", IMPORT_WITHOUT, arguments], capture_output=True, text=True, check=True)
    names, failed = json.loads(done.stdout.splitlines()[-1])
    assert failed == {}
    assert len(names) >= least
