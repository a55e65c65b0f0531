"""A scripted server that speaks OpenAI's chat completions on loopback: real HTTP, in threads, with every way to fail.

What it answers is a list of steps, one for each request; the last one is for all further ones. A step is a text (a
sound completion of it), or a function that is given the handler and writes whatever it likes.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = str | Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Writes down each request, and answers by the script."""

    def do_POST(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        server: Any = self.server
        with server.lock:
            server.requests.append((self.path, dict(self.headers.items()), json.loads(body)))
            step = server.steps.pop(0) if len(server.steps) > 1 else server.steps[0]
        with contextlib.suppress(OSError):  # a client that has hung up
            if callable(step):
                step(self)
            else:
                self.send(200, completion(step, json.loads(body)))

    def send(self, status: int, body: bytes | dict[str, Any], **headers: str) -> None:
        """Send a whole answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", "content-length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


def completion(text: Any, request: dict[str, Any], *, finish: str = "stop", usage: Any = None) -> dict[str, Any]:
    """Make a completion as servers write it; by default with a usage of a token to four bytes."""
    asked = sum(len(message["content"].encode()) for message in request["messages"])
    told = {"prompt_tokens": asked // 4 + 1, "completion_tokens": len(str(text).encode()) // 4 + 1}
    told["total_tokens"] = sum(told.values())
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": request["model"],
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": told if usage is None else usage,
    }


def finished_by(text: str, finish: str) -> Step:
    """Answer a text that ended so."""
    return lambda handler: handler.send(200, completion(text, _last(handler), finish=finish))


def used(text: str, usage: Any) -> Step:
    """Answer a text with this usage."""
    return lambda handler: handler.send(200, completion(text, _last(handler), usage=usage))


def status(code: int, message: str = "no", **headers: str) -> Step:
    """Answer with an error of the API's form."""
    return lambda handler: handler.send(code, {"error": {"message": message, "type": "x"}}, **headers)


def raw(body: bytes, **headers: str) -> Step:
    """Answer 200 with these bytes."""
    return lambda handler: handler.send(200, body, **headers)


def endless(size: int) -> Step:
    """Answer so many bytes, in pieces, without saying how many there will be."""

    def step(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.end_headers()
        for _ in range(size >> 16):
            handler.wfile.write(b" " * (1 << 16))

    return step


def dripping(seconds: float) -> Step:
    """Answer a byte of a header now and then, for so long."""

    def step(handler: Handler) -> None:
        until = time.monotonic() + seconds
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
        while time.monotonic() < until:
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)

    return step


def hanging_up(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.connection.close()


def _last(handler: Handler) -> dict[str, Any]:
    server: Any = handler.server
    found: dict[str, Any] = server.requests[-1][2]
    return found


class Chat:
    """A server at work: `url` is what to name as endpoint, `requests` what came in (path, headers, body)."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        """Name it."""
        self._server: Any = server
        self.url = f"http://127.0.0.1:{server.server_port}/v1"

    @property
    def requests(self) -> list[tuple[str, dict[str, str], dict[str, Any]]]:
        """What came in, in order."""
        found: list[tuple[str, dict[str, str], dict[str, Any]]] = self._server.requests
        return found

    def say(self, *steps: Step) -> None:
        """Answer by another script from here on."""
        self._server.steps = list(steps)
        self._server.requests.clear()


@contextlib.contextmanager
def chat_server(*steps: Step) -> Iterator[Chat]:
    """Serve a script on a port of its own."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests, server.steps, server.lock = [], list(steps or ("",)), threading.Lock()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Chat(server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
