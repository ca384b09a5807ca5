"""Certificates for many images against the published procedure, image by image: side by side, one thread, CPU time.

python benchmarks/smoothing.py [repeats]

The published procedure is CERTIFY of Cohen et al. 2019 as its pseudocode has it, for one image after the other, in the
authors' batches of 400. `certify` runs on the same noise twice: with its own draws for each image, which come from the
generator in the order that the procedure takes them, and with shared draws, which the procedure gets by setting the
generator back before each image. The labels and the radii are compared, bit by bit. Everything counts: noise, network,
votes and bounds. The network is the chapter's, untrained, since its weights do not change its speed; its outputs are
centred, so that the images get different decisions. CPU time, because other programs may run on the machine.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import beta, norm
from torch import Tensor, nn

from phenomena.data import load
from phenomena.small_cnn import small_cnn
from phenomena.smoothing import ABSTAIN, certify

SIGMA, ALPHA, N0, WANTED = 0.25, 0.001, 100, 100_000
CASES = [(40, 1000), (20, 4000)]  # images, n
Decisions = tuple[list[int], list[float]]


def sample_under_noise(f: nn.Module, x: Tensor, n: int, generator: torch.Generator, batch: int = 400) -> Tensor:
    """Counts of the classes among n noisy copies of one image."""
    counts = torch.zeros(10, dtype=torch.int64)
    with torch.no_grad():
        while n > 0:
            m = min(batch, n)
            copies = x.repeat(m, 1, 1, 1)
            noise = torch.randn(copies.shape, generator=generator) * SIGMA
            counts += torch.bincount(f(copies + noise).argmax(1), minlength=10)
            n -= m
    return counts


def decide(counts0: Tensor, counts: Tensor) -> tuple[int, float]:
    """The rest of CERTIFY: the class of the first counts, bounded by the second ones."""
    c_A, n = int(counts0.argmax()), int(counts.sum())
    k = int(counts[c_A])
    p_A = beta.ppf(ALPHA, k, n - k + 1) if k else 0.0
    return (c_A, SIGMA * norm.ppf(p_A)) if p_A > 0.5 else (ABSTAIN, 0.0)


def published(f: nn.Module, X: Tensor, n: int) -> Decisions:
    """One image at a time: the first counts of all, then the second ones, in the order of `certify`'s draws."""
    generator = torch.Generator().manual_seed(0)
    counts0 = [sample_under_noise(f, x, N0, generator) for x in X]
    found = [decide(first, sample_under_noise(f, x, n, generator)) for first, x in zip(counts0, X, strict=True)]
    return [c for c, _ in found], [R for _, R in found]


def published_reset(f: nn.Module, X: Tensor, n: int) -> Decisions:
    """One image at a time, each with the same noise."""
    generator, found = torch.Generator(), []
    for x in X:
        generator.manual_seed(0)
        found.append(decide(sample_under_noise(f, x, N0, generator), sample_under_noise(f, x, n, generator)))
    return [c for c, _ in found], [R for _, R in found]


def ours(f: nn.Module, X: Tensor, n: int, shared: bool = False) -> Decisions:
    found = certify(f, X, SIGMA, N0, n, ALPHA, torch.Generator().manual_seed(0), shared=shared)
    return found.label.tolist(), found.radius.tolist()


def ours_shared(f: nn.Module, X: Tensor, n: int) -> Decisions:
    return ours(f, X, n, shared=True)


def main(repeats: int) -> None:
    torch.set_num_threads(1)
    data = load("mnist5k", 4000, 1000)
    X = data.X_test.view(-1, *data.image_shape)
    f = small_cnn(data.image_shape, 10, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        f[-1].bias -= f(X).mean(0)
    pairs: list[tuple[str, Callable[..., Decisions], Callable[..., Decisions]]] = [
        ("own draws", published, ours),
        ("shared draws", published_reset, ours_shared),
    ]
    table = Table(
        title=f"Thousand passes a second through the chapter's CNN (torch {torch.__version__}, {repeats} repeats)"
    )
    for column in ("images x n", "noise", "published", "ours", f"wanted {WANTED // 1000}",
                   "ratio", "min", "max", "decisions"):  # fmt: skip
        table.add_column(column, justify="right")
    for images, n in CASES:
        for what, one, many in pairs:
            rates: dict[str, list[float]] = {one.__name__: [], many.__name__: []}
            for repeat in range(repeats + 1):
                ends = []
                for run in (one, many) if repeat % 2 else (many, one):
                    began = time.process_time()
                    ends.append(run(f, X[:images], n))
                    if repeat:  # the first warms up
                        rates[run.__name__].append(images * (N0 + n) / (time.process_time() - began))
            before, after = (statistics.median(rates[run.__name__]) for run in (one, many))
            ratios = sorted(b / a for a, b in zip(rates[one.__name__], rates[many.__name__], strict=True))
            certified = sum(c != ABSTAIN for c in ends[0][0])
            table.add_row(
                f"{images} x {n}", what, f"{before / 1e3:.0f}", f"{after / 1e3:.0f}",
                "yes" if after >= WANTED else "[red]NO[/red]", f"{statistics.median(ratios):.2f}",
                f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}",
                f"same, {certified} certified" if ends[0] == ends[1] else "[red]DIFFERENT[/red]",
            )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
