"""`lang-splat demo`: a scene, a training, questions and a report, with one command and no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class Demo:
    """Make a small room, train on it, ask it in words, and write a report with pictures and scores."""

    out: Path = Path("lang-splat-demo")
    """Folder for everything that the demo makes."""
    method: Literal["langsplat-lift", "langsplat"] = "langsplat-lift"
    """How language gets onto the Gaussians: lifted in closed form, or trained as in the paper."""
    scene_only: bool = False
    """Only write the data set, to DIR itself, and stop."""
    segmenter: str = "felzenszwalb"
    """What cuts photos into masks; sam and mobile-sam need weights (lang-splat weights fetch)."""
    encoder: str = "colour-words"
    """What understands prompts; colour-words knows colours only, open_clip knows things ("a cat")."""
    text: str = "red; sky blue ball; yellow and black car; purple ring"
    """Prompts that are asked in the end, separated by ';'."""
    geometry_steps: int = 900
    """Training steps for colour and geometry."""
    language_steps: int = 400
    """Training steps for the language part of langsplat."""

    def run(self) -> None:
        """Run the demo; run again, it starts the training anew but keeps scene and perception."""
        if self.scene_only:
            from lang_splat_ns.scenes.gallery import write_gallery

            write_gallery(self.out)
            return
        from lang_splat_ns.plugin.demo import DemoPlan, run_demo

        run_demo(
            DemoPlan(
                out=self.out,
                method=self.method,
                segmenter=self.segmenter,
                encoder=self.encoder,
                text=self.text,
                geometry_steps=self.geometry_steps,
                language_steps=self.language_steps,
            )
        )
