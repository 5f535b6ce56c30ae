"""A segmenter that needs no weights: Felzenszwalb's graph segmentation at three scales."""
