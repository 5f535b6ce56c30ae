"""Where a run's reranker finds its photos, and where its answers are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from lang_splat_ns.language.reranker import SecondOpinion, Verdict, rerank
from lang_splat_ns.perception.feature_store import open_store
from lang_splat_ns.perception.rerankers import make_reranker
from lang_splat_ns.plugin.frame_features import make_frames
from lang_splat_ns.plugin.labelled_frames import data_folder
from lang_splat_ns.plugin.runs import Run

Judge = Callable[[np.ndarray, np.ndarray, str], tuple[np.ndarray, list[Verdict]]]
"""A view's mask [H, W], its relevancy [H, W] and the prompt -> what is left of the mask, and what was said."""


def open_second_opinion(run: Run, reranker: str) -> SecondOpinion:
    """A reranker by name, with the memory in the feature cache of the run's data.

    Raises:
        UserError: the reranker is unknown, or its weights cannot be had.
    """
    manager = run.pipeline.datamanager
    store = open_store(data_folder(manager), manager.config.cache_dir)
    return SecondOpinion(make_reranker(reranker, device=str(run.pipeline.device)), store)


def view_judge(run: Run, opinion: SecondOpinion, name: str, rgb: Tensor) -> Judge:
    """Judge of one view's masks; it shows crops of the frame's photo, or of the render where the photo is gone.

    Args:
        run: the run.
        opinion: whom to ask.
        name: file name of the frame's photo.
        rgb: the render, float [H, W, 3] in 0..1.
    """
    found = frame_photo(run, name)
    photo = (rgb.clamp(0, 1) * 255).round().byte().cpu().numpy() if found is None else found
    return lambda mask, relevancy, prompt: rerank(mask, relevancy, photo, prompt, opinion)


def frame_photo(run: Run, name: str) -> np.ndarray | None:
    """The photo of a frame at its own size, undistorted: uint8 [H, W, 3]; None where the file is gone."""
    manager = run.pipeline.datamanager
    for dataset in (manager.eval_dataset, manager.train_dataset):
        for index, path in enumerate(dataset.image_filenames):
            if path.name == name and path.is_file():
                cameras = dataset._dataparser_outputs.cameras
                (frame,) = make_frames([path], cameras[index : index + 1])
                return frame.load()
    return None
