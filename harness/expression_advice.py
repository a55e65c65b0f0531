"""What to write instead: a remedy for a mistake in an expression, from the compiler's message and the known names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from harness.shapes import ListOf, MapOf, Message, Shape

_FIELD = re.compile(r"undefined field '(\w+)' not found in struct '[\w.]*?(\w+)'")
_REFERENCE = re.compile(r"undeclared reference to '([\w.]+)'")
_OVERLOAD = re.compile(r"no matching overload for '([^']+)' applied to '\((.*)\)'")
_OPERAND = re.compile(r"[A-Za-z_][\w.]*(?:\[[^\]]*\][\w.]*)*$")
_WORDS = {"and": "&&", "or": "||", "not": "!"}
_INSTEAD = {
    "matches": "there are no patterns: use startsWith, endsWith, contains, or a list in params",
    "dyn": "rules are typed: leave dyn out",
    "len": "write size(x)",
    "any": "write list.exists(x, condition)",
    "str": "write string(x)",
    "float": "write double(x)",
    "now": "now is a field, not a function: write now",
}
_OPERATORS = {"_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">=", "_==_": "==", "_!=_": "!="}
MACROS = ("all", "exists", "exists_one", "filter", "map")
_SHOWN = 12


def advise(message: str, text: str, offset: int, shapes: Mapping[str, Shape], functions: Iterable[str]) -> str:
    """Return what to do about a message of the compiler at an offset (from 0) of the text."""
    if found := _FIELD.search(message):
        return _about_field(found[1], found[2], text[:offset], shapes)
    if found := _REFERENCE.search(message):
        macro = re.search(rf"\.(\w+)\(\s*{found[1]}\s*,", text)
        meant = near(macro[1], MACROS) if macro and macro[1] not in MACROS else None
        return f"did you mean {meant}({found[1]}, …)?" if meant else _about_name(found[1], shapes, sorted(functions))
    if found := _OVERLOAD.search(message):
        return _about_types(found[1], found[2])
    if "Syntax error" in message:
        return _about_syntax(text, offset)
    if "recursion limit" in message:
        return "divide it among variables"
    if "invalid int literal" in message:
        return "write a smaller number"
    return "the fields and functions are those of policies/SCHEMA.md"


def near(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that was probably meant."""
    return next(iter(get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)), None)


def paths(shapes: Mapping[str, Shape], prefix: str = "") -> Iterator[str]:
    """Yield every dotted path that a rule can write without a key or an index."""
    for name, shape in shapes.items():
        yield prefix + name
        if isinstance(shape, Message):
            yield from paths(shape.fields, f"{prefix}{name}.")


def _about_field(field: str, record: str, before: str, shapes: Mapping[str, Shape]) -> str:
    fields = next((message.fields for message in _messages(shapes.values()) if message.name == record), {})
    operand = _OPERAND.search(before)
    stem = f"{operand[0]}." if operand else ""
    meant = near(field, fields)
    if meant:
        return f"did you mean {stem}{meant}?"
    elsewhere = [path for path in paths(shapes) if path.rpartition(".")[2] == field]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"there is {_some(stem + name for name in fields)}" if fields else "the policy has no params"


def _about_name(reference: str, shapes: Mapping[str, Shape], functions: list[str]) -> str:
    root, _, rest = reference.partition(".")
    if root in _INSTEAD:
        return _INSTEAD[root]
    everywhere = list(paths(shapes))
    inside = [path for path in everywhere if path.endswith(f".{reference}")]
    if inside:
        return f"did you mean {inside[0]}?"
    meant = near(reference, everywhere) if rest else near(root, [*shapes, *functions])
    meant = meant or near(root, [*shapes, *functions])
    if meant:
        return f"did you mean {meant}?"
    return f"a rule reads {_some(shapes)}, and calls {_some(functions)}"


def _about_types(function: str, arguments: str) -> str:
    types = [each.strip() for each in re.split(r",\s*(?![^(]*\))", arguments)]
    if function == "contains" and types and types[0].startswith(("list", "map")):
        return "for a list or a map write item in list"
    if set(types) == {"int", "double"}:
        return "an int and a double never mix: write double(x) around the int, or 5.0 for 5"
    if function in _OPERATORS:
        return f"{_OPERATORS[function]} needs two values of one type"
    if function in ("_&&_", "_||_", "!_", "_?_:_"):
        return "only booleans can be combined: compare the value with something"
    if function == "_+_" and "string" in types:
        return "write string(x) around what is no string"
    return "policies/SCHEMA.md says what each function takes"


def _about_syntax(text: str, offset: int) -> str:
    # a word of another language is noticed only where the next one begins
    for word, sign in _WORDS.items():
        if re.search(rf"(?<![\w.'\"]){word}\b", text[max(0, offset - 5) : offset + 5]):
            return f"write {sign} for {word}"
    if text[offset : offset + 1] == "=":
        return "write == to compare"
    if offset >= len(text.rstrip()):
        return "the expression ends too early: is a value or a bracket missing?"
    if text[offset : offset + 1] in "&|":
        return "write && or ||"
    if text[offset : offset + 1] in ("'", '"'):
        return "close the quote"
    return f"look at {text[offset : offset + 20]!r}: no expression goes on so"


def _messages(shapes: Iterable[Shape]) -> Iterator[Message]:
    for shape in shapes:
        if isinstance(shape, ListOf | MapOf):
            yield from _messages([shape.item])
        elif isinstance(shape, Message):
            yield shape
            yield from _messages(shape.fields.values())


def _some(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
