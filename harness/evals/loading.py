"""Import a subject's own trusted files, `guards.py` and those that it brings: guarded, and forgotten again."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from harness.errors import SubjectError
from harness.evals.suite import Suite, collect


def load_guards(path: Path, guarded: Container[str] | None = None) -> Suite:
    """Import a `guards.py` from its file and collect it. Raises SubjectError as `load_module` does."""
    return collect(load_module(path, guarded))


def load_module(path: Path, guarded: Container[str] | None = None) -> ModuleType:
    """Import a file of a subject: its `guards.py`, or one that holds evals.

    `guarded` names the files below its folder that it may import, by their paths from there: those of the run's guard.

    The module gets a name of its own and stays out of `sys.modules`; modules that lie beside it can be imported while
    it loads. Raises SubjectError for a missing file, a syntax error, an exception or an import that is not guarded.
    """
    path = Path(path)
    if not path.is_file():
        raise SubjectError(
            "there is no such file", where=str(path), remedy="a subject has lockgate.yaml, model.py, guards.py"
        )
    name = f"lockgate_{path.stem}_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SubjectError("this file cannot be imported", where=str(path))
    module = importlib.util.module_from_spec(spec)
    with _neighbours(path.resolve().parent, guarded):
        try:
            spec.loader.exec_module(module)
        except SyntaxError as error:
            raise SubjectError(f"syntax error: {error.msg}", where=f"{path.name}:{error.lineno}") from None
        except SubjectError:
            raise
        except ImportError as error:
            raise SubjectError(
                str(error), where=_line_of(error, path), remedy="install the package that this subject's guards need"
            ) from error
        except Exception as error:
            raise SubjectError(f"{type(error).__name__}: {error}", where=_line_of(error, path)) from error
    return module


@contextmanager
def _neighbours(folder: Path, guarded: Container[str] | None) -> Iterator[None]:
    """Let imports find modules in `folder`, and forget those that were found there."""
    before = set(sys.modules)
    # an environment may lie in the subject's folder: what is installed there is no neighbour
    installed = [Path(each) for each in sys.path if each and Path(each) != folder]
    sys.path.insert(0, str(folder))
    try:
        yield
        for _, file in _found_in(folder, before, installed):
            if guarded is not None and file not in guarded:
                raise SubjectError(
                    "is imported by guards.py and not guarded: it lies behind a link, in the folder of a run or in a "
                    "hidden one, or proposals may change it",
                    where=file,
                    remedy="put the file itself beside guards.py, under a name that no run and no proposal has",
                )
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name, _ in list(_found_in(folder, before, installed)):
            del sys.modules[name]


def _found_in(folder: Path, before: Container[str], installed: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """The modules that came from files in a folder, each with its path there, as it was imported: through links."""
    for name in set(sys.modules):
        file = getattr(sys.modules[name], "__file__", None)
        if name in before or not file or not Path(file).is_relative_to(folder):
            continue
        if not any(place.is_relative_to(folder) and Path(file).is_relative_to(place) for place in installed):
            yield name, Path(file).relative_to(folder).as_posix()


def _line_of(error: BaseException, path: Path) -> str:
    """`guards.py:LINE`, the deepest line of that file that the exception passed."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path.name}:{line}" if line else path.name
