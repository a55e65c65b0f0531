"""Group commit: calls that arrive while one is being made durable share the next one.

The first in the queue waits for the lock and then writes all that waits by then; the others wait for it. So a lone
caller waits for nobody, and there is no thread, no timer and no delay. Whoever holds the lock already writes at once,
its own first: nothing comes between what it has seen and what it commits. A write that fails, fails for every call of
its group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from harness.errors import AuditError

__all__ = ["Call", "GroupCommit"]

T = TypeVar("T")


@dataclass(eq=False)
class Call(Generic[T]):
    """What one caller commits, and what became of it: the index of its first entry, or an error."""

    item: T
    first: int | None = None
    error: BaseException | None = None
    told: threading.Event = field(default_factory=threading.Event)

    @property
    def settled(self) -> bool:
        """Whether it is known what became of it."""
        return self.first is not None or self.error is not None


class GroupCommit(Generic[T]):
    """One writer at a time, for all who wait."""

    def __init__(self, lock: threading.Lock | threading.RLock, write: Callable[[Sequence[Call[T]]], None]) -> None:
        """Call `write` under `lock` with the calls of a group; it settles each, or raises for all of them."""
        self._lock = lock
        self._write = write
        self._mutex = threading.Lock()  # held for an instant; `lock` for as long as the disk takes
        self._waiting: list[Call[T]] = []

    def commit(self, item: T) -> int:
        """Return the index of the item's first entry, once it is written; raises what `write` raises, or sets for it.

        AuditError where a write that another caller led, and that carried this item, failed.
        """
        mine = Call(item)
        try:
            with self._mutex:
                self._waiting.append(mine)
                first = self._waiting[0] is mine
            held = self._lock.acquire(blocking=first)  # who holds it already has it again
            if not held:
                mine.told.wait()
                held = not mine.settled and self._lock.acquire()
            if held:
                try:
                    if not mine.settled:
                        self._lead(mine)
                finally:
                    self._lock.release()
        except BaseException:
            self._leave(mine)
            raise
        if mine.error is not None:
            raise mine.error
        if mine.first is None:
            raise AuditError("the commit was left unsettled")
        return mine.first

    def _lead(self, mine: Call[T]) -> None:
        with self._mutex:
            group = [mine, *(call for call in self._waiting if call is not mine)]
            self._waiting = []
        try:
            self._write(group)
        except BaseException as error:
            for call in group[1:]:
                call.error = AuditError(f"not committed, for its group was not: {error or type(error).__name__}")
                call.error.__cause__ = error
            raise
        finally:
            for call in group[1:]:
                call.told.set()

    def _leave(self, mine: Call[T]) -> None:
        """Interrupted before its turn: nobody is to write it later, and the next one waits for the lock instead."""
        with self._mutex:
            self._waiting = [call for call in self._waiting if call is not mine]
            if self._waiting:
                self._waiting[0].told.set()
