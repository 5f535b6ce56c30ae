"""LERF: language fields on nerfacto and on Gaussians."""
