"""LangSplat's second phase: three levels of compressed embeddings on frozen Gaussians, at full resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_clock import Clock
from benchmarks.posed_photos import Photo
from lang_splat_ns.console import track
from lang_splat_ns.errors import UserError
from lang_splat_ns.langsplat.targets import CodeTargets, all_embeddings, code_loss
from lang_splat_ns.language.autoencoder import SceneAutoencoder, fit_autoencoder
from lang_splat_ns.perception.extract import EMBEDDINGS, Frame, content_key, read
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.segmenters import SAM_LEVELS
from lang_splat_ns.perception.store_care import inventory
from lang_splat_ns.splatting.gaussians import Gaussians
from lang_splat_ns.splatting.rasterizer import rasterize

CODE_DIM = 3
LEARNING_RATE = 0.0025
AUTOENCODER_EPOCHS = 100
AUTOENCODER_RATE = 7e-4
AUTOENCODER_BATCH = 64
RANDOM_COUNTS = (40, 100, 200)
"""Masks per photo of the three levels, as many as SAM finds in photos of a room."""

RANDOM_DIM = 512
WITHOUT_MASK = 0.1


@dataclass(frozen=True)
class LabelledPhotos:
    """Label maps and embeddings of the training photos, on the CPU as in the method; a `targets.LabelledFrames`.

    Attributes:
        frames: the photos.
        levels: names of the L levels.
        source: where the label maps come from, for people.
        label_maps: per photo int32 [L, H, W].
        rows: per photo and level [count, dim].
    """

    frames: Sequence[Photo]
    levels: tuple[str, ...]
    source: str
    label_maps: list[Tensor]
    rows: list[list[Tensor]]

    def embeddings(self, index: int) -> list[Tensor]:
        """Embeddings of one photo by level."""
        return self.rows[index]

    def labels(self, index: int, height: int, width: int) -> Tensor:
        """Label maps of one photo, which must have the photo's own size."""
        assert self.label_maps[index].shape[1:] == (height, width), "features are trained at full resolution"
        return self.label_maps[index]


def read_labelled_photos(photos: Sequence[Photo], folder: Path) -> LabelledPhotos:
    """Features of the photos from a feature store that extraction on another machine has filled.

    Raises:
        UserError: the folder holds no features, those of several networks, or none of one of the photos.
    """
    store = FeatureStore(folder)
    networks = {(record.segmenter, record.encoder) for record in inventory(store) if record.stage == EMBEDDINGS}
    if len(networks) != 1:
        found = ", ".join(sorted(" + ".join(pair) for pair in networks)) or "nothing"
        raise UserError(f"{folder} must hold the features of one segmenter and encoder, but holds {found}.")
    segmenter, encoder = networks.pop()
    features = [read(_frame(photo), segmenter, encoder, store) for photo in photos]
    return LabelledPhotos(
        frames=photos,
        levels=features[0].label_maps.levels,
        source=f"{segmenter} + {encoder}",
        label_maps=[torch.from_numpy(feature.label_maps.labels) for feature in features],
        rows=[[torch.from_numpy(rows) for rows in feature.embeddings] for feature in features],
    )


def random_labelled_photos(photos: Sequence[Photo]) -> LabelledPhotos:
    """Random masks and embeddings, as many and as large as SAM and CLIP would make. Quality means nothing with them."""
    rng = torch.Generator().manual_seed(0)
    maps = [torch.stack([_random_map(photo, count, rng) for count in RANDOM_COUNTS]) for photo in photos]
    rows = [[_random_rows(count, rng) for count in RANDOM_COUNTS] for _ in photos]
    return LabelledPhotos(photos, SAM_LEVELS, "random", maps, rows)


class FeatureTraining:
    """Trains unit codes on Gaussians that stay as they are.

    Args:
        gaussians: finished Gaussians, on the training's device.
        source: label maps and embeddings of the training photos.
        epochs: passes of the autoencoder over all embeddings.
    """

    def __init__(self, gaussians: Gaussians, source: LabelledPhotos, epochs: int = AUTOENCODER_EPOCHS) -> None:
        self.gaussians, self.source = gaussians, source
        device = gaussians.means.device
        clock = Clock(device)
        self.autoencoder = _fit(all_embeddings(source).to(device), epochs)
        self._autoencoder_seconds = clock.seconds()
        self._targets = CodeTargets(source, self.autoencoder, device)
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(len(gaussians.means), len(source.levels) * CODE_DIM, generator=generator)
        self.features = torch.nn.Parameter(start.to(device))
        self._optimizer = torch.optim.Adam([self.features], lr=LEARNING_RATE, eps=1e-15)

    def unit_codes(self) -> Tensor:
        """Unit codes of all Gaussians: [N, L, C]."""
        return torch.nn.functional.normalize(self.features.reshape(len(self.features), -1, CODE_DIM), dim=-1)

    def blend(self, photo: Photo) -> Tensor:
        """Blended codes from a photo's camera: [H, W, L, C]."""
        codes, g = self.unit_codes(), self.gaussians
        height, width = photo.image.shape[:2]
        opacities = torch.sigmoid(g.opacities).squeeze(-1)
        image, _, _ = rasterize(
            g.means, g.quats, torch.exp(g.scales), opacities, codes.flatten(1), photo.viewmat, photo.K, width, height
        )
        return image.reshape(height, width, *codes.shape[1:])

    def run(self, steps: int) -> dict[str, Any]:
        """Train; returns speed, losses and memory."""
        self.blend(self.source.frames[0])  # Compiles or loads kernels, which is no training.
        first = self.mean_loss()
        generator = torch.Generator().manual_seed(0)
        clock = Clock(self.features.device)
        for _ in track(range(steps), "Training features"):
            self._step(int(torch.randint(len(self.source.frames), (1,), generator=generator)))
        seconds, memory = clock.seconds(), clock.memory()
        return {
            "labels": self.source.source,
            "masks": int(sum(len(rows) for photo in self.source.rows for rows in photo)),
            "dim": self.autoencoder.dim,
            "levels": list(self.source.levels),
            "channels": self.features.shape[1],
            "gaussians": len(self.features),
            "autoencoder_seconds": round(self._autoencoder_seconds, 2),
            "steps": steps,
            "steps_per_second": round(steps / seconds, 2),
            "loss_first": first,
            "loss_last": self.mean_loss(),
            **memory,
        }

    @torch.no_grad()
    def mean_loss(self) -> float:
        """The loss, averaged over all photos."""
        return float(torch.stack([self._loss(index) for index in range(len(self.source.frames))]).mean())

    def _step(self, index: int) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self._loss(index).backward()
        self._optimizer.step()

    def _loss(self, index: int) -> Tensor:
        codes = self.blend(self.source.frames[index])
        return code_loss(codes, *self._targets(index, *codes.shape[:2]))


def _fit(embeddings: Tensor, epochs: int) -> SceneAutoencoder:
    return fit_autoencoder(
        embeddings,
        code_dim=CODE_DIM,
        epochs=epochs,
        learning_rate=AUTOENCODER_RATE,
        batch_size=AUTOENCODER_BATCH,
        seed=0,
    )


def _frame(photo: Photo) -> Frame:
    # The photo as it is: this is how nerfstudio's photos without distortion are keyed.
    return Frame(photo.path.name, content_key(photo.path, {"undistort": None}), lambda: photo.image.cpu().numpy())


def _random_rows(count: int, rng: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, RANDOM_DIM, generator=rng), dim=-1)


def _random_map(photo: Photo, count: int, rng: torch.Generator) -> Tensor:
    """Cells around random centres, some left without a mask: int32 [H, W]."""
    height, width = photo.image.shape[:2]
    # On the photo's device, because this is a distance from every pixel to every centre.
    device = photo.image.device
    centers = (torch.rand(count, 2, generator=rng) * torch.tensor([height, width])).to(device)
    pixels = torch.cartesian_prod(torch.arange(height, device=device), torch.arange(width, device=device)) + 0.5
    nearest = torch.cat([torch.cdist(chunk, centers).argmin(1) for chunk in pixels.split(1 << 16)]).cpu()
    empty = torch.rand(count, generator=rng) < WITHOUT_MASK
    return torch.where(empty[nearest], -1, nearest).to(torch.int32).reshape(height, width)
