"""What the panel remembers of a run from one viewer to the next: a small JSON beside the run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lang_splat_ns.files import write_text

FILE = "viewer_prompts.json"


@dataclass(frozen=True)
class Settings:
    """What a person set in the panel.

    Attributes:
        prompts: the text box, letter by letter.
        negatives: the other one.
        mode: what the picture shows.
        opacity: of the overlay, 0..1.
        level: a level's name or auto.
        auto_threshold: whether the threshold follows each prompt's peak.
        threshold: what it is otherwise.
        query_mode: how prompts are answered; empty is the run's own.
    """

    prompts: str = ""
    negatives: str = ""
    mode: str = "relevancy"
    opacity: float = 0.7
    level: str = "auto"
    auto_threshold: bool = True
    threshold: float = 0.7
    query_mode: str = ""


def settings_files(run: Path) -> tuple[Path, Path]:
    """Where a run's settings may lie: in its folder, and for folders that cannot be written in the user's own."""
    from platformdirs import user_state_path

    name = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
    return run / FILE, user_state_path("lang-splat-ns") / "viewer" / f"{name}.json"


def read_settings(run: Path, default: Settings) -> Settings:
    """The newest settings of a run; what is missing, damaged or of another type is the default's."""
    found = [file for file in settings_files(run) if file.is_file()]
    if not found:
        return default
    try:
        saved = json.loads(max(found, key=lambda file: file.stat().st_mtime).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default
    return _merged(default, saved if isinstance(saved, dict) else {})


def write_settings(run: Path, settings: Settings) -> None:
    """Remember settings, atomically. Where nothing can be written they are forgotten, which is no reason to stop."""
    text = json.dumps({"format_version": 1, **asdict(settings)}, indent=2, ensure_ascii=False) + "\n"
    for file in settings_files(run):
        try:
            write_text(file, text)
            return
        except OSError:
            continue


def _merged(default: Settings, saved: dict[str, Any]) -> Settings:
    values: dict[str, Any] = {}
    for field in fields(Settings):
        value, known = saved.get(field.name), getattr(default, field.name)
        if isinstance(known, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
            # A slider has bounds, and JSON may hold any number.
            value = min(max(float(value), 0.0), 1.0)
        values[field.name] = value if type(value) is type(known) else known
    return Settings(**values)
