"""What LERF is trained towards: one source of pyramids and DINO features for both of its data managers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.feature_store import open_store
from lang_splat_ns.plugin.frame_features import PerceptionSpec, make_frames
from lang_splat_ns.scenes.labels import PromptLanguage
from lerf_ns.dino import DinoExtractor, DinoMaps
from lerf_ns.field import Targets
from lerf_ns.pyramid import Pyramids
from lerf_ns.stages import as_pyramid, dino_stage, pyramid_stage
from lerf_ns.tiles import PyramidPlan


@dataclass
class PyramidOptions:
    """Fields that LERF's data managers share; a mixin of their configurations."""

    encoder: str = "open_clip"
    """What turns tiles of the photos and words into comparable vectors: open_clip, chinese-clip, siglip2,
    clip:REPOSITORY, dense:ENCODER, colour-words (knows colours only, needs no download), or a plug-in. Queries use the
    same one."""
    prompt_templates: str | None = None
    """Whether prompts are embedded as they stand (phrase, the default) or as the mean over sentences (ensemble)."""
    prompt_language: PromptLanguage = "en"
    """Language in which labelled prompts are asked when the run is scored; zh asks label/queries_zh.json."""
    cache_dir: Path | None = None
    """Where pyramids are kept; by default .lang_splat_cache in the data folder or the user's cache."""
    tile_size_range: tuple[float, float] = (0.05, 0.5)
    """Sides of the smallest and largest tile, as shares of the photo's height."""
    tile_sizes: int = 7
    """Number of tile sizes, evenly spaced."""
    tile_stride: float = 0.5
    """Share of a tile's side between neighbouring tiles, for tiles of 0.15 of the height and more; smaller ones overlap
    less."""
    dino: str = "dino-vits8"
    """Network whose features keep the field to the objects' borders: dino-vits8, dinov2-vits14, a repository, or
    none."""

    def perception(self) -> PerceptionSpec:
        """The encoder that these options stand for; LERF has no segmenter."""
        return PerceptionSpec(self.encoder, cache_dir=self.cache_dir, prompt_templates=self.prompt_templates)

    def plan(self) -> PyramidPlan:
        """The tiles that these options stand for.

        Raises:
            UserError: the numbers make no sense.
        """
        plan = PyramidPlan(*self.tile_size_range, self.tile_sizes, self.tile_stride)
        plan.check()
        return plan


class PyramidSource:
    """Targets for pixels of a data set's photos, computed once and kept in the feature store.

    Args:
        dataset: nerfstudio's data set; its parser outputs say where photos lie and how they are distorted.
        options: tiles, networks and cache.
        data: the data set's folder, beside which the cache lies by default.
        device: where the networks run and targets are wanted.

    Raises:
        UserError: the encoder cannot be had, or the tiles make no sense.
    """

    def __init__(self, dataset: InputDataset, options: PyramidOptions, data: Path, device: str) -> None:
        self._plan = options.plan()
        self._device = device
        self.store = open_store(data, options.cache_dir)
        self.encoder = options.perception().make_encoder(device)
        self.dino = _open_dino(options.dino, device)
        outputs = dataset._dataparser_outputs
        self.frames = make_frames(outputs.image_filenames, outputs.cameras)

    def prepare(self) -> None:
        """Compute what the store lacks, with progress; safe to interrupt and to run again."""
        pyramid_stage(self.encoder, self._plan).fill(self.frames, self.store)
        if self.dino is not None:
            dino_stage(self.dino).fill(self.frames, self.store)

    @property
    def dino_dim(self) -> int:
        """Length of DINO's features; 0 where the regulariser is off."""
        return 0 if self.dino is None else self.dino.dim

    @cached_property
    def pyramids(self) -> Pyramids:
        """Tile embeddings of all photos."""
        stage = pyramid_stage(self.encoder, self._plan)
        photos = [as_pyramid(stage.read(frame, self.store)) for frame in self.frames]
        return Pyramids(photos, self._plan, self._device)

    @cached_property
    def dino_maps(self) -> DinoMaps | None:
        """DINO features of all photos, or None where the regulariser is off."""
        if self.dino is None:
            return None
        stage = dino_stage(self.dino)
        return DinoMaps([stage.read(frame, self.store)["features"] for frame in self.frames], self._device)

    def targets(self, photos: Tensor, places: Tensor, scales: Tensor) -> Targets:
        """What pixels should show at scales.

        Args:
            photos: indices of photos. [R]
            places: row and column as shares of the photo's height and width, in 0..1. [R, 2]
            scales: 0 for the smallest tiles, 1 for the largest. [R]
        """
        maps = self.dino_maps
        return Targets(self.pyramids(photos, places, scales), None if maps is None else maps(photos, places))


def random_scales(count: int, device: torch.device | str) -> Tensor:
    """Scales as LERF draws them, a size and a share of the way to the next one: uniform in 0..1. [count]"""
    return torch.rand(count, device=device)


def _open_dino(name: str, device: str) -> DinoExtractor | None:
    if name == "none":
        return None
    try:
        return DinoExtractor(name, device)
    except UserError as error:
        CONSOLE.print(f"[yellow]Training goes on without the DINO regulariser:[/yellow] {error}", soft_wrap=True)
        return None
