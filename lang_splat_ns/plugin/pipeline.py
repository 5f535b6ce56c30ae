"""Pipelines: nerfstudio's own, plus exact resume, a start from finished Gaussians, and language scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig, module_wrapper
from rich.markup import escape

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.evaluator import evaluate
from lang_splat_ns.evaluation.protocol_names import DEFAULT_PROTOCOL, ProtocolName
from lang_splat_ns.evaluation.protocols import PROTOCOLS, EvaluationProtocol
from lang_splat_ns.evaluation.scores import LanguageScores
from lang_splat_ns.files import write_text
from lang_splat_ns.language.field import QueryMode
from lang_splat_ns.language.text import refused_texts
from lang_splat_ns.plugin import random_state
from lang_splat_ns.plugin.datamanager import LanguageDataManagerConfig, SplatDataManagerConfig
from lang_splat_ns.plugin.labelled_frames import data_folder, labelled_frames, scene_labels
from lang_splat_ns.plugin.prompts import TextSide
from lang_splat_ns.plugin.start import start_from
from lang_splat_ns.plugin.viewer.panel import LanguagePanel
from lang_splat_ns.scenes.labels import PromptLanguage, SceneLabels
from lang_splat_ns.splatting.model import GaussianSplattingModelConfig

SCORES_FILE = "language_scores.json"


@dataclass
class SplatPipelineConfig(VanillaPipelineConfig):
    """Pipeline of the methods that splat."""

    _target: type = field(default_factory=lambda: SplatPipeline)
    datamanager: DataManagerConfig = field(default_factory=SplatDataManagerConfig)
    model: ModelConfig = field(default_factory=GaussianSplattingModelConfig)


class SplatPipeline(VanillaPipeline):
    """nerfstudio's pipeline that can be resumed as if it had never stopped.

    A checkpoint of it also holds the random generators; they are restored just before the first step of a resume.
    """

    config: Any
    datamanager: Any

    @property
    def model(self) -> Any:
        """The model, also where it is wrapped for several GPUs."""
        return module_wrapper(self._model)

    def __init__(self, config: SplatPipelineConfig, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(config, *args, **kwargs)
            # Only training starts from other Gaussians; evaluation and viewing load a checkpoint of this very run.
            if self.test_mode == "val":
                self.prepare_training()
        except UserError as error:
            # The entry points of nerfstudio print a traceback for anything but this.
            raise SystemExit(f"error: {error}") from error
        self._random_state: dict[str, Any] | None = None

    def prepare_training(self) -> None:
        """What must be there before the first step."""
        # Methods without Gaussians have nothing to start from.
        if getattr(self.config.model, "init_from", None) is not None:
            start_from(Path(self.config.model.init_from), self.model, self.datamanager)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The data manager's and model's callbacks, after the one that restores random states."""
        restore = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._restore_random_state)
        return [restore, *super().get_training_callbacks(training_callback_attributes)]

    def _restore_random_state(self, step: int) -> None:
        if self._random_state is not None:
            random_state.restore(self._random_state)
            self._random_state = None

    def get_extra_state(self) -> dict[str, Any]:
        """Random generators, as they stand between two steps."""
        return {"format_version": 1, "random": random_state.capture()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Remember random states until training goes on."""
        self._random_state = state["random"]


@dataclass
class LanguagePipelineConfig(SplatPipelineConfig):
    """Pipeline of the methods that answer text."""

    _target: type = field(default_factory=lambda: LanguagePipeline)
    datamanager: DataManagerConfig = field(default_factory=LanguageDataManagerConfig)
    run_dir: Path | None = None
    """Folder of this run, filled in by itself; ns-eval writes its per-prompt table there."""


class LanguagePipeline(SplatPipeline):
    """Connects a language model with its features, its encoder and its ground truth."""

    def __init__(self, config: LanguagePipelineConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.model.run_dir = config.run_dir
        self._connect_text_side()
        # The viewer looks for controls among the attributes.
        self.language_panel = LanguagePanel(self)

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint's state; queries that its encoder cannot answer any more are dropped with a warning.

        Otherwise the first render would fail at them, and with it the viewer's render thread.
        """
        super().load_pipeline(loaded_state, step)
        if self.test_mode != "val" and not self.model.has_language():
            CONSOLE.print(f"[yellow]{escape(self.model.why_no_language())}[/yellow]", soft_wrap=True)
        trouble = self.model.prompts.recheck()
        if trouble:
            CONSOLE.print(f"[yellow]Queries of this run are not answered: {escape(trouble)}[/yellow]")

    def _connect_text_side(self) -> None:
        spec = self.config.datamanager.perception()
        self.model.text_side = TextSide(
            spec.encoder, str(self.device), crops=spec.crops, templates=spec.prompt_templates
        )

    def prepare_training(self) -> None:
        """Start from given Gaussians, then compute the 2D features, before geometry takes its time."""
        super().prepare_training()
        # A language that cannot be scored is told now, and not after the training.
        self._translations(scene_labels(self.datamanager), self.config.datamanager.prompt_language)
        self._connect_text_side()
        features = self.datamanager.features
        if self.config.model.queries:
            refused = refused_texts(features.encoder, self.config.model.queries)
            if refused:
                raise UserError(next(iter(refused.values())))
        features.prepare()

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, float]:
        """Image quality, and with labels beside the data the language scores (see `evaluation`)."""
        metrics = self.image_metrics(step, output_path, get_std)
        try:
            scores = self.evaluate_language() if self.model.has_language() else None
        except UserError as error:
            raise SystemExit(f"error: {error}") from error
        if scores is not None:
            metrics |= scores.summary
            self._write_table(scores)
        return metrics

    def image_metrics(self, step: int | None = None, output_path: Path | None = None, get_std: bool = False) -> dict:
        """Image quality on the evaluation photos, without answering prompts meanwhile."""
        with self.model.prompts.silenced(), self._evaluating():
            return super().get_average_eval_image_metrics(step, output_path, get_std)

    @property
    def protocol(self) -> ProtocolName:
        """How answers are read where nobody says so: as the data parser chooses, or else our own way."""
        return getattr(self.config.datamanager.dataparser, "protocol", DEFAULT_PROTOCOL)

    def evaluate_language(
        self,
        prompt_language: PromptLanguage | None = None,
        query_mode: QueryMode | None = None,
        protocol: EvaluationProtocol | None = None,
        **options: Any,
    ) -> LanguageScores | None:
        """Scores against the labels beside the data, or None where there are none.

        Args:
            prompt_language: language in which the labels' prompts are asked; None is the run's own choice.
            query_mode: how prompts are answered, where the method has a choice; None is the run's own.
            protocol: how answers are read and which photos count; None is `self.protocol`.
            options: as in `evaluate`.

        Raises:
            UserError: the labels are not translated into that language.
        """
        labels = scene_labels(self.datamanager)
        translations = self._translations(labels, prompt_language or self.config.datamanager.prompt_language)
        if labels is None:
            return None
        protocol = protocol or PROTOCOLS[self.protocol]
        frames = labelled_frames(self.datamanager, labels, protocol.seen)
        if not frames:
            CONSOLE.print("[yellow]No evaluation photo has labels, so there are no language scores.[/yellow]")
            return None
        with self._evaluating():
            return evaluate(
                self.model.language_field(query_mode),
                frames,
                labels.absent,
                translations=translations,
                protocol=protocol,
                classes=labels.classes,
                **options,
            )

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluate, and afterwards train or not as before; nerfstudio's own evaluation always trains on."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def _translations(self, labels: SceneLabels | None, language: PromptLanguage) -> dict[str, str] | None:
        return (labels or SceneLabels({})).in_language(language, data_folder(self.datamanager))

    def _write_table(self, scores: LanguageScores) -> None:
        if self.config.run_dir is not None and self.config.run_dir.is_dir():
            path = self.config.run_dir / SCORES_FILE
            write_text(path, scores.to_json())
            CONSOLE.print(f"Scores of every prompt: {path}")
