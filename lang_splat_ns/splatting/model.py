"""`3dgs`: 3D Gaussian Splatting (Kerbl et al. 2023) as a nerfstudio model that runs with and without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from gsplat.strategy import DefaultStrategy
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from nerfstudio.utils.colors import get_color
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.profiles import CPU_GEOMETRY_STEPS, shorten
from lang_splat_ns.splatting.gaussians import PARAMETER_NAMES, Gaussians, from_points
from lang_splat_ns.splatting.image_metrics import ImageMetrics
from lang_splat_ns.splatting.projection import opencv_view
from lang_splat_ns.splatting.rasterizer import rasterize
from lang_splat_ns.training_hooks import TrainingHooks

# nerfstudio's viewer shows this colour behind a scene, so renders in evaluation do too.
_VIEWER_BACKGROUND = (0.1490, 0.1647, 0.2157)


@dataclass
class GaussianSplattingModelConfig(SplatfactoModelConfig):
    """Configuration of 3D Gaussian Splatting."""

    _target: type = field(default_factory=lambda: GaussianSplattingModel)
    init_from: Path | None = None
    """Start from finished Gaussians instead of points: a run's config.yml, a step-*.ckpt, or a 3DGS .ply."""
    ply_frame: Literal["dataset", "nerfstudio"] = "dataset"
    """Frame of a .ply given to init-from: the data set's own world, or nerfstudio's (files of ns-export)."""

    def fit_cpu(self, config: Any) -> None:
        """What `--preset cpu` means; every method's model configuration has such a method.

        Args:
            config: the trainer configuration that this one is a part of; changed in place.
        """
        shorten(config, CPU_GEOMETRY_STEPS)


class GaussianSplattingModel(TrainingHooks, SplatfactoModel):
    """Gaussians that are rendered by `rasterize` and densified by gsplat's strategy.

    A `SplatfactoModel`, so that `ns-export gaussian-splat` and everything else made for splatfacto accepts it.
    Parameters keep their identity when a checkpoint is loaded, so optimizers stay bound to them.
    """

    config: GaussianSplattingModelConfig

    def populate_modules(self) -> None:
        """Make the Gaussians, the camera optimizer, the metrics and the densification strategy."""
        self.gauss_params = torch.nn.ParameterDict()
        self.set_gaussians(self._initial_gaussians())
        self.camera_optimizer: CameraOptimizer = self.config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        if self.config.use_bilateral_grid:
            from nerfstudio.model_components.lib_bilagrid import BilateralGrid

            x, y, w = self.config.grid_shape
            self.bil_grids = BilateralGrid(num=self.num_train_data, grid_X=x, grid_Y=y, grid_W=w)
        self._image_metrics = ImageMetrics(color_corrected=self.config.color_corrected_metrics)
        # SplatfactoModel's loss and training metrics look for these two names.
        self.psnr, self.ssim = self._image_metrics.psnr, self._image_metrics.ssim
        self.step = 0
        self.crop_box: OrientedBox | None = None
        self.background_color = self._fixed_background()
        self.strategy = self._make_strategy()
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)

    def _initial_gaussians(self) -> Gaussians:
        if self.seed_points is not None and not self.config.random_init:
            return from_points(*self.seed_points, sh_degree=self.config.sh_degree)
        points = (torch.rand(self.config.num_random, 3) - 0.5) * self.config.random_scale
        return from_points(points, None, sh_degree=self.config.sh_degree)

    def _make_strategy(self) -> DefaultStrategy:
        config = self.config
        return DefaultStrategy(
            prune_opa=config.cull_alpha_thresh,
            grow_grad2d=config.densify_grad_thresh,
            grow_scale3d=config.densify_size_thresh,
            grow_scale2d=config.split_screen_size,
            prune_scale3d=config.cull_scale_thresh,
            prune_scale2d=config.cull_screen_size,
            refine_scale2d_stop_iter=config.stop_screen_size_at,
            refine_start_iter=config.warmup_length,
            refine_stop_iter=config.stop_split_at,
            reset_every=config.reset_alpha_every * config.refine_every,
            refine_every=config.refine_every,
            pause_refine_after_reset=self.num_train_data + config.refine_every,
            absgrad=config.use_absgrad,
        )

    def _fixed_background(self) -> Tensor:
        if self.config.background_color == "random":
            return torch.tensor(_VIEWER_BACKGROUND)
        return get_color(self.config.background_color)

    # ---- Gaussians ----

    def gaussians(self) -> Gaussians:
        """The current Gaussians, in nerfstudio's frame."""
        return Gaussians(**{name: self.gauss_params[name] for name in PARAMETER_NAMES})

    def set_gaussians(self, gaussians: Gaussians) -> None:
        """Replace all Gaussians, in nerfstudio's frame, keeping the Parameter objects that optimizers hold."""
        gaussians = gaussians.with_sh_degree(self.config.sh_degree)
        for name, tensor in gaussians.tensors().items():
            if name in self.gauss_params:
                self.gauss_params[name].data = tensor.to(self.gauss_params[name].device)
            else:
                self.gauss_params[name] = torch.nn.Parameter(tensor)

    # ---- Rendering ----

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """Render one camera: `rgb` [H, W, 3], `depth` [H, W, 1] (None in training unless asked for),
        `accumulation` [H, W, 1] and `background`."""
        with_depth = self.config.output_depth_during_training or not self.training
        image, alpha = self.splat(camera, with_depth=with_depth, densify=self.training)
        return self.image_outputs(camera, image, alpha, with_depth)

    def image_outputs(self, camera: Cameras, image: Tensor, alpha: Tensor, with_depth: bool) -> dict[str, Any]:
        """nerfstudio's outputs from a splatted image [H, W, 3 or 4] and its alpha [H, W, 1]."""
        background = self._get_background_color()
        rgb = (image[..., :3] + (1 - alpha) * background).clamp(0.0, 1.0)
        metadata = camera.metadata or {}
        if self.config.use_bilateral_grid and self.training and "cam_idx" in metadata:
            rgb = self._apply_bilateral_grid(rgb[None], metadata["cam_idx"], *rgb.shape[:2])[0]
        return {
            "rgb": rgb,
            "depth": _expected_depth(image[..., 3:4], alpha) if with_depth else None,
            "accumulation": alpha,
            "background": background if self.training else background.expand(*rgb.shape[:2], 3),
        }

    def splat(
        self,
        camera: Cameras,
        *,
        with_color: bool = True,
        with_depth: bool = False,
        extra: Tensor | None = None,
        only: Tensor | None = None,
        densify: bool = False,
        frozen: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Composite colour, depth and extra channels, in this order, in front of nothing.

        Args:
            camera: one camera, nerfstudio's OpenGL convention.
            with_color: begin with the three colour channels.
            with_depth: append one channel, the blended distance along the optical axis.
            extra: [N, E] channels per Gaussian that are blended along, appended last.
            only: bool [N], Gaussians that are drawn; None draws all.
            densify: record what the densification strategy needs from this render.
            frozen: let gradients reach `extra` only.

        Returns:
            Image [H, W, 3 + 1 + E], not yet divided by or composited with alpha, and alpha [H, W, 1].
        """
        viewmat, intrinsics, width, height = self._view(camera)
        kept = _both(self._inside_crop(), only)
        chosen = self.gaussians().tensors()
        if frozen:
            chosen = {name: tensor.detach() for name, tensor in chosen.items()}
        if kept is not None:
            chosen = {name: tensor[kept] for name, tensor in chosen.items()}
            extra = None if extra is None else extra[kept]
        channels = [chosen["means"] @ viewmat[2, :3, None] + viewmat[2, 3]] if with_depth else []
        channels += [] if extra is None else [extra]
        appended = torch.cat(channels, dim=-1) if channels else None
        color, degree = self._color(chosen) if with_color else (appended, None)
        assert color is not None, "there is nothing to draw"
        image, alpha, info = rasterize(
            chosen["means"],
            chosen["quats"],
            torch.exp(chosen["scales"]),
            torch.sigmoid(chosen["opacities"]).squeeze(-1),
            color,
            viewmat,
            intrinsics,
            width,
            height,
            sh_degree=degree,
            extra=appended if with_color else None,
            absgrad=self.strategy.absgrad and densify,
            rasterize_mode=self.config.rasterize_mode,
        )
        if densify:
            self.info = info
            self.strategy.step_pre_backward(self.gauss_params, self.optimizers, self.strategy_state, self.step, info)
        return image, alpha

    def _color(self, chosen: dict[str, Tensor]) -> tuple[Tensor, int | None]:
        """Colours for the rasterizer, and the degree of the harmonics if they are harmonics."""
        if self.config.sh_degree == 0:
            return torch.sigmoid(chosen["features_dc"]), None
        return torch.cat([chosen["features_dc"][:, None], chosen["features_rest"]], dim=1), self._sh_degree()

    def _sh_degree(self) -> int:
        """Degree of the harmonics in use, which rises during training; finished Gaussians use all of theirs."""
        if self.config.init_from is not None:
            return self.config.sh_degree
        return min(self.step // self.config.sh_degree_interval, self.config.sh_degree)

    def _view(self, camera: Cameras) -> tuple[Tensor, Tensor, int, int]:
        """World-to-camera (OpenCV) [4, 4], intrinsics [3, 3] and size at the current training resolution.

        The camera itself is never changed: the viewer may interrupt a render at any line.
        """
        pose = self.camera_optimizer.apply_to_camera(camera) if self.training else camera.camera_to_worlds
        factor = self._get_downscale_factor()
        intrinsics = camera.get_intrinsics_matrices()[0].to(self.device).clone()
        intrinsics[:2] /= factor
        width, height = int(camera.width.item()) // factor, int(camera.height.item()) // factor
        return opencv_view(pose[0].to(self.device)), intrinsics, width, height

    def _inside_crop(self) -> Tensor | None:
        if self.crop_box is None or self.training:
            return None
        return self.crop_box.within(self.means).squeeze(-1)

    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """Render one camera without gradients, cropped to `obb_box` where one is given."""
        self.set_crop(obb_box)
        with torch.no_grad():
            return self.get_outputs(camera.to(self.device))

    # ---- Training and metrics ----

    def step_post_backward(self, step: int) -> None:
        """Densify after the optimizers' step, while geometry is being learned."""
        if self.learns_geometry(step):
            super().step_post_backward(step)

    def learns_geometry(self, step: int) -> bool:
        """True while `step` belongs to the phase that moves Gaussians."""
        return True

    def get_image_metrics_and_images(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> tuple[dict, dict]:
        """PSNR, SSIM, LPIPS where its weights are there, and the photo beside the render."""
        truth = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        predicted = outputs["rgb"]
        return self._image_metrics(predicted, truth), {"img": torch.cat([truth, predicted], dim=1)}

    # ---- State ----

    def update_to_step(self, step: int) -> None:
        """Continue from `step`: it decides the degree of the harmonics and the phase of the training."""
        self.step = step

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside tensors: the strategy's statistics, in plain Python and tensors."""
        return {"format_version": 1, "strategy": dict(self.strategy_state)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        self.strategy_state = {
            key: value.to(self.device) if isinstance(value, Tensor) else value
            for key, value in state["strategy"].items()
        }

    def load_state_dict(self, state: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a checkpoint's model state, resizing the Gaussians in place.

        Raises:
            UserError: a Gaussian parameter is missing or has another shape than the configuration says.
        """
        for name in PARAMETER_NAMES:
            key = f"gauss_params.{name}"
            parameter = self.gauss_params[name]
            if key not in state:
                raise UserError(f"The checkpoint has no {key}; it was not made by a Gaussian splatting method.")
            if state[key].shape[1:] != parameter.shape[1:]:
                raise UserError(
                    f"The checkpoint's {key} has shape {tuple(state[key].shape)}, the configuration wants "
                    f"(N, {', '.join(map(str, parameter.shape[1:]))}); was --pipeline.model.sh-degree changed?"
                )
            parameter.data = torch.zeros_like(state[key], device=parameter.device)
        # SplatfactoModel's own method would replace the parameters that the optimizers hold.
        return torch.nn.Module.load_state_dict(self, state, **kwargs)


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _expected_depth(weighted: Tensor, alpha: Tensor) -> Tensor:
    depth = weighted / alpha.clamp_min(1e-10)
    # Where nothing was hit, the farthest depth in view looks better than zero.
    return torch.where(alpha > 0, depth, depth.detach().max() if depth.numel() else depth)
