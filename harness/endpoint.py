"""The broker: the one room that talks to a language model, in the loop's process; proposers have no network.

Whatever the other side does comes back as a `Reply`: a text, or the reason why there is none. Rules. A request goes to
the configured endpoint and nowhere else: no redirect, no proxy of the environment, no header that names this machine.
An answer has a deadline as a whole, is read up to a cap and never unpacked. What is worth another try (429, 5xx, a
connection that breaks, lateness) is tried again a bounded number of times, after a wait that doubles or that the
server asks for within bounds. Each request is in the record (`harness.replies`) before it is sent; one that was
answered before is answered from there. Usage that cannot be true is counted as the most that the request could take.

The API key is read from the environment once. It is taken out of every text that comes from the other side, for a
server may say it back.

Not covered: what the endpoint's owner learns (the prompts, and the time between them), and a model that is told to lie:
its text is untrusted like any proposal.
"""

from __future__ import annotations

import email.utils
import importlib.util
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.canonical import digest_json, parse_json
from harness.chat import MAX_TEXT, ChatRequest, Endpoint, Reply
from harness.errors import CanonicalError, ConfigError
from harness.plain import plain
from harness.records import Record, first_problem
from harness.replies import Replies

__all__ = ["MAX_BODY", "Broker"]

MAX_BODY = 2 << 20
"""Bytes of an answer's body that are read; a longer one is none."""

BACKOFF = 0.5
"""Seconds before the second attempt; doubled before each further one."""
MAX_WAIT = 30.0
"""Seconds that a server may ask to wait; for longer than that, it is given up."""

_TEMPLATE = 64  # tokens that a server's template may put around each message
_LONGEST = 128  # bytes: no text is made of fewer tokens than of this length
_SENT_HEADERS = {"accept", "authorization", "connection", "content-length", "content-type", "host"}
_KEY = re.compile(r"[A-Za-z0-9._~+/=:-]{8,1000}")  # RFC 6750 §2.1: nothing that a server's message would escape


class _Usage(Record):
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class _Answer:
    """What one attempt came to. `served`: tokens may have been spent on it. `again`: another try may help."""

    reply: Reply
    usage: _Usage | None = None
    served: bool = True
    again: bool = False
    wait: float | None = None


class _TooLongError(Exception):
    """An answer beyond the cap, or one that is packed."""


class Broker:
    """Has requests answered for one proposer of one run. One thread may use it."""

    def __init__(self, name: str, settings: dict[str, Any], sleep: Callable[[float], None] = time.sleep) -> None:
        """Take the endpoint's settings of proposer `name`, and its key from the environment.

        Raises ConfigError, for it is checked before a run begins, where they do not fit, there is no key or no client.
        """
        where = f"lockgate.yaml: proposer_settings.{name}"
        try:
            self._endpoint = Endpoint.parse(settings)
        except ValidationError as error:
            raise ConfigError(": ".join(first_problem(error)), where=where) from error
        if importlib.util.find_spec("openai") is None:
            raise ConfigError(
                f"the proposer {name} needs the package openai", where=where, remedy="pip install 'lockgate[llm]'"
            )
        self._key = self._read_key(where)
        self._sleep = sleep
        self.fresh = 0
        """How many requests were not answered from a record, so far."""
        self._replies: Replies | None = None
        self._source: Replies | None = None

    def _read_key(self, where: str) -> str:
        variable = self._endpoint.api_key_env
        if variable is None:
            return ""
        key = os.environ.get(variable, "")
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"the environment variable {variable} holds no key",
                where=f"{where}.api_key_env",
                remedy=f"export {variable}=…: 8 or more letters, digits and ._~+/=:-",
            )
        return key

    def open(self, folder: Path, replay: Path | None = None) -> None:
        """Read the record of the run so far. With `replay`, another record, nothing is sent: replies are its own.

        Raises ProposerError where a record cannot be believed, ConfigError where there is none to replay.
        """
        if replay is not None:
            if not replay.is_dir():
                raise ConfigError(
                    "no replies are recorded there", where=str(replay), remedy="name the run that has them"
                )
            self._source = Replies(replay, self._endpoint)
        self._replies = Replies(folder, self._endpoint)

    @property
    def spent(self) -> dict[str, Any]:
        """What was asked and spent so far, for people."""
        replies = self._replies
        if replies is None:
            return {}
        told: dict[str, Any] = {
            "requests": replies.requests,
            "tokens": replies.tokens,
            "of_tokens": self._endpoint.budget_tokens,
            "without_proposal": dict(sorted(replies.skipped.items())),
        }
        if self._endpoint.budget_cost is None:
            return told
        return {**told, "cost": round(replies.cost, 6), "of_cost": self._endpoint.budget_cost}

    def skipped(self, generation: int, round_: int, reasons: dict[str, int]) -> None:
        """Record why replies to an ask led to no proposal; ProposerError where it cannot be recorded."""
        if self._replies is not None:
            self._replies.skip(generation, round_, reasons)

    def ask(self, request: ChatRequest) -> Reply:
        """Have one request answered, from the record or by the model; never twice for an answer that is there.

        A failure is a reply with a reason. Raises ProposerError only where it cannot be recorded.
        """
        if self._replies is None:
            return Reply(failure="the record of replies is not open")
        asked = {"model": self._endpoint.model, **request.json_value()}
        digest = digest_json(asked)
        source = self._source or self._replies
        found = source.recorded(digest, failures=self._source is not None)
        if found is not None:
            return found
        self.fresh += 1
        if self._source is not None:
            return Reply(failure="no reply to this request is recorded, and a replay asks nobody")
        pending = self._replies.begin(digest, asked)
        most = request.bytes + _TEMPLATE * len(request.messages), request.max_tokens  # no token is less than a byte
        reply = Reply(failure="it was not asked")
        for attempt in range(self._endpoint.retries + 1):
            if lacking := pending.reserve(*most):
                reply = Reply(failure=f"the model's budget does not suffice: {lacking}")
                break
            answer = self._attempt(asked)
            reply = answer.reply
            if answer.served:
                counted = _believed(answer, most)
                pending.spend(*counted)
            if not answer.again or attempt == self._endpoint.retries:
                break
            self._sleep(min(BACKOFF * 2**attempt, MAX_WAIT) if answer.wait is None else answer.wait)
        pending.end(reply)
        return reply

    def _attempt(self, asked: dict[str, Any]) -> _Answer:
        """Send a request once, in a thread that is left behind where it is late."""
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        threading.Thread(target=lambda: answers.put(self._send(asked)), daemon=True).start()
        seconds = self._endpoint.timeout_seconds
        try:
            return answers.get(timeout=seconds)
        except queue.Empty:
            return _Answer(Reply(failure=f"no whole answer within {seconds:g} seconds"), again=True)

    def _send(self, asked: dict[str, Any]) -> _Answer:
        import httpx2
        import openai

        endpoint = self._endpoint
        try:
            with (
                httpx2.Client(
                    transport=_transport(endpoint.proxy),
                    timeout=endpoint.timeout_seconds,
                    follow_redirects=False,
                    trust_env=False,
                ) as http,
                openai.OpenAI(
                    base_url=endpoint.endpoint, api_key=self._key or "none", max_retries=0, http_client=http
                ) as client,
            ):
                raw = client.chat.completions.with_raw_response.create(**asked)
                return self._read(raw.content)
        except openai.APITimeoutError:
            return _Answer(Reply(failure=f"no answer within {endpoint.timeout_seconds:g} seconds"), again=True)
        except openai.APIConnectionError as error:
            cause = error.__cause__
            if isinstance(cause, _TooLongError):
                return _Answer(Reply(failure=str(cause)))
            refused = isinstance(cause, httpx2.ConnectError | httpx2.UnsupportedProtocol | httpx2.ProxyError)
            return _Answer(Reply(failure=f"no connection: {self._clean(cause)}"), served=not refused, again=True)
        except openai.APIStatusError as error:
            return self._refused(error.status_code, error.response.headers.get("retry-after"), error.message)
        except Exception as error:  # noqa: BLE001 - a defect of the client is no end of the loop
            return _Answer(Reply(failure=f"the client failed: {self._clean(error)}"))

    def _refused(self, status: int, retry_after: str | None, message: str) -> _Answer:
        if 300 <= status < 400:
            return _Answer(Reply(failure=f"it answered {status}: redirects are not followed"), served=False)
        failure = Reply(failure=f"it answered {status}: {self._clean(message)}")
        if status not in (408, 409, 429) and status < 500:
            return _Answer(failure, served=False)
        wait = _seconds(retry_after)
        if wait is not None and wait > MAX_WAIT:
            asks = Reply(failure=f"it answered {status} and asks to wait {wait:.0f} seconds, above {MAX_WAIT:.0f}")
            return _Answer(asks, served=status >= 500)
        return _Answer(failure, served=status >= 500, again=True, wait=wait)

    def _read(self, body: bytes) -> _Answer:
        """Read a completion, bounded and strict; whatever else it is, is a failure."""
        try:
            value = parse_json(body, max_bytes=MAX_BODY)
        except CanonicalError as error:
            return _Answer(Reply(failure=f"the answer is not JSON: {self._clean(error)}"))
        value = value if isinstance(value, dict) else {}
        usage = _usage(value.get("usage"))
        choices = value.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(choice, dict) or not isinstance(text, str):
            return _Answer(Reply(failure="the answer holds no text"), usage)
        size = len(text.encode())
        if size > MAX_TEXT:
            return _Answer(Reply(failure=f"a text of {size} bytes, above {MAX_TEXT}"), usage)
        finish = choice.get("finish_reason")
        return _Answer(
            Reply(text=self._without_key(text), finish=self._clean(finish) if isinstance(finish, str) else ""), usage
        )

    def _clean(self, words: object) -> str:
        return plain(self._without_key(str(words) or type(words).__name__), 200)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _transport(proxy: str | None) -> Any:
    """Make what carries requests: a connection that says nothing of this machine, and reads no more than the cap."""
    import httpx2

    class Capped(httpx2.SyncByteStream):
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for piece in self._inner:
                size += len(piece)
                if size > MAX_BODY:
                    raise _TooLongError(f"an answer of more than {MAX_BODY} bytes")
                yield piece

        def close(self) -> None:
            self._inner.close()

    class Guarded(httpx2.BaseTransport):
        def __init__(self) -> None:
            self._inner = httpx2.HTTPTransport(proxy=proxy, trust_env=False)

        def handle_request(self, request: Any) -> Any:
            headers = {name: value for name, value in request.headers.items() if name.lower() in _SENT_HEADERS}
            headers |= {"accept-encoding": "identity", "user-agent": "lockgate"}
            bare = httpx2.Request(
                request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
            )
            response = self._inner.handle_request(bare)
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                response.close()
                raise _TooLongError("the answer is packed, where plain text was asked for")
            response.stream = Capped(response.stream)
            return response

        def close(self) -> None:
            self._inner.close()

    return Guarded()


def _usage(value: Any) -> _Usage | None:
    if not isinstance(value, dict):
        return None
    with suppress(ValidationError):
        return _Usage.parse({"tokens_in": value.get("prompt_tokens"), "tokens_out": value.get("completion_tokens")})
    return None


def _believed(answer: _Answer, most: tuple[int, int]) -> tuple[int, int]:
    """What an attempt is counted as: what the server says, where that can be true; else the most that it could be."""
    usage, text = answer.usage, (answer.reply.text or "").encode()
    if usage is None or not 1 <= usage.tokens_in <= most[0] or not 0 <= usage.tokens_out <= most[1]:
        return most
    if most[0] > usage.tokens_in * _LONGEST or len(text) > usage.tokens_out * _LONGEST:
        return most
    return usage.tokens_in, usage.tokens_out


def _seconds(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header, if it says any (RFC 9110 §10.2.3)."""
    if retry_after is None or len(retry_after) > 100:
        return None
    with suppress(ValueError, TypeError, OverflowError):
        if retry_after.strip().isdigit():
            return float(retry_after)
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None
