# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 2: Double descent
#
# **Before you read on, write down a guess.** You fit 200 digits, a fifth of them with a wrong label, by least squares on
# $p$ random features. At which $p$ is the error on new digits worst: 20, 200 or 2,000?
#
# In this lab you build the machines that answer it, each in a few lines:
#
# 1. the minimum-norm and the ridge solution, by one singular value decomposition,
# 2. the test-error curve of random features on real digits,
# 3. the risk of gradient descent, iterate by iterate, and the stepsizes that remove its second valley.
#
# Five exercises, about 70 minutes. Dots give the difficulty: ● a line or two once you see it, ●● several lines. Each
# exercise has a contract (its signature and docstring), folded hints, and a check to run at once; the last cell shows
# what is done and what is open. The chapter *Double descent* of the book has the theory.

# %%
# %load_ext phenomena.lab
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from phenomena.checks import double_descent as check
from phenomena.lab import summary
from phenomena.plotting import theory, threshold, use_style

use_style()

# %% [markdown]
# ## 1. Least squares when the data run out
#
# Let $X \in \mathbb R^{n\times p}$ and $y \in \mathbb R^n$. If $p > n$, infinitely many $\beta$ satisfy $X\beta = y$.
# Gradient descent from zero never leaves the row space of $X$, so it ends at the shortest of them,
#
# $$\hat\beta = X^+ y = \sum_{i:\,s_i > 0} \frac{u_i^\top y}{s_i}\, v_i, \qquad X = \sum_i s_i u_i v_i^\top .$$
#
# Look at the division by $s_i$: a direction that the data hardly span (a small $s_i$) multiplies whatever noise $y$ has
# along $u_i$. Keep this in mind for the peak.
#
# ### Exercise 1 ● (10 min)
#
# Write `min_norm` with `torch.linalg.svd`.
#
# <details><summary>Hint 1</summary>Ask for the thin decomposition, <code>full_matrices=False</code>: then
# <code>U</code> is (n, r), <code>s</code> is (r,) and <code>Vh</code> is (r, p), with r = min(n, p).</details>
# <details><summary>Hint 2</summary>When two columns of X are equal, one singular value should be zero but comes out as
# something like 1e-16. Compare with the largest one, the size of the matrix and
# <code>torch.finfo(X.dtype).eps</code>.</details>


# %%
def min_norm(X: Tensor, y: Tensor) -> Tensor:
    """The least-squares solution of smallest norm.

    X (n, p) and y (n,) of one dtype; returns (p,) in that dtype. X need not have full rank; it is not changed.
    Singular values that are zero up to rounding are left out.
    """
    # SOLUTION TODO 1 (min_norm)
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    keep = s > s.max() * max(X.shape) * torch.finfo(X.dtype).eps
    return Vh[keep].T @ ((U[:, keep].T @ y) / s[keep])
    # END SOLUTION


check.min_norm(min_norm)

# %% [markdown]
# ### Exercise 2 ● (10 min)
#
# Ridge regression adds a penalty $\lambda\|\beta\|^2$ to the mean squared error:
#
# $$\hat\beta_\lambda = \Big(\tfrac1n X^\top X + \lambda I\Big)^{-1} \tfrac1n X^\top y .$$
#
# Write it with the same decomposition: no inverse, no $p\times p$ matrix.
#
# <details><summary>Hint 1</summary>Put X = U S Vᵀ into the formula. The identity is V Vᵀ on the row space, and outside
# of it Xᵀy has nothing.</details>
# <details><summary>Hint 2</summary>Each direction is multiplied by one number that depends on s, λ and n. For λ → 0 it
# must become 1/s.</details>


# %%
def ridge(X: Tensor, y: Tensor, lam: float) -> Tensor:
    """The ridge solution (XᵀX/n + λI)⁻¹ Xᵀy/n.

    X (n, p) and y (n,) of one dtype, λ > 0 in the units of XᵀX/n; returns (p,) in that dtype.
    """
    # SOLUTION TODO 2 (ridge)
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    shrink = s / (s**2 + len(X) * lam)
    return Vh.T @ (shrink * (U.T @ y))
    # END SOLUTION


check.ridge(ridge)

# %% [markdown]
# Now use them. The data are $y = X\beta + \varepsilon$ with Gaussian $X$, $\|\beta\|^2 = r^2$ and noise variance
# $\sigma^2$; the excess risk of an estimate is $\|\hat\beta - \beta\|^2$. Every $p$ is a problem of its own here: all $p$
# features matter, and $r^2 = 4$ is shared among them. Predicting zero has risk 4.


# %%
def excess_risks(p: int, sigma: float, lam: float, n: int = 60, draws: int = 20, r: float = 2.0) -> list[float]:
    """Excess risks of ridge (of minimum norm if λ is 0), one for each of `draws` data sets."""
    generator = torch.Generator().manual_seed(p)
    risks = []
    for _ in range(draws):
        beta = torch.randn(p, generator=generator)
        beta *= r / beta.norm()
        X = torch.randn(n, p, generator=generator)
        y = X @ beta + sigma * torch.randn(n, generator=generator)
        beta_hat = ridge(X, y, lam) if lam else min_norm(X, y)
        risks.append(float((beta_hat - beta).square().sum()))
    return risks


# %%
from phenomena.regression import min_norm_risk

P = [5, 10, 20, 30, 40, 50, 55, 60, 66, 75, 90, 120, 180, 240, 300]


def picture(sigma: float, log_lam: float) -> None:
    lam = 0.0 if log_lam <= -4 else 10**log_lam
    fig, ax = plt.subplots()
    ax.plot(P, [np.median(excess_risks(p, sigma, lam)) for p in P], "o-", label="yours, median of 20 draws")
    theory(ax, P, min_norm_risk(60, P, 4.0, sigma**2), "minimum norm, exact mean")
    threshold(ax, 60, "p = n")
    ax.set(xscale="log", yscale="log", ylim=(0.03, 1000), xlabel="features p", ylabel="excess risk (squared units)")
    ax.legend()
    plt.show()


picture(sigma=1.0, log_lam=-4.0)

# %% [markdown]
# Without a penalty your curve follows the theory through the peak (a median lies below a mean that a few unlucky draws
# pull up; at $p = n$ that mean is infinite). Now move the knobs. What does the noise do to the peak? Which λ removes it,
# and what does a λ ten times larger cost?

# %% tags=["nbval-ignore-output"]
from ipywidgets import FloatSlider

from phenomena.lab import live

live(
    picture,
    sigma=FloatSlider(value=1.0, min=0.0, max=3.0, step=0.25, description="noise σ"),
    log_lam=FloatSlider(value=-4.0, min=-4.0, max=1.0, step=0.25, description="ridge log₁₀ λ"),
)

# %% [markdown]
# At $\log_{10}\lambda = -4$ the knob stands for $\lambda = 0$. The dashed line never moves with λ, so the distance to it is
# what ridge buys, or costs. With $\sigma = 0$ the risk is exactly zero for $p \le n$ (the left half of the picture is
# empty: zero has no place on a logarithmic axis), and the peak is gone without any ridge: the peak is noise, amplified.

# %% [markdown]
# ## 2. The curve on real digits
#
# Replace $X$ by random ReLU features, $\Phi(X) = \max(XW, 0)$ with a $W$ that is drawn once and never trained: a
# two-layer network with a frozen first layer, whose width $p$ you can turn without changing the data.
#
# ### Exercise 3 ●● (30 min)
#
# For each width: draw $W$ of shape $(d, p)$ as `torch.randn(d, p, generator=generator, dtype=X.dtype) / d**0.5`, fit
# one-hot labels by minimum norm on the training features, count the errors on the test set.
#
# <details><summary>Hint 1</summary>Call your <code>min_norm</code> once a class and <code>torch.stack</code> the columns.
# (If you prefer <code>torch.linalg.lstsq</code>, give it <code>driver="gelsd"</code>: some features are zero on every
# digit, and the other drivers need full rank.)</details>
# <details><summary>Hint 2</summary>The predicted class is the largest output. Keep errors as floats: an array of
# integers would truncate each to 0.</details>


# %%
def feature_errors(
    X_train: Tensor, y_train: Tensor, X_test: Tensor, y_test: Tensor, widths: list[int], generator: torch.Generator
) -> list[float]:
    """Test error, a fraction in [0, 1], of minimum norm on p random ReLU features, for each p in widths.

    X (n, d) floating point; y (n,) integer labels 0, 1, ..., K-1, all of which are in y_train, not always in y_test.
    One draw of W for each width, in the order of `widths`.
    """
    # SOLUTION TODO 3 (feature_errors)
    Y = torch.nn.functional.one_hot(y_train).to(X_train.dtype)
    errors = []
    for p in widths:
        W = torch.randn(X_train.shape[1], p, generator=generator, dtype=X_train.dtype) / X_train.shape[1] ** 0.5
        Phi, Phi_test = torch.relu(X_train @ W), torch.relu(X_test @ W)
        B = torch.stack([min_norm(Phi, y) for y in Y.T], dim=1)
        errors.append(float((((Phi_test @ B).argmax(dim=1)) != y_test).double().mean()))
    return errors
    # END SOLUTION


check.feature_errors(feature_errors)

# %% [markdown]
# Now 200 digits of 8x8 pixels, a fifth of them with a wrong label, five seeds.

# %%
from phenomena.data import load, with_label_noise
from phenomena.plotting import spread

WIDTHS = [10, 25, 50, 100, 150, 180, 200, 220, 260, 350, 500, 1000, 2000]


def digit_curve(noise: float, seed: int) -> list[float]:
    data = load("digits", n_train=200, n_test=600, seed=seed)
    y = with_label_noise(data.y_train, noise, n_classes=10, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return feature_errors(data.X_train.double(), y, data.X_test.double(), data.y_test, WIDTHS, generator)


noisy = np.array([digit_curve(0.2, seed) for seed in range(5)])
clean = np.array([digit_curve(0.0, seed) for seed in range(5)])

# %%
fig, ax = plt.subplots()
spread(ax, WIDTHS, noisy, "20 % wrong labels", "orange", marker="o")
spread(ax, WIDTHS, clean, "true labels", "blue", marker="o")
threshold(ax, 200, "p = n")
ax.set(xscale="log", ylim=(0, 1), xlabel="random features p", ylabel="test error (fraction)")
ax.legend()
plt.show()

# %% [markdown]
# Was your guess right? The peak is there without label noise as well: what a model of $p$ frozen features cannot express
# acts like noise. And look closely: the peak is a little to the right of $p = n$. Why?

# %%
X_first = load("digits", n_train=200, n_test=600, seed=0).X_train.double()
for p in (200, 220, 260):
    W = torch.randn(64, p, generator=torch.Generator().manual_seed(0), dtype=X_first.dtype) / 8
    Phi_first = torch.relu(X_first @ W)
    dead = int((Phi_first == 0).all(dim=0).sum())
    print(f"p = {p}: {dead} features are 0 on all 200 digits, the rank is {int(torch.linalg.matrix_rank(Phi_first))}")

# %% [markdown]
# The threshold is not $p = n$ but the width at which $\Phi$ first has rank $n$, so that it can fit every label.

# %% [markdown]
# ## 3. The same in time
#
# Let the features have scales $s_1,\dots,s_d$, so that $x \sim \mathcal N(0, \mathrm{diag}(s_i^2))$, and let
# $y = x^\top\theta + z$ with noise variance $\sigma^2$. Run gradient descent on $\frac1{2n}\|y - X\theta\|^2$ from zero,
# with stepsize $\eta_i$ for coordinate $i$. If $n \gg d$, each coordinate is learned by itself, and after $k$ steps the
# excess risk is
#
# $$R(k) = \sum_{i} \underbrace{s_i^2\theta_i^2\,(1-\eta_i s_i^2)^{2k}}_{\text{not learned yet}}
#    + \frac{\sigma^2}{n}\sum_i \underbrace{\big(1-(1-\eta_i s_i^2)^k\big)^2}_{\text{noise learned}} .$$
#
# ### Exercise 4 ● (10 min)
#
# Write $R$ for all the numbers of steps in `k` at once.
#
# <details><summary>Hint</summary>Give k the shape (m, 1), so that it broadcasts against the d coordinates.</details>


# %%
def descent_risk(k: np.ndarray, s: np.ndarray, theta: np.ndarray, eta: np.ndarray, sigma2: float, n: int) -> np.ndarray:
    """Excess risk R(k) of gradient descent after each number of steps in k.

    k (m,) integers; s, theta, eta (d,) floating point; noise variance sigma2 = σ²; returns (m,) in squared units of y.
    """
    # SOLUTION TODO 4 (descent_risk)
    unlearned = (1 - eta * s**2) ** k[:, None]
    bias = (s**2 * theta**2 * unlearned**2).sum(axis=1)
    variance = sigma2 / n * ((1 - unlearned) ** 2).sum(axis=1)
    return bias + variance
    # END SOLUTION


check.descent_risk(descent_risk)

# %% [markdown]
# Half of the features are ten times smaller than the others, but carry twice the signal $\sum_i s_i^2\theta_i^2$. Predict
# the curve before you run it.

# %%
s = np.repeat([1.0, 0.1], 100)
theta = np.repeat([0.1, 1.4], 100)
sigma2, n = 3.2**2, 1000
k = np.unique(np.logspace(0, 5, 200).astype(int))
one_step = descent_risk(k, s, theta, np.full(200, 0.05), sigma2, n)

# %% [markdown]
# ### Exercise 5 ● (10 min)
#
# The curve is a sum of two U's, one a block, that bottom out at different times. Give every coordinate the same clock:
# choose $\eta_i$ so that all $\eta_i s_i^2$ are equal, and the feature of largest scale keeps the step $\eta$.
#
# <details><summary>Hint</summary>Write down η_i s_i² = c. Which c lets the largest s keep its step?</details>


# %%
def one_clock(s: np.ndarray, eta: float) -> np.ndarray:
    """Stepsizes at which features of scales s are all learned at one pace; the feature of largest s keeps `eta`.

    s (d,) floating point, positive; returns (d,) in its dtype. s is not changed.
    """
    # SOLUTION TODO 5 (one_clock)
    return eta * s.max() ** 2 / s**2
    # END SOLUTION


check.one_clock(one_clock)

# %%
from phenomena.early_stopping import risk_path


def real_path(eta: np.ndarray, seed: int) -> np.ndarray:
    """Excess risk of gradient descent on one data set after each number of steps in k, computed exactly."""
    generator = torch.Generator().manual_seed(seed)
    scales, truth = torch.tensor(s), torch.tensor(theta)
    X = torch.randn(n, 200, generator=generator, dtype=torch.float64) * scales
    y = X @ truth + sigma2**0.5 * torch.randn(n, generator=generator, dtype=torch.float64)
    return risk_path(X, y, scales, truth, torch.tensor(eta), torch.tensor(k, dtype=torch.float64)).numpy()


# %%
fig, ax = plt.subplots()
for name, eta, colour in (("one stepsize", np.full(200, 0.05), "orange"), ("one clock", one_clock(s, 0.05), "green")):
    spread(ax, k, [real_path(eta, seed) for seed in range(5)], name, colour)
    theory(ax, k, descent_risk(k, s, theta, eta, sigma2, n), "yours" if name == "one clock" else "_nolegend_")
ax.set(xscale="log", xlabel="gradient steps k", ylabel="excess risk (squared units)", ylim=(0, None))
ax.legend()
plt.show()

# %% [markdown]
# One valley instead of two, and a deeper one. Nothing about the model or the data has changed: double descent in time
# says that parts of a model learn at different times, not that training time is complexity.
#
# The solid lines are gradient descent on five real draws, computed exactly. Your formula lies below their mean, and more
# so late in training: $n = 1000$ is only five times $d = 200$. At the end everything is fitted, and part 1 knows that
# risk: $\sigma^2 d/(n-d-1)$, not $\sigma^2 d/n$. Check it at the right edge of the picture.

# %% [markdown]
# ## What you have seen
#
# - Minimum norm divides by singular values; at $p = n$ the smallest of them is nearly zero, and noise explodes.
# - A ridge of the right size removes the peak, and so does more of anything that keeps singular values from zero.
# - In time, a double descent is two ordinary trade-offs on two clocks, and rescaled stepsizes merge them.
#
# ## An open question
#
# Random features show the peak without label noise. Trained networks, in the chapter, hardly do. Is it that training
# moves the features so that the model misses less, so that there is less to amplify? Design a measurement that could tell: which
# quantity would you record while the first layer learns, what would it have to do at the threshold, and what would
# prove you wrong? Papers that you can reproduce on this are listed at the end of the chapter.

# %% [markdown]
# ## Where you stand
#
# The last cell checks every exercise anew. Run it whenever you like.

# %%
summary(check, globals())
