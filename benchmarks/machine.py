"""What a measurement ran on, for its JSON."""

from lang_splat_ns.machine import facts_of_machine

__all__ = ["facts_of_machine"]
