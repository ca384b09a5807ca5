"""Yang 2020: wide networks of any architecture are Gaussian at first and have an NTK; where independence misleads."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from phenomena.data import load
from phenomena.empirical_ntk import empirical_ntk
from phenomena.infinite_width import infinite_width, kappa0, kappa1
from phenomena.program import Values, main
from phenomena.wide import ntk_mlp

# widths: of the tangent kernels; draws: networks of the widest, of narrower ones up to 8 times as many; products: the
# random weights that one kurtosis takes.
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"widths": [8, 16, 32], "draws": 2, "products": 2e5},
    "laptop": {"widths": [32, 64, 128, 256, 512, 1024], "draws": 8, "products": 1.5e8},
    "paper": {"widths": [32, 64, 128, 256, 512, 1024, 2048], "draws": 50, "products": 5e9},
}
KURTOSIS_WIDTHS, DEPTH = (4, 8, 16, 32, 64, 128, 256), 3
DEPTHS, WIDTH = 5, 32  # the kurtosis over depth: 1 to 5 hidden layers of 32 units
GROWING = {8: 1, 16: 2, 32: 4, 64: 8}  # width -> depth, in proportion
A2 = B2 = 0.5  # squared scales of the recurrent network's state and of its input


def squared_norms(width: int, depth: int, products: float, generator: torch.Generator) -> Tensor:
    """|g^h|² of ReLU networks at one input of length 1, (depth, networks): given it, the next output is N(0, |g^h|²).

    As many networks as `products` random weights allow, and no fewer than products/40,000.
    """
    count = int(max(products / 40_000, products / (width**2 * max(depth - 1, 1))))
    norms = torch.empty(depth, count, dtype=torch.float64)
    for block in torch.arange(count).split(max(1, 2**20 // width**2)):
        # W x of a unit vector x is N(0, I): the first layer needs no matrix
        g = math.sqrt(2 / width) * torch.relu(torch.randn(len(block), width, 1, generator=generator))
        norms[0, block] = g.square().sum((1, 2)).double()
        for h in range(1, depth):
            W = torch.randn(len(block), width, width, generator=generator)
            g = math.sqrt(2 / width) * torch.relu(W @ g)
            norms[h, block] = g.square().sum((1, 2)).double()
    return norms


def excess_kurtosis(s: Tensor) -> Tensor:
    """E f⁴/(E f²)² - 3 from s = |g|², (..., networks): the read-out is averaged exactly, E f⁴ = 3 E s², E f² = E s."""
    return 3 * (s.square().mean(-1) / s.mean(-1).square() - 1)


def exact(width: int, depth: int) -> float:
    """Excess kurtosis 3((1 + 5/m)^L - 1): s is a product of L independent factors of mean 1, second moment 1 + 5/m."""
    return 3 * ((1 + 5 / width) ** depth - 1)


def kurtosis(products: float, generator: torch.Generator) -> dict[str, float | list[float]]:
    """The output's distance from a Gaussian over width, over depth, and when both grow together."""
    excess = [float(excess_kurtosis(squared_norms(m, DEPTH, products, generator)[-1])) for m in KURTOSIS_WIDTHS]
    by_depth = excess_kurtosis(squared_norms(WIDTH, DEPTHS, 2 * products, generator))
    growing = [float(excess_kurtosis(squared_norms(m, L, 2 * products, generator)[-1])) for m, L in GROWING.items()]
    values: dict[str, float | list[float]] = {
        "kurtosis_width": [float(m) for m in KURTOSIS_WIDTHS],
        "kurtosis": excess,
        "kurtosis_exact": [exact(m, DEPTH) for m in KURTOSIS_WIDTHS],
        "depth": [float(h) for h in range(1, DEPTHS + 1)],
        "kurtosis_by_depth": by_depth.tolist(),
        "kurtosis_by_depth_exact": [exact(WIDTH, h) for h in range(1, DEPTHS + 1)],
        "growing_width": [float(m) for m in GROWING],
        "kurtosis_growing": growing,
        "kurtosis_growing_exact": [exact(m, L) for m, L in GROWING.items()],
        "kurtosis_deep": float(by_depth[-1]),
        "kurtosis_deep_exact": exact(WIDTH, DEPTHS),
    }
    for m in (4, 32, 256):
        k = KURTOSIS_WIDTHS.index(m)
        values |= {f"kurtosis_{m}": excess[k], f"kurtosis_{m}_exact": exact(m, DEPTH)}
    return values


class Transpose(nn.Module):
    """Three hidden ReLU layers, the third with the transpose of the second's weights: f³ = Wᵀ g²."""

    def __init__(self, d: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.U, self.W, self.v = (
            nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((width, d), (width, width), (width,))
        )

    def last_layer(self, X: Tensor) -> Tensor:
        """g³ of each row of X (n, d), (n, width)."""
        scale, g = math.sqrt(2 / len(self.W)), X
        for W in (self.U, self.W, self.W.mT):
            g = scale * torch.relu(g @ W.mT)
        return g

    def forward(self, X: Tensor) -> Tensor:
        """Outputs (n, 1)."""
        return self.last_layer(X) @ self.v.unsqueeze(1)


class Recurrent(nn.Module):
    """u^t = √a² W g^(t-1) + √b² U x^t, g^t = √(2/m) relu(u^t), f = vᵀ (mean of g^t over the times t)."""

    def __init__(self, d: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.U, self.W, self.v = (
            nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((width, d), (width, width), (width,))
        )

    def forward(self, X: Tensor) -> Tensor:
        """Outputs (n, 1) on sequences X (n, T, d)."""
        g, total = X.new_zeros(len(X), len(self.v)), X.new_zeros(len(X), len(self.v))
        for x in X.unbind(1):
            u = math.sqrt(A2) * g @ self.W.mT + math.sqrt(B2) * x @ self.U.mT
            g = math.sqrt(2 / len(self.v)) * torch.relu(u)
            total = total + g
        return total @ self.v.unsqueeze(1) / X.shape[1]


def recurrent_ntk(X: Tensor, tied: bool = True) -> Tensor:
    """The NTK of `Recurrent` at infinite width, (n, n), for sequences X (n, T, d); all kernels are (n, T, n, T).

    Forward, of u: S^ts = a² K^(t-1)(s-1) + b² x^t·x^s with K = 2 E[relu relu]; backward, of m times the gradient by
    u with W' as if independent of W: D^ts = 2 E[relu' relu'] (1/T² + a² D^(t+1)(s+1)). The NTK is the sum over
    t and s of K/T² (weights v) and D S (W and U). Without `tied`, as if each time had weights W and U of its own.
    """
    T = X.shape[1]
    P = B2 * torch.einsum("itd,jsd->itjs", X, X)
    same_time = torch.eye(T, dtype=X.dtype)[None, :, None, :]
    S = P if tied else P * same_time
    K = K_dot = D = torch.zeros_like(P)
    for _ in range(T):  # each entry waits for its neighbour one step earlier: after T sweeps all are right
        sd = torch.einsum("itit->it", S).clamp(min=1e-30).sqrt()
        size = sd[:, :, None, None] * sd
        K, K_dot = size * kappa1(S / size), kappa0(S / size)
        earlier = functional.pad(K[:, :-1, :, :-1], (1, 0, 0, 0, 1, 0))
        S = P + A2 * earlier if tied else (P + A2 * earlier) * same_time
    for _ in range(T):
        D = K_dot * (1 / T**2 + A2 * functional.pad(D[:, 1:, :, 1:], (0, 1, 0, 0, 0, 1)))
    return (K / T**2 + D * S).sum((1, 3))


def distance(models: list[nn.Module], X: Tensor, kernels: list[Tensor]) -> list[float]:
    """Mean over the models of |K_m - K|/|K| (Frobenius), K_m a model's own tangent kernel, for each kernel K (n, n)."""
    # in float64: an output near 0 is all rounding error in float32, which the NTK's check of the network would refuse
    own = [empirical_ntk(model.double(), X.double())[:, :, 0, 0].float() for model in models]
    return [sum(float((K_m - K).norm() / K.norm()) for K_m in own) / len(own) for K in kernels]


def read_out(width: int, ones: bool, generator: torch.Generator) -> nn.Module:
    """Two hidden layers with a read-out N(0, 1), or of ones, of which only the first layer's weights learn.

    Their part of the NTK is the one whose gradient has gone back through W' of the second layer.
    """
    model = ntk_mlp(64, width, 2, generator)
    if ones:
        nn.init.ones_(model[-1].weight)  # type: ignore[arg-type]
    model[2:].requires_grad_(False)
    return model


def tangent_kernels(widths: list[int], draws: int, seed: int, generator: torch.Generator) -> Values:
    """Over width, the distance of tangent kernels from what W' independent of W would give, or from the truth."""
    X = functional.normalize(load("digits", n_train=10, n_test=10, seed=seed).X_train)
    rows = X.view(-1, 8, 8) * math.sqrt(8)  # a digit as a sequence of its rows, whose mean squared length is 1
    c = X @ X.mT
    first = kappa0(kappa1(c)) * kappa0(c) * c  # the first layer's part with W' independent
    # By Stein's lemma W'relu'(f²), f² = W g¹, has a mean along g¹ if the read-out has a mean.
    first_ones = first + 2 / math.pi * kappa1(c) * c
    deep = infinite_width(X, depth=3).ntk
    recurrent, untied = (recurrent_ntk(rows.double(), tied).float() for tied in (True, False))
    # keys, how to make a network of width m, its inputs, and the kernels that it is compared with
    cases: list[tuple[list[str], Callable[[int], nn.Module], Tensor, list[Tensor]]] = [
        (["error"], lambda m: read_out(m, False, generator), X, [first]),
        (["error_ones", "error_ones_corrected"], lambda m: read_out(m, True, generator), X, [first, first_ones]),
        (["error_transpose"], lambda m: Transpose(64, m, generator), X, [deep]),
        (["error_recurrent", "error_untied"], lambda m: Recurrent(8, m, generator), rows, [recurrent, untied]),
    ]
    values: dict[str, list[float]] = {"width": [float(m) for m in widths]}
    for keys, make, inputs, kernels in cases:
        errors = []
        for m in widths:  # narrow networks vary more, and cost less
            models = [make(m) for _ in range(min(8, max(widths) // m) * draws)]
            errors.append(distance(models, inputs, kernels))
        values |= {key: list(error) for key, error in zip(keys, zip(*errors, strict=True), strict=True)}
    return values


def averaging_gradient(width: int, ones: bool, generator: torch.Generator) -> float:
    """Mean coordinate of the gradient dx¹ = Wᵀ(2h ⊙ v) in the paper's example, h = W x¹, x¹ = 1, f = vᵀh²/n or /√n.

    W_ij ~ N(0, 1/n). Read-out v of ones: 2, as dx¹ = 2 WᵀW x¹. Independent v ~ N(0, 1): 0. With W' independent of W
    it would be 0 for both.
    """
    W = torch.randn(width, width, generator=generator) / math.sqrt(width)
    v = torch.ones(width) if ones else torch.randn(width, generator=generator)
    return float((W.mT @ (2 * W.sum(1) * v)).mean())


@torch.no_grad()
def transpose_variance(width: int, draws: int, generator: torch.Generator) -> dict[str, float]:
    """Output variance at an input of length 1, mean over draws, of three layers with W and Wᵀ; 1 with new weights.

    f³ = Wᵀ g² has a part relu(f¹), as W g¹ = f² and Wᵀ meet: f³ = relu(z) + z', z and z' standard Gaussians, and
    2 E[relu(f³)²] = 2 + 1/π.
    """
    x = torch.ones(1, 1)
    norms = [float(Transpose(1, width, generator).last_layer(x).square().sum()) for _ in range(draws)]
    return {"transpose_variance": sum(norms) / draws, "transpose_variance_limit": 2 + 1 / math.pi}


def measure(seed: int, scale: str) -> Values:
    """Kurtosis over width and depth; distance of tangent kernels from their limits over width; the tied variance."""
    setting = SETTINGS[scale]
    generator = torch.Generator().manual_seed(seed)
    widths, draws = setting["widths"], setting["draws"]
    return {
        **kurtosis(setting["products"], generator),
        **tangent_kernels(widths, draws, seed, generator),
        "gradient_ones": averaging_gradient(4 * widths[-1], True, generator),
        "gradient_gaussian": averaging_gradient(4 * widths[-1], False, generator),
        **transpose_variance(widths[-1], 40 * draws, generator),
    }


if __name__ == "__main__":
    main(measure)
