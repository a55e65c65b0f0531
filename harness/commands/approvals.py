"""Commands of approvers: answer what is on hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.common import Json, Run, existing, print_json, read

if TYPE_CHECKING:
    from harness.approval import Said

app = typer.Typer()

Number = Annotated[
    str,
    typer.Argument(metavar="PROPOSAL", help="The number of a proposal that is on hold, or `guard`: a change of it."),
]
SshKey = Annotated[
    Path | None,
    typer.Option("--key", help="Your SSH key; the public half of it, where an agent or a token holds the other."),
]
Reason = Annotated[str, typer.Option("--reason", help="For the log; signed with the rest.")]
MessageOut = Annotated[
    Path | None,
    typer.Option("--message", help="Write the bytes to sign to this file and stop: the key is on another machine."),
]
SignatureIn = Annotated[
    Path | None,
    typer.Option("--signature", help="What `ssh-keygen -Y sign` made of that file, with the same --reason."),
]


@app.command()
def approve(
    run: Run,
    proposal: Number,
    key: SshKey = None,
    reason: Reason = "",
    message: MessageOut = None,
    signature: SignatureIn = None,
    json_: Json = False,
) -> None:
    """Let a proposal that is on hold go on, by a signature of yours. `lockgate show` says what it would change."""
    _answer("approve", run, proposal, key, reason, message, signature, json_=json_)


@app.command()
def refuse(
    run: Run,
    proposal: Number,
    key: SshKey = None,
    reason: Reason = "",
    message: MessageOut = None,
    signature: SignatureIn = None,
    json_: Json = False,
) -> None:
    """Refuse a proposal that is on hold, by a signature of yours: it is rejected, whoever else approves."""
    _answer("refuse", run, proposal, key, reason, message, signature, json_=json_)


def _answer(
    verdict: Said,
    run: Path,
    proposal: str,
    key: Path | None,
    reason: str,
    message: Path | None,
    signature: Path | None,
    *,
    json_: bool,
) -> None:
    from harness.approval import NAMESPACE
    from harness.approving import leave, sign, to_sign, view, what
    from harness.display import change_line, held_line
    from harness.errors import ConfigError

    if sum(each is not None for each in (key, message, signature)) != 1:
        raise ConfigError("one of --key, --message and --signature is needed", remedy="--key is the usual one")
    number = what(proposal)
    state, _ = read(run)
    data = to_sign(state, number, verdict, reason)
    if message is not None:
        message.write_bytes(data)
        remedy = f"ssh-keygen -Y sign -n {NAMESPACE} -f KEY {message}"
        told = {**view(state, number), "message": str(message), "sign_with": remedy}
        print_json(told) if json_ else print(f"wrote {message}; sign it: {remedy}")
        return
    if not json_:
        told = view(state, number)
        print(change_line(told) if number is None else held_line(told))
        if number is None:
            print(f"what differs: `lockgate guard show {run}`, or with a copy `lockgate guard compare {run} COPY`")
    armoured = sign(key, data) if key is not None else signature.read_bytes() if signature is not None else b""
    result = leave(existing(run), state, number, verdict, reason, armoured)
    if json_:
        print_json(result)
    else:
        taken = f"`lockgate resume {run}` takes it in"
        if number is None:
            taken = "the next start takes it in, and the first one over the proposed files puts them in force"
        print(f"{verdict}d by {result['by']}; {taken}")
