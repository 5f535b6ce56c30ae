"""Averages, the threshold curve and confusion, on tables and maps whose answers are known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from language_fakes import FakeEncoder, FakeField

from lang_splat_ns.evaluation.confusion import confusion, mistakes
from lang_splat_ns.evaluation.evaluator import LabelledFrame, evaluate
from lang_splat_ns.evaluation.protocols import PROTOCOLS
from lang_splat_ns.evaluation.scores import LanguageScores, averages, summarise, threshold_curve
from lang_splat_ns.evaluation.threshold_curve import CURVE_THRESHOLDS

H, W = 40, 60


def row(frame: str, prompt: str, **found: Any) -> dict[str, Any]:
    return {"frame": frame, "prompt": prompt, "present": True, "scored": True, **found}


TABLE = [
    row("a", "cup", iou=1.0, hit=True, iou_3d=0.5),
    row("b", "cup", iou=0.5, hit=True),
    row("c", "cup", iou=0.0, hit=False),
    row("a", "lamp", iou=0.9),
    {"frame": "b", "prompt": "lamp", "present": True, "scored": False},
    {"frame": "a", "prompt": "tiger", "present": False, "scored": True, "rejected": True},
]


def test_averages_of_a_table() -> None:
    found = averages(TABLE)
    assert found["iou"]["micro"] == pytest.approx(0.6) == summarise(TABLE)["language_miou"]
    assert found["iou"]["by_prompt"] == pytest.approx({"cup": 0.5, "lamp": 0.9})
    assert found["iou"]["macro_prompts"] == pytest.approx(0.7)
    assert found["iou"]["by_frame"] == pytest.approx({"a": 0.95, "b": 0.5, "c": 0.0})
    assert found["iou"]["macro_frames"] == pytest.approx((0.95 + 0.5) / 3)
    assert found["localization"]["micro"] == pytest.approx(2 / 3)
    assert found["localization"]["by_prompt"] == pytest.approx({"cup": 2 / 3}), "the lamp has no boxes"
    assert found["localization"]["macro_frames"] == pytest.approx(2 / 3)
    assert found["iou_3d"]["macro_prompts"] == 0.5
    assert averages(TABLE, ["lamp"])["iou"]["macro_frames"] == 0.9
    assert averages(TABLE, ["tiger"]) == {}, "what was not scored is left out"


def test_the_curve_of_a_table() -> None:
    low, high = [1.0] * len(CURVE_THRESHOLDS), [0.5] * len(CURVE_THRESHOLDS)
    table = [row("a", "cup", iou=1.0, iou_at=low), row("b", "lamp", iou=0.5, iou_at=high), row("c", "cup", iou=0.0)]
    assert threshold_curve(table) == {"thresholds": list(CURVE_THRESHOLDS), "miou": [0.75] * len(CURVE_THRESHOLDS)}
    assert threshold_curve(table, ["lamp"]) == {"thresholds": list(CURVE_THRESHOLDS), "miou": high}
    assert threshold_curve(TABLE) is None


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


CUP, LAMP = box(0, 0, 20, 40), box(20, 0, 30, 40)
MAPS = {
    # Three quarters of what is found as the cup is the cup, the rest is half the lamp.
    "cup": np.where(box(5, 0, 20, 40), 0.9, np.where(box(20, 0, 25, 40), 0.85, 0.1))[None],
    "lamp": np.where(CUP, 0.7, 0.3)[None],
    "tiger": np.where(LAMP, 0.8, 0.3)[None],
    "ghost": np.full((1, H, W), 0.2),
}
WORDS = {"cup": (1, 0, 0), "lamp": (0, 1, 0), "tiger": (1, 1, 0), "ghost": (1, 1, 1), "thing": (0, 0, 1)}


def scores(protocol: Any = "held-out", **options: Any) -> LanguageScores:
    field = FakeField({"cam": MAPS}, ("whole",), FakeEncoder(WORDS))
    frame = LabelledFrame("one.jpg", "cam", {"cup": CUP, "lamp": LAMP}, {"cup": [CUP], "lamp": [LAMP]})
    return evaluate(field, [frame], ["tiger", "ghost"], protocol=PROTOCOLS[protocol], **options)


@pytest.mark.parametrize("protocol", ["held-out", "lerf-ovs-2d"])
def test_the_curve_says_what_each_threshold_would_have_given(protocol: str) -> None:
    curve = threshold_curve(scores(protocol).table)
    assert curve is not None
    for threshold, miou in zip(curve["thresholds"], curve["miou"], strict=True):
        asked = scores(protocol, threshold=threshold).summary["language_miou"]
        assert miou == pytest.approx(asked, abs=1e-4), threshold
    assert len(set(curve["miou"])) > 2, "the maps tell thresholds apart"


def test_confusion_of_known_maps() -> None:
    # Smoothing reaches 3 pixels sideways, so the masks are taken a little inside or outside of the boxes' edges.
    table = scores(threshold=0.5).table
    shares = confusion(table)
    assert shares["cup"]["cup"] == pytest.approx(0.75, abs=0.02)
    assert shares["cup"]["lamp"] == pytest.approx(0.25, abs=0.02)
    assert shares["lamp"]["cup"] > 0.95 and shares["tiger"]["lamp"] > 0.95
    assert "ghost" not in shares, "it found nothing"
    told = {(one.prompt, one.thing): one for one in mistakes(table)}
    assert list(told)[-1] == ("cup", "lamp"), "the worst come first"
    assert told["cup", "lamp"].peaks == 0 and told["lamp", "cup"].peaks == 1 and told["lamp", "cup"].photos == 1
    assert set(told) == {("cup", "lamp"), ("lamp", "cup"), ("tiger", "lamp")}
    by_prompt = {row["prompt"]: row for row in table}
    assert by_prompt["cup"]["peak_on"] == ["cup"] and by_prompt["ghost"]["peak_on"] == []


def test_confusion_is_a_mean_over_photos_that_found_something() -> None:
    table = [
        row("a", "cup", area=0.1, mask_on={"cup": 1.0}, peak_on=["cup"]),
        row("b", "cup", area=0.1, mask_on={"lamp": 0.5}, peak_on=["lamp"]),
        row("c", "cup", area=0.0, mask_on={}, peak_on=["lamp"]),
        {"frame": "d", "prompt": "cup", "present": True, "scored": False},
    ]
    assert confusion(table) == {"cup": {"cup": 0.5, "lamp": 0.25}}
    (one,) = mistakes(table)
    assert (one.thing, one.share, one.peaks, one.photos) == ("lamp", 0.25, 1, 3)


def test_the_json_holds_them() -> None:
    content = json.loads(scores().to_json())
    assert content["averages"]["iou"]["micro"] == content["summary"]["language_miou"]
    assert len(content["curve"]["miou"]) == len(content["table"][0]["iou_at"]) == len(CURVE_THRESHOLDS)
    assert "curve" not in json.loads(LanguageScores({}, [], ()).to_json())
