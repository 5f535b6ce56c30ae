"""How the measurements start: with a command line, and with one line for a user's mistake."""

from __future__ import annotations

import sys
from typing import Any, Protocol

import tyro

from lang_splat_ns.cli import fail
from lang_splat_ns.console import ERROR_CONSOLE
from lang_splat_ns.errors import UserError


class Command(Protocol):
    """A dataclass whose fields are the options."""

    def main(self) -> Any:
        """Measure."""


def start(command: type[Command]) -> None:
    """Parse the command line and measure; exits with 1 after a mistake, and with 130 after Ctrl-C."""
    try:
        tyro.cli(command).main()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        ERROR_CONSOLE.print("Stopped.")
        sys.exit(130)
