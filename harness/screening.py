"""The screen: untrusted bytes → a proposal → its effective change → the static rules. Nothing is run."""

from __future__ import annotations

from typing import Any

from harness.canonical import canonical_bytes
from harness.decision import judged, reject
from harness.desk import Desk, Rooms
from harness.effect import change_of
from harness.entries import Decided, Screened
from harness.errors import ProposalError
from harness.holding import Answered, Holding, judged_document
from harness.judgement import Judgement
from harness.proposal import Change, effective_change, parse_proposal, start_of, successor
from harness.records import Decision, Digest
from harness.rules import screen_document
from harness.workshop import sound_recipe


class Screening(Desk):
    """The first stage of a proposal's life."""

    def __init__(self, rooms: Rooms, holding: Holding) -> None:
        """Ask people through `holding`, where the rules ask for them."""
        super().__init__(rooms)
        self._holding = holding

    def screen(self, number: int) -> None:
        """Parse the bytes, work out the effective change, judge it by the static rules."""
        rooms, state = self._rooms, self.state
        found = self._of(number)
        if found.decision:
            return None
        if found.screened:
            return self._answer(number)
        if number > rooms.config.budgets.proposals:
            return self._reject(
                number, reject("budget", f"the run may take {rooms.config.budgets.proposals} proposals")
            )
        try:
            proposal = parse_proposal(rooms.blobs.get(found.proposed.document), mutable=rooms.config.mutable)
        except ProposalError as error:
            return self._reject(number, reject("malformed", str(error)))
        known = state.candidates()
        wanted = state.incumbent.digest if proposal.base == "incumbent" else proposal.base
        if wanted not in known:
            return self._reject(number, reject("unknown-base", f"{wanted} is not a candidate of this run"))
        base, _ = known[wanted]
        files = {
            path: content.decode("utf-8", "replace")
            for path, content in rooms.workshop.load_source(base.source).items()
        }
        try:
            schema = rooms.workshop.schema(base)
            start = start_of(proposal, base.digest, state.incumbent.digest)
            change = effective_change(base.recipe, files, proposal, schema=schema, start=start)
        except ProposalError as error:
            return self._reject(number, reject("invalid-recipe", str(error)))
        strange = next((source for source in (start.sources if start else ()) if source not in known), None)
        if strange is not None:
            return self._reject(number, reject("unknown-base", f"its start {strange} is not a candidate of this run"))
        if change.is_noop:
            unread = f"; no code reads {', '.join(change.unread)}" if change.unread else ""
            return self._reject(number, reject("no-op", f"recipe and source are the base's own{unread}"))
        recipe, new_files = successor(base.recipe, files, proposal)
        if not sound_recipe(recipe):
            return self._reject(number, reject("invalid-recipe", "the recipe is too large, or nested too deeply"))
        source = rooms.workshop.store_source({path: text.encode() for path, text in new_files.items()})
        twin = self._twin(number, recipe, source, change)
        if twin is not None:
            return self._reject(number, reject("duplicate", f"proposal {twin} of this epoch is the same candidate"))
        document = screen_document(
            state, rooms.config, found, proposal.kind, base.digest, proposal.rationale, change, new_files
        )
        judgement = rooms.judge.decide(rooms.policies, "screen", proposal.kind, document)
        asks = judgement.outcome == "hold" and self._holding.possible
        reasons = [] if asks else judged(judgement)
        screened = Screened(
            number=number,
            base=base.digest,
            recipe=recipe,
            source=source,
            change=rooms.blobs.put(canonical_bytes({"change": change.json_value(), "kind": proposal.kind})),
            document=rooms.blobs.put(canonical_bytes(document)),
            judgement=rooms.blobs.put(canonical_bytes(judgement.json_value())),
            outcome=judgement.outcome,
            failed=sorted({f"{v.policy}/{v.rule}" for v in judgement.verdicts if v.passed is not True}),
        )
        if reasons:
            self._journal.commit(
                screened,
                Decided(
                    number=number, decision=Decision(verdict="reject", reasons=reasons), judgement=screened.judgement
                ),
            )
        else:
            self._journal.commit(screened)
            if asks:
                self._holding.hold(number, "screen", judgement, screened.document, screened.judgement)
        return None

    def _answer(self, number: int) -> None:
        """Go on with a screen that asked for people: put on hold, waiting, answered."""
        rooms, found = self._rooms, self._of(number)
        screened = found.screened
        if screened is None or screened.outcome != "hold":
            return None
        if found.hold is None:  # cut between the two entries
            judgement = Judgement.parse(judged_document(rooms.blobs.get(screened.judgement)))
            return self._holding.hold(number, "screen", judgement, screened.document, screened.judgement)
        answer = self._holding.answer(number)
        if answer is None:
            return None
        if not isinstance(answer, Answered):
            return self._reject(number, answer)
        kept = rooms.blobs.put(canonical_bytes(answer.judgement.json_value()))
        shown = rooms.blobs.put(canonical_bytes(answer.document))
        if reasons := judged(answer.judgement, answered=True):
            decision = Decision(verdict="reject", reasons=reasons)
            return self._reject(number, decision, judgement=kept, document=shown)
        update = {"outcome": "pass", "judgement": kept, "document": shown, "failed": []}
        self._holding.go_on(number, screened.model_copy(update=update))
        return None

    def _twin(self, number: int, recipe: dict[str, Any], source: Digest, change: Change) -> int | None:
        """An earlier proposal of the same epoch that asks for the same recipe, source and start."""
        for other, found in self.state.proposals.items():
            earlier = other < number and found.epoch == self._of(number).epoch
            if earlier and found.screened and (found.screened.recipe, found.screened.source) == (recipe, source):
                _, theirs = change_of(self._rooms.blobs, found.screened.change)
                if theirs.start == change.start:
                    return other
        return None
