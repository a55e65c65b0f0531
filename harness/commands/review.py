"""`lockgate review`: a run as pages for a browser."""

from __future__ import annotations

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
    QuorumOf,
    Run,
    WitnessFiles,
    existing,
    print_json,
)
from harness.plain import plain

app = typer.Typer()


@app.command()
def review(
    run: Run,
    static: Annotated[Path, typer.Option("--static", metavar="OUT", help="The folder to write the pages to.")],
    key: KeyFile = None,
    approvers: ApproversFile = None,
    head: HeadFile = None,
    witness: WitnessFiles = None,
    quorum: QuorumOf = None,
    public: Annotated[
        bool, typer.Option("--public", help="Leave out what held-out items say: for who must not see it.")
    ] = False,
    json_: Json = False,
) -> None:
    """Verify a run and write it as pages that can be sent to somebody: the run, and one page for each decision.

    Exit codes are those of `audit verify`; a run that does not verify has no pages.
    """
    import sys

    from harness.auditing import Freshness, read_witnesses
    from harness.errors import AuditError, StateError
    from harness.review.site import write_pages

    freshness = Freshness(head=head, witnesses=read_witnesses(witness or []), quorum=quorum or 0)

    def note(text: str) -> None:
        if not json_ and sys.stderr.isatty():
            print(f"· {text}", file=sys.stderr)

    try:
        folder = existing(run)
        report = write_pages(
            folder, static, key=key, approvers=approvers, freshness=freshness, public=public, note=note
        )
    except (AuditError, StateError) as error:
        told = {"verdict": "invalid", "summary": str(error), "clause": error.clause, "where": error.where}
        print_json(told) if json_ else print(plain(f"invalid: {error}: no pages were written", 4000))
        raise typer.Exit(AUDIT_FAILED) from error
    if json_:
        print_json(report)
    else:
        print(plain(f"{report['verdict']}: {report['summary']}", 4000))
        print(plain(f"{report['pages']} pages: {report['index']}", 4000))
        if not public:
            print("They say what held-out items say: not for who proposes changes (--public leaves it out).")
    if report["verdict"] == "identity unproven":
        raise typer.Exit(UNPROVEN)
    if freshness.asked and not report["fresh"]:
        raise typer.Exit(STALE)
