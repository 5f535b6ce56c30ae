"""Scores in 3D: the Gaussians that answer a prompt are drawn alone, and their silhouette is compared with the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lang_splat_ns.errors import NotSplatError
from lang_splat_ns.evaluation import metrics
from lang_splat_ns.evaluation.protocols import EvaluationProtocol
from lang_splat_ns.evaluation.scores import Row
from lang_splat_ns.language.field import LanguageField, Query


@torch.no_grad()
def score_in_3d(
    field: LanguageField,
    camera: Any,
    query: Query,
    rows: Sequence[Row],
    masks: Mapping[str, np.ndarray],
    protocol: EvaluationProtocol,
) -> None:
    """Add `iou_3d` to rows of one frame; a field without Gaussians leaves them as they are.

    Nothing but the selection is drawn, so what hides an object in the photo does not hide it here, as in the published
    3D protocol (OpenGaussian, Dr. Splat, VALA). Selections do not depend on the view, only on the query.

    Args:
        field: selects and draws.
        camera: the frame's camera.
        query: how prompts are read; its prompts are those of the rows.
        rows: scored rows of prompts that the frame shows.
        masks: the frame's labels by prompt, bool [H, W].
        protocol: what is selected, and what of a silhouette counts.
    """
    if not rows or protocol.select is None:
        return
    try:
        selected = protocol.select(field, replace(query, positives=tuple(row["text"] for row in rows)))
        silhouettes = field.silhouettes(camera, selected) > protocol.opaque
    except NotSplatError:
        # Maps are what such a field has; without them nothing is left to score.
        if protocol.read is not None:
            return
        raise
    for row, silhouette in zip(rows, silhouettes.cpu().numpy(), strict=True):
        row["scored"] = True
        row["iou_3d"] = metrics.iou(silhouette, masks[row["prompt"]])
