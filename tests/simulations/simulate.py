"""What the error budget buys: lives of 1,000 proposals under our gate and under other rules, and what single tests need.

Run as `python tests/simulations/simulate.py`, or `make simulate`: some five minutes on one core. `--quick` takes 20 s,
`--json` prints one document. Ends with 1 where a claim at its end does not hold, or, unless quick, where the simulation
was too small to tell. The same seed and version of numpy print the same figures. Ours are the real bets, rule of hopelessness and ledger of `harness`:
see lives.py; the others are in rivals.py.

The world. A score is right or wrong on each item. A proposal differs from the incumbent on a tenth of the items, and its
true effect on the mean score is drawn beforehand, whatever was kept before it:

    null or harmful     three quarters change nothing, a fifth cost 1 point, a twentieth cost 5
    1 % improvements    one in a hundred gains 2 points; the rest as above
    20 % improvements   one in five gains, exponentially distributed with mean .7 points (10 at most); the rest as above

Every rule faces the same proposals. Ours has one `improve` gate (theta 0, delta .05, batches of 50, a cap of 10,000) and
a vault that all tests share; greedy, the z-test, SGM and LORD++ get fresh items for every test, and never run out. A
promotion is false where the truth of the proposal is no gain. The column `page` has figures that were measured before
this code was written, in a world that was not written down in full: compare the order of size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import rivals
from claims import claims, show
from lives import BATCH, DISCORDANCE, POINTS, Bools, Floats, Ints, Lives, counted, lead, many_tests

from harness.gates import GateSpec, compile_gates
from harness.ledger import LedgerState
from harness.power import looks, typical_alpha
from harness.statistics import run_test

DELTA = 0.05
CAP = 10_000
PROPOSALS = 1000
VAULT = 60_000
"""6,000 items for each of the ten improvements that the second world holds."""
ENDLESS = 100_000_000
GREEDY = 500
TESTED = rivals.oracle_items(0.02, 0.05, 0.9)
"""What a z-test at .05 needs to find 2 points nine times in ten."""

BOUNDS = {"score": (0.0, 1.0), "refusal": (0.0, 1.0)}
IMPROVE = compile_gates([{"eval": "score", "kind": "improve"}], BOUNDS)

PAGE = {
    "null or harmful": {"greedy": "-44", "lockgate": "0"},
    "1 % improvements": {"greedy": "-28", "lockgate": "+8 to +10"},
    "20 % improvements": {"greedy": "+55 to +97", "lockgate": "+32"},
    "frog": {"parent, alpha .001 each": "-90", "parent and anchor": "-2.2"},
    "type I": {0.05: ".017 to .027; peeking .31 to .43", 0.001: ".0002 to .0005; peeking .014 to .11"},
    "items": {0.05: "681", 0.02: "4,328, power .99", 0.005: "not detectable", 0.0: "1,668, else 9,994", -0.01: "716",
              -0.05: "142"},
    "bank": {"scores": "1.00", "one bit": "0.00"},
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much is simulated."""

    lives: int = 1000
    frogs: int = 200
    errors: int = 40_000
    items: int = 10_000
    banks: int = 100
    proposals: int = PROPOSALS


QUICK = Size(lives=50, frogs=10, errors=2000, items=500, banks=10)


def say(text: str) -> None:
    """Tell what goes on, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def rng_of(seed: int, what: str) -> np.random.Generator:
    """A stream of its own for each part, so that leaving one out changes no other."""
    return np.random.default_rng([seed, *what.encode()])


def proposals(rng: np.random.Generator, size: Size, share: float, mean: float | None) -> Floats:
    """True effects [lives, proposals]: `share` gain (2 points, or exponentially with this mean), the rest does not."""
    shape = (size.lives, size.proposals)
    rest = rng.choice([0.0, -0.01, -0.05], p=[0.75, 0.2, 0.05], size=shape)
    gain = np.full(shape, 0.02) if mean is None else np.minimum(rng.exponential(mean, shape), DISCORDANCE)
    return np.where(rng.random(shape) < share, gain, rest)


WORLDS: dict[str, tuple[float, float | None]] = {
    "null or harmful": (0.0, None),
    "1 % improvements": (0.01, None),
    "20 % improvements": (0.2, 0.007),
}


def row_of(rule: str, found: Lives, effects: Floats) -> dict[str, Any]:
    """What a table says of one rule in one world."""
    hits = int(found.wrong.any(axis=1).sum())
    tests = found.scored > 0
    return {
        "rule": rule,
        "lives": len(effects),
        "promotions": float(found.promoted.sum(axis=1).mean()),
        "false": float(found.wrong.sum(axis=1).mean()),
        "any_false": hits / len(effects),
        "any_false_interval": rivals.clopper_pearson(hits, len(effects)),
        "drift": float(found.drift.mean()),
        "drift_error": float(found.drift.std() / np.sqrt(len(effects))),
        "kept": float((found.promoted & (effects > 0)).sum(axis=1).mean()),
        "improvements": float((effects > 0).sum(axis=1).mean()),
        "items_per_decision": float(found.scored[tests].mean()),
        "items": float(found.used.mean()),
    }


def worlds(size: Size, seed: int) -> list[dict[str, Any]]:
    """Every rule in every world."""
    rows = []
    for world, (share, mean) in WORLDS.items():
        effects = proposals(rng_of(seed, world), size, share, mean)
        rules: dict[str, Callable[[np.random.Generator], Lives]] = {
            f"lockgate, {VAULT:,} items": lambda rng, e=effects: lead(rng, IMPROVE, e, vault=VAULT, cap=CAP),
            "lockgate, endless vault": lambda rng, e=effects: lead(rng, IMPROVE, e, vault=ENDLESS, cap=CAP),
            f"greedy, n = {GREEDY}": lambda rng, e=effects: rivals.greedy(rng, e, GREEDY),
            f"z-test at .05, n = {TESTED:,}": lambda rng, e=effects: rivals.per_test(rng, e, TESTED, 0.05),
            f"SGM, n = {CAP:,}": lambda rng, e=effects: rivals.sgm(rng, e, CAP, DELTA),
            f"LORD++ at .05, n = {CAP:,}": lambda rng, e=effects: rivals.lord(rng, e, CAP, DELTA),
        }
        for rule, lived in rules.items():
            say(f"{world}: {rule}")
            row = row_of(rule, lived(rng_of(seed, world + rule)), effects)
            rows.append({"world": world, **row, "page": PAGE[world].get(rule.split(",")[0])})
    return rows


def frog(size: Size, seed: int) -> list[dict[str, Any]]:
    """200 proposals gain 5 points of the objective and cost half a point of what must not regress."""
    improve, parent, anchor = compile_gates(
        [
            {"eval": "score", "kind": "improve"},
            {"eval": "refusal", "kind": "parent", "margin": 0.02},
            {"eval": "refusal", "kind": "anchor", "margin": 0.03, "cap": 2 * CAP},
        ],
        BOUNDS,
    )
    effects = np.full((size.frogs, 200), -0.005)
    rows = []
    cases: list[tuple[str, list[GateSpec], float | None]] = [
        ("parent, alpha .001 each", [improve, parent], 1e-3),
        ("parent", [improve, parent], None),
        ("parent and anchor", [improve, parent, anchor], None),
    ]
    for name, gates, alpha in cases:
        say(f"boiled frog: {name}")
        known = len(gates)

        def means(number: int, drift: Floats, known: int = known) -> Floats:
            cost = effects[:, number]
            return np.stack([np.full(drift.size, 0.05), cost, drift + cost], axis=1)[:, :known]

        found = lead(rng_of(seed, name), gates, effects, vault=ENDLESS, cap=CAP, means=means, unsafe_alpha=alpha)
        row = row_of(name, found, effects)
        rows.append({**row, "least_drift": float(found.drift.min()), "page": PAGE["frog"].get(name)})
    return rows


def full_draws(
    rng: np.random.Generator, effect: float, discordance: float, runs: int, cap: int = CAP, block: int = 1000
) -> list[Ints]:
    """Counts of whole tests, to their caps, in blocks [<= block, looks, 3]."""
    sizes = np.full((1, cap // BATCH), BATCH)
    return [
        counted(rng, np.full(rows, effect), np.repeat(sizes, rows, axis=0), discordance=discordance)
        for rows in np.diff(np.append(np.arange(0, runs, block), runs))
    ]


def ours(counts: Ints, alpha: float) -> tuple[Bools, Ints]:
    """The real test over counts that were drawn beforehand."""
    tests, most, _ = counts.shape

    def draw(_index: int, rows: Ints, at: Ints, sizes: Ints) -> Ints:
        return counts[rows[:, None], np.minimum(at, most - 1)] * (sizes > 0)[..., None]

    return many_tests(IMPROVE, draw, np.full(tests, alpha), most * BATCH, np.full(tests, most * BATCH))


def errors(size: Size, seed: int) -> list[dict[str, Any]]:
    """How often a candidate that changes nothing passes, when one looks after every batch."""
    rows = []
    for discordance in (0.05, 0.1, 0.3):
        say(f"type I at discordance {discordance:g}")
        blocks = full_draws(rng_of(seed, f"errors {discordance}"), 0.0, discordance, size.errors)
        for alpha in (0.05, 0.001):
            tested = bare = peeking = 0
            for counts in blocks:
                tested += int(ours(counts, alpha)[0].sum())
                until = counts.cumsum(axis=1)
                bare += int(looks(IMPROVE[0], POINTS, until, goal=-np.log(alpha), left=0)[0].any(axis=1).sum())
                n = until.sum(axis=2)
                mean = (until[..., 2] - until[..., 0]) / n
                z = rivals.z_scores(mean, (until[..., 2] + until[..., 0]) / n - mean * mean, n)
                peeking += int((z >= -rivals.NORMAL.inv_cdf(alpha)).any(axis=1).sum())
            rows.append(
                {
                    "discordance": discordance,
                    "alpha": alpha,
                    "runs": size.errors,
                    "lockgate": tested / size.errors,
                    "lockgate_interval": rivals.clopper_pearson(tested, size.errors),
                    "without_futility": bare / size.errors,
                    "z_peeking": peeking / size.errors,
                    "page": PAGE["type I"][alpha],
                }
            )
    return rows


def needs(size: Size, seed: int) -> list[dict[str, Any]]:
    """How many items a decision takes, for true effects, beside tests of a size fixed beforehand."""
    rows = []
    cases = [(1e-3, effect) for effect in (0.05, 0.02, 0.005, 0.0, -0.01, -0.05)]
    cases += [(typical_alpha(DELTA), effect) for effect in (0.05, 0.02)]
    for alpha, effect in cases:
        say(f"items at {100 * effect:+g} points, alpha {alpha:.2g}")
        passed, items, bare_passed, bare = [], [], [], []
        for counts in full_draws(rng_of(seed, f"needs {effect}"), effect, DISCORDANCE, size.items):
            good, used = ours(counts, alpha)
            passes, _ = looks(IMPROVE[0], POINTS, counts.cumsum(axis=1), goal=-np.log(alpha), left=0)
            passed.append(good)
            items.append(used)
            bare_passed.append(passes.any(axis=1))
            bare.append(np.where(passes.any(axis=1), (passes.argmax(axis=1) + 1) * BATCH, CAP))
        hits, times = int(np.concatenate(passed).sum()), size.items
        row: dict[str, Any] = {
            "effect": effect,
            "alpha": alpha,
            "runs": times,
            "power": hits / times,
            "power_interval": rivals.clopper_pearson(hits, times),
            "items": float(np.concatenate(items).mean()),
            "items_error": float(np.concatenate(items).std() / np.sqrt(times)),
            "power_without_futility": float(np.concatenate(bare_passed).mean()),
            "items_without_futility": float(np.concatenate(bare).mean()),
            "page": PAGE["items"].get(effect) if alpha == 1e-3 else None,
        }
        if effect > 0:
            # No more power is asked of the fixed test than ours has shown, and never more than .99.
            equal = min(max(row["power"], 1 / times), 0.99)
            row["oracle"] = rivals.oracle_items(effect, alpha, equal)
            row["oracle_90"] = rivals.oracle_items(effect, alpha, 0.9)
            row["hoeffding"] = rivals.hoeffding_items(effect, alpha)
        rows.append(row)
    return rows


def bank(size: Size, seed: int, items: int = 2000, queries: int = 1000) -> list[dict[str, Any]]:
    """One bank of items answers 1,000 null candidates; a vote of theirs, weighted by the answers, is tested at 1e-5.

    A candidate flips the incumbent's answer on a random tenth of the items, so it and every vote of such candidates is
    null on items that it was not chosen by. The proposer learns each score, or the bit of our test at the ledger's
    stakes.
    """
    rng = rng_of(seed, "bank")
    passes = {"scores": 0, "one bit": 0}
    ledger, stakes = LedgerState(delta=DELTA, size=items), []
    for query in range(queries):
        ledger, stake = ledger.stake(str(query), items)
        ledger = ledger.reject(str(query), items)
        stakes.append(stake.alpha)
    say("reuse of one bank")
    for _ in range(size.banks):
        gain = np.where(
            rng.random(items) < 0.5, 1.0, -1.0
        )  # what a flip is worth: the incumbent is wrong there, or right
        flips = rng.random((queries, items)) < DISCORDANCE
        wins, losses = ((flips & (gain == sign)).reshape(queries, -1, BATCH).sum(axis=2) for sign in (1.0, -1.0))
        counts = np.stack([losses, BATCH - wins - losses, wins], axis=2)

        def draw(_index: int, rows: Ints, at: Ints, sizes: Ints, counts: Ints = counts) -> Ints:
            return counts[rows[:, None], np.minimum(at, counts.shape[1] - 1)] * (sizes > 0)[..., None]

        bits, _ = many_tests(IMPROVE, draw, np.array(stakes), items, np.full(queries, items))
        for known, weights in (("scores", flips @ gain / items), ("one bit", bits.astype(np.float64))):
            vote = weights @ flips + 1e-9 * rng.random(items)  # where nothing was learned, chance decides
            chosen = vote >= np.quantile(vote, 1.0 - DISCORDANCE)
            x = np.where(chosen, gain, 0.0)
            passes[known] += run_test(IMPROVE, lambda _, start, stop, x=x: x[start:stop], 1e-5, items).passed
    return [
        {"revealed": known, "banks": size.banks, "passes": count / size.banks, "page": PAGE["bank"][known]}
        for known, count in passes.items()
    ]


def simulate(size: Size, seed: int = 0) -> dict[str, Any]:
    """Everything, as one document."""
    found: dict[str, Any] = {
        "seed": seed,
        "delta": DELTA,
        "size": asdict(size),
        "worlds": worlds(size, seed),
        "frog": frog(size, seed),
        "errors": errors(size, seed),
        "items": needs(size, seed),
        "bank": bank(size, seed),
    }
    return {**found, "claims": claims(found)}


def main() -> int:
    """Simulate, print, and say whether all claims hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="some 20 s: too little to tell some of the claims")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = simulate(QUICK if given.quick else Size(), given.seed)
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        print(__doc__.split("The world. ")[1].strip())
        show(found)
    good = {True, None} if given.quick else {True}
    return 0 if {row["holds"] for row in found["claims"]} <= good else 1


if __name__ == "__main__":
    sys.exit(main())
