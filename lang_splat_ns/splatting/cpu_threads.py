"""One lock around the compiled parallel loops."""

from __future__ import annotations

import threading

ONE_AT_A_TIME = threading.Lock()
"""Hold this while a parallel numba function runs.

The viewer renders in a thread of its own while training goes on. Numba's simplest threading layer ends the whole
process when two threads enter it, and with the other layers they would only take each other's cores.
"""
