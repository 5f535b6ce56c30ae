"""LangSplat's scene autoencoder: mask embeddings to a few numbers per Gaussian, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lang_splat_ns.console import track
from lang_splat_ns.errors import UserError

ENCODER_WIDTHS = (256, 128, 64, 32)
DECODER_WIDTHS = (16, 32, 64, 128, 256, 256)
COSINE_WEIGHT = 1e-3
DECODE_ROWS = {"cpu": 1 << 12, "cuda": 1 << 15}
"""Rows decoded at a time: full-size maps of 512 channels would not fit into memory at once. On a CPU a piece stays in
the cache, which takes little more than half the time; a GPU wants enough work to be busy."""


class SceneAutoencoder(nn.Module):
    """Compresses one scene's embeddings to unit codes (Qin et al. 2024, LangSplat, section 3.2).

    Encoder dim-256-128-64-32-code with batch normalisation, decoder code-16-32-64-128-256-256-dim.

    Args:
        dim: length of the embeddings, whatever the encoder gives.
        code_dim: length of the codes, 3 in the paper.
    """

    def __init__(self, dim: int, code_dim: int = 3) -> None:
        super().__init__()
        self.dim, self.code_dim = dim, code_dim
        self.encoder = _mlp((dim, *ENCODER_WIDTHS, code_dim), normalised=True)
        self.decoder = _mlp((code_dim, *DECODER_WIDTHS, dim), normalised=False)
        self._frozen = False

    def freeze(self) -> SceneAutoencoder:
        """Fix weights and statistics for good: a pipeline's `train()` must not wake batch normalisation again."""
        self._frozen = True
        return self.train(False).requires_grad_(False)

    def train(self, mode: bool = True) -> SceneAutoencoder:
        """torch's switch between training and evaluation; without effect once frozen."""
        return super().train(mode and not self._frozen)

    def encode(self, embeddings: Tensor) -> Tensor:
        """Unit codes [N, code_dim] of embeddings [N, dim]."""
        return F.normalize(self.encoder(embeddings), dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Unit embeddings [..., dim] of codes [..., code_dim], which blending may have shortened."""
        return F.normalize(self.decoder(codes), dim=-1)

    @torch.no_grad()
    def decode_in_chunks(self, codes: Tensor) -> Iterator[Tensor]:
        """Like `decode` for codes [N, code_dim], one piece of bounded size after the other."""
        for chunk in codes.split(DECODE_ROWS.get(codes.device.type, DECODE_ROWS["cuda"])):
            yield self.decode(chunk)


def fit_autoencoder(
    embeddings: Tensor, *, code_dim: int, epochs: int, learning_rate: float, batch_size: int, seed: int
) -> SceneAutoencoder:
    """Train an autoencoder on a scene's mask embeddings, with Adam on squared error plus a little cosine distance.

    The global random state is left as it was, so that a run continues the same whether or not it fits one.

    Args:
        embeddings: [N, dim] unit rows without NaN.
        code_dim: length of the codes.
        epochs: passes over all rows.
        learning_rate: of Adam; 7e-4 in the paper.
        batch_size: rows per step; 64 in the paper.
        seed: of weights and shuffling.

    Returns:
        The frozen autoencoder, on the device of `embeddings`.

    Raises:
        UserError: there are fewer than two embeddings to learn from.
    """
    if len(embeddings) < 2:
        raise UserError("The segmenter and encoder found no region to learn from in any photo; try another segmenter.")
    # manual_seed seeds every device, so a training on CUDA would draw other numbers afterwards.
    devices = range(torch.cuda.device_count()) if embeddings.is_cuda else ()
    with torch.random.fork_rng(devices=devices), _one_thread():
        torch.manual_seed(seed)
        model = SceneAutoencoder(embeddings.shape[1], code_dim).to(embeddings.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        for _ in track(range(epochs), "Fitting the scene autoencoder"):
            order = torch.randperm(len(embeddings)).to(embeddings.device)
            for rows in order.split(batch_size):
                if len(rows) > 1:  # Batch normalisation has no variance to work with in a batch of one.
                    _step(model, optimizer, embeddings[rows])
    return model.freeze()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Layers this small are computed faster than threads are woken, above all when others want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _step(model: SceneAutoencoder, optimizer: torch.optim.Optimizer, batch: Tensor) -> None:
    output = model.decoder(model.encode(batch))
    loss = F.mse_loss(output, batch) + COSINE_WEIGHT * (1 - F.cosine_similarity(output, batch, dim=-1)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _mlp(widths: tuple[int, ...], *, normalised: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for before, after in pairwise(widths[1:]):
        if normalised:
            layers.append(nn.BatchNorm1d(before))
        layers += [nn.ReLU(), nn.Linear(before, after)]
    return nn.Sequential(*layers)
