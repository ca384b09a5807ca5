"""Checks of the generalization lab, in the order of its parts: memorising, bounds, surrogates."""

from phenomena.checks.generalization.bounds import gaussian_kl, hoeffding, kl_inverse, pac_bayes
from phenomena.checks.generalization.memorising import corrupt, memorise, shatter
from phenomena.checks.generalization.surrogates import risk_terms

__all__ = [
    "corrupt", "gaussian_kl", "hoeffding", "kl_inverse", "memorise", "pac_bayes", "risk_terms", "shatter",
]  # fmt: skip
