"""How well masks of different photos are taken for the same object: adjusted Rand indices against ground truth.

A mask counts where it is one labelled thing, or one labelled part, at all: where their overlap (IoU) is at least a
half. What the segmenter has cut otherwise says nothing about matching. The index is taken per level over those masks of
all labelled photos, and the levels' mean is weighted by their masks. On the demo scene every training photo is
labelled; on the real ones only held-out photos are, so that these are matched along with the training photos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlgs_ns.begin import views_of
from fastlgs_ns.matching import Identities
from fastlgs_ns.views import MaskedView, Views
from lang_splat_ns.langsplat_lift.counting import count_here
from lang_splat_ns.langsplat_lift.lift import prepare_counting
from lang_splat_ns.plugin.frame_features import FrameFeatureSource
from lang_splat_ns.plugin.labelled_frames import data_folder, scene_labels
from lang_splat_ns.splatting.votes import Votes, merge

LEAST_IOU = 0.5


@dataclass(frozen=True)
class Labelled:
    """A scene's photos to match, and the truth about some of their masks.

    Attributes:
        views: photos and masks.
        truth: per level and view the labelled thing that each mask is, -1 for none. int64 [count]
        votes: of all these views.
    """

    views: Views
    truth: list[list[NDArray[np.int64]]]
    votes: Votes


def label_scene(pipeline: Any, votes: Votes) -> Labelled:
    """The photos of a run, with truth from dense masks where the data has them, else from the held-out photos' labels.

    Args:
        pipeline: of a fastlgs run.
        votes: of its training views.
    """
    manager = pipeline.datamanager
    folder = data_folder(manager)
    views = views_of(manager.features, manager.train_camera_copy())
    if (folder / "masks").is_dir():
        names = [path.stem for path in manager.train_dataset.image_filenames]
        things = [_dense_things(folder / "masks" / f"{name}.png") for name in names]
        return Labelled(views, _truth(views, things), votes)
    spec, dataset = manager.config.perception(), manager.eval_dataset
    source = FrameFeatureSource(dataset, spec, Path(str(manager.config.data)), str(manager.device))
    source.prepare()
    cameras = manager.eval_camera_copy()
    held_out = views_of(source, cameras)
    cameras.rescale_output_resolution(1 / manager.config.camera_res_scale_factor)
    counted = count_here(prepare_counting(pipeline.model, source, cameras, votes.top_k))
    votes = merge(votes, replace(counted, views=counted.views + len(views)))
    labels = scene_labels(manager)
    assert labels is not None, "only labelled scenes are measured"
    prompts = sorted({prompt for frame in labels.frames.values() for prompt in frame.categories})
    things: list[dict[int, NDArray[np.bool_]]] = [{} for _ in range(len(views))]
    for path in dataset.image_filenames:
        frame = labels.frames.get(path.stem)
        known = () if frame is None else frame.categories
        things.append({prompts.index(prompt): frame.mask(prompt) for prompt in known if frame is not None})
    together = _joined(views, held_out)
    return Labelled(together, _truth(together, things), votes)


def adjusted_rand(identities: Identities, truth: Sequence[Sequence[NDArray[np.int64]]]) -> dict[str, Any]:
    """The index per level and their weighted mean; a mask that is no object's counts as one by itself."""
    from sklearn.metrics import adjusted_rand_score

    scores, counts = [], []
    for level, of_views in enumerate(truth):
        wanted, objects = np.concatenate(of_views), identities.of_mask[level].copy()
        alone = objects < 0
        objects[alone] = objects.max(initial=-1) + 1 + np.arange(int(alone.sum()))
        counts.append(int((wanted >= 0).sum()))
        scores.append(float(adjusted_rand_score(wanted[wanted >= 0], objects[wanted >= 0])) if counts[-1] else 0.0)
    mean = float(np.average(scores, weights=counts)) if sum(counts) else 0.0
    return {"ari": round(mean, 4), "ari_of_levels": [round(score, 4) for score in scores], "masks": counts}


def rendered_ari(maps: Sequence[torch.Tensor], masks: Sequence[Mapping[str, NDArray[np.bool_]]]) -> list[float]:
    """The index of the objects that a trained scene shows where labels are, one unit per label and photo, by level.

    A label that lies in another one (a part in its whole) is most likely shown as the same object at coarse levels, and
    counts as wrong then.

    Args:
        maps: objects int64 [L, H, W] of each labelled photo.
        masks: its labels.
    """
    from sklearn.metrics import adjusted_rand_score

    scores = []
    for level in range(len(maps[0])):
        wanted, found = [], []
        for shown, labels in zip(maps, masks, strict=True):
            for prompt, mask in labels.items():
                objects = shown[level].numpy()[mask]
                if (objects >= 0).any():
                    wanted.append(prompt)
                    found.append(int(np.bincount(objects[objects >= 0]).argmax()))
        scores.append(round(float(adjusted_rand_score(wanted, found)), 4))
    return scores


def _dense_things(path: Path) -> dict[int, NDArray[np.bool_]]:
    """Whole things by 10 * instance, and the parts of those that have several by 10 * instance + part."""
    from PIL import Image

    with Image.open(path) as image:
        ids = np.array(image).astype(np.int64)
    things: dict[int, NDArray[np.bool_]] = {int(one) * 10: ids // 10 == one for one in np.unique(ids // 10)}
    for instance in list(things):
        parts = np.unique(ids[things[instance]])
        if len(parts) > 1:
            things |= {int(part): ids == part for part in parts}
    return things


def _truth(views: Views, things: Sequence[Mapping[int, NDArray[np.bool_]]]) -> list[list[NDArray[np.int64]]]:
    truth: list[list[NDArray[np.int64]]] = [[] for _ in range(views.level_count)]
    for view, of_view in enumerate(things):
        shown = views(view)
        for level, labels in enumerate(shown.labels):
            truth[level].append(_named(labels, of_view, len(shown.embeddings[level])))
    return truth


def _named(labels: NDArray[np.int32], things: Mapping[int, NDArray[np.bool_]], count: int) -> NDArray[np.int64]:
    sizes = np.bincount(labels[labels >= 0], minlength=count)
    names, best = np.full(count, -1, np.int64), np.full(count, LEAST_IOU)
    for name, mask in things.items():
        if mask.shape != labels.shape:
            # Undistortion has cropped the photo by a pixel.
            mask = mask[: labels.shape[0], : labels.shape[1]]
        common = np.bincount(labels[mask & (labels >= 0)], minlength=count)
        iou = common / np.maximum(sizes + mask.sum() - common, 1)
        names[iou >= best] = name
        best = np.maximum(best, iou)
    return names


def _joined(first: Views, second: Views) -> Views:
    def read(view: int) -> MaskedView:
        return first(view) if view < len(first) else second(view - len(first))

    return Views(np.concatenate([first.poses, second.poses]), first.level_count, read)
