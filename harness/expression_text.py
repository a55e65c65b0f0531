"""Where each part of an expression stands in its text: from the compiler's offsets to whole spans.

The compiler gives one offset for each node, that of its operator or opening bracket. Spans follow from the tokens
around it, so that a part can be shown, or replaced, as its author wrote it.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, NamedTuple

from harness.expression_tree import Tree, path_of

# CEL's lexis (cel-spec langdef.md, Syntax): strings, numbers, names, operators of two characters, anything else
_STRING = (
    r"[rRbB]{0,2}(?:'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\""
    r"|'(?:[^\\'\n]|\\.)*'|\"(?:[^\\\"\n]|\\.)*\")"
)
_NUMBER = r"0[xX][0-9a-fA-F]+[uU]?|[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?[uU]?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
_TOKEN = re.compile(rf"(?:\s+|//[^\n]*)|(?P<token>{_STRING}|{_NUMBER}|[A-Za-z_]\w*|&&|\|\||[<>=!]=|.)", re.DOTALL)
_OPEN, _CLOSE = "([{", ")]}"


class Span(NamedTuple):
    """A piece of a text, by offsets."""

    start: int
    end: int


class Text:
    """The spans of a compiled expression."""

    def __init__(self, tree: Tree) -> None:
        """Read the tokens; the expression has compiled, so its brackets match."""
        self.tree = tree
        self.text = tree.text
        self._tokens = [Span(*found.span("token")) for found in _TOKEN.finditer(self.text) if found["token"]]
        self._at = {token.start: index for index, token in enumerate(self._tokens)}
        self._match: dict[int, int] = {}
        waiting: list[int] = []
        for index, token in enumerate(self._tokens):
            if self.text[token.start] in _OPEN and token.end - token.start == 1:
                waiting.append(index)
            elif self.text[token.start] in _CLOSE and waiting:
                self._match[waiting.pop()] = index

    @cached_property
    def _closed_by(self) -> dict[int, int]:
        return {close: opening for opening, close in self._match.items()}

    def token(self, node: Any) -> Span:
        """Return the token at a node's own offset: its operator, name, literal or opening bracket."""
        return self._tokens[self._at[self.tree.offset(node)]]

    def of(self, node: Any) -> str:
        """Return a node's text."""
        start, end = self.span(node)
        return self.text[start:end]

    def span(self, node: Any) -> Span:
        """Return where a node that its author wrote stands, without brackets around it."""
        index = self._at[self.tree.offset(node)]
        kind = node.WhichOneof("kind")
        token = self._tokens[index]
        if kind == "ident":
            return token
        if kind == "const":
            return Span(token.start, self._tokens[index + 1].end) if self._word(index) == "-" else token
        if kind in ("list", "struct"):
            return Span(token.start, self._tokens[self._match[index]].end)
        if kind == "loop":
            return Span(self.wide(node.loop.range).start, self._tokens[self._match[index]].end)
        if kind == "select":
            if self._word(index) == "(":  # has(...)
                return Span(self._tokens[index - 1].start, self._tokens[self._match[index]].end)
            return Span(self.wide(node.select.operand).start, self._tokens[index + 1].end)
        call = node.call
        if call.function in ("!_", "-_"):
            return Span(token.start, self.wide(call.args[0]).end)
        if call.function == "_[_]":
            return Span(self.wide(call.args[0]).start, self._tokens[self._match[index]].end)
        if self._word(index) == "(":
            start = self.wide(call.target).start if call.HasField("target") else self._tokens[index - 1].start
            return Span(start, self._tokens[self._match[index]].end)
        return Span(self.wide(call.args[0]).start, self.wide(call.args[-1]).end)

    def wide(self, node: Any) -> Span:
        """Return where a node stands, with the brackets that group it."""
        start, end = self.span(node)
        ends = {token.end: index for index, token in enumerate(self._tokens)}
        first, last = self._at[start], ends[end]
        while self._match.get(first - 1) == last + 1 and self._word(first - 1) == "(" and self._groups(first - 1):
            first, last = first - 1, last + 1
        return Span(self._tokens[first].start, self._tokens[last].end)

    def macro(self, node: Any) -> str:
        """Return the name of the macro that a loop was written as."""
        return self._word(self._at[self.tree.offset(node)] - 1)

    def body(self, node: Any) -> list[Any]:
        """Return what the author wrote inside of a macro: the condition, the value, or both."""
        step = node.loop.step.call
        if step.function in ("_&&_", "_||_"):
            return [_strictly(step.args[1])]
        if step.function == "_?_:_":
            kept = step.args[1].call
            values = [each for each in kept.args[1:] if each.HasField("list")] if kept.function == "_+_" else []
            made = [value.list.elements[0] for value in values]
            own = [each for each in made if not (self.macro(node) == "filter" and path_of(each) == node.loop.variable)]
            return [step.args[0], *own]
        return [step.args[1].list.elements[0]]

    def place(self, offset: int) -> tuple[int, int]:
        """Return line and column, from 1, of an offset."""
        before = self.text[:offset]
        return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1

    def _word(self, index: int) -> str:
        return self.text[slice(*self._tokens[index])] if index >= 0 else ""

    def _groups(self, opening: int) -> bool:
        """Return whether a bracket groups, and calls nothing."""
        before = self._word(opening - 1)
        return not before or before == "in" or not (before[0].isalnum() or before[0] == "_" or before in (")", "]"))


def _strictly(node: Any) -> Any:
    """Return what stands behind the compiler's own wrapper."""
    wrapped = node.HasField("call") and node.call.function == "@not_strictly_false"
    return node.call.args[0] if wrapped else node
