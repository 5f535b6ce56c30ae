"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

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
def run(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished langsplat run on it. Read it, do not train in it."""
    from runs import langsplat_config, train

    return train(langsplat_config(tiny_scene, tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="session")
def lifted(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished langsplat-lift run on it. Read it, do not train in it."""
    from runs import lift_config, train

    return train(lift_config(tiny_scene, tmp_path_factory.mktemp("lifted")))
