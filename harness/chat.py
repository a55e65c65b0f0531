"""Asking a language model: the nouns that a proposer, the configuration and the broker share.

A proposer that needs a model is two pure functions with a conversation in between (`harness.proposers.Dialogue`): it
writes `ChatRequest`s in its sandbox, the broker (`harness.endpoint`) has each answered, and the `Reply`s go into a
sandbox again. The proposer never sees where the model is, and the broker never reads what was said.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from harness.records import Record

__all__ = [
    "MAX_PROMPT",
    "MAX_TEXT",
    "ChatRequest",
    "Endpoint",
    "Message",
    "Prompting",
    "Reply",
    "Settings",
    "key_variables",
    "split",
]

MAX_PROMPT = 512 * 1024
"""Bound on all messages of one request together, in bytes of UTF-8."""

MAX_TEXT = 256 * 1024
"""Bound on the text of one reply, in bytes of UTF-8."""

Words = Annotated[str, StringConstraints(max_length=MAX_PROMPT)]


class Message(Record):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Words


class ChatRequest(Record):
    """What a proposer wants a model to be asked. Which model that is, and where, is not its business."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=32)]
    max_tokens: Annotated[int, Field(ge=1, le=131_072)]
    temperature: Annotated[float, Field(ge=0, le=2)]
    seed: Annotated[int, Field(ge=0, lt=2**31)]

    @property
    def bytes(self) -> int:
        """The size of all messages, in bytes of UTF-8."""
        return sum(len(message.content.encode()) for message in self.messages)


class Reply(Record):
    """What came of one request: a text and why it ended (`stop`, `length`, …), or the reason why there is none."""

    text: str | None = None
    finish: str = ""
    failure: str = ""

    @model_validator(mode="after")
    def _either(self) -> Reply:
        if (self.text is None) == (self.failure == ""):
            raise ValueError("a reply is a text or a failure")
        return self


def _url(text: str) -> str:
    """Return a URL that is plain, and encrypted unless it stays on this machine; ValueError."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a URL is plain ASCII without spaces")
    parts = urlsplit(text)
    host = parts.hostname or ""
    if parts.scheme not in {"http", "https"} or not host or parts.port == 0:
        raise ValueError("the URL is https://HOST[:PORT][/PATH], or http:// on this machine")
    if "@" in parts.netloc or "?" in text or "#" in text:
        raise ValueError("the URL has no user, no query and no fragment: a key belongs into the environment")
    if parts.scheme == "http" and not _loopback(host):
        raise ValueError("http:// is for this machine alone (127.0.0.1, ::1, localhost): use https://")
    return text


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Endpoint(Record):
    """Where the model is, and what may be spent on it: what the broker alone knows.

    Prices are per million tokens, in whatever currency `budget_cost` is in.
    """

    endpoint: Annotated[str, StringConstraints(max_length=500)]
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    api_key_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] | None = None
    budget_tokens: Annotated[int, Field(gt=0, lt=2**53)]
    budget_cost: Annotated[float, Field(gt=0)] | None = None
    price_in: Annotated[float, Field(ge=0)] | None = None
    price_out: Annotated[float, Field(ge=0)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    proxy: Annotated[str, StringConstraints(max_length=500)] | None = None

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, text: str) -> str:
        return _url(text)

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, text: str | None) -> str | None:
        return text if text is None else _url(text)

    @model_validator(mode="after")
    def _priced(self) -> Endpoint:
        if self.budget_cost is not None and (self.price_in is None or self.price_out is None):
            raise ValueError("budget_cost needs price_in and price_out, per million tokens")
        return self

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost; 0 where no prices are named."""
        return (tokens_in * (self.price_in or 0.0) + tokens_out * (self.price_out or 0.0)) / 1e6


class Prompting(Record):
    """How the built-in proposer `llm` asks: what it is given of the settings."""

    task: Annotated[str, StringConstraints(max_length=4000)] = ""
    max_tokens: Annotated[int, Field(ge=16, le=131_072)] = 2048
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    prompt_bytes: Annotated[int, Field(ge=4000, le=MAX_PROMPT)] = 48_000


class Settings(Endpoint, Prompting):
    """All of `proposer_settings.llm`."""


def split(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part a proposer's settings into those of its endpoint, if it has one, and those that it is given itself."""
    if "endpoint" not in settings:
        return {}, settings
    of_endpoint = {name: value for name, value in settings.items() if name in Endpoint.model_fields}
    return of_endpoint, {name: value for name, value in settings.items() if name not in Endpoint.model_fields}


def key_variables(settings: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the environment variables that hold keys of endpoints, in the settings of all proposers by name."""
    return {str(each["api_key_env"]) for each in settings.values() if each.get("api_key_env")}
