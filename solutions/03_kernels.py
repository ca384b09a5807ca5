# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 3: Kernels
#
# **Before you read on, write down three guesses.**
#
# - A network with two hidden layers of 512 units starts from random weights and learns six points by heart. By how much do
#   its weights change, relative to their size: 0.5 %, 5 %, or 50 %?
# - Multiply the output of a network by 30, and divide its loss by 30². The functions that it can express are the same,
#   and so is the function that would be best. Does it learn the same?
# - Put the 64 pixels of every digit in another order, the same one for all. Which test error changes: that of an
#   infinitely wide fully connected network, of an infinitely wide convolutional network, or both?
#
# In this lab you build what answers them, each in a few lines:
#
# 1. the kernel of an infinitely wide network, from one angle,
# 2. the kernel of a network that you can hold in memory, and what it says about training,
# 3. the training that no fixed kernel describes,
# 4. the kernel of a convolutional network.
#
# Six exercises, about 90 minutes. Dots give the difficulty: ● a line or two once you see it, ●● several lines. Each
# exercise has a contract (its signature and docstring), folded hints, and a check to run at once; the last cell shows
# what is done and what is open. The chapter *Networks as kernels* of the book has the theory.

# %%
# %load_ext phenomena.lab
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from phenomena.checks import kernels as check
from phenomena.data import load
from phenomena.lab import summary
from phenomena.plotting import COLOURS, spread, theory, use_style
from phenomena.wide import ntk_mlp

torch.set_num_threads(1)  # small products gain nothing from a second thread
use_style()

# %% [markdown]
# ## 1. A kernel from an angle
#
# Start with one hidden unit, $\max(w^\top x, 0)$, with random weights $w \sim \mathcal N(0, I)$. For two inputs $x$ and
# $z$ of length 1, the numbers $u = w^\top x$ and $v = w^\top z$ are Gaussian with variance 1, and their correlation is
# $c = x^\top z$, the cosine of the angle between the inputs. Two averages over $w$ are all that this lab needs:
#
# $$\kappa_0(c) = 2\,\mathrm P(u > 0 \text{ and } v > 0), \qquad
#   \kappa_1(c) = 2\,\mathrm E[\max(u, 0)\max(v, 0)] .$$
#
# Only the direction of $w$ in the plane of $x$ and $z$ decides which of $u$ and $v$ are positive, and all directions
# are equally likely. Draw the plane: $\kappa_0$ can be read off. Then $\kappa_1$ follows from $\kappa_1' = \kappa_0$ and
# $\kappa_1(-1) = 0$.
#
# ### Exercise 1 ● (10 min)
#
# Write both as functions of $c$. These are the *arc-cosine kernels* of Cho and Saul.
#
# <details><summary>Hint 1</summary>u is positive on the half circle around x, v on the half circle around z. Which
# fraction of the circle do they share when the angle is 0, 180, 90 degrees?</details>
# <details><summary>Hint 2</summary>An antiderivative of arccos c is c arccos c - √(1 - c²). Fix the constant at c = -1.
# What should κ₁(1) be?</details>
# <details><summary>Hint 3</summary>A cosine that a computer has rounded may be 1.0000001, and then arccos is NaN. See
# <code>Tensor.clamp</code>.</details>


# %%
def arc_cosine(c: Tensor) -> tuple[Tensor, Tensor]:
    """κ0(c) and κ1(c), each in the shape and dtype of c.

    c floating point, any shape, in [-1, 1] up to rounding: a little outside it counts as -1 or 1. c is not changed.
    """
    # SOLUTION TODO 1 (arc_cosine)
    c = c.clamp(-1, 1)
    overlap = math.pi - torch.arccos(c)
    return overlap / math.pi, (c * overlap + torch.sqrt(1 - c**2)) / math.pi
    # END SOLUTION


check.arc_cosine(arc_cosine)

# %% [markdown]
# Now a whole network: $L$ hidden layers of width $m$, all weights drawn from $\mathcal N(0, 1)$, the scale outside,
#
# $$g^{(0)} = x, \qquad g^{(h)} = \sqrt{\tfrac2m}\,\max\big(W^{(h)} g^{(h-1)}, 0\big)\ \text{ for } h = 1, \dots, L, \qquad
#   f(x) = W^{(L+1)} g^{(L)} .$$
#
# A gradient step that moves $f(x)$ also moves $f(z)$, in proportion to the **neural tangent kernel**
#
# $$\Theta(x, z) = \sum_{\text{weights } w} \frac{\partial f(x)}{\partial w}\,\frac{\partial f(z)}{\partial w} .$$
#
# It is random, since the weights are. But as $m \to \infty$ it becomes one number, and layer by layer you know it: with
# $\Sigma^{(0)} = \Theta^{(0)} = x^\top z$ and the correlation $c = \Sigma^{(h-1)} / (\|x\|\|z\|)$,
#
# $$\Sigma^{(h)} = \|x\|\|z\|\,\kappa_1(c), \qquad \Theta^{(h)} = \kappa_0(c)\,\Theta^{(h-1)} + \Sigma^{(h)} .$$
#
# $\Sigma^{(h)}$ is the covariance of $f(x)$ and $f(z)$ in a network of depth $h$ over the draw of its weights. It is
# also what the *last* weights add to $\Theta^{(h)}$; the rest comes from below, through the units that are active for
# both inputs.
#
# ### Exercise 2 ●● (15 min)
#
# Write the kernel $\Theta^{(L)}$ of all pairs of inputs, with your `arc_cosine`.
#
# <details><summary>Hint 1</summary>The lengths stay the same in every layer, because κ₁(1) = 1: compute the matrix of
# ‖x‖‖z‖ once.</details>
# <details><summary>Hint 2</summary>Both κ of layer h are taken at the correlation of the layer <em>below</em>. Compute
# c first, then replace Σ, then Θ.</details>
# <details><summary>Hint 3</summary>An input of zeros has no angle: 0/0 is NaN. But whatever its angle, its Σ and Θ are
# 0.</details>


# %%
def ntk(X: Tensor, Z: Tensor, depth: int) -> Tensor:
    """The neural tangent kernel Θ of infinitely wide ReLU networks with `depth` >= 1 hidden layers.

    X (n, d) and Z (n', d) of one floating dtype; returns (n, n') in it. Inputs have any length: one of length 0 has
    kernel 0 with all others.
    """
    # SOLUTION TODO 2 (ntk)
    lengths = X.norm(dim=1)[:, None] * Z.norm(dim=1)
    Sigma = Theta = X @ Z.T
    for _ in range(depth):
        k0, k1 = arc_cosine(Sigma / lengths.clamp_min(torch.finfo(X.dtype).tiny))
        Sigma = lengths * k1
        Theta = k0 * Theta + Sigma
    return Theta
    # END SOLUTION


check.ntk(ntk)

# %% [markdown]
# A network of this kind sees nothing of two inputs of length 1 but the angle between them. What does it make of it?

# %%
ANGLE = torch.linspace(0, math.pi, 201, dtype=torch.float64)
POINTS = torch.stack([ANGLE.cos(), ANGLE.sin()], dim=1)


def shape_of_kernel(depth: int) -> None:
    """Θ against the angle, divided by its largest value, for this depth and for depth 1."""
    fig, ax = plt.subplots()
    for L, colour in ((1, "#999999"), (depth, COLOURS["blue"])):
        Theta = ntk(POINTS[:1], POINTS, L)[0]
        ax.plot(ANGLE.rad2deg(), Theta / Theta[0], color=colour, label=f"depth {L}: Θ(x, x) = {Theta[0]:.0f}")
    theory(ax, [0, 180], [0.25, 0.25], "1/4")
    ax.set(xlabel="angle between the inputs (degrees)", ylabel="Θ(x, z) / Θ(x, x)", ylim=(-0.12, 1.05))
    ax.legend()
    plt.show()


shape_of_kernel(depth=3)

# %% [markdown]
# Predict the curve at depth 60 before you move the knob.

# %% tags=["nbval-ignore-output"]
from ipywidgets import IntSlider

from phenomena.lab import live

live(shape_of_kernel, depth=IntSlider(value=3, min=1, max=60, description="hidden layers L"))

# %% [markdown]
# A shallow network tells opposite inputs from those at a right angle. A very deep one knows only "the same" and "not
# the same": away from angle 0 its curve is flat, and comes down to the dashed line, 1/4, as the depth grows. What such
# a network learns from one input reaches all others alike.

# %% [markdown]
# ## 2. The kernel of a network in your hands
#
# At finite width, $\Theta$ is the inner product of two gradients. `torch.func` gives the gradients of a module for
# many inputs at once: `functional_call(model, weights, x)` runs the module with weights that you pass as an argument,
# `jacrev` differentiates by them, and `vmap` repeats it for every input.
#
# ### Exercise 3 ●● (15 min)
#
# Write the empirical kernel of any module with one output.
#
# <details><summary>Hint 1</summary><code>dict(model.named_parameters())</code> are the weights. Write a function of
# (weights, x) that returns a scalar; a module wants a batch, so give it <code>x[None]</code>.</details>
# <details><summary>Hint 2</summary><code>vmap(jacrev(f), in_dims=(None, 0))(weights, X)</code> is a dictionary: for each
# parameter the derivatives, with the inputs along the first axis.</details>
# <details><summary>Hint 3</summary>Flatten each of them to (n, size) and put them side by side: one long row of
# derivatives for each input. A loop over inputs with <code>torch.autograd.grad</code> is as right, and slower.</details>


# %%
def empirical_ntk(model: nn.Module, X: Tensor, Z: Tensor) -> Tensor:
    """Θ(x, z), the sum over all parameters of the products of derivatives of the output at x and at z.

    model maps a batch (n, ...) to (n, 1); X (n, ...) and Z (n', ...) have its dtype; returns (n, n') in it, without a
    gradient. The model is not changed.
    """
    # SOLUTION TODO 3 (empirical_ntk)
    from torch.func import functional_call, jacrev, vmap

    weights = {name: w.detach() for name, w in model.named_parameters()}
    derivatives = vmap(jacrev(lambda weights, x: functional_call(model, weights, (x[None],)).squeeze()), (None, 0))

    def rows(A: Tensor) -> Tensor:
        return torch.cat([D.flatten(1) for D in derivatives(weights, A).values()], dim=1)

    return rows(X) @ rows(Z).T
    # END SOLUTION


check.empirical_ntk(empirical_ntk)

# %% [markdown]
# Infinite width is a limit; how near is a network of width $m$? Ten digits, two hidden layers, ten draws of the weights
# for each width, and the distance of your two kernels.

# %%
WIDTHS = [32, 64, 128, 256, 512, 1024]
ten = load("digits", n_train=10, n_test=0, seed=0).X_train
exact = ntk(ten, ten, 2)


def distance(m: int, seed: int) -> float:
    """Size of the difference between empirical and exact kernel, relative to the size of the exact one."""
    model = ntk_mlp(64, m, 2, torch.Generator().manual_seed(seed))
    return float((empirical_ntk(model, ten, ten) - exact).norm() / exact.norm())


distances = np.array([[distance(m, seed) for m in WIDTHS] for seed in range(10)])

# %%
fig, ax = plt.subplots()
spread(ax, WIDTHS, distances, "empirical against exact", "blue", marker="o")
through = np.exp(np.log(distances * np.sqrt(WIDTHS)).mean())
theory(ax, WIDTHS, through / np.sqrt(WIDTHS), "slope -1/2")
ax.set(xscale="log", yscale="log", xlabel="width m", ylabel="relative distance of the kernels")
ax.set_xticks(WIDTHS, WIDTHS)
ax.set_yticks([0.05, 0.1, 0.2, 0.4], [0.05, 0.1, 0.2, 0.4])
ax.minorticks_off()
ax.legend()
plt.show()

# %% tags=["nbval-ignore-output"]
slopes = np.polyfit(np.log(WIDTHS), np.log(distances.T), 1)[0]
print(f"slopes of the ten draws: {slopes.mean():.2f} ± {slopes.std(ddof=1):.2f}")
assert -0.75 < slopes.mean() < -0.25, "the distance falls as the square root of the width"

# %% [markdown]
# Each layer is an average over $m$ random units, and such an average fluctuates by $1/\sqrt m$: to halve the distance
# you need four times the width. That is the slope of the dashed line; its height is fitted. A single draw may well lie
# at half or twice the mean.

# %% [markdown]
# ### Exercise 4 ●● (15 min)
#
# So what? If the kernel does not change *while the network trains* either, training is solved. Let
# $f_t$ be the output at time $t$ of gradient flow, $\dot w = -\nabla_w \frac12\sum_i (f(x_i) - y_i)^2$. By the chain
# rule the outputs at the training inputs obey $\dot f_t = -\Theta\,(f_t - y)$, a linear equation. From $f_0 = 0$ it leads
# to
#
# $$f_t(z) = \Theta_z\,\Theta^{-1}\big(I - e^{-\Theta t}\big)\,y ,$$
#
# where $\Theta$ is the matrix of all pairs of training inputs, and the row $\Theta_z$ holds the kernel of $z$ with each
# of them. Write it.
#
# <details><summary>Hint 1</summary>The exponential of a matrix is not that of its entries. In the eigenvectors of the
# symmetric Θ, <code>torch.linalg.eigh</code>, all of it is one number a direction: which?</details>
# <details><summary>Hint 2</summary>An eigenvalue may be 0, when a training input appears twice say. What is the limit
# of (1 - exp(-λt))/λ for λ → 0? See also <code>torch.expm1</code>, which does not round a small result away.</details>


# %%
def flow(Theta: Tensor, Theta_test: Tensor, y: Tensor, t: float) -> Tensor:
    """Outputs at n' test inputs after gradient flow on half the sum of squares for the time t, from outputs 0.

    Theta (n, n) symmetric with eigenvalues >= 0 up to rounding, some may be 0; Theta_test (n', n); y (n, k), a column
    for each output; 0 <= t < inf. All of one floating dtype; returns (n', k) in it.
    """
    # SOLUTION TODO 4 (flow)
    lam, V = torch.linalg.eigh(Theta)
    lam = lam.clamp_min(0)
    learned = torch.where(lam * t > 1e-12, -torch.expm1(-lam * t) / lam, t)
    return Theta_test @ (V @ (learned[:, None] * (V.T @ y)))
    # END SOLUTION


check.flow(flow)

# %% [markdown]
# Real training against your formula: six points on a circle. The networks have two hidden layers of width 8 or 512,
# three draws of each. We train them on $y + f_0$ and show $f_t - f_0$, which starts at zero as in the formula. Between
# the times at which we look, `train` takes small steps of size 0.02.

# %%
from phenomena.training import squared_loss, train


def circle(a: Tensor) -> Tensor:
    """Points (cos a, sin a, 1)/√2 of length 1; the last coordinate serves as a bias."""
    return torch.stack([a.cos(), a.sin(), torch.ones_like(a)], dim=1) / 2**0.5


SEEN, Y = torch.tensor([-2.5, -1.7, -0.6, 0.3, 1.2, 2.4]), torch.tensor([1.0, -0.5, 0.8, -1.0, 0.3, -0.8])[:, None]
DEGREES = torch.linspace(-180, 180, 121)
X, GRID = circle(SEEN), circle(DEGREES.deg2rad())
TIMES = [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6]


# %%
def watch(m: int, seed: int) -> tuple[Tensor, float]:
    """f_t - f_0 on the grid at each of TIMES, and the relative change of all weights in the end."""
    model = ntk_mlp(3, m, 2, torch.Generator().manual_seed(seed))
    w_0, f_0, on_grid = nn.utils.parameters_to_vector(model.parameters()).detach(), model(X).detach(), []
    sgd = torch.optim.SGD(model.parameters(), lr=0.02 * len(X))  # squared_loss is a mean, the flow's loss a sum
    for now, then in pairwise([0.0, *TIMES]):
        train(model, X, Y + f_0, squared_loss, sgd, round((then - now) / 0.02))
        on_grid.append(model(GRID)[:, 0].detach())
    change = nn.utils.parameters_to_vector(model.parameters()).detach() - w_0
    return torch.stack(on_grid) - on_grid[0], float(change.norm() / w_0.norm())


predicted = [flow(ntk(X, X, 2), ntk(GRID, X, 2), Y, t)[:, 0] for t in TIMES]
watched = {m: [watch(m, seed) for seed in range(3)] for m in (8, 512)}


# %%
def look(time: float, width: int) -> None:
    """Networks and prediction on the circle at one of TIMES."""
    at = TIMES.index(time)
    fig, ax = plt.subplots()
    for i, (f, _) in enumerate(watched[width]):
        ax.plot(DEGREES, f[at], color=COLOURS["blue"], linewidth=1, label=None if i else f"width {width} (3 draws)")
    theory(ax, DEGREES, predicted[at], "yours, infinite width")
    ax.plot(SEEN.rad2deg(), Y, "o", color=COLOURS["orange"], markersize=6, label="training points")
    ax.set(xlabel="angle on the circle (degrees)", ylabel="output $f_t - f_0$", ylim=(-2, 2), title=f"t = {time}")
    ax.legend(ncols=3, fontsize=9, loc="lower center")
    plt.show()


look(time=3.2, width=512)

# %% [markdown]
# Move the time. Which part of the targets is learned first? Then take the narrow networks.

# %% tags=["nbval-ignore-output"]
from ipywidgets import SelectionSlider

live(
    look,
    time=SelectionSlider(options=TIMES, value=3.2, description="training time t"),
    width=SelectionSlider(options=list(watched), value=512, description="width m"),
)

# %% tags=["nbval-ignore-output"]
misses = {}
for m, nets in watched.items():
    misses[m] = float(np.mean([(f[-1] - predicted[-1]).square().mean().sqrt() for f, _ in nets]))
    changes = [100 * change for _, change in nets]
    print(f"width {m:3}: distance to yours {misses[m]:.2f} at the end; the weights moved by {np.mean(changes):.1f} %")
assert misses[512] < 0.7 * misses[8], "the wide networks follow the kernel, the narrow ones do not"

# %% [markdown]
# Was your first guess as small as that? In a wide network each weight has to move very little, because so many pull
# together; then the derivatives hardly change, and so the kernel hardly does. This is **lazy training**. The narrow
# networks had to move their weights far, and no fixed kernel follows them.
#
# In lazy training every eigenvector of $\Theta$ is learned at a pace of its own, its eigenvalue. Slow waves around the
# circle have the large ones, so they come first.

# %% [markdown]
# ## 3. When the kernel moves
#
# Width is not the only way to be lazy. Chizat, Oyallon and Bach train $\alpha\,(f - f_0)$ in place of $f$, on
#
# $$\ell_\alpha(w) = \frac1{2\alpha^2}\sum_{i=1}^n \big(\alpha\,(f(x_i) - f_0(x_i)) - y_i\big)^2 ,$$
#
# where $f_0$ is the network as it was before training. With $\alpha$ large, a tiny change of $f$ is enough to fit $y$.
#
# ### Exercise 5 ●● (15 min)
#
# Train a model on $\ell_\alpha$ by gradient descent, and measure by how much its weights have moved.
#
# <details><summary>Hint 1</summary>Write the loss as a function of the model's output, and take the steps with
# <code>torch.optim.SGD</code> or by <code>torch.autograd.grad</code>. The output has shape (n, 1), y has shape (n,): take
# care that their difference is not (n, n).</details>
# <details><summary>Hint 2</summary>Two things are to be remembered from before the first step: f₀(xᵢ), without
# gradient, and the weights, as a copy: training changes them in place.</details>


# %%
def train_scaled(model: nn.Module, X: Tensor, y: Tensor, alpha: float, eta: float, steps: int) -> float:
    """Train α(f - f_0) by `steps` full-batch steps of gradient descent with stepsize eta on the loss above.

    model, changed in place, maps X (n, d) to outputs (n, 1), f_0 are its outputs when it comes; y (n,).
    Returns ‖w - w_0‖/‖w_0‖ with w_0 and w all its weights before and after, taken as one long vector.
    """
    # SOLUTION TODO 5 (train_scaled)
    weights = list(model.parameters())
    w_0 = torch.cat([w.detach().flatten() for w in weights])
    f_0 = model(X).detach()
    for _ in range(steps):
        residual = alpha * (model(X) - f_0) - y[:, None]
        gradients = torch.autograd.grad(residual.square().sum() / (2 * alpha**2), weights)
        with torch.no_grad():
            for w, gradient in zip(weights, gradients, strict=True):
                w -= eta * gradient
    moved = torch.cat([w.detach().flatten() for w in weights]) - w_0
    return float(moved.norm() / w_0.norm())
    # END SOLUTION


check.train_scaled(train_scaled)

# %% [markdown]
# A task in which there is something to find: inputs with 15 coordinates of $\pm1$, and the target is the product of the
# first two. A kernel that treats all coordinates alike has to consider each of the 105 pairs. For $\alpha < 1$ the
# stepsize is reduced to $\eta\,\alpha$, since the weights, and with them the gradients, become large.


# %%
def product_task(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """120 inputs of length 1 to train on and 1000 to test, with the product of two signs as target."""
    signs = 2.0 * torch.randint(0, 2, (1120, 15), generator=torch.Generator().manual_seed(seed)) - 1
    inputs, targets = signs / 15**0.5, signs[:, 0] * signs[:, 1]
    return inputs[:120], targets[:120], inputs[120:], targets[120:]


ALPHAS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
ETA, STEPS = 0.0025, 1000


# %%
def lazy_or_rich(alpha: float, seed: int) -> list[float]:
    """Change of weights and kernel, test and training error, share of the two inputs in the first layer's squares."""
    A, y, A_test, y_test = product_task(seed)
    model = ntk_mlp(15, 128, 1, torch.Generator().manual_seed(seed))
    before = empirical_ntk(model, A[:40], A[:40])
    start = [model(inputs).detach()[:, 0] for inputs in (A_test, A)]
    moved = train_scaled(model, A, y, alpha, ETA * min(1, alpha), STEPS)
    kernel = (empirical_ntk(model, A[:40], A[:40]) - before).norm() / before.norm()
    after = (model(inputs).detach()[:, 0] for inputs in (A_test, A))
    pairs = zip(after, start, (y_test, y), strict=True)
    wrong = [float(((f - f_0) * targets <= 0).double().mean()) for f, f_0, targets in pairs]
    squares = next(model.parameters()).detach().square().sum(dim=0)
    return [moved, float(kernel), *wrong, float(squares[:2].sum() / squares.sum())]


scan = np.array([[lazy_or_rich(alpha, seed) for alpha in ALPHAS] for seed in range(5)])  # (seeds, scales, 5)

# %% [markdown]
# What would a network do whose kernel never moves? You have that formula: your exercise 4, with the kernel that your
# exercise 3 finds before training, at the time $t = \eta \cdot$ steps.


# %%
def frozen_errors(seed: int) -> list[float]:
    """Test errors with a kernel that never moves: that of the untrained network, and that of infinite width."""
    A, y, A_test, y_test = product_task(seed)
    model = ntk_mlp(15, 128, 1, torch.Generator().manual_seed(seed))
    found = []
    for kernel in (lambda P: empirical_ntk(model, P, A), lambda P: ntk(P, A, 1)):
        f = flow(kernel(A), kernel(A_test), y[:, None], ETA * STEPS)[:, 0]
        found.append(float((f * y_test <= 0).double().mean()))
    return found


frozen, infinite = np.mean([frozen_errors(seed) for seed in range(5)], axis=0)

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
spread(left, ALPHAS, scan[:, :, 1], "kernel", "orange", marker="o")
spread(left, ALPHAS, scan[:, :, 0], "weights", "blue", marker="o")
theory(left, ALPHAS[2:], scan[:, -1, 0].mean() * ALPHAS[-1] / np.array(ALPHAS[2:]), "slope -1")
left.set(xscale="log", yscale="log", xlabel="output scale α", ylabel="relative change in training")
spread(right, ALPHAS, scan[:, :, 2], "networks", "green", marker="o")
theory(right, [ALPHAS[0], ALPHAS[-1]], [frozen, frozen], "their first kernels, fixed")
right.axhline(infinite, color="#999999", label="infinite width, fixed")
right.set(xscale="log", xlabel="output scale α", ylabel="test error (fraction)", ylim=(0, 0.3))
left.legend()
right.legend()
plt.show()

# %% tags=["nbval-ignore-output"]
for alpha, share in zip(ALPHAS, scan[:, :, 4].mean(axis=0), strict=True):
    print(f"α = {alpha:4}: the two inputs that matter hold {share:.2f} of the first layer (by chance {2 / 15:.2f})")
errors = scan[:, :, 2].mean(axis=0)
assert scan[:, :, 3].max() < 0.02, "all of them have learned their training set"
assert errors[0] < errors[-1] / 3, "the rich networks find the two coordinates"
assert abs(errors[-1] - frozen) < 0.02, "the lazy ones do what their first kernel does"

# %% [markdown]
# And your second guess? With $\alpha$ large the network is a kernel method: all changes fall about as $1/\alpha$, and the
# test error is that of its first kernel, the dashed line. With $\alpha$ small the weights have to go far, and they go
# to where the answer is: the first layer turns to the two coordinates that matter, and the test error falls below that
# of the kernel of infinite width as well (the grey line). The functions that the network can express were the same all
# the time.
#
# All of these networks get every training point right. So it is not its size alone that makes a network lazy, and on this
# task lazy is the worse of the two.

# %% [markdown]
# ## 4. A kernel that knows its neighbours
#
# Now networks of convolutions of $3\times3$ pixels, with infinitely many channels. The kernel of two images $x$, $z$ has
# to remember pairs of *positions*: $K_{ij,i'j'}$ is the covariance of the activations at position $ij$ of $x$ and $i'j'$
# of $z$. It begins with the product of the two pixels. A convolution sums over neighbours, at both positions with the
# same shift, since the same weights stand there:
#
# $$S(K)_{ij,i'j'} = \sum_{a=-1}^{1}\sum_{b=-1}^{1} K_{(i+a)(j+b),\,(i'+a)(j'+b)} \qquad\text{(zero outside the images)} .$$
#
# Then everything is as in exercise 2, with variances $v_{ij}$ for $x$ and $v'_{i'j'}$ for $z$ in place of the squared
# lengths, and a ninth of it, since nine terms are summed. Let $T$ be the tangent kernel by positions. One layer is
#
# $$c = \frac{S(K)}{\sqrt{v\,v'}}, \qquad K \leftarrow \tfrac19\sqrt{v\,v'}\;\kappa_1(c), \qquad
#   T \leftarrow \tfrac19\,\kappa_0(c)\,S(T) + K .$$
#
# ### Exercise 6 ●● (20 min)
#
# Write one layer, with your `arc_cosine`.
#
# <details><summary>Hint 1</summary>First a function for S: put zeros around all four axes with
# <code>torch.nn.functional.pad(K, (1,) * 8)</code>; then each of the nine shifts is one slice, the same for the
# first and third axis, and the same for the second and fourth.</details>
# <details><summary>Hint 2</summary><code>v_x[:, :, None, None]</code> lies along the first two axes of K, and
# <code>v_z</code> along the last two.</details>
# <details><summary>Hint 3</summary>In a black corner of a digit v is 0, and c is 0/0: as in exercise 2, K and T are 0
# there.</details>


# %%
def cntk_layer(K: Tensor, T: Tensor, v_x: Tensor, v_z: Tensor) -> tuple[Tensor, Tensor]:
    """K and T after one more layer, a convolution of 3 x 3 with zero padding and a ReLU.

    K, T (H, W, H, W): axes 0, 1 are the position in the image x, axes 2, 3 that in z. v_x, v_z (H, W) >= 0 are the
    variances after the convolution; where one is 0, the new K and T are 0. All of one floating dtype, not changed.
    """
    # SOLUTION TODO 6 (cntk_layer)
    H, W = v_x.shape

    def S(A: Tensor) -> Tensor:
        P = torch.nn.functional.pad(A, (1,) * 8)
        return sum(P[a : a + H, b : b + W, a : a + H, b : b + W] for a in range(3) for b in range(3))

    scale = torch.sqrt(v_x[:, :, None, None] * v_z)
    k0, k1 = arc_cosine(S(K) / scale.clamp_min(torch.finfo(K.dtype).tiny))
    K_new = scale * k1 / 9
    return K_new, k0 * S(T) / 9 + K_new
    # END SOLUTION


check.cntk_layer(cntk_layer)

# %% [markdown]
# From layers to a network: start with $K = T$, the products of pixels, and apply three layers. If the network averages
# its last layer over all positions before the output (*global average pooling*), its kernel is the average of $T$
# over all pairs of positions.

# %%
from torch.nn.functional import avg_pool2d

from phenomena.convolutional_ntk import cntk


def variances(x: Tensor, depth: int) -> list[Tensor]:
    """v (H, W) of one image (H, W) in each layer: a sum over 3 x 3 pixels, then means over 3 x 3 of the one below."""
    v = [9 * avg_pool2d(x[None] ** 2, 3, stride=1, padding=1)]
    for _ in range(depth - 1):
        v.append(avg_pool2d(v[-1], 3, stride=1, padding=1))
    return [picture[0] for picture in v]


def pooled_kernel(x: Tensor, z: Tensor, depth: int = 3) -> float:
    """The convolutional tangent kernel, with pooling, of two images (H, W)."""
    K = T = x[:, :, None, None] * z
    for v_x, v_z in zip(variances(x, depth), variances(z, depth), strict=True):
        K, T = cntk_layer(K, T, v_x, v_z)
    return float(T.mean())


# %%
digits = load("digits", n_train=200, n_test=0, seed=0)
images = digits.X_train.view(200, 1, 8, 8)
mine = torch.tensor([[pooled_kernel(x, z) for x in images[:5, 0]] for z in images[:5, 0]])
package = cntk(images[:5], depth=3, gap=True)
print(f"yours is the kernel of the course's package: {torch.allclose(mine, package, rtol=1e-3)}")

# %% [markdown]
# Yours takes one pair at a time; the package's `cntk` takes many, in the same recursion. Now the third guess. Two
# hundred digits, as they are and with their pixels in another order; three kernels of depth 3.

# %%
order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
flat = {"as they are": digits.X_train, "in another order": digits.X_train[:, order]}
nets = {
    "fully connected": lambda X: ntk(X, X, 3),
    "convolutional": lambda X: cntk(X.view(200, 1, 8, 8), depth=3),
    "convolutional, pooled": lambda X: cntk(X.view(200, 1, 8, 8), depth=3, gap=True),
}
kernels = {(net, name): kernel(X) for name, X in flat.items() for net, kernel in nets.items()}

# %% [markdown]
# Each kernel learns from 50 of the digits and is tested on the other 150; twenty splits, the same for all.

# %%
from phenomena.kernel_regression import kernel_regression


def split_error(kernel: Tensor, seed: int) -> float:
    """Test error of ridge regression with a kernel (200, 200), 50 digits to train on."""
    i = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    fit, test, K = i[:50], i[50:], kernel.double()
    targets = torch.nn.functional.one_hot(digits.y_train[fit], 10).double() - 0.1
    f = kernel_regression(K[fit][:, fit], targets, K[test][:, fit], ridge=1e-6)
    return float((f.argmax(dim=1) != digits.y_train[test]).double().mean())


split_errors = {key: [split_error(kernel, seed) for seed in range(20)] for key, kernel in kernels.items()}

# %%
fig, ax = plt.subplots(figsize=(7.2, 3))
for row, ((_, name), values) in enumerate(split_errors.items()):
    at, colour = row % 3 + 0.3 * (row > 2) - 0.15, COLOURS["orange" if row > 2 else "blue"]
    ax.plot(values, [at] * 20, "o", color=colour, alpha=0.4, label=None if row % 3 else f"pixels {name}")
    ax.plot(np.mean(values), at, "|", color="black", markersize=14, label="mean of 20 splits" if row == 5 else None)
ax.set(yticks=range(3), yticklabels=list(nets), xlabel="test error (fraction)", xlim=(0, None))
ax.invert_yaxis()
ax.legend(fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
plt.show()

# %% tags=["nbval-ignore-output"]
means = {key: np.mean(values) for key, values in split_errors.items()}
for net in nets:
    print(
        f"{net:21} {means[net, 'as they are']:.3f} as they are, {means[net, 'in another order']:.3f} in another order"
    )
first, second = (kernels["fully connected", name] for name in flat)
assert torch.allclose(first, second, rtol=1e-4), "products of inputs do not depend on the order of pixels"
pooled = [means["convolutional, pooled", name] for name in flat]
assert pooled[0] < means["fully connected", "as they are"] < pooled[1], "pooling helps among neighbours, and only there"

# %% [markdown]
# Was your third guess right? The fully connected kernel knows an image only by its inner products with others, and
# those are the same in any order of the pixels: not one of its errors changes. The pooled kernel asks which
# neighbourhoods two images share, anywhere. On digits this is the right question, and in the other order the wrong
# one: the best of the six becomes the worst.
#
# And convolutions without pooling? Their kernel is the sum of $T_{ij,ij}$ over all $ij$: it never compares one place of
# $x$ with another of $z$. With 50 digits it hardly differs from the fully connected kernel. (Twenty splits of the same
# 200 digits are no twenty independent experiments: the spread of the dots is that of the choice of the 50.)

# %% [markdown]
# ## What you have seen
#
# - At infinite width the tangent kernel is a recursion on one angle. That of a real network differs from it by a
#   random error of size $1/\sqrt m$.
# - If the kernel stays where it is, training is a linear equation, and it can be solved without a single step.
# - Whether it stays is a matter of the width and of the scale of the output. Where it moves, a network may find what a
#   kernel that is fixed beforehand does not know.
# - What a kernel knows beforehand is the architecture. Pooling pays where neighbours mean something, and costs where
#   they do not.
#
# ## An open question
#
# Your rich networks found two coordinates among 15. Do networks as they are used in practice find features of digits,
# or are they close enough to their first kernel? Take the change of the kernel in exercise 5 and the errors of part 4:
# which network would you train, at which width and scale, against which kernel? What would you have to see to call it
# lazy, and what would prove you wrong? Papers that you can reproduce on this are listed at the end of the chapter.

# %% [markdown]
# ## Where you stand
#
# The last cell checks every exercise anew. Run it whenever you like.

# %%
summary(check, globals())
