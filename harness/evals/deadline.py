"""Code of a subject that never ends is left, and the line named that it was at."""

from __future__ import annotations

import signal
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class LateError(BaseException):
    """Time is up; the argument says where it was. It passes through `except Exception`."""


@contextmanager
def deadline(seconds: float, place: Callable[[types.FrameType | None], str | None]) -> Iterator[None]:
    """Raise LateError after so many seconds, with what `place` says of the innermost frame.

    In the main thread; in any other it is left to the deadline of whoever asked. Deadlines nest: an outer one stands
    still meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    found: str | None = None

    def late(_signal: int, frame: types.FrameType | None) -> None:
        nonlocal found
        found = found or place(frame)  # later on it may be caught while others clean up
        raise LateError(found)

    before = signal.signal(signal.SIGALRM, late)
    # Again after a second, should a bare `except` have swallowed it.
    left = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
