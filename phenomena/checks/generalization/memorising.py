"""Checks of the generalization lab: random labels, memorised, and n units that fit any targets."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
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
