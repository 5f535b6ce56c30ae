"""FastLGS as a nerfstudio model: geometry first, then codes of objects on Gaussians, frozen or not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from fastlgs_ns.field import FastLGSField
from fastlgs_ns.grid import SemanticGrid
from fastlgs_ns.matching import Matcher
from fastlgs_ns.profiles import shorten_fastlgs
from fastlgs_ns.targets import PaintedMasks
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.langsplat.targets import code_loss
from lang_splat_ns.langsplat_lift.voting_model import VotingModel, VotingModelConfig
from lang_splat_ns.language.field import QueryMode
from lang_splat_ns.plugin.two_phases import TwoPhaseModel, TwoPhaseModelConfig

PARAMETER, GRID = "object_codes", "grid"


@dataclass
class FastLGSModelConfig(TwoPhaseModelConfig, VotingModelConfig):
    """Configuration of FastLGS."""

    _target: type = field(default_factory=lambda: FastLGSModel)
    geometry: Literal["frozen", "joint"] = "frozen"
    """What becomes of geometry once language trains. frozen: it stays. joint: colour and geometry train on, and codes
    move Gaussians too; none is added or taken away any more, since masks were matched on those that are there. Slower,
    and not better by itself (mIoU after 200 steps: demo 0.82, frozen 0.83; desk 0.41, frozen 0.39)."""
    matcher: Matcher = "votes"
    """How masks of different photos become one object. fastlgs: keypoints, colours and embeddings, as published. votes:
    masks that own the same Gaussians; the default, since it is right most often (adjusted Rand index, mean over four
    labelled scenes: 0.83, fastlgs 0.81). sam2-video: masks are followed by SAM 2's video model, whose weights it
    needs."""
    code_dim: int = 3
    """Numbers per Gaussian and level; 3 in the paper. Rendering cost grows with it, and so does the codes' distance."""
    initial_codes: Literal["votes", "zero"] = "votes"
    """What training of the codes starts from. votes: the object that has the most of each Gaussian, so that a few
    hundred steps do. zero: nothing, as published; needs the full schedule (mIoU after 200 steps: desk 0.20, votes 0.39;
    demo 0.00, votes 0.83)."""
    alpha: float = 0.25
    """matcher fastlgs: weight of colour in the similarity; the rest is the embedding's. Not known from the paper;
    chosen with theta by `benchmarks.fastlgs sweep`, as the best mean of four labelled scenes."""
    theta: float = 0.7
    """matcher fastlgs: similarity from which two masks are one object; chosen with alpha."""
    match_neighbours: int = 4
    """matcher fastlgs: photos passed before that each photo is compared with, the nearest ones by camera."""
    match_keypoints: int = 2048
    """matcher fastlgs: SIFT keypoints per photo."""
    match_ratio: float = 0.8
    """matcher fastlgs: Lowe's ratio; a keypoint's best match must be so much nearer than its second best."""
    sam2_variant: str | None = None
    """matcher sam2-video: OWNER/NAME of a SAM 2 on the hub, or a folder with one; by default SAM 2.1 Hiera-L."""
    min_views: int = 2
    """Photos that must have seen an object; what a single one shows has no code, so that the others' are farther
    apart."""
    views_per_object: int = 16
    """Embeddings that the grid keeps of an object, those of the photos that show it largest."""
    query_views: Literal["mean", "best"] = "mean"
    """What a prompt is compared with. mean: the robust mean of all of an object's embeddings. best: each of those that
    the grid keeps, and the most similar one counts; on the demo scene that finds more that is not there."""
    tolerance: float = 0.4
    """How far a rendered code may be from an object's to be taken for it, in units of the two nearest codes'
    distance."""

    def fit_cpu(self, config: Any) -> None:
        """What `--preset cpu` means."""
        super().fit_cpu(config)
        shorten_fastlgs(config)


class FastLGSModel(TwoPhaseModel, VotingModel):
    """3DGS whose Gaussians carry one code per level, composited like colour (Ji et al. 2025).

    All levels are trained in one pass: their losses share no parameter, so the result is that of three runs.
    """

    config: FastLGSModelConfig
    method_name = "fastlgs"

    def populate_modules(self) -> None:
        """Make the Gaussians; the language part gets its shape when its training starts or a checkpoint is loaded."""
        super().populate_modules()
        self.object_codes = torch.nn.Parameter(torch.zeros(0, 0))  # [N, L * code_dim]
        self.grid: SemanticGrid | None = None
        self._targets: PaintedMasks | None = None
        self._field: FastLGSField | None = None

    # ---- The language part ----

    def language_field(self, query_mode: QueryMode | None = None) -> FastLGSField:
        """The model as the viewer, the evaluator and the commands know it; it only has the mode `feature`.

        Raises:
            UserError: there is no language part yet, or another mode is asked for.
        """
        if query_mode == "scalar":
            raise UserError("fastlgs reads objects off blended codes; only langsplat-lift and lerf-splat know scalar.")
        self.about_language()
        if self._field is None:
            self._field = FastLGSField(self)
        return self._field

    def require_grid(self) -> SemanticGrid:
        """The semantic feature grid.

        Raises:
            UserError: the training of the language part has not begun.
        """
        self.about_language()
        assert self.grid is not None, "a language part has a grid"
        return self.grid

    # ---- Training ----

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Groups of 3DGS, and the codes."""
        return super().get_param_groups() | {PARAMETER: [self.object_codes]}

    def before_language_step(self, attributes: Any, step: int) -> None:
        """Match masks, make the grid and read the targets, once."""
        if self._targets is not None:
            return
        pipeline = attributes.pipeline
        source = pipeline.datamanager.features
        if self.grid is None:
            # Imported here, since every ns-* command imports this module.
            from fastlgs_ns.begin import begin_language

            frozen = self.config.geometry == "frozen"
            CONSOLE.print(f"Geometry {'is frozen' if frozen else 'trains on'}; the language part begins.")
            self.grid, codes = begin_language(self, pipeline.datamanager)
            # The parameter keeps its identity, because its optimizer is bound to it.
            self.object_codes.data = codes
            self._about_language = {"levels": list(source.levels), "encoder_id": source.encoder.encoder_id}
            self._about_language |= self.grid.about() | {"matcher": self.config.matcher}
        about = self.about_language()
        if source.encoder.encoder_id != about["encoder_id"]:
            raise UserError(f"This run's grid was made with {about['encoder_id']}, not {source.encoder.encoder_id}.")
        self._targets = PaintedMasks(source.labels, self.grid)

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """3DGS's outputs while geometry trains and in evaluation, the blended codes while language trains: alone where
        geometry is frozen, else beside the colours."""
        if not self.training or self.learns_geometry(self.step):
            return super().get_outputs(camera)
        if self.config.geometry == "joint":
            image, alpha = self.splat(camera, extra=self.object_codes)
            codes = {"codes": image[..., 3:].unflatten(-1, (-1, self.config.code_dim))}
            return self.image_outputs(camera, image, alpha, with_depth=False) | codes
        image, _ = self.splat(camera, with_color=False, extra=self.object_codes, frozen=True)
        return {"codes": image.unflatten(-1, (-1, self.config.code_dim))}

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """3DGS's metrics; none while language trains on frozen geometry, since no colour is rendered then."""
        if "rgb" not in outputs:
            return {"gaussian_count": self.num_points}
        return super().get_metrics_dict(outputs, batch)

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """3DGS's loss, the L1 distance of the blended codes to the painted masks where there is an object, or both."""
        if "codes" not in outputs:
            return super().get_loss_dict(outputs, batch, metrics_dict)
        assert self._targets is not None
        codes = outputs["codes"]
        target, valid = self._targets(int(batch["image_idx"]), *codes.shape[:2])
        losses = {"language_loss": code_loss(codes, target, valid)}
        return losses | (super().get_loss_dict(outputs, batch, metrics_dict) if "rgb" in outputs else {})

    # ---- State ----

    def load_state_dict(self, state: dict[str, Any], **kwargs: Any) -> Any:
        """Load a checkpoint's model state, giving the language part the shape that it has there.

        Raises:
            UserError: a key is missing or has another shape than the configuration says.
        """
        if PARAMETER not in state or "_extra_state" not in state:
            raise UserError(
                f"The checkpoint has no {PARAMETER}; it was not made by fastlgs. To start from its Gaussians, "
                "train with --pipeline.model.init-from."
            )
        self.object_codes.data = torch.zeros_like(state[PARAMETER], device=self.object_codes.device)
        self._field = None
        about = state["_extra_state"].get("language")
        if about is not None:
            self.grid = SemanticGrid.for_checkpoint(state, f"{GRID}.", about).to(self.device)
            self._check_shape(state, about)
        return super().load_state_dict(state, **kwargs)

    def _check_shape(self, state: dict[str, Any], about: dict[str, Any]) -> None:
        wanted = (len(state["gauss_params.means"]), len(about["levels"]) * self.config.code_dim)
        if tuple(state[PARAMETER].shape) != wanted:
            raise UserError(
                f"The checkpoint's {PARAMETER} has shape {tuple(state[PARAMETER].shape)} where {wanted} was expected; "
                f"was --pipeline.model.code-dim {self.config.code_dim} changed?"
            )
