"""Facts about a witness on the wire: its HTTP, its limits, and its life as a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from witnesses import CHAIN, LOG, ORIGIN, Process, SmallLog, served

from harness.cosignature import WitnessVerifier, cosignatures
from harness.keys import VerifierChain
from harness.notes import open_note
from harness.witness import MAX_BODY, Witness, make_witness
from harness.witness_server import WitnessServer

HASH = hashlib.sha256(ORIGIN.encode()).hexdigest()


def post(url, body, path="/add-checkpoint"):
    """Send a request; give status, type and body."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("POST", path, body)
    answer = connection.getresponse()
    told = (answer.status, answer.getheader("Content-Type"), answer.read())
    connection.close()
    return told


def get(url, path):
    """Ask for a page; give status and body."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    told = (answer.status, answer.read())
    connection.close()
    return told


def raw(url, data, seconds=10.0):
    """Send bytes as they are; give all that comes back until the other side hangs up."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), seconds) as connection:
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serve one witness that has seen nothing; tests that show it something use their own."""
    with served(tmp_path_factory.mktemp("server") / "w", seconds=1.0) as server:
        yield server


def test_a_head_is_cosigned_and_given_out(tmp_path):
    """A head is answered 200 with a cosignature, and from then on the witness gives both to anyone who asks."""
    with served(tmp_path / "w") as server:
        log = SmallLog.of(5)
        status, kind, body = post(server.url, log.request(0))
        witness = server.witness.verifier
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert list(cosignatures(log.head + body, [witness])) == [witness.key_digest]
        status, note = get(server.url, f"/{HASH}/checkpoint")
        assert (status, note) == (200, log.head + body)


def test_a_conflict_names_the_size(tmp_path):
    """409 has the size as its body, under the type of the specification."""
    with served(tmp_path / "w") as server:
        post(server.url, SmallLog.of(5).request(0))
        assert post(server.url, SmallLog.of(6).request(0)) == (409, "text/x.tlog.size", b"5\n")


def test_several_requests_on_one_connection(tmp_path):
    """A connection is kept between requests."""
    with served(tmp_path / "w") as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
        statuses = []
        for old, size in [(0, 3), (3, 5), (3, 6), (5, 6)]:
            connection.request("POST", "/add-checkpoint", SmallLog.of(size).request(old))
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
            assert connection.sock is not None
        connection.close()
        assert statuses == [200, 200, 409, 200]


@pytest.mark.parametrize("path", ["/", "/add-checkpoint/", "/add-checkpoint?x", "/x/add-checkpoint"])
def test_other_places_take_no_request(server, path):
    """A POST to anywhere else is 404."""
    assert post(server.url, SmallLog.of(5).request(0), path)[0] == 404


@pytest.mark.parametrize("path", ["/", "/checkpoint", f"/{HASH}", f"/{HASH}/checkpoint", "/..%2fwitness.key", "/x/y/z"])
def test_other_places_give_nothing(server, path):
    """What was not cosigned is not there: 404."""
    assert get(server.url, path)[0] == 404


REFUSED = {
    "no length": (b"POST /add-checkpoint HTTP/1.1\r\n\r\n", 411),
    "chunked": (b"POST /add-checkpoint HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "two lengths": (b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 411),
    "a signed length": (b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
    "a negative length": (b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    "an endless length": (b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "too long": (f"POST /add-checkpoint HTTP/1.1\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n".encode(), 413),
    "a get with a body": (b"GET /x/checkpoint HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde", 400),
    "another method": (b"DELETE / HTTP/1.1\r\n\r\n", 501),
    "no HTTP": (b"\x16\x03\x01 hello\r\n\r\n", 400),
    "a long line": (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", 414),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_what_http_itself_refuses(server, data, status):
    """Bodies without one exact length, too long ones and malformed HTTP are one line of text, and the connection ends."""
    head, _, body = raw(server.url, data).rpartition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nConnection: close" in head
    assert (body.count(b"\n"), b"<" in body) == (1, False)


def test_a_body_that_ends_early_is_no_request(server):
    """A client that hangs up in the middle of its body is not answered."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 500\r\n\r\nold 0\n")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""


@pytest.mark.parametrize(
    "begin", [b"", b"POST /add-", b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 90000\r\n\r\n"]
)
def test_a_slow_client_has_a_deadline(server, begin):
    """A client that sends a byte now and then is hung up on when its time is over, and others are served meanwhile."""
    host, port = server.url.removeprefix("http://").split(":")
    started = time.monotonic()
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(begin)
        assert get(server.url, "/")[0] == 404
        with pytest.raises(OSError):  # noqa: PT012 - whichever of them notices
            while time.monotonic() - started < 8:
                connection.sendall(b"x")
                time.sleep(0.1)
            pytest.fail("it was never hung up on")
    assert time.monotonic() - started < 4


def test_many_connections_are_not_served_at_once(tmp_path):
    """Of 80 connections that say nothing 64 are kept, until their time is over; then others are served."""
    with served(tmp_path / "w", seconds=2.5) as server, contextlib.ExitStack() as stack:
        host, port = server.url.removeprefix("http://").split(":")
        idle = []
        for _ in range(80):
            idle.append(stack.enter_context(socket.create_connection((host, int(port)), 10)))
            time.sleep(0.003)  # no more at a time than the queue of the listener holds
        time.sleep(0.3)
        refused = 0
        for connection in idle:
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                refused += connection.recv(1) == b""
        assert refused == 80 - 64
        time.sleep(2.5)
        assert get(server.url, "/")[0] == 404


def test_many_clients_at_once_get_one_history(tmp_path):
    """Of two histories shown by many clients at once, one is cosigned, and every answer is of that one."""
    with served(tmp_path / "w") as server:
        answers = {"a": set(), "b": set()}

        def show(history, size):
            log = SmallLog.of(size, history)
            for _ in range(6):
                old = server.witness.size(ORIGIN)
                if old <= size:
                    answers[history].add(post(server.url, log.request(old))[0])

        threads = [threading.Thread(target=show, args=(history, size)) for history in "ab" for size in (3, 4, 5, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(200 in statuses for statuses in answers.values()) == [False, True]


@pytest.fixture
def keys(tmp_path):
    """Put the log's keys into a file."""
    CHAIN.save(tmp_path / "log.pub")
    return tmp_path / "log.pub"


def lockgate(*arguments):
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_a_process_of_its_own(tmp_path, keys):
    """`init` prints the key, `serve` says where it listens, cosigns, refuses a second process, and ends on SIGTERM."""
    made = lockgate("witness", "init", tmp_path / "w", "--name", "witness.example/w", "--unencrypted", "--json")
    vkey = json.loads(made.stdout)["vkey"]
    witness = WitnessVerifier.parse(vkey)
    process = Process(tmp_path / "w", keys)
    try:
        assert process.told == {"listening": process.url, "logs": [ORIGIN], "vkey": vkey}
        log = SmallLog.of(5)
        status, _, body = post(process.url, log.request(0))
        assert (status, list(cosignatures(log.head + body, [witness]))) == (200, [witness.key_digest])
        second = lockgate("witness", "serve", tmp_path / "w", "--log", keys)
        assert (second.returncode, "another process" in second.stderr) == (1, True)
    finally:
        code, stderr = process.stop()
    assert (code, stderr) == (0, "")
    note = (tmp_path / "w" / "logs" / HASH).read_bytes()
    assert open_note(note, [LOG.verifier])[0] == log.tree_head.text


def test_its_key_may_be_encrypted(tmp_path, keys):
    """A witness's key is encrypted unless that is refused in words, and `serve` needs the passphrase to open it."""
    made = lockgate("witness", "init", tmp_path / "w", "--name", "w")
    assert (made.returncode, "no passphrase" in made.stderr, "--unencrypted" in made.stderr) == (1, True, True)
    secret = tmp_path / "secret"
    secret.write_text("correct horse")

    def opened(*arguments):
        with secret.open() as file:
            command = [sys.executable, "-m", "harness.cli", "witness", *map(str, arguments), "--passphrase-fd", "0"]
            return subprocess.run(command, stdin=file, capture_output=True, text=True, check=False)

    made = opened("init", tmp_path / "w", "--name", "w")
    assert WitnessVerifier.parse(made.stdout).name == "w"
    refused = lockgate("witness", "serve", tmp_path / "w", "--log", keys)
    assert (refused.returncode, "there is no passphrase" in refused.stderr) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:  # the key opens: what stops it comes after that
        full = opened("serve", tmp_path / "w", "--log", keys, "--port", taken.getsockname()[1])
    assert "cannot listen" in full.stderr


def test_killed_between_memory_and_answer(tmp_path, keys):
    """A witness that dies after it remembered and before it answered has cosigned nothing else: the retry is answered."""
    make_witness(tmp_path / "w", "w")
    dies = "import os, http.server as h; h.BaseHTTPRequestHandler.send_response = lambda *a: os._exit(9)"
    process = Process(tmp_path / "w", keys, before=dies)
    log = SmallLog.of(5)
    with pytest.raises((OSError, http.client.HTTPException)):
        post(process.url, log.request(0))
    assert process.stop()[0] == 9
    with served(tmp_path / "w") as server:
        assert post(server.url, SmallLog.of(5, "b").request(0))[::2] == (409, b"5\n")
        assert post(server.url, log.request(0))[::2] == (409, b"5\n")
        assert post(server.url, log.request(5))[0] == 200


def test_sigkill_leaves_no_lock(tmp_path, keys):
    """After kill -9 the witness starts again and knows what it has seen."""
    make_witness(tmp_path / "w", "w")
    process = Process(tmp_path / "w", keys)
    post(process.url, SmallLog.of(5).request(0))
    assert process.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    with served(tmp_path / "w") as server:
        assert server.witness.size(ORIGIN) == 5


def test_a_request_under_way_is_answered_before_the_end(tmp_path, keys):
    """A request that was read before SIGTERM came gets its cosignature, and then the process ends."""
    make_witness(tmp_path / "w", "w")
    slow = (
        "import time, http.server as h; real = h.BaseHTTPRequestHandler.send_response\n"
        "def late(*a): time.sleep(0.5); real(*a)\n"
        "h.BaseHTTPRequestHandler.send_response = late"
    )
    process = Process(tmp_path / "w", keys, before=slow)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(post(process.url, SmallLog.of(5).request(0))[0]))
    thread.start()
    while not (tmp_path / "w" / "logs" / HASH).exists():
        time.sleep(0.01)
    code, _ = process.stop()
    thread.join(10)
    assert (code, answers) == (0, [200])


def test_a_disk_that_refuses_ends_the_process(tmp_path, keys):
    """When the disk fails the client gets no signature, and the process ends with an error that names the disk."""
    make_witness(tmp_path / "w", "w")
    breaks = "import harness.witness as w\ndef broken(*a, **k): raise OSError(5, 'Input/output error')\nw.write_durably = broken"
    process = Process(tmp_path / "w", keys, before=breaks)
    status, _, body = post(process.url, SmallLog.of(5).request(0))
    assert (status, "—".encode() in body) == (500, False)
    process.process.wait(20)
    code, _ = process.stop()
    assert code == 1


def test_mistakes_on_the_command_line(tmp_path, keys):
    """A folder without a key, keys that cannot be read, a taken port and a second `init` are one clear line each."""
    made = lockgate("witness", "init", tmp_path / "w", "--name", "w", "--unencrypted")
    assert WitnessVerifier.parse(made.stdout).name == "w"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        commands = [
            ("serve", tmp_path / "none", "--log", keys),
            ("serve", tmp_path / "w", "--log", tmp_path / "none"),
            ("serve", tmp_path / "w", "--log", keys, "--log", keys),
            ("serve", tmp_path / "w", "--log", keys, "--port", port),
            ("init", tmp_path / "w", "--name", "w"),
            ("init", tmp_path / "v", "--name", "a b"),
        ]
        for command in commands:
            done = lockgate("witness", *command)
            assert done.returncode == 1, command
            assert done.stderr.startswith("lockgate: ")
            assert "Traceback" not in done.stderr


def test_one_keyfile_may_hold_one_key(tmp_path):
    """The control of rotation: a log with a single key is served as well."""
    with served(tmp_path / "w", chains=[VerifierChain.of([LOG.verifier])]) as server:
        assert post(server.url, SmallLog.of(2).request(0))[0] == 200


def test_ipv6(tmp_path):
    """A witness listens at an IPv6 address, too, and says so in the form that a URL has."""
    make_witness(tmp_path / "w", "w")
    try:
        server = WitnessServer(Witness.open(tmp_path / "w", [CHAIN]), "::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        assert server.url.startswith("http://[::1]:")
        assert post(server.url, SmallLog.of(2).request(0))[0] == 200
    finally:
        server.ended.set()
        thread.join()
