"""Chinese colour names: found in running text, with the vectors of English ones, and the same masks at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lang_splat_ns.evaluation.evaluator import LabelledFrame, UnitAnswer, evaluate
from lang_splat_ns.evaluation.oracle import OracleField
from lang_splat_ns.perception.colour_names import FAMILIES, colour_table
from lang_splat_ns.perception.colour_names_zh import NAMES, chinese_names_in, chinese_table, near_chinese_names
from lang_splat_ns.perception.colour_words import ColourWordsEncoder
from lang_splat_ns.perception.encoders import CHINESE_NEGATIVES, LERF_NEGATIVES
from lang_splat_ns.perception.extract import Frame, extract, read
from lang_splat_ns.perception.feature_store import FeatureStore
from lang_splat_ns.perception.segmenters import make_segmenter
from lang_splat_ns.scenes.gallery_scene import CHINESE
from lang_splat_ns.scenes.labels import read_labels

ENCODER = ColourWordsEncoder()


@pytest.mark.parametrize(
    ("chinese", "english"),
    [
        ("红色的杯子", "red cup"), ("大红", "red"), ("深红色沙发", "dark red sofa"), ("褐红", "maroon"),
        ("橙色", "orange"), ("橘", "orange"), ("棕色的桌子", "brown table"), ("咖啡色", "brown"), ("米色", "beige"),
        ("卡其裤", "khaki trousers"), ("黄", "yellow"), ("金色", "gold"), ("橄榄绿", "olive green"), ("绿", "green"),
        ("草绿", "grass green"), ("青色圆柱", "teal cylinder"), ("蓝绿", "teal"), ("天蓝色", "sky blue"),
        ("浅蓝", "light blue"), ("蓝", "blue"), ("深蓝", "dark blue"), ("藏青", "navy"), ("紫色", "purple"),
        ("淡紫", "lavender"), ("薰衣草色", "lavender"), ("洋红", "magenta"), ("品红", "magenta"), ("粉色", "pink"),
        ("粉红", "pink"), ("亮粉色", "hot pink"), ("白色", "white"), ("灰色", "grey"), ("银色", "silver"),
        ("黑色", "black"), ("黄绿色", "lime green"), ("湖蓝", "turquoise"), ("红白相间的灯", "red and white lamp"),
        ("黄黑相间的小汽车", "yellow and black car"), ("紅色與藍色", "red and blue"),
        ("深绿色的 box", "dark green box"), ("red 和 蓝", "red and blue"),
    ],
)  # fmt: skip
def test_a_prompt_and_its_translation_have_one_vector(chinese: str, english: str) -> None:
    np.testing.assert_array_equal(ENCODER.embed_text([chinese]), ENCODER.embed_text([english]))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("天蓝色的球", ["sky blue"]), ("蓝天", ["blue"]), ("粉白相间", ["pink", "white"]),
        ("浅天蓝", ["light sky blue"]), ("绿色的青蛙", ["green"]), ("银行", []), ("金属杯", []), ("一只猫", []),
        ("红绿灯", []), ("西红柿", []), ("橙子", []), ("咖啡", []), ("咖啡色", ["brown"]), ("黄金色", ["gold"]),
        ("黄瓜和黄花", ["yellow"]), ("", []),
    ],
)  # fmt: skip
def test_names_in_running_text(text: str, names: list[str]) -> None:
    assert chinese_names_in(text) == names


def test_every_name_stands_for_a_colour_that_the_survey_has() -> None:
    assert set(chinese_table().values()) <= set(colour_table())
    words = [word for names in NAMES.values() for word in names.split()]
    assert len(words) == len(set(words))
    # No name is cut short by a thing or by another name.
    for word, name in chinese_table().items():
        assert chinese_names_in(word) == [name]


def test_every_family_has_a_chinese_name() -> None:
    looks_like = ENCODER.embed_text(list(chinese_table())).argmax(axis=1)
    assert set(looks_like) == set(range(len(FAMILIES)))


def test_negatives_are_the_same_in_both_languages() -> None:
    rows = ENCODER.embed_text([*LERF_NEGATIVES, *CHINESE_NEGATIVES])
    assert (rows == rows[0]).all()
    np.testing.assert_array_equal(ENCODER.embed_text(["白色的东西"]), ENCODER.embed_text(["white things"]))


def test_refusals_suggest_names_that_share_a_character() -> None:
    assert near_chinese_names("玫色的花")[:2] == ["玫红", "玫瑰红"]
    assert near_chinese_names("一只猫") == []
    with pytest.raises(KeyError, match=r"'天兰的球' names no colour.*did you mean .*天蓝"):
        ENCODER.embed_text(["天兰的球"])
    with pytest.raises(KeyError, match=r"'猫' names no colour.*nothing else\. The encoder"):
        ENCODER.embed_text(["猫"])


def test_the_demo_scenes_prompts_mean_the_same_in_chinese() -> None:
    for english, chinese in CHINESE.items():
        rows = []
        for text in (english, chinese):
            try:
                rows.append(ENCODER.embed_text([text]).tolist())
            except KeyError:
                rows.append(None)
        assert rows[0] == rows[1], (english, chinese)


def test_the_demo_scenes_masks_are_the_same_in_chinese(tiny_scene: Path, tmp_path: Path) -> None:
    labels = read_labels(tiny_scene)
    assert labels is not None
    frames = [labelled(tiny_scene, stem, truth) for stem, truth in labels.frames.items()]
    segmenter, store = make_segmenter("felzenszwalb"), FeatureStore(tmp_path)
    extract([frame.camera for frame in frames], segmenter, ENCODER, store)
    field = OracleField(
        ENCODER,
        read(frames[0].camera, segmenter.segmenter_id, ENCODER.encoder_id, store).label_maps.levels,
        lambda photo: read(photo, segmenter.segmenter_id, ENCODER.encoder_id, store),
    )
    answers: dict[str, list[UnitAnswer]] = {"en": [], "zh": []}
    scores = {
        language: evaluate(
            field,
            frames,
            labels.absent,
            translations=labels.in_language(language, tiny_scene),  # type: ignore[arg-type]
            on_answer=answers[language].append,
        )
        for language in answers
    }
    assert scores["zh"].summary == scores["en"].summary
    assert scores["zh"].summary["language_prompts_scored"] > 5
    assert {row["text"] for row in scores["zh"].table} <= set(CHINESE.values())
    assert len(answers["zh"]) == len(answers["en"]) > 10
    for chinese, english in zip(answers["zh"], answers["en"], strict=True):
        np.testing.assert_array_equal(chinese.mask, english.mask)
    assert any(answer.mask.any() for answer in answers["zh"])


def labelled(scene: Path, stem: str, truth: Any) -> LabelledFrame:
    """A labelled photo as the oracle wants it: its camera is the photo itself."""
    import cv2

    path = scene / "images" / f"{stem}.png"
    photo = Frame(path.name, stem, lambda: np.ascontiguousarray(cv2.imread(str(path))[..., ::-1]))
    return LabelledFrame(path.name, photo, {prompt: truth.mask(prompt) for prompt in truth.polygons}, {})
