"""Everything that one subject's `guards.py` declares, found there and tried together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from harness.errors import SubjectError
from harness.evals.codec import Codec
from harness.evals.data import Data
from harness.evals.items import Array, Items, Raw
from harness.evals.properties import Property
from harness.evals.scoring import Evaluation, Inquiry, Scored, View
from harness.evals.tagging import declared


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
