"""The command line, thin: parse, call one room, print. `--json` owns stdout: one document, errors too.

Exit codes: 0 done · 1 error · 2 usage · 3 rejected (a policy check or test failed, policies not
proved as strict, gates that can hardly pass) · 4 awaiting approval · 5 audit verification failed ·
6 consistent, but identity unproven · 7 valid, but the freshness that was asked for is unproven.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, NoReturn

import typer

from harness import __version__
from harness.commands import approvals, audit, gates, guard, keys, model, policy, review, runs, vault, witness
from harness.commands.common import AUDIT_FAILED, REJECTED
from harness.errors import LockgateError

app = typer.Typer(
    name="lockgate",
    help="A safety-gated self-improvement harness: nothing a model proposes to itself goes live unguarded.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(runs.app)
app.add_typer(approvals.app)
app.add_typer(guard.app, name="guard")
app.add_typer(review.app)
app.add_typer(gates.app, name="gates")
app.add_typer(vault.app, name="vault")
app.add_typer(policy.app, name="policy")
app.add_typer(audit.app, name="audit")
app.add_typer(keys.app, name="keys")
app.add_typer(model.app, name="model")
app.add_typer(witness.app, name="witness")


def main() -> None:
    """Run the command line; a user's mistake is one clear line, never a traceback."""
    as_json = "--json" in sys.argv[1:]
    try:
        app()
    except LockgateError as error:
        _fail(error, as_json=as_json)
    except KeyboardInterrupt:
        print("interrupted; nothing that was finished is lost", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        where = str(error.filename) if error.filename else None
        _fail(LockgateError(error.strerror or str(error), where=where), as_json=as_json)


def _fail(error: LockgateError, *, as_json: bool) -> NoReturn:
    if as_json:
        problem = {"type": type(error).__name__, "message": error.message, "where": error.where, "remedy": error.remedy}
        print(json.dumps({"error": problem}))
    else:
        print(f"lockgate: {error.where + ': ' if error.where else ''}{error.message}", file=sys.stderr)
        if error.remedy:
            print(f"  remedy: {error.remedy}", file=sys.stderr)
    sys.exit(_exit_code(error))


def _exit_code(error: LockgateError) -> int:
    from harness.errors import AuditError, StateError, StatisticsError

    if isinstance(error, (AuditError, StateError)):
        return AUDIT_FAILED
    return REJECTED if isinstance(error, StatisticsError) else 1


def _version(value: bool) -> None:
    if value:
        print(f"lockgate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_flag: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


if __name__ == "__main__":
    main()
