"""How an expression may be changed a little: the operators of mutation, over spans of its text.

After Offutt et al., An Experimental Determination of Sufficient Mutant Operators (1996): relations, logical connectors,
and constants, with what is particular to rules: macros, conditions of a choice, and filters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from harness.explanation import chain
from harness.expression_text import Text

_RELATIONS = {"_<_": ("<=", ">="), "_<=_": ("<", ">"), "_>_": (">=", "<="), "_>=_": (">", "<"),
              "_==_": ("!=",), "_!=_": ("==",)}  # fmt: skip
_ARITHMETIC = {"_+_": "-", "_-_": "+", "_*_": "/", "_/_": "*"}
_MACROS = {"all": "exists", "exists": "all", "exists_one": "exists"}
_LOGIC = {"_&&_": "||", "_||_": "&&"}


class Variant(NamedTuple):
    """An expression with one thing changed."""

    what: str
    offset: int
    text: str


def variants(text: Text) -> Iterator[Variant]:
    """Yield every variant of an expression, each text once; some may not compile."""
    seen = {text.text}
    for variant in _all(text):
        if variant.text not in seen:
            seen.add(variant.text)
            yield variant


def _all(text: Text) -> Iterator[Variant]:
    for node in nodes(text):
        kind = node.WhichOneof("kind")
        if kind == "call":
            yield from _calls(text, node)
        elif kind == "loop":
            yield from _loops(text, node)
        elif kind == "const":
            yield from _constants(text, node)
        if text.tree.is_boolean(node) and kind in ("select", "ident", "loop", "call"):
            start, end = text.span(node)
            yield _replaced(text, "negated", start, end, f"!({text.text[start:end]})")


def nodes(text: Text) -> Iterator[Any]:
    """Yield every node that the author wrote, outer ones first."""
    waiting = [text.tree.root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(list(children(text, node)))


def children(text: Text, node: Any) -> Iterator[Any]:
    """Yield the nodes directly below that the author wrote."""
    if node.HasField("loop"):
        yield node.loop.range
        yield from text.body(node)
    elif node.HasField("call"):
        if node.call.HasField("target"):
            yield node.call.target
        yield from node.call.args
    elif node.HasField("select"):
        yield node.select.operand
    elif node.HasField("list"):
        yield from node.list.elements


def conditions(text: Text) -> Iterator[Any]:
    """Yield the conditions of a rule: what its `&&`, `||`, `!` and `? :` connect, itself where there is none."""
    waiting = [text.tree.root]
    while waiting:
        node = waiting.pop()
        function = node.call.function if node.HasField("call") else ""
        if function in _LOGIC:
            waiting += reversed(list(chain(node)))
        elif function in ("!_", "_?_:_"):
            waiting += reversed(node.call.args)
        elif not node.HasField("const"):
            yield node


def _calls(text: Text, node: Any) -> Iterator[Variant]:
    function, args = node.call.function, node.call.args
    token = text.token(node)
    sign = text.text[slice(*token)]
    for other in _RELATIONS.get(function, ()):
        yield _replaced(text, f"{sign} becomes {other}", *token, other)
    if function in _ARITHMETIC and text.tree.is_number(node):
        yield _replaced(
            text, f"{text.text[slice(*token)]} becomes {_ARITHMETIC[function]}", *token, _ARITHMETIC[function]
        )
    if function in _LOGIC:
        yield _replaced(text, f"{text.text[slice(*token)]} becomes {_LOGIC[function]}", *token, _LOGIC[function])
        # each half of each connector: over a chain, every operand and every run of operands
        for dropped, kept in ((0, 1), (1, 0)):
            start, end = text.span(node)
            what = f"without {text.of(args[dropped])}"
            yield _replaced(text, what, start, end, text.text[slice(*text.wide(args[kept]))])
    if function == "!_":
        start, end = text.span(node)
        yield _replaced(text, "without !", start, end, text.text[slice(*text.wide(args[0]))])
    if function == "_?_:_":
        start, end = text.span(node)
        for what, branch in (("always the first choice", args[1]), ("always the second choice", args[2])):
            yield _replaced(text, what, start, end, f"({text.of(branch)})")


def _loops(text: Text, node: Any) -> Iterator[Variant]:
    macro = text.macro(node)
    opening = text.token(node).start
    if macro in _MACROS:
        start = text.text.rindex(macro, 0, opening)
        yield _replaced(text, f"{macro} becomes {_MACROS[macro]}", start, start + len(macro), _MACROS[macro])
    if macro == "filter":
        start, end = text.span(node)
        yield _replaced(text, "without the filter", start, end, text.text[slice(*text.wide(node.loop.range))])


def _constants(text: Text, node: Any) -> Iterator[Variant]:
    start, end = text.span(node)
    constant = node.const
    kind = constant.WhichOneof("kind")
    if kind not in ("int", "double", "bool"):
        return
    for what, _, shown in other_values(getattr(constant, kind)):
        yield _replaced(text, what, start, end, shown)


def other_values(value: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield what is changed, another value of the same type, and its text: what is beside a number, an empty list."""
    others: list[tuple[str, Any]] = []
    if isinstance(value, bool):
        others = [("the other truth", not value)]
    elif isinstance(value, int):
        others = [("one more", value + 1), ("one less", value - 1)]
    elif isinstance(value, float):
        step = max(abs(value), 1.0) / 1000  # a thousandth: what no case tells apart closer than that is not held
        others = [("a thousandth more", round(value + step, 12)), ("a thousandth less", round(value - step, 12))]
    elif isinstance(value, str):
        others = [("another text", f"{value}~")]
    elif isinstance(value, list):
        others = [("an empty list", [])]
    elif isinstance(value, dict):
        others = [("an empty map", {})]
    for what, other in others:
        yield what, other, json.dumps(other)


def _replaced(text: Text, what: str, start: int, end: int, new: str) -> Variant:
    return Variant(what, start, text.text[:start] + new + text.text[end:])
