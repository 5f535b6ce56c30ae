"""A look at the data before any long work starts, so that mistakes are named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nerfstudio.configs.experiment_config import ExperimentConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from lang_splat_ns.errors import UserError
from lang_splat_ns.files import check_exists
from lang_splat_ns.plugin.one_photo import has_one_photo
from lang_splat_ns.plugin.unposed import UnposedDataParserConfig
from lang_splat_ns.scenes.photos import PLAIN_SUFFIXES


def check_data(config: ExperimentConfig) -> None:
    """Check what nerfstudio's own parser would trip over.

    Raises:
        UserError: no data given, folder missing or empty, photos without poses, a broken `transforms.json`,
            or an image that it names and that cannot be read.
    """
    manager: Any = config.pipeline.datamanager
    data = manager.data or manager.dataparser.data
    if data is None or str(data) in ("", "."):
        raise UserError("No data: give a folder with --data (lang-splat demo --scene-only --out DIR makes one).")
    if isinstance(manager.dataparser, UnposedDataParserConfig):
        # The parser looks at the photos itself before it poses them.
        return
    check_exists(Path(data))
    if isinstance(manager.dataparser, NerfstudioDataParserConfig):
        check_nerfstudio_folder(Path(data))
        if manager.dataparser.auto_scale_poses and has_one_photo(Path(data)):
            raise UserError(
                f"{data}: one photo only, whose distance to others nerfstudio cannot scale; add "
                "`nerfstudio-data --auto-scale-poses False` to the command, or use lang-splat lift."
            )


def check_nerfstudio_folder(data: Path) -> None:
    """Check a folder with a `transforms.json`, or such a file, and every photo that it names.

    Raises:
        UserError: as `check_data`.
    """
    check_exists(data)
    transforms = data if data.suffix == ".json" else data / "transforms.json"
    if not transforms.is_file():
        raise UserError(_why_no_transforms(data))
    try:
        meta = json.loads(transforms.read_text(encoding="utf-8"))
        names = [frame["file_path"] for frame in meta["frames"]]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{transforms}: not a nerfstudio transforms.json ({error!r}).") from error
    if not names:
        raise UserError(f"{transforms}: lists no frames, so there is nothing to train on.")
    for name in names:
        _check_image(transforms.parent / name, transforms)


def _why_no_transforms(data: Path) -> str:
    if not data.is_dir() or not any(data.iterdir()):
        return f"{data}: empty; --data wants a nerfstudio data set (photos and a transforms.json)."
    photos = sum(path.suffix.lower() in PLAIN_SUFFIXES for path in data.rglob("*"))
    if photos:
        return (
            f"{data}: {photos} photos without poses (no transforms.json); "
            f"pose them first (lang-splat poses --images {data} --out DIR), or on the way: "
            f"ns-train METHOD --data {data} unposed."
        )
    return f"{data}: no transforms.json in it; --data wants a nerfstudio data set."


def _check_image(path: Path, transforms: Path) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            # Decoding only a part is enough to notice a truncated or foreign file without reading it all.
            image.verify()
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing, although {transforms} lists it; restore it or remove its frame.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{path}: not a readable image ({error}); replace it or remove its frame from {transforms}."
        ) from error
