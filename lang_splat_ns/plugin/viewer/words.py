"""What the panel says: answers, what was clicked, and the status line. Everything here is markdown, already escaped."""

from __future__ import annotations

from collections.abc import Sequence

from lang_splat_ns.language.text import TextCache
from lang_splat_ns.plugin.viewer.markup import as_plain_markdown, chip, escaped, shortened
from lang_splat_ns.plugin.viewer.picking import LIKE_PICKED
from lang_splat_ns.plugin.viewer.pictures import PALETTE
from lang_splat_ns.plugin.viewer.session import IN_3D, Report, View

LEAST_FIT = 0.3
"""Relevancy below which a word does not describe what was clicked."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def host_warning(host: str) -> str:
    """What to say where others can reach the viewer; empty where they cannot."""
    if host in LOOPBACK:
        return ""
    return "**Open to the network.** " + escaped(
        f"Everybody who reaches this machine ({host}) can see this scene and use this panel. To keep it to yourself, "
        "start with --viewer.websocket-host 127.0.0.1"
    )


def answers(view: View, report: Report, trouble: str, waiting: str = "") -> str:
    """One line per prompt with its colour, score and area, and below them what is wrong.

    Args:
        view: what is shown.
        report: of the last render; it may still be about another query.
        trouble: what is wrong with the text in the boxes.
        waiting: what is going on.
    """
    lines: list[str] = []
    if view.query is not None:
        known = report.query == view.query and len(report.peaks) == len(view.query.positives)
        for index, text in enumerate(view.query.positives):
            # What is drawn alone or hidden is no whole view, and its scores would mislead.
            value = "" if view.mode in IN_3D else _score(report, index) if known else "…"
            lines.append(f"{chip(PALETTE[index % len(PALETTE)])} {escaped(_shown(text))} &#8194;{value}")
    if view.mode in IN_3D and report.selected is not None:
        lines.append(_drawn(view, report.selected))
    lines += [as_plain_markdown(text) for text in (waiting, trouble, report.trouble) if text]
    return "\n\n".join(lines)


def clicked(words: Sequence[tuple[str, float]] | None, count: int | None) -> str:
    """What was clicked: its best words, and how much of the scene is selected by now."""
    lines = []
    if count is not None:
        lines.append(f"**Selected:** {count:,} Gaussians")
    if words is None:
        lines.append("*Looking for words …*")
    elif words:
        # One word is always said, others where they fit at all.
        fitting = [words[0], *(pair for pair in words[1:] if pair[1] > LEAST_FIT)]
        lines.append("**Looks like:** " + ", ".join(f"{escaped(word)} {score:.2f}" for word, score in fitting))
    return "\n\n".join(lines)


def status(method: str, texts: TextCache | None, report: Report) -> str:
    """Method, encoder, Gaussians, time per query, and how often a text was remembered."""
    parts = [method]
    if texts is not None:
        parts.append(texts.encoder.encoder_id.split(" ")[0])
    if report.count:
        parts.append(f"{report.count:,} Gaussians")
    if report.query is not None and report.peaks:
        parts.append(f"{1000 * report.seconds:.0f} ms per query")
    if texts is not None and texts.hits + texts.misses:
        parts.append(f"{texts.hits} cache hits, {texts.misses} embedded")
    return "*" + " · ".join(escaped(part) for part in parts) + "*"


def _shown(text: str) -> str:
    return "like what was clicked" if text.startswith(LIKE_PICKED) else shortened(text)


def _score(report: Report, index: int) -> str:
    peak, area = report.peaks[index], report.areas[index]
    scale = f", scale {report.scales[index]:.2f}" if report.scales else ""
    if area == 0.0:
        return f"{peak:.2f}, nothing above the threshold here{scale}"
    return f"**{peak:.2f}**, {100 * area:.1f} % of the view{scale}"


def _drawn(view: View, selected: int) -> str:
    if not selected:
        return "Nothing in the scene is above the threshold, so all of it is drawn."
    return f"{selected:,} Gaussians are {'drawn alone' if view.mode == 'isolate' else 'hidden'}."
