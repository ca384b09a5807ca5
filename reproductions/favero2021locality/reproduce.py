"""Favero, Cagnetta & Wyart 2021: the size of the patches sets how fast a kernel learns, and not the dimension."""

import torch
from torch import Tensor

from phenomena.kernel_regression import kernel_regression
from phenomena.local_kernels import convolutional_kernel, laplace_kernel, local_kernel, random_field
from phenomena.program import Values, main

# P: training samples; test: test samples; fields: teachers that are drawn at the same samples.
SETTINGS = {
    "smoke": {"P": [32, 64, 128], "test": 100, "fields": 4},
    "laptop": {"P": [128, 256, 512, 1024, 2048], "test": 512, "fields": 16},
    "paper": {"P": [256, 512, 1024, 2048, 4096, 8192], "test": 2000, "fields": 100},
}
KERNELS = {"local": local_kernel, "conv": convolutional_kernel}
Student = tuple[str, int]  # "local", "conv" or "fc", and the filter size, for "fc" the dimension


def kernel(student: Student, X: Tensor, Z: Tensor) -> Tensor:
    """The student's Laplacian kernel; its width is the number of coordinates that it sees."""
    name, s = student
    return laplace_kernel(X, Z, s) if name == "fc" else KERNELS[name](X, Z, s, s)


def learning_curves(
    teacher: Student, d: int, students: list[Student], setting: dict, generator: torch.Generator
) -> dict[Student, list[float]]:
    """Test error of each student at each P, ridgeless, as a share of the labels' mean square.

    x is uniform on [0, 1]^d, the labels are Gaussian random fields of the teacher's kernel; the error is the mean over
    the test samples and the fields. Smaller training sets are parts of larger ones.
    """
    sizes, n = setting["P"], setting["P"][-1]
    X = torch.rand(n + setting["test"], d, generator=generator, dtype=torch.float64)
    K = kernel(teacher, X, X)
    Y = random_field(K, generator, setting["fields"])
    mean_square = K.diagonal().mean()
    curves: dict[Student, list[float]] = {}
    for student in students:
        K = kernel(student, X, X[:n])
        predicted = [kernel_regression(K[:P, :P], Y[:P], K[n:, :P]) for P in sizes]
        curves[student] = [float((f - Y[n:]).square().mean() / mean_square) for f in predicted]
    return curves


def exponent(sizes: list[int], errors: list[float]) -> float:
    """β of error ~ P^-β, by least squares on logarithms."""
    u = torch.tensor(sizes, dtype=torch.float64).log()
    u -= u.mean()
    return -float(u @ torch.tensor(errors, dtype=torch.float64).log() / (u @ u))


def measure(seed: int, scale: str) -> Values:
    """Learning curves over P for each student of four teachers; `beta_...` are exponents."""
    setting, generator = SETTINGS[scale], torch.Generator().manual_seed(seed)
    sizes: list[int] = setting["P"]  # type: ignore[assignment]
    values: dict[str, float | list[float]] = {"P": [float(P) for P in sizes]}

    def learn(teacher: Student, d: int, students: list[Student], suffix: str) -> None:
        for (name, s), errors in learning_curves(teacher, d, students, setting, generator).items():
            key = f"fc{suffix}" if name == "fc" else f"{name}_s{s}{suffix}"
            values[f"error_{key}"] = errors
            values[f"beta_{key}"] = exponent(sizes, errors)

    learn(("local", 1), 9, [*(("local", s) for s in (1, 2, 3, 4, 5)), ("fc", 9)], "")
    learn(("local", 2), 9, [*(("local", s) for s in (1, 2, 3)), ("fc", 9)], "_t2")
    learn(("conv", 2), 9, [("local", 1), ("local", 2), ("conv", 2), ("fc", 9)], "_shared")
    for d in (4, 16):
        learn(("local", 1), d, [("local", 2), ("local", 3), ("fc", d)], f"_d{d}")
    return values


if __name__ == "__main__":
    main(measure)
