"""The panel while a training goes on: somebody plays with everything in it, and nothing breaks."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

from processes import viewer
from viewer_client import ViewerClient

INTERACTIONS = 200
TRAIN = """--experiment-name tiny --vis viewer --max-num-iterations 1000000 --timestamp run
    --pipeline.datamanager.segmenter felzenszwalb --pipeline.datamanager.encoder colour-words
    --pipeline.model.autoencoder-epochs 2 --pipeline.model.geometry-steps 30 --pipeline.model.resolution-schedule 10
    --pipeline.model.sh-degree-interval 10""".split()
PROMPTS = (
    "red", "r", "", "red; blue; green", "红色；蓝色", "أحمر", "🦆", "<script>alert(1)</script>", "{1}", "x" * 10_000,
    ";".join(["red", "blue"] * 250), " ; ", "teal cylinder; 绿色; nonsense", "\u202ered",
)  # fmt: skip


def test_training_goes_on_while_somebody_plays(tiny_scene: Path, tmp_path: Path) -> None:
    train = ("ns-train", "langsplat", *TRAIN, "--output-dir", tmp_path / "out", "--data", tiny_scene)
    # The training ends by Ctrl-C, so that the context manager also sees that it can.
    with viewer(tmp_path / "here", *train, stop=signal.SIGINT) as port, ViewerClient(port) as client:
        client.wait("the panel", lambda: "Prompts" in client.elements and "Show" in client.elements)
        client.look()
        client.wait("language", lambda: "whole" in client.elements["Level"]["options"])
        before, chance = _step(client), random.Random(0)
        for _ in range(INTERACTIONS):
            _play(client, chance)
            time.sleep(0.04)
            client.hear()
        client.set("Prompts", "red")
        client.set("Show", "Relevancy overlay")
        client.wait("steps while somebody plays", lambda: _step(client) > before + 20)
        seen = client.images
        client.look(0.02)
        client.wait("renders after all of it", lambda: client.images > seen)
        client.wait("an answer", lambda: client.says("red", "view") or client.says("red", "threshold"))
    assert "Stopping after this step" in (tmp_path / "here" / "out.txt").read_text()
    assert list((tmp_path / "out" / "tiny" / "langsplat" / "run" / "nerfstudio_models").glob("step-*.ckpt"))


def _play(client: ViewerClient, chance: random.Random) -> None:
    """Do something that a person could do."""
    level = client.elements["Level"]["options"]
    buttons = [("Selection", one) for one in ("Alike", "Fly to", "Clear")]
    buttons += [("Take away", one) for one in ("Export .ply", "Snapshot")]
    acts = (
        lambda: client.set("Prompts", chance.choice(PROMPTS)),
        lambda: client.set("Negatives", chance.choice(("", "object", "blue; {x}"))),
        lambda: client.set("Show", chance.choice(client.elements["Show"]["options"])),
        lambda: client.set("Level", chance.choice(level)),
        lambda: client.set("Opacity", chance.random()),
        lambda: client.set("Auto threshold", chance.random() < 0.5),
        lambda: client.set("Threshold", chance.uniform(0.5, 1.0)),
        lambda: client.set("A click", chance.choice(client.elements["A click"]["options"])),
        lambda: client.set("Output type", chance.choice(client.elements["Output type"]["options"])),
        lambda: client.click(chance.random(), chance.random()),
        lambda: client.press(*chance.choice(buttons)),
        lambda: client.press("Query"),
        lambda: client.look(chance.uniform(-0.5, 0.5)),
    )
    chance.choice(acts)()


def _step(client: ViewerClient) -> int:
    """The step that the viewer shows."""
    found = [re.search(r"Step: (\d+)", text) for text in client.texts.values()]
    return max((int(match[1]) for match in found if match), default=0)
