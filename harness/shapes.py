"""Shapes: what a policy's document is made of, and the two walks over them.

Records declare fields, types and ranges (`policy_document`). From their shapes follow the
canonicaliser, which stands in front of every evaluation, and the protobuf descriptor against
which rules are compiled, so that the three cannot drift apart. A shape is not recursive, so
that no depth of the input costs stack.
"""

from __future__ import annotations

import math
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from harness.errors import CanonicalError
from harness.records import Record

MAX_INTEGER = 2**53 - 1
MAX_TEXT = 20_000
MAX_ITEMS = 4_000
MAX_NODES = 50_000
MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Scalar:
    """A str, int, float or bool, with the choices or the range that its field declares."""

    kind: Literal["string", "int", "double", "bool"]
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListOf:
    """A list of one shape."""

    item: Shape


@dataclass(frozen=True)
class MapOf:
    """A map from strings to one shape."""

    item: Shape


@dataclass(frozen=True)
class Message:
    """A record: exactly these fields."""

    name: str
    fields: dict[str, Shape]


Shape = Scalar | ListOf | MapOf | Message

_KINDS: dict[Any, Literal["string", "int", "double", "bool"]] = {
    str: "string",
    int: "int",
    float: "double",
    bool: "bool",
}


def shape_of(annotation: Any) -> Shape:
    """Return the shape of a type annotation built from records, list, dict, Literal and the four scalars."""
    limits: list[Any] = []
    while get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        for extra in extras:
            limits += getattr(extra, "metadata", [extra])
    low = next((limit.ge for limit in limits if hasattr(limit, "ge")), None)
    high = next((limit.le for limit in limits if hasattr(limit, "le")), None)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Record):
        fields = annotation.model_fields.items()
        return Message(annotation.__name__, {name: shape_of(Annotated[f.annotation, f]) for name, f in fields})
    if annotation in _KINDS:
        return Scalar(_KINDS[annotation], low, high)
    if origin is Literal:
        return Scalar("string", choices=arguments)
    if origin is list:
        return ListOf(shape_of(arguments[0]))
    if origin is dict and arguments[0] is str:
        return MapOf(shape_of(arguments[1]))
    kind = "a union" if origin in (Union, types.UnionType) else str(annotation)
    raise TypeError(f"a rule cannot read {kind}")


# --- the canonicaliser -----------------------------------------------------------------------


class Room:
    """What is left of the bounds on one document."""

    def __init__(self) -> None:
        """Begin with the bounds whole."""
        self.nodes = MAX_NODES
        self.characters = MAX_CHARACTERS

    def take(self, shape: Shape, value: Any, where: str) -> Any:
        """Return a copy of the value that is exactly of the shape; CanonicalError with the place."""
        self._count(1)
        return self._at(where, shape, value)

    def _at(self, where: str, shape: Shape, value: Any) -> Any:
        """Return the copy of a value that was counted. A place is put together on the way out, as most need none."""
        try:
            if isinstance(shape, Scalar):
                return self._scalar(shape, value)
            return self._list(shape, value) if isinstance(shape, ListOf) else self._map(shape, value)
        except CanonicalError as error:
            error.where = where + (error.where or "")
            raise

    def _list(self, shape: ListOf, value: Any) -> list[Any]:
        # exact types: a subclass may run code of its own when it is read
        if type(value) is not list:
            raise CanonicalError(f"must be a list, not {type(value).__name__}")
        if len(value) > MAX_ITEMS:
            raise CanonicalError(f"more than {MAX_ITEMS} items")
        self._count(len(value))
        item, taken = shape.item, []
        text = isinstance(item, Scalar) and item.kind == "string" and not item.choices  # most of a document
        try:
            for each in value:
                taken.append(self._text(each) if text else self._at("", item, each))  # noqa: PERF401 - its length is used
        except CanonicalError as error:
            error.where = f"[{len(taken)}]{error.where or ''}"
            raise
        return taken

    def _map(self, shape: MapOf | Message, value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise CanonicalError(f"must be a map, not {type(value).__name__}")
        if len(value) > MAX_ITEMS:
            raise CanonicalError(f"more than {MAX_ITEMS} entries")
        for key in value:
            self._text(key, " (a key)")
        self._count(len(value))
        if isinstance(shape, MapOf):
            return {key: self._at(f".{key[:80]}", shape.item, value[key]) for key in sorted(value)}
        if value.keys() != shape.fields.keys():
            for name in shape.fields:
                if name not in value:
                    raise CanonicalError("is missing", where=f".{name}")
            extra = next(name for name in value if name not in shape.fields)
            raise CanonicalError("is not a field that rules know", where=f".{extra[:80]}")
        return {name: self._at(f".{name}", field, value[name]) for name, field in shape.fields.items()}

    def _count(self, nodes: int) -> None:
        self.nodes -= nodes
        if self.nodes < 0:
            raise CanonicalError(f"more than {MAX_NODES} values")

    def _scalar(self, shape: Scalar, value: Any) -> str | int | float | bool:
        if shape.kind == "string":
            text = self._text(value)
            if shape.choices and text not in shape.choices:
                raise CanonicalError(f"must be one of {', '.join(shape.choices)}")
            return text
        if shape.kind == "bool":
            if type(value) is not bool:
                raise CanonicalError(f"must be true or false, not {type(value).__name__}")
            return value
        if type(value) is not int and not (shape.kind == "double" and type(value) is float):
            noun = "an integer" if shape.kind == "int" else "a number"
            raise CanonicalError(f"must be {noun}, not {type(value).__name__}")
        if type(value) is int and abs(value) > MAX_INTEGER:
            raise CanonicalError("is an integer beyond ±(2^53 - 1)")
        if not math.isfinite(value):
            raise CanonicalError("is not a finite number")
        if (shape.low is not None and value < shape.low) or (shape.high is not None and value > shape.high):
            raise CanonicalError(f"is out of its range: {value}")
        return float(value) if shape.kind == "double" else value

    def _text(self, value: Any, where: str | None = None) -> str:
        if type(value) is not str:
            raise CanonicalError(f"must be a string, not {type(value).__name__}", where=where)
        if len(value) > MAX_TEXT:
            raise CanonicalError(f"is longer than {MAX_TEXT} characters", where=where)
        self.characters -= len(value)
        if self.characters < 0:
            raise CanonicalError(f"more than {MAX_CHARACTERS} characters of text", where=where)
        # NUL ends a string inside the evaluator, so that "a\0b" would equal "a"
        if "\0" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
            raise CanonicalError("holds a NUL or a lone surrogate", where=where)
        return value


# --- the descriptor --------------------------------------------------------------------------

PACKAGE = "lockgate"
_FIELD_TYPES = {"string": 9, "int": 3, "double": 1, "bool": 8}  # descriptor.proto, FieldDescriptorProto.Type
_MESSAGE, _OPTIONAL, _REPEATED = 11, 1, 3


def descriptor(shapes: dict[str, Shape]) -> Any:
    """Return a FileDescriptorProto (package `lockgate`) with every message that the shapes use."""
    from google.protobuf import descriptor_pb2

    file = descriptor_pb2.FileDescriptorProto(name="lockgate_document.proto", package=PACKAGE, syntax="proto3")
    known: set[str] = set()
    for shape in shapes.values():
        _declare(file, shape, known)
    return file


def _declare(file: Any, shape: Shape, known: set[str]) -> None:
    """Add the messages of a shape to the file, each once."""
    if isinstance(shape, ListOf | MapOf):
        _declare(file, shape.item, known)
    if not isinstance(shape, Message) or shape.name in known:
        return
    known.add(shape.name)
    message = file.message_type.add(name=shape.name)
    for number, (name, field) in enumerate(shape.fields.items(), 1):
        _declare(file, field, known)
        entry = message.field.add(name=name, number=number, label=_OPTIONAL)
        if isinstance(field, ListOf | MapOf):
            entry.label = _REPEATED
        if isinstance(field, MapOf):
            # maps are repeated messages of a nested entry type, named after the field (descriptor.proto, map_entry)
            nested = message.nested_type.add(name="".join(p.title() for p in name.split("_")) + "Entry")
            nested.options.map_entry = True
            nested.field.add(name="key", number=1, label=_OPTIONAL, type=_FIELD_TYPES["string"])
            _set_type(nested.field.add(name="value", number=2, label=_OPTIONAL), field.item)
            entry.type, entry.type_name = _MESSAGE, f".{PACKAGE}.{shape.name}.{nested.name}"
        else:
            _set_type(entry, field.item if isinstance(field, ListOf) else field)


def _set_type(entry: Any, shape: Shape) -> None:
    if isinstance(shape, Message):
        entry.type, entry.type_name = _MESSAGE, f".{PACKAGE}.{shape.name}"
    elif isinstance(shape, Scalar):
        entry.type = _FIELD_TYPES[shape.kind]
    else:
        raise TypeError("a list of lists or maps cannot be declared")
