"""Facts about a child that answers lines: bounded, timed, started again when it dies, and never another one."""

from __future__ import annotations

import os
import signal
import time

import pytest

from harness.channel import Child
from harness.errors import EvaluatorError

ECHO = """\
import json, sys, time
seen = []
for line in sys.stdin:
    asked = json.loads(line)
    name, request = asked["id"], asked["request"]
    seen.append(name)
    def say(answer, name=name):
        print(answer if isinstance(answer, str) else json.dumps({{"id": name, "answer": answer}}), flush=True)
    {answer}
"""


def child(place, answer="say({'got': request})"):
    """Start a child that does this at every request."""
    return Child(["-c", ECHO.format(answer=answer)], name="echo", stderr=place / "stderr")


def kill(found):
    """Kill a child, and wait until it is dead."""
    pid = found.pid
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_each_request_has_its_answer(tmp_path):
    """Requests are answered in order, by one process."""
    echo = child(tmp_path)
    first = echo.ask({"n": 1}, seconds=30), echo.pid
    assert (echo.ask({"n": 2}, seconds=30), echo.pid) == ({"got": {"n": 2}}, first[1])
    echo.close()


def test_a_child_that_died_is_replaced(tmp_path):
    """A child that was killed is started again, and asked what every child is asked first."""
    echo = child(tmp_path)
    echo.expect({"who": 1}, echo.ask({"who": 1}, seconds=30), seconds=30)
    for number in range(3):
        kill(echo)
        assert echo.ask({"n": number}, seconds=30) == {"got": {"n": number}}
    echo.close()


def test_another_child_is_not_used(tmp_path):
    """A child that was started again and answers the first question otherwise is refused, every time."""
    echo = child(tmp_path, "say({'me': __import__('os').getpid()})")
    echo.expect({"who": 1}, echo.ask({"who": 1}, seconds=30), seconds=30)
    assert echo.ask({"n": 1}, seconds=30)
    kill(echo)
    for _ in range(2):
        with pytest.raises(EvaluatorError, match="not the one"):
            echo.ask({"n": 1}, seconds=30)
        assert echo.pid is None
    echo.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("say('nonsense')", "failed"),
        ("say([1])", "no object"),
        ("say('[1]')", "no object"),
        ("say('{}')", "no object"),
        ("say('x' * (9 << 20))", "more than"),
        ("sys.exit(3)", r"died \(status 3\)"),
        ("time.sleep(9)", "within 1 s"),
        ("sys.stdout.write(json.dumps({'id': name, 'answer': {}}) + '\\n'); say({})", "twice"),
        ("say({}, name=None)", "another request"),
        ("say({}, name='0' * 32 + '-1')", "another request"),
        ("say({}, name=name[:-1] + '2')", "another request"),
    ],
)
def test_a_bad_answer_ends_the_child(tmp_path, answer, why):
    """An answer that is no JSON, no object, too long, missing, late, twice or another's is an error: the child is gone."""
    echo = child(tmp_path, answer)
    with pytest.raises(EvaluatorError, match=why):
        echo.ask({"n": 1}, seconds=1 if "within" in why else 30)
    assert echo.pid is None
    echo.close()


def test_a_late_answer_ends_the_child(tmp_path):
    """A child that does not answer in time is killed, and its late answer is never taken for the next one's."""
    echo = child(tmp_path, "time.sleep(request.get('sleep', 0)); say({'got': request})")
    with pytest.raises(EvaluatorError, match="did not answer within"):
        echo.ask({"sleep": 60}, seconds=0.3)
    assert echo.pid is None
    assert echo.ask({"n": 2}, seconds=30) == {"got": {"n": 2}}
    echo.close()


def test_a_child_that_does_not_read_is_ended(tmp_path):
    """A request larger than a pipe holds has a deadline, too, and arrives whole where it is read."""
    deaf = Child(["-c", "import time; time.sleep(60)"], name="deaf", stderr=tmp_path / "stderr")
    with pytest.raises(EvaluatorError, match="did not read its request within"):
        deaf.ask({"text": "x" * 500_000}, seconds=0.5)
    assert deaf.pid is None
    deaf.close()
    echo = child(tmp_path)
    assert echo.ask({"text": "x" * 3_000_000}, seconds=30) == {"got": {"text": "x" * 3_000_000}}
    echo.close()


def test_a_closed_child_stays_closed(tmp_path):
    """After `close` no child is started again."""
    echo = child(tmp_path)
    echo.ask({"n": 1}, seconds=30)
    echo.close()
    with pytest.raises(EvaluatorError, match="closed"):
        echo.ask({"n": 2}, seconds=30)
    assert echo.pid is None


def test_an_answer_to_an_earlier_request_is_refused(tmp_path):
    """A child that answers out of order, an earlier request again, is not believed, and is gone."""
    echo = child(tmp_path, "say({'n': 1}, name=seen[0])")
    assert echo.ask({"n": 1}, seconds=30) == {"n": 1}
    with pytest.raises(EvaluatorError, match="another request"):
        echo.ask({"n": 2}, seconds=30)
    assert echo.pid is None
    echo.close()


def test_what_is_said_unasked_is_refused(tmp_path):
    """What a child says after its answer, before it is asked again, is no answer to the next request."""
    echo = child(tmp_path, "say({}); time.sleep(0.2); say({})")
    echo.ask({"n": 1}, seconds=30)
    time.sleep(1.0)
    with pytest.raises(EvaluatorError, match="unasked"):
        echo.ask({"n": 2}, seconds=30)
    assert echo.pid is None
    echo.close()
