"""A product with the Hessian against curvlinops and against a plain gradient: side by side, one thread, CPU time.

python benchmarks/curvature.py [repeats]

"ours" keeps the graph of the gradient; making it is counted apart, since it is paid once at each point. "in chunks" is
ours with chunk = n, which keeps nothing and rebuilds the graph in each product. Ten vectors at once count per vector.
"by hand" is the shortest way to write a product, a gradient with create_graph and a second one: "anew" builds the graph
for each vector, "kept" does so once. A product may cost 1.2 times the fastest of curvlinops and by hand, or 2.5 plain
gradients, whichever is less. All values are compared. CPU time, and runs in turn, because other programs may run.

The second table counts products, not time: what it takes to follow the largest eigenvalue along a training run, from
random vectors (cold) and from the last result (warm), by `top_eigenpairs` and by SciPy's eigsh.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from phenomena.curvature import Operator, hessian, top_eigenpairs
from phenomena.data import load
from phenomena.networks import mlp, n_parameters
from phenomena.small_cnn import small_cnn
from phenomena.training import cross_entropy, squared_loss, train

# At the end of the path: its own dependencies are not there, and nothing there may stand before the course's.
sys.path.append(str(Path(__file__).resolve().parents[1] / "_build" / "bench"))
COLUMNS, LIBRARY, GRADIENTS = 10, 1.2, 2.5
SECONDS = 0.15  # at least, for one timing of one function

Case = tuple[str, nn.Module, Tensor]


def cases() -> list[Case]:
    generator = torch.Generator().manual_seed(0)
    return [
        ("MLP 40-28-10", mlp((40, 28, 10), generator, nn.Tanh), torch.randn(500, 40, generator=generator)),
        ("MLP 784-108-50-10", mlp((784, 108, 50, 10), generator), torch.randn(500, 784, generator=generator)),
        ("CNN, 8 channels", small_cnn((1, 28, 28), 10, generator), torch.randn(200, 1, 28, 28, generator=generator)),
        (
            "CNN, 28 channels",
            small_cnn((1, 28, 28), 10, generator, 28),
            torch.randn(200, 1, 28, 28, generator=generator),
        ),
    ]


def ways(model: nn.Module, X: Tensor, y: Tensor, v: Tensor, V: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The functions to time; all but the gradient and the maker return a product."""
    from curvlinops import HessianLinearOperator

    params = list(model.parameters())
    ours, chunked = hessian(model, X, y, cross_entropy), hessian(model, X, y, cross_entropy, chunk=len(X))
    library = HessianLinearOperator(model, nn.CrossEntropyLoss(), params, [(X, y)], check_deterministic=False)

    def gradient() -> Tensor:
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(cross_entropy(model(X), y), params)])

    def making() -> Tensor:
        hessian(model, X, y, cross_entropy)
        return v

    def by_hand() -> Tensor:
        grads = torch.autograd.grad(cross_entropy(model(X), y), params, create_graph=True)
        g = torch.cat([part.reshape(-1) for part in grads])
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(g, params, v)])

    grads = torch.autograd.grad(cross_entropy(model(X), y), params, create_graph=True)
    flat = torch.cat([part.reshape(-1) for part in grads])

    def kept() -> Tensor:
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(flat, params, v, retain_graph=True)])

    return {
        "gradient": gradient,
        "making": making,
        "ours": lambda: ours @ v,
        "ours, ten": lambda: ours @ V,
        "in chunks": lambda: chunked @ v,
        "by hand, anew": by_hand,
        "by hand, kept": kept,
        "curvlinops": lambda: library @ v,
        "curvlinops, ten": lambda: library @ V,
    }


def clock(run: Callable[[], Tensor]) -> float:
    """CPU milliseconds of one call: the mean over as many as fill SECONDS."""
    calls, began = 0, time.process_time()
    while (passed := time.process_time() - began) < SECONDS:
        run()
        calls += 1
    return 1e3 * passed / calls


def agree(results: dict[str, Tensor]) -> float:
    """The largest difference of two products with the same vectors, relative to the largest entry."""
    worst = 0.0
    for one, other in (("ours", "curvlinops"), ("in chunks", "curvlinops"), ("by hand, anew", "curvlinops"),
                       ("ours, ten", "curvlinops, ten")):  # fmt: skip
        worst = max(worst, float((results[one] - results[other]).abs().max() / results[other].abs().max()))
    return worst


def main(repeats: int) -> int:
    try:
        import curvlinops  # noqa: F401
    except ImportError:
        print("curvlinops is not in _build/bench: run `make bench`, which puts it there", file=sys.stderr)
        return 1
    warnings.simplefilter("ignore")  # of the library's imports
    torch.set_num_threads(1)
    table = Table(title=f"Milliseconds a vector (torch {torch.__version__}, medians of {repeats} rounds)")
    keys = ["gradient", "making", "ours", "ours, ten", "in chunks", "by hand, anew", "by hand, kept", "curvlinops",
            "curvlinops, ten"]  # fmt: skip
    for column in ("network", "p", "n", *keys, "ours/gradient", "ours/fastest", "wanted", "values"):
        table.add_column(column, justify="right")
    missed = False
    for name, model, X in cases():
        generator = torch.Generator().manual_seed(1)
        p, y = n_parameters(model), torch.randint(10, (len(X),), generator=generator)
        V = torch.randn(p, COLUMNS, generator=generator)
        runs = ways(model, X, y, V[:, 0].clone(), V)
        results = {key: run() for key, run in runs.items()}  # and warms up
        times: dict[str, list[float]] = {key: [] for key in runs}
        for repeat in range(repeats):
            for key in list(runs) if repeat % 2 else reversed(list(runs)):
                times[key].append(clock(runs[key]) / (COLUMNS if key.endswith("ten") else 1))
        ms = {key: statistics.median(values) for key, values in times.items()}
        ours = min(ms["ours"], ms["ours, ten"])
        fastest = min(value for key, value in ms.items() if key.startswith(("by hand", "curvlinops")))
        good = ms["ours"] <= GRADIENTS * ms["gradient"] and ours <= LIBRARY * fastest
        off = agree(results)
        missed |= not good or off > 1e-4
        table.add_row(
            name, f"{p:,}", str(len(X)), *(f"{ms[key]:.2f}" for key in keys), f"{ms['ours'] / ms['gradient']:.2f}",
            f"{ours / fastest:.2f}", "yes" if good else "[red]NO[/red]",
            f"same to {off:.0e}" if off <= 1e-4 else f"[red]off by {off:.0e}[/red]",
        )  # fmt: skip
    Console(width=210).print(table)
    print(f"Wanted: ours/gradient at most {GRADIENTS} for one vector, ours/fastest at most {LIBRARY}.")
    Console(width=210).print(products())
    return int(missed)


def products(steps: int = 1000, every: int = 20) -> Table:
    """Products a call along descent on the square loss of mnist1d, which passes its edge of stability."""
    data, generator = load("mnist1d", 500, 500), torch.Generator().manual_seed(0)
    X, y = data.X_train - data.X_train.mean(0), data.y_train
    model = mlp((40, 32, 32, 10), generator, nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    last: dict[str, Any] = {}
    counts: dict[str, list[int]] = {}
    errors: dict[str, float] = {}

    def record(step: int, model: nn.Module) -> dict[str, float]:
        H = hessian(model, X, y, squared_loss)
        count = 0

        def product(v: Tensor) -> Tensor:
            nonlocal count
            count += 1 if v.dim() == 1 else len(v)
            return (H @ v.mT).mT if v.dim() == 2 else H @ v

        A = Operator(product, H.shape[0], H.dtype, H.device)
        truth = float(top_eigenpairs(H, 1, generator, tol=1e-6).values)
        v0 = torch.randn(H.shape[0], generator=generator).numpy()
        calls: dict[str, Callable[[], Any]] = {
            "ours, 1 pair, cold": lambda: top_eigenpairs(A, 1, generator),
            "ours, 1 pair, warm": lambda: top_eigenpairs(A, 1, generator, start=last.get("ours, 1 pair, warm")),
            "ours, 2 pairs, cold": lambda: top_eigenpairs(A, 2, generator),
            "ours, 2 pairs, warm": lambda: top_eigenpairs(A, 2, generator, start=last.get("ours, 2 pairs, warm")),
            "eigsh, 1 pair, cold": lambda: eigsh(A.scipy(), 1, which="LA", tol=1e-3, v0=v0),
            "eigsh, 1 pair, warm": lambda: eigsh(
                A.scipy(), 1, which="LA", tol=1e-3, ncv=10, v0=last.get("eigsh, 1 pair, warm", (0, v0))[1]
            ),
        }
        for name, call in calls.items():
            count = 0
            last[name] = call()
            counts.setdefault(name, []).append(count)
            off = abs(float(last[name][0][0]) / truth - 1)
            errors[name] = max(errors.get(name, 0.0), off)
        return {}

    train(model, X, y, squared_loss, optimizer, steps, record=record, record_at=range(0, steps + 1, every))
    table = Table(title=f"Products a call, every {every} steps of a run of {steps}, residual 1e-3")
    for column in ("solver", "first", "mean of the rest", "most", "largest relative error of the top eigenvalue"):
        table.add_column(column, justify="right")
    for name, n in counts.items():
        table.add_row(name, str(n[0]), f"{statistics.mean(n[1:]):.1f}", str(max(n[1:])), f"{errors[name]:.0e}")
    return table


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
