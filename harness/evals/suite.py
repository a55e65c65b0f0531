"""Views and evaluations of one subject, found in its `guards.py` and checked wherever they are used."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from harness.errors import EvaluatorError, SubjectError
from harness.evals.codec import Codec
from harness.evals.data import MAIN, Array, Data, Inputs, Items, Raw, rows_of
from harness.evals.inquiry import Ask
from harness.evals.properties import Property
from harness.evals.tagging import checked_name, declare, declared, where_of

EvaluationKind = Literal["capability", "alignment", "robustness"]
"""What an evaluation is about; reports group by it."""

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Scores:
    """Scores of a batch: `applies` [n] bool over the batch's items, `values` [applies.sum()] float64 in item order."""

    applies: npt.NDArray[np.bool_]
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """A named way to turn raw items into model inputs, with randomness fixed by the seed and the view's name."""

    name: str
    make: Callable[[Raw, np.random.Generator], Inputs]
    where: str
    of: str = MAIN

    def encode(self, raw: Raw, seed: int) -> dict[str, Array]:
        """Model inputs for these raw items, one row each.

        The generator is fresh on every call and depends on `seed` and the name alone: encode a whole ordered set of
        items once and slice the rows, since the same item at another place of `raw` meets other randomness.
        Raises SubjectError for a wrong type, length, dtype, or NaN.
        """
        words = np.frombuffer(hashlib.sha256(self.name.encode()).digest()[:16], dtype=np.uint32).tolist()
        try:
            inputs = self.make(raw, np.random.default_rng([seed, *words]))
        except SubjectError:
            raise
        except Exception as error:
            raise SubjectError(
                f"view {self.name!r} raised {type(error).__name__}: {error}", where=self.where
            ) from error
        try:
            rows = rows_of(inputs, f"view {self.name!r}")
        except SubjectError as error:
            raise SubjectError(error.message, where=self.where, remedy=error.remedy) from None
        if rows != len(raw):
            raise SubjectError(f"view {self.name!r} gave {rows} rows for {len(raw)} items", where=self.where)
        return dict(inputs)


@dataclass(frozen=True)
class Scored:
    """A named score of one item, higher is better, within `bounds`; `applies` picks items by their labels."""

    name: str
    kind: EvaluationKind
    bounds: tuple[float, float]
    applies: Callable[[Array], Array] | None
    measure: Callable[..., Array]
    where: str
    of: str = MAIN
    """The population whose items it is about."""
    slices: tuple[tuple[str, Callable[[Array], Array]], ...] = ()
    """Groups of items by name; each makes an evaluation of its own, see `sliced`."""
    within: Callable[[Array], Array] | None = None
    """The group that this evaluation is restricted to, where it is that of a slice."""

    def mask(self, labels: Array) -> npt.NDArray[np.bool_]:
        """Mark the items that this evaluation is about, [n] bool. Raises SubjectError for anything else."""
        return self._marked("applies", self.applies, labels) & self._marked("slice", self.within, labels)

    def _marked(self, what: str, marks: Callable[[Array], Array] | None, labels: Array) -> npt.NDArray[np.bool_]:
        if marks is None:
            return np.ones(len(labels), dtype=np.bool_)
        try:
            mask = np.asarray(marks(labels))
        except Exception as error:
            raise SubjectError(
                f"evaluation {self.name!r}: {what}() raised {type(error).__name__}: {error}", where=self.where
            ) from error
        if mask.dtype != np.bool_ or mask.shape != (len(labels),):
            raise SubjectError(
                f"evaluation {self.name!r}: {what}() gave {mask.dtype} {mask.shape} for {len(labels)} labels; "
                "one boolean an item is wanted",
                where=self.where,
            )
        return mask

    def _within(self, values: Any, mask: npt.NDArray[np.bool_]) -> Scores:
        """Scores as they were measured; SubjectError where one is missing, NaN, infinite or out of bounds."""
        values = np.asarray(values)
        wanted = (int(mask.sum()),)
        if values.shape != wanted or values.dtype.kind not in "biuf":
            raise SubjectError(
                f"evaluation {self.name!r} gave {values.dtype} {values.shape}; floats {wanted} are wanted",
                where=self.where,
            )
        values = values.astype(np.float64)
        lo, hi = self.bounds
        if not np.isfinite(values).all() or (values < lo).any() or (values > hi).any():
            worst = values[~(np.isfinite(values) & (values >= lo) & (values <= hi))][0]
            raise SubjectError(
                f"evaluation {self.name!r} gave the score {worst}, out of its bounds [{lo}, {hi}]", where=self.where
            )
        return Scores(mask, values)

    def _measured(self, *given: Any) -> Any:
        try:
            return self.measure(*given)
        except EvaluatorError as error:
            raise EvaluatorError(
                f"evaluation {self.name!r}: {error.message}", where=self.where, remedy=error.remedy
            ) from error
        except Exception as error:
            raise SubjectError(
                f"evaluation {self.name!r} raised {type(error).__name__}: {error}", where=self.where
            ) from error

    def sliced(self) -> Iterator[Self]:
        """This evaluation, then the same on each of its slices alone, called `name[slice]`."""
        yield self
        for group, within in self.slices:
            yield replace(self, name=f"{self.name}[{group}]", slices=(), within=within)


@dataclass(frozen=True)
class Evaluation(Scored):
    """A score of what was answered under some views."""

    views: tuple[str, ...] = ()

    def score(self, labels: Array, answers: Mapping[str, Array]) -> Scores:
        """Score a batch: labels [n, …] and, for each view, answers [n, *output].

        Raises SubjectError where the evaluation raises, or where a score is missing, NaN, infinite or out of bounds.
        """
        missing = [name for name in self.views if name not in answers]
        if missing:
            raise SubjectError(f"evaluation {self.name!r} lacks answers under {missing}", where=self.where)
        for name in self.views:
            if len(answers[name]) != len(labels):
                raise SubjectError(
                    f"evaluation {self.name!r}: {len(answers[name])} answers under {name!r} for {len(labels)} labels",
                    where=self.where,
                )
        mask = self.mask(labels)
        if not mask.any():
            return Scores(mask, np.zeros(0))
        return self._within(self._measured(labels[mask], {name: answers[name][mask] for name in self.views}), mask)


@dataclass(frozen=True)
class Inquiry(Scored):
    """A score that is found by asking: what is asked may depend on what was answered. See `inquiry`."""

    def score(self, ask: Ask, items: Items) -> Scores:
        """Score items, asking for what is needed. Raises UnansweredError, and SubjectError as `Evaluation.score`."""
        mask = self.mask(items.labels)
        if not mask.any():
            return Scores(mask, np.zeros(0))
        some = items if mask.all() else items.take(np.flatnonzero(mask))
        return self._within(self._measured(ask, some.raw, some.labels), mask)


@dataclass(frozen=True)
class Suite:
    """Everything that one `guards.py` declares. Evaluations and views keep the order of the file."""

    load_data: Callable[[], Data]
    views: Mapping[str, View]
    evaluations: Mapping[str, Evaluation | Inquiry]
    properties: Mapping[str, Property] = field(default_factory=dict)
    codec: Codec | None = None

    @property
    def inquiries(self) -> list[Inquiry]:
        """The evals that ask."""
        return [each for each in self.evaluations.values() if isinstance(each, Inquiry)]

    def load(self) -> Data:
        """Run `load()` and check what it gives. Raises SubjectError for anything that is not sound Data."""
        try:
            data = self.load_data()
        except SubjectError:
            raise
        except Exception as error:
            raise SubjectError(f"load() raised {type(error).__name__}: {error}", where="guards.py: load()") from error
        if not isinstance(data, Data):
            raise SubjectError(
                f"load() returned {type(data).__name__}, not harness.evals.Data", where="guards.py: load()"
            )
        data.check()
        for each in (*self.views.values(), *self.evaluations.values(), *self.properties.values()):
            if each.of not in data.populations:
                raise SubjectError(
                    f"{each.name!r} is of {each.of!r}; the populations are {list(data.populations)}", where=each.where
                )
        return data

    def encode(
        self, raw: Mapping[str, Raw], seed: int, names: Sequence[str] | None = None
    ) -> dict[str, dict[str, Array]]:
        """Model inputs of each population's raw items under its views (all, unless named), rows in the order of `raw`.

        A view whose population has no item here is left out.
        Raises SubjectError unless all views agree in keys, dtypes and row shapes.
        """
        made = {
            name: view.encode(raw[view.of], seed)
            for name, view in self.views.items()
            if (names is None or name in names) and len(raw.get(view.of, ()))
        }
        forms = {name: {k: (a.dtype.str, a.shape[1:]) for k, a in inputs.items()} for name, inputs in made.items()}
        first = next(iter(forms), None)
        for name, form in forms.items():
            if first is not None and form != forms[first]:
                raise SubjectError(
                    f"views {first!r} and {name!r} differ in form: {forms[first]} against {form}",
                    where=self.views[name].where,
                    remedy="all views share one tensor: same keys, dtypes and row shapes",
                )
        return made

    def check(self, data: Data, *, seed: int = 0, items: int = 48) -> None:
        """Try every view and evaluation on a few development items with random answers.

        Raises SubjectError where a view is not repeatable, or where an item's score changes with its batch.
        """
        rng = np.random.default_rng(seed)
        some = {
            name: whole.take(rng.permutation(len(whole))[:items]) for name, whole in data.split("development").items()
        }
        raw = {name: few.raw for name, few in some.items()}
        once, again = self.encode(raw, seed), self.encode(raw, seed)
        for name, inputs in once.items():
            if any(not np.array_equal(array, again[name][key]) for key, array in inputs.items()):
                raise SubjectError(
                    f"view {name!r} gave two answers to one question",
                    where=self.views[name].where,
                    remedy="draw randomness from the rng that the view is given",
                )
        answers = {
            name: rng.normal(size=(len(some[view.of]), *data.output)).astype(np.float32)
            for name, view in self.views.items()
        }
        for each in self.evaluations.values():
            for half, what in (("development", "development"), ("vault", "held-out")):
                there = getattr(data.populations[each.of], half)
                if isinstance(there, Items) and not each.mask(there.labels).any():
                    raise SubjectError(
                        f"evaluation {each.name!r} applies to no {what} item",
                        where=each.where,
                        remedy="mend what it applies to, or its slice, or add such items",
                    )
            if isinstance(each, Inquiry):
                continue  # what it asks depends on who answers: nobody does here
            few = some[each.of]
            # Eight items alone, and the rest together: a score that leans on its neighbours changes in one of them.
            alone = [slice(place, place + 1) for place in range(min(8, len(few)))]
            whole = each.score(few.labels, answers)
            parts = [
                each.score(few.labels[part], {k: answers[k][part] for k in each.views})
                for part in (*alone, slice(len(alone), None))
                if len(few.labels[part])
            ]
            split = np.concatenate([part.values for part in parts])
            if not np.array_equal(whole.values, split):
                raise SubjectError(
                    f"evaluation {each.name!r} scores an item differently in another batch",
                    where=each.where,
                    remedy="a score may use the item's own label and answers only",
                )


def view(name: str, *, of: str = MAIN) -> Callable[[_F], _F]:
    """Tag `def make(raw, rng) -> dict[str, ndarray]` as the view of this name, of the items of one population."""

    def tag(make: _F) -> _F:
        where = where_of(make)
        return declare(make, View(checked_name(name, where), make, where, of))

    return tag


def evaluation(
    name: str,
    *,
    kind: EvaluationKind,
    views: Sequence[str],
    bounds: tuple[float, float] = (0.0, 1.0),
    applies: Callable[[Array], Array] | None = None,
    slices: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Callable[[_F], _F]:
    """Tag `def measure(labels, answers) -> [n] floats` as the evaluation of this name.

    `answers` maps each of `views` to [n, *output] float32. `applies(labels) -> [n] bool` restricts it to some items;
    its mean is then over those. `slices` names groups among them, each by such a function: beside `name` there is then
    one evaluation `name[slice]` for each, and a gate on `name[*]` asks the same of every one, so of the worst.
    Raises SubjectError for an unknown kind, no views, no slice, or bounds that are none.
    """

    def tag(measure: _F) -> _F:
        where = where_of(measure)
        return declare(measure, specify(name, measure, where, kind, views, bounds, applies, slices))

    return tag


def inquiry(
    name: str,
    *,
    kind: EvaluationKind,
    of: str = MAIN,
    bounds: tuple[float, float] = (0.0, 1.0),
    applies: Callable[[Array], Array] | None = None,
    slices: Mapping[str, Callable[[Array], Array]] | None = None,
    where: str | None = None,
) -> Callable[[_F], _F]:
    """Tag `def measure(ask, raw, labels) -> [n] floats` as the evaluation of this name, one that asks.

    `ask(inputs)` gives the candidate's answers to model inputs, [rows, *output] float32; what is asked next may depend
    on them. The function is run again from its start whenever answers came in, so it must do the same each time:
    randomness comes from `ask.rng`. An item's score may use that item and the answers to what was asked about it only.
    `of` names the population of its items, `where` the place that errors tell, if it is not the function's own.
    Raises SubjectError as `evaluation` does.
    """

    def tag(measure: _F) -> _F:
        place = where or where_of(measure)
        return declare(measure, Inquiry(**_common(name, measure, place, kind, bounds, applies, slices), of=of))

    return tag


def specify(
    name: str,
    measure: Callable[[Array, dict[str, Array]], Array],
    where: str,
    kind: EvaluationKind,
    views: Sequence[str],
    bounds: tuple[float, float] = (0.0, 1.0),
    applies: Callable[[Array], Array] | None = None,
    slices: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Evaluation:
    """What `evaluation` tags a function with, for decorators that make several; `where` is told in errors."""
    if isinstance(views, str) or not views or not all(isinstance(each, str) for each in views):
        raise SubjectError(f"evaluation {name!r} must name its views, as a tuple of strings", where=where)
    return Evaluation(**_common(name, measure, where, kind, bounds, applies, slices), views=tuple(views))


def _common(
    name: str,
    measure: Callable[..., Array],
    where: str,
    kind: EvaluationKind,
    bounds: tuple[float, float],
    applies: Callable[[Array], Array] | None,
    slices: Mapping[str, Callable[[Array], Array]] | None,
) -> dict[str, Any]:
    """What every evaluation is made of, checked."""
    if kind not in get_args(EvaluationKind):
        raise SubjectError(f"evaluation {name!r}: kind {kind!r} is none of {get_args(EvaluationKind)}", where=where)
    lo, hi = float(bounds[0]), float(bounds[1])
    if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
        raise SubjectError(f"evaluation {name!r}: bounds {bounds!r} are not finite and ordered", where=where)
    groups = {} if slices is None else dict(slices)
    if slices is not None and not groups:
        raise SubjectError(f"evaluation {name!r} has slices, and none is named", where=where)
    if bad := [group for group, marks in groups.items() if not callable(marks)]:
        raise SubjectError(f"evaluation {name!r}: the slices {bad} are no functions of the labels", where=where)
    kept = tuple((checked_name(group, where), marks) for group, marks in groups.items())
    return {
        "name": checked_name(name, where),
        "kind": kind,
        "bounds": (lo, hi),
        "applies": applies,
        "measure": measure,
        "where": where,
        "slices": kept,
    }


def collect(module: ModuleType) -> Suite:
    """Find the views, evaluations and properties in a loaded guards module.

    Raises SubjectError without `load`, without a view or an evaluation, for a name used twice, or for an evaluation
    of a view that is not there.
    """
    place = Path(getattr(module, "__file__", None) or "guards.py").name
    load = getattr(module, "load", None)
    if not callable(load):
        raise SubjectError("there is no load() that returns Data", where=place, remedy="def load() -> Data: …")
    views: dict[str, View] = {}
    evaluations: dict[str, Evaluation | Inquiry] = {}
    properties: dict[str, Property] = {}
    seen: set[int] = set()
    for value in list(vars(module).values()):
        tags = declared(value)
        if id(value) in seen:
            continue
        seen.add(id(value))
        for tagged in tags:
            # evals and properties stand side by side wherever they are told
            kin: list[dict[str, Any]] = [views] if isinstance(tagged, View) else [evaluations, properties]
            for each in tagged.sliced() if isinstance(tagged, Scored) else [tagged]:
                if taken := [known[each.name].where for known in kin if each.name in known]:
                    raise SubjectError(f"the name {each.name!r} is used twice, first at {taken[0]}", where=each.where)
                kin[-1 if isinstance(each, Property) else 0][each.name] = each
    if not views or not evaluations:
        raise SubjectError("at least one @view and one @evaluation are wanted", where=place)
    for each in evaluations.values():
        if not isinstance(each, Evaluation):
            continue
        unknown = [name for name in each.views if name not in views]
        if unknown:
            raise SubjectError(
                f"evaluation {each.name!r} wants the views {unknown}; there are {sorted(views)}", where=each.where
            )
        of = {views[name].of for name in each.views}
        if len(of) > 1:
            raise SubjectError(
                f"evaluation {each.name!r} has views of several populations: {sorted(of)}",
                where=each.where,
                remedy="an item is scored by what was answered about that item",
            )
        evaluations[each.name] = replace(each, of=of.pop())
    codecs = {id(value): value for value in vars(module).values() if isinstance(value, Codec)}
    if len(codecs) > 1:
        raise SubjectError("there are several Codecs", where=place, remedy="a model reads and writes text in one way")
    return Suite(load, views, evaluations, properties, next(iter(codecs.values()), None))


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
