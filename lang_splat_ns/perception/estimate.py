"""How long an extraction will take and how much disk it will need, measured on its own first photos."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lang_splat_ns.perception.encoders import Encoder
from lang_splat_ns.perception.extract import EMBEDDINGS, LABELS, Frame, extract, missing, record_keys, silent
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.segmenters import Segmenter


@dataclass(frozen=True)
class StageCost:
    """What one stage takes.

    Attributes:
        missing: photos that lacked it before the measurement.
        left: photos that lack it now.
        seconds: for one photo.
        size: bytes on disk for one photo.
    """

    missing: int
    left: int
    seconds: float
    size: int


@dataclass(frozen=True)
class Estimate:
    """What is left to do, and what it takes.

    Attributes:
        label_maps, embeddings: the two stages.
        measured: names of the photos that were done for the measurement; the last one's times count.
    """

    label_maps: StageCost
    embeddings: StageCost
    measured: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """For all that is left, with one worker on a machine like this."""
        return sum(stage.left * stage.seconds for stage in (self.label_maps, self.embeddings))

    @property
    def size(self) -> int:
        """Bytes on disk for all that is left."""
        return sum(stage.left * stage.size for stage in (self.label_maps, self.embeddings))


def estimate(frames: Sequence[Frame], segmenter: Segmenter, encoder: Encoder, store: FeatureStore) -> Estimate:
    """Measure on the first two missing photos, which are done with that and stay in the store.

    The first one also loads networks and compiles kernels, which a data set pays for once; so the second one's times
    count, where there is a second one.

    Raises:
        UserError: as `extract`.
    """
    ids = segmenter.segmenter_id, encoder.encoder_id
    labels, embeddings = missing(frames, *ids, store)
    # Without label maps there are no embeddings either, so the photos without label maps lack the most.
    unsegmented = {frame.content_key for frame in labels}
    trial = [*labels, *(frame for frame in embeddings if frame.content_key not in unsegmented)][:2]
    seconds = {LABELS: 0.0, EMBEDDINGS: 0.0}
    for frame in trial:
        if frame.content_key in unsegmented:
            seconds[LABELS] = _seconds(lambda frame=frame: extract([frame], segmenter, None, store, silent))
        seconds[EMBEDDINGS] = _seconds(lambda frame=frame: extract([frame], segmenter, encoder, store, silent))
    sizes = _sizes(trial[-1:], *ids, store)
    left = missing(frames, *ids, store)
    stages = (
        StageCost(len(before), len(after), seconds[stage], sizes.get(stage, 0))
        for stage, before, after in zip((LABELS, EMBEDDINGS), (labels, embeddings), left, strict=True)
    )
    return Estimate(*stages, measured=tuple(frame.name for frame in trial))


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _sizes(frames: Sequence[Frame], segmenter_id: str, encoder_id: str, store: FeatureStore) -> dict[str, int]:
    keys = record_keys(frames, [segmenter_id], [encoder_id], store)
    paths = {stage: store.path(stage, key) for stage, key in keys}
    # A record of a store below costs no disk here.
    return {stage: path.stat().st_size for stage, path in paths.items() if path.is_file()}
