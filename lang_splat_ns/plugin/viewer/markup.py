"""Text for the viewer's panel, whose markdown may hold HTML and even scripts."""

from __future__ import annotations

from lang_splat_ns.plugin.viewer.pictures import Color


def as_plain_markdown(text: str) -> str:
    """Markdown that shows `text` letter by letter, one paragraph per line; prompts come from whoever is connected."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n\n".join(escaped(line) for line in lines if line)


def escaped(line: str) -> str:
    """One line of text with everything that could be markup as a character reference."""
    return "".join(letter if letter.isalnum() or letter == " " else f"&#{ord(letter)};" for letter in line)


def shortened(text: str, most: int = 48) -> str:
    """A prompt as a list shows it: whole where it is short, else its beginning."""
    return text if len(text) <= most else text[: most - 1] + "…"


def chip(color: Color) -> str:
    """A small square in a colour, as the viewer's markdown (MDX) writes it."""
    return f"<span style={{{{color: 'rgb({','.join(map(str, color))})'}}}}>&#9632;</span>"
