"""Crossover of code: a function or class of one candidate's file in the place of its namesake in another's.

What the donor's definition needs and the receiving file lacks comes along: imports and assignments of the top level,
and definitions that those or it name. Where a needed name would mean something else in the receiving file, there is no
child, so a child never runs a definition among names that it was not written for. Nothing is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import libcst as cst

__all__ = ["children"]

_Definition = cst.FunctionDef | cst.ClassDef


def children(receiver: str, donor: str) -> Iterator[tuple[str, str]]:
    """Yield (name, whole new text): the receiver with one definition of the donor's, for each that differs.

    Nothing for texts that cannot be parsed. Every text compiles.
    """
    try:
        ours, theirs = cst.parse_module(receiver), cst.parse_module(donor)
    except (cst.ParserSyntaxError, RecursionError):
        return
    mine, other = _definitions(ours), _definitions(theirs)
    for name in mine:
        if name not in other or _meaning(ours, mine[name]) == _meaning(theirs, other[name]):
            continue
        brought = _brought(ours, theirs, name)
        if brought is None:
            continue
        swapped = [
            other[name].with_changes(leading_lines=mine[name].leading_lines) if statement is mine[name] else statement
            for statement in ours.body
        ]
        at = _behind_imports(swapped)
        text = ours.with_changes(body=[*swapped[:at], *brought, *swapped[at:]]).code
        if _compiles(text):
            yield name, text


def _definitions(module: cst.Module) -> dict[str, _Definition]:
    """The functions and classes of the top level; of a name that is defined twice, none."""
    found: dict[str, _Definition] = {}
    twice: set[str] = set()
    for statement in module.body:
        if isinstance(statement, cst.FunctionDef | cst.ClassDef):
            name = statement.name.value
            (twice.add(name) if name in found else None)
            found[name] = statement
    return {name: each for name, each in found.items() if name not in twice}


def _bound(module: cst.Module) -> dict[str, cst.CSTNode]:
    """Every name that the top level binds by an import, an assignment or a definition, and the statement that does."""
    found: dict[str, cst.CSTNode] = {}
    for statement in module.body:
        try:
            tree = ast.parse(module.code_for_node(statement).strip() + "\n")
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in tree.body:
            for name in _binds(node):
                found[name] = statement
    return found


def _binds(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names if alias.name != "*"]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]


def _used(module: cst.Module, statement: cst.CSTNode) -> set[str]:
    """Every name that a statement reads, as far as its text tells; too many rather than too few."""
    tree = ast.parse(module.code_for_node(statement).strip() + "\n")
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _meaning(module: cst.Module, statement: cst.CSTNode) -> str:
    return ast.dump(ast.parse(module.code_for_node(statement).strip() + "\n"))


def _brought(
    ours: cst.Module, theirs: cst.Module, name: str
) -> list[cst.SimpleStatementLine | cst.BaseCompoundStatement] | None:
    """What the donor's definition needs and the receiver lacks, in the donor's order; None where names clash."""
    mine, other = _bound(ours), _bound(theirs)
    needed: list[cst.CSTNode] = []
    seen, waiting = {name}, _used(theirs, other[name])
    while waiting:
        used = waiting.pop()
        if used in seen or used not in other:
            continue  # a builtin, a local name, or itself
        seen.add(used)
        if used in mine:
            # Another definition is the receiver's own version: what crossover is about. Anything else must be the same.
            defined = isinstance(mine[used], cst.FunctionDef | cst.ClassDef)
            if not defined and _meaning(ours, mine[used]) != _meaning(theirs, other[used]):
                return None
            continue
        if other[used] not in needed:
            needed.append(other[used])
            waiting |= _used(theirs, other[used])
    return [statement for statement in theirs.body if any(statement is each for each in needed)]


def _behind_imports(body: list[cst.SimpleStatementLine | cst.BaseCompoundStatement]) -> int:
    """The place behind the last import of the top level."""
    places = [
        at + 1
        for at, statement in enumerate(body)
        if isinstance(statement, cst.SimpleStatementLine)
        and any(isinstance(part, cst.Import | cst.ImportFrom) for part in statement.body)
    ]
    return max(places, default=0)


def _compiles(text: str) -> bool:
    try:
        compile(text, "model.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
