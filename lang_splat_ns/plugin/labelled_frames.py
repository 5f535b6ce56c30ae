"""Ground truth for the evaluator: labels carried through exactly what happens to their photo."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.cameras.cameras import Cameras

from lang_splat_ns.evaluation.evaluator import LabelledFrame
from lang_splat_ns.plugin.undistort import undistort_mask
from lang_splat_ns.scenes.labels import FrameLabels, SceneLabels, read_labels


def data_folder(manager: Any) -> Path:
    """Folder of the data set, beside whose photos labels lie."""
    data = Path(manager.config.data or manager.config.dataparser.data)
    return data if data.is_dir() else data.parent


def scene_labels(manager: Any) -> SceneLabels | None:
    """Labels beside the data, or None where there are none."""
    return read_labels(data_folder(manager))


def labelled_frames(manager: Any, labels: SceneLabels, seen: bool = False) -> list[LabelledFrame]:
    """The evaluation photos that have labels, matched by exact file stem.

    Masks and boxes are scaled and undistorted as the photos are, so they fit renders of the evaluation cameras.

    Args:
        manager: has the photos.
        labels: what photos show.
        seen: take the training photos that have labels as well; a photo that is both is taken once.
    """
    parts = [(manager.eval_dataset, manager.eval_camera_copy())]
    if seen:
        parts.append((manager.train_dataset, manager.train_camera_copy()))
    frames: dict[Path, LabelledFrame] = {}
    for dataset, cameras in parts:
        distorted = deepcopy(dataset._dataparser_outputs.cameras)
        if manager.config.camera_res_scale_factor != 1.0:
            distorted.rescale_output_resolution(manager.config.camera_res_scale_factor)
        for index, path in enumerate(dataset.image_filenames):
            if path.stem in labels.frames and path not in frames:
                truth = labels.frames[path.stem]
                frames[path] = _labelled_frame(path, truth, cameras[index : index + 1], distorted[index])
    return list(frames.values())


def _labelled_frame(path: Path, truth: FrameLabels, camera: Cameras, distorted: Cameras) -> LabelledFrame:
    def carry(mask: np.ndarray) -> np.ndarray:
        return undistort_mask(_resize_mask(mask, int(distorted.width.item()), int(distorted.height.item())), distorted)

    return LabelledFrame(
        name=path.name,
        camera=camera,
        masks={category: carry(truth.mask(category)) for category in truth.outlined},
        boxes={category: [carry(box) for box in truth.box_masks(category)] for category in truth.boxes},
    )


def _resize_mask(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    import cv2

    if mask.shape == (height, width):
        return mask
    # Area averaging keeps thin objects, where nearest-neighbour sampling would break them up.
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0.5
