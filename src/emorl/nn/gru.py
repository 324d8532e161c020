"""DualGRU: two GRU cells side by side (App. F.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emorl.prob import Gaussian


class DualGRU(nn.Module):
    """One GRU cell for the mean and one for the raw std, run as one batched product.

    Per cell r = s(.), u = s(.), n = tanh(W x + b + r (V h + c)), h' = (1 - u) n + u h. Rows of the weights run
    reset, update, new as in torch.nn.GRUCell; the leading axis of 2 is (mean, raw).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.randn(2, 3 * dim, dim))
        self.weight_hh = nn.Parameter(torch.randn(2, 3 * dim, dim))
        self.bias_ih = nn.Parameter(torch.randn(2, 3 * dim))
        self.bias_hh = nn.Parameter(torch.randn(2, 3 * dim))

    def forward(self, x: Tensor, state: Gaussian) -> Gaussian:
        """Feed x (... D) to both cells, whose states are the two halves of `state` (... D each)."""
        shape = state.mean.shape
        x = x.reshape(1, -1, shape[-1]).expand(2, -1, -1)  # 2 n D
        h = torch.stack([state.mean.flatten(0, -2), state.raw.flatten(0, -2)])  # 2 n D
        a = torch.baddbmm(self.bias_ih.unsqueeze(1), x, self.weight_ih.mT)  # 2 n 3D
        b = torch.baddbmm(self.bias_hh.unsqueeze(1), h, self.weight_hh.mT)  # 2 n 3D
        reset_a, update_a, new_a = a.chunk(3, dim=-1)
        reset_b, update_b, new_b = b.chunk(3, dim=-1)
        reset = torch.sigmoid(reset_a + reset_b)
        update = torch.sigmoid(update_a + update_b)
        new = torch.tanh(new_a + reset * new_b)
        mean, raw = ((1 - update) * new + update * h).unbind(0)
        return Gaussian(mean.view(shape), raw.view(shape))


class SingleGRU(nn.Module):
    """The ablation of Table 2: a projection D -> 2D and one ordinary GRU whose state is [mean; raw]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, 2 * dim)
        self.cell = nn.GRUCell(2 * dim, 2 * dim)

    def forward(self, x: Tensor, state: Gaussian) -> Gaussian:
        """As `DualGRU.forward`."""
        shape = state.mean.shape
        h = self.cell(self.project(x).flatten(0, -2), state.cat().flatten(0, -2))  # n 2D
        mean, raw = h.chunk(2, dim=-1)
        return Gaussian(mean.reshape(shape), raw.reshape(shape))
