"""3D Gaussian Splatting's training loop, as the method `3dgs` runs it in nerfstudio but without nerfstudio.

Schedules, learning rates and the loss are the method's (a test compares them), with two differences: photos have their
full resolution from the first step, and a training of fewer than the method's 30,000 steps shrinks every schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_clock import Clock
from benchmarks.posed_photos import Photo, PosedPhotos
from benchmarks.ssim import ssim
from lang_splat_ns.console import track
from lang_splat_ns.splatting.gaussians import PARAMETER_NAMES, Gaussians, from_points
from lang_splat_ns.splatting.rasterizer import rasterize

METHOD_STEPS = 30_000
SH_DEGREE = 3
SH_INTERVAL = 1000
SSIM_WEIGHT = 0.2
LAST_MEANS_RATE = 1.6e-6
LEARNING_RATES = {
    "means": 1.6e-4,
    "scales": 0.005,
    "quats": 0.001,
    "features_dc": 0.0025,
    "features_rest": 0.0025 / 20,
    "opacities": 0.05,
}


def make_strategy(steps: int, photos: int) -> Any:
    """gsplat's DefaultStrategy as the method configures it, for so many steps on so many photos."""
    from gsplat.strategy import DefaultStrategy

    refine_every = min(100, max(1, steps // 10))
    return DefaultStrategy(
        prune_opa=0.1,
        grow_grad2d=0.0008,
        grow_scale3d=0.01,
        grow_scale2d=0.05,
        prune_scale3d=0.5,
        prune_scale2d=0.15,
        refine_scale2d_stop_iter=_shrunk(4000, steps),
        refine_start_iter=_shrunk(500, steps),
        refine_stop_iter=_shrunk(15_000, steps),
        reset_every=30 * refine_every,
        refine_every=refine_every,
        pause_refine_after_reset=photos + refine_every,
        absgrad=True,
    )


class GeometryTraining:
    """Trains Gaussians from a data set's sparse points.

    Args:
        photos: the data set; its device is that of the training.
        steps: training steps.
    """

    def __init__(self, photos: PosedPhotos, steps: int) -> None:
        torch.manual_seed(0)
        start = from_points(photos.points, photos.colors, SH_DEGREE)
        self.photos, self.steps = photos, steps
        self.params = torch.nn.ParameterDict({k: torch.nn.Parameter(v) for k, v in start.tensors().items()})
        self._optimizers = {k: torch.optim.Adam([self.params[k]], lr=lr, eps=1e-15) for k, lr in LEARNING_RATES.items()}
        self._strategy = make_strategy(steps, len(photos.train))
        self._strategy.check_sanity(self.params, self._optimizers)
        self._state = self._strategy.initialize_state(scene_scale=1.0)

    def gaussians(self) -> Gaussians:
        """The Gaussians as they are, detached."""
        return Gaussians(**{name: self.params[name].detach() for name in PARAMETER_NAMES})

    def run(self, looks: int = 4) -> dict[str, Any]:
        """Train; returns speed, quality and memory.

        Args:
            looks: how often the held-out photos are looked at on the way, the last time at the end, and once before.
        """
        # The first look also compiles or loads kernels. None of them counts as training.
        progress = [self._look(0, 0.0)]
        look_at = {round(self.steps * (i + 1) / looks) for i in range(looks)}
        clock, order = Clock(self.photos.points.device), _shuffled(self.photos.train)
        for step in track(range(self.steps), "Training geometry"):
            self._step(step, next(order))
            if step + 1 in look_at:
                progress.append(clock.pause(partial(self._look, step + 1, clock.seconds())))
        return {
            "photos": len(self.photos.train),
            "held_out_photos": len(self.photos.held_out),
            "height": self.photos.train[0].image.shape[0],
            "width": self.photos.train[0].image.shape[1],
            "steps": self.steps,
            "steps_per_second": round(self.steps / clock.seconds(), 2),
            "psnr": progress[-1]["psnr"],
            "progress": progress,
            **clock.memory(),
        }

    def _look(self, step: int, seconds: float) -> dict[str, Any]:
        psnr = mean_psnr(self.gaussians(), self.photos.held_out)
        return {"step": step, "seconds": round(seconds, 2), "psnr": psnr, "gaussians": len(self.params["means"])}

    def _step(self, step: int, photo: Photo) -> None:
        degree = min(step // _shrunk(SH_INTERVAL, self.steps), SH_DEGREE)
        self._optimizers["means"].param_groups[0]["lr"] = means_rate(step, self.steps)
        image, alpha, info = draw(Gaussians(**self.params), photo, degree, absgrad=True)
        self._strategy.step_pre_backward(self.params, self._optimizers, self._state, step, info)
        shown = (image + (1 - alpha) * torch.rand(3, device=image.device)).clamp(0, 1)
        geometry_loss(shown, photo.image.float() / 255).backward()
        for optimizer in self._optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._strategy.step_post_backward(self.params, self._optimizers, self._state, step, info, packed=False)


def draw(
    gaussians: Gaussians, photo: Photo, degree: int = SH_DEGREE, absgrad: bool = False
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The Gaussians' colours from a photo's camera; see `rasterize`."""
    height, width = photo.image.shape[:2]
    return rasterize(
        gaussians.means,
        gaussians.quats,
        torch.exp(gaussians.scales),
        torch.sigmoid(gaussians.opacities).squeeze(-1),
        torch.cat([gaussians.features_dc[:, None], gaussians.features_rest], dim=1),
        photo.viewmat,
        photo.K,
        width,
        height,
        sh_degree=degree,
        absgrad=absgrad,
    )


def geometry_loss(image: Tensor, truth: Tensor) -> Tensor:
    """L1 and structural dissimilarity of images [H, W, 3] (Kerbl et al. 2023, equation 7)."""
    return (1 - SSIM_WEIGHT) * (image - truth).abs().mean() + SSIM_WEIGHT * (1 - ssim(image, truth))


def means_rate(step: int, steps: int) -> float:
    """The learning rate of the means, which falls exponentially over the training."""
    first = LEARNING_RATES["means"]
    return first * (LAST_MEANS_RATE / first) ** (step / steps)


@torch.no_grad()
def mean_psnr(gaussians: Gaussians, photos: Sequence[Photo]) -> float:
    """Mean peak signal-to-noise ratio in dB over photos, before black."""
    ratios = []
    for photo in photos:
        image = draw(gaussians, photo)[0].clamp(0, 1)
        ratios.append(-10 * torch.log10((image - photo.image / 255).square().mean()))
    return float(torch.stack(ratios).mean())


def _shuffled(photos: Sequence[Photo]) -> Iterator[Photo]:
    """Each photo once in random order before any comes again."""
    while True:
        yield from (photos[index] for index in torch.randperm(len(photos)).tolist())


def _shrunk(method_steps: int, steps: int) -> int:
    """A number of the method's steps in a training of fewer."""
    return max(1, method_steps * min(steps, METHOD_STEPS) // METHOD_STEPS)
