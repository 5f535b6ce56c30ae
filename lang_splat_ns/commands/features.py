"""`lang-splat features`: masks and embeddings of a data set's photos, computed ahead of training and looked after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import subcommand

if TYPE_CHECKING:
    from lang_splat_ns.perception.extract import Frame
    from lang_splat_ns.perception.feature_store import FeatureStore
    from lang_splat_ns.perception.store_care import StoredRecord

STAGE_NAMES = {"labels": "label maps"}
"""What people call a stage, where it is not the stage's own name."""


@dataclass
class Build:
    """Compute what is missing. Safe to interrupt: run it again, and it goes on where it stopped."""

    method: str | None = None
    """Compute what this method of nerfstudio trains towards, for example lerf, whose photos have pyramids of tiles in
    place of masks; by default the masks and embeddings that langsplat and langsplat-lift share."""
    segmenter: str | None = None
    """What cuts photos into masks; by default sam on CUDA and mobile-sam on a CPU, as in training."""
    encoder: str = "open_clip"
    """What turns masks into vectors that words can be compared with, as in training."""
    crops: str | None = None
    """How a mask is cut out for the encoder, as in training; by default black."""
    points_per_side: int | None = None
    """Point grid of the SAM family; time grows with its square."""
    frames: Literal["train", "all"] = "train"
    """Training photos only, or also those held out for evaluation."""
    dry_run: bool = False
    """Only say how many photos are missing, how long they take and how much disk they need, measured on the first two,
    which are kept."""
    engine: Literal["local", "ray"] = "local"
    """Work in this process, or on the Ray cluster of RAY_ADDRESS (several GPUs or machines that share the folders)."""
    workers: int | None = None
    """Workers of the Ray cluster; by default one for each GPU, or without any one for each core."""

    def run(self, data: Path, cache_dir: Path | None) -> None:
        """Build or estimate."""
        from lang_splat_ns.plugin.features import build, build_for_method, dry_run
        from lang_splat_ns.plugin.frame_features import PerceptionSpec

        spec = PerceptionSpec(self.encoder, self.segmenter, self.points_per_side, cache_dir, self.crops)
        if self.method is not None:
            self._check_plain()
            build_for_method(data, self.method, spec)
        elif self.dry_run:
            dry_run(data, spec, self.frames)
        else:
            build(data, spec, self.frames, self.engine, self.workers)

    def _check_plain(self) -> None:
        from lang_splat_ns.errors import UserError

        if self.dry_run or self.engine != "local" or self.frames != "train":
            raise UserError(
                "--method computes the training photos in this process: leave --dry-run, --engine and --frames out."
            )


@dataclass
class Ls:
    """List what the cache holds: for how many photos, by which segmenter and encoder, and how large."""

    def run(self, data: Path, cache_dir: Path | None) -> None:
        """Print a table for each place that is read."""
        from lang_splat_ns.perception.feature_store import open_store
        from lang_splat_ns.plugin.features import data_set_frames

        frames = data_set_frames(data, "all")
        store = open_store(data, cache_dir)
        for layer in filter(None, (store, store.below)):
            _print_store(layer, frames)


@dataclass
class Verify:
    """Read every record of the cache and compare it with its digest; broken ones are set aside."""

    def run(self, data: Path, cache_dir: Path | None) -> None:
        """Verify; broken records make the command fail."""
        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.errors import UserError
        from lang_splat_ns.perception.feature_store import open_store
        from lang_splat_ns.perception.store_care import verify

        store = open_store(data, cache_dir)
        found = [verify(layer) for layer in filter(None, (store, store.below))]
        count, broken = sum(number for number, _ in found), sum(len(paths) for _, paths in found)
        if broken:
            raise UserError(
                f"{broken} of {count} records were broken and count as missing now; "
                f"`lang-splat features --data {data}`, or the next training, computes them again."
            )
        CONSOLE.print(f"All {count} records are whole.")


@dataclass
class Gc:
    """Delete what nobody needs: leftovers of killed processes, broken records, and records that no photo needs."""

    keep: tuple[str, ...] = ()
    """Segmenters and encoders whose records stay, by the beginnings of the names that ls prints; the other ones'
    records go. Naming no segmenter keeps all segmenters, and likewise for the encoders of each kind of record."""
    other_photos: Literal["auto", "keep", "delete"] = "auto"
    """Records of photos that are not in the data set, or not any more. By default they go if the cache lies in the data
    folder, and stay if it lies elsewhere, since another data set may use it too."""
    also: tuple[Path, ...] = ()
    """More data sets that use this cache; their photos' records count as this data set's."""
    dry_run: bool = False
    """Only say what would be deleted."""

    def run(self, data: Path, cache_dir: Path | None) -> None:
        """Delete and say how much."""
        from rich.filesize import decimal

        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.perception.feature_store import cache_inside, open_store
        from lang_splat_ns.perception.store_care import find_garbage
        from lang_splat_ns.plugin.features import data_set_frames

        frames = [frame for place in (data, *self.also) for frame in data_set_frames(place, "all")]
        store = open_store(data, cache_dir)
        own = self.other_photos == "auto" and store.root == cache_inside(data)
        garbage = find_garbage(store, frames, self.keep, own or self.other_photos == "delete")
        size = decimal(garbage.size)
        for stage in dict.fromkeys(["labels", "embeddings", *(record.stage for record in garbage.records)]):
            _line(STAGE_NAMES.get(stage, stage), [record for record in garbage.records if record.stage == stage])
        CONSOLE.print(f"  {len(garbage.set_aside)} broken records, {len(garbage.unfinished)} unfinished files")
        if not self.dry_run:
            garbage.delete()
        CONSOLE.print(f"{'Would free' if self.dry_run else 'Freed'} {size} of {store.root}", soft_wrap=True)


@dataclass
class Features:
    """Masks and embeddings of a data set's photos: build them ahead of training (default), list, verify, clean."""

    data: Path
    """Data set in nerfstudio's format."""
    cache_dir: Path | None = None
    """Where the records are; by default LANG_SPLAT_CACHE, else in the data folder, else the user's cache."""
    action: (
        Annotated[Build, subcommand("build")]
        | Annotated[Ls, subcommand("ls")]
        | Annotated[Verify, subcommand("verify")]
        | Annotated[Gc, subcommand("gc")]
    ) = field(default_factory=Build)

    def run(self) -> None:
        """Do the one or the other."""
        self.action.run(self.data, self.cache_dir)


def _print_store(store: FeatureStore, frames: Sequence[Frame]) -> None:
    from lang_splat_ns.console import CONSOLE
    from lang_splat_ns.perception.store_care import group_records, health

    state, (groups, others) = health(store), group_records(store, frames)
    CONSOLE.print(f"{store.root}, {len(frames)} photos in the data set", markup=False, soft_wrap=True)
    for (stage, segmenter, encoder), records in groups.items():
        _line(f"{STAGE_NAMES.get(stage, stage)}  {'  of  '.join(filter(None, (encoder, segmenter)))}", records)
    _line("of other data sets, or of photos that have changed since", others)
    CONSOLE.print(f"  {len(state.set_aside)} broken records set aside, {len(state.unfinished)} unfinished files")


def _line(name: str, records: Sequence[StoredRecord]) -> None:
    from rich.filesize import decimal

    from lang_splat_ns.console import CONSOLE

    size = decimal(sum(record.size for record in records))
    CONSOLE.print(f"  {len(records):>6} records {size:>10}  {name}", markup=False, soft_wrap=True)
