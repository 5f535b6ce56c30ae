"""Filling holes in images: the protocol, OpenCV's way, and plug-ins by name."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from lang_splat_ns.errors import UserError
from lang_splat_ns.perception.registry import Registry, call_with_known_arguments

DEFAULT_INPAINTER = "opencv"

INPAINTERS = Registry(
    kind="inpainter",
    group="lang_splat_ns.inpainters",
    variable="LANG_SPLAT_INPAINTERS",
    builtin={"opencv": "lang_splat_ns.perception.inpainters:OpenCVInpainter"},
)


class Inpainter(Protocol):
    """Paints what an image lacks."""

    def inpaint(self, image: npt.NDArray[np.uint8], hole: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        """The image, RGB [H, W, 3], with something that fits around it where `hole` [H, W] says so."""
        ...


class OpenCVInpainter:
    """Telea's fast marching (2004): continues colours into the hole, without texture.

    Where colours from several sides meet it leaves hard seams, so that what it painted is then made smooth.
    """

    radius = 4
    """Pixels around the hole that colours are taken from."""
    smoothing = 500
    """Times that each painted pixel becomes the mean of those around it."""

    def inpaint(self, image: npt.NDArray[np.uint8], hole: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        """See `Inpainter`."""
        import cv2

        filled = cv2.inpaint(image, hole.astype(np.uint8), self.radius, cv2.INPAINT_TELEA)
        smooth, inside = filled.astype(np.float32), hole[..., None]
        for _ in range(self.smoothing):
            smooth = np.where(inside, cv2.blur(smooth, (3, 3)), smooth)
        return np.asarray(smooth.round(), dtype=np.uint8)


def make_inpainter(name: str = DEFAULT_INPAINTER, device: str = "cpu") -> Inpainter:
    """An inpainter by name, built in or a plug-in; plug-ins that name an argument `device` get it.

    Raises:
        UserError: there is none of that name, or it cannot be imported, or has no `inpaint`.
    """
    found = call_with_known_arguments(INPAINTERS.load(name), {"device": device})
    if not callable(getattr(found, "inpaint", None)):
        raise UserError(f"the inpainter {name!r} has no method inpaint(image, hole)")
    return found
