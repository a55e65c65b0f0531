"""`lockgate witness`: a process of its own, with a key of its own, that cosigns what extends what it has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.common import Json, PassphraseFd, Unencrypted, new_passphrase, print_json

app = typer.Typer(help="Run a witness of logs (C2SP tlog-witness).", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The witness's own folder: its key and its memory.")]


@app.command("init")
def witness_init(
    folder: Folder,
    name: Annotated[str, typer.Option("--name", help="The name that stands before its signatures.")],
    passphrase_fd: PassphraseFd = None,
    unencrypted: Unencrypted = False,
    json_: Json = False,
) -> None:
    """Make a witness's key. Whoever relies on it needs the line that is printed, and should have it from you."""
    from harness.passphrase import PassphraseSource
    from harness.witness import make_witness

    source, key = PassphraseSource(passphrase_fd), str(folder / "witness.key")
    witness = make_witness(folder, name, lambda: new_passphrase(source, key, unencrypted=unencrypted))
    if json_:
        print_json({"folder": str(folder), "name": witness.name, "vkey": witness.vkey, "encrypted": not unencrypted})
    else:
        print(witness.vkey)


@app.command("serve")
def witness_serve(
    folder: Folder,
    log: Annotated[
        list[Path],
        typer.Option("--log", help="A file with the keys of one log, one a line, the oldest first; may be repeated."),
    ],
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 0,
    passphrase_fd: PassphraseFd = None,
    json_: Json = False,
) -> None:
    """Cosign the tree heads of these logs, until SIGTERM. One process may serve a folder at a time."""
    import json
    import signal
    import threading

    from harness.errors import ConfigError, DiskError
    from harness.keys import VerifierChain
    from harness.passphrase import PassphraseSource
    from harness.witness import Witness
    from harness.witness_server import WitnessServer

    source = PassphraseSource(passphrase_fd)
    witness = Witness.open(folder, [VerifierChain.load(path) for path in log], unlock=source.ask)
    try:
        server = WitnessServer(witness, host, port)
    except OSError as error:
        witness.close()
        raise ConfigError(f"cannot listen: {error.strerror or error}", where=f"{host}:{port}") from error
    for each in (signal.SIGTERM, signal.SIGINT):
        # By a thread, for the signal may come while this one holds the lock inside `ended`.
        signal.signal(each, lambda *_: threading.Thread(target=server.ended.set).start())
    if json_:  # one line, not a document of several: a program waits for it
        told = {"listening": server.url, "logs": witness.origins, "vkey": witness.verifier.vkey}
        print(json.dumps(told, sort_keys=True), flush=True)
    else:
        print(f"listening on {server.url}", flush=True)
    server.serve()
    if witness.disk_error is not None:
        raise DiskError(witness.disk_error, where=str(folder), remedy="see to the disk, then start the witness again")
