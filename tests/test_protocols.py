"""The published protocols against plain loops that were written without looking at the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_fakes import FakeEncoder, FakeField

from lang_splat_ns.cli import main as lang_splat
from lang_splat_ns.errors import NotSplatError, UserError
from lang_splat_ns.evaluation.evaluator import LabelledFrame, UnitAnswer, evaluate
from lang_splat_ns.evaluation.protocols import PROTOCOLS
from lang_splat_ns.language.field import Query
from lang_splat_ns.splatting.neighbours import Neighbours

H, W = 44, 52
LEVELS = ("whole", "part")
TEXTS = ("cup", "lamp", "tiger")
ENCODER = FakeEncoder({"cup": (1, 0), "lamp": (0, 1), "tiger": (1, 1), "thing": (1, -1)})


def mirrored(index: int, size: int) -> int:
    """Where a pixel outside is read, the border itself not repeated."""
    index = abs(index)
    return 2 * (size - 1) - index if index >= size else index


def box_mean(image: np.ndarray) -> np.ndarray:
    result = np.zeros_like(image)
    for row in range(H):
        for column in range(W):
            rows = [mirrored(row + d, H) for d in range(-15, 15)]
            columns = [mirrored(column + d, W) for d in range(-15, 15)]
            result[row, column] = image[np.ix_(rows, columns)].mean()
    return result


def most(mask: np.ndarray) -> np.ndarray:
    result = np.zeros_like(mask)
    for row in range(H):
        for column in range(W):
            window = mask[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4]
            result[row, column] = window.sum() > window.size / 2
    return result


def stretched(values: np.ndarray) -> np.ndarray:
    return np.clip((values - values.min()) / (values.max() - values.min()) * 2 - 1, 0, 1)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.fixture(scope="module")
def maps() -> dict[str, np.ndarray]:
    """Blobs with noise, at two levels per prompt; the prompts' better levels differ."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:H, :W]
    found = {}
    for number, text in enumerate(TEXTS):
        blobs = [
            np.exp(-((rows - rng.integers(8, H - 8)) ** 2 + (columns - rng.integers(8, W - 8)) ** 2) / size)
            for size in (60.0, 150.0)
        ]
        noise = rng.random((2, H, W)) * 0.15
        found[text] = (np.stack(blobs if number % 2 else blobs[::-1]) * 0.5 + 0.3 + noise).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def frame() -> LabelledFrame:
    rng = np.random.default_rng(4)
    masks, boxes = {}, {}
    for text in TEXTS[:2]:
        mask = np.zeros((H, W), bool)
        top, left = rng.integers(4, 20, 2)
        mask[top : top + 18, left : left + 20] = True
        masks[text], boxes[text] = mask, [mask]
    return LabelledFrame("one.jpg", "cam", masks, boxes)


def test_langsplats_evaluation_equals_plain_loops(maps: dict[str, np.ndarray], frame: LabelledFrame) -> None:
    field = FakeField({"cam": maps}, LEVELS, ENCODER)
    scores = evaluate(field, [frame], TEXTS[2:], protocol=PROTOCOLS["lerf-ovs-2d"])
    ious, hits = [], []
    for text in frame.masks:
        blurred = np.stack([box_mean(level) for level in maps[text]])
        smoothed = (maps[text] + blurred) / 2
        level = smoothed.max((1, 2)).argmax()
        ious.append(iou(most(stretched(smoothed[level]) > 0.4), frame.masks[text]))
        pointing = blurred[blurred.max((1, 2)).argmax()]
        hits.append(bool(frame.boxes[text][0].flat[pointing.argmax()]))
    present = [row for row in scores.table if row["present"]]
    assert [row["iou"] for row in present] == pytest.approx(ious, abs=1e-6)
    assert [row["hit"] for row in present] == hits
    assert scores.summary["language_miou"] == pytest.approx(np.mean(ious), abs=1e-6)
    assert scores.summary["language_absent_rejection"] == 0.0, "stretching finds everything somewhere"
    assert "language_miou_3d" not in scores.summary


def test_a_level_and_a_threshold_may_be_given(maps: dict[str, np.ndarray], frame: LabelledFrame) -> None:
    field = FakeField({"cam": maps}, LEVELS, ENCODER)
    scores = evaluate(field, [frame], [], level="part", threshold=0.5, protocol=PROTOCOLS["lerf-ovs-2d"])
    for row in scores.table:
        smoothed = (maps[row["prompt"]][1] + box_mean(maps[row["prompt"]][1])) / 2
        assert row["iou"] == pytest.approx(iou(most(stretched(smoothed) > 0.5), frame.masks[row["prompt"]]), abs=1e-6)


class PixelSplats(FakeField):
    """One Gaussian per pixel, whose nearest are those around it in a row."""

    def scores(self, query: Query) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.answers["cam"][text].reshape(2, -1) for text in query.positives]))

    def neighbours(self) -> Neighbours:
        index = torch.stack([(torch.arange(H * W) + shift) % (H * W) for shift in range(16)], dim=1)
        return Neighbours(index.int(), torch.ones(H * W))

    def silhouettes(self, camera: Any, masks: torch.Tensor) -> torch.Tensor:
        return masks.reshape(-1, H, W).float() * 0.1


def test_valas_evaluation_equals_plain_loops(maps: dict[str, np.ndarray], frame: LabelledFrame) -> None:
    scores = evaluate(
        PixelSplats({"cam": maps}, LEVELS, ENCODER), [frame], TEXTS[2:], protocol=PROTOCOLS["lerf-ovs-3d"]
    )
    ious = []
    for text in frame.masks:
        flat = maps[text].reshape(2, -1)
        around = np.mean([np.roll(flat, -shift, axis=1) for shift in range(10)], axis=0)
        averaged = (flat + around) / 2
        chosen = stretched(averaged[averaged.max(1).argmax()]) > 0.6
        ious.append(iou(chosen.reshape(H, W), frame.masks[text]))
    assert scores.summary == pytest.approx(
        {
            "language_miou_3d": np.mean(ious),
            "language_acc25_3d": np.mean(np.array(ious) >= 0.25),
            "language_acc50_3d": np.mean(np.array(ious) >= 0.5),
            "language_prompts_scored": 2,
            "language_prompts_total": 2,
        },
        abs=1e-6,
    )


def test_gaussians_are_needed_for_their_scores(maps: dict[str, np.ndarray], frame: LabelledFrame) -> None:
    with pytest.raises(NotSplatError, match="needs Gaussians"):
        evaluate(FakeField({"cam": maps}, LEVELS, ENCODER), [frame], [], protocol=PROTOCOLS["lerf-ovs-3d"])


def partition(seed: int) -> np.ndarray:
    """Which of three classes each pixel is, int [H, W], in blobs."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(0, 3, (H // 4, W // 4)), np.ones((4, 4), int))


def classed(name: str, truth: np.ndarray, classes: tuple[str, ...] = TEXTS) -> LabelledFrame:
    masks = {text: truth == number for number, text in enumerate(classes)}
    return LabelledFrame(name, name, masks, {})


def test_a_closed_list_equals_plain_loops_and_other_peoples_metrics(maps: dict[str, np.ndarray]) -> None:
    """As 3D-OVS's authors score: scikit-learn's Jaccard index per class and photo, and accuracy per photo."""
    from sklearn.metrics import accuracy_score, jaccard_score

    answers = {"a": maps, "b": {text: level[:, ::-1].copy() for text, level in maps.items()}}
    frames = [classed("a", partition(1)), classed("b", partition(2))]
    for level in ("auto", "part"):
        scores = evaluate(FakeField(answers, LEVELS, ENCODER), frames, [], level=level, protocol=PROTOCOLS["3d-ovs"])
        ious, accuracies = [], []
        for frame in frames:
            layers = []
            for text in TEXTS:
                whole, part = answers[frame.name][text]
                layers.append(part if level == "part" or part.max() > whole.max() else whole)
            answer = np.zeros((H, W), int)
            for row in range(H):
                for column in range(W):
                    best = 0
                    for number in range(3):
                        if layers[number][row, column] > layers[best][row, column]:
                            best = number
                    answer[row, column] = best
            truth = sum(number * frame.masks[text] for number, text in enumerate(TEXTS))
            ious += list(jaccard_score(np.ravel(truth), answer.ravel(), average=None))
            accuracies.append(accuracy_score(np.ravel(truth), answer.ravel()))
        assert [row["iou"] for row in scores.table] == pytest.approx(ious, abs=1e-6)
        assert scores.summary["language_miou"] == pytest.approx(np.mean(ious), abs=1e-6)
        assert scores.summary["language_accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-6)
    assert scores.summary["language_miou_part"] == pytest.approx(np.mean(ious), abs=1e-6)


def test_a_closed_list_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left half cup, right half lamp. The field says cup left, tiger in a quarter of the right half, else nothing."""
    left = np.zeros((H, W), bool)
    left[:, : W // 2] = True
    quarter = np.zeros((H, W), bool)
    quarter[: H // 2, 3 * W // 4 :] = True

    def both(values: np.ndarray) -> np.ndarray:
        return np.stack([values, values]).astype(np.float32)

    answers = {"cam": {"cup": both(0.6 * left), "lamp": both(0.2 * left), "tiger": both(0.3 * quarter)}}
    frame = LabelledFrame("one.jpg", "cam", {"cup": left, "lamp": ~left}, {"cup": [left]})
    field = FakeField(answers, LEVELS, ENCODER)
    # However many prompts go into one call, a list that is closed is asked as one, also what no photo shows.
    monkeypatch.setattr("lang_splat_ns.evaluation.evaluator.PROMPTS_PER_CALL", 1)
    scores = evaluate(field, [frame], ["dragon"], protocol=PROTOCOLS["3d-ovs"], classes=("tiger", "cup", "lamp"))
    assert [sorted(query.positives) for query in field.queries] == [["cup", "lamp", "tiger"]]
    assert scores.summary == pytest.approx(
        {
            "language_miou": 0.5,
            "language_miou_whole": 0.5,
            "language_miou_part": 0.5,
            "language_accuracy": 0.5,
            "language_localization": 1.0,
            "language_prompts_scored": 2,
            "language_prompts_total": 2,
        }
    )
    assert [(row["prompt"], row.get("recall"), row["reason"]) for row in scores.table] == [
        ("cup", 1.0, None),
        ("lamp", 0.0, None),
        ("dragon", None, "refused by the encoder: unknown word: dragon"),
    ]
    (absent,) = evaluate(field, [LabelledFrame("a", "cam", {}, {})], ["tiger"], protocol=PROTOCOLS["3d-ovs"]).table
    assert absent["reason"] == "nothing of a closed list is absent"


def test_boxes_alone_score_the_place_and_nothing_else(maps: dict[str, np.ndarray]) -> None:
    _, *peak = np.unravel_index(maps["cup"].argmax(), maps["cup"].shape)
    around, beside = np.zeros((H, W), bool), np.zeros((H, W), bool)
    around[max(peak[0] - 8, 0) : peak[0] + 8, max(peak[1] - 8, 0) : peak[1] + 8] = True
    beside[-3:, -3:] = True
    boxes = {"cup": [beside, around], "lamp": [beside & False]}
    frame = LabelledFrame("one.jpg", "cam", {}, boxes)
    units: list[UnitAnswer] = []
    field = PixelSplats({"cam": maps}, LEVELS, ENCODER)
    scores = evaluate(field, [frame], ["tiger"], on_answer=units.append, threshold=0.4)
    assert scores.summary == {
        "language_localization": 1.0,
        "language_absent_rejection": 0.0,
        "language_prompts_scored": 1.0,
        "language_prompts_total": 2.0,
    }
    cup, lamp, _ = scores.table
    assert cup["hit"] is True and not {"iou", "gt_area", "iou_by_level", "iou_3d"} & set(cup)
    assert lamp["reason"] == "no labelled pixel lies in the frame"
    assert units[0].truth is not None and np.array_equal(units[0].truth, around | beside)
    # A frame may have both kinds.
    mixed = LabelledFrame("one.jpg", "cam", {"lamp": around}, {"cup": [around]})
    assert {"language_miou", "language_localization"} <= set(evaluate(field, [mixed], []).summary)
    for name in ("lerf-ovs-3d", "3d-ovs"):
        shapes = evaluate(field, [mixed], [], protocol=PROTOCOLS[name]).table
        assert [row["scored"] for row in shapes] == [True, False] and "compares shapes" in shapes[1]["reason"]
    with pytest.raises(UserError, match="'cup' is labelled in frame"):
        evaluate(field, [frame], ["cup"])


@pytest.mark.parametrize(
    ("protocol", "key"),
    [
        ("lerf-ovs-2d", "language_miou"),
        ("lerf-ovs-3d", "language_acc50_3d"),
        ("3d-ovs", "language_accuracy"),
        ("as-published", "language_localization"),
    ],
)
def test_the_command_scores_a_run(lifted: Path, tmp_path: Path, protocol: str, key: str) -> None:
    out = tmp_path / "eval.json"
    lang_splat(["eval", "--load-config", str(lifted / "config.yml"), "--protocol", protocol, "--out", str(out)])
    content = json.loads(out.read_text())
    assert content["protocol"] == protocol and 0.0 <= content["results"][key] <= 1.0
