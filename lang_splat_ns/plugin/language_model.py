"""What all Gaussian models that answer text share: the text side, the active prompts, and what renders show of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from torch import Tensor

from lang_splat_ns.language.field import QueryMode
from lang_splat_ns.language.splat_field import SplatField
from lang_splat_ns.plugin.answering import AnsweringModel
from lang_splat_ns.plugin.prompts import prompt_outputs
from lang_splat_ns.plugin.viewer.session import session_of_this_render
from lang_splat_ns.splatting.model import GaussianSplattingModel, GaussianSplattingModelConfig
from lang_splat_ns.splatting.neighbours import Neighbours, nearest_neighbours


@dataclass
class LanguageSplatModelConfig(GaussianSplattingModelConfig):
    """Configuration that all language methods on Gaussians share."""

    queries: tuple[str, ...] = ()
    """Prompts that every render answers (relevancy_0, composited_0, ...), for example for ns-render."""

    def fit_cpu(self, config: Any) -> None:
        """What `--preset cpu` means: fewer steps, and fewer prompts for the segmenter."""
        super().fit_cpu(config)
        config.pipeline.datamanager.points_per_side = 16


class LanguageSplatModel(AnsweringModel, GaussianSplattingModel):
    """3DGS with a language part that comes to exist during or after training.

    A method says how the part is made, and gives a `SplatField` that reads it.
    """

    config: LanguageSplatModelConfig
    method_name = "language splatting"
    """What the viewer calls the method."""

    def populate_modules(self) -> None:
        """Make the Gaussians and the text side; the language part is still empty."""
        super().populate_modules()
        self._neighbours: tuple[tuple[int, int, int], Neighbours] | None = None
        self.start_answering(self.config.queries)

    def language_field(self, query_mode: QueryMode | None = None) -> SplatField:
        """The model as the viewer, the evaluator and the commands know it.

        Args:
            query_mode: how prompts are answered; None is the configuration's choice.

        Raises:
            UserError: there is no language part yet, or the method does not have that mode.
        """
        raise NotImplementedError

    @torch.no_grad()
    def blend(self, camera: Cameras, values: Tensor, only: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Composite values of the Gaussians as one camera sees them; see `language.splat_field.Splatter`."""
        return self.splat(camera.to(self.device), with_color=False, extra=values, only=only)

    def neighbours(self) -> Neighbours:
        """What lies around each Gaussian; found once, as long as no Gaussian moves."""
        key = (self.means.data_ptr(), self.means._version, len(self.means))
        if self._neighbours is None or self._neighbours[0] != key:
            opacities = torch.sigmoid(self.opacities.detach()).squeeze(-1)
            self._neighbours = key, nearest_neighbours(self.means, opacities)
        return self._neighbours[1]

    def contributions(self, camera: Cameras) -> Tensor:
        """How much of each Gaussian one camera sees: float [N]; see `language.splat_field.Splatter`.

        The gradient of a rendered channel with respect to the Gaussians' values is exactly their blending weights.
        """
        with torch.enable_grad():
            values = torch.zeros(self.num_points, 1, device=self.device, requires_grad=True)
            image, _ = self.splat(camera.to(self.device), with_color=False, extra=values, frozen=True)
            (weights,) = torch.autograd.grad(image.sum(), values)
        return weights[:, 0]

    # ---- Rendering ----

    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """3DGS's outputs, `features_pca`, and for each active prompt `relevancy_<i>` and `composited_<i>`.

        In the viewer's own renders it is the panel that says what is asked, and how `rgb` shows the answer.
        """
        session = session_of_this_render(self._viewer_session)
        if session is not None:
            from lang_splat_ns.plugin.viewer.renders import viewer_outputs

            return viewer_outputs(self, camera, obb_box, session)
        if not self.has_language():
            return self.plain_outputs(camera, obb_box)
        self.set_crop(obb_box)
        field, query = self.language_field(), self.prompts.active()
        with torch.no_grad():
            image, alpha = self.splat(camera.to(self.device), with_depth=True, extra=field.channels(query))
            outputs = self.image_outputs(camera, image[..., :4], alpha, with_depth=True)
            blended = image[..., 4:]
            outputs["features_pca"] = torch.lerp(outputs["background"], field.colors(blended), alpha)
            if query is not None:
                outputs |= prompt_outputs(field.answer(camera, blended, query), outputs["rgb"])
        return outputs

    def plain_outputs(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """3DGS's outputs and nothing else."""
        return super().get_outputs_for_camera(camera, obb_box)

    # ---- State ----

    def get_extra_state(self) -> dict[str, Any]:
        """3DGS's state and what the language part was made with."""
        return super().get_extra_state() | {"language": self._about_language}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        super().set_extra_state(state)
        self._about_language = state.get("language")
