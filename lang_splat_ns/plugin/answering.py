"""What the pipeline, the trainer and the viewer ask of every model that answers text, whatever it renders from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import LanguageField, QueryMode
from lang_splat_ns.language.text import TextCache
from lang_splat_ns.plugin.prompts import Prompts, TextSide
from lang_splat_ns.plugin.viewer.session import Session
from lang_splat_ns.training_hooks import TrainingHooks


class AnsweringModel(TrainingHooks):
    """The text side, the active prompts, and what the language part was made with; a mixin of nerfstudio's models.

    A method says how the part comes to exist, and gives a `LanguageField` that reads it.
    """

    def start_answering(self, queries: tuple[str, ...]) -> None:
        """Make the text side; the language part is still empty.

        Args:
            queries: prompts that renders answer from the beginning.
        """
        self._about_language: dict[str, Any] | None = None
        self._viewer_session: Session | None = None
        self.run_dir: Path | None = None
        self.text_side = TextSide("open_clip", "cpu")
        self.prompts = Prompts(self.texts, tuple(queries))

    # ---- What a method defines ----

    def language_field(self, query_mode: QueryMode | None = None) -> LanguageField:
        """The model as the viewer, the evaluator and the commands know it.

        Args:
            query_mode: how prompts are answered; None is the configuration's choice.

        Raises:
            UserError: there is no language part yet, or the method does not have that mode.
        """
        raise NotImplementedError

    def why_no_language(self) -> str:
        """Why prompts are not answered yet, and what to do, in one sentence."""
        raise NotImplementedError

    def query_modes(self) -> tuple[QueryMode, ...]:
        """The ways in which prompts can be answered, the configuration's choice first."""
        return ("feature",)

    # ---- The viewer ----

    def show_in_viewer(self, session: Session | None) -> None:
        """Let a panel say what the viewer's renders show; None ends that."""
        self._viewer_session = session

    # ---- The language part ----

    def has_language(self) -> bool:
        """True once the language part exists."""
        return self._about_language is not None

    def about_language(self) -> dict[str, Any]:
        """What the language part was made with: `levels`, `encoder_id`, and what else its method keeps.

        Raises:
            UserError: there is none yet.
        """
        if self._about_language is None:
            raise UserError(self.why_no_language())
        return self._about_language

    def texts(self) -> TextCache:
        """The text side, which is that of the encoder that made the features, once there are any.

        Raises:
            UserError: it cannot be built, or is another one.
        """
        return self.text_side.cache(self._about_language["encoder_id"] if self._about_language else None)
