"""A witness on the wire: HTTP/1.1 by the standard library, with a bound on everything that a client decides.

A request, from its first byte to its last, has `SECONDS`; so has a connection that says nothing. Bodies, header
lines and connections side by side are limited. Every refusal is one line of text. After SIGTERM or SIGINT no new
request is taken, and those that were read are answered.

Not covered: TLS, and floods beyond what the limits hold off. Put a proxy before a witness that strangers may reach.
"""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from harness import __version__
from harness.plain import plain
from harness.witness import MAX_BODY, Answer, Witness

__all__ = ["SECONDS", "WitnessServer"]

SECONDS = 10.0
"""Wall-clock seconds that a client may take for one request."""

_CONNECTIONS = 64
_GRACE = 5.0
_DIGITS = frozenset("0123456789")


class _Deadline(io.RawIOBase):
    """Reads from a socket until a moment: a drop now and then does not keep a connection open."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = 0.0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what there is; raises TimeoutError once the moment has passed."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: WitnessServer
    protocol_version = "HTTP/1.1"  # tlog-witness: witnesses SHOULD support keep-alive
    server_version = f"lockgate/{__version__}"
    sys_version = ""
    _reader: _Deadline

    def setup(self) -> None:
        """Read under a deadline instead of a time for each read."""
        super().setup()
        self.rfile.close()
        self._reader = _Deadline(self.connection)
        self.rfile = io.BufferedReader(self._reader)

    def handle_one_request(self) -> None:
        """Give each request its own time."""
        self._reader.until = time.monotonic() + self.server.seconds
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def do_POST(self) -> None:
        """tlog-witness §add-checkpoint."""
        body = self._body()
        if body is None:
            return
        if self.path != "/add-checkpoint":
            self._answer(Answer(404, b"this witness answers POST /add-checkpoint\n"))
            return
        with self.server.working():
            self._answer(self.server.witness.add_checkpoint(body))
        if self.server.witness.disk_error is not None:
            self.server.ended.set()

    def do_GET(self) -> None:
        """The last cosigned head of a log."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self._close(400, "a GET has no body")
            return
        origin_hash = self.path.removeprefix("/").removesuffix("/checkpoint")
        if self.path != f"/{origin_hash}/checkpoint":
            self._answer(Answer(404, b"this witness answers GET /SHA-256-OF-ORIGIN/checkpoint\n"))
            return
        self._answer(self.server.witness.checkpoint(origin_hash))

    def _body(self) -> bytes | None:
        """The request's body; what has none, or one too long, is refused and the connection ends."""
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(lengths) != 1:
            self._close(411, "a request has one Content-Length")
            return None
        length = lengths[0]
        if not length or not set(length) <= _DIGITS or len(length) > 12:
            self._close(400, "Content-Length is a decimal number")
            return None
        if int(length) > MAX_BODY:
            self._close(413, f"a request has at most {MAX_BODY} bytes")
            return None
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            self.close_connection = True
            return None
        return body

    def _close(self, status: int, message: str) -> None:
        self.close_connection = True
        self._answer(Answer(status, f"{message}\n".encode()))

    def _answer(self, answer: Answer) -> None:
        if answer.status != 200:
            self.log_message("%s", f"{answer.status} {answer.body.decode('utf-8', 'replace').strip()}")
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.type)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server itself refuses as everything else: in one line, and hang up."""
        del explain
        self.request_version = self.protocol_version  # what never said its version gets a whole answer, too
        self._close(int(code), plain(message or "refused", 200))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing is said of what went well."""

    def log_error(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Nothing: a connection that was silent until its time was over is no news."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """One line on stderr, without what acts on a terminal."""
        sys.stderr.write(f"{self.client_address[0]}: {plain(format % args, 300)}\n")


class WitnessServer(ThreadingHTTPServer):
    """Serve one witness at an address; `serve` until `ended` is set."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, witness: Witness, host: str, port: int, *, seconds: float = SECONDS) -> None:
        """Listen; port 0 takes a free one. Raises OSError."""
        self.witness = witness
        self.seconds = seconds
        self.ended = threading.Event()
        """Set it to end; it is set, too, when the disk has failed."""
        self._slots = threading.BoundedSemaphore(_CONNECTIONS)
        self._working = 0
        self._idle = threading.Condition()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """The submission prefix."""
        host, port = self.server_address[:2]
        name = host if isinstance(host, str) else bytes(host).decode()
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def server_bind(self) -> None:
        """Bind without asking the network for this machine's name, as http.server would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or hang up where there are enough of them."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection and give its slot back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that failed is one line, and no other's business."""
        del request
        sys.stderr.write(f"{client_address[0]}: {plain(repr(sys.exc_info()[1]), 300)}\n")

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """A request is being answered."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def serve(self) -> None:
        """Serve until `ended` is set; then answer what was read, and close the witness."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        self.ended.wait()
        self.shutdown()
        thread.join()
        self.server_close()
        with self._idle:
            self._idle.wait_for(lambda: self._working == 0, _GRACE)
        self.witness.close()

    def _count(self, change: int) -> None:
        with self._idle:
            self._working += change
            self._idle.notify_all()
