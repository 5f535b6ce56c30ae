"""Perception of a whole data set ahead of training, on the photos exactly as training sees them."""

from __future__ import annotations

import copy
import shutil
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from rich.filesize import decimal

from lang_splat_ns.console import CONSOLE, duration
from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.estimate import Estimate, estimate
from lang_splat_ns.perception.extract import Frame, extract, missing
from lang_splat_ns.perception.feature_store import FeatureStore, open_store
from lang_splat_ns.perception.ray_engine import Job, extract_on_ray
from lang_splat_ns.plugin.check_data import check_nerfstudio_folder
from lang_splat_ns.plugin.frame_features import PerceptionSpec, best_device, make_frames
from lang_splat_ns.plugin.one_photo import suited

Which = Literal["train", "all"]
Engine = Literal["local", "ray"]


def data_set_frames(data: Path, which: Which = "train") -> list[Frame]:
    """Photos of a nerfstudio data set.

    Args:
        data: folder with a `transforms.json`, or such a file.
        which: the training photos alone, or those held out for evaluation too.

    Raises:
        UserError: folder missing or empty, photos without poses, or one that cannot be read.
    """
    # Workers on other machines have another current folder.
    data = data.expanduser().absolute()
    check_nerfstudio_folder(data)
    parser = suited(NerfstudioDataParserConfig(data=data), data).setup()
    frames: dict[str, Frame] = {}
    for split in ("train", "val", "test") if which == "all" else ("train",):
        try:
            outputs = parser.get_dataparser_outputs(split)
        except RuntimeError:
            # A transforms.json may list the photos of some splits only; training needs no "test".
            if split == "train":
                raise
            continue
        for frame in make_frames(outputs.image_filenames, outputs.cameras):
            frames.setdefault(frame.content_key, frame)
    return list(frames.values())


def build(
    data: Path, spec: PerceptionSpec, which: Which = "train", engine: Engine = "local", workers: int | None = None
) -> None:
    """Compute what a later training would, and leave it in the cache.

    Args:
        data: see `data_set_frames`.
        spec: networks and cache.
        which: the training photos alone, or all.
        engine: this process, or a Ray cluster.
        workers: see `extract_on_ray`.

    Raises:
        UserError: see `data_set_frames`, `extract` and `extract_on_ray`.
    """
    spec, store = spec.settled(best_device()), open_store(data, spec.cache_dir)
    segmenter, encoder = spec.make_networks()
    frames, ids = data_set_frames(data, which), (segmenter.segmenter_id, encoder.encoder_id)
    _announce(len(frames), store, *ids)
    start, before = time.perf_counter(), missing(frames, *ids, store)
    if engine == "ray":
        extract_on_ray(Job(frames, spec.make_networks, *ids, store), workers)
    else:
        extract(frames, segmenter, encoder, store)
    computed = [f"{len(lacking)} {name}" for lacking, name in zip(before, ("label maps", "embeddings"), strict=True)]
    seconds = time.perf_counter() - start
    CONSOLE.print(f"{len(frames)} photos are ready; {' and '.join(computed)} computed in {duration(seconds)}.")


def build_for_method(data: Path, method: str, spec: PerceptionSpec) -> None:
    """Compute what a method of nerfstudio trains towards, as its own data manager does when training starts.

    Args:
        data: see `data_set_frames`.
        method: as `ns-train` knows it.
        spec: networks and cache, as far as the method has them; None leaves a method's default.

    Raises:
        UserError: see `data_set_frames`; or the method is unknown, computes nothing ahead, or lacks what is asked for.
    """
    from nerfstudio.configs.method_configs import all_methods

    data = data.expanduser().absolute()
    check_nerfstudio_folder(data)
    # Methods that nerfstudio knows by name alone, since they are not installed, have no pipeline.
    managers = {name: getattr(getattr(one, "pipeline", None), "datamanager", None) for name, one in all_methods.items()}
    able = sorted(name for name, manager in managers.items() if hasattr(manager, "encoder"))
    if method not in able:
        raise UserError(f"--method {method!r} computes no features ahead; take one of {', '.join(able)}.")
    config: Any = copy.deepcopy(managers[method])
    config.data = data
    for item in fields(spec):
        value = getattr(spec, item.name)
        if value is not None and not hasattr(config, item.name):
            raise UserError(f"{method} has no {item.name.replace('_', '-')}: leave that option out.")
        if value is not None:
            setattr(config, item.name, value)
    start = time.perf_counter()
    source = config.setup(device=best_device(), test_mode="val", world_size=1, local_rank=0).features
    CONSOLE.print(f"{len(source.frames)} photos, cache {source.store.root}", markup=False, soft_wrap=True)
    source.prepare()
    seconds = duration(time.perf_counter() - start)
    CONSOLE.print(f"{len(source.frames)} photos are ready for {method}, after {seconds}.")


def dry_run(data: Path, spec: PerceptionSpec, which: Which = "train") -> Estimate:
    """Say what `build` has to do, how long it takes and how much disk it needs; the measured photos stay done.

    Raises:
        UserError: see `build`.
    """
    store = open_store(data, spec.cache_dir)
    segmenter, encoder = spec.make_networks()
    frames = data_set_frames(data, which)
    _announce(len(frames), store, segmenter.segmenter_id, encoder.encoder_id)
    result = estimate(frames, segmenter, encoder, store)
    for name, stage in (("label maps", result.label_maps), ("embeddings", result.embeddings)):
        CONSOLE.print(
            f"{name.capitalize()}: {len(frames) - stage.missing} of {len(frames)} photos are in the cache"
            + (f"; one takes {duration(stage.seconds)} and {decimal(stage.size)}" if stage.seconds else "")
        )
    if result.measured:
        CONSOLE.print(f"Measured on {result.measured[-1]}. Done and kept: {', '.join(result.measured)}.", markup=False)
    CONSOLE.print(
        f"Left: {result.label_maps.left} label maps and {result.embeddings.left} embeddings, about "
        f"{duration(result.seconds)} on this machine, {decimal(result.size)} of disk "
        f"({decimal(_free(store.root))} are free).",
        soft_wrap=True,
    )
    return result


def _announce(count: int, store: FeatureStore, segmenter_id: str, encoder_id: str) -> None:
    CONSOLE.print(f"{count} photos, cache {store.root}", markup=False, soft_wrap=True)
    if store.below is not None:
        CONSOLE.print(f"also read: {store.below.root}, which cannot be written", markup=False, soft_wrap=True)
    CONSOLE.print(f"segmenter {segmenter_id}", markup=False, soft_wrap=True)
    CONSOLE.print(f"encoder {encoder_id}", markup=False, soft_wrap=True)


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
