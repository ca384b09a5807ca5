"""Each check of a lab passes right answers, written in two ways, and answers typical wrong ones with their hint."""

import numpy as np
import pytest
import torch

from phenomena import early_stopping, regression
from phenomena.checks import double_descent as check
from phenomena.features import random_relu, relu_features


def unfilled(*_):
    raise NotImplementedError("TODO")


def svd(X, y, weight):
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    return Vh.T @ (weight(s) * (U.T @ y))


def errors(X_train, y_train, X_test, y_test, widths, generator, *, solve=regression.min_norm, fresh=False, on=None):
    out = []
    for p in widths:
        W = random_relu(X_train.shape[1], p, generator)
        B = solve(relu_features(X_train, W), torch.nn.functional.one_hot(y_train).double())
        V = random_relu(X_train.shape[1], p, generator) if fresh else W
        X, y = (X_test, y_test) if on is None else on
        out.append(((relu_features(X, V) @ B).argmax(1) != y).double().mean().item())
    return out


def descent(k, s, theta, eta, sigma2, n, *, bias=2, variance=2, scale=2, pace=2, divide=True):
    q = (1 - eta * s**pace) ** k[:, None]
    V = (np.abs(1 - q) ** variance).sum(1) * sigma2
    return (s**scale * theta**2 * q**bias).sum(1) + (V / n if divide else V)


def slow_descent(k, s, theta, eta, sigma2, n):
    # a differently written right answer: the sum coordinate by coordinate
    return np.array([
        sum(
            (a * t * (1 - e * a * a) ** i) ** 2 + sigma2 / n * (1 - (1 - e * a * a) ** i) ** 2
            for a, t, e in zip(s, theta, eta, strict=True)
        )
        for i in k
    ])  # fmt: skip


RIGHT = [
    (check.min_norm, regression.min_norm),
    (check.min_norm, lambda X, y: torch.linalg.pinv(X) @ y),
    (check.ridge, regression.ridge),
    (check.ridge, lambda X, y, lam: X.T @ torch.linalg.solve(X @ X.T + len(X) * lam * torch.eye(len(X)).to(X), y)),
    (check.feature_errors, errors),
    (check.feature_errors, lambda *a: np.array(errors(*a, solve=lambda P, Y: torch.linalg.pinv(P) @ Y))),
    (check.descent_risk, early_stopping.decoupled_risk),
    (check.descent_risk, slow_descent),
    (check.one_clock, lambda s, eta: early_stopping.equalising_stepsizes(torch.tensor(s), eta).numpy()),
    (check.one_clock, lambda s, eta: np.array([eta * (max(s) / a) ** 2 for a in s])),
]

def in_place(s, eta):
    s **= 2
    return eta * s.max() / s


def fixed_seed(X_train, y_train, X_test, y_test, widths, generator):
    return errors(X_train, y_train, X_test, y_test, widths, torch.Generator().manual_seed(11))


def no_relu(X_train, y_train, X_test, y_test, widths, generator):
    W = [random_relu(X_train.shape[1], p, generator) for p in widths]
    Y = torch.nn.functional.one_hot(y_train).double()
    return [((X_test @ V @ torch.linalg.pinv(X_train @ V) @ Y).argmax(1) != y_test).double().mean() for V in W]


def dropping(cut):
    def min_norm(X, y):
        U, s, Vh = torch.linalg.svd(X, full_matrices=False)
        keep = s > cut(s)
        return Vh[keep].T @ ((U[:, keep].T @ y) / s[keep])

    return min_norm


WRONG = [
    (check.min_norm, dropping(lambda s: 0.1), "too much"),
    (check.min_norm, dropping(lambda s: 1e-10), "huge values"),
    (check.min_norm, dropping(lambda s: 0.05 * s.max()), "too much"),
    (check.min_norm, dropping(lambda s: 1e-15 * s.max()), "huge values"),  # float64's eps for float32
    (check.min_norm, lambda X, y: (torch.linalg.pinv(X) @ y).numpy(), "ndarray"),
    (check.min_norm, lambda X, y: (torch.linalg.pinv(X) @ y).double(), "dtype"),
    (check.min_norm, lambda X, y: torch.normal(X.long()), "NotImplementedError"),  # torch's own is no open TODO
    (check.ridge, lambda X, y, lam: svd(X, y, lambda s: s / (s**2 + 2 * len(X) * lam)), "off by"),
    (check.feature_errors, fixed_seed, "generator"),
    (check.feature_errors, no_relu, "ReLU"),
    (check.feature_errors, lambda *a: errors(*a, solve=lambda P, Y: regression.ridge(P, Y, 1e-3)), "off by"),
    (check.feature_errors, lambda *a: errors(*a, solve=lambda P, Y: torch.linalg.pinv(P, rtol=1e-3) @ Y), "left out"),
    (check.feature_errors, lambda *a: {"errors": errors(*a)}, "no array"),
    (check.descent_risk, lambda k, s, *a: [1.0] * len(k), "list"),
    (check.one_clock, in_place, "in place"),
    (check.min_norm, lambda X, y: svd(X, y, lambda s: s), "multiplied by the singular values"),
    (check.min_norm, lambda X, y: svd(X, y, torch.ones_like), "singular values are missing"),
    (check.min_norm, lambda X, y: svd(X, y, lambda s: 1 / s), "huge values"),
    (check.min_norm, lambda X, y: regression.ridge(X, y, 1e-3), "ridge solution"),
    (check.min_norm, lambda X, y: (X.mul_(1.001), torch.linalg.pinv(X) @ y)[1], "in place"),
    (check.min_norm, lambda X, y: None, "return"),
    (check.min_norm, lambda X, y: torch.linalg.pinv(X) @ y[:, None], "shape"),
    (check.min_norm, lambda X, y: torch.linalg.pinv(X) @ y + float("nan"), "NaN"),
    (check.min_norm, lambda X, y: X @ y[:3], "RuntimeError"),
    (check.ridge, lambda X, y, lam: svd(X, y, lambda s: s / (s**2 + lam)), "too weak by a factor n"),
    (check.ridge, lambda X, y, lam: svd(X, y, lambda s: s / (s**2 + (len(X) * lam) ** 2)), "squared"),
    (check.ridge, lambda X, y, lam: svd(X, y, lambda s: s / (s**2 + len(X) * lam)) / len(X), "too small by a factor n"),
    (check.ridge, lambda X, y, lam: regression.min_norm(X, y), "where is λ"),
    (check.ridge, lambda X, y, lam: regression.ridge(X, y, lam) * 1.5, "off by"),
    (check.feature_errors, lambda *a: errors(*a, on=a[:2]), "training errors"),
    (check.feature_errors, lambda X, y, T, t, w, g: errors(T, t, X, y, w, g), "swapped"),
    (check.feature_errors, lambda *a: errors(*a, fresh=True), "second draw"),
    (check.feature_errors, lambda *a: 1 - np.array(errors(*a)), "accuracies"),
    (check.feature_errors, lambda *a: 100 * np.array(errors(*a)), "percents"),
    (check.feature_errors, lambda *a: np.array(errors(*a)).astype(int), "whole numbers"),
    (check.feature_errors, lambda *a: errors(*a)[-1], "shape"),
    (check.descent_risk, lambda *a: descent(*a, bias=1), "power is 2k"),
    (check.descent_risk, lambda *a: descent(*a, variance=1), "not squared"),
    (check.descent_risk, lambda *a: descent(*a, scale=0), "lacks the feature's scale"),
    (check.descent_risk, lambda *a: descent(*a, pace=1), "carries s_i²"),
    (check.descent_risk, lambda *a: descent(*a, divide=False), "not averaged"),
    (check.descent_risk, lambda *a: descent(*a[:4], 0.0, a[5]), "only the bias"),
    (check.one_clock, lambda s, eta: np.full_like(s, eta), "all steps are equal"),
    (check.one_clock, lambda s, eta: eta * max(s) / s, "one power of s"),
    (check.one_clock, lambda s, eta: eta * s**2 / max(s) ** 2, "larger steps"),
    (check.one_clock, lambda s, eta: eta / s**2, "keeps the step"),
]  # fmt: skip


@pytest.mark.parametrize(("test", "answer"), RIGHT)
def test_right_answers_pass(test, answer):
    verdict = test(answer)
    assert verdict.status == "right", verdict


@pytest.mark.parametrize(("test", "answer", "hint"), WRONG)
def test_typical_mistakes_get_their_hint(test, answer, hint):
    verdict = test(answer)
    assert verdict.status == "wrong"
    assert hint in verdict.message


@pytest.mark.parametrize("test", dict.fromkeys(test for test, _ in RIGHT), ids=lambda test: test.__name__)
def test_each_check_says_what_is_open_and_has_its_tests(test):
    verdict = test(unfilled)
    assert verdict.status == "open"
    assert "TODO" in repr(verdict)
    assert sum(t is test for t, _ in RIGHT) >= 2
    assert sum(t is test for t, _, _ in WRONG) >= 3
