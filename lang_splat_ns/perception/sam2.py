"""SAM 2 (Ravi et al., 2024) through the package transformers, by repository name on the model hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import hub
from lang_splat_ns.perception.decoder_parts import sam2_parts
from lang_splat_ns.perception.promptable import Placement, half_precision, resized
from lang_splat_ns.perception.prompted_segmenter import PromptedSegmenter
from lang_splat_ns.perception.sam_decoder import ImageTokens, PointDecoder

WITHOUT = "use the segmenter felzenszwalb, which needs no weights"
# The published repositories hold the video model, of which the image model is a part.
_MODEL_TYPES = ("sam2", "sam2_video")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Sam2Network:
    """A `transformers.Sam2Model` as a `Promptable`.

    Args:
        model: the model, in eval mode on its device. It is not changed, and must not change afterwards.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        with torch.no_grad():
            self._decoder = PointDecoder(sam2_parts(model))
        self.device: torch.device = model.device

    def place(self, height: int, width: int) -> Placement:
        """The photo is stretched over the whole square, so there is no padding."""
        side = self._model.prompt_encoder.input_image_size
        return Placement((height, width), (side, side), side, 4 * self._model.prompt_encoder.image_embedding_size[0])

    def embed(self, image: npt.NDArray[np.uint8]) -> ImageTokens:
        """Image tokens of an RGB photo, uint8 [H, W, 3]."""
        pixels = square_pixels(image, self._model.prompt_encoder.input_image_size, self.device)
        with half_precision(self.device):
            finest, finer, embedding = self._model.get_image_embeddings(pixels)
        return self._decoder.prepare(embedding.float(), (finer.float(), finest.float()))

    def decode(
        self, embedded: ImageTokens, points: Tensor, least: float, low: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Masks and predicted IoU, see `Promptable.decode`."""
        return self._decoder.decode(embedded, points, least, low)


class Sam2Segmenter(PromptedSegmenter):
    """SAM 2.1 with the image encoder Hiera-L.

    Args:
        device: torch device.
        points_per_side: side of the grid of prompts; None is 32, LangSplat's.
        weights: folder in the form of `save_pretrained`, in place of the repository.
        variant: `OWNER/NAME` on the hub, or such a folder; None is this size's own repository.

    Attributes:
        name: the segmenter's name.
        address: the repository that the name alone stands for.
        licence: of the weights, as their publisher states it.

    Raises:
        UserError: the model cannot be had, or is of another kind.
    """

    name: ClassVar[str] = "sam2"
    address: ClassVar[str] = "facebook/sam2.1-hiera-large"
    licence: ClassVar[str] = "Apache-2.0"

    def __init__(
        self,
        device: str = "cpu",
        points_per_side: int | None = None,
        weights: Path | None = None,
        variant: str | None = None,
    ) -> None:
        repository = str(weights or variant or self.address)
        folder = self.fetch(repository)
        check_model_type(folder, repository)
        # A folder's place says nothing about what is in it, and the digest says all.
        name = Path(repository).name if Path(repository).is_dir() else repository
        identity = f"sam2:{name}@{hub.digest_of(folder)[:16]}"
        super().__init__(
            identity, lambda: Sam2Network(load_model("Sam2Model", folder, device)), points_per_side or 32, device
        )

    @classmethod
    def fetch(cls, variant: str | None = None) -> Path:
        """Folder of the model, from the hub's cache or by download.

        Raises:
            UserError: it is not cached and cannot be downloaded.
        """
        name = cls.name if variant in (None, cls.address) else f"{cls.name}:{variant}"
        return hub.model_folder(variant or cls.address, name, WITHOUT)

    @classmethod
    def cached(cls, variant: str | None = None) -> Path | None:
        """Folder of the model if it is on this machine; no network is asked."""
        return hub.cached_model(variant or cls.address)


class Sam2Tiny(Sam2Segmenter):
    """SAM 2.1 with the image encoder Hiera-T."""

    name = "sam2-tiny"
    address = "facebook/sam2.1-hiera-tiny"


class Sam2Small(Sam2Segmenter):
    """SAM 2.1 with the image encoder Hiera-S."""

    name = "sam2-small"
    address = "facebook/sam2.1-hiera-small"


class Sam2BasePlus(Sam2Segmenter):
    """SAM 2.1 with the image encoder Hiera-B+."""

    name = "sam2-base-plus"
    address = "facebook/sam2.1-hiera-base-plus"


def check_model_type(folder: Path, repository: str) -> None:
    """Refuse a model that is no SAM 2, before any work is done.

    Raises:
        UserError: it is of another kind.
    """
    found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if found not in _MODEL_TYPES:
        raise UserError(f"{repository} is a {found}, and no SAM 2; {WITHOUT}")


def load_model(kind: str, folder: Path, device: str) -> Any:
    """A `Sam2Model` or a `Sam2VideoModel`, in eval mode on its device.

    Raises:
        UserError: the weights do not fit.
    """
    import transformers

    try:
        model = getattr(transformers, kind).from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except Exception as error:
        # The package raises whatever its parts raise; for the user it all means that these are not the weights.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{folder} does not hold the weights of a {kind}: {lines[0]}; {WITHOUT}") from error
    return model.eval().requires_grad_(False).to(device)


def square_pixels(image: npt.NDArray[np.uint8], side: int, device: torch.device) -> Tensor:
    """A photo as SAM 2 wants it: stretched to a square and normalized, float32 [1, 3, side, side]."""
    pixels = torch.from_numpy(resized(image, (side, side))).to(device).permute(2, 0, 1)[None].float() / 255.0
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
    return (pixels - mean) / std
