"""Facts about what the evaluator says where the subject's own code fails it: one error, at its line, in a live process."""

from __future__ import annotations

import pytest
import rigs

from harness import evaluator
from harness.channel import Child
from harness.desk import EVALUATOR_SECONDS
from harness.evals.deadline import LateError
from harness.evals.inspect import SECONDS
from harness.refusing import MOST, answered

RIGHT = '    return right(labels, answers["smudged"])'
VAULT = "vault=Items(*draw(12_000, rng)),"
DRAWN = "from harness.evals import Generated"
MASKED = "np.ma.masked_array({}, mask=labels == 7)"
MISTAKES = {
    "exit in a scorer": (RIGHT, "    raise SystemExit(3)", "SystemExit: 3", 88),
    "interrupt in a scorer": (RIGHT, "    raise KeyboardInterrupt", "KeyboardInterrupt", 88),
    "exit in load": ("    rng = np", "    raise SystemExit('no data')\n    rng = np", "SystemExit: no data", 40),
    "exit at import": ("SIZE, RARE = 8", "raise SystemExit('no data')\nSIZE, RARE = 8", "SystemExit: no data", 23),
    "letters that are none": (RIGHT, "    raise ValueError('\\udcff')", r"ValueError: \udcff", 85),
    "a message without end": (RIGHT, "    raise ValueError('x' * 20_000_000)", "ValueError: xxxxx", 85),
    "an error that cannot be told": (
        RIGHT, "    raise type('E', (BaseException,), {'__str__': lambda s: 1 / 0})", "E: (an error that cannot be", 88,
    ),
    "scores of no shape": (RIGHT, "    return [[1.0], [1.0, 2.0]]", "'smudges' raised ValueError", 85),
    "masked scores": (RIGHT, f"    return {MASKED.format('np.ones(len(labels))')}", "gave a masked array", 85),
    "a mask that is masked": (
        "lambda labels: np.isin(labels, RARE)", f"lambda labels: {MASKED.format('labels > 6')}", "none of them masked", 79,
    ),
    "bounds of three": ('views=("smudged",))', 'views=("smudged",), bounds=(0, 1, 2))', "too many values", 85),
    "a generator that raises": (VAULT, "vault=Generated(12_000, lambda rng: 1 / 0),", "ZeroDivisionError", 45),
}  # fmt: skip


def described(subject, place):
    """What the evaluator of a subject, a process of its own, says when it is first asked, and is alive then."""
    child = Child(["-m", "harness.evaluator", str(subject)], name="evaluator", stderr=place / "stderr")
    try:
        answer = child.ask({"op": "describe"}, seconds=60)
        assert child.pid is not None
        return answer
    finally:
        child.close()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_guards_is_one_error_at_its_line(digits, tmp_path, mistake):
    """Whatever guards.py does wrong, the evaluator lives, and says what and where in bounded words."""
    old, new, said, line = MISTAKES[mistake]
    head = [(GLYPHS, f"{DRAWN}; {GLYPHS}")] if "Generated" in new else []
    answer = described(rigs.vary(digits, tmp_path / "subject", *head, (old, new), name="guards.py"), tmp_path)
    assert (answer["error"], answer["where"]) == ("SubjectError", f"guards.py:{line}")
    assert said in answer["message"]
    assert len(answer["message"]) <= MOST


GLYPHS = "GLYPHS = ["


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (VAULT, "vault=Generated(12_000, lambda rng: [1 for _ in iter(int, 1)]),", 45),
        (RIGHT, "    while True:\n        pass", 88),
    ],
)
def test_code_that_never_ends_is_told_by_its_line(digits, tmp_path, old, new, line):
    """A generator or a scorer that never ends is left before whoever asked gives up, and its line is named."""
    assert SECONDS < evaluator.SECONDS < EVALUATOR_SECONDS
    head = [(GLYPHS, f"{DRAWN}; {GLYPHS}")] if "Generated" in new else []
    subject = rigs.vary(digits, tmp_path / "subject", *head, (old, new), name="guards.py")
    answer = answered(lambda: evaluator.Evaluator(subject).describe(), subject, 2.0)
    assert answer["error"] == "SubjectError"
    assert answer["message"] == "the subject's own code did not end within 2 s"
    assert answer["where"].startswith("guards.py:")
    assert int(answer["where"].partition(":")[2]) in (line, line + 1)


def test_of_errors_that_come_together_the_one_that_was_late_is_told(digits):
    """A task that never ends beside others is told as one that never ended, however deep the group that it comes in."""

    def late():
        raise BaseExceptionGroup("all", [ValueError("a"), BaseExceptionGroup("some", [LateError("tasks.py:7")])])

    answer = answered(late, digits, 60.0)
    assert (answer["message"], answer["where"]) == ("the subject's own code did not end within 60 s", "tasks.py:7")


def test_a_mistake_of_the_harness_names_no_line_of_the_subject(digits):
    """An error that passed no file of the subject is told without a place."""
    assert answered(lambda: 1 / 0, digits, 60.0) == {
        "error": "SubjectError", "message": "ZeroDivisionError: division by zero", "where": None, "remedy": None
    }  # fmt: skip
