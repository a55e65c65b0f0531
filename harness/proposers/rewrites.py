"""Typed rewrites of a torch subject's code, on LibCST's concrete syntax trees: what the codegen proposer is made of.

A rewrite knows one pattern and one idea. `variants` returns every module that it can make of a given one: an
empty list where the pattern does not stand, always in the same order. Comments and layout outside the rewritten
place are kept. Nothing is executed; names are resolved only as far as the module's own imports tell.

Not covered: whether a variant trains. A rewrite keeps to forms in which it should, and the build tells.
"""

from __future__ import annotations

from harness.proposers.network_rewrites import ActivationSwap, Dropout, Initialisation, Normalisation, Residual
from harness.proposers.rewriting import Rewrite
from harness.proposers.training_rewrites import (
    GradientClipping,
    InputDropout,
    LabelSmoothing,
    OptimiserSwap,
    Penalty,
    Schedule,
    WeightDecay,
)

__all__ = ["REWRITES", "Rewrite"]

REWRITES: tuple[Rewrite, ...] = (
    ActivationSwap(),
    OptimiserSwap(),
    Normalisation(),
    Dropout(),
    Initialisation(),
    Schedule(),
    LabelSmoothing(),
    WeightDecay(),
    Penalty(),
    GradientClipping(),
    Residual(),
    InputDropout(),
)
"""All rewrites, in a fixed order."""
