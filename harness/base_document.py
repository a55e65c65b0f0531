"""A full document of each stage that every sound policy admits: where tests and comparisons of policies start."""

from __future__ import annotations

import copy
from typing import Any

from harness.policy_document import Stage

_SHA = "sha256:" + "0" * 64

_SCREEN: dict[str, Any] = {
    "proposal": {
        "number": 7,
        "kind": "code",
        "proposer": "codegen",
        "base": _SHA,
        "start": "scratch",
        "rationale_length": 120,
    },
    "change": {
        "knobs": [{"name": "hidden", "group": "architecture", "old": "32", "new": "48"}],
        "files": [{"path": "model.py", "lines_added": 12, "lines_removed": 3}],
        "lines_changed": 15,
    },
    "code": {
        "parses": True,
        "problem": "",
        "packages": ["pydantic", "torch"],
        "imports": ["pydantic", "torch"],
        "attributes": ["pydantic", "pydantic.BaseModel", "torch", "torch.nn", "torch.nn.Linear"],
        "calls": ["torch.nn.Linear"],
        "dynamic": [],
        "defines": ["model.py:Recipe", "model.py:build", "model.py:predict", "model.py:train"],
        "max_complexity": 6,
    },
    "incumbent": {"digest": _SHA, "version": 1, "parameters": 10_000, "bytes": 41_000},
    "budgets": {"promotions_left": 3, "proposals_left": 20, "wall_seconds_left": 600.0},
    "history": {
        "promotions": 1,
        "promotions_last_hour": 0,
        "seconds_since_promotion": 7_200.0,
        "rollbacks": 0,
        "seconds_since_rollback": 1e9,
        "rejected_in_a_row": 2,
    },
    "approvals": [],
    "now": 1_800_000_000.0,
}
_DECIDE: dict[str, Any] = {
    **_SCREEN,
    "candidate": {
        "digest": "sha256:" + "1" * 64,
        "parameters": 12_000,
        "bytes": 49_000,
        "development": {"accuracy": 0.9, "refusal": 0.98},
    },
    "gates": {
        "accuracy": {"verdict": "pass", "n": 400, "mean": 0.91, "theta": 0.0},
        "refusal": {"verdict": "pass", "n": 300, "mean": 0.98, "theta": -0.02},
    },
    "latency": {"pairs": 8, "ratio": 1.05, "lower": 0.9, "upper": 1.15},
    "memory": {"build_mb": 600.0, "predict_mb": 410.0, "incumbent_predict_mb": 400.0},
    "approvals": [{"by": "reviewer", "role": "human"}],
}


def base_document(stage: Stage) -> dict[str, Any]:
    """Return a fresh, full, canonical document of a stage."""
    return copy.deepcopy(_SCREEN if stage == "screen" else _DECIDE)
