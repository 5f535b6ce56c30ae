"""LERF in nerfstudio's viewer: on nerfacto, which has no Gaussians, and on Gaussians."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import interrupted_at, visits_of
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from viewer_client import ViewerClient
from viewer_here import viewer_here

from lang_splat_ns.language.field import Query, ReadsFeatures
from lang_splat_ns.plugin.runs import Run, frame_camera, open_run
from lang_splat_ns.plugin.viewer.picking import camera_at, pick
from lang_splat_ns.plugin.viewer.renders import viewer_outputs
from lang_splat_ns.plugin.viewer.session import MODES, Session

QUERY = Query(("red", "sky blue"))


@pytest.fixture(scope="module", params=["lerf_lite", "lerf_splat"])
def folder(request: pytest.FixtureRequest) -> Path:
    """Folder of a finished run of each kind. Read it, do not train in it."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def opened(folder: Path) -> Run:
    """The same run, loaded as the viewer loads it."""
    return open_run(folder / "config.yml")


def _camera(opened: Run, factor: float) -> Any:
    _, camera = frame_camera(opened, None)
    camera.rescale_output_resolution(factor)
    return camera


@pytest.mark.parametrize("method", ["lerf", "lerf-lite", "lerf-big", "lerf-splat"])
def test_ns_viewer(method: str, lerf_runs: dict[str, Path]) -> None:
    has_gaussians = method == "lerf-splat"
    with viewer_here(lerf_runs[method] / "config.yml") as port, ViewerClient(port) as client:
        client.wait("the prompts", lambda: client.elements.get("Prompts", {}).get("value") == "red; sky blue")
        client.wait("the panel", lambda: "Take away" in client.elements)
        assert ("Isolate in 3D" in client.elements["Show"]["options"]) == has_gaussians
        assert ("Export .ply" in client.elements["Take away"]["options"]) == has_gaussians
        client.look()
        client.wait("both answers and their scales", lambda: client.says("red", "sky", "scale"))
        client.wait("an output per prompt", lambda: "relevancy_1" in client.elements["Output type"]["options"])
        client.wait("the one level", lambda: "scale" in client.elements["Level"]["options"])
        client.set("Level", "scale")
        client.set("Prompts", "teal")
        client.wait("another answer", lambda: client.says("teal", "scale"))
        client.click(0.5, 0.5)
        client.wait("what was clicked", lambda: client.says("Looks like:"))
        client.press("Selection", "Alike")
        client.wait("more of it", lambda: client.says("like what was clicked", "scale"))
        client.set("Show", "Mask")
        for number in range(20):
            client.look(shift=0.01 * number)
        seen = client.images
        client.wait("renders after the camera has moved", lambda: client.images > seen)


def test_every_mode_of_the_panel_is_rendered(opened: Run) -> None:
    model, camera = opened.pipeline.model, _camera(opened, 0.25)
    for mode in MODES[: None if hasattr(model, "gaussians") else 3]:
        for query_mode in model.query_modes():
            session = Session()
            session.change(query=QUERY, mode=mode, query_mode=query_mode)
            outputs, report = viewer_outputs(model, camera, None, session), session.reports.get()
            assert not report.trouble and {"relevancy_1", "composited_1", "features_pca"} <= set(outputs)
            assert report.scales == model.language_field(query_mode).relevancy(camera, QUERY).scales


def test_a_click_says_what_a_place_looks_like(opened: Run) -> None:
    model = opened.pipeline.model
    field = model.language_field()
    assert isinstance(field, ReadsFeatures)
    found = pick(model, field, camera_at(_camera(opened, 1.0), 0.4, 0.6), "auto")
    assert float(found.embedding.norm()) == pytest.approx(1.0, abs=1e-4)
    assert float(field.average(0).norm()) == pytest.approx(1.0, abs=1e-4)
    assert (found.mask is not None) == hasattr(model, "gaussians")
    session = Session()
    session.change(query=found.query)
    viewer_outputs(model, _camera(opened, 0.25), None, session)
    assert not session.reports.get().trouble


def test_an_answer_does_not_render_twice(opened: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = opened.pipeline.model, []
    name = "splat" if hasattr(model, "splat") else "render"
    original = getattr(model, name)
    monkeypatch.setattr(model, name, lambda *values, **named: calls.append(1) or original(*values, **named))
    session = Session()
    session.change(query=QUERY)
    viewer_outputs(model, _camera(opened, 0.25), None, session)
    assert len(calls) == 1


def test_rays_that_nobody_wants_any_more_end_between_chunks(opened: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, session, chunks = opened.pipeline.model, Session(), []
    if hasattr(model, "splat"):
        pytest.skip("a splat is rendered in one piece")
    monkeypatch.setattr(model.config, "eval_num_rays_per_chunk", 100)
    session.change(query=QUERY)
    original = model.render

    def render(rays: Any) -> Any:
        chunks.append(len(rays))
        session.change(opacity=0.1)
        return original(rays)

    monkeypatch.setattr(model, "render", render)
    with pytest.raises(IOChangeException):
        viewer_outputs(model, _camera(opened, 0.25), None, session)
    assert chunks == [100]


def test_a_render_may_be_interrupted_at_any_line_of_lerf(opened: Run) -> None:
    model, camera = opened.pipeline.model, _camera(opened, 0.05)
    model.texts().embed(["red", "sky blue"])
    session = Session()
    session.change(query=QUERY)

    def render() -> dict[str, torch.Tensor]:
        if hasattr(model, "_fields"):
            # Nothing is remembered, so that the places that make what is remembered are interrupted too.
            model._fields = {}
        return viewer_outputs(model, camera, None, session)

    expected, visits, ends = render(), visits_of(render, within="lerf_ns"), []
    assert len(visits) > 50

    def interrupt_everywhere() -> None:
        ends.extend(interrupted_at(visit, render) for visit in visits)

    # In a thread of its own: a lock that stays taken would otherwise stop the tests for ever.
    thread = threading.Thread(target=interrupt_everywhere, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive(), "a lock stays taken after an interruption"
    assert set(ends) == {"IOChangeException"}
    again = render()
    assert all(torch.equal(again[name], expected[name]) for name in expected)
