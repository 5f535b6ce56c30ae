"""Methods that train geometry first and then, on finished Gaussians, their language part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation

from lang_splat_ns.plugin.language_model import LanguageSplatModel, LanguageSplatModelConfig


@dataclass
class TwoPhaseModelConfig(LanguageSplatModelConfig):
    """How long the first phase is; phases hang on absolute steps, so that a run may be continued."""

    geometry_steps: int = 30000
    """Steps that train colour and geometry before they freeze and language begins; 0 with init-from."""


class TwoPhaseModel(LanguageSplatModel):
    """A language method on Gaussians with a phase of geometry and one of language."""

    config: TwoPhaseModelConfig

    def why_no_language(self) -> str:
        """From which step on prompts are answered."""
        return (
            f"This run has no language features yet: it stands at step {self.step}, and they are trained from step "
            f"{self.first_language_step()} on; continue it with --load-dir."
        )

    def first_language_step(self) -> int:
        """The absolute step at which geometry freezes and language begins."""
        return 0 if self.config.init_from is not None else self.config.geometry_steps

    def learns_geometry(self, step: int) -> bool:
        """True while `step` belongs to the phase that moves Gaussians."""
        return step < self.first_language_step()

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Callbacks of 3DGS, and `before_language_step`."""
        before = TrainingCallback(
            [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._before_step, args=[training_callback_attributes]
        )
        return [*super().get_training_callbacks(training_callback_attributes), before]

    def _before_step(self, attributes: TrainingCallbackAttributes, step: int) -> None:
        if not self.learns_geometry(step):
            self.before_language_step(attributes, step)

    def before_language_step(self, attributes: Any, step: int) -> None:
        """What a method does before each step of its second phase; before the first one it begins it.

        Args:
            attributes: nerfstudio's, with the training's `optimizers` and `pipeline`.
            step: the absolute step.
        """
        raise NotImplementedError
