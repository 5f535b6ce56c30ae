"""Renders of a language method as the panel wants to see them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from torch import Tensor

from lang_splat_ns.language.field import RelevancyMaps
from lang_splat_ns.plugin.viewer.pictures import Found, find, lit_up, mask_picture, overlay
from lang_splat_ns.plugin.viewer.redraw import offer_outputs
from lang_splat_ns.plugin.viewer.session import IN_3D, Report, Session, View, drawn_in, is_any

MOST_OUTPUTS = 8
"""Prompts with outputs of their own in nerfstudio's list; the panel's picture shows them all."""

Outputs = dict[str, Tensor]


def viewer_outputs(model: Any, camera: Cameras, obb_box: OrientedBox | None, session: Session) -> Outputs:
    """What the viewer gets: `rgb` is the picture that the panel wants, and the rest is as in every other render.

    Whatever goes wrong is told to the panel, and the plain picture is shown, since an exception here would end the
    viewer's render thread.

    Args:
        model: any that has a `LanguageField`, with `has_language`, `why_no_language`, `language_field` and
            `plain_outputs`.
        camera: of the viewer.
        obb_box: the viewer's crop.
        session: what is wanted.
    """
    view, count = session.view, getattr(model, "num_points", 0)
    answered: tuple[Outputs, Report] | None = None
    trouble = ""
    try:
        if model.has_language():
            answered = answered_outputs(model, camera, obb_box, session, view)
        else:
            trouble = model.why_no_language()
    except IOChangeException:
        raise
    except Exception as error:
        trouble = str(error) or type(error).__name__
    if answered is None:
        answered = model.plain_outputs(camera, obb_box), Report(view.query, count=count, trouble=trouble)
    outputs, report = answered
    session.shown = view
    session.reports.put(report)
    offer_outputs(list(outputs))
    return outputs


@torch.no_grad()
def answered_outputs(
    model: Any, camera: Cameras, obb_box: OrientedBox | None, session: Session, view: View
) -> tuple[Outputs, Report]:
    """Outputs of a model with a language part, and what was found in them; see `viewer_outputs`.

    Raises:
        IOChangeException: something else is wanted by now.
        UserError: the query cannot be answered.
    """
    answer = _splatted if hasattr(model, "splat") else _plain
    outputs, maps, seconds, drawn = answer(model, camera, obb_box, session, view)
    _give_way(session, view)
    found = None
    if maps is not None and view.query is not None:
        found = find(maps.best(), outputs["accumulation"], view.query.threshold)
        outputs |= _prompt_outputs(maps, outputs["rgb"])
    outputs["rgb"] = picture(view, outputs["rgb"], found, drawn.share)
    peaks, areas = (found.peaks, found.areas) if found is not None else ((), ())
    scales = (maps.scales or ()) if maps is not None else ()
    count = getattr(model, "num_points", 0)
    return outputs, Report(view.query, peaks, areas, seconds, count, drawn.count, scales=scales)


@dataclass(frozen=True)
class _Drawn:
    """What a render knows of the selection: how much of each pixel was clicked [H, W, 1], and how many Gaussians."""

    share: Tensor | None = None
    count: int | None = None


Answer = tuple[Outputs, RelevancyMaps | None, float, _Drawn]


def _splatted(model: Any, camera: Cameras, obb_box: OrientedBox | None, session: Session, view: View) -> Answer:
    """Everything in one pass of the rasterizer: colour, depth, the answer's channels, and what was clicked."""
    model.set_crop(obb_box)
    field, start = model.language_field(view.query_mode), time.perf_counter()
    wanted = view.mode in IN_3D or view.picked is not None
    selected = session.selected(view, field, model.step, model.num_points) if wanted else None
    channels = [field.channels(view.query)]
    if selected is not None and is_any(view.picked):
        channels.append(selected[:, None].float())
    extra = torch.cat(channels, dim=1) if len(channels) > 1 else channels[0]
    seconds = time.perf_counter() - start
    image, alpha = model.splat(
        camera.to(model.device), with_depth=True, extra=extra, only=drawn_in(view.mode, selected)
    )
    _give_way(session, view)
    outputs: Outputs = model.image_outputs(camera, image[..., :4], alpha, with_depth=True)
    blended, share = image[..., 4:].split([channels[0].shape[1], extra.shape[1] - channels[0].shape[1]], dim=-1)
    outputs["features_pca"] = torch.lerp(outputs["background"], field.colors(blended), alpha)
    start = time.perf_counter()
    maps = None if view.query is None else field.answer(camera, blended, view.query)
    seconds += time.perf_counter() - start
    drawn = _Drawn(share if share.shape[-1] else None, None if selected is None else int(selected.sum()))
    return outputs, maps, seconds, drawn


def _plain(model: Any, camera: Cameras, obb_box: OrientedBox | None, session: Session, view: View) -> Answer:
    """Rays that carry the answer along, for methods without Gaussians; they end early when nobody wants them."""
    start = time.perf_counter()
    outputs, maps = model.answer_camera(camera, view.query, obb_box, between=lambda: _give_way(session, view))
    return dict(outputs), maps, time.perf_counter() - start, _Drawn()


def picture(view: View, rgb: Tensor, found: Found | None, share: Tensor | None) -> Tensor:
    """The picture that a view asks for: [H, W, 3].

    Args:
        view: what is wanted.
        rgb: the render. [H, W, 3]
        found: the query's answer in it, if there is a query.
        share: how much of each pixel belongs to what was clicked, if anything was. [H, W, 1]
    """
    if view.mode in IN_3D:
        return rgb
    if found is not None and view.mode == "relevancy":
        rgb = overlay(rgb, found, view.opacity)
    elif found is not None and view.mode == "mask":
        rgb = mask_picture(rgb, found, view.opacity)
    return rgb if share is None else lit_up(rgb, share, rest=found is None and view.mode != "rgb")


def _prompt_outputs(maps: RelevancyMaps, rgb: Tensor) -> Outputs:
    from lang_splat_ns.plugin.prompts import prompt_outputs

    few = RelevancyMaps(maps.values[:MOST_OUTPUTS], maps.chosen[:MOST_OUTPUTS], maps.levels)
    return prompt_outputs(few, rgb)


def _give_way(session: Session, view: View) -> None:
    """End a render that shows what nobody wants any more, as a move of the camera does; the next one waits already."""
    if session.view is not view:
        raise IOChangeException
