"""What nerfstudio's viewer does to a model: it interrupts renders at any line, and shows what people type."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from interruptions import interrupted_at, traced, visits_of
from language_fakes import FakeEncoder, FakeField
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.language.text import TextCache
from lang_splat_ns.plugin.init_from import read_start
from lang_splat_ns.plugin.own_frame import own_gaussians
from lang_splat_ns.plugin.prompts import Prompts
from lang_splat_ns.plugin.runs import Run, frame_camera, open_run
from lang_splat_ns.plugin.viewer.picking import camera_at, pick
from lang_splat_ns.plugin.viewer.renders import viewer_outputs
from lang_splat_ns.plugin.viewer.session import Report, Session
from lang_splat_ns.plugin.viewer.takeaway import best_place
from lang_splat_ns.splatting.gaussians import Similarity
from lang_splat_ns.splatting.ply import ply_bytes


class KnowsTwo:
    """An encoder of two words, without a network."""

    encoder_id = "knows-two"
    dim = 2
    negatives = ("thing",)

    def embed_text(self, texts: Any) -> np.ndarray:
        """One direction per known word."""
        known = {"sun": (1.0, 0.0), "moon": (0.0, 1.0), "thing": (0.6, 0.8)}
        for text in texts:
            if text not in known:
                raise KeyError(f"{text!r} is unknown")
        return np.array([known[text] for text in texts], np.float32)


def test_half_typed_text_keeps_the_last_answer() -> None:
    prompts = Prompts(lambda: TextCache(KnowsTwo()), ())  # type: ignore[arg-type]
    assert prompts.submit("su", "") == "'su' is unknown" and prompts.query is None
    assert prompts.submit("sun", "") == "" and prompts.query == Query(("sun",))
    assert prompts.submit("sun; mo", "thing; x") == "'mo' is unknown\n'x' is unknown"
    assert prompts.query == Query(("sun",), ("thing",))
    assert prompts.submit("mo", "") == "'mo' is unknown" and prompts.query == Query(("sun",), ("thing",))
    assert prompts.submit(" ; ", "") != "" and prompts.query is not None
    assert prompts.submit("  ", "sun") == "" and prompts.query is None


def test_an_encoder_that_breaks_its_promises_is_found_before_a_render() -> None:
    class NoNegatives(KnowsTwo):
        negatives = ()

    prompts = Prompts(lambda: TextCache(NoNegatives()), ("sun",))  # type: ignore[arg-type]
    assert "negative" in prompts.recheck() and prompts.query is None
    assert "negative" in prompts.submit("sun", "") and prompts.query is None
    assert prompts.submit("sun", "thing") == "" and prompts.query is not None


def test_queries_without_their_encoder_are_dropped() -> None:
    def missing() -> TextCache:
        raise UserError("no such encoder")

    prompts = Prompts(missing, ("sun",))
    assert prompts.recheck() == "no such encoder" and prompts.query is None
    assert prompts.submit("sun", "") == "no such encoder" and prompts.query is None


def test_more_prompts_than_a_picture_takes_are_limited() -> None:
    prompts = Prompts(lambda: TextCache(KnowsTwo()), ())  # type: ignore[arg-type]
    told = prompts.submit(";".join(["sun", "moon"] * 250), "", most=4)
    assert "first 4 of 500" in told and prompts.query == Query(("sun", "moon", "sun", "moon"))
    assert "501" in prompts.submit(";".join(["sun"] * 501), "", most=4)
    assert "10000 characters" in prompts.submit("x" * 10_000, "", most=4) and prompts.query is not None


def test_names_stand_for_embeddings_without_being_asked() -> None:
    texts = TextCache(KnowsTwo())  # type: ignore[arg-type]
    texts.name("⟦it⟧", torch.tensor([0.6, -0.8]))
    assert texts.is_named("⟦it⟧") and not texts.is_named("sun")
    assert torch.equal(texts.embed(["sun", "⟦it⟧"]), torch.tensor([[1.0, 0.0], [0.6, -0.8]]))
    texts.embed(["sun", "sun", "moon"])
    assert (texts.hits, texts.misses) == (1, 2)


@pytest.fixture(scope="module", params=["langsplat", "langsplat-lift"])
def opened(request: pytest.FixtureRequest) -> Run:
    """A finished run of each method, opened."""
    folder = request.getfixturevalue("run" if request.param == "langsplat" else "lifted")
    return open_run(folder / "config.yml")


@pytest.fixture(scope="module")
def opened_lift(lifted: Path) -> Run:
    """The langsplat-lift run, which already knows its colours after its few steps."""
    return open_run(lifted / "config.yml")


def _found(opened: Run) -> Query:
    """A query that selects something, however little a run of so few steps has learned."""
    query = Query(("green",))
    best = float(opened.pipeline.model.language_field().select(query).scores.max())
    return replace(query, threshold=0.8 * best)


def _asked(opened: Run, **values: Any) -> Session:
    session = Session()
    session.change(query=_found(opened), **values)
    return session


def _small_camera(opened: Run) -> Any:
    _, camera = frame_camera(opened, None)
    camera.rescale_output_resolution(0.25)
    return camera


def test_a_render_may_be_interrupted_at_any_line(opened: Run) -> None:
    model, camera = opened.pipeline.model, _small_camera(opened)
    model.texts().embed(["green"])
    session = _asked(opened, mode="mask", picked=torch.arange(model.num_points) % 3 == 0)

    def render() -> dict[str, torch.Tensor]:
        return viewer_outputs(model, camera, None, session)

    expected = render()
    visits = visits_of(render)
    assert len(visits) > 200
    ends: list[str] = []

    def interrupt_everywhere() -> None:
        for visit in visits:
            ends.append(interrupted_at(visit, render))

    # In a thread of its own, as in the viewer: a lock that stays taken would otherwise stop the tests for ever.
    thread = threading.Thread(target=interrupt_everywhere, daemon=True)
    thread.start()
    thread.join(timeout=240)
    assert not thread.is_alive(), f"a lock stays taken after an interruption at line {visits[len(ends) - 1]}"
    assert set(ends) == {"IOChangeException"}
    again = render()
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_modes_show_in_the_picture_itself(opened_lift: Run) -> None:
    model = opened_lift.pipeline.model
    # Small pictures blur what is hidden into what is behind it.
    _, camera = frame_camera(opened_lift, None)
    pictures = {
        mode: viewer_outputs(model, camera, None, _asked(opened_lift, mode=mode))["rgb"]
        for mode in ("rgb", "relevancy", "mask", "isolate", "hide")
    }
    plain = model.get_outputs_for_camera(camera)["rgb"]
    assert torch.equal(pictures["rgb"], plain), "the panel changes nothing in the mode rgb, nor outside the viewer"
    assert all((pictures[mode] - plain).abs().max() > 0.1 for mode in pictures if mode != "rgb")


def test_only_the_viewers_own_renders_show_what_the_panel_wants(opened: Run) -> None:
    model, camera = opened.pipeline.model, _small_camera(opened)
    before = model.get_outputs_for_camera(camera)
    model.show_in_viewer(_asked(opened, mode="mask"))
    assert torch.equal(model.get_outputs_for_camera(camera)["rgb"], before["rgb"])
    model.show_in_viewer(None)


def test_what_goes_wrong_in_a_render_is_told_and_the_scene_is_shown(opened: Run) -> None:
    model, camera = opened.pipeline.model, _small_camera(opened)
    session = Session()
    session.change(query=Query(("red",), level="no such level"))
    outputs = viewer_outputs(model, camera, None, session)
    assert torch.equal(outputs["rgb"], model.plain_outputs(camera)["rgb"])
    assert "no such level" in session.reports.get().trouble


def test_a_render_that_nobody_wants_any_more_ends(opened: Run) -> None:
    model, session = opened.pipeline.model, _asked(opened)
    splat = model.splat

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        session.change(opacity=0.1)
        return splat(*arguments, **options)

    model.splat = meanwhile
    try:
        with pytest.raises(IOChangeException):
            viewer_outputs(model, _small_camera(opened), None, session)
    finally:
        del model.splat
    assert session.reports.empty()


def test_a_click_finds_the_object_and_asks_for_more_of_its_kind(opened_lift: Run) -> None:
    model = opened_lift.pipeline.model
    field = model.language_field()
    _, camera = frame_camera(opened_lift, None)
    peak = field.relevancy(camera, Query(("green",))).best()[0]
    row, column = np.unravel_index(int(peak.argmax()), peak.shape)
    place = camera_at(camera, (column + 0.5) / peak.shape[1], (row + 0.5) / peak.shape[0])
    found = pick(model, field, place, "auto")
    assert found.mask is not None and 0 < int(found.mask.sum()) < model.num_points / 2
    green, other = (float(model.texts().embed([word])[0] @ found.embedding) for word in ("green", "red"))
    assert green > other
    alike = field.select(found.query).mask[0]
    assert alike.sum() >= found.mask.sum() and bool((alike | ~found.mask).all())
    assert pick(model, field, place, "auto").query.positives != found.query.positives


def test_contributions_are_the_blending_weights(opened: Run) -> None:
    model, camera = opened.pipeline.model, _small_camera(opened)
    weights = model.contributions(camera)
    _, alpha = model.blend(camera, torch.ones(model.num_points, 1))
    assert weights.shape == (model.num_points,) and float(weights.sum()) == pytest.approx(float(alpha.sum()), rel=1e-3)


def test_a_selection_leaves_in_the_data_sets_own_frame(opened: Run, tmp_path: Path) -> None:
    model, outputs = opened.pipeline.model, opened.pipeline.datamanager.train_dataparser_outputs
    frame = Similarity.from_dataparser(outputs.dataparser_transform, outputs.dataparser_scale)
    mask = torch.arange(model.num_points) % 5 == 0
    file = tmp_path / "selection.ply"
    file.write_bytes(ply_bytes(own_gaussians(opened.pipeline).some(mask)))
    back = read_start(file, frame).gaussians
    assert torch.allclose(back.means, model.gaussians().means.detach()[mask], atol=1e-5)


def test_the_best_place_sees_the_selection(opened_lift: Run) -> None:
    model, cameras = opened_lift.pipeline.model, opened_lift.pipeline.datamanager.train_dataset.cameras
    mask = model.language_field().select(_found(opened_lift)).mask[0]
    place = best_place(model, cameras, mask)
    assert any(np.allclose(place.position, pose[:, 3].numpy(), atol=1e-5) for pose in cameras.camera_to_worlds)
    assert np.linalg.norm(place.target - model.gaussians().means[mask].detach().mean(0).numpy()) < 1.0


class WithoutGaussians:
    """A model like LERF: it has a field and renders, and nothing to select."""

    def __init__(self) -> None:
        self.field = FakeField(
            {"camera": {"red": np.full((1, 8, 8), 0.9, np.float32)}}, ("scale",), FakeEncoder({"red": (1, 0)})
        )

    def has_language(self) -> bool:
        return True

    def language_field(self, query_mode: Any = None) -> FakeField:
        return self.field

    def answer_camera(
        self, camera: Any, query: Query | None, obb_box: Any = None, between: Any = None
    ) -> tuple[dict[str, torch.Tensor], Any]:
        assert query is not None
        outputs = {"rgb": torch.full((8, 8, 3), 0.5), "accumulation": torch.ones(8, 8, 1)}
        return outputs, self.field.relevancy(camera, query)


def test_a_method_without_gaussians_has_the_same_panel() -> None:
    model, session = WithoutGaussians(), Session()
    session.change(query=Query(("red",)))
    outputs = viewer_outputs(model, "camera", None, session)  # type: ignore[arg-type]
    assert {"rgb", "relevancy_0", "composited_0"} <= set(outputs) and (outputs["rgb"] - 0.5).abs().min() > 0.05
    report: Report = session.reports.get()
    assert report.peaks[0] == pytest.approx(0.9) and not report.trouble


def test_viewer_finds_the_panel_and_walks_nothing_expensive(opened: Run) -> None:
    from nerfstudio.viewer.utils import parse_object
    from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

    ((path, panel),) = parse_object(opened.pipeline, ViewerControl, "Custom Elements")
    assert path.endswith("/language_panel") and panel is opened.pipeline.language_panel
    assert not parse_object(opened.pipeline, ViewerElement, "Custom Elements")


def test_guard_hides_the_trace_function_and_puts_it_back() -> None:
    from lang_splat_ns.interrupts import uninterrupted

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        return trace

    def look(fails: bool) -> None:
        with uninterrupted():
            assert sys.gettrace() is None
            if fails:
                raise ValueError
        assert sys.gettrace() is trace

    def work() -> None:
        look(fails=False)
        with pytest.raises(ValueError):
            look(fails=True)
        assert sys.gettrace() is trace

    traced(trace, work)
