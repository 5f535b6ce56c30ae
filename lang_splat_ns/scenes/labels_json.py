"""What the label formats have in common: JSON that is looked at before it is believed, and the lists of prompts.

Beside the labels of any format there may be `absent.json` (prompts for what is nowhere, a list) and `queries_zh.json`
(Chinese for every prompt).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lang_splat_ns.errors import UserError

ABSENT_FILE = "absent.json"
CHINESE_FILE = "queries_zh.json"


def load_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        UserError: it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}). Mend it or take it out of the folder.") from None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def read_size(entry: Mapping[str, Any], keys: tuple[str, str], where: str) -> tuple[int, int]:
    """Two sides in pixels under `keys` of a JSON object.

    Raises:
        UserError: one is missing or no positive whole number; the message begins with `where`.
    """
    sides = []
    for key in keys:
        value = entry.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise UserError(f'{where} needs "{key}" as a positive number of pixels, but it is {value!r}.')
        sides.append(value)
    return sides[0], sides[1]


def read_absent(folder: Path) -> tuple[str, ...]:
    """Prompts for what no photo shows, of the labels in `folder`; none where the file is missing.

    Raises:
        UserError: the file has another form.
    """
    path = folder / ABSENT_FILE
    content = load_json(path) if path.is_file() else []
    if not isinstance(content, list) or not all(isinstance(item, str) and item for item in content):
        raise UserError(f"{path} must be a list of prompts.")
    return tuple(content)


def read_translations(folder: Path) -> dict[str, str]:
    """English prompt -> Chinese prompt, of the labels in `folder`; nothing where the file is missing.

    Raises:
        UserError: the file has another form.
    """
    path = folder / CHINESE_FILE
    content = load_json(path) if path.is_file() else {}
    if not isinstance(content, dict) or not all(isinstance(item, str) and item for item in content.values()):
        raise UserError(f"{path} must map each prompt to its translation.")
    return content
