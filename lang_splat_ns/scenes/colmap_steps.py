"""COLMAP's steps, each in a process of its own: `python -m lang_splat_ns.scenes.colmap_steps JOB.json`.

COLMAP ends its process where something that it takes for granted does not hold, writes a log of many lines, and can
only be stopped with its process. So it gets one. The log goes to standard error.

pycolmap 3.12 and 4.x name some options differently; a step sets those that its version has.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

SEED = 0
_POLL_SECONDS = 0.5
"""No signal says on every system that a parent has ended, so that it is looked for."""


def extract_features(database: str, images: str, groups: list[dict[str, Any]], camera_model: str) -> None:
    """Find SIFT features of photos that have none yet; the photos of a group share one camera.

    Args:
        database: COLMAP's database; made where it is missing.
        images: folder of the photos.
        groups: "names" of photos, and "focal" in pixels or None.
        camera_model: COLMAP's name of it.
    """
    import pycolmap

    _make_database(database)
    for group in groups:
        if _camera_of(database, group["names"]) is None:
            reader = pycolmap.ImageReaderOptions()
            reader.camera_model = camera_model
            if group["focal"]:
                reader.default_focal_length_factor = group["focal"] / group["longest"]
            # Features are written in the order in which threads finish; numbered beforehand, photos keep one order.
            pycolmap.import_images(database, images, pycolmap.CameraMode.SINGLE, group["names"], reader)
        known = _camera_of(database, group["names"])
        assert known is not None, "import_images has written it"
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = camera_model
        reader.existing_camera_id = known
        arguments: dict[str, Any] = {"image_names": group["names"], "reader_options": reader}
        if "sift_options" in (pycolmap.extract_features.__doc__ or ""):
            arguments["camera_model"] = camera_model
        pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE, **arguments)


def match_features(database: str, pairs: str | None) -> None:
    """Match pairs of photos that are not matched yet, and keep what one camera motion explains.

    Args:
        database: see `extract_features`.
        pairs: file with two names a line, or None for all pairs.
    """
    import pycolmap

    options = pycolmap.TwoViewGeometryOptions()
    _set(options.ransac, random_seed=SEED)
    if pairs is None:
        pycolmap.match_exhaustive(database, verification_options=options)
    elif hasattr(pycolmap, "match_image_pairs"):
        pairing = pycolmap.ImportedPairingOptions()
        pairing.match_list_path = pairs
        pycolmap.match_image_pairs(database, pairing_options=pairing, verification_options=options)
    else:
        pycolmap.match_sequential(database, verification_options=options)


def map_scene(database: str, images: str, out: str, progress: str, relaxed: bool, count: int) -> None:
    """Pose photos one after the other; every connected part of the scene becomes a model in a folder of `out`.

    Args:
        database: see `extract_features`.
        images: folder of the photos.
        out: existing folder.
        progress: file that says how many photos have been posed.
        relaxed: take photos with fewer matches and less motion between them.
        count: number of photos.
    """
    import pycolmap

    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 2 if relaxed or count < 20 else 10
    _set(options, random_seed=SEED)
    _set(options.mapper, random_seed=SEED)
    _set(options.triangulation, random_seed=SEED)
    if relaxed:
        options.mapper.init_min_num_inliers = 30
        options.mapper.init_min_tri_angle = 2.0
        options.mapper.abs_pose_min_num_inliers = 15
        options.mapper.filter_min_tri_angle = 0.5
    if relaxed or count < 3:
        # Points that two photos see are all that there is of few photos.
        options.triangulation.ignore_two_view_tracks = False
    posed = 0

    def more(photos: int) -> None:
        nonlocal posed
        posed += photos
        Path(progress).write_text(str(posed), encoding="ascii")

    pycolmap.incremental_mapping(
        database,
        images,
        out,
        options=options,
        initial_image_pair_callback=lambda: more(2),
        next_image_callback=lambda: more(1),
    )


def undistort(model: str, images: str, out: str) -> None:
    """Write photos without distortion, and the model with pinhole cameras, as COLMAP's dense workspace."""
    import pycolmap

    better: dict[str, Any] = {"jpeg_quality": 95} if "jpeg_quality" in (pycolmap.undistort_images.__doc__ or "") else {}
    pycolmap.undistort_images(out, model, images, **better)


def triangulate_and_adjust(database: str, images: str, model: str, out: str, rounds: int) -> None:
    """Refine given cameras: triangulate matched features with them, then adjust both together, some rounds.

    Args:
        database: features and matches.
        images: folder of the photos.
        model: folder with a model of cameras and poses; its points are not used.
        out: existing folder for the refined model.
        rounds: how often; each begins with better cameras and so keeps more matches.
    """
    import pycolmap

    scene = pycolmap.Reconstruction(model)
    options = pycolmap.IncrementalPipelineOptions()
    _set(options, random_seed=SEED)
    options.triangulation.ignore_two_view_tracks = False
    adjustment = pycolmap.BundleAdjustmentOptions()
    # Wrong matches must not pull; squared errors beyond a pixel count less.
    # Newer versions keep the solver's options in a part of their own.
    _set(getattr(adjustment, "ceres", adjustment), loss_function_type=pycolmap.LossFunctionType.SOFT_L1)
    for number in range(rounds):
        # A network's cameras are off by some pixels at first.
        error = 4.0 if number == rounds - 1 else 12.0
        options.triangulation.complete_max_reproj_error = options.triangulation.merge_max_reproj_error = error
        options.mapper.filter_max_reproj_error = error
        scene = pycolmap.triangulate_points(scene, database, images, out, options=options)
        if scene.num_points3D() == 0:
            break
        pycolmap.bundle_adjustment(scene, adjustment)
    scene.write(out)


STEPS = {
    step.__name__: step for step in (extract_features, match_features, map_scene, undistort, triangulate_and_adjust)
}


def main(job: Path) -> None:
    """Run the step that a file names, with the arguments that it gives."""
    import pycolmap

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    asked = json.loads(job.read_text(encoding="utf-8"))
    pycolmap.set_random_seed(SEED)
    STEPS[asked["step"]](**asked["arguments"])


def _make_database(path: str) -> None:
    """Opening a database makes it where it is missing."""
    import pycolmap

    maker: Any = pycolmap.Database
    try:
        maker.open(path).close()
    except TypeError:
        # pycolmap 3.12 opens it in its constructor.
        maker(path).close()


def _end_with(parent: int) -> None:
    """Whoever starts again after a kill must find nobody at work on the database."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _camera_of(database: str, names: list[str]) -> int | None:
    """The camera that an interrupted run has given to photos of a group already."""
    import sqlite3

    if not Path(database).is_file():
        return None
    connection = sqlite3.connect(database)
    try:
        found = dict(connection.execute("SELECT name, camera_id FROM images").fetchall())
    except sqlite3.OperationalError:
        # Stopped before there were tables.
        return None
    finally:
        connection.close()
    return next((found[name] for name in names if name in found), None)


def _set(options: Any, **values: Any) -> None:
    for name, value in values.items():
        if hasattr(options, name):
            setattr(options, name, value)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
