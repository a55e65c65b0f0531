"""What the audit log costs, each figure beside its floor, measured in the same minute on the same machine.

Run `python tests/benchmarks/audit.py [FOLDER] [ENTRIES]`; 0 entries leave out what is verified. The floor of an append
is one write and fsync of an entry's bytes to one open file, taken in turn with the appends; the floor of a verification is as many Ed25519 signatures verified over messages of the same
length. The log that is verified holds real entries of a legal run, most of them proposals that a policy denied.
Figures are ratios, because seconds of one machine say nothing about another.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: E402 - after the path
from paper_run import OLD, ORIGIN, Item, Paper, sealed, stage_models, story  # noqa: E402

from harness.artifacts import BlobStore  # noqa: E402
from harness.auditlog import AuditLog  # noqa: E402
from harness.envelope import pae, seal, unseal  # noqa: E402
from harness.keys import Signer, VerifierChain  # noqa: E402
from harness.notes import TreeHead, open_head, sign_head  # noqa: E402

GROUP = 64
THREADS = 64
NEW = 1_000
"""Entries after the head that an incremental verification starts from."""


def timed(call: Callable[[int], Any], times: int) -> float:
    """Return the median seconds of `times` calls."""
    seconds = []
    for number in range(times):
        begin = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def in_turn(calls: dict[str, Callable[[int], Any]], times: int) -> dict[str, float]:
    """Return the median seconds of each call, made by tens in turn, so that they meet the same disk."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(times // 10):
        for name, call in calls.items():
            seconds[name].append(timed(call, 10))
    return {name: statistics.median(each) for name, each in seconds.items()}


def at_once(log: AuditLog, entry: bytes, threads: int, times: int) -> float:
    """Return the seconds per entry where many threads append, each one entry after the other."""
    with ThreadPoolExecutor(threads) as pool:
        begin = time.perf_counter()
        for done in [pool.submit(lambda: [log.append([entry]) for _ in range(times)]) for _ in range(threads)]:
            done.result()
        return (time.perf_counter() - begin) / (threads * times)


def appends(folder: Path, *, times: int = 200) -> dict[str, float]:
    """Return medians in seconds: the floor before and after, an append, an append per entry in groups."""
    signer = Signer.generate("benchmark")
    entry = seal("built", {"time": "2026-01-01T00:00:00Z", "x": "y" * 300}, {}, signer)
    plain = os.open(folder / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def floor(_: int) -> None:
        os.write(plain, entry)
        os.fsync(plain)

    with AuditLog.create(folder / "log", signer, "benchmark") as log:
        groups = {"append alone": 1, "append in groups of 64, each": GROUP, "append in groups of 256, each": 256}
        calls = {name: lambda _, size=size: log.append([entry] * size) for name, size in groups.items()}
        figures = in_turn({"floor": floor, "append alone": calls.pop("append alone")}, times)
        for name, call in calls.items():
            figures[name] = timed(call, times) / groups[name]
        figures[f"append by {THREADS} threads, each"] = at_once(log, entry, THREADS, times // 10)
        figures["a proof of one entry, made"] = timed(lambda number: log.prove(number * 7), times)
        proof = log.prove(1000)
        figures["a proof of one entry, checked"] = timed(lambda _: proof.verify(entry, signer.verifier), times)
    os.close(plain)
    head = TreeHead("benchmark", 1000, bytes(32))
    note = sign_head(head, signer)
    figures["a tree head signed"] = timed(lambda _: sign_head(head, signer), times)
    figures["a tree head opened"] = timed(lambda _: open_head(note, signer.verifier), times)
    figures["an entry sealed"] = timed(lambda number: seal("built", {"n": number, "x": "y" * 300}, {}, signer), times)
    figures["an entry unsealed"] = timed(lambda _: unseal(entry, signer.verifier), times)
    return figures


def long_run(folder: Path, size: int) -> None:
    """Write the run of a real story of `size` entries; all but 28 are of proposals that a policy denied."""
    (folder / "keys").mkdir(parents=True)
    VerifierChain.of([OLD.verifier]).save(folder / "keys" / "log.pub")
    paper = Paper(BlobStore(folder / "blobs"))
    items = story(paper)
    _, _, proposed, screened, decided, *_ = items
    with AuditLog.create(folder / "log", OLD, ORIGIN) as log:
        log.append([sealed(item, OLD) for item in items])
    stage_models(folder, paper, items)  # as a supervisor does: their proofs are under the head of that moment
    with AuditLog.open(folder / "log", OLD) as log:
        group: list[bytes] = []
        for place in range(len(items), size):
            if place == size - NEW:
                log.append(group)
                group = []
                (folder / "older").write_bytes(log.head)
            number, which = divmod(place - len(items), 3)
            item = (proposed, screened, decided)[which]
            group.append(sealed(Item(item.kind, {**item.body, "number": number + 4}), OLD))
            if len(group) == 256 or place == size - 1:
                log.append(group)
                group = []


def signature_floor(folder: Path, limit: int = 20_000) -> float:
    """Return the CPU seconds that Ed25519 takes for one message of this log: nothing else is done."""
    from harness.canonical import decode_base64, parse_json
    from harness.logreader import LogReader

    public, work = Ed25519PublicKey.from_public_bytes(OLD.verifier.key), []
    reader = LogReader.open(folder / "log", OLD.verifier)
    for raw in reader.read(0, min(limit, reader.size)):
        envelope: Any = parse_json(raw)
        message = pae(envelope["payloadType"], decode_base64(envelope["payload"]))
        work.append((decode_base64(envelope["signatures"][0]["sig"]), message))
    begin = time.process_time()
    for signature, message in work:
        public.verify(signature, message)
    return (time.process_time() - begin) / len(work)


def run(*command: object) -> tuple[float, float]:
    """Run a command to its good end; return its CPU seconds and its peak memory in MB."""
    probe = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=False)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", probe, *map(str, command)], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    if told[0] != "0":
        raise RuntimeError(f"exit code {told[0]}: {command}")
    return float(told[1]), float(told[2])


def verifications(folder: Path, size: int) -> None:
    """Print what both verifiers need for runs of a tenth of `size` entries and of `size`."""
    programs = {
        "verify.py": [sys.executable, ROOT / "audits" / "verify.py"],
        "lockgate": [sys.executable, "-m", "harness.cli", "audit", "verify"],
    }
    for count in (max(size // 10, 2 * NEW), size):
        place = folder / str(count)
        long_run(place, count)
        key, saved = place / "keys" / "log.pub", place / "saved"
        for name, program in programs.items():
            before = signature_floor(place)
            seconds, peak = run(*program, place, "--key", key)
            floor = (before + signature_floor(place)) / 2 * count
            told = (
                f"{name:10} {count:7} entries, full: {seconds:6.2f} s, {seconds / floor:.2f} times the signatures alone"
            )
            print(f"{told} ({floor:.2f} s); peak {peak:.0f} MB", flush=True)
        note = (place / "log" / "checkpoint").read_bytes()
        for name, program in programs.items():
            (place / "log" / "checkpoint").write_bytes((place / "older").read_bytes())
            run(*program, place, "--key", key, "--save", saved)
            (place / "log" / "checkpoint").write_bytes(note)
            floor = signature_floor(place) * NEW
            idle, _ = run(*program, "--help")
            since = {"a saved state": saved} | ({"a head": place / "older"} if name == "verify.py" else {})
            for what, file in since.items():
                seconds, peak = run(*program, place, "--key", key, "--since", file)
                told = (
                    f"{name:10} {NEW:7} new of {count}, since {what}: {seconds:6.2f} s, of which start {idle:.2f} s; "
                )
                told += f"{(seconds - idle) / floor:.2f} times the new signatures alone ({floor:.2f} s)"
                print(f"{told}; peak {peak:.0f} MB", flush=True)


def main() -> None:
    """Print the figures as ratios to their floors."""
    where = sys.argv[1] if len(sys.argv) > 1 else None
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    with tempfile.TemporaryDirectory(dir=where) as folder:
        figures = appends(Path(folder))
        floor = figures.pop("floor")
        print(f"floor: one write + fsync, {1e3 * floor:.3f} ms, {1 / floor:.0f}/s")
        for name, seconds in figures.items():
            print(f"{name:30} {seconds / floor:9.4f} times the floor   {1 / seconds:10.0f}/s")
        if size:
            verifications(Path(folder), size)


if __name__ == "__main__":
    main()
