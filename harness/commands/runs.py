"""Commands about runs: begin, go on, look, stop, undo; and about the machine they run on."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from harness.commands.common import (
    AWAITING,
    Generations,
    Json,
    Minutes,
    Out,
    PassphraseFd,
    Proposers,
    Replay,
    Run,
    SubjectArg,
    VaultKeyFile,
    Workers,
    existing,
    print_json,
    read,
    slots_of,
)
from harness.plain import plain

app = typer.Typer()


@app.command()
def run(
    subject: SubjectArg,
    out: Out = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="All training starts from it; 0 when left out.")
    ] = None,
    generations: Generations = None,
    minutes: Minutes = None,
    proposers: Proposers = None,
    workers: Workers = None,
    vault_key: VaultKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    replay: Replay = None,
    json_: Json = False,
) -> None:
    """Run a guarded improvement loop over a subject; go on where its run stopped, if there is one."""
    folder = out or Path("runs") / subject.resolve().name
    _loop(
        subject,
        folder,
        seed,
        generations,
        minutes,
        proposers,
        workers,
        vault_key,
        passphrase_fd,
        json_=json_,
        replay=replay,
    )


@app.command()
def resume(
    run: Run,
    generations: Generations = None,
    minutes: Minutes = None,
    proposers: Proposers = None,
    workers: Workers = None,
    vault_key: VaultKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    replay: Replay = None,
    json_: Json = False,
) -> None:
    """Go on with a run that was halted, interrupted or killed. Nothing that was finished is done again."""
    from harness.opening import read_subject

    subject, key = read_subject(existing(run))
    _loop(
        subject,
        run,
        None,
        generations,
        minutes,
        proposers,
        workers,
        vault_key or key,
        passphrase_fd,
        json_=json_,
        lift_halt=True,
        replay=replay,
    )


def _loop(
    subject: Path,
    out: Path,
    seed: int | None,
    generations: int | None,
    minutes: float | None,
    proposers: str | None,
    workers: int | None,
    vault_key: Path | None,
    passphrase_fd: int | None,
    *,
    json_: bool,
    lift_halt: bool = False,
    replay: Path | None = None,
) -> None:
    from rich.console import Console

    from harness.display import RunDisplay, closing
    from harness.folder import RunFolder
    from harness.keyring import unlock
    from harness.passphrase import PassphraseSource
    from harness.run import Watcher, guarded_loop

    folder = RunFolder(out)
    passphrase = unlock(folder, PassphraseSource(passphrase_fd), vault_key or folder.vault_key)
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
            minutes=minutes,
            proposers=slots_of(proposers),
            workers=workers,
            vault_key=vault_key,
            passphrase=passphrase,
            lift_halt=lift_halt,
            replay=replay,
        )
    if json_:
        print_json(result)
    else:
        closing(console, result, out)
    if result["holds"]:
        raise typer.Exit(AWAITING)


@app.command()
def status(run: Run, json_: Json = False) -> None:
    """Say where a run stands: versions, proposals, what was rejected and why."""
    from harness.artifacts import BlobStore
    from harness.cosigning import witness_standing
    from harness.keyring import standing as keys_standing
    from harness.views import summary

    state, _ = read(run)
    folder = existing(run)
    told = {"keys": keys_standing(folder), "witnesses": witness_standing(folder, state)}
    result = {**summary(state, BlobStore(folder.blobs)), **told}
    if json_:
        print_json(result)
        return
    from rich.console import Console

    from harness.display import closing, standing

    console = Console()
    standing(console, result)
    closing(console, result, run)


@app.command()
def show(run: Run, number: Annotated[int, typer.Argument(help="The proposal's number.")], json_: Json = False) -> None:
    """Show one proposal: the change, each rule with its values, each gate with its evidence, the decision."""
    from harness.artifacts import BlobStore
    from harness.journal import follow
    from harness.keys import VerifierChain
    from harness.showing import render
    from harness.state import RunState
    from harness.telling import Notebook, proposal_page

    folder, state, notebook = existing(run), RunState(), Notebook()
    for step in follow(folder.log, VerifierChain.load(folder.public_key)):
        notebook.take(step)
        state = step.state
    page = proposal_page(BlobStore(folder.blobs), state, notebook, number)
    if json_:
        print_json(page)
        return
    from rich.console import Console

    render(Console(), page)


@app.command()
def halt(
    run: Run,
    reason: Annotated[str, typer.Option("--reason", help="For the log.")] = "by request",
    passphrase_fd: PassphraseFd = None,
    json_: Json = False,
) -> None:
    """Stop a run before its next swap. `lockgate resume` lifts it."""
    from harness.operating import halt as halt_run
    from harness.passphrase import PassphraseSource

    result = halt_run(existing(run), reason, PassphraseSource(passphrase_fd))
    if json_:
        print_json(result)
        return
    print(f"halted: nothing is promoted until `lockgate resume {run}`")
    if not result["logged"]:
        print(f"the log does not say so yet: {result['why']}")
    elif result.get("uncosigned"):
        print(plain(f"its witnesses have not cosigned that yet: {result['uncosigned']}", 2000))


@app.command()
def rollback(
    run: Run,
    version: Annotated[int, typer.Option("--to", min=0, help="The version to make live again; 0 is the baseline.")],
    reason: Annotated[str, typer.Option("--reason", help="For the log.")] = "by request",
    subject: Annotated[
        Path | None, typer.Option("--subject", help="Where the subject lies now, if it was moved.")
    ] = None,
    vault_key: VaultKeyFile = None,
    passphrase_fd: PassphraseFd = None,
    json_: Json = False,
) -> None:
    """Make an earlier version live again, bit-identical. Ends the epoch; the operator's act, logged as such."""
    from harness.operating import rollback as roll
    from harness.passphrase import PassphraseSource

    source = PassphraseSource(passphrase_fd)
    result = roll(existing(run), version, reason, source, subject=subject, vault_key=vault_key)
    print_json(result) if json_ else print(f"version {result['live']} is live")


@app.command()
def repair(run: Run, json_: Json = False) -> None:
    """Put back what was damaged of a run's models, from the log and its blobs; keep the damage in RUN/damaged."""
    from harness.repair import Repaired
    from harness.repair import repair as mend
    from harness.telemetry import configure

    folder, done = existing(run), list[dict[str, str | None]]()

    def tell(each: Repaired) -> None:
        kept = None if each.kept is None else str(each.kept.relative_to(folder.root))
        done.append({"what": each.what, "why": each.why, "kept": kept})
        log.warning("repaired", **done[-1])
        if not json_:
            print(plain(f"put back {each.what}: {each.why}" + (f"; what was there is in {kept}" if kept else ""), 2000))

    log = configure(folder.root / "supervisor.jsonl")
    mend(folder, tell)
    if json_:
        print_json({"repaired": done})
    elif not done:
        print("nothing to repair: every version and the live link are what the log names")
    else:
        print(f"somebody or something did this damage: find out who. Next: lockgate audit verify {run}")


@app.command()
def new(directory: Annotated[Path, typer.Argument(metavar="DIR")], json_: Json = False) -> None:
    """Write a subject that runs, to begin with."""
    from harness.scaffold import new_subject

    written = [str(path) for path in new_subject(directory)]
    if json_:
        print_json({"written": written})
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
        print_json({"ok": all(row["ok"] or not row["needed"] for row in rows), "checks": rows})
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
