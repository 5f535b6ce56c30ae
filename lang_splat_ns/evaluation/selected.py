"""Scores in 3D: the Gaussians that answer a prompt are drawn alone, and their silhouette is compared with the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lang_splat_ns.errors import NotSplatError
from lang_splat_ns.evaluation import metrics
from lang_splat_ns.evaluation.scores import Row
from lang_splat_ns.language.field import LanguageField, Query

OPAQUE = 0.5
"""Alpha above which a pixel belongs to the silhouette: more of it is the selection than is not."""


@torch.no_grad()
def score_in_3d(
    field: LanguageField, camera: Any, query: Query, rows: Sequence[Row], masks: Mapping[str, np.ndarray]
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
    """
    if not rows:
        return
    try:
        selected = field.select(replace(query, positives=tuple(row["text"] for row in rows))).mask
        silhouettes = field.silhouettes(camera, selected) > OPAQUE
    except NotSplatError:
        return
    for row, silhouette in zip(rows, silhouettes.cpu().numpy(), strict=True):
        row["iou_3d"] = metrics.iou(silhouette, masks[row["prompt"]])
