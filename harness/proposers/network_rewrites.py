"""Rewrites of the network: activation, normalisation, dropout, initialisation, and paths around layers.

Dropout and batch normalisation count on the worker, which switches the network to evaluation before it predicts. A
residual path is right whatever the shapes: it is taken where they are equal when it runs.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst
import libcst.matchers as m

from harness.proposers.rewriting import Rewrite
from harness.proposers.syntax import (
    Names,
    argument,
    arguments,
    calls,
    inserted,
    is_pure,
    last_name,
    other_than_inplace,
    parsed_call,
    renamed,
    replaced,
    spaced,
    spliced,
    stacked,
    statements,
    target_name,
)

__all__ = ["ActivationSwap", "Dropout", "Initialisation", "Normalisation", "Residual"]

_ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "elu": "ELU"}
_NORMS = {"Linear": "LayerNorm", "Conv1d": "BatchNorm1d", "Conv2d": "BatchNorm2d"}
_TURNED = "turned"


class ActivationSwap(Rewrite):
    """Another non-linearity, in all places where the present one stands."""

    name = "activation swap"
    why = "a smoother non-linearity often trains better at the same size"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """One variant for each present activation and each other one."""
        functional = Names(module).functional
        made = []
        for old, old_class in _ACTIVATIONS.items():
            layers = [call for call in calls(module, old_class) if not other_than_inplace(call)]
            uses = [call for call in calls(module, old) if len(call.args) == 1 and functional is not None]
            if not layers and not uses:
                continue
            for new, new_class in _ACTIVATIONS.items():
                if new == old:
                    continue
                swaps: dict[cst.CSTNode, cst.CSTNode] = {
                    call: call.with_changes(func=renamed(call.func, new_class), args=[]) for call in layers
                }
                swaps |= {use: use.with_changes(func=cst.parse_expression(f"{functional}.{new}")) for use in uses}
                made.append(replaced(module, swaps))
        return made


class Normalisation(Rewrite):
    """A normalisation layer behind a linear or convolutional one."""

    name = "normalisation"
    why = "normalised features let the same number of steps get further"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """One variant for each layer of a stack before an activation, each hidden `self.x = layer`, and each list."""
        names = Names(module)
        if names.nn is None:
            return []
        made = []
        for container, index, call, following in stacked(module):
            norm = self._norm(names, call)
            if norm is not None and last_name(following.func) in _ACTIVATIONS.values():
                made.append(inserted(module, container, index, norm))
        for call in self._hidden(module):
            norm = self._norm(names, call)
            if norm is not None:
                pair = [cst.Arg(call), cst.Arg(norm)]
                stack = cst.Call(func=cst.parse_expression(f"{names.nn}.Sequential"), args=spaced(pair))
                made.append(replaced(module, {call: stack}))
        return made

    @staticmethod
    def _norm(names: Names, call: cst.Call) -> cst.Call | None:
        norm = _NORMS.get(last_name(call.func))
        width = argument(call, 1, "out_features" if norm == "LayerNorm" else "out_channels")
        if norm is None or width is None or not is_pure(width):
            return None
        if m.matches(width, m.Integer("1")):
            return None  # a feature that is normalised by itself is a constant
        return cst.Call(func=cst.parse_expression(f"{names.nn}.{norm}"), args=[cst.Arg(width)])

    @staticmethod
    def _hidden(module: cst.Module) -> list[cst.Call]:
        """Return the layers kept as `self.x = layer`, or made for a list in one expression.

        Not the last, since it answers, nor those whose parts are used.
        """
        weights = m.findall(module, m.Attribute(attr=m.Name("weight") | m.Name("bias")))
        assigned = []
        for node in m.findall(module, m.Assign(targets=[m.AssignTarget(m.Attribute(value=m.Name("self")))])):
            if not isinstance(node, cst.Assign) or not isinstance(node.value, cst.Call):
                continue
            call, listed = node.value, False
            if last_name(call.func) == "ModuleList" and len(call.args) == 1:
                made = call.args[0].value
                if isinstance(made, cst.GeneratorExp | cst.ListComp) and isinstance(made.elt, cst.Call):
                    call, listed = made.elt, True
            if last_name(call.func) in _NORMS:
                used = m.findall(
                    module, m.Attribute(value=m.Attribute(value=m.Name("self"), attr=m.Name(target_name(node))))
                )
                assigned.append((call, bool(used) or (listed and bool(weights))))
        return [call for call, used in assigned[:-1] if not used]


class Dropout(Rewrite):
    """Dropout behind an activation."""

    name = "dropout"
    why = "dropout keeps a network of this size from learning its training data by heart"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """One variant for each activation, as a layer with another behind it or as a call in a method."""
        names = Names(module)
        made = []
        for container, index, call, following in stacked(module):
            if names.nn and last_name(call.func) in _ACTIVATIONS.values() and last_name(following.func) != "Dropout":
                made.append(inserted(module, container, index, parsed_call(f"{names.nn}.Dropout(0.1)")))
        dropped = {
            id(arg.value)
            for call in calls(module, "dropout")
            for arg in call.args[:1]
            if isinstance(arg.value, cst.Call)
        }
        for function in m.findall(
            module, m.FunctionDef(params=m.Parameters(params=[m.Param(m.Name("self")), m.AtLeastN(n=0)]))
        ):
            for old in _ACTIVATIONS:
                for use in calls(function, old) if names.functional else []:
                    if id(use) in dropped:
                        continue
                    args = [cst.Arg(use), *arguments("p=0.1, training=self.training")]
                    wrapped = cst.Call(func=cst.parse_expression(f"{names.functional}.dropout"), args=spaced(args))
                    made.append(replaced(module, {use: wrapped}))
        return made


class Initialisation(Rewrite):
    """Another initialisation of all linear and convolutional layers, where `build` returns the network.

    Embeddings keep theirs: the row of the padding stays zero.
    """

    name = "initialisation"
    why = "another scale of the first weights changes how fast the first steps learn"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """One variant for each `return` of `build` and each initialisation."""
        nn = Names(module).nn
        if nn is None or m.findall(module, m.Attribute(attr=m.Name("init"))):
            return []
        made = []
        for function in m.findall(module, m.FunctionDef(name=m.Name("build"))):
            for line in m.findall(function, m.SimpleStatementLine(body=[m.Return(value=m.DoNotCare())])):
                if not isinstance(line, cst.SimpleStatementLine) or not isinstance(line.body[0], cst.Return):
                    continue
                value = line.body[0].value
                if not isinstance(value, cst.Name | cst.Call):
                    continue
                for init in ("kaiming_normal_", "xavier_uniform_", "orthogonal_"):
                    code = (
                        f"network = {module.code_for_node(value)}\n"
                        "for part in network.modules():\n"
                        f"    if isinstance(part, {' | '.join(f'{nn}.{layer}' for layer in _NORMS)}):\n"
                        f"        {nn}.init.{init}(part.weight)\n"
                        "return network\n"
                    )
                    made.append(spliced(module, line, statements(code, line)))
        return made


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
