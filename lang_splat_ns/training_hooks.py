"""What the trainer asks of every model, beside what nerfstudio's does."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class TrainingHooks:
    """Answers of a model that trains all its steps and has nothing to do after them; a mixin of nerfstudio's models."""

    def steps_to_train(self, wanted: int) -> int:
        """How many steps a training of `wanted` steps has for this model."""
        return wanted

    def has_finish(self) -> bool:
        """True if `finish_training` does something."""
        return False

    def finish_training(self, datamanager: Any, run_dir: Path) -> None:
        """What is left to do when the last step is done, before the last checkpoint is written.

        Args:
            datamanager: of the pipeline.
            run_dir: folder of the run.
        """
