"""Rewrites of how blocks are joined, and of what the training loop feeds: residual paths, and inputs with holes.

Both keep to forms that are right whatever the shapes: a residual path is taken where shapes are equal when it runs, and
a hole is a zero of the input's own type, which is padding for tokens and darkness for pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst
import libcst.matchers as m

from harness.proposers.rewriting import Rewrite
from harness.proposers.syntax import loops, replaced, spliced, statements, target_name

__all__ = ["InputDropout", "Residual"]

_TURNED = "turned"
_ROOT = "torch"
_SHARES = ("0.05", "0.1")


class Residual(Rewrite):
    """A path around a layer that stands in a loop over layers."""

    name = "residual path"
    why = "a path around each layer lets a deeper network train as well as a shallow one"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """One variant for each `x = f(layer(x))` in a loop of a method, where it has no such path yet."""
        made = []
        for function in m.findall(module, m.FunctionDef(name=m.Name("forward"))):
            if m.findall(function, m.Name(_TURNED)):
                continue
            for loop in m.findall(function, m.For(body=m.IndentedBlock())):
                for line, name in self._steps(loop):
                    assign = cst.ensure_type(line.body[0], cst.Assign)
                    code = (
                        f"{_TURNED} = {module.code_for_node(assign.value)}\n"
                        f"{name} = {name} + {_TURNED} if {_TURNED}.shape == {name}.shape else {_TURNED}\n"
                    )
                    made.append(spliced(module, line, statements(code, line)))
        return made

    @staticmethod
    def _steps(loop: cst.CSTNode) -> Iterator[tuple[cst.SimpleStatementLine, str]]:
        """Yield the statements `x = f(…(x))` of a loop's own body, and x: each call has one argument."""
        body = cst.ensure_type(cst.ensure_type(loop, cst.For).body, cst.IndentedBlock)
        for line in body.body:
            if not m.matches(
                line, m.SimpleStatementLine(body=[m.Assign(targets=[m.AssignTarget(m.Name())], value=m.Call())])
            ):
                continue
            found = cst.ensure_type(line, cst.SimpleStatementLine)
            assign = cst.ensure_type(found.body[0], cst.Assign)
            name, value = target_name(assign), assign.value
            while isinstance(value, cst.Call) and len(value.args) == 1 and not value.args[0].star:
                value = value.args[0].value
            if isinstance(value, cst.Name) and value.value == name:
                yield found, name


class InputDropout(Rewrite):
    """Holes in what the network is trained on."""

    name = "input dropout"
    why = "a network that is trained on inputs with holes leans on no single part of them"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """Two shares of holes for each `model(inputs)` in a loop that steps an optimiser."""
        if not m.findall(
            module, m.Import(names=[m.ZeroOrMore(), m.ImportAlias(m.Name(_ROOT), asname=None), m.ZeroOrMore()])
        ):
            return []  # torch itself is not at hand
        made = []
        for function in m.findall(module, m.FunctionDef(name=m.Name("train"))):
            params = cst.ensure_type(function, cst.FunctionDef).params.params
            network = params[0].name.value if params else ""
            inner = {id(node) for node in m.findall(function, m.Call())}
            for _, _, loop in loops(module):
                if m.findall(loop, m.Call(func=m.Attribute(attr=m.Name("rand")))):
                    continue
                for call in m.findall(loop, m.Call(func=m.Name(network), args=[m.Arg(keyword=None, star="")])):
                    given = cst.ensure_type(call, cst.Call).args[0]
                    if id(call) not in inner or not isinstance(given.value, cst.Name):
                        continue
                    at = given.value.value
                    for share in _SHARES:
                        kept = f"({_ROOT}.rand({at}.shape, device={at}.device) >= {share}).to({at}.dtype)"
                        holed = given.with_changes(value=cst.parse_expression(f"{at} * {kept}"))
                        made.append(
                            replaced(module, {call: cst.ensure_type(call, cst.Call).with_changes(args=[holed])})
                        )
        return made
