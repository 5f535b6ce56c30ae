"""VGGT's published checkpoints: found, fetched and loaded.

The real checkpoints have not been loaded by us, since they could not be had where this was written. That their tensors
fit is known from the list of their names and shapes, and the code here is tested with tiny random ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import hub
from lang_splat_ns.perception.hub_checkpoints import VGGT_CHECKPOINTS, WITHOUT
from lang_splat_ns.scenes.vggt.config import VGGTConfig
from lang_splat_ns.scenes.vggt.model import VGGT, half_type

_NAMED = 4


def load_vggt(source: str | Path, device: str | torch.device = "cpu", config: VGGTConfig | None = None) -> VGGT:
    """A network with the weights of a checkpoint, ready to predict.

    On CUDA the trunk's matrices are stored in half precision, in which they are used there anyway.

    Args:
        source: "vggt", "vggt-commercial", a repository on the hub as OWNER/NAME, or a .safetensors or .pt file.
        device: where the network is to be.
        config: its sizes, VGGT-1B by default. A head that is left out saves its memory, and the checkpoint's tensors
            for it are passed over.

    Raises:
        UserError: the checkpoint cannot be had or read, or does not fit.
    """
    path = checkpoint_file(source)
    with torch.device("meta"):
        model = VGGT(config)
    _fill(model, read_tensors(path), path)
    return prepare(model, torch.device(device))


def prepare(model: VGGT, device: torch.device) -> VGGT:
    """Bring a network to a device, in the precision that it is used in there, ready to predict."""
    if device.type == "cuda":
        store_half(model.aggregator, half_type(device))
    return model.eval().requires_grad_(False).to(device)


def store_half(trunk: nn.Module, dtype: torch.dtype) -> None:
    """Store the matrices of linear layers and convolutions in half precision.

    Autocast would convert exactly these, again and again or into a second copy, so no result changes and half the
    memory is saved.
    """
    for module in trunk.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(dtype)


def checkpoint_file(source: str | Path) -> Path:
    """The file that `load_vggt` would load, downloaded if need be; its licence is shown, once.

    Raises:
        UserError: it cannot be had.
    """
    named = {key: entry for entry in VGGT_CHECKPOINTS.values() for key in (entry.name, entry.address)}
    if isinstance(source, str) and source in named:
        entry = named[source]
        path = entry.fetch()
        _show_licence(f"{entry.address}: {entry.licence}, {entry.note}")
        return path
    if Path(source).is_file():
        _show_licence(_of_unknown(str(source)))
        return Path(source)
    if isinstance(source, str) and source.count("/") == 1 and not Path(source).suffix:
        _show_licence(_of_unknown(source))
        return VGGT_CHECKPOINTS["vggt"].fetch(source)
    raise UserError(
        f"there is no checkpoint {source}; say {' or '.join(VGGT_CHECKPOINTS)}, a repository on the hub as "
        f"OWNER/NAME, or a .safetensors or .pt file, or {WITHOUT}"
    )


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a checkpoint by name.

    Args:
        path: a .safetensors file, or else one of `torch.save`, of which nothing but tensors is accepted.

    Raises:
        UserError: it cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Broken files raise whatever the reader of their format raises.
        raise UserError(f"{path} cannot be loaded as a checkpoint: {hub.first_line(error)}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no table of tensors by name, so it is no checkpoint of VGGT")
    return content


def _fill(model: VGGT, tensors: Mapping[str, Tensor], path: Path) -> None:
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in tensors]
    misshapen = [
        f"{name} {list(tensors[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if missing or misshapen:
        parts = [
            f"{len(names)} {what} ({_some(names)})"
            for names, what in ((missing, "are missing"), (misshapen, "have another shape"))
            if names
        ]
        raise UserError(
            f"{path} does not fit this VGGT: of {len(wanted)} tensors {', '.join(parts)}; fetch a whole checkpoint "
            f"with `lang-splat weights fetch vggt`"
        )
    model.load_state_dict({name: tensors[name].float() for name in wanted}, assign=True)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _of_unknown(place: str) -> str:
    kinds = "; ".join(f"{entry.address}: {entry.licence}, {entry.note}" for entry in VGGT_CHECKPOINTS.values())
    return f"{place}: the licence is that of the checkpoint that it is ({kinds})"


@functools.cache
def _show_licence(text: str) -> None:
    """Show it the first time only."""
    CONSOLE.print(f"Weights of VGGT, {text}", markup=False, soft_wrap=True)
