"""`lockgate vault`: what is left of the held-out items, and of the error that may be spent on them."""

from __future__ import annotations

import typer

from harness.commands.common import Json, Run, existing, print_json, read

app = typer.Typer(help="The held-out items of a run, and the ledger of their use.", no_args_is_help=True)


@app.command("status")
def vault_status(run: Run, json_: Json = False) -> None:
    """Say how many held-out items are left, and how much of the error budget: derived from the log."""
    from harness.artifacts import BlobStore
    from harness.ledger import gamma
    from harness.ledger_replay import replay_ledger

    state, entries = read(run)
    ledger, tests = replay_ledger(entries, state, BlobStore(existing(run).blobs))
    alpha = ledger.delta * gamma(ledger.epoch) * gamma(ledger.test + 1) * ledger.kappa
    told = {
        "items": ledger.size,
        "retired": ledger.offset,
        "seen": ledger.high_water,
        "left": ledger.remaining,
        "minimum": ledger.minimum,
        "exhausted": ledger.exhausted,
        "epoch": ledger.epoch,
        "tests": tests,
        "tests_of_epoch": ledger.test,
        "delta": ledger.delta,
        "spent": ledger.spent,
        "next_alpha": alpha,
    }
    if json_:
        print_json(told)
        return
    print(
        f"{ledger.remaining:,} of {ledger.size:,} held-out items are left, {ledger.offset:,} are retired; "
        f"this epoch's tests have seen {ledger.high_water:,} of those left, which its end retires"
    )
    print(
        f"{ledger.spent:.3g} of {ledger.delta:g} of the error is staked, by {tests} tests; "
        f"epoch {ledger.epoch} has had {ledger.test}, and the next one would stake {alpha:.3g}"
    )
    if ledger.exhausted:
        print(f"exhausted: no test begins with fewer than {ledger.minimum:,} items")
        print(f"add some at the end of the vault in guards.py, and `lockgate guard propose {run}`")
