"""Any task of Inspect (`inspect_ai`) as a gate, in one line of `lockgate.yaml`.

    evals:
      - {use: inspect, name: arithmetic, kind: capability, task: tasks.py@arithmetic}

The task's samples become a population of the eval's name, halved into development and vault by a hash of what they ask,
so that a question stands on one side only. Its own solver and scorer run, in the evaluator, and the candidate answers
in the sandbox through the subject's `Codec`. Targets stay in the evaluator; that other targets are other data is seen
by a digest among the labels.

Fail closed: a task counts only where Inspect says that it succeeded, with every sample finished, once, within its
limits, and scored by a number that can be told. A scorer that asks a model has no say: the model would be the
candidate. A task that wants tools, a container, or other models is refused.

Settings: `task`, one of `FILE.py@NAME` in the subject, `module@NAME`, or `package/NAME` for a package with an entry
point of Inspect's; `args` of the task function; `limit`, the most samples of each half; `scorer`, which one of several;
`score`, which key of a score that is a dict; `range`, the scorer's values for the worst and the best, [0, 1] unless
given ([1, 0]: less is better).

Not covered: a task that answers differently when it is run again on the same samples and answers. What it asks then
never ends, or a replay comes to other scores; either is an error.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import json
import math
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from harness.errors import EvaluatorError, SubjectError
from harness.evals.brought import Brought, Wanted
from harness.evals.codec import Codec
from harness.evals.data import Population
from harness.evals.inquiry import Ask
from harness.evals.items import Array, Items
from harness.evals.scoring import Inquiry
from harness.records import Record, first_problem

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.dataset import Sample

LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Inspect's letters: correct, partially, incorrect, no answer."""
SECONDS = 480.0
"""Longer than this no task may take on one set of items: the evaluator has ten minutes to answer."""


REMEMBERED = 4
"""Runs whose scores are kept: of a candidate, the incumbent, the baseline, and one more."""


class Settings(Record):
    """What a line of `use: inspect` may say besides name and kind."""

    task: Annotated[str, Field(min_length=1)]
    args: dict[str, Any] = {}
    limit: Annotated[int, Field(gt=1, le=100_000)] | None = None
    scorer: str | None = None
    score: str | None = None
    range: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.0, 1.0]


def bring(wanted: Wanted) -> Brought:
    """What one line of lockgate.yaml brings: an eval that asks, and its population. Raises SubjectError."""
    try:
        settings = Settings.parse(wanted.settings)
    except ValidationError as error:
        place, message = first_problem(error)
        known = ", ".join(Settings.model_fields)
        raise SubjectError(f"{place}: {message}", remedy=f"the settings of `use: inspect` are {known}") from error
    if settings.range[0] == settings.range[1]:
        raise SubjectError("range: the worst and the best are the same", remedy="range: [WORST, BEST]")
    if wanted.codec is None:
        raise SubjectError(
            "guards.py has no Codec, by which the model would be asked",
            remedy="chat = Codec(encode=…, decode=…): see harness/evals/codec.py",
        )
    _prepare()
    task = _task(settings, wanted)
    samples = _samples(task)
    development, vault = (_items(samples, half) for half in _halves(samples, settings.limit))
    measured = _Measured(wanted.name, task, samples, settings, wanted.codec)
    eval_ = Inquiry(wanted.name, wanted.kind, (0.0, 1.0), None, measured, wanted.where, wanted.name)
    return Brought((eval_,), populations={wanted.name: Population(development, vault)})


class _Measured:
    """The `measure` of an eval that asks: runs the task on some samples and maps its scores."""

    def __init__(self, name: str, task: Task, samples: list[Sample], settings: Settings, codec: Codec) -> None:
        self._name, self._task, self._samples, self._settings, self._codec = name, task, samples, settings, codec
        self._known: OrderedDict[bytes, tuple[Array, bytes, dict[str, Any]]] = OrderedDict()

    def __call__(self, ask: Ask, _raw: Any, labels: Array) -> Array:
        from harness.evals.inspect_run import run

        # The same samples and answers come to the same: a test need not run what the last question has run.
        key = hashlib.sha256(labels.tobytes()).digest() + ask.fingerprint
        if key in self._known:
            values, record, about = self._known[key]
            ask.keep(record, about)
            return values
        samples = [self._samples[place] for place in labels[:, 0].tolist()]
        log, record = run(self._task, samples, ask, self._codec, seconds=SECONDS)
        scores = {sample.id: sample.scores for sample in log.samples or []}
        values = np.array([self._value(scores.get(sample.id)) for sample in samples], dtype=np.float64)
        spec = log.eval
        about = {
            "task": spec.task,
            "version": str(spec.task_version),
            "packages": dict(sorted(spec.packages.items())),
            "samples": [str(sample.id) for sample in samples],
        }
        ask.keep(record, about)
        self._known[key] = values, record, about
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return values

    def _value(self, scores: Any) -> float:
        """One sample's score as a number in [0, 1]. EvaluatorError where it is none."""
        settings = self._settings
        if not scores:
            raise EvaluatorError("a sample was not scored")
        name = settings.scorer
        if name is None and len(scores) > 1:
            raise EvaluatorError(f"there are several scorers: {sorted(scores)}", remedy="choose one: scorer: NAME")
        found = next(iter(scores.values())) if name is None else scores.get(name)
        if found is None:
            raise EvaluatorError(f"there is no scorer '{name}'", remedy=f"there are: {sorted(scores)}")
        return scaled(_one(found.value, settings.score), settings.range)


def _one(value: Any, key: str | None) -> Any:
    """The value of a score; of a dict, the one that is named."""
    if isinstance(value, dict):
        if key is None or key not in value:
            raise EvaluatorError(f"a score is a dict of {sorted(value)}", remedy="name one of them: score: KEY")
        return value[key]
    if key is not None:
        raise EvaluatorError(f"a score is no dict, so there is no '{key}'", remedy="leave the setting `score` out")
    return value


def scaled(value: Any, ends: Sequence[float]) -> float:
    """A score as a number between 0, for the value `ends[0]`, and 1, for `ends[1]`.

    Letters are Inspect's. EvaluatorError for anything that is no number, not finite, or outside.
    """
    number = LETTERS.get(value) if isinstance(value, str) else value
    if not isinstance(number, (bool, int, float)) or not math.isfinite(number):
        raise EvaluatorError(f"a score is {value!r}: no number, and none of {', '.join(LETTERS)}"[:200])
    worst, best = ends
    share = (float(number) - worst) / (best - worst)
    if not 0.0 <= share <= 1.0:
        raise EvaluatorError(
            f"a score is {float(number)}, outside [{min(ends)}, {max(ends)}]",
            remedy="range: [WORST, BEST] are the scorer's own ends",
        )
    return share


def _prepare() -> None:
    """Keep Inspect to itself: no network, no display, no settings of this machine's user, nothing left behind."""
    if find_spec("inspect_ai") is None:
        raise SubjectError("inspect_ai is not installed", remedy="pip install 'lockgate[inspect]'")
    if "LOCKGATE_INSPECT" in os.environ:
        return  # as an earlier eval of the same subject left it
    place = tempfile.mkdtemp(prefix="lockgate-inspect-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for name in [name for name in os.environ if name.startswith("INSPECT_")]:
        del os.environ[name]
    os.environ |= {
        "LOCKGATE_INSPECT": place,
        "INSPECT_DISPLAY": "none",
        "INSPECT_LOG_LEVEL": "error",
        "PYTHON_DOTENV_DISABLED": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "XDG_DATA_HOME": place,
        "XDG_CACHE_HOME": place,
    }


def _task(settings: Settings, wanted: Wanted) -> Task:
    """Make the task, and refuse what cannot be a gate."""
    from inspect_ai import Task

    from harness.evals.inspect_run import offline

    place, at, name = settings.task.partition("@")
    maker: Any
    if at:
        home: ModuleType = wanted.module(place) if place.endswith(".py") else importlib.import_module(place)
        maker = getattr(home, name, None)
    elif "/" in place:
        from inspect_ai._util.registry import registry_lookup  # what `inspect eval package/name` looks it up by

        maker = registry_lookup("task", place)
    else:
        raise SubjectError(f"task '{settings.task}' names no task", remedy="FILE.py@NAME, module@NAME or package/NAME")
    if not callable(maker):
        raise SubjectError(f"there is no task '{settings.task}'", remedy="name a function that is tagged @task")
    with offline():
        made = maker(**settings.args)
    if not isinstance(made, Task):
        raise SubjectError(f"'{settings.task}' made a {type(made).__name__} and no task")
    for lacks, what in (
        (made.scorer, "it has no scorer"),
        (made.sample_source is None, "its samples are made while it runs"),
        (made.sandbox is None, "it needs a sandbox of Inspect's"),
        (made.model is None and not made.model_roles, "it names models of its own"),
        (made.approval is None and made.review is None, "it asks people"),
        (made.early_stopping is None, "it may stop early"),
    ):
        if not lacks:
            raise SubjectError(f"the task '{settings.task}' is no gate: {what}", remedy="take another task")
    return made


def _samples(task: Task) -> list[Sample]:
    """The task's samples, each with an id of its own. Raises SubjectError where two share one, or need a container."""
    samples = list(task.dataset)
    for place, sample in enumerate(samples):
        if sample.id is None:
            sample.id = place + 1  # as Inspect numbers them
        if sample.sandbox is not None or sample.files or sample.setup:
            raise SubjectError(f"sample {sample.id!r} needs a sandbox of Inspect's", remedy="take another task")
    ids = [str(sample.id) for sample in samples]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise SubjectError(f"the sample id {twice!r} stands twice in the dataset", remedy="ids must be unique")
    return samples


def _halves(samples: list[Sample], limit: int | None) -> tuple[list[int], list[int]]:
    """Places of the samples of development and of the vault, in the order of a hash of what they ask."""
    halves: tuple[list[int], list[int]] = ([], [])
    for asked, _, place in sorted((_asked(sample), str(sample.id), place) for place, sample in enumerate(samples)):
        half = halves[asked[0] & 1]
        if limit is None or len(half) < limit:
            half.append(place)
    if not all(halves):
        raise SubjectError(
            f"{len(samples)} samples cannot be halved into development and vault", remedy="take a task with more"
        )
    return halves


def _question(sample: Sample) -> Any:
    """What a sample asks, as plain JSON: without the ids that Inspect draws for messages."""
    if isinstance(sample.input, str):
        return sample.input
    return [{"role": each.role, "content": each.text} for each in sample.input]


def _asked(sample: Sample) -> bytes:
    return hashlib.sha256(json.dumps([_question(sample), sample.choices], sort_keys=True).encode()).digest()


def _items(samples: list[Sample], places: list[int]) -> Items:
    """Items of these samples. A label is its place among all samples, and a digest of all that it says."""
    labels = np.zeros((len(places), 2), dtype=np.int64)
    raw = []
    for row, place in enumerate(places):
        sample = samples[place]
        whole = [str(sample.id), _question(sample), sample.choices, sample.target, sample.metadata]
        told = hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).digest()
        labels[row] = place, int.from_bytes(told[:7], "big")
        raw.append({"id": str(sample.id), "input": _question(sample)})
    return Items(raw, labels)
