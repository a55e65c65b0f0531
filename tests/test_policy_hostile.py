"""Facts about hostile policies, documents and suites: none crashes, hangs or admits, and each is told once.

What is told is one error that a person can act on: it names a place and says what to do. Each case is named by its defect.
"""

from __future__ import annotations

import copy
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import policy_test
from harness.judge import Judge
from harness.policy import check, policy_set_of
from harness.policy_file import PolicySource
from harness.policy_suite import base_document

HEAD = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: core, owner: safety}
match: {stage: decide, kinds: all}
"""
SOUND = HEAD + "rules:\n  - {id: parses, require: code.parses, otherwise: deny}\n"
SECONDS = 4.0


def rule(require: str, more: str = "", before: str = "") -> str:
    """Return a policy with one rule, its expression in double quotes."""
    quoted = json.dumps(require)
    return f"{HEAD}{before}rules:\n  - id: r\n    require: {quoted}\n    otherwise: deny\n{more}"


def deep(opening: str, closing: str, count: int) -> str:
    """Return brackets in brackets."""
    return opening * count + closing * count


REFUSED: dict[str, str | bytes] = {
    # the file is not the YAML that it seems
    "an empty file": "",
    "only a comment": "# nothing\n",
    "tabs for blanks": SOUND.replace("  - {id", "\t- {id"),
    "a byte order mark in the middle": SOUND.replace("kind:", "\ufeffkind:"),
    "a NUL": SOUND.replace("safety", "saf\0ety"),
    "an escaped NUL": SOUND.replace("safety", '"saf\\0ety"'),
    "an escaped surrogate": SOUND.replace("safety", '"\\ud800"'),
    "an escape beyond Unicode": SOUND.replace("safety", '"\\UFFFFFFFF"'),
    "bytes that are not UTF-8": SOUND.encode().replace(b"safety", b"saf\xffety"),
    "UTF-16": SOUND.encode("utf-16"),
    "a billion laughs": "a: &a [x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n" + SOUND,
    "an alias of itself": "a: &a [*a]\n" + SOUND,
    "a merge key": SOUND.replace("match: {", "match: {<<: {stage: screen}, "),
    "a tag that would call Python": SOUND.replace("safety", "!!python/object/apply:os.system [x]"),
    "a tag of its own": SOUND.replace("safety", "!owner safety"),
    "duplicate keys": SOUND + "rules: []\n",
    "a duplicate key in a rule": SOUND.replace("otherwise: deny", "otherwise: deny, otherwise: hold"),
    "an unclosed bracket": SOUND.replace("decide, kinds: all}", "decide, kinds: all"),
    "an unclosed quote": SOUND.replace("safety}", "'safety}"),
    "a colon in plain text": SOUND.replace("rules:", "params: {a: 1}\nnote: this: that\nrules:"),
    "brackets a hundred thousand deep": "a: " + deep("[", "]", 100_000) + "\n" + SOUND,
    "maps forty deep": "a: " + deep("{a: ", "}", 40) + "\n" + SOUND,
    "a file of half a megabyte": SOUND + "#" * 600_000,
    "a list where a mapping is": "- a\n- b\n",
    "a key that is a number": SOUND + "7: x\n",
    "a key that is a list": SOUND + "? [a]\n: x\n",
    # values that other readers of YAML see otherwise
    "no for a boolean": SOUND.replace("kinds: all", "kinds: no"),
    "an octal": SOUND.replace("rules:", "params: {a: 010}\nrules:"),
    "an integer of seventy bits": SOUND.replace("rules:", f"params: {{a: {2**70}}}\nrules:"),
    "an integer of a million digits": SOUND.replace("rules:", f"params: {{a: {'9' * 100_000}}}\nrules:"),
    "infinity": SOUND.replace("rules:", "params: {a: .inf}\nrules:"),
    "not a number": SOUND.replace("rules:", "params: {a: .nan}\nrules:"),
    "a float beyond floats": SOUND.replace("rules:", "params: {a: 1e999}\nrules:"),
    "a param of null": SOUND.replace("rules:", "params: {a: null}\nrules:"),
    "a param of mixed kinds": SOUND.replace("rules:", "params: {a: [1, 1.0]}\nrules:"),
    "a param of lists of lists": SOUND.replace("rules:", "params: {a: [[1]]}\nrules:"),
    "an empty param": SOUND.replace("rules:", "params: {a: []}\nrules:"),
    "a param that no rule can name": SOUND.replace("rules:", "params: {a-b: 1}\nrules:"),
    # the structure would let something through
    "no rules": HEAD + "rules: []\n",
    "a failure policy": SOUND.replace("otherwise: deny", "otherwise: deny, failurePolicy: Ignore"),
    "an unknown consequence": SOUND.replace("otherwise: deny", "otherwise: allow"),
    "no consequence": SOUND.replace(", otherwise: deny", ""),
    "another version": SOUND.replace("lockgate/v1", "lockgate/v9"),
    "no kinds": SOUND.replace("kinds: all", "kinds: []"),
    "a kind that is none": SOUND.replace("kinds: all", "kinds: [wishes]"),
    "a rule's id twice": SOUND + "  - {id: parses, require: code.parses, otherwise: deny}\n",
    "a policy's name twice": SOUND + "---\n" + SOUND.replace("parses,", "other,", 1),
    "a misspelt key": SOUND.replace("require:", "requires:"),
    "more than a thousand rules": HEAD + "rules:\n" + "".join(
        f"  - {{id: r{n}, require: code.parses, otherwise: deny}}\n" for n in range(1_001)),
    # names that stand for something else
    "a variable that shadows the document": rule("code.parses", before="variables: [{name: gates, expr: '1'}]\n"),
    "a variable that shadows params": rule("code.parses", before="variables: [{name: params, expr: '1'}]\n"),
    "a variable twice": rule("code.parses", before="variables: [{name: a, expr: '1'}, {name: a, expr: '2'}]\n"),
    "a variable that reads itself": rule("code.parses", before="variables: [{name: a, expr: 'a + 1'}]\n"),
    "variables that read each other": rule(
        "code.parses", before="variables: [{name: a, expr: 'b1 + 1'}, {name: b1, expr: 'size(gates)'}]\n"),
    "a reserved word": rule("code.parses", before="variables: [{name: for, expr: '1'}]\n"),
    "the accumulator's own name": rule("size(@result) == 0"),
    # expressions
    "an unknown field": rule("change.line_changed < 3"),
    "an unknown function": rule("exec(code.problem)"),
    "an unknown root": rule("env.HOME == ''"),
    "a pattern that takes for ever": rule("code.problem.matches('(a+)+$')"),
    "an escape from types": rule("dyn(code) == 1"),
    "a rule that is no boolean": rule("change.lines_changed"),
    "a rule that is always true": rule("1 == 1"),
    "an error hidden by or": rule("gates.a.n > 0 || true"),
    "an error hidden by a condition": rule("gates.a.n > 0 || code.parses"),
    "all of an empty list": rule("approvals.all(a, a.role == 'human')"),
    "NaN by a negation": rule("!(now / 0.0 < 1.0)"),
    "NaN by an inequality": rule("now / 0.0 != 1.0"),
    "an int and a double": rule("now > 1"),
    "an assignment": rule("code.parses = true"),
    "a word of another language": rule("code.parses and code.parses"),
    "no expression": HEAD + "rules: [{id: r, require: '', otherwise: deny}]\n",
    "an unclosed string": rule("code.problem == 'a"),
    "a NUL in an expression": rule("code.problem == '\0'"),
    "brackets a thousand deep": rule(deep("(", ")", 1000).replace("()", "(code.parses)")),
    "lists nested deep": rule(f"size({deep('[', ']', 500)}) == 0 && code.parses"),
    "four thousand negations": rule("!" * 4001 + "code.parses"),
    "fifty thousand terms": rule(" && ".join(["code.parses"] * 50_000)),
    "a choice two hundred deep": rule("code.parses ? true : " * 200 + "code.parses"),
    "a literal beyond 64 bits": rule(f"change.lines_changed < {2**70}"),
    "the first of a map's entries": rule("gates.map(g, g)[0] == 'a'"),
    "a message that is no string": rule("code.parses", "    messageExpr: size(gates)\n"),
    "a message that shows a map's order": rule("code.parses", '    messageExpr: "gates.map(g, g)[0]"\n'),
    "an audit value with a typo": rule("code.parses", "    audit: {a: code.pars}\n"),
}  # fmt: skip


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """Return one judge for all that is judged here; it is replaced whenever it dies."""
    with Judge(seconds=SECONDS) as judge:
        yield judge


@pytest.mark.parametrize("defect", REFUSED)
def test_a_hostile_policy_is_one_error_with_place_and_remedy(tmp_path: Path, defect: str) -> None:
    """Each is refused within seconds by one problem with file, line, column and what to do."""
    path = tmp_path / "core.yaml"
    text = REFUSED[defect]
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    begun = time.monotonic()
    report = check([path])
    assert time.monotonic() - begun < 10
    assert not report.ok
    (problem,) = report.problems
    assert re.fullmatch(r"core\.yaml:[0-9]+:[0-9]+", problem.where.rpartition("/")[2]), problem
    assert problem.remedy, problem
    assert len(problem.message) < 1000


@pytest.mark.parametrize(
    ("text", "value"), [("no", "no"), ("off", "off"), ("1e-3", 0.001), ("0o17", 15), ("1_000", "1_000"), ("2026-01-01", "2026-01-01")]
)  # fmt: skip
def test_a_scalar_means_one_thing(tmp_path: Path, text: str, value: object) -> None:
    """What readers of YAML disagree on is read by the core schema alone, with its type."""
    (tmp_path / "core.yaml").write_text(SOUND.replace("rules:", f"params: {{a: {text}}}\nrules:"))
    report = check([tmp_path / "core.yaml"])
    assert report.ok, report
    assert report.policies[0].params["a"] == value
    assert type(report.policies[0].params["a"]) is type(value)


def cyclic() -> Any:
    """Return a document that holds itself."""
    document = base_document("decide")
    document["gates"]["refusal"] = document
    return document


def nested(count: int) -> Any:
    """Return maps in maps."""
    value: Any = {}
    for _ in range(count):
        value = {"a": value}
    return value


def changed(*path: str, to: Any) -> Callable[[], Any]:
    """Return a function that makes a sound document with one part replaced."""

    def make() -> Any:
        document: Any = copy.deepcopy(base_document("decide"))
        place = document
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = to
        return document

    return make


def without(*path: str) -> Callable[[], Any]:
    """Return a function that makes a sound document that lacks one part."""

    def make() -> Any:
        document: Any = base_document("decide")
        place = document
        for part in path[:-1]:
            place = place[part]
        del place[path[-1]]
        return document

    return make


class Sly(dict[str, Any]):
    """A map that says one thing to the first reader and another to the second."""

    def __getitem__(self, key: str) -> Any:
        """Pass once."""
        raise RuntimeError("code of the document ran")


DOCUMENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "must be a map"),
    "a list": (list, "must be a map"),
    "an empty map": (dict, "missing"),
    "no gates": (without("gates"), "document.gates: is missing"),
    "no verdict": (without("gates", "refusal", "verdict"), "document.gates.refusal.verdict: is missing"),
    "no history": (without("history"), "document.history: is missing"),
    "no time": (without("now"), "document.now: is missing"),
    "an unknown field": (changed("proposal", "trusted", to=True), "document.proposal.trusted"),
    "an unknown part": (changed("admit", to=True), "document.admit"),
    "a key that is no string": (changed("proposal", 7, to=1), "document.proposal (a key)"),  # type: ignore[arg-type]
    "a boolean for an integer": (changed("gates", "refusal", "n", to=True), "document.gates.refusal.n"),
    "an integer for a boolean": (changed("code", "parses", to=1), "document.code.parses"),
    "a string for a number": (changed("gates", "refusal", "mean", to="0.9"), "document.gates.refusal.mean"),
    "the word NaN": (changed("gates", "refusal", "mean", to="NaN"), "document.gates.refusal.mean"),
    "NaN": (changed("gates", "refusal", "mean", to=math.nan), "finite"),
    "infinity": (changed("now", to=math.inf), "finite"),
    "an integer of seventy bits": (changed("change", "lines_changed", to=2**70), "2^53"),
    "an integer beyond floats": (changed("now", to=10**400), "2^53"),
    "less than nothing": (changed("budgets", "promotions_left", to=-1), "out of its range"),
    "time before 1970": (changed("now", to=-1.0), "out of its range"),
    "longer ago than never": (changed("history", "seconds_since_rollback", to=1e10), "out of its range"),
    "a verdict that is none": (changed("gates", "refusal", "verdict", to="passed"), "must be one of"),
    "a verdict with a NUL": (changed("gates", "refusal", "verdict", to="pass\0fail"), "NUL"),
    "a name with a NUL": (changed("proposal", "proposer", to="alice\0evil"), "NUL"),
    "a gate's name with a NUL": (changed("gates", "a\0", to={}), "NUL"),
    "a lone surrogate": (changed("code", "problem", to="\ud800"), "surrogate"),
    "a text of a megabyte": (changed("code", "problem", to="x" * 1_000_000), "longer than"),
    "texts of megabytes": (changed("code", "packages", to=["x" * 19_000] * 200), "characters of text"),
    "ten thousand items": (changed("code", "packages", to=["x"] * 10_000), "items"),
    "a tuple": (changed("code", "packages", to=("torch",)), "must be a list"),
    "bytes": (changed("code", "problem", to=b"x"), "must be a string"),
    "a document in itself": (cyclic, "document.gates.refusal"),
    "maps a hundred thousand deep": (lambda: nested(100_000), "document"),
    "depth in a field": (changed("code", "problem", to=nested(100_000)), "document.code.problem"),
    "a map with code of its own": (lambda: Sly(base_document("decide")), "must be a map"),
    "an object": (object, "must be a map"),
}


@pytest.mark.parametrize("defect", DOCUMENTS)
def test_a_hostile_document_is_invalid_with_its_place(judge: Judge, defect: str) -> None:
    """Each is invalid before any rule reads it, with one reason that names the place and says what must be."""
    make, told = DOCUMENTS[defect]
    policies = policy_set_of([PolicySource(name="core.yaml", text=SOUND)])
    judgement = judge.decide(policies, "decide", "code", make())
    assert judgement.outcome == "invalid"
    assert judgement.verdicts == []
    assert judgement.reason.startswith("malformed document: ")
    assert "document" in judgement.reason
    assert told in judgement.reason


def doubled(times: int, start: str) -> str:
    """Return variables, each the one before twice."""
    lines = [f'  - {{name: v0, expr: "{start}"}}']
    lines += [f"  - {{name: v{n}, expr: v{n - 1} + v{n - 1}}}" for n in range(1, times + 1)]
    return "variables:\n" + "\n".join(lines) + "\n"


BIG = "[1,2,3,4,5,6,7,8,9,10]"
RUNAWAYS = {
    "a string of gigabytes": rule("size(v40) > 0 && code.parses", before=doubled(40, "code.problem + 'xxxxxxxx'")),
    "a list of gigabytes": rule("size(v40) > 0 && code.parses", before=doubled(40, "code.packages + code.packages")),
    "ten to the tenth steps": rule(
        "size(gates) > 0 && " + "".join(f"{BIG}.all(a{n}, " for n in range(10)) + "code.parses" + ")" * 10),
    "ten to the tenth items": rule(
        "size(" + "".join(f"{BIG}.map(a{n}, " for n in range(10)) + "code.parses" + ")" * 10 + ") > 0 && code.parses"),
}  # fmt: skip


@pytest.mark.parametrize("defect", RUNAWAYS)
def test_a_runaway_is_stopped_and_admits_nothing(judge: Judge, defect: str) -> None:
    """Each ends by the deadline or the evaluator's own limits, is invalid with a reason, and the next is judged."""
    policies = policy_set_of([PolicySource(name="core.yaml", text=RUNAWAYS[defect])])
    begun = time.monotonic()
    judgement = judge.decide(policies, "decide", "code", base_document("decide"))
    assert time.monotonic() - begun < SECONDS + 5
    assert judgement.outcome == "invalid"
    assert judgement.reason
    sound = policy_set_of([PolicySource(name="core.yaml", text=SOUND)])
    assert judge.decide(sound, "decide", "code", base_document("decide")).outcome == "pass"


FAILING = {
    "a gate that is not there": ("gates.nothing.verdict == 'pass'", "nothing"),
    "an index beyond the end": ("code.packages[99] == 'x'", "99"),
    "a division by zero": ("change.lines_changed / 0 == 1", "zero"),
    "a text that is no number": ("int(code.problem + 'x') > 0", ""),
    "an overflow": ("change.lines_changed + 9223372036854775807 > 0", "overflow"),
    "a variable that fails": ("broken > 0", "broken"),
}


@pytest.mark.parametrize("defect", FAILING)
def test_a_rule_that_fails_is_invalid_and_says_why(judge: Judge, defect: str) -> None:
    """An error at judging is neither true nor false: the outcome is invalid, with the rule and the error."""
    require, told = FAILING[defect]
    before = "variables: [{name: broken, expr: gates.nothing.n}]\n" if "broken" in require else ""
    policies = policy_set_of([PolicySource(name="core.yaml", text=rule(require, before=before))])
    judgement = judge.decide(policies, "decide", "code", base_document("decide"))
    assert judgement.outcome == "invalid"
    assert judgement.reason.startswith("core/r: ")
    assert told in judgement.reason


GROWING = doubled(40, "code.problem + 'xxxxxxxx'")
ASIDE = {
    "a message of gigabytes": "    messageExpr: v40\n",
    "an audit value of gigabytes": "    audit: {a: v40}\n",
    "a message that fails": '    messageExpr: "gates.nothing.verdict"\n',
    "a message that divides by zero": "    messageExpr: string(change.lines_changed / 0)\n",
    "an audit value that fails": "    audit: {a: gates.nothing.n}\n",
    "an audit value of a hundred thousand characters": "    audit: {a: code.problem + code.problem}\n",
    "a hundred audit values": "    audit: {" + ", ".join(f"a{n}: code.problem" for n in range(100)) + "}\n",
}  # fmt: skip


@pytest.mark.parametrize("defect", ASIDE)
def test_what_is_told_aside_changes_no_verdict(judge: Judge, defect: str) -> None:
    """A message or audit value that fails, or is huge, is cut or told as such; the verdict stands, and can be logged."""
    document = base_document("decide")
    document["code"]["problem"] = "x" * 15_000
    before = GROWING if "v40" in ASIDE[defect] else ""
    for parses, outcome in ((True, "pass"), (False, "deny")):
        document["code"]["parses"] = parses
        policies = policy_set_of([PolicySource(name="core.yaml", text=rule("code.parses", ASIDE[defect], before))])
        judgement = judge.decide(policies, "decide", "code", document)
        assert judgement.outcome == outcome
        assert len(json.dumps(judgement.json_value())) < 100_000


SUITE = "apiVersion: lockgate/v1\nkind: PolicyTest\ncases:\n"
SUITES = {
    "no cases": SUITE.replace("cases:", "cases: []"),
    "a base that rests on itself": SUITE.replace("cases:", "bases: {a: {base: a}}\ncases:")
    + "  - {name: x, base: a, expect: pass}\n",
    "a path that leads nowhere": SUITE + "  - {name: x, patch: {a.b.c: 1}, expect: pass}\n",
    "a path beyond a list": SUITE + "  - {name: x, patch: {code.packages.99999999999: a}, expect: pass}\n",
    "a rule that is none": SUITE + "  - {name: x, expect: deny, failed: [nothing]}\n",
    "an outcome that is none": SUITE + "  - {name: x, expect: admit}\n",
    "a misspelt key": SUITE + "  - {name: x, expects: pass}\n",
    "anchors": SUITE + "  - &a {name: x, expect: pass}\n  - *a\n",
    "a param that is none": SUITE.replace("cases:", "params: {zebra: 1}\ncases:") + "  - {name: x, expect: pass}\n",
}


@pytest.mark.parametrize("defect", SUITES)
def test_a_hostile_suite_fails_with_place_and_remedy(tmp_path: Path, judge: Judge, defect: str) -> None:
    """A suite that proves nothing is not ok, and its first problem names the place and what to do."""
    (tmp_path / "core.yaml").write_text(SOUND)
    (tmp_path / "core.test.yaml").write_text(SUITES[defect])
    (result,) = policy_test.test([tmp_path / "core.yaml"], judge, mutate=True).suites
    assert not result.ok
    problem = result.problems[0]
    assert re.search(r"core(\.test)?\.yaml:[0-9]+:[0-9]+$", problem.where), problem
    assert problem.remedy, problem


def test_there_are_more_than_sixty_of_each_name_one() -> None:
    """Every defect has a name of its own, and there are many."""
    names = [*REFUSED, *(f"document: {name}" for name in DOCUMENTS), *RUNAWAYS, *FAILING, *ASIDE, *SUITES]
    assert len(names) > 120
