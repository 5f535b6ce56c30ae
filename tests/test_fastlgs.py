"""`fastlgs` through nerfstudio's own commands, on one tiny scene with finished Gaussians, without a GPU."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastlgs_runs import fastlgs_config
from PIL import Image
from runs import checkpoint_of, train
from tiny_sam2 import tiny_sam2_video
from viewer_client import ViewerClient
from viewer_here import viewer_here

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.plugin.runs import Run, frame_camera, open_run


@pytest.fixture(scope="module")
def opened(fastlgs: Path) -> Run:
    return open_run(fastlgs / "config.yml")


def test_the_checkpoint_holds_grid_and_codes(fastlgs: Path) -> None:
    state = torch.load(checkpoint_of(fastlgs), weights_only=True)
    model = {key.removeprefix("_model."): value for key, value in state["pipeline"].items()}
    about = model["_extra_state"]["language"]
    assert about["matcher"] == "votes" and about["levels"] == ["whole", "part", "subpart"]
    assert model["object_codes"].shape == (len(model["gauss_params.means"]), 9)
    assert len(model["grid.codes"]) == sum(about["objects"]) and min(about["objects"]) > 3
    assert torch.allclose(model["grid.codes"].norm(dim=-1), torch.ones(len(model["grid.codes"])), atol=1e-5)
    assert not [key for key in state["pipeline"] if "lpips" in key or "encoder." in key]


@pytest.mark.parametrize("geometry", ["frozen", "joint"])
def test_geometry(geometry: str, tiny_scene: Path, lifted: Path, tmp_path: Path) -> None:
    """Frozen geometry stays as it is; joint geometry moves, keeps its number of Gaussians, and codes learn in both."""
    ends = []
    for steps in (1, 4):
        config = fastlgs_config(tiny_scene, tmp_path / str(steps), lifted, steps)
        config.pipeline.model.geometry = geometry
        state = torch.load(checkpoint_of(train(config)), weights_only=True)["pipeline"]
        ends.append({key.removeprefix("_model."): value for key, value in state.items()})
    names = ("gauss_params.means", "gauss_params.opacities", "gauss_params.features_dc")
    same = [torch.equal(ends[0][name], ends[1][name]) for name in names]
    assert same == [geometry == "frozen"] * 3
    assert ends[0]["object_codes"].shape == ends[1]["object_codes"].shape
    assert not torch.equal(ends[0]["object_codes"], ends[1]["object_codes"])


def test_ns_viewer(fastlgs: Path) -> None:
    with viewer_here(fastlgs / "config.yml") as port, ViewerClient(port) as client:
        client.wait("the panel", lambda: "Take away" in client.elements)
        assert {"Mask", "Isolate in 3D"} <= set(client.elements["Show"]["options"])
        client.look()
        client.wait("renders", lambda: client.images)
        client.set("Prompts", "teal; red")
        client.wait("both answers", lambda: client.says("teal", "red"))
        for mode in ("Mask", "Isolate in 3D"):
            seen = client.images
            client.set("Show", mode)
            client.wait(f"the mode {mode}", lambda seen=seen: client.images > seen)
        client.click(0.5, 0.5)
        client.wait("what was clicked", lambda: client.says("Looks like:"))
        client.press("Selection", "Alike")
        client.wait("more of it", lambda: client.says("like what was clicked"))


def test_ns_eval(fastlgs: Path, tmp_path: Path) -> None:
    from nerfstudio.scripts.eval import ComputePSNR

    ComputePSNR(load_config=fastlgs / "config.yml", output_path=tmp_path / "out.json").main()
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert results["language_miou"] > 0.3
    assert results["language_miou_3d"] > 0.1


def test_several_prompts_levels_and_renders(opened: Run) -> None:
    model, camera = opened.pipeline.model, frame_camera(opened, None)[1]
    outputs = model.get_outputs_for_camera(camera)
    assert {"rgb", "features_pca", "relevancy_0", "composited_0"} <= set(outputs)
    field = model.language_field()
    together = field.relevancy(camera, Query(("red", "sky blue")))
    assert together.values.shape == (2, 3, *outputs["rgb"].shape[:2])
    assert 0 <= float(together.values.min()) and float(together.values.max()) <= 1
    alone = field.relevancy(camera, Query(("sky blue",)))
    assert torch.allclose(together.values[1], alone.values[0], atol=1e-6)
    for number, level in enumerate(field.levels):
        assert field.relevancy(camera, Query(("red",), level=level)).chosen == (number,)
    with pytest.raises(UserError, match="no level 'room'"):
        field.relevancy(camera, Query(("red",), level="room"))


def test_a_pixels_relevancy_is_that_of_its_object(opened: Run) -> None:
    """Pixels of one object have one value, and an object's value is what its embedding says."""
    field, camera = opened.pipeline.model.language_field(), frame_camera(opened, None)[1]
    query = Query(("red", "green"))
    maps, objects = field.relevancy(camera, query).values, field.object_maps(camera)
    of_gaussians, owners = field.scores(query), field.objects("part")
    assert owners is not None
    for thing in objects[1][objects[1] >= 0].unique()[:5]:
        values = maps[:, 1][:, objects[1] == thing]
        assert torch.allclose(values, values[:, :1].expand_as(values))
        if (owners == thing).any():
            assert torch.allclose(of_gaussians[:, 1, owners == thing], values[:, :1], atol=1e-6)


def test_what_is_asked_is_what_is_there(opened: Run) -> None:
    """The prompt of a plain thing finds that thing among the objects, and an absent one nothing."""
    field = opened.pipeline.model.language_field()
    selection = field.select(Query(("sky blue", "magenta")))
    assert 0 < int(selection.mask[0].sum()) < opened.pipeline.model.num_points / 2
    assert not selection.mask[1].any()


def test_export_of_a_selection_and_of_all_objects(opened: Run, tmp_path: Path) -> None:
    from lang_splat_ns.plugin.export import export_selection, open_scene
    from lang_splat_ns.plugin.export_objects import export_all

    scene = open_scene(opened)
    content = export_selection(scene, Query(("sky blue",)), tmp_path / "one.ply", remove=False, features=True)
    rest = export_selection(scene, Query(("sky blue",)), tmp_path / "rest.ply", remove=True, features=False)
    assert content["gaussians"] + rest["gaussians"] == opened.pipeline.model.num_points
    assert (tmp_path / "one.safetensors").is_file()
    (tmp_path / "all").mkdir()
    every = export_all(scene, Query(("red", "sky blue", "green")), tmp_path / "all", features=False)
    assert {"sky blue", "green"} <= {one["prompt"] for one in every["objects"]}


def test_a_resumed_training_equals_one_that_never_stopped(
    fastlgs: Path, tiny_scene: Path, lifted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fastlgs_config(tiny_scene, tmp_path / "first", lifted, steps=3)
    half = train(first)
    # Masks are matched once: the checkpoint knows their objects.
    monkeypatch.setattr("fastlgs_ns.begin.begin_language", lambda *arguments: pytest.fail("matched again"))
    second = fastlgs_config(tiny_scene, tmp_path / "second", lifted, steps=3)
    second.load_dir = half / "nerfstudio_models"
    resumed = train(second)
    states = [torch.load(checkpoint_of(run), weights_only=True)["pipeline"] for run in (fastlgs, resumed)]
    assert torch.equal(states[0]["_model.object_codes"], states[1]["_model.object_codes"])


def test_the_published_matcher_and_codes_from_nothing(tiny_scene: Path, lifted: Path, tmp_path: Path) -> None:
    config = fastlgs_config(tiny_scene, tmp_path, lifted, steps=2)
    model = config.pipeline.model
    model.matcher, model.initial_codes, model.code_dim, model.query_views = "fastlgs", "zero", 4, "best"
    run = open_run(train(config) / "config.yml")
    assert run.pipeline.model.object_codes.shape[1] == 12
    assert run.pipeline.model.object_codes.abs().max() > 0
    # Colours and embeddings are enough to know the plain things of this scene again.
    owners = run.pipeline.model.require_grid().identities().of_mask[0]
    assert max(np.bincount(owners[owners >= 0])) >= 5
    answer = run.pipeline.model.language_field().relevancy(frame_camera(run, None)[1], Query(("red",)))
    assert torch.isfinite(answer.values).all()


def test_masks_followed_by_sam2(tiny_scene: Path, lifted: Path, tmp_path: Path) -> None:
    """A random SAM 2 follows nothing sensibly, but all of the way is gone through; three things keep it short."""
    (tmp_path / "labels").mkdir()
    for path in (tiny_scene / "masks").glob("frame_*.png"):
        with Image.open(path) as image:
            things = np.array(image).astype(np.int64) // 10
        Image.fromarray(np.where((things >= 2) & (things <= 4), things, 0).astype(np.uint8)).save(
            tmp_path / "labels" / path.name
        )
    tiny_sam2_video().save_pretrained(tmp_path / "sam2")
    config = fastlgs_config(tiny_scene, tmp_path, lifted, steps=2)
    config.pipeline.datamanager.segmenter = f"labels:{tmp_path / 'labels'}"
    config.pipeline.datamanager.cache_dir = tmp_path / "cache"
    model = config.pipeline.model
    model.matcher, model.sam2_variant, model.initial_codes = "sam2-video", str(tmp_path / "sam2"), "zero"
    grid = open_run(train(config) / "config.yml").pipeline.model.require_grid()
    identities = grid.identities()
    assert identities.counts.sum() > 9 and grid.objects_per_level[0] >= 3
    for view in range(len(identities.counts)):
        objects = identities.of_view(view, 0)
        assert len(set(objects[objects >= 0])) == (objects >= 0).sum(), "a photo has an object once"


def test_mistakes_are_told_in_one_line(
    fastlgs: Path, run: Path, tiny_scene: Path, lifted: Path, tmp_path: Path, opened: Run
) -> None:
    config = fastlgs_config(tiny_scene, tmp_path, lifted)
    config.pipeline.model.matcher, config.pipeline.model.sam2_variant = "sam2-video", str(tmp_path / "gone")
    with pytest.raises(SystemExit, match=r"error: .*gone.*no folder with a model"):
        train(config)
    model = opened.pipeline.model
    with pytest.raises(UserError, match="only langsplat-lift and lerf-splat know scalar"):
        model.language_field("scalar")
    state = _model_state(fastlgs)
    other = _model_state(run)
    with pytest.raises(UserError, match=r"has no object_codes; it was not made by fastlgs.*init-from"):
        model.load_state_dict(other)
    with pytest.raises(UserError, match=r"has no grid\.codes.*damaged"):
        model.load_state_dict({key: value for key, value in state.items() if key != "grid.codes"})
    wide = copy.copy(state) | {"object_codes": torch.zeros(len(state["object_codes"]), 12)}
    with pytest.raises(UserError, match="code-dim 3 changed"):
        model.load_state_dict(wide)
    model.load_state_dict(state)


def _model_state(folder: Path) -> dict[str, Any]:
    state = torch.load(checkpoint_of(folder), weights_only=True)["pipeline"]
    return {key.removeprefix("_model."): value for key, value in state.items() if key.startswith("_model.")}


def test_a_run_without_codes_yet_says_when_they_come(tiny_scene: Path, lifted: Path, tmp_path: Path) -> None:
    config = fastlgs_config(tiny_scene, tmp_path, lifted)
    model = config.pipeline.model
    model.init_from, model.geometry_steps, config.max_num_iterations = None, 60, 2
    early = open_run(train(config) / "config.yml")
    with pytest.raises(UserError, match="trained from step 60 on; continue it with --load-dir"):
        early.pipeline.model.language_field()
