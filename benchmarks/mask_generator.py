"""Our mask generator beside the stock one, on the same photos with the same network and parameters.

    python -m benchmarks.mask_generator --data DATA --out benchmarks/results/mask_generator.json

Both run in turns on every photo. Ours makes label maps of three levels, the stock one a list of masks of all levels
together; its masks are compared with ours before LangSplat's own suppression, together and level by level (the stock
code then runs on one of the network's three outputs at a time).

For time alone, a network of the right size with random weights will do, since what it computes does not depend on them:

    python -m benchmarks.mask_generator --model vit_h --random-weights --device cuda --no-stock --embed

Every mask is then drawn and measured, which is more work than trained weights make.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.stock_masks import StockMasks, partners, stock_masks
from lang_splat_ns.console import CONSOLE, ERROR_CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.files import write_text
from lang_splat_ns.perception import weights as weight_files
from lang_splat_ns.perception.encoders import RegionTask
from lang_splat_ns.perception.mask_generator import MaskGenerator, MaskSettings
from lang_splat_ns.perception.parallel import map_on_cores
from lang_splat_ns.perception.promptable import Placement, Promptable
from lang_splat_ns.perception.prompted_segmenter import CPU_BATCH, GPU_BATCH
from lang_splat_ns.perception.sam import MobileSam, SamNetwork, SamSegmenter, SamVitB, SamVitH, SamVitL

MODELS: dict[str, type[SamSegmenter]] = {"vit_t": MobileSam, "vit_b": SamVitB, "vit_l": SamVitL, "vit_h": SamVitH}
RANDOM_SIZE = (1080, 1440)
RANDOM_REGIONS = (40, 100, 200)
"""Regions of the three levels to embed where random weights find none; as many as SAM finds in photos of a room."""


@dataclass
class MaskGeneratorBenchmark:
    """Time our mask generator and the stock one, and compare what they find."""

    data: Path | None = None
    """Data set folder with photos in `images`; noise of 1440x1080 pixels without it."""
    model: Literal["vit_t", "vit_b", "vit_l", "vit_h"] = "vit_t"
    """The network: MobileSAM's, or SAM's in one of its sizes."""
    random_weights: bool = False
    """Take random weights, which suffice for time."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the network runs."""
    photos: int = 4
    """How many photos, spread over the data set."""
    points: int = 32
    """Side of the grid of prompts."""
    batch: int | None = None
    """Prompts per step of ours; by default as in use."""
    stock: bool = True
    """Run the stock generator too."""
    embed: bool = False
    """Also time a CLIP ViT-B-16 on the regions."""
    sweep: bool = False
    """Also measure the decoder at several batch sizes."""
    out: Path | None = None
    """Write the figures to this JSON file."""

    def main(self) -> None:
        """Measure, show and write."""
        network = TimedNetwork(SamNetwork(self._sam()), self.device)
        settings = MaskSettings(points_per_side=self.points)
        if self.random_weights:
            settings = replace(settings, predicted_iou=-np.inf)
        batch = self.batch or (GPU_BATCH if self.device.startswith("cuda") else CPU_BATCH)
        generator = MaskGenerator(network, settings, batch)
        images = self._images()
        # Whatever is loaded or compiled on first use is so now.
        MaskGenerator(network, replace(settings, points_per_side=2), batch).generate(images[0][1])
        rows = [self._measure(name, image, generator, network, settings) for name, image in track(images, "Photos")]
        result = self._facts(settings, batch) | summarize(rows) | {"photos": rows}
        if self.sweep:
            result["milliseconds_per_prompt"] = sweep(network.inner, images[0][1], self.device)
        CONSOLE.print({key: value for key, value in result.items() if key != "photos"})
        if self.out is not None:
            write_text(self.out, json.dumps(result, indent=2) + "\n")

    def _sam(self) -> Any:
        model = MODELS[self.model]
        return model.build(None if self.random_weights else weight_files.find(model.name)).to(self.device)

    def _images(self) -> list[tuple[str, np.ndarray]]:
        if self.data is None:
            noise = np.random.default_rng(0).integers(0, 256, (*RANDOM_SIZE, 3), dtype=np.uint8)
            return [(f"noise {index}", noise) for index in range(self.photos)]
        from PIL import Image

        files = sorted(file for file in (self.data / "images").iterdir() if file.suffix.lower() in (".jpg", ".png"))
        if not files:
            raise UserError(f"{self.data / 'images'} has no photos")
        chosen = np.unique(np.linspace(0, len(files) - 1, self.photos).round().astype(int))
        return [(files[index].name, np.array(Image.open(files[index]).convert("RGB"))) for index in chosen]

    def _measure(
        self, name: str, image: np.ndarray, generator: MaskGenerator, network: TimedNetwork, settings: MaskSettings
    ) -> dict[str, Any]:
        network.reset()
        seconds, proposals = timed(lambda: generator.propose(image), self.device)
        finishing, maps = timed(lambda: generator.label_maps(proposals), self.device)
        row: dict[str, Any] = {"name": name, "size": list(image.shape[:2]), "regions": list(maps.counts)}
        row["ours"] = {
            "seconds": round(seconds + finishing, 3),
            "network_seconds": round(network.seconds, 3),
            "label_map_seconds": round(finishing, 3),
        }
        if self.embed:
            row["embedding_seconds"] = round(embedding_seconds(image, maps.labels, self.device), 3)
        if self.stock:
            package = MODELS[self.model].package
            theirs = stock_masks(package, network.inner.sam, image, settings)
            row["stock"] = {"seconds": round(theirs.seconds, 3), "network_seconds": round(theirs.network_seconds, 3)}
            found = generator.masks(proposals) | generator.masks(proposals, pooled=True)
            row["partners"] = compare(theirs, {level: masks.dense() for level, masks in found.items()})
        return row

    def _facts(self, settings: MaskSettings, batch: int) -> dict[str, Any]:
        gpu = torch.cuda.get_device_name() if self.device.startswith("cuda") else None
        return {
            "model": self.model,
            "weights": "random" if self.random_weights else "published",
            "device": self.device,
            "gpu": gpu,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "batch": batch,
            "settings": settings.describe(),
        }


class TimedNetwork:
    """A network that adds up the time spent in it, as the share of a run that takes all threads for itself."""

    def __init__(self, inner: SamNetwork, device: str) -> None:
        self.inner = inner
        self.device = inner.device
        self._on = device
        # As many threads decode at once as torch has; the photo is embedded by all of them together.
        self._threads = 1 if device.startswith("cuda") else torch.get_num_threads()
        self.reset()

    def reset(self) -> None:
        """Start from zero."""
        self._embedding: list[float] = []
        self._decoding: list[float] = []

    @property
    def seconds(self) -> float:
        """Seconds since the last reset."""
        return sum(self._embedding) + sum(self._decoding) / self._threads

    def place(self, height: int, width: int) -> Placement:
        """See `Promptable`."""
        return self.inner.place(height, width)

    def embed(self, image: np.ndarray) -> Any:
        """See `Promptable`."""
        seconds, embedded = timed(lambda: self.inner.embed(image), self._on)
        self._embedding.append(seconds)
        return embedded

    def decode(self, embedded: Any, points: Tensor, least: float, low: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `Promptable`."""
        seconds, decoded = timed(lambda: self.inner.decode(embedded, points, least, low), self._on)
        self._decoding.append(seconds)
        return decoded


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds that some work takes, and its result."""
    start = time.perf_counter()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def compare(theirs: StockMasks, ours: dict[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Masks of both sides, and how many of each have a partner at IoU 0.9 on the other, by level."""
    return {
        level: {
            "stock": len(masks),
            "ours": len(ours[level]),
            "stock_with_partner": partners(masks, ours[level]),
            "ours_with_partner": partners(ours[level], masks),
        }
        for level, masks in theirs.masks.items()
    }


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over all photos, and whether they keep what is promised."""
    ours = float(np.mean([row["ours"]["seconds"] for row in rows]))
    network = float(np.mean([row["ours"]["network_seconds"] for row in rows]))
    result: dict[str, Any] = {
        "ours_seconds_per_image": round(ours, 3),
        "network_share": round(network / ours, 3),
    }
    promises = {"network_share_at_least_0.9": network >= 0.9 * ours}
    if "embedding_seconds" in rows[0]:
        embedding = float(np.mean([row["embedding_seconds"] for row in rows]))
        result["embedding_seconds_per_image"] = round(embedding, 3)
        result["seconds_per_image_with_embeddings"] = round(ours + embedding, 3)
    if "stock" in rows[0]:
        stock = float(np.mean([row["stock"]["seconds"] for row in rows]))
        result |= {"stock_seconds_per_image": round(stock, 3), "times_faster": round(stock / ours, 2)}
        result["partners"] = shares([row["partners"] for row in rows])
        least = min(share for level in result["partners"].values() for share in level.values())
        promises |= {"at_least_2.5_times_faster": stock >= 2.5 * ours, "partners_at_least_0.95": least >= 0.95}
    return result | {"promises": promises}


def shares(photos: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, float]]:
    """Share of each side's masks that have a partner, over all photos, by level."""
    result = {}
    for level in photos[0]:
        total = {key: sum(photo[level][key] for photo in photos) for key in photos[0][level]}
        result[level] = {
            side: round(total[f"{side}_with_partner"] / max(total[side], 1), 4) for side in ("stock", "ours")
        }
    return result


def sweep(network: SamNetwork, image: np.ndarray, device: str) -> dict[int, float]:
    """Milliseconds per prompt at several batch sizes; the best of three turns."""
    sizes = (16, 32, 64, 128, 256) if device.startswith("cuda") else (1, 2, 4, 8, 16)
    with torch.inference_mode():
        placement = network.place(*image.shape[:2])
        embedded, points = network.embed(image), placement.grid(16).to(device)[:: 1 if device != "cpu" else 4]
        best = dict.fromkeys(sizes, np.inf)
        for _ in range(3):
            for size in sizes:
                parts = points.split(size)
                seconds, _ = timed(lambda: decode_all(network, embedded, parts, placement.low), device)  # noqa: B023
                best[size] = min(best[size], 1e3 * seconds / len(points))
    return {size: round(value, 2) for size, value in best.items()}


def decode_all(network: Promptable, embedded: Any, parts: tuple[Tensor, ...], low: tuple[int, int]) -> None:
    """Decode batches of points, as the generator does."""

    def decode(points: Tensor) -> None:
        network.decode(embedded, points, -np.inf, low)

    if network.device.type == "cpu":
        map_on_cores(decode, parts)
    else:
        for points in parts:
            decode(points)


def embedding_seconds(image: np.ndarray, labels: np.ndarray, device: str) -> float:
    """Seconds of a CLIP ViT-B-16 with random weights on all regions of a photo."""
    if labels.max(initial=-1) < max(RANDOM_REGIONS) // 4:
        labels = np.stack([_tiles(image.shape[:2], count) for count in RANDOM_REGIONS])
    encoder = _random_clip(device)
    tasks = [RegionTask(image, level, int(level.max()) + 1) for level in labels]
    encoder.embed_many(tasks[:1])
    return timed(lambda: encoder.embed_many(tasks), device)[0]


def _tiles(size: tuple[int, ...], count: int) -> np.ndarray:
    """A label map of about `count` regions of one size."""
    columns = round((count * size[1] / size[0]) ** 0.5)
    rows = round(count / columns)
    y, x = np.arange(size[0]) * rows // size[0], np.arange(size[1]) * columns // size[1]
    return (y[:, None] * columns + x).astype(np.int32)


def _random_clip(device: str) -> Any:
    import open_clip

    from lang_splat_ns.perception.clip_encoder import ClipEncoder
    from lang_splat_ns.perception.open_clip_network import OpenClipNetwork

    model = open_clip.create_model("ViT-B-16", device=device)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    network = OpenClipNetwork(model, open_clip.get_tokenizer("ViT-B-16"), mean, std)
    return ClipEncoder("random", network.dim, lambda: network, device=device)


def main() -> None:
    """Run the benchmark, with mistakes told in one line."""
    try:
        tyro.cli(MaskGeneratorBenchmark).main()
    except UserError as error:
        ERROR_CONSOLE.print(f"Error: {error}", markup=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
