"""Attempts to leave the sandbox, harmless by themselves: each must work outside, and fail inside.

An attempt that fails inside proves a wall only if the same attempt works outside on the same machine; so the launcher
runs `attempts` in a plain process first, as the positive control. Used by the probe, at every start.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

NAMES = ("key", "write", "tcp", "abstract-socket", "signal", "environ")


def attempts(targets: dict[str, str]) -> dict[str, str]:
    """Try everything against the launcher's canaries; return `open`, or why it did not work, by name.

    targets: `key` (a file to read), `folder` (to write in), `port` (listening on 127.0.0.1), `abstract` (name of a
    listening abstract socket), `pid` (a process of the launcher, whose environment holds `token`).
    """
    tries: dict[str, Callable[[], object]] = {
        "key": lambda: Path(targets["key"]).read_bytes(),
        "write": lambda: Path(targets["folder"], f"written-{os.getpid()}").write_bytes(b"!"),
        "tcp": lambda: socket.create_connection(("127.0.0.1", int(targets["port"])), 2).close(),
        "abstract-socket": lambda: _abstract(targets["abstract"]),
        "signal": lambda: os.kill(int(targets["pid"]), 0),
        "environ": lambda: Path("/proc", targets["pid"], "environ").read_bytes().index(targets["token"].encode()),
    }
    return {name: _try(action) for name, action in tries.items()}


def _try(action: Callable[[], object]) -> str:
    try:
        action()
    except Exception as error:  # noqa: BLE001  # however it failed, it failed
        return f"{type(error).__name__}: {error}"[:200]
    return "open"


def _abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect("\0" + name)


def main() -> None:
    """Inside the sandbox: attempt, and answer."""
    from harness.isolation import inside

    inside.answer({"attempts": attempts(inside.job())})


def outside() -> None:
    """Outside: attempt what argv[1] names, and print."""
    sys.stdout.write(json.dumps(attempts(json.loads(sys.argv[1]))))
