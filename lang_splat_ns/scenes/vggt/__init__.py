"""VGGT (Wang et al., Visual Geometry Grounded Transformer, CVPR 2025): photos in, cameras, depth and points out.

Our own implementation, from the paper and the published checkpoints' tensor names. Its outputs equal those of the
official code on tiny random networks. The real checkpoints have not been loaded by us: their names and shapes are
checked against the list in `tests/test_vggt.py`, their values could not be.

    from lang_splat_ns.scenes.vggt.predict import predict
    from lang_splat_ns.scenes.vggt.weights import load_vggt
    prediction = predict(load_vggt("vggt", device="cuda"), photos)
"""

from lang_splat_ns.scenes.vggt.config import VGGTConfig
from lang_splat_ns.scenes.vggt.model import VGGT

__all__ = ["VGGT", "VGGTConfig"]
