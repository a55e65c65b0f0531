"""Facts about compiling and running expressions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.canonical import canonical_bytes
from harness.expression import Environment, Failed, is_identifier, shown
from harness.expression_tree import CompileError
from harness.policy_document import SHAPES, ListOf, Message, Scalar, canonicalise
from harness.policy_test import base_document

PARAMS = Message("Params", {"trusted": ListOf(Scalar("string")), "limit": Scalar("int")})


@pytest.fixture(scope="module")
def environment() -> Environment:
    """Return an environment with all that a decide rule may read."""
    return Environment({**SHAPES["decide"].fields, "params": PARAMS})


def run(environment: Environment, text: str, *, boolean: bool = True, **changes: Any) -> Any:
    """Compile and run on the base document, with parts replaced."""
    values = {**canonicalise("decide", base_document("decide")), "params": {"trusted": ["codegen"], "limit": 3}}
    expression = environment.compile(text, boolean=boolean)
    activation = environment.activation({**values, **changes})
    return expression.holds(activation) if boolean else expression.run(activation)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("proposal.proposer in params.trusted", True),
        ("change.lines_changed <= params.limit", False),
        ("gates['refusal'].verdict == 'pass'", True),
        ("size(gates) > 0 && gates.all(g, gates[g].verdict == 'pass')", True),
        ("candidate.development.accuracy >= 0.5", True),
        ("'gone' in gates ? gates.gone.n > 0 : approvals.size() == 1", True),
    ],
)
def test_rules_read_the_document(environment: Environment, text: str, value: bool) -> None:
    """Fields, lists, maps and params of the document are read as declared."""
    assert run(environment, text) is value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gates.gone.verdict == 'pass'", "gone"),
        ("gates['gone'].n > 0", "gone"),
        ("code.packages[99] == 'x'", "index"),
        ("change.lines_changed / (change.lines_changed - 15) > 0", "divide by zero"),
        ("int(proposal.proposer) > 0", "int"),
    ],
)
def test_a_runtime_error_is_no_boolean(environment: Environment, text: str, why: str) -> None:
    """An error, which the evaluator returns as a truthy value, comes out as Failed with its reason."""
    result = run(environment, text)
    assert isinstance(result, Failed)
    assert why in result.why.lower()


def test_a_missing_integer_is_an_error_and_not_zero(environment: Environment) -> None:
    """A field that is absent at run time makes the rule fail to evaluate; typed evaluation would have read 0."""
    change = canonicalise("decide", base_document("decide"))["change"]
    del change["lines_changed"]
    assert isinstance(run(environment, "change.lines_changed < 100", change=change), Failed)


def test_budget_errors_are_caught(environment: Environment) -> None:
    """An evaluation beyond the evaluator's own budget of iterations, which raises, comes out as Failed."""
    code = {**canonicalise("decide", base_document("decide"))["code"], "packages": ["x"] * 200}
    text = "size(code.packages) > 0 && code.packages.all(a, code.packages.all(b, a == b))"
    assert isinstance(run(environment, text, code=code), Failed)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("proposal.proposr == 'x'", 9, "undefined field 'proposr'"),
        ("true && nonsense", 9, "undeclared reference"),
        ("proposal.number", 1, "type INT, not BOOL"),
        ("proposal.number < 1.0", 17, "no matching overload"),
        ("proposal.proposer.matches('a.*')", 26, "undeclared reference to 'matches'"),
        ("dyn(proposal.number) == 1", 4, "undeclared reference to 'dyn'"),
        ("1 == 1", 1, "reads nothing"),
        ("size(params.trusted) > 0", 1, "reads nothing"),
        ("proposal.number ==", 19, "Syntax error"),
        ("approvals.all(a, a.rol == 'x')", 19, "undefined field 'rol'"),
        ("gates.refusal.verdct == 'pass'", 14, "undefined field 'verdct'"),
        ("params.limt > 0 && proposal.number > 0", 7, "undefined field 'limt'"),
        ("code.parses" + " && code.parses" * 1000, 1, "longer"),
    ],
)
def test_mistakes_are_compile_errors_with_a_column(
    environment: Environment, text: str, column: int, message: str
) -> None:
    """A typo in a field, a wrong type, an excluded function and an empty truth are refused before they run."""
    with pytest.raises(CompileError, match=message) as caught:
        environment.compile(text, boolean=True)
    assert (caught.value.line, caught.value.column) == (1, column)


def test_deep_nesting_is_refused(environment: Environment) -> None:
    """An expression nested beyond the parser's limit is a compile error, and no crash."""
    with pytest.raises(CompileError):
        environment.compile("(" * 1500 + "code.parses" + ")" * 1500, boolean=True)


def test_errors_of_later_lines_have_that_line(environment: Environment) -> None:
    """A mistake on the second line of an expression is placed there."""
    with pytest.raises(CompileError) as caught:
        environment.compile("code.parses\n  && code.parse", boolean=True)
    assert (caught.value.line, caught.value.column) == (2, 10)


def test_variables_are_typed(environment: Environment) -> None:
    """A field misspelt in what a variable holds is a compile error, too."""
    own = Environment({**SHAPES["decide"].fields, "params": PARAMS})
    own.declare("people", own.compile("approvals.filter(a, a.role == 'human')", boolean=False))
    own.compile("size(people) > 0 && people.all(p, p.by != proposal.proposer)", boolean=True)
    with pytest.raises(CompileError, match="undefined field 'bye'"):
        own.compile("size(people) > 0 && people.all(p, p.bye != proposal.proposer)", boolean=True)
    assert "people" in own
    assert "people" not in environment


def test_identifiers_exclude_reserved_words() -> None:
    """A param or variable must be a lower-case word that CEL does not reserve."""
    assert is_identifier("max_lines")
    assert not any(map(is_identifier, ["in", "package", "Max", "a-b", "", "1a", "a b", "é"]))


@given(st.text(max_size=60) | st.text(alphabet="code.parses&|!()<>=+-*/?:[]{}'\"0 1,\n", max_size=40))
def test_any_text_compiles_or_is_a_compile_error(text: str) -> None:
    """No text makes the compiler raise anything but CompileError."""
    try:
        expression = _shared().compile(text, boolean=True)
    except CompileError as error:
        kind = "BOOL" if error.message else "an error without a message"
    else:
        kind = expression.type
    assert kind == "BOOL"


def _shared(cache: list[Environment] = []) -> Environment:  # noqa: B006 - one environment for all examples
    if not cache:
        cache.append(Environment({**SHAPES["screen"].fields, "params": PARAMS}))
    return cache[0]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(Failed("x")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    )
)
def test_what_is_shown_is_bounded_json(value: Any) -> None:
    """Whatever value an evaluation gave, what is recorded of it has canonical bytes."""
    assert len(canonical_bytes(shown(value))) < 1 << 22


def test_long_values_are_shown_cut() -> None:
    """Long texts and lists are cut visibly, and non-finite numbers are spelt out."""
    assert shown("x" * 10_000).endswith("…")
    assert shown(list(range(1000)))[-1] == "…"
    assert shown([[[[["deep"]]]]]) == [[[["…"]]]]
    assert shown(math.nan) == "nan"


def test_a_list_without_an_order_is_given_in_one(environment: Environment) -> None:
    """What was made by walking a map comes out sorted, so that a replay records the same."""
    document = canonicalise("decide", base_document("decide"))
    document["gates"] = {f"g{n}": document["gates"]["accuracy"] for n in range(9)}
    activation = environment.activation({**document, "params": {}})
    expression = environment.compile("gates.map(g, g)", boolean=False)
    assert [expression.run(activation) for _ in range(3)] == [[f"g{n}" for n in range(9)]] * 3


def test_which_entry_of_a_map_failed_is_not_told(environment: Environment) -> None:
    """Of several entries that fail, the one that is met first is chance, so the error names none."""
    document = canonicalise("decide", base_document("decide"))
    activation = environment.activation({**document, "params": {}})
    text = "size(gates) > 0 && gates.all(g, candidate.development[g + '!'] > 0.5)"
    outcome = environment.compile(text, boolean=True).holds(activation)
    assert outcome == Failed("it fails for an entry of a map")
