"""Which proposers help, beside random search with the same budget: `python scripts/compare_proposers.py --out FILE`.

Each proposer runs alone over the same subject, from the same seeds, for the same number of generations and slots (or
the same minutes), under all gates. What counts is what the gates let through: the gain of the objective, on the
development items, of the version that is live at the end over the first one; and that gain per minute of training. A
proposer beats random search where its gain per minute is larger on every seed; where it is not, the page says so.

Runs are kept below `--work` and are not made twice. 1, and nothing written, where a run fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BASELINE = "random"
COLUMNS = (
    "proposer", "seed", "built of proposed", "promoted", "gain of the live version",
    "best candidate built", "minutes of training", "gain per minute", "beside random",
)  # fmt: skip


def run(subject: Path, out: Path, name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Make one run, or read what it said when it was made; its summary."""
    told = out / "summary.json"
    if told.exists():
        return dict(json.loads(told.read_text(encoding="utf-8")))
    budget = (
        ["--minutes", str(arguments.minutes)] if arguments.minutes else ["--generations", str(arguments.generations)]
    )
    command = [sys.executable, "-m", "harness.cli", "run", str(subject), "--out", str(out / "run"), "--seed", str(seed)]
    command += ["--proposers", name if "=" in name else f"{name}={arguments.slots}", "--json", *budget]
    print(f"{name}, seed {seed} …", file=sys.stderr, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}, seed {seed}: {done.stdout[-500:]}{done.stderr[-2000:]}")
    told.write_text(done.stdout, encoding="utf-8")
    return dict(json.loads(done.stdout))


def figures(told: dict[str, Any]) -> dict[str, Any]:
    """What a run came to: counts, gains of the objective on the development items, minutes of training."""
    metric, details = told["objective"], told["details"]
    first = told["versions"][0]["development"][metric]
    built = [each for each in details if each["seconds"] is not None]
    measured = [each["development"][metric] for each in details if each["development"]]
    minutes = sum(each["seconds"] for each in built) / 60
    gain = told["live"]["development"][metric] - first
    return {
        "proposed": len(details),
        "built": len(built),
        "promoted": told["promoted"],
        "gain": gain,
        "best": max(measured, default=first) - first,
        "minutes": minutes,
        "rate": gain / minutes if minutes else 0.0,
    }


def beside(rate: float, random: float | None) -> str:
    """How a gain per minute compares with random search's on the same seed."""
    if random is None:
        return ""
    if random <= 0:
        return "better: random gained nothing" if rate > 0 else "neither gained"
    return f"{rate / random:.2f} times"


def page(found: dict[tuple[str, int], dict[str, Any]], told: str) -> str:
    """The page, from the figures by proposer and seed; `told` is the command that made them."""
    names = list(dict.fromkeys(name for name, _ in found))
    seeds = sorted({seed for _, seed in found})
    rows, sentences = [], []
    for name in names:
        wins = []
        for seed in seeds:
            of = found[name, seed]
            other = found.get((BASELINE, seed))
            rate = None if other is None or name == BASELINE else other["rate"]
            wins.append(rate is not None and of["rate"] > rate)
            cells = [name, str(seed), f"{of['built']} of {of['proposed']}", str(of["promoted"])]
            cells += [f"{of['gain']:+.4f}", f"{of['best']:+.4f}", f"{of['minutes']:.1f}", f"{of['rate']:+.4f}"]
            rows.append(f"| {' | '.join(cells)} | {beside(of['rate'], rate)} |")
        if name != BASELINE and (BASELINE, seeds[0]) in found:
            average = mean(found[name, seed]["gain"] for seed in seeds)
            other_average = mean(found[BASELINE, seed]["gain"] for seed in seeds)
            verdict = (
                "beats random search on every seed"
                if all(wins)
                else f"does **not** beat random search on {wins.count(False)} of {len(seeds)} seeds"
            )
            sentences.append(
                f"- **{name}** {verdict} by gain per minute of training (on average it gained {average:+.4f}, random "
                f"search {other_average:+.4f})."
            )
    header = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"
    body = "\n".join(rows)
    return f"""# Which proposers help on `examples/quickstart`

Each alone, under all gates, beside random search over the declared space with the same budget. Written by:

```sh
{told}
```

A gain is of the objective on the development items, over the first version: of the version that was live at the end,
and of the best candidate that was built, promoted or not. Minutes are of training, of all candidates together, by the
wall clock: what else ran on the machine is in them, so a ratio below 2 says little, and the gains say more.
{len(seeds)} seeds are few: this tells large differences only.

{header}
{body}

{chr(10).join(sentences)}
"""


def main() -> int:
    """Make the runs that are not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", type=Path, default=ROOT / "examples" / "quickstart")
    parser.add_argument("--proposers", default="random,evolution,architecture,codegen,weights,reinforcement")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--slots", type=int, default=6)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--work", type=Path, default=Path("runs") / "proposers")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    found = {
        (name, seed): figures(run(arguments.subject, arguments.work / f"{name}-{seed}", name, seed, arguments))
        for seed in seeds
        for name in arguments.proposers.split(",")
    }
    said = ["--proposers", arguments.proposers, "--seeds", arguments.seeds, "--slots", str(arguments.slots)]
    said += (
        ["--minutes", f"{arguments.minutes:g}"] if arguments.minutes else ["--generations", str(arguments.generations)]
    )
    text = page(found, " ".join(["python scripts/compare_proposers.py", *said]))
    if arguments.out is None:
        print(text)
    else:
        arguments.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
