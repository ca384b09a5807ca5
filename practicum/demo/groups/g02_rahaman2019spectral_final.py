"""Does the kernel predict the slow frequency better when the network is wider?"""

import json
import sys
from pathlib import Path

import midterm  # type: ignore[import-not-found]
import numpy as np


def off(width: int, seed: int) -> float:
    """Time of frequency 4 over what the kernel of the same first weights says."""
    midterm.WIDTH = width
    t = np.arange(128) / 128
    target = sum(np.sin(2 * np.pi * k * t + k * seed) for k in (1, 2, 4, 6))
    net = midterm.Net(midterm.ring(t), np.random.default_rng([seed, width]))
    net.second *= 8 / np.sqrt(width)  # so that the scale of the values stays
    grad, rest = net.features(), target - net.output()
    gram, seen = grad @ grad.T, []
    step = 1 / np.linalg.norm(gram, 2)
    for _ in range(midterm.N_STEPS):
        seen.append(midterm.amplitude(rest))
        rest = rest - step * gram @ rest
    return midterm.half_times(net.fit(target))[2] / midterm.half_times(np.array(seen))[2]


seed, out = (sys.argv[sys.argv.index(name) + 1] for name in ("--seed", "--out"))
Path(out).write_text(json.dumps({f"off_{width}": off(width, int(seed)) for width in (16, 256)}))
