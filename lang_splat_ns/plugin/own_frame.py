"""The data set's own world frame, in which files leave; nerfstudio turns and scales scenes for training."""

from __future__ import annotations

from typing import Any

import torch

from lang_splat_ns.plugin.init_from import run_frame
from lang_splat_ns.splatting.gaussians import Gaussians, Similarity, transform


def own_gaussians(pipeline: Any) -> Gaussians:
    """A pipeline's Gaussians in the data set's own world frame: as the run's folder says, else as the parser does."""
    with torch.no_grad():
        return transform(pipeline.model.gaussians().detach(), frame_of(pipeline).inverse())


def frame_of(pipeline: Any) -> Similarity:
    """From the data set's world to nerfstudio's frame."""
    outputs, run_dir = pipeline.datamanager.train_dataparser_outputs, pipeline.model.run_dir
    parsed = Similarity.from_dataparser(outputs.dataparser_transform, outputs.dataparser_scale)
    return (run_frame(run_dir) if run_dir else None) or parsed
