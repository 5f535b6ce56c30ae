"""A query's answer as files: overlays, masks, and the JSON that scripts read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.pictures import relevancy_overlay, write_png
from lang_splat_ns.files import write_text
from lang_splat_ns.language.field import Query, QueryMode, RelevancyMaps
from lang_splat_ns.language.relevancy import mask_of_smoothed, resolve_threshold, smooth
from lang_splat_ns.language.text import refused_texts
from lang_splat_ns.plugin.runs import Run, frame_camera
from lang_splat_ns.plugin.second_opinion import Judge, open_second_opinion, view_judge


def answer_query(
    run: Run,
    query: Query,
    frame: str | None,
    out: Path,
    *,
    reranker: str | None = None,
    query_mode: QueryMode | None = None,
) -> dict[str, Any]:
    """Ask a run, write `<i>_overlay.png`, `<i>_mask.png` and `query.json` to `out`, and return the JSON's content.

    Files are numbered, never named by prompts.

    Args:
        run: the run.
        query: prompts and how to read them.
        frame: photo whose view is rendered; None is the first evaluation photo.
        out: folder for the files.
        reranker: name of a reranker that judges the masks' regions, see `language.reranker`; None asks nobody.
        query_mode: how the method answers, where it has a choice; None is the run's own.

    Raises:
        UserError: a prompt means nothing to the encoder, the photo or level does not exist, or the reranker cannot be
            had.
    """
    opinion = open_second_opinion(run, reranker) if reranker else None
    field = run.pipeline.model.language_field(query_mode)
    refused = refused_texts(field.encoder, [*query.positives, *query.negatives])
    if refused:
        raise UserError("; ".join(refused.values()))
    name, camera = frame_camera(run, frame)
    start = time.perf_counter()
    with torch.no_grad():
        maps = field.relevancy(camera, query)
    seconds = time.perf_counter() - start
    with run.pipeline.model.prompts.silenced():
        rgb = run.pipeline.model.get_outputs_for_camera(camera)["rgb"]
    judge = view_judge(run, opinion, name, rgb) if opinion else None
    content = {
        "prompts": [_write_prompt(out, index, query, maps, rgb, judge) for index in range(len(query.positives))],
        "negatives": list(query.negatives or field.encoder.negatives),
        "frame": name,
        "encoder": field.encoder.encoder_id,
        "method": run.config.method_name,
        "seconds": round(seconds, 4),
    } | ({} if opinion is None else {"reranker": opinion.reranker.reranker_id})
    write_text(out / "query.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return content


def _write_prompt(
    out: Path, index: int, query: Query, maps: RelevancyMaps, rgb: Tensor, judge: Judge | None
) -> dict[str, Any]:
    raw = maps.best()[index]
    smoothed = smooth(raw[None])[0]
    threshold = resolve_threshold(float(smoothed.max()), query.threshold)
    mask = mask_of_smoothed(smoothed, query.threshold).cpu().numpy()
    judged: dict[str, Any] = {}
    if judge is not None:
        mask, verdicts = judge(mask, smoothed.cpu().numpy(), query.positives[index])
        judged = {"reranked": [verdict.to_json() for verdict in verdicts]}
    row, column = np.unravel_index(int(smoothed.argmax()), smoothed.shape)
    write_png(out / f"{index}_mask.png", mask.astype(np.uint8) * 255)
    write_png(out / f"{index}_overlay.png", relevancy_overlay(rgb.cpu().numpy(), smoothed.cpu().numpy()))
    return {
        "text": query.positives[index],
        "level": maps.levels[maps.chosen[index]] if maps.scales is None else f"scale {maps.scales[index]:.3f}",
        "score": float(raw.max()),
        "threshold": threshold,
        "area": float(mask.mean()),
        "peak": [int(column), int(row)],
        "mask": f"{index}_mask.png",
        "overlay": f"{index}_overlay.png",
        **judged,
    }
