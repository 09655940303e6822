"""Rounds of one step: the mean of gradients, sent while the backward pass goes on."""

from localsgd.gradients.mean import GradientMean
from localsgd.gradients.rounds import GradientRounds

__all__ = ["GradientMean", "GradientRounds"]
