"""What a network does not know: the disagreement of its sampled selves, and what it means under attack.

A Bayesian network predicts with samples of its weights: masks of dropout (Gal & Ghahramani 2016), or the members of an
ensemble (Lakshminarayanan et al. 2017). Their probabilities P (samples, n, C) have the mean p̄, and

    H[p̄] = E H[p] + I:   predictive entropy = expected entropy + mutual information, in nats

The first part is the doubt that every sample shares, as on the border of two classes; the second, I = E KL(p ‖ p̄), is
their disagreement (Houlsby et al. 2011), large far from the data. One deterministic network has I = 0 exactly.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from phenomena.errors import Diverged

Model = Callable[[Tensor], Tensor]  # inputs (n, ...) -> logits (n, C)
Models = Model | Sequence[Model]


class Dropout(nn.Module):
    """Set each unit to 0 with probability p, and divide the others by 1 - p; the masks come from `generator`.

    `stays` keeps it on in eval mode too, so that the network is a sample of the posterior at every call (MC dropout).
    """

    def __init__(self, p: float, generator: torch.Generator, *, stays: bool = True) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"the share of units that drop out must be in [0, 1), not {p}")
        self.p, self.generator, self.stays = p, generator, stays

    def forward(self, X: Tensor) -> Tensor:
        """X with a fresh mask for each of its entries; X itself when off."""
        if self.p == 0 or not (self.training or self.stays):
            return X
        kept = torch.rand(X.shape, generator=self.generator, dtype=X.dtype, device=X.device) >= self.p
        return X * kept / (1 - self.p)


def sampled_logits(models: Models, X: Tensor, samples: int = 1) -> Tensor:
    """Outputs (samples, n, C) of the sampled networks: `samples` calls of each model, one or several. With gradients.

    Diverged: an output is not finite.
    """
    members = models if isinstance(models, Sequence) and not isinstance(models, nn.Module) else [models]
    f = torch.stack([f(X) for f in members for _ in range(samples)])
    if not f.isfinite().all():
        raise Diverged("the network's outputs are not finite")
    return f


@torch.no_grad()
def sampled_probabilities(models: Models, X: Tensor, samples: int = 1) -> Tensor:
    """P = softmax(f(X)) (samples, n, C) float64 of the sampled networks, as in `sampled_logits`."""
    return sampled_logits(models, X, samples).double().softmax(-1)


def mean_prediction(models: Models, samples: int = 1) -> Callable[[Tensor], Tensor]:
    """X -> ln p̄(X) (n, C), of fresh samples at each call: logits of p̄, so that attacks can go through the mean."""

    def f(X: Tensor) -> Tensor:
        log_p = sampled_logits(models, X, samples).log_softmax(-1)
        return log_p.logsumexp(0) - math.log(len(log_p))

    return f


def entropy(p: Tensor) -> Tensor:
    """-Σ_c p_c ln p_c in nats, of p (..., C): (...)."""
    return torch.special.entr(p).sum(-1)


def predictive_entropy(P: Tensor) -> Tensor:
    """H[p̄] (n,) in nats, of P (samples, n, C)."""
    return entropy(P.mean(0))


def expected_entropy(P: Tensor) -> Tensor:
    """E H[p] (n,) in nats: the doubt within the samples of P (samples, n, C)."""
    return entropy(P).mean(0)


def mutual_information(P: Tensor) -> Tensor:
    """I = H[p̄] - E H[p] (n,) in nats, in [0, ln C]: the disagreement between the samples of P (samples, n, C).

    Computed as E KL(p ‖ p̄), which equal samples make 0 exactly. It is biased down by about (C - 1)/(2 samples) at most.
    """
    mean = P[0] + (P - P[0]).mean(0)  # free of rounding errors where the samples are equal
    kl = torch.special.xlogy(P, P / mean.clamp(min=torch.finfo(P.dtype).tiny)).sum(-1)
    return kl.mean(0).clamp(min=0)


def alpha_loss(f: Tensor, y: Tensor, alpha: float) -> Tensor:
    """-(1/α) mean_n ln (1/K) Σ_k p_k(y_n | x_n)^α in nats, a scalar (Li & Gal 2017, the induced classification loss).

    f (K, n, C) are the logits of K sampled networks, y (n,) labels. α -> 0 is the mean of their cross entropies
    (dropout's own loss, variational inference), α = 1 the cross entropy of their mean probabilities.
    """
    log_p = f.log_softmax(-1).gather(-1, y.expand(f.shape[:-1])[..., None])[..., 0]  # (K, n)
    if alpha == 0:
        return -log_p.mean()
    return -((alpha * log_p).logsumexp(0) - math.log(len(f))).mean() / alpha
