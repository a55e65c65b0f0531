"""Facts about the supervisor's socket: strict lines, its owner only, one clear error, and a halt that takes effect."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import rigs
from hypothesis import given
from hypothesis import strategies as st

from harness.client import Connection, SupervisorProcess
from harness.errors import ConfigError, LockgateError, PromotionError, ServiceError
from harness.folder import RunFolder
from harness.keyring import change_passphrase
from harness.passphrase import Passphrase
from harness.service import MAX_CLIENTS, MAX_FRAME, listen, parse_request

SECRET = Passphrase(b"correct horse battery staple")


@pytest.fixture(scope="module")
def served(finished, digits, tmp_path_factory):
    """Serve a copy of the finished run, its keys encrypted, by a supervisor of its own; give the folder and the process."""
    run = rigs.copy_run(finished, tmp_path_factory.mktemp("served") / "run")
    assert len(change_passphrase(RunFolder(run), None, SECRET)) == 2
    process = SupervisorProcess({"out": str(run), "subject": str(digits)}, lambda _: None, SECRET)
    yield run, process
    process.close()


@pytest.fixture
def connection(served):
    """Give a connection, hung up afterwards."""
    connection = Connection(served[0])
    yield connection
    connection.close()


def raw(run, data, *, end=False):
    """Send bytes and give the first line that comes back, parsed; None where nothing comes."""
    with socket.socket(socket.AF_UNIX) as talk:
        folder = os.open(run, os.O_RDONLY)
        talk.settimeout(30)
        talk.connect(f"/proc/self/fd/{folder}/supervisor.sock")
        os.close(folder)
        sender = threading.Thread(target=send, args=(talk, data, end))
        sender.start()
        with talk.makefile("rb") as file:
            line = file.readline()
        sender.join()
    return json.loads(line) if line else None


def send(talk, data, end):
    """Send bytes; the other side may hang up first."""
    try:
        talk.sendall(data)
        if end:
            talk.shutdown(socket.SHUT_WR)
    except OSError:
        return


def test_status_is_the_summary(connection):
    """A status request gives the run's summary."""
    told = connection.ask({"op": "status"})
    assert (told["proposals"], told["promoted"], told["live"]["version"]) == (9, 2, 2)


MALFORMED = {
    "no JSON": b"status",
    "an empty line": b"",
    "no object": b"[]",
    "no operation": b"{}",
    "an unknown operation": b'{"op":"promote"}',
    "a field too many": b'{"op":"status","by":"me"}',
    "a field too few": b'{"op":"rollback"}',
    "a number as text": b'{"op":"settle","generation":"1"}',
    "generation 0": b'{"op":"submit","generation":0,"slots":[]}',
    "a duplicate key": b'{"op":"status","op":"stop"}',
    "no UTF-8": b'{"op":"\xff"}',
    "NaN": b'{"op":"rollback","version":NaN}',
    "too deep": b"[" * 5000,
    "a slot that is none": b'{"op":"submit","generation":1,"slots":[7]}',
}


def family(pid: int) -> list[int]:
    """Give a process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def test_the_passphrase_is_nowhere_to_be_read(served, connection):
    """The supervisor and all its children have no passphrase in arguments, environment or files, nor is it told."""
    run, process = served
    members = family(process.process.pid)
    lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in members)
    assert all(name in lines for name in (b"harness.service", b"harness.evaluator", b"zygote")), lines
    for pid in members:
        arguments, environment = (Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
        assert arguments, "a living process has arguments"
        assert SECRET.reveal() not in arguments + environment
    told = json.dumps([connection.ask({"op": "status"}), process.ready]).encode()
    assert SECRET.reveal() not in told
    assert json.loads(told)[0]["keys"]["encrypted"] is True
    for path in run.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert SECRET.reveal() not in path.read_bytes(), path


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_line_is_one_service_error(served, case):
    """Each malformed line is answered by one ServiceError."""
    assert raw(served[0], MALFORMED[case] + b"\n")["error"]["type"] == "ServiceError"


def test_the_line_after_a_malformed_one_is_answered(served):
    """A malformed line does not end the connection."""
    with socket.socket(socket.AF_UNIX) as talk:
        folder = os.open(served[0], os.O_RDONLY)
        talk.connect(f"/proc/self/fd/{folder}/supervisor.sock")
        os.close(folder)
        talk.sendall(b'nonsense\n{"op":"status"}\n')
        with talk.makefile("rb") as file:
            assert "error" in json.loads(file.readline())
            assert "ok" in json.loads(file.readline())


def test_a_line_without_end_is_one_service_error(served):
    """A line beyond the limit is answered by a ServiceError, and the supervisor lives on."""
    answer = raw(served[0], b"x" * (MAX_FRAME + 1024))
    assert answer["error"]["type"] == "ServiceError"
    assert str(MAX_FRAME) in answer["error"]["message"]
    assert "ok" in raw(served[0], b'{"op":"status"}\n')


def test_a_line_that_is_cut_is_not_obeyed(served):
    """A request without its end of line is dropped without an answer, though it be whole JSON."""
    assert raw(served[0], b'{"op":"stop"}', end=True) is None
    assert "ok" in raw(served[0], b'{"op":"status"}\n')


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_line_is_a_request_or_a_service_error(line):
    """Whatever the bytes of a line, parsing it gives a request or raises ServiceError."""
    try:
        request = parse_request(line)
    except ServiceError:
        return
    assert request.op


def test_one_client_too_many_is_one_service_error(served):
    """Beyond sixteen clients the next one is told so by one ServiceError, and those connected are still served."""
    clients = [Connection(served[0]) for _ in range(MAX_CLIENTS)]
    try:
        for client in clients:
            client.ask({"op": "status"})
        assert "clients" in raw(served[0], b'{"op":"status"}\n')["error"]["message"]
        assert clients[0].ask({"op": "status"})["proposals"] == 9
    finally:
        for client in clients:
            client.close()


def test_the_socket_is_its_owner_s(served):
    """The socket's file gives no rights to anybody but its owner."""
    assert stat.S_IMODE((served[0] / "supervisor.sock").stat().st_mode) == 0o600


STRANGER = """\
import os, socket, sys
os.chdir(sys.argv[1])
os.setgroups([]); os.setegid(65534); os.seteuid(65534)
talk = socket.socket(socket.AF_UNIX)
talk.connect("supervisor.sock")
print(talk.makefile().readline())
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused(served):
    """Somebody else, even where the file's rights let him in, is told that only the owner may speak here."""
    run = served[0]
    (run / "supervisor.sock").chmod(0o666)
    mode = stat.S_IMODE(run.stat().st_mode)
    run.chmod(0o755)
    try:
        done = subprocess.run([sys.executable, "-c", STRANGER, str(run)], capture_output=True, text=True, check=False)
    finally:
        run.chmod(mode)
        (run / "supervisor.sock").chmod(0o600)
    assert "only the run's owner" in done.stdout, done.stderr


def test_a_second_supervisor_is_refused(served, digits):
    """While one supervisor is at work on a run, another is refused by a ConfigError with a remedy."""
    with pytest.raises(ConfigError, match="another supervisor is at work") as error:
        SupervisorProcess({"out": str(served[0]), "subject": str(digits)}, lambda _: None)
    assert "--out" in error.value.remedy
    assert "ok" in raw(served[0], b'{"op":"status"}\n')


def test_a_mistake_of_the_supervisor_s_caller_is_its_own_error(connection):
    """A refused request raises, on the client's side, the very error that the supervisor raised."""
    with pytest.raises(PromotionError, match="never live") as error:
        connection.ask({"op": "rollback", "version": 77})
    assert error.value.remedy


def test_a_halt_stops_work_until_it_is_resumed(served, connection):
    """After a halt nothing is settled; after `resume` the same generation goes on to its end, with its events."""
    assert connection.ask({"op": "halt", "reason": "a test"}) == {"halted": True}
    other = Connection(served[0])
    slot = {"proposer": "scripted", "document": json.dumps(rigs.knobs(steps=399)), "scripted": True, "label": "late"}
    other.ask({"op": "submit", "generation": 4, "slots": [slot]})
    assert other.ask({"op": "settle", "generation": 4})["halted"] is True
    assert other.ask({"op": "status"})["state"] == "halted"
    assert other.ask({"op": "resume"}) == {"halted": False, "generation": 4}
    events = []
    assert other.ask({"op": "settle", "generation": 4}, events.append)["halted"] is False
    kinds = [event["event"] for event in events]
    assert kinds[0] == "screened"
    assert kinds[-1] == "decided"
    assert events[-1]["proposal"]["label"] == "late"
    other.close()


def test_the_socket_may_lie_deep(tmp_path):
    """A run whose path is longer than a socket's name may be can be listened on all the same."""
    deep = tmp_path.joinpath(*["a" * 60] * 4)
    deep.mkdir(parents=True)
    bound = listen(deep / "supervisor.sock")
    bound.listen()
    Connection(deep).close()
    bound.close()


def test_nobody_listening_is_a_service_error(tmp_path):
    """A folder where no supervisor listens is a ServiceError that names it."""
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ServiceError, match="no supervisor listens") as error:
            Connection(place)
        assert error.value.where == str(place)


def test_an_error_before_the_start_is_told(tmp_path):
    """A supervisor that cannot start raises, on the client's side, what kept it."""
    with pytest.raises(LockgateError, match="no such folder"):
        SupervisorProcess({"out": str(tmp_path / "run"), "subject": str(tmp_path / "nothing")}, lambda _: None)


def test_the_supervisor_ends_with_its_client(finished, digits, tmp_path):
    """A supervisor whose client is gone ends by itself, and takes its socket with it."""
    run = rigs.copy_run(finished, tmp_path / "run")
    process = SupervisorProcess({"out": str(run), "subject": str(digits)}, lambda _: None)
    process.process.stdin.close()
    assert process.process.wait(timeout=30) == 0
    assert not (run / "supervisor.sock").exists()
    process.close()
