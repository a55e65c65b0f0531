"""Reading and changing torch code on LibCST's concrete syntax trees: the tools of `rewrites`.

Names are resolved as far as the module's own imports tell. Nothing is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import libcst as cst
import libcst.matchers as m

__all__ = [
    "Names",
    "argument",
    "arguments",
    "assigned_optimisers",
    "calls",
    "extended",
    "inserted",
    "is_general",
    "is_pure",
    "last_name",
    "loops",
    "optimiser_calls",
    "other_than_inplace",
    "parsed_call",
    "range_length",
    "renamed",
    "replaced",
    "spaced",
    "spliced",
    "stacked",
    "statements",
    "step_of",
    "target_name",
]

_OPTIMISERS = ("Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD")
_PURE_CALLS = ("len", "int", "max", "min")


class Names:
    """What a module calls torch.nn and torch.nn.functional: `nn` and `functional`, None where it imports neither."""

    def __init__(self, module: cst.Module) -> None:
        """Read the imports, wherever they stand."""
        known: dict[str, str] = {}
        for statement in m.findall(module, m.Import() | m.ImportFrom()):
            if isinstance(statement, cst.Import):
                origin, aliases = "", statement.names
            elif (
                isinstance(statement, cst.ImportFrom)
                and not isinstance(statement.names, cst.ImportStar)
                and statement.module
            ):
                origin, aliases = f"{module.code_for_node(statement.module)}.", statement.names
            else:
                continue
            for alias in aliases:
                full = module.code_for_node(alias.name)
                called = module.code_for_node(alias.asname.name) if alias.asname else full
                known[f"{origin}{full}"] = called
                if not origin and not alias.asname:
                    known[full.split(".")[0]] = full.split(".")[0]
        root = known.get("torch")
        self.nn = known.get("torch.nn") or (f"{root}.nn" if root else None)
        self.functional = known.get("torch.nn.functional") or (f"{self.nn}.functional" if self.nn else None)


def parsed_call(code: str) -> cst.Call:
    """Parse code that is one call."""
    return cst.ensure_type(cst.parse_expression(code), cst.Call)


def arguments(code: str) -> list[cst.Arg]:
    """Parse the arguments of a call."""
    return list(parsed_call(f"f({code})").args)


def spaced(args: Sequence[cst.Arg]) -> list[cst.Arg]:
    """Put one comma and one space between arguments; a comma that carries a line break or a comment stays."""
    plain = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    commas = [arg.comma if isinstance(arg.comma, cst.Comma) else plain for arg in args[:-1]]
    return [
        *(arg.with_changes(comma=comma) for arg, comma in zip(args[:-1], commas, strict=True)),
        *(arg.with_changes(comma=cst.MaybeSentinel.DEFAULT) for arg in args[-1:]),
    ]


def extended(call: cst.Call, code: str) -> cst.Call:
    """Return the call with further arguments; one that stands on several lines goes on as it began."""
    args, more = list(call.args), arguments(code)
    trailing = args[-1].comma if args else cst.MaybeSentinel.DEFAULT
    if len(args) > 1 and isinstance(trailing, cst.Comma):
        args[-1] = args[-1].with_changes(comma=args[-2].comma)
        return call.with_changes(args=[*args, *more[:-1], more[-1].with_changes(comma=trailing)])
    return call.with_changes(args=spaced([*args, *more]))


def last_name(node: cst.CSTNode) -> str:
    """Return the last part of a dotted name, or nothing for what is no name."""
    if isinstance(node, cst.Attribute):
        return node.attr.value
    return node.value if isinstance(node, cst.Name) else ""


def renamed(func: cst.BaseExpression, name: str) -> cst.BaseExpression:
    """Replace the last part of a dotted name."""
    return func.with_changes(attr=cst.Name(name)) if isinstance(func, cst.Attribute) else func


def calls(node: cst.CSTNode, attribute: str) -> list[cst.Call]:
    """Find the calls of `something.attribute(…)`, where something is a dotted name, in the order of the text."""
    dotted = m.Attribute(attr=m.Name(attribute), value=m.Name() | m.Attribute())
    return [call for call in m.findall(node, m.Call(func=dotted)) if isinstance(call, cst.Call)]


def other_than_inplace(call: cst.Call) -> bool:
    """Whether an activation takes an argument that another one would not understand."""
    return any(arg.keyword is None or arg.keyword.value != "inplace" for arg in call.args)


def argument(call: cst.Call, index: int, keyword: str) -> cst.BaseExpression | None:
    """Return a call's argument by place or keyword; None where it has none, or hides it behind a star."""
    for place, arg in enumerate(call.args):
        if arg.star:
            return None
        if (arg.keyword is None and place == index) or (arg.keyword is not None and arg.keyword.value == keyword):
            return arg.value
    return None


def is_pure(node: cst.CSTNode) -> bool:
    """Whether an expression can be evaluated twice: it awaits, yields, assigns nothing, and calls only len and such."""
    if m.findall(node, m.Await() | m.Yield() | m.NamedExpr()):
        return False
    return all(last_name(call.func) in _PURE_CALLS for call in m.findall(node, m.Call()) if isinstance(call, cst.Call))


def is_general(arg: cst.Arg, index: int) -> bool:
    """Whether an optimiser's argument means the same to any other: the parameters, the rate, the decay."""
    if arg.star:
        return False
    return index < 2 if arg.keyword is None else arg.keyword.value in ("params", "lr", "weight_decay")


def optimiser_calls(node: cst.CSTNode) -> list[cst.Call]:
    """Find the calls that make an optimiser: `…optim.Name(…)`."""
    return [
        call
        for name in _OPTIMISERS
        for call in calls(node, name)
        if isinstance(call.func, cst.Attribute) and last_name(call.func.value) == "optim"
    ]


def target_name(assign: cst.Assign) -> str:
    """Return the last part of the name that is assigned to."""
    return last_name(assign.targets[0].target)


def assigned_optimisers(function: cst.CSTNode) -> Iterator[tuple[str, cst.BaseExpression, cst.Call]]:
    """Yield (variable, the `…optim` that made it, the call) of the function's optimisers."""
    made = optimiser_calls(function)
    for node in m.findall(function, m.Assign(targets=[m.AssignTarget(m.Name())])):
        if isinstance(node, cst.Assign) and isinstance(node.value, cst.Call) and node.value in made:
            func = cst.ensure_type(node.value.func, cst.Attribute)
            yield target_name(node), func.value, node.value


def step_of(name: str) -> m.Call:
    """Match the call that steps an optimiser."""
    return m.Call(func=m.Attribute(value=m.Name(name), attr=m.Name("step")))


def loops(module: cst.Module) -> Iterator[tuple[str, str, cst.For]]:
    """Yield (optimiser, `…optim`, loop): the first outermost loop of a function that steps an optimiser made before."""
    for function in m.findall(module, m.FunctionDef()):
        if not isinstance(function, cst.FunctionDef) or not isinstance(function.body, cst.IndentedBlock):
            continue
        for name, prefix, call in assigned_optimisers(function):
            made = False
            for statement in function.body.body:
                if made and isinstance(statement, cst.For) and m.findall(statement, step_of(name)):
                    if isinstance(statement.body, cst.IndentedBlock):
                        yield name, module.code_for_node(prefix), statement
                    break
                made = made or any(node is call for node in m.findall(statement, m.Call()))


def range_length(module: cst.Module, loop: cst.For) -> str | None:
    """Return the number of rounds of `for … in range(n)` or `range(a, b)` as code."""
    if not isinstance(loop.iter, cst.Call) or last_name(loop.iter.func) != "range" or loop.asynchronous:
        return None
    ends = [arg.value for arg in loop.iter.args if not arg.star and arg.keyword is None]
    if len(ends) != len(loop.iter.args) or len(ends) not in (1, 2) or not all(map(is_pure, ends)):
        return None
    codes = [module.code_for_node(end) for end in ends]
    return codes[0] if len(codes) == 1 else f"({codes[1]}) - ({codes[0]})"


Container = cst.Call | cst.List


def stacked(module: cst.Module) -> Iterator[tuple[Container, int, cst.Call, cst.Call]]:
    """Yield (container, index, layer, next layer) of neighbours in `Sequential(…)` and in lists."""
    for container in m.findall(module, m.Call() | m.List()):
        if isinstance(container, cst.List):
            items: Sequence[cst.Arg | cst.BaseElement] = container.elements
        elif isinstance(container, cst.Call) and last_name(container.func) == "Sequential":
            items = container.args
        else:
            continue
        for index, (item, following) in enumerate(pairwise(items)):
            if isinstance(item.value, cst.Call) and isinstance(following.value, cst.Call):
                yield container, index, item.value, following.value


def inserted(module: cst.Module, container: Container, index: int, new: cst.Call) -> cst.Module:
    """Put a layer behind the one at `index`, which another follows, so that its comma can be copied."""
    if isinstance(container, cst.List):
        elements = list(container.elements)
        elements.insert(index + 1, cst.Element(new, comma=elements[index].comma))
        return replaced(module, {container: container.with_changes(elements=elements)})
    args = list(container.args)
    args.insert(index + 1, cst.Arg(new, comma=args[index].comma))
    return replaced(module, {container: container.with_changes(args=args)})


class _Replacer(cst.CSTTransformer):
    """Replaces nodes by identity, statements by several."""

    def __init__(
        self,
        swaps: dict[cst.CSTNode, cst.CSTNode],
        splice: tuple[cst.CSTNode, Sequence[cst.BaseStatement]] | None = None,
    ) -> None:
        super().__init__()
        self._swaps = {id(old): new for old, new in swaps.items()}
        self._splice = splice

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Leave replaced nodes alone: what is inside them has been carried over."""
        return id(node) not in self._swaps

    def on_leave(  # type: ignore[override]
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> cst.CSTNode | cst.FlattenSentinel[cst.BaseStatement]:
        """Give the replacement of a node that has one."""
        if self._splice is not None and original_node is self._splice[0]:
            return cst.FlattenSentinel(self._splice[1])
        return self._swaps.get(id(original_node), updated_node)


def replaced(module: cst.Module, swaps: dict[cst.CSTNode, cst.CSTNode]) -> cst.Module:
    """Return the module with some nodes replaced, found by identity."""
    return cst.ensure_type(module.visit(_Replacer(swaps)), cst.Module)


def spliced(module: cst.Module, statement: cst.CSTNode, new: Sequence[cst.BaseStatement]) -> cst.Module:
    """Return the module with one statement replaced by several."""
    return cst.ensure_type(module.visit(_Replacer({}, (statement, new))), cst.Module)


def statements(code: str, at: cst.SimpleStatementLine | cst.For) -> list[cst.BaseStatement]:
    """Parse statements; the first takes over the comments and blank lines above the place."""
    parsed: list[cst.BaseStatement] = list(cst.parse_module(code).body)
    return [parsed[0].with_changes(leading_lines=at.leading_lines), *parsed[1:]]
