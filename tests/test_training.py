"""From photos to answers with nerfstudio's own commands, on one tiny scene, without a GPU."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import checkpoint_of, langsplat_config, train

from lang_splat_ns.errors import UserError
from lang_splat_ns.language.field import Query
from lang_splat_ns.plugin.runs import open_run


def test_checkpoint_folder_holds_one_safe_checkpoint(run: Path) -> None:
    state = torch.load(checkpoint_of(run), weights_only=True)
    assert state["step"] == 99
    assert not [key for key in state["pipeline"] if "lpips" in key or "text_side" in key]


def test_ns_eval_reports_image_and_language_scores(run: Path, tmp_path: Path) -> None:
    from nerfstudio.scripts.eval import ComputePSNR

    ComputePSNR(load_config=run / "config.yml", output_path=tmp_path / "out.json").main()
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert results["psnr"] > 12
    assert results["language_prompts_total"] >= results["language_prompts_scored"] > 5
    assert 0 <= results["language_miou"] <= 1
    table = json.loads((run / "language_scores.json").read_text())["table"]
    assert {row["prompt"] for row in table if row["scored"]}


def test_scoring_leaves_the_pipeline_as_it_was(run: Path) -> None:
    pipeline = open_run(run / "config.yml").pipeline
    for training in (False, True):
        pipeline.train(training)
        pipeline.evaluate_language()
        assert pipeline.training == training


def test_ns_render_shows_prompts(run: Path, tmp_path: Path) -> None:
    from nerfstudio.scripts.render import DatasetRender

    DatasetRender(
        load_config=run / "config.yml",
        output_path=tmp_path,
        split="test",
        rendered_output_names=["rgb", "relevancy_0", "composited_0"],
    ).main()
    rendered = {path.parent.name for path in tmp_path.rglob("*.jpg")} | {p.parent.name for p in tmp_path.rglob("*.png")}
    assert {"rgb", "relevancy_0", "composited_0"} <= rendered


def test_ns_export_accepts_the_run(run: Path, tmp_path: Path) -> None:
    from nerfstudio.scripts.exporter import ExportGaussianSplat
    from plyfile import PlyData

    ExportGaussianSplat(load_config=run / "config.yml", output_dir=tmp_path).main()
    assert len(PlyData.read(str(tmp_path / "splat.ply"))["vertex"]) > 100


def test_every_output_can_be_shown(run: Path) -> None:
    from nerfstudio.utils.colormaps import apply_colormap

    opened = open_run(run / "config.yml")
    camera = opened.pipeline.datamanager.eval_dataset.cameras[:1]
    outputs = opened.pipeline.model.get_outputs_for_camera(camera)
    assert {"rgb", "depth", "accumulation", "features_pca", "relevancy_0", "composited_0"} <= set(outputs)
    for image in outputs.values():
        assert torch.isfinite(apply_colormap(image)).all()


def test_select_gives_one_row_per_prompt_and_gaussian(run: Path) -> None:
    model = open_run(run / "config.yml").pipeline.model
    selection = model.language_field().select(Query(("red", "blue")))
    assert selection.scores.shape == selection.mask.shape == (2, model.num_points)
    with pytest.raises(UserError, match="no level"):
        model.language_field().select(Query(("red",), level="huge"))


def test_a_moved_run_still_answers(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    moved = tmp_path / "elsewhere"
    shutil.copytree(run, moved)
    monkeypatch.chdir(tmp_path)
    assert open_run(moved / "config.yml").checkpoint.is_relative_to(moved)


@pytest.mark.parametrize("stop_at", [30, 75])
def test_resume_equals_not_having_stopped(tiny_scene: Path, tmp_path: Path, stop_at: int) -> None:
    # 30 lies in the geometry phase, which densifies afterwards, 75 in the language phase.
    def config(name: str, steps: int):
        made = langsplat_config(tiny_scene, tmp_path)
        made.timestamp, made.max_num_iterations = name, steps
        made.pipeline.model.warmup_length, made.pipeline.model.refine_every = 10, 10
        made.pipeline.model.densify_grad_thresh = 1e-5
        return made

    whole = train(config("whole", 100))
    first = train(config("first", stop_at))
    second_config = config("second", 100 - stop_at)
    second_config.load_dir = first / "nerfstudio_models"
    second = train(second_config)
    expected, got = (torch.load(checkpoint_of(folder), weights_only=True) for folder in (whole, second))
    assert got["step"] == expected["step"]
    _assert_equal(got, expected, "checkpoint")


def _assert_equal(got: object, expected: object, where: str) -> None:
    if isinstance(expected, torch.Tensor):
        assert isinstance(got, torch.Tensor) and torch.equal(got, expected), where
    elif isinstance(expected, dict):
        assert isinstance(got, dict) and got.keys() == expected.keys(), where
        for key in expected:
            _assert_equal(got[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected), where  # type: ignore[arg-type]
        for index, (one, other) in enumerate(zip(got, expected, strict=True)):  # type: ignore[arg-type]
            _assert_equal(one, other, f"{where}[{index}]")
    else:
        assert got == expected, where


def test_interrupt_keeps_a_checkpoint_of_the_last_finished_step(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lang_splat_ns.plugin.trainer import SafeTrainer

    original = SafeTrainer.train_iteration

    def interrupted(self: SafeTrainer, step: int):
        if step == 7:
            signal.raise_signal(signal.SIGINT)
        return original(self, step)

    monkeypatch.setattr(SafeTrainer, "train_iteration", interrupted)
    config = langsplat_config(tiny_scene, tmp_path)
    with pytest.raises(SystemExit) as caught:
        train(config)
    assert caught.value.code == 130, "a script must not go on as if it had finished"
    left = config.max_num_iterations - 8
    assert f"{config.get_base_dir()}/nerfstudio_models --max-num-iterations {left}" in capsys.readouterr().out
    assert torch.load(checkpoint_of(config.get_base_dir()), weights_only=True)["step"] == 7


def test_interrupt_before_the_first_step_costs_one_line(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lang_splat_ns.plugin.frame_features import FrameFeatureSource

    def interrupted(self: FrameFeatureSource) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FrameFeatureSource, "prepare", interrupted)
    with pytest.raises(SystemExit) as caught:
        train(langsplat_config(tiny_scene, tmp_path))
    assert caught.value.code == 130
    assert "Stopped before training" in capsys.readouterr().out


def test_interrupt_after_training_closes_the_viewer(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nerfstudio.engine.trainer import Trainer

    handlers = []

    def waiting(self: Trainer) -> None:
        handlers.append(signal.getsignal(signal.SIGINT))
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_train_complete_viewer", waiting)
    before = signal.getsignal(signal.SIGINT)
    config = langsplat_config(tiny_scene, tmp_path)
    config.max_num_iterations = 2
    assert checkpoint_of(train(config)).name == "step-000000001.ckpt"
    assert handlers == [signal.default_int_handler], "one Ctrl-C is enough"
    assert signal.getsignal(signal.SIGINT) is before


def test_torn_newest_checkpoint_is_skipped(run: Path, tiny_scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    whole = checkpoint_of(run).read_bytes()
    (folder / "step-000000099.ckpt").write_bytes(whole)
    (folder / "step-000000100.ckpt").write_bytes(whole[: len(whole) // 2])
    config = langsplat_config(tiny_scene, tmp_path)
    config.max_num_iterations, config.load_dir = 1, folder
    assert checkpoint_of(train(config)).name == "step-000000100.ckpt"


def test_init_from_run_and_ply_trains_language_only(run: Path, tiny_scene: Path, tmp_path: Path) -> None:
    from lang_splat_ns.plugin.init_from import run_frame
    from lang_splat_ns.splatting.gaussians import transform
    from lang_splat_ns.splatting.ply import write_ply

    gaussians = open_run(run / "config.yml").pipeline.model.gaussians()
    frame = run_frame(run)
    assert frame is not None
    write_ply(tmp_path / "scene.ply", transform(gaussians, frame.inverse()))
    for source in (run / "config.yml", tmp_path / "scene.ply"):
        config = langsplat_config(tiny_scene, tmp_path)
        config.timestamp, config.max_num_iterations, config.pipeline.model.init_from = source.stem, 3, source
        model = open_run(train(config) / "config.yml").pipeline.model
        assert model.has_language()
        assert torch.allclose(model.means, gaussians.means, atol=1e-5)


def test_query_command_writes_numbered_files(run: Path, tmp_path: Path) -> None:
    from lang_splat_ns.cli import main

    out = tmp_path / "answers"
    main(["query", "--load-config", str(run / "config.yml"), "--text", "red; ../<b>green</b>", "--out", str(out)])
    content = json.loads((out / "query.json").read_text())
    assert [prompt["text"] for prompt in content["prompts"]] == ["red", "../<b>green</b>"]
    assert {path.name for path in out.iterdir()} == {
        "query.json",
        "0_mask.png",
        "0_overlay.png",
        "1_mask.png",
        "1_overlay.png",
    }
    from PIL import Image

    mask = np.array(Image.open(out / "0_mask.png")) > 0
    assert np.isclose(mask.mean(), content["prompts"][0]["area"], atol=1e-6)


def test_eval_command_with_overrides(run: Path, tmp_path: Path) -> None:
    from lang_splat_ns.cli import main

    main(["eval", "--load-config", str(run / "config.yml"), "--threshold", "1.0", "--out", str(tmp_path / "e.json")])
    results = json.loads((tmp_path / "e.json").read_text())["results"]
    assert results["language_miou"] == 0.0, "nothing lies above a relevancy of 1"


def test_the_encoders_own_temperature_is_honoured(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_run(run / "config.yml").pipeline.model
    field = model.language_field()
    before = field.select(Query(("red", "blue"))).scores.double().logit()
    monkeypatch.setattr(model.text_side.encoder, "temperature", 15.0, raising=False)
    after = field.select(Query(("red", "blue"))).scores.double().logit()
    # Relevancy is a sigmoid of temperature times margin, so its logit grows with the temperature and keeps its sign.
    torch.testing.assert_close(after, 1.5 * before, atol=1e-3, rtol=1e-3)


def test_chinese_prompts_answer_like_their_english_ones(run: Path, tmp_path: Path) -> None:
    from lang_splat_ns.cli import main

    prompts = {"en": "red; sky blue ball; yellow and black car", "zh": "红色；天蓝色的球；黄黑相间的小汽车"}
    for language, text in prompts.items():
        load = ["--load-config", str(run / "config.yml")]
        main(["query", *load, "--text", text, "--out", str(tmp_path / language)])
        main(["eval", *load, "--prompt-language", language, "--out", str(tmp_path / f"{language}.json")])
    answers = {language: json.loads((tmp_path / language / "query.json").read_text()) for language in prompts}
    assert [prompt["text"] for prompt in answers["zh"]["prompts"]] == ["红色", "天蓝色的球", "黄黑相间的小汽车"]
    for name in ("0_mask", "1_mask", "2_mask", "0_overlay", "1_overlay", "2_overlay"):
        pictures = [(tmp_path / language / f"{name}.png").read_bytes() for language in prompts]
        assert pictures[0] == pictures[1]
    english, chinese = (json.loads((tmp_path / f"{language}.json").read_text()) for language in prompts)
    assert chinese["results"] == english["results"] and english["results"]["language_prompts_scored"] > 5
    table = json.loads((tmp_path / "zh.prompts.json").read_text())["table"]
    assert {row["text"] for row in table if row["prompt"] == "teal cylinder"} == {"青色圆柱"}


def test_a_run_with_prompt_language_is_scored_in_it(run: Path) -> None:
    pipeline = open_run(run / "config.yml").pipeline
    pipeline.config.datamanager.prompt_language = "zh"
    scores = pipeline.evaluate_language()
    assert scores is not None
    assert {row["text"] for row in scores.table if row["prompt"] == "green ball"} == {"绿色的球"}


class YesToRed:
    """A reranker that says yes to one prompt."""

    reranker_id = "red/1"
    shown: list[tuple[str, np.ndarray]] = []  # noqa: RUF012  (The command makes its own.)

    def judge(self, crops: list[np.ndarray], prompt: str) -> list[float]:
        YesToRed.shown += [(prompt, crop) for crop in crops]
        return [0.9 if prompt == "red" else 0.1] * len(crops)


def test_a_reranker_takes_regions_out_of_the_mask(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lang_splat_ns.cli import main

    monkeypatch.setenv("LANG_SPLAT_RERANKERS", f"red={__name__}:YesToRed")
    # So short a training finds little, and this threshold takes all of it.
    command = ["query", "--load-config", str(run / "config.yml"), "--text", "red; blue", "--threshold", "0.0001"]
    main([*command, "--out", str(tmp_path / "plain")])
    for name in ("first", "again"):
        main([*command, "--reranker", "red", "--out", str(tmp_path / name)])
    plain, first, again = (
        json.loads((tmp_path / name / "query.json").read_text()) for name in ("plain", "first", "again")
    )
    assert "reranker" not in plain and first["reranker"] == "red/1"
    red, blue = first["prompts"]
    assert red["area"] == plain["prompts"][0]["area"] > 0 and blue["area"] == 0 < plain["prompts"][1]["area"]
    assert {verdict["kept"] for verdict in red["reranked"]} == {True}
    assert {verdict["kept"] for verdict in blue["reranked"]} == {False}
    # What was found before is still said.
    assert blue["score"] == plain["prompts"][1]["score"]
    assert again["prompts"] == first["prompts"]
    assert len(YesToRed.shown) == len(red["reranked"]) + len(blue["reranked"])


def test_frames_have_their_photos_until_these_are_gone(run: Path, tiny_scene: Path) -> None:
    from PIL import Image

    from lang_splat_ns.plugin.second_opinion import frame_photo

    opened = open_run(run / "config.yml")
    (first, *_) = sorted((tiny_scene / "images").iterdir())
    assert np.array_equal(frame_photo(opened, first.name), np.array(Image.open(first)))
    assert frame_photo(opened, "elsewhere.png") is None
