# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 1: Generalization
#
# **Before you read on, write down three guesses.** A network learns 300 digits, and reaches a training error of zero.
# Now every label is replaced by a random one; all else stays.
#
# - What is its training error in the end?
# - A theorem bounds the risk by the number of weights. The network has more weights than there are digits. Is the bound
#   0.05, 0.5, or 5?
# - How many weights are enough for a network of one hidden layer that gives these 300 digits whatever labels you like:
#   fewer than a thousand, ten thousand, or a hundred thousand?
#
# In this lab you build what answers them, each in a few lines:
#
# 1. random labels, the networks that fit them, and a network that remembers without any training,
# 2. three bounds: for a test set, by counting weights, and by PAC-Bayes,
# 3. the four terms of a risk that no bound of the usual kind can explain.
#
# Eight exercises, about 90 minutes. Dots give the difficulty: ● a line or two once you see it, ●● several lines. Each
# exercise has a contract (its signature and docstring), folded hints, and a check to run at once; the last cell shows
# what is done and what is open. The chapter *Generalization* of the book has the theory.

# %%
# %load_ext phenomena.lab
import math
from collections.abc import Callable
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from phenomena.checks import generalization as check
from phenomena.data import load
from phenomena.ensembles import train_ensemble
from phenomena.lab import summary
from phenomena.networks import mlp, n_parameters
from phenomena.plotting import COLOURS, spread, theory, threshold, use_style
from phenomena.training import cross_entropy, error_rate, train

torch.set_num_threads(1)  # small products gain nothing from a second thread
use_style()

# %% [markdown]
# ## 1. What a network can remember
#
# Take away what there is to learn, step by step: replace each label, with probability $p$, by a class drawn uniformly.
# The draw may well be the true class. At $p = 1$ the labels say nothing about the images any more.
#
# ### Exercise 1 ● (10 min)
#
# Write `corrupt`. Labels are names here: the classes may be 3, 5 and 8.
#
# <details><summary>Hint 1</summary>Decide for each label by itself whether it is replaced: one uniform number in [0, 1)
# for each, <code>torch.rand(..., generator=generator)</code>.</details>
# <details><summary>Hint 2</summary>Draw a new class for <em>every</em> label, by a random index into
# <code>classes</code>, and choose between new and old with <code>torch.where</code>.</details>


# %%
def corrupt(y: Tensor, p: float, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Labels y (n,), each replaced with probability p, independently, by a uniform draw from `classes` (C,).

    Labels and classes are integers, not always 0, ..., C-1. A draw may be the true class. All randomness comes from
    `generator`; y is not changed. Returns (n,) in the dtype of y.
    """
    # SOLUTION TODO 1 (corrupt)
    replaced = torch.rand(y.shape, generator=generator) < p
    drawn = classes[torch.randint(len(classes), y.shape, generator=generator)]
    return torch.where(replaced, drawn.to(y.dtype), y)
    # END SOLUTION


check.corrupt(corrupt)

# %% [markdown]
# Six labellings of the same digits, from $p = 0$ to $p = 1$. Each starts from the same random state: if you draw a coin
# for each label first, those replaced at one level are replaced at the next as well.

# %%
LEVELS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def labellings(y: Tensor, seed: int) -> Tensor:
    """One row of labels (n,) for each level: (6, n)."""
    return torch.stack([corrupt(y, p, torch.arange(10), torch.Generator().manual_seed(seed)) for p in LEVELS])


digits = load("digits", n_train=300, n_test=600, seed=0)
for p, labels in zip(LEVELS, labellings(digits.y_train, seed=0), strict=True):
    print(f"p = {p}: {float((labels != digits.y_train).double().mean()):.2f} of the labels are wrong")

# %% [markdown]
# Why is it not all of them at $p = 1$?
#
# ### Exercise 2 ●● (10 min)
#
# Train one network for each labelling, all of them at once, by one call of `train_ensemble`. Then count the errors: the
# training error on *the labels that the network was given*, the test error on the true ones.
#
# <details><summary>Hint 1</summary>Read <code>help(train_ensemble)</code>: labels of shape (M, n) are labels of each
# member's own, and without a batch size every step uses the whole sample. The loss is <code>cross_entropy</code>,
# imported above.</details>
# <details><summary>Hint 2</summary><code>train_ensemble</code> trains the models in place. Then
# <code>error_rate(model, X, y)</code> counts for one of them.</details>


# %%
def memorise(
    models: list[nn.Sequential], X: Tensor, Y: Tensor, X_test: Tensor, y_test: Tensor,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Training errors and test errors of M networks, each trained on labels of its own; fractions in [0, 1].

    models[m], or a copy, is trained on X (n, d) with the labels Y[m], Y (M, n), by `steps` full-batch steps of
    `optimizer` on the cross-entropy. Its training error counts on Y[m], its test error on X_test (k, d) and y_test (k,).
    Labels are 0, ..., C-1. Returns two lists of length M.
    """
    # SOLUTION TODO 2 (memorise)
    train_ensemble(models, X, Y, cross_entropy, optimizer, steps)
    on_sample = [error_rate(model, X, labels) for model, labels in zip(models, Y, strict=True)]
    return on_sample, [error_rate(model, X_test, y_test) for model in models]
    # END SOLUTION


check.memorise(memorise)

# %% [markdown]
# Now with 300 digits, five seeds: each has digits, random labels and initial weights of its own. (A few seconds.)


# %%
def sweep(seed: int) -> tuple[list[float], list[float]]:
    """Training and test error at each level; the six networks start from the same weights."""
    data = load("digits", n_train=300, n_test=600, seed=seed)
    Y = labellings(data.y_train, seed)
    models = [mlp((64, 128, 10), torch.Generator().manual_seed(seed), init="he") for _ in LEVELS]
    adam = partial(torch.optim.Adam, lr=0.01)
    return memorise(models, data.X_train, Y, data.X_test, data.y_test, adam, 150)


errors = np.array([sweep(seed) for seed in range(5)])  # (seeds, training or test, levels)

# %%
fig, ax = plt.subplots()
spread(ax, LEVELS, errors[:, 1], "test", "orange", marker="o")
spread(ax, LEVELS, errors[:, 0], "training", "blue", marker="o")
theory(ax, [0, 1], [0.9, 0.9], "chance")
ax.set(ylim=(-0.02, 1), xlabel="probability p of a random label", ylabel="error at the end (fraction)")
ax.legend()
plt.show()
print(f"the largest of all training errors: {errors[:, 0].max():.3f}")

# %% [markdown]
# Read it twice. One blue line, and six different risks above it: the training error, the size of the network and the
# algorithm are the same at both ends, so none of them explains the difference. What about your first guess?

# %% [markdown]
# ### Exercise 3 ●● (15 min)
#
# Training is not even necessary. For any direction $a$ that tells the points $x_i$ apart, there are $b, w \in \mathbb R^n$
# such that
#
# $$f(x) = \sum_{j=1}^n w_j \max(a^\top x - b_j,\, 0) \qquad\text{has}\qquad f(x_i) = y_i \text{ for all } i .$$
#
# Look at the numbers $z_i = a^\top x_i$ on a line, from left to right. Unit $j$ is silent to the left of $b_j$. Place
# the $b_j$ such that the first unit alone decides the first value, a second one joins for the second, and so on:
# which shape does the matrix $A_{ij} = \max(z_i - b_j, 0)$ then have?
#
# <details><summary>Hint 1</summary>With z sorted, b₁ &lt; z₁ ≤ b₂ &lt; z₂ ≤ b₃ &lt; ... makes A lower triangular, with a
# positive diagonal.</details>
# <details><summary>Hint 2</summary>Where in its interval? As far to the left as it may be: a unit that starts shortly
# before its point must be steep, the next one steeper to make up for it, and the weights grow exponentially.</details>
# <details><summary>Hint 3</summary><code>z.sort()</code> also returns the order; the targets must follow it. Then
# <code>torch.linalg.solve_triangular(A, y[:, None], upper=False)</code>. Nothing has to be sorted back at the end: f is a sum over
# the units, in any order.</details>


# %%
def shatter(X: Tensor, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """b (n,) and w (n,), float64, of a network f(x) = Σ_j w_j max(a·x - b_j, 0) with f(x_i) = y_i.

    X (n, d) of any floating dtype, y (n,) real or integer, a (d,) float64 with a·x_i all different; n is 1 or more.
    Computed in float64.
    """
    # SOLUTION TODO 3 (shatter)
    z, order = (X.double() @ a).sort()
    b = torch.cat([z[:1] - 1, z[:-1]])
    A = torch.relu(z[:, None] - b)
    w = torch.linalg.solve_triangular(A, y[order, None].double(), upper=False)
    return b, w[:, 0]
    # END SOLUTION


check.shatter(shatter)

# %% [markdown]
# What it looks like, on 12 points: f has pieces of straight lines, and goes wherever the next target is. And how exact
# it is, on 300 digits with random labels.


# %%
def value(X: Tensor, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """f(x) of each point, (n,)."""
    return torch.relu((X.double() @ a)[:, None] - b) @ w


rng = torch.Generator().manual_seed(0)
line, heights = torch.randn(12, 1, generator=rng), torch.randint(10, (12,), generator=rng)
b, w = shatter(line, heights, torch.ones(1, dtype=torch.float64))
grid = torch.linspace(float(line.min()) - 0.3, float(line.max()) + 0.1, 800)[:, None]
fig, ax = plt.subplots(figsize=(6.4, 2.6))
ax.plot(grid, value(grid, torch.ones(1, dtype=torch.float64), b, w), label="f")
ax.plot(line, heights, "o", color="black", label="random targets")
ax.set(xlabel="z = a·x", ylabel="f")
ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
plt.show()

# %%
residuals, test_errors = [], []
for seed in range(5):
    data, rng = load("digits", n_train=300, n_test=600, seed=seed), torch.Generator().manual_seed(seed)
    a = torch.randn(64, generator=rng, dtype=torch.float64)
    random = torch.randint(10, (300,), generator=rng)
    residuals.append(float((value(data.X_train, a, *shatter(data.X_train, random, a)) - random).abs().max()))
    guess = value(data.X_test, a, *shatter(data.X_train, data.y_train, a)).round()
    test_errors.append(float((guess != data.y_test).double().mean()))
print(f"2n + d = {2 * 300 + 64} weights; random labels are hit to within 1e-6: {max(residuals) < 1e-6}")
print(f"fitted to the true labels it errs on {min(test_errors):.2f} to {max(test_errors):.2f} of new digits (5 seeds)")

# %% [markdown]
# Two networks with zero training error on the same true labels: the trained one generalises, yours hardly does better
# than a guess. A class of functions that holds both cannot have a useful bound that is the same for all of its
# members. And was your third guess too high?

# %% [markdown]
# ## 2. What a bound promises
#
# From here on there are two classes, 0 to 4 against 5 to 9, with labels $-1$ and $1$. The risk $R$ is the probability
# of an error on a new digit, $R_S$ the fraction of errors on the $n$ pairs of the sample. If $M$ classifiers are fixed
# *before* the sample is drawn, then with probability at least $1-\delta$, for all of them at once,
#
# $$R \le R_S + \sqrt{\frac{\ln M + \ln(1/\delta)}{2n}} .$$
#
# ### Exercise 4 ● (5 min)
#
# Write the square root. $M$ will be a number too large to write down, so it comes as its logarithm.
#
# <details><summary>Hint</summary>Solve M exp(-2nt²) = δ for t: the chance that any one of M classifiers has a risk above
# R_S + t is at most the left side. All logarithms are natural ones.</details>


# %%
def hoeffding(n: int, delta: float, log_M: float) -> float:
    """How far R exceeds R_S at most, for all of M classifiers at once, with probability at least 1 - delta.

    A sample of n pairs, 0 < delta < 1, log_M = ln M >= 0 (0 for a single classifier). May exceed 1.
    """
    # SOLUTION TODO 4 (hoeffding)
    return math.sqrt((log_M + math.log(1 / delta)) / (2 * n))
    # END SOLUTION


check.hoeffding(hoeffding)

# %% [markdown]
# A network in a computer is one of $2^{32W}$: it has $W$ weights of 32 bits. And a test set of $k$ digits is the
# theorem with a single classifier.

# %%
WIDTH, N, TEST, DELTA = 50, 1500, 297, 0.025
W = 64 * WIDTH + WIDTH
print(f"{W} weights for {N} digits")
print(f"by counting weights:    R <= R_S + {hoeffding(N, DELTA, 32 * W * math.log(2)):.2f}")
print(f"by {TEST} digits for a test: R <= R_T + {hoeffding(TEST, DELTA, 0.0):.2f}")

# %% [markdown]
# Counting gives a number above 1 as a bound on a probability: it is **vacuous**, and what it adds to $R_S$ is
# the same for true and for random labels. Was that your second guess? The test set's bound is useful, but those digits
# were not trained on, and it explains nothing.
#
# ### Exercise 5 ●● (15 min)
#
# The root in Hoeffding's bound is too large when $R_S$ is small: a coin that shows heads once in a thousand throws
# varies less than a fair one. The sharp form bounds $\mathrm{kl}(R_S \| R) \le c$, with
#
# $$\mathrm{kl}(q\|p) = q \ln\frac qp + (1-q)\ln\frac{1-q}{1-p} ,$$
#
# and has to be solved for its second argument: $\mathrm{kl}^{-1}(q, c)$ is the largest $p$ with
# $\mathrm{kl}(q\|p) \le c$.
#
# <details><summary>Hint 1</summary>As a function of p, kl(q‖p) is 0 at p = q and grows on [q, 1]: halve the interval,
# again and again, and keep the half with the crossing.</details>
# <details><summary>Hint 2</summary>0 ln 0 is 0: <code>scipy.special.rel_entr(q, p)</code> is q ln(q/p) and knows that.
# At p = 1 the kl is infinite, which is no problem for halving: it never evaluates there.</details>


# %%
def kl_inverse(q: float, c: float) -> float:
    """The largest p in [q, 1] with kl(q‖p) <= c in nats, to within 1e-8; q in [0, 1], c >= 0, 0 and huge ones too."""
    # SOLUTION TODO 5 (kl_inverse)
    from scipy.special import rel_entr

    low, high = q, 1.0
    for _ in range(50):
        p = (low + high) / 2
        if rel_entr(q, p) + rel_entr(1 - q, 1 - p) <= c:
            low = p
        else:
            high = p
    return high
    # END SOLUTION


check.kl_inverse(kl_inverse)

# %% [markdown]
# How much does it gain? With Pinsker's inequality, $2(p-q)^2 \le \mathrm{kl}(q\|p)$, we would get back the square root.


# %%
def picture(training_error: float, log_information: float) -> None:
    """Both bounds against n, for one amount of information in nats."""
    n = np.logspace(2, 5, 60)
    c = 10**log_information / n
    fig, ax = plt.subplots()
    ax.plot(n, training_error + np.sqrt(c / 2), color="#777777", label="square root")
    ax.plot(n, [kl_inverse(training_error, x) for x in c], label="small kl, inverted")
    ax.axhline(0.5, color="black", linewidth=1, linestyle=":")
    ax.annotate("a coin", (100, 0.5), xytext=(4, 3), textcoords="offset points", fontsize=9)
    threshold(ax, N, f"n = {N}")
    ax.set(xscale="log", ylim=(0, 1.2), xlabel="training samples n", ylabel="bound on the risk")
    ax.legend(loc="upper right")
    plt.show()


picture(training_error=0.03, log_information=2.5)

# %% [markdown]
# The inverted kl never promises less than nothing: it stays below 1. Move the knobs. At which training error is the
# gain largest? How many nats of information may a network cost, with $n = 1500$ digits, until the bound is no better
# than a coin?

# %% tags=["nbval-ignore-output"]
from ipywidgets import FloatSlider

from phenomena.lab import live

live(
    picture,
    training_error=FloatSlider(value=0.03, min=0.0, max=0.5, step=0.01, description="training error"),
    log_information=FloatSlider(value=2.5, min=0.0, max=5.0, step=0.25, description="log₁₀ information (nats)"),
)

# %% [markdown]
# ### Exercise 6 ●● (10 min)
#
# How much information *is* in a network? Take not one but a cloud of them around the trained weights,
# $Q = \mathcal N(w, \mathrm{diag}(s_i^2))$, and compare it with a cloud $P = \mathcal N(w_0, \lambda I)$ around the
# initial weights, which know nothing of the sample:
#
# $$\mathrm{KL}(Q\|P) = \frac12\sum_i\Big(\frac{s_i^2 + (w_i - w_{0,i})^2}{\lambda} - 1 - \ln\frac{s_i^2}{\lambda}\Big) .$$
#
# Mind the units: $s_i$ are standard deviations, $\lambda$ is a variance.
#
# <details><summary>Hint</summary>Where all s_i² = λ and w = w₀, each of the terms in the sum is 0. Does yours give
# that?</details>


# %%
def gaussian_kl(w: Tensor, s: Tensor, w_0: Tensor, lam: float) -> float:
    """KL(N(w, diag(s²)) ‖ N(w_0, λI)) in nats.

    Means w and w_0 (d,), *standard deviations* s (d,), all positive, *variance* lam = λ > 0.
    """
    # SOLUTION TODO 6 (gaussian_kl)
    ratio = s**2 / lam
    return float(((w - w_0) ** 2 / lam + ratio - 1 - ratio.log()).sum() / 2)
    # END SOLUTION


check.gaussian_kl(gaussian_kl)

# %% [markdown]
# ### Exercise 7 ● (5 min)
#
# The **Gibbs classifier** draws new weights from $Q$ for every input. Let $R_S(Q)$ be its training error and $R(Q)$
# its risk. With probability at least $1-\delta$, for all $Q$ at once (so also for the one that you have chosen after
# looking at the sample),
#
# $$\mathrm{kl}\big(R_S(Q)\,\|\,R(Q)\big) \le \frac{\mathrm{KL}(Q\|P) + \ln(2\sqrt n/\delta)}{n} .$$
#
# Solve it for $R(Q)$.
#
# <details><summary>Hint</summary>You have written <code>kl_inverse</code>. What is its c?</details>


# %%
def pac_bayes(gibbs_error: float, KL: float, n: int, delta: float) -> float:
    """The largest R(Q) that the theorem allows, given R_S(Q) = gibbs_error, KL(Q‖P) in nats and n >= 8 pairs."""
    # SOLUTION TODO 7 (pac_bayes)
    return kl_inverse(gibbs_error, (KL + math.log(2 * math.sqrt(n) / delta)) / n)
    # END SOLUTION


check.pac_bayes(pac_bayes)

# %% [markdown]
# Now the experiment of Dziugaite and Roy. Train a network, and then *train the cloud*: `fit_posterior` moves $w$, $s$
# and $\lambda$ so that the bound becomes small. Where noise in a weight does no harm, $s_i^2$ may grow to $\lambda$,
# and that weight costs nothing.

# %%
from phenomena.margins import logistic_loss, margins
from phenomena.pac_bayes import Posterior, fit_posterior, gibbs_error, prior_variance


def trained(X: Tensor, y: Tensor, generator: torch.Generator) -> tuple[nn.Sequential, list[Tensor]]:
    """A network after 10 epochs, and its initial weights."""
    model = mlp((64, WIDTH, 1), generator, bias=False)
    start = [p.detach().clone() for p in model.parameters()]
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, X, y, logistic_loss, sgd, 10 * len(X) // 50, 50, generator)
    return model, start


# %% [markdown]
# Two prices are to be paid before your bound holds. $R_S(Q)$ is a mean of $20\,n$ random draws, so the small kl is
# inverted for it as well. And $\lambda$ was chosen from a grid, $\lambda_j = e^{-j/100}$: each $j$ gets
# $\delta_j = 6\delta/\pi^2j^2$, and these sum to $\delta$.


# %%
def certify(Q: Posterior, start: list[Tensor], X: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, float]:
    """The cloud's training error, its information, and a bound on R(Q) with probability 1 - DELTA - 0.01."""
    estimate = gibbs_error(Q, X, y, 20, generator)
    upper = kl_inverse(estimate, math.log(1 / 0.01) / (20 * len(X)))
    w, s, w_0 = (torch.cat([part.double().flatten() for part in parts]) for parts in (Q.means, Q.stds, start))
    information = gaussian_kl(w, s, w_0, prior_variance(Q.j))
    bound = pac_bayes(upper, information, len(X), 6 * DELTA / (math.pi * Q.j) ** 2)
    return {"PAC-Bayes, for the cloud": bound, "training error of the cloud": estimate, "KL in nats": information}


# %%
def bounds_and_errors(seed: int, random: bool) -> dict[str, float]:
    """All that we know of one network and its cloud, on true or on random labels."""
    data, generator = load("digits", n_train=N, n_test=TEST, seed=seed), torch.Generator().manual_seed(seed)
    y, y_test = (2 * (part >= 5).long() - 1 for part in (data.y_train, data.y_test))
    if random:
        y, y_test = (corrupt(part, 1.0, torch.tensor([-1, 1]), generator) for part in (y, y_test))
    sample, test = (data.X_train, y.float()), (data.X_test, y_test.float())
    model, start = trained(*sample, generator)
    weights = [p.detach() for p in model.parameters()]
    Q = fit_posterior(weights, start, *sample, DELTA, generator, steps=200, batch_size=250, lr=0.05)
    on_sample, on_test = (float((margins(model, *part) <= 0).double().mean()) for part in (sample, test))
    return certify(Q, start, *sample, generator) | {
        "by counting weights": on_sample + hoeffding(N, DELTA, 32 * n_parameters(model) * math.log(2)),
        "by a test set": on_test + hoeffding(TEST, DELTA, 0.0),
        "training error": on_sample,
        "test error of the cloud": gibbs_error(Q, *test, 20, generator),
        "test error": on_test,
    }


# %% [markdown]
# Five seeds with true labels, five with random ones: ten networks and their clouds, some ten seconds.

# %%
runs = {random: [bounds_and_errors(seed, random) for seed in range(5)] for random in (False, True)}

# %%
shown = ["by counting weights", "PAC-Bayes, for the cloud", "by a test set", "test error of the cloud", "test error"]
fig, ax = plt.subplots(figsize=(7.2, 3))
for random, name, colour in ((False, "true labels", COLOURS["blue"]), (True, "random labels", COLOURS["orange"])):
    for row, key in enumerate(shown):
        values = [run[key] for run in runs[random]]
        at = [row - 0.12 + 0.24 * random] * len(values)
        ax.plot(values, at, "o", color=colour, alpha=0.7, label=None if row else f"{name} ({len(values)} seeds)")
threshold(ax, 0.5, "a coin")
threshold(ax, 1.0, "vacuous")
ax.set(xscale="log", xlabel="bound, or error (fraction)", yticks=range(5), yticklabels=shown)
ax.invert_yaxis()
ax.legend(loc="upper left")
plt.show()

# %% tags=["nbval-ignore-output"]
lines = (
    "PAC-Bayes, for the cloud",
    "KL in nats",
    "test error of the cloud",
    "training error of the cloud",
    "training error",
)
for key in lines:
    true, random = ([run[key] for run in runs[labels]] for labels in (False, True))
    print(f"{key:27} true labels {min(true):6.2f} to {max(true):6.2f}, random {min(random):6.2f} to {max(random):6.2f}")
bounds = [[run["PAC-Bayes, for the cloud"] for run in runs[labels]] for labels in (False, True)]
assert max(bounds[0]) < 0.5 < min(bounds[1]), "a certificate for true labels alone"

# %% [markdown]
# With true labels this is a bound below one half, from the training set alone, for a network with more weights than
# digits. It is many times the error that it bounds (which two lines say so?), but it says something, and with random
# labels the same recipe says "worse than a coin", as it must. The top row of the figure cannot tell the two apart: its
# colours differ by no more than the training error. Read the last lines: the network has fitted a part of the random
# labels, and its cloud has let go of them, since what they would cost in information is more than they save in errors.

# %% [markdown]
# ## 3. Bound something else
#
# Least squares with more features than samples: $y = X\theta^* + \varepsilon$, rows
# $x_i \sim \mathcal N(0, \Lambda)$, noise variance $\sigma^2$, and $h = X^+ y$, which fits noise and all. Let $R$ be the
# mean squared error on a new pair and $R_S$ the one on the sample. $R_S(h) = 0$, and $R(h) \ge \sigma^2$. The sample
# with its noise turned round, the **twin** $(X, X\theta^* - \varepsilon)$, is exactly as likely to be drawn, and what is
# fitted to it errs much on our sample. So a bound on $|R - R_S|$ for all that $h$ may turn out to be cannot be small.
#
# The way out is to bound another predictor, a **surrogate** $s$ that knows less of the sample:
#
# $$R(h) = R_S(h) + \underbrace{R(h) - R(s)}_{\text{excess}} + \underbrace{R(s) - R_S(s)}_{\text{gap}}
#    + \underbrace{R_S(s) - R_S(h)}_{\text{price}}, \qquad s = X^+ X\theta^* .$$
#
# This $s$ is $h$ without its noise. Only its gap has to be bounded.
#
# ### Exercise 8 ●● (20 min)
#
# Compute the four terms. The risk of a linear predictor needs no test set:
# $R(\theta) = \sigma^2 + \sum_j \Lambda_j (\theta_j - \theta^*_j)^2$.
#
# <details><summary>Hint 1</summary><code>min_norm(X, y)</code> is X⁺y, and takes several targets at once as the
# columns of a matrix. (You write it yourself in Lab 2.)</details>
# <details><summary>Hint 2</summary>Four numbers are needed: R and R_S of h and of s. R_S compares with the labels of the
# sample, and those are noisy, for s too.</details>


# %%
from phenomena.regression import min_norm


def risk_terms(
    X: Tensor, eps: Tensor, theta: Tensor, Lambda: Tensor, sigma2: float
) -> tuple[float, float, float, float]:  # fmt: skip
    """R_S(h), R(h) - R(s), R(s) - R_S(s) and R_S(s) - R_S(h) for h = X⁺(Xθ* + ε) and s = X⁺Xθ*.

    X (n, p), any n and p; eps (n,) the noise ε of the labels y = Xθ* + ε; theta (p,) is θ*; Lambda (p,) holds the
    variances of the features; sigma2 = σ². Risks are means of squared errors, in squared units of y.
    """
    # SOLUTION TODO 8 (risk_terms)
    signal = X @ theta
    labels = signal + eps
    both = min_norm(X, torch.stack([labels, signal], dim=1))
    R_h, R_s = (sigma2 + Lambda @ (both - theta[:, None]) ** 2).tolist()
    RS_h, RS_s = ((X @ both - labels[:, None]) ** 2).mean(dim=0).tolist()
    return RS_h, R_h - R_s, R_s - RS_s, RS_s - RS_h
    # END SOLUTION


check.risk_terms(risk_terms)

# %% [markdown]
# The data: five directions of variance 1 that carry the signal, and $10n$ small ones that share a variance of 1, in
# which noise can hide.

# %%
from phenomena.surrogates import benign_tail, gaussian_risk, mean_noise_gap

SIZES = [40, 80, 160, 320]


def sample(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X (n, p), eps (n,), theta (p,) and Lambda (p,), with p = 5 + 10 n and σ = 1."""
    rng = torch.Generator().manual_seed(1000 * n + seed)
    eigenvalues = benign_tail(5, 10 * n)
    direction = (torch.arange(len(eigenvalues)) < 5).double() / 5**0.5
    X = torch.randn(n, len(eigenvalues), generator=rng, dtype=torch.float64) * eigenvalues.sqrt()
    return X, torch.randn(n, generator=rng, dtype=torch.float64), direction, eigenvalues


# %%
def measure(n: int, seed: int) -> list[float]:
    """The four terms, and R - R_S of what is fitted to the twin, with R_S on our sample."""
    X, eps, theta_star, eigenvalues = sample(n, seed)
    turned = X.T @ torch.linalg.solve(X @ X.T, X @ theta_star - eps)  # minimum norm again, as X has full rank
    on_ours = (X @ turned - (X @ theta_star + eps)).square().mean()
    twin_gap = float(gaussian_risk(turned, theta_star, eigenvalues, 1.0) - on_ours)
    return [*risk_terms(X, eps, theta_star, eigenvalues, 1.0), twin_gap]


found = np.array([[measure(n, seed) for n in SIZES] for seed in range(5)])  # (seeds, sizes, 5)
empirical, excess, gap, price, twin_gap = found.transpose(2, 0, 1)

# %%
fig, ax = plt.subplots()
spread(ax, SIZES, abs(twin_gap), "interpolator, twin sample", "orange", marker="o")
spread(ax, SIZES, abs(excess + gap + price), "interpolator, own sample", "purple", marker="o")
spread(ax, SIZES, abs(gap), "surrogate", "blue", marker="o")
theory(ax, SIZES, [mean_noise_gap(n, 1.0) for n in SIZES])
ax.set(xscale="log", yscale="log", ylim=(0.003, 8))
ax.set(xlabel="training samples n", ylabel="|R − R_S|  (squared units of y)")
ax.set_xticks(SIZES, SIZES)
ax.minorticks_off()
ax.legend(loc="lower left", fontsize=9)
plt.show()

# %% [markdown]
# Two curves stay up however much data there is: $R_S(h) = 0$ says nothing about $R(h)$, and what is fitted to the
# twin errs on our sample by $\frac4n\|\varepsilon\|^2$ (why 4?). The surrogate's gap is the one that falls. The
# dashed line is its mean without its bias, about $2\sigma^2/\sqrt{\pi n}$. Mind the band: the gap is one random
# number for each sample, and only its typical size is known.

# %%
four_terms = found[:, :, :4].transpose(1, 0, 2)
print("means over 5 seeds, ± their standard deviation; the terms sum to R(h)\n")
print("n       R_S(h)          excess          gap             price           R(h)")
for n, terms in zip(SIZES, four_terms, strict=True):
    columns = [*terms.T, terms.sum(axis=1)]
    print(f"{n:<4}" + "".join(f"{x.mean().round(3) + 0:9.3f} ± {x.std(ddof=1):.2f}" for x in columns))

# %% [markdown]
# Most of $R(h)$ is the price: the noise in the labels, which nobody can predict. The gap, the only term for which
# anything has to be proved, has a mean near zero: its sign changes from sample to sample, and its spread falls with $n$.

# %% [markdown]
# ## What you have seen
#
# - One network and one algorithm reach a training error of zero at every level of label noise, with every risk from
#   small to chance; $2n + d$ weights do it without any training. So no bound can rest on size and training error alone.
# - A bound that counts is vacuous. A bound on a cloud of networks near an honest prior is not, and it tells true
#   labels from random ones; inverting the small kl gains where the training error is small.
# - Where an interpolator fits noise, its own gap cannot be bounded uniformly. That of its surrogate is small.
#
# ## An open question
#
# Your surrogate needed $\theta^*$, and your cloud was trained to make its own bound small. Is there a surrogate for
# the six networks of exercise 2 that can be computed without the true labels: an average over label noise redrawn, an
# early iterate, the cloud itself? Say which of the four terms you would measure, how each of them would have to
# change from $p = 0$ to $p = 1$, and what would prove you wrong. Papers that you can reproduce on this are listed at
# the end of the chapter.

# %% [markdown]
# ## Where you stand
#
# The last cell checks every exercise anew. Run it whenever you like.

# %%
summary(check, globals())
