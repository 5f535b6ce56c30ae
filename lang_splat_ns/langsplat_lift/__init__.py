"""langsplat-lift: language on finished Gaussians in closed form, from the rasterizer's own weights."""
