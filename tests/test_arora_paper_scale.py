import numpy as np
import pytest
import torch
from program_fixtures import program, tiny_cifar
from test_reproductions import CARDS

from phenomena.convolutional_ntk import cntk


@pytest.fixture
def arora():
    return program("arora2019exact")


@pytest.fixture
def images():
    return torch.rand(11, 2, 4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("block", [3, 4, 100])
def test_the_tiles_make_the_whole_kernel(arora, images, gap, block, tmp_path):
    K = arora.kernel_by_tiles(images, 7, 2, gap, tmp_path, block, progress=False)
    np.testing.assert_allclose(K, cntk(images, images[:7], depth=2, gap=gap), rtol=1e-5)


def test_an_interrupted_kernel_resumes_where_it_stopped(arora, images, tmp_path, monkeypatch):
    calls = []

    def stopping(X, Z, **options):
        calls.append((len(X), len(Z)))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return cntk(X, Z, **options)

    monkeypatch.setattr(arora, "cntk", stopping)
    with pytest.raises(KeyboardInterrupt):
        arora.kernel_by_tiles(images, 7, 2, False, tmp_path, 3, progress=False)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    K = arora.kernel_by_tiles(images, 7, 2, False, tmp_path, 3, progress=False)
    # rows 0-3-6-7 and 7-10-11, columns 0-3-6-7: 6 tiles of the triangle and 6 of the test images
    assert len(calls) == 4 + 12 - 3
    np.testing.assert_allclose(K, cntk(images, images[:7], depth=2), rtol=1e-5)
    assert not list(tmp_path.glob("*.part"))


def test_a_tile_that_was_not_written_whole_is_made_again(arora, images, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(arora.os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            arora.kernel_by_tiles(images, 7, 2, False, tmp_path, 100, progress=False)
    assert not list(tmp_path.glob("*.npy"))
    K = arora.kernel_by_tiles(images, 7, 2, False, tmp_path, 100, progress=False)
    np.testing.assert_allclose(K, cntk(images, images[:7], depth=2), rtol=1e-5)


def tiny_and_small(name, n_train, n_test, seed, download):
    """`tiny_cifar` in pictures of 8x8, for the kernels with pooling."""
    assert (n_train, n_test, seed) == (None, None, 0)
    data = tiny_cifar(name, download, seed)
    X, X_test = (A.view(-1, 3, 32, 32)[:, :, ::6, ::6].flatten(1) for A in (data.X_train[:60], data.X_test[:20]))
    return data._replace(
        X_train=X, y_train=data.y_train[:60], X_test=X_test, y_test=data.y_test[:20], image_shape=(3, 6, 6)
    )


def test_the_table_is_measured_and_no_kernel_twice(arora, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(arora, "load", tiny_and_small)
    values = arora.cifar10(depths=(3, 4), folder=tmp_path, block=40)
    assert capsys.readouterr().err.count("tiles") == 4 * 5
    wanted = {key for claim in CARDS["arora2019exact"].claims if claim.scale == "paper" for key in claim.keys}
    assert values.keys() == {key for key in wanted if key.endswith(("_3", "_4"))}
    assert all(20 < value <= 100 for value in values.values())  # a class is a colour; chance is 10
    monkeypatch.setattr(arora, "cntk", None)
    assert arora.cifar10(depths=(3, 4), folder=tmp_path, block=40, progress=False) == values


def test_a_depth_of_the_table_counts_the_last_layer(arora, tmp_path, monkeypatch):
    monkeypatch.setattr(arora, "load", tiny_and_small)
    arora.cifar10(depths=(3,), folder=tmp_path, block=100, progress=False)
    data = tiny_and_small("cifar10", None, None, 0, True)
    X = data.X_train.view(-1, 3, 6, 6)
    X = (X - X.mean((0, 2, 3), keepdim=True)) / X.std((0, 2, 3), keepdim=True)
    for name, gap in (("cntk", False), ("gap", True)):
        tile = np.load(tmp_path / f"{name}_cifar10_3-60-80" / "0-0.npy")
        np.testing.assert_allclose(tile, cntk(X, X.clone(), depth=2, gap=gap), rtol=1e-4)
