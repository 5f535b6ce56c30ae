"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lang_splat_ns.scenes.gallery import write_gallery

# The tensors of the tests are tiny. With several threads torch would spend its time waking and joining them, all the
# more when another process wants the cores too.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo scene at 128 x 72 with 12 photos, 3 of them held out. Read it, do not write into it."""
    out = tmp_path_factory.mktemp("tiny_scene")
    write_gallery(out, width=128, height=72, views=12, held_out=3, points=3000)
    return out


@pytest.fixture(scope="session")
def sharp_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo scene, large enough for features to match between photos. Read it, do not write into it."""
    out = tmp_path_factory.mktemp("sharp_scene")
    write_gallery(out, width=320, height=180, views=12, held_out=3, points=2000)
    return out


@pytest.fixture(scope="session")
def run(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished langsplat run on it. Read it, do not train in it."""
    from runs import langsplat_config, train

    return train(langsplat_config(tiny_scene, tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A local cluster, started once, whose workers find this folder."""
    settings = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**settings, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}.items():
            patch.setenv(name, value)
        import ray

        _start(ray)
        yield
        ray.shutdown()


def _start(ray: Any, tries: int = 3) -> None:
    try:
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80_000_000)
    except Exception:
        # Ray gives itself 30 seconds, which a busy machine may miss.
        ray.shutdown()
        if tries == 1:
            raise
        _start(ray, tries - 1)


@pytest.fixture(scope="session")
def lifted(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished langsplat-lift run on it. Read it, do not train in it."""
    from runs import lift_config, train

    # Things must have taken shape, or no view tells them from what is behind.
    return train(lift_config(tiny_scene, tmp_path_factory.mktemp("lifted"), geometry=240))


@pytest.fixture(scope="session")
def lerf_lite(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished lerf-lite run on it. Read it, do not train in it."""
    from lerf_runs import lerf_config
    from runs import train

    return train(lerf_config(tiny_scene, tmp_path_factory.mktemp("lerf_lite"), steps=40))


@pytest.fixture(scope="session")
def lerf_splat(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished lerf-splat run on it. Read it, do not train in it."""
    from lerf_runs import lerf_splat_config
    from runs import train

    return train(lerf_splat_config(tiny_scene, tmp_path_factory.mktemp("lerf_splat")))


@pytest.fixture(scope="session")
def lerf_runs(
    tiny_scene: Path, lerf_lite: Path, lerf_splat: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders of finished runs of all four methods of LERF. Read them, do not train in them."""
    from lerf_runs import lerf_config
    from runs import train

    short = {
        method: train(lerf_config(tiny_scene, tmp_path_factory.mktemp(method), method, steps=4))
        for method in ("lerf", "lerf-big")
    }
    return short | {"lerf-lite": lerf_lite, "lerf-splat": lerf_splat}


@pytest.fixture(scope="session")
def fastlgs(tiny_scene: Path, lifted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished fastlgs run on the Gaussians of `lifted`. Read it, do not train in it."""
    from fastlgs_runs import fastlgs_config
    from runs import train

    return train(fastlgs_config(tiny_scene, tmp_path_factory.mktemp("fastlgs"), lifted))
