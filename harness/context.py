"""What a subject's `train` is given besides its data, and what can be wrong with one; mounted beside the worker."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

__all__ = [
    "BadAnswersError",
    "Context",
    "InvalidRecipeError",
    "NonFiniteLossError",
    "NonFiniteWeightsError",
    "NotDifferentiableError",
    "Progress",
    "StartError",
    "WorkerError",
]

_KEPT = 200

Progress = Callable[[int, float], None]


class WorkerError(Exception):
    """A subject that does not keep to the interface."""


class NonFiniteLossError(WorkerError):
    """A training step whose loss is not a number, or infinite."""


class NonFiniteWeightsError(WorkerError):
    """Training that left NaN or infinity among the weights."""


class InvalidRecipeError(WorkerError):
    """Values that the subject's Recipe does not accept."""


class BadAnswersError(WorkerError):
    """Answers of another shape or type than a subject gives, or not finite."""


class NotDifferentiableError(WorkerError):
    """Answers through which no gradient comes back to the inputs."""


class StartError(WorkerError):
    """A start that this model or these data do not admit."""


class Context:
    """What `train` is given besides its data.

    seed: an int, the same for every candidate of a run. device: where the model lies. `progress` takes each step
    and its loss, and keeps the job alive; `autocast` is bfloat16 on CUDA, and nothing on the CPU.
    """

    def __init__(self, seed: int, device: Any, progress: Progress | None = None) -> None:
        """Start with no steps taken."""
        self.seed = seed
        self.device = device
        self.steps = 0
        self.loss: float | None = None
        self.kept: list[tuple[int, float]] = []
        self._stride = 1
        self._count = 0
        self._report = progress

    def progress(self, step: int, loss: float) -> None:
        """Report a step (counted from the caller's own start) and its loss; raise NonFiniteLossError if it is none."""
        step, loss = int(step), float(loss)
        if not math.isfinite(loss):
            raise NonFiniteLossError(f"the loss is {loss} at step {step}")
        self.steps, self.loss = max(self.steps, step), loss
        if self._count % self._stride == 0:
            self.kept.append((step, loss))
            if len(self.kept) > _KEPT:
                self.kept, self._stride = self.kept[::2], self._stride * 2
        self._count += 1
        if self._report is not None:
            self._report(step, loss)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in bfloat16 where the device is CUDA."""
        import torch

        if self.device.type == "cuda":
            with torch.autocast("cuda", dtype=torch.bfloat16):
                yield
        else:
            yield
