"""Photos of the demo scene without their poses, and what they are compared with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from lang_splat_ns.scenes.from_depth import DepthView
from lang_splat_ns.scenes.posed_scene import OPENGL

SIZE = (320, 180)
FOCAL_KEYS = ("fl_x", "fl_y", "cx", "cy")


def noise(path: Path, seed: int, size: tuple[int, int] = (160, 90)) -> None:
    """A photo that has many features and resembles no other."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC))


def true_views(scene: Path, count: int) -> list[DepthView]:
    """What a perfect network would predict of the demo scene's first photos."""
    import json

    meta = json.loads((scene / "transforms.json").read_text())
    views = []
    for frame in meta["frames"][:count]:
        path = scene / frame["file_path"]
        millimetres = cv2.imread(str(scene / "depth" / path.name), cv2.IMREAD_UNCHANGED)
        assert millimetres is not None
        depth = millimetres.astype(np.float32) / 1000
        views.append(
            DepthView(
                image=path,
                size=(meta["w"], meta["h"]),
                world_to_camera=np.linalg.inv(np.array(frame["transform_matrix"]) @ OPENGL),
                intrinsics=np.array([meta[key] for key in FOCAL_KEYS]),
                depth=depth,
                confidence=np.ones_like(depth),
                scale=np.ones(2),
                offset=np.zeros(2),
            )
        )
    return views
