"""One run of an Inspect task in this process, with a candidate that answers in the sandbox as its model.

The model that Inspect is given looks every conversation up among the answers that there are. One that has none is
noted, and its sample waits; when all that still runs waits, the run is left, with everything that is missing at once.
A task of k turns is so left k times. That it is quiet is judged by the clock; left too early, it takes a round more
and comes to the same.

Imported only where a task is run: it imports inspect_ai, which takes seconds.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import math
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from inspect_ai import Task, eval_async
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.scorer import Score, Scorer, Target
from inspect_ai.solver import TaskState
from inspect_ai.util._display import init_display_type

from harness.errors import EvaluatorError, LockgateError, SubjectError
from harness.evals.codec import Codec, Message
from harness.evals.inquiry import Ask, UnansweredError

QUIET = 0.25
"""So many seconds without a new question, and the run is left."""
_scoring: ContextVar[bool] = ContextVar("lockgate_scoring", default=False)
_offline = 0


class _Asked:
    """What a run asks its model, and what went wrong at that."""

    def __init__(self, ask: Ask, codec: Codec) -> None:
        self.ask, self.codec = ask, codec
        self.calls = 0
        self.waiting = 0
        self.failure: LockgateError | None = None

    async def answer(self, conversation: Sequence[Message]) -> str:
        """The candidate's words, if they are known; else this never returns."""
        self.calls += 1
        try:
            return self.codec.text(self.ask(self.codec.row(conversation)))
        except UnansweredError:
            self.waiting += 1
        except LockgateError as error:
            self.failure = self.failure or error
            raise
        await asyncio.Event().wait()
        raise AssertionError  # nobody sets it


@modelapi("lockgate")
class _Candidate(ModelAPI):  # type: ignore[misc]
    """The candidate under test as a model of Inspect's."""

    asked: _Asked

    def max_connections(self) -> int:
        return 1 << 20

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - Inspect's name for it
        tools: Sequence[Any],
        tool_choice: Any,  # noqa: ARG002 - likewise
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer one conversation. Settings of sampling mean nothing here: an answer hangs on the words alone."""
        if _scoring.get():
            self._refuse("a scorer asks a model, which would be the candidate itself")
        if tools:
            self._refuse("the task gives its model tools, which a Codec cannot say")
        if config.num_choices not in (None, 1) or config.logprobs or config.response_schema is not None:
            self._refuse("the task asks for several answers, log-probabilities or a schema")
        for message in input:
            if not isinstance(message.content, str) and any(part.type != "text" for part in message.content):
                self._refuse("a message holds more than text")
        text = await self.asked.answer([{"role": each.role, "content": each.text} for each in input])
        output = ModelOutput.from_content(self.model_name, text)
        output.usage = ModelUsage()  # or a tokenizer would be fetched to count them
        return output

    def _refuse(self, why: str) -> None:
        self.asked.failure = self.asked.failure or EvaluatorError(why, remedy="take another task")
        raise self.asked.failure


def run(task: Task, samples: list[Sample], ask: Ask, codec: Codec, *, seconds: float) -> tuple[EvalLog, bytes]:
    """Run the task on these samples; returns Inspect's log, and its bytes as an `.eval` file.

    Raises UnansweredError where answers are missing, all of them noted in `ask`; EvaluatorError where the run did not
    succeed, or took longer than `seconds`.
    """
    # Inspect may cache answers: those of another candidate, or of fewer rounds, have another address
    api = _Candidate("candidate", base_url=ask.fingerprint.hex())
    asked = api.asked = _Asked(ask, codec)
    # a solver that draws must draw the same again
    random.seed(int(ask.rng.integers(1 << 32)))
    np.random.seed(int(ask.rng.integers(1 << 32)))  # noqa: NPY002 - this is the one that a task may draw from
    init_display_type("none")
    with tempfile.TemporaryDirectory(prefix="lockgate-inspect-") as place, offline():
        log = asyncio.run(_run(_only(task, samples), Model(api, GenerateConfig()), asked, place, seconds))
        if asked.failure is not None:
            raise asked.failure
        if log is None:
            raise UnansweredError
        _check(log, samples)
        return log, Path(log.location).read_bytes()


async def _run(task: Task, model: Model, asked: _Asked, place: str, seconds: float) -> EvalLog | None:
    """Run it to its end, or until nothing goes on without more answers: None then."""
    many = len(task.dataset)
    whole = asyncio.ensure_future(
        eval_async(
            task,
            model=model,
            log_dir=place,
            log_format="eval",
            epochs=1,
            fail_on_error=True,
            retry_on_error=0,
            max_samples=many,
            max_connections=many,
            max_retries=0,
            log_samples=True,
            log_realtime=False,
            log_images=False,
            score_display=False,
        )
    )
    clock, calls, since = asyncio.get_running_loop().time, 0, 0.0
    start = clock()
    while not whole.done():
        await asyncio.wait([whole], timeout=0.02)
        if asked.calls != calls:
            calls, since = asked.calls, clock()
        late = clock() - start > seconds
        quiet = asked.waiting and clock() - since > QUIET
        if not whole.done() and (late or quiet or asked.failure is not None):
            whole.cancel()
            await asyncio.wait([whole], timeout=60)
            if late and asked.failure is None:
                raise EvaluatorError(f"the task took longer than {seconds:.0f} s", remedy="limit: fewer samples")
            return None
    logs = whole.result()
    return logs[0] if asked.waiting == 0 else None


def _only(task: Task, samples: list[Sample]) -> Task:
    """The task over these samples, with a scorer during which no model may be asked."""
    part = copy.copy(task)
    part.dataset = MemoryDataset(copy.deepcopy(samples), name=task.dataset.name, location=task.dataset.location)
    part.scorer = [_alone(each) for each in task.scorer or []]
    return part


def _alone(scorer: Scorer) -> Scorer:
    @functools.wraps(scorer)  # with what Inspect registers a scorer by
    async def score(state: TaskState, target: Target) -> Score | None:
        token = _scoring.set(True)
        try:
            return await scorer(state, target)
        finally:
            _scoring.reset(token)

    return score


def _check(log: EvalLog, samples: list[Sample]) -> None:
    """EvaluatorError unless every sample was finished and scored once, without an error, a limit or a retry."""
    done = log.samples or []
    if log.status != "success" or log.results is None:
        told = log.error.message if log.error else next((each.error.message for each in done if each.error), "")
        raise EvaluatorError(f"the task ended as '{log.status}': {told}"[:400])
    results = log.results
    if not results.total_samples == results.completed_samples == len(done) == len(samples):
        raise EvaluatorError(f"{results.completed_samples} of {len(samples)} samples were completed")
    if sorted(str(each.id) for each in done) != sorted(str(each.id) for each in samples):
        raise EvaluatorError("the log is of other samples than were asked")
    for each in done:
        if each.error is not None or each.error_retries:
            raise EvaluatorError(
                f"sample {each.id!r} failed: {each.error.message if each.error else 'and was retried'}"
            )
        if each.limit is not None:
            raise EvaluatorError(f"sample {each.id!r} met the limit of {each.limit.type}")
        if each.invalidation is not None:
            raise EvaluatorError(f"sample {each.id!r} is marked as invalid")
        for name, score in (each.scores or {}).items():
            if isinstance(score.value, float) and math.isnan(score.value):
                raise EvaluatorError(f"sample {each.id!r} was not scored by '{name}': its score is NaN")
        if not each.scores:
            raise EvaluatorError(f"sample {each.id!r} was not scored")


@contextmanager
def offline() -> Iterator[None]:
    """Let no connection leave this machine meanwhile: a task that fetches something is not the one that is guarded."""
    global _offline  # noqa: PLW0603 - audit hooks are the process's, and so is what they look at
    _refuse_network()
    _offline += 1
    try:
        yield
    finally:
        _offline -= 1


@functools.cache
def _refuse_network() -> None:
    def look(event: str, arguments: tuple[Any, ...]) -> None:
        # an address of a Unix socket is a path; one that leads away is a tuple
        away = event == "socket.getaddrinfo" or (
            event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple)
        )
        if _offline and away:
            raise SubjectError("a task reaches for the network", remedy="take a task whose data are installed")

    sys.addaudithook(look)
