"""`lang-splat eval`: the evaluator of ns-eval, with overrides."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lang_splat_ns.evaluation.protocol_names import ProtocolName


@dataclass
class Evaluate:
    """Score a finished run against the labels beside its data, like ns-eval, with other choices."""

    load_config: Path
    """config.yml of a finished run."""
    out: Path = Path("eval.json")
    """Where the scores go; the table of every prompt goes to <out>.prompts.json beside it."""
    protocol: ProtocolName | None = None
    """How answers become scores; by default as in ns-eval, which is held-out unless the data parser says otherwise.
    held-out: our own. lerf-ovs-2d: as LangSplat's code does it, on stretched maps, so that every prompt is found
    somewhere. lerf-ovs-3d: as in OpenGaussian, Dr. Splat and VALA, on Gaussians that are drawn alone. 3d-ovs: every
    pixel answers with one class of the scene's closed list. as-published: lerf-ovs-2d on all labelled photos, also
    those that were trained on. Which those are is the run's own split in any case."""
    level: str = "auto"
    """Level that answers every prompt, or auto."""
    threshold: str = "auto"
    """Relevancy above which a place belongs to the prompt: auto, or a number from 0 to 1; with the lerf-ovs protocols
    it is one on the upper half of stretched relevancy, and 3d-ovs has none."""
    negatives: str = ""
    """Phrases that a prompt must beat, separated by ';'; empty: the encoder's own."""
    prompt_language: Literal["en", "zh"] | None = None
    """Language in which the labelled prompts are asked; zh asks label/queries_zh.json. By default the run's own."""

    query_mode: Literal["scalar", "feature"] | None = None
    """How prompts are answered, where the method has a choice: scalar or feature. By default the run's own."""

    def run(self) -> None:
        """Load, score, write."""
        from lang_splat_ns.commands.options import parse_threshold
        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.errors import UserError
        from lang_splat_ns.files import write_text
        from lang_splat_ns.language.text import parse_prompts

        threshold = parse_threshold(self.threshold)
        negatives = parse_prompts(self.negatives) if self.negatives.strip() else ()
        from lang_splat_ns.evaluation.protocols import PROTOCOLS
        from lang_splat_ns.plugin.runs import open_run

        run = open_run(self.load_config)
        protocol = self.protocol or run.pipeline.protocol
        scores = run.pipeline.evaluate_language(
            self.prompt_language,
            self.query_mode,
            level=self.level,
            threshold=threshold,
            negatives=negatives,
            protocol=PROTOCOLS[protocol],
        )
        if scores is None:
            raise UserError(f"{run.config.pipeline.datamanager.data}: no labels, so there is nothing to score.")
        content = {
            "method_name": run.config.method_name,
            "checkpoint": str(run.checkpoint),
            "protocol": protocol,
            "results": scores.summary,
        }
        write_text(self.out, json.dumps(content, indent=2) + "\n")
        write_text(self.out.with_suffix(".prompts.json"), scores.to_json())
        for key, value in scores.summary.items():
            CONSOLE.print(f"  {key:<32} {value:.4g}")
