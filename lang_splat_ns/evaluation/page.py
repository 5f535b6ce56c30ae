"""Self-contained HTML pages that share one look: styles and pictures are inside, and nothing is asked for elsewhere.

Whatever is put into a template is untrusted text; the template engine escapes all of it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lang_splat_ns.files import write_text

_TEMPLATES = Path(__file__).with_name("templates")


def write_page(path: Path, template: str, **content: Any) -> None:
    """Fill in a template and write the page, atomically.

    Args:
        path: file to write.
        template: name of a file in `evaluation/templates`; those that extend `page.html.j2` look alike.
        content: what the template names; `title` at least.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(path, render(template, **content))


def render(template: str, **content: Any) -> str:
    """The page as text; see `write_page`."""
    return _environment().get_template(template).render(content)


def percent(share: float) -> str:
    """A share as people read it: 38.2 %."""
    return f"{100 * share:.1f}\u2009%"


def number(value: Any) -> str:
    """A number with four digits, or with thousands apart where it is large; anything else as it is."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@cache
def _environment() -> Environment:
    # A misspelt name in a template is an error instead of a blank on the page.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment
