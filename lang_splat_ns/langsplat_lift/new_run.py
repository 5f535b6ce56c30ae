"""A new langsplat-lift run on Gaussians that are finished: its configuration, and running it in this process."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.langsplat_lift.lift import VOTES_FILE, share_file
from lang_splat_ns.language.text import refused_texts
from lang_splat_ns.plugin import checkpoints
from lang_splat_ns.plugin.check_data import check_data
from lang_splat_ns.plugin.init_from import PlyFrame
from lang_splat_ns.plugin.one_photo import suited
from lang_splat_ns.plugin.trainer import INTERRUPTED
from lang_splat_ns.plugin.unposed import UnposedDataParserConfig
from lang_splat_ns.splatting.ply import is_point_cloud, sh_degree

_NOT_TAKEN_OVER = ("_target", "init_from", "ply_frame", "from_points", "lift_engine", "lift_workers")


def config_from_run(load_config: Path) -> Any:
    """Configuration of a run that lifts another run's Gaussians, with that run's data, networks and choices.

    Args:
        load_config: config.yml of a run of any method that splats, nerfstudio's own included.

    Raises:
        UserError: it is missing, no configuration that can be read, of a method that does not splat, or has no
            checkpoint yet.
    """
    old = _read_config(load_config)
    folder = load_config.parent / "nerfstudio_models"
    if not checkpoints.steps(folder):
        raise UserError(f"{folder}: no checkpoint yet; let the training run until it has saved one.")
    config = _fresh_config()
    for part in ("datamanager", "model"):
        _take_over(getattr(config.pipeline, part), getattr(old.pipeline, part))
    config.pipeline.datamanager.data = old.pipeline.datamanager.data or old.pipeline.datamanager.dataparser.data
    config.pipeline.model.init_from = load_config
    config.experiment_name = old.experiment_name
    # <output>/<experiment>/<method>/<time>/config.yml: beside the old run, wherever that was moved to.
    folders = load_config.absolute().parents
    config.output_dir = folders[3] if folders[2].name == old.experiment_name else old.output_dir
    return config


def config_from_ply(ply: Path, data: Path, frame: PlyFrame) -> Any:
    """Configuration of a run that lifts somebody else's Gaussians.

    Args:
        ply: 3DGS `.ply`, or a plain point cloud, whose points become Gaussians.
        data: nerfstudio data set whose photos and poses go with it, or photos without poses.
        frame: the frame that the `.ply` is in.

    Raises:
        UserError: the file is missing or no `.ply`.
    """
    config = config_from_data(data) if is_point_cloud(ply) else _fresh_config()
    model = config.pipeline.model
    model.init_from, model.ply_frame = ply, frame
    if model.from_points:
        return config
    # Coefficients that the file does not have would only take memory. Without any, degree 0 would mean splatfacto's
    # other way to write colours.
    model.sh_degree = max(1, sh_degree(ply))
    config.pipeline.datamanager.data = data
    return config


def config_from_data(data: Path) -> Any:
    """Configuration of a run that takes the points of a data set as Gaussians, so that nothing is trained at all.

    Args:
        data: nerfstudio data set with points; or a folder of photos without poses, or a video, which is posed first.
    """
    config = _fresh_config()
    config.pipeline.model.from_points = True
    # Points have one colour; without any harmonics degree 0 would mean splatfacto's other way to write it.
    config.pipeline.model.sh_degree = 1
    config.pipeline.datamanager.data = data
    if data.exists() and data.suffix != ".json" and not (data / "transforms.json").is_file():
        config.pipeline.datamanager.dataparser = UnposedDataParserConfig()
    else:
        config.pipeline.datamanager.dataparser = suited(config.pipeline.datamanager.dataparser, data)
    return config


def choose(part: Any, choices: Mapping[str, Any]) -> None:
    """Set the fields of a configuration that a choice was made for."""
    for name, value in choices.items():
        if value is not None:
            setattr(part, name, value)


def lift_anew(config: Any) -> Path:
    """Run a configuration; the votes of the run that it starts from are read instead of counted where they fit.

    Returns:
        The new run's config.yml.

    Raises:
        UserError: the data cannot be read, or a prompt of the old run means nothing to the encoder.
        SystemExit: another mistake, or Ctrl-C, before there is anything to keep. Nothing is left behind then but what
            is in the feature cache.
    """
    from nerfstudio.scripts.train import main as train

    check_data(config)
    config.set_timestamp()
    run = _new_folder(config)
    start = config.pipeline.model.init_from
    if start is not None and (Path(start).parent / VOTES_FILE).is_file():
        share_file(Path(start).parent / VOTES_FILE, run / VOTES_FILE)
    try:
        train(config)
    except SystemExit as stopped:
        # Ctrl-C while it was lifted: Gaussians and votes are kept, and `is_lifted` tells that there is no more.
        if stopped.code != INTERRUPTED or not checkpoints.steps(run / "nerfstudio_models"):
            raise
    finally:
        if not checkpoints.steps(run / "nerfstudio_models"):
            shutil.rmtree(run, ignore_errors=True)
    return run / "config.yml"


def is_lifted(config_path: Path) -> bool:
    """Whether the newest checkpoint of a langsplat-lift run answers prompts."""
    _, state = checkpoints.newest(config_path.parent / "nerfstudio_models")
    return bool(state["pipeline"]["_model._extra_state"]["language"])


def drop_refused_queries(config: Any) -> None:
    """Leave out the old run's queries that another encoder cannot represent, with a warning."""
    model = config.pipeline.model
    if not model.queries:
        return
    encoder = config.pipeline.datamanager.perception().make_encoder("cpu")
    refused = refused_texts(encoder, model.queries)
    if refused:
        CONSOLE.print(f"[yellow]Queries of the old run are left out: {'; '.join(refused.values())}[/yellow]")
        model.queries = tuple(query for query in model.queries if query not in refused)


def _fresh_config() -> Any:
    # Imported here, since specs imports every method of the suite.
    from lang_splat_ns.specs import langsplat_lift

    config: Any = copy.deepcopy(langsplat_lift.config)
    # The run ends with the lift, and nobody waits for a viewer to be closed.
    config.vis = "tensorboard"
    return config


def _read_config(path: Path) -> Any:
    import yaml

    if not path.is_file():
        raise UserError(f"{path}: no such file; --load-config wants the config.yml of a training run.")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ImportError, AttributeError) as error:
        raise UserError(
            f"{path}: cannot be read as a nerfstudio configuration ({str(error).splitlines()[0]})."
        ) from error
    if not isinstance(config, TrainerConfig):
        raise UserError(f"{path}: not the config.yml of a nerfstudio training run.")
    # Every model config of splatting has what splatfacto's has; those of rays have none of it.
    if not hasattr(config.pipeline.model, "sh_degree") or not hasattr(config.pipeline.datamanager, "dataparser"):
        raise UserError(f"{path}: {config.method_name} has no Gaussians; lift wants a run of a method that splats.")
    return config


def _take_over(new: Any, old: Any) -> None:
    """Copy the fields that two configurations share; a field that an older version did not have stays as it is."""
    for field in fields(new):
        if field.name not in _NOT_TAKEN_OVER and hasattr(old, field.name):
            setattr(new, field.name, copy.deepcopy(getattr(old, field.name)))


def _new_folder(config: Any) -> Path:
    """The run's folder, made; two runs of one second get different ones."""
    stamp, number = config.timestamp, 1
    while True:
        try:
            config.get_base_dir().mkdir(parents=True)
            return config.get_base_dir()
        except FileExistsError:
            number += 1
            config.timestamp = f"{stamp}-{number}"
        except OSError as error:
            raise UserError(
                f"{config.get_base_dir()}: cannot be made ({error.strerror}); give another folder with --output-dir."
            ) from error
