"""Checks of the generalization lab."""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import rel_entr
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from phenomena.checks import Wrong, check, compare, of_kind, samples

SIGMAS = 6.0  # how far a count may lie from its mean: a right answer is called wrong once in 10^9


def _seed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _far(count: float, n: float, p: float) -> bool:
    """Whether a count lies too far from the mean of Binomial(n, p)."""
    return abs(count - n * p) > SIGMAS * math.sqrt(n * p * (1 - p))


@check(
    1, minutes=10, praise="a new draw with probability p, wrong with p(1 - 1/C). Next: can a network fit even p = 1?"
)
def corrupt(answer: Callable[..., Tensor]) -> None:
    """What defines the answer: its distribution, by counts that a right answer misses once in a billion times."""
    n, classes = 3000, torch.tensor([3, 5, 8])
    y = classes[torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), n, True, generator=_seed(1))]

    generator = _seed(2)
    outside = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = _labels(answer, y, 0.5, classes, generator)
    if torch.equal(generator.get_state(), _seed(2).get_state()):
        raise Wrong("it draws nothing from the generator that it is given, which is left as it was.")
    if not torch.equal(outside[0], torch.get_rng_state()) or (outside[1] != np.random.get_state()[1]).any():  # type: ignore[index]
        raise Wrong("it draws from a global random state too: the generator that it is given shall decide everything.")
    if not torch.equal(first, _labels(answer, y, 0.5, classes, _seed(2))):
        raise Wrong("two generators in one state give different labels: the generator shall decide everything.")
    if torch.equal(first, _labels(answer, y, 0.5, classes, _seed(3))):
        raise Wrong("generators in different states give the same labels: is a seed set inside?")

    new = _labels(answer, y, 1.0, classes, _seed(4))
    kept = int((new == y).sum())
    if kept == n:
        raise Wrong("at p = 1 every label is what it was: p is the probability to be replaced, not to be kept.")
    if torch.equal(new.sort().values, y.sort().values):
        raise Wrong("the labels are only rearranged (each class is as frequent as before): draw new ones.")
    if (new == new[0]).all():
        raise Wrong("at p = 1 all labels become one and the same: each needs a draw of its own.")
    if kept == 0:
        raise Wrong("at p = 1 no label stays what it was: the draw is over all classes, the true one is among them.")
    for group in (y == c for c in (3, 5, 8)):
        if any(_far(int((new[group] == c).sum()), int(group.sum()), 1 / 3) for c in classes):
            raise Wrong("at p = 1 the new labels are not uniform over the classes whatever the true label was.")

    if (_labels(answer, y[y != 5], 1.0, classes, _seed(9)) != 5).all():
        raise Wrong("a class that no label has is never drawn: the draw is over `classes`.")
    if not torch.equal(_labels(answer, y, 0.0, classes, _seed(6)), y):
        raise Wrong("at p = 0 labels change, and none may.")

    many = torch.arange(50)
    spread = [int((_labels(answer, many[:40], 0.5, many, rng) != many[:40]).sum()) for rng in [_seed(5)] * 200]
    share = float(np.var(spread)) / (40 * 0.49 * 0.51)
    if share < 0.4:
        raise Wrong("the number of replaced labels hardly varies: each label is to be decided on by itself.")
    if share > 2:
        raise Wrong("the labels are replaced together or not at all: each is to be decided on by itself.")

    new = _labels(answer, y, 0.3, classes, _seed(7))
    changed = new != y
    count = int(changed.sum())
    for was, to in ((3, 5), (5, 8), (8, 3)):
        group = changed & (y == was)
        if group.any() and _far(int((new[group] == to).sum()), int(group.sum()), 1 / 2):
            raise Wrong("which class is drawn depends on whether it is used: draw another random number for it.")
    if not _far(count, n, 0.3):
        raise Wrong(
            "a fraction p of the labels ends up wrong: p is the chance of a new draw, and some draws are right."
        )
    if _far(count, n, 0.2):
        raise Wrong(f"too {'few' if count < 0.2 * n else 'many'} labels are wrong at p = 0.3.")
    half = [int(part.sum()) for part in changed.split(n // 2)]
    if any(_far(part, n // 2, 0.2) for part in half):
        raise Wrong("whether a label is replaced depends on where it stands.")

    for name, labels, names in (
        ("one sample", y[:1], classes),
        ("int32", y.int(), classes),
        ("every second label", y[::2], torch.tensor([8, 3, 5])),
        ("classes below 0", torch.tensor([-1, 1, 1, -1]), torch.tensor([-1, 1])),
        ("one class", torch.tensor([4, 4]), torch.tensor([4])),
    ):
        _labels(answer, labels, 0.7, names, _seed(8), name)


def _labels(
    answer: Callable[..., Tensor], y: Tensor, p: float, classes: Tensor, generator: torch.Generator, where: str = ""
) -> Tensor:
    """A student's labels, if they are labels at all."""
    new = of_kind(answer(y, p, classes, generator), y)
    at = f" ({where})" if where else ""
    if new.shape != y.shape:
        raise Wrong(f"the shape is {tuple(new.shape)}, the contract says {tuple(y.shape)}{at}.")
    if not torch.isin(new, torch.cat([classes, y])).all():
        raise Wrong(f"some of the new labels are none of `classes`: they are names, and need not start at 0{at}.")
    return new


@check(2, minutes=10, praise="one network a labelling, in one call. Next: which of the two errors depends on p?")
def memorise(answer: Callable[..., object]) -> None:
    """The oracle trains the networks one by one in a loop of its own."""
    for name, inputs, want, mistakes in _memories():
        compare(answer(*inputs), want, mistakes, name)


@cache  # the networks of the oracle are always the same
def _memories() -> list[tuple[str, tuple[object, ...], np.ndarray, list[tuple[object, str]]]]:
    """Inputs, errors and what mistakes make of them."""
    adam, sgd = partial(torch.optim.Adam, lr=0.02), partial(torch.optim.SGD, lr=0.3, momentum=0.9)
    found: list[Any] = []
    for name, M, n, k, dtype, optimizer, steps in (
        ("3 networks", 3, 40, 40, torch.float64, adam, 20),
        ("float32, 4 networks, another optimizer", 4, 30, 50, torch.float32, sgd, 15),
        ("one network, one test sample", 1, 20, 1, torch.float64, adam, 5),
    ):
        rng = _seed(20 + M)
        centres = torch.randn(3, 5, generator=rng, dtype=dtype)
        truth = torch.randint(0, 3, (n + k,), generator=rng)
        (X, X_test), y_test = (
            (centres[truth] + 0.8 * torch.randn(5, n + k, generator=rng, dtype=dtype).T).split([n, k]),
            truth[n:],
        )
        Y = torch.stack([truth[:n], *(torch.randint(0, 3, (n,), generator=rng) for _ in range(M - 1))])
        models = [_network(seed, dtype) for seed in range(M)]

        pairs = [_fit(m, X, y, optimizer, steps) for m, y in zip(models, Y, strict=True)]
        after, losses = [model for model, _ in pairs], [loss for _, loss in pairs]
        same = [_fit(m, X, Y[0], optimizer, steps)[0] for m in models]
        chain = [models[0]]
        for y in Y:
            chain.append(_fit(chain[-1], X, y, optimizer, steps)[0])

        def both(
            nets: list[nn.Sequential],
            labels: Sequence[Tensor] = tuple(Y),
            X: Tensor = X,
            T: Tensor = X_test,
            t: Tensor = y_test,
        ) -> list[list[float]]:
            return [_errors(nets, X, labels), _errors(nets, T, [t] * len(nets))]

        want = np.array(both(after))
        mistakes: list[tuple[object, str]] = [
            (both(models), "these are errors before any training."),
            (both(same), "all networks learned one row of Y."),
            (both(same, [Y[0]] * M), "all networks learned one row of Y."),
            (both(after, [Y[0]] * M), "training errors count on the labels that each one was given."),
            (both(chain[1:]), "one network learns all rows in turn."),
            (both(chain[-1:] * M), "all errors are those of one network."),
            (want[::-1], "training and test errors are swapped: the training errors come first."),
            (1 - want, "these are accuracies: the error is one minus that."),
            (100 * want, "these are percents: the contract says fractions in [0, 1]."),
            (want * [[n], [k]], "these are counts: divide by the number of samples."),
            ([losses, want[1]], "the first are losses: the error is the fraction of samples that are misclassified."),
            ([want[0], want[0]], "the second are errors on the training sample: count them on the test set."),
        ]
        if n == k:
            wrong = _errors(after, X_test, tuple(Y))
            mistakes.append(([want[0], wrong], "test errors count on the true labels of the test set."))
        found.append((name, (models, X, Y, X_test, y_test, optimizer, steps), want, mistakes))
    return found


def _network(seed: int, dtype: torch.dtype) -> nn.Sequential:
    """A small network of 5 inputs and 3 classes."""
    generator, model = _seed(seed), nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=dtype))
    return model


def _fit(
    model: nn.Sequential, X: Tensor, y: Tensor, optimizer: Callable[..., torch.optim.Optimizer], steps: int
) -> tuple[nn.Sequential, float]:
    """A trained copy of the network, and its last loss."""
    model, loss = copy.deepcopy(model), torch.zeros(())
    updates = optimizer(list(model.parameters()))
    for _ in range(steps):
        loss = -F.log_softmax(model(X), 1).gather(1, y[:, None]).mean()
        updates.zero_grad()
        loss.backward()
        updates.step()
    return model, loss.item()


@torch.no_grad()
def _errors(models: list[nn.Sequential], X: Tensor, Y: Sequence[Tensor]) -> list[float]:
    return [float(np.mean(m(X).numpy().argmax(1) != y.numpy())) for m, y in zip(models, Y, strict=True)]


def _points() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Points and targets: first so few that nearly any b between its neighbours leaves a system that can be solved."""
    rng = _seed(31)
    for name, X in samples(8, 3, rng):
        yield name, X, 3 * torch.randn(len(X), generator=rng, dtype=X.dtype)
    X = torch.randn(6, 4, generator=rng, dtype=torch.float64)
    yield "two samples", X[:2], torch.tensor([1.5, -2.0])
    yield "integer targets", X, torch.tensor([3, -1, 4, 1, -5, 9])
    many = torch.randn(60, 20, generator=rng, dtype=torch.float64)
    yield "60 samples", many, torch.randn(60, generator=rng, dtype=torch.float64)
    yield "far from the origin", X + 20, torch.randn(6, generator=rng, dtype=torch.float64)


@check(3, minutes=15, praise="n units fit any targets. Next: look at what f does between its points.")
def shatter(answer: Callable[..., object]) -> None:
    """What defines the answer: f(x_i) = y_i. The b and w may differ."""
    for name, X, y in _points():
        a, n = torch.randn(X.shape[1], generator=_seed(33), dtype=torch.float64), len(X)
        got = answer(X, y, a)
        if not (isinstance(got, tuple | list) and len(got) == 2):
            raise Wrong(f"it returns a {type(got).__name__}, the contract says two tensors, b and w.")
        b, w = (of_kind(part, a) for part in got)
        if b.shape != (n,) or w.shape != (n,):
            shapes = f"{tuple(b.shape)} and {tuple(w.shape)}"
            raise Wrong(f"b and w have the shapes {shapes}, the contract says ({n},) for both ({name}).")
        z, order = (X.double() @ a).sort()
        sorted_b, sorted_y = b.sort().values, y[order].double()

        def f(b: Tensor, w: Tensor, z: Tensor = z) -> Tensor:
            return torch.relu(z[:, None] - b) @ w

        def hits(values: Tensor, targets: Tensor = sorted_y, atol: float = 1e-5) -> bool:
            return values.shape == targets.shape and np.allclose(values, targets, rtol=0, atol=atol)

        if n > 2 and hits(sorted_b, z, atol=1e-12):
            raise Wrong("each b_j is a z_j: then unit j is silent at point j, where it is needed.")
        if not w.isfinite().all():
            raise Wrong("w is not finite: some A_ii is 0. Is z sorted, and each b_j to the left of z_j?")
        reordered = hits(f(b, w[order])) or hits(f(b, w[order.argsort()]))
        transposed = hits(torch.relu(z - b[:, None]) @ w)
        straight = n > 2 and bool((b < z[0]).all())
        single = n > 2 and (torch.equal(b, b.float().double()) or torch.equal(w, w.float().double()))
        late, early = bool((sorted_b >= z).any()), bool((sorted_b[1:] < z[:-1] - 1e-12).any())
        # a solution up to rounding, where rounding is large
        solves = (f(b, w) - sorted_y).abs().max() < 1e-9 * f(b, w.abs()).max()
        steep = bool(solves and w.abs().max() > 1e9 * y.abs().max())
        reasons = [
            (hits(f(b, w), y.double()), "f has the right values at the wrong points: z was sorted, were the targets?"),
            (hits(f(w, b)), "b and w are swapped: b comes first."),
            (hits(f(-b, w)), "unit j is max(a·x - b_j, 0): is a sign of b turned round?"),
            (reordered, "b and w are in different orders: the units may stand in any order, but in one."),
            (transposed, "w solves the transposed system: a row of A belongs to a point, a column to a unit."),
            (straight, "every b_j lies below all z_i: without a kink between the points f is a straight line in z."),
            (single, "b or w has the seven digits of float32: compute in float64."),
            (steep, "rounding is in the way of huge weights: a unit that starts just before its point must be steep."),
            (late, "some unit starts only to the right of its point: b_j must be below z_j."),
            (early, "some b_j are below z_{j-1}: A has entries above its diagonal, which a triangular solver skips."),
            (True, "the b_j are as they should be, but w does not solve A w = y with A_ij = max(z_i - b_j, 0)."),
        ]
        compare(f(b, w), sorted_y, [(f(b, w), hint) for so, hint in reasons if so], name, rtol=1e-4)


@check(4, minutes=5, praise="the price of a promise for M classifiers. Next: M = 1, and M = 2 to the 32 W.")
def hoeffding(answer: Callable[..., float]) -> None:
    """The oracle solves M exp(-2nt²) = δ for t, in logarithms, by Brent's method."""
    for n, delta, log_M in ((50, 0.1, 3.9), (1500, 0.025, 72087.3), (1, 0.5, 0.0), (10**6, 1e-12, 3.0)):
        want = brentq(lambda t: log_M - 2 * n * t**2 - math.log(delta), 0, 1e6, xtol=1e-14)  # noqa: B023
        L = -math.log(delta)
        mistakes = [
            (math.sqrt((log_M + L) / n), "too large by a factor √2: which number stands in Hoeffding's exponent?"),
            (math.sqrt((log_M + L + math.log(2)) / (2 * n)), "two-sided: only R above R_S has to be excluded."),
            (math.sqrt((log_M + L / math.log(2)) / (2 * n)), "a logarithm to base 2: all of them are natural."),
            (math.sqrt((log_M + L / math.log(10)) / (2 * n)), "a logarithm to base 10: all of them are natural."),
            ((log_M + L) / (2 * n), "the square of the right value: t enters the exponent squared."),
            (math.sqrt(L / (2 * n)), "this holds for one classifier, not for M of them: where is log_M?"),
            (math.sqrt(log_M / (2 * n)), "δ is not in it."),
            (math.sqrt((log_M + delta) / (2 * n)), "δ itself is in it: it enters by a logarithm."),
            (math.sqrt((log_M + 1 / delta) / (2 * n)), "1/δ itself is in it: it enters by its logarithm."),
            (math.sqrt(log_M * L / (2 * n)), "a product of two logarithms: probabilities multiply, logarithms add."),
            (math.sqrt(log_M / (2 * n)) + math.sqrt(L / (2 * n)), "two roots: both logarithms stand under one."),
            (math.sqrt(log_M + L) / (2 * n), "2n is outside the root."),
            (math.sqrt(log_M + L / (2 * n)), "2n divides only one of the two logarithms."),
            (n * want, "n multiplies: a / 2 * n is (a / 2) * n."),
            (math.sqrt(abs(log_M - L) / (2 * n)), "a smaller δ must cost more: ln δ is negative."),
        ]
        if want > 1:
            mistakes.append((1.0, "it is cut off at 1: the contract says that it may be larger."))
        if log_M > 1:
            mistakes.append((math.sqrt((math.log(log_M) + L) / (2 * n)), "log_M is a logarithm already."))
        compare(answer(n, delta, log_M), want, mistakes, f"n = {n}, δ = {delta}, log_M = {log_M}", rtol=1e-6)


def _kl(q: float, p: float) -> float:
    return float(rel_entr(q, p) + rel_entr(1 - q, 1 - p))


def _upper(q: float, c: float) -> float:
    """The largest p with kl(q, p) <= c."""
    if q == 0:
        return -math.expm1(-c)
    if q == 1 or c == 0 or _kl(q, 1 - 1e-16) <= c:
        return q if c == 0 else 1.0
    return float(brentq(lambda p: _kl(q, p) - c, q, 1 - 1e-16, xtol=1e-15))


def _swapped(q: float, c: float) -> float:
    """The largest p with kl(p, q) <= c."""
    if q in (0, 1) or _kl(1, q) <= c:
        return 0.0 if q == 0 else 1.0
    return float(brentq(lambda p: _kl(p, q) - c, q, 1, xtol=1e-15))


@check(5, minutes=15, praise="the largest risk that the sample still allows. Next: how far is it from the square root?")
def kl_inverse(answer: Callable[..., float]) -> None:
    """The oracle is Brent's method on scipy's relative entropy, and 1 - exp(-c) at q = 0."""
    cases = [(0.1, 0.05), (0.3, 0.4), (0.02, 0.3), (0.5, 0.01), (0.0, 0.05), (0.1, 0.0), (0.3, 1000.0), (1.0, 0.1)]
    for q, c in [*cases, (0.0, 1e-6), (1e-9, 0.01), (0.25, 1e-7)]:
        want, where = _upper(q, c), f"q = {q}, c = {c}"
        got, pinsker = answer(q, c), q + math.sqrt(c / 2)
        number, inside = _number(got), q + 1e-9 < want < 1 - 1e-9
        ends = [
            (inside and q == 0 and number < 1e-9, "it ends at q = 0: there 0 ln 0 is 0, and not NaN."),
            (inside and abs(number - q) < 1e-9, "it ends at q: which half of the interval has the crossing?"),
            (inside and abs(number - 1) < 1e-9, "it ends at 1: which half of the interval has the crossing?"),
        ]
        mistakes = [
            *((got, hint) for so, hint in ends if so),
            (_swapped(q, c), "the arguments are swapped: q, the training error, comes first."),
            (pinsker, "that is Pinsker's q + √(c/2): right as a bound, but not the sharp one."),
            (min(1.0, pinsker), "that is Pinsker's q + √(c/2): right as a bound, but not the sharp one."),
            (_upper(q, c * math.log(2)), "the kl is in bits: use natural logarithms."),
            (_kl(q, min(c, 1.0)), "that is kl(q‖c) itself: solve kl(q‖p) = c for p."),
        ]
        if number < q - 1e-9:
            mistakes.append((number, "it is below q: kl grows on both sides of q, and a bound is above."))
        mistakes.append((want - q, "that is how far p lies above q: the contract says p."))
        # first roughly: whoever halves too seldom has the right idea
        compare(got, want, mistakes, where, rtol=2e-3 / want)
        if abs(number - want) > 1e-8:
            raise Wrong(
                f"near, but not to within 1e-8 ({where}): each halving of the interval gains one bit, in float64."
            )


def _number(got: object) -> float:
    """A number as a float, NaN for anything else."""
    try:
        return float(got)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return math.nan


@check(6, minutes=10, praise="the information in a cloud, in nats. Next: which weights may be noisy for nothing?")
def gaussian_kl(answer: Callable[..., float]) -> None:
    """The oracle is torch.distributions."""
    rng = _seed(61)
    for name, rows in samples(7, 3, rng):
        w, w_0, s = rows[:, 0], rows[:, 1] / 2, 0.2 + rows[:, 2].abs()
        for lam in (0.3, 2.5):
            Q = torch.distributions.Normal(w.double(), s.double())
            P = torch.distributions.Normal(w_0.double(), math.sqrt(lam))
            R = torch.distributions.Normal(w_0.double(), lam)
            want = torch.distributions.kl_divergence(Q, P).sum()
            far, ratio, d = ((w - w_0).double() ** 2).sum(), s.double() ** 2 / lam, len(w)
            log_ratio, wide = ratio.log().sum(), s.double() / lam
            mistakes = [
                (torch.distributions.kl_divergence(P, Q).sum(), "that is KL(P‖Q): Q, the trained cloud, comes first."),
                (want + d / 2, "the -1 is missing: a weight with s² = λ and w = w₀ costs nothing."),
                (2 * want, "twice too large: the sum is halved."),
                ((far / lam + (wide - 1 - wide.log()).sum()) / 2, "s is taken for a variance: it is to be squared."),
                (torch.distributions.kl_divergence(Q, R).sum(), "λ is taken for a standard deviation."),
                (want + log_ratio, "the sign of the logarithm is turned round."),
                (want + log_ratio / 4, "s is not squared in the logarithm."),
                ((far + (ratio - 1 - ratio.log()).sum()) / 2, "the distance w - w₀ is not in units of λ."),
                ((w.double().square().sum() - far) / (2 * lam) + want, "w₀ is not in it: the prior is around w₀."),
                (want / d, "a mean over the weights: independent weights add up."),
                (want + (d - 1) / 2, "the -1 stands in the sum, once for each weight."),
                (want + d / 2 - 1, "the -1 stands in the sum, once for each weight."),
                (want + log_ratio / 2, "the logarithm is missing."),
                (want - d * math.log(lam) / 2, "λ is missing in the logarithm."),
                (want + s.double().log().sum() / 2, "s is not squared in the logarithm."),
                (want + log_ratio * (1 - 1 / math.log(2)) / 2, "a logarithm to base 2: all of them are natural."),
                (want + log_ratio * (1 - 1 / math.log(10)) / 2, "a logarithm to base 10: all of them are natural."),
                (want / math.log(2), "that is in bits: nats have natural logarithms."),
                (want + (ratio * lam - ratio).sum() / 2, "s² is not divided by λ."),
                (-want, "a divergence is never below 0: turn the sign round."),
            ]
            tolerance = 1e-4 if w.dtype == torch.float32 else 1e-6
            compare(answer(w, s, w_0, lam), want, mistakes, f"{name}, λ = {lam}", tolerance)


@check(7, minutes=5, praise="it holds for the cloud that you trained, too. Next: is it below the error of a coin?")
def pac_bayes(answer: Callable[..., float]) -> None:
    """The oracle inverts the small kl by Brent's method."""
    for gibbs_error, KL, n, delta in (
        (0.04, 55.0, 200, 0.05), (0.0, 3.0, 50, 0.1), (0.035, 530.0, 1500, 0.025), (0.2, 0.0, 1000, 0.01),
        (0.5, 1e6, 100, 0.05),
    ):  # fmt: skip
        price = math.log(2 * math.sqrt(n) / delta)
        c = (KL + price) / n
        mistakes = [
            (_upper(gibbs_error, KL / n), "the price of confidence, ln(2√n/δ), is not in it."),
            (_upper(gibbs_error, KL / n + price), "only the KL is divided by n: both terms are."),
            (_upper(gibbs_error, KL + price), "nothing is divided by n."),
            (_upper(gibbs_error, (KL + math.log(1 / delta)) / n), "2√n is missing in the logarithm."),
            (_upper(gibbs_error, (KL + math.log(2 * n / delta)) / n), "n has lost its root in the logarithm."),
            (_upper(gibbs_error, (KL + math.log(math.sqrt(n) / delta)) / n), "a 2 is missing in the logarithm."),
            (_upper(gibbs_error, max(0.0, (KL + price + 2 * math.log(delta)) / n)), "a smaller δ must cost more."),
            (_upper(gibbs_error, c / 2), "c is too small by a factor 2: that one belongs to the square root."),
            (gibbs_error + math.sqrt(c / 2), "that is the square root of Hoeffding and Pinsker: use your kl_inverse."),
            (_upper(0.0, c), "the training error is not in it."),
            (gibbs_error + _upper(0.0, c), "the training error is an argument of the inverse, not added to it."),
            (c, "that is c: the risk is not yet solved for."),
            (gibbs_error + c, "that is c added to the training error: use your kl_inverse."),
        ]
        for price_of, hint in (
            (math.log(2 * math.sqrt(n)), "δ is not in it."),
            (math.log2(2 * math.sqrt(n) / delta), "a logarithm to base 2: all of them are natural."),
            (math.log10(2 * math.sqrt(n) / delta), "a logarithm to base 10: all of them are natural."),
            (math.log(math.sqrt(2 * n) / delta), "the 2 stands before the root, not under it."),
            (math.log(2 * math.sqrt(n / delta)), "δ does not stand under the root."),
            (price - KL, "the KL is not in it."),
        ):
            mistakes.append((_upper(gibbs_error, (KL + price_of) / n), hint))
        if c <= 1:
            mistakes.append((_upper(c, gibbs_error), "the arguments of the inverse are swapped."))
        where = f"R_S(Q) = {gibbs_error}, KL = {KL:g}, n = {n}, δ = {delta}"
        got, want = answer(gibbs_error, KL, n, delta), _upper(gibbs_error, c)
        own = _used_by(answer).get("kl_inverse")
        if callable(own) and not (math.isclose(_number(got), want, rel_tol=1e-6) or _gives(own, gibbs_error, c, want)):
            raise Wrong("it rests on your kl_inverse, which is not right yet: first mend exercise 5.")
        compare(got, want, mistakes, where, rtol=1e-6)


def _used_by(answer: Callable[..., object]) -> Mapping[str, object]:
    """The student's own functions, and all other global names, that an answer uses."""
    student = inspect.getclosurevars(answer).nonlocals.get("answer", answer)  # a check is given a wrapper
    return inspect.getclosurevars(student).globals if inspect.isfunction(student) else {}


def _gives(inverse: Callable[..., object], q: float, c: float, want: float) -> bool:
    try:
        return math.isclose(_number(inverse(q, c)), want, rel_tol=1e-6)
    except Exception:  # whatever a student's function may raise
        return False


@check(8, minutes=20, praise="they sum to R(h). Next: which of them shrinks as n grows?")
def risk_terms(answer: Callable[..., object]) -> None:
    """The oracle fits by numpy's lstsq and takes every mean in a loop; mistakes are differences of other risks."""
    rng = _seed(81)
    tall = torch.randn(9, 4, generator=rng, dtype=torch.float64)
    repeated = torch.randn(5, 8, generator=rng, dtype=torch.float64)[[0, 1, 2, 3, 4, 0]]
    for name, X in [*samples(6, 11, rng), ("more samples than features", tall), ("a repeated sample", repeated)]:
        n, p = X.shape
        eps, theta, Lambda = (torch.randn(k, generator=rng, dtype=torch.float64) for k in (n, p, p))
        eps, theta, Lambda, sigma2 = (1.3 * eps).to(X), theta.to(X), (0.1 + Lambda.abs()).to(X), 1.69
        A, noise, truth, variances = (part.double().numpy() for part in (X, eps, theta, Lambda))
        signal = A @ truth

        def fit(target: np.ndarray, A: np.ndarray = A) -> np.ndarray:
            return np.linalg.lstsq(A, target, rcond=1e-6)[0]

        def risk(
            beta: np.ndarray, weights: np.ndarray = variances, sigma2: float = sigma2, truth: np.ndarray = truth
        ) -> float:
            return sigma2 + sum(v * (b - t) ** 2 for v, b, t in zip(weights, beta, truth, strict=True))

        def on(beta: np.ndarray, labels: np.ndarray, A: np.ndarray = A) -> float:
            return sum((row @ beta - label) ** 2 for row, label in zip(A, labels, strict=True)) / len(A)

        def terms(R_h: float, RS_h: float, R_s: float, RS_s: float) -> np.ndarray:
            return np.array([RS_h, R_h - R_s, R_s - RS_s, RS_s - RS_h])

        y = signal + noise
        h, s = fit(y), fit(signal)
        want = terms(risk(h), on(h, y), risk(s), on(s, y))
        of_h = (risk(h), on(h, y))
        clean = "R_S compares with the labels of the sample, and those are noisy, for s too."
        over = "R is a sum over the features, not a mean."
        ones, flat = np.ones(p), "a risk weighs each feature's error by its variance, once."
        mistakes = [
            (terms(*of_h, *of_h), "s is h: the surrogate is fitted to labels without noise."),
            (terms(*of_h, risk(s), on(s, signal)), clean),
            (terms(risk(h), on(h, signal), risk(s), on(s, signal)), clean),
            (terms(risk(h, sigma2=0), on(h, y), risk(s, sigma2=0), on(s, y)), "σ² is not in R: a new label is noisy."),
            (terms(risk(h), n * on(h, y), risk(s), n * on(s, y)), "R_S is a sum over the samples: take the mean."),
            (terms(risk(h, ones), on(h, y), risk(s, ones), on(s, y)), flat),
            (terms(risk(h, variances**2), on(h, y), risk(s, variances**2), on(s, y)), flat),
            (terms(risk(h, variances**0.5), on(h, y), risk(s, variances**0.5), on(s, y)), flat),
            (
                terms(*of_h, risk(truth), on(truth, y)),
                "s is θ* itself: the surrogate is the fit to labels without noise.",
            ),
            (terms(risk(fit(noise)), on(fit(noise), y), risk(s), on(s, y)), "h is fitted to the noise alone."),
            (terms(risk(s), on(s, y), *of_h), "h and s are swapped."),
            (terms(risk(h, sigma2=sigma2**2), on(h, y), risk(s, sigma2=sigma2**2), on(s, y)), "sigma2 is σ² already."),
            (terms(risk(h, sigma2=sigma2**0.5), on(h, y), risk(s, sigma2=sigma2**0.5), on(s, y)), "sigma2 is σ²."),
            (terms(risk(h, variances / p), on(h, y), risk(s, variances / p), on(s, y)), over),
            ([0.0, *want[1:3], on(s, y)], "R_S(h) is 0 only where h interpolates: n may exceed p."),
            ([*want[:3], on(s, y)], "R_S(h) is 0 only where h interpolates: n may exceed p."),
            ([want[0], want[1], risk(h) - on(h, y), want[3]], "the gap is that of s, not of h."),
            (want * [1, 1, 1, -1], "the price has the wrong sign: the four terms must sum to R(h)."),
            (want * [1, 1, -1, 1], "the gap has the wrong sign: the four terms must sum to R(h)."),
            (want * [1, -1, 1, 1], "the excess has the wrong sign: the four terms must sum to R(h)."),
            ([on(h, y), risk(h), risk(s), on(s, y)], "these are risks: three of the terms are differences of them."),
        ]
        compare(answer(X, eps, theta, Lambda, sigma2), want, mistakes, name, 1e-3 if X.dtype == torch.float32 else 1e-6)
