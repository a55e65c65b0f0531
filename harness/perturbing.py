"""Attacks by gradients: what a worker is to do with rows, and whether what it gives back is within what was declared.

The worker that does it runs the candidate's own code, which may hide or falsify every gradient. So nothing that comes
back is believed: a row may lie anywhere, and counts as long as it is within epsilon of the clean row and within range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from harness.jobs import JobSpec
from harness.records import Count

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ATTACK = "attack"
PERTURBED = "perturbed"
"""The tensor that an attack gives: rows of the form of the key's, float32."""
_ROUNDING = 2e-6
"""What float32 may be off, as a share of the greatest number that is met."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Perturbation(JobSpec):
    """An attack on each row by itself: up the gradient of a loss against the model's own answer to the clean row.

    key: which input is changed, float32 [rows, …]. epsilon: how far, in the norm. size: of a step. random: begin
    somewhere within epsilon, the same offset for every row, drawn by the seed. low, high: the range of a value.
    loss: the cross-entropy against its own most likely class, or the margin of that class over the next one.
    """

    KIND = ATTACK
    WHAT = "an attack"

    key: Annotated[str, Field(min_length=1, max_length=200)]
    norm: Literal["linf", "l2"] = "linf"
    epsilon: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(ge=1, le=200)] = 1
    size: Annotated[float, Field(gt=0)]
    random: bool = False
    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    low: Finite = 0.0
    high: Finite = 1.0
    seed: Count = 0

    @model_validator(mode="after")
    def _a_range(self) -> Perturbation:
        if not self.low < self.high:
            raise ValueError("low must lie below high")
        return self

    def strays(self, clean: npt.NDArray[np.float32], moved: npt.NDArray[np.float32]) -> str | None:
        """What is wrong with perturbed rows, in words: another form, or one beyond epsilon or the range. None if well.

        Both are [rows, …] float32; a NaN is beyond everything.
        """
        import numpy as np

        if moved.shape != clean.shape or moved.dtype != np.float32:
            return f"{moved.dtype} {list(moved.shape)} for float32 {list(clean.shape)}"
        distance = np.abs(moved.astype(np.float64) - clean).reshape(len(clean), -1)
        far = np.sqrt((distance**2).sum(1)) if self.norm == "l2" else distance.max(1, initial=0.0)
        slack = _ROUNDING * max(1.0, abs(self.low), abs(self.high), self.epsilon)
        if self.norm == "l2":
            slack *= max(1.0, float(distance.shape[1]) ** 0.5)
        if not (far <= self.epsilon + slack).all():
            return f"a row is {np.nanmax(far):.6g} from the clean one, where {self.epsilon:.6g} is allowed"
        if not ((moved >= self.low - slack) & (moved <= self.high + slack)).all():
            return f"a value is beyond the range {self.low:.6g} to {self.high:.6g}"
        return None
