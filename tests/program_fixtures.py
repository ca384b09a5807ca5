"""A paper's program as a module, and a tiny CIFAR-10 for its paper scale."""

import importlib.util
from types import ModuleType

import torch

from phenomena.data import Dataset
from practicum.runs import ROOT


def program(paper: str) -> ModuleType:
    """reproductions/<paper>/reproduce.py, imported anew at each call."""
    spec = importlib.util.spec_from_file_location(paper, ROOT / "reproductions" / paper / "reproduce.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_cifar(name, download, seed):
    """What `load("cifar10", download=True)` gives, in small: a class is a colour."""
    assert (name, download) == ("cifar10", True)
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(192) % 10
    X = 0.3 * torch.rand(192, 3, 32, 32, generator=generator) + 0.07 * y[:, None, None, None]
    return Dataset("cifar10", X.flatten(1)[:160], y[:160], X.flatten(1)[160:], y[160:], (3, 32, 32))
