"""Where a candidate's training begins: the records of a start, as proposals ask for it and as the log keeps it.

No start means from scratch: from the weights that `build` draws. `inherit` is what an architecture proposal asks for by
its own field (see `growth`); the others are the matter of weights proposals (see `warmstart`), which call the
subject's own `train` (`continue`, `low-rank`), or nothing (`average`), or a loop of the worker's own (`reinforce`).

Not covered: whether a start is any good; and that what a worker was told to do is what a candidate's code let it do.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints, field_validator

from harness.records import Digest, Record

__all__ = [
    "MAX_SOURCES",
    "TRAINING",
    "AnyStart",
    "Average",
    "Base",
    "Continue",
    "Inherit",
    "LowRank",
    "Reinforce",
    "Start",
]

MAX_SOURCES = 8
"""So many candidates' weights may be averaged: all of them are staged for the job."""

TRAINING = frozenset({"continue", "low-rank"})
"""The methods of weights proposals that call the subject's `train`: other knobs of training have an effect there."""

Base: TypeAlias = Digest | Literal["incumbent"]
"""The candidate that a proposal starts from."""

_One = Annotated[list[Base], Field(min_length=1, max_length=1)]
TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,63}$")]


class Inherit(Record):
    """A child of another architecture begins with what its parent's weights say of it (Chen et al. 2016)."""

    method: Literal["inherit"]
    sources: _One


class Continue(Record):
    """Training goes on from a candidate's weights."""

    method: Literal["continue"]
    sources: _One


class Average(Record):
    """The plain mean of several candidates' weights, trained no further: a model soup (Wortsman et al. 2022)."""

    method: Literal["average"]
    sources: Annotated[list[Base], Field(min_length=2, max_length=MAX_SOURCES)]

    @field_validator("sources")
    @classmethod
    def _different(cls, sources: list[str]) -> list[str]:
        if len(set(sources)) != len(sources):
            raise ValueError("a candidate twice")
        return sources


class LowRank(Record):
    """Matrices get a trained delta of low rank, merged in the end; all else stays (LoRA, Hu et al. 2021)."""

    method: Literal["low-rank"]
    sources: _One
    rank: Annotated[int, Field(ge=1, le=64)]


class Reinforce(Record):
    """A fine-tune on a reward that can be verified: whether a sampled answer is the label (GRPO, Shao et al. 2024).

    `label` names the training tensor of right answers, [rows, ...] whole numbers. A step draws `batch` rows and
    `group` answers to each; `kl` weighs how far the answers may leave those of the start.
    """

    method: Literal["reinforce"]
    sources: _One
    label: TensorName
    steps: Annotated[int, Field(ge=1, le=5000)] = 100
    lr: Annotated[float, Field(gt=0, le=1)] = 0.001
    batch: Annotated[int, Field(ge=1, le=1024)] = 64
    group: Annotated[int, Field(ge=2, le=64)] = 8
    kl: Annotated[float, Field(ge=0, le=10)] = 0.02


AnyStart: TypeAlias = Inherit | Continue | Average | LowRank | Reinforce
Start: TypeAlias = Annotated[AnyStart, Field(discriminator="method")]
"""A start as the log keeps it: its sources are digests."""
