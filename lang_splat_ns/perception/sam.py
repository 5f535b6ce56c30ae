"""SAM and MobileSAM. Weights are looked up at once, the network is built for the first photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import weights as weight_files
from lang_splat_ns.perception.decoder_parts import sam_parts
from lang_splat_ns.perception.promptable import Placement, half_precision, resized
from lang_splat_ns.perception.prompted_segmenter import PromptedSegmenter
from lang_splat_ns.perception.sam_decoder import ImageTokens, PointDecoder


class SamNetwork:
    """A model of `segment_anything`, or of a package with the same modules, as a `Promptable`.

    Args:
        sam: the model, in eval mode on its device. It is not changed, and must not change afterwards.
    """

    def __init__(self, sam: Any) -> None:
        self.sam = sam
        self._decoder = PointDecoder(sam_parts(sam))
        self.device: torch.device = sam.device

    def place(self, height: int, width: int) -> Placement:
        """The longer side fills the input; the rest is padding at the lower or right side."""
        side = self.sam.image_encoder.img_size
        scale = side / max(height, width)
        inner = (int(height * scale + 0.5), int(width * scale + 0.5))
        return Placement((height, width), inner, side, 4 * self.sam.prompt_encoder.image_embedding_size[0])

    def embed(self, image: npt.NDArray[np.uint8]) -> ImageTokens:
        """Image tokens of an RGB photo, uint8 [H, W, 3]."""
        pixels = torch.from_numpy(resized(image, self.place(*image.shape[:2]).inner)).to(self.device)
        with half_precision(self.device):
            embedding = self.sam.image_encoder(self.sam.preprocess(pixels.permute(2, 0, 1)[None].float()))
        return self._decoder.prepare(embedding.float())

    def decode(
        self, embedded: ImageTokens, points: Tensor, least: float, low: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Masks and predicted IoU, see `Promptable.decode`."""
        return self._decoder.decode(embedded, points, least, low)


class SamSegmenter(PromptedSegmenter):
    """A network of the Segment Anything family (Kirillov et al., 2023).

    Args:
        device: torch device.
        points_per_side: side of the grid of prompts; None is the network's usual one.
        weights: weights file; None looks where `lang-splat weights fetch` puts them.

    Attributes:
        name: a key of the weights registry.
        package: where the network's classes are.
        key: of the package's registry.
        points: usual side of the grid of prompts; LangSplat's for SAM.

    Raises:
        UserError: the weights are not there.
    """

    name: ClassVar[str]
    package: ClassVar[str] = "segment_anything"
    key: ClassVar[str]
    points: ClassVar[int] = 32

    def __init__(self, device: str = "cpu", points_per_side: int | None = None, weights: Path | None = None) -> None:
        file = weight_files.find(self.name, explicit=weights)
        identity = f"{self.name}@{weight_files.digest(file)[:16]}"
        super().__init__(
            identity, lambda: SamNetwork(self.build(file).to(device)), points_per_side or self.points, device
        )

    @classmethod
    def build(cls, weights: Path | None) -> Any:
        """The network in eval mode on the CPU, with random weights if there is no file.

        Raises:
            UserError: the file is not for this network.
        """
        model = _registry(cls.package)[cls.key]()
        if weights is not None:
            try:
                # weights_only, since a weights file from elsewhere must not be able to run code.
                model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
            except Exception as error:
                raise UserError(
                    f"{weights} does not fit the model {cls.key}: {str(error).splitlines()[0]} "
                    f"Fetch it anew with `lang-splat weights fetch {cls.name}`, or use the segmenter felzenszwalb."
                ) from error
        return model.eval().requires_grad_(False)


class SamVitH(SamSegmenter):
    """SAM ViT-H, LangSplat's segmenter."""

    name = "sam-vit-h"
    key = "vit_h"


class SamVitL(SamSegmenter):
    """SAM ViT-L."""

    name = "sam-vit-l"
    key = "vit_l"


class SamVitB(SamSegmenter):
    """SAM ViT-B."""

    name = "sam-vit-b"
    key = "vit_b"


class MobileSam(SamSegmenter):
    """MobileSAM (Zhang et al., 2023): SAM's prompts and decoder on a small image encoder, for machines without a GPU.

    A quarter of SAM's prompts by default, since they take most of the time.
    """

    name = "mobile-sam"
    package = "mobile_sam"
    key = "vit_t"
    points = 16


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
