"""The standard `.ply` of 3D Gaussian Splatting, read and written in the data set's own world frame."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_atomically
from lang_splat_ns.splatting.gaussians import Gaussians

if TYPE_CHECKING:
    from plyfile import PlyData

_REQUIRED = (
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
    "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip


def read_ply(path: Path) -> Gaussians:
    """Read a 3DGS `.ply` (binary or ASCII) as it is, in the frame it was written in.

    Raises:
        UserError: the file is missing, no `.ply`, or lacks a property of a Gaussian.
    """
    vertex, names = _open(path)
    return Gaussians(
        means=_columns(vertex, ["x", "y", "z"]),
        scales=_columns(vertex, ["scale_0", "scale_1", "scale_2"]),
        quats=_columns(vertex, ["rot_0", "rot_1", "rot_2", "rot_3"]),
        features_dc=_columns(vertex, ["f_dc_0", "f_dc_1", "f_dc_2"]),
        features_rest=_read_rest(vertex, names),
        opacities=_columns(vertex, ["opacity"]),
    )


def is_point_cloud(path: Path) -> bool:
    """Whether a `.ply` holds plain points and no Gaussians, by its header.

    Raises:
        UserError: the file is missing or no `.ply`.
    """
    names = _read(path)[1]
    return {"x", "y", "z"} <= names and not {"f_dc_0", "opacity", "scale_0", "rot_0"} & names


def read_points(path: Path) -> tuple[Tensor, Tensor | None]:
    """Points of a `.ply` float32 [P, 3] and their colours float32 [P, 3] in 0..255, or None where it has none.

    Raises:
        UserError: the file is missing, no `.ply`, or holds no points.
    """
    vertex, names = _read(path)
    if not {"x", "y", "z"} <= names or not len(vertex.data):
        raise UserError(f"{path}: holds no points.")
    colored = {"red", "green", "blue"} <= names
    return _columns(vertex, ["x", "y", "z"]), _columns(vertex, ["red", "green", "blue"]) if colored else None


def write_ply(path: Path, gaussians: Gaussians) -> None:
    """Write N Gaussians as a binary little-endian 3DGS `.ply`, in the frame that they are in."""
    write_atomically(path, _ply_data(gaussians).write)


def ply_bytes(gaussians: Gaussians) -> bytes:
    """What `write_ply` writes."""
    buffer = io.BytesIO()
    _ply_data(gaussians).write(buffer)
    return buffer.getvalue()


def _ply_data(gaussians: Gaussians) -> PlyData:
    from plyfile import PlyData, PlyElement

    count, rest = len(gaussians.means), gaussians.features_rest.shape[1]
    columns: dict[str, Tensor] = {}
    columns |= dict(zip("xyz", gaussians.means.T, strict=True))
    columns |= {name: torch.zeros(count) for name in ("nx", "ny", "nz")}
    columns |= {f"f_dc_{i}": column for i, column in enumerate(gaussians.features_dc.T)}
    # The format keeps all coefficients of red first, then green, then blue.
    flat = gaussians.features_rest.transpose(1, 2).reshape(count, 3 * rest)
    columns |= {f"f_rest_{i}": flat[:, i] for i in range(3 * rest)}
    columns["opacity"] = gaussians.opacities[:, 0]
    columns |= {f"scale_{i}": column for i, column in enumerate(gaussians.scales.T)}
    columns |= {f"rot_{i}": column for i, column in enumerate(gaussians.quats.T)}
    table = np.empty(count, dtype=[(name, "<f4") for name in columns])
    for name, column in columns.items():
        table[name] = column.detach().cpu().numpy()
    return PlyData([PlyElement.describe(table, "vertex")], byte_order="<")


def sh_degree(path: Path) -> int:
    """Degree of the spherical harmonics of a 3DGS `.ply`, from its header.

    Raises:
        UserError: as `read_ply`.
    """
    return round((_rest_count(_open(path)[1]) // 3 + 1) ** 0.5) - 1


def _open(path: Path) -> tuple[Any, set[str]]:
    """The table of Gaussians and its columns' names."""
    vertex, names = _read(path)
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise UserError(f"{path}: not a 3DGS .ply, it has no property {missing[0]!r} (a point cloud, perhaps?).")
    return vertex, names


def _read(path: Path) -> tuple[Any, set[str]]:
    """The table of vertices, which a binary file keeps on disk until it is read, and its columns' names."""
    from plyfile import PlyData, PlyParseError

    if not path.is_file():
        raise UserError(f"{path}: no such file; init-from takes a run's config.yml, a .ckpt or a 3DGS .ply.")
    try:
        vertex = PlyData.read(str(path))["vertex"]
    except (PlyParseError, KeyError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: not a readable .ply ({error}).") from error
    return vertex, {prop.name for prop in vertex.properties}


def _rest_count(names: set[str]) -> int:
    return sum(name.startswith("f_rest_") for name in names)


def _columns(vertex: Any, names: list[str]) -> Tensor:
    stacked = np.stack([np.asarray(vertex[name], dtype=np.float32) for name in names], axis=1)
    return torch.from_numpy(stacked)


def _read_rest(vertex: Any, names: set[str]) -> Tensor:
    count = _rest_count(names) // 3
    rest = np.empty((len(vertex.data), count, 3), np.float32)
    for column in range(3 * count):
        # The format keeps all coefficients of red first, then green, then blue.
        rest[:, column % count, column // count] = vertex[f"f_rest_{column}"]
    return torch.from_numpy(rest)
