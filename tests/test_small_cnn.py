"""The chapter's CNN: its shape, its initialisation, its one input that it refuses."""

import pytest
import torch

from phenomena.small_cnn import small_cnn

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_maps_images_to_classes_and_is_drawn_by_the_generator_alone():
    draws = [small_cnn((3, 8, 12), 5, torch.Generator().manual_seed(seed), channels=4) for seed in (0, 0, 1)]
    X = torch.rand(7, 3, 8, 12, generator=torch.Generator().manual_seed(2))
    same, again, other = (net(X) for net in draws)
    assert same.shape == (7, 5)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_he_initialisation_keeps_the_scale_of_the_activations():
    """E|f|² of a He layer is twice the mean square of what it gets, half of which the ReLU before it has taken away."""
    X = torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    nets = [small_cnn((1, 28, 28), 10, torch.Generator().manual_seed(seed), channels=64) for seed in range(5)]
    squares = torch.stack([net(X).square().mean() for net in nets])
    # the frame of zeros around each image takes some of the convolutions' inputs away: 2 (15/16)⁴ without it
    assert 1.4 < float(squares.detach().mean()) < 2.2


def test_sides_must_divide_by_four():
    with pytest.raises(ValueError, match=r"multiples of 4, not 30 x 28"):
        small_cnn((1, 30, 28), 10, torch.Generator())
