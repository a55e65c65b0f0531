"""How long a comparison of policies takes: 12 rules with 12 edits, 100 rules with 5, each beside compiling the two sets.

Run as `python tests/benchmarks/compare.py`; prints one JSON line for each. The processes are the real ones, started anew.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from harness.policy import PolicySet, policy_set_of
from harness.policy_compiler import compile_policy
from harness.policy_file import PolicySource
from harness.strictness import compare_sets

PARAMS = {"max_norm": 0.05, "max_lines": 400, "max_parameters": 5_000_000, "growth": 1.25, "loss": 0.02, "most": 8}
RULES = [
    "change.lines_changed <= params.max_lines",
    "candidate.parameters <= params.max_parameters",
    "double(candidate.parameters) <= params.growth * double(incumbent.parameters)",
    "size(change.knobs) <= params.most && size(change.files) <= params.most",
    "size(gates) > 0 && gates.all(g, gates[g].verdict == 'pass')",
    "size(gates) > 0 && gates.all(g, gates[g].n >= 100)",
    "has(gates.refusal) && gates.refusal.mean + params.loss >= 0.95",
    "size(change.files) == 0 || change.files.all(f, f.path.startsWith('model') && f.lines_added <= 200)",
    "size(code.packages) == 0 || code.packages.all(p, p in ['torch', 'numpy', 'math'])",
    "!(proposal.proposer in ['nobody', 'unknown']) && !proposal.proposer.startsWith('x')",
    "size(approvals.filter(a, a.role == 'human' && a.by != proposal.proposer)) >= 1 || code.max_complexity <= 10",
    "budgets.promotions_left > 0 && budgets.wall_seconds_left > 60.0",
]
EDITS = [
    ("max_lines: 400", "max_lines: 401"),
    ("max_parameters: 5000000", "max_parameters: 4000000"),
    ("growth: 1.25", "growth: 1.3"),
    ("size(change.files) <= params.most", "size(change.files) < params.most"),
    ("gates[g].verdict == 'pass'", "gates[g].verdict != 'fail'"),
    ("gates[g].n >= 100", "gates[g].n > 99"),
    ("gates.refusal.mean + params.loss >= 0.95", "gates.refusal.mean >= 0.95"),
    ("f.lines_added <= 200", "f.lines_added <= 100"),
    ("'numpy', 'math'", "'numpy', 'os'"),
    ("startsWith('x')", "startsWith('xy')"),
    ("a.by != proposal.proposer", "a.by != ''"),
    ("budgets.wall_seconds_left > 60.0", "budgets.wall_seconds_left >= 60.5"),
]


def policy(name: str, rules: list[str], params: dict[str, float]) -> str:
    """Return a policy file."""
    head = f"apiVersion: lockgate/v1\nkind: ChangePolicy\nmetadata: {{name: {name}, owner: benchmark}}\n"
    lines = [head, "match: {stage: decide, kinds: all}\nparams:\n"]
    lines += [f"  {key}: {value}\n" for key, value in params.items()] + ["rules:\n"]
    lines += [f"  - {{id: {name}-{i}, require: {json.dumps(rule)}, otherwise: deny}}\n" for i, rule in enumerate(rules)]
    return "".join(lines)


def hundred() -> str:
    """Return a hundred rules: the twelve, and variations on them with bounds of their own."""
    more = []
    for index in range(88):
        bound = 100 + index
        more.append(
            [
                f"change.lines_changed + {index} <= {1000 + bound}",
                f"size(change.files) == 0 || change.files.all(f, f.lines_removed <= {bound})",
                f"size(gates) > 0 && gates.all(g, gates[g].mean >= -{bound}.0)",
                f"!code.attributes.exists(a, a == 'torch.x{index}') && size(code.attributes) >= 0",
                f"double(candidate.bytes) <= {bound}.5 * double(incumbent.bytes)",
                f"proposal.proposer != 'p{index}'",
                f"code.max_complexity * {index + 1} <= {bound * 100}",
                f"size(code.calls.filter(c, c.startsWith('torch.y{index}'))) <= {index}",
            ][index % 8]
        )
    return policy("hundred", RULES + more, PARAMS)


def loaded(text: str) -> PolicySet:
    """Return a set, compiled once on the way."""
    return policy_set_of([PolicySource(name="bench.yaml", text=text)])


def measure(name: str, text: str, edits: list[tuple[str, str]]) -> None:
    """Compare a set with all edits of it at once, and print."""
    changed = text
    for old, new in edits:
        if old not in changed:
            sys.exit(f"{old} is not there")
        changed = changed.replace(old, new, 1)
    before, after = loaded(text), loaded(changed)
    started = time.perf_counter()
    for policies in (before, after):
        for found in policies.policies:
            compile_policy(found)
    floor = time.perf_counter() - started
    started = time.perf_counter()
    comparison = compare_sets(before, after)
    seconds = time.perf_counter() - started
    figures = {
        "rules": len(comparison.rules),
        "edits": len(edits),
        "seconds": round(seconds, 2),
        "over_compiling": round(seconds / floor, 1),
        "verdicts": dict(Counter(line.verdict for line in comparison.rules)),
        "by_structure": sum(
            line.verdict == "at-least-as-strict" and "solver" not in line.why for line in comparison.rules
        ),
    }
    print(json.dumps({name: figures}))


def main() -> None:
    """Measure both."""
    twelve = policy("twelve", RULES, PARAMS)
    measure("the same twelve", twelve, [])
    measure("twelve", twelve, EDITS)
    measure("hundred", hundred(), EDITS[:5])
    measure("hundred, other edits", hundred(), EDITS[6:11])


if __name__ == "__main__":
    main()
