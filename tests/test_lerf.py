"""LERF's four methods through nerfstudio's own commands, on one tiny scene, without a GPU."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerf_runs import lerf_config, lerf_splat_config
from runs import checkpoint_of, train

from lang_splat_ns.errors import NotSplatError, UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.plugin.prompts import composite
from lang_splat_ns.plugin.runs import Run, frame_camera, open_run
from lerf_ns.datamanager import PIXEL_SPREAD, SCALE_LABEL, LerfDataManagerConfig, UndistortedDataset
from lerf_ns.scales import candidate_scales

METHODS = ("lerf", "lerf-lite", "lerf-big", "lerf-splat")


@pytest.fixture(scope="module")
def runs(tiny_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of finished runs of all methods. Read them, do not train in them."""
    folders = {}
    for method in METHODS:
        out = tmp_path_factory.mktemp(method)
        if method == "lerf-splat":
            folders[method] = train(lerf_splat_config(tiny_scene, out))
        else:
            folders[method] = train(lerf_config(tiny_scene, out, method, steps=40 if method == "lerf-lite" else 4))
    return folders


@pytest.fixture(scope="module")
def opened(runs: dict[str, Path]) -> dict[str, Run]:
    """The same runs, loaded as the viewer loads them."""
    return {method: open_run(folder / "config.yml") for method, folder in runs.items()}


@pytest.mark.parametrize("method", METHODS)
def test_checkpoints_are_safe_and_hold_no_frozen_network(runs: dict[str, Path], method: str) -> None:
    state = torch.load(checkpoint_of(runs[method]), weights_only=True)
    assert not [key for key in state["pipeline"] if "lpips" in key or "encoder." in key or "dino_head" in key]
    assert any(key.startswith("_model.language.field.grids.0.") for key in state["pipeline"])
    about = state["pipeline"]["_model._extra_state"]["language"]
    assert about["levels"] == ["scale"] and about["encoder_id"].startswith("colour-words")


@pytest.mark.parametrize("method", METHODS)
def test_ns_eval(runs: dict[str, Path], method: str, tmp_path: Path) -> None:
    from nerfstudio.scripts.eval import ComputePSNR

    ComputePSNR(load_config=runs[method] / "config.yml", output_path=tmp_path / "out.json").main()
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert results["psnr"] > 5
    assert results["language_prompts_total"] >= results["language_prompts_scored"] > 5
    assert 0 <= results["language_miou"] <= 1 and "language_miou_scale" in results
    assert ("language_miou_3d" in results) == (method == "lerf-splat")


@pytest.mark.parametrize("method", METHODS)
def test_ns_render(runs: dict[str, Path], method: str, tmp_path: Path) -> None:
    from nerfstudio.scripts.render import DatasetRender

    names = ["rgb", "depth", "features_pca", "relevancy_0", "composited_1"]
    DatasetRender(
        load_config=runs[method] / "config.yml", output_path=tmp_path, split="test", rendered_output_names=names
    ).main()
    for name in names:
        assert len(list((tmp_path / "test" / name).iterdir())) == 3


@pytest.mark.parametrize("method", METHODS)
def test_every_output_can_be_shown(opened: dict[str, Run], method: str) -> None:
    from nerfstudio.utils.colormaps import apply_colormap

    run = opened[method]
    outputs = run.pipeline.model.get_outputs_for_camera(frame_camera(run, None)[1])
    assert {"rgb", "depth", "accumulation", "features_pca", "relevancy_0", "composited_1"} <= set(outputs)
    for image in outputs.values():
        assert torch.isfinite(apply_colormap(image)).all()


@pytest.mark.parametrize("method", METHODS)
def test_viewing_opens_no_features(opened: dict[str, Run], method: str) -> None:
    manager = opened[method].pipeline.datamanager
    assert "features" not in vars(manager) and "train_pixels" not in vars(manager)


@pytest.mark.parametrize("method", ["lerf-lite", "lerf-splat"])
def test_composited_shows_each_prompts_own_relevancy(opened: dict[str, Run], method: str) -> None:
    """LERF's own composited view takes the first prompt's mask for all of them."""
    run = opened[method]
    model = run.pipeline.model
    outputs = model.get_outputs_for_camera(frame_camera(run, None)[1])
    first, second = (outputs[f"relevancy_{index}"] for index in range(2))
    assert not torch.allclose(first, second)
    for index, relevancy in enumerate((first, second)):
        assert torch.allclose(outputs[f"composited_{index}"], composite(outputs["rgb"], relevancy[..., 0]))


def slow_answer(model: Any, camera: Any, query: Query) -> tuple[np.ndarray, list[float]]:
    """LERF's query with nothing left out: every scale rendered for every pixel."""
    from lang_splat_ns.language.relevancy import relevancy

    texts, field = model.texts(), model.require_language().field
    rays = model.collider(camera.generate_rays(camera_indices=0, keep_shape=True).flatten())
    with torch.no_grad():
        surface = model.trace(rays)
        weights, best = torch.topk(surface.weights[..., 0], model.config.num_lerf_samples, dim=-1)
        positions = surface.samples.frustums.get_positions().gather(1, best[..., None].expand(-1, -1, 3))
        maps = []
        for scale in candidate_scales(model.config.max_scale, model.config.n_scales):
            vectors = field.clip(field.read(positions.reshape(-1, 3)), torch.full((best.numel(), 1), scale))
            shown = (weights[..., None] * vectors.reshape(*best.shape, -1)).sum(1)
            shown = shown / shown.norm(dim=-1, keepdim=True)
            maps.append(relevancy(shown, texts.embed(query.positives), texts.negatives(), texts.temperature))
    stacked = torch.stack(maps)  # [S, Q, R]
    chosen = stacked.amax(-1).argmax(0)
    values = torch.stack([stacked[scale, prompt] for prompt, scale in enumerate(chosen)])
    scales = candidate_scales(model.config.max_scale, model.config.n_scales)
    return values.numpy(), [scales[index] for index in chosen]


def test_an_answer_is_the_slow_one_in_parts_of_any_size(
    opened: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, query = opened["lerf-lite"], Query(("red", "sky blue", "green"))
    model, camera = run.pipeline.model, frame_camera(run, None)[1]
    expected, scales = slow_answer(model, camera, query)
    monkeypatch.setattr(model.config, "search_rays", 10**9)
    for rays, places in ((1 << 15, 1 << 16), (1000, 700)):
        monkeypatch.setattr(model.config, "eval_num_rays_per_chunk", rays)
        monkeypatch.setattr(model.config, "language_chunk", places)
        maps = model.language_field().relevancy(camera, query)
        assert maps.levels == ("scale",) and maps.values.shape[:2] == (3, 1)
        assert maps.scales == pytest.approx(scales)
        assert np.allclose(maps.values.reshape(3, -1).numpy(), expected, atol=1e-4)


def test_a_coarse_search_asks_few_rays(opened: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened["lerf-lite"]
    model, camera = run.pipeline.model, frame_camera(run, None)[1]
    monkeypatch.setattr(model.config, "search_rays", 100)
    heads: list[int] = []
    field = model.require_language().field
    original = field.clip
    monkeypatch.setattr(
        field, "clip", lambda features, scales: heads.append(len(features)) or original(features, scales)
    )
    model.language_field().relevancy(camera, Query(("red",)))
    pixels, samples = 72 * 128, model.config.num_lerf_samples
    # The search, one full answer, and one place per ray for the features' colours.
    assert sum(heads) <= (model.config.n_scales * 101 + pixels) * samples + pixels


def test_nerfacto_has_nothing_to_select(opened: dict[str, Run]) -> None:
    field = opened["lerf-lite"].pipeline.model.language_field()
    with pytest.raises(NotSplatError, match="lerf-splat"):
        field.select(Query(("red",)))
    with pytest.raises(NotSplatError, match="lerf-splat"):
        field.silhouettes(None, torch.zeros(1, 1, dtype=torch.bool))
    with pytest.raises(UserError, match="no level 'whole'"):
        field.relevancy(None, Query(("red",), level="whole"))


def test_splat_answers_in_both_modes_and_selects(opened: dict[str, Run]) -> None:
    run, query = opened["lerf-splat"], Query(("red", "sky blue"))
    model, camera = run.pipeline.model, frame_camera(run, None)[1]
    for mode in ("scalar", "feature"):
        maps = model.language_field(mode).relevancy(camera, query)
        assert maps.values.shape == (2, 1, 72, 128) and len(maps.scales or ()) == 2
        assert 0 <= float(maps.values.min()) and float(maps.values.max()) <= 1 + 1e-5
    field = model.language_field()
    selection = field.select(query)
    assert selection.scores.shape == selection.mask.shape == (2, model.num_points)
    assert field.silhouettes(camera, torch.ones_like(selection.mask)).max() > 0.5
    # A scene's scale is looked for once, and every further camera blends what is remembered.
    assert field._ask(query) is field._ask(query)


def test_splat_scores_are_the_fields_own(opened: dict[str, Run]) -> None:
    from lang_splat_ns.language.relevancy import relevancy

    model, query = opened["lerf-splat"].pipeline.model, Query(("red",))
    field, texts, part = model.language_field(), model.texts(), model.require_language().field
    (scale,) = field._ask(query).scales
    with torch.no_grad():
        vectors = part.clip(part.read(model.means), torch.full((model.num_points, 1), scale))
    expected = relevancy(vectors, texts.embed(query.positives), texts.negatives(), texts.temperature)
    assert torch.allclose(field.scores(query)[:, 0], expected, atol=1e-6)


def test_queries_through_the_command(runs: dict[str, Path], tmp_path: Path) -> None:
    from lang_splat_ns.cli import main

    for method in ("lerf-lite", "lerf-splat"):
        out = tmp_path / method
        arguments = [
            "query",
            "--load-config",
            str(runs[method] / "config.yml"),
            "--text",
            "red; blue",
            "--out",
            str(out),
        ]
        assert main(arguments) in (0, None)
        content = json.loads((out / "query.json").read_text())
        assert content["method"] == method
        assert all(prompt["level"].startswith("scale ") for prompt in content["prompts"])


@pytest.mark.parametrize(("method", "stop_at", "steps"), [("lerf-lite", 4, 8), ("lerf-splat", 64, 68)])
def test_resume_equals_not_having_stopped(
    tiny_scene: Path, tmp_path: Path, method: str, stop_at: int, steps: int
) -> None:
    def config(name: str, count: int) -> Any:
        make = lerf_splat_config if method == "lerf-splat" else lerf_config
        made = make(tiny_scene, tmp_path)
        made.timestamp, made.max_num_iterations = name, count
        return made

    whole = train(config("whole", steps))
    first = train(config("first", stop_at))
    second_config = config("second", steps - stop_at)
    second_config.load_dir = first / "nerfstudio_models"
    second = train(second_config)
    expected, got = (torch.load(checkpoint_of(folder), weights_only=True) for folder in (whole, second))
    assert got["step"] == expected["step"] == steps - 1
    for key, value in expected["pipeline"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(got["pipeline"][key], value), key


def test_splat_before_its_language_phase_says_what_to_do(tiny_scene: Path, tmp_path: Path) -> None:
    config = lerf_splat_config(tiny_scene, tmp_path)
    config.max_num_iterations = 10
    run = open_run(train(config) / "config.yml")
    model = run.pipeline.model
    assert "relevancy_0" not in model.get_outputs_for_camera(frame_camera(run, None)[1])
    with pytest.raises(UserError, match="trained from step 60"):
        model.language_field()


def test_other_sizes_than_the_checkpoints_are_named(runs: dict[str, Path], opened: dict[str, Run]) -> None:
    state = torch.load(checkpoint_of(runs["lerf-lite"]), weights_only=True)["pipeline"]
    model = opened["lerf-big"].pipeline.model
    own = {key.removeprefix("_model."): value for key, value in state.items() if key.startswith("_model.")}
    with pytest.raises(UserError, match=r"hashgrid-\*"):
        model.load_state_dict(own)
    with pytest.raises(UserError, match="another method"):
        model.load_state_dict({})


def test_runs_of_another_implementation(runs: dict[str, Path]) -> None:
    """A run that was trained in torch opens where tiny-cuda-nn would be taken; the other way needs tiny-cuda-nn."""
    model = open_run(runs["lerf-lite"] / "config.yml").pipeline.model
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.field.mlp_base.model[0].table.zero_()
    model.config.implementation, model.language = "tcnn", None
    model.load_state_dict(state)
    assert model.config.implementation == "torch"
    assert torch.equal(model.field.mlp_base.model[0].table, state["field.mlp_base.model.0.table"])
    state["_extra_state"]["language"]["implementation"] = "tcnn"
    with pytest.raises(UserError, match="tiny-cuda-nn, which is not here"):
        model.load_state_dict(state)


def test_photos_of_any_sizes_and_intrinsics(tiny_scene: Path, tmp_path: Path) -> None:
    """Every other photo is halved, and two are distorted; rays, colours and targets must still belong together."""
    scene = _mixed_scene(tiny_scene, tmp_path / "scene")
    config = lerf_config(scene, tmp_path / "out", steps=3)
    run = train(config)
    manager = open_run(run / "config.yml").pipeline.datamanager
    cameras = manager.train_dataset.cameras
    assert len({(int(w), int(h)) for w, h in zip(cameras.width, cameras.height, strict=True)}) >= 2
    assert cameras.distortion_params is None, "rays are not distorted again"
    rays, batch = manager.next_train(0)
    photos, rows, columns = batch["indices"].T
    images = [manager.train_dataset.get_data(index, "uint8")["image"] for index in range(len(cameras))]
    for ray in range(len(photos)):
        photo = int(photos[ray])
        assert images[photo].shape[:2] == (int(cameras.height[photo]), int(cameras.width[photo]))
        expected = images[photo][rows[ray], columns[ray]].float() / 255
        assert torch.allclose(batch["image"][ray], expected, atol=1e-6)
    spread = (cameras.height / cameras.fy)[photos]
    assert torch.allclose(rays.metadata[PIXEL_SPREAD], spread)
    # What a ray is trained towards is its own photo's pyramid, at its own place and scale.
    heights, widths = cameras.height[photos, 0], cameras.width[photos, 0]
    places = torch.stack([(rows + 0.5) / heights, (columns + 0.5) / widths], dim=-1)
    again = manager.features.pyramids(photos, places, rays.metadata[SCALE_LABEL][:, 0])
    assert torch.equal(again.nan_to_num(), batch["language"].clip.nan_to_num())


def _mixed_scene(scene: Path, out: Path) -> Path:
    from PIL import Image

    meta = json.loads((scene / "transforms.json").read_text())
    shared = {key: meta.pop(key) for key in ("fl_x", "fl_y", "cx", "cy", "w", "h") if key in meta}
    for index, frame in enumerate(meta["frames"]):
        path = out / frame["file_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        factor = 0.5 if index % 2 else 1.0
        image = Image.open(scene / frame["file_path"])
        image.resize((int(image.width * factor), int(image.height * factor))).save(path)
        frame.update({key: type(value)(value * factor) for key, value in shared.items()})
        frame.update({"k1": 0.12 if index in (1, 4) else 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0})
        for extra in ("depth_file_path", "mask_path"):
            frame.pop(extra, None)
    meta.pop("ply_file_path", None)
    (out / "transforms.json").write_text(json.dumps(meta))
    return out


def test_labels_and_photos_are_undistorted_alike(tiny_scene: Path, tmp_path: Path) -> None:
    """A distorted photo of rays is what the splatting methods' manager makes of it."""
    from lang_splat_ns.plugin.datamanager import SplatDataManagerConfig

    scene = _mixed_scene(tiny_scene, tmp_path / "scene")
    ours = LerfDataManagerConfig(data=scene)
    theirs = SplatDataManagerConfig(data=scene)
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    for config in (ours, theirs):
        config.dataparser = NerfstudioDataParserConfig(data=scene)
    rays, splats = ours.setup(device="cpu"), theirs.setup(device="cpu")
    assert isinstance(rays.train_dataset, UndistortedDataset)
    expected = splats.cached_train
    for index, data in enumerate(expected):
        found = rays.train_dataset.get_data(index, "uint8")["image"]
        assert torch.equal(found, data["image"])
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        assert torch.allclose(getattr(rays.train_dataset.cameras, name), getattr(splats.train_dataset.cameras, name))


def test_missing_dino_switches_the_regulariser_off_and_says_so(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANG_SPLAT_OFFLINE", "1")
    config = lerf_config(tiny_scene, tmp_path, steps=1)
    config.pipeline.datamanager.dino = "nobody/has-this-dino"
    run = train(config)
    assert "without the DINO regulariser" in " ".join(capsys.readouterr().out.split())
    assert (
        torch.load(checkpoint_of(run), weights_only=True)["pipeline"]["_model._extra_state"]["language"]["dino_dim"]
        == 0
    )


@pytest.mark.parametrize("method", ["lerf-lite", "lerf-splat"])
def test_dino_trains_along(tiny_scene: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Extractor:
        dino_id, dim = "colours", 3

        def __init__(self, name: str, device: str) -> None:
            assert name == "dino-vits8"

        def __call__(self, image: np.ndarray) -> np.ndarray:
            return image[::8, ::8].astype(np.float32) / 255.0

    monkeypatch.setattr("lerf_ns.source.DinoExtractor", Extractor)
    config = (
        lerf_config(tiny_scene, tmp_path, steps=2)
        if method == "lerf-lite"
        else lerf_splat_config(tiny_scene, tmp_path, 60, 2)
    )
    config.pipeline.datamanager.dino = "dino-vits8"
    state = torch.load(checkpoint_of(train(config)), weights_only=True)["pipeline"]
    heads = [value for key, value in state.items() if "language.field.dino_head" in key]
    assert heads and heads[-1].shape[0] == 3
    assert state["_model._extra_state"]["language"]["dino_dim"] == 3


@pytest.mark.parametrize("method", METHODS)
def test_ns_train_help(method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from nerfstudio.scripts.train import entrypoint

    monkeypatch.setattr(sys, "argv", ["ns-train", method, "--help"])
    with pytest.raises(SystemExit) as caught:
        entrypoint()
    assert caught.value.code == 0
    assert "--pipeline.datamanager.tile-size-range" in capsys.readouterr().out


def test_no_device_is_named_in_code() -> None:
    import re

    import lerf_ns

    named = re.compile(r"""\.cuda\(|(to|device)\s*[(=]\s*["']cuda|["']cuda(:\d+)?["']\s*\)""")
    for path in Path(lerf_ns.__file__).parent.glob("*.py"):
        assert not named.search(path.read_text()), path
