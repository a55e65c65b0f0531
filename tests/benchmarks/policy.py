"""How long a decision takes, beside plain Python (the floor) and Cedar by cedarpy, where that is installed.

Twelve rules and a thousand, each with a message, over a document of 5 kB: evaluated in this process as the judge's
evaluates them, and through the judge. Then what the suite of the baseline takes, and the mutants of its rules.

Run as `python tests/benchmarks/policy.py`; prints one JSON line for each, times as medians of rounds that alternate.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compare import PARAMS, RULES

from harness import policy_test
from harness.base_document import base_document
from harness.judge import Judge
from harness.judgement import judge_document
from harness.policy import PolicySet, load_policies, policy_set_of
from harness.policy_compiler import compile_policy
from harness.policy_document import canonicalise
from harness.policy_file import PolicySource

BASELINE = Path(__file__).parent.parent.parent / "policies" / "baseline.yaml"
# What Cedar can say of the twelve: it has no loops, no sizes of sets, and no arithmetic but of integers
CEDAR = [
    "context.change.lines_changed <= 400",
    "context.candidate.parameters <= 5000000",
    "100 * context.candidate.parameters <= 125 * context.incumbent.parameters",
    'context.gates has refusal && context.gates.refusal.mean.greaterThanOrEqual(decimal("0.93"))',
    '["torch", "numpy", "math"].containsAll(context.code.packages)',
    '!(["nobody", "unknown"].contains(context.proposal.proposer)) && !(context.proposal.proposer like "x*")',
    'context.approvals.contains({by: "reviewer", role: "human"}) || context.code.max_complexity <= 10',
    'context.budgets.promotions_left > 0 && context.budgets.wall_seconds_left.greaterThan(decimal("60.0"))',
]


def document_of_5_kb() -> dict[str, Any]:
    """Return a document that the twelve rules admit, as large as one about a model of a few hundred lines."""
    document = base_document("decide")
    document["code"] |= {
        "packages": ["math", "numpy", "torch"],
        "imports": ["math", "numpy", "torch", "torch.nn.functional"],
        "attributes": [f"torch.nn.functional.layer_{i:02}" for i in range(70)],
        "calls": [f"torch.nn.functional.layer_{i:02}" for i in range(36)],
    }
    return document


def rules(count: int) -> PolicySet:
    """Return the twelve, or as many of the same forms with bounds of their own, each with a message."""
    sources = []
    for begin in range(0, count, 500):  # as many as a policy may hold
        head = f"apiVersion: lockgate/v1\nkind: ChangePolicy\nmetadata: {{name: many-{begin}, owner: benchmark}}\n"
        text = f"{head}match: {{stage: decide, kinds: all}}\nparams: {json.dumps(PARAMS)}\nrules:\n"
        for index in range(begin, min(begin + 500, count)):
            own = f" && change.lines_changed < {10_000 + index}" if count > len(RULES) else ""
            rule, message = f"({RULES[index % len(RULES)]}){own}", "string(change.lines_changed) + ' lines changed'"
            quoted = f"require: {json.dumps(rule)}, messageExpr: {json.dumps(message)}"
            text += f"  - {{id: r{index}, otherwise: deny, {quoted}}}\n"
        sources.append(PolicySource(name=f"many-{begin}.yaml", text=text))
    return policy_set_of(sources)


def plain(document: dict[str, Any]) -> bool:
    """Decide the twelve as a programmer would write them: the floor."""
    change, code, gates, proposer = (
        document["change"],
        document["code"],
        document["gates"],
        document["proposal"]["proposer"],
    )
    candidate, incumbent, budgets = document["candidate"], document["incumbent"], document["budgets"]
    people = [a for a in document["approvals"] if a["role"] == "human" and a["by"] != proposer]
    return all(
        [
            change["lines_changed"] <= PARAMS["max_lines"],
            candidate["parameters"] <= PARAMS["max_parameters"],
            candidate["parameters"] <= PARAMS["growth"] * incumbent["parameters"],
            len(change["knobs"]) <= PARAMS["most"] and len(change["files"]) <= PARAMS["most"],
            bool(gates) and all(gate["verdict"] == "pass" for gate in gates.values()),
            bool(gates) and all(gate["n"] >= 100 for gate in gates.values()),
            "refusal" in gates and gates["refusal"]["mean"] + PARAMS["loss"] >= 0.95,
            all(f["path"].startswith("model") and f["lines_added"] <= 200 for f in change["files"]),
            all(p in ["torch", "numpy", "math"] for p in code["packages"]),
            proposer not in ["nobody", "unknown"] and not proposer.startswith("x"),
            len(people) >= 1 or code["max_complexity"] <= 10,
            budgets["promotions_left"] > 0 and budgets["wall_seconds_left"] > 60.0,
        ]
    )


def cedar(document: dict[str, Any]) -> Callable[[], object] | None:
    """Return a decision of Cedar's about the document, its policies parsed before; None without cedarpy."""
    if importlib.util.find_spec("cedarpy") is None:
        return None
    import cedarpy

    def value(found: Any) -> Any:
        if isinstance(found, dict):
            return {key: value(inner) for key, inner in found.items()}
        if isinstance(found, list):
            return [value(inner) for inner in found]
        return {"__extn": {"fn": "decimal", "arg": f"{found:.4f}"}} if isinstance(found, float) else found

    text = "permit(principal, action, resource);" + "".join(
        f"forbid(principal, action, resource) unless {{ {rule} }};" for rule in CEDAR
    )
    policies, entities = cedarpy.PolicySet.from_str(text), cedarpy.Entities.from_json_str("[]")
    names = {"principal": 'P::"codegen"', "action": 'A::"promote"', "resource": 'M::"live"'}
    request = {**names, "context": value(document)}

    def decide() -> object:
        found = cedarpy.is_authorized(request, policies, entities)
        if not found.allowed:
            sys.exit(f"Cedar disagrees: {found.diagnostics.errors}")
        return found

    return decide


def medians(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of a call of each, in microseconds, over rounds in which each has its turn."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(found) * 1e6, 1) for name, found in times.items()}


def measure(count: int, judge: Judge, rounds: int) -> None:
    """Measure a decision by so many rules, and print."""
    document = document_of_5_kb()
    started = time.perf_counter()
    policies = rules(count)
    compiled = [compile_policy(policy) for policy in policies.policies]
    load_s = time.perf_counter() - started
    started = time.perf_counter()
    first = judge.decide(policies, "decide", "code", document)
    first_s = time.perf_counter() - started
    if not plain(document) or first.outcome != "pass" or len(first.verdicts) != count:
        sys.exit(f"the floor and the rules disagree: {first.reason}")
    functions: dict[str, Callable[[], object]] = {
        "in_process_us": lambda: judge_document(compiled, "decide", "code", document),
        "through_judge_us": lambda: judge.decide(policies, "decide", "code", document),
    }
    if count == len(RULES):
        functions |= {"plain_us": lambda: plain(document), "canonicalise_us": lambda: canonicalise("decide", document)}
        beside = cedar(document)
        if beside:
            functions[f"cedar_{len(CEDAR)}_rules_us"] = beside
        else:
            print("cedarpy is not installed, so Cedar is left out")
    figures: dict[str, Any] = {
        "rules": count,
        "document_bytes": len(json.dumps(document)),
        **medians(functions, rounds),
    }
    for name in [name for name in figures if name.startswith(("plain", "cedar"))]:
        for where in ("in_process", "through_judge"):
            ratio = figures[f"{where}_us"] / figures[name]
            figures[f"{where}_over_{name.removesuffix('_us')}"] = round(ratio, 1)
    print(json.dumps(figures | {"load_and_compile_ms": round(load_s * 1e3), "first_decision_ms": round(first_s * 1e3)}))


def suite(judge: Judge) -> None:
    """Measure the baseline's suite and its mutants, and print."""
    load_policies([BASELINE])
    started = time.perf_counter()
    policy_test.test([BASELINE], judge)
    suite_s = time.perf_counter() - started
    started = time.perf_counter()
    (found,) = policy_test.test([BASELINE], judge, mutate=True).suites
    mutants_s = time.perf_counter() - started - suite_s
    figures = {"cases": len(found.cases), "suite_ms": round(suite_s * 1e3)}
    print(json.dumps(figures | {"mutants": len(found.mutants), "mutants_ms": round(mutants_s * 1e3)}))


def main() -> None:
    """Measure all."""
    with Judge() as judge:
        measure(12, judge, 500)
        measure(1000, judge, 30)
        suite(judge)


if __name__ == "__main__":
    main()
