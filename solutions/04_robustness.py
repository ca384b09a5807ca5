# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 4: Robustness
#
# **Before you read on, write down three guesses.**
#
# - A network reads 95 % of all test digits. Every pixel may change by a tenth of the way from black to white. How many
#   digits does it read if the changes are random? How many if somebody chooses them who knows the network?
# - A defender multiplies all outputs of that network by 100, and no digit is read in another way. An attacker who
#   follows the gradient of the loss now fails on nearly all digits. Is the network safe?
# - A network has learned to withstand noise in the pixels. Does it mind more, or less, than another one when a digit is
#   bent a little, as another hand would write it?
#
# In this lab you build what answers them, each in a few lines:
#
# 1. attacks: one step uphill, and many steps in a ball,
# 2. a defence that is broken, and one that is not,
# 3. a defence that is proved,
# 4. other small changes than noise: smooth random deformations.
#
# Six exercises, about 90 minutes. Dots give the difficulty: ● a line or two once you see it, ●● several lines. Each
# exercise has a contract (its signature and docstring), folded hints, and a check to run at once; the last cell shows
# what is done and what is open. None of 4, 5 and 6 needs your code of the ones before. The chapter *Robustness* of the
# book has the theory.

# %%
# %load_ext phenomena.lab
import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from phenomena import attacks
from phenomena.checks import robustness as check
from phenomena.data import load
from phenomena.lab import summary
from phenomena.plotting import COLOURS, theory, use_style
from phenomena.small_cnn import small_cnn
from phenomena.training import cosine, train

torch.set_num_threads(1)  # small convolutions gain nothing from a second thread
use_style()

# %% [markdown]
# ## 1. One step uphill
#
# First, a network that reads digits: two convolutions, 4000 digits to learn from, a second of training.

# %%
data = load("mnist5k", n_train=4000, n_test=1000, seed=0)
X, y = data.X_train.view(-1, *data.image_shape), data.y_train  # pixels in [0, 1]
X_test, y_test = data.X_test.view(-1, *data.image_shape), data.y_test


def learn(network: nn.Module, images: Tensor) -> nn.Module:
    """Train on images (4000, 1, 28, 28) for 400 steps of Adam, ten passes; returns the network in evaluation mode."""
    adam = torch.optim.Adam(network.parameters(), lr=4e-3)
    generator = torch.Generator().manual_seed(0)
    train(network, images, y, cross_entropy, adam, 400, 100, generator, schedule=cosine(400, 40))
    return network.eval()


standard = learn(small_cnn(data.image_shape, 10, torch.Generator().manual_seed(0)), X)


# %% tags=["nbval-ignore-output"]
@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that are read as their labels."""
    return float((network(images).argmax(dim=1) == labels).double().mean())


some, labels = X_test[:200], y_test[:200]  # enough to attack
print(f"{accuracy(standard, X_test, y_test):.1%} of the test digits are read")
assert accuracy(standard, X_test, y_test) > 0.9

# %% [markdown]
# An attack looks for a change $\delta$ of the image $x$, so small that its label $y$ stays what it is, and so that the
# loss $\ell(x + \delta) = -\log \mathrm{softmax}(f(x + \delta))_y$ becomes large. Small means that no pixel changes by
# more than $\varepsilon$, in other words $\|\delta\|_\infty \le \varepsilon$. If $\ell$ were linear in the pixels,
# which $\delta$ would be best? Each pixel adds $\partial\ell/\partial x_i \cdot \delta_i$, whatever the others do: so
# every one of them goes as far as it may, in the direction that pays. This is the *fast gradient sign method* of
# Goodfellow, Shlens and Szegedy,
#
# $$x' = \mathrm{clip}\big(x + \varepsilon\,\mathrm{sign}\,\nabla_x \ell(x)\big), \qquad
#   \text{with all pixels clipped to } [0, 1] .$$
#
# ### Exercise 1 ● (10 min)
#
# Write it, for a batch of images at once.
#
# <details><summary>Hint 1</summary>The gradient is taken by the pixels, not by the weights. Make a copy of X that
# requires a gradient, <code>X.clone().requires_grad_()</code>, and give the model this one.</details>
# <details><summary>Hint 2</summary><code>torch.autograd.grad(loss, Z)</code> returns a tuple of one tensor. The loss
# must be one number: the mean over the batch will do. Why does the factor 1/n not matter here?</details>
# <details><summary>Hint 3</summary>Clip the image, not the step: see <code>Tensor.clamp</code>.</details>


# %%
def fgsm(model: nn.Module, X: Tensor, y: Tensor, eps: float) -> Tensor:
    """x + ε sign(∇ℓ(x)) for each image, pixels clipped to [0, 1].

    model maps X (n, ...), pixels in [0, 1], to outputs (n, C); y (n,) are labels from 0; eps >= 0 is in units of the
    pixels. Returns (n, ...) in the dtype of X, without a gradient. Neither the model nor the `.grad` of its weights is
    changed.
    """
    # SOLUTION TODO 1 (fgsm)
    Z = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(Z), y), Z)
    return (X + eps * gradient.sign()).clamp(0, 1)
    # END SOLUTION


check.fgsm(fgsm)


# %%
def show(images: list[Tensor], titles: list[str]) -> None:
    """Images (28, 28) side by side, from black 0 to white 1; steps, which may be negative, from blue to red."""
    fig, axes = plt.subplots(1, len(images), figsize=(2.4 * len(images), 2.7))
    for ax, image, title in zip(axes, images, titles, strict=True):
        signed = image.min() < 0
        ax.imshow(image, cmap="coolwarm" if signed else "gray", vmin=-0.5 if signed else 0, vmax=0.5 if signed else 1)
        ax.set_title(title, fontsize=10)
        ax.axis("off")
    plt.show()


@torch.no_grad()
def reading(network: nn.Module, image: Tensor) -> str:
    """What a network says of one image (1, 28, 28)."""
    p, label = network(image[None]).softmax(dim=1).max(dim=1)
    return f"read as {int(label)} ({float(p):.0%})"


# %% tags=["nbval-ignore-output"]
def attack_one(i: int, eps: float) -> None:
    """Test digit i, the step, and the sum of both."""
    x = X_test[i]
    attacked = fgsm(standard, x[None], y_test[i : i + 1], eps)[0]
    show([x[0], (attacked - x)[0], attacked[0]], [reading(standard, x), "the step", reading(standard, attacked)])


attack_one(i=0, eps=0.1)

# %% [markdown]
# The step is blue where it darkens and red where it brightens. You would still read the digit. Move ε down, and look at
# other digits: at which ε does the reading change?

# %% tags=["nbval-ignore-output"]
from ipywidgets import FloatSlider, IntSlider

from phenomena.lab import live

live(
    attack_one,
    i=IntSlider(value=0, min=0, max=99, description="test digit"),
    eps=FloatSlider(value=0.1, min=0, max=0.3, step=0.01, description="budget ε"),
)

# %% [markdown]
# Is this mere noise? Compare with a step of the same size whose signs are random. Your first guess, ε = 0.1, is on
# these curves: draw them in your head before you run the cell.

# %%
BUDGETS = [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3]
signs = torch.randn(some.shape, generator=torch.Generator().manual_seed(0)).sign()
by_chance = [accuracy(standard, (some + eps * signs).clamp(0, 1), labels) for eps in BUDGETS]
one_step = [accuracy(standard, fgsm(standard, some, labels, eps), labels) for eps in BUDGETS]

fig, ax = plt.subplots()
ax.plot(BUDGETS, by_chance, "o-", color=COLOURS["green"], label="random signs")
ax.plot(BUDGETS, one_step, "o-", color=COLOURS["blue"], label="your FGSM")
ax.set(xlabel="budget ε", ylabel="accuracy (200 digits)", ylim=(-0.02, 1))
ax.legend()
plt.show()

# %% tags=["nbval-ignore-output"]
print(f"ε = 0.1: {by_chance[3]:.0%} with random signs, {one_step[3]:.0%} attacked")
assert one_step[3] < 0.5 < 0.85 < by_chance[3], "the direction matters, not the size"

# %% [markdown]
# Random signs do next to nothing. In 784 directions almost all are harmless; the gradient finds the one in which
# every pixel pushes the same way.

# %% [markdown]
# ## 2. Many steps, in a ball
#
# One step trusts the gradient at $x$ all the way. Many small steps look again after each, but they may lead too far:
# after every step $\delta$ is brought back to the nearest point of the set that is allowed. For
# $\|\delta\|_\infty \le \varepsilon$, a cube, this clips each pixel of $\delta$. Another set is as common, the ball
# $\|\delta\|_2 \le \varepsilon$ with $\|\delta\|_2^2 = \sum_i \delta_i^2$ over all the pixels of the image.
#
# ### Exercise 2 ● (10 min)
#
# Write the projection onto this ball: the nearest point in it, for each image of a batch.
#
# <details><summary>Hint 1</summary>Seen from the middle of the ball, what do a point outside and the nearest point
# inside have in common? And a point that is inside already?</details>
# <details><summary>Hint 2</summary>One length for each sample, over all its axes: <code>delta.flatten(1)</code> makes a
# row of each. To multiply the samples by n factors, give these the shape (n, 1, 1, ...): <code>.view(-1, *[1] *
# (delta.dim() - 1))</code>.</details>
# <details><summary>Hint 3</summary>A sample of zeros has length 0. <code>torch.where</code> does not undo a 0/0 before
# it comes to a product; a length that is at least ε does no harm in the division.</details>


# %%
def project(delta: Tensor, eps: float) -> Tensor:
    """The nearest point to each sample of delta in the ball ‖δ‖₂ <= eps around 0.

    delta (n, ...) floating point: ‖·‖₂ goes over all axes but the first. eps > 0. Returns (n, ...) in its dtype;
    samples in the ball, such as zeros, stay as they are.
    """
    # SOLUTION TODO 2 (project)
    lengths = delta.flatten(1).norm(dim=1).view(-1, *[1] * (delta.dim() - 1))
    return delta * (eps / lengths.clamp_min(eps))
    # END SOLUTION


check.project(project)

# %% [markdown]
# In the plane, with ε = 1: predict where the point (3, 1) goes, in the ball and in the cube. Here are 200 points.

# %%
points = 1.3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.8), sharey=True)
for ax, nearest, name in zip(
    axes, (project(points, 1.0), points.clamp(-1, 1)), ("ball $‖δ‖_2≤1$", "cube $‖δ‖_∞≤1$"), strict=True
):
    for before, after in zip(points, nearest, strict=True):
        ax.plot(*torch.stack([before, after]).T, color="#cccccc", linewidth=0.8)
    ax.plot(*points.T, ".", color="#999999")
    ax.plot(*nearest.T, ".", color=COLOURS["blue"])
    ax.set(title=name, aspect="equal")
plt.show()

# %% [markdown]
# In the plane the two are alike: the corner of the cube lies $\sqrt2$ from the middle. In an image of 784 pixels it
# lies $\sqrt{784} = 28$ times as far out as the middle of a face. So a cube with ε = 0.1 reaches as far as a ball of
# radius 2.8, and budgets in the two norms are not to be compared as numbers.
#
# Now the ascent. The steepest direction is that of the norm: among all $v$ with $\|v\| \le 1$ the one with the largest
# $\langle\nabla\ell, v\rangle$. That is $\mathrm{sign}(\nabla\ell)$ for the cube, as before, and
# $\nabla\ell/\|\nabla\ell\|_2$ for the ball. With $\Pi$ the projection, *projected gradient descent* (Madry et al., who
# speak of the negative loss) is
#
# $$\delta_0 = 0, \qquad
#   \delta_{t+1} = \mathrm{clip}\Big(x + \Pi\big(\delta_t + a\,v(\nabla\ell(x + \delta_t))\big)\Big) - x .$$
#
# ### Exercise 3 ●● (20 min)
#
# Write it for any norm and any loss: both come in as functions. Keep the *trace*, the mean loss at every
# $x + \delta_t$: it tells whether the attack has ended, or was only cut short.
#
# <details><summary>Hint 1</summary>In each step: a copy of x + δ that requires a gradient, its loss (one number for
# each image), the gradient of their sum, the move. One image's loss depends on no other image, so the gradient of the
# sum holds that of each.</details>
# <details><summary>Hint 2</summary>The order is: move, project, clip. The projection takes the difference from X, not
# the image.</details>
# <details><summary>Hint 3</summary>Begin every step with <code>.detach()</code>, or the graph grows over all steps. The
# trace has one entry more than there are steps: the loss at the end is in it.</details>


# %%
def pgd(
    loss: Callable[[Tensor], Tensor], X: Tensor, steepest: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor], a: float, steps: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attacked images after `steps` steps of size a from X, and the mean loss at X and after each step.

    loss maps images (n, ...) to (n,), differentiably; X (n, ...) has pixels in [0, 1]; steepest maps gradients
    (n, ...) to the directions v; project maps perturbations (n, ...) to the nearest ones allowed. Returns (n, ...) and
    (steps + 1,) in the dtype of X, without gradients, and leaves none in the weights of a model behind the loss.
    """
    # SOLUTION TODO 3 (pgd)
    Z, trace = X, []
    for _ in range(steps):
        Z = Z.detach().requires_grad_()
        values = loss(Z)
        (gradient,) = torch.autograd.grad(values.sum(), Z)
        trace.append(values.detach().mean())
        moved = Z.detach() + a * steepest(gradient)
        Z = (X + project(moved - X)).clamp(0, 1)
    with torch.no_grad():
        trace.append(loss(Z).mean())
    return Z, torch.stack(trace)
    # END SOLUTION


check.pgd(pgd)


# %% [markdown]
# One function attacks a network in either norm, with steps of 2.5 ε/steps: together they could cross the ball and more.


# %%
def entropy(network: nn.Module, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss of each image: images (n, ...) -> (n,)."""
    return lambda Z: cross_entropy(network(Z), labels, reduction="none")


def climb(loss: Callable[[Tensor], Tensor], images: Tensor, norm: str, eps: float, steps: int) -> tuple[Tensor, Tensor]:
    """Your pgd in the cube ("linf") or the ball ("l2") of size eps > 0."""
    a = 2.5 * eps / steps
    if norm == "linf":
        return pgd(loss, images, torch.sign, lambda delta: delta.clamp(-eps, eps), a, steps)
    return pgd(loss, images, lambda g: attacks.steepest(g, "l2"), lambda delta: project(delta, eps), a, steps)


# %% [markdown]
# Predict: at ε = 0.1 a single step leaves about a third of the digits. How many do 40 steps leave? And how many steps
# are enough?

# %%
STEPS = [1, 2, 5, 10, 40]
climbs = {steps: climb(entropy(standard, labels), some, "linf", 0.1, steps) for steps in STEPS}

fig, ax = plt.subplots()
for (steps, (_, trace)), colour in zip(climbs.items(), COLOURS.values(), strict=False):
    ax.plot(torch.linspace(0, 1, steps + 1), trace, ".-", color=colour, label=f"{steps} step{'s' * (steps > 1)}")
ax.set(xlabel="step / number of steps", ylabel="mean loss (nats)")
ax.legend()
plt.show()

# %% tags=["nbval-ignore-output"]
left = {steps: accuracy(standard, attacked, labels) for steps, (attacked, _) in climbs.items()}
package = attacks.robust_accuracy(standard, some, labels, 0.1, steps=40)
print("left after " + ", ".join(f"{steps} step{'s' * (steps > 1)}: {share:.0%}" for steps, share in left.items()))
print(f"by the attack of the course's package, 40 steps: {package:.0%}")
assert left[40] < left[1] - 0.05, "many steps are stronger than one"
assert abs(left[40] - package) < 0.02

# %% [markdown]
# One step of 2.5 ε, brought back into the cube, *is* FGSM. Forty steps leave half as many digits, and their trace is
# flat in the end: more steps would gain next to nothing. An attack whose trace still rises was cut short, and says
# nothing about the network. The package's `robust_accuracy` refuses to give a number then.
#
# Now the two norms, at budgets that leave about as many digits. Predict where the two changes differ.

# %% tags=["nbval-ignore-output"]
pictures, titles = [], []
for norm, eps in (("linf", 0.1), ("l2", 1.5)):
    attacked, _ = climb(entropy(standard, labels), some, norm, eps, 20)
    pictures += [attacked[0, 0], (attacked - some)[0, 0]]
    titles += [reading(standard, attacked[0]), f"δ, {norm}, ε = {eps}"]
    print(f"{norm:4}, ε = {eps}: {accuracy(standard, attacked, labels):.0%} are still read")
show(pictures, titles)

# %% [markdown]
# In the cube nearly every pixel moves by all it is allowed; the black ones can only brighten. In the ball the change
# goes into a few spots, those where the derivative is large.

# %% [markdown]
# ## 3. A defence that is none, and one that is
#
# Your second guess. The defender takes `standard` and multiplies its outputs by 100. Softmax becomes more certain, no
# reading changes. At ε = 0.2 the attack leaves next to nothing of `standard`. Predict what it leaves of `loud`: with
# 10 steps, and with 50?


# %%
def loud(images: Tensor) -> Tensor:
    """The standard network, a hundred times as sure of itself."""
    return 100 * standard(images)


tries = {
    ("standard", 10): climb(entropy(standard, labels), some, "linf", 0.2, 10),
    ("loud", 10): climb(entropy(loud, labels), some, "linf", 0.2, 10),
    ("loud", 50): climb(entropy(loud, labels), some, "linf", 0.2, 50),
}

# %% tags=["nbval-ignore-output"]
for (name, steps), (images, _) in tries.items():
    print(f"{name:8} after {steps:2} steps: {accuracy({'standard': standard, 'loud': loud}[name], images, labels):.0%}")
assert accuracy(standard, tries["standard", 10][0], labels) < 0.05
assert accuracy(loud, tries["loud", 50][0], labels) > 0.8, "the attack fails, whatever its steps"

# %% [markdown]
# So is it safe? More steps do not help, which looks like strength. Look at the gradient before you believe it.

# %% tags=["nbval-ignore-output"]
borrowed = accuracy(loud, tries["standard", 10][0], labels)
images = some.clone().requires_grad_()
(slope,) = torch.autograd.grad(entropy(loud, labels)(images).sum(), images)
flat = (slope.flatten(1) == 0).all(dim=1)
print(f"{float(flat.double().mean()):.0%} of the digits have a gradient that is exactly 0 in all 784 pixels")
print(f"{borrowed:.0%} is left of `loud` on the digits that fool `standard`")
assert flat.double().mean() > 0.8

# %% [markdown]
# The attack never moved. In float32 a softmax that is sure enough *is* 1, the loss *is* 0, and so is its slope: the
# gradient is **masked**, the digits are as easy to fool as before. An honest attack uses a loss that does not saturate,
# such as the margin $\max_{j \ne y} f_j - f_y$, positive where the digit is misread.


# %% tags=["nbval-ignore-output"]
def margin(network: Callable[[Tensor], Tensor], labels: Tensor) -> Callable[[Tensor], Tensor]:
    """How far the best wrong output lies above the right one, for each image."""
    return lambda Z: attacks.margin_loss(network(Z), labels)


honest, _ = climb(margin(loud, labels), some, "linf", 0.2, 10)
print(f"10 steps on the margin leave {accuracy(loud, honest, labels):.0%} of `loud`")
try:
    attacks.robust_accuracy(loud, some, labels, 0.2, steps=10)
except attacks.Masked as refusal:
    print(f"the package: {refusal}")
assert accuracy(loud, honest, labels) < 0.05, "the margin tells the truth"

# %% [markdown]
# Every attack gives an *upper* bound on what is left: a weak one makes any network look strong. Athalye, Carlini and
# Wagner found masked gradients in seven of the nine defences of one conference, and broke six of these altogether.
#
# ### Exercise 4 ●● (15 min)
#
# A defence that held is to train on the attacked images, *adversarial training* (Madry et al.):
#
# $$\min_w\; \mathrm E\,\max_{\|\delta\| \le \varepsilon} \ell_w(x + \delta, y) .$$
#
# Every step attacks its batch with the network as it is now, and then descends on the loss of what comes out, whose
# dependence on the weights through the attack is left out. With a large ε the first attacks leave nothing to learn
# from, so let the budget grow: linearly from 0 to ε while the first part of the steps, the *ramp*, is done. Write the
# loss.
#
# <details><summary>Hint 1</summary>Call the attack with the budget of now, then the model on what it returns. The
# attack comes as an argument: any will do.</details>
# <details><summary>Hint 2</summary>Which fraction of the ramp is done? It is never more than 1. What if the ramp is
# 0?</details>


# %%
def adversarial_loss(
    model: Callable[[Tensor], Tensor],
    X: Tensor,
    y: Tensor,
    eps: float,
    done: float,
    ramp: float,
    attack: Callable[..., Tensor],
) -> Tensor:
    """Mean cross-entropy (nats) on attacked images, one number that carries the gradient by the weights.

    model maps X (n, ...) to outputs (n, C); y (n,) are labels. attack(model, X, y, budget) returns attacked images,
    without a gradient. done in [0, 1] is the share of all steps that is done; while done < ramp the budget is
    eps·done/ramp, then eps. ramp in [0, 1]; 0 means eps from the start.
    """
    # SOLUTION TODO 4 (adversarial_loss)
    budget = eps * done / ramp if done < ramp else eps
    return cross_entropy(model(attack(model, X, y, budget)), y)
    # END SOLUTION


check.adversarial_loss(adversarial_loss)

# %% [markdown]
# A short training: 300 steps on batches of 50, each with an attack of three steps.


# %%
from phenomena.training import batches


def three_steps(network: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """The package's pgd in the cube, from the images themselves."""
    return attacks.pgd(network, images, labels, eps, steps=3).X


def learn_under_attack(eps: float, ramp: float, steps: int = 300) -> tuple[nn.Module, list[float]]:
    """A network trained by your loss, and the loss of each step."""
    generator = torch.Generator().manual_seed(0)
    network = small_cnn(data.image_shape, 10, generator)
    adam, rate = torch.optim.Adam(network.parameters()), cosine(steps, steps // 4)
    batch, losses = batches(len(X), 50, generator), []
    for step in range(steps):
        i = next(batch)
        loss = adversarial_loss(network, X[i], y[i], eps, step / steps, ramp, three_steps)
        adam.param_groups[0]["lr"] = 8e-3 * rate(step)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    return network.eval(), losses


# %% [markdown]
# With ε = 0.3, once with a ramp of half the steps and once without. A digit has ten labels: which loss does a network
# have that says the same of all of them? This takes about half a minute.

# %%
robust, with_ramp = learn_under_attack(0.3, 0.5)
ruined, without = learn_under_attack(0.3, 0.0)

# %%
fig, ax = plt.subplots()
ax.plot(with_ramp, color=COLOURS["blue"], label="ramp over half of the steps")
ax.plot(without, color=COLOURS["orange"], label="full budget from the start")
theory(ax, [0, 300], [math.log(10)] * 2, "ln 10: the same output for all")
ax.set(xlabel="step", ylabel="loss on attacked digits (nats)", ylim=(0, 4))
ax.legend()
plt.show()

# %% tags=["nbval-ignore-output"]
print(f"clean digits: {accuracy(robust, some, labels):.0%} with a ramp, {accuracy(ruined, some, labels):.0%} without")
assert abs(sum(without[-20:]) / 20 - math.log(10)) < 0.05, "without a ramp it gives up"

# %% [markdown]
# Without the ramp the network gives up: one output for all images is the best defence that it finds, and once there it
# stays. With the ramp the loss falls, rises while the budget grows, and falls again. Now the standard network against
# the robust one. Predict where the curves start, and at which budget each has lost half.

# %%
LARGER = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.35]


def curve(network: nn.Module) -> list[float]:
    """Accuracy under the package's attack on the margin, 20 steps, at each of LARGER."""
    found = [attacks.pgd(network, some, labels, eps, steps=20, loss=attacks.margin_loss) for eps in LARGER]
    return [1 - float(attack.success.double().mean()) for attack in found]


curves = {"standard": curve(standard), "trained at ε = 0.3": curve(robust)}

# %%
fig, ax = plt.subplots()
for (name, values), colour in zip(curves.items(), ("green", "blue"), strict=True):
    ax.plot(LARGER, values, "o-", color=COLOURS[colour], label=name)
ax.axvline(0.3, color="#777777", linewidth=1)
ax.set(xlabel="budget ε of the attack", ylabel="accuracy under attack (200 digits)", ylim=(-0.02, 1))
ax.legend()
plt.show()

# %% tags=["nbval-ignore-output"]
for eps, before, after in zip(LARGER, *curves.values(), strict=True):
    print(f"ε = {eps:4}: standard {before:.0%}, trained under attack {after:.0%}")
before, after = curves.values()
assert after[0] > 0.85, "the price on clean digits is small"
assert before[4] < 0.05 < 0.5 < after[4], "at ε = 0.2 one reads nothing, the other most"
assert after[6] < 0.1 < after[5] < 0.5, "at its own ε fewer than half are left, and beyond it hardly any"

# %% [markdown]
# A few hundred steps at hardly a price on clean digits, and at ε = 0.2 most of them are still read, where `standard`
# reads none. At ε = 0.3 itself fewer than half are left, and beyond it hardly any: it is robust against what it has met.
# Is this a proof? No: it is what *this* attack leaves.

# %% [markdown]
# ## 4. A defence with a proof
#
# Any classifier $f$ makes a smoother one: $g(x)$ is the class that $f(x + \sigma e)$ has most often, for Gaussian noise
# $e \sim \mathcal N(0, I)$. Cohen, Rosenfeld and Kolter show: if that class has a probability of at least $p >
# \frac12$, then
#
# $$g(x + \delta) = g(x) \quad\text{for all } \|\delta\|_2 < R = \sigma\,\Phi^{-1}(p) ,$$
#
# whatever $f$ is, whatever the attack. ($\Phi$ is the distribution function of $\mathcal N(0, 1)$. The worst $f$ splits
# the space by a plane: along $\delta$ the noise is one Gaussian number, and its half with mass $p$ begins $R$ away.)
#
# Nobody knows $p$. But $n$ draws of the noise are $n$ votes, and if $k$ of them are for the class, then
#
# $$\underline p = \text{the } p \text{ at which } k \text{ or more of } n \text{ votes have probability } \alpha$$
#
# lies below the true one with probability $1 - \alpha$ (Clopper and Pearson). For this the class must have been chosen
# before, by draws of its own. If $\underline p \le \frac12$, nothing is proved: abstain.
#
# ### Exercise 5 ●● (20 min)
#
# Write the certificate of one image from its votes.
#
# <details><summary>Hint 1</summary>The first votes say which class, and nothing else. k and n come from the second
# ones: n is all of them.</details>
# <details><summary>Hint 2</summary>The bound is a quantile of a beta distribution:
# <code>scipy.stats.beta.ppf(alpha, k, n - k + 1)</code>. For k = 0 it is 0, which this formula does not know. Only one
# side is bounded, so α is not halved.</details>
# <details><summary>Hint 3</summary>Φ⁻¹ is <code>scipy.stats.norm.ppf</code>.</details>


# %%
def certificate(first: Tensor, second: Tensor, sigma: float, alpha: float) -> tuple[int, float]:
    """The class of the smoothed classifier and the radius in which it cannot change; (-1, 0.0) to abstain.

    first and second (C,) int64 count the votes for each class in two independent sets of draws: the class is the one
    that leads in first; its votes in second bound its probability from below, with confidence 1 - alpha, 0 < alpha < 1.
    The radius σ Φ⁻¹(p) is in the units of the pixels, as is sigma > 0. Abstains where the bound is not above 1/2.
    """
    # SOLUTION TODO 5 (certificate)
    from scipy.stats import beta, norm

    label = int(first.argmax())
    k, n = int(second[label]), int(second.sum())
    p = float(beta.ppf(alpha, k, n - k + 1)) if k > 0 else 0.0
    return (label, sigma * float(norm.ppf(p))) if p > 0.5 else (-1, 0.0)
    # END SOLUTION


check.certificate(certificate)

# %% [markdown]
# How far can it reach? If *all* votes agree, $\underline p = \alpha^{1/n}$: more draws are the only way to a larger
# radius, and the way is long.

# %%
from phenomena.smoothing import GaussianNoise, largest_radius, votes

DRAWS = [round(10 ** (d / 4)) for d in range(4, 21)]


def reach(sigma: float, share: float) -> None:
    """Your radius against the number of draws, if this share of them votes for the class."""
    second = [torch.tensor([round(share * n), n - round(share * n)]) for n in DRAWS]
    radii = [certificate(torch.tensor([1, 0]), counts, sigma, 0.001)[1] for counts in second]
    fig, ax = plt.subplots()
    ax.plot(DRAWS, radii, "o-", color=COLOURS["blue"], label=f"{share:.0%} of the votes")
    theory(ax, DRAWS, [largest_radius(sigma, n, 0.001) for n in DRAWS], "cap: all votes, $σ\\,Φ^{-1}(α^{1/n})$")
    ax.set(xscale="log", xlabel="draws n", ylabel="certified radius (l2)", ylim=(-0.1, 4.2))
    ax.legend()
    plt.show()


reach(sigma=0.5, share=0.99)

# %% [markdown]
# Predict what twice the noise does to both curves. And with 100,000 draws, what does it take to reach 4 with σ = 1?

# %% tags=["nbval-ignore-output"]
live(
    reach,
    sigma=FloatSlider(value=0.5, min=0.1, max=1, step=0.1, description="noise σ"),
    share=FloatSlider(value=0.99, min=0.5, max=1, step=0.01, description="share of the votes"),
)

# %% [markdown]
# With 99 % of the votes, ten thousand draws say nearly all that there is to say. With all votes the cap grows for ever,
# but only as $\sqrt{\ln n}$: at σ = 1 and 100,000 draws it is 3.8, and nothing reaches 4. Noise scales both curves, so
# is more of it better? It also costs votes.
#
# A hundred digits, certified by you with σ = 0.5, α = 0.001 and 100 + 1000 votes of two networks: `standard`, and one
# that has learned on noisy digits. Predict: of how many digits is anything proved?

# %%
generator = torch.Generator().manual_seed(0)
noisy = learn(nn.Sequential(GaussianNoise(0.5, generator), *small_cnn(data.image_shape, 10, generator)), X)
hundred, RADII = slice(100), [0.25, 0.5, 1.0, 1.5]


# %%
def certify(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Labels and radii (100,) by your certificate."""
    first, second = (votes(network, X_test[hundred], 0.5, n, generator) for n in (100, 1000))
    pairs = [certificate(a, b, 0.5, 0.001) for a, b in zip(first, second, strict=True)]
    return torch.tensor([label for label, _ in pairs]), torch.tensor([radius for _, radius in pairs])


certified = {"standard": certify(standard), "trained on noise": certify(noisy)}

# %% [markdown]
# And the test of the promise. The package's attack climbs through the noise (its loss is that of the mean of eight
# noisy softmaxes) in the ball of each radius, without a box: the theorem does not need one either.


# %%
def smoothed_reading(eps: float) -> Tensor:
    """What the smoothed network reads (100,) after an attack in the ball of radius eps, by 300 votes."""
    attacked = attacks.pgd(
        noisy, X_test[hundred], y_test[hundred], eps, "l2",
        steps=20, sigma=0.5, draws=8, generator=generator, box=None,
    ).X  # fmt: skip
    return votes(noisy, attacked, 0.5, 300, generator).argmax(dim=1)


readings = {eps: smoothed_reading(eps) for eps in RADII}

# %%
fig, ax = plt.subplots()
radii = torch.linspace(0, 1.8, 181)
for (name, (label, radius)), colour in zip(certified.items(), ("green", "blue"), strict=True):
    right = label == y_test[hundred]
    proved = [(right & (radius >= r)).double().mean() for r in radii]
    ax.plot(radii, proved, color=COLOURS[colour], label=f"{name}, proved")
survived = [(reading == y_test[hundred]).double().mean() for reading in readings.values()]
ax.plot(RADII, survived, "o", color=COLOURS["orange"], label="trained on noise, attacked")
ax.axvline(largest_radius(0.5, 1000, 0.001), color="#777777", linewidth=1, label="cap")
ax.set(xlabel="radius (l2)", ylabel="accuracy (100 digits)", ylim=(-0.02, 1))
ax.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
plt.show()

# %% tags=["nbval-ignore-output"]
label, radius = certified["trained on noise"]
broken = sum(int(((radius > eps) & (reading != label)).sum()) for eps, reading in readings.items())
kept = sum(int((radius > eps).sum()) for eps in readings)
print(f"{broken} of {kept} promises were broken")
print("abstained:", {name: int((label == -1).sum()) for name, (label, _) in certified.items()})
assert broken == 0
halves = [float(((at == y_test[hundred]) & (r >= 0.5)).double().mean()) for at, r in certified.values()]
assert halves[0] + 0.15 < halves[1], "at this noise, training on it pays"

# %% [markdown]
# Every orange point lies above the blue curve, and the truth lies in between. What the attack did not find is not
# proved, and what is not proved may hold: at the cap the proof ends, not the robustness. `standard` reads the clean
# digits better, but in this noise it is lost, and so are its votes. (One broken promise would be no contradiction: each
# may fail with probability 0.001, and the reading after the attack is itself a vote.)

# %% [markdown]
# ## 5. Other small changes
#
# Another hand writes the same digit: nothing of that is small in the pixels. Petrini, Favero, Geiger and Wyart bend
# images by random smooth maps. The image at the point $s = (u, v)$ of the unit square becomes $x(s - \tau(s))$, and
# each of the two components of $\tau$ is $\sqrt T$ times
#
# $$\sum_{i^2 + j^2 \le c^2} C_{ij}\,\sin(i\pi u)\sin(j\pi v), \qquad
#   C_{ij} = \frac{Z_{ij}}{\sqrt{i^2 + j^2}}, \quad Z_{ij} \sim \mathcal N(0, 1), \quad i, j = 1, 2, \dots$$
#
# Of all random fields with the same mean squared gradient, this one has the largest entropy: it assumes nothing else.
# The *cut* $c$ says how fine it is, the *temperature* $T$ how strong.
#
# ### Exercise 6 ●● (15 min)
#
# Write this sum at every pixel of an image.
#
# <details><summary>Hint 1</summary>One matrix of sines, sin(iπu) for every pixel u and every i, is enough: the sum is a
# product of three matrices.</details>
# <details><summary>Hint 2</summary>Python counts from 0, i and j from 1: <code>torch.arange(1, c + 1)</code>. The
# corner of Z with i² + j² > c² is not used.</details>
# <details><summary>Hint 3</summary>The first and the last pixel lie on the frame, u = 0 and u = 1: see
# <code>torch.linspace</code>.</details>


# %%
def displacement(Z: Tensor, n: int) -> Tensor:
    """The sum above for T = 1 at the n x n pixels of an image, in parts of its side: (n, n).

    Z (c, c) standard normal draws, Z[0, 0] is that of i = j = 1; c >= 2 is the cut. Entry [k, l] of the result is at
    u = k/(n-1), v = l/(n-1), n >= 2. All in the floating dtype of Z.
    """
    # SOLUTION TODO 6 (displacement)
    i = torch.arange(1, len(Z) + 1, dtype=Z.dtype)
    squares = i[:, None] ** 2 + i**2
    C = torch.where(squares <= len(Z) ** 2, Z / squares.sqrt(), 0)
    sines = torch.sin(math.pi * i[:, None] * torch.linspace(0, 1, n, dtype=Z.dtype))
    return sines.T @ C @ sines
    # END SOLUTION


check.displacement(displacement)

# %% [markdown]
# Bend a digit with two of them. On the left, the points at which the new image reads the old one.

# %%
from phenomena.diffeomorphisms import deform, is_diffeomorphism, temperature_range, warp


def bend(cut: int, heat: float) -> None:
    """The first test digit at the temperature `heat`, in units of the largest at which bending should not fold."""
    T = heat * temperature_range((28, 28), cut)[1]
    rng = torch.Generator().manual_seed(2)
    tau = T**0.5 * torch.stack([displacement(torch.randn(cut, cut, generator=rng), 28) for _ in range(2)])
    fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.5))
    row, column = torch.stack(torch.meshgrid(*[torch.arange(28.0)] * 2, indexing="ij")) - 27 * tau
    left.plot(column, row, color=COLOURS["blue"], linewidth=0.7)
    left.plot(column.T, row.T, color=COLOURS["blue"], linewidth=0.7)
    left.set(title=f"one to one: {'yes' if is_diffeomorphism(27 * tau[None]) else 'no'}", aspect="equal")
    left.invert_yaxis()
    right.imshow(warp(X_test[:1], 27 * tau[None])[0, 0], cmap="gray", vmin=0, vmax=1)
    right.set_title(f"{27 * float(tau.square().sum(0).mean().sqrt()):.1f} pixels")
    for ax in (left, right):
        ax.axis("off")
    plt.show()


bend(cut=3, heat=0.3)

# %% [markdown]
# Predict what a larger cut does at the same heat, and what happens to the mesh at a heat well above 1.

# %% tags=["nbval-ignore-output"]
from ipywidgets import SelectionSlider

live(
    bend,
    cut=IntSlider(value=3, min=2, max=12, description="cut c"),
    heat=SelectionSlider(options=[0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0], value=0.3, description="T / largest T"),
)

# %% [markdown]
# With a fine cut the map folds long before it has moved anything far: what makes it fold is the gradient, not the
# displacement. At the same gradient, coarse maps move most.
#
# Now your third guess. How much does the output of a network change when the image is bent (by a pixel or so), and how
# much when noise *of the same length* is added to it, a length for each image?
#
# $$D = \frac{\langle\|f(\tau x) - f(x)\|^2\rangle}{\langle\|f(x) - f(z)\|^2\rangle}, \qquad
#   G = \frac{\langle\|f(x + \eta) - f(x)\|^2\rangle}{\langle\|f(x) - f(z)\|^2\rangle}, \qquad R = \frac DG .$$
#
# All changes are relative to the distance of the outputs of two different images $x$ and $z$. $R < 1$: the network
# minds bending less than noise. Predict $R$ for four networks: one that has learned nothing, `standard`, `noisy`, and
# one that has learned on bent digits.

# %%
from phenomena.relative_stability import relative_stability

generator = torch.Generator().manual_seed(0)
bent = deform(X_test, 1.0, 3, generator)
networks = {
    "untrained": small_cnn(data.image_shape, 10, torch.Generator().manual_seed(0)),  # where `standard` started
    "standard": standard,
    "trained on noise": noisy,
    "trained on bent digits": learn(small_cnn(data.image_shape, 10, generator), deform(X, 1.0, 3, generator)),
}
stability = {name: relative_stability(network, X_test, bent, generator) for name, network in networks.items()}

# %%
fig, ax = plt.subplots(figsize=(6.4, 3))
for row, (D, G, R) in enumerate(stability.values()):
    ax.plot([G, D], [row, row], color="#bbbbbb", zorder=1)
    ax.plot(G, row, "s", color=COLOURS["green"], markersize=8, label="G, noise" if row == 0 else None)
    ax.plot(D, row, "o", color=COLOURS["orange"], markersize=8, label="D, bent" if row == 0 else None)
    ax.annotate(f"R = {R:.2f}", (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=10)
ax.set(
    xscale="log", xlabel="relative change of the output", yticks=range(4), yticklabels=list(stability), ylim=(3.5, -0.5)
)
ax.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
plt.show()

# %% tags=["nbval-ignore-output"]
for name, network in networks.items():
    clean, after = (accuracy(network, images, y_test) for images in (X_test, bent))
    print(f"{name:22}: reads {clean:.1%} of the digits, {after:.1%} of them when they are bent")
D, G, R = (dict(zip(stability, column, strict=True)) for column in zip(*stability.values(), strict=True))
assert R["trained on noise"] > 4 * R["standard"] > 4 * R["trained on bent digits"]
assert abs(D["trained on noise"] / D["standard"] - 1) < 0.2, "noise taught it nothing about bending"

# %% [markdown]
# It minds bending as `standard` does. Its $R$ is large because its $G$ is small: it has learned about noise, and
# nothing about bending. On bent digits one learns the reverse: $D$ falls, $G$ does not. To be robust is to be robust
# against something.
#
# In the paper, $R$ starts at about 1, falls far below it in the training of the best networks, and follows the test
# error from network to network. `standard` starts at 1 and does not fall: a small network on digits has no need to. The
# chapter shows where the law holds.

# %% [markdown]
# ## What you have seen
#
# - In 784 pixels random changes do nothing and chosen ones everything, because every pixel adds its part.
# - An attack gives an upper bound on robustness. It is worth as much as the attack: look at its trace and at its
#   gradient.
# - Training on attacked images helps, if the budget may grow. What it leaves is measured, not proved.
# - Noise and a count of votes give a proof, with probability $1 - \alpha$, for a radius that the number of draws caps.
# - Robust against noise is not robust against bending.
#
# ## An open question
#
# Is a network that has learned on bent digits harder to attack? It reads more digits, so one may hope. Attack it, and
# certify it. If it is not: could one network have all three, and at what price on clean digits? What would you have to
# see to believe that the price must be paid? Papers that you can reproduce on this are listed at the end of the
# chapter.

# %% [markdown]
# ## Where you stand
#
# The last cell checks every exercise anew. Run it whenever you like.

# %%
summary(check, globals())
