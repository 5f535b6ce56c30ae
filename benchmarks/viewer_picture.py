"""The README's picture of the viewer: a real browser, a real run, a real answer.

    python -m benchmarks.viewer_picture --load-config outputs/demo/langsplat-lift/*/config.yml --out docs/viewer.png

It needs Chromium, and Playwright from the dev dependencies.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from lang_splat_ns.console import CONSOLE
from lang_splat_ns.files import write_atomically

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import open_page
from processes import viewer

WIDTH, HEIGHT = 1100, 740
"""Of the window; the file stays below 300 kB."""


def main() -> None:
    """Start a viewer, ask it, and keep what a browser shows."""
    parser = argparse.ArgumentParser(description="Take the README's picture of the viewer.")
    parser.add_argument("--load-config", type=Path, required=True, help="config.yml of a run")
    parser.add_argument("--text", default="red; 蓝色; purple ring", help="prompts, separated by ';'")
    parser.add_argument("--out", type=Path, default=Path("docs/viewer.png"), help="PNG file to write")
    arguments = parser.parse_args()
    command = ("ns-viewer", "--load-config", arguments.load_config.resolve())
    with tempfile.TemporaryDirectory() as folder, viewer(Path(folder) / "here", *command) as port:
        with open_page(port, WIDTH, HEIGHT) as page:
            page.field("Prompts").fill(arguments.text)
            page.press("Query")
            page.says("ms per query")
            page.press("Fly to")
            page.page.wait_for_timeout(2000)
            page.settled()
            page.press("Query")
            page.page.wait_for_timeout(2000)
            page.settled()
            picture = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
    write_atomically(arguments.out, lambda file: picture.save(file, format="PNG", optimize=True))
    CONSOLE.print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB", markup=False)


if __name__ == "__main__":
    main()
