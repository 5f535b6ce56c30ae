"""`lang-splat lift`: language on finished Gaussians, without training anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass
class Lift:
    """Put language on finished Gaussians, of a run or of a 3DGS .ply, in a new langsplat-lift run. Nothing is trained,
    and nothing of the old run is changed. Give either --load-config, or --ply and --data.

    With --data alone, the data set's own points become the Gaussians. Photos without poses, or a video, are posed first
    (lang-splat poses says how): so photos become a scene that answers text with one command.

    Masks and embeddings come from the cache, and votes from the old run, as far as they are there: a run that is lifted
    already gets another encoder in seconds. Safe to interrupt: run it again, and it goes on with what is whole.

    --data is a nerfstudio data set. For photos that another data parser reads, for example COLMAP's:
    ns-train langsplat-lift --pipeline.model.init-from scene.ply --data D colmap
    """

    load_config: Path | None = None
    """config.yml of a run of 3dgs, langsplat, langsplat-lift or splatfacto. Its data, networks and other choices hold
    as far as it has them."""
    ply: Path | None = None
    """Somebody's finished 3DGS .ply, or a point cloud."""
    data: Path | None = None
    """Posed photos: those of the .ply, or where the old run's photos lie now. Alone: posed photos with points, or a
    folder of photos without poses, or a video."""
    ply_frame: Literal["dataset", "nerfstudio"] = "dataset"
    """Frame of the .ply: the data set's own world, or nerfstudio's (files of ns-export)."""
    encoder: str | None = None
    """What turns masks and words into comparable vectors, as in training; by default the old run's, or open_clip."""
    segmenter: str | None = None
    """What cuts photos into masks, as in training; by default the old run's, or sam on CUDA and mobile-sam on a CPU."""
    points_per_side: int | None = None
    """Point grid of the SAM family; by default the old run's."""
    crops: str | None = None
    """How a mask is cut out for the encoder; by default the old run's if the encoder stays."""
    prompt_templates: Literal["phrase", "ensemble"] | None = None
    """What prompts are put into; by default as in the old run if the encoder stays."""
    method: Literal["consensus", "gated-median", "mean"] | None = None
    """How features are lifted, see ns-train langsplat-lift --help; by default the old run's, or consensus."""
    cache_dir: Path | None = None
    """Where label maps and embeddings are kept; by default the old run's, or the usual places."""
    output_dir: Path | None = None
    """Where the new run goes, as <output-dir>/<experiment>/langsplat-lift/<time>; by default beside the old run, or
    outputs."""
    engine: Literal["local", "ray"] = "local"
    """Where votes are counted: in this process, or on the Ray cluster of RAY_ADDRESS. Masks and embeddings likewise
    with lang-splat features --engine ray beforehand."""
    workers: int | None = None
    """Workers of the Ray cluster; by default one for each GPU, or without any one for each core."""

    def run(self) -> None:
        """Configure, lift, say how to go on."""
        from lang_splat_ns.console import CONSOLE
        from lang_splat_ns.errors import UserError
        from lang_splat_ns.langsplat_lift.new_run import is_lifted, lift_anew

        path = lift_anew(self._config())
        if not is_lifted(path):
            raise UserError(f"Stopped before the end. To go on: lang-splat lift --load-config {path}")
        CONSOLE.print(f"New run:  {path}", markup=False, soft_wrap=True)
        CONSOLE.print(f"Viewer:   ns-viewer --load-config {path} --viewer.websocket-host 127.0.0.1", soft_wrap=True)
        CONSOLE.print(f"Ask:      lang-splat query --load-config {path} --text 'red mug'", soft_wrap=True)

    def _config(self) -> Any:
        """Configuration of the new run."""
        from lang_splat_ns.langsplat_lift.new_run import choose, drop_refused_queries

        config = self._start()
        manager, old_encoder = config.pipeline.datamanager, config.pipeline.datamanager.encoder
        other = self.encoder not in (None, old_encoder)
        if other:
            # They are choices of an encoder, and another one may not have them.
            manager.crops = manager.prompt_templates = None
        names = ("data", "encoder", "segmenter", "points_per_side", "crops", "prompt_templates", "cache_dir")
        choose(manager, {name: getattr(self, name) for name in names})
        if hasattr(manager.dataparser, "poses_dir"):
            choose(manager.dataparser, {"poses_dir": self.cache_dir})
        choose(config.pipeline.model, {"lift_method": self.method, "lift_workers": self.workers})
        choose(config, {"output_dir": self.output_dir})
        config.pipeline.model.lift_engine = self.engine
        if other:
            drop_refused_queries(config)
        return config

    def _start(self) -> Any:
        from lang_splat_ns.errors import UserError
        from lang_splat_ns.langsplat_lift.new_run import config_from_data, config_from_ply, config_from_run

        if self.load_config is not None and self.ply is not None:
            raise UserError("give either --load-config, the config.yml of a run, or --ply, a 3DGS .ply, not both.")
        if self.load_config is not None:
            return config_from_run(self.load_config)
        if self.ply is None and self.data is None:
            raise UserError(
                "give --load-config, the config.yml of a run, or --ply, a 3DGS .ply, or --data, photos with or without "
                "poses; lang-splat lift --help says more."
            )
        if self.data is None:
            raise UserError(f"--ply {self.ply} also needs --data: photos with poses, in a nerfstudio data set.")
        return config_from_data(self.data) if self.ply is None else config_from_ply(self.ply, self.data, self.ply_frame)
