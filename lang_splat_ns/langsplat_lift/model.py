"""`langsplat-lift` as a nerfstudio model: geometry is trained, language is read off the rasterizer in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation

from lang_splat_ns.errors import UserError
from lang_splat_ns.langsplat_lift.field import LiftedField
from lang_splat_ns.langsplat_lift.voting_model import VotingModel, VotingModelConfig
from lang_splat_ns.language.codebook import Codebook
from lang_splat_ns.language.field import QueryMode
from lang_splat_ns.language.lifting import LiftMethod
from lang_splat_ns.splatting.gaussians import Gaussians, from_point_cloud

BUFFERS = ("language_entries", "language_index", "language_weights")


@dataclass
class LangSplatLiftModelConfig(VotingModelConfig):
    """Configuration of langsplat-lift."""

    _target: type = field(default_factory=lambda: LangSplatLiftModel)
    from_points: bool = False
    """Take the points of the data set, or of a point cloud .ply given to init-from, as Gaussians: nothing is trained at
    all. Answers come within seconds of perception; pictures are as coarse as the points."""
    lift_method: LiftMethod = "consensus"
    """consensus: masks of different views that own the same Gaussians are one object, with one robust embedding.
    gated-median: a robust average per Gaussian (VALA). mean: a plain weighted average (Occam's LGS)."""
    query_mode: QueryMode = "scalar"
    """scalar: prompts are compared with every Gaussian and the scores blended, which is fast. feature: features are
    blended and then compared, as in the papers."""
    codebook_size: int = 256
    """Vectors per level that gated-median and mean are compressed to; consensus has one per object."""


class LangSplatLiftModel(VotingModel):
    """3DGS whose Gaussians look their language up in a codebook per level, 15 bytes each.

    Nothing of the language part is trained: which mask owns which Gaussian follows from the rasterizer's weights,
    and features follow from that (see `language.lifting`).
    """

    config: LangSplatLiftModelConfig
    method_name = "langsplat-lift"

    def populate_modules(self) -> None:
        """Make the Gaussians; the language part gets its shape when it is lifted or a checkpoint is loaded."""
        super().populate_modules()
        self.register_buffer("language_entries", torch.zeros(0, 0))  # [K of all levels, D]
        self.register_buffer("language_index", torch.zeros(0, 0, 0, dtype=torch.int16))  # [N, L, T]
        self.register_buffer("language_weights", torch.zeros(0, 0, 0, dtype=torch.uint8))  # [N, L, T - 1]
        self._fields: dict[QueryMode, LiftedField] = {}

    def _initial_gaussians(self) -> Gaussians:
        if not self.config.from_points:
            return super()._initial_gaussians()
        if self.seed_points is None and self.config.init_from is None:
            raise UserError("The data set has no points to take as Gaussians (ply_file_path in transforms.json).")
        points, colors = self.seed_points or (torch.zeros(1, 3), None)
        return from_point_cloud(points, colors, self.config.sh_degree)

    # ---- The language part ----

    def language_field(self, query_mode: QueryMode | None = None) -> LiftedField:
        """The model as the viewer, the evaluator and the commands know it.

        Args:
            query_mode: how prompts are answered; None is the configuration's choice.

        Raises:
            UserError: the scene is not lifted yet.
        """
        mode = query_mode or self.config.query_mode
        if mode not in self._fields:
            # It remembers the last query's scores, which every further camera needs again.
            levels, of_objects = self.about_language()["levels"], self.config.lift_method == "consensus"
            self._fields[mode] = LiftedField(self, self.codebooks(), levels, mode, of_objects)
        return self._fields[mode]

    def query_modes(self) -> tuple[QueryMode, ...]:
        """Both ways, the configuration's choice first."""
        return ("scalar", "feature") if self.config.query_mode == "scalar" else ("feature", "scalar")

    def codebooks(self) -> tuple[Codebook, ...]:
        """The codebook of each level, coarse to fine.

        Raises:
            UserError: the scene is not lifted yet.
        """
        entries = self.language_entries.split(self.about_language()["sizes"])
        return tuple(
            Codebook(entries[level], self.language_index[:, level], self.language_weights[:, level])
            for level in range(len(entries))
        )

    def set_language(self, codebooks: Sequence[Codebook], levels: Sequence[str], encoder_id: str) -> None:
        """Take over a lifted language part.

        Args:
            codebooks: one per level, of this model's Gaussians.
            levels: names of the levels, coarse to fine.
            encoder_id: the encoder that made the features.
        """
        self.language_entries = torch.cat([book.entries for book in codebooks]).to(self.device)
        self.language_index = torch.stack([book.index for book in codebooks], dim=1).to(self.device)
        self.language_weights = torch.stack([book.weights for book in codebooks], dim=1).to(self.device)
        sizes = [len(book.entries) for book in codebooks]
        self._about_language = {"levels": list(levels), "encoder_id": encoder_id, "sizes": sizes}
        self._fields = {}

    def drop_language(self) -> None:
        """Forget the language part, whose Gaussians are about to change."""
        self._about_language, self._fields = None, {}
        for name in BUFFERS:
            setattr(self, name, getattr(self, name)[:0])

    def why_no_language(self) -> str:
        """When the scene is lifted, and how to do it now."""
        return (
            "This scene is not lifted yet: training does it after its last step. To do it now: "
            f"lang-splat lift --load-config {self.run_dir or '<folder of this run>'}/config.yml"
        )

    # ---- Training ----

    def learns_geometry(self, step: int) -> bool:
        """True for all steps, unless the Gaussians were given."""
        return self.config.init_from is None and not self.config.from_points

    def steps_to_train(self, wanted: int) -> int:
        """None where the Gaussians were given: they are only lifted."""
        return wanted if self.learns_geometry(0) else 0

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Callbacks of 3DGS, and the one that drops the language of Gaussians that are trained further."""
        drop = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._before_step)
        return [*super().get_training_callbacks(training_callback_attributes), drop]

    def _before_step(self, step: int) -> None:
        if self.has_language():
            self.drop_language()

    def has_finish(self) -> bool:
        """True: the lift."""
        return True

    def finish_training(self, datamanager: Any, run_dir: Path) -> None:
        """Lift the language onto the trained Gaussians."""
        # Imported here, since every ns-* command imports this module and the vote kernels are slow to import.
        from lang_splat_ns.langsplat_lift.lift import lift_model

        lift_model(self, datamanager, run_dir)

    # ---- State ----

    def load_state_dict(self, state: dict[str, Any], **kwargs: Any) -> Any:
        """Load a checkpoint's model state, giving the language part the shape that it has there.

        Raises:
            UserError: a key is missing, or the language part does not go with the Gaussians.
        """
        missing = [name for name in (*BUFFERS, "_extra_state") if name not in state]
        if missing:
            raise UserError(
                f"The checkpoint has no {missing[0]}; it was not made by langsplat-lift. To lift its Gaussians: "
                "lang-splat lift --load-config <config.yml of that run>"
            )
        for name in BUFFERS:
            setattr(self, name, torch.empty_like(state[name], device=self.device))
        self._fields = {}
        result = super().load_state_dict(state, **kwargs)
        if self.has_language() and len(self.language_index) != self.num_points:
            raise UserError(
                f"The checkpoint has language for {len(self.language_index)} Gaussians but holds {self.num_points}; "
                "it is damaged. Lift it again with lang-splat lift."
            )
        return result
