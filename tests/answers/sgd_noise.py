"""Right answers, written differently from the solution, and typical wrong ones with the hint each must get."""

from functools import partial

import numpy as np
import torch
from scipy import linalg

from phenomena.gradient_noise import noise_covariance
from phenomena.nudged_sgd import nudged_step
from phenomena.quadratic_sgd import continuous_covariance

# 1


def by_kronecker(H, C, eta, *, noise=lambda C, eta: eta**2 * C, sign=-1):
    """One linear equation for all entries of Σ."""
    A = torch.eye(len(H), dtype=H.dtype) + sign * eta * H
    K = torch.eye(len(H) ** 2, dtype=H.dtype) - torch.kron(A, A)
    return torch.linalg.solve(K, noise(C, eta).reshape(-1)).view_as(C)


def by_scipy(H, C, eta):
    return torch.from_numpy(linalg.solve_discrete_lyapunov(np.eye(len(H)) - eta * H.numpy(), eta**2 * C.numpy())).to(H)


def by_iteration(H, C, eta, steps=4000):
    Sigma, A = 0 * C, torch.eye(len(H), dtype=H.dtype) - eta * H
    for _ in range(steps):
        Sigma = A @ Sigma @ A.mT + eta**2 * C
    return Sigma


def in_eigenbasis(
    H, C, eta, *,
    denominator=lambda total, product, eta: total - eta * product,
    into=lambda C, V: V.T @ C @ V, back=lambda S, V: V @ S @ V.T, within=lambda S: S,
):  # fmt: skip
    """The formula entry by entry, with parts that may go wrong."""
    lam, V = torch.linalg.eigh(H)
    total, product = lam[:, None] + lam, lam[:, None] * lam
    return back(within(eta * into(C, V) / denominator(total, product, eta)), V)


def commuting(H, C, eta):
    return eta * C @ torch.linalg.inv(2 * H - eta * H @ H)


def entry_by_entry(H, C, eta):
    A = torch.eye(len(H), dtype=H.dtype) - eta * H
    return eta**2 * C / (1 - A * A)


# 2


def one_by_one(loss, theta, X, Y, *, of=lambda g: g):
    """A loop over the samples."""
    rows = []
    for x, y in zip(X, Y, strict=True):
        at = theta.clone().requires_grad_()
        rows.append(torch.autograd.grad(loss(at, x, y), at)[0])
    return of(torch.stack(rows))


def by_jacobian(loss, theta, X, Y):
    return torch.func.jacrev(lambda t: torch.stack([loss(t, x, y) for x, y in zip(X, Y, strict=True)]))(theta)


def piling_up(loss, theta, X, Y):
    at, rows = theta.clone().requires_grad_(), []
    for x, y in zip(X, Y, strict=True):
        loss(at, x, y).backward()
        rows.append(at.grad.clone())
    return torch.stack(rows)


def on_all(loss, theta, X, Y):
    return torch.func.grad(loss)(theta, X, Y)


def along_theta(loss, theta, X, Y):
    return torch.func.vmap(torch.func.grad(loss))(theta, X, Y)


def by_inputs(loss, theta, X, Y):
    return torch.func.vmap(torch.func.grad(loss, argnums=1), (None, 0, 0))(theta, X, Y)


def rows_of(change):
    return partial(one_by_one, of=change)


# 3


def batch_noise(G, B, replacement, *, centre=True, divide=lambda n: n, factor=None, change=lambda C: C):
    """The covariance with parts that may go wrong."""
    n = len(G)
    if factor is None:
        factor = lambda n, B, replacement: 1 / B if replacement else (1 / B) * (n - B) / (n - 1)  # noqa: E731
    D = G - G.mean(0) if centre else G
    return change(factor(n, B, replacement) * D.T @ D / divide(n))


def of_a_finite_population(G, B, replacement):
    if replacement:
        return torch.cov(G.T, correction=0) / B
    return torch.cov(G.T) * (1 / B - 1 / len(G))


def one_mean(G, B, replacement):
    D = G - G.mean()
    return D.T @ D / len(G) * (1 / B if replacement else (len(G) - B) / (len(G) - 1) / B)


def with_factor(factor):
    return partial(batch_noise, factor=factor)


# 4


def twice(loss, theta, v, *, second=lambda g, v, at: torch.autograd.grad(g, at, v)[0], graph=True, ask=True):
    """Two walks back, with parts that may go wrong."""
    at = theta.detach().clone()
    if ask:
        at.requires_grad_()
    (g,) = torch.autograd.grad(loss(at), at, create_graph=graph)
    return second(g, v, at)


def by_functions(loss, theta, v):
    return torch.func.grad(lambda q: torch.func.grad(loss)(q) @ v)(theta)


def whole_matrix(loss, theta, v):
    return torch.autograd.functional.hessian(loss, theta) @ v


def slope(number):
    """The gradient of number(g, v)."""
    return partial(twice, second=lambda g, v, at: torch.autograd.grad(number(g, v), at)[0])


def difference(h):
    def answer(loss, theta, v):
        g = torch.func.grad(loss)
        return (g(theta + h * v) - g(theta)) / h

    return answer


def central(loss, theta, v, h=1e-6):
    g = torch.func.grad(loss)
    return (g(theta + h * v) - g(theta - h * v)) / (2 * h)


def matrix_of(change):
    return lambda loss, theta, v: change(torch.autograd.functional.hessian(loss, theta), v)


# 5


def power(
    product, start, steps, *, unit=True, shifts=True, value=lambda v, Av, mu: v @ Av, end=lambda v: v, again=None
):
    """Power iteration with parts that may go wrong; value takes v, A v and the shift."""

    def one_round(mu, v):
        for _ in range(steps):
            v = product(v) - mu * v
            v = v / v.norm() if unit else v
        return v

    v, mu = one_round(0.0, start), 0.0
    if shifts and v @ product(v) < 0:
        mu = float(v @ product(v) / (v @ v))
        v = one_round(mu, start if again is None else again(v))
    return float(value(v, product(v), mu)), end(v)


def from_the_end(product, start, steps):
    """The second round begins where the first one ended."""
    lam = 0.0
    for _ in range(2):
        v = start / start.norm()
        for _step in range(steps):
            v = product(v) - lam * v
            v = v / v.norm()
        lam, start = float(v @ product(v)), v
        if lam >= 0:
            break
    return lam, v


def always_shifted(product, start, steps):
    """A bound on all magnitudes first, then one round on A + bound, whatever the sign."""
    v = start / start.norm()
    for _ in range(steps):
        v = product(v) / product(v).norm()
    bound, v = product(v).norm(), start / start.norm()
    for _ in range(2 * steps):
        v = torch.nn.functional.normalize(product(v) + bound * v, dim=0)
    return v @ product(v), -v


def dense(product, start, steps):
    A = torch.stack([product(e) for e in torch.eye(len(start), dtype=start.dtype)])
    values, vectors = torch.linalg.eigh((A + A.T) / 2)
    if steps == 1:
        v = product(start)
        return [start @ v / (start @ start), v]
    return [values[-1], vectors[:, -1]]


def deflated(product, start, steps):
    lam, u = power(product, start, steps, shifts=False)
    if lam > 0:
        return lam, u
    return power(lambda v: product(v) - lam * u * (u @ v), start, steps, shifts=False)


def with_own_start(product, start, steps):
    return power(product, torch.linspace(1, 2, len(start), dtype=start.dtype), steps)


def of_dense(pick):
    def answer(product, start, steps):
        A = torch.stack([product(e) for e in torch.eye(len(start), dtype=start.dtype)])
        return pick(*torch.linalg.eigh((A + A.T) / 2))

    return answer


# 6


def by_coordinates(g, vectors, eta, gamma):
    step = -eta * g
    for e in vectors.T:
        step = step + eta * (1 - gamma) * torch.dot(g, e) * e
    return step


def nudged(
    g, E, eta, gamma, *,
    total=lambda rest, along, gamma: rest + gamma * along, scale=lambda eta: -eta, project=lambda g, E: E @ (E.T @ g)
):  # fmt: skip
    """The step from its two parts, which may go wrong."""
    along = project(g, E)
    return scale(eta) * total(g - along, along, gamma)


def with_total(total):
    return partial(nudged, total=total)


# 7


def multiplied(
    plus, minus, X, y, eta, *,
    beta=lambda p, m: p**2 - m**2, mean=lambda r, X: r @ X / len(X), end=lambda p, m, pull: (p - pull * p, m + pull * m)
):  # fmt: skip
    """The step by hand, with parts that may go wrong; end takes the weights and η times the pull."""
    return end(plus, minus, eta * mean(X @ beta(plus, minus) - y, X))


def by_autograd(plus, minus, X, y, eta, *, weight=0.25):
    p, m = plus.clone().requires_grad_(), minus.clone().requires_grad_()
    slopes = torch.autograd.grad(weight * (X @ (p**2 - m**2) - y).square().mean(), [p, m])
    return [(w - eta * s).detach() for w, s in zip((p, m), slopes, strict=True)]


def sample_by_sample(plus, minus, X, y, eta):
    left, right = plus.clone(), minus.clone()
    for x, label in zip(X, y, strict=True):
        r = (plus**2 - minus**2) @ x - label
        left -= eta * r * x * plus / len(y)
        right += eta * r * x * minus / len(y)
    return left, right


def one_after_the_other(plus, minus, X, y, eta):
    plus = multiplied(plus, minus, X, y, eta)[0]
    return plus, multiplied(plus, minus, X, y, eta)[1]


def with_end(end):
    return partial(multiplied, end=end)


RIGHT = {
    "stationary_covariance": [by_kronecker, by_scipy, by_iteration, in_eigenbasis],
    "sample_gradients": [one_by_one, by_jacobian],
    "batch_covariance": [
        of_a_finite_population,
        lambda G, B, replacement: noise_covariance(G, B, replacement=replacement),
    ],
    "hessian_product": [twice, by_functions, whole_matrix],
    "top_eigenvalue": [always_shifted, dense],
    "nudged_step": [by_coordinates, nudged_step],
    "diagonal_step": [by_autograd, sample_by_sample, multiplied],
}

WRONG = {
    "stationary_covariance": [
        (lambda H, C, eta: eta**2 * C, "the noise of one step"),
        (lambda H, C, eta: continuous_covariance(H, C, eta).to(H), "continuous time"),
        (partial(by_kronecker, noise=lambda C, eta: eta * C), "too large by 1/η:"),
        (partial(by_kronecker, noise=lambda C, eta: C), "too large by 1/η²"),
        (partial(in_eigenbasis, denominator=lambda total, product, eta: total + eta * product), "a sign"),
        (partial(by_kronecker, sign=1), "negative variances"),
        (partial(in_eigenbasis, denominator=lambda total, product, eta: total - product), "lacks its η"),
        (partial(in_eigenbasis, back=lambda S, V: V @ S @ V), "to be transposed"),
        (partial(in_eigenbasis, within=lambda S: torch.diag(S.diagonal())), "may be correlated"),
        (partial(in_eigenbasis, back=lambda S, V: S), "turn it back"),
        (partial(in_eigenbasis, into=lambda C, V: C), "into the eigenbasis of H before"),
        (
            partial(in_eigenbasis, into=lambda C, V: V @ C @ V.T, back=lambda S, V: V.T @ S @ V),
            "turned the wrong way",
        ),
        (commuting, "only if C and H commute"),
        (lambda H, C, eta: commuting(H, C, eta).T, "only if C and H commute"),
        (lambda H, C, eta: eta * torch.linalg.solve(H, C), "one factor I - ηH alone"),
        (lambda H, C, eta: eta * torch.linalg.solve(H, C).T, "one factor I - ηH alone"),
        (entry_by_entry, "entry by entry"),
        (partial(by_iteration, steps=10), "stopped too early"),
        (partial(by_iteration, steps=300), "stopped too early"),
        (lambda H, C, eta: by_iteration(H, C, eta).diagonal(), "shape"),
        (lambda H, C, eta: by_iteration(H, C, eta).double(), "dtype"),
        (lambda H, C, eta: by_iteration(H, C, eta).numpy(), "ndarray"),
        (lambda H, C, eta: 2 * by_iteration(H, C, eta), "2 times the right one"),
        (lambda H, C, eta: H.mul_(eta) @ C, "in place"),
    ],
    "sample_gradients": [
        (on_all, "takes theta (p,) and ONE sample"),
        (along_theta, "Error"),
        (by_inputs, "by theta, not by the inputs"),
        (rows_of(lambda G: G.mean(0)), "one gradient for all samples"),
        (lambda loss, theta, X, Y: torch.func.vmap(loss, (None, 0, 0))(theta, X, Y), "one number for each sample"),
        (rows_of(lambda G: G.mean(0).expand_as(G)), "every row is the mean gradient"),
        (rows_of(lambda G: G.sum(0).expand_as(G)), "every row is the sum"),
        (rows_of(lambda G: G / len(G)), "too small by 1/n"),
        (piling_up, "each row holds those before it"),
        (rows_of(lambda G: G - G.mean(0)), "the mean is subtracted"),
        (rows_of(lambda G: G[:1].expand_as(G)), "of the first sample"),
        (rows_of(lambda G: G[-1:].expand_as(G)), "of the last sample"),
        (rows_of(lambda G: G.T), "the axes are swapped"),
        (rows_of(lambda G: -G), "every sign"),
        (rows_of(lambda G: G.flip(0)), "in another order"),
        (rows_of(lambda G: list(G)), "list"),
        (lambda loss, *rest: torch.func.vmap(torch.func.grad(loss), (None, 0, 0)), "function"),
    ],
    "batch_covariance": [
        (partial(batch_noise, centre=False), "not centred"),
        (with_factor(lambda n, B, replacement: 1), "one sample's"),
        (with_factor(lambda n, B, replacement: B if replacement else B * (n - B) / (n - 1)), "of the sum over a batch"),
        (
            with_factor(lambda n, B, replacement: 1 / B**2 if replacement else (n - B) / (n - 1) / B**2),
            "once too often",
        ),
        (lambda G, B, replacement: batch_noise(G, B, not replacement), "of a draw without replacement"),
        (with_factor(lambda n, B, replacement: 1 / B), "of a draw with replacement"),
        (lambda G, B, replacement: one_mean(G, B, replacement), "one mean for all parameters"),
        (partial(batch_noise, divide=lambda n: n - 1), "1/(n - 1)"),
        (lambda G, B, replacement: batch_noise(G, min(B, len(G)), replacement), "is another than one of 4"),
        (with_factor(lambda n, B, replacement: 1 / B if replacement else (n - B) / n / B), "a factor of (n - 1)/n"),
        (partial(batch_noise, change=lambda C: torch.diag(C.diagonal())), "only the variances"),
        (partial(batch_noise, change=lambda C: C.abs().sqrt()), "these are roots"),
        (lambda G, B, replacement: (G - G.mean(0)) @ (G - G.mean(0)).T / len(G) / B, "samples by samples"),
        (lambda G, B, replacement: batch_noise(G, B, replacement or len(G) == B), "noise in the full batch"),
        (lambda G, B, replacement: batch_noise(G, B, replacement).diagonal(), "shape"),
        (lambda G, B, replacement: batch_noise(G - G.mean(1, keepdim=True), B, replacement), "off by"),
        (lambda G, B, replacement: batch_noise(G, B, replacement).double(), "dtype"),
    ],
    "hessian_product": [
        (partial(twice, second=lambda g, v, at: g.detach()), "that is the gradient"),
        (partial(twice, second=lambda g, v, at: (g @ v).detach().expand_as(v)), "that is <g, v>"),
        (partial(twice, second=lambda g, v, at: (g @ v).detach()), "one number"),
        (slope(lambda g, v: g.sum()), "where is v?"),
        (matrix_of(lambda H, v: H.diagonal() * v), "only the diagonal"),
        (slope(lambda g, v: g @ v / v.norm()), "a unit vector"),
        (matrix_of(lambda H, v: H @ (H @ v)), "applied twice"),
        (lambda loss, theta, v: central(loss, theta, v), "loses too many digits"),
        (lambda loss, theta, v: twice(loss, theta, v) + torch.func.grad(loss)(theta), "the gradient is in it too"),
        (partial(twice, second=lambda g, v, at: (g * (g @ v)).detach()), "an outer product of gradients"),
        (lambda loss, theta, v: twice(loss, 0 * theta, v), "the Hessian at 0"),
        (partial(twice, second=lambda g, v, at: (g * v).detach()), "entry by entry"),
        (difference(1e-3), "a difference of two gradients"),
        (difference(1e-2), "a difference of two gradients"),
        (partial(central, h=1e-5), "loses too many digits"),
        (lambda loss, theta, v: twice(loss, theta.requires_grad_(), v), "require a gradient: take a copy"),
        (partial(twice, graph=False), "there is no graph"),
        (partial(twice, ask=False), "there is no graph"),
        (matrix_of(lambda H, v: H), "a matrix"),
        (matrix_of(lambda H, v: v @ H @ v), "one number"),
        (matrix_of(lambda H, v: -H @ v), "every sign"),
        (partial(twice, second=lambda g, v, at: torch.autograd.grad(g, at, v, create_graph=True)[0]), "requires"),
        (partial(twice, second=lambda g, v, at: torch.autograd.grad(g @ v, at)), "tuple"),
        (partial(twice, second=lambda g, v, at: torch.autograd.grad(g * v, at)[0]), "Error"),
    ],
    "top_eigenvalue": [
        (partial(power, shifts=False), "the largest in magnitude"),
        (partial(power, shifts=False, value=lambda v, Av, mu: Av.norm()), "the sign is lost"),
        (partial(power, value=lambda v, Av, mu: v @ Av - mu), "undo the shift"),
        (partial(power, value=lambda v, Av, mu: v @ Av - 2 * mu), "in the wrong direction"),
        (of_dense(lambda values, vectors: (values[0], vectors[:, 0])), "smallest eigenvalue"),
        (partial(power, value=lambda v, Av, mu: -(v @ Av)), "the sign is turned round"),
        (deflated, "the second largest in magnitude"),
        (partial(power, value=lambda v, Av, mu: (v @ Av) ** 2), "that is λ²"),
        (of_dense(lambda values, vectors: (values[-1], values[-1] * vectors[:, -1])), "v is not of length 1"),
        (of_dense(lambda values, vectors: (values[-1], vectors[:, 0])), "belongs to the most negative"),
        (partial(power, unit=False), "infinite or NaN"),
        (from_the_end, "does the second round begin at `start`"),
        (lambda *given: power(*given)[::-1], "swapped"),
        (lambda *given: power(*given)[0], "the eigenvalue and its vector"),
        (with_own_start, "begin at `start`"),
        (lambda product, start, steps: power(product, start, 3), "off by"),
        (partial(power, end=lambda v: v.double()), "dtype"),
        (partial(power, end=lambda v: v[:, None]), "shape"),
        (lambda product, start, steps: power(product, start.normal_(), steps), "in place"),
    ],
    "nudged_step": [
        (partial(nudged, scale=lambda eta: eta), "uphill"),
        (partial(nudged, scale=lambda eta: 1), "that is the gradient, nudged"),
        (partial(nudged, scale=lambda eta: -1), "η is missing"),
        (with_total(lambda rest, along, gamma: rest + along), "that is SGD's step"),
        (with_total(lambda rest, along, gamma: gamma * (rest + along)), "all directions are nudged"),
        (with_total(lambda rest, along, gamma: rest + (1 - gamma) * along), "mixed up"),
        (with_total(lambda rest, along, gamma: rest), "is dropped"),
        (with_total(lambda rest, along, gamma: gamma * along), "the rest of the gradient is missing"),
        (with_total(lambda rest, along, gamma: gamma * rest + along), "the other directions are nudged"),
        (partial(nudged, project=lambda g, E: E[:, 0] * (E[:, 0] @ g)), "only the first direction"),
        (lambda g, E, eta, gamma: -eta * (g - (1 - gamma) * E.sum(1)), "the directions are subtracted"),
        (lambda g, E, eta, gamma: -eta * g - (1 - gamma) * E @ (E.T @ g), "it multiplies both"),
        (lambda g, E, eta, gamma: -eta * g + (1 - gamma) * E @ (E.T @ g), "it multiplies both"),
        (with_total(lambda rest, along, gamma: (1 - gamma) * along), "what is taken away"),
        (with_total(lambda rest, along, gamma: rest + (1 + gamma) * along), "is added to it"),
        (with_total(lambda rest, along, gamma: rest + (2 - gamma) * along), "the sign of 1 - γ"),
        (lambda g, E, eta, gamma: -eta * gamma * (E.T @ g), "coordinates along the directions"),
        (lambda g, E, eta, gamma: -eta * (g - (1 - gamma) * E.T @ (E @ g)), "Error"),
        (lambda g, E, eta, gamma: nudged(g, E, eta, gamma)[:, None], "shape"),
        (lambda g, E, eta, gamma: nudged(g, E, eta, gamma).double(), "dtype"),
        (lambda g, E, eta, gamma: g.mul_(-eta), "in place"),
    ],
    "diagonal_step": [
        (with_end(lambda p, m, pull: (m + pull * m, p - pull * p)), "swapped"),
        (with_end(lambda p, m, pull: (-pull * p, pull * m)), "the step alone"),
        (with_end(lambda p, m, pull: (p + pull * p, m - pull * m)), "the loss rises"),
        (with_end(lambda p, m, pull: (p - pull * p, m - pull * m)), "w₋ enters β with a minus"),
        (one_after_the_other, "from the new w₊"),
        (with_end(lambda p, m, pull: (p - pull, m + pull)), "a weight is missing"),
        (partial(by_autograd, weight=0.5), "twice too long"),
        (partial(by_autograd, weight=0.125), "half as long"),
        (partial(by_autograd, weight=1), "four times too long"),
        (partial(multiplied, mean=lambda r, X: r @ X), "a sum over the batch"),
        (partial(multiplied, beta=lambda p, m: p - m), "the weights are squared"),
        (partial(multiplied, beta=lambda p, m: (p - m) ** 2), "each weight is squared by itself"),
        (partial(multiplied, beta=lambda p, m: p**2 + m**2), "β is a difference"),
        (with_end(lambda p, m, pull: (p - pull * p, m)), "w₋ does not move"),
        (partial(multiplied, mean=lambda r, X: r @ X / X.shape[1]), "over the samples"),
        (with_end(lambda p, m, pull: (p * torch.exp(-pull), m * torch.exp(pull))), "an exponential"),
        (partial(multiplied, mean=lambda r, X: r[0] * X[0]), "only the first sample"),
        (lambda p, m, X, y, eta: multiplied(p, m, X, y, 1.0), "η is missing"),
        (lambda p, m, X, y, eta: multiplied(p, m, X, y, eta)[0], "the new w₊ and w₋"),
        (with_end(lambda p, m, pull: (p[:, None], m[:, None])), "the weights' is"),
        (lambda *given: [w.requires_grad_() for w in multiplied(*given)], "still requires a gradient"),
        (lambda *given: [w.double() for w in multiplied(*given)], "dtype"),
        (with_end(lambda p, m, pull: (p.sub_(pull * p), m.add_(pull * m))), "in place"),
        (with_end(lambda p, m, pull: (p - 1.1 * pull * p, m + pull * m)), "off by"),
    ],
}  # fmt: skip
