"""Text boxes for prompts in nerfstudio's viewer."""

from __future__ import annotations

from collections.abc import Callable

from nerfstudio.viewer.viewer_elements import ViewerElement, ViewerText
from viser import GuiMarkdownHandle, ViserServer

from lang_splat_ns.plugin.prompts import Prompts


class StatusLine(ViewerElement[str]):
    """Text in the viewer that wraps where it is long, and takes no space where it is empty.

    Args:
        name: the element's name, which is not shown.
        read: gives the text, one paragraph per line.
    """

    def __init__(self, name: str, read: Callable[[], str]) -> None:
        super().__init__(name)
        self.read = read
        self._handle: GuiMarkdownHandle | None = None

    def install(self, viser_server: ViserServer) -> None:
        """Add the text to the viewer's panel."""
        self._create_gui_handle(viser_server)

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self._handle = viser_server.gui.add_markdown(as_plain_markdown(self.read()))

    def refresh(self) -> None:
        """Show what the text is now."""
        if self._handle is not None:
            self._handle.content = as_plain_markdown(self.read())


class PromptBoxes:
    """Two text boxes and a status line.

    Args:
        prompts: what the boxes set.
        waiting: says why prompts have no effect yet, in one sentence; empty where they have.
    """

    def __init__(self, prompts: Prompts, waiting: Callable[[], str]) -> None:
        start = "; ".join(prompts.query.positives) if prompts.query else ""
        hint = "Several are separated by ';'. Each adds the outputs relevancy_<i> and composited_<i>."
        self._prompts = prompts
        self._waiting = waiting
        self._trouble = ""
        self.positives = ViewerText("Prompts", start, cb_hook=self._submit, hint=hint)
        self.negatives = ViewerText(
            "Negatives", "", cb_hook=self._submit, hint="What a prompt must beat; empty: the encoder's own phrases."
        )
        self.status = StatusLine("Status", self._describe)

    def recheck(self) -> str:
        """Drop of the present query what cannot be answered, and return why."""
        self._trouble = self._prompts.recheck()
        self.status.refresh()
        return self._trouble

    def _submit(self, element: ViewerText) -> None:
        del element
        self._trouble = self._prompts.submit(self.positives.value, self.negatives.value)
        self.status.refresh()

    def _describe(self) -> str:
        query = self._prompts.query
        if query is None:
            return self._trouble
        # What is answered comes first and stays in place while a person types.
        answers = (f"relevancy_{index}: {text}" for index, text in enumerate(query.positives))
        return "\n".join(filter(None, (*answers, self._trouble, self._waiting())))


def as_plain_markdown(text: str) -> str:
    """Markdown that shows `text` letter by letter, one paragraph per line.

    The viewer's markdown may hold HTML and even scripts, and prompts come from whoever is connected.
    """
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n\n".join("".join(_entity(letter) for letter in line) for line in lines if line)


def _entity(letter: str) -> str:
    return letter if letter.isalnum() or letter == " " else f"&#{ord(letter)};"
