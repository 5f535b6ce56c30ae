"""How long the lift takes beside the language training that it replaces, on the same Gaussians and the same cache.

    python -m benchmarks.lift_speed --load-config RUN/config.yml --out benchmarks/results/lift_speed.json

RUN is a finished run of `langsplat` whose 2D features are cached. In one process, `langsplat` trains some language
steps on its Gaussians, which gives the time of one; then the same Gaussians are lifted, from counting the votes to the
codebook. The paper trains 30,000 steps per level; one of our steps trains all three levels, so the comparison is with
30,000 of ours, which favours the training.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import start
from lang_splat_ns.console import CONSOLE
from lang_splat_ns.files import write_text
from lang_splat_ns.machine import facts_of_machine
from lang_splat_ns.plugin.runs import open_run

PAPER_STEPS = 30_000
"""Language steps per level (Qin et al. 2024)."""


@dataclass
class LiftSpeed:
    """Time the lift beside the language training that it replaces."""

    load_config: Path
    """config.yml of a finished langsplat run."""
    steps: int = 60
    """Language steps that are timed."""
    out: Path | None = None
    """JSON file to write."""

    def main(self) -> None:
        """Train a little, lift, compare."""
        run = open_run(self.load_config)
        with tempfile.TemporaryDirectory() as folder:
            step = self._seconds_per_step(run.config, Path(folder))
            seconds = self._seconds_of_lift(run.config, Path(folder))
        result = {
            "facts": facts_of_machine(),
            "data": Path(run.config.pipeline.datamanager.data).resolve().name,
            "photos": len(run.pipeline.datamanager.train_dataset),
            "gaussians": run.pipeline.model.num_points,
            "langsplat_seconds_per_step": round(step, 4),
            "langsplat_seconds_for_30000_steps": round(step * PAPER_STEPS),
            "lift_seconds": {name: round(value, 2) for name, value in seconds.items()},
            "times_faster": round(step * PAPER_STEPS / seconds["total"]),
        }
        CONSOLE.print(result)
        if self.out is not None:
            write_text(self.out, json.dumps(result, indent=2) + "\n")

    def _seconds_per_step(self, config: Any, folder: Path) -> float:
        config = self._config(config, folder, "langsplat")
        config.max_num_iterations = self.steps
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        ends: list[float] = []
        one_step = trainer.train_iteration

        def timed(step: int) -> Any:
            result = one_step(step)
            ends.append(time.perf_counter())
            return result

        trainer.train_iteration = timed
        trainer.train()
        # The first quarter compiles kernels and reads photos.
        first = len(ends) // 4
        return (ends[-1] - ends[first]) / (len(ends) - 1 - first)

    def _seconds_of_lift(self, config: Any, folder: Path) -> dict[str, float]:
        from lang_splat_ns.langsplat_lift import lift

        trainer = self._config(config, folder, "langsplat-lift").setup(local_rank=0, world_size=1)
        trainer.setup()
        model, manager = trainer.pipeline.model, trainer.pipeline.datamanager
        trainer.pipeline.eval()
        # What is counted once compiles kernels.
        lift.prepare_counting(model, manager.features, manager.train_camera_copy(), None).view(0)
        start = time.perf_counter()
        lift.lift_model(model, manager, folder)
        total = time.perf_counter() - start
        # Again, with the votes on disk.
        lift.lift_model(model, manager, folder)
        features = time.perf_counter() - start - total
        return {"votes": total - features, "features": features, "total": total}

    def _config(self, config: Any, folder: Path, method: str) -> Any:
        from lang_splat_ns import specs

        made: Any = copy.deepcopy({"langsplat": specs.langsplat, "langsplat-lift": specs.langsplat_lift}[method].config)
        made.pipeline.datamanager = copy.deepcopy(config.pipeline.datamanager)
        made.pipeline.model.init_from = self.load_config
        made.output_dir, made.experiment_name, made.vis = folder, "lift-speed", "tensorboard"
        made.viewer.quit_on_train_completion = True
        made.steps_per_eval_image = made.steps_per_eval_all_images = PAPER_STEPS
        return made


if __name__ == "__main__":
    start(LiftSpeed)
