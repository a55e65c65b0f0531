"""Policies and documents for property tests: rules of the whole language, edits of them, documents near their constants.

Nothing here knows how rules are compared; what it makes is judged by the real engine.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from harness.errors import PolicyError
from harness.judgement import Judgement, judge_document
from harness.policy import PolicySet, policy_set_of
from harness.policy_compiler import CompiledPolicy, compile_policy
from harness.policy_document import SHAPES, ListOf, MapOf, Message, Scalar, Shape
from harness.policy_file import PolicySource
from harness.solver import Goal, Question, Solved

INTS = [0, 1, 2, 3, 5, 10, 400]
DOUBLES = [0.0, 0.1, 0.25, 0.3, 0.5, 1.0, 1.5, 3.0]
TEXTS = ["a", "b", "ab", "abc", "torch", "model.py", "pass", ""]
_INT_FIELDS = ["change.lines_changed", "candidate.parameters", "incumbent.parameters", "candidate.bytes"]
_INT_FIELDS += ["code.max_complexity", "budgets.promotions_left", "proposal.number"]
_DOUBLE_FIELDS = ["budgets.wall_seconds_left", "gates['a'].mean", "gates.b.theta", "candidate.development['a']"]
_TEXT_FIELDS = ["proposal.proposer", "proposal.kind", "code.problem", "incumbent.digest"]
_LISTS = {"code.packages": "p", "code.attributes": "q", "change.files": "f", "change.knobs": "k", "gates": "g"}
_LISTS["candidate.development"] = "d"
_INSIDE = {
    "p": ([], [], ["p"]),
    "q": ([], [], ["q"]),
    "f": (["f.lines_added", "f.lines_removed"], [], ["f.path"]),
    "k": ([], [], ["k.name", "k.group"]),
    "g": (["gates[g].n"], ["gates[g].mean", "gates[g].theta"], ["g", "gates[g].verdict"]),
    "d": ([], ["candidate.development[d]"], ["d"]),
}

Node = Any  # a text, or a list: an operator's name and its operands


class Maker:
    """Makes rules as trees, so that they can be edited, and renders them."""

    def __init__(self, rng: random.Random) -> None:
        """`rng` decides everything."""
        self.rng = rng
        self.variables: list[Node] = []

    def declare(self) -> None:
        """Declare variables, which rules made from here on may name; the first is a double, the second a condition."""
        self.variables = [self.double(2, ()), self.boolean(1)][: self.rng.randint(1, 2)]

    def boolean(self, depth: int, scope: tuple[str, ...] = ()) -> Node:
        """Return a condition; `scope` are the loop variables that it may name."""
        pick = self.rng.random()
        if len(self.variables) > 1 and pick > 0.9:
            return "v1"
        if depth > 0 and pick < 0.45:
            if pick < 0.15:
                return ["&&", self.boolean(depth - 1, scope), self.boolean(depth - 1, scope)]
            if pick < 0.28:
                return ["||", self.boolean(depth - 1, scope), self.boolean(depth - 1, scope)]
            if pick < 0.33:
                return ["!", self.boolean(depth - 1, scope)]
            if pick < 0.38:
                return ["?:", *(self.boolean(depth - 1, scope) for _ in range(3))]
            return self.loop(depth - 1, scope)
        if pick < 0.65:
            return [self.rng.choice(["<", "<=", ">", ">=", "==", "!="]), self.integer(1, scope), self.integer(1, scope)]
        if pick < 0.8:
            return [self.rng.choice(["<", "<=", ">", ">=", "<="]), self.double(2, scope), self.double(1, scope)]
        return self.about_text(scope)

    def loop(self, depth: int, scope: tuple[str, ...]) -> Node:
        """Return a quantifier with the word about its size that the lint asks for."""
        source = self.rng.choice(list(_LISTS))
        variable = _LISTS[source]
        if variable in scope:
            return self.about_text(scope)
        body = self.boolean(min(depth, 1), (*scope, variable))
        macro = self.rng.choice(["all", "exists", "exists_one", "size", "all", "filtered", "mapped"])
        if macro == "filtered":
            kept = self.boolean(0, (*scope, variable))
            return ["loop-filter", self.rng.choice(["exists", "exists_one"]), source, variable, kept, body]
        texts = _INSIDE[variable][2]
        if macro == "mapped":
            return ["in", repr(self.rng.choice(TEXTS)), f"{source}.map({variable}, {self.rng.choice(texts)})"]
        if macro == "size":
            counted = ["size-filter", source, variable, body]
            return [self.rng.choice(["==", "<=", ">", ">="]), counted, str(self.rng.choice([0, 1, 2]))]
        made = ["loop", macro, source, variable, body]
        if macro == "all":
            return ["?:", ["==", f"size({source})", "0"], self.rng.choice(["true", "false"]), made]
        return made

    def integer(self, depth: int, scope: tuple[str, ...]) -> Node:
        """Return an int."""
        pick = self.rng.random()
        fields = _INT_FIELDS + [field for name in scope for field in _INSIDE[name][0]] * 3
        if pick < 0.4:
            return self.rng.choice(fields)
        if pick < 0.75:
            return str(self.rng.choice(INTS))
        if pick < 0.85 or depth == 0:
            return f"size({self.rng.choice([*_LISTS, *_TEXT_FIELDS])})"
        if pick < 0.95:
            return [self.rng.choice(["+", "-"]), self.integer(depth - 1, scope), self.integer(depth - 1, scope)]
        return [self.rng.choice("*/%"), self.integer(depth - 1, scope), str(self.rng.choice([*INTS[1:], 2**62]))]

    def double(self, depth: int, scope: tuple[str, ...]) -> Node:
        """Return a double."""
        pick = self.rng.random()
        if self.variables and pick > 0.7:
            return "v0"
        fields = _DOUBLE_FIELDS + [field for name in scope for field in _INSIDE[name][1]] * 6
        if pick < 0.4:
            return self.rng.choice(fields)
        if pick < 0.65:
            return repr(self.rng.choice(DOUBLES))
        if pick < 0.75 or depth == 0:
            return ["double", self.integer(0, scope)]
        if pick < 0.9:
            return [self.rng.choice("*/"), self.double(depth - 1, scope), repr(self.rng.choice(DOUBLES[1:]))]
        return [self.rng.choice("+-"), self.double(depth - 1, scope), self.double(depth - 1, scope)]

    def about_text(self, scope: tuple[str, ...]) -> Node:
        """Return a condition on a string, a key or a membership."""
        fields = _TEXT_FIELDS + [field for name in scope for field in _INSIDE[name][2]] * 3
        text, other = self.rng.choice(fields), repr(self.rng.choice(TEXTS))
        kind = self.rng.randrange(7)
        if kind == 0:
            return [self.rng.choice(["==", "!="]), text, other]
        if kind == 1:
            few = self.rng.sample(TEXTS, self.rng.randint(1, 4))
            return ["in", text, "[" + ", ".join(map(repr, few)) + "]"]
        if kind == 2:
            return [self.rng.choice(["startsWith", "endsWith", "contains"]), text, other]
        if kind == 3:
            return ["in", other, self.rng.choice(["code.packages", "gates", "candidate.development"])]
        if kind == 4:
            return ["in", text, "code.packages"]
        if kind == 5:
            return self.rng.choice(["code.parses", "has(gates.a)", "gates.a.verdict == 'pass'"])
        return [self.rng.choice(["<", "=="]), text, self.rng.choice(fields)]

    def edited(self, node: Node) -> Node:
        """Return a tree with one thing changed."""
        places = list(_places(node))
        path = self.rng.choice(places)
        return _replaced(node, path, self._changed(_found(node, path), _scope(node, path)))

    def _changed(self, node: Node, scope: tuple[str, ...]) -> Node:
        if isinstance(node, str):
            if re.fullmatch(r"\d+", node):
                return str(max(0, int(node) + self.rng.choice([-1, 1, 5, -5])))
            if re.fullmatch(r"[\d.]+(e-?\d+)?", node):
                value = float(node)
                return repr(abs(self.rng.choice([value * 1.5, value / 2, math.nextafter(value, 9), value + 0.1])))
            if node.startswith("["):
                few = re.findall(r"'[^']*'", node)
                changed = few[:-1] if self.rng.random() < 0.5 and len(few) > 1 else [*few, repr(self.rng.choice(TEXTS))]
                return "[" + ", ".join(changed) + "]"
            if node.startswith("'"):
                return repr(self.rng.choice(TEXTS))
            return node
        swaps = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "&&": "||", "||": "&&", "+": "-", "all": "exists"}
        if node[0] in swaps and self.rng.random() < 0.5:
            return [swaps[node[0]], *node[1:]]
        if node[0] in _BOOLEAN:
            kind = self.rng.randrange(4)
            if kind == 0:
                return ["&&", node, self.boolean(1, scope)]
            if kind == 1:
                return ["||", node, self.boolean(1, scope)]
            if kind == 2 and node[0] in ("&&", "||"):
                return node[self.rng.choice([1, 2])]
            return self.boolean(1, scope) if kind == 3 else ["!", node]
        return node


_BOOLEAN = {
    "&&",
    "||",
    "!",
    "?:",
    "loop",
    "loop-filter",
    "<",
    "<=",
    ">",
    ">=",
    "==",
    "!=",
    "in",
    "startsWith",
    "endsWith",
    "contains",
}


def rendered(node: Node) -> str:
    """Return the CEL of a tree."""
    if isinstance(node, str):
        return node
    name, *parts = node
    if name == "loop":
        return f"{parts[1]}.{parts[0]}({parts[2]}, {rendered(parts[3])})"
    if name == "loop-filter":
        kept, body = rendered(parts[3]), rendered(parts[4])
        return f"{parts[1]}.filter({parts[2]}, {kept}).{parts[0]}({parts[2]}, {body})"
    if name == "size-filter":
        return f"size({parts[0]}.filter({parts[1]}, {rendered(parts[2])}))"
    inner = [rendered(part) for part in parts]
    if name == "!":
        return f"!({inner[0]})"
    if name == "?:":
        return f"({inner[0]} ? {inner[1]} : {inner[2]})"
    if name == "double":
        return f"double({inner[0]})"
    if name in ("startsWith", "endsWith", "contains"):
        return f"{inner[0]}.{name}({inner[1]})"
    return f"({inner[0]} {name} {inner[1]})"


def _places(node: Node, path: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    yield path
    if isinstance(node, list):
        first = {"loop": 4, "size-filter": 3, "loop-filter": 4}.get(node[0], 1)
        for index in range(first, len(node)):
            yield from _places(node[index], (*path, index))


def _found(node: Node, path: tuple[int, ...]) -> Node:
    for index in path:
        node = node[index]
    return node


def _scope(node: Node, path: tuple[int, ...]) -> tuple[str, ...]:
    scope: list[str] = []
    for index in path:
        if node[0] in ("loop", "size-filter", "loop-filter"):
            scope.append(node[2] if node[0] == "size-filter" else node[3])
        node = node[index]
    return tuple(scope)


def _replaced(node: Node, path: tuple[int, ...], other: Node) -> Node:
    if not path:
        return other
    return [*node[: path[0]], _replaced(node[path[0]], path[1:], other), *node[path[0] + 1 :]]


# --- sets --------------------------------------------------------------------------------------------------


def policy_text(
    rules: list[tuple[Node, str]], *, kinds: str = "all", name: str = "made", variables: Sequence[Node] = ()
) -> str:
    """Return a policy file with these rules, and its variables: v0, v1 and so on."""
    head = f"apiVersion: lockgate/v1\nkind: ChangePolicy\nmetadata: {{name: {name}, owner: tests}}\n"
    head += f"match: {{stage: decide, kinds: {kinds}}}\n"
    if variables:
        texts = [rendered(node).replace('"', '\\"') for node in variables]
        head += "variables:\n" + "".join(f'  - {{name: v{i}, expr: "{text}"}}\n' for i, text in enumerate(texts))
    head += "rules:\n"
    lines = []
    for index, (node, otherwise) in enumerate(rules):
        text = rendered(node).replace('"', '\\"')
        lines.append(f'  - id: {name}-{index}\n    require: "{text}"\n    otherwise: {otherwise}\n')
    return head + "".join(lines)


def set_of(*texts: str) -> PolicySet:
    """Return the set of policy files."""
    return policy_set_of([PolicySource(name=f"p{i}.yaml", text=text) for i, text in enumerate(texts)])


def random_sets(seed: int) -> tuple[PolicySet, PolicySet]:
    """Return a random set and an edit of it, both of which load."""
    rng = random.Random(seed)  # noqa: S311 - no secret: tests that can be repeated
    maker = Maker(rng)
    while True:
        maker.variables = []
        if rng.random() < 0.3:
            maker.declare()
        variables = list(maker.variables)
        old = _rules(maker)
        new = list(old)
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(new))
            node, otherwise = new[at]
            kind = rng.randrange(11)
            if kind == 0:
                new[at] = node, "hold" if otherwise == "deny" else "deny"
            elif kind == 1 and len(new) > 1:
                del new[at]
            elif kind == 2:
                new.append((maker.boolean(1), rng.choice(["deny", "hold"])))
            elif kind == 3 and node[0] == "&&" and isinstance(node, list):
                new[at : at + 1] = [(node[1], otherwise), (node[2], otherwise)]
            elif kind == 4:
                rng.shuffle(new)
            elif kind == 5 and variables:
                variables[-1] = maker.edited(variables[-1])
            else:
                new[at] = maker.edited(node), otherwise
        kinds = rng.choice(["all", "all", "all", "[code]"])
        try:
            return (
                set_of(policy_text(old, variables=maker.variables)),
                set_of(policy_text(new, kinds=kinds, variables=variables)),
            )
        except PolicyError:
            continue


def _rules(maker: Maker) -> list[tuple[Node, str]]:
    rng = maker.rng
    return [
        (maker.boolean(rng.choice([0, 1, 2])), rng.choice(["deny", "deny", "hold"])) for _ in range(rng.randint(1, 3))
    ]


# --- documents -----------------------------------------------------------------------------------------------


class Documents:
    """Documents of a stage whose values lie near the constants that rules mention."""

    def __init__(self, rng: random.Random, texts: list[str], stage: str = "decide") -> None:
        """Take the constants from the text of policies."""
        self._rng, self._stage = rng, stage
        joined = "\n".join(texts)
        numbers = [float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?", joined)]
        self._ints = sorted({int(n) + d for n in numbers if n < 2**52 for d in (-1, 0, 1)} | {0, 1, 2, 2**53 - 1})
        near = {n for x in numbers for n in (x, math.nextafter(x, 9e9), math.nextafter(x, -9e9), x * 2, x / 2, -x)}
        self._doubles = sorted(near | {0.0, 1.0, 1e308, -1e308, 5e-324})
        words = re.findall(r"'([^']*)'", joined) + re.findall(r"[a-z]+[.:]?[a-zA-Z_.]+", joined)[:200]
        self._texts = sorted({*words, *(w + "x" for w in words[:5]), "a", "b", "", "zz"})

    def one(self) -> dict[str, Any]:
        """Return a document."""
        made: dict[str, Any] = self._value(SHAPES[self._stage])  # type: ignore[index]
        return made

    def _value(self, shape: Shape) -> Any:
        rng = self._rng
        if isinstance(shape, Message):
            return {name: self._value(part) for name, part in shape.fields.items()}
        if isinstance(shape, ListOf):
            return [self._value(shape.item) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        if isinstance(shape, MapOf):
            keys = [k for k in ("a", "b", *rng.sample(self._texts, 1)) if rng.random() < 0.6]
            return {key: self._value(shape.item) for key in keys}
        return self._scalar(shape)

    def _scalar(self, shape: Scalar) -> Any:
        rng = self._rng
        if shape.kind == "bool":
            return rng.random() < 0.7
        if shape.kind == "string":
            return rng.choice(shape.choices or self._texts)
        value = rng.choice(self._ints if shape.kind == "int" else self._doubles)
        if shape.low is not None:
            value = max(value, shape.low)
        if shape.high is not None:
            value = min(value, shape.high)
        return float(value) if shape.kind == "double" else int(value)


class Engine:
    """The rules of sets, in this process: what the judge's process runs, without the process."""

    def __init__(self) -> None:
        """Start with no set."""
        self._compiled: dict[str, list[CompiledPolicy]] = {}

    def decide(self, policies: PolicySet, stage: Any, kind: Any, document: Any) -> Judgement:
        """Judge a document as the judge does."""
        if policies.digest not in self._compiled:
            self._compiled[policies.digest] = [compile_policy(policy) for policy in policies.policies]
        return judge_document(self._compiled[policies.digest], stage, kind, document)


class SameProcess:
    """The solver's work, in this process: what its process runs, without the process."""

    def __init__(self, seconds: float = 20.0) -> None:
        """`seconds` for all goals together."""
        self._seconds = seconds

    def solve(self, old: PolicySet, new: PolicySet, goals: list[Goal]) -> list[Solved]:
        """Answer as the solver does."""
        from harness.countermodel import answers

        question = Question(old=old.json_value(), new=new.json_value(), goals=goals, seconds=self._seconds)
        return list(answers(question))


# --- edits of texts -------------------------------------------------------------------------------------------


_SWAPS = [
    (r"(max_\w+: )(\d+)\b(?!\.)", lambda rng, m: f"{m[1]}{max(0, int(m[2]) + rng.choice([-5, -1, 1, 7]))}"),
    (r"(max_growth: )([\d.]+)", lambda rng, m: f"{m[1]}{float(m[2]) * rng.choice([0.5, 0.99, 1.01])!r}"),
    (r" (<=|==|>|<) ", lambda rng, _m: f" {rng.choice(['<=', '==', '>=', '>', '<'])} "),
    (r"otherwise: (deny|hold)", lambda rng, _m: f"otherwise: {rng.choice(['deny', 'hold'])}"),
    (r"kinds: all", lambda rng, _m: f"kinds: {rng.choice(['all', '[code]', '[code, architecture]'])}"),
    (r"\b(torch\.\w+), ", lambda _rng, _m: ""),
    (r"\[__future__, ", lambda rng, _m: f"[__future__, {rng.choice(['os', 'sys', 'abc'])}, "),
    (r"'pass'", lambda rng, _m: rng.choice(["'pass'", "'fail'"])),
    (
        r"require: (code\.parses|change\.lines_changed <= params\.max_lines)",
        lambda rng, m: f"require: {m[1]} {rng.choice(['&&', '||'])} code.max_complexity < 9",
    ),
]


def edited_text(text: str, seed: int) -> str:
    """Return a policy file with one to three places changed, which loads."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    while True:
        made = text
        for _ in range(rng.randint(1, 3)):
            pattern, change = rng.choice(_SWAPS)
            places = list(re.finditer(pattern, made))
            if places:
                place = rng.choice(places)
                made = made[: place.start()] + change(rng, place) + made[place.end() :]
        try:
            set_of(made)
        except PolicyError:
            continue
        return made


def grown_sets(rng: random.Random) -> tuple[PolicySet, PolicySet]:
    """Return a set, and the same with rules added and in another order."""
    maker = Maker(rng)
    while True:
        rules = _rules(maker)
        more = rules + [(maker.boolean(1), rng.choice(["deny", "hold"])) for _ in range(rng.randint(0, 2))]
        rng.shuffle(more)
        try:
            return set_of(policy_text(rules)), set_of(policy_text(more))
        except PolicyError:
            continue
