"""Facts about rows of programs and of what they gave: each has one form, and no bytes bring anything else than one error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import EvaluatorError, SubjectError
from harness.execution import ENDINGS, MAX_INPUTS, MAX_ROW, Execution, Ran, read_row, write_row

SPEC = Execution(output_kb=1)
RAN = st.lists(
    st.one_of(st.builds(Ran, st.just("ok"), st.binary(max_size=40)), st.builds(Ran, st.sampled_from(ENDINGS))),
    max_size=20,
)


@given(st.text(), st.lists(st.text(), min_size=1, max_size=MAX_INPUTS))
def test_a_row_comes_back_as_it_was(program, inputs):
    """A program and its inputs are read back equal, from a row whose size is a power of two."""
    row = write_row(program, inputs)
    assert read_row(row) == (program, inputs)
    assert len(row).bit_count() == 1


@given(st.binary(max_size=600), st.booleans())
def test_any_bytes_are_a_row_or_one_error(data, framed):
    """Bytes that are no row are one SubjectError; bytes that are one are what would be written."""
    row = len(data).to_bytes(4, "big") + data if framed else data
    try:
        found = read_row(row)
    except SubjectError:
        return
    assert write_row(*found) == row


@pytest.mark.parametrize(
    ("program", "inputs"),
    [("x", []), ("x", ["1"] * (MAX_INPUTS + 1)), ("x" * MAX_ROW, ["1"]), ("\ud800", ["1"]), ("x", ["\udfff"])],
)
def test_what_no_row_holds_is_refused(program, inputs):
    """No input, too many, too long a text and a lone surrogate are refused."""
    with pytest.raises(SubjectError):
        write_row(program, inputs)


@given(RAN)
def test_what_ran_comes_back_as_it_was(ran):
    """What became of a program's inputs is read back equal, from a row of the job's own width."""
    row = SPEC.pack(ran)
    assert len(row) == SPEC.width
    assert SPEC.unpack(row, len(ran)) == ran


@given(st.binary(max_size=80), st.integers(0, 8))
def test_any_row_of_answers_is_read_or_one_error(data, count):
    """A row of answers that `pack` does not write is one EvaluatorError."""
    row = np.zeros(SPEC.width, dtype=np.uint8)
    row[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    try:
        found = SPEC.unpack(row, count)
    except EvaluatorError:
        return
    assert SPEC.pack(found).tobytes() == row.tobytes()


@pytest.mark.parametrize("width", [0, SPEC.width - 1, SPEC.width + 1])
def test_a_row_of_another_width_is_refused(width):
    """A row of answers of another job's width is refused."""
    with pytest.raises(EvaluatorError):
        SPEC.unpack(np.zeros(width, dtype=np.uint8), 0 if width else 1)


def test_more_than_a_row_holds_is_refused():
    """Outputs beyond what the job allows are no row."""
    with pytest.raises(EvaluatorError):
        SPEC.pack([Ran("ok", b"x" * (SPEC.width + 1))])


@given(st.builds(Execution, call=st.sampled_from([None, "solve"]), seconds=st.integers(1, 600)))
def test_a_job_names_its_execution(spec):
    """A job is read back as the execution that it is of."""
    assert Execution.of(spec.job) == spec


@pytest.mark.parametrize("job", ["", "{", "[]", '{"job":"predict"}', '{"job":"attack"}', "1"])
def test_another_job_is_none(job):
    """Whatever is no job of this kind is left to others."""
    assert Execution.of(job) is None


@pytest.mark.parametrize(
    "more",
    ['"seconds":0', '"seconds":true', '"call":"a b"', '"call":"x()"', '"output_kb":2000', '"memory_mb":1', '"x":1'],
)
def test_a_malformed_job_is_one_error(more):
    """A job of this kind with limits that are none, or a call that is no name, is refused."""
    with pytest.raises(SubjectError, match="an execution's"):
        Execution.of(f'{{"job":"execute",{more}}}')
