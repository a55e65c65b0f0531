"""Programs that a candidate writes: what an eval has a sandbox run, and what comes back of it, as rows of bytes.

A row is one program and the inputs that it is run on, each in a process of its own; the answer is how each ended, and
what it gave. What it should have given is neither in the row nor anywhere else in the sandbox: it stays in the
evaluator, which compares. So there is no verdict inside that a program could forge, and no expected value to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field

from harness.canonical import canonical_bytes, parse_json
from harness.errors import CanonicalError, EvaluatorError, SubjectError
from harness.jobs import JobSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

EXECUTE = "execute"
ROW, RAN = "row", "ran"
"""The tensor that is asked, uint8 [rows, bytes], and the one that is answered, uint8 [rows, `Execution.width`]."""

MAX_INPUTS = 64
MAX_ROW = 1 << 20
"""Inputs of one program, and bytes of a program with its inputs."""
_LEAST_ROW = 256

Ended = Literal["ok", "failed", "time", "memory", "output", "crashed", "unrun"]
"""How a program ended on an input: with status 0; otherwise by itself; beyond its time, memory or output; in a sandbox
that it brought down; or not begun, because one before it took too long."""
ENDINGS: tuple[Ended, ...] = get_args(Ended)


@dataclass(frozen=True)
class Ran:
    """How a program ended on one input, and what it gave: nothing unless it ended `ok`."""

    ended: Ended
    output: bytes = b""


class Execution(JobSpec):
    """How programs are run: Python, with the standard library, in a fresh sandbox for each program.

    call: the function that is called with an input's arguments, of which the result is the output; None for a whole
    script, which reads its input and prints. seconds: of CPU on one input (by the clock three times as many, and one).
    memory_mb: of all its processes together. output_kb: of what it gives to all its inputs together.
    """

    KIND = EXECUTE
    WHAT = "an execution"

    call: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")] | None = None
    seconds: Annotated[int, Field(ge=1, le=600)] = 2
    memory_mb: Annotated[int, Field(ge=16, le=1 << 16)] = 256
    output_kb: Annotated[int, Field(ge=1, le=1024)] = 4

    @property
    def clock(self) -> float:
        """Seconds by the clock that one input may take: a loaded machine is not the program's fault."""
        return 3.0 * self.seconds + 1.0

    @property
    def width(self) -> int:
        """Bytes of one row of answers: a byte and four of length for each input, and the outputs."""
        return MAX_INPUTS * 5 + (self.output_kb << 10)

    def pack(self, ran: Sequence[Ran]) -> npt.NDArray[np.uint8]:
        """Write what became of one program's inputs as a row of answers. EvaluatorError for more than one can hold."""
        import numpy as np

        parts = [bytes([ENDINGS.index(each.ended)]) + len(each.output).to_bytes(4, "big") + each.output for each in ran]
        whole = b"".join(parts)
        if len(whole) > self.width or len(ran) > MAX_INPUTS:
            raise EvaluatorError(f"{len(ran)} outputs of {len(whole)} bytes are more than a row holds")
        row = np.zeros(self.width, dtype=np.uint8)
        row[: len(whole)] = np.frombuffer(whole, dtype=np.uint8)
        return row

    def unpack(self, row: npt.NDArray[np.uint8], count: int) -> list[Ran]:
        """Read what became of so many inputs. EvaluatorError for a row that `pack` does not write."""
        data, found, at = row.tobytes(), [], 0
        for _ in range(count):
            kind, length = data[at : at + 1], int.from_bytes(data[at + 1 : at + 5], "big")
            output = data[at + 5 : at + 5 + length]
            at += 5 + length
            if at > len(data) or kind[0] >= len(ENDINGS) or (length and ENDINGS[kind[0]] != "ok"):
                raise EvaluatorError("a row of what a program gave is malformed")
            found.append(Ran(ENDINGS[kind[0]], output))
        if len(data) != self.width or any(data[at:]):
            raise EvaluatorError("a row of what a program gave is malformed")
        return found


def write_row(program: str, inputs: Sequence[str]) -> bytes:
    """A program and its inputs as one row: length, JSON, zeros up to a power of two of bytes.

    SubjectError for what no row can hold: no input, too many, or text beyond MAX_ROW or not of Unicode.
    """
    if not 0 < len(inputs) <= MAX_INPUTS:
        raise SubjectError(f"a program is run on 1 to {MAX_INPUTS} inputs, not on {len(inputs)}", where="guards.py")
    try:
        text = canonical_bytes({"inputs": list(inputs), "program": program})
    except CanonicalError as error:
        raise SubjectError(f"a program or its inputs: {error.message}", where="guards.py") from error
    if len(text) + 4 > MAX_ROW:
        raise SubjectError(f"a program and its inputs of {len(text)} bytes, beyond {MAX_ROW - 4}", where="guards.py")
    width = max(_LEAST_ROW, 1 << (len(text) + 3).bit_length())
    return (len(text).to_bytes(4, "big") + text).ljust(width, b"\0")


def read_row(row: bytes) -> tuple[str, list[str]]:
    """The program and the inputs of a row. SubjectError for one that `write_row` does not write."""
    length = int.from_bytes(row[:4], "big")
    try:
        value = parse_json(row[4 : 4 + length], max_bytes=MAX_ROW)
    except CanonicalError as error:
        raise SubjectError(f"a program's row is malformed: {error.message}", where="guards.py") from error
    program, inputs = (value.get("program"), value.get("inputs")) if isinstance(value, dict) else (None, None)
    if not isinstance(program, str) or not isinstance(inputs, list):
        raise SubjectError("a program's row is malformed", where="guards.py")
    texts = [each for each in inputs if isinstance(each, str)]
    if len(texts) != len(inputs) or write_row(program, texts) != row:
        raise SubjectError("a program's row is malformed", where="guards.py")
    return program, texts
