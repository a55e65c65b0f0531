"""Facts about where the parts of an expression stand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.expression import Environment
from harness.expression_text import Text
from harness.expression_tree import CompileError
from harness.mutants import nodes, variants
from harness.policy_document import SHAPES, ListOf, Message, Scalar

PARAMS = Message("Params", {"trusted": ListOf(Scalar("string")), "ratio": Scalar("double")})
TEXTS = [
    "size(gates) > 0 && (gates.all(g, (gates[g].verdict) == 'pass')) && ((1.5 <= params.ratio) || !(code.parses))",
    "(code.packages).filter(p, !(p in (params.trusted))).size() == 0 ? -3 < 2 : [1,-2].map(x, x+1)[0] == 1",
    (
        "code.packages.exists_one(p, p == 'torch') && code.packages.map(p, p != 'é', p + '!').size() > 0 // 'c\n && "
        'has(gates.accuracy) && \'accuracy\' in gates && -(1.5e3) < .5 && gates["a\\"b"].n>=3'
    ),
    "'''it's''' == code.problem || code.problem == \"\"\"a \"b\" c\"\"\" || code.problem == r'a\\d' || code.problem == ''",
    "(((code.parses)))",
    "code.problem.startsWith('a' + string(size(code.packages)))",
    "{'a': 1}['a'] == 1 && code.parses",
    "0x1F == change.lines_changed && 1e3 > params.ratio",
]


@pytest.fixture(scope="module")
def environment() -> Environment:
    """Return an environment with all that a decide rule may read."""
    return Environment({**SHAPES["decide"].fields, "params": PARAMS})


def compiled(environment: Environment, text: str) -> Text:
    """Return the spans of a text."""
    return Text(environment.compile(text, boolean=False, lint=False).tree)


def parts(environment: Environment, text: str) -> list[str]:
    """Return the text of every part, outer ones first."""
    spans = compiled(environment, text)
    return [spans.of(node) for node in nodes(spans)]


def test_each_part_has_the_text_that_its_author_wrote(environment: Environment) -> None:
    """Operators, macros, calls, keys and literals each have their own text, without the brackets around it."""
    assert parts(environment, TEXTS[0]) == [
        TEXTS[0],
        "size(gates) > 0 && (gates.all(g, (gates[g].verdict) == 'pass'))",
        "size(gates) > 0",
        "size(gates)",
        "gates",
        "0",
        "gates.all(g, (gates[g].verdict) == 'pass')",
        "gates",
        "(gates[g].verdict) == 'pass'",
        "gates[g].verdict",
        "gates[g]",
        "gates",
        "g",
        "'pass'",
        "(1.5 <= params.ratio) || !(code.parses)",
        "1.5 <= params.ratio",
        "1.5",
        "params.ratio",
        "params",
        "!(code.parses)",
        "code.parses",
        "code",
    ]


@pytest.mark.parametrize("text", TEXTS)
def test_every_part_compiles_to_the_part_it_was(environment: Environment, text: str) -> None:
    """A part's text, where it has no loop's variable, compiles alone, to the type that it has in its place."""
    spans = compiled(environment, text)
    loops = {node.loop.variable for node in spans.tree.walk() if node.HasField("loop")}
    for node in nodes(spans):
        names = {each.ident.name for each in spans.tree.walk_from(node) if each.HasField("ident")}
        bound = {each.loop.variable for each in spans.tree.walk_from(node) if each.HasField("loop")}
        if names & loops - bound:
            continue
        again = environment.compile(spans.of(node), boolean=False, lint=False)
        assert (again.type == "BOOL") == spans.tree.is_boolean(node)


@pytest.mark.parametrize("text", TEXTS)
def test_wide_spans_are_balanced_and_hold_their_part(environment: Environment, text: str) -> None:
    """A part with the brackets that group it is balanced, and a call's own brackets are not taken for such."""
    spans = compiled(environment, text)
    for node in nodes(spans):
        wide, span = spans.wide(node), spans.span(node)
        assert wide.start <= span.start < span.end <= wide.end
        around = text[wide.start : span.start].replace(" ", ""), text[span.end : wide.end].replace(" ", "")
        assert around == ("(" * len(around[0]), ")" * len(around[0]))
    assert spans.wide(spans.tree.root) == (0, len(text))


@pytest.mark.parametrize(
    ("text", "bodies"),
    [
        ("code.packages.all(p, p != 'a')", ["p != 'a'"]),
        ("code.packages.exists(p, p != 'a')", ["p != 'a'"]),
        ("code.packages.exists_one(p, p != 'a')", ["p != 'a'"]),
        ("code.packages.filter(p, p != 'a')", ["p != 'a'"]),
        ("code.packages.map(p, p + 'a')", ["p + 'a'"]),
        ("code.packages.map(p, p != 'a', p + 'b')", ["p != 'a'", "p + 'b'"]),
    ],
)
def test_a_macro_gives_back_what_was_written_in_it(environment: Environment, text: str, bodies: list[str]) -> None:
    """Of what the compiler makes of a macro only the author's condition and value are parts."""
    spans: Any = compiled(environment, text)
    assert [spans.of(body) for body in spans.body(spans.tree.root)] == bodies
    assert f".{spans.macro(spans.tree.root)}(" in text


def test_places_count_lines_and_columns_from_one(environment: Environment) -> None:
    """An offset in the second line has that line, and its column in it."""
    spans = compiled(environment, "code.parses\n  && code.parses")
    last = list(nodes(spans))[-1]
    assert spans.place(spans.span(last).start) == (2, 6)


BLANKS = st.sampled_from(["", " ", "\n  ", " // a 'comment' (\n"])
TERMS = st.sampled_from(
    [
        "code.parses", "'torch' in code.packages", "size(gates) > 0", "gates['a\\'b'].n >= -3", "now / 2.0 < 1e3",
        "code.packages.all(p, p != r'\\d')", "has(gates.refusal)", "b'x' == b'\\x78'", "0x1f == change.lines_changed",
        "code.packages.map(p, p.size()).exists(s, s == 5)", "{'k': [1, 2]}['k'][0] == 1", '"""a"b""" == code.problem',
        "timestamp(0) < timestamp('2026-01-01T00:00:00Z')", "proposal.proposer.startsWith('code')", "1u == uint(1)",
        "gates.all(g, gates.exists(h, gates[h].n > gates[g].n))", "-change.lines_changed < 0", "(((true)))",
        "code.packages.filter(p, p.contains('x')).size() == 0", "[(1), (2 + 3)][1] == 5", "'é𝄞' + code.problem != ''",
    ]
)  # fmt: skip
EXPRESSIONS = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.tuples(inner, BLANKS, st.sampled_from(["&&", "||", "==", "!="]), BLANKS, inner).map(
            lambda t: f"({t[0]}){t[1]}{t[2]}{t[3]}({t[4]})"
        ),
        st.tuples(inner, BLANKS, st.sampled_from(["&&", "||"]), BLANKS, inner).map("".join),
        st.tuples(inner, BLANKS).map(lambda t: f"!{t[1]}({t[1]}{t[0]}{t[1]})"),
        st.tuples(inner, inner, inner, BLANKS).map(lambda t: f"({t[0]}) ?{t[3]} ({t[1]}) : {t[3]}({t[2]})"),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_spans_hold_for_any_expression(text: str) -> None:
    """Whatever compiles, each of its parts has a span, which compiles alone to as much as it was."""
    environment = Environment({**SHAPES["decide"].fields, "params": PARAMS})
    try:
        spans = compiled(environment, text)
    except CompileError:  # nested too deeply
        return
    for node in nodes(spans):
        wide = spans.wide(node)
        assert text[wide.start : wide.end].count("(") >= spans.of(node).count("(")
    again = compiled(environment, spans.of(spans.tree.root))
    assert [spans.of(node) for node in nodes(spans)] == [again.of(node) for node in nodes(again)]
    assert all(variant.text != text for variant in variants(spans))
