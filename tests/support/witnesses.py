"""Witnesses and logs for tests: small logs in memory of one origin, witnesses in threads, and servers that misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field

from harness.keys import Signer, VerifierChain
from harness.merkle import consistency_proof, leaf_hash, tree_hash
from harness.notes import TreeHead, sign_head
from harness.witness import Request, Witness, make_witness
from harness.witness_server import WitnessServer

ORIGIN = "example.org/run"
LOG = Signer.from_seed(ORIGIN, b"\x07" * 32)
NEXT = Signer.from_seed(ORIGIN, b"\x08" * 32)
CHAIN = VerifierChain.of([LOG.verifier, NEXT.verifier])


@dataclass
class SmallLog:
    """A log of a few entries, whole in memory; its tree and proofs are the real ones."""

    entries: list[bytes]
    signer: Signer = field(default_factory=lambda: LOG)

    @classmethod
    def of(cls, size: int, history: str = "a", *, common: int = 0, signer: Signer = LOG) -> SmallLog:
        """`size` entries of a history; the first `common` of them are those of every history."""
        return cls([f"{'' if at < common else history}{at}".encode() for at in range(size)], signer)

    @property
    def leaves(self) -> list[bytes]:
        """The leaf hashes."""
        return [leaf_hash(entry) for entry in self.entries]

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.signer.name

    @property
    def tree_head(self) -> TreeHead:
        """What it says of itself."""
        return TreeHead(self.signer.name, len(self.entries), tree_hash(self.leaves))

    @property
    def head(self) -> bytes:
        """The same, signed."""
        return sign_head(self.tree_head, self.signer)

    def consistency_proof(self, old: int) -> list[bytes]:
        """The proof from an earlier size."""
        leaves = self.leaves
        return consistency_proof(
            old, len(leaves), lambda level, index: tree_hash(leaves[index << level : (index + 1) << level])
        )

    def request(self, old: int) -> bytes:
        """The body of the request that shows this log's head to a witness that has seen `old`."""
        return Request(old, tuple(self.consistency_proof(old)), self.head, self.tree_head).encode()


@contextlib.contextmanager
def served(folder, *, name="w", chains=None, seconds=10.0, port=0):
    """Serve a witness of `folder` in this process, made where there is none; gives the server."""
    if not (folder / "witness.key").exists():
        make_witness(folder, name)
    server = WitnessServer(Witness.open(folder, chains or [CHAIN]), "127.0.0.1", port, seconds=seconds)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        thread.join(20)


class Process:
    """`lockgate witness serve` as a process of its own."""

    def __init__(self, folder, keys, *, before: str = ""):
        """Start it and wait until it listens; `before` is Python that runs in it first."""
        program = f"{before}\nimport sys\nfrom harness.cli import main\nmain()"
        command = [sys.executable, "-c", program, "witness", "serve", str(folder), "--log", str(keys), "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.told = json.loads(self.process.stdout.readline())

    @property
    def url(self):
        """Where it listens."""
        return self.told["listening"]

    def stop(self, how=signal.SIGTERM):
        """End it; gives its exit code and what it said on stderr."""
        if self.process.poll() is None:
            os.kill(self.process.pid, how)
        _, stderr = self.process.communicate(timeout=20)
        return self.process.returncode, stderr


class Script:
    """A server that answers each connection by a function of its own: what a witness that lies, or is slow, may do."""

    def __init__(self, answer):
        """`answer(connection, body)` sends what it likes; the connection is closed after it."""
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked = 0
        self.ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        self.asked += 1
        with connection, contextlib.suppress(OSError):
            file = connection.makefile("rb")
            length = 0
            while (line := file.readline()) not in {b"\r\n", b""}:
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self._answer(self, connection, file.read(length))
            file.close()

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_):
        """Hang up on whoever still waits."""
        self.ended.set()
        self._listener.close()


def http_answer(status: int, body: bytes, kind: str = "text/plain", more: str = "") -> bytes:
    """The bytes of an HTTP answer."""
    return f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body
