"""Checkpoints of VGGT by name or file: loaded whole, or refused in a line that helps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import encoders, hub, rerankers, segmenters
from lang_splat_ns.perception import weights as weight_files
from lang_splat_ns.perception.hub_checkpoints import VGGT_CHECKPOINTS
from lang_splat_ns.scenes.vggt import VGGT, VGGTConfig
from lang_splat_ns.scenes.vggt import weights as vggt_weights
from lang_splat_ns.scenes.vggt.weights import load_vggt

TINY = VGGTConfig.tiny("conv", track=True)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return VGGT(TINY).state_dict()


@pytest.fixture(autouse=True)
def nothing_shown_yet() -> None:
    vggt_weights._show_licence.cache_clear()


@pytest.fixture
def no_other_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing all that the hub has would import all packages that use it, which takes long."""
    for module, name in ((encoders, "ENCODERS"), (rerankers, "RERANKERS"), (segmenters, "SEGMENTERS")):
        monkeypatch.setattr(module, name, replace(getattr(module, name), builtin={}))


def check(model: VGGT, tensors: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())
    assert model(torch.rand(1, 3, 28, 28))["depth"].isfinite().all()


@pytest.mark.parametrize("kind", ["safetensors", "pt", "nested.pt", "bf16.pt"])
def test_files_of_both_kinds(kind: str, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"checkpoint.{kind}"
    if kind == "safetensors":
        save_file(tensors, path)
    elif kind == "bf16.pt":
        tensors = {name: value.bfloat16() for name, value in tensors.items()}
        torch.save(tensors, path)
    else:
        torch.save({"model": tensors} if kind == "nested.pt" else tensors, path)
    check(load_vggt(path, config=TINY), {name: value.float() for name, value in tensors.items()})


def test_heads_that_are_not_wanted_are_passed_over(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "checkpoint.safetensors")
    model = load_vggt(str(tmp_path / "checkpoint.safetensors"), config=VGGTConfig.tiny("conv"))
    check(model, tensors)
    assert model.track_head is None


def test_what_does_not_fit_is_named(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    gone, odd = "camera_head.token_norm.bias", "aggregator.camera_token"
    save_file({name: value for name, value in tensors.items() if name != gone} | {odd: torch.zeros(2, 3)}, path)
    with pytest.raises(UserError) as caught:
        load_vggt(path, config=TINY)
    message = str(caught.value)
    for part in (str(path), f"1 are missing ({gone})", f"1 have another shape ({odd} [2, 3] instead of [1, 2, 1, 64])"):
        assert part in message
    assert "weights fetch vggt" in message and "\n" not in message
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"of \d+ tensors \d+ are missing \(.*, \.\.\.\)"):
        load_vggt(path, config=TINY)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code was run",))


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_broken_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"checkpoint.{kind}"
    path.write_bytes(b"hello")
    with pytest.raises(UserError, match="cannot be loaded as a checkpoint"):
        load_vggt(path, config=TINY)


def test_nothing_but_tensors_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"a": Evil()}, path)
    with pytest.raises(UserError, match="cannot be loaded as a checkpoint"):
        load_vggt(path, config=TINY)
    assert "code was run" not in capsys.readouterr().out
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="no table of tensors"):
        load_vggt(path, config=TINY)


@pytest.mark.parametrize("source", ["gone.safetensors", "folder/gone.pt", "/no/where", "vgt"])
def test_a_checkpoint_that_is_not_there(source: str) -> None:
    with pytest.raises(UserError, match=f"no checkpoint {source}.*vggt or vggt-commercial.*colmap"):
        load_vggt(source)


@pytest.mark.parametrize("source", ["vggt", "vggt-commercial", "facebook/VGGT-1B", "someone/vggt-bf16"])
def test_offline(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG_SPLAT_OFFLINE", "1")
    monkeypatch.setattr(hub, "cached_file", lambda *_: None)
    with pytest.raises(UserError, match=r"LANG_SPLAT_OFFLINE is set.*weights fetch vggt.*or find the cameras"):
        load_vggt(source)


@pytest.mark.usefixtures("no_other_networks")
def test_by_name_from_the_hub(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    asked: list[str] = []

    def download(repository: str, file: str) -> Path:
        asked.append(f"{repository}/{file}")
        if file not in ("model.safetensors", "vggt_1B_commercial.pt"):
            raise RuntimeError("404")
        return tmp_path / "model.safetensors"

    monkeypatch.setattr(hub, "cached_file", lambda *_: None)
    monkeypatch.setattr(hub, "check_reachable", lambda *_, **__: None)
    monkeypatch.setattr(hub, "_get", download)
    for _ in range(2):
        check(load_vggt("vggt", config=TINY), tensors)
    load_vggt("facebook/VGGT-1B", config=TINY)
    assert set(asked) == {"facebook/VGGT-1B/model.safetensors"}
    assert capsys.readouterr().out.count("CC-BY-NC-4.0") == 1, "the licence is shown once"
    load_vggt("vggt-commercial", config=TINY)
    assert "military" in capsys.readouterr().out
    assert weight_files.fetch("vggt") == tmp_path / "model.safetensors"


@pytest.mark.usefixtures("no_other_networks")
def test_names_are_listed_with_their_licences() -> None:
    assert VGGT_CHECKPOINTS.keys() <= weight_files.hub_models().keys()
    rows = {row["name"]: row for row in weight_files.ls()}
    assert rows["vggt"]["licence"] == "CC-BY-NC-4.0" and rows["vggt"]["url"] == "facebook/VGGT-1B"
    assert rows["vggt-commercial"]["url"] == "facebook/VGGT-1B-Commercial"
