"""Gaussians: rasterizer, 3DGS model, files. No text in here."""
