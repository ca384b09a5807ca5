"""The noise of minibatch gradients: each sample's gradient, the exact covariance of a batch's, its alignment with H.

With the loss L(θ) = 1/n Σ_i ℓ_i(θ), g_i = ∇ℓ_i and g = ∇L = 1/n Σ_i g_i, one sample's gradient has the covariance

    C = 1/n Σ_i (g_i - g)(g_i - g)ᵀ = 1/n Σ_i g_i g_iᵀ - g gᵀ

and a batch's gradient has C/B with replacement, C/B · (n - B)/(n - 1) without: exact for every n and B, and zero for
the full batch. The second moment 1/n Σ_i g_i g_iᵀ ("empirical Fisher") is not C: they differ by g gᵀ, most of it early
in training, nothing at a stationary point.

Least squares, ℓ_i = ½ (x_iᵀθ - y_i)² with residuals r_i, shows when C looks like H = 1/n Σ_i x_i x_iᵀ: g_i = r_i x_i,
so C = 1/n Σ_i r_i² x_i x_iᵀ - g gᵀ is H with each sample weighted by its squared residual. Let y_i = x_iᵀθ* + ε_i with
ε_i independent of x_i, mean zero, variance σ². At θ* the residuals are -ε_i, and over the noise E 1/n Σ_i g_i g_iᵀ is
σ² H. At the least-squares fit g = 0, and the residuals are ε less its projection on the columns of X, by the matrix
P = X (XᵀX)⁻¹ Xᵀ, so E r_i² = σ² (1 - P_ii) and E C = σ²/n Σ_i (1 - P_ii) x_i x_iᵀ: σ² H but for the leverages P_ii, of
mean p/n. Noise whose size goes with x (heteroscedastic), or a wrong model, breaks it.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from phenomena.errors import Diverged
from phenomena.training import Loss


class Matrix(Protocol):
    """A dense (p, p) tensor, or an operator of `phenomena.curvature`: whatever multiplies V (p, k)."""

    def __matmul__(self, V: Tensor, /) -> Tensor: ...


def per_sample_gradients(model: nn.Module, X: Tensor, y: Tensor, loss: Loss, *, chunk: int | None = None) -> Tensor:
    """g_i (n, p): the gradient of each sample's loss, at the model's present parameters, by vmap(grad).

    X (n, ...), y (n,) or (n, C), `loss` as in `phenomena.training`: a mean over the samples. p counts the
    parameters that require a gradient, flat, in the order of `model.parameters()`. `chunk` samples are held at once.
    ValueError for layers whose output depends on the batch or on chance (call model.eval()); Diverged if not finite.
    """
    if len(X) != len(y) or len(X) == 0:
        raise ValueError(f"X and y must hold the same samples, one or more, not {len(X)} and {len(y)}")
    for module in model.modules():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            raise ValueError(f"{type(module).__name__} in training mode: a sample has no gradient; call model.eval()")
    learned = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    fixed |= dict(model.named_buffers())
    if not learned:
        raise ValueError("the model has no parameters that require a gradient")

    with torch.no_grad():
        f = torch.cat([model(part) for part in X.split(chunk or len(X))])
    with torch.enable_grad():
        f.requires_grad_()
        slopes = len(X) * torch.autograd.grad(loss(f, y), f)[0]  # s_i = ∂ℓ_i/∂f: the loss itself never meets vmap

    def projected(theta: dict[str, Tensor], x: Tensor, slope: Tensor) -> Tensor:
        return (functional_call(model, (theta, fixed), (x[None],))[0] * slope).sum()

    # g_i = J_iᵀ s_i, the gradient of f(x_i)ᵀ s_i with s_i held fixed
    gradients = vmap(grad(projected), in_dims=(None, 0, 0), chunk_size=chunk)(learned, X, slopes)
    G = torch.cat([gradients[name].flatten(1) for name in learned], 1)
    if not G.isfinite().all():
        raise Diverged("a sample's gradient is not finite: the weights or the inputs are too large, or NaN")
    return G


def noise_factor(n: int, B: int, *, replacement: bool) -> float:
    """Covariance of a batch's gradient over C: 1/B with replacement, (1/B) (n - B)/(n - 1) without (then B <= n)."""
    if n < 1 or B < 1 or (n < B and not replacement):
        how = "with" if replacement else "without"
        raise ValueError(f"no batch of {B} can be drawn from {n} samples {how} replacement: give another B")
    return 1 / B if replacement else (n - B) / (B * max(n - 1, 1))


def noise_covariance(G: Tensor, B: int, *, replacement: bool) -> Tensor:
    """Covariance (p, p) of the mean of B rows of G (n, p), drawn uniformly with or without replacement; B = 1: C."""
    centred = G - G.mean(0)
    return noise_factor(len(G), B, replacement=replacement) / len(G) * centred.mT @ centred


def gaussian_noise(G: Tensor, B: int, generator: torch.Generator, *, replacement: bool) -> Tensor:
    """ξ (p,) ~ N(0, noise_covariance(G, B)) without the (p, p) matrix: √(factor/n) Σ_i z_i (g_i - g), z_i ~ N(0, 1)."""
    z = torch.randn(len(G), generator=generator, dtype=G.dtype)
    factor = noise_factor(len(G), B, replacement=replacement)
    return (factor / len(G)) ** 0.5 * (z - z.mean()) @ G  # Σ z_i (g_i - g) = Σ (z_i - z̄) g_i


def curvatures(H: Matrix, V: Tensor) -> Tensor:
    """vᵀHv of each column of V (p, k): (k,). Of unit vectors: the curvature along them."""
    return (V * (H @ V)).sum(0)


def escape_indicator(H: Matrix, G: Tensor) -> Tensor:
    """Tr(HC) = 1/n Σ_i (g_i - g)ᵀ H (g_i - g), from G (n, p) and H as a matrix or an operator (Zhu et al. 2019).

    A step -η(g + ξ) from a minimum raises the loss by η²/2 Tr(HΣ) on average, Σ = factor · C, to second order.
    """
    return curvatures(H, (G - G.mean(0)).mT).mean()


class Alignment(NamedTuple):
    """How C lies to H. Isotropic noise of the same trace, or C turned at random, has ratio 1; C = cH has cosine 1."""

    cosine: float  # <C, H>_F / (|C|_F |H|_F)
    ratio: float  # Tr(HC) / (Tr(H) Tr(C) / p): against isotropic noise of the same trace
    leading: float  # â = (uᵀCu / Tr C) / (λ_1 / Tr H), u the top eigenvector of H: 1 for C = cH (Zhu et al. 2019)


def alignment(C: Tensor, H: Tensor) -> Alignment:
    """Alignment of two symmetric (p, p) matrices, dense; C not zero, Tr(H) > 0 (ValueError)."""
    if C.shape != H.shape or C.dim() != 2 or C.shape[0] != C.shape[1]:
        raise ValueError(f"C and H must be (p, p) of one p, not {tuple(C.shape)} and {tuple(H.shape)}")
    C, H = C.double(), H.double()  # sums over p² entries
    trace_C, trace_H = C.trace(), H.trace()
    if not (C.isfinite().all() and H.isfinite().all()):
        raise Diverged("C or H is not finite: there is no alignment to measure")
    if trace_C <= 0 or trace_H <= 0:
        raise ValueError(f"alignment needs Tr(C) > 0 and Tr(H) > 0, not {trace_C:.2g} and {trace_H:.2g}")
    inner = (C * H).sum()
    eigenvalues, U = torch.linalg.eigh(H)
    leading = (U[:, -1] @ C @ U[:, -1] / trace_C) / (eigenvalues[-1] / trace_H)
    return Alignment(float(inner / (C.norm() * H.norm())), float(inner * len(C) / (trace_C * trace_H)), float(leading))
