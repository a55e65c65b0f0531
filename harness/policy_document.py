"""What a policy rule may read: one typed document per stage, its canonical form, its protobuf types.

The records below are the only declaration. From them follow the canonicaliser, which stands
in front of every evaluation, and the protobuf descriptor against which rules are compiled, so
that the three cannot drift apart.

Rules: a document that is not exactly of its stage's shape does not reach a rule. Unknown or
missing fields, other types (a bool is no integer), NaN, infinity, NUL, lone surrogates,
integers beyond ±(2^53 - 1), numbers out of a field's declared range, and anything past the
bounds raise CanonicalError with the place. An integer in a float field becomes a float. The
walk follows the shape, which is not recursive, so that no depth of the input costs stack.
"""

from __future__ import annotations

import math
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field

from harness.code_facts import CodeFacts, FileChange
from harness.errors import CanonicalError
from harness.records import Kind, Record

Stage = Literal["screen", "decide"]
STAGES: tuple[Stage, ...] = get_args(Stage)
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_INTEGER = 2**53 - 1
MAX_TEXT = 20_000
MAX_ITEMS = 4_000
MAX_NODES = 50_000
MAX_CHARACTERS = 1_000_000

Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]


class ProposalFacts(Record):
    """Who proposed what kind of change, on which base."""

    number: Count
    kind: Kind
    proposer: str
    base: str
    """Digest of the candidate that the proposal starts from."""
    rationale_length: Count
    """Characters of the rationale; the text itself is for people, not for rules."""


class KnobChange(Record):
    """One recipe value that changes; `old` and `new` are its JSON."""

    name: str
    group: str
    old: str
    new: str


class ChangeFacts(Record):
    """The effective change against the incumbent."""

    knobs: list[KnobChange]
    files: list[FileChange]
    lines_changed: Count
    """Lines added plus lines removed, over all files."""


class IncumbentFacts(Record):
    """The live candidate."""

    digest: str
    version: Count
    parameters: Number
    bytes: Number


class CandidateFacts(Record):
    """The built candidate, as counted by the supervisor."""

    digest: str
    parameters: Number
    bytes: Number
    development: dict[str, float]
    """Mean of each eval on the development items."""


class GateFacts(Record):
    """A gate's result on held-out items. Rules read `verdict`: the mean of a test that stopped early is loose."""

    verdict: Literal["pass", "fail", "inconclusive"]
    n: Count
    mean: float
    theta: float


class BudgetFacts(Record):
    """What is left before this proposal is promoted."""

    promotions_left: Count
    proposals_left: Count
    wall_seconds_left: Annotated[float, Field(ge=0)]


class ApprovalFacts(Record):
    """One verified signature of a person."""

    by: str
    role: str


class ScreenDocument(Record):
    """What is known before anything is built."""

    proposal: ProposalFacts
    change: ChangeFacts
    code: CodeFacts
    incumbent: IncumbentFacts
    budgets: BudgetFacts
    approvals: list[ApprovalFacts]


class DecideDocument(ScreenDocument):
    """What is known after measurement."""

    candidate: CandidateFacts
    gates: dict[str, GateFacts]


DOCUMENTS: dict[Stage, type[Record]] = {"screen": ScreenDocument, "decide": DecideDocument}


# --- shapes: what the canonicaliser and the descriptor are both made from ------------------


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
    low = high = None
    while get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        for extra in extras:
            for limit in getattr(extra, "metadata", [extra]):
                low = getattr(limit, "ge", low)
                high = getattr(limit, "le", high)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Record):
        hints = get_type_hints(annotation, include_extras=True)
        return Message(annotation.__name__, {name: shape_of(hints[name]) for name in annotation.model_fields})
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


SHAPES: dict[Stage, Message] = {}
for _stage, _record in DOCUMENTS.items():
    _shape = shape_of(_record)
    if isinstance(_shape, Message):
        SHAPES[_stage] = _shape


# --- the canonicaliser -----------------------------------------------------------------------


def canonicalise(stage: Stage, document: Any) -> dict[str, Any]:
    """Return a deep copy of `document` that is exactly of its stage's shape, made of plain JSON values only.

    Raises CanonicalError, with the place as `where`, and nothing else.
    """
    room = _Room()
    return room.take(SHAPES[stage], document, "document")  # type: ignore[no-any-return]


class _Room:
    """What is left of the bounds on one document."""

    def __init__(self) -> None:
        self.nodes = MAX_NODES
        self.characters = MAX_CHARACTERS

    def take(self, shape: Shape, value: Any, where: str) -> Any:
        self.nodes -= 1
        if self.nodes < 0:
            raise CanonicalError(f"more than {MAX_NODES} values", where=where)
        if isinstance(shape, Scalar):
            return self._scalar(shape, value, where)
        if isinstance(shape, ListOf):
            # exact types: a subclass may run code of its own when it is read
            if type(value) is not list:
                raise CanonicalError(f"must be a list, not {type(value).__name__}", where=where)
            if len(value) > MAX_ITEMS:
                raise CanonicalError(f"more than {MAX_ITEMS} items", where=where)
            return [self.take(shape.item, item, f"{where}[{i}]") for i, item in enumerate(value)]
        if type(value) is not dict:
            raise CanonicalError(f"must be a map, not {type(value).__name__}", where=where)
        if len(value) > MAX_ITEMS:
            raise CanonicalError(f"more than {MAX_ITEMS} entries", where=where)
        for key in value:
            self._text(key, f"a key of {where}")
        if isinstance(shape, MapOf):
            return {key: self.take(shape.item, value[key], f"{where}.{key[:80]}") for key in sorted(value)}
        for name in shape.fields:
            if name not in value:
                raise CanonicalError("is missing", where=f"{where}.{name}")
        for name in value:
            if name not in shape.fields:
                raise CanonicalError("is not a field that rules know", where=f"{where}.{name[:80]}")
        return {name: self.take(field, value[name], f"{where}.{name}") for name, field in shape.fields.items()}

    def _scalar(self, shape: Scalar, value: Any, where: str) -> str | int | float | bool:
        if shape.kind == "string":
            text = self._text(value, where)
            if shape.choices and text not in shape.choices:
                raise CanonicalError(f"must be one of {', '.join(shape.choices)}", where=where)
            return text
        if shape.kind == "bool":
            if type(value) is not bool:
                raise CanonicalError(f"must be true or false, not {type(value).__name__}", where=where)
            return value
        if type(value) is not int and not (shape.kind == "double" and type(value) is float):
            noun = "an integer" if shape.kind == "int" else "a number"
            raise CanonicalError(f"must be {noun}, not {type(value).__name__}", where=where)
        if type(value) is int and abs(value) > MAX_INTEGER:
            raise CanonicalError("is an integer beyond ±(2^53 - 1)", where=where)
        if not math.isfinite(value):
            raise CanonicalError("is not a finite number", where=where)
        if (shape.low is not None and value < shape.low) or (shape.high is not None and value > shape.high):
            raise CanonicalError(f"is out of its range: {value}", where=where)
        return float(value) if shape.kind == "double" else value

    def _text(self, value: Any, where: str) -> str:
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
