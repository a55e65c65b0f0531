"""Facts about harness.endpoint: what a language model's server does to it, by real HTTP and the real client."""

from __future__ import annotations

import json
import re
import time

import pytest
from chat_server import chat_server, completion, dripping, endless, finished_by, hanging_up, raw, status, used

from harness.chat import ChatRequest, Message
from harness.endpoint import BACKOFF, MAX_BODY, Broker
from harness.errors import ConfigError, ProposerError

KEY = "sk-a-key-that-nobody-should-see"
REQUEST = ChatRequest(
    messages=[Message(role="user", content="A question. " * 20)], max_tokens=100, temperature=0.5, seed=7
)
MOST = REQUEST.bytes + 64 + 100


@pytest.fixture(scope="module")
def server():
    """Serve for all tests of this module."""
    with chat_server() as chat:
        yield chat


@pytest.fixture
def broker(server, tmp_path, monkeypatch):
    """Give a function that opens a broker on one record, with settings of its own; waits are noted, not waited."""
    monkeypatch.setenv("CHAT_KEY", KEY)

    def make(*, folder="replies", replay=None, **settings):
        told = {"endpoint": server.url, "model": "small", "budget_tokens": 100_000, "api_key_env": "CHAT_KEY"}
        waits = []
        made = Broker("llm", {**told, "timeout_seconds": 5.0, **settings}, sleep=waits.append)
        made.waits = waits
        made.open(tmp_path / folder, replay)
        return made

    return make


def test_a_model_is_asked_what_the_proposer_asks(server, broker):
    """The endpoint gets the messages, the model's name, the limits and the key, and the text comes back."""
    server.say("An answer.")
    reply = broker().ask(REQUEST)
    assert (reply.text, reply.finish, reply.failure) == ("An answer.", "stop", "")
    [(path, headers, body)] = server.requests
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == {"model": "small", **REQUEST.json_value()}


def test_no_header_names_this_machine(server, broker, monkeypatch):
    """Nothing of the client's own headers is sent, which name its platform, nor an organisation of the environment."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key-of-somebody")
    server.say("ok")
    broker().ask(REQUEST)
    names = {name.lower() for name in server.requests[0][1]}
    assert names == {
        "host", "accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "user-agent",
    }  # fmt: skip
    assert "secret" not in json.dumps(server.requests[0][1])
    server.say("ok")
    broker(api_key_env=None, folder="other").ask(REQUEST)
    assert "another" not in json.dumps(server.requests[0][1]), "only a key that the configuration names is sent"


def test_proxies_of_the_environment_are_not_used(server, broker, monkeypatch):
    """A proxy counts only where the configuration names it."""
    with chat_server("by a proxy") as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        server.say("directly")
        assert broker().ask(REQUEST).text == "directly"
        assert broker(proxy=proxy.url.removesuffix("/v1"), folder="other").ask(REQUEST).text == "by a proxy"
        assert proxy.requests[0][0].startswith("http://127.0.0.1")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (status(400, "no such model"), "it answered 400: .*no such model"),
        (status(401, f"Incorrect API key provided: {KEY}"), r"it answered 401: .*\[key\]"),
        (status(302, location="http://127.0.0.1:9/elsewhere"), "it answered 302: redirects are not followed"),
        (status(307, location="http://example.org/"), "it answered 307: redirects are not followed"),
        (status(500), "it answered 500"),
        (status(429, retry_after="3600"), "it answered 429 and asks to wait 3600 seconds"),
        (raw(b"<html>hello</html>"), "not JSON"),
        (raw(b""), "not JSON"),
        (raw(b'{"choices": [{"message": {"content": "\\ud800"}}]}'), "not JSON"),
        (raw(b'{"choices": ' + b"[" * 100 + b"]" * 100 + b"}"), "not JSON"),
        (raw(b"[]"), "holds no text"),
        (raw(b"{}"), "holds no text"),
        (raw(b'{"choices": []}'), "holds no text"),
        (raw(b'{"choices": {"0": 1}}'), "holds no text"),
        (raw(b'{"choices": [{"message": {"content": null, "refusal": "no"}}]}'), "holds no text"),
        (raw(b'{"choices": [{"message": {"content": ["a", "b"]}}]}'), "holds no text"),
        (raw(b"x" * 100, content_encoding="gzip"), "packed"),
        (raw(b" " * (MAX_BODY + 1)), "more than 2097152 bytes"),
        (endless(10 << 20), "more than 2097152 bytes"),
        ("x" * 300_000, "a text of 300000 bytes"),
        (hanging_up, "no connection"),
    ],
    ids=range(21),
)
def test_whatever_else_it_answers_is_a_failure_with_a_reason(server, broker, tmp_path, step, message):
    """Errors, redirects, other data, too much and nothing: each is one reason, without the key, and in the record."""
    server.say(step)
    asker = broker()
    reply = asker.ask(REQUEST)
    assert reply.text is None
    assert re.search(message, reply.failure)
    assert KEY not in reply.failure
    assert json.loads((tmp_path / "replies" / "0001.json").read_text())["reply"]["failure"] == reply.failure


@pytest.mark.parametrize("step", [dripping(4), lambda _handler: time.sleep(3)], ids=["drips", "silent"])
def test_lateness_ends_a_request(server, broker, step):
    """A server that says nothing, or a byte now and then, has so many seconds as a whole."""
    server.say(step)
    started = time.monotonic()
    reply = broker(timeout_seconds=0.5, retries=0).ask(REQUEST)
    assert "within 0.5 seconds" in reply.failure
    assert time.monotonic() - started < 2.5


def test_a_redirect_is_not_followed(server, broker):
    """The place that a redirect names is asked nothing, and gets no key."""
    with chat_server("elsewhere") as other:
        server.say(status(307, location=f"{other.url}/chat/completions"))
        assert broker().ask(REQUEST).text is None
        assert other.requests == []


@pytest.mark.parametrize(
    ("step", "wait"),
    [
        (status(429, retry_after="3"), 3.0),
        (status(429, retry_after="soon"), BACKOFF),
        (status(500), BACKOFF),
        (status(503, retry_after="0"), 0.0),
        (hanging_up, BACKOFF),
    ],
)
def test_what_passes_is_tried_again(server, broker, step, wait):
    """After a 429, an error of the server or a broken connection comes another attempt, and its answer counts."""
    server.say(step, "at last")
    asker = broker()
    assert asker.ask(REQUEST).text == "at last"
    assert asker.waits == [wait]


def test_attempts_are_bounded(server, broker):
    """A server that always fails is asked so often and not more, with waits that double; a 400 is asked once."""
    server.say(status(500))
    asker = broker(retries=3)
    asker.ask(REQUEST)
    assert len(server.requests) == 4
    assert asker.waits == [0.5, 1.0, 2.0]
    server.say(status(400))
    broker(folder="other").ask(REQUEST)
    assert len(server.requests) == 1


def test_usage_is_counted(server, broker):
    """What a server says that a request took is what it is counted as."""
    server.say(used("some words", {"prompt_tokens": 61, "completion_tokens": 4}))
    asker = broker(price_in=1.0, price_out=10.0, budget_cost=5.0)
    asker.ask(REQUEST)
    assert asker.spent["tokens"] == 65
    assert asker.spent["cost"] == pytest.approx((61 + 40) / 1e6)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        [],
        {"prompt_tokens": 61},
        {"prompt_tokens": -61, "completion_tokens": 4},
        {"prompt_tokens": 61, "completion_tokens": -4},
        {"prompt_tokens": 61.5, "completion_tokens": 4},
        {"prompt_tokens": True, "completion_tokens": True},
        {"prompt_tokens": "61", "completion_tokens": "4"},
        {"prompt_tokens": 61, "completion_tokens": 0},
        {"prompt_tokens": 0, "completion_tokens": 4},
        {"prompt_tokens": 1, "completion_tokens": 4},
        {"prompt_tokens": 10**12, "completion_tokens": 4},
        {"prompt_tokens": 61, "completion_tokens": 10**12},
    ],
    ids=str,
)
def test_usage_that_cannot_be_true_is_counted_as_the_most(server, broker, usage):
    """Missing, negative, too small for the text or larger than allowed: what the request could take at most."""
    server.say(used("some words", usage))
    asker = broker()
    assert asker.ask(REQUEST).text == "some words"
    assert asker.spent["tokens"] == MOST


@pytest.mark.parametrize(
    ("step", "tokens"),
    [(status(429), 0), (status(400), 0), (status(500), 3 * MOST), (raw(b"nonsense"), MOST), (hanging_up, 3 * MOST)],
    ids=["429", "400", "500", "nonsense", "hung up"],
)
def test_failures_are_counted_where_they_may_have_cost(server, broker, step, tokens):
    """Refusals cost nothing; what may have been worked on costs the most that it could, each attempt for itself."""
    server.say(step)
    asker = broker()
    asker.ask(REQUEST)
    assert asker.spent["tokens"] == tokens


def test_a_refused_connection_costs_nothing(broker):
    """Where nobody listens nothing is spent."""
    asker = broker(endpoint="http://127.0.0.1:9/v1")
    assert "no connection" in asker.ask(REQUEST).failure
    assert asker.spent["tokens"] == 0


@pytest.mark.parametrize(
    "settings", [{"budget_tokens": MOST - 1}, {"budget_cost": 1e-4, "price_in": 1.0, "price_out": 1.0}]
)
def test_a_request_that_could_exceed_a_budget_is_not_sent(server, broker, settings):
    """The budget is held against the most that a request may take, before it is sent."""
    server.say("ok")
    reply = broker(**settings).ask(REQUEST)
    assert "budget does not suffice" in reply.failure
    assert server.requests == []


def asked(index: int) -> ChatRequest:
    """Another request of the same size."""
    return REQUEST.model_copy(update={"seed": index})


def test_a_budget_survives_restarts(server, broker):
    """What was spent before a restart is spent after it: no number of restarts buys a request more."""
    server.say(used("some words", None))
    answers = 0
    for index in range(40):
        answers += broker(budget_tokens=3 * MOST + 99).ask(asked(index)).text is not None
    one = broker(budget_tokens=3 * MOST + 99).spent["tokens"] // answers
    assert answers == len(server.requests)
    assert answers * one + MOST > 3 * MOST + 99 >= answers * one


def test_a_request_that_was_cut_off_is_spent(server, broker, tmp_path):
    """A process that ends between sending and recording has spent what it had reserved."""
    server.say("ok")
    broker().ask(REQUEST)
    (tmp_path / "replies" / "0001.json").unlink()
    assert broker().spent["tokens"] == MOST


def test_the_same_request_is_not_paid_for_twice(server, broker):
    """After a restart a request that was answered is answered from the record; one that failed is asked again."""
    server.say("an answer", status(400))
    first = broker().ask(REQUEST)
    assert broker().ask(asked(1)).text is None
    server.say("another")
    again = broker()
    assert again.ask(REQUEST) == first
    assert server.requests == []
    assert again.ask(asked(1)).text == "another"


def test_a_replay_asks_nobody(server, broker, tmp_path):
    """Replies and failures come from the record that is named, as they were last; what is not there is a failure."""
    server.say("an answer", status(400), "a late answer")
    writer = broker()
    told = [writer.ask(REQUEST), writer.ask(asked(1)), writer.ask(asked(1))]
    assert [reply.text for reply in told] == ["an answer", None, "a late answer"]
    server.say("something else")
    replayed = broker(folder="other", replay=tmp_path / "replies", endpoint="http://127.0.0.1:9/v1")
    assert [replayed.ask(REQUEST), replayed.ask(asked(1))] == [told[0], told[2]]
    assert "no reply to this request is recorded" in replayed.ask(asked(2)).failure
    assert server.requests == []
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "0001.sent.json").unlink(),
        lambda folder: (folder / "0001.json").rename(folder / "0003.json"),
        lambda folder: (folder / "0001.json").chmod(0o600) or (folder / "0001.json").write_text("{"),
        lambda folder: (folder / "0001.sent.json").write_text("{}"),
        lambda folder: (folder / "0002.json").write_bytes((folder / "0001.json").read_bytes()),
        lambda folder: (folder / "x.json").write_text("{}"),
        lambda folder: [(folder / name).unlink() for name in ("0001.json", "0001.sent.json")],
    ],
)
def test_a_record_that_cannot_be_believed_is_an_error(server, broker, tmp_path, damage):
    """Torn, renamed, copied or missing: nothing is asked while what was spent cannot be told."""
    server.say("ok")
    asker = broker()
    asker.ask(REQUEST)
    asker.ask(asked(1))
    damage(tmp_path / "replies")
    with pytest.raises(ProposerError, match=r"what was spent on the model cannot be told"):
        broker()


def test_the_key_is_in_no_record(server, broker, tmp_path):
    """A server that says the key back, in a text, a finish or an error, has it recorded nowhere."""
    server.say(
        lambda handler: handler.send(200, completion(f"your key is {KEY}", {"messages": [], "model": KEY}, finish=KEY)),
        status(500, KEY),
    )
    asker = broker()
    assert asker.ask(REQUEST).text == "your key is [key]"
    asker.ask(asked(1))
    written = b"".join(path.read_bytes() for path in (tmp_path / "replies").iterdir())
    assert b"[key]" in written
    assert KEY.encode() not in written


@pytest.mark.parametrize("value", [None, "", "short", "with a blank in it", "line\nbreak-and-more"])
def test_a_key_that_is_none_is_refused_before_the_run(server, monkeypatch, value):
    """An environment variable that is missing or holds no key is an error that names it, not its value."""
    monkeypatch.delenv("CHAT_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("CHAT_KEY", value)
    settings = {"endpoint": server.url, "model": "m", "budget_tokens": 1, "api_key_env": "CHAT_KEY"}
    with pytest.raises(ConfigError, match="CHAT_KEY holds no key") as caught:
        Broker("llm", settings)
    assert not value or value not in str(caught.value)


def test_an_answer_that_was_cut_off_says_so(server, broker):
    """The reason why a text ended comes with it."""
    server.say(finished_by("half a", "length"))
    assert broker().ask(REQUEST).finish == "length"
