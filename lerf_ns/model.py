"""LERF (Kerr et al., ICCV 2023) as a nerfstudio model: nerfacto, and a language field that it carries along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.nerfacto import NerfactoModelConfig
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query, QueryMode, RelevancyMaps
from lang_splat_ns.plugin.answering import AnsweringModel
from lang_splat_ns.plugin.prompts import prompt_outputs
from lang_splat_ns.plugin.viewer.session import session_of_this_render
from lerf_ns.datamanager import PIXEL_SPREAD, SCALE_LABEL
from lerf_ns.field import blend, language_losses
from lerf_ns.language_field import RayField, RayPlaces
from lerf_ns.language_part import LanguageFieldOptions, LanguagePart, part_for_checkpoint
from lerf_ns.nerfacto import PlainNerfacto, RaySurface
from lerf_ns.profiles import shrink
from lerf_ns.source import PyramidSource

PART = "language"


@dataclass
class LerfModelConfig(LanguageFieldOptions, NerfactoModelConfig):
    """Configuration of LERF."""

    _target: type = field(default_factory=lambda: LerfModel)
    num_lerf_samples: int = 24
    """Places per ray at which language is read: those that contribute most to the ray's colour."""
    search_rays: int = 4096
    """Rays of a view, evenly spread, on which the best scale of a prompt is looked for."""

    def fit_cpu(self, config: Any) -> None:
        """What `--preset cpu` means."""
        shrink(config)


class LerfModel(AnsweringModel, PlainNerfacto):
    """nerfacto with LERF's language field.

    The field is read at a physical scale, and trained with random scales towards the embedding of the photo's tile of
    that size around the ray. Its gradients never reach nerfacto: weights and positions are detached.
    """

    config: LerfModelConfig
    method_name = "lerf"

    def populate_modules(self) -> None:
        """Make nerfacto; the language part gets its shape when training starts or a checkpoint is loaded."""
        super().populate_modules()
        self.language: LanguagePart | None = None
        self.start_answering(self.config.queries)

    # ---- The language part ----

    def language_field(self, query_mode: QueryMode | None = None) -> RayField:
        """The model as the viewer, the evaluator and the commands know it; it only has the mode `feature`.

        Raises:
            UserError: there is no language part yet, or another mode is asked for.
        """
        if query_mode == "scalar":
            raise UserError("LERF compares features after they are blended; lerf-splat knows scalar.")
        self.about_language()
        return RayField(self)

    def require_language(self) -> LanguagePart:
        """The language part.

        Raises:
            UserError: its training has not begun.
        """
        self.about_language()
        assert self.language is not None, "what is described exists"
        return self.language

    def why_no_language(self) -> str:
        """What to do."""
        return "This run has no language field yet: let it train until it has saved a checkpoint."

    def prepare_language(self, source: PyramidSource) -> None:
        """Give the language part the shape that its targets ask for, before optimizers are made."""
        part = LanguagePart(self.config, source.encoder.dim, source.dino_dim, self.device, self.config.implementation)
        part.set_axes(source.pyramids.vectors)
        self.language, self._about_language = part, part.about(source.encoder.encoder_id)

    # ---- Training ----

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """nerfacto's groups, and `lerf`."""
        return super().get_param_groups() | {"lerf": list(self.require_language().parameters())}

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """nerfacto's outputs, and while training what the language heads show: `clip` and `dino`."""
        outputs, surface = self.render(ray_bundle)
        if self.training and ray_bundle.metadata is not None and SCALE_LABEL in ray_bundle.metadata:
            outputs |= self._language_outputs(ray_bundle.metadata, surface)
        return outputs

    def _language_outputs(self, metadata: dict[str, Tensor], surface: RaySurface) -> dict[str, Tensor | None]:
        part = self.require_language().field
        positions, distances, weights = surface.heaviest(self.config.num_lerf_samples)
        # The size in the scene of what the tile covers, at each place along the ray.
        scales = metadata[SCALE_LABEL] * metadata[PIXEL_SPREAD] * distances
        features = part.read(positions.flatten(0, 1))
        shape = weights.shape
        clip = part.clip(features, scales.reshape(-1, 1)).unflatten(0, shape)
        shown = torch.nn.functional.normalize(blend(weights, clip), dim=-1)
        dino = None if part.dino_head is None else blend(weights, part.dino(features).unflatten(0, shape))
        return {"clip": shown, "dino": dino}

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """nerfacto's losses, and LERF's."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if "clip" in outputs:
            losses |= language_losses(outputs["clip"], outputs["dino"], batch["language"], self.config.loss_weights())
        return losses

    # ---- Rendering ----

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """nerfacto's outputs, `features_pca`, and for each active prompt `relevancy_<i>` and `composited_<i>`.

        In the viewer's own renders it is the panel that says what is asked, and how `rgb` shows the answer.
        """
        session = session_of_this_render(self._viewer_session)
        if session is not None:
            from lang_splat_ns.plugin.viewer.renders import viewer_outputs

            return viewer_outputs(self, camera, obb_box, session)
        return self.answer_camera(camera, self.prompts.active(), obb_box)[0]

    def plain_outputs(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """The same without any answer."""
        return self.answer_camera(camera, None, obb_box)[0]

    @torch.no_grad()
    def answer_camera(
        self,
        camera: Cameras,
        query: Query | None,
        obb_box: OrientedBox | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> tuple[dict[str, Tensor], RelevancyMaps | None]:
        """Render one view and answer a query in it.

        Args:
            camera: one camera.
            query: None answers nothing.
            obb_box: what is rendered; None is everything.
            between: called before each chunk of rays; whatever it raises ends the render.
        """
        rays = self._rays(camera, obb_box)
        height, width = rays.shape
        flat = rays.flatten()
        places = RayPlaces(self, query) if self.has_language() else None
        if places is not None and query is not None:
            places.search(self._spread(flat))
        parts: dict[str, list[Tensor]] = {}
        for ray_bundle in self._chunks(flat):
            between()
            outputs, surface = self.render(ray_bundle)
            if places is not None:
                outputs |= places.read(surface, outputs)
            for name, value in outputs.items():
                parts.setdefault(name, []).append(value)
        whole = {name: torch.cat(values).view(height, width, -1) for name, values in parts.items()}
        answer = whole.pop("relevancy", None)
        if answer is None or places is None:
            return whole, None
        maps = places.maps(answer)
        return whole | prompt_outputs(maps, whole["rgb"]), maps

    @torch.no_grad()
    def surfaces(self, camera: Cameras) -> Iterator[RaySurface]:
        """Where the rays of a view end, in chunks."""
        for ray_bundle in self._chunks(self._rays(camera).flatten()):
            yield self.trace(ray_bundle)

    def _rays(self, camera: Cameras, obb_box: OrientedBox | None = None) -> RayBundle:
        return camera.to(self.device).generate_rays(camera_indices=0, keep_shape=True, obb_box=obb_box)

    def _chunks(self, rays: RayBundle) -> Iterator[RayBundle]:
        size = self.config.eval_num_rays_per_chunk
        for start in range(0, len(rays), size):
            part = rays[start : start + size]
            yield part if self.collider is None else self.collider(part)

    def _spread(self, rays: RayBundle) -> Iterator[RayBundle]:
        """Some of the rays, evenly spread over the view."""
        some = rays[:: max(1, len(rays) // self.config.search_rays)]
        return self._chunks(some)

    # ---- State ----

    def get_extra_state(self) -> dict[str, Any]:
        """The proposal sampler's schedules, and what the language part was made with."""
        return {"format_version": 1, "sampler": self.sampler_state(), "language": self._about_language}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        self.set_sampler_state(state["sampler"])
        self._about_language = state["language"]

    def load_state_dict(self, state: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a checkpoint's model state, giving the language part the shape that it has there.

        Raises:
            UserError: the checkpoint is another method's, or has another shape than the configuration says.
        """
        part = part_for_checkpoint(state, PART, self.config, self.device)
        if self.language is None:
            self.language = part
            if part.kind != self.config.implementation:
                self.rebuild(part.kind)
        else:
            self.language.check_same(part)
        return super().load_state_dict(state, **kwargs)
