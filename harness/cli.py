"""The command line, thin: parse, call one room, print. `--json` owns stdout: one document, errors too.

Exit codes: 0 done · 1 error · 2 usage · 3 rejected (a policy check or test failed, gates that can
hardly pass) · 4 awaiting approval · 5 audit verification failed · 6 consistent, but identity unproven.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from harness import __version__
from harness.errors import LockgateError

REJECTED, AUDIT_FAILED, UNPROVEN = 3, 5, 6

app = typer.Typer(
    name="lockgate",
    help="A safety-gated self-improvement harness: nothing a model proposes to itself goes live unguarded.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
gates_app = typer.Typer(help="The statistical gates of a subject.", no_args_is_help=True)
policy_app = typer.Typer(help="Check and test policies.", no_args_is_help=True)
audit_app = typer.Typer(help="Read and verify the trail of a run.", no_args_is_help=True)
keys_app = typer.Typer(help="Signing keys.", no_args_is_help=True)
app.add_typer(gates_app, name="gates")
app.add_typer(policy_app, name="policy")
app.add_typer(audit_app, name="audit")
app.add_typer(keys_app, name="keys")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
SubjectArg = Annotated[
    Path, typer.Argument(metavar="SUBJECT", help="A folder with lockgate.yaml, model.py and guards.py.")
]
Out = Annotated[Path | None, typer.Option("--out", help="The run's folder; runs/SUBJECT when left out.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, max=64, help="Workers side by side; decisions do not depend on it.")
]
VaultKeyFile = Annotated[
    Path | None, typer.Option("--vault-key", help="32 bytes that order the held-out items; made when absent.")
]
Generations = Annotated[
    int | None, typer.Option("--generations", min=1, help="How many in all, counted from the run's beginning.")
]
Proposers = Annotated[
    str | None, typer.Option("--proposers", help="Only these of the configured ones, separated by commas.")
]


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


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2, sort_keys=True))  # as ASCII: a stranger's words may act on a terminal


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


# -- runs -------------------------------------------------------------------------------------------------------


@app.command()
def run(
    subject: SubjectArg,
    out: Out = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="All training starts from it; 0 when left out.")
    ] = None,
    generations: Generations = None,
    proposers: Proposers = None,
    workers: Workers = None,
    vault_key: VaultKeyFile = None,
    json_: Json = False,
) -> None:
    """Run a guarded improvement loop over a subject; go on where its run stopped, if there is one."""
    folder = out or Path("runs") / subject.resolve().name
    _loop(subject, folder, seed, generations, proposers, workers, vault_key, json_=json_)


@app.command()
def resume(
    run: Run,
    generations: Generations = None,
    proposers: Proposers = None,
    workers: Workers = None,
    vault_key: VaultKeyFile = None,
    json_: Json = False,
) -> None:
    """Go on with a run that was halted, interrupted or killed. Nothing that was finished is done again."""
    from harness.opening import read_subject

    subject, key = read_subject(_existing(run))
    _loop(subject, run, None, generations, proposers, workers, vault_key or key, json_=json_, lift_halt=True)


def _loop(
    subject: Path,
    out: Path,
    seed: int | None,
    generations: int | None,
    proposers: str | None,
    workers: int | None,
    vault_key: Path | None,
    *,
    json_: bool,
    lift_halt: bool = False,
) -> None:
    from rich.console import Console

    from harness.display import RunDisplay, closing
    from harness.run import Watcher, guarded_loop

    console = Console(stderr=json_)
    display = RunDisplay(console, out) if not json_ else None
    watcher = Watcher(note=lambda _: None, event=lambda _: None)
    if display:
        watcher = Watcher(note=display.note, event=display.event)
    with display or nullcontext():
        result = guarded_loop(
            subject,
            out,
            watcher,
            seed=seed,
            generations=generations,
            proposers=[name.strip() for name in proposers.split(",")] if proposers else None,
            workers=workers,
            vault_key=vault_key,
            lift_halt=lift_halt,
        )
    if json_:
        _print(result)
    else:
        closing(console, result, out)


def _existing(run: Path) -> Any:
    from harness.errors import ConfigError
    from harness.folder import RunFolder

    folder = RunFolder(run)
    if not folder.exists:
        raise ConfigError("no run here", where=str(run), remedy="`lockgate run SUBJECT --out DIR` begins one")
    return folder


def _read(run: Path) -> Any:
    from harness.journal import read_run
    from harness.keys import Verifier

    folder = _existing(run)
    return read_run(folder.log, Verifier.load(folder.public_key))


@app.command()
def status(run: Run, json_: Json = False) -> None:
    """Say where a run stands: versions, proposals, what was rejected and why."""
    from harness.views import summary

    state, _ = _read(run)
    result = summary(state)
    if json_:
        _print(result)
        return
    from rich.console import Console

    from harness.display import closing, standing

    console = Console()
    standing(console, result)
    closing(console, result, run)


@app.command()
def show(run: Run, number: Annotated[int, typer.Argument(help="The proposal's number.")], json_: Json = False) -> None:
    """Show one proposal: the change, each rule with its values, each gate with its evidence, the decision."""
    from harness.showing import proposal_page, render

    state, entries = _read(run)
    page = proposal_page(run, state, entries, number)
    if json_:
        _print(page)
        return
    from rich.console import Console

    render(Console(), page)


@app.command()
def halt(
    run: Run, reason: Annotated[str, typer.Option("--reason", help="For the log.")] = "by request", json_: Json = False
) -> None:
    """Stop a run before its next swap. `lockgate resume` lifts it."""
    from harness.operating import halt as halt_run

    result = halt_run(_existing(run), reason)
    _print(result) if json_ else print(f"halted: nothing is promoted until `lockgate resume {run}`")


@app.command()
def rollback(
    run: Run,
    version: Annotated[int, typer.Option("--to", min=0, help="The version to make live again; 0 is the baseline.")],
    reason: Annotated[str, typer.Option("--reason", help="For the log.")] = "by request",
    subject: Annotated[
        Path | None, typer.Option("--subject", help="Where the subject lies now, if it was moved.")
    ] = None,
    vault_key: VaultKeyFile = None,
    json_: Json = False,
) -> None:
    """Make an earlier version live again, bit-identical. Ends the epoch; the operator's act, logged as such."""
    from harness.operating import rollback as roll

    folder = _existing(run)
    result = roll(folder, version, reason, subject=subject, vault_key=vault_key)
    _print(result) if json_ else print(f"version {result['live']} is live")


@app.command()
def new(directory: Annotated[Path, typer.Argument(metavar="DIR")], json_: Json = False) -> None:
    """Write a subject that runs, to begin with."""
    from harness.scaffold import new_subject

    written = [str(path) for path in new_subject(directory)]
    if json_:
        _print({"written": written})
        return
    for path in written:
        print(f"wrote {path}")
    print(f"Next: lockgate run {directory}")


@app.command()
def doctor(json_: Json = False) -> None:
    """Say what this machine offers, with a remedy for each thing that is missing."""
    from harness.doctor import examine

    rows = examine()
    if json_:
        _print({"ok": all(row["ok"] or not row["needed"] for row in rows), "checks": rows})
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for column in ("", "what", "found", "remedy"):
            table.add_column(column)
        for row in rows:
            mark = "[green]✓[/]" if row["ok"] else ("[red]✗[/]" if row["needed"] else "[yellow]–[/]")
            table.add_row(mark, row["what"], row["found"], row["remedy"])
        Console().print(table)
    if any(row["needed"] and not row["ok"] for row in rows):
        raise typer.Exit(1)


# -- gates ------------------------------------------------------------------------------------------------------


@gates_app.command("power")
def gates_power_(subject: SubjectArg, json_: Json = False) -> None:
    """Say how likely each gate passes a candidate that deserves it; refuse gates that can hardly pass."""
    from harness.operating import power_of

    table, floor = power_of(subject)
    if json_:
        _print({**table.json_value(), "floor": floor, "ok": table.joint >= floor})
    else:
        from rich.console import Console
        from rich.table import Table

        shown = Table(title=f"alpha {table.alpha:.2g}", title_justify="left")
        for column in ("gate", "null: mean ≤", "true mean", "discordance", "items at most", "decided after", "passes"):
            shown.add_column(column, justify="left" if column == "gate" else "right")
        for row in table.rows:
            differ = "" if row.discordance is None else f"{row.discordance:.2f}"
            shown.add_row(
                row.gate,
                f"{row.theta:+.3f}",
                f"{row.true_mean:+.3f}",
                differ,
                str(row.cap),
                f"{row.items:.0f}",
                f"{row.probability:.2f}",
            )
        Console().print(shown)
        print(f"A candidate that deserves it passes all gates with probability {table.joint:.2f} (floor {floor:g}).")
    if table.joint < floor:
        raise typer.Exit(REJECTED)


# -- policies ---------------------------------------------------------------------------------------------------


@policy_app.command("check")
def policy_check(paths: Annotated[list[str], typer.Argument(metavar="FILE|PACK…")], json_: Json = False) -> None:
    """Compile policies; every problem with file, line and column."""
    from harness.policy import check

    report = check(_policy_files(paths))
    if json_:
        _print(report.json_value())
    else:
        for policy in report.policies:
            print(
                f"{policy.file}: {policy.name} ({policy.stage}; {', '.join(policy.kinds)}): {len(policy.rules)} rules"
            )
        for problem in report.problems:
            print(f"{problem.where}: {problem.message}" + (f" ({problem.remedy})" if problem.remedy else ""))
        print("ok" if report.ok else f"{len(report.problems)} problem(s)")
    if not report.ok:
        raise typer.Exit(REJECTED)


@policy_app.command("test")
def policy_test(paths: Annotated[list[str], typer.Argument(metavar="FILE|PACK…")], json_: Json = False) -> None:
    """Run the suites beside the policies; a rule without a passing and a failing case fails."""
    from harness.policy_test import test

    report = test(_policy_files(paths))
    if json_:
        _print(report.json_value())
    else:
        for suite in report.suites:
            for problem in suite.problems:
                print(f"{problem.where}: {problem.message}")
            for case in suite.cases:
                print(
                    f"{'ok  ' if case.ok else 'FAIL'} {case.where}: {case.name}"
                    + (f": {case.message}" if case.message else "")
                )
            print(f"{suite.file}: {sum(case.ok for case in suite.cases)} of {len(suite.cases)} cases ok")
    if not report.ok:
        raise typer.Exit(REJECTED)


def _policy_files(names: list[str]) -> list[Path]:
    from harness.policy import is_pack_name, resolve

    return [
        resolve(name, Path())[0][0] if is_pack_name(name) and not Path(name).exists() else Path(name) for name in names
    ]


# -- audit ------------------------------------------------------------------------------------------------------


@audit_app.command("verify")
def audit_verify(
    run: Run,
    key: Annotated[
        Path | None, typer.Option("--key", help="Your own copy of the log's public key (keys/log.pub).")
    ] = None,
    json_: Json = False,
) -> None:
    """Verify a run: every signature and hash, the legality of every step, every blob, the live model."""
    from harness.auditing import verify_run

    report = verify_run(_existing(run), key)
    if json_:
        _print(report)
    else:
        print(f"{report['verdict']}: {report['summary']}")
    if report["verdict"] == "identity unproven":
        raise typer.Exit(UNPROVEN)


@audit_app.command("log")
def audit_log(run: Run, json_: Json = False) -> None:
    """Print the trail, an entry a line, for people; with --json as JSON lines."""
    from harness.auditing import trail

    for row in trail(_existing(run)):
        if json_:
            print(json.dumps(row, sort_keys=True))
        else:
            print(f"{row['index']:>5}  {row['time'][:19]}  {row['kind']:<12} {row['text']}")


@audit_app.command("replay")
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

    folder = _existing(run)
    report = replay_run(folder)
    if subject is not None:
        report["measurements"] = replay_measurements(folder, subject, VaultKey.load(vault_key or folder.vault_key))
    if json_:
        _print(report)
        return
    print(f"{report['decisions']} decisions derived again, all the same")
    if subject is not None:
        print(f"{report['measurements']} measurements scored again from the logged answers, all the same")


# -- keys -------------------------------------------------------------------------------------------------------


@keys_app.command("init")
def keys_init(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run to come.")],
    name: Annotated[str, typer.Option("--name", help="The name under which the log signs.")] = "lockgate",
    json_: Json = False,
) -> None:
    """Make a run's signing key and vault key before its first start, so that you can keep the public key elsewhere."""
    from harness.operating import init_keys

    result = init_keys(run, name)
    if json_:
        _print(result)
    else:
        print(
            f"signing key {result['signing_key']}, vault key {result['vault_key']}: not encrypted, for your eyes alone"
        )
        print(f"public key {result['public_key']}: give reviewers a copy now, outside this folder")


if __name__ == "__main__":
    main()
