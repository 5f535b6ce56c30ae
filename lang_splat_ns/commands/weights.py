"""`lang-splat weights`: networks' weights, fetched from their publishers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass
class FetchWeights:
    """Download a network's weights from its publisher, resuming where an earlier download stopped."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the weights, see `lang-splat weights ls`."""

    def run(self) -> None:
        """Fetch, check the digest, say where the file lies."""
        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.perception.weights import fetch

        CONSOLE.print(str(fetch(self.name)), markup=False)


@dataclass
class ListWeights:
    """List the weights that can be fetched, and which are here."""

    def run(self) -> None:
        """Print one line each."""
        from lang_splat_ns.commands.doctor import print_weights

        print_weights()
