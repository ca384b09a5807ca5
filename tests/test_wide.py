import pytest
import torch

from phenomena.convolutional_ntk import cntk
from phenomena.empirical_ntk import empirical_ntk
from phenomena.infinite_width import infinite_width
from phenomena.wide import ntk_cnn, ntk_mlp

pytestmark = pytest.mark.usefixtures("one_thread")


def inputs(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def z_scores(draws, want, precision):
    """(Mean of the draws - kernel wanted) in standard errors, which must be small against the kernel, or z is blind."""
    error = draws.std(0) / len(draws) ** 0.5
    assert (error < precision * want.diagonal().mean()).all()
    return (draws.mean(0) - want) / error


@pytest.mark.parametrize(("activation", "beta"), [("relu", 0.5), ("erf", 0.0)])
def test_wide_networks_have_the_infinite_kernels(activation, beta):
    X = inputs(3, 6, dtype=torch.float32)
    kernels = infinite_width(X, depth=2, activation=activation, beta=beta)
    nngp, ntk = [], []
    for seed in range(8):
        network = ntk_mlp(6, 4096, 2, seeded(seed), activation, beta)
        g = network[:-1](X).detach()  # given g, the outputs have covariance g gᵀ + β²
        nngp.append(g @ g.mT + beta**2)
        ntk.append(empirical_ntk(network, X)[:, :, 0, 0])
    for draws, want in ((nngp, kernels.nngp), (ntk, kernels.ntk)):
        assert z_scores(torch.stack(draws), want, 0.05).abs().max() < 4.5


def test_the_draws_would_tell_another_kernel():
    X = inputs(3, 6)
    draws = torch.stack([empirical_ntk(ntk_mlp(6, 1024, 2, seeded(s), dtype=X.dtype), X)[:, :, 0, 0] for s in range(8)])
    for other in (
        infinite_width(X, depth=3).ntk,
        infinite_width(X, depth=2, beta=0.5).ntk,
        infinite_width(X, depth=2).nngp,
    ):
        assert z_scores(draws, other, 0.15).abs().max() > 10


@pytest.mark.parametrize("gap", [False, True])
def test_wide_convolutions_have_the_exact_cntk(gap):
    X = inputs(3, 2, 4, 5)
    draws = [
        empirical_ntk(ntk_cnn((2, 4, 5), 128, 2, seeded(seed), gap, dtype=X.dtype), X)[:, :, 0, 0] for seed in range(30)
    ]
    assert z_scores(torch.stack(draws), cntk(X, depth=2, gap=gap), 0.05).abs().max() < 4.5


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_forward_pass_is_the_equations(activation):
    network = ntk_mlp(3, 7, 2, seeded(0), activation, beta=0.5, outputs=2, dtype=torch.float64)
    W1, b1, W2, b2, W3, b3 = (p.detach() for p in network.parameters())
    z = torch.linspace(-10, 10, 10001, dtype=torch.float64)
    mean_square = float(torch.trapezoid(torch.erf(z) ** 2 * torch.exp(-(z**2) / 2), z)) / (2 * torch.pi) ** 0.5
    c, σ = {"relu": (2.0, lambda f: f.clamp(min=0)), "erf": (1 / mean_square, torch.erf)}[activation]
    for x in inputs(4, 3):
        g1 = (c / 7) ** 0.5 * σ(W1 @ x + 0.5 * b1)
        g2 = (c / 7) ** 0.5 * σ(W2 @ g1 + 0.5 * b2)
        assert torch.allclose(network(x[None])[0], W3 @ g2 + 0.5 * b3)


@pytest.mark.parametrize("gap", [False, True])
def test_convolutions_are_the_equations(gap):
    network = ntk_cnn((2, 3, 4), 5, 1, seeded(0), gap, outputs=2, dtype=torch.float64)
    W1, W2 = (p.detach() for p in network.parameters())
    x = inputs(2, 3, 4)
    padded = torch.zeros(2, 5, 6, dtype=torch.float64)
    padded[:, 1:4, 1:5] = x
    h = torch.zeros(5, 3, 4, dtype=torch.float64)
    for i in range(3):
        for j in range(4):
            h[:, i, j] = torch.einsum("ocab,cab->o", W1, padded[:, i : i + 3, j : j + 3])
    h = (2 / (5 * 9)) ** 0.5 * h.clamp(min=0)
    want = W2 @ h.mean((1, 2)) if gap else torch.einsum("ochw,chw->o", W2.reshape(2, 5, 3, 4), h)
    assert torch.allclose(network(x[None])[0], want)


def test_weights_are_standard_normal_and_come_from_the_generator():
    state = torch.random.get_rng_state()
    one, same, other = (ntk_mlp(50, 300, 2, seeded(s), beta=0.1) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)  # no global state
    for a, b, c in zip(one.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert abs(float(a.detach().var(correction=0)) - 1) < 5 * (2 / a.numel()) ** 0.5 + 2 / a.numel()
    assert [tuple(p.shape) for p in ntk_mlp(5, 8, 1, seeded(0), outputs=2).parameters()] == [(8, 5), (2, 8)]


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="depth >= 1"):
        ntk_mlp(3, 4, 0, seeded(0))
    with pytest.raises(ValueError, match="relu, erf"):
        ntk_mlp(3, 4, 1, seeded(0), "tanh")
    with pytest.raises(ValueError, match="channels >= 1"):
        ntk_cnn((1, 4, 4), 0, 1, seeded(0))
