"""`open_clip`: regions and texts through any CLIP of the open_clip package."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, ClassVar

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import hub
from lang_splat_ns.perception import weights as weight_files
from lang_splat_ns.perception.clip_encoder import ClipEncoder
from lang_splat_ns.perception.open_clip_network import OpenClipNetwork, hub_tokenizer

DEFAULT_VARIANT = "ViT-B-16/laion2b_s34b_b88k"
MULTILINGUAL_VARIANT = "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"


class OpenClipEncoder(ClipEncoder):
    """CLIP vectors of crops (LangSplat, section 3.2) and of plain phrases, through the package open_clip.

    Args:
        device: torch device.
        weights: weights file of the variant; None lets the cache provide it, with a download if need be.
        variant: `MODEL/TAG` as open_clip lists them; None is the class's own.
        crops: how regions are cut out, see `CropPlan.parse`; LangSplat's black background by default.
        templates: "phrase" or "ensemble", see `prompt_templates`.

    Raises:
        UserError: unknown variant, or weights that cannot be had.
    """

    address: ClassVar[str] = DEFAULT_VARIANT
    licence: ClassVar[str] = "MIT"

    def __init__(
        self,
        device: str = "cpu",
        weights: Path | None = None,
        variant: str | None = None,
        crops: str = "black",
        templates: str = "phrase",
    ) -> None:
        model_name, tag = _split(variant or self.address)
        _check_timm(model_name)
        file = weight_files.existing(weights) if weights else _weights_file(model_name, tag)
        _text_folders(model_name, tag)
        super().__init__(
            f"open_clip:{model_name}/{tag}@{hub.file_digest(file)[:16]}",
            int(_config(model_name)["embed_dim"]),
            lambda: _load(model_name, tag, file, device),
            device=device,
            crops=crops,
            templates=templates,
        )

    @classmethod
    def fetch(cls, variant: str | None = None) -> Path:
        """The weights file of a variant, from the cache or by download, with all that its text tower needs.

        Raises:
            UserError: unknown variant; or a file is not cached and cannot be downloaded.
        """
        model_name, tag = _split(variant or cls.address)
        file = _weights_file(model_name, tag)
        _text_folders(model_name, tag)
        return file

    @classmethod
    def cached(cls, variant: str | None = None) -> Path | None:
        """The weights file if it is on this machine; no network is asked."""
        import open_clip

        repository, files = _on_hub(open_clip.get_pretrained_cfg(*_split(variant or cls.address)))
        return hub.cached_file(repository, files) if repository else None


class MultilingualClipEncoder(OpenClipEncoder):
    """open_clip's CLIP with an XLM-RoBERTa text tower, which reads about a hundred languages, Chinese among them."""

    address = MULTILINGUAL_VARIANT


def _split(variant: str) -> tuple[str, str]:
    import open_clip

    model_name, _, tag = variant.partition("/")
    if tag and open_clip.get_pretrained_cfg(model_name, tag):
        return model_name, tag
    known = [f"{model}/{pretrained}" for model, pretrained in open_clip.list_pretrained()]
    near = difflib.get_close_matches(variant, known, n=3) or [DEFAULT_VARIANT]
    raise UserError(f"open_clip has no {variant!r}; write open_clip:MODEL/TAG, for example open_clip:{near[0]}")


def _config(model_name: str) -> dict[str, Any]:
    import open_clip

    return open_clip.get_model_config(model_name) or {}


def _check_timm(model_name: str) -> None:
    """Image towers of the package timm (SigLIP's, for one) need a newer timm than nerfstudio pins and never uses."""
    from open_clip import timm_model

    if "timm_model_name" in _config(model_name)["vision_cfg"] and timm_model.timm is None:
        raise UserError(
            f"open_clip:{model_name} needs timm 1.0 or newer: `uv pip install 'timm>=1.0.17'` (nerfstudio pins 0.6.7 "
            f"without using it), or take the encoder siglip2, which does without"
        )


def _on_hub(config: dict[str, Any]) -> tuple[str, list[str]]:
    """Repository ("" for weights at a plain address) and the file names that it may have, the best first."""
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    return repository, [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def _weights_file(model_name: str, tag: str) -> Path:
    import open_clip

    config = open_clip.get_pretrained_cfg(model_name, tag)
    repository, files = _on_hub(config)
    name = f"open_clip:{model_name}/{tag}"
    if repository:
        return hub.cached_file(repository, files) or hub.download_file(repository, files, name)
    cached = Path("~/.cache/clip").expanduser() / Path(config.get("url", "")).name
    if hub.is_offline() and not cached.is_file():
        raise hub.cannot_get(name, str(cached.parent), f"{weight_files.OFFLINE_VARIABLE} is set")
    try:
        return Path(open_clip.download_pretrained(config))
    except Exception as error:
        raise hub.cannot_get(name, str(cached.parent), str(error)) from error


def _text_folders(model_name: str, tag: str) -> tuple[Path | None, Path | None]:
    """Folders of the configuration and of the tokenizer of a text tower that comes from the hub, None for neither."""
    text, name = _config(model_name)["text_cfg"], f"open_clip:{model_name}/{tag}"
    repositories = text.get("hf_model_name"), text.get("hf_tokenizer_name")
    model, tokenizer = (hub.text_folder(repository, name) if repository else None for repository in repositories)
    return model, tokenizer


def _load(model_name: str, tag: str, file: Path, device: str) -> OpenClipNetwork:
    import open_clip

    pretrained = open_clip.get_pretrained_cfg(model_name, tag)
    text_config, tokenizer_folder = _text_folders(model_name, tag)
    text = _config(model_name)["text_cfg"]
    # Folders in place of repository names keep the loaders from asking the network for what is here already.
    local: dict[str, Any] = {}
    if text_config is not None:
        local["text_cfg"] = {**text, "hf_model_name": str(text_config), "hf_model_pretrained": False}
    try:
        model = open_clip.create_model(
            model_name,
            pretrained=str(file),
            device=device,
            force_quick_gelu=bool(pretrained.get("quick_gelu")),
            load_weights_only=True,
            **local,
        )
    except Exception as error:
        raise UserError(f"{file} does not fit open_clip:{model_name}/{tag}: {hub.first_line(error)}") from error
    tokenizer = hub_tokenizer(tokenizer_folder, text) if tokenizer_folder else open_clip.get_tokenizer(model_name)
    mean = pretrained.get("mean", open_clip.OPENAI_DATASET_MEAN)
    std = pretrained.get("std", open_clip.OPENAI_DATASET_STD)
    return OpenClipNetwork(model, tokenizer, mean, std)
