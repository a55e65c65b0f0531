"""What this machine offers to a guarded loop, and a remedy for each thing that is missing."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def examine() -> list[dict[str, Any]]:
    """Look at everything once; each row says what, whether it is there, whether it is needed, and the remedy."""
    rows = [
        _row(
            "Python",
            ok=sys.version_info >= (3, 11),
            found=sys.version.split()[0],
            remedy="install Python 3.11 or newer",
            needed=True,
        ),
        *_packages(),
        *_sandbox(),
        *_devices(),
        _tool("strace", "fault injection in tests: apt-get install strace"),
        _tool("ssh-keygen", "people's signatures: apt-get install openssh-client"),
        _disk(),
    ]
    cores = len(os.sched_getaffinity(0))
    return [*rows, _row("cores", ok=True, found=str(cores), remedy="")]


def _row(what: str, *, ok: bool, found: str, remedy: str, needed: bool = False) -> dict[str, Any]:
    return {"what": what, "ok": ok, "found": found, "remedy": "" if ok else remedy, "needed": needed}


def _packages() -> list[dict[str, Any]]:
    rows = []
    for name in ("torch", "numpy", "safetensors", "pydantic", "cel-expr-python", "optuna", "libcst"):
        try:
            rows.append(_row(name, ok=True, found=version(name), remedy="", needed=True))
        except PackageNotFoundError:
            rows.append(_row(name, ok=False, found="missing", remedy=f"pip install {name}", needed=True))
    for name, remedy in (
        ("wordfreq", "the quick start's data: pip install 'lockgate[examples]'"),
        ("z3-solver", "proofs of `policy compare`: pip install 'lockgate[compare]'"),
    ):
        try:
            rows.append(_row(name, ok=True, found=version(name), remedy=""))
        except PackageNotFoundError:
            rows.append(_row(name, ok=False, found="missing", remedy=remedy))
    return rows


def _sandbox() -> list[dict[str, Any]]:
    """Probe for real: each attempt to break out, after its positive control."""
    from harness.sandbox import probe

    rows, usable = [], False
    for isolation in ("zygote", "bwrap"):
        found = probe(isolation)
        usable |= found.holds
        told = (
            f"{len(found.attempts)} attempts blocked, Landlock ABI {found.landlock}" if found.holds else "does not hold"
        )
        rows.append(_row(f"sandbox: {isolation}", ok=found.holds, found=told, remedy="; ".join(found.problems)))
    remedy = "allow user namespaces, or run with CAP_SYS_ADMIN; see the rows above"
    return [*rows, _row("a sandbox that holds", ok=usable, found="yes" if usable else "no", remedy=remedy, needed=True)]


def _devices() -> list[dict[str, Any]]:
    from harness.sandbox import cuda_devices

    found = cuda_devices()
    return [_row("CUDA devices", ok=bool(found), found=", ".join(found) or "none", remedy="training runs on the CPU")]


def _tool(name: str, remedy: str) -> dict[str, Any]:
    path = shutil.which(name)
    return _row(name, ok=path is not None, found="yes" if path else "missing", remedy=remedy)


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(Path(tempfile.gettempdir())).free >> 20
    return _row(
        "free disk for staging",
        ok=free > 1024,
        found=f"{free:,} MiB",
        remedy="free a gigabyte, or set TMPDIR",
        needed=True,
    )
