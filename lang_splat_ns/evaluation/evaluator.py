"""The one evaluator: asks a language field about labelled frames and scores what it answers.

It knows a field only through the `LanguageField` protocol, so every method, and the oracle that sees the photo
itself, is scored by the same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lang_splat_ns.console import track
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation import metrics
from lang_splat_ns.evaluation.protocol_names import DEFAULT_PROTOCOL
from lang_splat_ns.evaluation.protocols import PROTOCOLS, EvaluationProtocol, Reading
from lang_splat_ns.evaluation.scores import LanguageScores, Row, summarise
from lang_splat_ns.evaluation.selected import score_in_3d
from lang_splat_ns.evaluation.threshold_curve import iou_at_thresholds
from lang_splat_ns.language.field import LanguageField, Level, Query, RelevancyMaps
from lang_splat_ns.language.relevancy import Threshold, resolve_threshold
from lang_splat_ns.language.text import refused_texts

# Maps of one call are in memory together: 32 prompts at 3 levels of a 960 x 540 frame are 200 MB.
PROMPTS_PER_CALL = 32


@dataclass(frozen=True)
class LabelledFrame:
    """A frame with ground truth at the size at which the field renders it.

    Attributes:
        name: the frame's name in tables and messages.
        camera: whatever the field renders from.
        masks: for each prompt present in the frame its pixels, bool [H, W].
        boxes: for each prompt the boxes of its instances as masks, bool [H, W] each. A prompt without boxes is not
            scored for localisation, one that has boxes and no mask for nothing else.
    """

    name: str
    camera: Any
    masks: dict[str, np.ndarray]
    boxes: dict[str, list[np.ndarray]]

    @property
    def prompts(self) -> tuple[str, ...]:
        """What is labelled here, by masks or by boxes."""
        return tuple(dict.fromkeys([*self.masks, *self.boxes]))

    def shapes(self, prompt: str) -> list[np.ndarray]:
        """What is known of where a prompt is: its mask, or where it has none its boxes; empty for an absent one."""
        return [self.masks[prompt]] if prompt in self.masks else self.boxes.get(prompt, [])


@dataclass(frozen=True)
class UnitAnswer:
    """What the field said about one prompt in one frame, for reports that want more than numbers.

    Attributes:
        frame: the labelled frame.
        row: the unit's row of the table.
        relevancy: float [H, W], smoothed raw relevancy at the chosen level.
        mask: bool [H, W], where it is above the threshold.
        truth: bool [H, W], the boxes where there is no mask, or None for an absent prompt.
    """

    frame: LabelledFrame
    row: Row
    relevancy: np.ndarray
    mask: np.ndarray
    truth: np.ndarray | None


def evaluate(
    field: LanguageField,
    frames: Iterable[LabelledFrame],
    absent: Sequence[str],
    *,
    level: Level = "auto",
    threshold: Threshold = "auto",
    negatives: Sequence[str] = (),
    translations: Mapping[str, str] | None = None,
    on_answer: Callable[[UnitAnswer], None] | None = None,
    protocol: EvaluationProtocol = PROTOCOLS[DEFAULT_PROTOCOL],
    classes: Sequence[str] = (),
) -> LanguageScores:
    """Score a field: mean IoU, localisation and rejection of absent prompts (see `summarise` for the keys).

    A unit is a labelled frame with a prompt that is present in it. Which prompts the encoder can represent is
    decided once, before anything is rendered, so that a refusal costs nothing and is the same in every frame.

    Args:
        field: answers relevancy maps for a frame's camera.
        frames: the labelled frames.
        absent: prompts for things that no frame shows.
        level: "auto", or the name of one of the field's levels.
        threshold: "auto", or a number in 0..1 that is taken as it is.
        negatives: phrases to beat; empty means the encoder's own.
        translations: for each prompt the text to ask in its place; a prompt without one is not scored.
        on_answer: called with each scored unit, in order, while its maps are at hand.
        protocol: how answers are read, see `protocols`.
        classes: what a protocol with a closed list asks in every frame, beside all that is labelled in any.

    Raises:
        UserError: unknown level, threshold outside 0..1, a negative that the encoder refuses, a prompt that is both
            labelled and declared absent, or labels of another size than the rendered maps.
    """
    frames, absent = list(frames), list(dict.fromkeys(absent))
    _check(field, frames, absent, level, threshold, negatives)
    closed = list(dict.fromkeys([*classes, *(prompt for frame in frames for prompt in frame.prompts)]))
    prompts = list(dict.fromkeys([*closed, *absent]))
    texts = {prompt: prompt if translations is None else translations.get(prompt, "") for prompt in prompts}
    reasons = _reasons_not_to_score(field, texts)

    table: list[Row] = []
    for frame in track(frames, "Asking about labelled photos", unit="photos"):
        rows = [
            _open_row(frame, prompt, texts[prompt], reasons.get(prompt) or _why_not(frame, prompt, protocol))
            for prompt in [*frame.prompts, *absent]
        ]
        table += rows
        asked = [row for row in rows if row["reason"] is None]
        query = Query(tuple(row["text"] for row in asked), tuple(negatives), level, threshold)
        if protocol.read is not None:
            rivals = [texts[prompt] for prompt in closed if prompt not in reasons] if protocol.closed and asked else []
            for row, answer in zip(asked, _answers(field, frame.camera, query, protocol, rivals), strict=True):
                unit = _score(frame, row, answer, protocol)
                _look_beyond(unit, answer.reading, protocol)
                if on_answer is not None:
                    on_answer(unit)
        present = [row for row in asked if row["prompt"] in frame.masks]
        score_in_3d(field, frame.camera, query, present, frame.masks, protocol)
    return LanguageScores(summarise(table), table, tuple(field.levels))


def _check(
    field: LanguageField,
    frames: Sequence[LabelledFrame],
    absent: Sequence[str],
    level: Level,
    threshold: Threshold,
    negatives: Sequence[str],
) -> None:
    """Find the caller's mistakes before anything is rendered."""
    if level != "auto" and level not in field.levels:
        raise UserError(f"There is no level '{level}': this field has {', '.join(field.levels)}, or take 'auto'.")
    resolve_threshold(1.0, threshold)
    for frame in frames:
        for prompt in absent:
            if prompt in frame.prompts:
                raise UserError(f"'{prompt}' is labelled in frame '{frame.name}' and also declared absent: mend one.")
    for negative, message in refused_texts(field.encoder, negatives).items():
        raise UserError(f"The encoder cannot represent the negative phrase '{negative}': {message}")


def _reasons_not_to_score(field: LanguageField, texts: Mapping[str, str]) -> dict[str, str]:
    """For each prompt that cannot be asked the reason. `texts`: what is asked for each prompt, "" for nothing."""
    refused = refused_texts(field.encoder, [text for text in texts.values() if text])
    reasons = {prompt: f"refused by the encoder: {refused[text]}" for prompt, text in texts.items() if text in refused}
    return reasons | {prompt: "there is no translation of it" for prompt, text in texts.items() if not text}


def _why_not(frame: LabelledFrame, prompt: str, protocol: EvaluationProtocol) -> str | None:
    """Why a protocol has nothing to say about a prompt in a frame, or None."""
    if prompt not in frame.prompts:
        return "nothing of a closed list is absent" if protocol.closed else None
    if not any(shape.any() for shape in frame.shapes(prompt)):
        # Undistortion and cropping can push a label out of the photo.
        return "no labelled pixel lies in the frame"
    if prompt not in frame.masks and (protocol.read is None or protocol.closed):
        return "it is labelled by boxes, and this protocol compares shapes"
    return None


def _open_row(frame: LabelledFrame, prompt: str, text: str, reason: str | None) -> Row:
    """The part of a unit's row that is known before rendering; a row with a reason stays like this."""
    present = prompt in frame.prompts
    return {"frame": frame.name, "prompt": prompt, "text": text, "present": present, "scored": False, "reason": reason}


@dataclass(frozen=True)
class _Answer:
    """One prompt's part of `RelevancyMaps`, read."""

    reading: Reading
    levels: tuple[str, ...]
    scale: float | None


def _answers(
    field: LanguageField, camera: Any, query: Query, protocol: EvaluationProtocol, rivals: Sequence[str]
) -> Iterator[_Answer]:
    """One answer per prompt of the query, which may have none. `rivals`: texts that are asked along with them."""
    assert protocol.read is not None, "there are no answers without maps"
    texts = (*query.positives, *(text for text in dict.fromkeys(rivals) if text not in query.positives))
    # A closed list cannot be taken apart.
    size = max(len(texts), 1) if protocol.closed else PROMPTS_PER_CALL
    for start in range(0, len(texts), size):
        chunk = replace(query, positives=texts[start : start + size])
        with torch.no_grad():
            maps: RelevancyMaps = field.relevancy(camera, chunk)
            # A pixel without a value (a field may mark empty space by NaN) has no evidence for the prompt.
            values = maps.values.float().nan_to_num(nan=0.0)
        for index, reading in enumerate(protocol.read(values, maps.chosen, chunk)):
            if start + index < len(query.positives):
                scale = None if maps.scales is None else float(maps.scales[index])
                yield _Answer(reading, maps.levels, scale)


def _score(frame: LabelledFrame, row: Row, answer: _Answer, protocol: EvaluationProtocol) -> UnitAnswer:
    """Fill in a unit's row and say what was found."""
    prompt, read = row["prompt"], answer.reading
    for truth in [*frame.shapes(prompt), *frame.boxes.get(prompt, [])]:
        _check_size(frame, prompt, truth, read.maps)
    relevancy, mask = read.maps[read.chosen], read.mask
    row |= {"scored": True, "level": answer.levels[read.chosen], "peak": float(relevancy.max())}
    row |= {"peak_at": list(metrics.peak_position(read.pointing)), "threshold": read.threshold}
    row |= {"area": float(mask.mean())} | ({} if answer.scale is None else {"scale": answer.scale})
    if not row["present"]:
        row["rejected"] = not mask.any()
        return UnitAnswer(frame, row, relevancy, mask, None)
    shapes = frame.shapes(prompt)
    truth = shapes[0] if len(shapes) == 1 else np.any(shapes, axis=0)
    if prompt in frame.masks:
        row |= {"iou": metrics.iou(mask, truth), "gt_area": float(truth.mean())}
        row["iou_by_level"] = {level: metrics.iou(m, truth) for level, m in zip(answer.levels, read.masks, strict=True)}
        row |= {"recall": metrics.recall(mask, truth)} if protocol.closed else {}
    if boxes := frame.boxes.get(prompt):
        row["hit"] = metrics.peak_hits(read.pointing, boxes)
    return UnitAnswer(frame, row, relevancy, mask, truth)


def _look_beyond(unit: UnitAnswer, read: Reading, protocol: EvaluationProtocol) -> None:
    """Add what only the maps can tell: on what else the answer lies, and what other thresholds would have given."""
    row = unit.row
    row["mask_on"] = metrics.shares_on(unit.mask, unit.frame.masks)
    row["peak_on"] = metrics.peak_on(read.pointing, unit.frame.masks)
    if "iou" in row:
        ious = iou_at_thresholds(protocol, unit.relevancy, unit.frame.masks[row["prompt"]])
        row |= {} if ious is None else {"iou_at": ious}


def _check_size(frame: LabelledFrame, prompt: str, truth: np.ndarray, maps: np.ndarray) -> None:
    if truth.shape != maps.shape[-2:]:
        rendered, labelled = (f"{shape[1]} x {shape[0]}" for shape in (maps.shape[-2:], truth.shape))
        raise UserError(
            f"Frame '{frame.name}': the rendered map is {rendered} pixels but the label of '{prompt}' is {labelled}. "
            "Labels must go through the photo's own resize, undistortion and crop."
        )
