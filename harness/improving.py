"""Improving the improver: other settings of a proposer are tried beside those in force, on development items alone.

A proposal of the kind `improver` that passes the screen begins a trial. In the generations after its own the slots of
the proposer that it names are made in pairs, one with the settings in force and one with the others. The *yield* of a
slot is what its candidate gained on its base in the objective's development mean, in units of `ledger.gain`, clipped to
[0, 1]; 0 for what was not developed or is refuted. A pair's difference is the others' yield less that of those in
force, and the null is that its mean is not above 0: the e-process of the gates (`statistics`), looked at after every
generation. Where it reaches 1/alpha the settings are adopted; where the window ends first they are dropped.

Rules: one trial at a time. A slot that stayed empty yields 0. No held-out item decides here, so nothing of the vault's
budget is spent; alpha is that of one trial, and of many in a row some adopt by luck what is no better. What then
follows is other proposals: every gate still stands before the model.

Not covered: that a proposer's own code is another (`guarding`), and whether the pairs were made as they are marked:
they are the loop's word, as a proposer's name is.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Literal, NamedTuple

from harness.canonical import canonical_bytes
from harness.config import Config
from harness.desk import Desk
from harness.errors import ProposalError, ProposerError, StateError
from harness.gates import GateSpec
from harness.improver_entries import ImproverBegun, ImproverEnded, ImproverRolledBack
from harness.proposal import MAX_SETTINGS, Change, Improver, KnobChange, parse_proposal
from harness.proposers.space import same
from harness.proposing import Proposing
from harness.records import Decision
from harness.state import ProposalState, RunState

__all__ = ["Improving", "Weighed", "improver_of", "weigh"]


class Weighed(NamedTuple):
    """What a trial has come to."""

    verdict: Literal["adopted", "dropped"] | None
    """None while it goes on."""
    evidence: dict[str, Any]
    """`differences`, one a pair in order; `log_e`; `alpha`; and the `generation` after which it was looked at."""


def improver_of(document: bytes) -> Improver | None:
    """The proposal of settings in a document; None for any other."""
    try:
        proposal = parse_proposal(document)
    except ProposalError:
        return None
    return proposal if isinstance(proposal, Improver) else None


def weigh(state: RunState, generation: int) -> Weighed:
    """Judge the open trial after a generation, by the log alone; StateError where none is open."""
    rule, trial = state.guarding.config.improver, state.trial
    if rule is None or trial is None:
        raise StateError("no trial of a proposer's settings is open")
    from harness.statistics import EProcess  # late: it brings numpy

    begun = state.proposals[trial.number].proposed.generation
    config = state.guarding.config
    differences = _differences(state, config, begun, generation)
    process = EProcess(GateSpec(eval=config.objective, kind="improve", theta=0.0, bounds=(0.0, 1.0)))
    if differences:
        import numpy as np

        process.update(np.array(differences))
    verdict: Literal["adopted", "dropped"] | None = None
    if process.passed(rule.alpha):
        verdict = "adopted"
    elif generation - begun >= rule.window:
        verdict = "dropped"
    evidence = {"differences": differences, "log_e": process.log_e, "alpha": rule.alpha, "generation": generation}
    return Weighed(verdict, evidence)


def _differences(state: RunState, config: Config, begun: int, last: int) -> list[float]:
    """The difference of each pair, in order of generation and slot; a slot that stayed empty yields 0."""
    known = state.candidates()
    arms: dict[int, dict[str, list[float]]] = {}
    for _, found in sorted(state.proposals.items()):
        at, arm = found.proposed.generation, found.proposed.arm
        if arm is not None and begun < at <= last:
            yielded = _yield_of(found, known, config)
            arms.setdefault(at, {"old": [], "new": []})[arm].append(yielded)
    return [
        new - old for at in sorted(arms) for old, new in zip_longest(arms[at]["old"], arms[at]["new"], fillvalue=0.0)
    ]


def _yield_of(found: ProposalState, known: dict[str, tuple[Any, dict[str, float]]], config: Config) -> float:
    if found.developed is None or found.screened is None or found.developed.refuted:
        return 0.0
    before, after = known[found.screened.base][1], found.developed.development
    gain = after[config.objective] - before[config.objective]
    return min(1.0, max(0.0, gain / config.ledger.gain))


class Improving(Desk):
    """The supervisor's side: what may be tried, when a trial begins, how it ends, and the way back."""

    _proposing: Proposing | None = None

    def change(self, number: int, proposal: Improver) -> tuple[Change, int | None]:
        """What a proposal of settings changes, and by which earlier proposal of this epoch the same were tried.

        Both by the proposer's own reading of them, with defaults in place. Raises ProposalError where no trial of them
        can be made; SandboxError where no sandbox can be had.
        """
        state = self.state
        config, name = state.guarding.config, proposal.proposer
        if config.improver is None:
            raise ProposalError("the settings of proposers are not to be changed here: lockgate.yaml has no `improver`")
        if name not in config.proposers:
            raise ProposalError(f"no proposer {name} is listed", remedy=f"there are: {', '.join(config.proposers)}")
        if config.proposers[name] < 2 and (
            config.allotment == "fixed" or config.generation_size == len(config.proposers)
        ):
            raise ProposalError(f"{name} has one slot in a generation, and a pair needs two")
        if self._proposing is None:
            self._proposing = Proposing()
        epoch = self._of(number).epoch
        tried = {
            other: found.begun.settings
            for other, found in state.proposals.items()
            if found.begun is not None and found.begun.proposer == name and found.epoch == epoch
        }
        try:
            before, after, *others = self._proposing.settled(
                name, state.settings_of(name), proposal.settings, *tried.values()
            )
        except ProposerError as error:
            raise ProposalError(str(error)[:1000]) from error
        knobs = [
            KnobChange(name=f"{name}.{key}", group="proposer", old=_shown(before, key), new=_shown(after, key))
            for key in sorted(before.keys() | after.keys())
            if not same(before.get(key), after.get(key))
        ]
        if len(knobs) > MAX_SETTINGS:
            raise ProposalError(f"{name} has more than {MAX_SETTINGS} settings")
        twin = next((other for other, read in zip(tried, others, strict=True) if same(read, after)), None)
        return Change(knobs=knobs, files=[], lines_changed=0, unread=[], is_noop=not knobs), twin

    def begin(self, number: int, proposal: Improver) -> Decision | None:
        """Begin the trial, in the order of slots; what stands against it, where one is open."""
        trial = self.state.trial
        if trial is not None:
            text = f"a trial of {trial.proposer}'s settings is open (proposal {trial.number}): there is one at a time"
            return Decision.parse({"verdict": "reject", "reasons": [{"code": "improver", "text": text}]})
        self._journal.commit(ImproverBegun(number=number, proposer=proposal.proposer, settings=proposal.settings))
        return None

    def judge(self, generation: int) -> None:
        """After a generation has come to its end: adopt, drop, or go on. What was judged is not judged again."""
        state = self.state
        trial = state.trial
        if trial is None or state.proposals[trial.number].proposed.generation >= generation:
            return
        verdict, evidence = weigh(state, generation)
        if verdict is None:
            return
        self._journal.commit(
            ImproverEnded(
                number=trial.number,
                verdict=verdict,
                pairs=len(evidence["differences"]),
                evidence=self._rooms.blobs.put(canonical_bytes(evidence)),
                version=len(state.tuned) + 1 if verdict == "adopted" else None,
            )
        )

    def rollback(self, proposer: str, version: int, *, by: str, reason: str) -> None:
        """Put earlier settings of a proposer in force, 0 being the configuration's; StateError where there are none."""
        if proposer not in self.state.guarding.config.proposers:
            raise StateError(f"no proposer {proposer} is listed")
        self._journal.commit(ImproverRolledBack(proposer=proposer, version=version, by=by, reason=reason))

    def close(self) -> None:
        """End the process that read settings."""
        if self._proposing is not None:
            self._proposing.close()
            self._proposing = None


def _shown(settings: dict[str, Any], key: str) -> str:
    """A setting as canonical JSON, for rules and people; what is not there as null."""
    return canonical_bytes(settings.get(key)).decode()[:1000]
