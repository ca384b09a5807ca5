"""Right answers, written differently from the solution, and typical wrong ones with the hint each must get."""

import math
from functools import partial

import numpy as np
import torch
from scipy import stats
from torch.nn import functional as F  # noqa: N812

from phenomena import attacks, smoothing

# 1


def one_step(
    model, X, y, eps, *, direction=torch.sign, loss=F.cross_entropy, finish=lambda X, step: (X + step).clamp(0, 1)
):
    """FGSM by torch.func, with parts that may go wrong; direction takes the gradient."""
    g = torch.func.grad(lambda Z: loss(model(Z), y))(X).detach()
    return finish(X, eps * direction(g))


def by_backward(model, X, y, eps, *, clear=True):
    """The usual way; it fills the `.grad` of the weights."""
    Z = X.clone().requires_grad_()
    F.cross_entropy(model(Z), y).backward()
    if clear:
        model.zero_grad()
    return (X + eps * Z.grad.sign()).clamp(0, 1)


def without_asking(model, X, y, eps):
    F.cross_entropy(model(X), y).backward()
    return (X + eps * X.grad.sign()).clamp(0, 1)


def by_the_weights(model, X, y, eps):
    (g,) = torch.autograd.grad(F.cross_entropy(model(X), y), next(model.parameters()))
    return (X + eps * g.sign()).clamp(0, 1)


def with_a_step_of_the_model(model, X, y, eps):
    with torch.no_grad():
        for w in model.parameters():
            w += 0.01
    return one_step(model, X, y, eps)


def flat(g):
    return g.flatten(1)


def like(lengths, g):
    return lengths.view(-1, *[1] * (g.dim() - 1))


def round_step(g):
    return g / like(flat(g).norm(dim=1), g)


def steepest_pixel(g):
    return g / like(flat(g).abs().amax(1), g)


def at_labels(labels_of, sign=1):
    def answer(model, X, y, eps):
        return one_step(model, X, labels_of(model(X).detach()), sign * eps)

    return answer


# 2


def ball(delta, eps, *, length=lambda d: flat(d).norm(dim=1), shrink=lambda d, r, eps: d * (eps / r).clamp(max=1)):
    """The projection with parts that may go wrong."""
    return shrink(delta, like(length(delta), delta), eps)


def one_at_a_time(delta, eps):
    found = delta.clone(memory_format=torch.contiguous_format)
    for x in found:
        if x.norm() > eps:
            x *= eps / x.norm()
    return found


def with_shrink(shrink):
    return partial(ball, shrink=shrink)


def with_length(length):
    return partial(ball, length=length)


def along(dim):
    return lambda delta, eps: delta * (eps / delta.norm(dim=dim, keepdim=True).clamp_min(1e-30)).clamp(max=1)


def outside(change):
    return with_shrink(lambda d, r, eps: torch.where(r > eps, change(d, r, eps), d))


# 3


def ascent(loss, X, steepest, project, a, steps, *, how="", extra=0, trace=lambda heights: heights):
    """PGD by its perturbation, with parts that may go wrong."""
    delta, heights = torch.zeros_like(X), []
    for _ in range(steps + extra):
        at = (X if how == "frozen" else X + delta).detach().requires_grad_()
        (g,) = torch.autograd.grad(loss(at).sum(), at)
        heights.append(loss(X + delta).detach().mean())
        step = a * (g if how == "raw" else steepest(g))
        old, delta = delta, delta + (-step if how == "down" else step)
        if how == "forgets":
            delta = step
        if how == "clip first":
            delta = project((X + delta).clamp(0, 1) - X)
            continue
        if how == "zero":
            delta = project(X + delta) - X
        elif how == "moves":
            delta = old + project(delta - old)
        elif how not in ("free", "late"):
            delta = project(delta)
        if how != "unclipped":
            delta = (X + delta).clamp(0, 1) - X
    if how == "late":
        delta = (X + project(delta)).clamp(0, 1) - X
    heights.append(loss(X + delta).detach().mean())
    return (X + delta).detach(), trace(torch.stack(heights))


def wrong_ascent(how):
    return partial(ascent, how=how)


def recursive(loss, X, steepest, project, a, steps):
    """One step, and the rest from there."""

    def go(Z, left):
        height = loss(Z).detach().mean()[None]
        if not left:
            return Z, height
        g = torch.func.grad(lambda Z: loss(Z).sum())(Z).detach()
        end, trace = go((X + project(Z + a * steepest(g) - X)).clamp(0, 1), left - 1)
        return end, torch.cat([height, trace])

    return go(X, steps)


def with_backward(loss, X, steepest, project, a, steps):
    Z = X.clone().requires_grad_()
    loss(Z).sum().backward()
    return ascent(loss, X, steepest, project, a, steps)


def without_a_leaf(loss, X, steepest, project, a, steps):
    loss(X).sum()
    return X + project(a * steepest(X.grad.clone()))


def spoiled(change):
    """Right, then changed."""
    return lambda *given: change(given[1], *ascent(*given))


def from_a_random_point(loss, X, steepest, project, a, steps):
    start = (X + project(0.1 * torch.randn_like(X))).clamp(0, 1)
    return ascent(loss, start, steepest, project, a, steps)


# 4


def under_attack(model, X, y, eps, done, ramp, attack, *, budget=None, mean=F.cross_entropy):
    """The loss with parts that may go wrong."""
    part = 1.0 if ramp == 0 else min(1.0, done / ramp)
    Z = attack(model, X, y, part * eps if budget is None else budget(eps, done, ramp))
    return mean(model(Z), y)


def by_log_softmax(model, X, y, eps, done, ramp, attack):
    budget = eps * float(np.interp(done, [0, ramp], [0, 1])) if ramp else eps
    log_p = model(attack(model, X, y, budget)).log_softmax(1)
    return -log_p[range(len(y)), y].sum() / len(y)


def with_budget(budget):
    return partial(under_attack, budget=budget)


def half_clean(model, X, y, *rest):
    return (under_attack(model, X, y, *rest) + F.cross_entropy(model(X), y)) / 2


def added_to_the_images(model, X, y, eps, done, ramp, attack):
    return F.cross_entropy(model(X + attack(model, X, y, eps * min(1.0, done / ramp))), y)


def at_predictions(model, X, y, eps, done, ramp, attack):
    Z = attack(model, X, model(X).argmax(1), eps * min(1.0, done / ramp))
    return F.cross_entropy(model(Z), y)


def halved_gradient(model, X, y, *rest):
    """The right number, but half of its gradient."""
    loss = under_attack(model, X, y, *rest)
    return loss / 2 + loss.detach() / 2


# 5


def promise(
    first, second, sigma, alpha, *, choose=lambda a, b: a.argmax(), counts=lambda a, b: b,
    bound=lambda k, n, alpha: stats.beta.ppf(alpha, k, n - k + 1), radius=lambda s, p, *_: s * stats.norm.ppf(p),
    half=0.5, abstained=(-1, 0.0), swapped=False,
):  # fmt: skip
    """The certificate with parts that may go wrong."""
    label = int(choose(first, second))
    votes = counts(first, second).tolist()
    k, n = votes.pop(label), int(counts(first, second).sum())
    p = bound(k, n, alpha) if k else 0.0
    if half is not None and not p > half:
        return abstained(label) if callable(abstained) else abstained
    R = float(radius(sigma, p, max(votes), n, alpha))
    return (R, label) if swapped else (label, R)


def by_the_package(first, second, sigma, alpha):
    label = first.argmax()
    found = smoothing.certificates(label[None], second[label][None], int(second.sum()), sigma, alpha)
    return found.label[0], found.radius[0]


def by_the_binomial_test(first, second, sigma, alpha):
    label = int(first.argmax())
    k, n = int(second[label]), int(second.sum())
    test = stats.binomtest(k, n, alternative="greater")
    p = test.proportion_ci(confidence_level=1 - alpha, method="exact").low
    return [label, sigma * stats.norm.isf(1 - p)] if p > 0.5 else [-1, 0]


def with_radius(radius):
    return partial(promise, radius=radius)


def clopper(k, n, alpha):
    return stats.beta.ppf(alpha, k, n - k + 1) if k else 0.0


def top_two(bound):
    """As if there were no other votes."""

    def answer(first, second, sigma, alpha):
        rivals = second.clone()
        rivals[first.argmax()] = -1
        others = [c for c in range(len(second)) if c not in (int(first.argmax()), int(rivals.argmax()))]
        return promise(first, second.index_fill(0, torch.tensor(others), 0), sigma, alpha, bound=bound, half=None)

    return answer


def of_all_draws(first, second, sigma, alpha):
    return promise(first, second, sigma, alpha, bound=lambda k, n, a: clopper(k, n + int(first.sum()), a))


def nan_is_not_below(first, second, sigma, alpha):
    label = int(first.argmax())
    k, n = int(second[label]), int(second.sum())
    p = stats.beta.ppf(alpha, k, n - k + 1)
    return (-1, 0.0) if p < 0.5 else (label, sigma * stats.norm.ppf(p))


def wald(k, n, alpha):
    return k / n - stats.norm.isf(alpha) * (k / n * (1 - k / n) / n) ** 0.5


def beta_of(more, less, level=lambda alpha: alpha):
    return lambda k, n, alpha: stats.beta.ppf(level(alpha), k + more, max(n - k + less, 1e-9))


def two_bounds(rival_bound):
    def radius(sigma, p, rival, n, alpha):
        return sigma / 2 * (stats.norm.ppf(p) - stats.norm.ppf(max(rival_bound(rival, n, alpha), 1e-300)))

    return with_radius(radius)


# 6


def series(Z, n, *, weight=lambda r: 1 / r, inside=lambda r2, c2: r2 <= c2, wave=torch.sin, first=1, place=None):
    """The sum by einsum, with parts that may go wrong."""
    c = len(Z)
    i = torch.arange(1, c + 1, dtype=Z.dtype)
    r2 = i[:, None] ** 2 + i**2
    C = Z * weight(r2.sqrt()) * inside(r2, c**2)
    u = torch.linspace(0, 1, n, dtype=Z.dtype) if place is None else place(torch.arange(n, dtype=Z.dtype), n)
    waves = wave(math.pi * torch.outer(i - 1 + first, u))
    return torch.einsum("ij,ik,jl->kl", C, waves, waves)


def mode_by_mode(Z, n):
    u = (torch.arange(n) / (n - 1)).to(Z)
    total = torch.zeros(n, n, dtype=Z.dtype)
    for i in range(1, len(Z) + 1):
        for j in range(1, len(Z) + 1):
            if math.hypot(i, j) <= len(Z) + 1e-9:
                wave = torch.outer(torch.sin(i * math.pi * u), torch.sin(j * math.pi * u))
                total += Z[i - 1, j - 1] / math.hypot(i, j) * wave
    return total


def with_series(**change):
    return partial(series, **change)


RIGHT = {
    "fgsm": [one_step, by_backward, attacks.fgsm],
    "project": [
        lambda delta, eps: attacks.project(delta, eps, "l2"),
        one_at_a_time,
        lambda delta, eps: flat(delta).renorm(2, 0, eps).view_as(delta),
    ],
    "pgd": [ascent, recursive],
    "adversarial_loss": [under_attack, by_log_softmax],
    "certificate": [promise, by_the_package, by_the_binomial_test],
    "displacement": [series, mode_by_mode],
}

WRONG = {
    "fgsm": [
        (lambda model, X, y, eps: one_step(model, X, y, -eps), "against the gradient"),
        (partial(one_step, finish=torch.add), "leave [0, 1]"),
        (partial(one_step, finish=lambda X, step: (X + step).clamp(-1, 1)), "leave [0, 1]"),
        (partial(one_step, finish=lambda X, step: X + step.clamp(0, 1)), "not the image"),
        (partial(one_step, loss=lambda f, y: F.cross_entropy(f.softmax(1), y)), "a softmax too many"),
        (partial(one_step, direction=lambda g: g * len(g)), "sign is missing"),
        (partial(one_step, direction=round_step), "the whole step has length"),
        (partial(one_step, direction=steepest_pixel), "only the steepest pixel"),
        (lambda model, X, y, eps: one_step(model, X, y, 1.0), "by 1"),
        (partial(one_step, direction=lambda g: torch.where(g > 0, 1.0, -1.0).to(g)), "sign(0) is 0"),
        (partial(one_step, finish=lambda X, step: step), "the step alone"),
        (partial(one_step, loss=lambda f, y: -f.gather(1, y[:, None]).sum()), "the output of y alone"),
        (at_labels(lambda f: f.argmax(1)), "at the predicted label"),
        (at_labels(lambda f: f.argmin(1), -1), "least likely label"),
        (partial(by_backward, clear=False), "leaves gradients"),
        (without_asking, "no gradient by the input"),
        (by_the_weights, "Error"),
        (with_a_step_of_the_model, "weights of the model have changed"),
        (lambda *given: one_step(*given).requires_grad_(), "requires a gradient"),
        (lambda *given: one_step(*given).double(), "dtype"),
        (lambda *given: one_step(*given).flatten(1), "shape"),
        (lambda model, X, y, eps: X.add_(one_step(model, X, y, eps) - X), "in place"),
        (lambda model, X, y, eps: one_step(model, X, y, eps / 2), "off by"),
    ],
    "project": [
        (with_length(lambda d: d.norm().expand(len(d))), "one length for the whole batch"),
        (with_length(lambda d: flat(d).norm(dim=1).amax().expand(len(d))), "one factor for the whole batch"),
        (with_shrink(lambda d, r, eps: d * eps / r.clamp_min(1e-30)), "moved out to its surface"),
        (with_length(lambda d: flat(d).square().sum(1)), "squared length"),
        (lambda delta, eps: delta.clamp(-eps, eps), "a cube"),
        (with_length(lambda d: flat(d).square().mean(1).sqrt()), "mean of squares"),
        (with_length(lambda d: flat(d).abs().sum(1)), "sum of |entries|"),
        (with_length(lambda d: flat(d).abs().amax(1)), "the largest entry"),
        (along(1), "along axis 1"),
        (along(-1), "along the last axis"),
        (outside(lambda d, r, eps: d / r.clamp_min(1e-30)), "at length 1"),
        (outside(lambda d, r, eps: 0 * d), "are dropped"),
        (with_shrink(lambda d, r, eps: d * torch.minimum(torch.ones_like(r), eps / r) * (r / r)), "NaN for a sample"),
        (lambda delta, eps: attacks.project(delta, eps, "l2").flatten(1), "shape"),
        (lambda delta, eps: delta.mul_(0.5), "in place"),
        (lambda delta, eps: attacks.project(delta, eps, "l2").double(), "dtype"),
    ],
    "pgd": [
        *((wrong_ascent(how), hint) for how, hint in (
            ("down", "the attack climbs"), ("raw", "`steepest` is not used"), ("free", "never projected"),
            ("late", "once, after the last step"), ("zero", "the ball lies around 0"), ("moves", "moves along"),
            ("frozen", "takes the gradient at X"), ("forgets", "starts at X again"), ("unclipped", "leave [0, 1]"),
            ("clip first", "first project, then clip"),
        )),
        (partial(ascent, extra=1), "a step too many"),
        (partial(ascent, extra=-1), "a step too few"),
        (lambda *given: ascent(*given[:-1], 1), "one step alone"),
        (from_a_random_point, "a second call"),
        (lambda *given: ascent(*given)[0], "the contract says two tensors"),
        (lambda *given: ascent(*given)[::-1], "swapped"),
        (spoiled(lambda X, end, trace: (end - X, trace)), "the perturbation alone"),
        (spoiled(lambda X, end, trace: (end, len(X) * trace)), "a sum over the inputs"),
        (spoiled(lambda X, end, trace: (end.requires_grad_(), trace)), "requires a gradient"),
        (partial(ascent, trace=lambda heights: heights.roll(-1)), "lacks its start"),
        (partial(ascent, trace=lambda heights: heights[1:]), "shape"),
        (partial(ascent, trace=lambda heights: heights.tolist()), "list"),
        (with_backward, "leaves gradients"),
        (without_a_leaf, "no gradient by the input"),
    ],
    "adversarial_loss": [
        (with_budget(lambda eps, done, ramp: 0.0), "on the clean inputs"),
        (with_budget(lambda eps, done, ramp: eps), "from the start"),
        (with_budget(lambda eps, done, ramp: eps * done), "at the very end"),
        (with_budget(lambda eps, done, ramp: eps * ramp), "does not depend on how much is done"),
        (with_budget(lambda eps, done, ramp: eps * ramp * done), "multiplied by the ramp"),
        (with_budget(lambda eps, done, ramp: eps * (1 - done / ramp)), "the budget shrinks"),
        (with_budget(lambda eps, done, ramp: eps * done / ramp), "goes on growing"),
        (with_budget(lambda eps, done, ramp: eps * min(1.0, done / ramp)), "a ramp of 0"),
        (with_budget(lambda eps, done, ramp: eps * min(1.0, done / ramp) if ramp else 0.0), "no attack at a ramp of 0"),
        (added_to_the_images, "not perturbations"),
        (half_clean, "half of it is the clean loss"),
        (partial(under_attack, mean=partial(F.cross_entropy, reduction="sum")), "it is a mean"),
        (partial(under_attack, mean=partial(F.cross_entropy, reduction="none")), "shape"),
        (at_predictions, "gets the predicted labels"),
        (lambda *given: -under_attack(*given), "the sign is turned"),
        (lambda *given: under_attack(*given).item(), "carries no gradient"),
        (lambda *given: under_attack(*given).detach(), "carries no gradient"),
        (halved_gradient, "0.5 times the right one (the derivatives"),
        (lambda *given: 1.5 * under_attack(*given), "off by"),
        (lambda model, X, y, *rest: model.missing, "AttributeError"),
    ],
    "certificate": [
        (partial(promise, bound=lambda k, n, alpha: clopper(k, n, alpha / 2)), "half of α"),
        (partial(promise, bound=lambda k, n, alpha: k / n), "where is the bound"),
        (partial(promise, counts=lambda a, b: a), "they favour it"),
        (partial(promise, counts=lambda a, b: a + b), "are counted too"),
        (partial(promise, choose=lambda a, b: b.argmax()), "the same draws"),
        (partial(promise, choose=lambda a, b: (a + b).argmax()), "the same draws"),
        (partial(promise, bound=beta_of(1, 0, lambda alpha: 1 - alpha)), "from above"),
        (partial(promise, bound=beta_of(0, 1, lambda alpha: 1 - alpha)), "from above"),
        (of_all_draws, "n counts all draws"),
        (partial(promise, bound=beta_of(1, 0)), "one vote too many"),
        (partial(promise, bound=beta_of(0, 0)), "one vote too few"),
        (partial(promise, bound=wald), "a normal approximation"),
        (partial(promise, bound=lambda k, n, alpha: k / n - (math.log(1 / alpha) / 2 / n) ** 0.5), "Hoeffding"),
        (top_two(lambda k, n, alpha: k / n), "the top two alone, and without"),
        (top_two(clopper), "not of the top two alone"),
        (partial(promise, half=None), "abstain, with the radius 0"),
        (partial(promise, abstained=lambda label: (label, 0.0)), "a label without a proof"),
        (with_radius(lambda sigma, p, *_: stats.norm.ppf(p)), "σ is missing"),
        (with_radius(lambda sigma, p, *_: sigma**2 * stats.norm.ppf(p)), "σ² is the variance"),
        (with_radius(lambda sigma, p, *_: sigma / 2 * stats.norm.ppf(p)), "half of it"),
        (with_radius(lambda sigma, p, *_: sigma * p), "no radius"),
        (with_radius(lambda sigma, p, *_: sigma * stats.norm.cdf(p)), "that is Φ"),
        (two_bounds(lambda k, n, alpha: 1 - clopper(n - k, n, alpha)), "two bounds"),
        (two_bounds(lambda k, n, alpha: k / n), "no bound"),
        (partial(promise, swapped=True), "the radius"),
        (partial(promise, bound=lambda k, n, alpha: clopper(k, n, alpha) * 0.999), "off by"),
        (lambda *given: promise(*given)[1], "a label and a radius"),
        (nan_is_not_below, "NaN for a class without a vote"),
        (lambda first, second, sigma, alpha: (int(first.argmax()), float("nan")), "infinite or NaN"),
    ],
    "displacement": [
        (lambda Z, n: series(Z.T, n), "the axes are mixed"),
        (with_series(inside=lambda r2, c2: 1), "the cut is round"),
        (with_series(inside=lambda r2, c2: r2 < c2), "modes on the circle"),
        (with_series(inside=lambda r2, c2: r2.sqrt() < c2**0.5 + 0.5), "a little beyond the cut"),
        (with_series(weight=lambda r: 1), "equally strong"),
        (with_series(weight=lambda r: 1 / r**2), "its standard deviation"),
        (with_series(inside=lambda r2, c2: (r2 <= c2) * torch.eye(len(r2))), "only i = j"),
        (with_series(wave=torch.cos), "cosines"),
        (with_series(wave=lambda x: torch.sin(x / math.pi)), "π is missing"),
        (with_series(wave=lambda x: torch.sin(2 * x)), "2π is one wave"),
        (with_series(first=0), "begin at 0"),
        (with_series(place=lambda k, n: k / n), "pixel k lies at k/n"),
        (with_series(place=lambda k, n: (k + 0.5) / n), "(k + 1/2)/n"),
        (lambda Z, n: (n - 1) * series(Z, n), "in pixels"),
        (lambda Z, n: series(Z.double(), n), "dtype"),
        (lambda Z, n: series(Z, n).flatten(), "shape"),
        (lambda Z, n: -series(Z, n), "every sign"),
    ],
}  # fmt: skip
