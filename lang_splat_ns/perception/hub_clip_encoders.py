"""CLIPs of the package transformers, by repository name: CLIP, Chinese-CLIP, SigLIP 2, MetaCLIP 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import hub
from lang_splat_ns.perception.clip_encoder import ClipEncoder
from lang_splat_ns.perception.encoders import CHINESE_NEGATIVES, LERF_NEGATIVES
from lang_splat_ns.perception.hub_clip_network import HubClipNetwork, Reading


class HubClipEncoder(ClipEncoder):
    """OpenAI's CLIP and everything that transformers loads as one (Radford et al. 2021).

    Args:
        device: torch device.
        weights: folder in the form of `save_pretrained`, in place of the repository.
        variant: `OWNER/NAME` on the hub, or such a folder; None is the family's own repository.
        crops: how regions are cut out, see `CropPlan.parse`; LangSplat's black background by default.
        templates: "phrase" or "ensemble", see `prompt_templates`.

    Attributes:
        name: the encoder's name.
        address: the repository that the name alone stands for.
        licence: of the weights, as their publisher states it.
        model_types: what the family's `config.json` may call itself.
        reading: how the family's text towers were trained to be fed.
        phrases: canonical phrases in a language that they read.

    Raises:
        UserError: the model cannot be had, or is of another family.
    """

    name: ClassVar[str] = "clip"
    address: ClassVar[str] = "openai/clip-vit-base-patch16"
    licence: ClassVar[str] = "MIT"
    model_types: ClassVar[tuple[str, ...]] = ("clip",)
    reading: ClassVar[Reading] = Reading(77)
    phrases: ClassVar[tuple[str, ...]] = LERF_NEGATIVES

    def __init__(
        self,
        device: str = "cpu",
        weights: Path | None = None,
        variant: str | None = None,
        crops: str = "black",
        templates: str = "phrase",
    ) -> None:
        repository = str(weights or variant or self.address)
        folder = self.fetch(repository)
        config = self._checked_config(folder, repository)
        # A folder's place says nothing about what is in it, and the digest says all.
        name = Path(repository).name if Path(repository).is_dir() else repository
        super().__init__(
            f"{self.name}:{name}@{hub.digest_of(folder)[:16]}",
            _width(config),
            lambda: HubClipNetwork.load(folder, self.reading, device),
            device=device,
            crops=crops,
            templates=templates,
            negatives=self.phrases,
        )

    @classmethod
    def fetch(cls, variant: str | None = None) -> Path:
        """Folder of the model, from the hub's cache or by download.

        Raises:
            UserError: it is not cached and cannot be downloaded.
        """
        name = cls.name if variant in (None, cls.address) else f"{cls.name}:{variant}"
        return hub.model_folder(variant or cls.address, name)

    @classmethod
    def cached(cls, variant: str | None = None) -> Path | None:
        """Folder of the model if it is on this machine; no network is asked."""
        return hub.cached_model(variant or cls.address)

    def _checked_config(self, folder: Path, repository: str) -> dict[str, Any]:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") not in self.model_types:
            raise UserError(
                f"{repository} is a {config.get('model_type')}, and the encoder {self.name} is for "
                f"{' and '.join(self.model_types)}"
            )
        return config


class ChineseClipEncoder(HubClipEncoder):
    """Chinese-CLIP (Yang et al. 2022): trained on Chinese texts alone, so its prompts and negatives are Chinese."""

    name = "chinese-clip"
    address = "OFA-Sys/chinese-clip-vit-base-patch16"
    licence = "Apache-2.0"
    model_types = ("chinese_clip",)
    reading = Reading(52)
    phrases = CHINESE_NEGATIVES


class Siglip2Encoder(HubClipEncoder):
    """SigLIP 2 (Tschannen et al. 2025), many languages; fixed-size models, NaFlex ones, and SigLIP itself."""

    name = "siglip2"
    address = "google/siglip2-base-patch16-224"
    licence = "Apache-2.0"
    model_types = ("siglip", "siglip2")
    # Its text tower reads the vector at the last of 64 places, and saw neither capitals nor an attention mask.
    reading = Reading(64, fill=True, masked=False, lower=True)


class MetaClip2Encoder(HubClipEncoder):
    """MetaCLIP 2 (Chuang et al. 2025), "worldwide": more than 300 languages. Its weights are not for commercial use."""

    name = "metaclip2"
    address = "facebook/metaclip-2-worldwide-b16"
    licence = "CC-BY-NC-4.0"
    model_types = ("metaclip_2",)


def _width(config: dict[str, Any]) -> int:
    """Length of a model's vectors as its configuration, of which only what differs from the class is written, says."""
    from transformers import AutoConfig

    config = dict(config)
    full: Any = AutoConfig.for_model(config.pop("model_type"), **config)
    width = getattr(full, "projection_dim", None)
    # SigLIP has no projection: its vision tower's own width is the space.
    return int(full.vision_config.hidden_size if width is None else width)
