"""Markets of classifiers: forest, and log against isoelastic agents."""

import argparse
import json

import numpy as np
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--scale")
parser.add_argument("--out")
opts = parser.parse_args()

X, y = load_digits(return_X_y=True)
perm = np.random.default_rng(opts.seed).permutation(len(y))
X, y = X[perm] / 16, y[perm]
X_train, y_train = X[:1100], y[:1100]
forest = RandomForestClassifier(25, max_depth=6, random_state=opts.seed).fit(X_train, y_train)
P = np.stack([tree.predict_proba(X_train) for tree in forest.estimators_]) * 0.98 + 0.002  # agents, digits, classes
arithmetic = P.mean(0)
logs = np.log(P).mean(0)
geometric = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
half = np.exp(0.5 * np.log(arithmetic) + 0.5 * np.log(geometric))
half /= half.sum(1, keepdims=True)
rows = np.arange(len(y_train))
out = {
    "loss_log": -np.log(geometric[rows, y_train]).mean(),
    "loss_iso": -np.log(arithmetic[rows, y_train]).mean(),
    "error_log": (arithmetic.argmax(1) != y_train).mean(),
    "error_iso": (geometric.argmax(1) != y_train).mean(),
    "error_forest": (forest.predict(X_train) != y_train).mean(),
    "error_forest_mixed": (half.argmax(1) != y_train).mean(),
}
with open(opts.out, "w") as file:
    json.dump(out, file)
