"""LangSplat (Qin et al., CVPR 2024) on nerfstudio."""
