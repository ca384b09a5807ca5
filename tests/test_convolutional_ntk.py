import importlib.util
import math
import sys

import numpy as np
import pytest
import torch

import phenomena
from phenomena.convolutional_ntk import cntk
from phenomena.data import load
from phenomena.empirical_ntk import empirical_ntk
from phenomena.infinite_width import infinite_width
from phenomena.wide import ntk_cnn

ENGINES = [
    "torch",
    pytest.param("numba", marks=pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="needs numba")),
]


def images(n, shape, seed=0, dtype=torch.float64):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def digits(n):
    return load("digits", 200).X_train[:n].view(n, 1, 8, 8)


def slow_cntk(x, z, depth, gap):
    """One entry by Arora et al.'s recursion, term by term, over dictionaries of pairs of positions."""
    _, H, W = x.shape
    positions = [(i, j) for i in range(H) for j in range(W)]
    pairs = [(p, q) for p in positions for q in positions]

    def inner(u, v):
        return {(p, q): sum(float(u[c][p]) * float(v[c][q]) for c in range(len(u))) for p, q in pairs}

    def patches(K):
        shifts = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        return {
            (p, q): sum(K.get(((p[0] + a, p[1] + b), (q[0] + a, q[1] + b)), 0.0) for a, b in shifts) for p, q in pairs
        }

    def expectations(Λ, Λ_x, Λ_z):
        K, K_dot = {}, {}
        for p, q in pairs:
            scale = math.sqrt(Λ_x[p, p] * Λ_z[q, q])
            θ = math.acos(min(1.0, max(-1.0, Λ[p, q] / scale))) if scale else math.pi / 2
            K[p, q] = 2 / 9 * scale * (math.sin(θ) + (math.pi - θ) * math.cos(θ)) / (2 * math.pi)
            K_dot[p, q] = 2 / 9 * (math.pi - θ) / (2 * math.pi)
        return K, K_dot

    Λ, Λ_x, Λ_z = (patches(inner(u, v)) for u, v in ((x, z), (x, x), (z, z)))
    Θ = Λ
    for h in range(1, depth + 1):
        (K, K_dot), (K_x, _), (K_z, _) = (expectations(*three) for three in ((Λ, Λ_x, Λ_z), (Λ_x,) * 3, (Λ_z,) * 3))
        Θ = {k: K_dot[k] * Θ[k] + K[k] for k in pairs}
        if h < depth:
            Θ, Λ, Λ_x, Λ_z = patches(Θ), patches(K), patches(K_x), patches(K_z)
    return sum(Θ.values()) / len(pairs) if gap else sum(Θ[p, p] for p in positions)


def slow_kernel(X, Z, depth, gap):
    return torch.tensor([[slow_cntk(x, z, depth, gap) for z in Z] for x in X], dtype=torch.float64)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize(
    ("shape", "depth"), [((1, 4, 4), 1), ((2, 3, 4), 3), ((3, 4, 2), 2), ((1, 1, 5), 4), ((1, 3, 3), 11)]
)
def test_the_slow_double_loop(engine, gap, shape, depth):
    X, Z = images(3, shape), images(2, shape, seed=1)
    Z[0, :, :2, :2] = 0  # black patches
    want = slow_kernel(X, Z, depth, gap)
    np.testing.assert_allclose(cntk(X, Z, depth, gap, engine=engine), want, rtol=1e-10, atol=0)
    np.testing.assert_allclose(cntk(X, None, depth, gap, engine=engine), slow_kernel(X, X, depth, gap), rtol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("depth", [1, 3, 11])
def test_one_pixel_is_the_fully_connected_kernel(engine, depth):
    X, Z = images(5, (6, 1, 1)), images(4, (6, 1, 1), seed=1)
    want = infinite_width(X.flatten(1), Z.flatten(1), depth).ntk / 9**depth
    for gap in (False, True):
        np.testing.assert_allclose(cntk(X, Z, depth, gap, engine=engine), want, rtol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_float32(engine, gap, depth):
    near = digits(20)
    X = torch.cat([near, near[:3] + 0.01 * images(3, (1, 8, 8), dtype=torch.float32), -near[:2], near[:2]])
    got, want = cntk(X, None, depth, gap, engine=engine), cntk(X.double(), None, depth, gap, engine="torch")
    assert got.dtype == torch.float32
    assert want.dtype == torch.float64
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * float(want.max()))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gap", [False, True])
def test_symmetric_and_positive_semidefinite(engine, gap):
    X = digits(40).double()
    K = cntk(X, depth=3, gap=gap, engine=engine)
    assert torch.equal(K, K.mT)
    assert torch.linalg.eigvalsh(K).min() > 0
    np.testing.assert_allclose(K, cntk(X, X.clone(), 3, gap, engine=engine), rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gap", [False, True])
def test_any_chunk_and_number_of_threads(engine, gap):
    X, Z = images(3, (2, 3, 4)), images(18, (2, 3, 4), seed=1)
    want, wanted = cntk(X, Z, 2, gap, engine=engine), cntk(Z, None, 2, gap, engine=engine)
    threads = torch.get_num_threads()
    try:
        for chunk, count in ((1, 1), (7, 2), (32, 3), (10**6, 2)):
            torch.set_num_threads(count)
            got = cntk(X, Z, 2, gap, chunk=chunk, engine=engine)
            np.testing.assert_allclose(got, want, rtol=1e-12)
            np.testing.assert_allclose(cntk(Z, None, 2, gap, chunk=chunk, engine=engine), wanted, rtol=1e-12)
            assert engine == "torch" or torch.equal(got, want)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gap", [False, True])
def test_what_leaves_the_kernel_alone(engine, gap):
    X, Z = images(4, (2, 4, 6)), images(3, (2, 4, 6), seed=1)
    K = cntk(X, Z, 3, gap, engine=engine)
    for same in (cntk(Z, X, 3, gap, engine=engine).mT, cntk(X.mT, Z.mT, 3, gap, engine=engine),
                 cntk(X.flip(2), Z.flip(2), 3, gap, engine=engine), cntk(X.flip(1), Z.flip(1), 3, gap, engine=engine),
                 cntk(3 * X, Z, 3, gap, engine=engine) / 3):  # fmt: skip
        np.testing.assert_allclose(same, K, rtol=1e-11)
    assert (cntk(X.flip(2), Z, 3, gap, engine=engine) - K).abs().max() > 1e-3  # not one side alone


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gap", [False, True])
def test_black_images(engine, gap):
    X = images(3, (1, 4, 4))
    X[1] = 0
    K = cntk(X, None, 3, gap, engine=engine)
    assert (K[1] == 0).all()
    assert (K[0, 0] > 0) & (K[0, 2] != 0)


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize(("depth", "channels", "seeds"), [(1, 4096, 12), (2, 256, 16)])
def test_the_empirical_kernel_of_wide_networks(gap, depth, channels, seeds):
    X = images(3, (2, 4, 4), dtype=torch.float32)
    want = cntk(X, depth=depth, gap=gap)
    networks = (ntk_cnn((2, 4, 4), channels, depth, torch.Generator().manual_seed(seed), gap) for seed in range(seeds))
    draws = torch.stack([empirical_ntk(network, X)[..., 0, 0] for network in networks])
    error = draws.std(0) / math.sqrt(seeds)
    assert ((draws.mean(0) - want) / error).abs().max() < 4.5
    assert (error.diagonal() / want.diagonal()).max() < 0.05  # a wrong factor would be seen


def test_without_numba_torch_computes(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # import numba then fails
    monkeypatch.delitem(sys.modules, "phenomena.cntk_loops", raising=False)
    monkeypatch.delattr(phenomena, "cntk_loops", raising=False)
    X = images(3, (1, 4, 4))
    assert torch.equal(cntk(X), cntk(X, engine="torch"))
    with pytest.raises(ValueError, match="needs numba"):
        cntk(X, engine="numba")


@pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="needs numba")
def test_where_numba_may_not_write_it_compiles_in_memory(monkeypatch):
    from phenomena import cntk_loops

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function)

    monkeypatch.setattr(cntk_loops, "njit", njit)
    assert cntk_loops.compiled(math.sqrt) == ("compiled", math.sqrt)


def test_progress_shows_and_changes_nothing(capsys):
    X = images(3, (1, 4, 4))
    for engine in ("torch", "auto"):
        assert torch.equal(cntk(X, progress=True, engine=engine), cntk(X, engine=engine))
        assert "CNTK" in capsys.readouterr().err


def test_weights_of_the_images_need_no_gradient():
    assert not cntk(images(2, (1, 3, 3)).requires_grad_()).requires_grad


GOOD = torch.ones(2, 1, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"X": GOOD[0]}, r"shape \(n, C, H, W\)"),
        ({"X": GOOD[:0]}, "none of them 0"),
        ({"X": GOOD.half()}, "float32 or float64"),
        ({"X": GOOD.long()}, "float32 or float64"),
        ({"X": GOOD * torch.nan}, "NaN"),
        ({"X": GOOD, "Z": GOOD * torch.inf}, "Z holds NaN or infinity"),
        ({"X": GOOD * 1e30}, "scale them down"),
        ({"X": GOOD, "Z": torch.ones(2, 1, 3, 4)}, "alike"),
        ({"X": GOOD, "Z": GOOD.double()}, "alike"),
        ({"X": GOOD, "depth": 0}, "depth >= 1"),
        ({"X": GOOD, "chunk": 0}, "chunk >= 1"),
        ({"X": GOOD, "engine": "jax"}, "engines"),
    ],
)
def test_bad_input(arguments, says):
    with pytest.raises(ValueError, match=says):
        cntk(**arguments)
