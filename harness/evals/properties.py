"""Properties: what must hold of a model's behaviour on every input, searched for a counterexample.

    from harness.evals.properties import holds, invariance

    @invariance("padding", cases=lambda items: strategies.sampled_from(items.raw))
    def padding(case):
        return show(case), show(case + " ")

`cases` gives a strategy of Hypothesis: called with the development items where it takes an argument, and without where
it takes none, in the evaluator and not before. `holds` is the general form, `def check(ask, case)`; the others are
made of it. Each names a function of `guards.py`.

How it is searched. The cases drawn hang on the property's name alone. All of them are put to a candidate in one job,
and judged. Where one fails, Hypothesis shrinks it, a question at a time, until its budget is spent. What is found is
kept, and put to every candidate of later generations before anything else.

What it says. A property is *refuted* by a case that anybody can put to the model again. *Held* says that no
counterexample was found in so many cases: it is evidence of failure that is sought, and its absence is no proof. Where
a share x of what the strategy draws fails, n cases miss it with a probability of about (1-x)^(n/2) at most.

A check is run again from its start whenever answers came in. It must hang on the case and the answers alone.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, TypeAlias

import numpy as np

from harness.errors import SubjectError
from harness.evals.inquiry import ALONE, ANSWERS, PREDICT
from harness.evals.items import MAIN, Array, Inputs
from harness.evals.questions import Questions
from harness.evals.tagging import checked_name, declare, declared, where_of

__all__ = [
    "Property",
    "batch_single",
    "bounded",
    "equivariance",
    "finite",
    "holds",
    "invariance",
    "monotone",
]

MOST_TRIES, MOST_SHRINKS = 5000, 200

Said: TypeAlias = bool | str
"""What a check says of a case: true where the property holds; false, or words that tell what is wrong."""
Check = Callable[[Questions, Any], Said]
Read = Callable[[Array], Array]
"""What of the answers [rows, *output] a property is about."""


@dataclass(frozen=True)
class Property:
    """A property and the budget of its search."""

    name: str
    check: Check
    cases: Callable[..., Any]
    tries: int
    shrinks: int
    of: str
    """The population whose development items `cases` is given."""
    refusal: bool
    """Whether an input to which the worker has no sound answer refutes it."""
    function: Callable[..., Any]

    @property
    def where(self) -> str:
        """`guards.py:LINE`."""
        return where_of(self.function)

    @property
    def seed(self) -> int:
        """From which cases are drawn: the property's own, so that another candidate meets the same ones."""
        return int.from_bytes(hashlib.sha256(f"property {self.name}".encode()).digest()[:8], "big")


def holds(
    name: str, *, cases: Callable[..., Any], tries: int = 100, shrinks: int = 40, of: str = MAIN
) -> Callable[[Any], Any]:
    """Tag `def check(ask, case) -> bool` as the property of this name: true where it holds of the case.

    `ask(inputs)` gives the candidate's answers, [rows, *output] float32; `ask.together(one, two, …)` a list of them,
    in one job. A check may return words instead of false. Anything else that it returns, and any exception, is an error
    of `guards.py` and no counterexample. `tries`: how many cases are drawn; `shrinks`: how many more are put to a
    candidate to make the one that failed simpler. Raises SubjectError for a name or a budget that is none.
    """

    def tag(check: Any) -> Any:
        return _tagged(check, check, name, cases, tries, shrinks, of)

    return tag


def invariance(
    name: str, *, cases: Callable[..., Any], within: float = 1e-4, read: Read | None = None, **budget: Any
) -> Callable[[Any], Any]:
    """Tag `def pair(case) -> (inputs, inputs)`: two ways to show a case, to which the answers are the same.

    They may differ by `within` in each number; `read` takes of the answers what is compared (`lambda a: a.argmax(1)`).
    """

    def check(pair: Any, ask: Questions, case: Any) -> Said:
        one, two = _two(pair(case))
        return _same(within, *map(_reading(read), ask.together(one, two)))

    return _made(check, name, cases, budget)


def equivariance(
    name: str, *, cases: Callable[..., Any], within: float = 1e-4, read: Read | None = None, **budget: Any
) -> Callable[[Any], Any]:
    """Tag `def pair(case) -> (inputs, changed inputs, change)`: the answers change as `change(answers)` says."""

    def check(pair: Any, ask: Questions, case: Any) -> Said:
        shown = pair(case)
        if not isinstance(shown, tuple) or len(shown) != 3 or not callable(shown[2]):
            raise SubjectError("two inputs and a function of the answers to the first are wanted")
        one, two = ask.together(shown[0], shown[1])
        return _same(within, *map(_reading(read), (np.asarray(shown[2](one)), two)))

    return _made(check, name, cases, budget)


def monotone(
    name: str,
    *,
    cases: Callable[..., Any],
    direction: Literal["rises", "falls"] = "rises",
    read: Read | None = None,
    slack: float = 0.0,
    **budget: Any,
) -> Callable[[Any], Any]:
    """Tag `def pair(case) -> (inputs, inputs)`: where a feature is greater in the second, so is the answer, or equal.

    `direction="falls"` says that it is smaller. `read` takes the number that is meant (`lambda a: a[:, 1]`); rounding
    is let through by `slack`.
    """
    if direction not in ("rises", "falls"):
        raise SubjectError(f"property {name!r}: a direction is 'rises' or 'falls', not {direction!r}")
    sign = 1.0 if direction == "rises" else -1.0

    def check(pair: Any, ask: Questions, case: Any) -> Said:
        low, high = map(_reading(read), ask.together(*_two(pair(case))))
        gain = sign * (high.astype(np.float64) - low.astype(np.float64))
        if (gain >= -slack).all():
            return True
        return f"the answer moves by {sign * float(gain.min()):.6g}, where it {direction} or stays"

    return _made(check, name, cases, budget)


def bounded(
    name: str, low: float, high: float, *, cases: Callable[..., Any], read: Read | None = None, **budget: Any
) -> Callable[[Any], Any]:
    """Tag `def show(case) -> inputs`: every number of the answers is from `low` to `high`."""

    def check(show: Any, ask: Questions, case: Any) -> Said:
        answers = _reading(read)(ask(show(case)))
        if ((answers >= low) & (answers <= high)).all():
            return True
        return f"the answers go from {float(answers.min()):.6g} to {float(answers.max()):.6g}, not {low:g} to {high:g}"

    return _made(check, name, cases, budget)


def finite(name: str, *, cases: Callable[..., Any], **budget: Any) -> Callable[[Any], Any]:
    """Tag `def show(case) -> inputs`: to every such input there is an answer, and it is finite.

    A worker refuses a whole job where one answer is none. For this property alone, the row that is to blame is looked
    for, and refutes it; without it the candidate is rejected for the failed job.
    """

    def check(show: Any, ask: Questions, case: Any) -> Said:
        return bool(np.isfinite(ask(show(case))).all())

    return _made(check, name, cases, budget, refusal=True)


def batch_single(
    name: str, *, cases: Callable[..., Any], within: float = 1e-3, read: Read | None = None, **budget: Any
) -> Callable[[Any], Any]:
    """Tag `def show(case) -> inputs`: a row is answered alone as it is among others."""

    def check(show: Any, ask: Questions, case: Any) -> Said:
        inputs = show(case)
        among, alone = ask.each((PREDICT, inputs), (ALONE, inputs))
        return _same(within, *(_reading(read)(each[ANSWERS]) for each in (among, alone)))

    return _made(check, name, cases, budget)


def _made(
    check: Callable[[Any, Questions, Any], Said],
    name: str,
    cases: Callable[..., Any],
    budget: Mapping[str, Any],
    *,
    refusal: bool = False,
) -> Callable[[Any], Any]:
    def tag(show: Any) -> Any:
        @wraps(show)
        def whole(ask: Questions, case: Any) -> Said:
            return check(show, ask, case)

        settings = {"tries": 100, "shrinks": 40, "of": MAIN, **budget}
        return _tagged(whole, show, name, cases, **settings, refusal=refusal)

    return tag


def _tagged(
    check: Check,
    function: Callable[..., Any],
    name: str,
    cases: Callable[..., Any],
    tries: int,
    shrinks: int,
    of: str,
    *,
    refusal: bool = False,
) -> Any:
    where = where_of(function)
    if declared(function):
        raise SubjectError(
            f"property {name!r}: its function is another's already", where=where, remedy="write a function for each"
        )
    for what, value, most in (("tries", tries, MOST_TRIES), ("shrinks", shrinks, MOST_SHRINKS)):
        if type(value) is not int or not 1 <= value <= most:
            raise SubjectError(f"property {name!r}: {what} is {value!r}, not 1 to {most}", where=where)
    if not callable(cases) or len(inspect.signature(cases).parameters) > 1:
        raise SubjectError(
            f"property {name!r}: cases is no function of the development items, or of nothing",
            where=where,
            remedy="cases=lambda items: strategies.sampled_from(items.raw)",
        )
    spec = Property(checked_name(name, where), check, cases, tries, shrinks, of, refusal, function)
    declare(function, spec)
    return function


def _two(shown: Any) -> tuple[Inputs, Inputs]:
    if not isinstance(shown, tuple) or len(shown) != 2:
        raise SubjectError(f"two inputs are wanted, as a tuple; not {type(shown).__name__}")
    return shown


def _reading(read: Read | None) -> Read:
    def reading(answers: Array) -> Array:
        found = np.asarray(answers if read is None else read(answers))
        if not found.size:  # of no number anything holds
            raise SubjectError(f"read() takes nothing of answers of the shape {np.shape(answers)}")
        return found

    return reading


def _same(within: float, one: Array, two: Array) -> Said:
    if one.shape != two.shape:
        raise SubjectError(f"answers of the shapes {one.shape} and {two.shape} are compared")
    apart = np.abs(one.astype(np.float64) - two.astype(np.float64))
    if (apart <= within).all():  # NaN is not
        return True
    return f"the answers differ by {float(apart.max()):.6g}, where {within:g} is let through"
