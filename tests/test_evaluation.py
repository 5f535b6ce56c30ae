"""The evaluator on hand-made maps whose scores are known, and the oracle on a hand-made photo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from language_fakes import FakeEncoder, FakeField

from lang_splat_ns.errors import NotSplatError, UserError
from lang_splat_ns.evaluation import evaluator, metrics
from lang_splat_ns.evaluation.evaluator import LabelledFrame, UnitAnswer, evaluate
from lang_splat_ns.evaluation.oracle import OracleField, paint, shrink
from lang_splat_ns.evaluation.scores import summarise
from lang_splat_ns.language.field import LanguageField, Query, Selection
from lang_splat_ns.perception.extract import Frame, FrameFeatures
from lang_splat_ns.perception.segmenters import LabelMaps

H, W = 40, 60
LEVELS = ("whole", "part")
WORDS = {"cup": (1, 0, 0), "lamp": (0, 1, 0), "thing": (0, 0, 1), "tiger": (1, 1, 0), "杯子": (1, 0, 1)}


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def plateau(mask: np.ndarray, inside: float, outside: float = 0.49) -> np.ndarray:
    # With so little between the two, smoothing does not cut the corners of a box off.
    return np.where(mask, inside, outside)


def both(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
    return np.stack([whole, part])


CUP, LEFT_HALF, LAMP = box(10, 10, 30, 30), box(10, 10, 20, 30), box(40, 5, 50, 35)
NOWHERE = both(np.full((H, W), 0.2), plateau(CUP, 0.45, 0.1))

ANSWERS = {
    "cam1": {
        "cup": both(plateau(CUP, 0.8), plateau(LEFT_HALF, 0.9)),
        "lamp": both(plateau(LAMP, 0.9), plateau(CUP, 0.7)),
        "tiger": NOWHERE,
    },
    "cam2": {
        "cup": both(plateau(LAMP, 0.7), NOWHERE[1]),
        "杯子": both(plateau(CUP, 0.9), NOWHERE[1]),
        "tiger": both(plateau(CUP, 0.6), NOWHERE[1]),
    },
}


def field(answers: Mapping[str, Mapping[str, np.ndarray]] = ANSWERS) -> FakeField:
    return FakeField(answers, LEVELS, FakeEncoder(WORDS))


def frames() -> list[LabelledFrame]:
    return [
        LabelledFrame("one.jpg", "cam1", {"cup": CUP, "lamp": LAMP}, {"cup": [CUP], "lamp": [LAMP]}),
        LabelledFrame("two.jpg", "cam2", {"cup": CUP}, {"cup": [CUP]}),
    ]


class SplatFake(FakeField):
    """One Gaussian per pixel: Gaussian i is pixel i, and a selection's silhouette is the selection itself."""

    SELECTED: ClassVar = {"cup": LEFT_HALF, "lamp": box(0, 0, 1, 1)}

    def select(self, query: Query) -> Selection:
        mask = torch.stack([torch.from_numpy(self.SELECTED[text]).flatten() for text in query.positives])
        some = (0.9,) * len(mask)
        return Selection(mask.float(), mask, (0,) * len(mask), some, some, mask.float())

    def silhouettes(self, camera: str, masks: torch.Tensor) -> torch.Tensor:
        return masks.reshape(-1, H, W).float()


def test_selected_gaussians_are_scored_by_their_silhouette() -> None:
    scores = evaluate(SplatFake(ANSWERS, LEVELS, FakeEncoder(WORDS)), frames(), ["tiger"])
    assert [row.get("iou_3d") for row in scores.table] == [0.5, 0.0, None, 0.5, None]
    assert scores.summary["language_miou_3d"] == pytest.approx(1 / 3)
    assert scores.summary["language_acc25_3d"] == pytest.approx(2 / 3)
    assert "language_miou_3d" not in evaluate(field(), frames(), []).summary, "a key that does not apply is left out"


def test_known_maps_give_known_scores() -> None:
    subject: LanguageField = field()
    scores = evaluate(subject, frames(), ["tiger"])
    assert [(row["frame"], row["prompt"], row["iou"]) for row in scores.table if row["present"]] == [
        ("one.jpg", "cup", 0.5),
        ("one.jpg", "lamp", 1.0),
        ("two.jpg", "cup", 0.0),
    ]
    assert scores.summary == pytest.approx(
        {
            "language_miou": 0.5,
            "language_miou_whole": (1 + 1 + 0) / 3,
            "language_miou_part": 0.5 / 3,
            "language_localization": 2 / 3,
            "language_absent_rejection": 0.5,
            "language_prompts_scored": 2,
            "language_prompts_total": 2,
        }
    )
    first = scores.table[0]
    assert first["level"] == "part" and first["hit"] is True and first["reason"] is None
    assert first["peak"] == pytest.approx(0.9) and first["threshold"] == pytest.approx(0.66)
    assert first["area"] == pytest.approx(200 / (H * W)) and first["gt_area"] == pytest.approx(400 / (H * W))
    x, y = first["peak_at"]
    assert LEFT_HALF[y, x]


def test_a_fixed_level_answers_everywhere() -> None:
    scores = evaluate(field(), frames(), [], level="whole")
    assert scores.summary["language_miou"] == scores.summary["language_miou_whole"] == pytest.approx(2 / 3)
    assert {row["level"] for row in scores.table} == {"whole"}


def test_a_fixed_threshold_is_taken_as_it_is() -> None:
    scores = evaluate(field(), frames(), ["tiger"], threshold=0.35)
    assert {row["threshold"] for row in scores.table} == {0.35}
    # Below 0.5 things that lose to the negatives count as found too.
    assert scores.summary["language_absent_rejection"] == 0.0


def test_level_choice_is_the_fields_and_on_raw_peaks() -> None:
    speck = np.full((H, W), 0.1)
    speck[20, 20] = 0.95
    answers = {"cam1": {"cup": both(plateau(CUP, 0.9), speck)}}
    scores = evaluate(field(answers), [LabelledFrame("one.jpg", "cam1", {"cup": CUP}, {})], [])
    # The speck's raw peak is the highest, its smoothed peak is far lower.
    assert scores.table[0]["level"] == "part"
    assert scores.table[0]["peak"] < 0.9
    assert scores.table[0]["iou_by_level"]["whole"] == 1.0


def test_refused_prompts_are_decided_before_rendering() -> None:
    subject = field()
    labelled = frames()
    labelled[0].masks["dragon"] = LAMP
    labelled[0].boxes["dragon"] = [LAMP]
    scores = evaluate(subject, labelled, ["tiger", "unicorn"])
    reference = evaluate(field(), frames(), ["tiger"])
    assert scores.summary == reference.summary | {"language_prompts_total": 3.0}
    refused = [row for row in scores.table if not row["scored"]]
    assert [row["prompt"] for row in refused] == ["dragon", "unicorn", "unicorn"]
    assert all("unknown word" in row["reason"] for row in refused)
    assert all("dragon" not in query.positives for query in subject.queries)


def test_nothing_that_can_be_asked() -> None:
    subject = FakeField({}, LEVELS, FakeEncoder({"thing": (1, 0)}))
    scores = evaluate(subject, frames(), ["tiger"])
    assert scores.summary == {"language_prompts_scored": 0.0, "language_prompts_total": 2.0}
    assert not subject.queries
    json.loads(scores.to_json())


def test_frames_without_labels_still_ask_for_the_absent() -> None:
    scores = evaluate(field(), [LabelledFrame("one.jpg", "cam1", {}, {})], ["tiger"])
    assert scores.summary == {
        "language_absent_rejection": 1.0,
        "language_prompts_scored": 0.0,
        "language_prompts_total": 0.0,
    }
    assert evaluate(field(), [], ["tiger"]).table == []


def test_one_call_per_frame_and_chunks_beyond_that(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = field()
    whole = evaluate(subject, iter(frames()), ["tiger"])
    assert [query.positives for query in subject.queries] == [("cup", "lamp", "tiger"), ("cup", "tiger")]
    monkeypatch.setattr(evaluator, "PROMPTS_PER_CALL", 2)
    subject = field()
    assert evaluate(subject, frames(), ["tiger"]).table == whole.table
    assert [len(query.positives) for query in subject.queries] == [2, 1, 2]


def test_translations_are_asked_in_place_of_the_prompt() -> None:
    subject = field()
    scores = evaluate(subject, frames()[1:], ["tiger"], translations={"cup": "杯子"})
    assert subject.queries[0].positives == ("杯子",)
    assert (scores.table[0]["prompt"], scores.table[0]["text"], scores.table[0]["iou"]) == ("cup", "杯子", 1.0)
    assert scores.table[1]["reason"] == "there is no translation of it"
    assert "杯子" in scores.to_json()


def test_options_reach_the_field() -> None:
    subject = field()
    evaluate(subject, frames()[:1], [], level="part", threshold=0.6, negatives=("lamp",))
    assert subject.queries[0] == Query(("cup", "lamp"), ("lamp",), "part", 0.6)


def test_labels_outside_the_photo_and_without_boxes() -> None:
    frame = LabelledFrame("one.jpg", "cam1", {"cup": np.zeros((H, W), bool), "lamp": LAMP}, {"cup": []})
    scores = evaluate(field(), [frame], [])
    assert scores.table[0]["reason"] == "no labelled pixel lies in the frame"
    assert "hit" not in scores.table[1]
    assert "language_localization" not in scores.summary


def test_values_that_are_not_numbers_are_no_evidence() -> None:
    hole = plateau(CUP, 0.9)
    hole[0, :] = np.nan
    scores = evaluate(field({"cam1": {"cup": both(hole, hole)}}), [LabelledFrame("a", "cam1", {"cup": CUP}, {})], [])
    assert scores.summary["language_miou"] == 1.0
    json.loads(scores.to_json())


def test_mistakes_are_named() -> None:
    small = LabelledFrame("one.jpg", "cam1", {"cup": CUP[:-1]}, {})
    with pytest.raises(UserError, match=r"one\.jpg.*60 x 40.*'cup'.*60 x 39"):
        evaluate(field(), [small], [])
    small_box = LabelledFrame("one.jpg", "cam1", {"cup": CUP}, {"cup": [CUP[:, 1:]]})
    with pytest.raises(UserError, match="59 x 40"):
        evaluate(field(), [small_box], [])
    subject = field()
    with pytest.raises(UserError, match=r"no level 'object'.*whole, part"):
        evaluate(subject, frames(), [], level="object")
    with pytest.raises(UserError, match="threshold"):
        evaluate(subject, frames(), [], threshold=2.0)
    with pytest.raises(UserError, match=r"'cup' is labelled in frame 'one\.jpg'"):
        evaluate(subject, frames(), ["cup"])
    with pytest.raises(UserError, match="negative phrase 'dragon'"):
        evaluate(subject, frames(), [], negatives=("dragon",))
    assert not subject.queries


def test_answers_are_handed_out_while_they_are_at_hand() -> None:
    seen: list[UnitAnswer] = []
    scores = evaluate(field(), frames(), ["tiger"], on_answer=seen.append)
    assert [answer.row for answer in seen] == scores.table
    assert np.array_equal(seen[1].mask, LAMP)
    assert seen[1].truth is LAMP and seen[2].truth is None
    assert seen[0].relevancy.shape == (H, W)


def test_scores_over_common_prompts_and_from_json() -> None:
    scores = evaluate(field(), frames(), ["tiger"])
    table = json.loads(scores.to_json())["table"]
    assert summarise(table) == scores.summary
    common = summarise(table, {"lamp"})
    assert common["language_miou"] == 1.0
    assert common["language_prompts_total"] == 1
    assert "language_absent_rejection" not in common


masks = arrays(bool, (5, 6))


@given(masks, masks)
@settings(max_examples=100, deadline=None)
def test_iou_by_counting(found: np.ndarray, truth: np.ndarray) -> None:
    pairs = list(zip(found.ravel(), truth.ravel(), strict=True))
    union = sum(bool(a or b) for a, b in pairs)
    expected = sum(bool(a and b) for a, b in pairs) / union if union else 1.0
    assert metrics.iou(found, truth) == pytest.approx(expected)
    assert metrics.iou(truth, found) == metrics.iou(found, truth)


@given(arrays(np.float32, (5, 6), elements=st.sampled_from([0.0, 0.25, 0.75])), masks)
@settings(max_examples=100, deadline=None)
def test_a_hit_is_any_highest_pixel_in_any_box(values: np.ndarray, truth: np.ndarray) -> None:
    highest = [(y, x) for y in range(5) for x in range(6) if values[y, x] == max(values.ravel())]
    expected = len(highest) < 30 and any(truth[place] for place in highest)
    empty = np.zeros_like(truth)
    assert metrics.peak_hits(values, [empty, truth]) is expected
    x, y = metrics.peak_position(values)
    assert (y, x) == highest[0]


def test_mean_of_nothing_is_none() -> None:
    assert metrics.mean([]) is None
    assert metrics.mean([True, False]) == 0.5


def test_painting_gives_each_pixel_its_regions_value() -> None:
    labels = torch.tensor([[0, 1], [-1, 1]], dtype=torch.int32)
    painted = paint(torch.tensor([[0.2, 0.7], [0.5, 0.1]]), labels)
    assert torch.allclose(painted, torch.tensor([[[0.2, 0.7], [0.0, 0.7]], [[0.5, 0.1], [0.0, 0.1]]]))
    assert paint(torch.zeros(3, 0), torch.full((2, 2), -1)).shape == (3, 2, 2)


def oracle() -> OracleField:
    """A photo with a cup (whole), whose handle has no evidence, and a lamp (part)."""
    whole, part = np.full((2, H, W), -1, np.int32)
    whole[CUP], part[LAMP] = 0, 1
    part[LEFT_HALF] = 0
    rows = np.array([[np.nan] * 3, WORDS["lamp"]], np.float32)
    features = FrameFeatures(LabelMaps(np.stack([whole, part]), LEVELS), (np.array([WORDS["cup"]], np.float32), rows))
    return OracleField(FakeEncoder(WORDS), LEVELS, lambda camera: {"photo": features}[camera])


def test_the_oracle_answers_from_the_photo_alone() -> None:
    frame = LabelledFrame("a.jpg", "photo", {"cup": CUP, "lamp": LAMP}, {"cup": [CUP], "lamp": [LAMP]})
    scores = evaluate(oracle(), [frame], [])
    # Around a region there is nothing, and still smoothing leaves each box its four corners.
    assert scores.summary["language_miou"] == 1.0
    assert scores.summary["language_localization"] == 1.0
    assert [row["level"] for row in scores.table] == ["whole", "part"]
    maps = oracle().relevancy("photo", Query(("lamp",), level="part"))
    assert maps.chosen == (1,)
    # sigmoid(10) on the lamp; nothing where there is no region or a region without evidence.
    assert torch.allclose(maps.best()[0], torch.from_numpy(LAMP) * torch.sigmoid(torch.tensor(10.0)))


def test_the_oracle_takes_the_encoders_own_temperature() -> None:
    field = oracle()
    field.encoder.temperature = 4.0  # type: ignore[attr-defined]
    maps = field.relevancy("photo", Query(("lamp",), level="part"))
    assert torch.allclose(maps.best()[0], torch.from_numpy(LAMP) * torch.sigmoid(torch.tensor(4.0)))


def test_the_oracle_refuses_like_any_field() -> None:
    with pytest.raises(KeyError, match="dragon"):
        oracle().relevancy("photo", Query(("dragon",)))
    with pytest.raises(UserError, match="no level 'object'"):
        oracle().relevancy("photo", Query(("cup",), level="object"))
    with pytest.raises(NotSplatError):
        oracle().select(Query(("cup",)))


def test_shrinking_takes_photo_and_labels_along() -> None:
    photo = Frame("a.jpg", "key", lambda: np.arange(H * W * 3, dtype=np.uint8).reshape(H, W, 3))
    frame = LabelledFrame("a.jpg", None, {"cup": CUP}, {"cup": [LEFT_HALF]})
    same, untouched = shrink(frame, photo, 1)
    assert untouched is photo and same.camera is photo and same.masks is frame.masks
    smaller, small_photo = shrink(frame, photo, 2.0)
    assert small_photo.load().shape == (20, 30, 3) and small_photo.content_key != photo.content_key
    assert smaller.camera is small_photo
    assert np.array_equal(smaller.masks["cup"], CUP[::2, ::2])
    assert np.array_equal(smaller.boxes["cup"][0], LEFT_HALF[::2, ::2])
    with pytest.raises(UserError, match=r"0\.5"):
        shrink(frame, photo, 0.5)
