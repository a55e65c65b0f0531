"""From a policy to expressions that can be evaluated, or to every place where it does not compile."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import PolicyError
from harness.expression import Environment, Expression, is_identifier
from harness.expression_tree import CompileError
from harness.policy_document import SHAPES, Message
from harness.policy_file import Policy, Rule, shape_of_value
from harness.records import Record
from harness.strict_yaml import Located
from harness.strict_yaml import Path as YamlPath


class Problem(Record):
    """Something wrong with a policy or its tests: where, what, and what to do."""

    where: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class CompiledRule:
    """A rule ready to be evaluated."""

    rule: Rule
    where: str
    require: Expression
    of_people: bool
    """It reads the approvals, itself or through variables."""
    message: Expression | None
    audit: dict[str, Expression]


@dataclass(frozen=True)
class CompiledPolicy:
    """A policy ready to be evaluated."""

    policy: Policy
    environment: Environment
    variables: tuple[tuple[str, Expression], ...]
    rules: tuple[CompiledRule, ...]


def compile_policy(policy: Policy, problems: list[Problem] | None = None) -> CompiledPolicy:
    """Compile a policy's expressions.

    Problems are appended to `problems` where given (the result then lacks what did not compile), else the
    first raises PolicyError.
    """
    document, located = policy.document, policy.located
    params = Message("Params", {name: shape_of_value(value, name) for name, value in policy.params.items()})
    environment = Environment({**SHAPES[policy.stage].fields, "params": params})

    def compile_at(text: str, path: YamlPath, *, boolean: bool = False) -> Expression | None:
        try:
            return environment.compile(text, boolean=boolean)
        except CompileError as error:
            where = where_of(located, path, error.line, error.column)
            if problems is None:
                raise PolicyError(error.message, where=where, remedy=error.remedy) from error
            problems.append(Problem(where=where, message=error.message, remedy=error.remedy or ""))
            return None

    def reject(path: YamlPath, message: str, remedy: str) -> None:
        if problems is None:
            raise PolicyError(message, where=located.at(path), remedy=remedy)
        problems.append(Problem(where=located.at(path), message=message, remedy=remedy))

    variables = []
    of_people = {"approvals"}
    for index, variable in enumerate(document.variables):
        here: YamlPath = ("variables", index)
        if not is_identifier(variable.name) or variable.name in environment:
            why = f"a variable cannot be called {variable.name!r}: reserved, taken or no identifier"
            reject((*here, "name"), why, "choose other lower_case_words")
            continue
        expression = compile_at(variable.expr, (*here, "expr"))
        if expression:
            environment.declare(variable.name, expression)
            variables.append((variable.name, expression))
            if expression.names & of_people:
                of_people.add(variable.name)
    rules = []
    for index, rule in enumerate(document.rules):
        here = ("rules", index)
        require = compile_at(rule.require, (*here, "require"), boolean=True)
        message = compile_at(rule.messageExpr, (*here, "messageExpr")) if rule.messageExpr else None
        if message and message.type != "STRING":
            reject((*here, "messageExpr"), f"a message must be a string, not {message.type}", "write string(...)")
        audit = {name: compile_at(text, (*here, "audit", name)) for name, text in rule.audit.items()}
        if require:
            kept = {name: expression for name, expression in audit.items() if expression}
            asks = bool(require.names & of_people)
            rules.append(CompiledRule(rule, located.where((*here, "id")), require, asks, message, kept))
    return CompiledPolicy(policy, environment, tuple(variables), tuple(rules))


def where_of(located: Located, path: YamlPath, line: int, column: int) -> str:
    """Return the place in the file (file:line:column) of a place within the text at a path, from 1 on."""
    place = located.place(path)
    if place.block:
        return f"{located.name}:{place.line + line}:{place.indent + column}"
    return f"{located.name}:{place.line + line - 1}:{column + (place.column - 1 if line == 1 else 0)}"


def unused(compiled: CompiledPolicy) -> list[Problem]:
    """Return what a policy declares and no expression of it reads: often a rule that was meant and not written."""
    policy = compiled.policy
    rules = (each for rule in compiled.rules for each in (rule.require, rule.message, *rule.audit.values()) if each)
    trees = [expression.tree for expression in (*(each for _, each in compiled.variables), *rules)]
    names = {name for tree in trees for name in tree.names()}
    paths = {path for tree in trees for path in tree.reads()}
    unread: list[tuple[YamlPath, str]] = [
        *((("params", n), f"no rule reads params.{n}") for n in policy.params if f"params.{n}" not in paths),
        *(
            (("variables", index), f"no rule reads the variable {variable.name}")
            for index, variable in enumerate(policy.document.variables)
            if variable.name not in names
        ),
    ]
    remedy = "use it, or leave it out"
    return [Problem(where=policy.located.at(path), message=why, remedy=remedy) for path, why in unread]
