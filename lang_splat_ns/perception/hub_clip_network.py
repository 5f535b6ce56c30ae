"""A two-tower model of the package transformers as a `ClipNetwork`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.hub import first_line


@dataclass(frozen=True)
class Reading:
    """How a text tower is fed.

    Attributes:
        length: tokens that are read; longer texts are cut.
        fill: whether every text is filled up to that length, as it was in training.
        masked: whether the tower is told which tokens are filling.
        lower: whether texts are put in small letters first.
    """

    length: int
    fill: bool = False
    masked: bool = True
    lower: bool = False


class HubClipNetwork:
    """Both towers of a transformers model with `get_image_features` and `get_text_features`; see `ClipNetwork`.

    Args:
        model: the model on its device; it is set to eval mode.
        tokenizer: transformers' own for that model.
        mean: per channel, for pixels in 0..1.
        std: the same.
        reading: how the text tower is fed.
    """

    def __init__(self, model: Any, tokenizer: Any, mean: list[float], std: list[float], reading: Reading) -> None:
        self.model = model.eval().requires_grad_(False)
        self.mean, self.std = tuple(mean), tuple(std)
        self.logit_scale = float(model.logit_scale.exp())
        self._tokenizer, self._reading = tokenizer, reading
        vision = model.config.vision_config
        self.patch = int(vision.patch_size)
        # NaFlex models take any number of patches up to a limit; a square that just fits it is what crops become.
        self._flexible = hasattr(vision, "num_patches") and not hasattr(vision, "image_size")
        self.side = int(vision.num_patches**0.5) * self.patch if self._flexible else int(vision.image_size)
        self.dim = int(getattr(model.config, "projection_dim", None) or vision.hidden_size)

    @classmethod
    def load(cls, folder: Path, reading: Reading, device: str) -> HubClipNetwork:
        """Read a folder in the form of `save_pretrained`; nothing is asked of the network.

        Raises:
            UserError: the folder's files do not fit together.
        """
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        try:
            model = AutoModel.from_pretrained(folder, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            pixels = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            # Broken files raise whatever the reader of their format raises.
            raise UserError(f"{folder} cannot be loaded: {first_line(error)}") from error
        # Weights may be stored in half precision, which is slow on a CPU; autocast takes care of the GPU.
        return cls(model.float().to(device), tokenizer, pixels.image_mean, pixels.image_std, reading)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, side, side] -> [B, dim]."""
        if not self._flexible:
            return _vectors(self.model.get_image_features(pixel_values=pixels))
        rows = self.side // self.patch
        patches = patchify(pixels, self.patch)
        everywhere = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
        shapes = torch.tensor([[rows, rows]] * len(pixels), device=pixels.device)
        return _vectors(self.model.get_image_features(patches, pixel_attention_mask=everywhere, spatial_shapes=shapes))

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Texts -> [Q, dim]."""
        reading = self._reading
        fed = self._tokenizer(
            [text.lower() for text in texts] if reading.lower else texts,
            padding="max_length" if reading.fill else "longest",
            padding_side="right",
            truncation=True,
            max_length=reading.length,
            return_tensors="pt",
        )
        names = ("input_ids", "attention_mask") if reading.masked else ("input_ids",)
        device = next(self.model.parameters()).device
        return _vectors(self.model.get_text_features(**{name: fed[name].to(device) for name in names}))

    def encode_patches(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] -> [B, H / patch, W / patch, dim], as MaskCLIP does.

        Zhou et al. 2022 (Extract Free Dense Labels from CLIP): in the last layer each token attends to nothing but
        itself, so its attention is the value projection alone; then everything goes on as it does for the class token.
        """
        if not hasattr(self.model, "visual_projection"):
            raise UserError(
                f"{type(self.model).__name__} pools its patches by attention, so they do not lie in the space of its "
                f"texts; take dense with a CLIP, for example dense:chinese-clip"
            )
        vision = self.model.vision_model
        states = vision(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
        last, tokens = vision.encoder.layers[-1], states[-2][:, 1:]
        tokens = tokens + last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(tokens)))
        tokens = tokens + last.mlp(last.layer_norm2(tokens))
        features = self.model.visual_projection(vision.post_layernorm(tokens))
        return features.unflatten(1, (pixels.shape[-2] // self.patch, pixels.shape[-1] // self.patch))


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """Pixels [B, 3, H, W] as rows of patches [B, (H / patch) (W / patch), patch * patch * 3], channels last."""
    cut = pixels.unfold(2, patch, patch).unfold(3, patch, patch)  # [B, 3, h, w, patch, patch]
    return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def _vectors(answer: Any) -> Tensor:
    # transformers 5 wraps the vectors, transformers 4 does not.
    return getattr(answer, "pooler_output", answer)
