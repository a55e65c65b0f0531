"""Facts about mutants: which there are, which live, and what the cases have seen."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import policy_test
from harness.explanation import text_of
from harness.expression import Environment
from harness.judge import Judge
from harness.mutants import variants
from harness.policy import check
from harness.policy_document import SHAPES, ListOf, Message, Scalar
from harness.policy_test import SuiteResult

ROOT = Path(__file__).parent.parent
PACKS = [path for path in (ROOT / "policies").glob("*.yaml") if not path.name.endswith(".test.yaml")]
SUBJECTS = [path for path in ROOT.glob("examples/*/policies/*.yaml") if not path.name.endswith(".test.yaml")]
PARAMS = Message("Params", {"trusted": ListOf(Scalar("string")), "ratio": Scalar("double")})

POLICY = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: core, owner: safety}
match: {stage: decide, kinds: all}
params: {lines: 20}
variables:
  - {name: foreign, expr: "code.packages.filter(p, p != 'torch')"}
rules:
  - id: small
    require: |
      change.lines_changed <= params.lines
      && size(foreign) < 2
    otherwise: hold
"""
SUITE = """\
apiVersion: lockgate/v1
kind: PolicyTest
cases:
  - {name: fine, patch: {change.lines_changed: 20}, expect: pass}
  - {name: long, patch: {change.lines_changed: 21}, expect: hold, failed: [small]}
"""


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """Return one warm judge for all tests."""
    with Judge(seconds=60) as judge:
        yield judge


@pytest.fixture
def run(tmp_path: Path, judge: Judge):
    """Return a function that mutates the policy above by the suite above, with changes to either."""

    def run(more: str = "", policy: str = POLICY) -> SuiteResult:
        (tmp_path / "core.yaml").write_text(policy)
        (tmp_path / "core.test.yaml").write_text(SUITE + more)
        (result,) = policy_test.test([tmp_path / "core.yaml"], judge, coverage=True, mutate=True).suites
        return result

    return run


def texts(text: str) -> dict[str, str]:
    """Return what is changed of an expression, by the text that it becomes."""
    environment = Environment({**SHAPES["decide"].fields, "params": PARAMS})
    expression = environment.compile(text, boolean=False, lint=False)
    return {variant.text: variant.what for variant in variants(text_of(expression))}


@pytest.mark.parametrize(
    ("text", "mutants"),
    [
        ("code.parses", {"!(code.parses)"}),
        ("!code.parses", {"code.parses", "!(!code.parses)", "!!(code.parses)"}),
        ("size(gates) > 0", {"size(gates) >= 0", "size(gates) <= 0", "size(gates) > 1", "size(gates) > -1"}),
        ("change.lines_changed == 3", {"change.lines_changed != 3", "change.lines_changed == 4"}),
        ("budgets.wall_seconds_left >= 60.0", {"budgets.wall_seconds_left >= 60.06"}),
        ("code.parses && size(gates) > 0", {"code.parses || size(gates) > 0", "code.parses", "size(gates) > 0"}),
        ("(code.parses || now > 1.0) && now < 9.0", {"(code.parses || now > 1.0)", "(code.parses) && now < 9.0"}),
        ("code.parses && now > 1.0 && now < 9.0", {"now > 1.0 && now < 9.0", "code.parses && now < 9.0"}),
        ("code.parses ? now > 1.0 : now > 2.0", {"(now > 1.0)", "(now > 2.0)"}),
        ("gates.all(g, gates[g].n > 1)", {"gates.exists(g, gates[g].n > 1)", "gates.all(g, gates[g].n >= 1)"}),
        ("code.packages.filter(p, p != 'a')", {"code.packages", "code.packages.filter(p, p == 'a')"}),
        ("'a' in params.trusted", {"!('a' in params.trusted)"}),
        ("code.problem.startsWith('a')", {"!(code.problem.startsWith('a'))"}),
        ("now * 2.0 > 3.0", {"now / 2.0 > 3.0", "now * 2.002 > 3.0"}),
        ("change.lines_changed + 1 < 3", {"change.lines_changed - 1 < 3"}),
    ],
)
def test_the_operators_of_mutation(text: str, mutants: set[str]) -> None:
    """Relations, connectors, constants, negations, choices, macros and filters are changed one at a time."""
    assert mutants <= set(texts(text))


def test_strings_and_joined_texts_are_left_alone() -> None:
    """Nothing turns the sum of two strings into a difference, and no variant is the expression itself."""
    assert texts("'a' + code.problem == 'b'") == {
        "'a' + code.problem != 'b'": "== becomes !=",
        "!('a' + code.problem == 'b')": "negated",
    }


def test_what_no_case_notices_lives_with_its_place(run) -> None:
    """A survivor is told with file, line and column of the change and the whole text as changed."""
    result = run()
    assert not result.ok
    alive = {(mutant.where.rpartition("/")[2], mutant.mutant) for mutant in result.mutants if not mutant.killed}
    whole = "change.lines_changed <= params.lines\n&& size(foreign) "
    assert ("core.yaml:12:24", f"{whole}<= 2\n") in alive
    assert ("core.yaml:12:26", f"{whole}< 3\n") in alive
    assert ("core.yaml:7:54", "code.packages.filter(p, p == 'torch')") in alive
    assert all("params" not in where for where, _ in alive)
    killed = {mutant.mutant for mutant in result.mutants if mutant.killed}
    assert {"lines: 21", "lines: 19", "otherwise: deny"} <= killed


def test_cases_on_both_sides_of_every_bound_kill_all(run) -> None:
    """With the missing bounds said by cases nothing lives, and the suite is ok."""
    more = (
        "  - {name: two, patch: {code.packages: [a, b, torch]}, expect: hold, failed: [small]}\n"
        "  - {name: one, patch: {code.packages: [a, torch, torch]}, expect: pass}\n"
    )
    result = run(more)
    assert [mutant.mutant for mutant in result.mutants if not mutant.killed] == []
    assert result.ok


def test_a_claim_of_equivalence_is_held_to(run) -> None:
    """A survivor that the suite calls equivalent is left out, and a claim about none is a problem."""
    survivors = [mutant for mutant in run().mutants if not mutant.killed]
    claims = "".join(f"  - {{rule: {m.rule}, mutant: {m.mutant!r}, why: w}}\n".replace("'", '"') for m in survivors[:1])
    told = run(f"equivalent:\n{claims}")
    assert [mutant for mutant in told.mutants if not mutant.killed] == survivors[1:]
    assert told.problems == []
    stale = run("equivalent:\n  - {rule: small, mutant: nothing, why: w}\n")
    assert [problem.message for problem in stale.problems] == ["no mutant 'nothing' of small survives"]
    assert not stale.ok


def test_coverage_counts_each_condition(run) -> None:
    """Each operand of a rule is counted as true, false or failing, over the cases in which it ran."""
    seen = {each.text: (each.true, each.false, each.errors) for each in run().coverage}
    assert seen == {"change.lines_changed <= params.lines": (1, 1, 0), "size(foreign) < 2": (2, 0, 0)}


def test_a_mutant_that_only_fails_differently_is_killed(run) -> None:
    """An expression that ends in an error instead of false changes the outcome, and is noticed."""
    policy = POLICY.replace("size(foreign) < 2", "change.knobs[0].name == 'hidden'")
    result = run("", policy)
    index = next(mutant for mutant in result.mutants if "knobs[1]" in mutant.mutant)
    assert index.killed


def test_a_mutant_is_what_a_person_would_get_who_wrote_it(run, tmp_path: Path, judge: Judge) -> None:
    """The policy with a mutant's text in place passes its suite exactly where the mutant is said to live."""
    policy = POLICY.replace(
        "size(foreign) < 2", "(size(foreign) < 2 || code.max_complexity < 3) && !(code.problem != '')"
    )
    told = run("", policy)
    head, _, tail = policy.partition("    require: |\n")
    rest = tail[tail.index("    otherwise") :]
    compared = 0
    for mutant in told.mutants:
        if mutant.rule != "small" or mutant.mutant.startswith("otherwise"):
            continue
        (tmp_path / "core.yaml").write_text(f"{head}    require: {json.dumps(mutant.mutant)}\n{rest}")
        if not check([tmp_path / "core.yaml"]).ok:
            continue  # a lint refuses what the tests are asked about all the same
        (suite,) = policy_test.test([tmp_path / "core.yaml"], judge).suites
        assert all(case.ok for case in suite.cases) != mutant.killed, mutant
        compared += 1
    assert compared > 15


def test_a_suite_that_does_not_pass_is_not_mutated(tmp_path: Path, judge: Judge) -> None:
    """Mutants of a policy whose suite is not ok are not asked about: there is nothing to hold them to."""
    (tmp_path / "core.yaml").write_text(POLICY)
    (tmp_path / "core.test.yaml").write_text(SUITE.replace("expect: hold", "expect: deny"))
    (result,) = policy_test.test([tmp_path / "core.yaml"], judge, mutate=True).suites
    assert not result.ok
    assert result.mutants == []


@pytest.mark.parametrize("pack", [*PACKS, *SUBJECTS], ids=lambda path: path.stem)
def test_no_mutant_of_a_ready_made_policy_lives(pack: Path, judge: Judge) -> None:
    """The suites of the packs and examples notice every small change, and have seen every condition both ways."""
    report = policy_test.test([pack], judge, coverage=True, mutate=True)
    (suite,) = report.suites
    assert suite.mutants
    assert [(each.where, each.text) for each in suite.coverage if not (each.true and each.false)] == []
    assert [(mutant.where, mutant.mutant) for mutant in suite.mutants if not mutant.killed] == []
    assert report.ok


def test_hundreds_of_mutants_take_seconds(tmp_path: Path, judge: Judge) -> None:
    """Sixty rules of twenty conditions, over a thousand mutants, are judged in less time than a person waits."""
    terms = " && ".join(f"change.lines_changed != {n + 100}" for n in range(4))
    rules = "".join(f"  - {{id: r{n}, require: '{terms}', otherwise: deny}}\n" for n in range(60))
    (tmp_path / "core.yaml").write_text(POLICY.partition("params:")[0] + "rules:\n" + rules)
    failed = ", ".join(f"r{n}" for n in range(60))
    cases = "".join(
        f"  - {{name: c{n}, patch: {{change.lines_changed: {n + 100}}}, expect: deny, failed: [{failed}]}}\n"
        for n in range(4)
    )
    (tmp_path / "core.test.yaml").write_text(
        SUITE.partition("cases:")[0] + "cases:\n  - {name: a, expect: pass}\n" + cases
    )
    begun = time.monotonic()
    (result,) = policy_test.test([tmp_path / "core.yaml"], judge, mutate=True).suites
    assert len(result.mutants) > 1000
    assert time.monotonic() - begun < 30
