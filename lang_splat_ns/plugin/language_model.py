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
from lang_splat_ns.splatting.model import GaussianSplattingModel, GaussianSplattingModelConfig


@dataclass
class LanguageSplatModelConfig(GaussianSplattingModelConfig):
    """Configuration that all language methods on Gaussians share."""

    queries: tuple[str, ...] = ()
    """Prompts that every render answers (relevancy_0, composited_0, ...), for example for ns-render."""


class LanguageSplatModel(AnsweringModel, GaussianSplattingModel):
    """3DGS with a language part that comes to exist during or after training.

    A method says how the part is made, and gives a `SplatField` that reads it.
    """

    config: LanguageSplatModelConfig

    def populate_modules(self) -> None:
        """Make the Gaussians and the text side; the language part is still empty."""
        super().populate_modules()
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

    # ---- Rendering ----

    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """3DGS's outputs, `features_pca`, and for each active prompt `relevancy_<i>` and `composited_<i>`."""
        if not self.has_language():
            return super().get_outputs_for_camera(camera, obb_box)
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

    # ---- State ----

    def get_extra_state(self) -> dict[str, Any]:
        """3DGS's state and what the language part was made with."""
        return super().get_extra_state() | {"language": self._about_language}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        super().set_extra_state(state)
        self._about_language = state.get("language")
