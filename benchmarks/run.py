"""The benchmark: every method on every scene with every encoder, one JSON file per cell.

    python -m benchmarks.run --quick                      # all eight methods on the demo scene, under 45 minutes
    python -m benchmarks.run --scenes demo ../shared/scenes/desk --encoders open_clip

All splatting methods of a scene share the geometry of its `3dgs` run, the photos' features are computed once,
and a cell whose file is there is not measured again. It can be interrupted at any moment and goes on where it stopped.
A cell that fails is told and does not stop the others. `python -m benchmarks.tables` puts the figures into the README.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmarks.cells import METHODS, Cell, Method, Scene, Settings
from benchmarks.command import start
from lang_splat_ns.console import CONSOLE, ERROR_CONSOLE, duration
from lang_splat_ns.errors import UserError
from lang_splat_ns.file_names import safe_name
from lang_splat_ns.files import write_text
from lang_splat_ns.perception.encoders import DEFAULT_ENCODER
from lang_splat_ns.plugin.check_data import check_nerfstudio_folder
from lang_splat_ns.plugin.demo import make_scene
from lang_splat_ns.plugin.frame_features import PerceptionSpec, best_device
from lang_splat_ns.scenes.labels import read_labels

RESULTS = Path(__file__).parent / "results"
DEMO = "demo"


@dataclass
class Matrix:
    """Train and score methods on scenes with encoders, and write one JSON file per cell."""

    scenes: tuple[str, ...] = (DEMO,)
    """Labelled data sets in nerfstudio's format; "demo" is the one that `lang-splat demo` makes."""
    methods: tuple[Method, ...] = METHODS
    """What is trained. 3dgs is trained wherever a splatting method needs it."""
    encoders: tuple[str, ...] = ()
    """Names of encoders; by default colour-words on the demo scene and open_clip on others."""
    segmenter: str | None = None
    """Name of the segmenter; by default felzenszwalb on the demo scene; else sam, or on a CPU mobile-sam."""
    quick: bool = False
    """The demo scene alone; LERF's trainings are so short that they show no more than that everything works."""
    preset: Literal["cpu", "paper"] | None = None
    """Sizes and steps, as in ns-train; by default paper on CUDA and cpu without."""
    scale: float = 1.0
    """Training resolution as a share of the photos'."""
    seed: int = 42
    """Seed of every training."""
    work: Path = Path("benchmark-runs")
    """Folder for scenes, runs and logs."""
    cache_dir: Path | None = None
    """Feature cache, by default in the folder for the runs; what is in it is not computed, and its time is missing."""
    out: Path | None = None
    """Folder for the JSON files; by default benchmarks/results/matrix, or .../quick."""
    again: bool = False
    """Write the files of finished cells again, from the runs that are there."""

    def main(self) -> None:
        """Measure what is missing; exit with 1 where a cell failed.

        Raises:
            UserError: a scene, an encoder or a segmenter cannot be had; before anything is trained.
        """
        cells, start = list(self.cells()), time.perf_counter()
        left = [cell for cell in cells if self.again or not self.file(cell).is_file()]
        CONSOLE.print(f"{len(cells)} cells, {len(cells) - len(left)} of them measured before.")
        failed = 0
        for number, cell in enumerate(left):
            what = f"{number + 1}/{len(left)} {cell.method} on {cell.scene.name}"
            CONSOLE.print(f"{what}; logs in {cell.run_folder}", soft_wrap=True, markup=False)
            try:
                write_text(self.file(cell), json.dumps(cell.measure(), indent=1, allow_nan=False) + "\n")
            except UserError as error:
                failed += 1
                ERROR_CONSOLE.print(f"{what}: {error}", style="red", markup=False, soft_wrap=True)
            taken = time.perf_counter() - start
            rest = duration(taken / (number + 1) * (len(left) - number - 1))
            CONSOLE.print(f"{what}: {duration(taken)} so far, about {rest} left", markup=False)
        if failed:
            raise UserError(f"{failed} of {len(left)} cells failed; the same command tries them again.")

    def file(self, cell: Cell) -> Path:
        """Where a cell's figures go."""
        folder = self.out or RESULTS / ("quick" if self.quick else "matrix")
        return folder / cell.scene.name / f"{cell.name}.json"

    def cells(self) -> Iterator[Cell]:
        """What belongs to the matrix, in the order in which it is measured; looks at scenes and networks first."""
        preset = self.preset or ("paper" if torch.cuda.is_available() else "cpu")
        cache = (self.cache_dir or self.work / "cache").absolute()
        settings = Settings(self.work.absolute(), cache, preset, self.scale, self.seed, self.quick)
        scenes = [self._scene(name) for name in ((DEMO,) if self.quick else self.scenes)]
        wanted = [name for name in METHODS if name in self.methods or name == METHODS[0]]
        for scene in scenes:
            for encoder in scene.encoders:
                PerceptionSpec(encoder, scene.segmenter).make_networks()
            geometry, *others = wanted
            yield Cell(scene, geometry, "", settings)
            yield from (Cell(scene, method, encoder, settings) for encoder in scene.encoders for method in others)

    def _scene(self, name: str) -> Scene:
        if name == DEMO:
            data = self.work.absolute() / "demo-scene"
            make_scene(data)
            return Scene(DEMO, data, self.segmenter or "felzenszwalb", self.encoders or ("colour-words",))
        data = Path(name).expanduser().absolute()
        check_nerfstudio_folder(data)
        if read_labels(data) is None:
            raise UserError(f"{data}: no folder label, so there is nothing to score.")
        segmenter = PerceptionSpec("", self.segmenter).settled(best_device()).segmenter
        assert segmenter is not None, "settled"
        return Scene(safe_name(data.name), data, segmenter, self.encoders or (DEFAULT_ENCODER,))


if __name__ == "__main__":
    start(Matrix)
