"""`lang-splat export`: objects out of a finished run, as Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from lang_splat_ns.language.field import Query
    from lang_splat_ns.plugin.export import Scene
    from lang_splat_ns.plugin.runs import Run


@dataclass
class Export:
    """Write the Gaussians that answer a prompt as a standard 3DGS .ply, with boxes in a JSON beside it."""

    load_config: Path
    """config.yml of a finished run of a method on Gaussians."""
    out: Path
    """The .ply to write; with --all-objects the folder for one .ply per object and objects.json."""
    text: str = ""
    """Prompts, separated by ';'; what answers any of them is written."""
    remove: bool = False
    """Write the scene without what answers the prompts."""
    fill: bool = False
    """With --remove: also fill the hole where no photo has seen what is behind, by a 2D inpainter."""
    inpainter: str = "opencv"
    """For --fill: opencv, or a plug-in of the entry-point group lang_splat_ns.inpainters or LANG_SPLAT_INPAINTERS."""
    all_objects: bool = False
    """Write every object of the scene, named by its best word of the vocabulary."""
    vocabulary: Path | None = None
    """For --all-objects: a text file with one word or phrase per line. By default the labels' prompts."""
    features: bool = False
    """Also write language features beside the .ply, as .safetensors (see language/feature_files.py)."""
    negatives: str = ""
    """Phrases that a prompt must beat, separated by ';'; empty: the encoder's own."""
    level: str = "auto"
    """Level to read (for example whole, part or subpart), or auto."""
    threshold: Annotated[str, tyro.conf.arg(metavar="auto|0..1")] = "auto"
    """Relevancy above which a Gaussian belongs to the prompt; auto adapts to the prompt's peak."""
    ply_frame: Literal["dataset", "nerfstudio"] = "dataset"
    """Frame that is written: the data set's own world, or nerfstudio's, in which ns-export writes."""

    def run(self) -> None:
        """Check, load, select, write."""
        from lang_splat_ns.commands.options import parse_threshold
        from lang_splat_ns.language.field import Query
        from lang_splat_ns.language.text import parse_prompts

        self._check_flags()
        query = Query(
            () if self.all_objects else parse_prompts(self.text),
            parse_prompts(self.negatives) if self.negatives.strip() else (),
            self.level,
            parse_threshold(self.threshold),
        )
        from lang_splat_ns.plugin.export import check_out, open_scene
        from lang_splat_ns.plugin.runs import open_run

        check_out(self.out, folder=self.all_objects)
        run = open_run(self.load_config)
        scene = open_scene(run, self.ply_frame)
        if self.all_objects:
            self._export_all(run, scene, query)
        else:
            self._export_selection(run, scene, query)

    def _check_flags(self) -> None:
        from lang_splat_ns.errors import UserError

        if self.all_objects and (self.text.strip() or self.remove):
            raise UserError("--all-objects writes everything there is: leave out --text and --remove.")
        if self.fill and not self.remove:
            raise UserError("--fill fills the hole of what is removed: add --remove.")
        if self.fill and self.features:
            raise UserError("--fill makes Gaussians that have no language features: leave out --features.")
        if self.vocabulary is not None and not self.all_objects:
            raise UserError("--vocabulary names the objects of --all-objects: add that, or ask by --text alone.")
        if self.vocabulary is not None and not self.vocabulary.is_file():
            raise UserError(f"{self.vocabulary}: no such file; --vocabulary wants a text with one word per line.")
        if not self.all_objects and not self.text.strip():
            raise UserError("Say what to export: --text 'red mug', or --all-objects.")

    def _export_selection(self, run: Run, scene: Scene, query: Query) -> None:
        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.plugin.export import export_selection, filler

        fill = filler(run, scene, self.inpainter) if self.fill else None
        content = export_selection(scene, query, self.out, remove=self.remove, features=self.features, fill=fill)
        for one in content["objects"]:
            CONSOLE.print(
                f"{one['prompt']}: {one['score']:.3f} at level {one['level']}, {one['gaussians']:,} Gaussians",
                markup=False,
            )
        filled = f", {content['filled']:,} of them fill the hole" if "filled" in content else ""
        CONSOLE.print(f"{content['gaussians']:,} Gaussians{filled}: {self.out}", markup=False)

    def _export_all(self, run: Run, scene: Scene, query: Query) -> None:
        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.plugin.export import askable, read_vocabulary
        from lang_splat_ns.plugin.export_objects import export_all
        from lang_splat_ns.plugin.labelled_frames import data_folder, scene_labels

        manager = run.pipeline.datamanager
        words = read_vocabulary(self.vocabulary, scene_labels(manager), data_folder(manager))
        query, refused = askable(scene.field, words, query)
        if refused:
            CONSOLE.print(f"Not asked, since the encoder does not know them: {', '.join(refused)}", markup=False)
        content = export_all(scene, query, self.out, features=self.features)
        for one in content["objects"]:
            CONSOLE.print(f"{one['file']}: {one['score']:.3f}, {one['gaussians']:,} Gaussians", markup=False)
        CONSOLE.print(f"{len(content['objects'])} objects: {self.out / 'objects.json'}", markup=False)
