# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 5: The noise of SGD
#
# **Before you read on, write down three guesses.**
#
# - SGD with a constant step goes down to a minimum and never comes to rest: its weights end as a cloud around it. You
#   double the step size. How much larger is the cloud's variance? And if you double it again, and again?
# - Gradient descent on a parabola diverges if the step $\eta$ is larger than 2/curvature. You train a network on *all*
#   its samples, without any noise, at a step that is smaller than that. What will the largest curvature do in a thousand steps?
# - There are 40 equations for 100 unknowns, of which only 5 are not 0. Three methods solve them: gradient descent, SGD,
#   and SGD whose labels are made *wrong*, each time by another random number. Which one finds the five?
#
# In this lab you build what answers them, each in a few lines:
#
# 1. the cloud around the minimum of a parabola,
# 2. where the noise comes from, and how much of it there is,
# 3. the steepest direction of a network with thousands of weights,
# 4. a step that is shorter along the steepest directions,
# 5. noise that chooses among solutions.
#
# Seven exercises, about 90 minutes. Dots give the difficulty: ● a line or two once you see it, ●● several lines. Each
# exercise has a contract (its signature and docstring), folded hints, and a check to run at once; the last cell shows
# what is done and what is open. The parts 1, 2, 4 and 5 need none of your code of the parts before. The book's chapter on
# the noise of SGD has the theory.

# %%
# %load_ext phenomena.lab
from collections.abc import Callable
from functools import cache

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from phenomena.checks import sgd_noise as check
from phenomena.data import load
from phenomena.lab import summary
from phenomena.plotting import COLOURS, theory, use_style

torch.set_num_threads(1)  # small products gain nothing from a second thread
use_style()
plt.rcParams["figure.dpi"] = 85

# %% [markdown]
# ## 1. A cloud around the minimum
#
# Near a minimum at 0 a loss is a parabola, $L(\theta) = \frac12\theta^\top H\theta$. A step of SGD follows its gradient
# and some noise $\xi_t$, new in each step, of mean 0 and covariance $C$:
#
# $$\theta_{t+1} = \theta_t - \eta\,(H\theta_t + \xi_t) = (I - \eta H)\,\theta_t - \eta\,\xi_t .$$
#
# The first term pulls $\theta$ to the minimum, the second throws it out again. After many steps the two balance, and
# $\theta$ has a covariance $\Sigma$ that a step does not change any more. The old $\theta_t$ and the new $\xi_t$ are
# independent: so how are the covariance of the left side and those of the two terms on the right related?
#
# ### Exercise 1 ●● (15 min)
#
# Write down that equation for $\Sigma$, and solve it.
#
# <details><summary>Hint 1</summary>If θ has covariance Σ, then Aθ has AΣAᵀ, and independent terms add up. In the end
# the new covariance is the old one.</details>
# <details><summary>Hint 2</summary>In one dimension: Σ = (1 - ηh)² Σ + η² c. Solve this first. What is the denominator
# for small η, and what for large?</details>
# <details><summary>Hint 3</summary><code>torch.linalg.eigh(H)</code> returns eigenvalues λ and a matrix V, H = V diag(λ)
# Vᵀ. In the basis V the matrix I - ηH is diagonal, and each entry of Σ has an equation of its own. Turn C into that
# basis, <code>V.T @ C @ V</code>, and the result back.</details>


# %%
def stationary_covariance(H: Tensor, C: Tensor, eta: float) -> Tensor:
    """The covariance Σ that a step θ ← (I - ηH) θ - ηξ leaves as it is.

    H (p, p) symmetric, all eigenvalues positive; C (p, p) is the covariance of the noise ξ of one step, symmetric, not
    always of full rank. 0 < η < 2/(largest eigenvalue of H), and η may be tiny: an exact solution, no iteration.
    Returns Σ (p, p) in the dtype of H.
    """
    # SOLUTION TODO 1 (stationary_covariance)
    lam, V = torch.linalg.eigh(H)
    shrinks = 1 - eta * lam
    noise = eta**2 * V.T @ C @ V
    return V @ (noise / (1 - torch.outer(shrinks, shrinks))) @ V.T
    # END SOLUTION


check.stationary_covariance(stationary_covariance)

# %% [markdown]
# Theory against an experiment: ten thousand walkers, each with noise of its own. Along a direction of curvature
# $\lambda$ all depends on the one number $\eta\lambda$.
#
# For small steps one often writes the walk as a diffusion in continuous time. It has the equation
# $H\Sigma + \Sigma H = \eta C$, without the term in $\eta^2$, and so a variance of $\eta c / 2\lambda$ along each
# direction. In the figure everything is divided by this. **Predict**: up to which $\eta\lambda$ would you trust it? And
# where is the cloud larger than it says, where smaller?


# %%
def walk(H: Tensor, C: Tensor, eta: float, walkers: int, steps: int) -> Tensor:
    """Where walkers (walkers, p) are that began at 0, after so many steps of SGD on the parabola."""
    generator = torch.Generator().manual_seed(0)
    lam, V = torch.linalg.eigh(C)
    root = V * lam.clamp(min=0).sqrt()  # root @ root.T = C
    theta = torch.zeros(walkers, len(H), dtype=H.dtype)
    for _ in range(steps):
        theta = theta - eta * (theta @ H + torch.randn(theta.shape, generator=generator, dtype=H.dtype) @ root.T)
    return theta


# %%
curvature = torch.tensor([0.1, 0.3, 0.6, 1.0, 1.4, 1.7, 1.9], dtype=torch.float64)  # with a step of 1: ηλ
H, C = torch.diag(curvature), torch.eye(7, dtype=torch.float64)
walked = walk(H, C, 1.0, walkers=10_000, steps=300).var(dim=0)
yours = stationary_covariance(H, C, 1.0).diagonal()
diffusion = 1 / (2 * curvature)
fine = torch.linspace(0.02, 1.95, 100, dtype=torch.float64)

fig, ax = plt.subplots()
theory(
    ax, fine, 2 * fine * stationary_covariance(fine.diag(), torch.eye(100, dtype=fine.dtype), 1.0).diagonal(), "your Σ"
)
ax.plot(curvature, walked / diffusion, "o", color=COLOURS["blue"], label="10,000 walkers")
ax.axhline(1, color=COLOURS["orange"], label="continuous time")
ax.axvline(2, color="#777777", linewidth=1)
ax.set(xlabel="step times curvature, ηλ", ylabel="variance / (η c / 2λ)", yscale="log")
ax.legend()
plt.show()

# %% tags=["nbval-ignore-output"]
print("walkers / your Σ:", [f"{ratio:.3f}" for ratio in (walked / yours).tolist()])
assert ((walked / yours - 1).abs() < 5 * (2 / 10_000) ** 0.5).all(), "within five standard errors of a variance"

# %% [markdown]
# Your equation holds at every step; continuous time is always too small, and at $\eta\lambda = 1$ by a factor of 2: in
# one dimension the ratio is $1/(1 - \eta\lambda/2)$. At $\eta\lambda = 2$ there is no cloud any more. So, to the first
# guess: twice the step is twice the variance as long as $\eta\lambda$ is small, and more and more beyond.
#
# Now the shape. The valley is four times as steep across as along. **Predict** the shape of the cloud: first for noise
# that is the same in all directions, $C = I$; then for $C = H$, more noise where it is steep. And what does a larger
# step do to each?

# %%
VALLEY = torch.diag(torch.tensor([0.25, 1.0], dtype=torch.float64))


def ellipse(Sigma: Tensor) -> Tensor:
    """Points (2, 100) at two standard deviations."""
    lam, V = torch.linalg.eigh(Sigma)
    angle = torch.linspace(0, 2 * torch.pi, 100, dtype=Sigma.dtype)
    return 2 * (V * lam.sqrt()) @ torch.stack([angle.cos(), angle.sin()])


# %%
def draw_cloud(ax: plt.Axes, eta: float, noise: str) -> None:
    """Five hundred walkers in the valley, your ellipse and that of continuous time, two standard deviations each."""
    C = VALLEY if noise == "C = H" else torch.eye(2, dtype=torch.float64)
    Sigma, diffusion = stationary_covariance(VALLEY, C, eta), eta * C.diagonal() / (2 * VALLEY.diagonal())
    side = 4 * float(Sigma.diagonal().max().sqrt())
    ax.plot(*walk(VALLEY, C, eta, 500, 200).T, ".", color=COLOURS["blue"], alpha=0.5, label="500 walkers")
    ax.plot(*ellipse(torch.diag(diffusion)), color=COLOURS["orange"], label="continuous time")
    theory(ax, *ellipse(Sigma), label="your Σ, 2 standard deviations")
    ax.set(
        title=f"{noise}, η = {eta:g}",
        xlabel="along the valley, λ = 1/4",
        aspect="equal",
        xlim=(-side, side),
        ylim=(-side, side),
    )


# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 3.9))
for ax, (eta, noise) in zip(axes, ((0.8, "C = I"), (0.1, "C = H"), (1.6, "C = H")), strict=True):
    draw_cloud(ax, eta, noise)
axes[0].set_ylabel("across, λ = 1")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()


# %%
def cloud(eta: float, noise: str) -> None:
    """One of these pictures, at a step and a noise of your choice; the scale follows the cloud."""
    fig, ax = plt.subplots(figsize=(4.4, 4.4))
    draw_cloud(ax, eta, noise)
    ax.set_ylabel("across, λ = 1")
    plt.show()


# %% tags=["nbval-ignore-output"]
from ipywidgets import Dropdown, FloatSlider

from phenomena.lab import live

live(
    cloud,
    eta=FloatSlider(value=0.8, min=0.1, max=1.8, step=0.1, description="step size η"),
    noise=Dropdown(options=["C = I", "C = H"], value="C = H", description="noise"),
)

# %% [markdown]
# With $C = I$ the cloud is long where the valley is flat. With $C = H$ it is a circle at small steps, and a large step
# stretches it *across* the valley, where it is steep. Which of the two does a network have? For that its noise must be
# known.

# %% [markdown]
# ## 2. Where the noise comes from
#
# A batch is a random choice of samples, and its gradient the mean of theirs. Here are 500 digits and a network of 3466
# weights. All of them stand in one vector $\theta$: this makes it easy to speak of directions.

# %%
from torch.func import functional_call
from torch.nn.functional import one_hot

from phenomena.networks import mlp

data = load("digits", 500, 500, seed=0)
X, Y = data.X_train, one_hot(data.y_train, 10).float()  # (500, 64) and (500, 10)
network = mlp([64, 32, 32, 10], torch.Generator().manual_seed(0), nn.Tanh)
shapes = {name: w.shape for name, w in network.named_parameters()}
start = torch.cat([w.detach().flatten() for w in network.parameters()])  # (3466,)


def loss(theta: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    """Half the squared error, mean over the samples X (n, 64), Y (n, 10); or of one, x (64,), y (10,)."""
    parts = theta.split([shape.numel() for shape in shapes.values()])
    weights = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    return (functional_call(network, weights, (X,)) - Y).square().sum(-1).mean() / 2


# %% [markdown]
# ### Exercise 2 ● (10 min)
#
# Compute the gradient of every single sample. (A loop over the samples is right too, and many times slower.)
#
# <details><summary>Hint 1</summary><code>torch.func.grad(loss)</code> is a function of the same arguments as
# <code>loss</code>: it returns the gradient by the first of them.</details>
# <details><summary>Hint 2</summary><code>torch.func.vmap(f, in_dims=...)</code> runs f along an axis of its arguments.
# θ is the same for all samples: its entry in <code>in_dims</code> is None.</details>


# %%
def sample_gradients(loss: Callable[[Tensor, Tensor, Tensor], Tensor], theta: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    """The gradient of each sample's loss by theta, a row a sample.

    loss(theta, x, y) is the loss of ONE sample, one number; theta (p,), X (n, ...) and Y (n, ...) hold a sample a row.
    Returns (n, p) in the dtype of X, without a graph.
    """
    # SOLUTION TODO 2 (sample_gradients)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    return each(theta, X, Y)
    # END SOLUTION


check.sample_gradients(sample_gradients)

# %% [markdown]
# Write $g_i$ for the gradient of sample $i$, $g$ for their mean, and
#
# $$C = \frac1n \sum_{i=1}^n (g_i - g)(g_i - g)^\top$$
#
# for the covariance of *one* sample's gradient. A batch of $B$ samples has $g_B = \frac1B\sum_{i \in B} g_i$, and there
# are two ways to draw it: *with replacement*, so that a sample may come twice, or *without*.
#
# ### Exercise 3 ● (10 min)
#
# Give the covariance of $g_B$ for both, exactly. Before you derive the second: what must come out at $B = 1$, and what
# at $B = n$?
#
# <details><summary>Hint 1</summary>With replacement the B terms are independent. What is the covariance of their mean?
# </details>
# <details><summary>Hint 2</summary>Without replacement two different draws have a covariance, the same for each pair: D,
# say. The sum of all n is fixed, so its covariance is 0: n C + n (n - 1) D = 0. Now do the same sum for B terms.
# </details>


# %%
def batch_covariance(G: Tensor, B: int, replacement: bool) -> Tensor:
    """The covariance of the mean of B rows of G, drawn at random with or without replacement.

    G (n, p), n > 1: the gradients of all n samples; the only randomness is which rows are drawn. B >= 1; without
    replacement B <= n, with replacement B may exceed n. Returns (p, p) in the dtype of G.
    """
    # SOLUTION TODO 3 (batch_covariance)
    n = len(G)
    centred = G - G.mean(dim=0)
    factor = 1 / B if replacement else (n - B) / (n - 1) / B
    return factor * centred.T @ centred / n
    # END SOLUTION


check.batch_covariance(batch_covariance)

# %% [markdown]
# On the network, $C$ has twelve million entries. So look at the noise along twenty random directions. **Predict**: how
# many times less noise has a batch of 250 than one of 25? Does it matter how it is drawn?

# %%
generator = torch.Generator().manual_seed(0)
directions = torch.randn(len(start), 20, generator=generator)
directions /= directions.norm(dim=0)
seen = sample_gradients(loss, start, X, Y) @ directions  # (500, 20): gᵢ along each of them
SIZES = [1, 5, 25, 100, 250, 400, 499]


def drawn(B: int, replacement: bool) -> float:
    """The noise of 1000 batches: their mean squared distance from the full gradient, along all directions."""
    if replacement:
        batches = torch.randint(500, (1000, B), generator=generator)
    else:
        batches = torch.rand(1000, 500, generator=generator).argsort(dim=1)[:, :B]
    means = torch.stack([seen[batch].mean(dim=0) for batch in batches])
    return float((means - seen.mean(dim=0)).square().sum(dim=1).mean())


# %%
measured = {how: [drawn(B, how) for B in SIZES] for how in (True, False)}
exact = {how: [float(batch_covariance(seen, B, how).trace()) for B in SIZES] for how in (True, False)}

fig, ax = plt.subplots()
for how, name, colour in ((True, "with", "green"), (False, "without", "blue")):
    ax.plot(SIZES, measured[how], "o", color=COLOURS[colour], label=f"1000 batches, {name} replacement")
    theory(ax, SIZES, exact[how], "" if how else "your covariances")
ax.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="noise, sum of 20 variances")
ax.legend()
plt.show()

# %% tags=["nbval-ignore-output"]
for how, name in ((True, "with"), (False, "without")):
    ratios = [m / e for m, e in zip(measured[how], exact[how], strict=True)]
    print(f"{name} replacement, measured / exact:", [f"{ratio:.2f}" for ratio in ratios])
    assert all(abs(ratio - 1) < 0.3 for ratio in ratios), "1000 batches are far from your covariance"

# %% [markdown]
# With replacement the noise falls as $1/B$, for ever: ten times from 25 to 250. Without, it falls faster from about a
# tenth of the samples on, nineteen times from 25 to 250, and is gone at $B = n$. In small batches the two are nearly the
# same.
#
# Batch size and drawing only put a number in front. The *shape* of the noise is that of $C$, whatever the batch: your
# formula says so, the figure shows only the sum.

# %% [markdown]
# ## 3. The steepest direction
#
# The curvature of a network's loss is its Hessian $H$: here 3466 numbers squared, for a large network too many for any
# memory. But its product with a vector is cheap. The slope along a fixed $v$ is one number, $\langle g(\theta),
# v\rangle$, and *its* gradient is
#
# $$\nabla_\theta\,\langle \nabla L(\theta), v\rangle = H(\theta)\,v .$$
#
# ### Exercise 4 ●● (10 min)
#
# Write it by walking back through the graph twice (Pearlmutter).
#
# <details><summary>Hint 1</summary>A copy of θ that requires a gradient, its loss, the gradient. This one must itself be
# something to differentiate: <code>create_graph=True</code>.</details>
# <details><summary>Hint 2</summary><code>torch.autograd.grad(number, theta)</code> returns a tuple of one. Which number
# do you differentiate the second time?</details>


# %%
def hessian_product(loss: Callable[[Tensor], Tensor], theta: Tensor, v: Tensor) -> Tensor:
    """H v for the Hessian H of loss at theta, exactly. (To form H is right too, and hopeless for a network.)

    loss maps theta (p,) to one number, twice differentiable; v (p,). Returns (p,) in the dtype of theta, without a
    graph.
    """
    # SOLUTION TODO 4 (hessian_product)
    theta = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    (product,) = torch.autograd.grad(gradient @ v, theta)
    return product
    # END SOLUTION


check.hessian_product(hessian_product)

# %% [markdown]
# Products are enough to find eigenvalues. Take any $v$, and multiply it by $A$ again and again: what grows fastest wins.
# With $v$ made a unit vector after every product, this is *power iteration*, and $v^\top\!A v$ tends to an eigenvalue.
# But to which one? **Predict**, for this loss of two numbers at the top of its ridge, $\theta = (0, 0)$:
#
# $$L(\theta) = \tfrac14 (\theta_1^2 - 1)^2 + 0.15\,\theta_2^2 .$$


# %%
def ridge(theta: Tensor) -> Tensor:
    """Two valleys along the second axis, and a ridge between them."""
    return (theta[0] ** 2 - 1) ** 2 / 4 + 0.15 * theta[1] ** 2


def plain(product: Callable[[Tensor], Tensor], v: Tensor, steps: int) -> float:
    """Power iteration as one meets it first."""
    for _ in range(steps):
        v = product(v)
        v = v / v.norm()
    return float(v @ product(v))


top, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
print(f"power iteration on the ridge: {plain(lambda v: hessian_product(ridge, top, v), one, 100):.3f}")

# %% [markdown]
# The eigenvalues are $-1$ and $0.3$. What grows fastest is what is largest *in magnitude*, and that was the ridge that
# falls off, not the steepest valley. If it comes out negative, there is a remedy: you then know that no eigenvalue lies
# below this $\mu$, so the eigenvalues of $A - \mu I$ are all at least 0, and their order is that of $A$.
#
# ### Exercise 5 ●● (15 min)
#
# Find the largest eigenvalue with its sign: $\lambda_1 \ge \lambda_2 \ge \dots$
#
# <details><summary>Hint 1</summary>Write the loop as a function of a product, inside yours: you need it once or
# twice.</details>
# <details><summary>Hint 2</summary>(A - μI) v is product(v) - mu * v. Begin the second round at <code>start</code>: the
# end of the first one is the very vector that A - μI makes 0.</details>
# <details><summary>Hint 3</summary>The second round finds λ₁ - μ. The number vᵀAv with A itself needs no
# correction.</details>


# %%
def top_eigenvalue(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[float, Tensor]:
    """The algebraically largest eigenvalue of a symmetric matrix A, and its unit eigenvector, by power iteration.

    product maps v (p,) to A v (p,); start (p,), not 0, of any length, is where the iteration begins. `steps` products
    from there, and `steps` more, from start again, on a shifted A if the first round ends at a negative eigenvalue.
    Returns λ₁, a number, and v (p,), of length 1 and either sign, in the dtype of start.
    """

    # SOLUTION TODO 5 (top_eigenvalue)
    def iterate(shift: float) -> tuple[float, Tensor]:
        u = start / start.norm()
        for _step in range(steps):
            u = product(u) - shift * u
            u = u / u.norm()
        return float(u @ product(u)), u

    lam, v = iterate(0.0)
    return (lam, v) if lam >= 0 else iterate(lam)
    # END SOLUTION


check.top_eigenvalue(top_eigenvalue)

# %%
print(f"yours on the ridge: {top_eigenvalue(lambda v: hessian_product(ridge, top, v), one, 100)[0]:.3f}")

# %% [markdown]
# Now the network. Descent on the loss of *all* samples, without noise, or in batches; $\lambda_1$ of the full loss is
# found every 50 steps with your two functions, ten products from the last $v$ (a good start: it turns slowly).
# (Runs are remembered: if you change exercise 4 or 5, run the next cell again too.)


# %%
def full_loss(theta: Tensor) -> Tensor:
    """The loss of all 500 samples."""
    return loss(theta, X, Y)


def gradient(theta: Tensor, i: Tensor | slice) -> Tensor:
    """The gradient of the loss of the samples i."""
    return torch.func.grad(loss)(theta, X[i], Y[i])


@cache  # a run at the same settings is always the same
def descend(eta: float, B: int = 500, steps: int = 1000) -> tuple[Tensor, list[float]]:
    """Where descent from `start` ends, in batches of B (500: without noise), and λ₁ at every 50th step."""
    generator = torch.Generator().manual_seed(0)
    theta, v, found = start, torch.randn(len(start), generator=generator), []
    for step in range(steps + 1):
        if step % 50 == 0:
            lam, v = top_eigenvalue(lambda u, at=theta: hessian_product(full_loss, at, u), v, 10)
            found.append(lam)
        i = slice(None) if B == 500 else torch.randint(500, (B,), generator=generator)
        theta = theta - eta * gradient(theta, i)
    return theta, found


# %% tags=["nbval-ignore-output"]
_, (before,) = descend(0.2, steps=0)
print(f"λ₁ at the start is {before:.2f}: any step below {2 / before:.2f} looks safe")
assert 2 / 0.4 < before < 2 / 0.2, "0.2 is to be below the edge at the start, and 0.4 beyond it"

# %% [markdown]
# Your second guess. With $\eta = 0.2$, which is smaller than that, draw the curve of $\lambda_1$ before you run the cell.


# %%
def watch(eta: float, B: int) -> None:
    """λ₁ along descent, and the largest curvature at which a step still goes down."""
    _, found = descend(eta, B)
    fig, ax = plt.subplots()
    name = "all 500 samples" if B == 500 else f"batches of {B}"
    ax.plot(range(0, 1001, 50), found, "o-", color=COLOURS["blue"], label=f"$λ_1$, {name}")
    theory(ax, [0, 1000], [2 / eta] * 2, "2/η")
    ax.set(xlabel="step", ylabel="largest curvature $λ_1$", ylim=(0, max(*found, 2 / eta) * 1.15))
    ax.legend(loc="lower right")
    plt.show()


watch(eta=0.2, B=500)

# %% [markdown]
# It climbs until it meets $2/\eta$, and stays near it, a little above: the *edge of stability* (Cohen et al.). The step was not chosen for
# the curvature, it *makes* the curvature. Beyond $2/\eta$ the descent swings from side to side along the steepest
# direction, and on a parabola it would blow up; in a network the swing itself leads to where it is less steep. (That
# is an explanation from the theory; your figure shows only $\lambda_1$.)
#
# **Predict**, then try: what is different at η = 0.4, where $2/\eta$ lies *below* the curvature at the start? At η =
# 0.1, where 1000 steps are not enough? And with batches of 50, or 10? (Each run takes a few seconds.)

# %% tags=["nbval-ignore-output"]
live(
    watch,
    eta=FloatSlider(value=0.4, min=0.1, max=0.5, step=0.05, description="step size η"),
    B=Dropdown(options=[500, 50, 10], value=500, description="batch size B"),
)

# %%
runs = {B: descend(0.2, B) for B in (500, 50, 10)}

fig, ax = plt.subplots()
for (B, (_, found)), colour in zip(runs.items(), ("blue", "green", "orange"), strict=True):
    ax.plot(range(0, 1001, 50), found, "o-", color=COLOURS[colour], label=f"B = {B}")
theory(ax, [0, 1000], [10, 10], "2/η")
ax.set(xlabel="step", ylabel="largest curvature $λ_1$", ylim=(0, 13))
ax.legend(ncols=2)
plt.show()

# %% tags=["nbval-ignore-output"]
late = {B: sum(found[-8:]) / 8 for B, (_, found) in runs.items()}
print("η λ₁ in the last 400 steps:", {B: round(0.2 * lam, 2) for B, lam in late.items()})
assert abs(0.2 * late[500] / 2 - 1) < 0.15, "without noise it sits at the edge"
assert late[10] < 0.85 * late[50] < 0.85 * 0.95 * late[500], "the smaller the batch, the flatter"

# %% [markdown]
# The smaller the batch, the flatter the place. SGD at $B = 10$ stays well below the edge. A likely reason is that its
# noise drives it away from steep places. Why should noise mind the *steep* directions? Look at its shape, at the end of the run in
# batches of 50. The ten steepest directions come from the course's package (it does what your power iteration does, for
# several vectors at once). **Predict**: how much more noise is there along them than along a random direction?

# %%
from phenomena.curvature import Eigenpairs, hessian, top_eigenpairs
from phenomena.training import squared_loss


def steepest(theta: Tensor, k: int, before: Eigenpairs | None = None) -> Eigenpairs:
    """The k largest eigenvalues of the Hessian at theta and their vectors (3466, k), by the package."""
    nn.utils.vector_to_parameters(theta, network.parameters())
    H = hessian(network, X, data.y_train, squared_loss)
    return top_eigenpairs(H, k, torch.Generator().manual_seed(0), start=before, tol=1e-2)


# %%
theta, lambdas = runs[50]
values, vectors = steepest(theta, 10)
G = sample_gradients(loss, theta, X, Y)
along = batch_covariance(G @ vectors, 1, True).diagonal()
elsewhere = batch_covariance(G @ directions, 1, True).diagonal()
bends = [float(hessian_product(full_loss, theta, u) @ u) for u in directions.T]

# %%
fig, ax = plt.subplots()
ax.plot(values, along, "o", color=COLOURS["blue"], label="ten steepest directions")
ax.plot(bends, elsewhere, "s", color=COLOURS["green"], label="twenty random ones")
theory(ax, [0.015, 15], [a * float(along.sum() / values.sum()) for a in (0.015, 15)], "proportional, C = cH")
ax.set(xscale="log", yscale="log", xlabel="curvature along it", ylabel="noise along it, one sample")
ax.legend()
plt.show()

# %% tags=["nbval-ignore-output"]
print(f"noise along the steepest / along a random direction: {float(along.mean() / elsewhere.mean()):.0f}")
print(f"λ₁ by the package {float(values[0]):.3f}, by you {lambdas[-1]:.3f}")
assert along.median() > 50 * elsewhere.median(), "the noise lies in the steep directions"
assert max(bends) < 0.1 * float(values[-1]), "random directions are flat"
assert abs(lambdas[-1] / float(values[0]) - 1) < 0.1, "power iteration and the package disagree"

# %% [markdown]
# The points lie near one line, noise proportional to curvature, over the whole range; noise that is the same in all
# directions would lie level. (It is no strict rule: a steep direction may be far quieter.) That is the second cloud, the one with $C = H$, which a
# large step stretches *across* the valley.

# %% [markdown]
# ## 4. The nudged step
#
# If the steep directions are what matters, take another step there and leave the others alone. With $e_1, \dots, e_K$
# the steepest directions, *Nudged SGD* (Jastrzębski et al.) takes $\gamma$ times the step along each of them:
#
# $$\theta_{t+1} = \theta_t - \eta\,\Big[g - (1 - \gamma) \sum_{k=1}^K \langle g, e_k\rangle\,e_k\Big] .$$
#
# ### Exercise 6 ● (10 min)
#
# Write this step.
#
# <details><summary>Hint 1</summary>What is it for γ = 1, and for γ = 0? Try your code on both.</details>
# <details><summary>Hint 2</summary>The vectors are the columns of a matrix E. Then Eᵀg holds all the ⟨g, e_k⟩ at once,
# and E times numbers is a sum of its columns.</details>


# %%
def nudged_step(g: Tensor, vectors: Tensor, eta: float, gamma: float) -> Tensor:
    """What is added to θ: minus η times the gradient, whose part along `vectors` is multiplied by γ.

    g (p,) gradient; vectors (p, K) with orthonormal columns; eta > 0, gamma >= 0. Returns (p,) in the dtype of g.
    """
    # SOLUTION TODO 6 (nudged_step)
    along = vectors @ (vectors.T @ g)
    return -eta * (g - (1 - gamma) * along)
    # END SOLUTION


check.nudged_step(nudged_step)

# %% [markdown]
# Take $\eta = 0.2$ and all samples again, and nudge the five steepest directions, found anew every 50 steps. $\gamma =
# 1$ is plain descent and ends at $\lambda_1 = 2/\eta = 10$. **Predict** where $\gamma = \frac12$ and $\gamma = 2$ end.


# %%
def descend_nudged(gamma: float, steps: int = 1000) -> tuple[Tensor, list[float]]:
    """Where your steps lead from `start`, and λ₁ at every 50th step."""
    theta, pairs, found = start, None, []
    for step in range(steps + 1):
        if step % 50 == 0:
            pairs = steepest(theta, 5, pairs)
            found.append(float(pairs.values[0]))
        theta = theta + nudged_step(gradient(theta, slice(None)), pairs.vectors, 0.2, gamma)
    return theta, found


nudged = {gamma: descend_nudged(gamma) for gamma in (0.5, 1.0, 2.0)}

# %%
fig, ax = plt.subplots()
for (gamma, (_, found)), colour in zip(nudged.items(), ("blue", "green", "orange"), strict=True):
    ax.plot(range(0, 1001, 50), found, "o-", color=COLOURS[colour], label=f"γ = {gamma:g}")
    theory(ax, [0, 1000], [2 / (0.2 * gamma)] * 2, "2/(γη)" if gamma == 1 else "")
ax.set(xlabel="step", ylabel="largest curvature $λ_1$", ylim=(0, 23))
ax.legend(ncols=2)
plt.show()


# %% tags=["nbval-ignore-output"]
@torch.no_grad()
def accuracy(theta: Tensor) -> float:
    """Share of 500 other digits that are read as their labels."""
    nn.utils.vector_to_parameters(theta, network.parameters())
    return float((network(data.X_test).argmax(dim=1) == data.y_test).double().mean())


for gamma, (theta, found) in nudged.items():
    print(f"γ = {gamma:3}: γ η λ₁ = {gamma * 0.2 * found[-1]:.2f}, {accuracy(theta):.1%} of other digits are read")
    assert abs(gamma * 0.2 * sum(found[-4:]) / 4 / 2 - 1) < 0.2, "λ₁ ends near 2/(γη)"
sharp, flat = accuracy(nudged[0.5][0]), accuracy(nudged[2.0][0])
assert abs(sharp - flat) < 0.05, "sharp or flat, hardly a difference on new digits"

# %% [markdown]
# What counts is the step along the steepest directions, $\gamma\eta$: $\lambda_1$ goes to $2/(\gamma\eta)$, and a little above. And the
# sharpest of the three places reads new digits about as well as the flattest. The paper found the same with SGD:
# sharpness can be steered, and by itself says little of how a network will generalize.

# %% [markdown]
# ## 5. Noise that chooses
#
# The third guess. The unknowns are $\beta \in \mathbb R^{100}$, and there are 40 equations $\langle\beta, x_i\rangle =
# y_i$: infinitely many solutions. A *diagonal linear network* writes $\beta = w_+^2 - w_-^2$, entry by entry. It can say
# what a linear model can say; what changes is how it learns. Its loss on a batch of $B$ samples is
#
# $$L(w_+, w_-) = \frac1{4B} \sum_{i=1}^B r_i^2, \qquad r_i = \langle w_+^2 - w_-^2,\, x_i\rangle - y_i .$$
#
# ### Exercise 7 ●● (20 min)
#
# Write one step of descent on this loss. With all samples it is gradient descent, with one it is SGD.
#
# <details><summary>Hint 1</summary>By the chain rule: what is the derivative of r_i by the entry j of w₊, and by that of
# w₋?</details>
# <details><summary>Hint 2</summary>The mean of r_i x_i over the batch, a vector (d,), serves both gradients.</details>
# <details><summary>Hint 3</summary>Both gradients are taken at the old weights: compute them before you change
# either.</details>


# %%
def diagonal_step(w_plus: Tensor, w_minus: Tensor, X: Tensor, y: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """The new w₊ and w₋ after a step of size eta > 0 down the gradient of the loss above.

    w_plus and w_minus (d,), X (B, d) and y (B,) are the batch, B >= 1. Returns two tensors (d,) in the dtype of X.
    """
    # SOLUTION TODO 7 (diagonal_step)
    residuals = X @ (w_plus**2 - w_minus**2) - y
    pull = residuals @ X / len(y)
    return w_plus * (1 - eta * pull), w_minus * (1 + eta * pull)
    # END SOLUTION


check.diagonal_step(diagonal_step)

# %% [markdown]
# Five entries of the truth are 1, the others 0. All weights begin at $\alpha = 0.1$, so $\beta$ at 0. *Label noise* is
# SGD with $y_i + \delta z$ in place of $y_i$, a fresh $z \sim \mathcal N(0, 1)$ in each step; in the last third of the
# steps the labels are left as they are, so that the equations can be met. **Predict**: which of the three comes closest
# to the truth, and which is the worst? (*Off by* in the figure is $\|\beta - \text{truth}\| / \|\text{truth}\|$.)

# %%
rng = torch.Generator().manual_seed(2)
A = torch.randn(40, 100, generator=rng, dtype=torch.float64)  # a row is an x
truth = torch.cat([torch.ones(5, dtype=torch.float64), torch.zeros(95, dtype=torch.float64)])
b = A @ truth


def solve(B: int, delta: float, eta: float = 0.05, steps: int = 6000) -> tuple[Tensor, Tensor, Tensor]:
    """The end w₊, w₋ of descent in batches of B, the labels noisy by delta, and √(w₊ w₋) (121, 100) on the way."""
    generator = torch.Generator().manual_seed(0)
    plus = minus = torch.full((100,), 0.1, dtype=torch.float64)
    scales = []
    for step in range(steps + 1):
        if step % 50 == 0:
            scales.append((plus * minus).abs().sqrt())
        i = torch.randint(40, (B,), generator=generator) if B < 40 else slice(None)
        noise = torch.randn(B, generator=generator, dtype=torch.float64) * (delta if step < 2 * steps / 3 else 0)
        plus, minus = diagonal_step(plus, minus, A[i], b[i] + noise, eta)
    return plus, minus, torch.stack(scales)


# %%
solved = {"GD": solve(40, 0.0), "SGD": solve(1, 0.0), "label noise": solve(1, 1.0)}
betas = {name: plus**2 - minus**2 for name, (plus, minus, _) in solved.items()}

fig, axes = plt.subplots(1, 3, figsize=(9, 2.8), sharey=True)
for ax, (name, beta), colour in zip(axes, betas.items(), ("green", "blue", "orange"), strict=True):
    ax.vlines(range(100), 0, beta, color=COLOURS[colour])
    ax.plot(range(5), truth[:5], "k_", markersize=9, label="truth")
    ax.set(title=f"{name}: off by {float((beta - truth).norm() / truth.norm()):.0%}", xlabel="entry of β")
axes[0].set_ylabel("value of the entry")
axes[0].legend()
plt.show()

# %% tags=["nbval-ignore-output"]
misfit = {name: float((A @ beta - b).norm() / b.norm()) for name, beta in betas.items()}
error = {name: float((beta - truth).norm() / truth.norm()) for name, beta in betas.items()}
print("equations missed by:", {name: f"{miss:.1e}" for name, miss in misfit.items()})
assert max(misfit.values()) < 0.02, "all three solve the equations"
assert all(bool((w > 0).all()) for plus, minus, _ in solved.values() for w in (plus, minus)), "a step has overshot"
assert error["label noise"] < 0.3 * error["SGD"] < 0.3 * 0.95 * error["GD"]

# %% [markdown]
# All three solve the same equations, to within 2 %, and the one that was told lies finds the truth. Your own line of code says why. A
# step of SGD on sample $x$ multiplies $w_+$ by $1 - \eta r x$ and $w_-$ by $1 + \eta r x$, so
#
# $$w_+ w_- \;\leftarrow\; w_+ w_-\,(1 - \eta^2 r^2 x^2) \qquad \text{in each entry.}$$
#
# With infinitely small steps $w_+ w_- = \alpha^2$ would stay for ever. A real step makes it *smaller*, as long as
# $|\eta r x| < 1$: the more, the larger $\eta$ and the longer the residuals $r$ stay large. (No weight has changed its sign here, as
# the cell above has checked. Steps so large that SGD nearly diverges can overshoot; `solve` takes the absolute value.) **Predict** the curves of
# $\sqrt{w_+ w_-}$ for the three, on a logarithmic scale.

# %%
fig, ax = plt.subplots()
for (name, (_, _, scales)), colour in zip(solved.items(), ("green", "blue", "orange"), strict=True):
    ax.plot(range(0, 6001, 50), scales.log().mean(dim=1).exp(), color=COLOURS[colour], label=name)
ax.axvline(4000, color="#777777", linewidth=1)
ax.set(xlabel="step", ylabel="effective scale √(w₊ w₋)", yscale="log")
ax.legend()
plt.show()

# %% [markdown]
# GD stays at $\alpha$. SGD falls while it learns, and stops when the residuals are gone: at $\alpha_\infty$. With noisy
# labels the residuals never go, and the scale falls until the noise is switched off at the grey line.
#
# Pesme, Pillaud-Vivien and Flammarion show what that is worth, for SGD as a flow in continuous time: it ends where a flow
# without noise, from the smaller scale $\alpha_\infty$, would have ended. That is the solution of least *hyperbolic
# entropy*, near the least sum of squares for a large scale, and near the least $\sum_j |\beta_j|$ for a small one:
# sparse. Does it hold for your steps? The package finds that solution by another way, a convex problem without any
# steps. Give it your scale.

# %%
from phenomena.diagonal_networks import minimise_entropy

least = {name: minimise_entropy(A, b, scales[-1]) for name, (_, _, scales) in solved.items()}
at_first = minimise_entropy(A, b, 0.1)

fig, (left, right) = plt.subplots(1, 2, figsize=(8, 4), sharey=True)
for (name, beta), colour in zip(least.items(), ("green", "blue", "orange"), strict=True):
    left.plot(at_first, betas[name], ".", color=COLOURS[colour], label=name)
    right.plot(beta, betas[name], ".", color=COLOURS[colour], label=name)
for ax in (left, right):
    theory(ax, [-0.2, 1.05], [-0.2, 1.05], "equal")
left.set(xlabel="least entropy at α = 0.1", ylabel="entry found by steps")
right.set(xlabel="least entropy at the final scale")
right.legend()
plt.show()

# %% tags=["nbval-ignore-output"]
new = {name: float((least[name] - beta).norm()) for name, beta in betas.items()}
old = {name: float((minimise_entropy(A, b, 0.1) - beta).norm()) for name, beta in betas.items()}
for name in betas:
    print(f"{name:11}: {new[name]:.3f} from the least entropy at its final scale, {old[name]:.3f} from that at α = 0.1")
assert max(new.values()) < 0.1, "each ends near the least entropy at its own scale"
assert all(old[name] > 5 * new[name] for name in ("SGD", "label noise")), "the scale explains the difference"

# %% [markdown]
# Left, only gradient descent lies on the diagonal; right, all three do: of all that the noise did, the scale that is left
# says nearly everything. Now choose
# the noise yourself. **Predict** what a larger step does without label noise, and which $\delta$ is the best. (Half
# as many steps as above, to be quick: look too at how well the equations are met.)


# %%
def choose(eta: float, delta: float) -> None:
    """Your SGD at this step size and label noise, against the truth."""
    plus, minus, scales = solve(1, delta, eta, steps=3000)
    beta = plus**2 - minus**2
    if not beta.isfinite().all():
        print("it diverged: a smaller step, or less noise")
        return
    fig, ax = plt.subplots(figsize=(6.4, 2.8))
    ax.vlines(range(100), 0, beta, color=COLOURS["blue"])
    ax.plot(range(5), truth[:5], "k_", markersize=9, label="truth")
    off, miss = (float(x.norm() / y.norm()) for x, y in ((beta - truth, truth), (A @ beta - b, b)))
    ax.set(title=f"off by {off:.1%}, equations missed by {miss:.1%}, scale {scales[-1].log().mean().exp():.2g}")
    ax.set(xlabel="entry of β", ylabel="value of the entry", ylim=(-0.5, 1.3))
    ax.legend()
    plt.show()


choose(eta=0.05, delta=0.5)

# %% tags=["nbval-ignore-output"]
live(
    choose,
    eta=FloatSlider(value=0.1, min=0.01, max=0.2, step=0.01, description="step size η"),
    delta=FloatSlider(value=0.0, min=0, max=4, step=0.5, description="label noise δ"),
)

# %% tags=["nbval-ignore-output"]
for eta in (0.01, 0.15):
    plus, minus, scales = solve(1, 0.0, eta)
    print(f"no label noise, η = {eta}: off by {float((plus**2 - minus**2 - truth).norm() / truth.norm()):.0%}")
assert float((plus**2 - minus**2 - truth).norm() / truth.norm()) < 0.5 * error["SGD"], "a large step alone finds much"
tried = {delta: solve(1, delta, 0.1, steps=3000)[:2] for delta in (0.0, 0.5, 1.0, 2.0)}
off = {delta: float((plus**2 - minus**2 - truth).norm() / truth.norm()) for delta, (plus, minus) in tried.items()}
print("η = 0.1, off by, for each label noise δ:", {delta: f"{share:.1%}" for delta, share in off.items()})
assert off[2.0] < off[1.0] < off[0.5] < 0.3 * off[0.0], "more label noise, closer; the first half brings most"

# %% [markdown]
# A larger step does by itself what label noise does: the noise of a step is $\eta r x$, whatever made $r$ large. Just
# below the step at which SGD diverges, the solution is much sparser than with a small one. With label noise the same
# holds, sooner: the first half of a standard deviation brings most of what there is to gain, and with too much SGD diverges
# as well.

# %% [markdown]
# ## What you have seen
#
# - SGD with a constant step ends in a cloud. The exact equation holds at every step; continuous time is its limit for
#   small $\eta\lambda$, and is off by a factor of 2 at $\eta\lambda = 1$.
# - A batch's noise is $C/B$, times $(n - B)/(n - 1)$ without replacement. In a network it lies in the steep directions.
# - Power iteration finds what is largest in magnitude. Look at the sign.
# - The step makes the curvature: $\lambda_1$ goes to $2/\eta$ without noise, stays below with it, and goes to
#   $2/(\gamma\eta)$ if the steep directions get a step of their own.
# - Among solutions that fit equally well, noise chooses. In a diagonal network it makes the effective scale smaller, and
#   so the solution sparser.
#
# ## An open question
#
# In part 4 a sharp place and a flat one read new digits equally well; in part 5 the noise made all the difference. When
# does the choice of the noise help a network to generalize? Find out whether the scale of part 5 has anything to do with
# the curvature of part 3: compute $\lambda_1$ of the diagonal network at the three solutions. Papers that you can
# reproduce on this are listed at the end of the chapter.

# %% [markdown]
# ## Where you stand
#
# The last cell checks every exercise anew. Run it whenever you like.

# %%
summary(check, globals())
