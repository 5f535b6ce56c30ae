"""The language field of a model, and all that its two kinds of models do with it alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.relevancy import relevancy
from lang_splat_ns.language.text import TextCache
from lerf_ns.field import FieldShape, Implementation, LerfField, LossWeights, make_grid_shapes, settle_implementation
from lerf_ns.pyramid import axis_colours, principal_axes
from lerf_ns.scales import candidate_scales

LEVELS = ("scale",)
"""LERF's one level; which scale it stands for is chosen per prompt."""


@dataclass
class LanguageFieldOptions:
    """Fields that the configurations of LERF's models share; the defaults are those of the paper's code."""

    clip_loss_weight: float = 0.1
    """Factor of the Huber loss on CLIP vectors."""
    dino_loss_weight: float = 1.0
    """Factor of the squared error on DINO features."""
    hashgrid_layers: tuple[int, ...] = (12, 12)
    """Resolutions per hash grid."""
    hashgrid_resolutions: tuple[tuple[int, int], ...] = ((16, 128), (128, 512))
    """Coarsest and finest resolution of each hash grid."""
    hashgrid_sizes: tuple[int, ...] = (19, 19)
    """Logarithm of each hash grid's table size to base 2."""
    language_width: int = 256
    """Neurons per hidden layer of the language heads."""
    language_layers: int = 4
    """Hidden layers of the CLIP head."""
    n_scales: int = 30
    """Scales among which the best one is looked for, per prompt."""
    max_scale: float = 1.5
    """Largest of these scales, in nerfstudio's units."""
    features_scale: float = 0.5
    """Scale at which features_pca shows the field."""
    language_chunk: int = 1 << 16
    """Places whose vectors are held in memory at a time while a prompt is answered."""
    queries: tuple[str, ...] = ()
    """Prompts that every render answers (relevancy_0, composited_0, ...), for example for ns-render."""

    def candidate_scales(self) -> tuple[float, ...]:
        """Scales that the search tries."""
        return candidate_scales(self.max_scale, self.n_scales)

    def loss_weights(self) -> LossWeights:
        """Factors of the losses."""
        return LossWeights(self.clip_loss_weight, self.dino_loss_weight)

    def field_shape(self, clip_dim: int, dino_dim: int) -> FieldShape:
        """Sizes of the language field."""
        grids = make_grid_shapes(self.hashgrid_layers, self.hashgrid_resolutions, self.hashgrid_sizes)
        return FieldShape(grids, clip_dim, dino_dim, self.language_width, self.language_layers)


class LanguagePart(nn.Module):
    """A language field with the axes that its colours hang on.

    Args:
        options: sizes.
        clip_dim: length of the encoder's vectors.
        dino_dim: length of DINO's features, or 0.
        device: where it lives.
        implementation: what the model's other fields are made with.
    """

    axes: Tensor

    def __init__(
        self, options: LanguageFieldOptions, clip_dim: int, dino_dim: int, device: Any, implementation: Any = "tcnn"
    ) -> None:
        super().__init__()
        self.kind: Implementation = settle_implementation(implementation, device)
        self.field = LerfField(options.field_shape(clip_dim, dino_dim), self.kind)
        self.register_buffer("axes", torch.zeros(4, clip_dim))
        self.to(device)

    def about(self, encoder_id: str) -> dict[str, Any]:
        """What a checkpoint must know beside the tensors."""
        shape = self.field.shape
        return {
            "levels": list(LEVELS),
            "encoder_id": encoder_id,
            "clip_dim": shape.clip_dim,
            "dino_dim": shape.dino_dim,
            "implementation": self.kind,
        }

    def check_same(self, other: LanguagePart) -> None:
        """Look whether a checkpoint's part can take this one's place, to which optimizers are bound.

        Raises:
            UserError: it has other sizes, or another implementation.
        """
        if self.field.shape != other.field.shape:
            raise UserError("The checkpoint's language field was trained with another encoder or DINO network.")
        if self.kind != other.kind:
            raise UserError(
                f"The checkpoint was trained with --pipeline.model.implementation {other.kind}; "
                f"go on with the same, where now it is {self.kind}."
            )

    def set_axes(self, vectors: Tensor) -> None:
        """Hang the colours on the directions in which the training's own vectors [M, D] differ most."""
        self.axes.copy_(principal_axes(vectors))

    def colours(self, vectors: Tensor) -> Tensor:
        """Colours [..., 3] in 0..1 of CLIP vectors [..., D]."""
        return axis_colours(vectors, self.axes)


def part_for_checkpoint(state: dict[str, Any], prefix: str, options: LanguageFieldOptions, device: Any) -> LanguagePart:
    """An empty language part in the shape that a checkpoint has.

    Args:
        state: of the model.
        prefix: of the part's keys in it.
        options: the run's configuration.
        device: where the part is wanted.

    Raises:
        UserError: the checkpoint has another shape than the configuration says, or lacks something.
    """
    about = (state.get("_extra_state") or {}).get("language")
    if about is None or "clip_dim" not in about:
        raise UserError("The checkpoint holds no language field of LERF; it was made by another method.")
    if about["implementation"] == "tcnn" and settle_implementation("tcnn", device) != "tcnn":
        raise UserError(
            "This run was trained with tiny-cuda-nn, which is not here: open it on a machine with CUDA and "
            "tiny-cuda-nn, or train it with --pipeline.model.implementation torch."
        )
    part = LanguagePart(options, about["clip_dim"], about["dino_dim"], device, about["implementation"])
    for name, tensor in part.state_dict().items():
        found = state.get(f"{prefix}.{name}")
        if found is None or found.shape != tensor.shape:
            has = "lacks" if found is None else f"has shape {tuple(found.shape)} for"
            raise UserError(
                f"The checkpoint {has} {prefix}.{name}, the configuration wants {tuple(tensor.shape)}; were the "
                "--pipeline.model.hashgrid-* or language-* options changed?"
            )
    return part


class PromptVectors:
    """A query's texts as vectors, ready to be compared with what a field shows.

    Args:
        texts: the text side.
        query: prompts and negatives.
        device: where vectors are compared.
    """

    def __init__(self, texts: TextCache, query: Query, device: torch.device | str) -> None:
        self._positives = texts.embed(query.positives, device)
        self._negatives = texts.negatives(query.negatives, device)
        self._temperature = texts.temperature

    def compare(self, vectors: Tensor) -> Tensor:
        """Relevancy of unit vectors [M, D]: [Q, M]; 0 for a row without length."""
        return relevancy(vectors, self._positives, self._negatives, self._temperature)
