"""`ns-train METHOD --data lerf_ovs/figurines lerf-ovs`, and `3d-ovs`: labelled data sets as they are downloaded.

Both come as photos, a COLMAP model and labels, which `scenes.labels` reads; nerfstudio's COLMAP parser reads the rest.
The poses and the model's points were computed from all photos by whoever made the data set, labelled ones too.

Imports little: nerfstudio loads it while its own modules are still being imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.evaluation.protocol_names import DEFAULT_PROTOCOL, ProtocolName

MODEL_FILES = ("images.bin", "images.txt")


@dataclass
class LerfOvsDataParserConfig(ColmapDataParserConfig):
    """LERF-OVS (LangSplat's labels on LERF's scenes): <scene>/images, <scene>/sparse/0 and label/<scene> beside it."""

    layout: ClassVar[str] = "label/<scene>/<photo>.json beside the scene's folder"

    _target: type = field(default_factory=lambda: LabelledColmap)
    """target class to instantiate"""
    data: Path = Path()
    """Folder of the scene."""
    colmap_path: Path = Path("sparse/0")
    """Folder of the COLMAP model in the scene's folder."""
    views: Literal["held-out", "as-published"] = "held-out"
    """What labelled photos are for. held-out: evaluation and nothing else; neither geometry nor language sees them.
    as-published: they are trained on as all others are, and evaluated. Eval-mode and the lists of files that
    nerfstudio's own parser looks at do not matter."""
    protocol: ProtocolName = DEFAULT_PROTOCOL
    """How ns-eval scores answers, see lang-splat eval --help."""


@dataclass
class ThreeDOvsDataParserConfig(LerfOvsDataParserConfig):
    """3D-OVS (Liu et al. 2023): images, sparse/0 and segmentations in the folder of the scene."""

    layout: ClassVar[str] = "segmentations/classes.txt and segmentations/<photo>/<class>.png"

    protocol: ProtocolName = "3d-ovs"
    """How ns-eval scores answers, see lang-splat eval --help."""


class LabelledColmap(ColmapDataParser):
    """nerfstudio's COLMAP parser, with a split that follows the labels."""

    config: LerfOvsDataParserConfig

    def __init__(self, config: LerfOvsDataParserConfig) -> None:
        super().__init__(config)
        self._stems: frozenset[str] | None = None

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        try:
            self._check()
            return super()._generate_dataparser_outputs(split, **kwargs)
        except UserError as error:
            # The entry points of nerfstudio print a traceback for anything but this.
            raise SystemExit(f"error: {error}") from error

    def _check(self) -> None:
        """Find what nerfstudio's parser would trip over."""
        model = self.config.data / self.config.colmap_path
        if not any((model / name).is_file() for name in MODEL_FILES):
            raise UserError(f"{model}: no COLMAP model there; --colmap-path says where in the scene's folder it lies.")

    def _get_image_indices(self, image_filenames: list[Path], split: str) -> np.ndarray:
        """Indices of the split's photos, matched with labels by the exact stem of the file name.

        Raises:
            UserError: there are no labels, they are of no photo of the model, or they leave none for training.
        """
        labelled = np.array([path.stem in self._labelled() for path in image_filenames], bool)
        if split != "train":
            return np.flatnonzero(labelled)
        self._compare(image_filenames)
        held_out = self.config.views == "held-out"
        if held_out and labelled.all():
            raise UserError(f"{self.config.data}: every photo is labelled, so none is left for training.")
        CONSOLE.print(
            f"{labelled.sum()} of {len(labelled)} photos are labelled, and are "
            f"{'held out' if held_out else 'trained on as well'} (--views {self.config.views})."
        )
        return np.flatnonzero(~labelled) if held_out else np.arange(len(labelled))

    def _labelled(self) -> frozenset[str]:
        """Stems of the labelled photos."""
        from lang_splat_ns.scenes.labels import read_labels

        if self._stems is None:
            labels = read_labels(self.config.data)
            if labels is None or not labels.frames:
                raise UserError(
                    f"{self.config.data}: no labels, looked for {self.config.layout}; without any, say colmap instead."
                )
            self._stems = frozenset(labels.frames)
        return self._stems

    def _compare(self, image_filenames: list[Path]) -> None:
        """Labels of photos that the model does not have would be left out without a word."""
        strangers = sorted(self._labelled() - {path.stem for path in image_filenames})
        if len(strangers) == len(self._labelled()):
            raise UserError(
                f"{self.config.data}: the labels are of {', '.join(strangers[:3])}, ..., and the COLMAP model has none "
                f"of these, but {', '.join(path.name for path in image_filenames[:3])}, ..."
            )
        if strangers:
            CONSOLE.print(f"[yellow]Labelled, but without a camera, and so left out: {', '.join(strangers)}[/yellow]")


lerf_ovs = DataParserSpecification(
    config=LerfOvsDataParserConfig(),
    description="LERF-OVS as it is downloaded; labelled photos are held out unless told otherwise.",
)
three_d_ovs = DataParserSpecification(
    config=ThreeDOvsDataParserConfig(),
    description="3D-OVS as it is downloaded; labelled photos are held out unless told otherwise.",
)
