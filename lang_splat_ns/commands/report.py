"""`lang-splat report`: finished runs side by side on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Report:
    """Compare finished runs of one scene on one HTML page: pictures, scores, curves, mistakes, times and sizes."""

    load_config: tuple[Path, ...]
    """config.yml of each run; one alone gives a report of that run."""
    out: Path = Path("report.html")
    """The page, a single file that needs no other."""
    names: tuple[str, ...] = ()
    """What to call the runs, one name each; by default by method, and by folder where two are of one method."""
    title: str | None = None
    """Heading; by default the scene and the methods."""
    megabytes: float = 12.0
    """What pictures may take; each prompt's first photo comes before any prompt's second."""
    image_metrics: bool = True
    """Also render the evaluation photos for PSNR and SSIM; takes about as long as the questions."""

    def run(self) -> None:
        """Look at all runs, score them one by one, write."""
        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.errors import UserError
        from lang_splat_ns.files import check_writable

        if self.out.is_dir():
            raise UserError(f"{self.out}: is a folder; --out wants the page's file, for example report.html.")
        if not self.megabytes >= 0:
            raise UserError(f"--megabytes {self.megabytes}: give a number from 0, which leaves pictures out, upwards.")
        check_writable(self.out.parent)
        from lang_splat_ns.plugin.compare_runs import compare_runs, look_at_runs

        candidates = look_at_runs(self.load_config)
        compare_runs(
            candidates,
            self.out,
            names=self.names,
            title=self.title,
            megabytes=self.megabytes,
            image_metrics=self.image_metrics,
        )
        CONSOLE.print(f"Report ({self.out.stat().st_size / 1e6:.1f} MB): {self.out}", markup=False, soft_wrap=True)
