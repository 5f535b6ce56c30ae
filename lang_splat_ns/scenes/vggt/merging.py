"""Windows' predictions, laid over each other."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.vggt.photos import Placement
from lang_splat_ns.scenes.vggt.prediction import Prediction, WindowPrediction, lift
from lang_splat_ns.scenes.vggt.windows import Seen, fit_similarity
from lang_splat_ns.splatting.gaussians import Similarity


def merge(parts: Iterable[WindowPrediction], windows: list[list[int]], placements: list[Placement]) -> Prediction:
    """All windows in the world of the first.

    Args:
        parts: a prediction per window, taken one at a time.
        windows: which photos each is about. Every window but the first has photos in common with earlier ones.
        placements: of all photos. A photo that several windows have keeps what the first of them says.

    Raises:
        UserError: windows do not agree on the photos that they share.
    """
    count, (width, height) = len(placements), placements[0].canvas
    extrinsics, intrinsics = np.zeros((count, 4, 4), np.float32), np.zeros((count, 3, 3), np.float32)
    depth, confidence = np.zeros((2, count, height, width), np.float32)
    whole = Prediction(extrinsics, intrinsics, depth, confidence, placements, windows)
    done: set[int] = set()
    for part, window in zip(parts, windows, strict=True):
        moved = _fit(part, window, whole, done) if done else Similarity(np.eye(3), np.zeros(3), 1.0)
        new = [place for place, index in enumerate(window) if index not in done]
        for place, extrinsic in zip(new, moved.of_cameras(part.extrinsics[new]), strict=True):
            index = window[place]
            inside = placements[index].inside()
            extrinsics[index] = extrinsic
            intrinsics[index] = placements[index].intrinsics_of_photo(part.intrinsics[place])
            depth[index] = moved.scale * part.depth[place]
            confidence[index][inside] = part.confidence[place][inside]
        done |= set(window)
    return whole


def _fit(part: WindowPrediction, window: list[int], whole: Prediction, done: set[int]) -> Similarity:
    common = [(place, index) for place, index in enumerate(window) if index in done]
    sources, targets = [], []
    for place, index in common:
        # What lies beside the photo says nothing, and has no confidence in the whole.
        confidence = np.minimum(part.confidence[place], whole.confidence[index])
        points = lift(part.depth[place], part.extrinsics[place], part.intrinsics[place])
        sources.append(Seen(part.extrinsics[place], part.depth[place], confidence, points))
        targets.append(Seen(whole.extrinsics[index], whole.depth[index], confidence, whole.world_points(index)))
    found = fit_similarity(sources, targets)
    if found is None:
        raise UserError(
            f"two windows of photos do not agree on the {len(common)} that they share (of photos {window[0]} to "
            f"{window[-1]}); take larger windows, share more photos, or leave out photos of other places"
        )
    return found
