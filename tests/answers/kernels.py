"""Right answers, written differently from the solution, and typical wrong ones with the hint each must get."""

import copy
import math
from types import FunctionType

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from phenomena import empirical_ntk as package_ntk
from phenomena import infinite_width, kernel_regression

# 1


def arcs(c, *, clamp=True, root=lambda c: (1 - c * c).sqrt()):
    """κ0 and κ1 by the angle itself."""
    c = c.clamp(-1, 1) if clamp else c
    k0 = 1 - c.acos() / math.pi
    return k0, c * k0 + root(c) / math.pi


def first(change):
    """Right but for κ0."""
    return lambda c: (change(arcs(c)[0], c), arcs(c)[1])


def second(change):
    """Right but for κ1."""
    return lambda c: (arcs(c)[0], change(arcs(c)[1], c.clamp(-1, 1)))


def clamped_in_place(c):
    return arcs(c.clamp_(-1, 1))


def by_atan2(c):
    """The angle from half-angle lengths, without an arccos."""
    c = c.clamp(-1, 1)
    theta = 2 * torch.atan2((1 - c).sqrt(), (1 + c).sqrt())
    return [1 - theta / math.pi, (theta.sin() + (math.pi - theta) * theta.cos()) / math.pi]


# 2


def recursion(X, Z, depth, *, step=lambda k0, k1, T, S, old: k0 * T + S, start=1, power=1, tiny=1e-30, kappas=arcs):
    """Θ by a loop, or what another step makes of it."""
    lengths = torch.outer(X.norm(dim=1), Z.norm(dim=1))
    S = X @ Z.mT
    T = start * S
    for _ in range(depth):
        k0, k1 = kappas(S / (lengths + tiny) ** power)
        old, S = S, lengths * k1
        T = step(k0, k1, T, S, old)
    return T


def one_norm(X, Z, depth):
    """The norm of the matrix in place of those of its rows."""
    S = T = X @ Z.mT
    for _ in range(depth):
        k0, k1 = arcs(S / (X.norm() * Z.norm()))
        S = X.norm() * Z.norm() * k1
        T = k0 * T + S
    return T


def halved(X, Z, depth):
    return recursion(X, Z, depth, kappas=lambda c: [k / 2 for k in arcs(c)])


def unit_lengths(X, Z, depth):
    return recursion(F.normalize(X), F.normalize(Z), depth)


def by_rows(X, Z, depth):
    return torch.stack([infinite_width.infinite_width(x[None], Z, depth).ntk[0] for x in X])


def in_a_notebook(answer, **names):
    """An answer among a student's own functions of those names."""
    return FunctionType(answer.__code__, {"torch": torch, "F": F, **names})


def on_my_own_arcs(X, Z, depth):
    lengths = torch.outer(X.norm(dim=1), Z.norm(dim=1))
    S = T = X @ Z.mT
    for _ in range(depth):
        k0, k1 = arc_cosine(S / (lengths + 1e-30))  # noqa: F821
        S = lengths * k1
        T = k0 * T + S
    return T


# 3


def gradients(model, A, of=lambda name: True, *, clear=True):
    """Rows of derivatives by backward, on a copy."""
    model = copy.deepcopy(model)
    rows = []
    for x in A:
        if clear:
            model.zero_grad()
        model(x[None]).sum().backward()
        rows.append(torch.cat([w.grad.flatten() for name, w in model.named_parameters() if of(name)]))
    return torch.stack(rows)


def ntk_of(of):
    return lambda model, X, Z: gradients(model, X, of) @ gradients(model, Z, of).T


def batch_at_once(model, X, Z):
    """The Jacobians of the whole batch, without vmap."""

    def rows(A):
        weights = {name: w.detach() for name, w in model.named_parameters()}
        D = torch.func.jacrev(lambda weights: torch.func.functional_call(model, weights, (A,))[:, 0])(weights)
        return [d.reshape(len(A), -1) for d in D.values()]

    return sum(a @ b.T for a, b in zip(rows(X), rows(Z), strict=True))


def by_inputs(model, X, Z):
    rows = [torch.func.vmap(torch.func.grad(lambda x: model(x[None]).sum()))(A).flatten(1) for A in (X, Z)]
    return (rows[0] @ rows[1].T).detach()


def cosines(model, X, Z):
    return F.normalize(gradients(model, X)) @ F.normalize(gradients(model, Z)).T


def with_a_step(model, X, Z):
    found = gradients(model, X) @ gradients(model, Z).T
    with torch.no_grad():
        for w in model.parameters():
            w *= 0.9
    return found


# 4


def spectral(Theta, Theta_test, y, t, *, left=lambda lam, t: (1 - (-lam * t).exp()) / lam, floor=1e-9):
    """One factor for each eigenvector."""
    lam, V = torch.linalg.eigh(Theta.double())
    factors = left(lam.clamp_min(floor), t)
    return (Theta_test.double() @ V @ torch.diag(factors) @ V.T @ y.double()).to(y)


def by_matrix_exponential(Theta, Theta_test, y, t):
    """The whole linear system, by one exponential."""
    n, m = len(Theta), len(Theta_test)
    system = torch.zeros(n + m, n + m, dtype=torch.float64)
    system[:n, :n], system[n:, :n] = -Theta, -Theta_test
    return -(torch.linalg.matrix_exp(t * system)[n:, :n] @ y.double()).to(y)


def by_the_package(Theta, Theta_test, y, t):
    return kernel_regression.gradient_flow(Theta, y, Theta_test, t)


def with_an_inverse(Theta, Theta_test, y, t, *, exponential=torch.linalg.matrix_exp, inverse=torch.linalg.pinv):
    return Theta_test @ inverse(Theta) @ (y - exponential(-t * Theta) @ y)


# 5


def half_squares(f, f_0, y, alpha):
    return (alpha * f - alpha * f_0 - y).square().sum() / alpha**2 / 2


def scaled(
    model, X, y, alpha, eta, steps, *, loss=half_squares, change=None, fresh=False, extra=0, copied=False, clear=True
):
    """Training by torch's SGD, or what another loss or measure makes of it."""
    before = copy.deepcopy(model)
    if copied:
        model = copy.deepcopy(model)
    sgd = torch.optim.SGD(model.parameters(), lr=eta)
    for _ in range(steps + extra if steps else 0):
        f = model(X)
        f_0 = (model if fresh else before)(X).detach()
        if clear:
            sgd.zero_grad()
        loss(f, f_0, y.reshape(-1, 1), alpha).backward()
        sgd.step()
    return (change or relative)(list(before.parameters()), list(model.parameters()))


def relative(start, end):
    squares = [sum(float((w.detach().double() ** 2).sum()) for w in ws) for ws in (differences(start, end), start)]
    return math.sqrt(squares[0] / squares[1])


def differences(start, end):
    return [b.detach() - a.detach() for a, b in zip(start, end, strict=True)]


def norm(weights):
    return float(nn.utils.parameters_to_vector(weights).detach().double().norm())


def moved(start, end):
    return norm(differences(start, end))


def with_loss(loss):
    return lambda *given: scaled(*given, loss=loss)


def measured(change):
    return lambda *given: scaled(*given, change=change)


# 6

SHIFTS = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]


def by_convolution(A):
    """S as a convolution over rows and then over columns, each with a filter on the diagonal."""
    H, W = A.shape[:2]
    eye = torch.eye(3, dtype=A.dtype)[None, None]
    rows = F.conv2d(A.permute(1, 3, 0, 2).reshape(W * W, 1, H, H), eye, padding=1).reshape(W, W, H, H)
    columns = rows.permute(2, 3, 0, 1).reshape(H * H, 1, W, W)
    return F.conv2d(columns, eye, padding=1).reshape(H, H, W, W).permute(0, 2, 1, 3)


def shifts(of):
    """A sum of chosen shifts (a, b, a', b'), zero outside."""

    def S(A):
        H, W = A.shape[:2]
        P = F.pad(A, (1,) * 8)
        return sum(P[1 + a : 1 + a + H, 1 + b : 1 + b + W, 1 + c : 1 + c + H, 1 + d : 1 + d + W] for a, b, c, d in of)

    return S


def wrapped(A):
    return sum(A.roll((a, b, a, b), (0, 1, 2, 3)) for a, b in SHIFTS)


def layer(
    K, T, v_x, v_z, *, S=by_convolution, S_T=None, power=0.5, ninth=9, ninth_T=9, add="new", swap=False, tiny=1e-30
):  # fmt: skip
    """A layer, with parts that may go wrong."""
    scale = torch.einsum("ij,kl->ijkl", v_x, v_z) ** power
    kappas = arcs(S(K) / (scale + tiny))
    k0, k1 = kappas[::-1] if swap else kappas
    new = scale * k1 / ninth
    return new, k0 / ninth_T * (S_T or S)(T) + {"new": new, "old": K, "none": 0}[add]


def with_layer(**change):
    return lambda *given: layer(*given, **change)


def layer_on_my_own_arcs(K, T, v_x, v_z):
    scale = torch.einsum("ij,kl->ijkl", v_x, v_z) ** 0.5
    k0, k1 = arc_cosine(S(K) / (scale + 1e-30))  # noqa: F821
    return scale * k1 / 9, (k0 * S(T) + scale * k1) / 9  # noqa: F821


def k_from_t(K, T, v_x, v_z):
    return layer(K, K, v_x, v_z)


def after(K, T, v_x, v_z):
    """S at the end of a layer, and so once too often."""
    new, below = layer(K, T, v_x, v_z)
    return by_convolution(new), by_convolution(below)


def only_t_wrong(of):
    return lambda *given: (layer(*given)[0], of(*given))


RIGHT = {
    "arc_cosine": [
        arcs,
        by_atan2,
        lambda c: (infinite_width.kappa0(c), infinite_width.kappa1(c)),
    ],
    "ntk": [recursion, lambda X, Z, depth: infinite_width.infinite_width(X, Z, depth).ntk, by_rows],
    "empirical_ntk": [
        ntk_of(lambda name: True),
        batch_at_once,
        lambda model, X, Z: package_ntk.empirical_ntk(model, X, Z)[:, :, 0, 0],
    ],
    "flow": [spectral, by_matrix_exponential, by_the_package],
    "train_scaled": [
        scaled,
        lambda *given: torch.tensor(scaled(*given)),
        measured(lambda start, end: moved(start, end) / norm(start)),
    ],
    "cntk_layer": [layer, with_layer(S=shifts([(a, b, a, b) for a, b in SHIFTS]))],
}  # fmt: skip

WRONG = {
    "arc_cosine": [
        (lambda c: arcs(c)[::-1], "swapped"),
        (first(lambda k, c: k / 2), "κ0 is half"),
        (first(lambda k, c: 2 * k), "κ0 is twice"),
        (first(lambda k, c: 1 - k), "grows with the angle"),
        (first(lambda k, c: (1 + c) / 2), "straight line in c"),
        (first(lambda k, c: k * math.pi), "still an angle"),
        (first(lambda k, c: 1 - c.clamp(-1, 1).acos().rad2deg() / math.pi), "in degrees"),
        (first(lambda k, c: k**2), "off by"),
        (second(lambda k, c: c * arcs(c)[0]), "lacks the root"),
        (second(lambda k, c: math.pi * k), "too large by π"),
        (second(lambda k, c: k / 2), "κ1 is half"),
        (second(lambda k, c: 2 * k), "κ1 is twice"),
        (second(lambda k, c: c * arcs(c)[0] + (1 - c**2).sqrt()), "not divided by π"),
        (second(lambda k, c: c * arcs(c)[0] + (1 - c**2) / math.pi), "stands a root"),
        (second(lambda k, c: c * arcs(c)[0] - (1 - c**2).sqrt() / math.pi), "wrong sign"),
        (second(lambda k, c: (c * c.acos() + (1 - c**2).sqrt()) / math.pi), "the angle itself"),
        (second(lambda k, c: ((1 - c**2).sqrt() - c * c.acos()) / math.pi), "lacks a term"),
        (lambda c: arcs(c, clamp=False), "rounding leaves cosines"),
        (clamped_in_place, "in place"),
        (lambda c: arcs(c)[0], "the contract says two"),
        (lambda c: torch.stack(arcs(c)), "the contract says two"),
        (lambda c: arcs(c.double()), "dtype"),
        (lambda c: tuple(k.numpy() for k in arcs(c)), "ndarray"),
        (lambda c: tuple(k.flatten() for k in arcs(c)), "shape"),
    ],
    "ntk": [
        (lambda *given: recursion(*given, step=lambda k0, k1, T, S, old: S), "that is Σ"),
        (lambda *given: recursion(*given, step=lambda k0, k1, T, S, old: arcs(k1)[0] * T + S), "layer below"),
        (lambda *given: recursion(*given, step=lambda k0, k1, T, S, old: k0 * T + old), "add the new one"),
        (lambda *given: recursion(*given, step=lambda k0, k1, T, S, old: k0 * T), "nothing is added"),
        (lambda *given: recursion(*given, step=lambda k0, k1, T, S, old: k0 * (T + S)), "the old Θ alone"),
        (lambda *given: recursion(*given, step=lambda k0, k1, T, S, old: T + S), "κ0 is not in it"),
        (lambda *given: recursion(*given, step=lambda k0, k1, T, S, old: k1 * T + S), "multiplied by κ1"),
        (lambda X, Z, depth: recursion(X, Z, depth - 1), "a layer is missing"),
        (lambda X, Z, depth: recursion(X, Z, depth + 1), "a layer too many"),
        (unit_lengths, "grows with both lengths"),
        (one_norm, "a length of its own"),
        (halved, "halved in each layer"),
        (lambda *given: recursion(*given, power=0), "Σ is no correlation"),
        (lambda *given: recursion(*given, power=2), "squared lengths"),
        (lambda *given: recursion(*given, start=0), "Θ starts at 0"),
        (lambda *given: recursion(*given, tiny=0), "length 0"),
        (lambda X, Z, depth: recursion(Z, X, depth), "axes are swapped"),
        (lambda X, Z, depth: recursion(X, X, depth), "shape"),
        (lambda X, Z, depth: recursion(X.double(), Z.double(), depth), "dtype"),
        (lambda *given: 2 * recursion(*given), "2 times"),
        (lambda *given: recursion(*given, kappas=lambda c: arcs(c, clamp=False)), "NaN"),
        (lambda X, Z, depth: recursion(X.div_(X.norm(dim=1, keepdim=True)), Z, depth), "in place"),
        (in_a_notebook(on_my_own_arcs, arc_cosine=lambda c: arcs(c)[::-1]), "first mend exercise 1"),
        (in_a_notebook(on_my_own_arcs, arc_cosine=lambda c: arcs(c, clamp=False)), "first mend exercise 1"),
    ],
    "empirical_ntk": [
        (lambda model, X, Z: ntk_of(lambda name: True)(model, X, X), "where is Z"),
        (ntk_of(lambda name: name.endswith("weight")), "biases"),
        (ntk_of(lambda name: name.startswith(("2.", "3.", "weight"))), "only the last layer"),
        (ntk_of(lambda name: name in ("0.weight", "weight")), "only the first parameter"),
        (by_inputs, "by the inputs"),
        (lambda model, X, Z: gradients(model, X, clear=False) @ gradients(model, Z, clear=False).T, "adds up"),
        (lambda model, X, Z: gradients(model, X) @ gradients(model, Z).T / gradients(model, X).shape[1], "not a mean"),
        (lambda model, *AB: torch.outer(*(gradients(model, A).sum(1) for A in AB)), "product of two sums"),
        (cosines, "a cosine"),
        (lambda model, X, Z: (model(X) @ model(Z).T).detach(), "products of the outputs"),
        (lambda model, X, Z: ntk_of(lambda name: True)(model, Z, X), "the rows belong to Z"),
        (lambda model, X, Z: gradients(model, X).double() @ gradients(model, Z).double().T, "dtype"),
        (lambda model, X, Z: batch_at_once(model, X, Z).requires_grad_(), "requires a gradient"),
        (lambda model, X, Z: package_ntk.empirical_ntk(model, X, Z), "shape"),
        (with_a_step, "have changed"),
        (lambda model, X, Z: ntk_of(lambda name: True)(model, X, Z) + 0.1, "off by"),
    ],
    "flow": [
        (lambda *given: with_an_inverse(*given, exponential=torch.exp), "of each entry"),
        (lambda *given: with_an_inverse(*given, exponential=lambda A: 0 * A), "t → ∞"),
        (lambda K, k, y, t: k @ torch.linalg.pinv(K) @ torch.linalg.matrix_exp(-t * K) @ y, "still to be learned"),
        (lambda *given: with_an_inverse(*given, inverse=lambda K: torch.eye(len(K)).to(K)), "inverse of Θ is missing"),
        (lambda K, k, y, t: y - torch.linalg.matrix_exp(-t * K) @ y, "where is Θ_test"),
        (lambda K, k, y, t: spectral(K, k, y, t / len(K)), "too slow by a factor n"),
        (lambda K, k, y, t: spectral(K, k, y, 2 * t), "too fast by a factor 2"),
        (lambda K, k, y, t: spectral(K, k, y, -t), "grow instead of shrinking"),
        (lambda K, k, y, t: t * k @ y, "one large step"),
        (lambda *given: with_an_inverse(*given, inverse=torch.linalg.inv), "Error"),
        (lambda *given: spectral(*given, floor=0), "an eigenvalue is 0"),
        (lambda *given: spectral(*given, floor=0.3), "off by"),
        (lambda *given: -spectral(*given), "every sign"),
        (lambda *given: spectral(*given).double(), "dtype"),
        (lambda *given: spectral(*given)[:, 0], "shape"),
        (lambda K, k, y, t: (spectral(K, k, y, t), y.mul_(2))[0], "in place"),
    ],
    "train_scaled": [
        (with_loss(lambda f, f_0, y, a: half_squares(f, 0, y, a)), "not subtracted"),
        (with_loss(lambda f, f_0, y, a: half_squares(f, f_0, y, a) * a**2), "not divided by α²"),
        (with_loss(lambda f, f_0, y, a: half_squares(f, f_0, y, a) * a), "divided by α, not"),
        (with_loss(lambda f, f_0, y, a: half_squares(f, f_0, y, a) / len(y)), "the loss is a sum"),
        (with_loss(lambda f, f_0, y, a: half_squares(f, f_0, y, a) * 2), "factor 1/2"),
        (with_loss(lambda f, f_0, y, a: half_squares(f, f_0, y, 1) / a**2), "not multiplied by α"),
        (with_loss(lambda f, f_0, y, a: half_squares(f, f_0, y, 1)), "α cancels"),
        (with_loss(lambda f, f_0, y, a: half_squares(f, f_0 / a, y, a)), "f_0 as well"),
        (lambda *given: scaled(*given, fresh=True), "anew in each step"),
        (with_loss(lambda f, f_0, y, a: half_squares(f, f_0, y[:, 0], a)), "every y"),
        (with_loss(lambda f, f_0, y, a: -half_squares(f, f_0, y, a)), "loss grows"),
        (with_loss(lambda f, f_0, y, a: f.sum() * float("inf")), "no numbers"),
        (lambda *given: scaled(*given, clear=False), "add up"),
        (lambda *given: scaled(*given, extra=1), "one step too many"),
        (lambda *given: scaled(*given, extra=-1), "one step too many"),
        (lambda *given: scaled(*given, copied=True), "not a copy"),
        (lambda m, X, y, a, eta, steps: scaled(m, X, y, a, 1.3 * eta, steps), "off by"),
        (measured(lambda start, end: 0.0), "nothing has moved"),
        (measured(moved), "the change itself"),
        (measured(lambda start, end: moved(start, end) / norm(end)), "after training"),
        (measured(lambda start, end: relative(start, end) ** 2), "has a root"),
        (
            measured(lambda start, end: sum(relative([a], [b]) for a, b in zip(start, end, strict=True)) / len(end)),
            "the mean of one ratio",
        ),
        (
            measured(lambda start, end: sum(relative([a], [b]) for a, b in zip(start, end, strict=True))),
            "the sum of one ratio",
        ),
        (measured(lambda start, end: 100 * relative(start, end)), "in per cent"),
        (measured(lambda start, end: abs(norm(end) - norm(start)) / norm(start)), "the norm of the change"),
        (measured(lambda start, end: None), "return"),
        (measured(differences), "no array"),
    ],
    "cntk_layer": [
        (with_layer(S=lambda A: A), "no sum over shifts"),
        (with_layer(S=wrapped), "wrap around"),
        (with_layer(S=shifts([(*p, *q) for p in SHIFTS for q in SHIFTS])), "81 terms"),
        (with_layer(S=shifts([(*p, 0, 0) for p in SHIFTS])), "only the position in x"),
        (with_layer(S=shifts([(0, 0, *p) for p in SHIFTS])), "only the position in z"),
        (with_layer(S=shifts([(a, b, -a, -b) for a, b in SHIFTS])), "opposite directions"),
        (with_layer(S=shifts([(a, a, b, b) for a, b in SHIFTS])), "axes are mixed"),
        (with_layer(S=lambda A: by_convolution(A) / 9), "a mean of nine"),
        (with_layer(S=shifts([(a, b, a, b) for a, b in SHIFTS if not a * b])), "the corners"),
        (lambda *given: layer(*given)[::-1], "swapped: K comes first"),
        (with_layer(ninth=1), "too large by 9"),
        (with_layer(power=1), "root of the product"),
        (with_layer(power=0.25), "variances already"),
        (with_layer(swap=True), "κ0 and κ1 are swapped"),
        (after, "not after it"),
        (lambda K, T, v_x, v_z: layer(K, T, v_z, v_x), "v_x and v_z are swapped"),
        (with_layer(S_T=lambda A: A), "in T: there is no sum"),
        (with_layer(S_T=wrapped), "in T: the shifts wrap"),
        (with_layer(ninth_T=1), "κ0 is to be divided by 9"),
        (only_t_wrong(lambda *given: layer(*given)[0]), "K twice"),
        (with_layer(add="old"), "is the new one"),
        (with_layer(add="none"), "nothing is added to T"),
        (k_from_t, "T comes from K"),
        (with_layer(tiny=0), "black corner"),
        (only_t_wrong(lambda *given: 1.5 * layer(*given)[1]), "1.5 times"),
        (lambda *given: layer(*given)[0], "two tensors"),
        (lambda *given: [part.flatten(2) for part in layer(*given)], "shape"),
        (lambda *given: [part.double() for part in layer(*given)], "dtype"),
        (in_a_notebook(layer_on_my_own_arcs, arc_cosine=lambda c: arcs(c)[::-1], S=by_convolution), "mend exercise 1"),
    ],
}  # fmt: skip
