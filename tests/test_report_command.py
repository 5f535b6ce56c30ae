"""`lang-splat report` on tiny runs: one page in a real browser, and one line for whatever is wrong, before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from browser import find_chromium, open_file
from PIL import Image

from lang_splat_ns.cli import main as lang_splat
from lang_splat_ns.errors import UserError
from lang_splat_ns.plugin import compare_runs
from lang_splat_ns.plugin.compare_runs import Candidate, look_at_runs, run_names
from lang_splat_ns.plugin.training_time import training_seconds


@pytest.fixture(scope="module")
def page(run: Path, lifted: Path, lerf_lite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three methods."""
    out = tmp_path_factory.mktemp("report") / "new folder" / "report.html"
    configs = [str(folder / "config.yml") for folder in (run, lifted, lerf_lite)]
    lang_splat(["report", "--load-config", *configs, "--out", str(out), "--megabytes", "2", "--title", "three <b>"])
    return out


def test_three_methods_stand_side_by_side(page: Path, run: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 2.4e6
    assert "three &lt;b&gt;" in text
    for said in (
        "langsplat",
        "langsplat-lift",
        "lerf-lite",
        "colour-words",
        "Gaussians",
        "PSNR",
        "felzenszwalb",
        "tiles",
    ):
        assert said in text, said
    assert all(f"stroke: var(--line-{line})" in text for line in range(3)), "a curve for each"
    seconds = training_seconds(run)
    assert seconds is not None and 0 < seconds < 600
    assert "3 of 3 unseen in training" in text


@pytest.mark.skipif(find_chromium() is None, reason="there is no chromium: apt-get install chromium")
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_it_reads_well_in_a_browser(page: Path, width: int, dark: bool) -> None:
    pytest.importorskip("playwright", reason="Playwright is in the dev dependencies")
    with open_file(page, width, dark=dark) as opened:
        shown = opened.page
        shown.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
        wide, seen = shown.evaluate(
            "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert wide <= seen == width, "nothing sticks out at the side"
        loaded = shown.evaluate(
            "() => Promise.all(Array.from(document.images, one => one.decode())).then(all => all.length)"
        )
        assert loaded > 20
        smallest = shown.evaluate(
            "() => Math.min(...Array.from(document.images, one => one.getBoundingClientRect().width))"
        )
        assert smallest > 130, "pictures can be made out"
        assert not opened.complaints, opened.complaints


def said_before_any_work(
    configs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> str:
    """The one line that the command says about its runs; scoring one would fail the test."""
    monkeypatch.setattr(compare_runs, "report_on", lambda *_: pytest.fail("scored before all runs were looked at"))
    with pytest.raises(SystemExit) as ended:
        lang_splat(["report", "--load-config", *map(str, configs), *options])
    assert ended.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_whatever_is_wrong_with_one_run_is_told_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, broken = run / "config.yml", tmp_path / "broken"
    shutil.copytree(run, broken)
    said = said_before_any_work([good, tmp_path / "nowhere.yml"], monkeypatch, capsys)
    assert "nowhere.yml: no such file" in said
    (broken / "config.yml").write_text("!!python/object:no_such_package.Thing {}", encoding="utf-8")
    said = said_before_any_work([good, broken / "config.yml"], monkeypatch, capsys)
    assert str(broken / "config.yml") in said and "cannot be opened" in said and "no_such_package" in said
    (tmp_path / "file").touch()
    for out, reason in ((tmp_path, "is a folder"), (tmp_path / "file" / "page.html", "cannot be written")):
        assert reason in said_before_any_work([good], monkeypatch, capsys, "--out", str(out))
    assert "given twice" in said_before_any_work([good, good.parent / "." / "config.yml"], monkeypatch, capsys)


def on_other_data(run: Path, scene: Path, copy: Path) -> Path:
    """The run's config.yml in a copy of it that was trained on other data."""
    shutil.copytree(run, copy)
    config = copy / "config.yml"
    loaded = yaml.load(config.read_text(encoding="utf-8"), Loader=yaml.Loader)
    loaded.pipeline.datamanager.data = loaded.data = scene
    loaded.pipeline.datamanager.dataparser.data = scene
    config.write_text(yaml.dump(loaded), encoding="utf-8")
    return config


def test_only_runs_of_one_scene_are_compared(run: Path, tiny_scene: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tiny_scene, moved)
    first, second = run / "config.yml", on_other_data(run, moved, tmp_path / "second")
    assert [one.scene.name for one in look_at_runs([first, second])] == [tiny_scene.name, "moved"], "the same photos"
    (label, *rest) = sorted((moved / "label").glob("frame_*.json"))
    photo = moved / json.loads(label.read_text(encoding="utf-8"))["info"]["name"]
    photo = next(moved.rglob(photo.name))
    Image.open(photo).rotate(180).save(photo)
    with pytest.raises(UserError, match=f"different scenes, since their photos {photo.name} differ"):
        look_at_runs([first, second])
    label.unlink()
    assert len(look_at_runs([second, first])[0].photos) == len(rest), "photos that only one has are left out"


def test_runs_of_one_method_are_told_apart(tmp_path: Path) -> None:
    def named(*configs: str) -> list[str]:
        return run_names([Candidate(tmp_path / one, one.split("/")[2], tmp_path, {}) for one in configs])

    assert named("a/x/lerf/1/config.yml", "a/x/fastlgs/1/config.yml") == ["lerf", "fastlgs"]
    assert named("a/x/lerf/1/config.yml", "a/x/lerf/2/config.yml") == ["lerf (1)", "lerf (2)"]
    assert named("a/x/lerf/1/config.yml", "b/x/lerf/1/config.yml") == ["lerf (a)", "lerf (b)"]
    assert named("a/x/lerf/1/config.yml", "b/x/lerf/1/config.yml", "b/x/lerf/2/config.yml") == [
        "lerf (a/1)",
        "lerf (b/1)",
        "lerf (b/2)",
    ]


def test_names_are_one_for_each(run: Path, tmp_path: Path) -> None:
    candidates = look_at_runs([run / "config.yml"])
    for names in (["one", "two"], [" "]):
        with pytest.raises(UserError, match="--names: give 1 different names"):
            compare_runs.compare_runs(candidates, tmp_path / "report.html", names=names, megabytes=1)
