"""Language-embedded 3D scenes for nerfstudio: the shared rooms, 3DGS and LangSplat."""
