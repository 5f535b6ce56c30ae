"""`lang-splat query`: ask a finished run in words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass
class QueryRun:
    """Ask a finished run in words: overlays, masks and a JSON with scores and levels."""

    load_config: Path
    """config.yml of a finished run."""
    text: str
    """Prompts, separated by ';'."""
    out: Path = Path("query")
    """Folder for overlays, masks and query.json."""
    negatives: str = ""
    """Phrases that a prompt must beat, separated by ';'; empty: the encoder's own."""
    level: str = "auto"
    """Level to read (for example whole, part or subpart), or auto."""
    threshold: Annotated[str, tyro.conf.arg(metavar="auto|0..1")] = "auto"
    """Relevancy above which a place belongs to the prompt; auto adapts to the prompt's peak."""
    frame: str | None = None
    """Name of the photo whose view is rendered; by default the first held-out one."""
    query_mode: Literal["scalar", "feature"] | None = None
    """How prompts are answered, where the method has a choice: scalar or feature. By default the run's own."""
    reranker: str | None = None
    """A second opinion on each mask: qwen3-vl, a multimodal language model, looks at its best regions in the photo and
    takes out what it says no to (lang-splat weights fetch qwen3-vl). Answers are kept in the feature cache."""

    def run(self) -> None:
        """Load, ask, write."""
        from lang_splat_ns.commands.options import parse_threshold
        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.language.field import Query
        from lang_splat_ns.language.text import parse_prompts

        query = Query(
            parse_prompts(self.text),
            parse_prompts(self.negatives) if self.negatives.strip() else (),
            self.level,
            parse_threshold(self.threshold),
        )
        from lang_splat_ns.plugin.answers import answer_query
        from lang_splat_ns.plugin.runs import open_run

        run = open_run(self.load_config)
        answer = answer_query(run, query, self.frame, self.out, reranker=self.reranker, query_mode=self.query_mode)
        for prompt in answer["prompts"]:
            CONSOLE.print(
                f"{prompt['text']}: {prompt['score']:.3f} at level {prompt['level']}, "
                f"{100 * prompt['area']:.1f} % of the view, {self.out / prompt['overlay']}",
                markup=False,
            )
        CONSOLE.print(f"Scores: {self.out / 'query.json'}", markup=False)
        CONSOLE.print(json.dumps(answer["seconds"]), style="dim", end=" s\n")
