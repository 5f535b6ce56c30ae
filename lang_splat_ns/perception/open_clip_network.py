"""A model of the package open_clip as a `ClipNetwork`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.prompt_templates import is_chinese

Tokenizer = Callable[[list[str]], Tensor]


class OpenClipNetwork:
    """Both towers of an open_clip model; see `ClipNetwork`.

    Args:
        model: an open_clip `CLIP` or `CustomTextCLIP` on its device; it is set to eval mode.
        tokenizer: texts -> int64 [Q, context].
        mean: per channel, for pixels in 0..1.
        std: the same.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, mean: Sequence[float], std: Sequence[float]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.mean, self.std = tuple(mean), tuple(std)
        self.logit_scale = float(model.logit_scale.exp())
        size = model.visual.image_size
        self.side = int(size[0] if isinstance(size, tuple | list) else size)
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device
        with torch.inference_mode():
            self.dim = int(self.encode_images(torch.zeros(1, 3, self.side, self.side, device=self._device)).shape[-1])

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, side, side] -> [B, dim]."""
        return self.model.encode_image(pixels)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Texts -> [Q, dim]."""
        return self.model.encode_text(self._tokenizer(texts).to(self._device))

    @property
    def patch(self) -> int:
        """Pixels per side of a patch."""
        return int(self._transformer().patch_size[0])

    def encode_patches(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] -> [B, H / patch, W / patch, dim], as MaskCLIP does.

        Zhou et al. 2022 (Extract Free Dense Labels from CLIP): in the last layer each token attends to nothing but
        itself, so its attention is the value projection alone; then everything goes on as it does for the class token.
        """
        visual = self._transformer()
        grid = visual.conv1(pixels)
        rows, columns = grid.shape[-2:]
        tokens = grid.flatten(2).transpose(1, 2)
        start = visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        tokens = torch.cat([start, tokens], dim=1) + _stretched(
            visual.positional_embedding, visual.grid_size, rows, columns
        )
        tokens = visual.ln_pre(tokens)
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            tokens = block(tokens)
        tokens = tokens + last.ls_1(_values(last.attn, last.ln_1(tokens)))
        tokens = tokens + last.ls_2(last.mlp(last.ln_2(tokens)))
        features = visual.ln_post(tokens[:, 1:]) @ visual.proj
        return features.unflatten(1, (rows, columns))

    def _transformer(self) -> Any:
        from open_clip.transformer import VisionTransformer

        visual = self.model.visual
        if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
            raise UserError(
                f"{type(visual).__name__} of this open_clip model has no patches in the space of its texts; "
                f"take dense with a plain vision transformer, for example dense:open_clip:ViT-B-16/laion2b_s34b_b88k"
            )
        return visual


def hub_tokenizer(folder: Path, text_config: dict[str, Any]) -> Tokenizer:
    """open_clip's tokenizer for text towers from the hub, read from a folder.

    Args:
        folder: tokenizer files as the hub has them.
        text_config: `text_cfg` of the open_clip model.
    """
    from open_clip.tokenizer import HFTokenizer

    length = text_config.get("context_length", 77)
    tokenizer = HFTokenizer(str(folder), context_length=length, **text_config.get("tokenizer_kwargs", {}))
    inner: Any = tokenizer.tokenizer
    if not hasattr(inner, "batch_encode_plus"):
        # open_clip 2 calls transformers 4's name of what is the plain call in every version.
        inner.batch_encode_plus = inner.__call__
    if not hasattr(inner, "set_src_lang_special_tokens"):
        return tokenizer

    def in_its_language(texts: list[str]) -> Tensor:
        # NLLB's towers read the text's language from a token in front of it.
        rows = []
        for text in texts:
            inner.src_lang = "zho_Hans" if is_chinese(text) else "eng_Latn"
            rows.append(tokenizer([text]))
        return torch.cat(rows)

    return in_its_language


def _stretched(positions: Tensor, grid: tuple[int, int], rows: int, columns: int) -> Tensor:
    """Position embeddings [1 + h w, C] of a grid (h, w) for another grid: [1 + rows columns, C]."""
    if (rows, columns) == tuple(grid):
        return positions
    patches = positions[1:].T.reshape(1, -1, *grid)
    patches = F.interpolate(patches, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], patches[0].flatten(1).T])


def _values(attention: torch.nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """What attention gives for tokens [B, T, C] that attend to themselves alone."""
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    width = attention.embed_dim
    return attention.out_proj(F.linear(tokens, weight[2 * width :], bias[2 * width :]))
