"""A second opinion on a prompt's mask: a multimodal language model looks at the regions of the mask and says yes or no.

It replaces nothing: masks and embeddings propose, and the model is asked about the few best proposals, each time one
crop of a photo. Answers are kept, so that asking again costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.crops import cut
from lang_splat_ns.perception.feature_store import FeatureStore, make_key
from lang_splat_ns.perception.rerankers import Reranker

MAX_CALLS = 100
"""Crops that a model is shown for one scene at a time; a crop whose answer is kept does not count."""
REGIONS_PER_PROMPT = 5
"""Regions of a mask that are judged, those with the highest relevancy."""
CROP_SIDE = 448
"""Pixels per side of a crop."""
ANSWERS = "answers"


@dataclass(frozen=True)
class Verdict:
    """What was said about one region.

    Attributes:
        box: x and y of its upper left pixel, and of the pixel beyond its lower right one.
        area: its share of the view.
        probability: of yes.
        kept: whether it stays in the mask.
    """

    box: tuple[int, int, int, int]
    area: float
    probability: float
    kept: bool

    def to_json(self) -> dict[str, Any]:
        """For `query.json`."""
        return {**asdict(self), "box": list(self.box)}


class SecondOpinion:
    """A reranker with a memory on disk and a limit on how often it is asked.

    Args:
        reranker: who is asked.
        store: where answers are kept.
        calls: how many crops it is shown at most.
    """

    def __init__(self, reranker: Reranker, store: FeatureStore, calls: int = MAX_CALLS) -> None:
        self.reranker = reranker
        self._store = store
        self._left = calls

    def probabilities(self, crops: Sequence[npt.NDArray[np.uint8]], prompt: str) -> list[float | None]:
        """Probability of yes for each crop; None where the limit was reached before it.

        Raises:
            UserError: the reranker (a plug-in, perhaps) answers with something else than one probability per crop.
        """
        keys = [self._key(crop, prompt) for crop in crops]
        known = {key: self._recall(key) for key in keys}
        asked = [(key, crop) for key, crop in zip(keys, crops, strict=True) if known[key] is None]
        if len(asked) > self._left:
            CONSOLE.print(f"{self.reranker.reranker_id} has been asked {MAX_CALLS} times; the rest stays as it is.")
        asked = asked[: self._left]
        if asked:
            self._left -= len(asked)
            answers = _checked(self.reranker, self.reranker.judge([crop for _, crop in asked], prompt), len(asked))
            for (key, _), answer in zip(asked, answers, strict=True):
                self._remember(key, prompt, answer)
                known[key] = answer
        return [known[key] for key in keys]

    def _key(self, crop: npt.NDArray[np.uint8], prompt: str) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(crop).tobytes()).hexdigest()
        return make_key(ANSWERS, digest, prompt, self.reranker.reranker_id)

    def _recall(self, key: str) -> float | None:
        arrays = self._store.load(ANSWERS, key)
        return None if arrays is None else float(arrays["probability"])

    def _remember(self, key: str, prompt: str, answer: float) -> None:
        description = {"prompt": prompt, "reranker": self.reranker.reranker_id}
        self._store.save(ANSWERS, key, {"probability": np.array(answer)}, description)


def rerank(
    mask: npt.NDArray[np.bool_],
    relevancy: npt.NDArray[np.float32],
    photo: npt.NDArray[np.uint8],
    prompt: str,
    opinion: SecondOpinion,
) -> tuple[npt.NDArray[np.bool_], list[Verdict]]:
    """Take out of a mask the connected regions that the model rejects.

    The regions with the highest relevancy are judged. Weaker ones follow them: they stay as long as one of the judged
    stays, and go where all of these were rejected.

    Args:
        mask: bool [H, W], where the prompt was found in a view.
        relevancy: float [H, W], smoothed.
        photo: RGB uint8 [h, w, 3] of the same view, at any size.
        prompt: in any language that the model reads.
        opinion: whom to ask.

    Returns:
        The mask without rejected regions, and what was said about each judged one, the most relevant first.
    """
    import cv2
    from scipy.ndimage import find_objects, maximum

    count, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    peaks = np.asarray(maximum(relevancy, regions, range(1, count)))
    ranked = [int(region) for region in np.argsort(-peaks, kind="stable") + 1]
    judged, boxes = ranked[:REGIONS_PER_PROMPT], find_objects(regions)
    crops = [_crop(photo, regions == region) for region in judged]
    verdicts: list[Verdict] = []
    rejected: list[int] = []
    for region, probability in zip(judged, opinion.probabilities(crops, prompt), strict=True):
        if probability is None:
            continue
        rows, columns = boxes[region - 1]
        box = (columns.start, rows.start, columns.stop, rows.stop)
        verdicts.append(Verdict(box, float((regions == region).mean()), probability, probability > 0.5))
        rejected += [] if verdicts[-1].kept else [region]
    if judged and len(rejected) == len(judged):
        return np.zeros_like(mask), verdicts
    return mask & ~np.isin(regions, rejected), verdicts


def _crop(photo: npt.NDArray[np.uint8], region: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    import cv2
    from scipy.ndimage import find_objects

    height, width = photo.shape[:2]
    there = cv2.resize(region.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(np.int32)
    (box,) = find_objects(there)
    return cut(photo, there, 1, box, "blur", CROP_SIDE)


def _checked(reranker: Reranker, answers: Any, count: int) -> list[float]:
    values = [float(answer) for answer in answers]
    if len(values) != count or not all(0.0 <= value <= 1.0 for value in values):
        raise UserError(
            f"the reranker {reranker.reranker_id} answered {values} for {count} crops, where a probability each was due"
        )
    return values
