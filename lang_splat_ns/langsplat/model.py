"""LangSplat as a nerfstudio model: geometry first, then compressed CLIP codes on frozen Gaussians."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.langsplat.field import LangSplatField
from lang_splat_ns.langsplat.targets import CodeTargets, all_embeddings, code_loss
from lang_splat_ns.language.autoencoder import SceneAutoencoder, fit_autoencoder
from lang_splat_ns.language.field import QueryMode
from lang_splat_ns.plugin.frame_features import FrameFeatureSource
from lang_splat_ns.plugin.two_phases import TwoPhaseModel, TwoPhaseModelConfig
from lang_splat_ns.profiles import CPU_GEOMETRY_STEPS, CPU_LANGUAGE_STEPS, shorten

PARAMETER = "language_features"


@dataclass
class LangSplatModelConfig(TwoPhaseModelConfig):
    """Configuration of LangSplat."""

    _target: type = field(default_factory=lambda: LangSplatModel)
    code_dim: int = 3
    """Numbers per Gaussian and level; 3 in the paper. Rendering cost grows with it."""
    autoencoder_epochs: int = 100
    """Passes of the scene autoencoder over all mask embeddings; 100 in the paper, a minute or less."""
    autoencoder_lr: float = 7e-4
    """Learning rate of the scene autoencoder."""
    autoencoder_batch: int = 64
    """Embeddings per step of the scene autoencoder."""

    def fit_cpu(self, config: Any) -> None:
        """What `--preset cpu` means: fewer steps in both phases."""
        super().fit_cpu(config)
        shorten(config, CPU_GEOMETRY_STEPS, CPU_LANGUAGE_STEPS)


@dataclass(frozen=True)
class Language:
    """What a trained language part consists of beside the Gaussians' codes."""

    autoencoder: SceneAutoencoder
    levels: tuple[str, ...]
    encoder_id: str


class LangSplatModel(TwoPhaseModel):
    """3DGS whose Gaussians carry one unit code per level, composited like colour (Qin et al. 2024, section 3).

    All levels are trained in one pass: their losses share no parameter, so the result is that of three runs.
    """

    config: LangSplatModelConfig
    method_name = "langsplat"

    def populate_modules(self) -> None:
        """Make the Gaussians; the language part gets its shape when its training starts or a checkpoint is loaded."""
        super().populate_modules()
        self.language_features = torch.nn.Parameter(torch.zeros(0, 0))  # [N, L * code_dim]
        self.autoencoder: SceneAutoencoder | None = None
        self._targets: CodeTargets | None = None

    # ---- The language part ----

    def language_field(self, query_mode: QueryMode | None = None) -> LangSplatField:
        """The model as the viewer, the evaluator and the commands know it; it only has the mode `feature`.

        Raises:
            UserError: there is no language part yet, or another mode is asked for.
        """
        if query_mode == "scalar":
            raise UserError("langsplat compares features after they are blended; only langsplat-lift knows scalar.")
        self.require_language()
        return LangSplatField(self)

    def require_language(self) -> Language:
        """The language part.

        Raises:
            UserError: its training has not begun.
        """
        about = self.about_language()
        assert self.autoencoder is not None, "a language part has an autoencoder"
        return Language(self.autoencoder, tuple(about["levels"]), about["encoder_id"])

    def unit_codes(self) -> Tensor:
        """Unit codes of all Gaussians: [N, L, code_dim]."""
        levels = len(self.require_language().levels)
        return torch.nn.functional.normalize(self.language_features.reshape(-1, levels, self.config.code_dim), dim=-1)

    # ---- Training ----

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Groups of 3DGS, and the codes."""
        return super().get_param_groups() | {PARAMETER: [self.language_features]}

    def before_language_step(self, attributes: Any, step: int) -> None:
        """Fit the autoencoder and read the targets, once."""
        if self._targets is not None:
            return
        source: FrameFeatureSource = attributes.pipeline.datamanager.features
        if self.autoencoder is None:
            self._fit_autoencoder(source)
        language = self.require_language()
        if source.encoder.encoder_id != language.encoder_id:
            raise UserError(f"This run's codes were made with {language.encoder_id}, not {source.encoder.encoder_id}.")
        self._targets = CodeTargets(source, language.autoencoder, self.device)

    def _fit_autoencoder(self, source: FrameFeatureSource) -> None:
        CONSOLE.print("Geometry is frozen; the language part begins.")
        embeddings = all_embeddings(source).to(self.device)
        self.autoencoder = fit_autoencoder(
            embeddings,
            code_dim=self.config.code_dim,
            epochs=self.config.autoencoder_epochs,
            learning_rate=self.config.autoencoder_lr,
            batch_size=self.config.autoencoder_batch,
            seed=0,
        )
        self._about_language = {"levels": list(source.levels), "encoder_id": source.encoder.encoder_id}
        # The parameter keeps its identity, because its optimizer is bound to it.
        generator = torch.Generator().manual_seed(0)
        shape = (self.num_points, len(source.levels) * self.config.code_dim)
        self.language_features.data = torch.randn(shape, generator=generator).to(self.device)

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """3DGS's outputs while geometry trains and in evaluation; only the blended codes while language trains."""
        if not self.training or self.learns_geometry(self.step):
            return super().get_outputs(camera)
        codes = self.unit_codes()
        image, _ = self.splat(camera, with_color=False, extra=codes.flatten(1), frozen=True)
        return {"codes": image.reshape(*image.shape[:2], *codes.shape[1:])}

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """3DGS's metrics; none while language trains, since no colour is rendered then."""
        if "codes" in outputs:
            return {"gaussian_count": self.num_points}
        return super().get_metrics_dict(outputs, batch)

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """3DGS's loss, or the L1 distance of the blended codes to the pixels' codes where there is a mask."""
        if "codes" not in outputs:
            return super().get_loss_dict(outputs, batch, metrics_dict)
        assert self._targets is not None
        codes = outputs["codes"]
        target, valid = self._targets(int(batch["image_idx"]), *codes.shape[:2])
        return {"language_loss": code_loss(codes, target, valid)}

    # ---- State ----

    def load_state_dict(self, state: dict[str, Any], **kwargs: Any) -> Any:
        """Load a checkpoint's model state, giving the language part the shape that it has there.

        Raises:
            UserError: a key is missing or has another shape than the configuration says.
        """
        if PARAMETER not in state or "_extra_state" not in state:
            raise UserError(
                f"The checkpoint has no {PARAMETER}; it was not made by langsplat. To start from its Gaussians, "
                "train with --pipeline.model.init-from."
            )
        self.language_features.data = torch.zeros_like(state[PARAMETER], device=self.language_features.device)
        if state["_extra_state"].get("language") is not None:
            self.autoencoder = self._empty_autoencoder(state).to(self.device)
        return super().load_state_dict(state, **kwargs)

    def _empty_autoencoder(self, state: dict[str, Any]) -> SceneAutoencoder:
        key = "autoencoder.encoder.0.weight"
        if key not in state:
            raise UserError(f"The checkpoint has no {key}, so its codes cannot be decoded; it is damaged.")
        levels = len(state["_extra_state"]["language"]["levels"])
        if state[PARAMETER].shape[1] != levels * self.config.code_dim:
            raise UserError(
                f"The checkpoint's {PARAMETER} has {state[PARAMETER].shape[1]} channels for {levels} levels; "
                f"--pipeline.model.code-dim {self.config.code_dim} does not fit it."
            )
        return SceneAutoencoder(state[key].shape[1], self.config.code_dim).freeze()
