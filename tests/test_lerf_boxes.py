"""The benchmark on LERF's boxes, on views of two coloured squares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.lerf_boxes import LerfBoxes
from lang_splat_ns.errors import UserError


def put_scene(folder: Path, boxes: list[dict[str, list[int]]]) -> None:
    """Views with red in the upper left and blue in the lower right, and labels of them."""
    folder.mkdir()
    picture = np.full((60, 80, 3), 255, np.uint8)
    picture[10:30, 10:30], picture[35:55, 45:75] = (230, 10, 10), (10, 60, 220)
    keyframes = []
    for number, of_view in enumerate(boxes):
        Image.fromarray(picture).save(folder / f"{number}_rgb.png")
        shapes = [
            {"label": label, "points": [box[:2], box[2:]], "shape_type": "rectangle"} for label, box in of_view.items()
        ]
        keyframes.append({"shapes": shapes})
    content = {"imageWidth": 80, "imageHeight": 60, "keyframes": keyframes}
    (folder / "queries.json").write_text(json.dumps(content))


def test_hits_and_misses_are_counted(tmp_path: Path) -> None:
    red, blue = [10, 10, 30, 30], [45, 35, 75, 55]
    data = tmp_path / "lerf_eval"
    data.mkdir()
    put_scene(data / "one", [{"red": red, "blue": blue, "zzz": red}, {"red": blue}])
    put_scene(data / "two", [{"blue": blue}])
    options: dict[str, Any] = {"segmenter": "felzenszwalb", "encoder": "colour-words", "device": "cpu"}
    out = tmp_path / "boxes.json"
    LerfBoxes(data, cache_dir=tmp_path / "cache", out=out, **options).main()
    content = json.loads(out.read_text())
    one, two = content["scenes"]["one"], content["scenes"]["two"]
    assert [row.get("hit") for row in one["table"]] == [True, True, None, False]
    assert one["table"][2]["reason"].startswith("refused by the encoder")
    assert (one["units_scored"], one["units"], one["boxes"], one["prompts_scored"]) == (3, 4, 4, 2)
    assert one["localization"] == pytest.approx(2 / 3) and two["localization"] == 1.0
    assert one["by_chance"] == pytest.approx((400 + 600 + 600) / 3 / 4800)
    assert content["together"]["localization_over_units"] == pytest.approx(3 / 4)
    assert content["together"]["localization_over_scenes"] == pytest.approx(5 / 6)
    assert content["together"]["by_chance"] == pytest.approx((400 + 600 * 3) / 4 / 4800)
    (data / "two" / "0_rgb.png").unlink()
    with pytest.raises(UserError, match=r"two/0_rgb\.png: missing"):
        LerfBoxes(data, cache_dir=tmp_path / "cache", **options).main()
