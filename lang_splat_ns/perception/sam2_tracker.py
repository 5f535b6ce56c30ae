"""SAM 2's video model (Ravi et al., 2024) through the package transformers, following things from photo to photo."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lang_splat_ns.perception.promptable import half_precision
from lang_splat_ns.perception.sam2 import Sam2Segmenter, check_model_type, load_model, square_pixels


class Sam2Tracker:
    """A `transformers.Sam2VideoModel` as a `video_links.Tracker`.

    Every object has a session of its own, since the model goes through a session's objects one by one anyway, and one
    that is given up can then be dropped. All of them share the photo's features, which are computed once.

    Args:
        model: the model, in eval mode on its device.
    """

    def __init__(self, model: Any) -> None:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceCache

        self._model = model
        self._features = Sam2VideoInferenceCache(inference_device=model.device, inference_state_device=model.device)
        self._time = -1
        self._pixels: Tensor | None = None
        self._size = (0, 0)

    @staticmethod
    def load(variant: str | None = None, device: str = "cpu") -> Sam2Tracker:
        """A tracker with published weights.

        Args:
            variant: `OWNER/NAME` on the hub, or a folder in the form of `save_pretrained`; None is SAM 2.1 Hiera-L.
            device: torch device.

        Raises:
            UserError: the model cannot be had, or is no SAM 2.
        """
        folder = Sam2Segmenter.fetch(variant)
        check_model_type(folder, variant or Sam2Segmenter.address)
        return Sam2Tracker(load_model("Sam2VideoModel", folder, device))

    def look(self, image: npt.NDArray[np.uint8]) -> None:
        """Go on to the next photo."""
        self._time += 1
        self._size = (image.shape[0], image.shape[1])
        self._pixels = square_pixels(image, self._model.image_size, self._model.device)

    def begin(self, mask: npt.NDArray[np.bool_]) -> Any:
        """Start to follow what a mask of the photo shows."""
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        session = Sam2VideoInferenceSession(
            video_height=self._size[0],
            video_width=self._size[1],
            inference_device=self._model.device,
            inference_state_device=self._model.device,
            dtype=torch.float32,
        )
        session.cache = self._features
        side = self._model.image_size
        pixels = torch.from_numpy(mask)[None, None].float()
        square = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        session.add_mask_inputs(session.obj_id_to_idx(0), self._time, (square >= 0.5).float())
        session.obj_with_new_inputs = [0]
        self._step(session)
        return session

    def follow(self, track: Any) -> Tensor | None:
        """Mask logits of the thing in the photo, or None where the model thinks that it is hidden."""
        output = self._step(track)
        if float(output.object_score_logits.max()) <= 0:
            return None
        return output.pred_masks[0, 0].float()

    @torch.inference_mode()
    def _step(self, session: Any) -> Any:
        with half_precision(self._model.device):
            output = self._model(session, frame=self._pixels, frame_idx=self._time)
        self._forget(session)
        return output

    def _forget(self, session: Any) -> None:
        """Drop what no later photo needs; the model itself keeps every photo and every mask at its full size."""
        session.processed_frames.clear()
        reach = max(self._model.num_maskmem, self._model.config.max_object_pointers_in_encoder)
        for outputs in session.output_dict_per_obj[0].values():
            for output in outputs.values():
                output.pop("high_res_masks", None)
        past = session.output_dict_per_obj[0]["non_cond_frame_outputs"]
        for time in [time for time in past if time <= self._time - reach]:
            del past[time]
        session.frames_tracked_per_obj[0].clear()
