"""Authorise, intend, rename, log the outcome, watch; roll back; and recover, by the very same steps."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

from harness.canonical import digest
from harness.cosigning import Cosigning
from harness.desk import Desk, Halt, Rooms, finished
from harness.entries import Authorised, Halted, Intended, Promoted, RolledBack, Voided, Watched
from harness.envelope import unseal
from harness.errors import AuditError, PromotionError, StateError
from harness.live import REPAIR, check_version, forget_unused, live_version, stage, swap, sync
from harness.records import Candidate
from harness.workshop import Failure

AUTHORISATION_LIFE = timedelta(hours=1)
EPOCH_ENDED = "a rollback ended the epoch of its test"


def _deadline(authorised: Authorised) -> str:
    return (
        f"proposal {authorised.number} is authorised until {authorised.expires}: resumed after that, it is voided, "
        "for an authorisation expires"
    )


class Promotion(Desk):
    """The live model's side of the supervisor."""

    def __init__(self, rooms: Rooms) -> None:
        """Work with these rooms, and with the witnesses that the configuration names."""
        super().__init__(rooms)
        self._witnesses = Cosigning(rooms.journal, rooms.folder)

    def promote(self, number: int) -> None:
        """Authorise, stage, check as an outsider would, intend, rename, log the outcome, smoke-test."""
        rooms = self._rooms
        self._check_halt()
        found = self._of(number)
        if found.built is None or found.measured is None or found.outcome is not None:
            return None
        candidate, guard = found.built.candidate, self.state.guarding
        index = found.authorisation
        if index is not None and (why := self._why_void(self.state.authorised[index])) is not None:
            return self._void(number, why)  # no witness is needed for that
        # Before the authorisation, which has an hour to live, and again for the head that covers it (FORMAT §10.3).
        self._need_witnesses(None if index is None else self.state.authorised[index])
        if index is None:
            if found.staked is None or found.staked.epoch != self.state.epoch:
                # Halted between the decision and the authorisation, and rolled back meanwhile.
                return self._void(number, EPOCH_ENDED)
            permission = Authorised(
                number=number,
                version=len(self.state.versions),
                incumbent=self.state.incumbent.digest,
                candidate=candidate.digest,
                weights=candidate.weights,
                guard=guard.guard,
                policies=guard.policies,
                evidence=found.measured.evidence,
                approvals=found.approvals,
                nonce=secrets.token_hex(16),
                expires=(datetime.now(UTC) + AUTHORISATION_LIFE).isoformat(timespec="seconds"),
            )
            with self._journal.lock:  # a halt comes before it or after it, never in between
                self._check_halt()
                index = self._journal.commit(permission)
            self._need_witnesses(self.state.authorised[index])
        authorised = self.state.authorised[index]
        envelope = self._journal.raw(index)
        # As an outsider would: the signature over the very bytes, then what they say against what is there.
        if unseal(envelope, self._journal.verifier).body != authorised.json_value():
            raise PromotionError("the authorisation in the log is not the one in hand", where=f"entry {index}")
        why = self._why_void(authorised)
        if why is None:
            stage(rooms.folder.root, authorised.version, candidate, rooms.blobs, envelope, self._journal.prove(index))
        intent = Intended(
            action="promote",
            version=authorised.version,
            candidate=candidate.digest,
            authorisation=index,
            by="supervisor",
            reason="",
        )
        with self._journal.lock:
            why = why or self._why_void(authorised)
            if why is None:
                self._journal.commit(intent)
        if why is not None:
            return self._void(number, why)
        return self._finish_promotion()

    def _need_witnesses(self, authorised: Authorised | None) -> None:
        """Go on when the quorum has cosigned; halt the run where it has not: nothing goes live, and `resume` goes on.

        An authorisation that was given already keeps its hour, and the halt says until when: after it, the candidate is
        voided.
        """
        try:
            self._witnesses.require()
        except AuditError as error:
            deadline = "" if authorised is None else f"{_deadline(authorised)}; "
            with self._journal.lock:
                if not self.state.halted:
                    self._journal.commit(Halted(by="supervisor", reason=f"{deadline}{error}"[:1000]))
            raise Halt from error

    def _why_void(self, authorised: Authorised) -> str | None:
        """Why an authorisation may not be used any more; None where it may."""
        if self._halting():
            return "the run was halted between the authorisation and the swap"
        staked = self._of(authorised.number).staked
        if staked is None or staked.epoch != self.state.epoch:
            return EPOCH_ENDED
        if authorised.incumbent != self.state.incumbent.digest:
            return "the incumbent has moved since"
        if datetime.now(UTC) >= datetime.fromisoformat(authorised.expires):
            return f"the authorisation has expired: it was good until {authorised.expires}"
        return None

    def _finish_promotion(self) -> None:
        """From an open intent to its outcome: also what recovery calls."""
        rooms, intent = self._rooms, self.state.intent
        if intent is None or intent.authorisation is None:
            return None
        authorised = self.state.authorised[intent.authorisation]
        built = self._of(authorised.number).built
        if built is None:
            raise StateError("an intent without a candidate")
        why = self._damage(intent.version, built.candidate)
        if live_version(rooms.folder.root) != intent.version:
            with self._journal.lock:  # a halt that is logged before the swap prevents it
                why = why or self._why_void(authorised)
                if why is None:
                    swap(rooms.folder.root, intent.version)
            if why is not None:
                return self._void(authorised.number, why)
        elif why is not None:  # cut after the rename, and somebody changed the folder since: back to what is sound
            check_version(rooms.folder.root, self.state.live, self.state.incumbent)
            swap(rooms.folder.root, self.state.live)
            return self._void(authorised.number, why)
        # Where recovery found the link moved already, its rename may not be durable yet.
        sync(rooms.folder.root)
        self._journal.commit(Promoted(number=authorised.number, version=intent.version, candidate=intent.candidate))
        self._close_test(authorised.number, promoted=True)
        return self._watch()

    def _damage(self, version: int, candidate: Candidate) -> str | None:
        """Why a staged folder cannot go live; None where it is what was authorised."""
        try:
            check_version(self._rooms.folder.root, version, candidate)
        except PromotionError as error:
            return error.message
        return None

    def _void(self, number: int, why: str) -> None:
        """An authorisation comes to nothing: for good, since each is used at most once."""
        self._journal.commit(Voided(number=number, reason=why))
        forget_unused(self._rooms.folder.root, self.state.versions)
        self._close_test(number, promoted=False)

    def _watch(self) -> None:
        """Smoke test: the live folder must give the very answers that were measured, or the last version comes back."""
        rooms, state = self._rooms, self.state
        if state.unwatched:
            live = state.incumbent
            expected = self.state.development_answers(live.digest)
            folder = rooms.folder.models / str(state.live)
            answered = rooms.workshop.predict(live, rooms.development.inputs, rooms.development.rows, folder=folder)
            answers = None if isinstance(answered, Failure) else answered.answers
            watched = Watched(
                version=state.live,
                candidate=live.digest,
                expected=expected or digest(b""),
                answers=answers,
                ok=answers is not None and answers == expected,
            )
            self._journal.commit(watched)
        if self.state.failed_watch:
            reason = "the live model did not give the answers that were measured"
            self.rollback(self.state.replaced[self.state.live], by="supervisor", reason=reason)

    def show_witnesses(self) -> str | None:
        """Show the present head to the witnesses, as a courtesy to readers; returns why there is no quorum."""
        return self._witnesses.show()

    def rollback(self, version: int, *, by: str, reason: str) -> None:
        """Make an earlier version live again, bit-identical. Ends the epoch. PromotionError where it cannot be."""
        rooms = self._rooms
        target = self.state.versions.get(version)
        if target is None:
            raise PromotionError(f"version {version} was never live", remedy="`lockgate status` lists the versions")
        if version == self.state.live:
            raise PromotionError(f"version {version} is live already", remedy="`lockgate status` lists the versions")
        check_version(rooms.folder.root, version, target)
        self._journal.commit(
            Intended(action="rollback", version=version, candidate=target.digest, by=by, reason=reason)
        )
        self._finish_rollback()

    def _finish_rollback(self) -> None:
        rooms, intent = self._rooms, self.state.intent
        if intent is None:
            return
        check_version(rooms.folder.root, intent.version, self.state.versions[intent.version])
        if live_version(rooms.folder.root) != intent.version:
            swap(rooms.folder.root, intent.version)
        sync(rooms.folder.root)
        self._journal.commit(
            RolledBack(version=intent.version, candidate=intent.candidate, by=intent.by, reason=intent.reason)
        )
        self._end_epoch()

    def recover(self) -> None:
        """Bring disk, vault and log into step after any crash, by the same steps as in normal work.

        PromotionError where the live model is not the one that the log names: somebody else touched it.
        """
        rooms, state = self._rooms, self.state
        if state.intent is not None:
            if state.intent.action == "promote":
                self._finish_promotion()
            else:
                self._finish_rollback()
        elif live_version(rooms.folder.root) is None and not state.promotions:
            # Killed between genesis, which authorises the baseline, and its first swap.
            self._witnesses.require()
            envelope = self._journal.raw(0)
            stage(rooms.folder.root, 0, state.baseline, rooms.blobs, envelope, self._journal.prove(0))
            swap(rooms.folder.root, 0)
        live = live_version(rooms.folder.root)
        if live != self.state.live:
            named = "no version" if live is None else f"version {live}"
            raise PromotionError(
                f"{named} is live, but the log says version {self.state.live}",
                where=str(rooms.folder.root / "current"),
                remedy=REPAIR,
            )
        check_version(rooms.folder.root, self.state.live, self.state.incumbent)
        forget_unused(rooms.folder.root, self.state.versions)
        self._reconcile_vault()
        self._watch()

    def _reconcile_vault(self) -> None:
        """Close what the vault's ledger still holds open although the run's log says how it ended."""
        rooms = self._rooms
        if self.state.ended is not None:
            self._end_epoch()
        pending = rooms.vault.state.pending
        if pending is None or not pending.key.startswith(f"{self._origin()}/"):
            return
        number = int(pending.key.rpartition("/")[2])
        found = self.state.proposals.get(number)
        if found is None:
            return
        if found.staked is None and found.developed is not None and found.decision is None:
            self._enter_stake(number)
        elif found.staked is not None and finished(found):
            self._close_test(number, promoted=found.outcome == "promoted")
