"""Full photos with their 2D features, for methods that splat."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from lang_splat_ns.plugin.frame_features import FrameFeatureSource, PerceptionSpec
from lang_splat_ns.scenes.labels import PromptLanguage


@dataclass
class SplatDataManagerConfig(FullImageDatamanagerConfig):
    """Photos for splatting."""

    _target: type = field(default_factory=lambda: SplatDataManager)
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """How photos are held in memory; uint8 takes a quarter of the memory of float32."""


class SplatDataManager(FullImageDatamanager[InputDataset]):
    """nerfstudio's full-image manager whose sampler can be saved, and whose cameras are never shared for writing."""

    config: SplatDataManagerConfig

    def next_train(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """The next photo and its camera, each photo once before any comes again."""
        self.cached_train  # noqa: B018 - loading undistorts, which changes the cameras that are read next.
        return super().next_train(step)

    def train_camera_copy(self) -> Cameras:
        """All training cameras, undistorted, on the training device."""
        self.cached_train  # noqa: B018 - see next_train.
        return deepcopy(self.train_dataset.cameras).to(self.device)

    def eval_camera_copy(self) -> Cameras:
        """All evaluation cameras, undistorted, on the training device."""
        self.cached_eval  # noqa: B018 - see next_train.
        return deepcopy(self.eval_dataset.cameras).to(self.device)

    def eval_photo(self, index: int) -> Tensor:
        """An evaluation photo as its camera sees it: float [H, W, 3] in 0..1."""
        return as_floats(self.cached_eval[index]["image"])

    def get_extra_state(self) -> dict[str, Any]:
        """Which photos are still to come, and the sampler's random state, for a resume that changes nothing."""
        state: dict[str, Any] = {"unseen": [int(index) for index in self.train_unseen_cameras]}
        if hasattr(self, "random_generator"):
            version, words, gauss = self.random_generator.getstate()
            state["generator"] = [version, list(words), gauss]
        return state

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave, if the data set still has the same number of photos."""
        if max(state["unseen"], default=0) >= len(self.train_dataset):
            return
        self.train_unseen_cameras = list(state["unseen"])
        if "generator" in state and hasattr(self, "random_generator"):
            version, words, gauss = state["generator"]
            self.random_generator.setstate((version, tuple(words), gauss))


@dataclass
class LanguageDataManagerConfig(SplatDataManagerConfig):
    """Photos, and the networks that look at them."""

    _target: type = field(default_factory=lambda: LanguageDataManager)
    encoder: str = "open_clip"
    """What turns image regions and words into comparable vectors: open_clip, multilingual-clip, chinese-clip, siglip2,
    metaclip2, clip:REPOSITORY, dense:ENCODER, colour-words (knows colours only, needs no download), or a plug-in.
    Queries use the same one."""
    crops: str | None = None
    """How a mask is cut out for the encoder: black (as LangSplat, the default), blur, context, or several of them with
    weights, for example black+context:0.5. Embedding time grows with their number."""
    prompt_templates: Literal["phrase", "ensemble"] | None = None
    """Whether prompts are embedded as they stand (phrase, the default) or as the mean over an ensemble of sentences."""
    prompt_language: PromptLanguage = "en"
    """Language in which labelled prompts are asked when the run is scored; zh asks label/queries_zh.json beside the
    data. Prompts that are typed or given need no setting: they may be in any language that the encoder reads."""
    segmenter: str | None = None
    """What cuts photos into masks: sam, sam-vit-l, sam-vit-b, mobile-sam, sam2 (also sam2-base-plus, sam2-small,
    sam2-tiny), felzenszwalb (needs no download), labels:FOLDER (label maps made elsewhere), or a plug-in. By default
    sam on CUDA and mobile-sam on a CPU; the largest share of preprocessing time."""
    points_per_side: int | None = None
    """Point grid of the SAM family; time grows with its square. By default 32, as in LangSplat."""
    cache_dir: Path | None = None
    """Where label maps and embeddings are kept; by default .lang_splat_cache in the data folder or the user's cache."""

    def perception(self) -> PerceptionSpec:
        """The networks that these options stand for."""
        return PerceptionSpec(
            encoder=self.encoder,
            segmenter=self.segmenter,
            points_per_side=self.points_per_side,
            cache_dir=self.cache_dir,
            crops=self.crops,
            prompt_templates=self.prompt_templates,
        )


class LanguageDataManager(SplatDataManager):
    """Adds each training photo's label maps and embeddings, from one source that all methods share.

    The source is opened by training only: viewing and evaluating never touch segmenters or the store.
    """

    config: LanguageDataManagerConfig

    @cached_property
    def features(self) -> FrameFeatureSource:
        """2D features of the training photos."""
        spec = self.config.perception()
        return FrameFeatureSource(self.train_dataset, spec, Path(str(self.config.data)), str(self.device))


def as_floats(photo: Tensor) -> Tensor:
    """Colours in 0..1 on the CPU: [H, W, 3 or 4], bytes or floats -> float [H, W, 3]."""
    colours = photo[..., :3].cpu()
    return colours.float() if colours.is_floating_point() else colours.float() / 255
