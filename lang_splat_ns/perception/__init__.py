"""Photos in, label maps and embeddings out. 2D only; numpy and torch, no nerfstudio."""
