"""One cell of the matrix in `run`: a method on a scene with an encoder, by the commands that a user types.

Nothing is called that a user does not have: a cell is a few command lines, each in a process of its own whose seconds
and memory are those of the whole command. A finished command is remembered and not run again.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lang_splat_ns.errors import UserError
from lang_splat_ns.file_names import safe_name
from lang_splat_ns.files import write_text
from lang_splat_ns.machine import facts_of_code, facts_of_machine

Method = Literal["3dgs", "langsplat", "langsplat-lift", "fastlgs", "lerf-splat", "lerf", "lerf-lite", "lerf-big"]
"""In the order in which they are measured."""

GEOMETRY = "3dgs"
"""The method whose Gaussians all splatting methods of a scene share."""
ON_RAYS = ("lerf", "lerf-lite", "lerf-big")
WITHOUT_MASKS = (*ON_RAYS, "lerf-splat")
METHODS: tuple[Method, ...] = get_args(Method)
SMOKE_STEPS = 300
"""Steps of LERF's trainings in a quick run: enough to see that all parts work, not to learn a scene."""
_CPU_POINTS = 16
"""Point grid of the SAM family that `--preset cpu` trains with."""


@dataclass(frozen=True)
class Scene:
    """A labelled data set and the networks that look at it."""

    name: str
    data: Path
    segmenter: str
    encoders: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """What all cells of a matrix share; the fields are those of `run`."""

    work: Path
    cache_dir: Path
    preset: str
    scale: float
    seed: int
    smoke: bool


@dataclass(frozen=True)
class Cell:
    """A method on a scene with an encoder."""

    scene: Scene
    method: str
    encoder: str
    settings: Settings

    @property
    def name(self) -> str:
        """Name of its JSON file. Geometry has heard of no encoder."""
        return self.method if self.method == GEOMETRY else f"{self.method}.{safe_name(self.encoder)}"

    @property
    def is_smoke(self) -> bool:
        """Whether it is trained too shortly for its scores to mean anything."""
        return self.settings.smoke and self.method in ON_RAYS

    @property
    def run_folder(self) -> Path:
        """Where nerfstudio puts the run."""
        return self.settings.work / self.scene.name / self.method / self._stamp

    @property
    def _stamp(self) -> str:
        return "shared" if self.method == GEOMETRY else safe_name(self.encoder)

    def commands(self) -> dict[str, list[str]]:
        """What is run, in order, by the name of what it does."""
        found = {"training": self._training(), "evaluation": self._evaluation()}
        return found if self.method == GEOMETRY else {"perception": self._perception()} | found

    def _perception(self) -> list[str]:
        command = ["lang-splat", "features", "--data", str(self.scene.data), "--cache-dir", self._cache, "build"]
        command += ["--method", self.method, "--encoder", self.encoder]
        if self.method in WITHOUT_MASKS:
            return command
        points = ["--points-per-side", str(_CPU_POINTS)] if self.settings.preset == "cpu" else []
        return [*command, "--segmenter", self.scene.segmenter, *points]

    def _training(self) -> list[str]:
        settings, folder = self.settings, self.run_folder
        command = ["ns-train", self.method, "--preset", settings.preset, "--data", str(self.scene.data)]
        command += ["--output-dir", str(settings.work), "--experiment-name", self.scene.name]
        command += ["--timestamp", folder.name, "--vis", "tensorboard", "--machine.seed", str(settings.seed)]
        command += ["--pipeline.datamanager.camera-res-scale-factor", str(settings.scale)]
        if self.is_smoke:
            command += ["--max-num-iterations", str(SMOKE_STEPS)]
        if self.method == GEOMETRY:
            return command
        command += ["--pipeline.datamanager.cache-dir", self._cache, "--pipeline.datamanager.encoder", self.encoder]
        if self.method not in WITHOUT_MASKS:
            command += ["--pipeline.datamanager.segmenter", self.scene.segmenter]
        if self.method not in ON_RAYS:
            geometry = Cell(self.scene, GEOMETRY, self.encoder, settings)
            command += ["--pipeline.model.init-from", str(geometry.run_folder / "config.yml")]
        return command

    def _evaluation(self) -> list[str]:
        return ["ns-eval", "--load-config", str(self.run_folder / "config.yml"), "--output-path", str(self._scores)]

    @property
    def _cache(self) -> str:
        return str(self.settings.cache_dir)

    @property
    def _scores(self) -> Path:
        return self.run_folder / "eval.json"

    def measure(self) -> dict[str, Any]:
        """Run what has not been run yet, and say everything about it.

        Raises:
            UserError: a command failed; the message has its last words and names its log.
        """
        load, costs = os.getloadavg()[0], {name: self._cost(name, line) for name, line in self.commands().items()}
        content = {
            "scene": self.scene.name,
            "method": self.method,
            "encoder": None if self.method == GEOMETRY else self.encoder,
            "segmenter": None if self.method in (GEOMETRY, *WITHOUT_MASKS) else self.scene.segmenter,
            "geometry": "its own" if self.method in (GEOMETRY, *ON_RAYS) else GEOMETRY,
            "preset": self.settings.preset,
            "scale": self.settings.scale,
            "seed": self.settings.seed,
            "smoke": self.is_smoke,
            "results": _rounded(json.loads(self._scores.read_text(encoding="utf-8"))["results"]),
            "costs": costs,
            "checkpoint_mb": round(self._checkpoint().stat().st_size / 1e6, 1),
            "commands": {name: self._without_places(line) for name, line in self.commands().items()},
            "load_at_start": round(load, 1),
        }
        return content | facts_of_code() | facts_of_machine()

    def _cost(self, name: str, command: list[str]) -> dict[str, float]:
        """Seconds and memory of one command, which is run unless that has been done."""
        record = self.run_folder / f"{name}.command.json"
        if record.is_file():
            found = json.loads(record.read_text(encoding="utf-8"))
            if found["command"] == command:
                return found["cost"]
        cost = _run(command, self.run_folder / f"{name}.log")
        write_text(record, json.dumps({"command": command, "cost": cost}, indent=1) + "\n")
        return cost

    def _checkpoint(self) -> Path:
        return max((self.run_folder / "nerfstudio_models").glob("step-*.ckpt"))

    def _without_places(self, command: list[str]) -> str:
        """The command line with names in place of this machine's folders."""
        line = shlex.join(command)
        places = {self.settings.cache_dir: "CACHE", self.settings.work: "WORK", self.scene.data: self.scene.name}
        for place in sorted(places, key=lambda one: -len(str(one))):
            line = line.replace(str(place), places[place])
        return line


def _run(command: list[str], log: Path) -> dict[str, float]:
    """Run a command with its output in a file: wall and processor seconds, and the most memory it had in MB."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # Beside this Python, so that the environment need not be active.
    script = Path(sys.executable).parent / command[0]
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen([str(script), *command[1:]], stdout=file, stderr=subprocess.STDOUT)
        usage = _wait(process)
    wall = time.perf_counter() - start
    if process.returncode != 0:
        last = " / ".join(_last_lines(log, 3))
        raise UserError(f"{command[0]} {command[1]} failed ({last}). Everything it said is in {log}.")
    return {
        "seconds": round(wall, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_mb": round(usage.ru_maxrss / 1024, 0),
    }


def _wait(process: subprocess.Popen[bytes]) -> Any:
    """Wait for a process and say what it has used. Ctrl-C reaches it too, and it is given the time to save."""
    interrupted = False
    while True:
        try:
            _, status, usage = os.wait4(process.pid, 0)
            break
        except KeyboardInterrupt:
            interrupted = True
    process.returncode = os.waitstatus_to_exitcode(status)
    if interrupted:
        raise KeyboardInterrupt
    return usage


def _last_lines(log: Path, count: int) -> Iterator[str]:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    yield from [line for line in lines if line][-count:]


def _rounded(results: dict[str, Any]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in results.items()}
