"""DINO features, which LERF trains along so that CLIP's blurred vectors keep to the objects' borders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang_splat_ns.perception.hub import digest_of, model_folder

SHORT_SIDE = 500
"""Pixels along the photo's shorter side as the network sees it."""

REPOSITORIES = {"dino-vits8": "facebook/dino-vits8", "dinov2-vits14": "facebook/dinov2-small"}
_WITHOUT = "train without the regulariser (--pipeline.datamanager.dino none)"
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoExtractor:
    """The keys of the last attention layer of a DINO or DINOv2 network, one vector per patch (Kerr et al. 2023, 3.2).

    Args:
        name: one of `REPOSITORIES`, a repository on the model hub, or a folder in the form of `save_pretrained`.
        device: torch device of the network.

    Raises:
        UserError: its weights are not here and cannot be downloaded.
    """

    def __init__(self, name: str = "dino-vits8", device: torch.device | str = "cpu") -> None:
        self._folder: Path = model_folder(REPOSITORIES.get(name, name), name, _WITHOUT)
        self._device = device
        self.dino_id = f"dino/1 {name} {digest_of(self._folder)} key side={SHORT_SIDE}"

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModel

        # The pooler of a published DINO has no weights, and nothing here reads it.
        return AutoModel.from_pretrained(str(self._folder)).to(self._device).eval()

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self._network.config.hidden_size)

    @torch.inference_mode()
    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features of a photo, uint8 [H, W, 3]: float32 [h, w, dim], spread evenly over it."""
        patch = int(self._network.config.patch_size)
        pixels = _resized(image, patch)
        keys: list[Tensor] = []

        def remember(module: torch.nn.Module, given: Any, made: Tensor) -> None:
            keys.append(made)

        hook = _key_layer(self._network).register_forward_hook(remember)
        try:
            self._network(pixels.to(self._device), **_options(self._network))
        finally:
            hook.remove()
        rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
        # The first tokens stand for the whole photo.
        patches = keys[0].reshape(-1, self.dim)[-rows * columns :]
        return patches.reshape(rows, columns, -1).float().cpu().numpy()


def _resized(image: npt.NDArray[np.uint8], patch: int) -> Tensor:
    import cv2

    scale = SHORT_SIDE / min(image.shape[:2])
    height, width = (max(1, int(side * scale) // patch) * patch for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    pixels = torch.from_numpy(cv2.resize(image, (width, height), interpolation=method)).permute(2, 0, 1)[None] / 255.0
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
    return (pixels - mean) / deviation


def _options(network: Any) -> dict[str, bool]:
    # DINOv2 stretches its position embeddings by itself; DINO wants to be asked.
    return {} if network.config.model_type.startswith("dinov2") else {"interpolate_pos_encoding": True}


def _key_layer(network: Any) -> torch.nn.Module:
    """The linear layer of the last block that makes the keys."""
    named = [module for name, module in network.named_modules() if name.endswith(("attention.key", "k_proj"))]
    return named[-1]


class DinoMaps:
    """DINO features of a data set's photos, looked up per pixel.

    Args:
        maps: float16 [h, w, dim] per photo, of any sizes.
        device: where pixels are asked; the features stay in main memory.
    """

    def __init__(self, maps: Sequence[npt.NDArray[np.float16]], device: torch.device | str = "cpu") -> None:
        self._device = device
        self._features = torch.from_numpy(np.concatenate([part.reshape(-1, part.shape[-1]) for part in maps]))
        self._shapes = torch.tensor([part.shape[:2] for part in maps])
        counts = self._shapes.prod(-1)
        self._first = counts.cumsum(0) - counts

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self._features.shape[1]

    def __call__(self, photos: Tensor, places: Tensor) -> Tensor:
        """Features of the patches that pixels lie in.

        Args:
            photos: indices of photos. [R]
            places: row and column as shares of the photo's height and width, in 0..1. [R, 2]

        Returns:
            float32 [R, dim] on the device.
        """
        photos, places = photos.cpu(), places.cpu()
        shapes = self._shapes[photos]
        patch = torch.minimum((places * shapes).long(), shapes - 1)
        return self._features[self._first[photos] + patch[:, 0] * shapes[:, 1] + patch[:, 1]].float().to(self._device)
