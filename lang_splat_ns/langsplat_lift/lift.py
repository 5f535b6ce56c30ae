"""From a model with finished Gaussians and a data set's 2D features to the model's language part."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.cameras.cameras import Cameras

from lang_splat_ns.console import CONSOLE, track
from lang_splat_ns.errors import UserError
from lang_splat_ns.language.codebook import Codebook, compress
from lang_splat_ns.language.lifting import LiftSettings, lift, stack_embeddings
from lang_splat_ns.plugin.frame_features import FrameFeatureSource
from lang_splat_ns.splatting import votes as vote_files
from lang_splat_ns.splatting.projection import opencv_view
from lang_splat_ns.splatting.view_votes import ViewVotes, view_votes
from lang_splat_ns.splatting.votes import Votes, accumulate

if TYPE_CHECKING:
    from lang_splat_ns.langsplat_lift.model import LangSplatLiftModel

VOTES_FILE = "votes.safetensors"


@torch.no_grad()
def lift_model(model: LangSplatLiftModel, datamanager: Any, run_dir: Path) -> None:
    """Count votes, or read those of the very same Gaussians and masks, and set the model's language part.

    Args:
        model: has finished Gaussians.
        datamanager: gives the training cameras, and the 2D features of their photos.
        run_dir: where the votes are kept, so that another encoder is lifted without rendering anything.
    """
    source: FrameFeatureSource = datamanager.features
    votes = get_votes(model, source, datamanager.train_camera_copy(), run_dir / VOTES_FILE)
    embeddings = [rows.to(model.device) for rows in stack_embeddings(votes, source.embeddings)]
    lifted = lift(votes, embeddings, LiftSettings(model.config.lift_method))
    size = model.config.codebook_size
    books = [
        features if isinstance(features, Codebook) else compress(features, size, importance=votes.visible)
        for features in lifted
    ]
    model.set_language(books, source.levels, source.encoder.encoder_id)
    CONSOLE.print(f"Lifted {len(votes):,} Gaussians with {', '.join(_counts(books, source.levels))}.")


def _counts(books: list[Codebook], levels: tuple[str, ...]) -> list[str]:
    return [f"{len(book.entries)} {level} vectors" for book, level in zip(books, levels, strict=True)]


def get_votes(model: LangSplatLiftModel, source: FrameFeatureSource, cameras: Cameras, file: Path) -> Votes:
    """Votes of all training views: those in the file if they belong to these Gaussians and masks, or else new ones.

    Args:
        model: has the Gaussians.
        source: has the label maps.
        cameras: undistorted training cameras in the order of the source's photos.
        file: where votes are kept.
    """
    about = _about(model, source, cameras)
    if file.is_file():
        try:
            votes, of_file = vote_files.load(file)
        except UserError as error:
            CONSOLE.print(f"[yellow]Counting anew: {error}[/yellow]")
        else:
            if of_file == about:
                CONSOLE.print("Votes are there already; nothing has to be rendered.")
                return votes
    votes = accumulate(_stream(model, source, cameras), model.config.votes_per_gaussian)
    votes.save(file, about)
    return votes


def _stream(model: LangSplatLiftModel, source: FrameFeatureSource, cameras: Cameras) -> Iterator[tuple[int, ViewVotes]]:
    for index in track(range(len(source.frames)), "Counting votes", unit="views"):
        yield index, votes_of_view(model, source, cameras[index : index + 1], index)


def votes_of_view(model: LangSplatLiftModel, source: FrameFeatureSource, camera: Cameras, index: int) -> ViewVotes:
    """Votes of one training view.

    Args:
        model: has the Gaussians.
        source: has the label maps.
        camera: the view's camera, with the batch dimension.
        index: number of the view.
    """
    width, height = int(camera.width.item()), int(camera.height.item())
    labels = source.labels(index, height, width).to(model.device)
    counts = [len(rows) for rows in source.embeddings(index)]
    camera.metadata = {"cam_idx": index}
    pose = model.camera_optimizer.apply_to_camera(camera)[0].to(model.device)
    gaussians = model.gaussians()
    return view_votes(
        gaussians.means,
        gaussians.quats,
        torch.exp(gaussians.scales),
        torch.sigmoid(gaussians.opacities)[:, 0],
        opencv_view(pose),
        camera.get_intrinsics_matrices()[0].to(model.device),
        labels,
        counts,
        rasterize_mode=model.config.rasterize_mode,
    )


def _about(model: LangSplatLiftModel, source: FrameFeatureSource, cameras: Cameras) -> dict[str, Any]:
    """What votes depend on; the encoder is not among it."""
    digest = hashlib.sha256()
    for name in ("means", "quats", "scales", "opacities"):
        digest.update(model.gauss_params[name].detach().cpu().contiguous().numpy().tobytes())
    for tensor in (cameras.camera_to_worlds, cameras.get_intrinsics_matrices(), cameras.width, cameras.height):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for parameter in model.camera_optimizer.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return {
        "scene": digest.hexdigest(),
        "segmenter": source.segmenter.segmenter_id,
        "photos": [frame.content_key for frame in source.frames],
        "top_k": model.config.votes_per_gaussian,
        "rasterize_mode": model.config.rasterize_mode,
    }
