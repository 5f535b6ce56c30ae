"""The panel: what its elements do."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from nerfstudio.viewer.utils import get_camera
from nerfstudio.viewer.viewer_elements import ViewerControl
from torch import Tensor

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import ReadsFeatures
from lang_splat_ns.language.text import TextCache
from lang_splat_ns.language.vocabulary import Vocabulary
from lang_splat_ns.plugin.prompts import Prompts
from lang_splat_ns.plugin.viewer import layout, words
from lang_splat_ns.plugin.viewer.memory import Settings, read_settings, write_settings
from lang_splat_ns.plugin.viewer.picking import Pick, camera_at, edited, like_all, pick
from lang_splat_ns.plugin.viewer.redraw import evaluating, redraw, show_picture
from lang_splat_ns.plugin.viewer.session import Report, Session
from lang_splat_ns.plugin.viewer.takeaways import Takeaways
from lang_splat_ns.plugin.viewer.worker import Worker

TYPING_PAUSE = 0.3
"""Seconds without a key after which what is typed is asked."""
COMPLAINT_PAUSE = 1.5
"""Seconds without a key after which it is also said what is wrong with it: half a word is no mistake."""
OVERDUE = 2.0
"""Seconds after which a picture that has not come is asked for again."""
MOST_PROMPTS = 16
"""Prompts that a viewer answers at a time. Each costs channels in every render, and nobody tells more colours apart."""


class LanguagePanel(ViewerControl):
    """One panel for all methods that answer text, through their `LanguageField`.

    nerfstudio's viewer finds it among the pipeline's attributes and sets it up; without a viewer it does nothing.

    Args:
        pipeline: whose model is asked, and whose photos have good views.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self.session = Session()
        self._prompts = Prompts(self._known_texts, ())
        self._report, self._texts = Report(), None
        self._trouble = self._complaint = self._waiting = ""
        self._picks: list[Pick] = []
        self._vocabulary: Vocabulary | None = None
        self._asked: tuple[str, str] | None = None
        self._overdue = 0.0

    # ---- Setting up ----

    def _setup(self, viewer: Any) -> None:
        """Called by nerfstudio's viewer once its own elements are there."""
        super()._setup(viewer)
        model, self._run = self._model, Path(viewer.log_filename).parent
        settings = read_settings(self._run, Settings(prompts="; ".join(model.config.queries)))
        self.widgets = layout.build(
            viewer.viser_server,
            viewer.stats_markdown.order + 0.5,
            settings,
            model.query_modes(),
            has_gaussians=hasattr(model, "gaussians"),
            warning=words.host_warning(viewer.config.websocket_host),
        )
        self._worker = Worker(self._say, self._listen)
        self._takeaways = Takeaways(self._pipeline, viewer, self.session)
        self._connect()
        model.show_in_viewer(self.session)
        self._apply()
        self._worker.soon("ask", self._ask)
        self._worker.soon("complain", self._complain, COMPLAINT_PAUSE)
        self._worker.start()

    def _connect(self) -> None:
        """Let elements start jobs; their callbacks themselves never wait for anything."""
        ui, soon = self.widgets, self._worker.soon
        for box in (ui.prompts, ui.negatives):
            box.on_update(lambda _: self._typed(TYPING_PAUSE, COMPLAINT_PAUSE))
        ui.ask.on_click(lambda _: self._pressed_query())
        for element in (ui.opacity, ui.level, ui.auto_threshold, ui.threshold, ui.query_mode):
            element.on_update(lambda _: soon("apply", self._apply, 0.03))
        ui.mode.on_update(lambda _: soon("apply", self._apply_and_show))
        actions = {
            layout.LIKE_THIS: self._find_alike,
            layout.CLEAR: self._clear,
            layout.FLY: lambda client: self._takeaways.fly(client, self._selection()),
            layout.EXPORT: lambda client: self._say(self._takeaways.export(client, self._selection())),
            layout.SNAPSHOT: lambda client: self._takeaways.snapshot(client),
        }
        for group in (ui.selection, ui.take):
            layout.on_press(group, lambda label, client: soon("press", lambda: self._press(actions[label], client)))
        self.viser_server.scene.on_pointer_event("click")(
            lambda event: soon("click", lambda: self._clicked(event.client, *event.screen_pos[0]))
        )

    @property
    def _model(self) -> Any:
        return self._pipeline.model

    # ---- Typing ----

    def _typed(self, pause: float, complaint_pause: float) -> None:
        self._worker.soon("ask", self._ask, pause)
        self._worker.soon("complain", self._complain, complaint_pause)

    def _pressed_query(self) -> None:
        # Also a picture again: a busy browser may have shown a small one after the full one, since it unpacks both at
        # a time.
        self._worker.soon("ask", lambda: self._ask(again=True))
        self._worker.soon("complain", self._complain, 0.01)

    def _ask(self, again: bool = False) -> None:
        """Ask what is in the boxes, as far as it can be understood; draw anew even if it is the same where `again`."""
        ui = self.widgets
        asked = (ui.prompts.value, ui.negatives.value)
        if asked == self._asked:
            if again:
                self._redraw()
            return
        self._asked, self._complaint = asked, ""
        if self._texts is None:
            self._waiting = "The encoder is being loaded …"
            self._refresh()
        try:
            self._trouble = self._prompts.submit(*asked, most=MOST_PROMPTS)
        finally:
            self._waiting = ""
        self._picks = []
        ui.clicked.content = ""
        self.session.change(picked=None, query=self._prompts.query)
        self._apply()
        show_picture(self.viewer, keep=("relevancy_", "composited_"))

    def _complain(self) -> None:
        """Say what is wrong with the text, once nobody has typed for a while."""
        self._complaint = self._trouble
        self._refresh()

    def _known_texts(self) -> TextCache:
        self._texts = texts = self._model.texts()
        return texts

    # ---- Showing ----

    def _apply(self) -> None:
        """Show what the elements say now."""
        ui = self.widgets
        settings = ui.settings()
        ui.threshold.disabled = settings.auto_threshold
        threshold = "auto" if settings.auto_threshold else settings.threshold
        query = self.session.view.query
        if query is not None:
            # What was clicked is asked at the level of the click.
            level = query.level if self._asks_picks() else settings.level
            query = replace(query, level=level, threshold=threshold)
        self.session.change(
            query=query,
            mode=ui.chosen_mode(),
            opacity=settings.opacity,
            query_mode=settings.query_mode or None,
        )
        self._refresh()
        self._redraw()
        self._worker.soon("save", lambda: write_settings(self._run, ui.settings()), 0.5)

    def _redraw(self) -> None:
        self._overdue = time.monotonic() + OVERDUE
        redraw(self.viewer)

    def _apply_and_show(self) -> None:
        self._apply()
        show_picture(self.viewer)

    def _asks_picks(self) -> bool:
        query = self.session.view.query
        return query is not None and self._texts is not None and self._texts.is_named(query.positives[0])

    def _listen(self) -> None:
        """Take in what renders have found since."""
        report = None
        while not self.session.reports.empty():
            report = self.session.reports.get()
        if report is not None:
            self._report = report
            self._learn_levels()
            self._refresh()
        if self.session.shown is not self.session.view and time.monotonic() > self._overdue:
            # nerfstudio's render thread forgets a wish that comes just while it takes up another one.
            self._redraw()

    def _learn_levels(self) -> None:
        """Offer the scene's levels, which exist once its language part does."""
        level = self.widgets.level
        if not self._model.has_language():
            return
        levels = ("auto", *self._model.language_field(self.session.view.query_mode).levels)
        if level.options != levels:
            level.options = levels
            self._worker.soon("apply", self._apply)

    def _refresh(self) -> None:
        texts = (
            (self.widgets.answers, words.answers(self.session.view, self._report, self._complaint, self._waiting)),
            (self.widgets.status, words.status(self._model.method_name, self._texts, self._report)),
        )
        for handle, content in texts:
            if handle.content != content:
                handle.content = content

    def _say(self, message: str) -> None:
        self._complaint = message
        self._refresh()

    # ---- Clicking ----

    def _clicked(self, client: Any, x: float, y: float) -> None:
        """Select, add or remove what is under a click."""
        action = self.widgets.click_action()
        if action == "off":
            return
        if not self._model.has_language():
            raise UserError(self._model.why_no_language())
        field = self._model.language_field(self.session.view.query_mode)
        if not isinstance(field, ReadsFeatures):
            raise UserError("This method cannot tell what was clicked.")
        self._known_texts()
        with evaluating(self.viewer, self._model):
            height = int(self.viewer.control_panel.max_res)
            state = self.viewer.get_camera_state(client)
            view = get_camera(state, height, int(height * state.aspect)).to(self._model.device)
            found = pick(self._model, field, camera_at(view, x, y), self.widgets.level.value)
            self._take_in(found, action, field)
        self._complaint = ""
        show_picture(self.viewer)
        self._redraw()
        self._worker.soon("words", lambda: self._name(found))

    def _take_in(self, found: Pick, action: str, field: Any) -> None:
        """Make a pick part of the selection."""
        if action != "remove":
            self._picks = [found] if action == "select" else [*self._picks, found]
        if found.mask is None:
            self.session.change(query=found.query)
            self.widgets.clicked.content = words.clicked(None, None)
            return
        view = self.session.view
        before = self.session.selected(view, field, self._model.step, self._model.num_points)
        mask = edited(before, found.mask, action)
        self.session.change(picked=mask)
        self.widgets.clicked.content = words.clicked(None, int(mask.sum()))

    def _name(self, found: Pick) -> None:
        """List the words that fit what was clicked last."""
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self._model.texts().encoder)
        if self._vocabulary.learn_some():
            # What is typed meanwhile comes first.
            self._worker.soon("words", lambda: self._name(found))
            return
        mask = self.session.view.picked
        count = None if mask is None else int(mask.sum())
        self.widgets.clicked.content = words.clicked(self._vocabulary.best(found.embedding), count)

    def _press(self, action: Any, client: Any) -> None:
        self._complaint = ""
        action(client)
        self._refresh()

    def _find_alike(self, client: Any) -> None:
        del client
        if not self._picks:
            raise UserError("Click an object first; then everything that looks like it can be found.")
        settings = self.widgets.settings()
        threshold = "auto" if settings.auto_threshold else settings.threshold
        self._empty_boxes()
        self.widgets.clicked.content = ""
        self.session.change(query=like_all(self._picks, threshold), picked=None)
        self._apply_and_show()

    def _clear(self, client: Any) -> None:
        del client
        self._picks = []
        self._empty_boxes()
        self._prompts.query = None
        self._trouble = ""
        self.widgets.clicked.content = ""
        self.session.change(query=None, picked=None)
        self._apply()

    def _empty_boxes(self) -> None:
        # What is remembered as asked is not asked again when the box says that it has changed.
        self._asked = ("", self.widgets.negatives.value)
        self.widgets.prompts.value = ""

    def _selection(self) -> Tensor:
        """The selected Gaussians.

        Raises:
            UserError: there are none.
        """
        if not self._model.has_language():
            raise UserError(self._model.why_no_language())
        view, model = self.session.view, self._model
        with evaluating(self.viewer, self._model):
            field = model.language_field(view.query_mode)
            mask = self.session.selected(view, field, model.step, model.num_points)
        if mask is None or not bool(mask.any()):
            raise UserError("Nothing is selected: click an object, or type a prompt that is found.")
        return mask
