"""lerf-splat: LERF's language field, read at the centres of Gaussians and composited by the rasterizer."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import QueryMode
from lang_splat_ns.plugin.two_phases import TwoPhaseModel, TwoPhaseModelConfig
from lang_splat_ns.splatting.projection import opencv_view
from lerf_ns.field import language_losses
from lerf_ns.language_part import LanguageFieldOptions, LanguagePart, part_for_checkpoint
from lerf_ns.profiles import shrink_splat
from lerf_ns.source import PyramidSource
from lerf_ns.splat_field import LerfSplatField

PART, GROUP = "language", "lerf"
_MARGIN = 1.3
"""Gaussians count as in view up to this many half image sides from the middle, since large ones reach inside."""


@dataclass
class LerfSplatModelConfig(LanguageFieldOptions, TwoPhaseModelConfig):
    """Configuration of lerf-splat."""

    _target: type = field(default_factory=lambda: LerfSplatModel)
    language_decay_steps: int = 4000
    """Steps over which the language field's learning rate falls to a tenth."""
    language_pixels: int = 4096
    """Pixels per training step: the photo's view is rendered in about this size while language trains."""
    query_mode: QueryMode = "scalar"
    """scalar: prompts are compared with every Gaussian and the scores blended, which is fast. feature: features are
    blended and then compared, as LERF does along rays."""
    search_gaussians: int = 1 << 14
    """Gaussians, solid ones, on which the best scale of a prompt is looked for."""

    def fit_cpu(self, config: Any) -> None:
        """What `--preset cpu` means."""
        shrink_splat(config)


class LerfSplatModel(TwoPhaseModel):
    """3DGS, then LERF's field at its frozen Gaussians.

    Each step renders one photo's view in a small size at one random scale, and compares what its pixels show with the
    photo's pyramid. What LERF does with places along a ray happens here with the Gaussians that a ray meets.
    """

    config: LerfSplatModelConfig
    method_name = "lerf-splat"

    def populate_modules(self) -> None:
        """Make the Gaussians; the language part gets its shape when training starts or a checkpoint is loaded."""
        super().populate_modules()
        self.language: LanguagePart | None = None
        self._source: PyramidSource | None = None
        self._fields: dict[QueryMode, LerfSplatField] = {}

    # ---- The language part ----

    def language_field(self, query_mode: QueryMode | None = None) -> LerfSplatField:
        """The model as the viewer, the evaluator and the commands know it.

        Args:
            query_mode: how prompts are answered; None is the configuration's choice.

        Raises:
            UserError: the training of the language part has not begun.
        """
        self.about_language()
        mode = query_mode or self.config.query_mode
        if mode not in self._fields:
            # It remembers the last query's scores, which every further camera needs again.
            self._fields[mode] = LerfSplatField(self, mode)
        return self._fields[mode]

    def query_modes(self) -> tuple[QueryMode, ...]:
        """Both ways, the configuration's choice first."""
        return ("scalar", "feature") if self.config.query_mode == "scalar" else ("feature", "scalar")

    def has_language(self) -> bool:
        """True once the language part is being trained."""
        return super().has_language() and self.step >= self.first_language_step()

    def about_language(self) -> dict[str, Any]:
        """See `AnsweringModel.about_language`."""
        if not self.has_language():
            raise UserError(self.why_no_language())
        return super().about_language()

    def require_language(self) -> LanguagePart:
        """The language part, trained or not."""
        assert self.language is not None, "it is made before training, or with a checkpoint"
        return self.language

    def prepare_language(self, source: PyramidSource) -> None:
        """Give the language part the shape that its targets ask for, before optimizers are made."""
        self._source = source
        part = LanguagePart(self.config, source.encoder.dim, source.dino_dim, self.device)
        part.set_axes(source.pyramids.vectors)
        self.language, self._about_language = part, part.about(source.encoder.encoder_id)

    # ---- Training ----

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Groups of 3DGS, and the language field."""
        return super().get_param_groups() | {GROUP: list(self.require_language().parameters())}

    def before_language_step(self, attributes: Any, step: int) -> None:
        """Set the learning rate that the language field has at a step."""
        # What was remembered of the field is about to be out of date.
        self._fields = {}
        optimizers = attributes.optimizers
        if step == self.first_language_step():
            CONSOLE.print("Geometry is frozen; the language part begins.")
        done = min((step - self.first_language_step()) / max(self.config.language_decay_steps, 1), 1.0)
        for group in optimizers.optimizers[GROUP].param_groups:
            group["lr"] = optimizers.config[GROUP]["optimizer"].lr * 0.1**done

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """3DGS's outputs while geometry trains and in evaluation; what the heads show while language trains."""
        if not self.training or self.learns_geometry(self.step):
            return super().get_outputs(camera)
        label = float(torch.rand(()))
        small = self._small(camera)
        values, seen = self._gaussian_values(small, label)
        image, _ = self.splat(small, with_color=False, extra=values, only=seen, frozen=True)
        dim = self.require_language().field.shape.clip_dim
        clip, dino = F.normalize(image[..., :dim], dim=-1), image[..., dim:] if image.shape[-1] > dim else None
        return {"clip": clip, "dino": dino, "label": label}

    def _gaussian_values(self, camera: Cameras, label: float) -> tuple[Tensor, Tensor]:
        """What Gaussians in view show, [N, clip_dim + dino_dim], zeros elsewhere, and which they are, bool [N]."""
        part, means = self.require_language().field, self.means.detach()
        seen = _in_view(camera, means)
        places = means[seen]
        position = camera.camera_to_worlds[0, :3, 3].to(means)
        spread = float(camera.height[0, 0] / camera.fy[0, 0])
        scales = label * spread * (places - position).norm(dim=-1, keepdim=True)
        features = part.read(places)
        vectors = part.clip(features, scales)
        if part.dino_head is not None:
            vectors = torch.cat([vectors, part.dino(features)], dim=-1)
        values = vectors.new_zeros(len(means), vectors.shape[1])
        return values.index_put((seen,), vectors), seen

    def _small(self, camera: Cameras) -> Cameras:
        """The same view in about as many pixels as a training step takes."""
        pixels = int(camera.height[0, 0]) * int(camera.width[0, 0])
        factor = (self.config.language_pixels / pixels) ** 0.5
        if factor >= 1:
            return camera
        small = deepcopy(camera)
        small.rescale_output_resolution(factor)
        return small

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """3DGS's metrics; none while language trains, since no colour is rendered then."""
        if "clip" in outputs:
            return {"gaussian_count": self.num_points}
        return super().get_metrics_dict(outputs, batch)

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """3DGS's loss, or LERF's."""
        if "clip" not in outputs:
            return super().get_loss_dict(outputs, batch, metrics_dict)
        assert self._source is not None, "training has targets"
        height, width = outputs["clip"].shape[:2]
        rows, columns = (torch.arange(side) + 0.5 for side in (height, width))
        places = torch.cartesian_prod(rows / height, columns / width)
        photos = torch.full((len(places),), int(batch["image_idx"]))
        targets = self._source.targets(photos, places, torch.full((len(places),), outputs["label"]))
        dino = None if outputs["dino"] is None else outputs["dino"].flatten(0, 1)
        return language_losses(outputs["clip"].flatten(0, 1), dino, targets, self.config.loss_weights())

    # ---- State ----

    def load_state_dict(self, state: dict[str, Any], **kwargs: Any) -> Any:
        """Load a checkpoint's model state, giving the language part the shape that it has there.

        Raises:
            UserError: the checkpoint is another method's, or has another shape than the configuration says.
        """
        part = part_for_checkpoint(state, PART, self.config, self.device)
        if self.language is None:
            self.language = part
        else:
            self.language.check_same(part)
        self._fields = {}
        return super().load_state_dict(state, **kwargs)


def _in_view(camera: Cameras, means: Tensor) -> Tensor:
    """Which centres [N, 3] lie before a camera and not far outside of its image: bool [N]."""
    view = opencv_view(camera.camera_to_worlds[0].to(means))
    x, y, depth = (means @ view[:3, :3].T + view[:3, 3]).unbind(-1)
    half_width, half_height = camera.width[0, 0] / camera.fx[0, 0] / 2, camera.height[0, 0] / camera.fy[0, 0] / 2
    inside = (x.abs() < _MARGIN * float(half_width) * depth) & (y.abs() < _MARGIN * float(half_height) * depth)
    return inside & (depth > 0.01)
