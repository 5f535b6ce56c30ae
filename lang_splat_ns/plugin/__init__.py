"""The nerfstudio glue: data managers, pipeline, trainer, viewer elements."""
