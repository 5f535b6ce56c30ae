"""Language features of Gaussians as a safetensors file that any program can read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from lang_splat_ns.files import write_atomically
from lang_splat_ns.language.codebook import Codebook

FORMAT = "lang-splat features 1"


def write_features(
    path: Path, codebooks: Sequence[Codebook], levels: Sequence[str], encoder_id: str, which: torch.Tensor
) -> None:
    """Write the features of some Gaussians, in the order of the `.ply` beside the file.

    For each level, named as in the metadata, there are three tensors:

    - `<level>.entries`: float32 [K, D], unit vectors in the encoder's space; a zero row is something unknown.
    - `<level>.index`: int16 [n, T], which entries a Gaussian has; -1 for none.
    - `<level>.weights`: uint8 [n, T], how much of each, in 1/255; the weights of a Gaussian with entries add up to 255.

    A Gaussian's feature is the sum of its entries by weight, brought to unit length. The metadata (strings) are
    `format`, `levels` (a JSON list, coarse to fine) and `encoder` (the id of the encoder whose texts compare).

    Args:
        path: the file.
        codebooks: one per level, of all Gaussians.
        levels: their names, coarse to fine.
        encoder_id: the encoder that made the features.
        which: int64 [n], the Gaussians that are written, in the order of the rows.
    """
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    for level, book in zip(levels, codebooks, strict=True):
        index = book.index[which]
        others = book.weights[which].int()
        weights = torch.cat([255 - others.sum(1, keepdim=True, dtype=torch.int32), others], dim=1)
        tensors[f"{level}.entries"] = book.entries
        tensors[f"{level}.index"] = index
        tensors[f"{level}.weights"] = torch.where(index >= 0, weights, 0).to(torch.uint8)
    metadata = {"format": FORMAT, "levels": json.dumps(list(levels), ensure_ascii=False), "encoder": encoder_id}
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    write_atomically(path, lambda file: file.write(content))
