"""`lockgate keys`: who signs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.common import Json, PassphraseFd, Run, Unencrypted, existing, new_passphrase, print_json
from harness.plain import plain

app = typer.Typer(help="Signing keys.", no_args_is_help=True)


@app.command("init")
def keys_init(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run to come.")],
    name: Annotated[str, typer.Option("--name", help="The name under which the log signs.")] = "lockgate",
    passphrase_fd: PassphraseFd = None,
    unencrypted: Unencrypted = False,
    json_: Json = False,
) -> None:
    """Make a run's signing key and vault key before its first start, so that you can keep the public key elsewhere."""
    from harness.operating import init_keys
    from harness.passphrase import PassphraseSource

    source = PassphraseSource(passphrase_fd)
    result = init_keys(run, name, lambda: new_passphrase(source, f"the keys of {run}", unencrypted=unencrypted))
    if json_:
        print_json(result)
    else:
        kept = "encrypted" if result["encrypted"] else "not encrypted, for your eyes alone"
        print(f"signing key {result['signing_key']}, vault key {result['vault_key']}: {kept}")
        print(f"public key {result['public_key']}: give reviewers a copy now, outside this folder")


@app.command("rotate")
def keys_rotate(
    run: Run,
    reason: Annotated[str, typer.Option("--reason", help="For the log.")] = "by request",
    passphrase_fd: PassphraseFd = None,
    json_: Json = False,
) -> None:
    """Let a fresh key sign the log from here on, by an entry that both keys sign. The old private key is destroyed."""
    from harness.operating import rotate_keys
    from harness.passphrase import PassphraseSource

    folder = existing(run)
    result = rotate_keys(folder, reason, PassphraseSource(passphrase_fd))
    if json_:
        print_json(result)
        return
    kept = "encrypted" if result["encrypted"] else "not encrypted"
    print(f"from entry {result['entry'] + 1} on the log is signed by {plain(result['new'])} ({kept})")
    print(f"give reviewers and witnesses a copy of {folder.public_key}: it has a line more")


@app.command("list")
def keys_list(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")], json_: Json = False
) -> None:
    """List the keys that the log proves, since when each is in force, and where the private halves are."""
    from harness.operating import keys_of

    result = keys_of(run)
    if json_:
        print_json(result)
        return
    for key in result["keys"]:
        since = "no log yet" if key["since"] is None else f"since entry {key['since']}"
        force = ", in force" if key["in_force"] else ", replaced"
        print(f"{plain(key['vkey'], 400)}  {since}{force}; private half {key['private']}")
        print(f"  {key['digest']}")
    vault = result["vault_key"]
    print(f"vault key {plain(vault['path'], 4000)}: {vault['private']}; commitment {vault['commitment']}")
    if result["meaning"]:
        print(result["meaning"])


@app.command("passphrase")
def keys_passphrase(
    run: Run,
    passphrase_fd: PassphraseFd = None,
    new_fd: Annotated[
        int | None, typer.Option("--new-passphrase-fd", min=0, help="The descriptor from which to read the new one.")
    ] = None,
    unencrypted: Unencrypted = False,
    json_: Json = False,
) -> None:
    """Encrypt a run's private keys under another passphrase, or decrypt them. Neither key nor log changes."""
    from harness.operating import change_keys_passphrase
    from harness.passphrase import PassphraseSource

    new = PassphraseSource(new_fd, option="--new-passphrase-fd")
    result = change_keys_passphrase(
        existing(run),
        PassphraseSource(passphrase_fd),
        lambda: new_passphrase(new, f"the keys of {run}", unencrypted=unencrypted),
    )
    if json_:
        print_json(result)
    else:
        print(f"{', '.join(result['changed'])}: {'encrypted' if result['encrypted'] else 'not encrypted'}")
