"""What rules read of what a guard sets, and whether a stricter setting could let one of them pass that did not.

Budgets and gates stand in the document that rules are shown. So a rule may ask for a *small* budget, or for a gate that
only the new guard has; where all that a guard sets is stricter, such a rule is not. Of a rule that is not known to be
harmless this says that it is not: then people decide.

A document with a gate that has not passed is rejected whatever rules say, but for a ceiling, of which people decide. So
all gates have passed here, and any of the ceilings may not have.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from harness.expression_tree import Tree, children_of, path_of
from harness.judgement import values_of
from harness.policy import PolicySet
from harness.policy_compiler import CompiledPolicy, CompiledRule, compile_policy

_CEILINGS: Final = 4
"""With more ceilings than this, too many documents would have to be tried."""
_ABOVE: Final = ("_>_", "_>=_")
_BELOW: Final = ("_<_", "_<=_")


@dataclass(frozen=True)
class Reader:
    """A rule, and the variables that it reads through."""

    policy: CompiledPolicy
    rule: CompiledRule

    @classmethod
    def all_of(cls, policies: PolicySet) -> list[Reader]:
        """Each rule of these policies."""
        compiled = [compile_policy(policy, []) for policy in policies.policies]
        return [cls(policy, rule) for policy in compiled for rule in policy.rules]

    @property
    def name(self) -> str:
        """As policy/rule."""
        return f"{self.policy.policy.name}/{self.rule.rule.id}"

    @property
    def _variables(self) -> list[Tree]:
        """The variables that the rule's verdict can hang on, those behind them included."""
        names = set(self.rule.require.names)
        found = []
        for name, expression in reversed(self.policy.variables):
            if name in names:
                found.append(expression.tree)
                names |= expression.names
        return found

    def reads(self, fact: str) -> bool:
        """Whether its verdict can hang on a part of the document, a dotted path."""
        return any(_reads(tree.root, fact) for tree in [self.rule.require.tree, *self._variables])

    def grows_with(self, fact: str) -> bool:
        """Whether it is known that a smaller number at this path lets no more pass."""
        return not any(_reads(tree.root, fact) for tree in self._variables) and _grows(
            self.rule.require.tree.root, fact
        )

    def reads_verdicts_only(self) -> bool:
        """Whether of gates it reads no more than which there are, and their verdicts."""
        return all(_verdicts_only(tree.root) for tree in [self.rule.require.tree, *self._variables])

    def gains_by(self, old: Collection[str], new: Collection[str]) -> bool:
        """Whether other gates than `old` may let it pass: True unless it is known that they do not.

        All have passed, but for ceilings: any of those may be missed, and more of them where the new ones are stricter.
        """
        trees = [self.rule.require.tree, *self._variables]
        inner = {name for name, _ in self.policy.variables}
        others = {path.split(".", 1)[0] for tree in trees for path in tree.reads()} - {"gates", "params"} - inner
        if others or not self.reads_verdicts_only():
            return True
        capped = [name for name in {*old, *new} if name.endswith("/ceiling")]
        if len(capped) > _CEILINGS:
            return True
        for missed in _subsets(capped):
            if self._holds(new, missed) and not all(self._holds(old, less) for less in _subsets(missed)):
                return True
        return False

    def _holds(self, gates: Collection[str], missed: Collection[str]) -> bool:
        """Whether it passes where these gates have, and those missed have not."""
        shown = {"n": 1, "mean": 0.0, "theta": 0.0}
        told = {name: {"verdict": "inconclusive" if name in missed else "pass", **shown} for name in gates}
        values, _ = values_of(self.policy, {"gates": told})
        return self.rule.require.holds(self.policy.environment.activation(values)) is True


def _subsets(names: Collection[str]) -> list[tuple[str, ...]]:
    """Every choice of these names."""
    return [some for size in range(len(names) + 1) for some in itertools.combinations(names, size)]


def _paths(node: Any) -> Iterator[str]:
    """The longest dotted paths below a node."""
    waiting = [node]
    while waiting:
        inner = waiting.pop()
        path = path_of(inner)
        if path:
            yield path
        else:
            waiting.extend(children_of(inner))


def _reads(node: Any, fact: str) -> bool:
    """Whether a path below a node is the fact's, a part of it, or has it for a part."""
    return any(f"{path}.".startswith(f"{fact}.") or f"{fact}.".startswith(f"{path}.") for path in _paths(node))


def _grows(node: Any, fact: str) -> bool:
    """Whether a truth value can only go from true to false where the number at a path gets smaller."""
    if not _reads(node, fact):
        return True
    if not node.HasField("call"):
        return False
    name, sides = node.call.function, list(node.call.args)
    if name in ("_&&_", "_||_"):
        return all(_grows(side, fact) for side in sides)
    if name in _BELOW:
        sides.reverse()
    elif name not in _ABOVE:
        return False
    return path_of(sides[0]) == fact and not _reads(sides[1], fact)


def _verdicts_only(node: Any) -> bool:
    """Whether `gates` stands below a node only where its names are walked, counted or asked for, or a verdict is."""
    if _is_gates(node):
        return False
    rest = list(children_of(node))
    if node.HasField("select"):
        inner = node.select.operand
        if node.select.test and _is_gates(inner):
            return True
        if node.select.field == "verdict" and not node.select.test:
            if inner.HasField("select") and not inner.select.test and _is_gates(inner.select.operand):
                return True
            if inner.HasField("call") and inner.call.function == "_[_]" and _is_gates(inner.call.args[0]):
                rest = [inner.call.args[1]]
    elif node.HasField("loop") and _is_gates(node.loop.range):
        rest = rest[1:]
    elif node.HasField("call"):
        parts = [node.call.target, *node.call.args] if node.call.HasField("target") else list(node.call.args)
        if node.call.function == "size" and len(parts) == 1 and _is_gates(parts[0]):
            return True
        if node.call.function == "@in" and _is_gates(parts[-1]):
            rest = parts[:-1]
    return all(_verdicts_only(each) for each in rest)


def _is_gates(node: Any) -> bool:
    return bool(node.HasField("ident")) and node.ident.name == "gates"
