"""`lang-splat render`: a video of a finished run that answers prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass
class RenderRun:
    """A video of a finished run that answers prompts, along a camera path."""

    load_config: Path
    """config.yml of a finished run."""
    text: str
    """Prompts, separated by ';'."""
    out: Path = Path("render.mp4")
    """An .mp4 (which needs ffmpeg), a .gif, or a folder for one PNG per frame."""
    camera_path: Path | None = None
    """Camera path of nerfstudio's viewer (its Render tab). By default the video flies past the evaluation photos."""
    seconds: float = 6.0
    """Length of the flight past the evaluation photos."""
    fps: float = 24.0
    """Frames per second of that flight."""
    mode: Literal["rgb", "relevancy", "mask", "isolate", "hide"] = "relevancy"
    """rgb: the scene as it is. relevancy, mask: prompts' colours over it. isolate, hide: only, or all but, the
    Gaussians that answer."""
    opacity: float = 0.7
    """How strongly answers are drawn, 0 to 1."""
    negatives: str = ""
    """Phrases that a prompt must beat, separated by ';'; empty: the encoder's own."""
    level: str = "auto"
    """Level to read (for example whole, part or subpart), or auto."""
    threshold: Annotated[str, tyro.conf.arg(metavar="auto|0..1")] = "auto"
    """Relevancy above which a place belongs to the prompt; auto adapts to the prompt's peak."""
    query_mode: Literal["scalar", "feature"] | None = None
    """How prompts are answered, where the method has a choice. By default the run's own."""

    def run(self) -> None:
        """Load, render, write."""
        from lang_splat_ns.commands.options import parse_threshold
        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.errors import UserError
        from lang_splat_ns.language.field import Query
        from lang_splat_ns.language.text import parse_prompts

        if not (self.seconds > 0 and self.fps > 0 and 0 <= self.opacity <= 1):
            raise UserError("--seconds and --fps must be above 0, and --opacity from 0 to 1.")
        negatives = parse_prompts(self.negatives) if self.negatives.strip() else ()
        query = Query(parse_prompts(self.text), negatives, self.level, parse_threshold(self.threshold))
        from lang_splat_ns.plugin.runs import open_run
        from lang_splat_ns.plugin.videos import frames, path_through_photos, read_camera_path, write_video
        from lang_splat_ns.plugin.viewer.session import View

        run = open_run(self.load_config)
        if self.camera_path is not None:
            path = read_camera_path(self.camera_path)
        else:
            path = path_through_photos(run, self.seconds, self.fps)
        view = View(query, self.mode, self.opacity, self.query_mode)
        count = write_video(self.out, frames(run, view, path), path.frames_per_second)
        CONSOLE.print(f"{count} frames: {self.out}", markup=False)
