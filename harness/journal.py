"""The log and the state it folds to, kept in step: the only way in which a run's state changes.

`commit` folds first (an illegal entry never reaches the disk), signs, appends durably, and
only then shows the new state. Entries given together are one group under one tree head.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from harness.auditlog import AuditLog, LogReader
from harness.entries import Entry, kind_of, read_entry
from harness.envelope import seal, unseal
from harness.errors import StoppingError
from harness.keys import Signer, Verifier
from harness.state import RunState, fold

Listener = Callable[[int, Entry], None]


def now() -> str:
    """The wall clock, ISO 8601 in UTC; no decision reads it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Journal:
    """One run's log, open for writing, and the state of the moment."""

    def __init__(
        self,
        log: AuditLog,
        signer: Signer,
        listener: Listener | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Fold what the log holds already; `release` is called when the journal is closed.

        AuditError or StateError where the log does not hold together.
        """
        self._log = log
        self._signer = signer
        self._listener = listener
        self._release = release
        self.lock = threading.RLock()
        self._frozen = False
        self.state = RunState()
        for index, raw in enumerate(log.read()):
            self.state = _folded(self.state, index, raw, signer.verifier)

    def commit(self, *entries: Entry) -> int:
        """Append entries as one group; returns the index of the first. Nothing changes where it raises."""
        with self.lock:
            if self._frozen:
                raise StoppingError("the supervisor is ending: what is under way will be done again")
            stamped = [entry.model_copy(update={"time": now()}) for entry in entries]
            state, first = self.state, self.state.size
            for offset, entry in enumerate(stamped):
                state = fold(state, first + offset, entry)
            self._log.append([seal(kind_of(e), e.json_value(), _subjects(e), self._signer) for e in stamped])
            self.state = state
        if self._listener is not None:
            for offset, entry in enumerate(stamped):
                self._listener(first + offset, entry)
        return first

    def raw(self, index: int) -> bytes:
        """The exact bytes of one entry."""
        with self.lock:
            return next(iter(self._log.read(index, index + 1)))

    def freeze(self) -> None:
        """Let nothing more be committed: what a room that is being closed does must not become an entry."""
        with self.lock:
            self._frozen = True

    def close(self) -> None:
        """Release the log."""
        with self.lock:
            self._log.close()
            self._release()


def read_run(log: Path, verifier: Verifier) -> tuple[RunState, list[Entry]]:
    """Fold a run's log without its supervisor: for status, pages and audits. AuditError, StateError."""
    state, entries = RunState(), []
    for index, raw in enumerate(LogReader.open(log, verifier).read()):
        sealed = unseal(raw, verifier)
        entry = read_entry(sealed.kind, sealed.body, index)
        state = fold(state, index, entry)
        entries.append(entry)
    return state, entries


def _folded(state: RunState, index: int, raw: bytes, verifier: Verifier) -> RunState:
    sealed = unseal(raw, verifier)
    return fold(state, index, read_entry(sealed.kind, sealed.body, index))


def _subjects(entry: Entry) -> dict[str, str]:
    """What an entry is about, by digest: the subject of its in-toto Statement."""
    for name in ("candidate", "baseline", "document", "guard"):
        value = getattr(entry, name, None)
        if isinstance(value, str):
            return {name: value}
        if value is not None:
            return {name: value.digest}
    return {}  # the entry is about its own body
