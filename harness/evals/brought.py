"""What brings evals that stand in no `guards.py`: the contract of the entry-point group `lockgate.evals`.

    [project.entry-points."lockgate.evals"]
    mine = "my_package.gates:bring"

`bring` is given what one line under `evals` in lockgate.yaml asks for, and returns what it stands for. That is merged
into the subject's suite as if it had been written in guards.py: the same checks hold for it, and the same promises.
It is trusted code, runs in the evaluator and must do the same whenever it is called with the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.evals.codec import Codec
from harness.evals.data import Population
from harness.evals.scoring import Evaluation, EvaluationKind, Inquiry, View


@dataclass(frozen=True)
class Wanted:
    """One line under `evals`: the name and kind of the eval, its settings, and where it stands (`lockgate.yaml:LINE`).

    `module(name)` imports a file of the subject, held to the run's guard. `codec` is the subject's, if it has one.
    """

    name: str
    kind: EvaluationKind
    settings: dict[str, Any]
    where: str
    subject: Path
    module: Callable[[str], ModuleType]
    codec: Codec | None


@dataclass(frozen=True)
class Brought:
    """Evals with what they are about: views by name, and populations by name that they and their views are of."""

    evaluations: tuple[Evaluation | Inquiry, ...]
    views: tuple[View, ...] = ()
    populations: Mapping[str, Population] = field(default_factory=dict)
