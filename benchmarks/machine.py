"""What a measurement ran on, for its JSON."""

from __future__ import annotations

from typing import Any

from lang_splat_ns.machine import commit, facts_of_machine

__all__ = ["facts_of_code", "facts_of_machine"]


def facts_of_code() -> dict[str, Any]:
    """The commit that was measured, with "-dirty" where files differ from it; None outside of a checkout."""
    return {"commit": commit()}
