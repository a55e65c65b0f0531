"""Typed rewrites of a torch subject's code, on LibCST's concrete syntax trees: what the codegen proposer is made of.

A rewrite knows one pattern and one idea. `variants` returns every module that it can make of a given one: an
empty list where the pattern does not stand, always in the same order. Comments and layout outside the rewritten
place are kept. Nothing is executed; names are resolved only as far as the module's own imports tell.

Dropout and batch normalisation count on the worker, which switches the network to evaluation before it predicts.
Not covered: whether a variant trains. A rewrite keeps to forms in which it should, and the build tells.
"""

from __future__ import annotations

import libcst as cst
import libcst.matchers as m

from harness.proposers.rewriting import Rewrite
from harness.proposers.structure_rewrites import InputDropout, Residual
from harness.proposers.syntax import (
    Names,
    argument,
    arguments,
    assigned_optimisers,
    calls,
    extended,
    inserted,
    is_general,
    is_pure,
    last_name,
    loops,
    optimiser_calls,
    other_than_inplace,
    parsed_call,
    range_length,
    renamed,
    replaced,
    spaced,
    spliced,
    stacked,
    statements,
    step_of,
    target_name,
)

__all__ = ["REWRITES", "Rewrite"]

_ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "elu": "ELU"}
_NORMS = {"Linear": "LayerNorm", "Conv1d": "BatchNorm1d", "Conv2d": "BatchNorm2d"}


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


class OptimiserSwap(Rewrite):
    """Another optimiser with the same parameters, learning rate and weight decay."""

    name = "optimiser swap"
    why = "another update rule may get further in the same number of steps"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """One variant for each optimiser that is made, and each other one."""
        made = []
        for call in optimiser_calls(module):
            present = last_name(call.func)
            kept = [arg for index, arg in enumerate(call.args) if is_general(arg, index)]
            has_decay = any(arg.keyword is not None and arg.keyword.value == "weight_decay" for arg in kept)
            for target, extra in (
                ("AdamW", "" if has_decay else "weight_decay=0.01"),
                ("NAdam", ""),
                ("RAdam", ""),
                ("SGD", "momentum=0.9, nesterov=True"),
            ):
                if target == present:
                    continue
                args = [*kept, *arguments(extra)]
                made.append(
                    replaced(module, {call: call.with_changes(func=renamed(call.func, target), args=spaced(args))})
                )
        return made


class Normalisation(Rewrite):
    """A normalisation layer behind a linear or convolutional one."""

    name = "normalisation"
    why = "normalised features let the same number of steps get further"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """One variant for each layer of a stack that an activation follows, and for each hidden `self.x = layer`."""
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
        return cst.Call(func=cst.parse_expression(f"{names.nn}.{norm}"), args=[cst.Arg(width)])

    @staticmethod
    def _hidden(module: cst.Module) -> list[cst.Call]:
        """Return the layers kept as `self.x = layer`; not the last (it answers), nor those whose parts are used."""
        assigned = []
        for node in m.findall(module, m.Assign(targets=[m.AssignTarget(m.Attribute(value=m.Name("self")))])):
            if (
                isinstance(node, cst.Assign)
                and isinstance(node.value, cst.Call)
                and last_name(node.value.func) in _NORMS
            ):
                used = m.findall(
                    module, m.Attribute(value=m.Attribute(value=m.Name("self"), attr=m.Name(target_name(node))))
                )
                assigned.append((node.value, bool(used)))
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
        for function in m.findall(
            module, m.FunctionDef(params=m.Parameters(params=[m.Param(m.Name("self")), m.AtLeastN(n=0)]))
        ):
            for old in _ACTIVATIONS:
                for use in calls(function, old) if names.functional else []:
                    args = [cst.Arg(use), *arguments("p=0.1, training=self.training")]
                    wrapped = cst.Call(func=cst.parse_expression(f"{names.functional}.dropout"), args=spaced(args))
                    made.append(replaced(module, {use: wrapped}))
        return made


class Initialisation(Rewrite):
    """Another initialisation of all matrices, where `build` returns the network."""

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
                        "for parameter in network.parameters():\n"
                        "    if parameter.dim() > 1:\n"
                        f"        {nn}.init.{init}(parameter)\n"
                        "return network\n"
                    )
                    made.append(spliced(module, line, statements(code, line)))
        return made


class Schedule(Rewrite):
    """A learning rate that changes over the loop that steps the optimiser."""

    name = "learning-rate schedule"
    why = "a learning rate that falls lets the last steps settle"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """One variant for each schedule, where `for … in range(n)` steps an optimiser made before it."""
        if m.findall(module, m.Name("lr_scheduler") | m.Name("rounds") | m.Name("schedule")):
            return []
        made = []
        for name, prefix, loop in loops(module):
            total = range_length(module, loop)
            if total is None or m.findall(loop, m.Continue()):
                continue
            for schedule in (
                f"CosineAnnealingLR({name}, T_max=rounds)",
                f"LambdaLR({name}, lambda done: 1.0 - done / (rounds + 1))",
                f"LambdaLR({name}, lambda done: min(1.0, (done + 1) / max(1, rounds // 10)))",
            ):
                code = f"rounds = max(1, {total})\nschedule = {prefix}.lr_scheduler.{schedule}\n"
                body = loop.body.with_changes(body=[*loop.body.body, cst.parse_statement("schedule.step()\n")])
                made.append(
                    spliced(module, loop, [*statements(code, loop), loop.with_changes(body=body, leading_lines=[])])
                )
        return made


class LabelSmoothing(Rewrite):
    """Cross-entropy against labels that are a little unsure."""

    name = "label smoothing"
    why = "labels that are a little unsure keep the network from being too sure"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """Two strengths for each cross-entropy without smoothing."""
        made = []
        for call in (*calls(module, "cross_entropy"), *calls(module, "CrossEntropyLoss")):
            if any(arg.star or (arg.keyword and arg.keyword.value == "label_smoothing") for arg in call.args):
                continue
            made += [
                replaced(module, {call: extended(call, f"label_smoothing={strength}")}) for strength in ("0.05", "0.1")
            ]
        return made


class GradientClipping(Rewrite):
    """A bound on the gradient's norm before each step."""

    name = "gradient clipping"
    why = "a bounded gradient keeps one odd batch from undoing many good ones"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """Two bounds for each statement that steps an optimiser made from `x.parameters()`."""
        nn = Names(module).nn
        if nn is None or m.findall(
            module, m.Name(value=m.MatchIfTrue(lambda name: "clip_grad" in name or name == "GradScaler"))
        ):
            return []
        made = []
        for function in m.findall(module, m.FunctionDef()):
            for name, _, call in assigned_optimisers(function):
                owner = call.args[0].value if call.args else None
                if not (
                    isinstance(owner, cst.Call)
                    and last_name(owner.func) == "parameters"
                    and isinstance(owner.func, cst.Attribute)
                ):
                    continue
                network = module.code_for_node(owner.func.value)
                for line in m.findall(function, m.SimpleStatementLine(body=[m.Expr(step_of(name))])):
                    if not isinstance(line, cst.SimpleStatementLine):
                        continue
                    for bound in ("1.0", "0.5"):
                        code = f"{nn}.utils.clip_grad_norm_({network}.parameters(), {bound})\n"
                        made.append(
                            spliced(module, line, [*statements(code, line), line.with_changes(leading_lines=[])])
                        )
        return made


REWRITES: tuple[Rewrite, ...] = (
    ActivationSwap(),
    OptimiserSwap(),
    Normalisation(),
    Dropout(),
    Initialisation(),
    Schedule(),
    LabelSmoothing(),
    GradientClipping(),
    Residual(),
    InputDropout(),
)
"""All rewrites, in a fixed order."""
