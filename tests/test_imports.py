"""What every ns-* command imports stays light, and the commands start."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("open_clip", "segment_anything", "mobile_sam", "skimage", "numba", "open3d", "gsplat.cuda._backend", "plyfile")


def test_specs_import_nothing_heavy() -> None:
    # transformers is not in the list: torchmetrics, which nerfstudio imports, looks for it by itself.
    modules = "fastlgs_ns.specs, lang_splat_ns.specs, lerf_ns.specs"
    code = f"import sys, {modules}; print([name for name in {HEAVY!r} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("method", ["3dgs", "langsplat", "langsplat-lift", "lerf-splat", "fastlgs"])
def test_ns_train_help(method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from nerfstudio.scripts.train import entrypoint

    monkeypatch.setattr(sys, "argv", ["ns-train", method, "--help"])
    with pytest.raises(SystemExit) as caught:
        entrypoint()
    assert caught.value.code == 0
    assert "--pipeline.model.init-from" in capsys.readouterr().out
