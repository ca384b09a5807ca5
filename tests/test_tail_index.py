import math

import numpy as np
import pytest
import torch
from scipy import stats

from phenomena.tail_index import (
    MEAN_LOG_NORMAL,
    finite_variance_index,
    hill,
    pooled_gaussian_index,
    stable,
    stable_index,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.5, 1.9, 2.0])
def test_the_sampler_has_scipys_quantiles(alpha):
    n, levels = 200_000, np.array([0.55, 0.75, 0.9, 0.97])
    x = stable(alpha, (n,), rng(), scale=1.7).numpy()
    want = stats.levy_stable.ppf(levels, alpha, 0, scale=1.7)
    below = (x[:, None] <= want).mean(0)
    assert np.abs(below - levels).max() < 4 * np.sqrt(levels * (1 - levels) / n).max()
    assert abs((x > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(n)


def test_the_sampler_is_cauchy_at_1_and_gaussian_at_2():
    assert stats.kstest(stable(1.0, (20_000,), rng()).numpy(), "cauchy").pvalue > 0.01
    assert stats.kstest(stable(2.0, (20_000,), rng()).numpy() / np.sqrt(2), "norm").pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.7, 1.3])
def test_the_samplers_characteristic_function(alpha):
    x, n = stable(alpha, (400_000,), rng(1), scale=0.5), 400_000
    for t in (0.3, 1.0, 3.0):
        assert float((t * x).cos().mean()) == pytest.approx(
            math.exp(-(abs(0.5 * t) ** alpha)), abs=4 / math.sqrt(2 * n)
        )


def test_the_sampler_is_the_seeds_and_has_the_shape():
    assert torch.equal(stable(1.2, (3, 4), rng(5)), stable(1.2, (3, 4), rng(5)))
    assert stable(1.2, (3, 4), rng(5)).shape == (3, 4)


def slow_stable_index(x, m):
    """The definition, one sum after the other."""
    n = len(x) // m
    sums = [abs(math.fsum(x[i * m : (i + 1) * m])) for i in range(n)]
    Y, X = (sum(map(math.log, v)) / len(v) for v in (sums, [abs(a) for a in x[: n * m]]))
    return math.log(m) / (Y - X)


@pytest.mark.parametrize("m", [2, 7, 31, None])
def test_stable_index_is_its_definition(m):
    x = stable(1.4, (1000,), rng(2))
    assert float(stable_index(x, m)) == pytest.approx(slow_stable_index(x.tolist(), m or 31), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.8, 1.2, 1.6, 2.0])
def test_stable_index_recovers_alpha(alpha):
    n, m = 2000, 50
    found = 1 / stable_index(stable(alpha, (20, n * m), rng(3)), m)
    # log|X| of a stable variable has variance π²/6 (1/α² + 1/2) (Zolotarev); the mean log of the sums has that over n
    error = math.pi * math.sqrt((1 / alpha**2 + 0.5) / 6 / n) * (1 + 1 / math.sqrt(m)) / math.log(m)
    assert float(found.mean()) == pytest.approx(1 / alpha, abs=3 * error / math.sqrt(20))
    assert float(found.std()) < 1.5 * error


def test_a_stable_law_reads_the_same_at_every_m():
    x = stable(1.3, (1_000_000,), rng(4))
    assert [float(stable_index(x, m)) for m in (4, 30, 200)] == pytest.approx([1.3] * 3, abs=0.06)


def test_stable_index_is_free_of_scale_and_sign_and_works_along_the_last_axis():
    x = stable(1.5, (3, 2, 4096), rng(6))
    found = stable_index(x, 16)
    assert found.shape == (3, 2)
    assert torch.allclose(stable_index(-1e-9 * x, 16), found, rtol=1e-9)
    assert float(stable_index(x[2, 1], 16)) == pytest.approx(float(found[2, 1]), rel=1e-12)


def test_the_values_left_over_do_not_count():
    x = stable(1.5, (103,), rng(7))
    changed = torch.cat([x[:100], 1e6 * x[100:]])
    assert float(stable_index(changed, 10)) == float(stable_index(x, 10))


def test_pitfall_coordinates_that_never_move_swamp_the_index_at_a_floor():
    x = normal(400_000)
    x[torch.rand(x.shape, generator=rng(1)) < 0.2] = 0
    m, log_floor = 500, -52 * math.log(2)
    with pytest.raises(ValueError, match="exactly 0"):
        stable_index(x, m)
    # closed form: a sum has variance 0.8 m; a fifth of the values count as the log of the floor
    excess = 0.5 * math.log(0.8 * m) + MEAN_LOG_NORMAL - 0.8 * MEAN_LOG_NORMAL - 0.2 * log_floor
    assert float(stable_index(x, m, floor=2**-52)) == pytest.approx(math.log(m) / excess, abs=0.02)
    assert float(stable_index(x, m, floor=2**-52)) < 1
    assert float(stable_index(x[x != 0], m)) == pytest.approx(2, abs=0.05)


def test_pitfall_pooled_gaussian_coordinates_of_unequal_variance_read_below_2():
    variances = torch.logspace(-4, 2, 300, dtype=torch.float64)
    x = normal(4000, 300) * variances.sqrt()
    pooled = x.flatten()[torch.randperm(x.numel(), generator=rng(1))]
    m = 1000
    want = pooled_gaussian_index(variances, m)
    assert want < 1.6
    assert float(stable_index(pooled, m)) == pytest.approx(want, abs=0.03)
    assert stable_index(x.mT.contiguous(), 60).mean() == pytest.approx(2, abs=0.02)  # each coordinate by itself
    standardised = (x / variances.sqrt()).flatten()
    assert float(stable_index(standardised, m)) == pytest.approx(2, abs=0.04)


def test_pitfall_values_that_move_together_read_1():
    x = normal(2000, 1).expand(-1, 100).flatten()  # a hundred copies of each
    assert float(stable_index(x, 100)) == pytest.approx(1, rel=1e-9)
    assert float(stable_index(x[torch.randperm(len(x), generator=rng(2))], 100)) == pytest.approx(2, abs=0.06)


def test_pitfall_a_gaussian_scale_mixture_reads_below_2_and_creeps_up_with_m():
    s = torch.where(torch.rand(2_000_000, generator=rng(3)) < 0.05, 1.0, 0.01).double()
    x = s * normal(2_000_000, seed=4)
    found = [float(stable_index(x, m)) for m in (100, 1000, 5000)]
    assert found == pytest.approx([float(finite_variance_index(x, m)) for m in (100, 1000, 5000)], abs=0.06)
    assert found[0] < found[1] < found[2] < 1.75
    mean_log = (0.05 * 0 + 0.95 * math.log(0.01)) + MEAN_LOG_NORMAL
    excess = 0.5 * math.log(0.05 + 0.95e-4) + MEAN_LOG_NORMAL - mean_log
    assert float(finite_variance_index(x, 1000)) == pytest.approx(1 / (0.5 + excess / math.log(1000)), abs=0.01)


def test_pooled_gaussian_index_is_2_for_equal_variances_and_free_of_their_scale():
    assert pooled_gaussian_index(torch.full((5,), 0.3), 50) == pytest.approx(2, abs=1e-6)
    v = torch.tensor([0.1, 2.0, 30.0])
    assert pooled_gaussian_index(1e-6 * v, 50) == pytest.approx(pooled_gaussian_index(v, 50), rel=1e-5)
    draws = (normal(200_000, 3) * v.sqrt()).flatten()
    assert float(finite_variance_index(draws, 50)) == pytest.approx(pooled_gaussian_index(v, 50), abs=0.01)


def test_mean_log_normal_is_the_integral():
    want = stats.norm.expect(lambda x: np.log(np.abs(x) + 1e-300), lb=-10, ub=10, points=[0.0])
    assert want == pytest.approx(MEAN_LOG_NORMAL, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.7, 1.5, 4.0])
def test_hill_is_right_for_pareto_at_every_k(alpha):
    x = torch.rand(50_000, generator=rng(8), dtype=torch.float64) ** (-1 / alpha)
    for k in (100, 1000, 20_000):
        assert hill(x, k) == pytest.approx(alpha, rel=4 / math.sqrt(k))
        assert hill(-3 * x, k) == pytest.approx(hill(x, k), rel=1e-12)


def test_hill_is_its_definition():
    x = stable(1.2, (200,), rng(9))
    a = sorted((abs(v) for v in x.tolist()), reverse=True)
    assert hill(x, 30) == pytest.approx(30 / sum(math.log(a[i] / a[30]) for i in range(30)), rel=1e-12)


def test_pitfall_hill_of_student_t_depends_on_k_and_above_2_the_stable_index_is_wrong():
    x = torch.from_numpy(stats.t.rvs(3, size=1_000_000, random_state=0))
    found = [hill(x, k) for k in (1000, 100_000, 400_000)]
    assert found[0] == pytest.approx(3, abs=0.3)  # tail index = degrees of freedom: the variance is finite
    assert found[0] > found[1] > found[2]  # the body, not the tail
    assert found[2] < 2
    assert 1.75 < float(stable_index(x, 1000)) < 1.97  # no stable law, and no tail index either


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: stable(2.1, (3,), rng()), "0 < alpha <= 2"),
        (lambda: stable(1.0, (3,), rng(), scale=0), "scale > 0"),
        (lambda: stable_index(normal(3), 1), "2 <= m <= N"),
        (lambda: stable_index(normal(3), 4), "2 <= m <= N"),
        (lambda: stable_index(torch.tensor([1.0, math.nan, 2.0, 3.0]), 2), "NaN"),
        (lambda: stable_index(torch.tensor([1.0, -1.0, 2.0, 3.0]), 2), "exactly 0"),
        (lambda: finite_variance_index(torch.tensor([0.0, 1.0]), 3), "exactly 0"),
        (lambda: finite_variance_index(torch.tensor([2.0, 1.0]), 1), "m >= 2"),
        (lambda: pooled_gaussian_index(torch.tensor([0.0, 1.0]), 3), "never move"),
        (lambda: hill(normal(5), 5), "1 <= k < N"),
        (lambda: hill(normal(5, 2), 1), "1 <= k < N"),
        (lambda: hill(torch.ones(5), 2), "no tail"),
        (lambda: hill(torch.tensor([math.inf, 1.0, 2.0]), 1), "infinite"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
