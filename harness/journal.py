"""The log and the state it folds to, kept in step: the only way in which a run's state changes.

`commit` folds first (an illegal entry never reaches the disk), signs, appends durably, and
only then shows the new state. Entries given together are one group under one tree head, and so are those of
threads that commit at the same time. Whoever holds `lock` sees no entry come between what they look at and what
they commit.
`follow` is the same for readers: every entry verified, folded and handed on, none kept. `verify` folds the order alone,
without the record, so that what it holds does not grow with the log; and it can go on from where it ended before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic

from harness.auditlog import AuditLog, LogReader
from harness.entries import Entry, KeyRotated
from harness.envelope import seal, unseal
from harness.errors import AuditError, StoppingError
from harness.group_commit import Call, GroupCommit
from harness.keys import Signer, Verifier
from harness.kinds import kind_of, read_entry, subjects_of
from harness.legality import advance
from harness.notes import open_note
from harness.order import Order, Some
from harness.state import RunState, fold

Listener = Callable[[int, Entry], None]


def now() -> str:
    """The wall clock, ISO 8601 in UTC; decisions read it from entries alone."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Journal:
    """One run's log, open for writing, and the state of the moment."""

    def __init__(
        self,
        log: AuditLog,
        signer: Signer,
        listener: Listener | None = None,
        release: Callable[[], None] = lambda: None,
        *,
        chain: Sequence[Verifier] = (),
    ) -> None:
        """Fold what the log holds already; `release` is called when the journal is closed.

        `chain` is the log's keys, the oldest first, where there was more than the signer's.
        AuditError or StateError where the log does not hold together.
        """
        self._log = log
        self._signer = signer
        self._listener = listener
        self._release = release
        self.lock = threading.RLock()
        self._commits = GroupCommit[list[Entry]](self.lock, self._write)
        self._frozen = False
        self.state = RunState(keys=(chain[0] if chain else signer.verifier,))
        for step in _steps(log.read(), self.state, fold):
            self.state = step.state
        if self.state.keys[-1] != signer.verifier:
            raise AuditError("the signing key is not the one in force", remedy="restore the newer key", clause="§5.4")

    @property
    def verifier(self) -> Verifier:
        """The key in force."""
        return self._signer.verifier

    @property
    def log(self) -> AuditLog:
        """The log itself, for proofs and cosignatures."""
        return self._log

    def commit(self, *entries: Entry) -> int:
        """Append entries as one group; returns the index of the first. Nothing changes where it raises."""
        if not entries:
            raise AuditError("an empty group")
        stamped = [entry.model_copy(update={"time": now()}) for entry in entries]
        return self._tell(self._commits.commit(stamped), stamped)

    def _write(self, calls: Sequence[Call[list[Entry]]]) -> None:
        """Append what these callers commit as one group; an entry that is illegal costs its own caller alone."""
        state, legal, sealed = self.state, list[tuple[Call[list[Entry]], int]](), list[bytes]()
        for call in calls:
            try:
                legal.append((call, state.size))
                state, raw = self._sealed(state, call.item, self._signer)
            except Exception as error:  # noqa: BLE001 - it is raised where it belongs
                legal.pop()
                call.error = error
            else:
                sealed += raw
        if legal:
            self._log.append(sealed)
            self.state = state
        for call, first in legal:
            call.first = first

    def _sealed(self, state: RunState, stamped: Sequence[Entry], *signers: Signer) -> tuple[RunState, list[bytes]]:
        """The state after these entries, and what is to be appended; StateError, StoppingError."""
        if self._frozen:
            raise StoppingError("the supervisor is ending: what is under way will be done again")
        for entry in stamped:
            state = fold(state, state.size, entry)
        return state, [seal(kind_of(e), e.json_value(), subjects_of(e), *signers) for e in stamped]

    def _tell(self, first: int, stamped: Sequence[Entry]) -> int:
        if self._listener is not None:
            for offset, entry in enumerate(stamped):
                self._listener(first + offset, entry)
        return first

    def rotate(self, successor: Signer, reason: str) -> int:
        """Let another key sign from here on: one entry that both sign. The old key signs nothing after it."""
        entry = KeyRotated(old=self.verifier.vkey, new=successor.verifier.vkey, reason=reason, time=now())
        with self.lock:  # a group of its own: what follows is signed by the new key
            first = self.state.size
            state, raw = self._sealed(self.state, [entry], self._signer, successor)
            self._log.sign_with(successor)  # the head over a rotation is by the new key (FORMAT §3.2)
            self._signer = successor
            self._log.append(raw)
            self.state = state
        return self._tell(first, [entry])

    def raw(self, index: int) -> bytes:
        """The exact bytes of one entry."""
        with self.lock:
            return next(iter(self._log.read(index, index + 1)))

    def prove(self, index: int) -> bytes:
        """A tlog-proof of one entry under the present head, as bytes."""
        with self.lock:
            return self._log.prove(index).encode()

    def freeze(self) -> None:
        """Let nothing more be committed: what a room that is being closed does must not become an entry."""
        with self.lock:
            self._frozen = True

    def close(self) -> None:
        """Release the log."""
        with self.lock:
            self._log.close()
            self._release()


@dataclass(frozen=True, slots=True)
class Step(Generic[Some]):
    """One entry as a reader meets it, verified and legal; `state` is the one after it."""

    index: int
    raw: bytes
    entry: Entry
    signer: Verifier
    state: Some


def follow(log: Path | LogReader, chain: Verifier | Sequence[Verifier]) -> Iterator[Step[RunState]]:
    """Verify and fold a run's log, an entry at a time. AuditError, StateError, with entry and clause.

    `chain` is the log's keys, the oldest first (FORMAT §2.2); those that the log never puts in force are ignored.
    """
    keys = (chain,) if isinstance(chain, Verifier) else tuple(chain)
    reader = log if isinstance(log, LogReader) else LogReader.open(log, keys)
    return _checked(reader, keys, RunState(keys=keys[:1]), fold)


def verify(reader: LogReader, chain: Sequence[Verifier], since: Order | None = None) -> Iterator[Step[Order]]:
    """The same for whoever keeps no record: what is held of the log is its order. AuditError, StateError.

    `since` is the order of the log's first entries, as an earlier verification left it: they are not read again.
    """
    keys = tuple(chain)
    return _checked(reader, keys, Order(keys=keys[:1]) if since is None else since, advance)


def _checked(
    reader: LogReader, keys: tuple[Verifier, ...], state: Some, fold: Callable[[Some, int, Entry], Some]
) -> Iterator[Step[Some]]:
    for step in _steps(reader.read(state.size), state, fold):
        state = step.state
        yield step
    if state.keys != keys[: len(state.keys)]:
        raise AuditError("the keys beside the log are not those that it proves", clause="§2.2")
    if state.keys[-1] not in open_note(reader.head, keys)[1]:
        raise AuditError("the tree head is not signed by the key in force", clause="§3.2")
    if state.keys[-1].name != reader.origin:
        raise AuditError("the key is not the log's: another name", clause="§3.2")


def _steps(entries: Iterator[bytes], state: Some, fold: Callable[[Some, int, Entry], Some]) -> Iterator[Step[Some]]:
    for index, raw in enumerate(entries, state.size):
        signer = state.keys[-1]
        try:
            sealed = unseal(raw, signer)
            entry = read_entry(sealed.kind, sealed.body, index)
            if list(sealed.subjects.items()) != list(subjects_of(entry).items()):  # their order counts, too
                raise AuditError("the subjects are not those of its body", clause="§5.8")  # noqa: TRY301 - one way out
            state = fold(state, index, entry)
        except AuditError as error:
            raise AuditError(error.message, where=f"entry {index}", clause=error.clause, remedy=error.remedy) from error
        yield Step(index, raw, entry, signer, state)


def read_run(log: Path, chain: Verifier | Sequence[Verifier]) -> tuple[RunState, list[Entry]]:
    """Fold a run's log without its supervisor: for status, pages and replay. AuditError, StateError."""
    state, entries = RunState(), list[Entry]()
    for step in follow(log, chain):
        state = step.state
        entries.append(step.entry)
    return state, entries
