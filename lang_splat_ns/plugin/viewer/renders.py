"""Renders of a splatting method as the panel wants to see them."""

from __future__ import annotations

import time
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
        model: a `LanguageSplatModel`.
        camera: of the viewer.
        obb_box: the viewer's crop.
        session: what is wanted.
    """
    outputs = _outputs(model, camera, obb_box, session)
    offer_outputs(list(outputs))
    return outputs


def _outputs(model: Any, camera: Cameras, obb_box: OrientedBox | None, session: Session) -> Outputs:
    view = session.view
    try:
        if model.has_language():
            return _answered(model, camera, obb_box, session, view)
        session.reports.put(Report(count=model.num_points, trouble=model.why_no_language()))
    except IOChangeException:
        raise
    except Exception as error:
        told = str(error) or type(error).__name__
        session.reports.put(Report(query=view.query, count=model.num_points, trouble=told))
    return model.plain_outputs(camera, obb_box)


@torch.no_grad()
def _answered(model: Any, camera: Cameras, obb_box: OrientedBox | None, session: Session, view: View) -> Outputs:
    model.set_crop(obb_box)
    field, count = model.language_field(view.query_mode), model.num_points
    start = time.perf_counter()
    wanted = view.mode in IN_3D or view.picked is not None
    selected = session.selected(view, field, model.step, count) if wanted else None
    channels = [field.channels(view.query)]
    if is_any(view.picked) and selected is not None:
        channels.append(selected[:, None].float())
    extra = torch.cat(channels, dim=1) if len(channels) > 1 else channels[0]
    seconds = time.perf_counter() - start
    image, alpha = model.splat(
        camera.to(model.device), with_depth=True, extra=extra, only=drawn_in(view.mode, selected)
    )
    _give_way(session, view)
    outputs: Outputs = model.image_outputs(camera, image[..., :4], alpha, with_depth=True)
    blended = image[..., 4 : 4 + channels[0].shape[1]]
    outputs["features_pca"] = torch.lerp(outputs["background"], field.colors(blended), alpha)
    start = time.perf_counter()
    maps = None if view.query is None else field.answer(camera, blended, view.query)
    seconds += time.perf_counter() - start
    _give_way(session, view)
    found = None if maps is None else find(maps.best(), alpha, view.query.threshold if view.query else "auto")
    if maps is not None:
        outputs |= _prompt_outputs(maps, outputs["rgb"])
    share = image[..., 4 + channels[0].shape[1] :]
    outputs["rgb"] = picture(view, outputs["rgb"], found, share if share.shape[-1] else None)
    session.reports.put(_report(view, found, seconds, count, selected))
    return outputs


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


def _report(view: View, found: Found | None, seconds: float, count: int, selected: Tensor | None) -> Report:
    peaks, areas = (found.peaks, found.areas) if found is not None else ((), ())
    chosen = None if selected is None else int(selected.sum())
    return Report(view.query, peaks, areas, seconds, count, chosen)


def _give_way(session: Session, view: View) -> None:
    """End a render that shows what nobody wants any more, as a move of the camera does; the next one waits already."""
    if session.view is not view:
        raise IOChangeException
