"""How long a browser waits for the picture that answers a prompt.

    python -m benchmarks.viewer_latency --load-config outputs/demo/langsplat-lift/*/config.yml --out latency.json

A websocket client stands for the browser. It types a prompt, presses Query, and the clock runs from there until the
first picture at the viewer's full size has come, JPEG and all. The view is one of the run's own photos.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.machine import facts_of_machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from processes import free_port
from viewer_client import ViewerClient, listens

PROMPTS = (
    "red",
    "blue",
    "green; yellow",
    "purple",
    "white; teal; orange",
    "红色",
    "pink; 绿色",
    "black",
    "brown",
    "grey",
)
PAUSE = 1.0
"""Seconds of rest before each prompt, so that nothing else is being rendered."""


def main() -> None:
    """Start a viewer, ask, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--load-config", type=Path, required=True, help="config.yml of a run with colour-words")
    parser.add_argument("--rounds", type=int, default=5, help="how often each prompt is asked")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    result = facts_of_machine() | {"load_before": os.getloadavg()[0]}
    result |= measure(arguments.load_config, arguments.rounds)
    result["load_after"] = os.getloadavg()[0]
    CONSOLE.print_json(data=result)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(config: Path, rounds: int) -> dict[str, Any]:
    """Seconds of every question to a viewer of its own."""
    port = free_port()
    host = ("--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", str(port))
    command = [str(Path(sys.executable).parent / "ns-viewer"), "--load-config", str(config), *host]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not listens("127.0.0.1", port):
            if process.poll() is not None:
                raise SystemExit("ns-viewer has ended")
            time.sleep(0.3)
        with ViewerClient(port) as client:
            return _ask(client, rounds)
    finally:
        process.terminate()
        process.wait()


def _ask(client: ViewerClient, rounds: int) -> dict[str, Any]:
    client.wait("the panel", lambda: "Prompts" in client.elements)
    client.look()
    client.wait("a picture in full size", lambda: client.images and _size(client.image)[0] >= 500)
    # None of those that are asked afterwards, since what is asked already makes no new picture.
    client.set("Prompts", "yellow")
    client.wait("an answer", lambda: client.says("yellow", "."))
    client.press("Selection", "Fly to")
    _rest(client, 3.0)
    seconds = []
    for index in range(rounds * len(PROMPTS)):
        _rest(client, PAUSE)
        client.set("Prompts", PROMPTS[index % len(PROMPTS)])
        seen, start = client.images, time.perf_counter()
        client.press("Query")
        client.wait("its picture", lambda seen=seen: client.images > seen and _size(client.image)[0] >= 500)
        seconds.append(time.perf_counter() - start)
    width, height = _size(client.image)
    (status,) = (text for text in client.texts.values() if "Gaussians" in text and "cache" in text)
    return {
        "scene": html.unescape(status).strip("*"),
        "width": width,
        "height": height,
        "questions": len(seconds),
        "p50_seconds": round(float(np.percentile(seconds, 50)), 3),
        "p95_seconds": round(float(np.percentile(seconds, 95)), 3),
        "max_seconds": round(max(seconds), 3),
    }


def _rest(client: ViewerClient, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.hear()
        time.sleep(0.02)


def _size(image: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(image)).size if image else (0, 0)


if __name__ == "__main__":
    main()
