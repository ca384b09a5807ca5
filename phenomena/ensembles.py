"""Many small networks trained at once: the loop of `phenomena.training`, with all members in each product.

A step of a small network is almost all overhead. Stacking M members of the same sizes turns each layer into one
batched product, Z_m = W_m A_m + b_m for m = 1..M; members of other widths get a product of their own, with no
padding. Activations are (units, samples), the units of all members below each other, so that everything that
acts on single numbers (bias, activation, optimizer) is one operation whatever the widths, and so is a first
layer whose input all members share: its weights are just rows of one tall matrix.
"""

import math
from collections.abc import Callable, Collection, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from phenomena.training import Diverged, History, Loss, Record, Schedule, append, batches, check_weights

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.Sigmoid, nn.Identity)
_OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad)  # AdamW is an Adam
# Hidden units x samples in one block: more no longer fits the cache, and there is no overhead left to save.
_BLOCK = 2**19


class Ensemble:
    """M networks (Linear, activation, Linear, ..., Linear) whose hidden widths may differ, as one function.

    `parameters` is ordered as a single network's (W_1, b_1, W_2, b_2, ...), each entry flat and holding that
    layer of every member, copied from `models`. Neighbours of equal sizes share a batched product.
    """

    def __init__(self, models: Sequence[nn.Sequential]) -> None:
        self.models = models
        shapes = [[p.shape for p in model.parameters()] for model in models]
        kinds = [[type(layer) for layer in model] for model in models]
        if any(kind != kinds[0] for kind in kinds) or any(len(s) != len(shapes[0]) for s in shapes):
            raise ValueError("the members of an ensemble must have the same layers; only widths may differ")
        linears = [[layer for layer in model if isinstance(layer, nn.Linear)] for model in models]
        self.activations = [layer for layer in models[0] if not isinstance(layer, nn.Linear)]
        if kinds[0][::2] != [nn.Linear] * len(linears[0]) or not all(
            isinstance(a, _ACTIVATIONS) for a in self.activations
        ):
            raise ValueError(f"an ensemble's members are Linear, activation, ..., Linear, not {models[0]}")
        sizes = [(layers[0].in_features, *(layer.out_features for layer in layers)) for layers in linears]
        if any((s[0], s[-1]) != (sizes[0][0], sizes[0][-1]) for s in sizes):
            raise ValueError("the members of an ensemble must have the same input and output size")
        self.groups = [(len(list(run)), s) for s, run in groupby(sizes)]  # (members, their layer sizes)
        self.bias = linears[0][0].bias is not None
        self.parameters = [
            torch.cat([p.detach().flatten() for p in ps]).requires_grad_(ps[0].requires_grad)
            for ps in zip(*(model.parameters() for model in models), strict=True)
        ]

    def __call__(self, X: Tensor) -> Tensor:
        """Outputs (M, n, C) of all members on shared inputs X (n, d), or of member m on X[m], X (M, n, d)."""
        weights = self.parameters[::2] if self.bias else self.parameters
        biases = self.parameters[1::2] if self.bias else [torch.zeros((), dtype=X.dtype)] * len(weights)
        A = X.mT  # (d, n) or (M, d, n); from the first layer on (all members' units, n)
        for k, (W, b) in enumerate(zip(weights, biases, strict=True)):
            if k > 0:
                A = self.activations[k - 1](A)
            A = self._layer(k, W, b, A)
        return A.view(len(self.models), -1, X.shape[-2]).mT

    def _layer(self, k: int, W: Tensor, b: Tensor, A: Tensor) -> Tensor:
        """Z_m = W_m A_m + b_m of layer k for all members, (all members' units, n)."""
        n = A.shape[-1]
        if k == 0 and A.dim() == 2:
            return torch.addmm(b.unsqueeze(-1), W.view(-1, len(A)), A)
        A_g = A.split([M if k == 0 else M * s[k] for M, s in self.groups])
        W_g = W.split([M * s[k] * s[k + 1] for M, s in self.groups])
        Z_g = [
            torch.bmm(w.view(M, s[k + 1], s[k]), a.view(M, s[k], n)).view(-1, n)
            for (M, s), w, a in zip(self.groups, W_g, A_g, strict=True)
        ]
        return (torch.cat(Z_g) if len(Z_g) > 1 else Z_g[0]) + b.unsqueeze(-1)

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the current weights into the models that the ensemble was made of."""
        for flat, ps in zip(self.parameters, zip(*(m.parameters() for m in self.models)), strict=True):
            for p, values in zip(ps, flat.split([p.numel() for p in ps]), strict=True):
                p.copy_(values.view_as(p))
