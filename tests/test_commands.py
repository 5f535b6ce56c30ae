"""Every command as a user types it: by the installed console scripts, in processes of their own."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import Ended, finish, run, start, viewer
from viewer_client import ViewerClient, fetch_page, listens

TRAIN = """--experiment-name tiny --vis tensorboard --pipeline.datamanager.segmenter felzenszwalb
    --pipeline.datamanager.encoder colour-words --pipeline.model.queries red --pipeline.model.autoencoder-epochs 2
    --pipeline.model.resolution-schedule 10 --pipeline.model.sh-degree-interval 10
    --optimizers.language-features.optimizer.lr 0.02""".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything of this file lands."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def workers() -> Iterator[ThreadPoolExecutor]:
    """Two commands at a time: most of their time is Python importing things, on one core."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def alone(workers: ThreadPoolExecutor, tiny_scene: Path, folder: Path) -> dict[str, Future[Ended]]:
    """The commands that need no trained run."""
    train = ("ns-train", "langsplat", *TRAIN, "--output-dir", folder, "--data")
    return {
        "train": workers.submit(
            run, folder / "train", *train, tiny_scene, "--timestamp", "run", "--max-num-iterations", 60,
            "--pipeline.model.geometry-steps", 40,
        ),
        "interrupted": workers.submit(
            _interrupt, folder / "interrupted", *train, tiny_scene, "--timestamp", "stopped",
            "--max-num-iterations", 100_000,
        ),
        "mistake": workers.submit(run, folder / "mistake", *train, "nowhere"),
        "doctor": workers.submit(run, folder / "doctor", "lang-splat", "doctor", "--data", tiny_scene),
    }  # fmt: skip


def _interrupt(folder: Path, *arguments: object) -> Ended:
    """Press Ctrl-C once some steps are done."""
    process = start(folder, *arguments)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if re.search(r"^\D*[1-9]\d* \(", line):
            process.send_signal(signal.SIGINT)
            break
    ended = finish(process)
    return Ended(ended.code, said + ended.out, ended.err)


@pytest.fixture(scope="module")
def config(alone: dict[str, Future[Ended]], folder: Path) -> Path:
    """The trained run's config.yml."""
    ended = alone["train"].result()
    assert ended.code == 0, ended.told()
    return folder / "tiny" / "langsplat" / "run" / "config.yml"


@pytest.fixture(scope="module")
def on_run(workers: ThreadPoolExecutor, config: Path, folder: Path) -> dict[str, Future[Ended]]:
    """The commands that open the trained run and end by themselves."""
    load = ("--load-config", config)
    commands = {
        "ns-eval": (*load, "--output-path", folder / "eval.json"),
        "ns-render": (
            "dataset", *load, "--output-path", folder / "renders", "--rendered-output-names", "rgb", "relevancy_0",
        ),
        "ns-export": ("gaussian-splat", *load, "--output-dir", folder / "export"),
        "query": (*load, "--text", "red; blue", "--out", folder / "query"),
        "eval": (*load, "--threshold", "0.5", "--out", folder / "scores.json"),
        "lift": (*load, "--output-dir", folder / "lifted"),
        "export": (*load, "--text", "red", "--threshold", "0", "--out", folder / "red.ply"),
    }  # fmt: skip
    return {
        name: workers.submit(run, folder / name, *(() if name.startswith("ns-") else ("lang-splat",)), name, *arguments)
        for name, arguments in commands.items()
    }


def test_ns_viewer_answers_prompts(config: Path, on_run: dict[str, Future[Ended]], folder: Path) -> None:
    del on_run
    with viewer(folder / "viewer", "ns-viewer", "--load-config", config) as port:
        # Other loopback addresses stand for the machine's other interfaces here.
        assert not listens("127.0.0.2", port)
        status, page = fetch_page(port)
        assert status == 200 and b"<html" in page
        with ViewerClient(port) as client:
            _ask_in_viewer(client)
    # Another viewer begins where the last one ended.
    with viewer(folder / "viewer", "ns-viewer", "--load-config", config) as port, ViewerClient(port) as client:
        client.wait("the last prompts", lambda: client.elements.get("Prompts", {}).get("value") == "teal; 蓝色")
        client.wait("the last mode", lambda: client.elements.get("Show", {}).get("value") == "Mask")


def _ask_in_viewer(client: ViewerClient) -> None:
    outputs = {"relevancy_0", "composited_0", "relevancy_1"}
    client.wait("the prompts of the configuration", lambda: client.elements.get("Prompts", {}).get("value") == "red")
    client.look()
    client.wait("a render", lambda: client.images)
    client.set("Prompts", "blue; <b>green</b>; {nonsense}")
    client.wait("an output per prompt", lambda: outputs <= set(client.elements["Output type"]["options"]))
    client.wait("both answers", lambda: client.says("blue", "green"))
    client.wait("what is wrong", lambda: client.says("nonsense"))
    assert not any(set("<{") & set(text) for text in client.texts.values() if "nonsense" in text and "span" not in text)
    client.set("Output type", "composited_1")
    # A moving camera interrupts renders, at any line; the viewer has to survive it.
    for number in range(60):
        client.look(shift=0.01 * number)
        time.sleep(0.02)
    seen = client.images
    client.wait("renders after the camera has moved", lambda: client.images > seen + 2)
    client.set("Prompts", "")
    client.wait("the end of the prompts", lambda: not outputs & set(client.elements["Output type"]["options"]))
    client.set("Prompts", "word " * 2000)
    client.wait("a polite limit", lambda: client.says("characters"))
    client.set("Prompts", ";".join(["red", "blue"] * 250))
    client.wait("another", lambda: client.says("first 16 of 500 prompts"))
    client.set("Prompts", "teal; 蓝色")
    client.set("Show", "Mask")
    client.wait("an answer in Chinese", lambda: client.says("teal", "蓝色"))
    time.sleep(1.5)  # What is set is remembered after a pause.


def test_ns_train_finishes(config: Path) -> None:
    (checkpoint,) = (config.parent / "nerfstudio_models").iterdir()
    assert checkpoint.name == "step-000000059.ckpt"


def test_interrupted_ns_train_keeps_a_checkpoint(alone: dict[str, Future[Ended]], folder: Path) -> None:
    ended = alone["interrupted"].result()
    assert ended.code == 130 and "Traceback" not in ended.out + ended.err, ended.told()
    assert "Stopping after this step" in ended.out, ended.told()
    (checkpoint,) = (folder / "tiny" / "langsplat" / "stopped" / "nerfstudio_models").iterdir()
    assert re.fullmatch(r"step-\d{9}\.ckpt", checkpoint.name)


def test_missing_data_costs_one_line(alone: dict[str, Future[Ended]]) -> None:
    ended = alone["mistake"].result()
    assert ended.code == 1, ended.told()
    errors = [line for line in ended.err.splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and errors[0].startswith("error: nowhere"), ended.told()
    assert "Traceback" not in ended.out + ended.err, ended.told()


def test_doctor(alone: dict[str, Future[Ended]]) -> None:
    ended = alone["doctor"].result()
    assert ended.code == 0 and "rasterizer" in ended.out and "felzenszwalb" in ended.out, ended.told()


def _succeeded(commands: dict[str, Future[Ended]], name: str) -> Ended:
    ended = commands[name].result()
    assert ended.code == 0, ended.told()
    return ended


def test_ns_eval(on_run: dict[str, Future[Ended]], folder: Path) -> None:
    _succeeded(on_run, "ns-eval")
    assert {"psnr", "language_miou"} <= set(json.loads((folder / "eval.json").read_text())["results"])


def test_ns_render(on_run: dict[str, Future[Ended]], folder: Path) -> None:
    _succeeded(on_run, "ns-render")
    for output in ("rgb", "relevancy_0"):
        assert len(list((folder / "renders" / "test" / output).iterdir())) == 3


def test_ns_export(on_run: dict[str, Future[Ended]], folder: Path) -> None:
    _succeeded(on_run, "ns-export")
    assert (folder / "export" / "splat.ply").read_bytes().startswith(b"ply")


def test_lang_splat_query(on_run: dict[str, Future[Ended]], folder: Path) -> None:
    said = _succeeded(on_run, "query")
    prompts = json.loads((folder / "query" / "query.json").read_text())["prompts"]
    assert [prompt["text"] for prompt in prompts] == ["red", "blue"]
    assert "blue" in said.out, said.told()


def test_lang_splat_eval(on_run: dict[str, Future[Ended]], folder: Path) -> None:
    _succeeded(on_run, "eval")
    assert "language_miou" in json.loads((folder / "scores.json").read_text())["results"]


def test_lang_splat_lift(on_run: dict[str, Future[Ended]], folder: Path) -> None:
    said = _succeeded(on_run, "lift")
    (config,) = (folder / "lifted").glob("tiny/langsplat-lift/*/config.yml")
    assert f"ns-viewer --load-config {config} --viewer.websocket-host 127.0.0.1" in said.out, said.told()


def test_lang_splat_export(on_run: dict[str, Future[Ended]], folder: Path) -> None:
    said = _succeeded(on_run, "export")
    assert (folder / "red.ply").read_bytes().startswith(b"ply")
    assert "red: 0." in said.out and "red.ply" in said.out, said.told()
