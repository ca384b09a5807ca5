import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from phenomena import ensembles
from phenomena.ensembles import Ensemble, train_ensemble
from phenomena.networks import mlp
from phenomena.training import Diverged, History, cosine, cross_entropy, error_rate, squared_loss, train

D, C, N = 6, 3, 50
SGD = torch.optim.SGD
OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": partial(SGD, lr=0.3, weight_decay=1e-3),
    "momentum": partial(SGD, lr=0.05, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    # a learning rate for each layer, as for a single network
    "layers": lambda p: SGD([{"params": p[:2], "lr": 0.4}, {"params": p[2:], "lr": 0.02}]),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # products this small only lose time waiting for a second thread
    yield
    torch.set_num_threads(before)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def members(
    sizes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float64, **kind: object
) -> list[nn.Sequential]:
    g = rng(5)
    return [mlp((D, *hidden, C), g, **kind).to(dtype) for hidden in sizes]  # type: ignore[arg-type]


def problem(dtype: torch.dtype = torch.float64, own: int = 0) -> tuple[Tensor, Tensor]:
    g, lead = rng(9), (own,) if own else ()
    return torch.randn(*lead, N, D, generator=g, dtype=dtype), torch.randint(0, C, (*lead, N), generator=g)


def assert_same_runs(
    ours: Sequence[nn.Module], theirs: Sequence[nn.Module], h: list[History], g: list[History], tol: float
) -> None:
    for a, b, x, z in zip(ours, theirs, h, g, strict=True):
        assert (x.losses - z.losses).abs().max() < tol
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert p.shape == q.shape
            assert (p - q).abs().max() < tol
            assert p.is_contiguous()


WIDTHS = {"equal": [(8,), (8,), (8,)], "mixed": [(7,), (1,), (16,), (7,), (2,)], "deep": [(4, 9), (9, 4), (4, 9)]}


@pytest.mark.parametrize("loss", [squared_loss, cross_entropy])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_every_member_follows_the_loop(widths: str, optimizer: str, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    X, y = problem()
    ours, make = members(WIDTHS[widths]), OPTIMIZERS[optimizer]
    theirs, starts = copy.deepcopy(ours), copy.deepcopy(ours)
    h = train_ensemble(ours, X, y, loss, make, 300, 16, rng(1))
    g = [train(m, X, y, loss, make(list(m.parameters())), 300, 16, rng(1)) for m in theirs]
    assert_same_runs(ours, theirs, h, g, 1e-9)
    for a, s in zip(ours, starts, strict=True):
        assert (a[0].weight - s[0].weight).abs().max() > 0.01  # it did train


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_single_precision_trajectories_agree(optimizer: str) -> None:
    X, y = problem(torch.float32)
    ours, make = members(WIDTHS["mixed"], torch.float32), OPTIMIZERS[optimizer]
    theirs = copy.deepcopy(ours)
    h = train_ensemble(ours, X, y, cross_entropy, make, 200, 16, rng(1))
    g = [train(m, X, y, cross_entropy, make(list(m.parameters())), 200, 16, rng(1)) for m in theirs]
    assert_same_runs(ours, theirs, h, g, 1e-5)


@pytest.mark.parametrize("own_X", [False, True])
@pytest.mark.parametrize("own_y", [False, True])
@pytest.mark.parametrize("own_batches", [False, True])
@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("block", [None, 2])
def test_own_data_labels_and_batches(
    own_X: bool, own_y: bool, own_batches: bool, batch_size: int | None, block: int | None
) -> None:
    sizes = WIDTHS["mixed"]
    M = len(sizes)
    X, y = problem(own=M)
    X, y = X if own_X else X[0], y if own_y else y[0]
    ours = members(sizes)
    theirs = copy.deepcopy(ours)
    make, seeds = OPTIMIZERS["momentum"], [3 + m * own_batches for m in range(M)]
    generators = [rng(s) for s in seeds] if own_batches else rng(3)
    h = train_ensemble(ours, X, y, cross_entropy, make, 60, batch_size, generators, block=block)
    g = [
        train(m, X[k] if own_X else X, y[k] if own_y else y, cross_entropy, make(list(m.parameters())), 60,
              batch_size, rng(seeds[k]))
        for k, m in enumerate(theirs)
    ]  # fmt: skip
    assert_same_runs(ours, theirs, h, g, 1e-10)


@pytest.mark.parametrize("own_y", [False, True])
def test_real_targets(own_y: bool) -> None:
    X, _ = problem()
    Y = torch.randn(*([2] if own_y else []), N, C, generator=rng(), dtype=torch.float64)
    ours = members([(4,), (5,)])
    theirs = copy.deepcopy(ours)
    h = train_ensemble(ours, X, Y, squared_loss, OPTIMIZERS["sgd"], 50)
    g = [
        train(m, X, Y[k] if own_y else Y, squared_loss, OPTIMIZERS["sgd"](list(m.parameters())), 50)
        for k, m in enumerate(theirs)
    ]
    assert_same_runs(ours, theirs, h, g, 1e-10)


@pytest.mark.parametrize("block", [None, 1, 2])
@pytest.mark.parametrize("make", [partial(SGD, momentum=0.9, weight_decay=0.01), torch.optim.Adam, torch.optim.AdamW])
def test_learning_rates_of_ones_own(make: Callable[..., torch.optim.Optimizer], block: int | None) -> None:
    X, y = problem()
    ours = members(WIDTHS["equal"])
    theirs = copy.deepcopy(ours)
    factors = [1.0, 0.25, 2.0]
    schedule = cosine(150)
    h = train_ensemble(ours, X, y, cross_entropy, partial(make, lr=0.02), 150, 16, rng(1), lr_factors=factors,
                       schedule=schedule, block=block)  # fmt: skip
    g = [
        train(m, X, y, cross_entropy, make(m.parameters(), lr=0.02 * f), 150, 16, rng(1), schedule=schedule)
        for m, f in zip(theirs, factors, strict=True)
    ]
    assert_same_runs(ours, theirs, h, g, 1e-9)


@pytest.mark.parametrize("kind", [{"activation": nn.Tanh}, {"activation": nn.Identity, "bias": False}])
def test_other_networks(kind: dict[str, object]) -> None:
    X, y = problem()
    ours = members([(4, 5), (3, 3), (4, 5)], **kind)
    theirs = copy.deepcopy(ours)
    h = train_ensemble(ours, X, y, squared_loss, OPTIMIZERS["sgd"], 80, 10, rng(1))
    g = [train(m, X, y, squared_loss, OPTIMIZERS["sgd"](list(m.parameters())), 80, 10, rng(1)) for m in theirs]
    assert_same_runs(ours, theirs, h, g, 1e-10)


def test_frozen_layers_stay_as_they_are() -> None:
    X, y = problem()
    ours = members([(4,), (9,)])
    for m in ours:
        m[0].requires_grad_(False)
    theirs = copy.deepcopy(ours)
    h = train_ensemble(ours, X, y, squared_loss, OPTIMIZERS["sgd"], 40)
    g = [train(m, X, y, squared_loss, OPTIMIZERS["sgd"](list(m.parameters())), 40) for m in theirs]
    assert_same_runs(ours, theirs, h, g, 1e-10)
    assert torch.equal(ours[0][0].weight, members([(4,), (9,)])[0][0].weight)


def test_outputs_are_the_members_outputs() -> None:
    models = members([(3,), (3,), (8,), (2,)])
    X, own = problem()[0], problem(own=4)[0]
    ensemble = Ensemble(models)
    torch.testing.assert_close(ensemble(X), torch.stack([m(X) for m in models]))
    torch.testing.assert_close(ensemble(own), torch.stack([m(x) for m, x in zip(models, own, strict=True)]))


@pytest.mark.parametrize("block", [None, 1, 2])
def test_recordings_see_each_member_at_that_step(block: int | None) -> None:
    X, y = problem()
    ours = members(WIDTHS["mixed"])
    theirs = copy.deepcopy(ours)

    def record(step: int, model: nn.Module) -> dict[str, float]:
        return {"error": error_rate(model, X, y), "norm": sum(p.square().sum().item() for p in model.parameters())}

    at, make = [0, 7, 20], OPTIMIZERS["momentum"]
    h = train_ensemble(ours, X, y, cross_entropy, make, 20, 8, rng(1), record=record, record_at=at, block=block)
    for k, m in enumerate(theirs):
        run = train(m, X, y, cross_entropy, make(list(m.parameters())), 20, 8, rng(1), record=record, record_at=at)
        assert h[k].recorded["step"] == at
        assert h[k].recorded["error"] == run.recorded["error"]
        assert h[k].recorded["norm"] == pytest.approx(run.recorded["norm"], rel=1e-10)


@pytest.mark.parametrize("block", [None, 1, 2])
def test_the_member_that_diverges_is_named(block: int | None) -> None:
    X, y = problem(torch.float32)
    ours = members(WIDTHS["mixed"], torch.float32)
    alone = copy.deepcopy(ours[3])
    names = [f"width {w}, seed {k}" for k, (w,) in enumerate(WIDTHS["mixed"])]
    factors = [1.0, 1.0, 1.0, 1e4, 1.0]
    with pytest.raises(Diverged, match=r"\(width 7, seed 3\)") as caught:
        train_ensemble(
            ours, X, y, squared_loss, partial(SGD, lr=0.1), 500, labels=names, lr_factors=factors, block=block
        )
    with pytest.raises(Diverged) as loop:
        train(alone, X, y, squared_loss, SGD(alone.parameters(), lr=1e3), 500, label=names[3])
    assert str(caught.value) == str(loop.value)  # the same step, too


def test_divergence_at_the_last_update_is_caught_too() -> None:
    X, y = problem()
    with pytest.raises(Diverged, match=r"a weight is not finite at step 1 \(member 0\)"):
        train_ensemble(members([(4,), (5,)]), X, y, cross_entropy, partial(SGD, lr=float("inf")), 1)


def test_large_members_are_cut_into_blocks_that_leave_the_result_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = problem()
    whole, cut = members(WIDTHS["mixed"]), members(WIDTHS["mixed"])
    a, b = rng(1), rng(1)
    h = train_ensemble(whole, X, y, cross_entropy, OPTIMIZERS["sgd"], 50, 16, a)
    monkeypatch.setattr(ensembles, "_BLOCK", 16 * 14)  # width x 16 samples: 1, 2, 7 | 7 | 16
    assert ensembles._blocks(cut, 16, None) == [[1, 4, 0], [3], [2]]
    g = train_ensemble(cut, X, y, cross_entropy, OPTIMIZERS["sgd"], 50, 16, b)
    assert_same_runs(whole, cut, h, g, 1e-10)
    assert torch.equal(a.get_state(), b.get_state())


def test_randomness_is_the_generators_alone() -> None:
    before = torch.get_rng_state()
    X, y = problem()
    train_ensemble(members([(4,), (5,)]), X, y, cross_entropy, OPTIMIZERS["sgd"], 5, 8, rng(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_errors() -> None:
    X, y = problem()
    run = partial(train_ensemble, X=X, y=y, loss=cross_entropy, optimizer=OPTIMIZERS["sgd"], steps=1)
    two = members([(4,), (5,)])
    odd = nn.Sequential(nn.Linear(D, 4), nn.Softmax(-1), nn.Linear(4, C)).double()
    for models in ([two[0], mlp((D, 4, C + 1), rng())], [two[0], mlp((D, 4, 4, C), rng())], [odd, odd],
                   [two[0], mlp((D, 4, C), rng(), nn.Tanh)], [two[0], mlp((D, 4, C), rng(), bias=False)]):  # fmt: skip
        with pytest.raises(ValueError, match="hidden widths only"):
            run(models)
    for wrong in ({"labels": ["a"]}, {"lr_factors": [1.0]}, {"X": X.expand(3, N, D)}, {"y": y.expand(3, N)},
                  {"generator": [rng()]}):  # fmt: skip
        with pytest.raises(ValueError, match="2 models, but"):
            run(two, **wrong)
    with pytest.raises(ValueError, match="LBFGS may mix"):
        run(two, optimizer=torch.optim.LBFGS)
