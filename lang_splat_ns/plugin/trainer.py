"""nerfstudio's trainer, made safe to interrupt, to resume and to run without a GPU."""

from __future__ import annotations

import shlex
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.plugin import checkpoints
from lang_splat_ns.plugin.check_data import check_data
from lang_splat_ns.plugin.training_time import TrainingClock
from lang_splat_ns.profiles import take_cpu_preset

INTERRUPTED = 130
"""Exit code of what Ctrl-C has stopped, as shells have it."""


@dataclass
class SafeTrainerConfig(TrainerConfig):
    """Training regimen; nerfstudio's fields, and one more."""

    _target: type = field(default_factory=lambda: SafeTrainer)
    preset: Literal["paper", "cpu"] = "paper"
    """paper: sizes and steps as published. cpu: fewer, so that two cores finish in minutes; what you set yourself to
    something else than the method's default stays."""

    def __post_init__(self) -> None:
        """Take the preset, once: what config.yml holds are its values, which reading it again does not touch."""
        if self.preset == "cpu":
            take_cpu_preset(self)

    def save_config(self) -> None:
        """Write config.yml, which also tells the pipeline where its run lies."""
        if hasattr(self.pipeline, "run_dir"):
            setattr(self.pipeline, "run_dir", self.get_base_dir())  # noqa: B010 - only language pipelines have it.
        super().save_config()


class SafeTrainer(Trainer):
    """Adds four things to nerfstudio's trainer.

    - Where there is no CUDA it trains on the CPU, and says so.
    - Checkpoints are written atomically and contain only tensors and plain Python.
    - Ctrl-C ends the training after the running step and keeps a checkpoint of it; the exit code is then 130.
    - A user's mistake ends the program with one line instead of a traceback.
    """

    config: SafeTrainerConfig

    def __init__(self, config: SafeTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        if config.machine.device_type == "cuda" and not torch.cuda.is_available():
            CONSOLE.print("No CUDA device here: training on the CPU (--machine.device-type cpu).")
            config.machine.device_type = "cpu"
        super().__init__(config, local_rank, world_size)
        self._last_finished_step: int | None = None
        self._interrupted = False
        self._clock = TrainingClock()

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build pipeline, optimizers and viewer, after looking whether data and checkpoint are usable."""
        try:
            check_data(self.config)
            super().setup(test_mode)
        except UserError as error:
            raise SystemExit(f"error: {error}") from error
        except KeyboardInterrupt:
            # Perception takes the longest of what comes before the first step, and it resumes by itself.
            CONSOLE.print("Stopped before training. What was computed of the photos is kept.")
            raise SystemExit(INTERRUPTED) from None

    def train(self) -> None:
        """Train until the last step, or until the user asks to stop, which ends the program."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        previous = signal.signal(signal.SIGINT, self._on_interrupt) if in_main_thread else None
        self.config.max_num_iterations = self._model().steps_to_train(self.config.max_num_iterations)
        try:
            super().train()
        except UserError as error:
            raise SystemExit(f"error: {error}") from error
        finally:
            if in_main_thread:
                signal.signal(signal.SIGINT, previous)
        if self._interrupted:
            self._say_how_to_go_on()
            # A script must not take what has been stopped for finished.
            raise SystemExit(INTERRUPTED)

    def _say_how_to_go_on(self) -> None:
        # nerfstudio counts the steps of this call, and not those before it.
        left = self.config.max_num_iterations - (self.step + 1 - self._start_step)
        if left > 0:
            options = f"--load-dir {shlex.quote(str(self.checkpoint_dir))} --max-num-iterations {left}"
            CONSOLE.print(f"The same command with these options does what is left: {options}", soft_wrap=True)

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        # Stopping in the middle of a step would leave some parameters updated and others not.
        CONSOLE.print("Stopping after this step and saving; Ctrl-C again stops at once.")
        self.stop_training = self._interrupted = True
        self.config.viewer.quit_on_train_completion = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def train_iteration(self, step: int) -> Any:
        """One step of nerfstudio's, remembered as finished."""
        result = super().train_iteration(step)
        self._last_finished_step = step
        return result

    def _after_train(self) -> None:
        # nerfstudio has already counted the step at which a stop was noticed, although it did not run.
        if self._last_finished_step is not None:
            self.step = self._last_finished_step
        elif self.config.max_num_iterations > 0:
            raise UserError("Stopped before the first step; there is nothing to save.")
        else:
            self.step = max(self._start_step - 1, 0)
            # nerfstudio's log divides what is left here by the number of steps, which is 0.
            writer.EVENT_STORAGE.clear()
        if self._model().has_finish() and not self.stop_training:
            self._finish()
        super()._after_train()

    def _finish(self) -> None:
        """Let the model do what comes after its last step, when what was trained is safe on disk."""
        self.save_checkpoint(self.step)
        in_main_thread = threading.current_thread() is threading.main_thread()
        previous = signal.signal(signal.SIGINT, signal.default_int_handler) if in_main_thread else None
        try:
            self.pipeline.eval()
            self._model().finish_training(self.pipeline.datamanager, self.base_dir)
        except KeyboardInterrupt:
            self._interrupted = True
            CONSOLE.print(f"Stopped. The checkpoint of step {self.step} is kept. {self._model().why_no_language()}")
        finally:
            if in_main_thread:
                signal.signal(signal.SIGINT, previous)

    def _model(self) -> Any:
        return self.pipeline.model

    def _train_complete_viewer(self) -> None:
        # The viewer stays open until Ctrl-C, which has no step to wait for any more.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            super()._train_complete_viewer()
        except KeyboardInterrupt:
            CONSOLE.print("The viewer is closed.")

    def save_checkpoint(self, step: int) -> None:
        """Save everything that a resume needs, atomically."""
        if self.local_rank != 0:
            return
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        checkpoints.save(path, self._state(step))
        self._clock.write(self.base_dir, step)
        if self.config.save_only_latest_checkpoint:
            for older in checkpoints.steps(self.checkpoint_dir):
                if older != step:
                    (self.checkpoint_dir / f"step-{older:09d}.ckpt").unlink(missing_ok=True)

    def _state(self, step: int) -> dict[str, Any]:
        pipeline = self.pipeline.module if hasattr(self.pipeline, "module") else self.pipeline
        return {
            "step": step,
            "pipeline": pipeline.state_dict(),  # type: ignore[operator, union-attr]
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }

    def _load_checkpoint(self) -> None:
        found = self._find_checkpoint()
        if found is None:
            return
        path, state = found
        wanted, stored = set(self.optimizers.optimizers), set(state["optimizers"])
        if wanted != stored:
            raise UserError(
                f"{path} was saved by another method (its parameter groups are {sorted(stored)}); "
                "to start from its Gaussians use --pipeline.model.init-from."
            )
        self._start_step = state["step"] + 1
        self.pipeline.load_pipeline(state["pipeline"], state["step"])
        self.optimizers.load_optimizers(state["optimizers"])
        if self.config.load_scheduler:
            self.optimizers.load_schedulers(state["schedulers"])
        self.grad_scaler.load_state_dict(state["scalers"])
        self._clock.continue_from(path.parent.parent, state["step"])
        CONSOLE.print(f"Continuing after step {state['step']} of {path}")

    def _find_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        if self.config.load_dir is not None:
            if self.config.load_step is None:
                return checkpoints.newest(self.config.load_dir)
            path = self.config.load_dir / f"step-{self.config.load_step:09d}.ckpt"
            return path, checkpoints.load(path)
        if self.config.load_checkpoint is not None:
            return self.config.load_checkpoint, checkpoints.load(self.config.load_checkpoint)
        return None
