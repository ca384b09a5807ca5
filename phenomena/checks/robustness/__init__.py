"""Checks of the robustness lab, in the order of its parts: attacks, defences, diffeomorphisms."""

from phenomena.checks.robustness.ascent import pgd
from phenomena.checks.robustness.certificates import certificate
from phenomena.checks.robustness.diffeomorphisms import displacement
from phenomena.checks.robustness.steps import fgsm, project
from phenomena.checks.robustness.training import adversarial_loss

__all__ = ["adversarial_loss", "certificate", "displacement", "fgsm", "pgd", "project"]
