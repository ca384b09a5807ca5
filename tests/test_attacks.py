import functools
import math
from pathlib import Path

import foolbox
import numpy as np
import pytest
import torch
from program_fixtures import program
from scipy import optimize
from torch import nn
from torch.nn import functional as F  # noqa: N812

from phenomena.adversarial_training import adversarial_training
from phenomena.attacks import Masked, Truncated, fgsm, look, margin_loss, pgd, project, robust_accuracy, start, steepest
from phenomena.data import Dataset, load
from phenomena.errors import Diverged
from phenomena.small_cnn import small_cnn
from practicum.cards import load_card

pytestmark = pytest.mark.usefixtures("one_thread")
NORMS = ["linf", "l2"]
N = 200


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(d=30, n=40, seed=0, dtype=torch.float64):
    """Two classes, f = (-s, s)/2 with s = wx + b, so the margin f_y - f_other is ±s."""
    generator = seeded(seed)
    w, b = torch.randn(d, generator=generator, dtype=dtype), torch.tensor(0.3, dtype=dtype)
    X = torch.rand(n, d, generator=generator, dtype=dtype)
    y = torch.randint(2, (n,), generator=generator)

    def model(X):
        s = X @ w + b
        return torch.stack([-s, s], 1) / 2

    return model, w, b, X, y


@functools.cache
def trained():
    """The chapter's network after 4 short epochs, and N test images."""
    data = load("mnist5k", 1000, N, seed=7)
    images = data.X_train.view(-1, *data.image_shape)
    model = small_cnn(data.image_shape, 10, seeded(7))
    adversarial_training(model, images, data.y_train, 0.0, 4, seeded(7))
    return model, data.X_test.view(-1, *data.image_shape), data.y_test


def size(delta, norm):
    return torch.linalg.vector_norm(delta.flatten(1), math.inf if norm == "linf" else 2, dim=1)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_the_nearest_point_of_the_ball(norm):
    delta, eps = torch.randn(50, 2, 3, generator=seeded(), dtype=torch.float64), 0.1 + torch.arange(50).double() / 20
    nearest = project(delta, eps, norm)
    assert (size(nearest, norm) <= eps + 1e-12).all()
    inside = size(delta, norm) <= eps
    assert 0 < inside.sum() < 50
    assert torch.equal(nearest[inside], delta[inside])
    for seed in range(20):  # no point of the ball is closer
        other = start(torch.zeros_like(delta), eps, norm, None, seeded(seed))
        assert (size(delta - nearest, "l2") <= size(delta - other, "l2") + 1e-12).all()


def test_projection_takes_one_radius_for_all():
    assert torch.allclose(project(torch.tensor([[3.0, 4.0]]), 1.0, "l2"), torch.tensor([[0.6, 0.8]]))
    assert torch.equal(project(torch.tensor([[3.0, -0.5]]), 1.0, "linf"), torch.tensor([[1.0, -0.5]]))
    assert not project(torch.randn(3, 4), 0.0, "l2").any()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_steepest_direction_attains_the_dual_norm(norm, dual):
    g = torch.randn(20, 7, generator=seeded(), dtype=torch.float64)
    g[3], g[4] = 0.0, g[4] * 1e-200  # no gradient, and one whose squares underflow
    v = steepest(g, norm)
    assert (size(v, norm) <= 1 + 1e-12).all()
    gain = (g * v).sum(1)
    assert torch.allclose(gain[4] * 1e200, torch.linalg.vector_norm(g[4] * 1e200, dual))
    keep = torch.arange(20) != 4
    assert torch.allclose(gain[keep], torch.linalg.vector_norm(g, dual, dim=1)[keep])
    assert not v[3].any()


def test_margin_loss_by_a_loop():
    f, y = torch.randn(30, 5, generator=seeded()), torch.arange(30) % 5
    want = [max(f[i, j] for j in range(5) if j != y[i]) - f[i, y[i]] for i in range(30)]
    assert torch.equal(margin_loss(f, y), torch.stack(want))


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("loss", [None, margin_loss])
def test_attacks_reach_the_exact_optimum_of_a_linear_model(norm, dual, loss):
    model, w, b, X, y = linear()
    eps = torch.linspace(0.01, 0.6, len(X), dtype=torch.float64) * (1 if norm == "l2" else 0.2)
    sign = 2 * y - 1
    worst = sign * (X @ w + b) - eps * torch.linalg.vector_norm(w, dual)  # y (wx + b) - ε ‖w‖_dual
    attack = pgd(model, X, y, eps, norm, generator=seeded(), loss=loss, box=None)
    for Z in (attack.X, fgsm(model, X, y, eps, norm, loss=loss, box=None)):
        assert torch.allclose(sign * (Z @ w + b), worst, atol=1e-9)
    assert torch.equal(attack.success, worst < 0)
    assert 0 < attack.success.sum() < len(X)
    assert robust_accuracy(model, X, y, eps, norm, loss=loss, box=None) == pytest.approx(
        (worst > 0).double().mean().item()
    )


def test_linf_in_the_box_is_exact():
    model, w, _, X, y = linear()
    sign, eps = 2 * y - 1, 0.15
    # the optimum is a pixel's own: against the label as far as the ball or the box allows
    corner = torch.where(sign[:, None] * w > 0, (X - eps).clamp(min=0), (X + eps).clamp(max=1))
    attack = pgd(model, X, y, eps, generator=seeded())
    assert torch.allclose(attack.X, corner, atol=1e-12)
    assert torch.allclose(fgsm(model, X, y, eps), corner, atol=1e-12)


@pytest.mark.parametrize("start_at", ["random", "x"])
def test_l2_in_the_box_approaches_the_exact_optimum(start_at):
    model, w, b, X, y = linear()
    sign, eps = (2 * y - 1).double(), 1.2
    optimum = []
    for x, s in zip(X, sign, strict=True):  # δ = clip(-t s w) with the t at which ‖δ‖ = ε

        def delta(t, x=x, s=s):
            return (x - t * s * w).clamp(0, 1) - x

        t = optimize.brentq(lambda t, delta=delta: delta(t).norm().item() - eps, 0, 1e4)
        optimum.append(s * ((x + delta(t)) @ w + b))
    attack = pgd(model, X, y, eps, "l2", steps=100, generator=seeded() if start_at == "random" else None)
    got, worst, clean = sign * (attack.X @ w + b), torch.stack(optimum), sign * (X @ w + b)
    assert (got >= worst - 1e-9).all()  # never better than the optimum: it stays in ball and box
    assert ((got - worst) / (clean - worst)).max() < 0.002
    clipped = ((attack.X == 0) | (attack.X == 1)).double().mean()
    assert clipped > 0.1  # the box matters here


def test_scipy_agrees_about_the_optimum_in_ball_and_box():
    model, w, b, X, y = linear(d=5, n=3)
    for x, label, Z in zip(X, y, pgd(model, X, y, 0.6, "l2", steps=200).X, strict=True):
        s = 2 * label.item() - 1
        best = optimize.minimize(
            lambda z, s=s: s * (z @ w.numpy() + b.item()), x.numpy(), bounds=[(0, 1)] * 5, method="SLSQP",
            constraints={"type": "ineq", "fun": lambda z, x=x: 0.36 - ((z - x.numpy()) ** 2).sum()},
        )  # fmt: skip
        assert s * (Z @ w + b).item() == pytest.approx(best.fun, abs=2e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_all_of_an_attack_lies_in_ball_and_box(norm):
    model, X, y = trained()
    eps = torch.linspace(0, 0.5, N) * (4 if norm == "l2" else 1)
    for Z in (pgd(model, X, y, eps, norm, steps=5, generator=seeded()).X, fgsm(model, X, y, eps, norm)):
        assert (size(Z - X, norm) <= eps + 1e-5).all()
        assert Z.min() >= 0
        assert Z.max() <= 1
        assert torch.equal(Z[0], X[0])  # ε = 0


def test_random_starts_fill_the_ball_evenly():
    X = torch.zeros(4000, 3)
    radii = size(start(X, 2.0, "l2", None, seeded()), "l2") / 2
    assert abs((radii**3).mean() - 0.5) < 4 * math.sqrt(1 / 12 / 4000)  # the share of volume within is uniform
    cube = start(X, 2.0, "linf", None, seeded())
    assert abs((cube.abs() / 2).mean() - 0.5) < 4 * math.sqrt(1 / 12 / 12000)
    assert abs(cube.mean()) < 4 * 2 / math.sqrt(3 * 12000)


def foolboxes(norm, model, X, y, eps):
    """Share that foolbox's PGD does not fool, with the best of three step sizes (its default for linf is the first)."""
    attack = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    wrapped, shares = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu"), []
    for step in (1 / 30, 0.1, 0.25):
        _, _, fooled = attack(rel_stepsize=step, steps=15)(wrapped, X, y, epsilons=eps)
        shares.append(1 - fooled.double().mean().item())
    return min(shares)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("linf", 0.1), ("l2", 0.5), ("l2", 1.0)])
def test_pgd_is_as_strong_as_foolboxes_with_its_step_tuned(norm, eps):
    model, X, y = trained()
    torch.manual_seed(0)  # foolbox draws from the global generator
    theirs = foolboxes(norm, model, X, y, eps)
    ours = 1 - pgd(model, X, y, eps, norm, steps=15, generator=seeded()).success.double().mean().item()
    assert 0.02 < theirs < 0.9
    assert ours <= theirs + 1 / N  # the images are the same, so the counting error is one image


def quadrature(slope, sigma, s, points=60):
    """-log E sigmoid(s + σ ‖w‖ z) and its derivative in s, by Gauss-Hermite."""
    z, weight = np.polynomial.hermite_e.hermegauss(points)
    p = 1 / (1 + np.exp(-(s + sigma * slope * z)))
    weight = weight / weight.sum()
    return -np.log(weight @ p), -(weight @ (p * (1 - p))) / (weight @ p)


def test_through_noise_the_loss_and_its_gradient_are_the_smoothed_ones():
    model, w, b, X, y = linear(n=4)
    sigma, draws = 0.4, 20_000
    at = look(model, X, y, None, sigma, draws, seeded())
    for i in range(4):
        sign = 2 * y[i].item() - 1
        loss, slope = quadrature(w.norm().item(), sigma, sign * (X[i] @ w + b).item())
        assert at.loss[i].item() == pytest.approx(loss, rel=0.03)  # about four standard errors
        assert torch.allclose(at.slope[i], sign * slope * w, rtol=0.03)


def test_a_given_loss_is_averaged_over_the_draws():
    X, y, sigma, draws = torch.rand(3, 4, generator=seeded(), dtype=torch.float64), torch.zeros(3).long(), 0.3, 20_000

    def model(X):  # margin |x|², whose mean under noise is |x|² + d σ², with gradient 2 x
        return torch.stack([torch.zeros(len(X), dtype=X.dtype), X.square().sum(1)], 1)

    at = look(model, X, y, margin_loss, sigma, draws, seeded())
    assert torch.allclose(at.loss, X.square().sum(1) + 4 * sigma**2, rtol=0.02)
    assert torch.allclose(at.slope, 2 * X, atol=4 * 2 * sigma / draws**0.5)


def test_averaging_over_draws_finds_the_way_through_a_random_model():
    model, w, _, X, y = linear(d=200)
    generator = seeded(1)

    def noisy(Z):  # the truth, and a slope of random direction and ten times the size
        v = torch.randn(Z.shape, generator=generator, dtype=Z.dtype)
        r = 10 * (v * (Z - Z.detach())).sum(1)
        return model(Z) + torch.stack([-r, r], 1) / 2

    sign = 2 * y - 1
    one, many = (pgd(noisy, X, y, 0.05, steps=4, draws=draws, loss=margin_loss).X for draws in (1, 400))
    exact = fgsm(model, X, y, 0.05)
    fall = [(sign * ((X - Z) @ w)).mean().item() for Z in (one, many, exact)]
    assert fall[0] < 0.5 * fall[2] < 0.8 * fall[2] < fall[1]


def test_a_converged_attack_passes_and_a_short_one_does_not():
    model, X, y = trained()
    good = robust_accuracy(model, X, y, 0.1, steps=40, generator=seeded())
    assert good < 0.5
    with pytest.raises(Truncated, match="has not converged"):
        robust_accuracy(model, X, y, 0.1, steps=1, generator=seeded())
    with pytest.raises(Truncated):
        robust_accuracy(model, X, y, 0.1, steps=20, step_size=0.1 / 100, generator=seeded())
    # the errors come as ArithmeticErrors of one line, with the mend
    with pytest.raises(ArithmeticError, match=r"^[^\n]*give it more steps[^\n]*$"):
        robust_accuracy(model, X, y, 0.1, "l2", steps=4, step_size=1e-3)


def test_a_loss_that_still_rises_is_truncated_though_nobody_is_fooled():
    model, *_, X, y = linear()
    y = (model(X)[:, 1] > 0).long()
    far = 1e3 * (2 * y - 1)[:, None].double()
    with pytest.raises(Truncated, match=r"fool 0 of"):
        robust_accuracy(
            lambda Z: model(Z) + far * torch.tensor([-1.0, 1.0]), X, y, 0.1, step_size=1e-4, loss=margin_loss
        )


@pytest.mark.parametrize("norm", NORMS)
def test_no_budget_and_a_linear_model_are_never_truncated(norm):
    model, *_, X, y = linear()
    assert robust_accuracy(model, X, y, 0.0, norm) == (model(X).argmax(1) == y).double().mean().item()
    for steps in (4, 10, 100):
        for eps in (0.001, 0.1, 0.5):
            robust_accuracy(model, X, y, eps, norm, steps=steps, generator=seeded())


@pytest.mark.parametrize("mask", [lambda f: lambda X: 1e4 * f(X), lambda f: lambda X: f(torch.round(8 * X) / 8)])
def test_a_vanishing_gradient_is_no_robustness(mask):
    model, X, y = trained()
    masked = mask(model)
    with pytest.raises(Masked, match="exactly 0"):
        robust_accuracy(masked, X, y, 0.1, generator=seeded())
    blind = pgd(masked, X, y, 0.1)
    assert (blind.moved | blind.success).double().mean() < 0.99
    assert 1 - blind.success.double().mean() > 0.5  # what a weak attack would have reported


def test_the_margin_sees_through_saturated_logits():
    model, X, y = trained()
    clear = robust_accuracy(model, X, y, 0.1, generator=seeded(), loss=margin_loss)
    assert robust_accuracy(lambda X: 1e4 * model(X), X, y, 0.1, generator=seeded(), loss=margin_loss) == clear


def test_more_restarts_only_fool_more_and_the_seed_decides():
    model, X, y = trained()
    one, again, three = (pgd(model, X, y, 0.06, steps=4, restarts=r, generator=seeded(3)) for r in (1, 1, 3))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert one.trace.shape == (1, 5)
    assert three.trace.shape == (3, 5)
    assert torch.equal(three.trace[0], one.trace[0])
    assert (three.success >= one.success).all()
    assert (three.success >= (model(X).argmax(1) != y)).all()  # clean errors are included
    assert torch.equal(three.success, model(three.X).argmax(1) != y)
    assert not torch.equal(one.X, pgd(model, X, y, 0.06, steps=4, generator=seeded(4)).X)
    same = one.success == three.success
    loss = [F.cross_entropy(model(attack.X), y, reduction="none")[same] for attack in (one, three)]
    assert (loss[1] >= loss[0] - 1e-6).all()


def test_the_trace_is_the_mean_loss_of_the_iterates():
    model, X, y = trained()
    attack = pgd(model, X, y, 0.05, steps=2, step_size=0.02)
    Z = X
    for t in range(3):
        Z = Z.detach().requires_grad_()
        loss = F.cross_entropy(model(Z), y)
        assert attack.trace[0, t].item() == pytest.approx(loss.item(), rel=1e-5)
        (g,) = torch.autograd.grad(loss, Z)
        Z = (X + (Z + 0.02 * g.sign() - X).clamp(-0.05, 0.05)).clamp(0, 1)


def test_no_steps_is_a_random_search():
    model, X, y = trained()
    few = pgd(model, X, y, 0.1, steps=0, restarts=5, generator=seeded())
    assert few.trace.shape == (5, 1)
    assert few.success.sum() < pgd(model, X, y, 0.1, steps=10).success.sum()


def test_attacks_leave_model_and_generators_alone():
    model, X, y = trained()
    model.zero_grad()
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    pgd(model, X, y, 0.1, steps=2, generator=seeded(), sigma=0.1)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(model.parameters(), before, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_an_attack_inside_no_grad_is_the_same():
    model, _, _, X, y = linear()
    with torch.no_grad():
        there = pgd(model, X, y, 0.1)
    assert torch.equal(there.X, pgd(model, X, y, 0.1).X)


def test_outputs_that_are_not_finite_diverge():
    _, X, y = trained()
    with pytest.raises(Diverged, match="not finite"):
        pgd(lambda X: X.flatten(1)[:, :10] * math.inf, X, y, 0.1)
    with pytest.raises(Diverged):  # finite outputs, a gradient that is not
        pgd(lambda X: X.flatten(1)[:, :10].sqrt() + nn.Flatten()(X)[:, 10:20], X * 0, y, 0.1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm": "l1"}, "'linf' or 'l2'"),
        ({"eps": -1.0}, "radius >= 0"),
        ({"eps": torch.ones(3)}, "one a sample"),
        ({"eps": math.nan}, "radius >= 0"),
        ({"restarts": 2}, "generator"),
        ({"sigma": 0.1}, "generator"),
        ({"steps": -1}, "at least"),
        ({"draws": 0}, "at least"),
        ({"box": (0.2, 1.0)}, "must lie in the box"),
        ({"y": torch.zeros(3).long()}, "labels y"),
    ],
)
def test_bad_input_is_refused_in_one_line(wrong, message):
    model, *_, X, y = linear()
    with pytest.raises(ValueError, match=message) as error:
        pgd(**{"model": model, "X": X, "y": y, "eps": 0.1, **wrong})
    assert "\n" not in str(error.value)


def test_the_masks_are_what_they_say():
    athalye, X = program("athalye2018obfuscated"), torch.linspace(0, 1, 1001, dtype=torch.float64).reshape(1, 1, 7, 143)
    for mask, slopes, off in (
        (athalye.rounded, (0, 0), 0.1251),
        (athalye.rippled, (1 - 2 * math.pi, 1 + 2 * math.pi), 0.02),
    ):
        for behind, want in ((mask, slopes), (lambda Z, mask=mask: athalye.through(mask, Z), (1, 1))):
            Z = X.clone().requires_grad_()
            (g,) = torch.autograd.grad(behind(Z).sum(), Z)
            assert (g.min().item(), g.max().item()) == pytest.approx(want, abs=1e-3)
            assert torch.equal(behind(X), mask(X))  # the decisions are the masked model's own
        assert (mask(X) - X).abs().max() <= off + 1e-12


def test_the_random_transform_shrinks_and_moves():
    athalye, X = program("athalye2018obfuscated"), torch.ones(400, 1, 28, 28)
    mass = athalye.shaken(X, seeded()).sum((1, 2, 3)) / 784
    assert 0.9 < mass.max() <= 1.01
    assert 0.3 < mass.min() < 0.4  # 0.6 squared: the smallest, all of it inside
    dots = torch.zeros(2000, 1, 28, 28)
    dots[:, :, 13:15, 13:15] = 1.0
    moved = athalye.shaken(dots, seeded())
    rows = (moved.sum((1, 3)) * (torch.arange(28) - 13.5)).sum(1) / moved.sum((1, 2, 3))
    assert rows.abs().max() <= 4.5
    assert abs(rows.mean()) < 4 * rows.std() / 2000**0.5


def test_thermometer_encoding_and_its_stand_in():
    athalye = program("athalye2018obfuscated")
    X = torch.rand(2, 3, 4, 4, generator=seeded())
    code, smooth = athalye.thermometer(X), athalye.smooth_thermometer(X)
    assert code.shape == smooth.shape == (2, 48, 4, 4)
    for c in range(3):
        for k in range(16):
            assert torch.equal(code[:, 16 * c + k], (X[:, c] > k / 16).float())
    assert ((smooth > 0) == (code > 0)).all()
    assert torch.allclose(smooth.view(2, 3, 16, 4, 4).sum(2) / 16, X, atol=1e-6)


def test_the_papers_scale_runs_on_tiny_data_and_serves_the_card(monkeypatch):
    athalye = program("athalye2018obfuscated")

    def tiny(name, download, seed):
        y = torch.arange(150) % 10
        X = 0.2 * torch.rand(150, 3, 32, 32, generator=seeded(seed)) + 0.08 * y[:, None, None, None]
        return Dataset(name, X.flatten(1)[:130], y[:130], X.flatten(1)[130:], y[130:], (3, 32, 32))

    monkeypatch.setattr(athalye, "load", tiny)
    monkeypatch.setattr(athalye, "pgd", lambda *how, steps, generator: pgd(*how, steps=2, generator=generator))
    values = athalye.cifar10(0, epochs=2, width=2)
    card = load_card(Path(athalye.__file__).with_name("paper.yml"))
    assert {key for claim in card.at("paper") for key in claim.reads} <= values.keys()
