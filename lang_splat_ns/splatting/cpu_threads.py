"""How the compiled loops use threads: one lock around them, and which loops are parallel."""

from __future__ import annotations

import threading
from typing import Any

ONE_AT_A_TIME = threading.Lock()
"""Hold this while a parallel numba function runs.

The viewer renders in a thread of its own while training goes on. Numba's simplest threading layer ends the whole
process when two threads enter it, and with the other layers they would only take each other's cores.
"""

ONLY_PRANGE: Any = {
    "prange": True,
    "comprehension": False,
    "fusion": False,
    "inplace_binop": False,
    "numpy": False,
    "reduction": False,
    "setitem": False,
    "stencil": False,
}
"""Value of numba's `parallel` option that leaves array expressions alone. Each of them, down to filling an array with
zeros, would otherwise become a parallel loop of its own, which takes seconds to compile and gains nothing here."""
