"""How much faster LangSplat's suppression of full-size masks is than its plain double loop, at equal answers.

    python -m benchmarks.mask_suppression --out benchmarks/results/mask_suppression.json

The double loop takes minutes for 1,000 masks. With `--loop-masks 200` it runs on the first 200 only, and its time is
scaled by the number of pairs; answers are compared on what it has seen.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.files import write_text
from lang_splat_ns.perception.mask_nms import mask_nms
from lang_splat_ns.perception.mask_nms_reference import mask_nms_reference


@dataclass
class MaskSuppressionBenchmark:
    """Time mask suppression and its plain double loop."""

    masks: int = 1000
    """How many masks."""
    height: int = 539
    """Rows of the photo."""
    width: int = 960
    """Columns of the photo."""
    loop_masks: int | None = None
    """Run the double loop on so many of them; by default on all."""
    rounds: int = 5
    """Turns of ours, of which the best counts."""
    device: str = "cpu"
    """Where ours runs."""
    out: Path | None = None
    """Write the figures to this JSON file."""

    def main(self) -> None:
        """Measure, show and write."""
        masks, scores = drawn_masks(self.masks, self.height, self.width)
        loop = min(self.loop_masks or self.masks, self.masks)
        ours = self._seconds(masks, scores)
        start = time.perf_counter()
        expected = mask_nms_reference(masks[:loop], scores[:loop])
        looped = (time.perf_counter() - start) * self.masks * (self.masks - 1) / (loop * (loop - 1))
        found = mask_nms(torch.from_numpy(masks[:loop]), torch.from_numpy(scores[:loop])).tolist()
        result = {
            "masks": self.masks,
            "size": [self.height, self.width],
            "mean_share_of_photo": round(float(masks.mean()), 4),
            "kept_of_those_in_the_loop": [len(expected), loop],
            "device": self.device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "ours_seconds": round(ours, 4),
            "loop_seconds": round(looped, 2),
            "times_faster": round(looped / ours, 1),
            "promises": {"equal": found == expected, "at_least_50_times_faster": looped >= 50 * ours},
        }
        CONSOLE.print(result)
        if self.out is not None:
            write_text(self.out, json.dumps(result, indent=2) + "\n")

    def _seconds(self, masks: np.ndarray, scores: np.ndarray) -> float:
        tensors = torch.from_numpy(masks).to(self.device), torch.from_numpy(scores).to(self.device)
        best = np.inf
        for _ in range(self.rounds + 1):
            start = time.perf_counter()
            mask_nms(*tensors).cpu()
            best = min(best, time.perf_counter() - start)
        return best


def drawn_masks(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lobed blobs of very different sizes, half of them a little changed copies of others, and their scores."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    masks = np.zeros((count, height, width), dtype=bool)
    shapes = np.stack(
        [
            random.uniform(0, width, count),
            random.uniform(0, height, count),
            np.exp(random.uniform(np.log(8), np.log(height / 2.5), count)),
            np.exp(random.uniform(-0.7, 0.7, count)),
            random.uniform(0, np.pi, count),
        ],
        axis=1,
    )
    shapes[1::2] = shapes[0::2][: count // 2] * random.normal(1, 0.02, (count // 2, 5))
    for mask, (left, top, radius, stretch, turn) in zip(masks, shapes, strict=True):
        u = (x - left) * np.cos(turn) + (y - top) * np.sin(turn)
        v = (y - top) * np.cos(turn) - (x - left) * np.sin(turn)
        mask[:] = np.hypot(u, v * stretch) < radius * (1 + 0.15 * np.sin(5 * np.arctan2(v, u)))
    return masks, random.uniform(0.65, 1.0, count).astype(np.float32)


if __name__ == "__main__":
    tyro.cli(MaskSuppressionBenchmark).main()
