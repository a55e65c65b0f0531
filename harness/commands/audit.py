"""`lockgate audit`: read and verify the trail of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.common import (
    AUDIT_FAILED,
    STALE,
    UNPROVEN,
    ApproversFile,
    HeadFile,
    Json,
    KeyFile,
    KnownVaultKey,
    PassphraseFd,
    QuorumOf,
    Run,
    WitnessFiles,
    existing,
    load_vault_key,
    print_json,
)
from harness.plain import plain

app = typer.Typer(help="Read and verify the trail of a run.", no_args_is_help=True)


@app.command("verify")
def audit_verify(
    run: Run,
    key: KeyFile = None,
    approvers: ApproversFile = None,
    head: HeadFile = None,
    witness: WitnessFiles = None,
    quorum: QuorumOf = None,
    max_age: Annotated[
        float | None, typer.Option("--max-age", min=0, help="Seconds since the last signed time, at most.")
    ] = None,
    log_only: Annotated[
        bool, typer.Option("--log-only", help="Read neither blobs nor models: for who has no access to them.")
    ] = False,
    since: Annotated[
        Path | None, typer.Option("--since", help="What --save wrote: verify what is new since then, and the models.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write where this verification ended, for --since.")
    ] = None,
    json_: Json = False,
) -> None:
    """Verify a run: every signature and hash, the legality of every step, every blob, the live model.

    Exit codes are those of audits/FORMAT.md: 0 valid, 5 invalid, 6 identity unproven, 7 not as fresh as asked.
    """
    from harness.auditing import Freshness, read_witnesses, verify_run
    from harness.errors import AuditError, StateError
    from harness.folder import RunFolder

    if log_only and save is not None:
        raise typer.BadParameter(
            "--save is for whoever reads the blobs, too: what goes on from there takes them as read"
        )
    freshness = Freshness(head=head, witnesses=read_witnesses(witness or []), quorum=quorum or 0, max_age=max_age)
    try:
        report = verify_run(
            RunFolder(run), key, freshness=freshness, log_only=log_only, approvers=approvers, since=since, save=save
        )
    except (AuditError, StateError) as error:
        place = (error.where or "").removeprefix("entry ")
        entry = int(place) if place.isdecimal() else None
        report = {
            "verdict": "invalid",
            "summary": str(error),
            "entry": entry,
            "clause": error.clause,
            "problem": error.message,
            "where": error.where,
        }
    if json_:
        print_json(report)
    else:
        clause = f" ({report['clause']} of audits/FORMAT.md)" if report.get("clause") else ""
        print(plain(f"{report['verdict']}: {report['summary']}{clause}", 4000))
    if report["verdict"] == "invalid":
        raise typer.Exit(AUDIT_FAILED)
    if report["verdict"] == "identity unproven":
        raise typer.Exit(UNPROVEN)
    if freshness.asked and not report["fresh"]:
        raise typer.Exit(STALE)


@app.command("log")
def audit_log(run: Run, json_: Json = False) -> None:
    """Print the trail, an entry a line, for people; with --json as JSON lines."""
    from harness.trail import trail

    for row in trail(existing(run)):
        if json_:
            print(json.dumps(row, sort_keys=True))
        else:
            print(f"{row['index']:>5}  {row['time'][:19]}  {row['kind']:<12} {row['text']}")


@app.command("show")
def audit_show(
    run: Run, index: Annotated[int, typer.Argument(metavar="INDEX", help="The entry, from 0.")], json_: Json = False
) -> None:
    """Show one entry in full: its words, its signer, its place in the tree, and whether its blobs are there."""
    from harness.exhibit import entry_page, page_text

    page = entry_page(existing(run), index)
    print_json(page) if json_ else print(page_text(page))


@app.command("diff")
def audit_diff(
    run: Run,
    other: Annotated[Path | None, typer.Argument(metavar="OTHER", help="Another copy of the same trail.")] = None,
    since: Annotated[
        Path | None, typer.Option("--since", help="A signed tree head that you hold, instead of another copy.")
    ] = None,
    json_: Json = False,
) -> None:
    """Tell two copies of a trail apart: the same, what one has more, or where they fork (exit code 5)."""
    from harness import comparing
    from harness.exhibit import row_text

    if (other is None) == (since is None):
        raise typer.BadParameter("name another copy of the run, or a head with --since: one of the two")
    folder = existing(run)
    found = comparing.compare(folder, existing(other)) if other else comparing.since(folder, Path(str(since)))
    if json_:
        print_json(found.report())
    else:
        print(found.words)
        for row in found.rows():
            print(f"{'-' if row['in'] == 'a' else '+'} {row_text(row)}")
    if found.relation == "forked":
        raise typer.Exit(AUDIT_FAILED)


@app.command("replay")
def audit_replay(
    run: Run,
    subject: Annotated[
        Path | None, typer.Option("--subject", help="With the subject's guards, score the logged answers again, too.")
    ] = None,
    vault_key: KnownVaultKey = None,
    passphrase_fd: PassphraseFd = None,
    json_: Json = False,
) -> None:
    """Derive every decision again from the log and its blobs, without the supervisor; report the first difference."""
    from harness.replay import replay_run
    from harness.rescoring import rescore

    folder = existing(run)
    key = None
    if subject is not None:
        key = load_vault_key(folder, vault_key, passphrase_fd)
    report = replay_run(folder)
    if subject is not None and key is not None:
        report |= rescore(folder, subject, key)
    if json_:
        print_json(report)
        return
    print(f"{report['decisions']} decisions derived again, all the same")
    if report["guards"]:
        print(f"{report['guards']} changes of the guard compared again, all the same")
    if subject is not None:
        print(f"{report['measurements']} measurements scored again from the logged answers, all the same")
        if report.get("properties"):
            print(f"{report['properties']} searches for counterexamples made again, to the same end")
        if report["other_evals"]:
            print(f"{report['other_evals']} were measured by other evals: give the subject as it was with --subject")
