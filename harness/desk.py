"""What every stage of the supervisor works with: the rooms, the state of the moment, and the small common steps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.artifacts import BlobStore
from harness.channel import Child
from harness.config import Config
from harness.developing import Shown
from harness.entries import Decided, Staked
from harness.errors import EvaluatorError
from harness.folder import RunFolder
from harness.gates import GateSpec
from harness.journal import Journal
from harness.judge import Judge
from harness.policy import PolicySet
from harness.quorum import Approver
from harness.records import Decision, Digest
from harness.state import ProposalState, RunState
from harness.vault import Vault, item_list
from harness.views import items_used, log_evidence
from harness.workshop import Workshop

EVALUATOR_SECONDS = 600.0


@dataclass(frozen=True)
class Rooms:
    """What a supervisor works with: its processes and stores, opened by `opening.py`."""

    folder: RunFolder
    config: Config
    workers: int
    journal: Journal
    blobs: BlobStore
    workshop: Workshop
    evaluator: Child
    judge: Judge
    policies: PolicySet
    vault: Vault
    gates: list[GateSpec]
    approvers: list[Approver]
    eval_kinds: dict[str, str]
    training: Path
    development: Shown


class Halt(Exception):  # noqa: N818 - no error: somebody stopped the run, and it rests
    """The run is halted: nothing more is decided until it is resumed."""


class Desk:
    """The base of the supervisor's stages."""

    def __init__(self, rooms: Rooms) -> None:
        """Work with these rooms; the state is the journal's."""
        self._rooms = rooms
        self._journal = rooms.journal

    @property
    def state(self) -> RunState:
        """The state of the moment."""
        return self._journal.state

    def _of(self, number: int) -> ProposalState:
        return self.state.proposals[number]

    def _origin(self) -> str:
        return self.state.genesis.origin if self.state.genesis else ""

    def _key(self, number: int) -> str:
        return f"{self._origin()}/{number}"

    def _prefix(self) -> int:
        """Items that a test may look at: the greatest cap of all gates."""
        cap = self._rooms.config.ledger.cap
        return max([cap, *(gate.cap or cap for gate in self._rooms.gates)])

    def _enter_stake(self, number: int) -> None:
        """Stake in the vault's ledger, which is durable first, then in the log; what the ledger holds already, too."""
        vault = self._rooms.vault
        stake = vault.stake(self._key(number), self._prefix())
        size, root = vault.head
        self._journal.commit(
            Staked(
                number=number,
                epoch=self.state.epoch,
                test=stake.test,
                alpha=stake.alpha,
                incumbent=self.state.incumbent.digest,
                offset=stake.offset,
                cap=stake.items,
                items=vault.blind("items", item_list(vault.items(stake.offset, stake.items))),
                ledger_size=size,
                ledger_root=root,
            )
        )

    def _reject(
        self, number: int, decision: Decision, *, judgement: Digest | None = None, document: Digest | None = None
    ) -> None:
        self._journal.commit(Decided(number=number, decision=decision, judgement=judgement, document=document))
        if self._of(number).staked is not None:
            self._close_test(number, promoted=False)

    def _close_test(self, number: int, *, promoted: bool) -> None:
        pending = self._rooms.vault.state.pending
        if pending is None or pending.key != self._key(number):
            return
        used = items_used(self._of(number), self._rooms.blobs)
        used = pending.items if used is None else used
        evidence = log_evidence(self._of(number), self._rooms.blobs)
        measured = self._of(number).measured
        asked = measured is not None and not measured.passed  # what goes live nonetheless, people let past a ceiling
        self._rooms.vault.close_test(pending.key, used, promoted=promoted, log_es=evidence, asked=asked)

    def _end_epoch(self) -> None:
        vault, key = self._rooms.vault, f"{self._origin()}/{self.state.ended}"
        pending = vault.state.pending
        if pending is not None and not vault.has_ended(key) and pending.key.startswith(f"{self._origin()}/"):
            # Where items are fresh, what it costs was settled when it was measured: the log has it so.
            number = int(pending.key.rpartition("/")[2])
            if self._of(number).measured is not None and self._rooms.config.ledger.items == "fresh":
                self._close_test(number, promoted=False)
        vault.end_epoch(key, self.state.guarding.vault_items)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask the evaluator; one that died is started again and asked once more, for it holds no state."""
        try:
            answer = self._rooms.evaluator.ask(request, seconds=EVALUATOR_SECONDS)
        except EvaluatorError:
            answer = self._rooms.evaluator.ask(request, seconds=EVALUATOR_SECONDS)
        if "ok" not in answer:
            raise EvaluatorError(str(answer.get("message")), where=answer.get("where"), remedy=answer.get("remedy"))
        result = answer["ok"]
        if not isinstance(result, dict):
            raise EvaluatorError("the evaluator answered no object")
        return result

    def _out_of_time(self) -> bool:
        return self._seconds_left() <= 0

    def _seconds_left(self) -> float:
        """What is left of the wall-clock budget: the log's entries, and the time since the last one."""
        spent = self.state.active_seconds
        if self.state.last_time:
            spent += max(0.0, (datetime.now(UTC) - datetime.fromisoformat(self.state.last_time)).total_seconds())
        return self._rooms.config.budgets.wall_seconds - spent

    def _halting(self) -> bool:
        """Looked at before every decision and right before the swap: the log's halt, or the kill-switch file."""
        return self.state.halted or os.path.lexists(self._rooms.folder.halt)

    def _check_halt(self) -> None:
        if self._halting():
            raise Halt


def finished(found: ProposalState) -> bool:
    """Whether nothing more happens to a proposal."""
    if found.decision is None:
        return False
    return found.decision.verdict == "reject" or (found.decision.verdict == "promote" and found.outcome is not None)
