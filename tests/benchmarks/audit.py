"""What the audit log costs, against the floor of the same disk in the same minute.

Run `python tests/benchmarks/audit.py [FOLDER]`; the floor is one 1-kB append to one open file with fsync.
Figures are ratios to it, because seconds of one machine say nothing about another.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.auditlog import AuditLog, check_log
from harness.envelope import seal, unseal
from harness.keys import Signer

GROUP = 64


def timed(call: Any, times: int) -> float:
    """Return the median seconds of `times` calls."""
    seconds = []
    for number in range(times):
        begin = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure(folder: Path, *, times: int = 100) -> dict[str, float]:
    """Return medians in seconds: the floor, an append, an append per entry in groups, a full check per entry."""
    signer = Signer.generate("benchmark")
    entry = seal("built", {"time": "2026-01-01T00:00:00Z", "x": "y" * 300}, {}, signer)
    plain = os.open(folder / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def floor(_: int) -> None:
        os.write(plain, entry)
        os.fsync(plain)

    figures = {"floor": timed(floor, times)}
    os.close(plain)
    with AuditLog.create(folder / "log", signer, "benchmark") as log:
        figures["append"] = timed(lambda _: log.append([entry]), times)
        figures["append in groups, each"] = timed(lambda _: log.append([entry] * GROUP), times) / GROUP
        begin = time.perf_counter()
        check_log(folder / "log", signer.verifier)
        figures["check, each"] = (time.perf_counter() - begin) / log.size
    figures["seal"] = timed(lambda number: seal("built", {"n": number, "x": "y" * 300}, {}, signer), times)
    figures["unseal"] = timed(lambda _: unseal(entry, signer.verifier), times)
    return figures


def main() -> None:
    """Print the figures as ratios to the floor."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        figures = measure(Path(folder))
    floor = figures["floor"]
    sys.stdout.write(f"floor: one write + fsync, {1e3 * floor:.3f} ms\n")
    for name, seconds in figures.items():
        if name != "floor":
            sys.stdout.write(f"{name:24} {seconds / floor:9.4f} times the floor   {1 / seconds:10.0f}/s\n")


if __name__ == "__main__":
    main()
