"""Facts about `scripts/compare_proposers.py` and the page that it wrote: gains beside random search, and who does not beat it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "examples" / "quickstart" / "PROPOSERS.md"


def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("compare_proposers", ROOT / "scripts" / "compare_proposers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def summary(live: float, *, seconds: float, best: float = 0.0, promoted: int = 1):
    """A run's summary, as `lockgate run --json` prints it: as much of it as the script reads."""
    details = [
        {"seconds": seconds, "development": {"accuracy": max(live, best)}, "verdict": "promoted", "proposer": "x"},
        {"seconds": None, "development": None, "verdict": "reject", "proposer": "x"},
    ]
    return {
        "objective": "accuracy",
        "details": details,
        "promoted": promoted,
        "versions": [{"development": {"accuracy": 0.4}}],
        "live": {"development": {"accuracy": live}},
    }


def test_gains_are_of_what_was_promoted_per_minute_of_training():
    """What is live at the end less the first version, over the minutes that all builds took."""
    of = script().figures(summary(0.5, seconds=30.0, best=0.7))
    assert (of["proposed"], of["built"], of["promoted"], of["minutes"]) == (2, 1, 1, 0.5)
    assert abs(of["gain"] - 0.1) < 1e-9
    assert abs(of["rate"] - 0.2) < 1e-9
    assert abs(of["best"] - 0.3) < 1e-9
    assert script().figures({**summary(0.4, seconds=1.0), "details": []})["rate"] == 0.0


def test_a_proposer_that_does_not_beat_random_search_is_said_not_to():
    """Better on every seed is said to beat it; worse or equal on one is said not to, with how many."""
    module = script()
    runs = {
        ("random", 1): summary(0.5, seconds=60.0), ("random", 2): summary(0.5, seconds=60.0),
        ("good", 1): summary(0.6, seconds=60.0), ("good", 2): summary(0.7, seconds=60.0),
        ("mixed", 1): summary(0.6, seconds=60.0), ("mixed", 2): summary(0.5, seconds=60.0),
    }  # fmt: skip
    text = module.page({key: module.figures(told) for key, told in runs.items()}, "command")
    assert "**good** beats random search on every seed" in text
    assert "**mixed** does **not** beat random search on 1 of 2 seeds" in text
    assert text.count("2.00 times") == 2  # 0.2 beside 0.1, on one seed each
    assert module.beside(0.1, 0.0) == "better: random gained nothing"
    assert module.beside(0.0, 0.0) == "neither gained"


def test_the_page_says_what_its_rows_say():
    """The page in the repository has a row a proposer and seed, and its sentences follow from them."""
    text = PAGE.read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if re.match(r"\| [a-z]+ \| \d", line)
    ]
    rates = {(row[0], row[1]): float(row[7]) for row in rows}
    names, seeds = {name for name, _ in rates}, {seed for _, seed in rates}
    assert len(rates) == len(rows) == len(names) * len(seeds)
    assert "random" in names
    for name in names - {"random"}:
        behind = [seed for seed in seeds if rates[name, seed] <= rates["random", seed]]
        told = f"**{name}** beats" if not behind else f"**{name}** does **not** beat random search on {len(behind)} of"
        assert told in text
