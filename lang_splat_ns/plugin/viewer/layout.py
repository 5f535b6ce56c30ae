"""The panel's elements: a folder above nerfstudio's own tabs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import viser

from lang_splat_ns.language.field import QueryMode
from lang_splat_ns.plugin.viewer.memory import Settings
from lang_splat_ns.plugin.viewer.session import IN_3D, MODES, Mode

MODE_LABELS: dict[Mode, str] = {
    "rgb": "Picture",
    "relevancy": "Relevancy overlay",
    "mask": "Mask",
    "isolate": "Isolate in 3D",
    "hide": "Hide in 3D",
}
CLICK_ACTIONS = {
    "select": "Selects an object",
    "add": "Adds an object",
    "remove": "Removes an object",
    "off": "Nothing",
}
LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 0.5, 1.0
"""Below 0.5 a negative is nearer than the prompt, so no lower threshold makes sense."""

LIKE_THIS, FLY, EXPORT, CLEAR, SNAPSHOT = "Alike", "Fly to", "Export .ply", "Clear", "Snapshot"


@dataclass
class Widgets:
    """What a person types into, moves and presses; and three texts."""

    prompts: viser.GuiInputHandle[str]
    ask: viser.GuiButtonHandle
    answers: viser.GuiMarkdownHandle
    mode: viser.GuiDropdownHandle[str]
    opacity: viser.GuiInputHandle[float]
    negatives: viser.GuiInputHandle[str]
    level: viser.GuiDropdownHandle[str]
    auto_threshold: viser.GuiInputHandle[bool]
    threshold: viser.GuiInputHandle[float]
    query_mode: viser.GuiDropdownHandle[str]
    click: viser.GuiDropdownHandle[str]
    clicked: viser.GuiMarkdownHandle
    selection: viser.GuiButtonGroupHandle
    take: viser.GuiButtonGroupHandle
    status: viser.GuiMarkdownHandle

    def settings(self) -> Settings:
        """What is set now."""
        return Settings(
            prompts=self.prompts.value,
            negatives=self.negatives.value,
            mode=self.chosen_mode(),
            opacity=float(self.opacity.value),
            level=self.level.value,
            auto_threshold=bool(self.auto_threshold.value),
            threshold=float(self.threshold.value),
            query_mode=self.query_mode.value,
        )

    def chosen_mode(self) -> Mode:
        """What the picture is to show."""
        return next(mode for mode, label in MODE_LABELS.items() if label == self.mode.value)

    def click_action(self) -> str:
        """What a click does: select, add, remove or off."""
        return next(action for action, label in CLICK_ACTIONS.items() if label == self.click.value)


def on_press(group: viser.GuiButtonGroupHandle, act: Callable[[str, Any], None]) -> None:
    """Call `act` with a button's label and the browser's handle, each time that it is pressed.

    viser takes a row of buttons for a choice: pressing one again would be no change, and so no event. Without a value
    each press is one.
    """
    group._impl.value = ""

    def pressed(event: viser.GuiEvent[viser.GuiButtonGroupHandle]) -> None:
        label = event.target.value
        group._impl.value = ""
        act(label, event.client)

    group.on_click(pressed)


def build(
    server: viser.ViserServer,
    order: float | None,
    settings: Settings,
    query_modes: Sequence[QueryMode],
    *,
    has_gaussians: bool,
    warning: str,
) -> Widgets:
    """Put the panel into a viewer.

    Args:
        server: the viewer's.
        order: place among the other elements, smallest first; None is the end.
        settings: what the elements show at first.
        query_modes: how prompts can be answered; the choice is shown where there are several.
        has_gaussians: without them, what selects some of them is not shown.
        warning: shown above everything else, as markdown; empty for none.
    """
    gui = server.gui
    modes: list[Mode] = [one for one in MODES if has_gaussians or one not in IN_3D]
    mode: Mode = "relevancy"
    for one in modes:
        mode = one if one == settings.mode else mode
    with gui.add_folder("Language", order=order):
        if warning:
            gui.add_markdown(warning)
        prompts = gui.add_text(
            "Prompts", settings.prompts, hint="What to look for, in words. Several prompts are separated by ';'."
        )
        ask = gui.add_button("Query", icon=viser.Icon.SEARCH, hint="Ask now, without waiting for a pause in typing.")
        answers = gui.add_markdown("")
        labels = [str(MODE_LABELS[one]) for one in modes]
        shown = gui.add_dropdown("Show", labels, initial_value=MODE_LABELS[mode])
        opacity = gui.add_slider("Opacity", 0.0, 1.0, 0.05, settings.opacity, hint="How strongly answers are drawn.")
        with gui.add_folder("How prompts are read", expand_by_default=False):
            negatives = gui.add_text(
                "Negatives", settings.negatives, hint="What a prompt must beat; empty: the encoder's own phrases."
            )
            level = gui.add_dropdown(
                "Level", ["auto", *([settings.level] if settings.level != "auto" else [])], settings.level,
                hint="How large the things are that prompts mean; auto takes the best for each.",
            )  # fmt: skip
            auto = gui.add_checkbox(
                "Auto threshold",
                settings.auto_threshold,
                hint="Follow each prompt's own peak; absent things stay absent.",
            )
            threshold = gui.add_slider(
                "Threshold", LOWEST_THRESHOLD, HIGHEST_THRESHOLD, 0.01,
                min(max(settings.threshold, LOWEST_THRESHOLD), HIGHEST_THRESHOLD),
                disabled=settings.auto_threshold, hint="Relevancy above which a place belongs to a prompt.",
            )  # fmt: skip
            wanted = settings.query_mode if settings.query_mode in query_modes else query_modes[0]
            query_mode = gui.add_dropdown(
                "Query mode", list(query_modes), wanted, visible=len(query_modes) > 1,
                hint="scalar: Gaussians answer, then blend. feature: features are blended, and pixels answer.",
            )  # fmt: skip
        click = gui.add_dropdown(
            "A click",
            [label for action, label in CLICK_ACTIONS.items() if has_gaussians or action in ("select", "off")],
            hint="What a click into the view does.",
        )  # fmt: skip
        clicked = gui.add_markdown("")
        selection = gui.add_button_group(
            "Selection", [LIKE_THIS, FLY, CLEAR] if has_gaussians else [LIKE_THIS, CLEAR],
            hint="Alike: query by the clicked object's embedding. Fly to: the photo's view that shows it best.",
        )  # fmt: skip
        take = gui.add_button_group(
            "Take away", [EXPORT, SNAPSHOT] if has_gaussians else [SNAPSHOT],
            hint="The selected Gaussians as a file in the data set's own frame; the picture as it is shown.",
        )  # fmt: skip
        status = gui.add_markdown("")
    return Widgets(
        prompts, ask, answers, shown, opacity, negatives, level, auto, threshold, query_mode, click, clicked,
        selection, take, status,
    )  # fmt: skip
