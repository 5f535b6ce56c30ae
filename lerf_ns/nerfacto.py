"""nerfacto without what keeps it from running here: a network that is downloaded when the model is built, and CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle, RaySamples
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from torch import Tensor

from lang_splat_ns.splatting.image_metrics import ImageMetrics
from lerf_ns.field import Implementation, settle_implementation
from lerf_ns.hash_grid import GridShape, HashGrid


@contextmanager
def without_lpips() -> Iterator[None]:
    """Let nerfacto be built without AlexNet's weights, which its constructor downloads and checkpoints would hold."""
    from torchmetrics.image import lpip

    original = lpip.LearnedPerceptualImagePatchSimilarity
    lpip.LearnedPerceptualImagePatchSimilarity = lambda **options: torch.nn.Identity()  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        lpip.LearnedPerceptualImagePatchSimilarity = original  # type: ignore[misc]


@dataclass(frozen=True)
class RaySurface:
    """What a ray hits.

    Attributes:
        samples: places along the rays. [R, S]
        weights: how much each place contributes to the ray's colour. [R, S, 1]
    """

    samples: RaySamples
    weights: Tensor

    def heaviest(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The `count` places that contribute most: positions [R, K, 3], distances [R, K], weights [R, K], detached."""
        weights, best = torch.topk(self.weights[..., 0].detach(), min(count, self.weights.shape[1]), dim=-1)
        positions = self.samples.frustums.get_positions().detach()
        distances = self.samples.frustums.starts[..., 0].detach()
        return positions.gather(1, best[..., None].expand(-1, -1, 3)), distances.gather(1, best), weights


def _own_grid(theirs: Any) -> HashGrid:
    finest = round(theirs.min_res * theirs.growth_factor ** (theirs.num_levels - 1))
    shape = GridShape(
        theirs.num_levels, theirs.min_res, finest, theirs.log2_hashmap_size, features=theirs.features_per_level
    )
    return HashGrid(shape, initial=theirs.hash_init_scale)


class PlainNerfacto(NerfactoModel):
    """nerfacto that is built offline, on any device, and that tells where its rays end."""

    config: NerfactoModelConfig

    def populate_modules(self) -> None:
        """nerfacto's fields, with tiny-cuda-nn where it is wanted and can run, and with the suite's metrics."""
        device = self.kwargs.get("device", "cpu")
        self.config.implementation = settle_implementation(self.config.implementation, device)
        with without_lpips():
            super().populate_modules()
        if self.config.implementation == "torch" and self.config.camera_optimizer.mode == "off":
            self._take_own_grids()
        self._image_metrics = ImageMetrics()

    def _take_own_grids(self) -> None:
        """Put the suite's hash grids in place of nerfstudio's, which take five times as long on a CPU.

        They have tiny-cuda-nn's layout, but positions get no gradient from them, which only moving cameras need.
        """
        base: Any = self.field.mlp_base.model
        base[0] = _own_grid(base[0])
        for network in self.proposal_networks:
            holder: Any = network
            holder.encoding = _own_grid(holder.encoding)
            if not holder.use_linear:
                holder.mlp_base[0] = holder.encoding

    def rebuild(self, implementation: Implementation) -> None:
        """Make nerfacto's fields anew with another implementation, for a checkpoint that was made with it."""
        device, self.config.implementation = self.device, implementation
        PlainNerfacto.populate_modules(self)
        self.to(device)

    def trace(self, rays: RayBundle) -> RaySurface:
        """Where rays end, by density alone."""
        samples, _, _ = self.proposal_sampler(rays, density_fns=self.density_fns)
        density, _ = self.field.get_density(samples)
        return RaySurface(samples, samples.get_weights(density))

    def render(self, rays: RayBundle) -> tuple[dict[str, Any], RaySurface]:
        """nerfacto's outputs without normals, and where the rays end."""
        if self.training:
            self.camera_optimizer.apply_to_raybundle(rays)
        samples, weights_list, samples_list = self.proposal_sampler(rays, density_fns=self.density_fns)
        made = self.field.forward(samples)
        weights = samples.get_weights(made[FieldHeadNames.DENSITY])
        weights_list.append(weights)
        samples_list.append(samples)
        with torch.no_grad():
            depth = self.renderer_depth(weights=weights, ray_samples=samples)
        outputs: dict[str, Any] = {
            "rgb": self.renderer_rgb(rgb=made[FieldHeadNames.RGB], weights=weights),
            "accumulation": self.renderer_accumulation(weights=weights),
            "depth": depth,
        }
        if self.training:
            outputs |= {"weights_list": weights_list, "ray_samples_list": samples_list}
        return outputs, RaySurface(samples, weights)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM, LPIPS where its weights are there, and the photo beside the render."""
        truth = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        predicted = outputs["rgb"]
        return self._image_metrics(predicted, truth), {"img": torch.cat([truth, predicted], dim=1)}

    def sampler_state(self) -> dict[str, float]:
        """Where the proposal sampler's schedules stand, which nerfstudio keeps in no checkpoint."""
        sampler = self.proposal_sampler
        return {
            "anneal": float(sampler._anneal),
            "steps_since_update": int(sampler._steps_since_update),
            "step": int(sampler._step),
        }

    def set_sampler_state(self, state: dict[str, Any]) -> None:
        """Restore what `sampler_state` gave."""
        sampler = self.proposal_sampler
        sampler._anneal, sampler._step = state["anneal"], state["step"]
        sampler._steps_since_update = state["steps_since_update"]
