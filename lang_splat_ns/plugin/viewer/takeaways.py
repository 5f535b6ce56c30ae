"""The panel's buttons that give something out: a flight, a file, a picture."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from nerfstudio.viewer.utils import get_camera
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from torch import Tensor

from lang_splat_ns.plugin.own_frame import own_gaussians
from lang_splat_ns.plugin.viewer.redraw import evaluating
from lang_splat_ns.plugin.viewer.session import Session
from lang_splat_ns.plugin.viewer.takeaway import Place, best_place, flight, png
from lang_splat_ns.splatting.ply import ply_bytes

FLIGHT_STEPS = 12
FLIGHT_PAUSE = 0.04
"""Seconds between two places on the way."""


class Takeaways:
    """What is done for one browser.

    Args:
        pipeline: whose model is shown.
        viewer: nerfstudio's.
        session: what is wanted to be seen.
    """

    def __init__(self, pipeline: Any, viewer: Any, session: Session) -> None:
        self._pipeline, self._viewer, self._session = pipeline, viewer, session

    def fly(self, client: Any, mask: Tensor) -> None:
        """Move a browser's camera to the best view of a selection."""
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO as SCALE

        with evaluating(self._viewer, self._pipeline.model):
            end = best_place(self._pipeline.model, self._pipeline.datamanager.train_dataset.cameras, mask)
        start = Place(np.array(client.camera.position) / SCALE, np.array(client.camera.look_at) / SCALE)
        for place in flight(start, end, FLIGHT_STEPS):
            with client.atomic():
                client.camera.position = place.position * SCALE
                client.camera.look_at = place.target * SCALE
            time.sleep(FLIGHT_PAUSE)

    def export(self, client: Any, mask: Tensor) -> str:
        """Send a selection to a browser as a `.ply`; returns what was sent."""
        content = ply_bytes(own_gaussians(self._pipeline).some(mask))
        client.send_file_download("selection.ply", content)
        return f"selection.ply: {int(mask.sum()):,} Gaussians, {len(content) / 1e6:.1f} MB"

    def snapshot(self, client: Any) -> None:
        """Send a browser the picture that it shows, without loss."""
        height = int(self._viewer.control_panel.max_res)
        state = self._viewer.get_camera_state(client)
        panel = self._viewer.control_panel
        model = self._pipeline.model
        camera = get_camera(state, height, int(height * state.aspect)).to(model.device)
        with evaluating(self._viewer, model):
            picture = self._picture(model, camera, panel.crop_obb if panel.crop_viewport else None)
        client.send_file_download(f"snapshot_{time.strftime('%Y%m%d_%H%M%S')}.png", png(picture))

    @torch.no_grad()
    def _picture(self, model: Any, camera: Any, crop: Any) -> Tensor:
        from lang_splat_ns.plugin.viewer.renders import viewer_outputs

        while True:
            try:
                return viewer_outputs(model, camera, crop, self._session)["rgb"]
            except IOChangeException:
                # Somebody has just wished for another picture: then it is that one.
                continue
