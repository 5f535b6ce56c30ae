"""FastLGS, measured: scores, identities of objects, parts, seconds of matching, and queries beside langsplat's.

python -m benchmarks.fastlgs demo --data SCENE --work WORK --out fastlgs.json
python -m benchmarks.fastlgs scene --start RUN/config.yml --work WORK --out fastlgs.json
python -m benchmarks.fastlgs options --start RUN/config.yml --work WORK --out fastlgs.json
python -m benchmarks.fastlgs identities --start RUN/config.yml --out fastlgs.json
python -m benchmarks.fastlgs sweep --start RUN/config.yml --out fastlgs.json

`demo` trains on the demo scene from its photos and measures everything on it; `scene` does the same on the Gaussians of
a finished langsplat run, with that run's networks and cache, and compares queries with that very run. `options`
trains there with one option changed at a time, `identities` measures the matchers again, and `sweep` tries alpha and
theta of the published one. All of them add to the JSON and leave what it says of other scenes.
`sam2-video` is not among the matchers: it needs SAM 2's weights.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from benchmarks.fastlgs_identities import Labelled, adjusted_rand, label_scene, rendered_ari
from fastlgs_ns.begin import votes_of
from fastlgs_ns.matching import Identities, from_views, match_by_votes
from fastlgs_ns.profiles import shorten_fastlgs
from fastlgs_ns.sift_matching import link, look_at
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.files import write_text
from lang_splat_ns.langsplat_lift.counting import count_here
from lang_splat_ns.langsplat_lift.lift import prepare_counting
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.text import refused_texts
from lang_splat_ns.machine import facts_of_machine
from lang_splat_ns.plugin.labelled_frames import labelled_frames, scene_labels
from lang_splat_ns.plugin.runs import Run, open_run

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
THETAS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
REPEATS = 10
OPTIONS: dict[str, dict[str, str]] = {
    "defaults": {},
    "initial_codes zero": {"initial_codes": "zero"},
    "geometry joint": {"geometry": "joint"},
}
"""What `options` changes of the model's configuration."""
PARTS = ("red toadstool cap", "toadstool stem", "yellow car body", "car wheels", "pink cupcake base", "cupcake icing")
"""Prompts of the demo scene for parts of things; those that the encoder knows are asked."""
WHOLES = ("teal cylinder", "green ball", "purple ring", "green cone", "blue cube", "sky blue ball", "orange die")


@dataclass
class Demo:
    """The demo scene from its photos on."""

    data: Path
    """Folder of the demo scene, see lang-splat demo."""
    work: Path
    """Folder for the run."""
    out: Path
    """JSON file to add to."""
    geometry_steps: int = 900
    """Steps for colour and geometry."""
    language_steps: int = 200
    """Steps for the codes."""

    def main(self) -> None:
        """Train, measure, write."""
        from fastlgs_ns.specs import fastlgs

        config: Any = copy.deepcopy(fastlgs.config)
        shorten_fastlgs(config, self.geometry_steps, self.language_steps)
        manager = config.pipeline.datamanager
        manager.data, manager.segmenter, manager.encoder = self.data, "felzenszwalb", "colour-words"
        manager.cache_dir = self.work / "cache"
        run, seconds = _train(config, self.work, "demo")
        _add(self.out, "demo", _measure(run, seconds) | {"geometry_steps": self.geometry_steps})


@dataclass
class OnARun:
    """Codes on the Gaussians of a finished langsplat run."""

    start: Path
    """config.yml of a langsplat run on a labelled scene."""
    work: Path
    """Folder for the new run."""
    out: Path
    """JSON file to add to."""
    language_steps: int = 200
    """Steps for the codes."""

    def main(self) -> None:
        """Train the codes, measure both runs, write."""
        config = _config_from(self.start)
        shorten_fastlgs(config, 900, self.language_steps)
        name = _scene_of(config)
        run, seconds = _train(config, self.work, name)
        found = _measure(run, seconds)
        langsplat = open_run(self.start)
        scores = langsplat.pipeline.evaluate_language()
        assert scores is not None, "the scene has labels"
        found["langsplat"] = _rounded(scores.summary)
        found["query_ms"] = _compare_queries(run, langsplat)
        _add(self.out, name, found)


@dataclass
class Options:
    """One option changed at a time, on the Gaussians of a finished langsplat run."""

    start: Path
    """config.yml of a langsplat run on a labelled scene."""
    work: Path
    """Folder for the new runs."""
    out: Path
    """JSON file to add to."""
    language_steps: int = 200
    """Steps for the codes."""
    name: str | None = None
    """The scene's name in the JSON; by default its folder's."""
    options: tuple[str, ...] = tuple(OPTIONS)
    """Names of those to try."""

    def main(self) -> None:
        """Train and score each, write."""
        for name in self.options:
            config = _config_from(self.start)
            shorten_fastlgs(config, 900, self.language_steps)
            for option, value in OPTIONS[name].items():
                setattr(config.pipeline.model, option, value)
            run, _ = _train(config, self.work, f"{_scene_of(config)} {name}")
            scores = run.pipeline.evaluate_language()
            assert scores is not None, "the scene has labels"
            found = _rounded(scores.summary)
            scene, key = self.name or _scene_of(config), "options_on_the_gaussians_of_langsplat"
            _add(self.out, scene, {key: _content(self.out)["scenes"].get(scene, {}).get(key, {}) | {name: found}})


@dataclass
class Matchers:
    """Identities by each matcher, and their seconds."""

    start: Path
    """config.yml of a run that `demo` or `scene` has made."""
    out: Path
    """JSON file to add to."""

    def main(self) -> None:
        """Match, write."""
        run = open_run(self.start)
        _add(self.out, run.config.experiment_name, {"identities": _identities(run)})


@dataclass
class Sweep:
    """Identities by the published matcher, over alpha and theta."""

    start: Path
    """config.yml of a run that `demo` or `scene` has made."""
    out: Path
    """JSON file to add to."""

    def main(self) -> None:
        """Match once per pair, write."""
        run = open_run(self.start)
        labelled = label_scene(run.pipeline, votes_of(run.pipeline.model, run.pipeline.datamanager))
        looks = look_at(labelled.views)
        table = {
            str(alpha): {
                str(theta): adjusted_rand(from_views(link(looks, alpha, theta)), labelled.truth)["ari"]
                for theta in THETAS
            }
            for alpha in ALPHAS
        }
        _add(self.out, run.config.experiment_name, {"ari_by_alpha_theta": table})


def _config_from(start: Path) -> Any:
    """fastlgs on another run's data, networks and Gaussians."""
    import yaml

    from fastlgs_ns.specs import fastlgs

    old = yaml.load(start.read_text(encoding="utf-8"), Loader=yaml.Loader)
    config: Any = copy.deepcopy(fastlgs.config)
    config.pipeline.datamanager = copy.deepcopy(old.pipeline.datamanager)
    config.pipeline.model.init_from = start
    return config


def _scene_of(config: Any) -> str:
    return config.pipeline.datamanager.data.name


def _train(config: Any, work: Path, name: str) -> tuple[Run, float]:
    from nerfstudio.scripts.train import main as train

    config.output_dir, config.experiment_name, config.vis = work, name, "tensorboard"
    config.timestamp = time.strftime("%Y%m%d-%H%M%S")
    config.steps_per_eval_image = config.steps_per_eval_all_images = config.max_num_iterations + 1
    start = time.perf_counter()
    train(config)
    seconds = time.perf_counter() - start
    return open_run(config.get_base_dir() / "config.yml"), seconds


def _measure(run: Run, seconds: float) -> dict[str, Any]:
    """Everything about one run of fastlgs."""
    pipeline = run.pipeline
    start = time.perf_counter()
    scores = pipeline.evaluate_language()
    assert scores is not None, "the scene has labels"
    found: dict[str, Any] = {
        "encoder": pipeline.model.language_field().encoder.encoder_id,
        "segmenter": pipeline.config.datamanager.segmenter,
        "training_photos": len(pipeline.datamanager.train_dataset),
        "gaussians": pipeline.model.num_points,
        "objects": pipeline.model.require_grid().objects_per_level,
        "seconds": {"training": round(seconds, 1), "evaluation": round(time.perf_counter() - start, 1)},
        "scores": _rounded(scores.summary),
    }
    ious = {
        prompt: [row["iou"] for row in scores.table if row["prompt"] == prompt and "iou" in row]
        for prompt in PARTS + WHOLES
    }
    parts, wholes = ([np.mean(ious[name]) for name in names if ious[name]] for names in (PARTS, WHOLES))
    if parts and wholes:
        found["parts"] = {
            "miou_of_parts": round(float(np.mean(parts)), 4),
            "miou_of_wholes": round(float(np.mean(wholes)), 4),
        }
    found["identities"] = _identities(run)
    return found


def _identities(run: Run) -> dict[str, Any]:
    """Adjusted Rand indices and seconds of the matchers, and of what the trained scene shows."""
    pipeline, config = run.pipeline, run.pipeline.model.config
    manager = pipeline.datamanager
    cameras = manager.train_camera_copy()
    cameras.rescale_output_resolution(1 / manager.config.camera_res_scale_factor)
    start = time.perf_counter()
    votes = count_here(prepare_counting(pipeline.model, manager.features, cameras, config.votes_per_gaussian))
    counting = 100 * (time.perf_counter() - start) / len(cameras)
    labelled = label_scene(pipeline, votes)
    found: dict[str, Any] = {"counting_votes_seconds_per_100_photos": round(counting, 1)}
    for name in ("votes", "fastlgs"):
        start = time.perf_counter()
        identities = _match(name, labelled, config)
        seconds = time.perf_counter() - start
        found[name] = adjusted_rand(identities, labelled.truth)
        found[name] |= {
            "seconds": round(seconds, 2),
            "seconds_per_100_photos": round(100 * seconds / len(labelled.views), 1),
        }
    labels = scene_labels(pipeline.datamanager)
    assert labels is not None, "the scene has labels"
    # Scoring leaves the pipeline in training mode, which renders small.
    pipeline.eval()
    frames, field = labelled_frames(pipeline.datamanager, labels), pipeline.model.language_field()
    with torch.no_grad():
        maps = [field.object_maps(frame.camera) for frame in frames]
    found["rendered_ari_of_levels"] = rendered_ari(maps, [frame.masks for frame in frames])
    return found


def _match(name: str, labelled: Labelled, config: Any) -> Identities:
    if name == "votes":
        return match_by_votes(labelled.votes)
    return from_views(link(look_at(labelled.views), config.alpha, config.theta))


def _compare_queries(run: Run, langsplat: Run) -> dict[str, float]:
    """Milliseconds from cached text to maps, another prompt and camera each time, the two methods by turns."""
    models = {"fastlgs": run.pipeline.model, "langsplat": langsplat.pipeline.model}
    for model in models.values():
        model.eval()
    labels = scene_labels(run.pipeline.datamanager)
    assert labels is not None, "the scene has labels"
    prompts = sorted({prompt for frame in labels.frames.values() for prompt in frame.categories})
    refused = refused_texts(models["fastlgs"].language_field().encoder, prompts)
    prompts = [prompt for prompt in prompts if prompt not in refused]
    cameras = run.pipeline.datamanager.eval_camera_copy()
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(REPEATS + 2):
        camera, query = cameras[turn % len(cameras) : turn % len(cameras) + 1], Query((prompts[turn % len(prompts)],))
        for name, model in models.items():
            model.texts().embed(query.positives)
            start = time.perf_counter()
            with torch.no_grad():
                model.language_field().relevancy(camera, query)
            times[name].append((time.perf_counter() - start) * 1e3)
    # The first ones fill caches.
    medians = {name: round(float(np.median(taken[2:])), 1) for name, taken in times.items()}
    return medians | {"times_faster": round(medians["langsplat"] / medians["fastlgs"], 2)}


def _rounded(summary: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in summary.items()}


def _content(out: Path) -> dict[str, Any]:
    return json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"facts": {}, "scenes": {}}


def _add(out: Path, scene: str, found: dict[str, Any]) -> None:
    content = _content(out)
    content["facts"] |= facts_of_machine()
    content["scenes"].setdefault(scene, {}).update(found)
    write_text(out, json.dumps(content, indent=1, allow_nan=False) + "\n")
    CONSOLE.print(scene, json.dumps(found, indent=1), markup=False)


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[OnARun, tyro.conf.subcommand("scene")]
    | Annotated[Options, tyro.conf.subcommand("options")]
    | Annotated[Matchers, tyro.conf.subcommand("identities")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
)

if __name__ == "__main__":
    tyro.cli(Command).main()  # pyright: ignore[reportArgumentType, reportCallIssue, reportAttributeAccessIssue]
