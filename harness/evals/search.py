"""Drawing cases and shrinking one, by Hypothesis: the same for the same seed and the same answers.

Hypothesis runs the body again and again; a body that lacks an answer leaves it by an exception that passes through, and
the search is begun anew when the answer is there. So the draws may hang on nothing but strategy and seed. Its database,
its clocks and what it keeps in files are off, and so are the constants that it reads from the source code of whatever
modules happen to be loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Cases", "draw", "shrink", "version"]

Cases = Any
"""A strategy of Hypothesis. It is no type here, for importing the library takes half a second."""


class _RefutedError(Exception):
    """How Hypothesis is told that a case fails."""


class _SpentError(BaseException):
    """How a search is left whose budget is spent."""


class _BrokenError(BaseException):
    """How a search is left whose judge raised: that is no failing case, and nothing to be shrunk."""


def version() -> str:
    """Hypothesis's version: another one may draw other cases."""
    import hypothesis

    return str(hypothesis.__version__)


def draw(cases: Cases, seed: int, count: int) -> list[Any]:
    """Up to `count` cases, simple ones first; fewer where there are no more. Raises what the strategy raises."""
    drawn: list[Any] = []
    _run(cases, seed, count, drawn.append, shrinking=False)
    return drawn


def shrink(cases: Cases, seed: int, count: int, fails: Callable[[Any], bool], more: Callable[[], bool]) -> Any:
    """The simplest failing case that the search comes to: it draws as `draw` did, and shrinks the first that fails.

    `fails` is the judge of a case; what it raises that is no Exception passes through. `more` is asked before each
    case, and where it says no the search ends with what it has. LookupError where no case fails.
    """
    failing: list[Any] = []

    def body(case: Any) -> None:
        if not more():
            raise _SpentError
        try:
            failed = fails(case)
        except Exception as error:
            raise _BrokenError(error) from error
        if failed:
            failing.append(case)
            raise _RefutedError

    try:
        _run(cases, seed, count, body, shrinking=True)
    except (_RefutedError, _SpentError):
        pass
    except _BrokenError as error:
        raise error.args[0] from None
    if not failing:
        raise LookupError("no case fails")
    return failing[-1]  # each that it keeps is simpler than the one before


def _run(cases: Cases, seed: int, count: int, body: Callable[[Any], None], *, shrinking: bool) -> None:
    from hypothesis import HealthCheck, Phase, Verbosity, given, settings
    from hypothesis import seed as seeded

    phases = [Phase.generate, Phase.shrink] if shrinking else [Phase.generate]

    # Every setting is named: the profile that is loaded hangs on environment variables.
    @settings(
        max_examples=count,
        phases=phases,
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
        stateful_step_count=50,
        backend="hypothesis",
    )
    @seeded(seed)
    @given(cases)
    def run(case: Any) -> None:
        body(case)

    with _apart():
        run()


@contextmanager
def _apart() -> Iterator[None]:
    """Hypothesis without files, and without the constants of loaded modules; as it was afterwards."""
    from hypothesis import configuration
    from hypothesis.internal.conjecture import providers

    # Neither has a public switch. A release that has no such member reads no constants.
    home = getattr(configuration, "__hypothesis_home_directory", None)
    constants, cache = getattr(providers, "_get_local_constants", None), getattr(providers, "CONSTANTS_CACHE", None)
    configuration.set_hypothesis_home_dir(Path(os.devnull) / "none")  # below a device there are no files
    if constants is not None and cache is not None:
        cache.cache.clear()
        nothing: Any = vars(providers)["Constants"]
        providers._get_local_constants = nothing  # noqa: SLF001
    try:
        yield
    finally:
        configuration.set_hypothesis_home_dir(home)
        if constants is not None and cache is not None:
            providers._get_local_constants = constants  # noqa: SLF001
            cache.cache.clear()
