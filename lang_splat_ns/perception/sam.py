"""SAM and MobileSAM as segmenters. Weights are looked up at once, the network is built for the first photo."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import weights as weight_files
from lang_splat_ns.perception.mask_generator import MaskGenerator, MaskSettings
from lang_splat_ns.perception.segmenters import LabelMaps

CPU_BATCH = 4
"""Prompts per step on a CPU. Measured with MobileSAM on two cores: 17 ms a prompt at 4, 20 at 8, 27 at 16."""
GPU_BATCH = 64

# Name -> package, key of its registry, and default side of the grid of prompts. LangSplat's grid has 32; MobileSAM is
# for machines without a GPU: a photo takes two quiet cores 6 s with a quarter of the prompts, and 18 s with all.
_MODELS = {
    "sam-vit-h": ("segment_anything", "vit_h", 32),
    "sam-vit-l": ("segment_anything", "vit_l", 32),
    "sam-vit-b": ("segment_anything", "vit_b", 32),
    "mobile-sam": ("mobile_sam", "vit_t", 16),
}


class SamSegmenter:
    """A model of the Segment Anything family, with LangSplat's levels, thresholds and suppression.

    Args:
        name: a key of the weights registry: sam-vit-h, sam-vit-l, sam-vit-b or mobile-sam.
        device: torch device.
        points_per_side: side of the grid of prompts; None is 32, and 16 for MobileSAM.
        weights: weights file; None looks where `lang-splat weights fetch` puts them.

    Raises:
        UserError: the weights are not there.
    """

    def __init__(
        self, name: str, *, device: str = "cpu", points_per_side: int | None = None, weights: Path | None = None
    ) -> None:
        self._package, self._key, default_side = _MODELS[name]
        self._device = device
        self._weights = weight_files.find(name, explicit=weights)
        self._settings = MaskSettings(points_per_side=points_per_side or default_side)
        self.segmenter_id = f"{name}@{weight_files.digest(self._weights)[:16]}/1 {self._settings.describe()}"

    def segment(self, image: npt.NDArray[np.uint8]) -> LabelMaps:
        """Label maps of an RGB image, uint8 [H, W, 3]: int32 [3, H, W], -1 where no mask is."""
        return self._generator.generate(image)

    @cached_property
    def _generator(self) -> MaskGenerator:
        batch = GPU_BATCH if self._device.startswith("cuda") else CPU_BATCH
        return MaskGenerator(self._load(), self._settings, batch)

    def _load(self) -> Any:
        import torch

        try:
            model = _registry(self._package)[self._key]()
            # weights_only, since a weights file from elsewhere must not be able to run code.
            model.load_state_dict(torch.load(self._weights, map_location="cpu", weights_only=True))
        except Exception as error:
            raise UserError(
                f"{self._weights} does not fit the model {self._key}: {str(error).splitlines()[0]} "
                f"Fetch it anew with `lang-splat weights fetch`, or use the segmenter felzenszwalb."
            ) from error
        return model.eval().requires_grad_(False).to(self._device)


def _registry(package: str) -> dict[str, Any]:
    import warnings

    with warnings.catch_warnings():
        # Both packages register timm models under deprecated names; that is not the user's concern.
        warnings.simplefilter("ignore")
        if package == "mobile_sam":
            from mobile_sam import sam_model_registry
        else:
            from segment_anything import sam_model_registry
    return sam_model_registry


def sam_vit_h(device: str, points_per_side: int | None = None, weights: Path | None = None) -> SamSegmenter:
    """SAM ViT-H, LangSplat's segmenter."""
    return SamSegmenter("sam-vit-h", device=device, points_per_side=points_per_side, weights=weights)


def sam_vit_l(device: str, points_per_side: int | None = None, weights: Path | None = None) -> SamSegmenter:
    """SAM ViT-L."""
    return SamSegmenter("sam-vit-l", device=device, points_per_side=points_per_side, weights=weights)


def sam_vit_b(device: str, points_per_side: int | None = None, weights: Path | None = None) -> SamSegmenter:
    """SAM ViT-B."""
    return SamSegmenter("sam-vit-b", device=device, points_per_side=points_per_side, weights=weights)


def mobile_sam(device: str, points_per_side: int | None = None, weights: Path | None = None) -> SamSegmenter:
    """MobileSAM (Zhang et al., 2023): SAM's prompts and decoder on a small image encoder."""
    return SamSegmenter("mobile-sam", device=device, points_per_side=points_per_side, weights=weights)
