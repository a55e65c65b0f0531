"""Crossover of code: a function or class of one candidate's file in the place of its namesake in another's.

What the donor's definition needs and the receiving file lacks comes along: imports behind the imports, other statements
of the top level right before the definition. There is no child where a needed name would mean something else in the
receiving file, where a brought one would hide a builtin from it, or where something would be read before it is bound.
A definition that both files have is the receiver's own version: mixing those is what crossover is. Nothing is executed.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

__all__ = ["children"]

_Statement = cst.SimpleStatementLine | cst.BaseCompoundStatement
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class _Binding:
    """One statement that binds a name: what it says, and what to bring where the name is missing."""

    meaning: str
    statement: _Statement
    definition: bool = False
    package: bool = False  # `import a.b` binds a, as `import a.c` does: the two agree


class _File:
    """One file: its statements, their syntax trees, and what each name of its top level is bound by."""

    def __init__(self, text: str) -> None:
        """Parse; raises what `_BROKEN` lists."""
        self.module = cst.parse_module(text)
        self.texts = [self.module.code_for_node(statement).strip() + "\n" for statement in self.module.body]
        self.trees = [ast.parse(text).body for text in self.texts]
        self.bound: dict[str, list[_Binding]] = {}
        self.assumed: set[str] = set()  # `from __future__` and star imports: what no name tells
        self.declared = {  # `global`: bound by no statement of the top level
            name for node in self._walked() if isinstance(node, ast.Global) for name in node.names
        }
        for statement, nodes in zip(self.module.body, self.trees, strict=True):
            self._read(statement, nodes)

    def _read(self, statement: _Statement, nodes: list[ast.stmt]) -> None:
        only = nodes[0] if len(nodes) == 1 else None
        if isinstance(only, ast.Import | ast.ImportFrom):
            for alias in only.names:
                one = ast.unparse(
                    ast.Import([alias])
                    if isinstance(only, ast.Import)
                    else ast.ImportFrom(only.module, [alias], only.level)
                )
                if alias.name == "*" or (isinstance(only, ast.ImportFrom) and only.module == "__future__"):
                    self.assumed.add(one)
                    continue
                line = cst.ensure_type(cst.parse_statement(f"{one}\n"), cst.SimpleStatementLine)
                package = isinstance(only, ast.Import) and alias.asname is None
                bindings = self.bound.setdefault(_called(alias), [])
                if not bindings or bindings[-1].meaning != one:
                    bindings.append(_Binding(one, line, package=package))
            return
        if any(isinstance(node, ast.alias) and node.name == "*" for root in nodes for node in ast.walk(root)):
            self.assumed.add(_dump(nodes))
        for name in sorted(_binds(nodes)):
            binding = _Binding(_dump(nodes), statement, definition=isinstance(only, _NAMED))
            self.bound.setdefault(name, []).append(binding)

    def _walked(self) -> Iterator[ast.AST]:
        return (node for nodes in self.trees for root in nodes for node in ast.walk(root))

    def definitions(self) -> dict[str, tuple[_Statement, list[ast.stmt]]]:
        """The functions and classes of the top level whose names nothing else binds."""
        return {
            nodes[0].name: (statement, nodes)
            for statement, nodes in zip(self.module.body, self.trees, strict=True)
            if isinstance(nodes[0], _NAMED) and len(self.bound[nodes[0].name]) == 1
        }


_BROKEN = (cst.ParserSyntaxError, SyntaxError, ValueError, RecursionError, MemoryError)


def children(receiver: str, donor: str) -> Iterator[tuple[str, str]]:
    """Yield (name, whole new text): the receiver with one definition of the donor's, for each that differs.

    Nothing for texts that cannot be parsed, or are nested too deeply. Every text compiles.
    """
    try:
        ours, theirs = _File(receiver), _File(donor)
        if ours.assumed == theirs.assumed:
            yield from _children(ours, theirs)
    except _BROKEN:
        return


def _children(ours: _File, theirs: _File) -> Iterator[tuple[str, str]]:
    mine, other = ours.definitions(), theirs.definitions()
    early = _early(ours)
    for name, (old, nodes) in mine.items():
        if name not in other or _dump(nodes) == _dump(other[name][1]):
            continue
        new, tree = other[name]
        brought = _brought(ours, theirs, name, tree)
        if brought is None:
            continue
        text = _joined(ours.module, old, new, brought)
        compile(text, "model.py", "exec", dont_inherit=True)
        if _early(_File(text)) <= early:
            yield name, text


def _brought(ours: _File, theirs: _File, name: str, tree: list[ast.stmt]) -> list[_Statement] | None:
    """What the donor's definition needs and the receiver lacks, in the donor's order; None where names clash."""
    if _looked_up(ast.unparse(ast.Module(tree, []))) - set(theirs.bound) - set(dir(builtins)):
        return None  # it does not stand on its own feet where it comes from
    needed: dict[int, _Statement] = {}
    seen, waiting = {name}, _used(tree)
    while waiting:
        used = waiting.pop()
        if used in seen:
            continue
        seen.add(used)
        have, want = ours.bound.get(used, []), theirs.bound.get(used, [])  # neither: a builtin or a local name
        builtin = hasattr(builtins, used)
        if used in theirs.declared or (have and not want and builtin):
            return None
        if have and want and all(binding.definition for binding in (*have, *want)):
            continue
        known = {binding.meaning for binding in have}
        missing = [binding for binding in want if binding.meaning not in known]
        if missing and (builtin or used in ours.declared):
            return None
        if have and want and not all(binding.package for binding in (*have, *want)):
            if [binding.meaning for binding in have] != [binding.meaning for binding in want]:
                return None
            continue
        for binding in missing:
            needed[id(binding.statement)] = binding.statement
            nodes = ast.parse(theirs.module.code_for_node(binding.statement).strip() + "\n").body
            waiting |= _used(nodes) | _binds(nodes)
    order = {id(statement): at for at, statement in enumerate(theirs.module.body)}
    code = theirs.module.code_for_node
    return sorted(needed.values(), key=lambda statement: (order.get(id(statement), -1), code(statement)))


def _joined(module: cst.Module, old: _Statement, new: _Statement, brought: Sequence[_Statement]) -> str:
    """The text with one definition for another: brought imports behind the imports above it, the rest right before."""
    at = next(place for place, statement in enumerate(module.body) if statement is old)
    above, below = list(module.body[:at]), list(module.body[at + 1 :])
    imports = [statement for statement in brought if _imports(statement)]
    others = [statement for statement in brought if not _imports(statement)]
    place = max((number + 1 for number, statement in enumerate(above) if _imports(statement)), default=None)
    if place is None:
        place = int(module.get_docstring() is not None)
    above[place:place] = imports
    placed = new.with_changes(leading_lines=old.leading_lines)
    return module.with_changes(body=[*above, *others, placed, *below]).code


def _imports(statement: cst.CSTNode) -> bool:
    return isinstance(statement, cst.SimpleStatementLine) and all(
        isinstance(part, cst.Import | cst.ImportFrom) for part in statement.body
    )


def _early(file: _File) -> set[tuple[str, str]]:
    """Every (statement, name) where a name may be read before it is bound, or is bound nowhere.

    A statement reads what stands in it outside of functions, and all that a definition which it names might read.
    """
    binds = [_binds(nodes) for nodes in file.trees]
    inside: dict[str, set[str]] = {}
    for text, nodes in zip(file.texts, file.trees, strict=True):
        if isinstance(nodes[0], _NAMED):
            inside.setdefault(nodes[0].name, set()).update(_looked_up(text))
    ready: set[str] = set()
    found = set()
    for nodes, bound in zip(file.trees, binds, strict=True):
        seen, waiting = set(bound), set(_read_at_once(nodes))
        while waiting:
            name = waiting.pop()
            if name in seen or (name not in file.bound and hasattr(builtins, name)):
                continue
            seen.add(name)
            if name not in ready:
                found.add((" ".join(sorted(bound)) or _dump(nodes), name))
            waiting |= inside.get(name, set())
        ready |= bound
    return found


def _read_at_once(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """The names that statements read when they run: of functions only decorators, defaults and annotations."""
    for node in nodes:
        if isinstance(node, ast.Name):
            yield node.id
        body = node.body if isinstance(node, _SCOPES) else []
        kept = body if isinstance(body, list) else [body]
        yield from _read_at_once([child for child in ast.iter_child_nodes(node) if child not in kept])


def _binds(nodes: Sequence[ast.AST]) -> set[str]:
    """The names that statements bind where they stand: not those inside of functions and classes."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.alias):
            found.add(_called(node))
        elif isinstance(node, (*_NAMED, ast.ExceptHandler)) and node.name:
            found.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        if not isinstance(node, (*_SCOPES, ast.ClassDef)):
            found |= _binds(list(ast.iter_child_nodes(node)))
    return found - {"*"}


def _used(nodes: Sequence[ast.AST]) -> set[str]:
    """Every name in a text, those in quoted annotations too: too many rather than too few."""
    found = set()
    for node in (each for root in nodes for each in ast.walk(root)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        for quoted in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(quoted, ast.Constant) and isinstance(quoted.value, str):
                try:
                    found |= _used([ast.parse(quoted.value.strip(), mode="eval")])
                except _BROKEN:
                    continue
    return found


def _looked_up(text: str) -> set[str]:
    """The names that a text looks up outside of its functions, as the compiler sees it."""
    found, waiting = set(), [symtable.symtable(text, "model.py", "exec")]
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        top = table.get_type() == "module"
        found |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (symbol.is_global() or top) and not (top and symbol.is_assigned())
        }
    return found


def _called(alias: ast.alias) -> str:
    return (alias.asname or alias.name).split(".")[0]


def _dump(nodes: Sequence[ast.AST]) -> str:
    return "\n".join(ast.dump(node) for node in nodes)
