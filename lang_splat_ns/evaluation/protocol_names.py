"""Names of the evaluation protocols, apart from what they do, for command lines that must start quickly."""

from __future__ import annotations

from typing import Literal

ProtocolName = Literal["held-out", "lerf-ovs-2d", "lerf-ovs-3d", "3d-ovs", "as-published"]

DEFAULT_PROTOCOL: ProtocolName = "held-out"
