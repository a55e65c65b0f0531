"""Facts about what the lints refuse, and what they leave."""

from __future__ import annotations

import pytest

from harness.expression import Environment
from harness.expression_tree import CompileError
from harness.policy_document import SHAPES, ListOf, Message, Scalar

PARAMS = Message("Params", {"trusted": ListOf(Scalar("string")), "ratio": Scalar("double")})
RATIO = "double(candidate.bytes) / double(incumbent.bytes)"


@pytest.fixture(scope="module")
def environment() -> Environment:
    """Return an environment with all that a decide rule may read."""
    return Environment({**SHAPES["decide"].fields, "params": PARAMS})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("true || code.parses", "constant"),
        ("code.parses || true", "constant"),
        ("gates.a.verdict == 'pass' || approvals.size() > 0", "operand of \\|\\|"),
        ("approvals.size() > 0 || code.packages[0] == 'x'", "operand of \\|\\|"),
        ("10 / proposal.number > 1 || approvals.size() > 0", "operand of \\|\\|"),
        ("code.parses && (gates.a.n > 1 || approvals.size() > 0)", "operand of \\|\\|"),
        ("code.parses ? (gates.a.n > 1 || approvals.size() > 0) : false", "operand of \\|\\|"),
        ("!(gates.a.verdict == 'pass' && approvals.size() > 5)", "operand of &&"),
        ("(gates.a.verdict == 'pass' && approvals.size() > 5) == false", "operand of &&"),
        ("(gates.a.verdict == 'pass' && approvals.size() > 5) ? false : true", "operand of &&"),
        ("code.packages.exists(p, gates[p].verdict == 'pass')", "body that can fail"),
        ("!(size(code.packages) > 0 && code.packages.all(p, gates[p].n > 0))", "operand of &&|body that can fail"),
    ],
)
def test_hidden_errors_are_refused(environment: Environment, text: str, message: str) -> None:
    """What can fail may not stand where another operand would cover its error."""
    with pytest.raises(CompileError, match=message):
        environment.compile(text, boolean=True)


@pytest.mark.parametrize(
    "text",
    [
        "approvals.all(a, a.role == 'human')",
        "gates.all(g, gates[g].verdict == 'pass')",
        "!approvals.exists(a, a.role == 'robot')",
        "!(approvals.exists(a, a.role == 'robot') || code.parses)",
        "size(gates) > 0 && approvals.all(a, a.role == 'human')",
        "approvals.filter(a, a.by != '').all(a, a.role == 'human')",
        "code.parses ? approvals.all(a, a.role == 'human') : false",
    ],
)
def test_truths_about_empty_lists_need_a_word_on_size(environment: Environment, text: str) -> None:
    """`all` and a negated `exists` are refused unless the rule says something about the size of that very list."""
    with pytest.raises(CompileError, match="empty list"):
        environment.compile(text, boolean=True)


@pytest.mark.parametrize(
    "text", [f"!({RATIO} > params.ratio)", f"{RATIO} != 1.0", f"({RATIO} > params.ratio) == false"]
)
def test_comparisons_that_nan_would_pass_are_refused(environment: Environment, text: str) -> None:
    """A negated comparison, or an inequality, of a computed number is refused: 0.0 / 0.0 would pass it."""
    with pytest.raises(CompileError, match="NaN"):
        environment.compile(text, boolean=True)


@pytest.mark.parametrize(
    "text",
    [
        "size(approvals) > 0 && approvals.all(a, a.role == 'human')",
        "approvals.size() == 0 || approvals.all(a, a.role == 'human')",
        "size(approvals) == 0 || !approvals.exists(a, a.role == 'robot')",
        "size(gates) > 0 && gates.all(g, gates[g].verdict == 'pass')",
        "gates.exists(g, gates[g].verdict == 'pass')",
        "params.trusted.all(t, t in code.packages)",
        "['torch', 'numpy'].all(t, t in code.packages)",
        f"{RATIO} <= params.ratio",
        "!(candidate.development.size() > 3) && code.parses",
        "'a' in gates ? gates.a.verdict == 'pass' : size(approvals) > 1",
        "gates.a.verdict == 'pass' && (code.parses || size(approvals) > 1)",
        "approvals.exists_one(a, a.role == 'human')",
        "has(gates.a) && gates.a.n > 10",
    ],
)
def test_sound_rules_are_left_alone(environment: Environment, text: str) -> None:
    """Rules that cannot admit by accident compile."""
    assert environment.compile(text, boolean=True).type == "BOOL"


def test_own_keys_hold_only_for_the_map_looped_over(environment: Environment) -> None:
    """A key of one map is not taken for a key of another, nor where one name serves two loops."""
    with pytest.raises(CompileError, match="body that can fail"):
        environment.compile("gates.exists(g, candidate.development[g] > 0.0)", boolean=True)
    two = "gates.exists(k, candidate.development.exists(k, gates[k].n > 0))"
    with pytest.raises(CompileError, match="body that can fail"):
        environment.compile(two, boolean=True)


def test_reads_are_the_paths_outside_of_loops(environment: Environment) -> None:
    """The recorded reads are whole paths in the order of the text, without loop variables."""
    text = "change.lines_changed < 9 && size(approvals) > 0 && approvals.all(a, a.by != proposal.proposer)"
    expression = environment.compile(text, boolean=True)
    assert expression.reads == ["change.lines_changed", "approvals", "proposal.proposer"]
    assert {"change", "approvals", "proposal"} <= expression.names


def test_a_lint_names_its_place(environment: Environment) -> None:
    """A refusal has the line and column of the operator that is refused."""
    with pytest.raises(CompileError) as caught:
        environment.compile("code.parses &&\n (code.parses || true)", boolean=True)
    assert (caught.value.line, caught.value.column) == (2, 15)


FAILED = "gates.filter(g, gates[g].verdict != 'pass')"


@pytest.mark.parametrize(
    "text",
    [
        f"{FAILED}[0]",
        f"'lost ' + {FAILED}[0]",
        f"{FAILED} == ['refusal']",
        f"(code.parses ? {FAILED} : params.trusted)[0]",
        f"({FAILED} + params.trusted)[0]",
        f"{FAILED}.map(g, g + '!')[0]",
        "code.packages.map(p, gates.map(g, g))[0][0]",
        "gates.map(g, gates[g].mean)[0]",
        "{'a': gates.map(g, g)}['a']",
        "failed[0]",
        "'lost ' + failed[0]",
        "failed.map(f, f)[0]",
    ],
)
def test_the_order_of_a_map_may_not_show(environment: Environment, text: str) -> None:
    """What would pick an element of a list made by walking a map is refused, also through a variable."""
    environment.declare("failed", environment.compile(FAILED, boolean=False))
    with pytest.raises(CompileError, match="no fixed order"):
        environment.compile(text, boolean=False)


@pytest.mark.parametrize(
    "text",
    [
        f"size({FAILED}) == 0",
        f"'refusal' in {FAILED}",
        f"{FAILED}.exists(g, g == 'refusal')",
        "size(failed) == 0",
        "failed",
        "code.packages.filter(p, p != 'os')[0]",
        "gates['refusal'].verdict",
        "code.packages.filter(p, p in gates)[0]",
    ],
)
def test_questions_without_an_order_are_left_alone(environment: Environment, text: str) -> None:
    """Counting, asking, keeping such a list, and picking from a list that has an order, all compile."""
    environment.declare("failed", environment.compile(FAILED, boolean=False))
    environment.compile(text, boolean=False)
