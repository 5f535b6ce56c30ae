"""What the panel needs of a model. `LanguageSplatModel` has it; other methods offer the same."""

from __future__ import annotations

from typing import Protocol

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from torch import Tensor

from lang_splat_ns.language.field import LanguageField, QueryMode
from lang_splat_ns.language.text import TextCache
from lang_splat_ns.plugin.viewer.session import Session


class ModelWithPanel(Protocol):
    """A nerfstudio model that answers text and can be shown in the viewer.

    Its `get_outputs_for_camera` asks `session_of_this_render` for the session that `show_in_viewer` has given it, and
    where there is one returns `viewer_outputs(self, camera, obb_box, session)`. Its configuration has `queries`.

    A method with Gaussians also has what `splatting.model.GaussianSplattingModel` has: `splat`, `image_outputs`,
    `gaussians`, `num_points` and `step`. Where `splat` is missing, the panel hides what selects Gaussians, and the
    model has `answer_camera(camera, query, obb_box, between)` instead: outputs and the query's maps from one render,
    which calls `between` now and then, whose exception ends it. A click needs a field that `ReadsFeatures`.
    """

    method_name: str

    def has_language(self) -> bool:
        """True once prompts can be answered."""
        ...

    def why_no_language(self) -> str:
        """Why they cannot be yet."""
        ...

    def language_field(self, query_mode: QueryMode | None = None) -> LanguageField:
        """What answers them."""
        ...

    def query_modes(self) -> tuple[QueryMode, ...]:
        """The ways in which prompts can be answered, the run's own first."""
        ...

    def texts(self) -> TextCache:
        """The text side of the encoder that made the features."""
        ...

    def plain_outputs(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """The render without any answer; it has `rgb` and `accumulation`."""
        ...

    def show_in_viewer(self, session: Session | None) -> None:
        """Remember what the viewer's renders must show."""
        ...
