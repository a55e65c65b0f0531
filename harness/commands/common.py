"""What commands share: their arguments and options, exit codes, and how a result is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from harness.passphrase import Passphrase, PassphraseSource

REJECTED, AWAITING, AUDIT_FAILED, UNPROVEN, STALE = 3, 4, 5, 6, 7

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
Replay = Annotated[
    Path | None,
    typer.Option("--replay", help="Another run: models are not asked, their replies are those recorded there."),
]
PassphraseFd = Annotated[
    int | None,
    typer.Option(
        "--passphrase-fd", min=0, help="The descriptor from which to read the keys' passphrase; else it is asked for."
    ),
]
Unencrypted = Annotated[bool, typer.Option("--unencrypted", help="Keep the private keys as plain files.")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="Your own copy of the log's public key (keys/log.pub).")]
KnownVaultKey = Annotated[Path | None, typer.Option("--vault-key", help="The run's vault key; its own when left out.")]
ApproversFile = Annotated[
    Path | None,
    typer.Option("--approvers", help="Your own list of who may answer holds, as allowed_signers has it."),
]
HeadFile = Annotated[
    Path | None, typer.Option("--head", help="A signed tree head that you hold: the log must extend it.")
]
WitnessFiles = Annotated[
    list[Path] | None, typer.Option("--witness", help="A file with witnesses' keys, one a line; may be repeated.")
]
QuorumOf = Annotated[
    int | None,
    typer.Option("--quorum", min=1, help="How many of the witnesses must have cosigned; all by default."),
]
Generations = Annotated[
    int | None, typer.Option("--generations", min=1, help="How many in all, counted from the run's beginning.")
]
Proposers = Annotated[
    str | None,
    typer.Option(
        "--proposers", metavar="NAME[=SLOTS],…", help="These alone, separated by commas; others than configured, too."
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", min=0.01, help="Begin generations for as long as this, instead of a number of them."),
]
VERDICT = {"at-least-as-strict": "ok", "weaker": "WEAKER", "unknown": "unknown"}
"""Whether something is as strict as before, in a column."""


def slots_of(text: str | None) -> dict[str, int | None] | None:
    """Read `NAME[=SLOTS],…`; ConfigError for anything else."""
    from harness.errors import ConfigError

    if text is None:
        return None
    chosen: dict[str, int | None] = {}
    for part in text.split(","):
        name, given, count = (each.strip() for each in part.partition("="))
        if (
            not name
            or name in chosen
            or (given and not (count.isascii() and count.isdigit() and 1 <= int(count) <= 256))
        ):
            raise ConfigError(
                f"{part.strip() or 'nothing'!r} is no proposer, or the second of its name, or takes no such slots",
                where="--proposers",
                remedy="write NAME or NAME=SLOTS (1 to 256), separated by commas",
            )
        chosen[name] = int(count) if given else None
    return chosen


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(value, indent=2, sort_keys=True))  # as ASCII: a stranger's words may act on a terminal


def new_passphrase(source: PassphraseSource, what: str, *, unencrypted: bool) -> Passphrase | None:
    """The passphrase for keys to be made; None only where that was said. KeyFileError where there is none to be had."""
    from harness.errors import ConfigError, KeyFileError

    if unencrypted:
        if source.named:
            raise ConfigError("a passphrase and --unencrypted: only one of them can be meant", where=source.option)
        return None
    chosen = source.choose(what)
    if chosen is None:
        raise KeyFileError(
            "there is no passphrase to encrypt it with",
            where=what,
            remedy=f"run this at a terminal, or with {source.option} N; or say --unencrypted",
        )
    return chosen


def load_vault_key(folder: Any, vault_key: Path | None, passphrase_fd: int | None) -> Any:
    """The vault key of a run, from a file or its own; its passphrase is asked for where it has one."""
    from harness.keyfile import is_encrypted
    from harness.keys import VaultKey
    from harness.passphrase import PassphraseSource

    path = vault_key or folder.vault_key
    return VaultKey.load(path, PassphraseSource(passphrase_fd).ask(str(path)) if is_encrypted(path) else None)


def write_text(path: Path, text: str) -> None:
    """Write a file of a user's; ConfigError where the disk refuses."""
    from harness.errors import ConfigError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from error


def existing(run: Path) -> Any:
    """The folder of a run that was begun; ConfigError where there is none."""
    from harness.errors import ConfigError
    from harness.folder import RunFolder

    folder = RunFolder(run)
    if not folder.exists:
        raise ConfigError("no run here", where=str(run), remedy="`lockgate run SUBJECT --out DIR` begins one")
    return folder


def read(run: Path) -> Any:
    """Fold a run's log without its supervisor: its state and entries."""
    from harness.journal import read_run
    from harness.keys import VerifierChain

    folder = existing(run)
    return read_run(folder.log, VerifierChain.load(folder.public_key))
