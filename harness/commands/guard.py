"""`lockgate guard`: whether what guards a run has changed, whether it is as strict, and to propose it as its guard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness.commands.common import (
    AWAITING,
    REJECTED,
    VERDICT,
    Json,
    PassphraseFd,
    Run,
    VaultKeyFile,
    existing,
    print_json,
)
from harness.plain import plain

app = typer.Typer(help="What guards a run: compare it with the disk, and change it.", no_args_is_help=True)

Subject = Annotated[
    Path | None, typer.Argument(metavar="SUBJECT", help="Another folder than the one that the run is about.")
]
Seconds = Annotated[float, typer.Option("--seconds", min=1, max=100, help="The solver's deadline, for all rules.")]
Reason = Annotated[str, typer.Option("--reason", help="For the log.")]


@app.command()
def compare(run: Run, subject: Subject = None, json_: Json = False, seconds: Seconds = 30.0) -> None:
    """Say whether what guards a run, as it stands on the disk now, is at least as strict as its log says."""
    from harness.folder import RunFolder
    from harness.guarding import compare_with_run

    comparison, guard = compare_with_run(RunFolder(run), subject, seconds=seconds)
    if json_:
        print_json({**comparison.json_value(), "guard": guard})
    else:
        _tell(comparison)
        print(f"on the disk: guard {guard}")
    if comparison.verdict != "at-least-as-strict":
        raise typer.Exit(REJECTED)


@app.command()
def show(run: Run, json_: Json = False) -> None:
    """Show every change of the guard that was proposed: what differs, who answered, and what became of it."""
    from harness.artifacts import BlobStore
    from harness.guard_change import GuardComparison
    from harness.guard_history import guard_history
    from harness.journal import follow
    from harness.keys import VerifierChain
    from harness.state import RunState
    from harness.telling import Notebook

    folder, state, notebook = existing(run), RunState(), Notebook()
    for step in follow(folder.log, VerifierChain.load(folder.public_key)):
        notebook.take(step)
        state = step.state
    history = guard_history(BlobStore(folder.blobs), state, notebook)
    if json_:
        print_json(history)
        return
    for each in history:
        head = f"entry {each['entry']}, {each['time'][:16]}Z, by {each['by']}"
        print(plain(f"{head}{': ' + each['reason'] if each['reason'] else ''}", 2000))
        if each["comparison"] is None:
            print(plain(each["problem"], 2000))
        else:
            _tell(GuardComparison.parse(each["comparison"]))
        for said in each["answers"]:
            why = f": {said['reason']}" if said["reason"] else ""
            print(plain(f"{said['verdict']} by {said['by']} ({said['role']}){why}", 2000))
        print(plain(f"→ {each['outcome']}{': ' + each['why'] if each['why'] else ''}", 2000))
    if not history:
        print("the guard is that of genesis: no change of it was proposed")


@app.command()
def propose(
    run: Run,
    subject: Subject = None,
    by: Annotated[str, typer.Option("--by", help="Who proposes it: they cannot approve it.")] = "operator",
    reason: Reason = "",
    vault_key: VaultKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    json_: Json = False,
    seconds: Seconds = 30.0,
) -> None:
    """Propose what guards the subject now as what guards the run. What is not as strict waits for its approvers."""
    from harness.guard_change import GuardComparison
    from harness.guarding import propose_guard
    from harness.passphrase import PassphraseSource

    folder = existing(run)
    told = propose_guard(
        folder,
        subject,
        PassphraseSource(passphrase_fd),
        by=by_name(by),
        reason=one_line(reason, "--reason"),
        vault_key=vault_key,
        seconds=seconds,
    )
    if json_:
        print_json(told)
    else:
        _tell(GuardComparison.parse(told["comparison"]))
        print(next_step(told, run, subject))
    if told["rejected"]:
        raise typer.Exit(REJECTED)
    if told["require"]:
        raise typer.Exit(AWAITING)


@app.command()
def withdraw(run: Run, reason: Reason = "by request", passphrase_fd: PassphraseFd = None, json_: Json = False) -> None:
    """Take back a proposed guard that is not in force yet."""
    from harness.guarding import withdraw_guard
    from harness.passphrase import PassphraseSource

    told = withdraw_guard(existing(run), PassphraseSource(passphrase_fd), reason=one_line(reason, "--reason"))
    print_json(told) if json_ else print(f"the guard stays as it is; guard {told['guard'][7:19]} is withdrawn")


MEANING = {
    "at-least-as-strict": "at least as strict: no bar is lowered",
    "weaker": "weaker: a bar is lowered",
    "unknown": "unknown: neither shown to be as strict nor weaker, so that people must decide",
}


def _tell(comparison: Any) -> None:
    for point in comparison.points:
        print(f"{VERDICT[point.verdict]:8}{point.where}: {point.what}")
    if comparison.policies is not None:
        from harness.commands.policy import told

        print("the policies:")
        for line in told(comparison.policies):
            print(f"  {line}")
    same = not comparison.points and comparison.policies is None
    print("the same" if same else MEANING[comparison.verdict])


def next_step(told: dict[str, Any], run: Path, subject: Path | None) -> str:
    """What comes after a change was proposed, in words."""
    start = f"`lockgate resume {run}`" if subject is None else f"`lockgate run {subject} --out {run}`"
    if told["rejected"]:
        return plain(f"rejected: {told['rejected']}", 2000)
    if not told["require"]:
        return f"proposed; {start} puts it in force"
    return (
        f"proposed; waits for {told['require']} of {', '.join(told['approvers'])}, until {told['expires'][:16]}Z: "
        f"`lockgate approve {run} guard --key KEY`; then {start} puts it in force"
    )


def by_name(by: str) -> str:
    """Who proposes, as it is given; ConfigError where it is no line."""
    from harness.errors import ConfigError

    if not by or len(by) > 200 or not by.isprintable():
        raise ConfigError("a name is one line of 1 to 200 characters", where="--by")
    return by


def one_line(reason: str, option: str) -> str:
    """A reason, as it is given; ConfigError where it is no line."""
    from harness.errors import ConfigError

    if len(reason) > 1000 or (reason and not reason.isprintable()):
        raise ConfigError("a reason is one line of at most 1,000 characters", where=option)
    return reason
