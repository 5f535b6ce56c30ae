"""The `lang-splat` command."""

from __future__ import annotations

import sys
from typing import Annotated, Protocol

import tyro
from tyro.conf import CascadeSubcommandArgs, OmitSubcommandPrefixes, subcommand

from lang_splat_ns.commands.demo import Demo
from lang_splat_ns.commands.doctor import Doctor
from lang_splat_ns.commands.evaluate import Evaluate
from lang_splat_ns.commands.export import Export
from lang_splat_ns.commands.features import Features
from lang_splat_ns.commands.lift import Lift
from lang_splat_ns.commands.poses import Poses
from lang_splat_ns.commands.query import QueryRun
from lang_splat_ns.commands.render import RenderRun
from lang_splat_ns.commands.report import Report
from lang_splat_ns.commands.weights import FetchWeights, ListWeights
from lang_splat_ns.console import ERROR_CONSOLE
from lang_splat_ns.errors import UserError


class Command(Protocol):
    """What every subcommand is: a dataclass whose fields are its options."""

    def run(self) -> None: ...


Weights = Annotated[
    Annotated[FetchWeights, subcommand("fetch")] | Annotated[ListWeights, subcommand("ls")],
    subcommand("weights", description="Networks' weights: fetch them from their publishers, or list them."),
]
Commands = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Poses, subcommand("poses")]
    | Annotated[Lift, subcommand("lift")]
    | Annotated[QueryRun, subcommand("query")]
    | Annotated[Evaluate, subcommand("eval")]
    | Annotated[Export, subcommand("export")]
    | Annotated[RenderRun, subcommand("render")]
    | Annotated[Report, subcommand("report")]
    # A flag of the data set may stand on either side of the action: features --data D ls, features ls --data D.
    | CascadeSubcommandArgs[Annotated[Features, subcommand("features")]]
    | Weights
    | Annotated[Doctor, subcommand("doctor")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run one subcommand; a user's mistake ends with one line on standard error and exit code 1."""
    command: Command = tyro.cli(OmitSubcommandPrefixes[Commands], prog="lang-splat", args=arguments)  # type: ignore[valid-type]
    try:
        command.run()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        ERROR_CONSOLE.print("Stopped. What is finished is kept; run the same command again to go on.")
        sys.exit(130)


def fail(message: str) -> None:
    """Print one error line, without reading markup in it, and exit with code 1."""
    ERROR_CONSOLE.print(f"error: {message}", markup=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
