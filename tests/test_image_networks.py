"""The papers' image networks: their published sizes and shapes, and the augmentation against a slow loop."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from phenomena.image_networks import ResidualBlock, cropped_and_flipped, resnet, vgg11
from phenomena.networks import n_parameters

pytestmark = pytest.mark.usefixtures("one_thread")
CIFAR = (3, 32, 32)


def rng(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def weighted_layers(model: nn.Module) -> int:
    """Convolutions and linear layers."""
    return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())


@pytest.mark.parametrize(
    ("blocks", "depth", "millions"), [(3, 20, 0.27), (5, 32, 0.46), (7, 44, 0.66), (9, 56, 0.85), (18, 110, 1.7)]
)
def test_resnets_have_the_published_depth_and_size(blocks: int, depth: int, millions: float) -> None:
    """He et al. 2016, table 6: layers and millions of parameters."""
    model = resnet(CIFAR, 10, blocks, rng())
    assert weighted_layers(model) == depth
    assert round(n_parameters(model) / 1e6, 2 if millions < 1 else 1) == millions


@pytest.mark.parametrize("batch_norm", [True, False])
def test_resnet_shapes(batch_norm: bool) -> None:
    """The sides halve twice, the channels double twice, and odd sides work."""
    model = resnet((1, 9, 12), 7, 1, rng(), width=3, batch_norm=batch_norm)
    x = torch.randn(4, 1, 9, 12, generator=rng(1))
    sizes = []
    for layer in model:
        x = layer(x)
        sizes += [tuple(x.shape)] if isinstance(layer, ResidualBlock) else []
    assert sizes == [(4, 3, 9, 12), (4, 6, 5, 6), (4, 12, 3, 3)]
    assert x.shape == (4, 7)


def test_a_block_of_zero_convolutions_is_its_shortcut() -> None:
    """Without batch normalisation it starts as one: every second pixel, and zeros for the new channels."""
    x = torch.rand(2, 3, 6, 6, generator=rng())
    out = ResidualBlock(3, 5, rng(), stride=2, batch_norm=False)(x)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2])
    assert not out[:, 3:].any()
    assert torch.equal(ResidualBlock(3, 3, rng(), batch_norm=False)(x), x)


def test_a_deep_resnet_without_batch_norm_keeps_its_scale_and_learns() -> None:
    """Outputs of 110 layers are of order one, and after one step the first convolutions get a gradient."""
    model = resnet((3, 8, 8), 10, 18, rng(), width=4, batch_norm=False)
    x, y = torch.randn(16, 3, 8, 8, generator=rng(1)), torch.arange(16) % 10
    assert 0.05 < model(x).std().item() < 5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    gradients = [m.weight.grad for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(g is not None and g.any() for g in gradients)


def test_vgg11_has_eleven_less_two_layers_and_its_size() -> None:
    """Simonyan and Zisserman 2015: eight convolutions (9,220,480 numbers); one linear layer here in place of three."""
    model = vgg11(CIFAR, 10, rng())
    assert weighted_layers(model) == 8 + 1
    assert n_parameters(model) == 9_220_480 + 5130
    assert model(torch.randn(2, *CIFAR, generator=rng(1))).shape == (2, 10)
    normed = vgg11((1, 32, 64), 4, rng(), batch_norm=True, activation=nn.Tanh)
    assert sum(isinstance(m, nn.Tanh) for m in normed) == sum(isinstance(m, nn.BatchNorm2d) for m in normed) == 8
    assert normed(torch.randn(3, 1, 32, 64, generator=rng(1))).shape == (3, 4)
    with pytest.raises(ValueError, match="multiples of 32, not 28x28"):
        vgg11((1, 28, 28), 10, rng())


def test_weights_come_from_the_generator_alone() -> None:
    """The same generator gives the same network; torch's global state is neither read nor moved."""
    for build in (lambda g: resnet((3, 8, 8), 10, 1, g), lambda g: vgg11(CIFAR, 10, g, batch_norm=True)):
        before = torch.get_rng_state()
        first = build(rng(3)).state_dict()
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(99)
        second, other = build(rng(3)).state_dict(), build(rng(4)).state_dict()
        assert all(torch.equal(first[k], second[k]) for k in first)
        assert any(not torch.equal(first[k], other[k]) for k in first)
        torch.set_rng_state(before)


def test_he_initialisation_keeps_the_scale() -> None:
    """Variance 2 / (9 fan_in) of each 3x3 convolution, to four standard errors of a normal's variance."""
    for m in vgg11(CIFAR, 10, rng()):
        if isinstance(m, nn.Conv2d):
            ratio = m.weight.double().var().item() * 9 * m.in_channels / 2
            assert abs(ratio - 1) < 4 * (2 / m.weight.numel()) ** 0.5
            assert m.bias is not None
            assert not m.bias.any()


def test_errors_of_resnet() -> None:
    """No block, no channel."""
    with pytest.raises(ValueError, match="at least 1 block"):
        resnet(CIFAR, 10, 0, rng())


def test_crops_and_flips_are_windows_of_the_padded_image() -> None:
    """Each result is one window, mirrored or not, by search over all of them; all windows and both sides occur."""
    n, padding = 400, 2
    X = torch.randn(1, 2, 5, 7, generator=rng()).expand(n, 2, 5, 7)
    out = cropped_and_flipped(X, rng(1), padding=padding)
    assert out.shape == X.shape
    padded = F.pad(X[0], (padding,) * 4)
    found = []
    for image in out:
        places = [
            (top, left, flip)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for flip in (False, True)
            if torch.equal(image.flip(-1) if flip else image, padded[:, top : top + 5, left : left + 7])
        ]
        assert len(places) == 1
        found += places
    assert len(set(found)) == 50
    assert abs(sum(flip for _, _, flip in found) / n - 0.5) < 4 * 0.5 / n**0.5


def test_crops_draw_from_the_generator_and_leave_the_input() -> None:
    """The same seed, the same crops; images draw independently; no padding leaves only the flip."""
    X = torch.randn(50, 1, 6, 6, generator=rng())
    kept = X.clone()
    assert torch.equal(cropped_and_flipped(X, rng(5)), cropped_and_flipped(X, rng(5)))
    assert not torch.equal(cropped_and_flipped(X, rng(5)), cropped_and_flipped(X, rng(6)))
    assert torch.equal(X, kept)
    flipped = cropped_and_flipped(X, rng(5), padding=0)
    same = (flipped == X).flatten(1).all(1)
    mirrored = (flipped == X.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert same.any()
    assert mirrored.any()
