import types

import pytest
import torch
from torch import nn
from torch.nn import functional

from phenomena import empirical_ntk as module
from phenomena.empirical_ntk import empirical_ntk, linearised
from phenomena.errors import Diverged
from phenomena.wide import ntk_cnn, ntk_mlp

DTYPE = torch.float64
WAYS = ("factorised", "contraction", "products")


pytestmark = pytest.mark.usefixtures("one_thread")


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def fill(model):
    """A torch module with weights of a seed, in float64."""
    generator = torch.Generator().manual_seed(3)
    model.to(DTYPE)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=DTYPE) / 2)
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.fill_(0.3)
                m.running_var.fill_(2.0)
    return model


def plain(in_place=False):
    return fill(
        nn.Sequential(
            nn.Linear(5, 9), nn.ReLU(inplace=in_place), nn.Linear(9, 8, bias=False), nn.Tanh(), nn.Linear(8, 2)
        )
    )


def frozen():
    model = plain()
    for p in (model[0].weight, model[2].weight, model[4].bias):
        p.requires_grad_(False)
    return model


class Tied(nn.Module):
    """x -> Wᵀ tanh(W x): the weight is used once through its layer and once without."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5, bias=False)

    def forward(self, x):
        return functional.linear(torch.tanh(self.layer(x)), self.layer.weight.T)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Centred(nn.Module):
    """Every output depends on the whole batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, x):
        return self.layer(x - x.mean(0))


def mlp(outputs=3, width=21):
    return ntk_mlp(5, width, 3, torch.Generator().manual_seed(0), "erf", 0.5, outputs, DTYPE)


def cnn(outputs=3, gap=False):
    return ntk_cnn((2, 5, 4), 6, 2, torch.Generator().manual_seed(0), gap, outputs, DTYPE)


def batch_norm():
    return fill(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)))


def slow(model, X, Z):
    """Θ from one backward pass an input and output, parameters written out in one long vector."""

    def jacobian(X):
        parameters = [p for p in model.parameters() if p.requires_grad]
        rows = [
            torch.cat(
                [g.flatten() for g in torch.autograd.grad(o, parameters, retain_graph=True, materialize_grads=True)]
            )
            for x in X
            for o in model(x[None])[0].flatten()
        ]
        return torch.stack(rows).reshape(len(X), -1, len(rows[0]))

    return torch.einsum("nap,mbp->nmab", jacobian(X), jacobian(Z))


VECTORS, IMAGES = (5,), (2, 5, 4)
NETWORKS = {
    "mlp": (mlp, VECTORS, WAYS),
    "one output": (lambda: mlp(1), VECTORS, WAYS),
    "torch": (plain, VECTORS, WAYS),
    "in place": (lambda: plain(True), VECTORS, WAYS),
    "frozen": (frozen, VECTORS, WAYS),
    "cnn": (cnn, IMAGES, WAYS[1:]),
    "pooled cnn": (lambda: cnn(2, True), IMAGES, WAYS[1:]),
    "batch norm": (lambda: batch_norm().eval(), IMAGES, WAYS[1:]),
    "tied": (lambda: fill(Tied()), VECTORS, WAYS[1:]),
    "twice": (lambda: fill(Twice()), VECTORS, WAYS[1:]),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("chunk", [None, 2])
def test_all_ways_are_the_slow_one(name, own, chunk):
    make, shape, ways = NETWORKS[name]
    model, X, Z = make(), inputs(5, *shape), None if own else inputs(3, *shape, seed=1)
    want = slow(model, X, X if own else Z)
    for how in (*ways, "auto"):
        ntk = empirical_ntk(model, X, Z, how, chunk=chunk)
        assert ntk.dtype == DTYPE
        assert not ntk.requires_grad
        assert torch.allclose(ntk, want, rtol=1e-11, atol=1e-11 * float(want.abs().max())), how


@pytest.mark.parametrize("name", ["cnn", "batch norm", "tied", "twice"])
def test_factorised_is_refused_where_it_does_not_hold(name):
    make, shape, _ = NETWORKS[name]
    with pytest.raises(ValueError, match="how='contraction'"):
        empirical_ntk(make(), inputs(3, *shape), how="factorised")


@pytest.mark.parametrize("how", ["auto", *WAYS])
def test_inputs_that_interact_are_refused(how):
    with pytest.raises(ValueError, match="other inputs"):
        empirical_ntk(fill(Centred()), inputs(3, 5), how=how)


def test_factorised_is_refused_for_sequences():
    with pytest.raises(ValueError, match="one vector an example"):
        empirical_ntk(fill(nn.Sequential(nn.Linear(5, 2), nn.Flatten())), inputs(3, 4, 5), how="factorised")


def test_outputs_of_shape_n():
    model = nn.Sequential(mlp(1), nn.Flatten(0))
    X = inputs(4, 5)
    for how in WAYS:
        assert torch.allclose(empirical_ntk(model, X, how=how), slow(mlp(1), X, X))


@pytest.mark.parametrize("how", ["auto", *WAYS])
def test_the_model_is_left_alone(how):
    model = plain()
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():  # whatever the caller's mode
        empirical_ntk(model, inputs(3, 5), how=how)
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)
        assert p.grad is None


def test_symmetric_and_positive_semidefinite():
    ntk = empirical_ntk(mlp(), inputs(30, 5))
    assert torch.equal(ntk, ntk.transpose(0, 1).transpose(2, 3))
    assert torch.linalg.eigvalsh(ntk.transpose(1, 2).reshape(90, 90))[0] > -1e-10


@pytest.mark.parametrize(
    ("make", "shape", "want"),
    [
        (mlp, VECTORS, "factorised"),
        (cnn, IMAGES, "contraction"),  # the weights are few and used often
        (lambda: fill(nn.Sequential(nn.Linear(5, 300), nn.LayerNorm(300), nn.Linear(300, 20))), VECTORS, "products"),
    ],
)
def test_auto_chooses_by_size(make, shape, want, monkeypatch):
    taken = []
    for way in WAYS:
        original = getattr(module, f"_{way}")
        monkeypatch.setattr(module, f"_{way}", lambda *a, way=way, original=original: taken.append(way) or original(*a))
    empirical_ntk(make(), inputs(3, *shape))
    assert taken == [want]


@pytest.mark.parametrize("how", ["auto", *WAYS])
def test_little_memory_changes_nothing_but_the_chunks(how, monkeypatch):
    model, X = mlp(), inputs(6, 5)
    want = empirical_ntk(model, X, how=how)
    memory = types.SimpleNamespace(available=4 * 3 * 8 * 3000)  # about two Jacobians in a quarter
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: memory)
    assert torch.allclose(empirical_ntk(model, X, how=how), want)


def test_products_where_the_jacobian_does_not_fit(monkeypatch):
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=1))
    monkeypatch.setattr(module, "_contraction", None)
    model, X = cnn(), inputs(3, *IMAGES)
    assert torch.allclose(empirical_ntk(model, X), slow(model, X, X))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(5), nn.Dropout(0.5), nn.BatchNorm1d(5, track_running_stats=False)])
def test_layers_that_depend_on_the_batch_or_on_chance_are_refused(layer):
    model = fill(nn.Sequential(layer, nn.Linear(5, 2)))
    for function in (lambda: empirical_ntk(model, inputs(3, 5)), lambda: linearised(model)):
        with pytest.raises(ValueError, match="eval"):
            function()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="how"):
        empirical_ntk(mlp(), inputs(3, 5), how="magic")
    with pytest.raises(ValueError, match="requires gradients"):
        empirical_ntk(mlp().requires_grad_(False), inputs(3, 5))
    with pytest.raises(ValueError, match="outputs"):
        empirical_ntk(nn.LSTM(5, 3).to(DTYPE), inputs(3, 5))


def test_a_network_that_overflowed_is_no_data_point():
    model = plain()
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    for how in ("auto", *WAYS):
        with pytest.raises(Diverged):
            empirical_ntk(model, inputs(3, 5), how=how)


@pytest.mark.parametrize("name", NETWORKS)
def test_linearised_is_the_network_at_first_and_then_a_straight_line(name):
    make, shape, _ = NETWORKS[name]
    model, X = make(), inputs(4, *shape)
    line = linearised(model)
    assert torch.allclose(line(X), model(X))
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert [p.shape for p in line.parameters()] == [p.shape for p in trainable]
    direction = [inputs(*p.shape, seed=5) for p in trainable]
    with torch.no_grad():
        for delta, v in zip(line.parameters(), direction, strict=True):
            delta.copy_(v)
        slope, step, ends = line(X) - model(X), 1e-5, []
        for move in (step, -2 * step):
            for p, v in zip(trainable, direction, strict=True):
                p.add_(move * v)
            ends.append(model(X))
    assert torch.allclose((ends[0] - ends[1]) / (2 * step), slope, rtol=1e-6, atol=1e-7)


def test_linearised_learns_by_its_ntk():
    model, X, Z, Y = mlp(), inputs(6, 5), inputs(3, 5, seed=1), inputs(6, 3, seed=2)
    line, rate = linearised(model), 0.02
    f, g = model(X).detach(), model(Z).detach()
    train, test = empirical_ntk(model, X), empirical_ntk(model, Z, X)
    optimiser = torch.optim.SGD(line.parameters(), rate)
    for _ in range(5):
        optimiser.zero_grad()
        (((line(X) - Y) ** 2).sum() / 2).backward()
        optimiser.step()
        residual = f - Y
        f = f - rate * torch.einsum("nmab,mb->na", train, residual)
        g = g - rate * torch.einsum("nmab,mb->na", test, residual)
    assert torch.allclose(line(X), f, atol=1e-10)
    assert torch.allclose(line(Z), g, atol=1e-10)
    assert (f - Y).norm() < (model(X) - Y).norm()


def test_linearised_is_a_module_of_its_own():
    model, X = mlp(), inputs(3, 5)
    before = model(X).detach()
    line = linearised(model)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.allclose(line(X), before)
    assert line.float()(X.float()).dtype == torch.float32  # the frozen weights move with the module
