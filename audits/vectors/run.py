#!/usr/bin/env python3
"""Run the vectors against any verifier: python audits/vectors/run.py --entrypoint "python audits/verify.py".

ENTRYPOINT is called as `ENTRYPOINT RUN ARGUMENT…` and must end with the vector's exit code; with --strict its
`--json` report must name the vector's verdict, entry and clause, too. Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def load(path: Path) -> dict[str, Any]:
    """A vector, whole: an invalid one is its base with some files changed."""
    vector: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if "base" in vector:
        base = load(HERE / "valid" / f"{vector['base']}.json")
        for part in ("files", "links", "reader"):
            merged = {**base[part], **vector.get(part, {})}
            vector[part] = {name: value for name, value in merged.items() if value is not None}
        vector.setdefault("arguments", base["arguments"])
    return vector


def lay_out(vector: dict[str, Any], folder: Path) -> list[str]:
    """Write the vector's run and the reader's own files; return the arguments for a verifier."""
    for part, root in (("files", folder / "run"), ("reader", folder / "reader")):
        root.mkdir(parents=True, exist_ok=True)
        for name, content in vector[part].items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(content))
    for name, target in vector["links"].items():
        (folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "run" / name).symlink_to(target)
    reader = str(folder / "reader")
    return [str(folder / "run"), *(each.replace("READER", reader) for each in vector["arguments"])]


def every(pattern: str = "*") -> list[Path]:
    """All vectors whose names fit a pattern, in order."""
    return [path for group in ("valid", "invalid") for path in sorted((HERE / group).glob(f"{pattern}.json"))]


def differs(path: Path, options: argparse.Namespace) -> str | None:
    """What the verifier says of one vector, where it is not what is expected."""
    vector = load(path)
    expect = vector["expect"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*shlex.split(options.entrypoint), *lay_out(vector, Path(folder))]
        done = subprocess.run(
            command + ["--json"] * options.strict, capture_output=True, text=True, check=False, timeout=60
        )
    told = {"exit": done.returncode}
    if options.strict:
        try:
            report = json.loads(done.stdout)
        except ValueError:  # no report, which differs from any that is expected
            report = {}
        told |= {name: report.get(name) for name in expect if name != "exit"}
    if told == {name: expect[name] for name in told}:
        return None
    return f"DIFFERS {path.parent.name}/{path.stem}: {told}, expected {expect}: {vector['why']}"


def main() -> int:
    """Run all of them; print those that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entrypoint", required=True, help="the command of the verifier")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="names of vectors, as `held-*`; all by default")
    parser.add_argument("--strict", action="store_true", help="compare verdict, entry and clause, too")
    options = parser.parse_args()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = list(filter(None, pool.map(lambda path: differs(path, options), every(options.only))))
    for problem in problems:
        print(problem)
    wrong = len(problems)
    print(f"{len(every(options.only))} vectors, {wrong} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
