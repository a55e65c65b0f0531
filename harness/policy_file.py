"""The schema of a policy file: from text to `Policy`, with the places of all its parts.

It does not cover what the expressions mean (`policy_compiler`) or sets of policies (`policy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from harness.errors import ConfigError, PolicyError
from harness.expression import is_identifier
from harness.policy_document import KINDS, ListOf, MapOf, Scalar, Shape, Stage
from harness.records import Kind, Record, first_problem
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


def parse_source(source: PolicySource) -> list[Policy]:
    """Parse one file, and put the overrides where they belong."""
    try:
        documents = load_all(source.text, source.name)
    except ConfigError as error:
        raise PolicyError(error.message, where=error.where, remedy=error.remedy) from error
    policies = []
    known: set[str] = set()
    rules: dict[str, str] = {}
    for located in documents:
        try:
            document = PolicyFile.parse(located.value)
        except ValidationError as error:
            path = tuple(error.errors(include_url=False)[0]["loc"])
            name, message = first_problem(error)
            raise PolicyError(f"{name}: {message}", where=located.where(path)) from error
        for index, rule in enumerate(document.rules):
            where = located.where(("rules", index, "id"))
            if rule.id in rules:
                raise PolicyError(f"the rule id {rule.id} is taken, at {rules[rule.id]}", where=where)
            rules[rule.id] = where
        params = {}
        for name, value in document.params.items():
            where = located.where(("params", name))
            if not is_identifier(name):
                raise PolicyError(f"a rule cannot name the param {name!r}", where=where, remedy="lower_case_words")
            shape = shape_of_value(value, where)
            params[name] = _override(shape, source.params[name], name) if name in source.params else value
        known |= set(params)
        policies.append(Policy(document, params, located))
    unknown = sorted(set(source.params) - known)
    if unknown:
        raise PolicyError(f"has no param {unknown[0]!r} to override", where=source.name)
    return policies


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
        raise PolicyError(message, where=where)
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
