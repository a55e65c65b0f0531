"""Facts about what an author is told to write instead."""

from __future__ import annotations

import pytest

from harness.expression import Environment
from harness.expression_tree import CompileError
from harness.policy_document import SHAPES, ListOf, Message, Scalar

PARAMS = Message("Params", {"max_lines": Scalar("int"), "trusted": ListOf(Scalar("string")), "ratio": Scalar("double")})


@pytest.fixture(scope="module")
def environment() -> Environment:
    """Return an environment with all that a decide rule may read, params and one variable."""
    environment = Environment({**SHAPES["decide"].fields, "params": PARAMS})
    environment.declare("humans", environment.compile("approvals.filter(a, a.role == 'human')", boolean=False))
    return environment


@pytest.mark.parametrize(
    ("text", "column", "remedy"),
    [
        ("change.line_changed > 1", 7, "did you mean change.lines_changed?"),
        ("chang.lines_changed > 1", 6, "did you mean change.lines_changed?"),
        ("lines_changed > 1", 1, "did you mean change.lines_changed?"),
        ("change.max_complexity > 1", 7, "did you mean code.max_complexity?"),
        ("max_lines > 1", 1, "did you mean params.max_lines?"),
        ("change.lines_changed < params.max_line", 30, "did you mean params.max_lines?"),
        ("change.lines_changed < params.zebra", 30, "there is params.max_lines, params.trusted, params.ratio"),
        ("gates.refusal.verdit == 'pass'", 14, "did you mean gates.refusal.verdict?"),
        ("gates['a b'].verdit == 'pass'", 13, "did you mean gates['a b'].verdict?"),
        ("size(human) > 0", 6, "did you mean humans?"),
        ("siz(gates) > 0", 4, "did you mean size?"),
        ("len(gates) > 0", 4, "write size(x)"),
        ("zebra > 1", 1, "a rule reads"),
        ("code.packages.exist(p, p == 'a')", 21, "did you mean exists(p, …)?"),
        ("code.problem.matches('a.*')", 21, "startsWith"),
        ("code.packages.contains('os')", 23, "item in list"),
        ("change.lines_changed <= params.ratio", 22, "double(x)"),
        ("gates.a.mean > 1", 14, "5.0 for 5"),
        ("code.problem == 1", 14, "two values of one type"),
        ("code.parses && change.lines_changed", 13, "only booleans"),
        ("'a' + change.lines_changed == ''", 5, "string(x)"),
        ("code.parses = true", 13, "write == to compare"),
        ("code.parses and code.parses", 13, "write && for and"),
        ("not code.parses", 5, "write ! for not"),
        ("code.parses & code.parses", 13, "write && or ||"),
        ("code.parses &&", 15, "ends too early"),
        ("change.lines_changed", 1, "compare it with something"),
        ("1 == 1", 1, "read a field"),
    ],
)
def test_a_mistake_is_told_with_what_to_write(environment: Environment, text: str, column: int, remedy: str) -> None:
    """Each common mistake has its column and a remedy that names what was probably meant."""
    with pytest.raises(CompileError) as caught:
        environment.compile(text, boolean=True)
    assert remedy in (caught.value.remedy or "")
    assert caught.value.column == column
