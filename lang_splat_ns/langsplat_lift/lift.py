"""From a model with finished Gaussians and a data set's 2D features to the model's language part."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.cameras.cameras import Cameras

from lang_splat_ns.console import CONSOLE, duration
from lang_splat_ns.errors import UserError
from lang_splat_ns.langsplat_lift.counting import Counting, count_here, count_on_ray
from lang_splat_ns.language.codebook import Codebook
from lang_splat_ns.language.compression import compress
from lang_splat_ns.language.lifting import LiftSettings, lift, stack_embeddings
from lang_splat_ns.perception.extract import labels_digest
from lang_splat_ns.perception.view_labels import StoredLabels
from lang_splat_ns.plugin.frame_features import FrameFeatureSource
from lang_splat_ns.splatting import votes as vote_files
from lang_splat_ns.splatting.projection import opencv_view
from lang_splat_ns.splatting.votes import Votes

if TYPE_CHECKING:
    from lang_splat_ns.langsplat_lift.model import LangSplatLiftModel
    from lang_splat_ns.langsplat_lift.voting_model import VotingModel
    from lang_splat_ns.splatting.model import GaussianSplattingModel

VOTES_FILE = "votes.safetensors"


@torch.no_grad()
def lift_model(model: LangSplatLiftModel, datamanager: Any, run_dir: Path) -> None:
    """Count votes, or read those of the very same Gaussians and masks, and set the model's language part.

    Args:
        model: has finished Gaussians.
        datamanager: gives the training cameras, and the 2D features of their photos.
        run_dir: where the votes are kept, so that another encoder is lifted without rendering anything.
    """
    start, source = time.perf_counter(), datamanager.features
    file, cameras = run_dir / VOTES_FILE, datamanager.train_camera_copy()
    # Masks are as fine as the photos, whatever size the training was content with.
    cameras.rescale_output_resolution(1 / datamanager.config.camera_res_scale_factor)
    votes = get_votes(model, source, cameras, file, _of_other_runs(file))
    embeddings = [rows.to(model.device) for rows in stack_embeddings(votes, source.embeddings)]
    lifted = lift(votes, embeddings, LiftSettings(model.config.lift_method))
    size = model.config.codebook_size
    books = [
        features if isinstance(features, Codebook) else compress(features, size, importance=votes.visible)
        for features in lifted
    ]
    model.set_language(books, source.levels, source.encoder.encoder_id)
    CONSOLE.print(
        f"Lifted {len(votes):,} Gaussians with {', '.join(_counts(books, source.levels))} in "
        f"{duration(time.perf_counter() - start)}."
    )
    lost = float(votes.dropped_share.max())
    if lost > 0:
        CONSOLE.print(f"Remembering {votes.top_k} masks per Gaussian and level cost {100 * lost:.2g} % of the votes.")


def _counts(books: list[Codebook], levels: tuple[str, ...]) -> list[str]:
    return [f"{len(book.entries)} {level} vectors" for book, level in zip(books, levels, strict=True)]


def get_votes(
    model: VotingModel,
    source: FrameFeatureSource,
    cameras: Cameras,
    file: Path,
    others: Sequence[Path] = (),
) -> Votes:
    """Votes of all training views: those in a file if they belong to these Gaussians and masks, or else new ones.

    Args:
        model: has the Gaussians.
        source: has the label maps.
        cameras: undistorted training cameras in the order of the source's photos.
        file: where votes are kept.
        others: more files in which they may be.
    """
    about = _about(model, source, cameras)
    for known in (file, *others):
        votes = _read_votes(known, about)
        if votes is not None:
            CONSOLE.print("Votes are there already; nothing has to be rendered.")
            share_file(known, file)
            return votes
    # Nothing is saved on the way: 5,000 views take 4 to 25 minutes on two cores (0.05 to 0.3 s each at 480x270 to
    # 960x540), less than a tenth of MobileSAM's time for as many photos, and what that has made is kept.
    job = prepare_counting(model, source, cameras, model.config.votes_per_gaussian)
    if model.config.lift_engine == "ray":
        stored = StoredLabels.of(source.frames, source.segmenter.segmenter_id, source.store)
        votes = count_on_ray(job, stored, model.config.lift_workers)
    else:
        votes = count_here(job)
    votes.save(file, about)
    return votes


def prepare_counting(
    model: GaussianSplattingModel, source: FrameFeatureSource, cameras: Cameras, top_k: int | None
) -> Counting:
    """What has to be counted for a model's Gaussians.

    Args:
        model: has the Gaussians, and the corrections of the cameras' poses if those were optimized.
        source: has the label maps.
        cameras: undistorted training cameras in the order of the source's photos, at the size that is counted at.
        top_k: most masks kept per Gaussian and level; None keeps all.
    """
    gaussians, poses = model.gaussians(), []
    for index in range(len(source.frames)):
        camera = cameras[index : index + 1]
        # The camera optimizer knows a camera by this number.
        camera.metadata = {"cam_idx": index}
        poses.append(opencv_view(model.camera_optimizer.apply_to_camera(camera)[0].to(model.device)))
    return Counting(
        gaussians=(
            gaussians.means.detach(),
            gaussians.quats.detach(),
            torch.exp(gaussians.scales.detach()),
            torch.sigmoid(gaussians.opacities.detach())[:, 0],
        ),
        views=(torch.stack(poses).detach(), cameras.get_intrinsics_matrices().to(model.device)),
        sizes=[
            (int(height), int(width))
            for height, width in zip(cameras.height.flatten(), cameras.width.flatten(), strict=True)
        ],
        labels=source.view_labels,
        top_k=top_k,
        rasterize_mode=model.config.rasterize_mode,
    )


def share_file(old: Path, new: Path) -> None:
    """Let a file have a second name, or a copy where the disk has no such thing. Both are only ever replaced whole."""
    if old == new:
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    new.unlink(missing_ok=True)
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def _read_votes(file: Path, about: dict[str, Any]) -> Votes | None:
    """Votes in a file, or None if they belong to something else or cannot be read."""
    if vote_files.read_about(file) != about:
        return None
    try:
        return vote_files.load(file)[0]
    except UserError as error:
        CONSOLE.print(f"[yellow]Not used: {error}[/yellow]")
        return None


def _of_other_runs(file: Path) -> list[Path]:
    """Votes of this experiment's other runs, the latest first; an interrupted one may have left what is wanted."""
    found = [path for path in file.parent.parent.glob(f"*/{file.name}") if path != file]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _about(model: VotingModel, source: FrameFeatureSource, cameras: Cameras) -> dict[str, Any]:
    """What votes depend on; the encoder is not among it."""
    digest, segmenter_id = hashlib.sha256(), source.segmenter.segmenter_id
    for name in ("means", "quats", "scales", "opacities"):
        digest.update(model.gauss_params[name].detach().cpu().contiguous().numpy().tobytes())
    for tensor in (cameras.camera_to_worlds, cameras.get_intrinsics_matrices(), cameras.width, cameras.height):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for parameter in model.camera_optimizer.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return {
        "scene": digest.hexdigest(),
        "segmenter": segmenter_id,
        # Label maps that were made again may number their masks otherwise.
        "masks": [labels_digest(frame, segmenter_id, source.store) for frame in source.frames],
        "top_k": model.config.votes_per_gaussian,
        "rasterize_mode": model.config.rasterize_mode,
    }
