"""`lockgate vault`: what is left of the held-out items and of the error budget; add some, and list what is retired."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.commands.common import (
    AWAITING,
    REJECTED,
    Json,
    KnownVaultKey,
    PassphraseFd,
    Run,
    VaultKeyFile,
    existing,
    load_vault_key,
    print_json,
    read,
)
from harness.commands.guard import Reason, Subject, by_name, next_step, one_line

if TYPE_CHECKING:
    from harness.fresh_ledger import FreshState
    from harness.ledger_replay import LedgerHistory

app = typer.Typer(help="The held-out items of a run, and the ledger of their use.", no_args_is_help=True)


@app.command("status")
def vault_status(run: Run, json_: Json = False) -> None:
    """Say how many held-out items are left, and how much of the error budget: derived from the log."""
    from harness.artifacts import BlobStore
    from harness.fresh_ledger import FreshState
    from harness.ledger_replay import replay_ledger

    state, entries = read(run)
    history = replay_ledger(entries, state, BlobStore(existing(run).blobs))
    ledger, tests = history.ledger, history.stakes
    fresh = isinstance(ledger, FreshState)
    alpha = ledger.rule(ledger.test + 1)
    lasts = None if fresh else history.lasts(ledger.size, state.guarding.config.ledger.cap)
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
        "epochs": [asdict(each) for each in history.epochs],
        "lasts": lasts,
    }
    if json_:
        print_json(told)
        return
    print(_fresh(ledger, alpha) if isinstance(ledger, FreshState) else _scarce(history, alpha))
    if lasts is not None:
        print(_lasting(lasts))
    if ledger.exhausted:
        print(f"exhausted: no test begins with fewer than {ledger.minimum:,} items")
        if fresh:
            print(f"raise the capacity in guards.py, and `lockgate guard propose {run}`")
        else:
            print(
                f"add some at the end of the vault, in what load() of guards.py reads, and `lockgate vault add {run}`"
            )


def _scarce(history: LedgerHistory, alpha: float) -> str:
    ledger = history.ledger
    return "\n".join(
        (
            (
                f"{ledger.remaining:,} of {ledger.size:,} held-out items are left, {ledger.offset:,} are retired; "
                f"this epoch's tests have seen {ledger.high_water:,} of those left, which its end retires"
            ),
            *(
                f"epoch {each.epoch}: {each.tests} tests, {each.retired:,} items retired; ended: {each.ended}"
                for each in history.epochs
            ),
            (
                f"{ledger.spent:.3g} of {ledger.delta:g} of the error is staked, by {history.stakes} tests; "
                f"epoch {ledger.epoch} has had {ledger.test}, and the next one would stake {alpha:.3g}"
            ),
        )
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


@app.command("add")
def vault_add(
    run: Run,
    subject: Subject = None,
    items: Annotated[
        int | None, typer.Option("--items", min=1, help="How many were added: an error where they are more or fewer.")
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Who proposes them: they cannot approve them.")] = "operator",
    reason: Reason = "",
    vault_key: VaultKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    json_: Json = False,
) -> None:
    """Propose held-out items that were added at the end of the vault, where nothing else of the guard differs."""
    from harness.guarding import add_items
    from harness.passphrase import PassphraseSource

    told = add_items(
        existing(run),
        subject,
        PassphraseSource(passphrase_fd),
        by=by_name(by),
        reason=one_line(reason, "--reason"),
        vault_key=vault_key,
        expected=items,
    )
    if json_:
        print_json(told)
    else:
        print(f"{told['items_added']:,} held-out items are added, and nothing else differs from the guard in force")
        print(_lasting(told["lasts"]))
        print("whether they are as good as those that were there is for people to say")
        print(next_step(told, run, subject))
    if told["rejected"]:
        raise typer.Exit(REJECTED)
    if told["require"]:
        raise typer.Exit(AWAITING)


@app.command("retired")
def vault_retired(
    run: Run,
    subject: Annotated[Path, typer.Option("--subject", help="The subject, as the guard in force has it.")],
    vault_key: KnownVaultKey = None,
    passphrase_fd: PassphraseFd = None,
    json_: Json = False,
) -> None:
    """List the held-out items that are retired, which may be published: their places in load(), and their digests."""
    from harness.retirement import retired_items

    folder = existing(run)
    found = retired_items(folder, subject, load_vault_key(folder, vault_key, passphrase_fd))
    if json_:
        print_json([each.json_value() for each in found])
        return
    for each in found:
        print(f"{each.place:>8} {each.digest} epoch {each.epoch}")
    print(f"{len(found):,} held-out items are retired: they are never asked again, and may be published")


def _lasting(lasts: dict[str, Any]) -> str:
    """How many promotions items may last for, in words."""
    least = f"{lasts['left']:,} are left once this epoch ends: for {lasts['at_least']} promotions or more"
    if lasts["median"] is None:
        return f"{least}; nothing was promoted yet that would say how many"
    return f"{least}, some {lasts['likely']} where each retires {lasts['median']:,}, this run's median"
