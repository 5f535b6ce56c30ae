"""Relevancy, smoothing, levels and thresholds against plain loops; prompts and their memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from language_fakes import FakeEncoder

from lang_splat_ns.errors import UserError
from lang_splat_ns.language import text as text_module
from lang_splat_ns.language.relevancy import (
    auto_threshold,
    choose_level,
    mask_of,
    mask_of_smoothed,
    relevancy,
    resolve_threshold,
    smooth,
    smoothing_window,
)
from lang_splat_ns.language.text import TextCache, parse_prompts, refused_texts


def naive_relevancy(embedding: np.ndarray, positive: np.ndarray, negatives: np.ndarray, temperature: float) -> float:
    """The formula of the paper, word by word: softmax of two, minimum over negatives."""
    shares = []
    for negative in negatives:
        p, n = (math.exp(temperature * float(embedding @ other)) for other in (positive, negative))
        shares.append(p / (p + n))
    return min(shares)


def naive_smooth(values: np.ndarray, side: int) -> np.ndarray:
    height, width = values.shape
    result = np.zeros_like(values)
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - side // 2), y + side // 2 + 1)
            columns = slice(max(0, x - side // 2), x + side // 2 + 1)
            result[y, x] = (values[y, x] + values[rows, columns].mean()) / 2
    return result


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def random_rows(seed: int, *shape: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=shape))


def ask(embeddings: np.ndarray, positives: np.ndarray, negatives: np.ndarray, temperature: float = 10.0) -> np.ndarray:
    tensors = (torch.from_numpy(array.astype(np.float32)) for array in (embeddings, positives, negatives))
    return relevancy(*tensors, temperature=temperature).numpy()


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 2)])
def test_relevancy_is_the_papers_formula(shape: tuple[int, ...]) -> None:
    embeddings, positives, negatives = random_rows(0, *shape, 6), random_rows(1, 5, 6), random_rows(2, 4, 6)
    found = ask(embeddings, positives, negatives, temperature=7.0)
    assert found.shape == (5, *shape)
    for place in np.ndindex(*shape):
        for q in range(5):
            assert found[(q, *place)] == pytest.approx(
                naive_relevancy(embeddings[place], positives[q], negatives, 7.0), abs=1e-5
            )


rows_of_three = arrays(np.float64, (8, 3), elements=st.floats(-1, 1, width=32)).filter(
    lambda rows: bool((np.linalg.norm(rows, axis=1) > 1e-2).all())
)


@given(rows_of_three, st.floats(0.5, 100))
@settings(max_examples=150, deadline=None)
def test_above_a_half_exactly_where_the_prompt_beats_every_negative(rows: np.ndarray, temperature: float) -> None:
    rows = unit(rows)
    embeddings, positives, negatives = rows[:4], rows[4:6], rows[6:]
    found = ask(embeddings, positives, negatives, temperature)
    margins = (positives @ embeddings.T)[:, :, None] - (negatives @ embeddings.T).T[None]  # [Q, N, Nn]
    smallest = margins.min(-1)
    # Cosines that differ by less than float32 resolves are decided either way.
    clear = np.abs(smallest) > 1e-5
    assert np.array_equal(found[clear] > 0.5, smallest[clear] > 0)
    assert ((found >= 0) & (found <= 1)).all()


@given(rows_of_three)
@settings(max_examples=50, deadline=None)
def test_another_negative_never_raises_relevancy(rows: np.ndarray) -> None:
    rows = unit(rows)
    fewer, more = ask(rows[:3], rows[3:5], rows[5:7]), ask(rows[:3], rows[3:5], rows[5:8])
    assert (more <= fewer + 1e-6).all()


def test_no_evidence_is_no_relevancy() -> None:
    embeddings = random_rows(3, 5, 4)
    positives, negatives = embeddings[:1].copy(), -embeddings[:1]
    embeddings[1] = np.nan
    embeddings[2, 0] = np.nan
    embeddings[3] = 0
    embeddings[4] = np.inf
    found = ask(embeddings, positives, negatives)
    assert found[0, 0] > 0.99
    assert (found[0, 1:] == 0).all()


def test_half_precision_and_empty_inputs() -> None:
    rows = torch.from_numpy(random_rows(4, 6, 8))
    exact = relevancy(rows[:3], rows[3:5], rows[5:])
    assert torch.allclose(relevancy(rows[:3].half(), rows[3:5], rows[5:]), exact, atol=1e-2)
    assert relevancy(rows[:3], rows[:0], rows[5:]).shape == (0, 3)
    assert relevancy(rows[:0], rows[3:5], rows[5:]).shape == (2, 0)
    with pytest.raises(UserError, match="negative"):
        relevancy(rows[:3], rows[3:5], rows[:0])


@pytest.mark.parametrize("size", [(9, 14), (1, 1), (2, 40), (100, 7)])
def test_smoothing_is_the_mean_of_raw_and_box_mean(size: tuple[int, int]) -> None:
    values = np.random.default_rng(5).uniform(size=(2, 1, *size)).astype(np.float32)
    found = smooth(torch.from_numpy(values)).numpy()
    for index in range(2):
        assert np.allclose(found[index, 0], naive_smooth(values[index, 0], smoothing_window(size[0])), atol=1e-5)


def test_the_window_grows_with_the_photo() -> None:
    assert smoothing_window(730) == 31
    assert [smoothing_window(height) for height in (1, 64, 100)] == [3, 3, 5]
    assert all(smoothing_window(height) % 2 == 1 for height in range(1, 3000, 7))


def test_smoothing_keeps_a_constant_also_at_the_border() -> None:
    assert torch.allclose(smooth(torch.full((3, 20, 31), 0.7)), torch.tensor(0.7))
    assert smooth(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_level_is_chosen_on_raw_peaks() -> None:
    maps = torch.zeros(2, 3, 12, 12)
    maps[0, 0] = 0.8  # A broad answer, whose smoothed peak is the higher one,
    maps[0, 2, 5, 5] = 0.9  # loses to a single pixel with a higher raw peak.
    maps[1, 1] = maps[1, 2] = 0.6
    assert smooth(maps)[0, 0].max() > smooth(maps)[0, 2].max()
    assert choose_level(maps) == (2, 1)


def test_auto_threshold() -> None:
    assert auto_threshold(0.9) == pytest.approx(0.66)
    assert auto_threshold(0.9, fraction=0.25) == pytest.approx(0.6)
    assert auto_threshold(0.5) == auto_threshold(0.1) == 0.5


@given(arrays(np.float32, (6, 9), elements=st.floats(0, 1, width=32)))
@settings(max_examples=40, deadline=None)
def test_auto_mask_against_plain_numpy(values: np.ndarray) -> None:
    smoothed = naive_smooth(values.astype(np.float64), 3)
    limit = 0.5 + 0.4 * max(smoothed.max() - 0.5, 0)
    clear = np.abs(smoothed - limit) > 1e-5
    found = mask_of(torch.from_numpy(values)).numpy()
    assert np.array_equal(found[clear], (smoothed > limit)[clear])
    if smoothed.max() < 0.5 - 1e-5:
        assert not found.any()


def test_a_number_is_taken_as_it_is() -> None:
    weak = torch.full((4, 4), 0.4)
    assert mask_of(weak, 0.3).all()
    assert not mask_of(weak, 0.4001).any()
    assert not mask_of(weak).any()
    assert not mask_of(torch.full((4, 4), 0.5)).any()


def test_mask_of_smooths_once() -> None:
    values = torch.rand(30, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mask_of(values, 0.6), mask_of_smoothed(smooth(values), 0.6))


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan"), "automatic", None])
def test_bad_thresholds_are_told(bad: object) -> None:
    with pytest.raises(UserError, match="threshold"):
        resolve_threshold(0.9, bad)  # type: ignore[arg-type]


def test_prompts_are_split_at_both_semicolons() -> None:
    assert parse_prompts(" red mug;lamp ;; ；键盘；") == ("red mug", "lamp", "键盘")
    assert parse_prompts("a, b") == ("a, b",)


@pytest.mark.parametrize("empty", ["", "  ", ";；; "])
def test_no_prompt_is_an_error(empty: str) -> None:
    with pytest.raises(UserError, match="no prompt"):
        parse_prompts(empty)


def test_prompt_limits_are_told_in_one_line() -> None:
    assert len(parse_prompts(";".join(["a"] * text_module.MAX_PROMPTS))) == 500
    assert len(parse_prompts("a" * 2000)[0]) == 2000
    for text in (";".join(["a"] * 501), "a" * 2001):
        with pytest.raises(UserError) as caught:
            parse_prompts(text)
        assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def encoder() -> FakeEncoder:
    return FakeEncoder({"cup": (1, 0), "lamp": (0, 1), "thing": (1, 1)})


def test_texts_are_embedded_once() -> None:
    fake = encoder()
    cache = TextCache(fake)
    first = cache.embed(("cup", "lamp", "cup"))
    assert first.shape == (3, 2) and torch.equal(first[0], first[2])
    cache.embed(("lamp", "thing"))
    assert fake.calls == [("cup", "lamp"), ("thing",)]
    assert torch.equal(cache.negatives(), cache.embed(("thing",)))
    assert torch.equal(cache.negatives(("cup",)), cache.embed(("cup",)))
    assert cache.embed(()).shape == (0, 2)


def test_the_encoders_own_temperature_and_lerfs_where_it_has_none() -> None:
    fake = encoder()
    assert TextCache(fake).temperature == 10.0
    fake.temperature = 11.2  # type: ignore[attr-defined]
    assert TextCache(fake).temperature == 11.2
    for wrong in (0.0, -1.0, math.inf, math.nan):
        fake.temperature = wrong  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=r"fake/1 has the temperature"):
            _ = TextCache(fake).temperature


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    fake = encoder()
    cache = TextCache(fake, capacity=2)
    for texts in (("cup",), ("lamp",), ("cup",), ("thing",), ("cup",), ("lamp",)):
        cache.embed(texts)
    assert fake.calls == [("cup",), ("lamp",), ("thing",), ("lamp",)]
    # More texts at once than it remembers are answered all the same.
    assert cache.embed(("cup", "lamp", "thing")).shape == (3, 2)


def test_refusals_pass_and_are_collected() -> None:
    cache = TextCache(encoder())
    with pytest.raises(KeyError, match="dragon"):
        cache.embed(("cup", "dragon"))
    assert cache.embed(("cup",)).shape == (1, 2)
    fake = encoder()
    assert refused_texts(fake, ("cup", "dragon", "lamp", "elf", "dragon")) == {
        "dragon": "unknown word: dragon",
        "elf": "unknown word: elf",
    }
    assert refused_texts(fake, ()) == {}


def test_a_plug_in_that_breaks_its_promise_is_named() -> None:
    fake = encoder()
    fake.embed_text = lambda texts: np.zeros((1, 3), np.float32)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="fake/1"):
        TextCache(fake).embed(("cup", "lamp"))
