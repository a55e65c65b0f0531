"""How long a decision takes: plain Python as the floor, the rules in this process, and through the judge.

And how long the suite of the baseline takes, and the mutants of its rules over all its cases.

Run as `python tests/benchmarks/policy.py`; prints one JSON line.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import policy_test
from harness.judge import Judge
from harness.judgement import judge_document
from harness.policy import load_policies
from harness.policy_compiler import compile_policy
from harness.policy_document import canonicalise
from harness.policy_test import base_document

BASELINE = Path(__file__).parent.parent.parent / "policies" / "baseline.yaml"


def plain(document: dict[str, Any], params: dict[str, Any]) -> bool:
    """Decide the baseline's screen rules as a programmer would write them: the floor."""
    code, change = document["code"], document["change"]
    return (
        code["parses"]
        and all(p in params["packages"] for p in code["packages"])
        and not any(f in code["attributes"] for f in params["forbidden"])
        and not code["dynamic"]
        and all(r in code["defines"] for r in params["required"])
        and change["lines_changed"] <= params["max_lines"]
        and len(change["knobs"]) <= params["max_knobs"]
        and code["max_complexity"] <= params["max_complexity"]
        and document["budgets"]["wall_seconds_left"] > 0
    )


def median(function: Callable[[], object], repeats: int = 300) -> float:
    """Return the median time of a call, in microseconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1e6, 1)


def main() -> None:
    """Measure and print."""
    started = time.perf_counter()
    policies = load_policies([BASELINE])
    load_ms = (time.perf_counter() - started) * 1e3
    compiled = [compile_policy(policy) for policy in policies.policies]
    document = base_document("screen")
    params = policies.policies[0].params
    if not plain(document, params) or judge_document(compiled, "screen", "code", document).outcome != "pass":
        sys.exit("the floor and the rules disagree")
    with Judge() as judge:
        started = time.perf_counter()
        judge.decide(policies, "screen", "code", document)
        first_ms = (time.perf_counter() - started) * 1e3
        figures = {
            "rules": len(policies.policies[0].document.rules),
            "plain_us": median(lambda: plain(document, params)),
            "canonicalise_us": median(lambda: canonicalise("screen", document)),
            "in_process_us": median(lambda: judge_document(compiled, "screen", "code", document)),
            "through_judge_us": median(lambda: judge.decide(policies, "screen", "code", document)),
            "load_and_compile_ms": round(load_ms, 1),
            "first_decision_ms": round(first_ms, 1),
        }
        started = time.perf_counter()
        (suite,) = policy_test.test([BASELINE], judge).suites
        suite_s = time.perf_counter() - started
        started = time.perf_counter()
        (suite,) = policy_test.test([BASELINE], judge, mutate=True).suites
        mutants_s = time.perf_counter() - started - suite_s
        figures |= {
            "cases": len(suite.cases),
            "suite_ms": round(suite_s * 1e3),
            "mutants": len(suite.mutants),
            "mutants_ms": round(mutants_s * 1e3),
        }
    figures["judge_over_plain"] = round(figures["through_judge_us"] / figures["plain_us"], 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
