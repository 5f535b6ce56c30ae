"""Several finished runs in one report: all of them are looked at first, and then scored one after another."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.report import RunReport, write_report
from lang_splat_ns.plugin.labelled_frames import data_folder, scene_labels
from lang_splat_ns.plugin.run_report import PICTURE_SIDE, report_on
from lang_splat_ns.plugin.runs import Run, open_run

SMALL_SIDE = 360
"""Longest side of pictures where several runs stand beside each other."""

LONGEST_REASON = 300
"""Letters of somebody else's message that still make one line."""


@dataclass(frozen=True)
class Candidate:
    """A run that can be compared.

    Attributes:
        config: its config.yml.
        method: name of its method.
        scene: folder of its data.
        photos: name of each labelled evaluation photo -> what tells it from a photo of another scene: its place in the
            data, and a digest of its file. Two photos are the same if they share one of the two.
    """

    config: Path
    method: str
    scene: Path
    photos: dict[str, frozenset[str]]


def look_at_runs(configs: Sequence[Path]) -> list[Candidate]:
    """Open every run once, so that whatever is wrong with one is told before hours are spent on the others.

    Raises:
        UserError: a run is named twice or cannot be opened, answers no text, has no labels to be scored against, or is
            of another scene than the first.
    """
    if not configs:
        raise UserError("--load-config: name at least one config.yml of a finished run.")
    places = [path.resolve() for path in configs]
    for path, place in zip(configs, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{path} is given twice; name each run once.")
    CONSOLE.rule("Looking at the runs")
    found = [_look(path) for path in configs]
    _check_same_scene(found)
    return found


def compare_runs(
    candidates: Sequence[Candidate],
    out: Path,
    *,
    names: Sequence[str] = (),
    title: str | None = None,
    megabytes: float,
    image_metrics: bool = True,
) -> None:
    """Score runs and write their report; only one is in memory at a time.

    Args:
        candidates: what `look_at_runs` gave.
        out: the page to write.
        names: what to call the runs; by default `run_names`.
        title: heading; None is the scene and the methods.
        megabytes: what pictures may take, see `write_report`.
        image_metrics: whether to render the evaluation photos for PSNR and its like.

    Raises:
        UserError: the names do not fit, or the runs scored nothing in common.
    """
    called = list(names) or run_names(candidates)
    if len(called) != len(candidates) or len(set(called)) < len(called) or not all(map(str.strip, called)):
        raise UserError(f"--names: give {len(candidates)} different names, one for each run, and not {called}.")
    side = PICTURE_SIDE if len(candidates) == 1 else SMALL_SIDE
    reports: list[RunReport] = []
    for number, (candidate, name) in enumerate(zip(candidates, called, strict=True), 1):
        CONSOLE.rule(f"{number}/{len(candidates)} {candidate.method}")
        run = open_run(candidate.config)
        metrics = run.pipeline.image_metrics() if image_metrics else {}
        reports.append(report_on(run, name, metrics, side))
        del run
        gc.collect()
    methods = ", ".join(dict.fromkeys(candidate.method for candidate in candidates))
    write_report(out, title or f"{candidates[0].scene.name}: {methods}", reports, megabytes)


def run_names(candidates: Sequence[Candidate]) -> list[str]:
    """The methods' names; runs of one method are told apart by their folders."""
    names = []
    for candidate in candidates:
        group = [one for one in candidates if one.method == candidate.method]
        own = f" ({_own_folders(candidate, group)})" if len(group) > 1 else ""
        names.append(candidate.method + own)
    return names


def _own_folders(candidate: Candidate, group: Sequence[Candidate]) -> str:
    """The folders of a run's path that differ within the group."""
    parts = [tuple(reversed(one.config.resolve().parent.parts)) for one in group]
    own = tuple(reversed(candidate.config.resolve().parent.parts))
    shortest = min(map(len, parts))
    differing = [place for place in range(shortest) if len({path[place] for path in parts}) > 1]
    # Places are counted from the end, where a run's own folder stands; the nearest ones that tell all apart suffice.
    for count in range(1, len(differing) + 1):
        if len({tuple(path[place] for place in differing[:count]) for path in parts}) == len(parts):
            return "/".join(own[place] for place in reversed(differing[:count]))
    return "/".join(reversed(own))


def _look(path: Path) -> Candidate:
    try:
        run = open_run(path)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        # Whatever nerfstudio, a plug-in or a torn file throws, the user wants to know which run it is about.
        reason = " ".join(str(error).split()).removeprefix("error: ") or type(error).__name__
        raise UserError(f"{path}: this run cannot be opened: {reason[:LONGEST_REASON]}") from error
    return _candidate(path, run)


def _candidate(path: Path, run: Run) -> Candidate:
    model, manager = run.pipeline.model, run.pipeline.datamanager
    if not model.has_language():
        raise UserError(f"{path}: {model.why_no_language()}")
    # An encoder whose weights or plug-in are missing is found out now.
    model.language_field()
    folder, labels = data_folder(manager), scene_labels(manager)
    if labels is None:
        raise UserError(f"{path}: its data {folder} has no label folder, so there is nothing to compare with.")
    paths = [photo for photo in manager.eval_dataset.image_filenames if photo.stem in labels.frames]
    if not paths:
        raise UserError(f"{path}: none of its evaluation photos has a label file in {folder}.")
    photos = {photo.name: frozenset((str(folder.resolve()), _digest(photo))) for photo in paths}
    return Candidate(path, run.config.method_name, folder.resolve(), photos)


def _check_same_scene(candidates: Sequence[Candidate]) -> None:
    first = candidates[0]
    told = ", ".join(f"{one.config} ({one.scene})" for one in candidates)
    common = set(first.photos).intersection(*(one.photos for one in candidates))
    if not common:
        raise UserError(f"{told}: no labelled evaluation photo is common to all, so they cannot be compared.")
    for name in sorted(common):
        if any(not first.photos[name] & other.photos[name] for other in candidates[1:]):
            raise UserError(f"{told}: different scenes, since their photos {name} differ. Compare runs of one scene.")
    if any(common != one.photos.keys() for one in candidates):
        names = ", ".join(sorted(common))
        CONSOLE.print(f"Compared over the photos that all of them held out: {names}", markup=False, soft_wrap=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
