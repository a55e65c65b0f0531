"""`lockgate model`: a promoted model's folder, wherever it was copied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.common import AUDIT_FAILED, Json, QuorumOf, WitnessFiles, print_json
from harness.plain import plain

app = typer.Typer(help="Verify a promoted model by itself.", no_args_is_help=True)


@app.command("verify")
def model_verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A copy of models/VERSION, or the folder itself.")],
    key: Annotated[Path, typer.Option("--key", help="Your own copy of the log's public keys (keys/log.pub).")],
    witness: WitnessFiles = None,
    quorum: QuorumOf = None,
    json_: Json = False,
) -> None:
    """Verify a promoted model offline: its files, its authorisation, and that this is in the log.

    A folder carries no key, so there is no answer without --key. Exit codes: 0 valid, 5 invalid. That it went live, or
    is live still, is in the log alone.
    """
    from harness.bundle import Trust, read_bundle
    from harness.errors import AuditError

    trust = Trust.load(key, witnesses=witness or [], quorum=quorum)
    try:
        bundle = read_bundle(directory, trust)
    except AuditError as error:
        report = {
            "verdict": "invalid",
            "summary": str(error),
            "clause": error.clause,
            "problem": error.message,
            "where": error.where,
        }
        clause = f" ({error.clause} of audits/FORMAT.md)" if error.clause else ""
        print_json(report) if json_ else print(plain(f"invalid: {error}{clause}", 4000))
        raise typer.Exit(AUDIT_FAILED) from error
    print_json(bundle.report()) if json_ else print(plain(f"valid: {bundle.summary}", 4000))
