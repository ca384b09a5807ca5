import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from phenomena.diffeomorphisms import (
    deform,
    displacement,
    is_diffeomorphism,
    rescale,
    spectrum,
    square_displacement,
    temperature,
    temperature_range,
    warp,
)

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = [(40,), (28, 28), (12, 20)]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, channels, shape, seed=1, dtype=torch.float64):
    return torch.rand(n, channels, *shape, generator=rng(seed), dtype=dtype)


def draw(n, shape, T=1e-3, cut=3, seed=0):
    return displacement(n, shape, T, cut, rng(seed), dtype=torch.float64)


def test_spectrum_is_one_over_r2_within_a_round_cut():
    S = spectrum(2, 4)
    for i in range(1, 5):
        for j in range(1, 5):
            assert float(S[i - 1, j - 1]) == (1 / (i**2 + j**2) if i**2 + j**2 <= 16 else 0)
    assert spectrum(1, 3).tolist() == [1, 1 / 4, 1 / 9]


def test_each_mode_has_its_variance():
    """Projected on the sines, which are orthogonal on the grid: T / (i² + j²), within 5 standard errors."""
    n, T, cut, draws = 16, 2e-3, 4, 4000
    tau = draw(draws, (n, n), T, cut) / (n - 1)
    k = torch.arange(1, n - 1, dtype=torch.float64)
    sines = torch.sin(math.pi * k[:, None] * torch.arange(n, dtype=torch.float64) / (n - 1))
    C = torch.einsum("naxy,ix,jy->naij", tau, sines, sines) * (2 / (n - 1)) ** 2
    want = torch.zeros(n - 2, n - 2, dtype=torch.float64)
    want[:cut, :cut] = T * spectrum(2, cut)
    for component in (0, 1):
        ratio = C[:, component].var(0)[want > 0] / want[want > 0]
        assert ((ratio - 1).abs() < 5 * math.sqrt(2 / draws)).all()
    assert C[:, :, want == 0].abs().max() < 1e-12
    correlation = (C[:, 0] * C[:, 1]).mean(0)[want > 0] / want[want > 0]
    assert (correlation.abs() < 5 / math.sqrt(draws)).all()  # the components are independent


def test_fields_are_the_sine_series():
    """Against the sum written as loops, with the same coefficients."""
    h, w, T, cut = 7, 9, 0.01, 4
    tau = draw(1, (h, w), T, cut)[0]
    C = (T * spectrum(2, cut)).sqrt() * torch.randn(1, 2, cut, cut, generator=rng(), dtype=torch.float64)[0]
    for component, side in ((0, h), (1, w)):
        for x in range(h):
            for y in range(w):
                want = sum(
                    float(C[component, i - 1, j - 1])
                    * math.sin(i * math.pi * x / (h - 1))
                    * math.sin(j * math.pi * y / (w - 1))
                    for i in range(1, cut + 1)
                    for j in range(1, cut + 1)
                )
                assert float(tau[component, x, y]) == pytest.approx((side - 1) * want, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_frame_is_fixed(shape):
    tau = draw(5, shape, T=0.01)
    assert tau.abs().max() > 0.1
    for axis in range(2, tau.dim()):
        assert (tau.select(axis, 0) == 0).all()
        assert (tau.select(axis, -1) == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cut", [2, 5])
def test_root_mean_square_displacement_is_delta(shape, cut):
    delta, draws = 1.3, 4000
    tau = draw(draws, shape, temperature(delta, shape, cut), cut)
    squares = tau.square().sum(1).flatten(1).mean(1)
    assert abs(squares.mean() - delta**2) < 4 * squares.std() / math.sqrt(draws)


@pytest.mark.parametrize("shape", [(41,), (29, 29)])
def test_displacement_of_the_central_pixel_is_delta(shape):
    delta, draws = 1.3, 4000
    tau = draw(draws, shape, temperature(delta, shape, 4, centre=True), 4)
    squares = tau[(..., *[n // 2 for n in shape])].square().sum(1)
    assert abs(squares.mean() - delta**2) < 4 * squares.std() / math.sqrt(draws)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_draw_can_have_delta_exactly(shape):
    tau = rescale(draw(6, shape), 0.7)
    assert torch.allclose(tau.square().sum(1).flatten(1).mean(1).sqrt(), torch.tensor(0.7, dtype=torch.float64))
    one, other = (deform(images(6, 1, shape), 0.7, 3, rng(), each=each) for each in (True, False))
    assert torch.allclose(one, warp(images(6, 1, shape), tau))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize(("cut", "ratio", "central"), [(3, 1.2975, 0.9289), (15, 1.1316, 0.9338)])
def test_how_far_the_papers_large_c_formula_is_off(cut, ratio, central):
    """δ by (π/4) n² T ln c over the exact one, in the continuum: over the image and at its centre."""
    n = 100_001
    by_paper = math.pi / 4 * n**2 * math.log(cut)
    assert math.sqrt(by_paper / square_displacement((n, n), cut)) == pytest.approx(ratio, abs=1e-4)
    assert math.sqrt(by_paper / square_displacement((n, n), cut, centre=True)) == pytest.approx(central, abs=1e-4)


@pytest.mark.parametrize("centre", [False, True])
def test_the_papers_formula_is_the_limit(centre):
    n, cuts = 10**6, np.array([200, 2000])
    exact = np.array([square_displacement((n, n), int(c), centre=centre) for c in cuts]) / n**2
    slope = np.diff(exact)[0] / np.diff(np.log(cuts))[0]
    assert slope == pytest.approx(math.pi / 4, rel=0.01)
    one_axis = square_displacement((n,), 2000) / n**2
    assert one_axis == pytest.approx(math.pi**2 / 12, rel=1e-3)  # a mere constant in one dimension


@pytest.mark.parametrize(("axes", "cut"), [(1, 7), (2, 3), (2, 6)])
def test_upper_temperature_is_a_given_square_gradient(axes, cut):
    n, draws = 100, 300
    T = temperature_range((n,) * axes, cut)[1]
    tau = draw(draws, (n,) * axes, T, cut) / (n - 1)
    grad2 = 0
    for axis in range(2, 2 + axes):
        slope = torch.gradient(tau, spacing=1 / (n - 1), dim=axis)[0]
        grad2 = grad2 + slope.square().sum(1).flatten(1).mean(1)
    want = 1 / (2 * math.log(cut))
    assert abs(grad2.mean() - want) < 4 * grad2.std() / math.sqrt(draws) + 0.02 * want  # finite differences


@pytest.mark.parametrize("shape", [(40,), (28, 28)])
@pytest.mark.parametrize("cut", [2, 5, 10])
def test_range_of_temperatures(shape, cut):
    low, high = temperature_range(shape, cut)
    assert low == temperature(0.5, shape, cut) < high
    for T, least, most in ((high, 0.42, 1), (high / 10, 0.95, 1), (10 * high, 0, 0.1)):
        share = is_diffeomorphism(draw(300, shape, T, cut)).double().mean()
        assert least <= share <= most


def test_one_to_one_in_one_dimension_is_monotone():
    tau = torch.zeros(3, 1, 6)
    tau[0, 0, 2] = 0.9  # pixel 2 reads at 1.1, still right of pixel 1
    tau[1, 0, 2] = 1.1  # and here left of it
    tau[2, 0, 3] = -1.1  # right of pixel 4
    assert is_diffeomorphism(tau).tolist() == [True, False, False]


def test_one_to_one_in_two_dimensions_is_a_positive_jacobian():
    """Against the determinant of the bilinear map at many points of each cell, also right at its corners."""
    seen = set()
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    a, b = t[:, None], t[None, :]
    for seed in range(40):
        tau = draw(1, (6, 7), T=0.02, cut=3, seed=seed)
        where = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")).double() - tau[0]
        smallest = math.inf
        for x in range(5):
            for y in range(6):
                p, q, r, s = where[:, x, y], where[:, x, y + 1], where[:, x + 1, y], where[:, x + 1, y + 1]
                down = [(1 - b) * (r - p)[k] + b * (s - q)[k] + 0 * a for k in (0, 1)]
                right = [(1 - a) * (q - p)[k] + a * (s - r)[k] + 0 * b for k in (0, 1)]
                smallest = min(smallest, float((down[0] * right[1] - down[1] * right[0]).min()))
        assert bool(is_diffeomorphism(tau)) == (smallest > 0)
        seen.add(smallest > 0)
    assert seen == {True, False}


@pytest.mark.parametrize(("shape", "channels"), [((40,), 1), ((40,), 3), ((28, 28), 1), ((12, 20), 3)])
def test_warp_is_scipys_linear_interpolation(shape, channels):
    X, tau = images(4, channels, shape), draw(4, shape, T=0.02)
    warped = warp(X, tau)
    for k in range(4):
        where = np.indices(shape) - tau[k].numpy()
        for c in range(channels):
            want = ndimage.map_coordinates(X[k, c].numpy(), where, order=1, mode="nearest")
            np.testing.assert_allclose(warped[k, c], want, atol=1e-12)


def test_warp_is_a_double_loop():
    h, w = 5, 6
    X, tau = images(2, 2, (h, w)), draw(2, (h, w), T=0.05)
    warped = warp(X, tau)
    for k in range(2):
        for x in range(h):
            for y in range(w):
                s = min(max(x - float(tau[k, 0, x, y]), 0), h - 1)
                t = min(max(y - float(tau[k, 1, x, y]), 0), w - 1)
                for c in range(2):
                    want = sum(
                        max(0, 1 - abs(s - i)) * max(0, 1 - abs(t - j)) * float(X[k, c, i, j])
                        for i in range(h)
                        for j in range(w)
                    )
                    assert float(warped[k, c, x, y]) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_images_linear_in_the_coordinates_are_warped_exactly(shape):
    tau = draw(3, shape)
    where = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in shape], indexing="ij"))
    moved = warp(where.expand(3, *where.shape), tau)
    inside = [0, *[n - 1 for n in shape]]
    want = torch.stack([(where[a] - tau[:, a]).clamp(0, inside[a + 1]) for a in range(len(shape))], 1)
    assert torch.allclose(moved, want, atol=1e-12)


def test_half_a_pixel_blurs():
    X = torch.tensor([[[0.0, 0.0, 1.0, 0.0, 0.0]]])
    assert warp(X, torch.full((1, 1, 5), 0.5)).flatten().tolist() == [0, 0, 0.5, 0.5, 0]
    assert warp(X, torch.full((1, 1, 5), 1.0)).flatten().tolist() == [0, 0, 0, 1, 0]  # to the right: x(s - τ)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("each", [False, True])
def test_without_temperature_nothing_moves(shape, dtype, each):
    X = images(3, 2, shape, dtype=dtype)
    assert torch.equal(deform(X, 0.0, 3, rng(), each=each), X)
    assert deform(X, 1.0, 3, rng(), each=each).dtype == dtype


def test_generator_decides_and_images_differ():
    X = images(1, 1, (28, 28)).expand(3, -1, -1, -1)
    first, again, other = (deform(X, 1.0, 3, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_single_precision_agrees_with_double():
    X, tau = images(4, 1, (28, 28)), draw(4, (28, 28))
    assert torch.allclose(warp(X.float(), tau.float()).double(), warp(X, tau), atol=1e-5)


def test_gradients_flow_to_the_image():
    X = images(1, 1, (6, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: warp(A, draw(1, (6, 6))), (X,))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: deform(torch.zeros(2, 1, 3, 4, 5), 1.0, 3, rng()), "1 or 2 axes"),
        (lambda: deform(images(2, 1, (28, 28)), 1.0, 1, rng()), "at least 2"),
        (lambda: deform(images(2, 1, (40,)), 1.0, 0, rng()), "at least 1"),
        (lambda: deform(images(2, 1, (8, 28)), 1.0, 7, rng()), "up to 6"),
        (lambda: deform(images(2, 1, (40,)), -1.0, 3, rng()), "0 or more pixels"),
        (lambda: deform(images(2, 1, (40,)), math.nan, 3, rng()), "0 or more pixels"),
        (lambda: displacement(2, (40,), -1.0, 3, rng()), "temperature must be 0 or more"),
        (lambda: rescale(draw(2, (40,), T=0), 1.0), "cannot be rescaled"),
        (lambda: warp(images(2, 1, (40,)), draw(3, (40,))), r"\(2, 1, 40\)"),
        (lambda: warp(images(2, 1, (28, 28)), draw(2, (40,))), r"\(2, 2, 28, 28\)"),
        (lambda: warp(images(2, 1, (40,)), draw(2, (40,)).float()), "one floating type"),
        (lambda: warp(torch.zeros(2, 1, 40, dtype=torch.long), draw(2, (40,))), "one floating type"),
        (lambda: warp(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1)), "at least 2 pixels"),
        (lambda: is_diffeomorphism(torch.zeros(2, 1, 5, 5)), r"\(images, 2, H, W\)"),
    ],
)
def test_bad_input_is_one_clear_line(call, what):
    with pytest.raises(ValueError, match=what) as caught:
        call()
    assert "\n" not in str(caught.value)
