"""Photos of any size on one canvas, and the way back from its pixels to theirs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lang_splat_ns.errors import UserError


@dataclass(frozen=True)
class Placement:
    """Where a photo lies on the network's canvas.

    A photo is scaled as a whole, nothing is cropped: its longer side becomes the network's, its shorter side the
    multiple of the patch size that is nearest in proportion, so that the two axes' scales differ by a few percent at
    most. Where photos differ in shape, all get the canvas that holds each, and lie in its middle with white around
    them. A photo's centre is the canvas's centre, which is where the network takes the principal point to be.

    Pixel coordinates here are continuous, the middle of the first pixel being (0.5, 0.5).

    Attributes:
        photo: the photo's own width and height.
        scaled: its width and height on the canvas.
        canvas: width and height of the canvas.
    """

    photo: tuple[int, int]
    scaled: tuple[int, int]
    canvas: tuple[int, int]

    @property
    def offset(self) -> tuple[float, float]:
        """Canvas coordinates of the photo's upper left corner."""
        return (self.canvas[0] - self.scaled[0]) / 2, (self.canvas[1] - self.scaled[1]) / 2

    @property
    def scale(self) -> tuple[float, float]:
        """Canvas pixels per photo pixel, across and down."""
        return self.scaled[0] / self.photo[0], self.scaled[1] / self.photo[1]

    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas that show the photo."""
        left, top = (int(value) for value in self.offset)
        return slice(top, top + self.scaled[1]), slice(left, left + self.scaled[0])

    def to_photo(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Photo coordinates [..., 2], x before y, of canvas coordinates."""
        return (points - np.array(self.offset)) / np.array(self.scale)

    def to_canvas(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Canvas coordinates [..., 2], x before y, of photo coordinates."""
        return points * np.array(self.scale) + np.array(self.offset)

    def intrinsics_of_photo(self, K: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Intrinsics in the photo's pixels [3, 3] from those in the canvas's."""
        return np.linalg.inv(self._matrix()) @ K

    def intrinsics_of_canvas(self, K: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Intrinsics in the canvas's pixels [3, 3] from those in the photo's."""
        return self._matrix() @ K

    def put(self, scaled: Tensor) -> Tensor:
        """A scaled photo uint8 [3, h, w] on its canvas, in 0..1. float32 [3, H, W]"""
        canvas = torch.ones(3, self.canvas[1], self.canvas[0])
        rows, columns = self.inside()
        canvas[:, rows, columns] = scaled.float() / 255
        return canvas

    def colors(self, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A photo as the network sees it, for the colours of its points: uint8 [H, W, 3]."""
        return (self.put(_resize(photo, self.scaled)) * 255).round().byte().permute(1, 2, 0).numpy()

    def _matrix(self) -> npt.NDArray[np.floating]:
        matrix = np.diag([*self.scale, 1.0])
        matrix[:2, 2] = self.offset
        return matrix


def place_photos(
    photos: Iterable[npt.NDArray[np.uint8]], longer_side: int, patch_size: int
) -> tuple[list[Tensor], list[Placement]]:
    """Scale photos for the network.

    Args:
        photos: RGB uint8 [H, W, 3], of any sizes. Each is asked for once, so that they may be read on demand.
        longer_side: in canvas pixels.
        patch_size: what canvas sides are multiples of.

    Returns:
        Per photo the scaled photo, uint8 [3, h, w], which `Placement.put` puts on the canvas, and its placement.

    Raises:
        UserError: there is no photo, or one is no RGB photo.
    """
    scaled, sizes = [], []
    for index, photo in enumerate(photos):
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or 0 in photo.shape:
            raise UserError(
                f"photo {index} is {photo.dtype} {list(photo.shape)}, but must be RGB: uint8 [height, width, 3]"
            )
        sizes.append((photo.shape[1], photo.shape[0]))
        scaled.append(_resize(photo, _scaled_size(sizes[-1], longer_side, patch_size)))
    if not scaled:
        raise UserError("there is no photo to predict anything of")
    canvas = max(x.shape[2] for x in scaled), max(x.shape[1] for x in scaled)
    placements = [Placement(size, (x.shape[2], x.shape[1]), canvas) for size, x in zip(sizes, scaled, strict=True)]
    return scaled, placements


def _scaled_size(size: tuple[int, int], longer_side: int, patch_size: int) -> tuple[int, int]:
    factor = longer_side / max(size)
    width, height = (max(1, round(side * factor / patch_size)) * patch_size for side in size)
    return width, height


def _resize(photo: npt.NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """uint8 [3, h, w]."""
    pixels = torch.from_numpy(np.ascontiguousarray(photo)).permute(2, 0, 1)[None]
    return F.interpolate(pixels, size=size[::-1], mode="bicubic", antialias=True, align_corners=False)[0]
