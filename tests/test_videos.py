"""Videos of prompts along camera paths."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lang_splat_ns import cli
from lang_splat_ns.errors import UserError
from lang_splat_ns.plugin.videos import read_camera_path, write_video

PICTURES = [np.full((24, 32, 3), shade, np.uint8) for shade in (0, 120, 250)]


def camera_path(file: Path, **changes: object) -> Path:
    """A path of two cameras, as the viewer's Render tab writes it."""
    pose = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1]
    camera = {"camera_to_world": pose, "fov": 60, "aspect": 1.5}
    content = {
        "camera_type": "perspective", "render_height": 40, "render_width": 60, "seconds": 2.0, "crop": None,
        "camera_path": [camera, camera],
    }  # fmt: skip
    file.write_text(json.dumps(content | changes))
    return file


def test_a_command_makes_a_video_of_prompts(lifted: Path, tmp_path: Path) -> None:
    path = camera_path(tmp_path / "path.json")
    common = ["render", "--load-config", str(lifted / "config.yml"), "--camera-path", str(path)]
    cli.main([*common, "--text", "green; 黄色", "--out", str(tmp_path / "frames")])
    cli.main([*common, "--text", "green", "--mode", "rgb", "--out", str(tmp_path / "plain")])
    names = sorted(file.name for file in (tmp_path / "frames").iterdir())
    assert names == ["00000.png", "00001.png"]
    asked, plain = (np.asarray(Image.open(tmp_path / name / "00000.png")) for name in ("frames", "plain"))
    assert asked.shape == (40, 60, 3) and not np.array_equal(asked, plain)


def test_without_a_path_it_flies_past_the_photos(lifted: Path, tmp_path: Path) -> None:
    cli.main(
        ["render", "--load-config", str(lifted / "config.yml"), "--text", "green", "--seconds", "1", "--fps", "4",
         "--mode", "isolate", "--out", str(tmp_path / "flight.gif")]
    )  # fmt: skip
    with Image.open(tmp_path / "flight.gif") as film:
        assert film.n_frames >= 2 and film.size[0] > film.size[1]


def test_mistakes_cost_one_line(lifted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(
            ["render", "--load-config", str(lifted / "config.yml"), "--text", "teapot", "--out", str(tmp_path / "x")]
        )
    assert "names no colour" in capsys.readouterr().err and not (tmp_path / "x").exists()
    with pytest.raises(UserError, match="no such file"):
        read_camera_path(tmp_path / "nowhere.json")
    for broken in ({"seconds": 0}, {"camera_path": [{}]}, {"render_width": None}):
        with pytest.raises(UserError, match=r"path\.json"):
            read_camera_path(camera_path(tmp_path / "path.json", **broken))


@pytest.mark.parametrize("kind", ["film.mp4", "film.gif", "folder"])
def test_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    if kind.endswith("mp4") and shutil.which("ffmpeg") is None:
        with pytest.raises(UserError, match="ffmpeg"):
            write_video(tmp_path / kind, PICTURES, 5.0)
        return
    assert write_video(tmp_path / kind, PICTURES, 5.0) == 3
    assert [file.name for file in tmp_path.iterdir()] == [kind]
