"""`lockgate vault`: what is left of the held-out items, and of the error that may be spent on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from harness.commands.common import Json, Run, existing, print_json, read

if TYPE_CHECKING:
    from harness.fresh_ledger import FreshState
    from harness.ledger import LedgerState

app = typer.Typer(help="The held-out items of a run, and the ledger of their use.", no_args_is_help=True)


@app.command("status")
def vault_status(run: Run, json_: Json = False) -> None:
    """Say how many held-out items are left, and how much of the error budget: derived from the log."""
    from harness.artifacts import BlobStore
    from harness.fresh_ledger import FreshState
    from harness.ledger_replay import replay_ledger

    state, entries = read(run)
    ledger, tests = replay_ledger(entries, state, BlobStore(existing(run).blobs))
    fresh = isinstance(ledger, FreshState)
    alpha = ledger.rule(ledger.test + 1)
    told = {
        "kind": "fresh" if fresh else "scarce",
        "items": ledger.size,
        "retired": ledger.offset,
        "seen": ledger.high_water,
        "left": ledger.remaining,
        "minimum": ledger.minimum,
        "exhausted": ledger.exhausted,
        "epoch": ledger.epoch,
        "tests": tests,
        "tests_of_epoch": None if fresh else ledger.test,
        "delta": ledger.delta,
        "spent": ledger.spent,
        "at_stake": ledger.pending.alpha if ledger.pending else 0.0,
        "next_alpha": alpha,
    }
    if json_:
        print_json(told)
        return
    print(_fresh(ledger, alpha) if isinstance(ledger, FreshState) else _scarce(ledger, tests, alpha))
    if ledger.exhausted:
        print(f"exhausted: no test begins with fewer than {ledger.minimum:,} items")
        more = "raise the capacity" if fresh else "add some at the end of the vault"
        print(f"{more} in guards.py, and `lockgate guard propose {run}`")


def _scarce(ledger: LedgerState, tests: int, alpha: float) -> str:
    return (
        f"{ledger.remaining:,} of {ledger.size:,} held-out items are left, {ledger.offset:,} are retired; "
        f"this epoch's tests have seen {ledger.high_water:,} of those left, which its end retires\n"
        f"{ledger.spent:.3g} of {ledger.delta:g} of the error is staked, by {tests} tests; "
        f"epoch {ledger.epoch} has had {ledger.test}, and the next one would stake {alpha:.3g}"
    )


def _fresh(ledger: FreshState, alpha: float) -> str:
    pending = ledger.pending
    at_stake = f", and {pending.alpha:.3g} is at stake in the test that is open" if pending else ""
    return (
        f"every test has fresh items: {ledger.offset:,} of the {ledger.size:,} that may be made are spent, "
        f"{ledger.remaining:,} are left\n"
        f"{ledger.spent:.3g} of {ledger.delta:g} of the error is spent, by {ledger.test} tests, after what came back"
        f"{at_stake}; the next one would stake {alpha:.3g}"
    )
