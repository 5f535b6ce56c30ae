"""`ns-train METHOD --data PHOTOS unposed`: a data parser that poses photos on the way, once.

Imports little: nerfstudio loads it while its own modules are still being imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from lang_splat_ns.errors import UserError
from lang_splat_ns.plugin.one_photo import suited


@dataclass
class UnposedDataParserConfig(NerfstudioDataParserConfig):
    """Photos without poses, or a video: they are posed once, and kept beside the cache of masks and embeddings."""

    _target: type = field(default_factory=lambda: Unposed)
    """target class to instantiate"""
    data: Path = Path()
    """Folder of photos, or a video."""
    load_3D_points: bool = True
    """Whether to load the points that posing has found."""
    backend: Literal["auto", "colmap", "vggt"] = "auto"
    """Who poses, see lang-splat poses --help."""
    refine: bool = False
    """Adjust the cameras of vggt to matched features afterwards."""
    frames: int = 150
    """How many frames of a video are taken at most."""
    longest_side: int = 1600
    """Photos larger than this many pixels are made smaller; 0 keeps them."""
    weights: str = "vggt"
    """Weights of vggt: vggt, vggt-commercial, or a file."""
    poses_dir: Path | None = None
    """Where posed data sets are kept; by default LANG_SPLAT_CACHE, else .lang_splat_cache beside the photos, else the
    user's cache."""


@dataclass
class Unposed(Nerfstudio):
    """nerfstudio's own parser, of the data set that posing has written."""

    config: UnposedDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        try:
            posed = posed_folder(self.config)
        except UserError as error:
            # The entry points of nerfstudio print a traceback for anything but this.
            raise SystemExit(f"error: {error}") from error
        original = self.config
        # What is saved with a run still names the photos.
        self.config = suited(replace(original, data=posed), posed)
        try:
            return super()._generate_dataparser_outputs(split)
        finally:
            self.config = original


def posed_folder(config: UnposedDataParserConfig) -> Path:
    """The posed data set of photos, posed now if it is not there yet.

    Its place hangs on the content of the photos and on the options, so that moved photos keep it and changed ones get
    another.

    Raises:
        UserError: the photos cannot be found or posed, or have poses already.
    """
    from lang_splat_ns.perception.feature_store import resolve_root
    from lang_splat_ns.scenes.posing import Posing, make_request

    if (config.data / "transforms.json").is_file():
        raise UserError(f"{config.data}: has poses already (transforms.json); leave out `unposed`.")
    request = make_request(
        config.data,
        backend=config.backend,
        refine=config.refine,
        frames=config.frames,
        longest_side=config.longest_side,
        weights=config.weights,
    )
    posing = Posing(request)
    out = resolve_root(config.data, config.poses_dir) / "poses" / posing.key[:16]
    return out if posing.finished(out) else posing.run(out)


unposed = DataParserSpecification(
    config=UnposedDataParserConfig(),
    description="Photos without poses, or a video: posed once on the way (COLMAP, or VGGT).",
)
