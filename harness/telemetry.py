"""The supervisor's own log lines, by structlog: JSON in a file, one line each; readable text on a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any


def configure(path: Path) -> Any:
    """Send log lines to `path` as JSON; with LOCKGATE_LOG=stderr to stderr, in colour where it is a terminal."""
    import structlog

    stamps: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    if os.environ.get("LOCKGATE_LOG") == "stderr":
        terminal = sys.stderr.isatty()
        last: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
        structlog.configure(processors=[*stamps, last], logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Open for the process's life: a log line must not fail for want of a descriptor.
        file = path.open("a", encoding="utf-8", buffering=1)
        structlog.configure(
            processors=[*stamps, structlog.processors.JSONRenderer(sort_keys=True)],
            logger_factory=structlog.WriteLoggerFactory(file),
        )
    return structlog.get_logger("lockgate")
