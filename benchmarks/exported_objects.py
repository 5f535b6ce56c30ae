"""What exported objects are worth: each drawn alone against its label, and what its removal does to other prompts.

python -m benchmarks.exported_objects --load-config RUN/config.yml --out exported_objects.json

Selections are those of `lang-splat export`. For every labelled prompt that the encoder can represent and every held-out
photo that shows it:

- `iou`: the object's silhouette (alpha above 0.5, drawn alone) against the label's mask, where the label can know: an
  object partly hidden in the photo shows all of itself when it is drawn alone, and the label says nothing of what is
  hidden. So pixels of the silhouette outside the mask are left out where the object lies more than 3 % farther away
  than what the whole scene shows there. `iou_everywhere` counts them.
- Prompts with the same text embedding ("green ball" and "green cone" to an encoder that only knows colours) have one
  selection, so its truth is all that is labelled with any of them; `shares_answer_with` says so, and `iou_of_label` is
  against the prompt's own label only.
- Removal: the object's Gaussians are made transparent. Of every other prompt in the photo, the highest raw relevancy
  and the IoU of its mask are taken before and after, both with the removed object's labelled pixels blanked. A prompt
  of whose label more than half lies in the removed one (a part of it) is not another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.evaluator import LabelledFrame
from lang_splat_ns.evaluation.metrics import iou
from lang_splat_ns.evaluation.protocols import PROTOCOLS
from lang_splat_ns.files import write_text
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.relevancy import mask_of
from lang_splat_ns.language.text import refused_texts
from lang_splat_ns.plugin.export import Scene, open_scene, without_floaters
from lang_splat_ns.plugin.labelled_frames import labelled_frames, scene_labels
from lang_splat_ns.plugin.runs import Run, open_run

OPAQUE = PROTOCOLS["held-out"].opaque

BEHIND = 0.03
"""Share of the scene's depth that a hidden pixel of an object lies behind it."""

TRANSPARENT = -30.0
"""Logit of an opacity that no kernel draws."""


@dataclass
class ExportedObjects:
    """Draw exported objects alone, remove them, and compare with labels."""

    load_config: tuple[Path, ...]
    """config.yml of finished runs."""
    level: str = "auto"
    """Level to select at, or auto."""
    removal: bool = True
    """Also remove each object and ask for the others again. That takes a while where answers are decoded per pixel."""
    out: Path | None = None
    """Write everything to this JSON file; what it says of other runs stays in it."""

    def main(self) -> None:
        """Measure every run, show, write."""
        content = {}
        for config in self.load_config:
            run = open_run(config)
            name = f"{Path(run.config.pipeline.datamanager.data).name}, {run.config.method_name}"
            content[name] = measure(run, self.level, self.removal)
            CONSOLE.print(name, json.dumps(content[name]["summary"], indent=1), markup=False)
        if self.out is not None:
            others = json.loads(self.out.read_text(encoding="utf-8")) if self.out.is_file() else {}
            facts = {"level": self.level, "hidden_pixels": f"left out where {BEHIND:.0%} behind the scene's depth"}
            content = others | {"facts": facts} | content
            write_text(self.out, json.dumps(content, indent=1, allow_nan=False) + "\n")


@torch.no_grad()
def measure(run: Run, level: str = "auto", removal: bool = True) -> dict[str, Any]:
    """Both measurements of one run: `summary` and a row per prompt."""
    scene, model = open_scene(run), run.pipeline.model
    labels = scene_labels(run.pipeline.datamanager)
    if labels is None:
        raise UserError(
            f"{run.config.pipeline.datamanager.data}: no label folder, so there is nothing to compare with."
        )
    frames = labelled_frames(run.pipeline.datamanager, labels)
    prompts = list(dict.fromkeys(prompt for frame in frames for prompt in frame.masks))
    refused = refused_texts(scene.field.encoder, prompts)
    prompts = [prompt for prompt in prompts if prompt not in refused]
    selection = scene.field.select(Query(tuple(prompts), level=level))
    same = _same_answers(scene.field.encoder.embed_text(prompts), prompts)
    whole = [_depth(model, frame, None) for frame in frames]
    before = _answers(scene, frames, prompts) if removal else []
    rows = []
    for number, prompt in enumerate(track(prompts, "Measuring objects", unit="objects")):
        mask = selection.mask[number]
        if mask.any():
            mask = without_floaters(scene, mask)
        row: dict[str, Any] = {"prompt": prompt, "level": scene.field.levels[selection.chosen[number]]}
        row |= {"gaussians": int(mask.sum()), "score": selection.peaks[number]}
        if len(same[prompt]) > 1:
            row["shares_answer_with"] = [other for other in same[prompt] if other != prompt]
        row |= _drawn_alone(model, frames, whole, prompt, same[prompt], mask)
        if removal:
            with removed(model, mask):
                after = _answers(scene, frames, prompts)
            row |= _others(frames, before, after, prompts, same[prompt])
        rows.append(row)
    return {"summary": _summary(rows), "objects": rows, "not_asked": sorted(refused)}


def _answers(scene: Scene, frames: Sequence[LabelledFrame], prompts: Sequence[str]) -> list[torch.Tensor]:
    """Raw relevancy of each photo at the level that suits each prompt best: [Q, H, W] each."""
    query = Query(tuple(prompts))
    return [scene.field.relevancy(frame.camera, query).best() for frame in frames]


def _same_answers(embeddings: np.ndarray, prompts: Sequence[str]) -> dict[str, list[str]]:
    cosines = embeddings @ embeddings.T
    return {prompt: [prompts[i] for i in np.flatnonzero(cosines[k] > 0.9999)] for k, prompt in enumerate(prompts)}


def _depth(model: Any, frame: LabelledFrame, only: torch.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean depth where anything is and alpha, float [H, W] each."""
    image, alpha = model.splat(frame.camera.to(model.device), with_color=False, with_depth=True, only=only)
    return (image / alpha.clamp_min(1e-6))[..., 0].cpu().numpy(), alpha[..., 0].cpu().numpy()


def _truth(frame: LabelledFrame, prompts: Sequence[str]) -> np.ndarray:
    """All that is labelled with one of some prompts: bool [H, W]; empty where nothing is."""
    size = next(iter(frame.masks.values())).shape
    return np.any([frame.masks.get(prompt, np.zeros(size, bool)) for prompt in prompts], axis=0)


def _drawn_alone(
    model: Any,
    frames: Sequence[LabelledFrame],
    whole: Sequence[Any],
    prompt: str,
    same: Sequence[str],
    mask: torch.Tensor,
) -> dict[str, Any]:
    known, everywhere, own = [], [], []
    for frame, (scene_depth, scene_alpha) in zip(frames, whole, strict=True):
        if not frame.masks.get(prompt, np.zeros(1)).any():
            continue
        truth = _truth(frame, same)
        silhouette, hidden = np.zeros_like(truth), np.zeros_like(truth)
        if mask.any():
            depth, alpha = _depth(model, frame, mask)
            silhouette = alpha > OPAQUE
            hidden = ~truth & (depth > (1 + BEHIND) * scene_depth) & (scene_alpha > OPAQUE)
        known.append(iou(silhouette & ~hidden, truth))
        everywhere.append(iou(silhouette, truth))
        own.append(iou(silhouette & ~hidden, frame.masks[prompt]))
    result = {
        "iou": float(np.mean(known)),
        "iou_least": min(known),
        "iou_by_photo": [round(value, 4) for value in known],
    }
    result["iou_everywhere"] = float(np.mean(everywhere))
    return result | ({"iou_of_label": float(np.mean(own))} if len(same) > 1 else {})


@contextmanager
def removed(model: Any, mask: torch.Tensor) -> Iterator[None]:
    """Make Gaussians transparent for a while."""
    opacities = model.gauss_params["opacities"].data
    kept = opacities[mask].clone()
    opacities[mask] = TRANSPARENT
    try:
        yield
    finally:
        opacities[mask] = kept


def _others(
    frames: Sequence[LabelledFrame],
    before: Sequence[Any],
    after: Sequence[Any],
    prompts: Sequence[str],
    gone: Sequence[str],
) -> dict[str, Any]:
    """Largest changes of other prompts over photos, and which prompt it was."""
    peaks: dict[str, list[float]] = {}
    ious: dict[str, list[tuple[float, float]]] = {}
    for frame, old, new in zip(frames, before, after, strict=True):
        blank = _truth(frame, gone)
        outside = torch.from_numpy(~blank).to(old.device)
        for number, prompt in enumerate(prompts):
            truth = frame.masks.get(prompt)
            if prompt in gone or truth is None or (truth & ~blank).sum() <= 0.5 * truth.sum():
                continue
            one, other = old[number] * outside, new[number] * outside
            peaks.setdefault(prompt, []).append(float(other.max() - one.max()))
            pair = tuple(iou(mask_of(values).cpu().numpy() & ~blank, truth & ~blank) for values in (one, other))
            ious.setdefault(prompt, []).append(pair)
    changes = {
        prompt: {
            "score": float(np.mean(peaks[prompt])),
            "score_in_a_photo": max(peaks[prompt], key=abs),
            "iou": float(np.mean([second - first for first, second in ious[prompt]])),
        }
        for prompt in peaks
    }
    result = {}
    for key in ("score", "score_in_a_photo", "iou"):
        worst = max(changes, key=lambda prompt: abs(changes[prompt][key]), default=None)
        if worst is not None:
            result[f"largest_change_of_{key}"] = {"prompt": worst, "by": changes[worst][key]}
    return result


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "objects": len(rows),
        "iou": float(np.mean([row["iou"] for row in rows])),
        "iou_least_object": min(row["iou"] for row in rows),
        "objects_below_0.6": [row["prompt"] for row in rows if row["iou"] < 0.6],
    }
    for key in ("score", "score_in_a_photo", "iou"):
        name = f"largest_change_of_{key}"
        changes = [abs(row[name]["by"]) for row in rows if name in row]
        if changes:
            summary[name] = max(changes)
    return summary


if __name__ == "__main__":
    tyro.cli(ExportedObjects).main()
