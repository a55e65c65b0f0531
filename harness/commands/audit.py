"""`lockgate audit`: read and verify the trail of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.common import UNPROVEN, Json, Run, existing, print_json

app = typer.Typer(help="Read and verify the trail of a run.", no_args_is_help=True)


@app.command("verify")
def audit_verify(
    run: Run,
    key: Annotated[
        Path | None, typer.Option("--key", help="Your own copy of the log's public key (keys/log.pub).")
    ] = None,
    json_: Json = False,
) -> None:
    """Verify a run: every signature and hash, the legality of every step, every blob, the live model."""
    from harness.auditing import verify_run

    report = verify_run(existing(run), key)
    if json_:
        print_json(report)
    else:
        print(f"{report['verdict']}: {report['summary']}")
    if report["verdict"] == "identity unproven":
        raise typer.Exit(UNPROVEN)


@app.command("log")
def audit_log(run: Run, json_: Json = False) -> None:
    """Print the trail, an entry a line, for people; with --json as JSON lines."""
    from harness.auditing import trail

    for row in trail(existing(run)):
        if json_:
            print(json.dumps(row, sort_keys=True))
        else:
            print(f"{row['index']:>5}  {row['time'][:19]}  {row['kind']:<12} {row['text']}")


@app.command("replay")
def audit_replay(
    run: Run,
    subject: Annotated[
        Path | None, typer.Option("--subject", help="With the subject's guards, score the logged answers again, too.")
    ] = None,
    vault_key: Annotated[
        Path | None, typer.Option("--vault-key", help="The run's vault key; its own when left out.")
    ] = None,
    json_: Json = False,
) -> None:
    """Derive every decision again from the log and its blobs, without the supervisor; report the first difference."""
    from harness.keys import VaultKey
    from harness.replay import replay_measurements, replay_run

    folder = existing(run)
    report = replay_run(folder)
    if subject is not None:
        report["measurements"] = replay_measurements(folder, subject, VaultKey.load(vault_key or folder.vault_key))
    if json_:
        print_json(report)
        return
    print(f"{report['decisions']} decisions derived again, all the same")
    if subject is not None:
        print(f"{report['measurements']} measurements scored again from the logged answers, all the same")
