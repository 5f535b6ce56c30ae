"""The second opinion: which regions are shown, what a no does, how often it is asked, and Qwen3-VL on a tiny model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_qwen import save_qwen

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.reranker import CROP_SIDE, REGIONS_PER_PROMPT, SecondOpinion, rerank
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.qwen_reranker import QUESTIONS, QwenReranker
from lang_splat_ns.perception.rerankers import make_reranker


class FakeJudge:
    """Answers by a rule and remembers what it was shown."""

    reranker_id = "fake/1"

    def __init__(self, rule: Callable[[np.ndarray], float]) -> None:
        self.rule = rule
        self.shown: list[tuple[np.ndarray, str]] = []

    def judge(self, crops: Sequence[np.ndarray], prompt: str) -> list[float]:
        self.shown += [(crop, prompt) for crop in crops]
        return [self.rule(crop) for crop in crops]


def red_in_the_middle(crop: np.ndarray) -> float:
    """How red the middle of a crop is."""
    return float(crop[len(crop) // 2, len(crop) // 2, 0]) / 255


def boxes_scene(*columns: tuple[int, int, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask and relevancy of boxes at (column, red, relevancy) in a view, and its photo at twice the size."""
    mask, relevancy = np.zeros((20, 80), bool), np.zeros((20, 80), np.float32)
    photo = np.zeros((40, 160, 3), np.uint8)
    for column, red, value in columns:
        mask[5:11, column : column + 6] = True
        relevancy[5:11, column : column + 6] = value
        photo[10:22, 2 * column : 2 * column + 12, 0] = red
    return mask, relevancy, photo


def opinion(judge: FakeJudge, tmp_path: Path, **options: Any) -> SecondOpinion:
    return SecondOpinion(judge, FeatureStore(tmp_path), **options)


def test_rejected_regions_leave_the_mask(tmp_path: Path) -> None:
    mask, relevancy, photo = boxes_scene((3, 250, 0.7), (20, 10, 0.9), (40, 200, 0.8))
    judge = FakeJudge(red_in_the_middle)
    left, verdicts = rerank(mask, relevancy, photo, "红色的杯子", opinion(judge, tmp_path))
    expected = mask.copy()
    expected[:, 20:26] = False
    assert np.array_equal(left, expected)
    # The most relevant comes first, and each is said where it was.
    assert [verdict.box for verdict in verdicts] == [(20, 5, 26, 11), (40, 5, 46, 11), (3, 5, 9, 11)]
    assert [verdict.kept for verdict in verdicts] == [False, True, True]
    assert verdicts[0].probability == pytest.approx(10 / 255) and verdicts[0].area == pytest.approx(36 / 1600)
    assert verdicts[0].to_json() == {
        "box": [20, 5, 26, 11],
        "area": verdicts[0].area,
        "probability": verdicts[0].probability,
        "kept": False,
    }
    assert {prompt for _, prompt in judge.shown} == {"红色的杯子"}
    assert {crop.shape for crop, _ in judge.shown} == {(CROP_SIDE, CROP_SIDE, 3)}
    # Diagonal neighbours are one region.
    mask = np.eye(6, dtype=bool)
    assert len(rerank(mask, mask.astype(np.float32), photo, "x", opinion(judge, tmp_path))[1]) == 1


def test_weaker_regions_follow_the_judged_ones(tmp_path: Path) -> None:
    many = [(10 * index, 250, 0.9 - 0.01 * index) for index in range(8)]
    mask, relevancy, photo = boxes_scene(*many)
    judge = FakeJudge(red_in_the_middle)
    left, verdicts = rerank(mask, relevancy, photo, "cup", opinion(judge, tmp_path))
    assert np.array_equal(left, mask) and len(verdicts) == len(judge.shown) == REGIONS_PER_PROMPT
    assert [verdict.box[0] for verdict in verdicts] == [0, 10, 20, 30, 40]
    mask, relevancy, photo = boxes_scene(*[(column, 0, value) for column, _, value in many])
    left, verdicts = rerank(mask, relevancy, photo, "cup", opinion(judge, tmp_path))
    assert not left.any() and len(verdicts) == REGIONS_PER_PROMPT
    # Nothing to judge.
    left, verdicts = rerank(
        np.zeros((4, 4), bool), np.zeros((4, 4), np.float32), photo, "cup", opinion(judge, tmp_path)
    )
    assert not left.any() and verdicts == []


def test_answers_are_kept_and_calls_are_limited(tmp_path: Path) -> None:
    mask, relevancy, photo = boxes_scene((3, 250, 0.7), (20, 10, 0.9), (40, 200, 0.8))
    judge = FakeJudge(red_in_the_middle)
    first = rerank(mask, relevancy, photo, "cup", opinion(judge, tmp_path))
    again = rerank(mask, relevancy, photo, "cup", opinion(judge, tmp_path, calls=0))
    assert len(judge.shown) == 3
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]
    # Another prompt, another model and another picture are other questions.
    rerank(mask, relevancy, photo, "mug", opinion(judge, tmp_path))
    assert len(judge.shown) == 6
    judge.reranker_id = "fake/2"  # type: ignore[misc]
    rerank(mask, relevancy, photo, "cup", opinion(judge, tmp_path))
    assert len(judge.shown) == 9
    # One call is left: the most relevant region is asked about and goes, the others stay unasked.
    left, verdicts = rerank(mask, relevancy, photo, "pot", opinion(judge, tmp_path, calls=1))
    assert len(judge.shown) == 10 and len(verdicts) == 1
    assert not left[:, 20:26].any() and left[:, 40:46].any() and left[:, 3:9].any()
    left, verdicts = rerank(mask, relevancy, photo, "pan", opinion(judge, tmp_path, calls=0))
    assert np.array_equal(left, mask) and verdicts == []


@pytest.mark.parametrize("answers", [[0.5], [0.5, 1.5, 0.1], [0.1, float("nan"), 0.2]])
def test_a_plug_in_that_breaks_its_promise_is_named(tmp_path: Path, answers: list[float]) -> None:
    mask, relevancy, photo = boxes_scene((3, 250, 0.7), (20, 10, 0.9), (40, 200, 0.8))
    judge = FakeJudge(red_in_the_middle)
    judge.judge = lambda crops, prompt: answers  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"fake/1 answered .* for 3 crops"):
        rerank(mask, relevancy, photo, "cup", opinion(judge, tmp_path))


# ---- Qwen3-VL ----


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> QwenReranker:
    folder = save_qwen(tmp_path_factory.mktemp("models") / "tiny-qwen")
    found = make_reranker(f"qwen3-vl:{folder}")
    assert isinstance(found, QwenReranker)
    return found


def crops(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8) for seed in range(count)]


def test_qwen_gives_the_share_of_yes(qwen: QwenReranker) -> None:
    from PIL import Image

    assert qwen.reranker_id.startswith("qwen3-vl:tiny-qwen@") and qwen.reranker_id.endswith(" question/1")
    shown = crops(6)
    for prompt, language in (("红色的杯子", "zh"), ("a red cup", "en")):
        answers = qwen.judge(shown, prompt)
        assert len(answers) == 6 and all(0 < answer < 1 for answer in answers)
        # It looks at the picture, and a crop's answer does not depend on the crops beside it.
        assert len({round(answer, 4) for answer in answers}) > 3
        assert qwen.judge(shown[4:5], prompt) == pytest.approx(answers[4:5], abs=1e-4)
        # The same by hand: the first word of the answer, over the tokens that yes and no begin with.
        model, processor, *_ = qwen._parts
        question = QUESTIONS[language].replace("{}", prompt)
        picture = "<|vision_start|><|image_pad|><|vision_end|>"
        text = f"<|im_start|>user\n{picture}{question}<|im_end|>\n<|im_start|>assistant\n"
        fed = processor(images=[Image.fromarray(shown[0])], text=[text], return_tensors="pt")
        with torch.inference_mode():
            logits = model(**fed).logits[0, -1]
        weights = {word: math.exp(float(logits[processor.tokenizer.encode(word)[0]])) for word in "yYnN是否不"}
        assert answers[0] == pytest.approx(sum(weights[word] for word in "yY是") / sum(weights.values()), abs=1e-4)


def test_qwen_without_weights_fails_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    from lang_splat_ns.perception.weights import ls

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("LANG_SPLAT_OFFLINE", "1")
    with pytest.raises(UserError) as caught:
        make_reranker("qwen3-vl")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("Qwen/Qwen3-VL-2B-Instruct", "lang-splat weights fetch qwen3-vl", "ask without a reranker"):
        assert part in message
    assert {row["name"]: row["path"] for row in ls()}["qwen3-vl"] is None
    with pytest.raises(UserError, match="unknown reranker 'qwen'"):
        make_reranker("qwen")
