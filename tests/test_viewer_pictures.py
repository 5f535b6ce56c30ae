"""What the panel draws, remembers and says: pure functions, without a viewer."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.vocabulary import CHUNK, Vocabulary, read_words
from lang_splat_ns.plugin.viewer import memory, words
from lang_splat_ns.plugin.viewer.markup import as_plain_markdown
from lang_splat_ns.plugin.viewer.memory import Settings, read_settings, write_settings
from lang_splat_ns.plugin.viewer.picking import connected, edited
from lang_splat_ns.plugin.viewer.pictures import PALETTE, edge, find, lit_up, mask_picture, overlay
from lang_splat_ns.plugin.viewer.session import Report, Session, View, drawn_in
from lang_splat_ns.plugin.viewer.takeaway import Place, flight
from lang_splat_ns.plugin.viewer.worker import Worker


@pytest.fixture
def rgb() -> torch.Tensor:
    """A grey render."""
    return torch.full((40, 60, 3), 0.5)


@pytest.fixture
def best() -> torch.Tensor:
    """Relevancy of two prompts: one on the left, one nowhere."""
    maps = torch.full((2, 40, 60), 0.3)
    maps[0, 10:30, 5:25] = 0.95
    return maps


def test_background_is_never_found(best: torch.Tensor) -> None:
    alpha = torch.ones(40, 60, 1)
    assert find(best, alpha, "auto").masks[0, 20, 15]
    found = find(best, alpha * 0.05, "auto")
    assert not found.masks.any() and found.peaks == (0.0, 0.0) and found.areas == (0.0, 0.0)


def test_overlay_colours_what_is_found_and_subdues_the_rest(rgb: torch.Tensor, best: torch.Tensor) -> None:
    found = find(best, torch.ones(40, 60, 1), "auto")
    picture = overlay(rgb, found, 0.9)
    color = torch.tensor(PALETTE[0]) / 255
    assert (picture[20, 15] - color).abs().max() < 0.15
    assert picture[20, 50].max() < 0.4, "the rest is darker than the render was"
    assert torch.equal(overlay(rgb, found, 0.0)[20, 15], overlay(rgb, found, 0.0)[20, 50])
    assert found.areas[1] == 0.0 and not found.masks[1].any(), "absent things stay absent"


def test_mask_picture_keeps_the_look_of_what_is_found(rgb: torch.Tensor, best: torch.Tensor) -> None:
    found = find(best, torch.ones(40, 60, 1), "auto")
    assert torch.equal(mask_picture(rgb, found, 0.0)[20, 15], rgb[20, 15])
    assert mask_picture(rgb, found, 1.0)[20, 50].max() < 0.2


def test_what_was_clicked_is_bright_with_a_line_around_it(rgb: torch.Tensor) -> None:
    share = torch.zeros(40, 60, 1)
    share[10:30, 5:25] = 1.0
    picture = lit_up(rgb, share, rest=True)
    assert picture[20, 15].min() > 0.6 and picture[20, 50].max() < 0.4
    assert torch.equal(picture[9, 15], torch.ones(3)) and torch.equal(lit_up(rgb, share, rest=False)[20, 50], rgb[0, 0])
    assert not edge(share[..., 0] > 0.5)[20, 15]


def test_an_empty_selection_is_not_drawn_alone() -> None:
    some = torch.tensor([True, False])
    assert drawn_in("isolate", some) is some and drawn_in("hide", some).tolist() == [False, True]  # type: ignore[union-attr]
    assert drawn_in("isolate", ~(some | ~some)) is None and drawn_in("relevancy", some) is None


def test_selections_do_not_outlive_their_gaussians() -> None:
    session = Session()
    view = session.change(picked=torch.ones(5, dtype=torch.bool))
    assert session.selected(view, None, 0, 5) is view.picked and session.selected(view, None, 0, 6) is None  # type: ignore[arg-type]


def test_an_object_ends_where_nothing_touches_it() -> None:
    generator = torch.Generator().manual_seed(0)
    near, far = torch.rand(300, 3, generator=generator), torch.rand(200, 3, generator=generator) + 5.0
    alike = torch.ones(500, dtype=torch.bool)
    alike[:10] = False
    mask = connected(torch.cat([near, far]), alike, torch.tensor([20, 30]))
    assert mask[10:300].float().mean() > 0.95 and not mask[300:].any() and not mask[:10].any()


def test_clicks_add_and_remove() -> None:
    first, second = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    assert edited(None, first, "add").tolist() == [True, False, False]
    both = edited(first, second, "add")
    assert both.tolist() == [True, True, False] and edited(both, first, "remove").tolist() == [False, True, False]
    assert torch.equal(edited(both, second, "select"), second) and not edited(None, first, "remove").any()


def test_settings_survive_and_damage_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run, default = tmp_path / "run", Settings(prompts="red")
    run.mkdir()
    assert read_settings(run, default) == default
    wanted = Settings("红色; 🦆; \u0645\u0631\u062d\u0628\u0627", "thing", "mask", 0.5, "part", False, 0.6, "feature")
    write_settings(run, wanted)
    assert read_settings(run, default) == wanted
    assert [file.name for file in run.iterdir()] == [memory.FILE], "no unfinished file is left"
    content = json.loads((run / memory.FILE).read_text())
    (run / memory.FILE).write_text(json.dumps(content | {"opacity": 7, "mode": 3}))
    assert read_settings(run, default).opacity == 1.0 and read_settings(run, default).mode == default.mode
    (run / memory.FILE).write_text("{")
    assert read_settings(run, default) == default


def test_settings_of_a_run_that_cannot_be_written_go_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run = tmp_path / "file"
    run.write_text("no folder")
    write_settings(run, Settings(prompts="blue"))
    assert read_settings(run, Settings()).prompts == "blue"


def test_worker_does_what_was_asked_last_and_survives_errors() -> None:
    done, said, idle = [], [], threading.Event()
    worker = Worker(said.append, idle.set)

    def fail() -> None:
        raise UserError("that is wrong")

    worker.soon("type", lambda: done.append("re"), 0.2)
    worker.soon("type", lambda: done.append("red"), 0.05)
    worker.soon("fail", fail)
    worker.start()
    end = time.monotonic() + 10
    while not (done and idle.is_set()) and time.monotonic() < end:
        time.sleep(0.01)
    worker.stop()
    assert done == ["red"] and said == ["that is wrong"]


def test_typed_text_cannot_be_markup() -> None:
    shown = as_plain_markdown("{alert(1)} <b>x</b>  **y** [z](u)\n\n1. 红色\n")
    assert not set(shown) & set("{}<>*[]()._`\"'")
    assert shown.endswith("\n\n1&#46; 红色")
    view = View(Query(("<img src=x onerror=alert(1)>", "{1+1}")))
    said = words.answers(view, Report(query=view.query, peaks=(0.9, 0.2), areas=(0.1, 0.0)), "<i>trouble</i>")
    assert "<img" not in said and "<i>" not in said and "{1" not in said
    assert "0.90" in said and "nothing above the threshold" in said and PALETTE[0] != PALETTE[1]


def test_long_prompts_are_shortened_and_old_reports_are_not_shown() -> None:
    view = View(Query(("x" * 500,)))
    assert len(words.answers(view, Report(query=Query(("y",)), peaks=(0.9,), areas=(0.5,)), "")) < 300
    assert "0.90" not in words.answers(view, Report(query=Query(("y",)), peaks=(0.9,), areas=(0.5,)), "")


def test_an_open_host_is_told() -> None:
    assert words.host_warning("127.0.0.1") == "" == words.host_warning("localhost")
    assert "websocket" in words.host_warning("0.0.0.0") and "network" in words.host_warning("192.168.1.4")


def test_words_fit_what_is_pointed_at() -> None:
    from lang_splat_ns.perception.colour_words import ColourWordsEncoder

    encoder = ColourWordsEncoder()
    vocabulary = Vocabulary(encoder, ["red", "blue", "teapot", "green", *["teapot"] * CHUNK])
    assert vocabulary.learn_some() and not vocabulary.learn_some()
    assert vocabulary.words == ("red", "blue", "green"), "what the encoder does not know is left out"
    best = vocabulary.best(torch.from_numpy(encoder.embed_text(["crimson"])[0]), count=2)
    assert best[0][0] == "red" and best[0][1] > 0.5
    for language in ("en", "zh"):
        built_in = read_words(language)
        assert len(built_in) > 100 and len(set(built_in)) == len(built_in) and all(built_in)


def test_a_flight_ends_where_it_is_meant_to() -> None:
    start, end = Place(np.zeros(3), np.ones(3)), Place(np.array([1.0, 2, 3]), np.zeros(3))
    places = flight(start, end, 5)
    assert len(places) == 5 and np.allclose(places[-1].position, end.position)
    assert np.allclose(places[-1].target, end.target) and places[0].position[0] < 0.2
