"""Rewrites of the training: optimiser, learning rate, terms of the loss, gradients, and what the network is fed.

A hole in an input is a zero of the input's own type: padding for tokens, darkness for pixels.
"""

from __future__ import annotations

import libcst as cst
import libcst.matchers as m

from harness.proposers.rewriting import Rewrite
from harness.proposers.syntax import (
    Names,
    arguments,
    assigned_optimisers,
    calls,
    extended,
    is_general,
    is_pure,
    last_name,
    loops,
    optimiser_calls,
    range_length,
    renamed,
    replaced,
    spaced,
    spliced,
    statements,
    step_of,
)

__all__ = ["GradientClipping", "InputDropout", "LabelSmoothing", "OptimiserSwap", "Penalty", "Schedule", "WeightDecay"]

_ROOT = "torch"
_SHARES = ("0.05", "0.1")


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


class WeightDecay(Rewrite):
    """A pull of all weights towards zero, by the optimiser."""

    name = "weight decay"
    why = "weights that are pulled towards zero learn less of the training data by heart"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """Two strengths for each optimiser that is made without; AdamW, which has one of 0.01 unasked, gets more."""
        made = []
        for call in optimiser_calls(module):
            places = [arg for arg in call.args if arg.keyword is None]
            if len(places) > 2 or any(
                arg.star or (arg.keyword and arg.keyword.value == "weight_decay") for arg in call.args
            ):
                continue
            strengths = ("0.05", "0.1") if last_name(call.func) == "AdamW" else ("0.0001", "0.001")
            made += [replaced(module, {call: extended(call, f"weight_decay={strength}")}) for strength in strengths]
        return made


class Penalty(Rewrite):
    """A term of the loss: the sum of all weights' absolute values."""

    name = "L1 penalty"
    why = "a price on each weight leaves those at zero that nothing is gained by"

    def variants(self, module: cst.Module) -> list[cst.Module]:
        """Two strengths for each `loss.backward()` in a loop that steps an optimiser made from `x.parameters()`."""
        if m.findall(module, m.Name("penalty")):
            return []
        made = []
        for function in m.findall(module, m.FunctionDef()):
            inner = {id(node) for node in m.findall(function, m.For())}
            for name, _, call in assigned_optimisers(function):
                network = _network(module, call)
                for optimiser, _, loop in loops(module) if network else []:
                    if id(loop) not in inner or optimiser != name:
                        continue
                    backward = m.Call(func=m.Attribute(value=m.Name(), attr=m.Name("backward")), args=[])
                    for line in m.findall(loop, m.SimpleStatementLine(body=[m.Expr(backward)])):
                        found = cst.ensure_type(line, cst.SimpleStatementLine)
                        loss = module.code_for_node(cst.ensure_type(found.body[0], cst.Expr).value).split(".")[0]
                        for strength in ("0.00001", "0.0001"):
                            code = (
                                f"penalty = sum(part.abs().sum() for part in {network}.parameters())\n"
                                f"({loss} + {strength} * penalty).backward()\n"
                            )
                            made.append(spliced(module, found, statements(code, found)))
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
                network = _network(module, call)
                if network is None:
                    continue
                for line in m.findall(function, m.SimpleStatementLine(body=[m.Expr(step_of(name))])):
                    if not isinstance(line, cst.SimpleStatementLine):
                        continue
                    for bound in ("1.0", "0.5"):
                        code = f"{nn}.utils.clip_grad_norm_({network}.parameters(), {bound})\n"
                        made.append(
                            spliced(module, line, [*statements(code, line), line.with_changes(leading_lines=[])])
                        )
        return made


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


def _network(module: cst.Module, call: cst.Call) -> str | None:
    """What an optimiser was made from, as code: x of `…(x.parameters(), …)`; None for anything else."""
    owner = call.args[0].value if call.args else None
    if not (isinstance(owner, cst.Call) and isinstance(owner.func, cst.Attribute) and is_pure(owner.func.value)):
        return None
    return module.code_for_node(owner.func.value) if last_name(owner.func) == "parameters" else None
