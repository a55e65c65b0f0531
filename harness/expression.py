"""CEL expressions: compiled with types, and run without them.

Compiled typed, so that a misspelt field is an error with a place; run on a dynamic
environment, because typed evaluation reads a missing integer as 0 and so fails open. Every
outcome that is not the boolean `true` is not true: errors come back as values that Python
takes for true, so nothing here relies on truthiness.

It does not cover which expressions are unwise: `expression_tree` refuses those. Nor proofs
about expressions; `Tree` is what such a proof would read.
"""

from __future__ import annotations

import functools
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from harness.expression_advice import advise
from harness.expression_tree import CompileError, Tree
from harness.policy_document import PACKAGE, ListOf, MapOf, Message, Scalar, Shape, descriptor

MAX_EXPRESSION = 4_000
MAX_SHOWN = 500
MAX_SHOWN_ITEMS = 50

# `matches` is left out: a pattern is the one thing here that can be slow and hard to reason about
_CONFIG = "stdlib:\n  exclude_functions:\n    - name: matches\n    - name: dyn\n"
FUNCTIONS = {
    "size": ("size(x), x.size()", "int", "items of a list or map, characters of a string"),
    "all": (
        "list.all(x, condition)",
        "bool",
        "whether it holds of each item (each key of a map); true of an empty one",
    ),
    "exists": ("list.exists(x, condition)", "bool", "whether it holds of one item (one key) at least"),
    "exists_one": ("list.exists_one(x, condition)", "bool", "whether it holds of exactly one item (one key)"),
    "filter": ("list.filter(x, condition)", "list", "the items (the keys) of which it holds"),
    "map": ("list.map(x, value)", "list", "a value for each item (each key)"),
    "has": ("has(record.field)", "bool", "whether a map has the key; fields of the document are always there"),
    "contains": ("string.contains(part)", "bool", "whether the part stands in the string; for a list: `x in list`"),
    "startsWith": ("string.startsWith(part)", "bool", "whether the string begins so"),
    "endsWith": ("string.endsWith(part)", "bool", "whether the string ends so"),
    "string": ("string(x)", "string", "a number or boolean as text, for messages"),
    "int": ("int(x)", "int", "a double without its fraction, or a string read as a number, or an error"),
    "double": ("double(x)", "double", "an int as a double, or a string read as a number, or an error"),
    "bool": ("bool(x)", "bool", "a string read as a boolean, or an error"),
    "timestamp": ("timestamp(x)", "timestamp", "a time, from seconds since 1970 as an int or from RFC 3339 text"),
    "duration": ("duration(x)", "duration", "a span of time, such as `'90s'`"),
    "type": ("type(x)", "type", "the type of a value"),
}
"""What rules may call, by name: usage, type of the result, meaning."""

_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = frozenset(
    {
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"),
        *("package", "namespace", "null", "return", "true", "var", "void", "while"),  # CEL's grammar, RESERVED
    }
)


def is_identifier(name: str) -> bool:
    """Return whether a rule can name this: lower-case, and no reserved word of CEL."""
    return bool(_IDENTIFIER.fullmatch(name)) and name not in RESERVED


@dataclass(frozen=True)
class Failed:
    """An evaluation that gave no value, and why."""

    why: str


class Expression:
    """A compiled expression; `reads` are the paths of the document that it mentions, as written."""

    def __init__(self, text: str, tree: Tree, runnable: Any, environment: Environment) -> None:
        """Use `Environment.compile`."""
        self.text = text
        self.tree = tree
        self.type = tree.type_name
        self.reads = tree.reads()
        self.names = tree.names()
        self.unordered = tree.unordered
        """Whether the value is a list in the order in which a map was walked, which is none."""
        self._runnable = runnable
        self._environment = environment

    def run(self, activation: Any) -> Any:
        """Evaluate to a plain value, or to Failed; raises nothing of the evaluator's."""
        value = _run(self._runnable, activation)
        if isinstance(value, Failed) and self.tree.fails_in_a_map:
            # which of several entries fails first is chance, and a judgement must come out the same again
            return Failed("it fails for an entry of a map")
        return in_order(value) if self.unordered else value

    def holds(self, activation: Any) -> bool | Failed:
        """Evaluate a rule: True and False are booleans that the evaluator returned, anything else is Failed."""
        value = self.run(activation)
        if isinstance(value, Failed):
            return value
        if type(value) is not bool:
            return Failed(f"gave {type(value).__name__}, not a boolean")
        return value


class Environment:
    """Names and their types, in which expressions are compiled; grows as variables are declared."""

    def __init__(self, shapes: dict[str, Shape]) -> None:
        """Declare the roots of the document, and `params`, by shape."""
        from cel_expr_python import cel
        from google.protobuf import descriptor_pool

        self._pool = descriptor_pool.DescriptorPool()
        self._pool.Add(descriptor(shapes))
        self._shapes = dict(shapes)
        self._unordered: set[str] = set()
        self._types = {name: _type(shape) for name, shape in shapes.items()}
        self._config = cel.NewEnvConfigFromYaml(_CONFIG)
        self._typed: Any = None
        self._dynamic: Any = None

    def declare(self, name: str, expression: Expression) -> None:
        """Add a variable of the type of its expression, so that its uses are checked, too."""
        self._types[name] = expression.tree.type
        if expression.unordered:
            self._unordered.add(name)
        self._typed = self._dynamic = None

    def __contains__(self, name: str) -> bool:
        """Return whether the name is taken."""
        return name in self._types

    def activation(self, values: dict[str, Any]) -> Any:
        """Return the values as the evaluator takes them. Only canonical values may come here."""
        return self._environments()[1].Activation(values)

    def run_part(self, serialized: bytes, values: dict[str, Any]) -> Any:
        """Evaluate a part of an expression (`Tree.part`) over values; a plain value, or Failed."""
        dynamic = self._environments()[1]
        return _run(dynamic.deserialize(serialized), dynamic.Activation(values))

    def compile(self, text: str, *, boolean: bool, lint: bool = True) -> Expression:
        """Compile and lint; raises CompileError. A rule is `boolean`, and then must read the document.

        Without the lints (`lint`) nothing may be judged by it: that is for asking whether tests would notice.
        """
        if len(text) > MAX_EXPRESSION:
            raise CompileError(
                f"longer than {MAX_EXPRESSION} characters", remedy="divide it among variables, or list values in params"
            )
        if "\0" in text:
            raise CompileError("holds a NUL", remedy="leave it out")
        typed, dynamic = self._environments()
        try:
            compiled = typed.compile(text)
            serialized = compiled.serialize()
            runnable = dynamic.deserialize(serialized)
        except Exception as error:
            match = _ERROR.search(str(error))
            if match:
                raise self._mistake(text, match[3], int(match[1]), int(match[2])) from error
            message = str(error)[:MAX_SHOWN]
            raise CompileError(message, remedy=advise(message, text, 0, {}, FUNCTIONS)) from error
        tree = Tree(text, serialized, compiled.return_type(), self._unordered)
        if boolean and lint:
            if tree.type_name != "BOOL":
                raise CompileError(f"is of type {tree.type_name}, not BOOL", remedy="compare it with something")
            if not tree.names() & set(self._types) - {"params"}:
                remedy = "read a field of the document (policies/SCHEMA.md), or leave the rule out"
                raise CompileError("reads nothing of the document, so it is always the same", remedy=remedy)
        if lint:
            tree.lint()
        return Expression(text, tree, runnable, self)

    def _mistake(self, text: str, message: str, line: int, column: int) -> CompileError:
        """Return the compiler's complaint with what to write instead."""
        offset = sum(len(each) + 1 for each in text.split("\n")[: line - 1]) + column - 1
        names = {**{name: Scalar("string") for name in self._types}, **self._shapes}
        remedy = advise(message, text, offset, names, FUNCTIONS)
        message = message.replace(" (in container '')", "")[:MAX_SHOWN]
        return CompileError(message, line=line, column=column, remedy=remedy)

    def _environments(self) -> tuple[Any, Any]:
        from cel_expr_python import cel

        if self._typed is None:
            untyped = dict.fromkeys(self._types, cel.Type.DYN)
            self._typed = cel.NewEnv(descriptor_pool=self._pool, config=self._config, variables=self._types)
            self._dynamic = cel.NewEnv(config=self._config, variables=untyped)
        return self._typed, self._dynamic


@functools.cache
def _no_values() -> tuple[Any, Any]:
    from cel_expr_python import cel

    return cel.Type.ERROR, cel.Type.UNKNOWN


def _run(runnable: Any, activation: Any) -> Any:
    try:
        value = runnable.eval(activation)  # ok: CEL, typed and bounded, in the judge's process
        if value.type() in _no_values():
            return Failed(str(value.value())[:MAX_SHOWN])
        return value.plain_value()
    except Exception as error:  # noqa: BLE001 - its budgets raise, and whatever else it raises is no value either
        return Failed((str(error) or type(error).__name__)[:MAX_SHOWN])


def in_order(value: Any) -> Any:
    """Return a value with every list in it sorted, for what has no order of its own."""
    if isinstance(value, list):
        return sorted((in_order(item) for item in value), key=lambda item: json.dumps(shown(item), sort_keys=True))
    return {key: in_order(item) for key, item in value.items()} if isinstance(value, dict) else value


def shown(value: Any, depth: int = 4) -> Any:
    """Return a value as bounded JSON, for messages and for the record of why."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) and abs(value) < 2**53 else str(value)
    if isinstance(value, str):
        if len(value) <= MAX_SHOWN and value.isascii() and "\0" not in value:
            return value
        clean = value[: MAX_SHOWN + 1].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        return clean if len(clean) <= MAX_SHOWN else clean[: MAX_SHOWN - 1] + "…"
    if isinstance(value, list | dict) and depth == 0:
        return "…"
    if isinstance(value, list):
        more = ["…"] if len(value) > MAX_SHOWN_ITEMS else []
        return [shown(item, depth - 1) for item in value[:MAX_SHOWN_ITEMS]] + more
    if isinstance(value, dict):
        items = list(value.items())[:MAX_SHOWN_ITEMS]
        return {str(shown(str(key))): shown(item, depth - 1) for key, item in items}
    if isinstance(value, Failed):
        return {"error": value.why}
    return shown(str(value))


def _type(shape: Shape) -> Any:
    from cel_expr_python import cel

    if isinstance(shape, Message):
        return cel.Type(f"{PACKAGE}.{shape.name}")
    if isinstance(shape, ListOf):
        return cel.Type.List(_type(shape.item))
    if isinstance(shape, MapOf):
        return cel.Type.Map(cel.Type.STRING, _type(shape.item))
    return {"string": cel.Type.STRING, "int": cel.Type.INT, "double": cel.Type.DOUBLE, "bool": cel.Type.BOOL}[
        shape.kind if isinstance(shape, Scalar) else ""
    ]
