"""Gaussians that answer a prompt as files: a standard 3DGS `.ply`, boxes as JSON, features as safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lang_splat_ns.errors import NotSplatError, UserError
from lang_splat_ns.files import check_writable, write_text
from lang_splat_ns.language.feature_files import write_features
from lang_splat_ns.language.field import Query, Selection
from lang_splat_ns.language.splat_field import SplatField
from lang_splat_ns.language.text import refused_texts
from lang_splat_ns.plugin.own_frame import frame_of, own_gaussians
from lang_splat_ns.plugin.runs import Run
from lang_splat_ns.scenes.labels import SceneLabels
from lang_splat_ns.splatting.boxes import boxes_around, solid_pieces
from lang_splat_ns.splatting.gaussians import Gaussians, transform
from lang_splat_ns.splatting.ply import write_ply

if TYPE_CHECKING:
    from lang_splat_ns.plugin.fill import Filling

PlyFrame = Literal["dataset", "nerfstudio"]


@dataclass(frozen=True)
class Scene:
    """A run's Gaussians, ready to be written.

    Attributes:
        gaussians: all of them, in the frame that files are written in.
        field: answers prompts about them.
        about: what every JSON says of the run: `encoder`, `method` and `frame`.
    """

    gaussians: Gaussians
    field: SplatField
    about: dict[str, str]


def open_scene(run: Run, ply_frame: PlyFrame = "dataset") -> Scene:
    """A run's Gaussians, in the data set's own world frame or as nerfstudio has them.

    Raises:
        NotSplatError: the method has no Gaussians.
        UserError: the method's language part is not there yet.
    """
    model = run.pipeline.model
    field = model.language_field()
    if not isinstance(field, SplatField):
        raise NotSplatError(f"{run.config.method_name} has no Gaussians to export; langsplat and langsplat-lift have.")
    gaussians = model.gaussians().detach() if ply_frame == "nerfstudio" else own_gaussians(run.pipeline)
    about = {"encoder": field.encoder.encoder_id, "method": run.config.method_name, "frame": ply_frame}
    return Scene(gaussians, field, about)


def check_texts(field: SplatField, query: Query) -> None:
    """Find prompts and levels that cannot be asked.

    Raises:
        UserError: the encoder cannot represent a text, or there is no such level.
    """
    refused = refused_texts(field.encoder, [*query.positives, *query.negatives])
    if refused:
        raise UserError("; ".join(refused.values()))
    check_level(field, query.level)


def check_level(field: SplatField, level: str) -> None:
    """Check that a level is one of the field's, or auto.

    Raises:
        UserError: it is not.
    """
    if level not in ("auto", *field.levels):
        raise UserError(f"There is no level {level!r}: this scene has {', '.join(field.levels)}, or take 'auto'.")


def check_out(out: Path, *, folder: bool) -> None:
    """Check before any work that the result can be written; makes the folder that it goes to.

    Args:
        out: a `.ply`, or a folder.
        folder: which of the two.

    Raises:
        UserError: it is the other one, or cannot be written.
    """
    if folder and out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --all-objects writes many files, so --out must name a folder.")
    if not folder and out.is_dir():
        raise UserError(f"{out}: is a folder; --out must name the .ply to write.")
    if not folder and out.suffix.lower() != ".ply":
        raise UserError(f"{out}: what is written is a .ply, so --out must end with .ply.")
    check_writable(out if folder else out.parent)


@torch.no_grad()
def select_objects(scene: Scene, query: Query) -> tuple[Selection, Tensor]:
    """What answers each prompt, and the same without floaters (see `splatting.boxes.solid_pieces`): bool [Q, N].

    Raises:
        UserError: nothing answers one of the prompts.
    """
    selection = scene.field.select(query)
    for prompt, mask, peak, limit in zip(
        query.positives, selection.mask, selection.peaks, selection.thresholds, strict=True
    ):
        if not mask.any():
            raise UserError(
                f"Nothing answers {prompt!r}: its best score is {peak:.3f}, and {limit:.3f} must be exceeded; lower "
                "--threshold to export what comes closest."
            )
    return selection, torch.stack([without_floaters(scene, mask) for mask in selection.mask])


def without_floaters(scene: Scene, mask: Tensor) -> Tensor:
    """A selection [N] without the specks around its solid pieces."""
    which = mask.nonzero()[:, 0]
    some = scene.gaussians.some(which)
    kept = torch.zeros_like(mask)
    kept[which[solid_pieces(some.means, torch.sigmoid(some.opacities)[:, 0])]] = True
    return kept


def filler(run: Run, scene: Scene, name: str) -> Callable[[Tensor], Filling]:
    """What fills the hole that a selection [N] leaves, in the frame that the scene is written in.

    Args:
        run: the run.
        scene: its Gaussians.
        name: of an inpainter, see `perception.inpainters`.

    Raises:
        UserError: there is no such inpainter.
    """
    # Imported here, since only this needs it.
    from lang_splat_ns.perception.inpainters import make_inpainter
    from lang_splat_ns.plugin.fill import fill_hole

    model = run.pipeline.model
    inpainter = make_inpainter(name, str(model.device))

    def fill(removed: Tensor) -> Filling:
        filling = fill_hole(model, run.pipeline.datamanager.train_camera_copy(), removed, inpainter)
        if scene.about["frame"] != "dataset":
            return filling
        return replace(filling, added=transform(filling.added, frame_of(run.pipeline).inverse()))

    return fill


def export_selection(
    scene: Scene,
    query: Query,
    out: Path,
    *,
    remove: bool,
    features: bool,
    fill: Callable[[Tensor], Filling] | None = None,
) -> dict[str, Any]:
    """Write what answers any of the prompts, or the scene without it, and return the JSON's content.

    Writes `out`, the boxes as `<out without .ply>.json`, and if asked the features as `<out without .ply>.safetensors`.

    Args:
        scene: the run's Gaussians.
        query: prompts and how to read them.
        out: the `.ply`.
        remove: write all other Gaussians instead; the boxes still are those of the prompts.
        features: also write features of the Gaussians that are in the `.ply`, in its order.
        fill: with `remove`, says what to do about the hole, see `filler`; what it adds comes last in the `.ply`.

    Raises:
        UserError: nothing answers one of the prompts, or nothing is left.
    """
    check_texts(scene.field, query)
    selection, masks = select_objects(scene, query)
    united = masks.any(0)
    which = (~united if remove else united).nonzero()[:, 0]
    if len(which) == 0:
        raise UserError("Every Gaussian answers the prompts, so nothing is left without them; raise --threshold.")
    objects = [
        {
            "prompt": prompt,
            "level": scene.field.levels[selection.chosen[number]],
            "score": selection.peaks[number],
            "threshold": selection.thresholds[number],
            **describe(scene, mask),
        }
        for number, (prompt, mask) in enumerate(zip(query.positives, masks, strict=True))
    ]
    content = {
        "ply": out.name,
        "removed": remove,
        "gaussians": len(which),
        "objects": objects,
        "negatives": list(query.negatives or scene.field.encoder.negatives),
        **scene.about,
    }
    written = scene.gaussians.some(which)
    if remove and fill is not None:
        filling = fill(united)
        written = written.some(~filling.hidden[which]).joined(filling.added)
        content |= {
            "gaussians": len(written.means),
            "filled": len(filling.added.means),
            "hidden": int(filling.hidden.sum()),
        }
    write_ply(out, written)
    if features:
        write_scene_features(scene, {out.with_suffix(".safetensors"): which})
    write_json(out.with_suffix(".json"), content)
    return content


def describe(scene: Scene, mask: Tensor) -> dict[str, Any]:
    """The count of Gaussians of an object, and its boxes."""
    return {"gaussians": int(mask.sum()), **boxes_around(scene.gaussians.some(mask)).to_json()}


def write_scene_features(scene: Scene, files: dict[Path, Tensor]) -> None:
    """Write features of several sets of Gaussians, given as indices per file."""
    codebooks, levels = scene.field.codebooks(), scene.field.levels
    for path, which in files.items():
        write_features(path, codebooks, levels, scene.about["encoder"], which)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON that people can read, too."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_vocabulary(file: Path | None, labels: SceneLabels | None, data: Path) -> tuple[str, ...]:
    """Words for objects: one per line of a file, else the labels' prompts.

    Raises:
        UserError: the file cannot be read or is empty, or there are no labels.
    """
    if file is None:
        words = tuple(
            dict.fromkeys(word for frame in (labels or SceneLabels({})).frames.values() for word in frame.categories)
        )
        if not words:
            raise UserError(f"{data}: has no labels to take names from; give words for objects by --vocabulary FILE.")
        return words
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a text file in UTF-8 ({error}).") from error
    words = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not words:
        raise UserError(f"{file}: has no words; write one word or phrase per line.")
    return words


def askable(field: SplatField, vocabulary: Sequence[str], query: Query) -> tuple[Query, tuple[str, ...]]:
    """The query of those words that the encoder can represent, and the words that it cannot.

    Raises:
        UserError: it can represent none of them, or not the negatives, or there is no such level.
    """
    refused = refused_texts(field.encoder, vocabulary)
    words = tuple(word for word in vocabulary if word not in refused)
    if not words:
        raise UserError(f"The encoder represents no word of the vocabulary: {next(iter(refused.values()))}")
    query = replace(query, positives=words)
    check_texts(field, query)
    return query, tuple(refused)
