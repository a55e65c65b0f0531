"""The checked syntax tree of a CEL expression: what it reads, and why it may be refused.

The lints refuse what CEL allows and an author of a guard rarely means:
  - an error hidden by `||`, by `exists`, or by `&&` below a negation (`err || true` is true);
  - `all(...)` or `!exists(...)` over a list that may be empty, with no word about its size;
  - comparisons that NaN turns the wrong way; `dyn`; rules that read nothing;
  - a list made by walking a map, where its order would show: the order is another at every evaluation.

The tree is decoded from what the compiler serializes, so that there is one parser.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

from harness.errors import PolicyError


class CompileError(PolicyError):
    """An expression that does not compile or that a lint refuses; `line` and `column` count from 1 within it."""

    def __init__(self, message: str, *, line: int = 1, column: int = 1, remedy: str | None = None) -> None:
        """Keep the place, so that the loader can turn it into one of the file."""
        super().__init__(message, remedy=remedy)
        self.line = line
        self.column = column


# cel/expr/syntax.proto and checked.proto: just the fields that are read here. Tuples are (number, name, type), the
# type a message of this table, "*" before it for repeated, "%" for a map from int64.
_SCHEMA: dict[str, tuple[tuple[int, str, str], ...]] = {
    "Checked": ((3, "types", "%Type"), (4, "expr", "Node"), (5, "source", "Source")),
    "Source": ((4, "positions", "%int32"),),
    "Type": ((3, "primitive", "int32"), (6, "list", "Empty"), (7, "map", "Empty")),
    "Empty": (),
    "Node": (
        (2, "id", "int64"),
        (3, "const", "Constant"),
        (4, "ident", "Ident"),
        (5, "select", "Select"),
        (6, "call", "Call"),
        (7, "list", "List"),
        (8, "struct", "Struct"),
        (9, "loop", "Loop"),
    ),
    "Constant": ((2, "bool", "bool"), (3, "int", "int64"), (5, "double", "double"), (6, "string", "string")),
    "Ident": ((1, "name", "string"),),
    "Select": ((1, "operand", "Node"), (2, "field", "string"), (3, "test", "bool")),
    "Call": ((1, "target", "Node"), (2, "function", "string"), (3, "args", "*Node")),
    "List": ((1, "elements", "*Node"),),
    "Struct": ((2, "entries", "*Entry"),),
    "Entry": ((3, "key", "Node"), (4, "value", "Node")),
    "Loop": (
        (1, "variable", "string"),
        (2, "range", "Node"),
        (3, "accumulator", "string"),
        (4, "start", "Node"),
        (5, "condition", "Node"),
        (6, "step", "Node"),
        (7, "result", "Node"),
    ),
}
_SCALARS = {"int32": 5, "int64": 3, "bool": 8, "double": 1, "string": 9}
_TYPE_BOOL, _TYPE_INT, _TYPE_DOUBLE = 1, 2, 4  # checked.proto, Type.PrimitiveType


@cache
def _checked() -> Any:
    """Return the message class that decodes what the compiler serializes."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="tree.proto", package="tree", syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        # a oneof keeps track of which of the kinds a node is, even when its content is empty
        if name in ("Node", "Constant", "Type"):
            message.oneof_decl.add(name="kind")
        for number, field_name, kind in fields:
            field = message.field.add(name=field_name, number=number, label=3 if kind[0] in "*%" else 1)
            plain = kind.lstrip("*%")
            if kind.startswith("%"):
                entry = message.nested_type.add(name=field_name.title() + "Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=_SCALARS["int64"])
                value = entry.field.add(name="value", number=2, label=1)
                _typed(value, plain)
                field.type, field.type_name = 11, f".tree.{name}.{entry.name}"
                continue
            _typed(field, plain)
            if message.oneof_decl and field_name != "id":
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tree.Checked"))


def _typed(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = 11, f".tree.{kind}"


_COMPARISONS = {"_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">="}
_ARITHMETIC = frozenset({"_+_", "_-_", "_*_", "_/_"})
_FALLIBLE = frozenset({"_[_]", "_/_", "_%_", "_*_", "int", "uint", "double", "bool", "timestamp", "duration", "bytes"})


class Tree:
    """The checked syntax tree of an expression."""

    def __init__(self, text: str, serialized: bytes, kind: Any, unordered: Collection[str] = ()) -> None:
        """Decode; `unordered` are the variables whose lists have no order.

        Raises CompileError when the compiler's output is not what this version knows.
        """
        from google.protobuf import any_pb2
        from google.protobuf.message import DecodeError

        self.text = text
        self.type = kind
        self.type_name: str = kind.name()
        self._checked = _checked()()
        try:
            wrapper = any_pb2.Any.FromString(serialized)
            self._checked.ParseFromString(wrapper.value)
        except DecodeError as error:
            raise CompileError("compiles to something that this version cannot read") from error
        if not wrapper.type_url.endswith("cel.expr.CheckedExpr"):
            raise CompileError("compiles to something that this version cannot read")
        self._url = wrapper.type_url
        self.root = self._checked.expr
        self._own_keys = self._find_own_keys()
        self._unordered = unordered

    def walk(self) -> Iterator[Any]:
        """Yield every node."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(children_of(node))

    def names(self) -> set[str]:
        """Return the roots that are named: document parts, params, variables (and loop variables)."""
        return {node.ident.name for node in self.walk() if node.HasField("ident")}

    def reads(self) -> list[str]:
        """Return the longest dotted paths that start at a name outside of loops, in the order of the text."""
        loops = {node.loop.variable for node in self.walk() if node.HasField("loop")}
        loops |= {node.loop.accumulator for node in self.walk() if node.HasField("loop")}
        paths, waiting = [], [self.root]
        while waiting:
            node = waiting.pop()
            path = path_of(node)
            if path and path.split(".", 1)[0] not in loops:
                if path not in paths:
                    paths.append(path)
                continue
            waiting.extend(reversed(list(children_of(node))))
        return paths

    @property
    def unordered(self) -> bool:
        """Whether the value is, or holds, a list made by walking a map."""
        return self.has_no_order(self.root)

    @property
    def fails_in_a_map(self) -> bool:
        """Whether it walks a map with a body that can fail, so that which entry fails first is chance."""
        walks = (node for node in self.walk() if node.HasField("loop") and self._is_map(node.loop.range))
        return any(self._fallible(node.loop.step) for node in walks)

    def lint(self) -> None:
        """Raise CompileError for what can admit by mistake, or come out otherwise when it is judged again."""
        for node in self.walk():
            self._lint_order(node)
        sizes = {path_of(a) for n in self.walk() if _calls(n, "size") for a in (*n.call.args, n.call.target)}
        # (node, positive): positive where true here can only help the whole to be true, and an error is not hidden
        waiting: list[tuple[Any, bool]] = [(self.root, True)]
        while waiting:
            node, positive = waiting.pop()
            if node.HasField("call"):
                self._lint_call(node, positive=positive)
                inner = positive and node.call.function in ("_&&_", "_||_", "_?_:_")
                for index, child in enumerate(children_of(node)):
                    condition = node.call.function == "_?_:_" and index == 0
                    waiting.append((child, inner and not condition))
            elif node.HasField("loop"):
                waiting.extend(self._lint_loop(node, sizes, positive=positive))
            else:
                waiting.extend((child, False) for child in children_of(node))

    def _lint_call(self, node: Any, *, positive: bool) -> None:
        function, args = node.call.function, node.call.args
        if function == "_||_" and any(arg.HasField("const") for arg in args):
            raise self._refuse(node, "|| with a constant is always the same", "leave the constant out")
        if (function == "_||_" or (function == "_&&_" and not positive)) and any(map(self._fallible, args)):
            sign = function.strip("_")
            raise self._refuse(
                node,
                f"an operand of {sign} that can fail (a map's key, an index, a division, a conversion) is hidden by "
                "the other",
                "write condition ? this : that",
            )
        doubles = any(self._double(arg) and self._computed(arg) for arg in args)
        if doubles and ((function in _COMPARISONS and not positive) or function == "_!=_"):
            sign = _COMPARISONS.get(function, "!=")
            raise self._refuse(
                node,
                f"{sign} on a computed number, in a place where NaN would pass",
                "turn the comparison round: for !(x < y) write x >= y",
            )

    def _lint_order(self, node: Any) -> None:
        """Refuse what would show the order of a list that has none."""
        call = node.call.function if node.HasField("call") else ""
        if call in ("", "size", "@in", "_?_:_", "_+_") or call.startswith("@"):
            return  # a sum or a choice of such lists has no order either, which is seen where it is used
        if any(map(self.has_no_order, (*node.call.args, node.call.target))):
            sign = call.strip("_")
            raise self._refuse(
                node,
                f"{sign} on a list made by walking a map, which has no fixed order: a replay would come out otherwise",
                "say how many with size(...), ask with in, exists or all, or keep the list in audit",
            )

    def has_no_order(self, node: Any) -> bool:
        """Return whether a part is, or holds, a list made by walking a map."""
        if node.HasField("ident"):
            return node.ident.name in self._unordered
        if node.HasField("loop"):
            loop = node.loop
            if not loop.start.HasField("list"):
                return False
            bodies = [each for each in Tree.walk_from(loop.step) if each.HasField("list")]
            inner = any(map(self.has_no_order, (loop.range, *bodies)))
            return inner or self._is_map(loop.range)
        if node.HasField("call"):
            call = node.call
            return call.function in ("_+_", "_?_:_") and any(map(self.has_no_order, call.args))
        inside = (*node.list.elements, *(entry.value for entry in node.struct.entries))
        return any(map(self.has_no_order, inside))

    def _is_map(self, node: Any) -> bool:
        return bool(self._checked.types[node.id].HasField("map"))

    def _lint_loop(self, node: Any, sizes: set[str], *, positive: bool) -> Iterator[tuple[Any, bool]]:
        loop = node.loop
        step = loop.step.call.function if loop.step.HasField("call") else ""
        universal, existential = step == "_&&_", step == "_||_"
        yield loop.range, False
        # of the step only the author's own part: the accumulator's half is the macro's
        bodies = [a for a in loop.step.call.args if path_of(a) != loop.accumulator]
        for body in bodies:
            yield body, positive and (universal or existential)
        if (existential or (universal and not positive)) and any(map(self._fallible, bodies)):
            raise self._refuse(
                node,
                "a body that can fail (a map's key, an index, a division, a conversion) is hidden by others",
                "filter for what has the key first, or ask with all(...)",
            )
        path = path_of(loop.range)
        vacuous = (universal and positive) or (existential and not positive)
        known = path.startswith("params.") or len(loop.range.list.elements) > 0  # params hold no empty list
        if vacuous and not known and (not path or path not in sizes):
            noun = "all(...)" if universal else "a negated exists(...)"
            raise self._refuse(
                node,
                f"{noun} is true of an empty list, and nothing is said about the size",
                f"say size({path or 'it'}) > 0 &&, or size({path or 'it'}) == 0 || if empty is right",
            )

    def _fallible(self, node: Any) -> bool:
        """Return whether evaluating the node can end in an error."""
        waiting = [node]
        while waiting:
            node = waiting.pop()
            if node.HasField("call") and node.call.function in _FALLIBLE:
                numeric = node.call.function in ("_*_", "_/_") and self._double(node)
                if not numeric and not self._own_key(node):
                    return True
            if self._looks_up(node):
                return True
            waiting.extend(children_of(node))
        return False

    def _find_own_keys(self) -> dict[str, str]:
        """Return the map that each loop variable runs over, where that is one map by name and no other loop's."""
        found: dict[str, set[str]] = {}
        for node in self.walk():
            if node.HasField("loop"):
                found.setdefault(node.loop.variable, set()).add(
                    path_of(node.loop.range) if self._is_map(node.loop.range) else ""
                )
        return {variable: ranges.pop() for variable, ranges in found.items() if len(ranges) == 1 and "" not in ranges}

    def _own_key(self, node: Any) -> bool:
        """Return whether a node is `m[k]` inside a loop of k over m: such a key is there."""
        if node.call.function != "_[_]":
            return False
        container, key = node.call.args
        return key.HasField("ident") and self._own_keys.get(key.ident.name) == path_of(container) != ""

    def _looks_up(self, node: Any) -> bool:
        """Return whether a node selects a key of a map, which may not be there."""
        select = node.HasField("select") and not node.select.test
        return select and self._is_map(node.select.operand)

    def is_boolean(self, node: Any) -> bool:
        """Return whether a part is true or false."""
        return bool(self._checked.types[node.id].primitive == _TYPE_BOOL)

    def is_number(self, node: Any) -> bool:
        """Return whether a part is an int or a double."""
        return self._checked.types[node.id].primitive in (_TYPE_INT, _TYPE_DOUBLE)

    def _double(self, node: Any) -> bool:
        return bool(self._checked.types[node.id].primitive == _TYPE_DOUBLE)

    def _computed(self, node: Any) -> bool:
        """Return whether a number is the result of arithmetic, so that it may be NaN."""
        return any(_calls(n, *_ARITHMETIC, "double") for n in Tree.walk_from(node))

    @staticmethod
    def walk_from(node: Any) -> Iterator[Any]:
        """Yield a node and all below it."""
        waiting = [node]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(children_of(node))

    def offset(self, node: Any) -> int:
        """Return where in the text the compiler has a node: at its operator, name, literal or opening bracket."""
        return int(self._checked.source.positions.get(node.id, 0))

    def part(self, node: Any) -> bytes:
        """Return a node as an expression of its own, serialized, with the types that the compiler found."""
        from google.protobuf import any_pb2

        whole = _checked()()
        whole.CopyFrom(self._checked)
        whole.expr.CopyFrom(node)
        wrapper = any_pb2.Any(type_url=self._url, value=whole.SerializeToString())
        return bytes(wrapper.SerializeToString())

    def position(self, node: Any) -> tuple[int, int]:
        """Return the line and the column of a node within the expression, counted from 1."""
        offset = self.offset(node)
        before = self.text[:offset]
        return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1

    def primitive(self, node: Any) -> int:
        """Return the number of a node's primitive type in checked.proto, or 0."""
        return int(self._checked.types[node.id].primitive) if node.id in self._checked.types else 0

    def _refuse(self, node: Any, message: str, remedy: str | None = None) -> CompileError:
        line, column = self.position(node)
        return CompileError(message, line=line, column=column, remedy=remedy)


def children_of(node: Any) -> Iterator[Any]:
    """Yield the nodes directly below."""
    if node.HasField("select"):
        yield node.select.operand
    elif node.HasField("call"):
        if node.call.HasField("target"):
            yield node.call.target
        yield from node.call.args
    elif node.HasField("list"):
        yield from node.list.elements
    elif node.HasField("struct"):
        for entry in node.struct.entries:
            yield entry.key
            yield entry.value
    elif node.HasField("loop"):
        loop = node.loop
        yield from (loop.range, loop.start, loop.condition, loop.step, loop.result)


def _calls(node: Any, *functions: str) -> bool:
    return bool(node.HasField("call")) and node.call.function in functions


def path_of(node: Any) -> str:
    """Return `a.b.c` for a chain of selections from a name, else an empty string."""
    parts: list[str] = []
    while node.HasField("select") and not node.select.test:
        parts.append(node.select.field)
        node = node.select.operand
    if not node.HasField("ident"):
        return ""
    return ".".join((node.ident.name, *reversed(parts)))
