"""What runs between the walls and the entry: fixed descriptors, the job's document, the sealed answer.

An entry module has a `main()`, or is run as `__main__`. It reads `/job/job.json` and writes one container to
the answer's descriptor: 8 bytes big-endian length of a JSON header, the header, then the rest. `answer` seals
the container, so that nothing that still runs can change it. `progress` is a sign of life, one short line.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

from harness.isolation.room import JOB, OUTPUT_FD, PROGRESS_FD

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def job() -> Any:
    """Read the job's document, a JSON value."""
    return json.loads(Path(JOB, "job.json").read_text(encoding="utf-8"))


def answer(header: dict[str, Any], rest: bytes = b"") -> None:
    """Write and seal the only answer of this job; raise OSError when it is beyond its limit."""
    text = json.dumps(header, allow_nan=False).encode()
    with os.fdopen(os.dup(OUTPUT_FD), "wb") as stream:
        stream.write(len(text).to_bytes(8, "big") + text)
        stream.write(rest)
    fcntl.fcntl(OUTPUT_FD, fcntl.F_ADD_SEALS, _SEALS)


def progress(step: int, loss: float) -> None:
    """Say that work goes on."""
    os.write(PROGRESS_FD, json.dumps({"step": step, "loss": loss}).encode() + b"\n")


def run(module: str) -> None:
    """Run an entry and end this process, with status 0 if it returned; never returns."""
    status = 1
    try:
        found = importlib.import_module(module)
        main = getattr(found, "main", None)
        if callable(main):
            main()
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        status = 0 if error.code in (None, 0) else 1
    except BaseException:  # noqa: BLE001  # whatever it was, its last words go to the bounded text
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                status = status or 1
        os._exit(status)
