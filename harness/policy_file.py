"""The schema of a policy file: from text to `Policy`, with the places of all its parts.

It does not cover what the expressions mean (`policy_compiler`) or sets of policies (`policy`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints, ValidationError

from harness.errors import ConfigError, PolicyError
from harness.expression import is_identifier
from harness.expression_advice import near
from harness.policy_document import KINDS, ListOf, MapOf, Scalar, Shape, Stage
from harness.records import Kind, Record
from harness.strict_yaml import Located, load_all

TEST_SUFFIX = ".test.yaml"

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4_000)]


class Metadata(Record):
    """Who a policy is, and whose."""

    name: Slug = Field(description="The policy's name, unique in a subject; lower-case words and dashes.")
    owner: Text = Field(description="Who answers for it.")
    description: str = Field(default="", description="What it is for, in a sentence.")


class Match(Record):
    """Where a policy applies."""

    stage: Stage = Field(description="`screen`, before anything is built, or `decide`, after measurement.")
    kinds: Literal["all"] | Annotated[list[Kind], Field(min_length=1)] = Field(
        description="Kinds of proposal that it applies to, or `all`."
    )


class Variable(Record):
    """A named intermediate value; later ones may read earlier ones."""

    name: str = Field(description="Lower-case words; neither a field of the document nor a word that CEL reserves.")
    expr: Text = Field(description="A CEL expression over the document, `params` and the variables above.")


class Rule(Record):
    """One requirement, what follows when it is not met, and what is recorded of it."""

    id: Slug = Field(description="The rule's name, unique in the file; lower-case words and dashes.")
    description: str = Field(default="", description="What it requires, in words: told where there is no message.")
    require: Text = Field(description="A CEL expression that must be exactly `true`.")
    otherwise: Literal["deny", "hold"] = Field(
        description="What follows when it is false: `deny` rejects, `hold` waits for people."
    )
    message: str = Field(default="", description="What people are told of it.")
    messageExpr: str = Field(  # noqa: N815 - the name that Kubernetes' policies use
        default="", description="A CEL expression for a message with values, a string."
    )
    audit: dict[str, Text] = Field(
        default_factory=dict, description="CEL expressions whose values are kept beside the verdict, by name."
    )


class Floor(Record):
    """A bar that each candidate must be shown to be above, on held-out items."""

    eval: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")] = Field(
        description="The eval, as guards.py names it."
    )
    floor: float = Field(description="What its mean must be shown to be above, within the bounds of its scores.")


class PolicyFile(Record):
    """One document of a policy file."""

    apiVersion: Literal["lockgate/v1"] = Field(description="The version of this format.")  # noqa: N815 - as in lockgate.yaml
    kind: Literal["ChangePolicy"] = Field(description="What this document is.")
    metadata: Metadata = Field(description="Who the policy is, and whose.")
    match: Match = Field(description="Where it applies.")
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Constants that rules read as `params.NAME` and a subject may override: a string, number or "
        "boolean, or a list or map, not empty, of one kind of these.",
    )
    variables: list[Variable] = Field(default_factory=list, description="Named intermediate values.")
    floors: Annotated[list[Floor], Field(max_length=100)] = Field(
        default_factory=list,
        description="Bars on held-out items, of a policy for stage `decide` and all kinds: each becomes a gate of kind "
        "`floor`, called `EVAL/floor@POLICY`, and is tested like those of lockgate.yaml.",
    )
    rules: Annotated[list[Rule], Field(min_length=1)] = Field(description="What must hold; every rule is judged.")


class PolicySource(Record):
    """A policy file's text, and the params that a subject overrides in it. All that a digest covers is here."""

    name: str
    """The file's name in messages; not covered by the digest."""
    text: str
    params: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """A loaded policy: its file, its effective params, and where its parts stand."""

    document: PolicyFile
    params: dict[str, Any]
    located: Located

    @property
    def name(self) -> str:
        """The policy's name, unique in a set."""
        return self.document.metadata.name

    @property
    def stage(self) -> Stage:
        """The stage at which it is judged."""
        return self.document.match.stage

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of proposal to which it applies."""
        return KINDS if self.document.match.kinds == "all" else tuple(self.document.match.kinds)


def parse_source(source: PolicySource, report: Callable[[PolicyError], None] | None = None) -> list[Policy]:
    """Parse one file, and put the overrides where they belong.

    What is wrong with one of its policies goes to `report`, and that policy is left out; without `report` the first
    such PolicyError is raised. A file that is not YAML raises it anyhow.
    """
    try:
        documents = load_all(source.text, source.name)
    except ConfigError as error:
        raise PolicyError(error.message, where=error.where, remedy=error.remedy) from error
    policies = []
    known: set[str] = set()
    rules: dict[str, str] = {}
    for located in documents:
        errors: list[PolicyError] = []
        policy = _parse(located, source.params, rules, errors)
        for each in errors:
            if report is None:
                raise each
            report(each)
        if policy is not None:
            known |= set(policy.params)
            policies += [] if errors else [policy]
        else:
            known |= set(source.params)  # what it declares is not known
    for name in sorted(set(source.params) - known):
        meant = near(name, known)
        remedy = f"did you mean {meant}?" if meant else f"its params: {', '.join(sorted(known)) or 'none'}"
        raise PolicyError(f"has no param {name!r} to override", where=f"{source.name}:1:1", remedy=remedy)
    return policies


def _parse(
    located: Located, overrides: dict[str, Any], rules: dict[str, str], errors: list[PolicyError]
) -> Policy | None:
    """Read one document of a file; what is wrong with it is added to `errors`."""
    try:
        document = PolicyFile.parse(located.value)
    except ValidationError as error:
        errors += schema_errors(error, located, PolicyFile)
        return None
    for index, rule in enumerate(document.rules):
        where = located.at(("rules", index, "id"))
        if rule.id in rules:
            message = f"the rule id {rule.id} is taken, at {rules[rule.id]}"
            errors.append(PolicyError(message, where=where, remedy="choose another id"))
        rules.setdefault(rule.id, where)
    errors += _floor_errors(document, located)
    params = {}
    for name, value in document.params.items():
        where = located.at(("params", name))
        if not is_identifier(name):
            message = f"a rule cannot name the param {name!r}"
            errors.append(PolicyError(message, where=where, remedy="write lower_case_words"))
            continue
        try:
            shape = shape_of_value(value, where)
            params[name] = _override(shape, overrides[name], name) if name in overrides else value
        except PolicyError as error:
            errors.append(error)
    return Policy(document, params, located)


def _floor_errors(document: PolicyFile, located: Located) -> list[PolicyError]:
    """What is wrong with the floors of a document, but for what only the evals can tell (`floors`)."""
    known: dict[str, str] = {}
    errors = []
    if document.floors and (document.match.stage, document.match.kinds) != ("decide", "all"):
        message = "floors are tested of every candidate, and this policy is for some alone"
        remedy = "write match: {stage: decide, kinds: all}, or keep the floors in a policy of their own"
        errors.append(PolicyError(message, where=located.at(("floors",)), remedy=remedy))
    for index, floor in enumerate(document.floors):
        where = located.at(("floors", index))
        if floor.eval in known:
            message = f"another floor on {floor.eval} stands at {known[floor.eval]}"
            errors.append(PolicyError(message, where=where, remedy="keep the higher"))
        known.setdefault(floor.eval, where)
    return errors


def schema_errors(error: ValidationError, located: Located, record: type[Record]) -> list[PolicyError]:
    """Return every way in which a file is not of its record, each with its place and what to write instead."""
    found = []
    misspelt = set()
    problems = error.errors(include_url=False, include_context=False)
    for problem in sorted(problems, key=lambda problem: problem["type"] != "extra_forbidden"):
        # a union's branches have names of their own in the path, which the file lacks
        path = tuple(part for part in problem["loc"] if not (isinstance(part, str) and "[" in part) and part != "all")
        parent = _record_at(record, path[:-1])
        name = ".".join(str(part) for part in path) or "(top)"
        message, remedy = str(problem["msg"]), None
        if not path:
            remedy = f"write a mapping with {', '.join(record.model_fields)}"
        elif problem["type"] == "extra_forbidden" and parent is not None:
            meant = near(str(path[-1]), parent.model_fields)
            remedy = f"did you mean {meant}?" if meant else f"there is {', '.join(parent.model_fields)}"
            misspelt.add((*path[:-1], meant))
        elif problem["type"] == "missing" and path in misspelt:
            continue  # told already
        elif parent is not None and path[-1] in parent.model_fields:
            remedy = parent.model_fields[str(path[-1])].description
        elif len(path) > 1 and (outer := _record_at(record, path[:-2])) is not None and path[-2] in outer.model_fields:
            remedy = outer.model_fields[str(path[-2])].description
        found.append((path, PolicyError(f"{name}: {message}", where=located.at(path), remedy=remedy)))
    # the branches of a union complain one by one about one value: the one that got furthest is believed
    furthest = [each for path, each in found if not any(path == other[: len(path)] != other for other, _ in found)]
    return list({error.where: error for error in reversed(furthest)}.values())[::-1]


def _record_at(record: type[Record], path: Sequence[str | int]) -> type[Record] | None:
    """Return the record that stands at a path of a file."""
    here: Any = record
    for part in path:
        if isinstance(part, str) and isinstance(here, type) and issubclass(here, Record):
            field = here.model_fields.get(part)
            here = field.annotation if field else None
        else:
            here = (get_args(here) or (None,))[-1]
    return here if isinstance(here, type) and issubclass(here, Record) else None


_SCALARS: dict[type, Literal["string", "int", "double", "bool"]] = {
    str: "string",
    int: "int",
    float: "double",
    bool: "bool",
}


def shape_of_value(value: Any, where: str) -> Shape:
    """Return the shape of a param's value: a scalar, or a list or map of one kind of scalar, not empty."""
    if type(value) in _SCALARS and not (isinstance(value, str) and "\0" in value):
        return Scalar(_SCALARS[type(value)])
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    kinds = {type(item) for item in items}
    if len(kinds) != 1 or not kinds <= set(_SCALARS):
        message = "a param is a string, number or boolean, or a list or map, not empty, of one kind of these"
        raise PolicyError(message, where=where, remedy="write [a, b], and 1.0 beside other doubles")
    keys = list(value) if isinstance(value, dict) else []
    if any("\0" in text for text in (*items, *keys) if isinstance(text, str)):
        raise PolicyError("a param holds a NUL", where=where)
    item = Scalar(_SCALARS[kinds.pop()])
    return MapOf(item) if isinstance(value, dict) else ListOf(item)


def _override(shape: Shape, value: Any, name: str) -> Any:
    """Return an overriding value, which must be of the declared shape; an integer will do for a float."""
    if shape == Scalar("double") and type(value) is int:
        value = float(value)
    if shape_of_value(value, f"params.{name}") != shape:
        raise PolicyError(f"overrides a value of another type: {value!r}", where=f"params.{name}")
    return value
