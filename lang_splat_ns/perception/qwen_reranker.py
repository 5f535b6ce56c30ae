"""`qwen3-vl`: a multimodal language model that looks at a crop and answers yes or no, in Chinese or English."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from lang_splat_ns.batches import batched
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception import hub
from lang_splat_ns.perception.prompt_templates import is_chinese

QUESTIONS = {
    "en": 'One thing in this picture is sharp, and all around it is blurred. Is the sharp thing "{}"? Say yes or no.',
    "zh": "图中只有一个物体是清晰的，周围都是模糊的。这个清晰的物体是“{}”吗？请回答“是”或“否”。",
}
_QUESTION_VERSION = "question/1"
_YES = ("yes", "Yes", "是")
_NO = ("no", "No", "否", "不")
_BATCH = 4


class QwenReranker:
    """Qwen3-VL as a judge; see `rerankers.Reranker`.

    The probability of yes is read off the logits of the answer's first word, so nothing is generated.

    Args:
        device: torch device.
        weights: folder in the form of `save_pretrained`, in place of the repository.
        variant: `OWNER/NAME` on the hub, or such a folder.

    Raises:
        UserError: the model cannot be had.
    """

    name: ClassVar[str] = "qwen3-vl"
    address: ClassVar[str] = "Qwen/Qwen3-VL-2B-Instruct"
    licence: ClassVar[str] = "Apache-2.0"

    def __init__(self, device: str = "cpu", weights: Path | None = None, variant: str | None = None) -> None:
        repository = str(weights or variant or self.address)
        self._folder = self.fetch(repository)
        self._device = device
        name = Path(repository).name if Path(repository).is_dir() else repository
        self.reranker_id = f"{self.name}:{name}@{hub.digest_of(self._folder)[:16]} {_QUESTION_VERSION}"

    @classmethod
    def fetch(cls, variant: str | None = None) -> Path:
        """Folder of the model, from the hub's cache or by download.

        Raises:
            UserError: it is not cached and cannot be downloaded.
        """
        name = cls.name if variant in (None, cls.address) else f"{cls.name}:{variant}"
        return hub.model_folder(variant or cls.address, name, without="ask without a reranker")

    @classmethod
    def cached(cls, variant: str | None = None) -> Path | None:
        """Folder of the model if it is on this machine; no network is asked."""
        return hub.cached_model(variant or cls.address)

    def judge(self, crops: Sequence[npt.NDArray[np.uint8]], prompt: str) -> list[float]:
        """Probability of yes for each crop; all crops have one size. See `Reranker.judge`."""
        question = QUESTIONS["zh" if is_chinese(prompt) else "en"].replace("{}", prompt)
        return [answer for batch in batched(crops, _BATCH) for answer in self._answers(batch, question)]

    @torch.inference_mode()
    def _answers(self, crops: Sequence[npt.NDArray[np.uint8]], question: str) -> list[float]:
        from PIL import Image

        model, processor, yes, no = self._parts
        talks = [
            [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}]
            for picture in map(Image.fromarray, crops)
        ]
        # Crops of one size and one question make rows of one length, so nothing is filled up.
        fed = processor.apply_chat_template(
            talks, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        logits = model(**fed.to(self._device), logits_to_keep=1).logits[:, -1].float()
        return torch.sigmoid(logits[:, yes].logsumexp(-1) - logits[:, no].logsumexp(-1)).tolist()

    @cached_property
    def _parts(self) -> tuple[Any, Any, list[int], list[int]]:
        """Model, processor, and the tokens that answers begin with; loaded when the first crop comes."""
        from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

        # A GPU computes in the precision that the weights have; few CPUs can.
        precision = torch.float32 if torch.device(self._device).type == "cpu" else torch.bfloat16
        try:
            processor: Any = AutoProcessor.from_pretrained(self._folder, local_files_only=True)
            model: Any = Qwen3VLForConditionalGeneration.from_pretrained(
                self._folder, dtype=precision, local_files_only=True
            )
        except Exception as error:
            # Broken files raise whatever the reader of their format raises.
            raise UserError(f"{self._folder} cannot be loaded: {hub.first_line(error)}") from error
        yes, no = (_first_tokens(processor.tokenizer, words) for words in (_YES, _NO))
        return model.eval().requires_grad_(False).to(self._device), processor, yes, no


def _first_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    return sorted({tokenizer.encode(word, add_special_tokens=False)[0] for word in words})
