"""Many small networks trained at once: the loop of `phenomena.training`, with all members in each product.

A step of a small network is almost all overhead. Stacking M members of the same sizes turns each layer into one
batched product, Z_m = W_m A_m + b_m for m = 1..M; members of other widths get a product of their own, with no
padding. Activations are (units, samples), the units of all members below each other, so that everything that
acts on single numbers (bias, activation, optimizer) is one operation whatever the widths, and so is a first
layer whose input all members share: its weights are just rows of one tall matrix.
"""

import math
from collections.abc import Callable, Collection, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from phenomena.training import Diverged, History, Loss, Record, Schedule, append, batches, check_weights, train

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh, nn.Sigmoid, nn.Identity)
_OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad)  # AdamW is an Adam
# Hidden units x samples trained together. More no longer fits a core's cache, and is slower than one by one.
_BLOCK = 3 * 2**17


class Ensemble:
    """M networks (Linear, activation, Linear, ..., Linear) whose hidden widths may differ, as one function.

    `parameters` is ordered as a single network's (W_1, b_1, W_2, b_2, ...), each entry flat and holding that
    layer of every member, copied from `models`. Neighbours of equal sizes share a batched product.
    """

    def __init__(self, models: Sequence[nn.Sequential]) -> None:
        self.models = models
        linears = [[layer for layer in model if isinstance(layer, nn.Linear)] for model in models]
        sizes = [(layers[0].in_features, *(layer.out_features for layer in layers)) for layers in linears]
        # what must be equal: kinds of layers, biases, frozen layers, input size, output size
        kinds = {
            (*((type(x), *(p.requires_grad for p in x.parameters())) for x in model), s[0], s[-1])
            for model, s in zip(models, sizes, strict=True)
        }
        self.activations = list(models[0])[1::2]
        alternate = len(models[0]) == 2 * len(linears[0]) - 1
        if len(kinds) > 1 or not alternate or not all(isinstance(a, _ACTIVATIONS) for a in self.activations):
            raise ValueError("members must be Linear, activation, ..., Linear and differ in hidden widths only")
        self.groups = [(len(list(run)), s) for s, run in groupby(sizes)]  # (members, their layer sizes)
        self.bias = linears[0][0].bias is not None
        self.parameters = [
            torch.cat([p.detach().flatten() for p in ps]).requires_grad_(ps[0].requires_grad) for ps in self._layers()
        ]

    def _layers(self) -> list[tuple[Tensor, ...]]:
        """For each entry of `parameters`, the members' own tensors."""
        return list(zip(*(model.parameters() for model in self.models), strict=True))

    def __call__(self, X: Tensor) -> Tensor:
        """Outputs (M, n, C) of all members on shared inputs X (n, d), or of member m on X[m], X (M, n, d)."""
        weights = self.parameters[::2] if self.bias else self.parameters
        biases = self.parameters[1::2] if self.bias else [X.new_zeros(1)] * len(weights)
        A = X.mT  # (d, n) or (M, d, n); from the first layer on (all members' units, n)
        for k, (W, b) in enumerate(zip(weights, biases, strict=True)):
            A = self._layer(k, W, b, self.activations[k - 1](A) if k > 0 else A)
        return A.view(len(self.models), -1, X.shape[-2]).mT

    def _layer(self, k: int, W: Tensor, b: Tensor, A: Tensor) -> Tensor:
        """Z_m = W_m A_m + b_m of layer k for all members, (all members' units, n)."""
        n = A.shape[-1]
        if k == 0 and A.dim() == 2:
            return torch.addmm(b.unsqueeze(1), W.view(-1, len(A)), A)
        A_g = _split(A, [M if k == 0 else M * s[k] for M, s in self.groups])
        W_g = _split(W, [M * s[k] * s[k + 1] for M, s in self.groups])
        Z_g = [
            torch.bmm(w.view(M, s[k + 1], s[k]), a.view(M, s[k], n)).view(-1, n)
            for (M, s), w, a in zip(self.groups, W_g, A_g, strict=True)
        ]
        return (torch.cat(Z_g) if len(Z_g) > 1 else Z_g[0]) + b.unsqueeze(1)

    def spread(self, factors: Sequence[float]) -> list[Tensor]:
        """One number a member, (M,), repeated into the shape of each entry of `parameters`."""
        return [torch.cat([torch.full((p.numel(),), c, dtype=p.dtype) for p, c in zip(ps, factors, strict=True)])
                for ps in self._layers()]  # fmt: skip

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the current weights into the models that the ensemble was made of."""
        for flat, ps in zip(self.parameters, self._layers(), strict=True):
            for p, values in zip(ps, flat.split([p.numel() for p in ps]), strict=True):
                p.copy_(values.view_as(p))


def _split(T: Tensor, counts: list[int]) -> Sequence[Tensor]:
    return T.split(counts) if len(counts) > 1 else [T]  # split's backward copies, also when there is one part


def train_ensemble(
    models: Sequence[nn.Sequential], X: Tensor, y: Tensor, loss: Loss,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int, batch_size: int | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    *, lr_factors: Sequence[float] | None = None, schedule: Schedule | None = None,
    record: Record | None = None, record_at: Collection[int] = (), labels: Sequence[str] | None = None,
    progress: bool = False, block: int | None = None,
) -> list[History]:  # fmt: skip
    """Train M models in place, each as `train` would from the same weights, data and batches, up to rounding.

    X is (n, d) for all or (M, n, d); y (n,) or (M, n), float targets (n, C) or (M, n, C); one generator draws
    batches that all members see, M generators draw each member's own. optimizer(parameters) makes an SGD,
    Adam, AdamW, RMSprop or Adagrad, say functools.partial(torch.optim.SGD, lr=0.1), on the list W_1, b_1, W_2,
    b_2, ... (as model.parameters(), but flat); lr_factors (M,) multiply the members' learning rates. `record`
    sees each member's model. Raises Diverged naming the member by `labels`; the weights are then no result.
    `block`: how many members are trained together; by default as many as the cache holds. Use one thread
    (torch.set_num_threads(1)): products this small gain nothing from a second, and on a busy machine wait for
    it, up to a hundred times as long.
    """
    M, n = len(models), X.shape[-2]
    own_X, own_y = X.dim() == 3, y.dim() == (3 if y.is_floating_point() else 2)
    labels = [f"member {m}" for m in range(M)] if labels is None else labels
    generators = generator if isinstance(generator, Sequence) else None
    for there in (labels, lr_factors, generators, X if own_X else None, y if own_y else None):
        if there is not None and len(there) != M:
            raise ValueError(f"{M} models, but labels, lr_factors, generators or data for {len(there)}")
    before = generator.get_state() if isinstance(generator, torch.Generator) else None
    histories: dict[int, History] = {}
    for members in _blocks(models, batch_size or n, block):
        if isinstance(generator, torch.Generator) and before is not None:
            generator.set_state(before)  # every block sees the same batches
        own = [generator] if not isinstance(generator, Sequence) else [generator[m] for m in members]
        factors = None if lr_factors is None else [lr_factors[m] for m in members]
        if len(members) == 1:  # too large to gain from company: the loop itself
            m = members[0]
            histories[m] = train(
                models[m], X[m] if own_X else X, y[m] if own_y else y, loss,
                optimizer(list(models[m].parameters())), steps, batch_size, own[0],
                schedule=_times(factors[0], schedule) if factors else schedule,
                record=record, record_at=record_at, label=labels[m], progress=progress,
            )  # fmt: skip
            continue
        ensemble = Ensemble([models[m] for m in members])
        data, targets = X[members] if own_X else X, y[members] if own_y else y
        batch = [batches(n, batch_size, g) for g in own]
        updates = optimizer(ensemble.parameters)
        if not isinstance(updates, _OPTIMIZERS):
            raise ValueError(f"{type(updates).__name__} may mix the members' updates: train them one by one")
        scales = ensemble.spread(factors) if factors else None
        rates = [group["lr"] for group in updates.param_groups]
        losses = torch.empty(len(members), steps, dtype=X.dtype)
        recorded: list[dict[str, list[float]]] = [{} for _ in members]
        for step in tqdm(range(steps), desc=f"{len(members)} of {M} networks", disable=not progress):
            if record and step in record_at:
                ensemble.write_back()
                for k, m in enumerate(members):
                    append(recorded[k], step, record(step, models[m]))
            i = [next(b) for b in batch]
            values = loss(ensemble(_take(data, i, own_X)), _take(targets, i, own_y))  # (M,)
            total = values.sum()  # member m's weights are in term m only: d total = d values[m]
            losses[:, step] = values.detach()
            if not math.isfinite(total.item()):
                k = int(values.nan_to_num(nan=math.inf).argmax())
                raise Diverged(f"the loss is {losses[k, step]:g} at step {step} ({labels[members[k]]})")
            for group, rate in zip(updates.param_groups, rates, strict=True):
                group["lr"] = rate * (schedule(step) if schedule else 1.0)
            updates.zero_grad()
            total.backward()
            _scaled_step(updates, ensemble.parameters, scales)
        ensemble.write_back()
        for k, m in enumerate(members):
            check_weights(models[m], steps, labels[m])
            if record and steps in record_at:
                append(recorded[k], steps, record(steps, models[m]))
            histories[m] = History(losses[k], recorded[k])
    return [histories[m] for m in range(M)]


def _take(T: Tensor, indices: Sequence[Tensor | None], own: bool) -> Tensor:
    """The batch of shared T (n, ...) or of own T (M, n, ...), by one index tensor for all members or M of them."""
    given = [i for i in indices if i is not None]
    if len(given) <= 1:
        return T if not given else T[:, given[0]] if own else T[given[0]]
    i = torch.stack(given)  # (M, B)
    return T[torch.arange(len(i)).unsqueeze(1), i] if own else T[i]


@torch.no_grad()
def _scaled_step(optimizer: torch.optim.Optimizer, parameters: list[Tensor], scales: list[Tensor] | None) -> None:
    """One update, each number's times its scale: that is the learning rate, as an update is linear in it."""
    before = [p.clone() for p in parameters] if scales else []
    optimizer.step()
    for p, old, scale in zip(parameters if scales else [], before, scales or [], strict=True):
        torch.lerp(old, p, scale, out=p)


def _times(factor: float, schedule: Schedule | None) -> Schedule:
    return lambda step: factor * (schedule(step) if schedule else 1.0)


def _blocks(models: Sequence[nn.Module], samples: int, block: int | None) -> list[list[int]]:
    """Members in the order of their sizes, cut before hidden units x samples, or their count, is too large."""
    shapes = [[tuple(p.shape) for p in model.parameters()] for model in models]
    blocks: list[list[int]] = []
    room = 0
    for m in sorted(range(len(models)), key=shapes.__getitem__):
        rows = [shape[0] for shape in shapes[m] if len(shape) == 2]
        cost = samples * sum(rows[:-1] or rows) if block is None else 1
        if not blocks or cost > room:
            blocks.append([])
            room = _BLOCK if block is None else block
        blocks[-1].append(m)
        room -= cost
    return blocks
