"""Checkpoints on the model hub that are single files: VGGT's, which `scenes.vggt` loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lang_splat_ns.perception import hub

WITHOUT = "find the cameras with COLMAP (`lang-splat poses --backend colmap`), which needs no weights"


@dataclass(frozen=True)
class HubCheckpoint:
    """A published checkpoint.

    Attributes:
        name: what `lang-splat weights fetch` and `--weights` call it.
        address: its repository on the model hub.
        files: names that its file may have there; the first that is there is taken.
        licence: of the weights, in a few words.
        note: what the licence means, for people.
    """

    name: str
    address: str
    files: tuple[str, ...]
    licence: str
    note: str

    def fetch(self, variant: str | None = None) -> Path:
        """The checkpoint's file, from the hub's cache or by download; `variant` is another repository of such a one.

        Raises:
            UserError: it is not cached and cannot be downloaded.
        """
        name = self.name if variant is None else f"{self.name}:{variant}"
        found = self.cached(variant)
        return found or hub.download_file(variant or self.address, self.files, name, WITHOUT)

    def cached(self, variant: str | None = None) -> Path | None:
        """The checkpoint's file if it is on this machine; no network is asked."""
        return hub.cached_file(variant or self.address, self.files)


VGGT_CHECKPOINTS = {
    entry.name: entry
    for entry in (
        HubCheckpoint(
            "vggt",
            "facebook/VGGT-1B",
            ("model.safetensors", "model.pt"),
            "CC-BY-NC-4.0",
            "for non-commercial use only; vggt-commercial is for other uses",
        ),
        HubCheckpoint(
            "vggt-commercial",
            "facebook/VGGT-1B-Commercial",
            ("model.safetensors", "vggt_1B_commercial.pt", "model.pt"),
            "VGGT License",
            "commercial use is allowed, military and some other uses are not; the hub asks for your agreement before "
            "it lets you download",
        ),
    )
}
