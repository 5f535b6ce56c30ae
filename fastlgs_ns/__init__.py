"""FastLGS (Ji et al., AAAI 2025): objects that are matched across views, low-dimensional codes, and a grid to ask."""
