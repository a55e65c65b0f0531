"""The only place that knows the order: screen, build, develop, stake, predict, measure, decide, promote, watch.

Every step reads the state that the log folds to, does one thing, and commits one entry.
A step whose entry is there is not done again, so going on after a crash is the same code as
going on: a supervisor that was killed at any point is started, recovers, and calls `settle`.

Slots of a generation are built side by side; their tests on the vault run one at a time, in
order of number, so that the same stakes are spent with one worker or many.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from harness.canonical import canonical_bytes
from harness.decision import ceilings, decide, refuted, reject
from harness.desk import Desk, Halt, Rooms, finished
from harness.developing import develop
from harness.effect import change_of, shortcoming
from harness.entries import Built, Decided, Developed, ProposedEntry
from harness.errors import (
    ArtifactError,
    AuditError,
    DiskError,
    EvaluatorError,
    PromotionError,
    SandboxError,
    StateError,
    StatisticsError,
    StoppingError,
)
from harness.holding import Answered, Holding, judged_document
from harness.promotion import Promotion
from harness.records import Digest, Reason
from harness.rules import decide_document
from harness.screening import Screening
from harness.trial import Trial
from harness.views import properties_of
from harness.workshop import Failure


@dataclass(frozen=True)
class Slot:
    """One proposal as a proposer gave it; the name and the label are the harness's own stamp."""

    proposer: str
    document: bytes
    scripted: bool = False
    label: str = ""


PASSING = (Halt, AuditError, StateError, PromotionError, SandboxError, DiskError, StoppingError, OSError)
"""What no candidate is to blame for."""


class Supervisor(Desk):
    """One run, in order. `submit` and `settle` are called from one thread; `halt` from any."""

    def __init__(self, rooms: Rooms) -> None:
        """Take over the rooms; `recover` must be called before anything else."""
        super().__init__(rooms)
        self._holding = Holding(rooms)
        self._screening = Screening(rooms, self._holding)
        self._trial = Trial(rooms)
        self._promotion = Promotion(rooms)
        self._pool = ThreadPoolExecutor(rooms.workers, thread_name_prefix="slot")

    def submit(self, generation: int, slots: list[Slot]) -> None:
        """Fill a generation, whole, as one group of entries. One that is filled already stays as it is."""
        if self.state.generation(generation):
            return
        if generation < 1:
            raise StateError("generations are counted from 1")
        if generation > 1 and not self.settled(generation - 1):
            raise StateError(f"generation {generation - 1} is not settled")
        first = len(self.state.proposals) + 1
        entries = [
            ProposedEntry(
                number=first + index,
                generation=generation,
                index=index,
                proposer=slot.proposer,
                scripted=slot.scripted,
                label=slot.label,
                document=self._rooms.blobs.put(slot.document),
            )
            for index, slot in enumerate(slots)
        ]
        if entries:
            self._journal.commit(*entries)

    def settled(self, generation: int) -> bool:
        """Whether every slot of a generation has come to its end."""
        slots = self.state.generation(generation)
        return bool(slots) and all(finished(slot) for slot in slots)

    def settle(self, generation: int) -> list[int]:
        """Bring every slot of a generation to its end; returns those that wait for people: then all others wait, too.

        Raises Halt where the run is halted meanwhile.
        """
        self._holding.take_in()
        numbers = [slot.proposed.number for slot in self.state.generation(generation)]
        for number in numbers:
            self._check_halt()
            self._guarded(number, self._screening.screen)
        # Each slot is one task, so that a slow one holds nobody up; results are committed as they come.
        list(self._pool.map(lambda number: self._guarded(number, self._prepare), numbers))
        for number in numbers:
            self._check_halt()
            if finished(self._of(number)):
                continue
            if self.state.held - {number}:
                break  # tests run in order, and none while people are asked
            self._guarded(number, self._conclude)
        self.show_witnesses()
        return sorted(self.state.held)

    def _guarded(self, number: int, step: Callable[[int], None]) -> None:
        """Run one step of one proposal; whatever fails on its account is a rejection with its reason.

        Errors of the log, the swap, the disk or the sandbox itself pass through: then nothing more can be decided,
        and no candidate is to blame. So do errors after the decision, which is not taken back. An error that nobody
        foresaw rejects too: otherwise one proposal could stop a run for good, at every restart.
        """
        if not self.state.halted and finished(self._of(number)):
            return
        try:
            step(number)
        except PASSING:
            raise
        except Exception as error:
            if self._of(number).decision is not None:
                raise
            codes: dict[type[Exception], Reason] = {
                EvaluatorError: "evaluator-failed",
                StatisticsError: "evaluator-failed",
                ArtifactError: "build-output",
            }
            code: Reason = next((code for kind, code in codes.items() if isinstance(error, kind)), "internal")
            self._reject(number, reject(code, f"{type(error).__name__}: {error}"[:1000]))

    def _prepare(self, number: int) -> None:
        """Build the candidate and measure it on the development items, each in a sandbox of its own."""
        rooms = self._rooms
        found = self._of(number)
        if found.screened is None or found.screened.outcome != "pass" or found.decision:
            return None
        self._check_halt()
        left = self._seconds_left()
        if left <= 0:
            return self._reject(number, reject("budget", "the run's wall-clock budget is spent"))
        if found.built is None:
            known = self.state.candidates()
            _, change = change_of(rooms.blobs, found.screened.change)
            sealed = rooms.workshop.build(
                found.screened.recipe,
                found.screened.source,
                rooms.training,
                start=change.start,
                sources=[known[source][0] for source in (change.start.sources if change.start else ())],
                seconds=left,
            )
            if isinstance(sealed, Failure):
                return self._reject(number, reject(sealed.code, sealed.text))
            built = Built(
                number=number,
                candidate=sealed.candidate,
                steps=sealed.steps,
                seconds=sealed.seconds,
                peak_mb=sealed.peak_mb,
                read=sealed.read,
            )
            self._journal.commit(built)
            found = self._of(number)
        if found.developed is None and found.built is not None and found.screened is not None:
            base, _ = self.state.candidates()[found.screened.base]
            against = shortcoming(rooms.blobs, found.screened, base, found.built)
            if against is not None:
                return self._reject(number, against)
        if found.developed is None and found.built is not None:
            before = self._counterexamples(found.proposed.generation)
            made = develop(self._ask, rooms.workshop, found.built.candidate, rooms.development, before=before)
            if isinstance(made, Failure):
                return self._reject(number, reject(made.code, made.text))
            developed = Developed(
                number=number,
                development=made.means,
                answers=made.answers,
                asked=made.asked,
                properties=made.properties,
                counterexamples=made.counterexamples,
                flops=made.flops,
            )
            self._journal.commit(developed)
            found = self._of(number)
        if found.developed is not None and found.developed.refuted:
            return self._reject(number, refuted(properties_of(found.developed, rooms.blobs)))
        return None

    def _counterexamples(self, generation: int) -> dict[int, Digest]:
        """What earlier proposals had against properties. AuditError where it is damaged: no candidate is to blame."""
        before = self.state.counterexamples(generation)
        try:
            for name in before.values():
                self._rooms.blobs.check(name)
        except ArtifactError as error:
            raise AuditError(f"counterexamples of earlier proposals: {error.message}", where=error.where) from error
        return before

    def _conclude(self, number: int) -> None:
        """Everything that happens in order: the stake, the test, the decision, the promotion."""
        rooms = self._rooms
        found = self._of(number)
        if found.decision is not None:
            if found.decision.verdict == "promote" and found.outcome is None:
                self._promotion.promote(number)
            return None
        if found.staked is not None and found.staked.epoch != self.state.epoch:
            return self._reject(number, reject("interrupted", "a rollback ended the epoch of its test"))
        if found.hold is not None and found.hold.stage == "screen":
            return None
        if found.built is None or found.developed is None:
            return self._reject(number, reject("interrupted", "it was not built"))
        if found.staked is None and {hold.incumbent for hold in found.released} - {self.state.incumbent.digest}:
            return self._reject(number, reject("interrupted", "the incumbent has moved since people let it go on"))
        if found.measured is None:
            if found.staked is None:
                held = rooms.vault.state.pending
                if held is None or held.key != self._key(number):
                    # What the vault's ledger holds already, from before a crash, is entered in the log as well.
                    against = self._trial.before_stake(found)
                    if against is not None:
                        return self._reject(number, against)
                self._enter_stake(number)
            against = self._trial.measure(number)
            if against is not None:
                return self._reject(number, against)
        self._decide(number)
        return None

    def _decide(self, number: int) -> None:
        """Judge what was measured and decide; or ask people, and decide when they have answered."""
        rooms = self._rooms
        found = self._of(number)
        if found.measured is None or found.screened is None:
            return None
        evidence = rooms.blobs.get(found.measured.evidence)
        if found.hold is None:
            screened = judged_document(rooms.blobs.get(found.screened.document))
            document = decide_document(screened, self.state, rooms.config, found, evidence)
            judgement = rooms.judge.decide(rooms.policies, "decide", document["proposal"]["kind"], document)
            asking = bool(ceilings(found.measured.gates))
            waits = judgement.outcome == "hold" or (judgement.outcome == "pass" and asking)
            if waits and (found.measured.passed or asking) and self._holding.possible:
                shown, kept = self._salted(document), self._salted(judgement.json_value())
                return self._holding.hold(number, "decide", judgement, shown, kept)
            approvers = list[str]()
        else:
            pending = rooms.vault.state.pending
            if pending is None or pending.key != self._key(number):
                return self._reject(number, reject("interrupted", "another run has used the vault while it was held"))
            answer = self._holding.answer(number)
            if answer is None:
                return None
            if not isinstance(answer, Answered):
                return self._reject(number, answer)
            judgement, document = answer.judgement, answer.document
            approvers = found.hold.approvers
        decision = decide(found.measured.gates, rooms.eval_kinds, judgement, approvers=approvers)
        kept, shown = self._salted(judgement.json_value()), self._salted(document)
        if decision.verdict == "promote":
            if self._holding.go_on(number, Decided(number=number, decision=decision, judgement=kept, document=shown)):
                self._promotion.promote(number)
        else:
            self._reject(number, decision, judgement=kept, document=shown)
        return None

    def _salted(self, value: dict[str, Any]) -> Digest:
        """Keep what holds scores as a blob whose digest, which is public, confirms no guess (FORMAT §8.3)."""
        return self._rooms.blobs.put(canonical_bytes({**value, "salt": secrets.token_hex(16)}))

    def recover(self) -> None:
        """Bring disk, vault and log into step after any crash; before anything else."""
        self._promotion.recover()

    def rollback(self, version: int, *, by: str, reason: str) -> None:
        """Make an earlier version live again; see `promotion.py`."""
        self._promotion.rollback(version, by=by, reason=reason)
        self.show_witnesses()

    def show_witnesses(self) -> str | None:
        """Show the present head to the witnesses, where there are any; returns why there is no quorum."""
        return self._promotion.show_witnesses()

    def close(self) -> None:
        """Stop the slot threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


__all__ = ["Halt", "Rooms", "Slot", "Supervisor"]
