"""Right answers, written differently from the solution, and typical wrong ones with the hint each must get."""

import math
from copy import deepcopy
from types import FunctionType

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import kl_div

from phenomena import bounds, regression
from phenomena.training import cross_entropy, error_rate, train

# 1


def corrupted(
    y, p, classes, generator, *,
    coins=lambda y, p, g: torch.rand(y.shape, generator=g) < p,
    draw=lambda y, classes, g: classes[torch.randint(len(classes), y.shape, generator=g)],
):  # fmt: skip
    """New labels by another coin or another draw."""
    return torch.where(coins(y, p, generator), draw(y, classes, generator).to(y.dtype), y)


def one_by_one(y, p, classes, generator):
    new = y.tolist()
    for i in range(len(new)):
        if torch.rand((), generator=generator) < p:
            new[i] = classes[int(torch.rand((), generator=generator) * len(classes))].item()
    return torch.tensor(new, dtype=y.dtype)


def only_where_replaced(y, p, classes, generator):
    new, at = y.clone(), torch.rand(len(y), generator=generator) < p
    new[at] = classes[torch.randint(len(classes), (int(at.sum()),), generator=generator)].to(y.dtype)
    return new


def one_number_for_both(y, p, classes, generator):
    """One number below p is uniform on [0, p), so it can also choose the class."""
    u = torch.rand(len(y), generator=generator, dtype=torch.float64)
    chosen = (u / max(p, 1e-9) * len(classes)).clamp(max=len(classes) - 1).long()
    return torch.where(u < p, classes[chosen].to(y.dtype), y)


def with_numpy(y, p, classes, generator):
    rng = np.random.default_rng(int(torch.randint(2**40, (), generator=generator)))
    return torch.from_numpy(np.where(rng.random(len(y)) < p, rng.choice(classes.numpy(), len(y)), y)).to(y.dtype)


def only_incorrect(y, classes, g):
    if len(classes) == 1:
        return y
    at = (y[:, None] == classes).int().argmax(1)
    return classes[(at + torch.randint(1, len(classes), y.shape, generator=g)) % len(classes)]


def exactly_pn(at):
    """A coin that always shows heads on pn labels, at the places that `at` orders first."""
    return lambda y, p, g: at(y, g).argsort() < round(p * len(y))


def in_place(y, p, classes, generator):
    y[:] = corrupted(y, p, classes, generator)
    return y


def seed_inside(y, p, classes, generator):
    generator.manual_seed(0)
    return corrupted(y, p, classes, generator)


def fresh(generator):
    """A generator that nobody can set, after a draw from the one that is given."""
    torch.rand(1, generator=generator)
    new = torch.Generator()
    new.seed()
    return new


def used_twice(y, p, classes, generator):
    u = torch.rand(len(y), generator=generator)
    return torch.where(u < p, classes[(u * len(classes)).long()].to(y.dtype), y)


def wound_back(y, p, classes, generator):
    state = generator.get_state()
    new = corrupted(y, p, classes, generator)
    generator.set_state(state)
    return new


def towards_the_truth(y, classes, g):
    """Twice a draw, and the true class if one of the two is it."""
    one, two = (classes[torch.randint(len(classes), y.shape, generator=g)] for _ in range(2))
    return torch.where(one == y, one, two)


# 2


def with_loop(models, X, Y, X_test, y_test, optimizer, steps, *, rows=None, turn=None):
    """One by one; `rows` are the labels to learn, and `turn` makes numbers of a model, its labels and the loss."""
    turn = turn or (lambda model, labels, loss: (error_rate(model, X, labels), error_rate(model, X_test, y_test)))
    out = []
    for model, labels, learned in zip(models, Y, Y if rows is None else rows, strict=True):
        loss = train(model, X, learned, cross_entropy, optimizer(list(model.parameters())), steps).losses[-1]
        out.append(turn(model, labels, float(loss)))
    return [list(column) for column in zip(*out, strict=True)]


def counted(models, X, Y, X_test, y_test):
    return [
        [error_rate(m, X, y) for m, y in zip(models, Y, strict=True)],
        [error_rate(m, X_test, y_test) for m in models],
    ]


def in_turn(models, X, Y, X_test, y_test, optimizer, steps):
    chain = [models[0]]
    for labels in Y:
        chain.append(deepcopy(chain[-1]))
        train(chain[-1], X, labels, cross_entropy, optimizer(list(chain[-1].parameters())), steps)
    return counted(chain[1:], X, Y, X_test, y_test)


def last_model(models, X, Y, X_test, y_test, optimizer, steps):
    one = [models[0]] * len(Y)
    with_loop(one, X, Y, X_test, y_test, optimizer, steps)
    return counted(one, X, Y, X_test, y_test)


# 3


def units(X, y, a, *, kinks, solve=torch.linalg.solve, sort_y=True):
    """b and w with other kinks, or another way to solve for w."""
    z, order = (X.double() @ a).sort()
    b = kinks(z)
    w = solve(torch.relu(z[:, None] - b), (y[order] if sort_y else y).double()[:, None])[:, 0]
    return b, w


def left(z):
    return torch.cat([z[:1] - 1, z[:-1]])


def half_way(z):
    return torch.cat([z[:1] - 1, (z[:-1] + z[1:]) / 2])


def just_before(z):
    return z - (z.diff().min() / 2 if len(z) > 1 else 1)


def a_little_before(z):
    return z - 1e-6


def below(z):
    return z[0] - 1 - torch.arange(len(z)).double()


def slope_by_slope(X, y, a):
    """f is straight between neighbours: w_j is a change of slope."""
    z, targets = zip(*sorted(zip((X.double() @ a).tolist(), y.tolist(), strict=True)), strict=True)
    b, height, slopes = [z[0] - 2, *z[:-1]], [0.0, *targets], [0.0]
    for j in range(len(z)):
        slopes.append((height[j + 1] - height[j]) / (z[j] - b[j]))
    return torch.tensor(b, dtype=torch.float64), torch.tensor(np.diff(slopes))


def shuffled(X, y, a):
    b, w = units(X, y, a, kinks=half_way)
    return [b.flip(0), w.flip(0)]


def unsorted_with_numpy(X, y, a):
    z = X.double().numpy() @ a.numpy()
    b = np.sort(np.r_[z.min() - 1, z])[:-1]
    return torch.from_numpy(b), torch.from_numpy(np.linalg.solve(np.maximum(z[:, None] - b, 0), y.double().numpy()))


def in_float32(X, y, a):
    z, order = (X.float() @ a.float()).sort()
    b = left(z)
    w = triangular(torch.relu(z[:, None] - b), y[order, None].float())
    return b.double(), w[:, 0].double()


def without_max(X, y, a):
    z, order = (X.double() @ a).sort()
    b = left(z)
    return b, torch.linalg.lstsq(z[:, None] - b, y[order, None].double(), driver="gelsd").solution[:, 0]


def not_sorted(X, y, a):
    z = X.double() @ a
    b = left(z)
    return b, triangular(torch.relu(z[:, None] - b), y[:, None].double())[:, 0]


def least_squares(A, y):
    return torch.linalg.lstsq(A, y, driver="gelsd").solution


def triangular(A, y):
    return torch.linalg.solve_triangular(A, y, upper=False)


def sorted_back(X, y, a):
    b, w = units(X, y, a, kinks=left)
    return b, w[(X.double() @ a).argsort().argsort()]


def sorted_twice(X, y, a):
    b, w = units(X, y, a, kinks=left)
    return b, w[(X.double() @ a).argsort()]


# 5, 7


def solved(q, c, lower=None, *, kl=lambda q, p: kl_div(q, p) + kl_div(1 - q, 1 - p)):
    """The root of kl = c, by Brent's method, above q or above `lower`."""
    start, end = (q, 1 - 1e-16) if lower is None else (lower, q)
    edge = 1.0 if lower is None else lower
    far = end if lower is None else start
    if c == 0 or q == edge or kl(q, far) <= c:
        return q if c == 0 else edge
    return brentq(lambda p: kl(q, p) - c, start, end, xtol=1e-15)


def halved(q, c, times, *, kl=lambda q, p: kl_div(q, p) + kl_div(1 - q, 1 - p)):
    low, high = q, 1.0
    for _ in range(times):
        p = (low + high) / 2
        low, high = (p, high) if kl(q, p) <= c else (low, p)
    return low


def with_logarithms(q, c):
    def kl(q, p):
        with np.errstate(divide="ignore", invalid="ignore"):
            return q * np.log(np.float64(q) / p) + (1 - q) * np.log((1 - np.float64(q)) / (1 - np.float64(p)))

    # NaN <= c is False, and ends at q: this one returns what its last kl was not able to say
    return halved(q, c, 60, kl=kl) + 0 * kl(q, (1 + q) / 2)


def on_a_wrong_inverse(R, KL, n, delta):
    return kl_inverse(R, (KL + math.log(2 * n**0.5 / delta)) / n)  # noqa: F821


def in_a_notebook(answer, **names):
    """An answer among a student's own functions of those names."""
    return FunctionType(answer.__code__, {"math": math, **names})


def fails_at_zero(q, c):
    return bounds.kl_inverse(q, c) + 0 / q


def inverse_of(c_of):
    """pac_bayes with another c."""
    return lambda R, KL, n, delta: bounds.kl_inverse(R, max(0.0, c_of(KL, n, delta, math.log(2 * n**0.5 / delta))))


# 6


def gaussian(w, s, w_0, lam, *, factor=0.5, one=1, log=1.0, far=2, units=1.0):
    ratio = s.double() ** 2 / lam
    distance = (w.double() - w_0).abs() ** far / lam**units
    return factor * (distance + ratio - one - log * ratio.log()).sum()


def weight_by_weight(w, s, w_0, lam):
    kl = 0.0
    for mean, std, centre in zip(w.tolist(), s.tolist(), w_0.tolist(), strict=True):
        kl += math.log(math.sqrt(lam) / std) + (std**2 + (mean - centre) ** 2) / (2 * lam) - 1 / 2
    return kl


def in_numpy(w, s, w_0, lam):
    w, s, w_0 = (part.numpy() for part in (w, s, w_0))
    return 0.5 * ((s @ s + (w - w_0) @ (w - w_0)) / lam - len(w) - 2 * np.log(s).sum() + len(w) * np.log(lam))


def reversed_kl(w, s, w_0, lam):
    ratio = lam / s**2
    return ((w - w_0) ** 2 / s**2 + ratio - 1 - ratio.log()).sum() / 2


# 8


def four(X, eps, theta, Lambda, sigma2, *, h=None, s=None, labels=None, weights=lambda L: L, total=False, noise=1.0):
    """The terms with another h, s, labels for R_S, weights of the features, sum or noise."""
    signal = X @ theta
    pinv = torch.linalg.pinv(X)
    h = pinv @ (signal + eps) if h is None else h(pinv, signal, eps, theta)
    s = pinv @ signal if s is None else s(pinv, signal, eps, theta)
    labels = (signal + eps, signal + eps) if labels is None else labels(signal, eps)

    def risk(beta):
        return noise * sigma2 + ((beta - theta) ** 2 * weights(Lambda)).sum()

    def on(beta, y):
        errors = (X @ beta - y) ** 2
        return errors.sum() if total else errors.mean()

    R_h, RS_h, R_s, RS_s = risk(h), on(h, labels[0]), risk(s), on(s, labels[1])
    return torch.stack([RS_h, R_h - R_s, R_s - RS_s, RS_s - RS_h])


def with_covariance(X, eps, theta, Lambda, sigma2):
    X, eps, theta, Lambda = (part.double().numpy() for part in (X, eps, theta, Lambda))
    y = X @ theta + eps
    h, s = (np.linalg.lstsq(X, target, rcond=1e-6)[0] for target in (y, X @ theta))
    R = [sigma2 + (b - theta) @ np.diag(Lambda) @ (b - theta) for b in (h, s)]
    RS = [np.linalg.norm(X @ b - y) ** 2 / len(y) for b in (h, s)]
    return [RS[0], R[0] - R[1], R[1] - RS[1], RS[1] - RS[0]]


def four_risks(X, eps, theta, Lambda, sigma2):
    RS_h, excess, gap, price = four(X, eps, theta, Lambda, sigma2)
    RS_s = RS_h + price
    return RS_h, RS_s + gap + excess, RS_s + gap, RS_s


RIGHT = {
    "corrupt": [
        one_by_one,
        with_numpy,
        lambda *given: corrupted(*given, coins=lambda y, p, g: torch.zeros(len(y)).bernoulli_(p, generator=g) > 0),
        only_where_replaced,
        one_number_for_both,
    ],
    "memorise": [
        with_loop,
        lambda *given: np.array(with_loop(*given)),
        lambda *given: tuple(torch.tensor(column) for column in with_loop(*given)),
        lambda models, *given: with_loop(deepcopy(models), *given),
    ],
    "shatter": [
        slope_by_slope,
        shuffled,
        lambda X, y, a: units(X, y, a, kinks=half_way, solve=lambda A, y: torch.linalg.pinv(A) @ y),
        lambda X, y, a: units(X, y, a, kinks=left, solve=least_squares),
        unsorted_with_numpy,
    ],
    "hoeffding": [
        lambda n, delta, log_M: np.sqrt((log_M - np.log(delta)) / (2 * n)),
        lambda n, delta, log_M: torch.tensor((log_M - math.log(delta)) / n / 2, dtype=torch.float64) ** 0.5,
    ],
    "kl_inverse": [bounds.kl_inverse, solved, lambda q, c: torch.tensor(halved(q, c, 60), dtype=torch.float64)],
    "gaussian_kl": [
        gaussian,
        weight_by_weight,
        in_numpy,
        lambda *given: gaussian(*given).requires_grad_(),
    ],
    "pac_bayes": [bounds.pac_bayes_bound, inverse_of(lambda KL, n, delta, price: KL / n + price / n)],
    "risk_terms": [four, with_covariance],
}

WRONG = {
    "corrupt": [
        (lambda y, p, classes, g: corrupted(y, 1 - p, classes, g), "not to be kept"),
        (lambda *given: corrupted(*given, draw=only_incorrect), "the true one is among them"),
        (lambda *given: corrupted(*given, draw=lambda y, c, g: c[torch.randint(len(c), (1,), generator=g)]), "its own"),
        (lambda *given: corrupted(*given, draw=lambda y, c, g: y[torch.randperm(len(y), generator=g)]), "rearranged"),
        (lambda *given: corrupted(*given, draw=lambda y, c, g: torch.randint(len(c), y.shape, generator=g)), "names"),
        (lambda *given: corrupted(*given, draw=towards_the_truth), "not uniform"),
        (lambda *given: corrupted(*given, coins=exactly_pn(lambda y, g: torch.arange(len(y)))), "hardly varies"),
        (lambda *given: corrupted(*given, coins=exactly_pn(lambda y, g: torch.rand(len(y), generator=g))), "hardly"),
        (
            lambda *given: corrupted(*given, coins=lambda y, p, g: torch.rand(1, generator=g).expand(len(y)) < p),
            "together or not at all",
        ),
        (
            lambda *given: corrupted(
                *given,
                coins=lambda y, p, g: (
                    torch.rand(y.shape, generator=g) < 2 * p * (torch.arange(len(y)) < len(y) / 2)
                    if p < 0.5
                    else torch.rand(y.shape, generator=g) < p
                ),
            ),
            "depends on where it stands",
        ),
        (
            lambda y, p, classes, g: corrupted(y, p if len(classes) == 50 else min(1, 1.5 * p), classes, g),
            "ends up wrong",
        ),
        (lambda y, p, classes, g: corrupted(y, p**2 if p < 0.5 else p, classes, g), "too few"),
        (lambda y, p, classes, g: corrupted(y, p**0.5 if p < 0.5 else p, classes, g), "too many"),
        (lambda y, p, classes, g: corrupted(y, max(p, 0.01), classes, g), "none may"),
        (lambda y, p, classes, g: corrupted(y, p, classes, torch.Generator().manual_seed(0)), "draws nothing"),
        (lambda y, p, classes, g: corrupted(y, p, classes, None), "draws nothing"),
        (lambda *given: corrupted(*given, draw=lambda y, c, g: c[torch.randint(len(c), y.shape)]), "global"),
        (
            lambda *given: corrupted(*given, draw=lambda y, c, g: torch.from_numpy(np.random.choice(c, len(y)))),
            "global",
        ),
        (
            lambda *given: corrupted(*given, coins=lambda y, p, g: torch.rand(y.shape, generator=fresh(g)) < p),
            "two generators in one state",
        ),
        (seed_inside, "is a seed set inside"),
        (wound_back, "left as it was"),
        (used_twice, "another random number"),
        (lambda y, p, classes, g: corrupted(y, p, y.unique(), g), "no label has"),
        (lambda y, p, classes, g: corrupted(y, 1.0, classes, g), "none may"),
        (in_place, "in place"),
        (lambda *given: corrupted(*given).float(), "dtype"),
        (lambda y, *given: corrupted(y, *given)[:, None], "shape"),
        (lambda y, p, classes, g: corrupted(y.to(classes.dtype), p, classes, g), "dtype"),
    ],
    "memorise": [
        (lambda *given: counted(*given[:5]), "before any training"),
        (lambda m, X, Y, *rest: with_loop(m, X, Y, *rest, rows=Y[:1].expand_as(Y)), "one row of Y"),
        (lambda m, X, Y, *rest: with_loop(m, X, Y[:1].expand_as(Y), *rest), "one row of Y"),
        (lambda m, X, Y, *rest: with_loop(m, X, Y[:1].expand_as(Y), *rest, rows=Y), "that each one was given"),
        (in_turn, "in turn"),
        (last_model, "those of one network"),
        (lambda models, *given: (with_loop(deepcopy(models), *given), counted(models, *given[:4]))[1], "before any"),
        (lambda *given: with_loop(*given)[::-1], "swapped"),
        (lambda *given: 1 - np.array(with_loop(*given)), "accuracies"),
        (lambda *given: 100 * np.array(with_loop(*given)), "percents"),
        (lambda m, X, Y, T, *rest: [[len(X)], [len(T)]] * np.array(with_loop(m, X, Y, T, *rest)), "counts"),
        (
            lambda m, X, Y, T, t, *rest: with_loop(
                m, X, Y, T, t, *rest, turn=lambda model, _, loss: (loss, error_rate(model, T, t))
            ),
            "misclassified",
        ),
        (lambda m, X, Y, T, t, *rest: [with_loop(m, X, Y, T, t, *rest)[0]] * 2, "on the training sample"),
        (
            lambda m, X, Y, T, t, *rest: with_loop(
                m, X, Y, T, t, *rest, turn=lambda model, y, _: (error_rate(model, X, y), error_rate(model, T, y))
            ),
            "the true labels of the test set",
        ),
        (lambda *given: np.array(with_loop(*given)).T, "axes are swapped"),
        (lambda *given: with_loop(*given)[1], "shape"),
        (lambda m, X, *rest: with_loop(m, X.float(), *rest), "stopped with RuntimeError"),
        (lambda *given: with_loop(*given[:-1], 2 * given[-1]), "off by"),
    ],
    "shatter": [
        (lambda X, y, a: units(X, y, a, kinks=left, sort_y=False), "were the targets"),
        (lambda X, y, a: units(X, y, a, kinks=left)[::-1], "b comes first"),
        (lambda X, y, a: units(X, y, a, kinks=lambda z: z.clone(), solve=triangular), "silent at point j"),
        (lambda X, y, a: units(X, y, a, kinks=lambda z: z.clone()), "singular"),
        (sorted_back, "different orders"),
        (sorted_twice, "different orders"),
        (lambda X, y, a: (lambda b, w: (-b, w))(*units(X, y, a, kinks=left)), "turned round"),
        (lambda X, y, a: units(X, y, a, kinks=left, solve=lambda A, y: torch.linalg.solve(A.T, y)), "transposed"),
        (lambda X, y, a: units(X, y, a, kinks=below, solve=least_squares), "straight line"),
        (lambda X, y, a: units(X, y, a, kinks=just_before), "rounding"),
        (
            lambda X, y, a: units(
                X, y, a, kinks=lambda z: torch.cat([(z[:-1] + z[1:]) / 2, z[-1:] + 1]), solve=least_squares
            ),
            "to the right of its point",
        ),
        (lambda X, y, a: units(X, y, a, kinks=lambda z: z - 1, solve=triangular), "skips"),
        (lambda X, y, a: tuple(part.float() for part in units(X, y, a, kinks=left)), "dtype"),
        (lambda X, y, a: units(X, y, a, kinks=left)[1], "two tensors"),
        (lambda X, y, a: tuple(part[:, None] for part in units(X, y, a, kinks=left)), "shapes"),
        (lambda X, y, a: tuple(part.numpy() for part in units(X, y, a, kinks=left)), "ndarray"),
        (
            lambda X, y, a: units(X, y, a, kinks=left, solve=lambda A, y: torch.linalg.solve(A + 0.1, y)),
            "does not solve",
        ),
        (lambda X, y, a: units(X, y, a, kinks=a_little_before, solve=triangular), "rounding"),
        (without_max, "does not solve"),
        (not_sorted, "not finite"),
        (in_float32, "float32"),
    ],
    "hoeffding": [
        (lambda n, delta, log_M: math.sqrt((log_M - math.log(delta)) / n), "factor √2"),
        (lambda n, delta, log_M: math.sqrt((log_M + math.log(2 / delta)) / (2 * n)), "two-sided"),
        (lambda n, delta, log_M: math.sqrt((log_M - math.log2(delta)) / (2 * n)), "base 2"),
        (lambda n, delta, log_M: math.sqrt((log_M - math.log10(delta)) / (2 * n)), "base 10"),
        (lambda n, delta, log_M: (log_M - math.log(delta)) / (2 * n), "the square of the right value"),
        (lambda n, delta, log_M: math.sqrt(-math.log(delta) / (2 * n)), "where is log_M"),
        (lambda n, delta, log_M: math.sqrt(log_M / (2 * n)), "δ is not in it"),
        (lambda n, delta, log_M: math.sqrt((log_M + delta) / (2 * n)), "δ itself"),
        (lambda n, delta, log_M: math.sqrt((log_M + 1 / delta) / (2 * n)), "1/δ itself"),
        (lambda n, delta, log_M: math.sqrt(-log_M * math.log(delta) / (2 * n)), "product of two"),
        (lambda n, delta, log_M: math.sqrt(log_M / (2 * n)) + math.sqrt(-math.log(delta) / (2 * n)), "two roots"),
        (lambda n, delta, log_M: math.sqrt(log_M - math.log(delta)) / (2 * n), "outside the root"),
        (lambda n, delta, log_M: math.sqrt((math.log(log_M) - math.log(delta)) / (2 * n)), "a logarithm already"),
        (lambda n, delta, log_M: math.sqrt((log_M + math.log(delta)) / (2 * n)), "must cost more"),
        (lambda n, delta, log_M: math.sqrt(log_M - math.log(delta) / (2 * n)), "only one of the two"),
        (lambda n, delta, log_M: math.sqrt((log_M - math.log(delta)) / 2 * n), "n multiplies"),
        (lambda n, delta, log_M: math.sqrt((log_M - math.log(1 - delta)) / (2 * n)), "off by"),
        (lambda n, delta, log_M: math.sqrt((math.log(math.exp(log_M) / delta)) / (2 * n)), "OverflowError"),
        (lambda n, delta, log_M: min(1.0, math.sqrt((log_M - math.log(delta)) / (2 * n))), "cut off at 1"),
    ],
    "kl_inverse": [
        (lambda q, c: solved(q, c, 0.0), "below q"),
        (lambda q, c: solved(q, c, kl=lambda q, p: kl_div(p, q) + kl_div(1 - p, 1 - q)), "arguments are swapped"),
        (lambda q, c: q + math.sqrt(c / 2), "Pinsker"),
        (lambda q, c: min(1.0, q + math.sqrt(c / 2)), "Pinsker"),
        (lambda q, c: solved(q, c * math.log(2)), "in bits"),
        (lambda q, c: kl_div(q, c) + kl_div(1 - q, 1 - c), "kl(q‖c) itself"),
        (lambda q, c: halved(q, c, 12), "gains one bit"),
        (lambda q, c: halved(q, c, 20), "gains one bit"),
        (lambda q, c: halved(q, c, 3), "off by"),
        (with_logarithms, "NaN"),
        (lambda q, c: max(q, with_logarithms(q, c)) if 0 < q < 1 and c else q, "0 ln 0 is 0"),
        (lambda q, c: q, "it ends at q:"),
        (lambda q, c: halved(q, -c, 60, kl=lambda q, p: -kl_div(q, p) - kl_div(1 - q, 1 - p)), "it ends at"),
        (lambda q, c: 1.0, "it ends at 1"),
        (lambda q, c: halved(0 * q, c, 60, kl=lambda _, p: kl_div(q, p) + kl_div(1 - q, 1 - p)), "below q"),
        (lambda q, c: halved(q, c, 60) - q, "how far p lies above q"),
        (lambda q, c: torch.tensor(halved(q, c, 60)), "float64"),
        (
            lambda q, c: halved(q, c, 60, kl=lambda q, p: q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))),
            "math domain error",
        ),
        (lambda q, c: [bounds.kl_inverse(q, c)], "shape"),
    ],
    "gaussian_kl": [
        (reversed_kl, "KL(P‖Q)"),
        (lambda *given: gaussian(*given, one=0), "the -1 is missing"),
        (lambda *given: gaussian(*given, factor=1), "twice too large"),
        (lambda w, s, w_0, lam: gaussian(w, s.double() ** 0.5, w_0, lam), "taken for a variance"),
        (lambda w, s, w_0, lam: gaussian(w, s, w_0, lam**2), "taken for a standard deviation"),
        (lambda *given: gaussian(*given, log=-1.0), "sign of the logarithm"),
        (lambda w, s, w_0, lam: gaussian(w, s, w_0, lam) + (s / lam**0.5).log().sum() / 2, "not squared in the log"),
        (lambda *given: gaussian(*given, units=0.0), "units of λ"),
        (lambda w, s, w_0, lam: gaussian(w, s, 0 * w_0, lam), "around w₀"),
        (lambda w, s, w_0, lam: gaussian(w, s, w_0, lam) / len(w), "independent weights add up"),
        (lambda *given: gaussian(*given, far=1), "off by"),
        (lambda *given: gaussian(*given, one=0) - 1, "once for each weight"),
        (lambda *given: gaussian(*given, one=0) - 0.5, "once for each weight"),
        (lambda *given: gaussian(*given, log=0.0), "logarithm is missing"),
        (lambda *given: gaussian(*given, log=1 / math.log(2)), "base 2"),
        (lambda *given: gaussian(*given, log=1 / math.log(10)), "base 10"),
        (lambda *given: gaussian(*given) / math.log(2), "in bits"),
        (lambda w, s, w_0, lam: gaussian(w, s, w_0, lam) - len(w) * math.log(lam) / 2, "λ is missing"),
        (lambda w, s, w_0, lam: gaussian(w, s, w_0, lam) + s.log().sum() / 2, "not squared in the log"),
        (lambda w, s, w_0, lam: gaussian(w, s, w_0, lam) + (s**2 - s**2 / lam).sum() / 2, "not divided by λ"),
        (lambda *given: -gaussian(*given), "never below 0"),
        (lambda w, s, w_0, lam: (gaussian(w, s, w_0, lam), s.mul_(2))[0], "in place"),
    ],
    "pac_bayes": [
        (inverse_of(lambda KL, n, delta, price: KL / n), "price of confidence"),
        (inverse_of(lambda KL, n, delta, price: KL / n + price), "only the KL"),
        (inverse_of(lambda KL, n, delta, price: KL + price), "nothing is divided"),
        (inverse_of(lambda KL, n, delta, price: (KL - math.log(delta)) / n), "2√n is missing"),
        (inverse_of(lambda KL, n, delta, price: (KL + math.log(2 * n / delta)) / n), "lost its root"),
        (inverse_of(lambda KL, n, delta, price: (KL + math.log(n**0.5 / delta)) / n), "a 2 is missing"),
        (inverse_of(lambda KL, n, delta, price: (KL + math.log(2 * n**0.5 * delta)) / n), "must cost more"),
        (inverse_of(lambda KL, n, delta, price: (KL + price) / (2 * n)), "factor 2"),
        (lambda R, KL, n, delta: R + math.sqrt((KL + math.log(2 * n**0.5 / delta)) / (2 * n)), "square root"),
        (lambda R, KL, n, delta: bounds.pac_bayes_bound(0.0, KL, n, delta), "training error is not in it"),
        (lambda R, KL, n, delta: R + bounds.pac_bayes_bound(0.0, KL, n, delta), "not added"),
        (lambda R, KL, n, delta: (KL + math.log(2 * n**0.5 / delta)) / n, "not yet solved"),
        (lambda R, KL, n, delta: R + (KL + math.log(2 * n**0.5 / delta)) / n, "c added"),
        (inverse_of(lambda KL, n, delta, price: (KL + price) / (n - 10)), "off by"),
        (
            in_a_notebook(on_a_wrong_inverse, kl_inverse=lambda q, c: min(1, q + (c / 2) ** 0.5)),
            "first mend exercise 5",
        ),
        (in_a_notebook(on_a_wrong_inverse, kl_inverse=fails_at_zero), "ZeroDivisionError"),
        (
            in_a_notebook(lambda R, KL, n, delta: kl_inverse(R, KL / n), kl_inverse=bounds.kl_inverse),  # noqa: F821
            "price of confidence",
        ),
        (inverse_of(lambda KL, n, delta, price: (KL + math.log(2 * n**0.5)) / n), "δ is not in it"),
        (inverse_of(lambda KL, n, delta, price: (KL + price / math.log(2)) / n), "base 2"),
        (inverse_of(lambda KL, n, delta, price: (KL + price / math.log(10)) / n), "base 10"),
        (inverse_of(lambda KL, n, delta, price: (KL + math.log((2 * n) ** 0.5 / delta)) / n), "2 stands before"),
        (inverse_of(lambda KL, n, delta, price: (KL + math.log(2 * (n / delta) ** 0.5)) / n), "under the root"),
        (inverse_of(lambda KL, n, delta, price: price / n), "the KL is not in it"),
        (lambda R, KL, n, delta: bounds.kl_inverse((KL + math.log(2 * n**0.5 / delta)) / n, R), "are swapped"),
    ],
    "risk_terms": [
        (lambda *given: four(*given, s=lambda pinv, signal, eps, theta: pinv @ (signal + eps)), "s is h"),
        (lambda *given: four(*given, labels=lambda signal, eps: (signal + eps, signal)), "noisy, for s too"),
        (lambda *given: four(*given, labels=lambda signal, eps: (signal, signal)), "noisy, for s too"),
        (lambda *given: four(*given, noise=0.0), "a new label is noisy"),
        (lambda *given: four(*given, total=True), "take the mean"),
        (lambda *given: four(*given, weights=torch.ones_like), "by its variance, once"),
        (lambda *given: four(*given, weights=torch.square), "by its variance, once"),
        (lambda *given: four(*given, weights=torch.sqrt), "by its variance, once"),
        (lambda *given: four(*given, s=lambda pinv, signal, eps, theta: theta), "θ* itself"),
        (lambda *given: four(*given, h=lambda pinv, signal, eps, theta: pinv @ eps), "noise alone"),
        (
            lambda *given: four(
                *given,
                h=lambda pinv, signal, eps, theta: pinv @ signal,
                s=lambda pinv, signal, eps, theta: pinv @ (signal + eps),
            ),
            "swapped",
        ),
        (lambda *given: four(*given) * torch.tensor([1, 1, 1, -1]), "the price has the wrong sign"),
        (lambda *given: four(*given) * torch.tensor([1, 1, -1, 1]), "the gap has the wrong sign"),
        (lambda *given: four(*given) * torch.tensor([1, -1, 1, 1]), "the excess has the wrong sign"),
        (four_risks, "these are risks"),
        (lambda *given: four(*given[:-1], given[-1] ** 2), "σ² already"),
        (lambda *given: four(*given[:-1], given[-1] ** 0.5), "sigma2 is σ²."),
        (lambda *given: four(*given, weights=lambda L: L / len(L)), "not a mean"),
        (lambda *given: four(*given) * torch.tensor([0, 1, 1, 1]) + four(*given)[0] * torch.eye(4)[3], "interpolates"),
        (lambda *given: four(*given) + four(*given)[0] * torch.eye(4)[3], "interpolates"),
        (lambda *given: four(*given) + (four(*given) * torch.tensor([0, 1, 0, 1])).sum() * torch.eye(4)[2], "not of h"),
        (lambda *given: four(*given)[:3], "shape"),
        (lambda *given: four(*given).sum(), "shape"),
        (lambda X, *rest: four(X, *rest, s=lambda pinv, signal, eps, theta: X @ theta), "RuntimeError"),
        (lambda *given: regression.min_norm(given[0], given[0] @ given[2])[:4], "off by"),
    ],
}
