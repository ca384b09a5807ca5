"""Prediction with a kernel: ridge regression, gradient flow up to time t, and the law of a trained wide network.

The solves run in float64 whatever the kernel's dtype: kernels of networks are ill-conditioned, and the float32 rounding
of the kernel itself is enough. Results come back in the kernel's dtype, on its device.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Process(NamedTuple):
    """The Gaussian process of a trained network's outputs: mean (n',) or (n', C), and cov (n', n') of each output."""

    mean: Tensor
    cov: Tensor


def kernel_regression(K: Tensor, Y: Tensor, K_test: Tensor, ridge: float = 0.0) -> Tensor:
    """Predictions K_test (K + λ I)⁻¹ Y with λ = ridge · tr(K)/n, so `ridge` is free of the kernel's scale.

    K (n, n) over the training inputs, Y (n,) or (n, C), K_test (n', n): (n',) or (n', C). A singular K needs ridge > 0
    (ValueError); with it, the rounding errors that make an eigenvalue negative count as 0.
    """
    _check(K, Y, K_test)
    if ridge < 0:
        raise ValueError(f"kernel_regression needs ridge >= 0, got {ridge}")
    A = K.double()
    lam = ridge * A.diagonal().mean()
    A = A + lam * torch.eye(len(A), dtype=A.dtype, device=A.device)
    y = _columns(Y)
    L, failed = torch.linalg.cholesky_ex(A)
    pivots = L.diagonal() ** 2
    if not failed and pivots.min() > _rounding(K) * pivots.max():
        alpha = torch.cholesky_solve(y, L)
    else:  # ill-conditioned: find out which directions K can tell from rounding errors
        eigenvalues, V = torch.linalg.eigh(K.double())
        smallest, largest = eigenvalues[0], eigenvalues[-1]
        if ridge == 0 and smallest <= _rounding(K) * largest:
            raise ValueError(
                f"K is singular to rounding errors (eigenvalues {smallest:.1e} to {largest:.1e}; equal inputs?): "
                "give a ridge > 0, or drop the duplicates"
            )
        shrunk = eigenvalues.clamp(min=0) + lam
        if shrunk[0] <= 0:
            raise ValueError("K is zero: nothing can be predicted from it")
        alpha = V @ ((V.mT @ y) / shrunk[:, None])
    return (K_test.double() @ alpha).reshape(len(K_test), *Y.shape[1:]).to(K.dtype)


def gradient_flow(
    Theta: Tensor,
    Y: Tensor,
    Theta_test: Tensor,
    t: float | Tensor,
    f0: float | Tensor = 0.0,
    f0_test: float | Tensor = 0.0,
) -> Tensor:
    """Test outputs after gradient flow for time t on ½ Σ (f - y)², with a fixed NTK Θ (Lee et al. 2019).

    ḟ = -Θ (f - Y) gives f_t(x) = f₀(x) + Θ(x, X) Θ⁻¹ (I - e^(-Θt)) (Y - f₀(X)). Theta (n, n), Y (n,) or (n, C),
    Theta_test (n', n); f0 and f0_test are the outputs at t = 0, shaped like Y and the result, or one number. t is a
    time, ∞ included (result (n',) or (n', C)), or a tensor of times (T,), with a leading axis (T, ...) then.
    Directions in which Θ is singular to rounding never move.
    """
    _check(Theta, Y, Theta_test)
    times = _times(t, Theta)
    residual = _columns(Y - f0)  # (n, C)
    moved = _integrated(Theta, Theta_test, times) @ residual  # (T, n', C)
    f_t = moved.reshape(len(times), len(Theta_test), *Y.shape[1:]).to(Theta.dtype) + f0_test
    return f_t if _many(t) else f_t[0]


def trained_process(
    Theta_train: Tensor,
    Theta_test_train: Tensor,
    K_train: Tensor,
    K_test_train: Tensor,
    K_test: Tensor,
    Y: Tensor,
    t: float | Tensor,
) -> Process:
    """Law of a wide network's test outputs after gradient flow for time t (Lee et al. 2019, eqs 14-15).

    With the NTK Θ, the NNGP kernel K and A = Θ(x, X) Θ⁻¹ (I - e^(-Θt)), random weights give the outputs
    f₀(x) + A (Y - f₀(X)) with f₀ ~ N(0, K), so

        mean = A Y        cov = K(x, x') + A K(X, X) Aᵀ - A K(X, x') - K(x, X) Aᵀ

    Theta_train, K_train (n, n); Theta_test_train, K_test_train (n', n); K_test (n', n'); Y (n,) or (n, C), the outputs
    being independent; t as in `gradient_flow`, a tensor of times giving both a leading axis. At t = 0 this is the prior
    N(0, K). With Θ = K (only the last layer learns) and t = ∞ it is the posterior of Gaussian process regression.
    The numbers of the equations are from memory: unchecked.
    """
    _check(Theta_train, Y, Theta_test_train)
    n, m = len(Theta_train), len(Theta_test_train)
    for name, K, shape in (
        ("K_train", K_train, (n, n)),
        ("K_test_train", K_test_train, (m, n)),
        ("K_test", K_test, (m, m)),
    ):
        _finite(name, K, shape)
    times = _times(t, Theta_train)
    A = _integrated(Theta_train, Theta_test_train, times)  # (T, n', n)
    mean = (A @ _columns(Y)).reshape(len(times), m, *Y.shape[1:])
    cross = A @ K_test_train.double().mT
    cov = K_test.double() + A @ K_train.double() @ A.mT - cross - cross.mT
    process = Process(mean.to(Theta_train.dtype), ((cov + cov.mT) / 2).to(Theta_train.dtype))
    return process if _many(t) else Process(process.mean[0], process.cov[0])


def _integrated(Theta: Tensor, Theta_test: Tensor, times: Tensor) -> Tensor:
    """A_t = Θ(x, X) Θ⁻¹ (I - e^(-Θt)) for each time, (T, n', n), by Θ = V λ Vᵀ: (1 - e^(-λt))/λ in each direction."""
    eigenvalues, V = torch.linalg.eigh(Theta.double())
    seen = eigenvalues > _rounding(Theta) * eigenvalues[-1].clamp(min=0)
    # Θ(x, X) v = 0 wherever Θ(X, X) v = 0, so what is lost to rounding errors must not be divided by them.
    eigenvalues, V = eigenvalues[seen], V[:, seen]
    progress = -torch.expm1(-eigenvalues * times[:, None]) / eigenvalues  # (T, directions)
    return (Theta_test.double() @ V * progress[:, None, :]) @ V.mT


def _rounding(K: Tensor) -> float:
    """Relative size below which an eigenvalue is rounding error, of the solve or of the kernel's own dtype."""
    return max(len(K) * torch.finfo(torch.float64).eps, torch.finfo(K.dtype).eps)


def _columns(Y: Tensor) -> Tensor:
    """Targets as a float64 matrix (n, C)."""
    return Y.double().reshape(len(Y), -1)


def _many(t: float | Tensor) -> bool:
    return isinstance(t, Tensor) and t.ndim == 1


def _times(t: float | Tensor, Theta: Tensor) -> Tensor:
    times = torch.as_tensor(t, dtype=torch.float64, device=Theta.device)
    if times.ndim > 1 or not bool((times >= 0).all()):
        raise ValueError(f"t must be a time >= 0 or a (T,) tensor of such times, got {t}")
    return times.reshape(-1)


def _check(K: Tensor, Y: Tensor, K_test: Tensor) -> None:
    n = len(K)
    _finite("the training kernel", K, (n, n))
    _finite("the test kernel", K_test, (len(K_test), n))
    if Y.ndim not in (1, 2):
        raise ValueError(f"Y must be (n,) or (n, C), got {tuple(Y.shape)}")
    _finite("Y", Y, (n, *Y.shape[1:]))


def _finite(name: str, A: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(A.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(A.shape)}")
    if not A.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite entries; look at the inputs and at the code that made it")
