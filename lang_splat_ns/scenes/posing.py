"""From photos or a video to a nerfstudio data set: one request, one folder, resumable at any moment."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.errors import UserError
from lang_splat_ns.scenes.colmap import CameraModel, ColmapOptions, Matching, pose_with_colmap
from lang_splat_ns.scenes.from_depth import parse_confidence
from lang_splat_ns.scenes.photos import Photos, content_digests, find_photos, prepare_photos
from lang_splat_ns.scenes.posed_scene import PosedScene, write_scene
from lang_splat_ns.scenes.vggt_poses import VggtOptions, pose_with_vggt
from lang_splat_ns.scenes.video_frames import extract_frames

VERSION = 1
"""Goes up whenever the same photos and options would give another data set."""
WORK = ".poses"
_LISTED = 12

Backend = Literal["colmap", "vggt"]


@dataclass(frozen=True)
class PoseRequest:
    """What to pose, and how.

    Attributes:
        source: a folder of photos, or a video.
        backend: who poses; None is `default_backend`.
        longest_side: photos larger than this many pixels are made smaller; 0 keeps them.
        frames: how many frames of a video are taken at most.
        colmap: options of that backend.
        vggt: options of that backend.
    """

    source: Path
    backend: Backend | None = None
    longest_side: int = 1600
    frames: int = 150
    colmap: ColmapOptions = field(default_factory=ColmapOptions)
    vggt: VggtOptions = field(default_factory=VggtOptions)


def default_backend(weights: str) -> tuple[Backend, str]:
    """VGGT where there are CUDA and its weights, else COLMAP; and the reason.

    Args:
        weights: name or file of the checkpoint that would be used.
    """
    import torch

    if not torch.cuda.is_available():
        return "colmap", "there is no CUDA for VGGT"
    from lang_splat_ns.perception.hub_checkpoints import VGGT_CHECKPOINTS

    known = VGGT_CHECKPOINTS.get(weights)
    here = known.cached() is not None if known is not None else Path(weights).is_file()
    return ("vggt", "CUDA and its weights are here") if here else ("colmap", "the weights of VGGT are not here")


def make_request(
    source: Path,
    *,
    backend: Literal["auto", "colmap", "vggt"] = "auto",
    refine: bool = False,
    frames: int = 150,
    longest_side: int = 1600,
    intrinsics: Literal["auto", "shared", "per-photo"] = "auto",
    camera_model: CameraModel | Literal["auto"] = "auto",
    matching: Matching = "auto",
    weights: str = "vggt",
    confidence: str = "30%",
    max_points: int = 200_000,
) -> PoseRequest:
    """A request from what people choose, see `lang-splat poses --help`.

    Raises:
        UserError: a number makes no sense.
    """
    for name, value, least in (("frames", frames, 1), ("longest-side", longest_side, 0), ("max-points", max_points, 1)):
        if value < least:
            raise UserError(f"--{name} {value}: give {least} or more.")
    defaults = ColmapOptions()
    return PoseRequest(
        source=source,
        backend=None if backend == "auto" else backend,
        longest_side=longest_side,
        frames=frames,
        colmap=ColmapOptions(
            camera_model=defaults.camera_model if camera_model == "auto" else camera_model,
            shared_intrinsics=intrinsics != "per-photo",
            matching=matching,
        ),
        vggt=VggtOptions(
            weights=weights,
            confidence=parse_confidence(confidence),
            max_points=max_points,
            shared_intrinsics=intrinsics == "shared" or (intrinsics == "auto" and refine),
            refine=refine,
        ),
    )


class Posing:
    """One request, with what its sources are.

    Raises:
        UserError: there is nothing to pose.
    """

    def __init__(self, request: PoseRequest) -> None:
        self.request = request
        self.is_video = request.source.is_file()
        if not self.is_video and not request.source.exists():
            raise UserError(f"{request.source}: no such file or folder; give a folder of photos, or a video.")
        self.sources = [request.source] if self.is_video else find_photos(request.source)
        self.digests = content_digests(self.sources)
        self.backend, self.reason = (
            (request.backend, "as asked") if request.backend else default_backend(request.vggt.weights)
        )
        self.key = self._key()

    def finished(self, out: Path) -> bool:
        """Whether `out` holds the result of this very request.

        Raises:
            UserError: it holds something else.
        """
        transforms = out / "transforms.json"
        if transforms.is_file():
            if _poses_of(transforms).get("key") == self.key:
                return True
            raise UserError(f"{out}: holds another data set; give another folder, or delete that one first.")
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; give a folder for the data set.")
        if out.is_dir() and any(out.iterdir()) and not (out / WORK).is_dir():
            raise UserError(f"{out}: not empty; give a new folder for the data set.")
        return False

    def run(self, out: Path) -> Path:
        """Write the data set into `out`, unless it is there; two processes with one folder take turns.

        Returns:
            `out`.

        Raises:
            UserError: the folder holds something else or cannot be written, or the photos cannot be posed.
        """
        if self.finished(out):
            CONSOLE.print(f"{out} is there already.", markup=False, soft_wrap=True)
            return out
        from filelock import FileLock

        try:
            (out / WORK).mkdir(parents=True, exist_ok=True)
            with _turn(FileLock(out / WORK / "lock")):
                if not self.finished(out):
                    self._run(out)
        except OSError as error:
            raise UserError(
                f"{out}: cannot be written ({error.strerror or error}). What is finished is kept; make room or give "
                "another folder, and run the same command again."
            ) from error
        shutil.rmtree(out / WORK, ignore_errors=True)
        return out

    def _run(self, out: Path) -> None:
        work = out / WORK / self.key[:16]
        for other in (out / WORK).iterdir():
            # What was begun for other photos or with other options.
            if other.is_dir() and other != work:
                shutil.rmtree(other, ignore_errors=True)
        CONSOLE.print(f"Poses by {self.backend}: {self.reason}.", soft_wrap=True)
        photos = self._photos(work)
        if self.backend == "vggt":
            scene, rejected = pose_with_vggt(photos, work, self.request.vggt)
        else:
            scene, rejected = pose_with_colmap(photos, work, self.request.colmap)
        rejected = photos.rejected | rejected
        write_scene(out, scene, self._about(photos, scene, rejected))
        list_rejected(rejected, len(photos.photos) + len(photos.rejected))

    def _photos(self, work: Path) -> Photos:
        sources, digests = self.sources, self.digests
        if self.is_video:
            sources = extract_frames(self.request.source, work / "frames", self.request.frames)
            digests = content_digests(sources)
        photos = prepare_photos(sources, digests, work / "photos", self.request.longest_side)
        if len(photos.photos) == 1 and len(sources) > 1 and self.backend == "colmap" and len(set(digests)) == 1:
            raise UserError(f"all {len(sources)} photos are the same picture; give photos from different places.")
        return photos

    def _key(self) -> str:
        names = [path.name for path in self.sources]
        options: dict[str, Any] = asdict(self.request)
        # The other backend's options, and where the photos lie, change nothing.
        for name in ("source", "backend", "vggt" if self.backend == "colmap" else "colmap"):
            options.pop(name)
        if not self.is_video:
            options.pop("frames")
        parts = [VERSION, self.backend, options, sorted(zip(names, self.digests, strict=True))]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _about(self, photos: Photos, scene: PosedScene, rejected: dict[str, str]) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "key": self.key,
            "photos": len(photos.photos) + len(photos.rejected),
            "posed": len(scene.images),
            "rejected": rejected,
        }


@contextmanager
def _turn(lock: Any) -> Iterator[None]:
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        CONSOLE.print("Another process is posing these photos; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def list_rejected(rejected: dict[str, str], count: int) -> None:
    """Say which of `count` photos are not in the scene, and what can be done."""
    if not rejected:
        return
    CONSOLE.print(f"[yellow]{len(rejected)} of {count} photos are left out:[/yellow]")
    for name, reason in list(rejected.items())[:_LISTED]:
        CONSOLE.print(f"  {name}: {reason}", markup=False, soft_wrap=True)
    if len(rejected) > _LISTED:
        CONSOLE.print(f"  and {len(rejected) - _LISTED} more; transforms.json lists them all under poses.rejected")


def _poses_of(transforms: Path) -> dict[str, Any]:
    try:
        found = json.loads(transforms.read_text(encoding="utf-8")).get("poses", {})
    except (ValueError, AttributeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
