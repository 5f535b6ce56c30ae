"""`open_clip`: regions and texts through a CLIP of the open_clip package, cropped the way LangSplat does it."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import weights as weight_files
from lang_splat_ns.perception.crops import region_crops
from lang_splat_ns.perception.encoders import check_texts

DEFAULT_VARIANT = "ViT-B-16/laion2b_s34b_b88k"
LERF_NEGATIVES = ("object", "things", "stuff", "texture")
_BATCH = 32
_CROP_VERSION = "crop/1"
_HUB_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class ClipNetwork:
    """A network with what it needs around it.

    Attributes:
        model: an open_clip `CLIP` or `CustomTextCLIP` in eval mode on its device.
        tokenizer: texts -> int64 [Q, context].
        mean, std: per channel, for pixels in 0..1.
    """

    model: Any
    tokenizer: Callable[[list[str]], Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class OpenClipEncoder:
    """CLIP vectors of masked crops (LangSplat, section 3.2) and of plain phrases.

    A region is cut out by its tight box, everything outside the region is black, the shorter side is padded to a
    square, and the square is resized to the network's input.

    Args:
        device: torch device.
        weights: weights file of the variant; None lets open_clip's own cache provide it, with a download if need be.
        variant: `MODEL/TAG` as open_clip lists them.
        network: a network that is there already, with `encoder_id`; nothing is looked up then.
        encoder_id: the id to go with `network`.

    Raises:
        UserError: unknown variant, or weights that cannot be had.
    """

    negatives = LERF_NEGATIVES

    def __init__(
        self,
        device: str = "cpu",
        weights: Path | None = None,
        variant: str = DEFAULT_VARIANT,
        *,
        network: ClipNetwork | None = None,
        encoder_id: str | None = None,
    ) -> None:
        self._device = device
        if network is not None:
            self._network = network
            self.dim = _width(network.model)
            self.encoder_id = encoder_id or f"open_clip:custom {_CROP_VERSION}"
            return
        self._model_name, self._tag = _split(variant)
        self._file = weight_files.existing(weights) if weights else locate(variant)
        self.dim = _embedding_width(self._model_name)
        self.encoder_id = f"open_clip:{self._model_name}/{self._tag}@{_digest(self._file)[:16]} {_CROP_VERSION}"

    @cached_property
    def _network(self) -> ClipNetwork:
        return _load(self._model_name, self._tag, self._file, self._device)

    @torch.inference_mode()
    def embed_regions(
        self, image: npt.NDArray[np.uint8], labels: npt.NDArray[np.int32], count: int
    ) -> npt.NDArray[np.float32]:
        """Embed regions; see `Encoder.embed_regions`."""
        rows = np.full((count, self.dim), np.nan, dtype=np.float32)
        network = self._network
        ids: list[int] = []
        pending: list[npt.NDArray[np.uint8]] = []
        for region, crop in region_crops(image, labels, count, _input_side(network.model)):
            ids.append(region)
            pending.append(crop)
            if len(pending) == _BATCH:
                rows[ids] = self._embed_crops(network, pending)
                ids, pending = [], []
        if pending:
            rows[ids] = self._embed_crops(network, pending)
        return rows

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed phrases as they stand, without a template; see `Encoder.embed_text`."""
        phrases = check_texts(texts)
        if not phrases:
            return np.zeros((0, self.dim), dtype=np.float32)
        network = self._network
        vectors = network.model.encode_text(network.tokenizer(phrases).to(self._device))
        return F.normalize(vectors.float(), dim=-1).cpu().numpy()

    def _embed_crops(self, network: ClipNetwork, crops: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        pixels = torch.from_numpy(np.stack(crops)).to(self._device).permute(0, 3, 1, 2).float() / 255.0
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (network.mean, network.std))
        # Half precision on the GPU as LangSplat has it; on a CPU it would only be slower.
        kind = torch.device(self._device).type
        with torch.autocast(kind, dtype=torch.float16, enabled=kind == "cuda"):
            vectors = network.model.encode_image((pixels - mean) / std)
        return F.normalize(vectors.float(), dim=-1).cpu().numpy()


def locate(variant: str) -> Path:
    """The weights file of a variant, from open_clip's own cache or by download.

    Raises:
        UserError: unknown variant; or the file is not cached and cannot be downloaded.
    """
    model_name, tag = _split(variant)
    import open_clip

    config = open_clip.get_pretrained_cfg(model_name, tag)
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if not repository:
        return _locate_by_url(model_name, tag, config)
    cached = next(filter(None, (_from_hub(repository, name, offline=True)[0] for name in _hub_files(file))), None)
    if cached is not None:
        return cached
    reason = _why_no_hub()
    if reason:
        raise _cannot_get(model_name, tag, repository, reason)
    for name in _hub_files(file):
        path, reason = _from_hub(repository, name, offline=False)
        if path is not None:
            return path
    raise _cannot_get(model_name, tag, repository, reason)


def _split(variant: str) -> tuple[str, str]:
    import difflib

    import open_clip

    model_name, _, tag = variant.partition("/")
    if tag and open_clip.get_pretrained_cfg(model_name, tag):
        return model_name, tag
    known = [f"{model}/{pretrained}" for model, pretrained in open_clip.list_pretrained()]
    near = difflib.get_close_matches(variant, known, n=3) or [DEFAULT_VARIANT]
    raise UserError(f"open_clip has no {variant!r}; write open_clip:MODEL/TAG, for example open_clip:{near[0]}")


def _hub_files(file: str) -> list[str]:
    return [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def _from_hub(repository: str, file: str, *, offline: bool) -> tuple[Path | None, str]:
    """The cached or downloaded file, or None with the reason in one line."""
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(repository, file, local_files_only=offline, etag_timeout=_HUB_TIMEOUT_SECONDS)
    except Exception as error:
        # The hub's client raises a dozen kinds; for the user they all mean that the file cannot be had.
        lines = str(error).strip().splitlines()
        return None, lines[0] if lines else type(error).__name__
    return Path(path), ""


def _why_no_hub() -> str:
    """Why the model hub cannot be asked, or an empty text.

    The hub's client tries again for most of a minute, per file and with a log line each, before it gives up on a
    machine without a connection. One question beforehand answers at once.
    """
    from huggingface_hub import constants

    if _offline():
        return f"{weight_files.OFFLINE_VARIABLE} is set"
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        # Any answer at all is a connection.
        return ""
    except OSError as error:
        return f"no connection to {constants.ENDPOINT}: {getattr(error, 'reason', error)}"
    return ""


def _locate_by_url(model_name: str, tag: str, config: dict[str, Any]) -> Path:
    import open_clip

    cached = Path("~/.cache/clip").expanduser() / Path(config.get("url", "")).name
    if _offline() and not cached.is_file():
        raise _cannot_get(model_name, tag, str(cached.parent), f"{weight_files.OFFLINE_VARIABLE} is set")
    try:
        return Path(open_clip.download_pretrained(config))
    except Exception as error:
        raise _cannot_get(model_name, tag, str(cached.parent), str(error)) from error


def _offline() -> bool:
    return os.environ.get(weight_files.OFFLINE_VARIABLE, "") not in ("", "0")


def _cannot_get(model_name: str, tag: str, place: str, reason: str) -> UserError:
    return UserError(
        f"the weights of open_clip:{model_name}/{tag} ({place}) are neither in open_clip's cache nor can they be "
        f"downloaded ({reason}). Run `lang-splat weights fetch open_clip:{model_name}/{tag}` where there is a "
        f"connection, or use the encoder colour-words, which needs no weights"
    )


def _digest(file: Path) -> str:
    # The hub's cache names each file by its own SHA-256, which saves reading it.
    name = file.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else weight_files.digest(file)


def _load(model_name: str, tag: str, file: Path, device: str) -> ClipNetwork:
    import open_clip

    config = open_clip.get_pretrained_cfg(model_name, tag)
    try:
        model = open_clip.create_model(
            model_name,
            pretrained=str(file),
            device=device,
            force_quick_gelu=bool(config.get("quick_gelu")),
            load_weights_only=True,
        )
    except Exception as error:
        raise UserError(f"{file} does not fit open_clip:{model_name}/{tag}: {str(error).splitlines()[0]}") from error
    model.eval().requires_grad_(False)
    mean = config.get("mean", open_clip.OPENAI_DATASET_MEAN)
    std = config.get("std", open_clip.OPENAI_DATASET_STD)
    return ClipNetwork(model, open_clip.get_tokenizer(model_name), tuple(mean), tuple(std))


def _embedding_width(model_name: str) -> int:
    import open_clip

    return int((open_clip.get_model_config(model_name) or {})["embed_dim"])


def _width(model: Any) -> int:
    """Length of a network's vectors, by asking it."""
    side = _input_side(model)
    with torch.inference_mode():
        return int(model.encode_image(torch.zeros(1, 3, side, side, device=next(model.parameters()).device)).shape[-1])


def _input_side(model: Any) -> int:
    size = model.visual.image_size
    return int(size[0] if isinstance(size, tuple | list) else size)
