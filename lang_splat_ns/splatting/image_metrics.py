"""Image quality: PSNR, SSIM, and LPIPS where its weights are on this machine."""

from __future__ import annotations

from pathlib import Path

import torch
from pytorch_msssim import SSIM
from torch import Tensor

from lang_splat_ns.console import CONSOLE

_noticed_missing_lpips = False


def lpips_weights() -> Path:
    """Where torchvision keeps the AlexNet weights that LPIPS is built on."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "alexnet-owt-7be5be79.pth"


class ImageMetrics:
    """Compares a render with its photo.

    Not a torch module on purpose: its networks must not end up in checkpoints.
    """

    def __init__(self, color_corrected: bool = False) -> None:
        self.ssim = SSIM(data_range=1.0, size_average=True, channel=3)
        self._color_corrected = color_corrected
        self._lpips: torch.nn.Module | None = None

    def __call__(self, predicted: Tensor, truth: Tensor) -> dict[str, float]:
        """Metrics of images [H, W, 3] in 0..1; the same keys for every image of a run."""
        metrics = self._compare(predicted, truth)
        if self._color_corrected:
            from nerfstudio.model_components.lib_bilagrid import color_correct

            corrected = self._compare(color_correct(predicted, truth), truth)
            metrics |= {f"cc_{name}": value for name, value in corrected.items()}
        return metrics

    def psnr(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Peak signal-to-noise ratio in dB of values in 0..1."""
        return -10.0 * torch.log10((predicted - truth).square().mean().clamp_min(1e-12))

    def _compare(self, predicted: Tensor, truth: Tensor) -> dict[str, float]:
        first, second = (image.movedim(-1, 0)[None] for image in (predicted, truth))
        metrics = {"psnr": float(self.psnr(predicted, truth)), "ssim": float(self.ssim(second, first))}
        lpips = self._load_lpips(predicted.device)
        if lpips is not None:
            metrics["lpips"] = float(lpips(second, first.clamp(0, 1)))
        return metrics

    def _load_lpips(self, device: torch.device) -> torch.nn.Module | None:
        global _noticed_missing_lpips
        if self._lpips is None and lpips_weights().is_file():
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self._lpips = LearnedPerceptualImagePatchSimilarity(normalize=True).to(device).eval()
        if self._lpips is None and not _noticed_missing_lpips:
            _noticed_missing_lpips = True
            CONSOLE.print(f"LPIPS is left out: {lpips_weights()} is not there (lang-splat weights fetch lpips).")
        return self._lpips
