"""The demo, step by step: scene, training, evaluation, questions, report."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.evaluator import UnitAnswer
from lang_splat_ns.evaluation.scores import LanguageScores
from lang_splat_ns.files import write_text
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.text import parse_prompts, refused_texts
from lang_splat_ns.perception.encoders import make_encoder
from lang_splat_ns.plugin.answers import answer_query
from lang_splat_ns.plugin.demo_report import write_demo_report
from lang_splat_ns.plugin.runs import Run, open_run
from lang_splat_ns.profiles import shorten
from lang_splat_ns.scenes.gallery import SCENE_VERSION, write_gallery


@dataclass(frozen=True)
class DemoPlan:
    """What the demo does; the fields are those of the command."""

    out: Path
    method: Literal["langsplat-lift", "langsplat"]
    segmenter: str
    encoder: str
    text: str
    geometry_steps: int
    language_steps: int


def run_demo(plan: DemoPlan) -> None:
    """Run the whole demo and print how to open the viewer.

    Raises:
        UserError: the encoder or segmenter cannot be had, or a prompt means nothing to the encoder; before any work.
    """
    start = time.perf_counter()
    prompts = parse_prompts(plan.text)
    refused = refused_texts(make_encoder(plan.encoder), prompts)
    if refused:
        raise UserError("; ".join(refused.values()))
    scene = plan.out / "scene"
    CONSOLE.rule("1/4 The scene")
    make_scene(scene)
    CONSOLE.rule("2/4 Training: photos, masks, geometry, language")
    config_path = _train(plan, scene)
    CONSOLE.rule("3/4 Evaluation on held-out views")
    run = open_run(config_path)
    answers: list[UnitAnswer] = []
    metrics, scores = _evaluate(run, answers)
    facts = {
        "scene_version": SCENE_VERSION,
        "segmenter": plan.segmenter,
        "encoder": plan.encoder,
        "geometry_steps": plan.geometry_steps,
    } | ({"language_steps": plan.language_steps} if plan.method == "langsplat" else {})
    CONSOLE.rule("4/4 Questions")
    answer_query(run, Query(prompts), None, plan.out / "query")
    facts["seconds"] = round(time.perf_counter() - start, 1)
    content = {"method_name": run.config.method_name, "results": metrics, **facts}
    write_text(plan.out / "metrics.json", json.dumps(content, indent=2) + "\n")
    write_demo_report(plan.out / "report.html", scores, answers, run, metrics, facts)
    _say_goodbye(plan.out, config_path, metrics, facts["seconds"])


def make_scene(scene: Path) -> None:
    """Write the demo's data set, unless this version of it is there already."""
    transforms = scene / "transforms.json"
    if transforms.is_file() and json.loads(transforms.read_text()).get("scene_version") == SCENE_VERSION:
        CONSOLE.print(f"{scene} is there already.")
        return
    write_gallery(scene)


def _train(plan: DemoPlan, scene: Path) -> Path:
    from nerfstudio.scripts.train import main as train

    from lang_splat_ns.specs import langsplat, langsplat_lift

    if plan.method == "langsplat":
        config: Any = copy.deepcopy(langsplat.config)
        shorten(config, plan.geometry_steps, plan.language_steps)
        config.pipeline.model.autoencoder_epochs = 40
    else:
        config = copy.deepcopy(langsplat_lift.config)
        shorten(config, plan.geometry_steps)
    config.output_dir, config.experiment_name = plan.out / "outputs", "demo"
    config.vis = "tensorboard"
    # The held-out views are scored once, at the end.
    config.steps_per_eval_image = config.steps_per_eval_all_images = config.max_num_iterations + 1
    config.pipeline.datamanager.data = scene
    config.pipeline.datamanager.segmenter = plan.segmenter
    config.pipeline.datamanager.encoder = plan.encoder
    train(config)
    return config.get_base_dir() / "config.yml"


def _evaluate(run: Run, answers: list[UnitAnswer]) -> tuple[dict[str, float], LanguageScores]:
    metrics = run.pipeline.image_metrics()
    scores = run.pipeline.evaluate_language(on_answer=answers.append)
    assert scores is not None, "the demo scene has labels"
    return metrics | scores.summary, scores


def _say_goodbye(out: Path, config: Path, metrics: dict[str, float], seconds: float) -> None:
    CONSOLE.rule(f"Done in {seconds / 60:.1f} minutes")
    for key in ("psnr", "language_miou", "language_localization", "language_absent_rejection"):
        CONSOLE.print(f"  {key:<28} {metrics[key]:.3f}")
    CONSOLE.print(f"  Report:    {out / 'report.html'}")
    CONSOLE.print(f"  Ask more:  lang-splat query --load-config {config} --text 'teal cylinder'", soft_wrap=True)
    CONSOLE.print(f"  Viewer:    ns-viewer --load-config {config} --viewer.websocket-host 127.0.0.1", soft_wrap=True)
