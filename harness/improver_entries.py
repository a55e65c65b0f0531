"""What the log says of a trial of a proposer's settings: that it began, how it ended, and that settings came back."""

from __future__ import annotations

from typing import Any, Literal

from harness.entries import Entry
from harness.records import Count, Digest


class ImproverBegun(Entry):
    """A proposal of other settings has passed the screen: the proposer's slots are split in pairs from here on."""

    number: Count
    proposer: str
    settings: dict[str, Any]
    """All of them, as they are tried."""


class ImproverEnded(Entry):
    """The trial has ended: the settings are in force from here on, as this version, or come to nothing."""

    number: Count
    verdict: Literal["adopted", "dropped"]
    pairs: Count
    evidence: Digest
    """The difference of each pair and the log evidence, as a blob; of development items alone, so no secret."""
    version: Count | None = None
    """None where they were dropped."""


class ImproverRolledBack(Entry):
    """Settings of an earlier version are in force again, 0 being the configuration's; a trial of others has ended."""

    proposer: str
    version: Count
    by: str
    reason: str
