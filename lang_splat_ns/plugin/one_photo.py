"""Data sets of a single photo, which nerfstudio's parser divides by zero for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

Config = TypeVar("Config", bound=NerfstudioDataParserConfig)


def has_one_photo(data: Path) -> bool:
    """Whether a nerfstudio data set, a folder or its transforms.json, lists one photo only."""
    file = data if data.suffix == ".json" else data / "transforms.json"
    try:
        return len(json.loads(file.read_text(encoding="utf-8"))["frames"]) == 1
    except (OSError, ValueError, KeyError, TypeError):
        # What is wrong with it is told elsewhere.
        return False


def suited(config: Config, data: Path) -> Config:
    """The same configuration, that does not scale the distance between cameras to 1 where there is one camera."""
    return replace(config, auto_scale_poses=False) if has_one_photo(data) else config
