"""`lockgate keys`: who signs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.common import Json, print_json

app = typer.Typer(help="Signing keys.", no_args_is_help=True)


@app.command("init")
def keys_init(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run to come.")],
    name: Annotated[str, typer.Option("--name", help="The name under which the log signs.")] = "lockgate",
    json_: Json = False,
) -> None:
    """Make a run's signing key and vault key before its first start, so that you can keep the public key elsewhere."""
    from harness.operating import init_keys

    result = init_keys(run, name)
    if json_:
        print_json(result)
    else:
        print(
            f"signing key {result['signing_key']}, vault key {result['vault_key']}: not encrypted, for your eyes alone"
        )
        print(f"public key {result['public_key']}: give reviewers a copy now, outside this folder")
