"""Right answers, written differently from the solution, and typical wrong ones with the hint each must get."""

import numpy as np
import torch

from phenomena import early_stopping, regression
from phenomena.features import random_relu, relu_features


def svd(X, y, weight):
    """Each direction of the data scaled by a number of one's own."""
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    return Vh.T @ (weight(s) * (U.T @ y))


def dropping(cut):
    """Minimum norm with another idea of which singular values are zero."""
    return lambda X, y: svd(X, y, lambda s: torch.where(s > cut(s), 1 / s, 0))


def errors(X_train, y_train, X_test, y_test, widths, generator, *, solve=regression.min_norm, fresh=False, on=None):
    """Test errors of random features, or of what a mistake makes of them."""
    out = []
    for p in widths:
        W = random_relu(X_train.shape[1], p, generator, X_train.dtype)
        B = solve(relu_features(X_train, W), torch.nn.functional.one_hot(y_train).to(X_train))
        V = random_relu(X_train.shape[1], p, generator, X_train.dtype) if fresh else W
        X, y = (X_test, y_test) if on is None else on
        out.append(((relu_features(X, V) @ B).argmax(1) != y).double().mean().item())
    return out


def fixed_seed(*given):
    return errors(*given[:-1], torch.Generator().manual_seed(11))


def no_relu(X, y, X_test, y_test, widths, generator):
    W = [random_relu(X.shape[1], p, generator, X.dtype) for p in widths]
    Y = torch.nn.functional.one_hot(y).to(X)
    return [((X_test @ V @ torch.linalg.pinv(X @ V) @ Y).argmax(1) != y_test).double().mean() for V in W]


def double_only(X, y, X_test, y_test, widths, generator):
    return errors(X, y, X_test, y_test, widths, generator, solve=lambda P, Y: regression.min_norm(P, Y.double()))


def classes_of_the_test_set(X, y, X_test, y_test, widths, generator):
    K = int(y_test.max()) + 1
    return errors(X, y, X_test, y_test, widths, generator, solve=lambda P, Y: regression.min_norm(P, Y[:, :K]))


def sorted_widths(*given):
    given[4].sort(reverse=True)
    return errors(*given)[::-1]


def descent(k, s, theta, eta, sigma2, n, *, bias=2, variance=2, scale=2, pace=2, divide=True):
    """The risk of gradient descent with other powers in it."""
    q = (1 - eta * s**pace) ** k[:, None]
    V = (np.abs(1 - q) ** variance).sum(1) * sigma2
    return (s**scale * theta**2 * q**bias).sum(1) + (V / n if divide else V)


def coordinate_by_coordinate(k, s, theta, eta, sigma2, n):
    def risk(i):
        coordinates = zip(s.astype(float), theta.astype(float), eta.astype(float), strict=True)
        left = [(a, t, (1 - e * a * a) ** i) for a, t, e in coordinates]
        return sum((a * t * q) ** 2 + sigma2 / n * (1 - q) ** 2 for a, t, q in left)

    return np.array([risk(int(i)) for i in k])


def in_place(s, eta):
    s **= 2
    return eta * s.max() / s


RIGHT = {
    "min_norm": [regression.min_norm, lambda X, y: torch.linalg.pinv(X) @ y],
    "ridge": [
        regression.ridge,
        lambda X, y, lam: X.T @ torch.linalg.solve(X @ X.T + len(X) * lam * torch.eye(len(X)).to(X), y),
    ],
    "feature_errors": [
        errors,
        lambda *a: np.array(errors(*a, solve=lambda P, Y: torch.linalg.pinv(P) @ Y)),
        lambda *a: torch.tensor(errors(*a)),
        lambda *a: tuple(errors(*a, solve=lambda P, Y: torch.linalg.lstsq(P, Y, driver="gelsd").solution)),
    ],
    "descent_risk": [early_stopping.decoupled_risk, coordinate_by_coordinate],
    "one_clock": [
        lambda s, eta: early_stopping.equalising_stepsizes(torch.tensor(s), eta).numpy(),
        lambda s, eta: np.array([eta * (max(s) / a) ** 2 for a in s]),
    ],
}

WRONG = {
    "min_norm": [
        (lambda X, y: svd(X, y, lambda s: s), "multiplied by the singular values"),
        (lambda X, y: svd(X, y, torch.ones_like), "singular values are missing"),
        (lambda X, y: svd(X, y, lambda s: 1 / s), "huge values"),
        (dropping(lambda s: 1e-10), "huge values"),
        (dropping(lambda s: 1e-15 * s.max()), "huge values"),  # float64's eps for float32
        (dropping(lambda s: 0.1), "too much"),
        (dropping(lambda s: 0.05 * s.max()), "too much"),
        (lambda X, y: regression.ridge(X, y, 1e-3), "ridge solution"),
        (lambda X, y: (torch.linalg.pinv(X) @ y).numpy(), "ndarray"),
        (lambda X, y: (torch.linalg.pinv(X) @ y).double(), "dtype"),
        (lambda X, y: (torch.linalg.pinv(X) @ y).requires_grad_(), "requires a gradient"),
        (lambda X, y: (X.mul_(1.001), torch.linalg.pinv(X) @ y)[1], "in place"),
        (lambda X, y: None, "return"),
        (lambda X, y: torch.linalg.pinv(X) @ y[:, None], "shape"),
        (lambda X, y: torch.linalg.pinv(X) @ y + float("nan"), "NaN"),
        (lambda X, y: X @ y[:3], "RuntimeError"),
        (lambda X, y: torch.normal(X.long()), "NotImplementedError"),  # torch's own is no open TODO
    ],
    "ridge": [
        (lambda X, y, lam: svd(X, y, lambda s: s / (s**2 + lam)), "too weak by a factor n"),
        (lambda X, y, lam: svd(X, y, lambda s: s / (s**2 + len(X) * lam**2)), "squared"),
        (lambda X, y, lam: svd(X, y, lambda s: s / (s**2 + (len(X) * lam) ** 2)), "squared"),
        (lambda X, y, lam: regression.ridge(X, y, lam) / len(X), "too small by a factor n"),
        (lambda X, y, lam: regression.ridge(X, y, lam) * len(X), "too large by a factor n"),
        (lambda X, y, lam: regression.min_norm(X, y), "where is λ"),
        (lambda X, y, lam: regression.ridge(X, y, lam) * 1.5, "1.5 times"),
        (lambda X, y, lam: regression.ridge(X, y, 2 * lam), "off by"),
    ],
    "feature_errors": [
        (lambda *a: errors(*a, on=a[:2]), "training errors"),
        (lambda X, y, T, t, w, g: errors(T, t, X, y, w, g), "swapped"),
        (lambda *a: errors(*a, fresh=True), "second draw"),
        (no_relu, "ReLU"),
        (lambda *a: errors(*a, solve=lambda P, Y: torch.linalg.pinv(P, rtol=1e-3) @ Y), "left out"),
        (lambda *a: 1 - np.array(errors(*a)), "accuracies"),
        (lambda *a: 100 * np.array(errors(*a)), "percents"),
        (lambda *a: np.array(errors(*a)).astype(int), "whole numbers"),
        (lambda *a: np.array(errors(*a)) * len(a[3]), "counts"),
        (fixed_seed, "generator"),
        (double_only, "same dtype"),
        (classes_of_the_test_set, "only the training set"),
        (sorted_widths, "in place"),
        (lambda *a: errors(*a)[-1], "shape"),
        (lambda *a: {"errors": errors(*a)}, "no array"),
        (lambda *a: errors(*a, solve=lambda P, Y: regression.ridge(P, Y, 1e-3)), "off by"),
    ],
    "descent_risk": [
        (lambda *a: descent(*a[:4], 0.0, a[5]), "only the bias"),
        (lambda *a: descent(*a, bias=1), "power is 2k"),
        (lambda *a: descent(*a, variance=1), "not squared"),
        (lambda *a: descent(*a, scale=0), "lacks the feature's scale"),
        (lambda *a: descent(*a, pace=1), "carries s_i²"),
        (lambda *a: descent(*a, divide=False), "not averaged"),
        (lambda *a: descent(*a[:4], a[4] ** 2, a[5]), "squared twice"),
        (lambda k, s, theta, eta, sigma2, n: descent(k, s, theta, eta, sigma2, n)[:, None], "shape"),
        (lambda k, s, *a: [1.0] * len(k), "list"),
    ],
    "one_clock": [
        (lambda s, eta: np.full_like(s, eta), "all steps are equal"),
        (lambda s, eta: eta * max(s) / s, "one power of s"),
        (lambda s, eta: eta * s**2 / max(s) ** 2, "larger steps"),
        (lambda s, eta: eta / s**2, "keeps the step"),
        (lambda s, eta: eta * s.min() ** 2 / s**2, "keeps the step"),
        (lambda s, eta: np.array([eta * (max(s) / a) ** 2 for a in s], dtype=float), "dtype"),
        (in_place, "in place"),
    ],
}
