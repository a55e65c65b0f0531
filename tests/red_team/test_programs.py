"""A program that a candidate writes reaches nothing, outlives nothing, and cannot make itself right.

The attacks of this folder, each written as a program: put to an eval that has it run, from `guards.py` to the score.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import writing

from harness.engines.local import LocalEngine
from harness.evals import expected
from harness.isolation import bwrap
from harness.sandbox import Site

pytestmark = pytest.mark.timeout(120)
ATTACKS = (Path(__file__).parent / "attacks.py").read_text().partition("\ndef main()")[0]


BOTH = pytest.mark.parametrize("engine", ["zygote", "bwrap"], indirect=True)


@pytest.fixture(scope="module")
def engine(request):
    """Where programs run: in forks of a warm process, or each in a fresh interpreter."""
    isolation = getattr(request, "param", "zygote")
    if isolation == "bwrap" and bwrap.find() is None:
        pytest.skip("there is no bubblewrap")
    bare = Site.bare()
    with LocalEngine(count=1, isolation=isolation, site=Site(bare.distributions, bare.entries, ("json",))) as local:
        yield local


@pytest.fixture
def written(engine, tmp_path):
    """Have an attack run as a candidate's program; what it says of itself, or how it ended."""

    def attack(name, /, *, limits=None, **targets):
        token = secrets.token_hex(8)
        job = {"attack": name, "token": token, "targets": targets}
        place = tmp_path / secrets.token_hex(4)
        place.mkdir()
        settings = {"call": "run", "seconds": 2, **(limits or {})}
        values, ran, _ = writing.write(ATTACKS, [expected(([job], "never"))], engine, place, **settings)
        assert values == [0]
        ((found,),) = ran
        if found.ended != "ok":
            return found.ended
        answer = json.loads(found.output)
        assert answer["ran"] == token
        return answer

    return attack


@pytest.fixture
def shut(written, outside):
    """Show that an attack works outside, and not as a program."""

    def show(name, /, **targets):
        assert outside(name, inside=False, **targets)
        answer = written(name, inside=True, **targets)
        assert "got" not in answer, answer
        assert answer["blocked"]

    return show


@pytest.mark.parametrize("attack", ["key_by_path", "key_by_dots", "key_by_proc_root"])
def test_a_program_reads_no_key(attack, shut, key, victim):
    """A file that anybody may read outside, the run's or the key's, is not there for a program."""
    shut(attack, key=str(key), victim=str(victim.pid))


@BOTH
def test_a_program_finds_no_guards(shut, tmp_path):
    """No guards, no evaluator and no data package lie below anything that a program can list."""
    (tmp_path / "guards.py").write_text("labels = [1, 2, 3]")
    shut("label_by_walk", extra_roots=[str(tmp_path)])


def test_a_program_writes_nothing_outside(shut, key, tmp_path):
    """Neither a folder that is open to everybody outside nor anything mounted can be written."""
    folder = key.parent / "open"
    folder.mkdir()
    folder.chmod(0o777)
    shut("write_outside", folder=str(folder))
    shut("write_system", extra_roots=[str(tmp_path)])
    assert len(list(folder.iterdir())) == 1, "the control's own file, and no other"


@BOTH
def test_a_program_has_no_network(written, outside):
    """A server on this machine is not reached, and hears nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            connection.sendall(b"hello")
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert outside("tcp", port=server.getsockname()[1]) == "hello"
        thread.join()
        assert written("tcp", port=server.getsockname()[1])["blocked"]
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_program_signals_nobody(written, outside):
    """A process of this machine lives on when a program aims at its number."""
    command = [sys.executable, "-S", "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as first:
        assert outside("signal_victim", victim=str(first.pid))
        assert first.wait(10) == -15
    with subprocess.Popen(command, stdin=subprocess.PIPE) as second:
        try:
            assert written("signal_victim", victim=str(second.pid))["blocked"]
            assert second.poll() is None
        finally:
            second.kill()


@pytest.mark.parametrize("attack", ["execute", "memfd", "ptrace", "user_namespace"])
def test_a_program_gets_no_further_into_the_kernel(attack, shut):
    """What the walls refuse to candidates they refuse to programs: another program, hidden memory, tracing, namespaces."""
    shut(attack, program="/bin/true")


def test_forks_are_bounded(written, outside):
    """A program that forks without end is stopped by its own limit."""
    assert outside("forks", count=40) == "40"
    assert "blocked" in written("forks", count=40)


@BOTH
def test_memory_is_bounded(written, outside):
    """A program beyond its memory, alone or by its children, ends; so does one that fills the scratch."""
    assert outside("one_process_memory", mb=600) == "600"
    assert "MemoryError" in written("one_process_memory", mb=600, limits={"memory_mb": 64})["blocked"]
    assert outside("many_process_memory", count=6, mb=40, seconds=0) == "6"
    assert written("many_process_memory", count=6, mb=40, seconds=2, limits={"memory_mb": 64}) == "memory"
    assert outside("fill_scratch", scratch="/tmp", mb=70) == "filled"
    assert "blocked" in written("fill_scratch", scratch="/tmp", mb=70)


def test_time_is_bounded(written, outside):
    """A program that ignores every signal but one is ended by the clock."""
    assert outside("ignore_sigterm", seconds=0) == "slept"
    assert written("ignore_sigterm", seconds=600, limits={"seconds": 1}) == "time"


def test_output_is_bounded(engine, tmp_path):
    """A program that prints without end is stopped at its limit, and one within it is not."""
    for count, ended in ((3000, "ok"), (1 << 30, "output")):
        place = tmp_path / ended
        place.mkdir()
        program = f"import sys\nfor _ in range({count}): sys.stdout.write('x')"
        _, ran, _ = writing.write(program, [expected(("x", "y"))], engine, place)
        assert ran[0][0].ended == ended


def test_one_program_cannot_patch_the_next(written):
    """Modules and files that one program leaves are whole and gone for the next one."""
    for _ in range(2):
        assert "nobody was here" in written("poison")["blocked"]
        assert written("leave_leftovers", secret="left-by-a-program")["blocked"]


FORGED = "the-value-that-is-due"
FORGERIES = {
    "exit": "import os\ndef solve(x): os._exit(0)",
    "exit at once": "import os; os._exit(0)",
    "printed": "def solve(x): print('passed'); return 'passed'",
    "equal to all": """\
class Same(str):
    __eq__ = lambda self, other: True
    __hash__ = str.__hash__
def solve(x): return Same(VALUE)""",
    "patched": """\
import json, sys
for module in list(sys.modules.values()):
    for name in ('_is', 'equal', 'printed', 'dumps', 'answer'):
        if hasattr(module, name): setattr(module, name, lambda *a, **k: VALUE)
def solve(x): return VALUE""",
    "written in the answer's place": """\
import json, os
def solve(x):
    data = json.dumps(VALUE).encode()
    header = json.dumps({'ended': ['ok'], 'sizes': [len(data)]}).encode()
    for pid in filter(str.isdigit, os.listdir('/proc')):
        for number in range(3, 20):
            try:
                with open(f'/proc/{pid}/fd/{number}', 'wb') as stream:
                    stream.write(len(header).to_bytes(8, 'big') + header + data)
            except OSError: pass
    os._exit(0)""",
    "left to a daemon": """\
import os, signal, time
def solve(x):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True: time.sleep(1)
    return VALUE""",
}


@BOTH
@pytest.mark.parametrize("name", sorted(FORGERIES))
def test_no_program_makes_itself_right(name, engine, tmp_path):
    """A program that ends early, compares equal, patches what it finds or writes the answer itself scores 0."""
    program = FORGERIES[name].replace("VALUE", "'anything'")
    values, _, _ = writing.write(program, [expected(([1], FORGED))], engine, tmp_path, call="solve")
    assert values == [0]


@pytest.mark.parametrize("name", ["equal to all", "left to a daemon"])
def test_the_forgeries_run(name, engine, tmp_path):
    """With the value that is due in its text the same program scores 1: it lacks nothing but that."""
    program = FORGERIES[name].replace("VALUE", repr(FORGED))
    values, _, _ = writing.write(program, [expected(([1], FORGED))], engine, tmp_path, call="solve")
    assert values == [1]


SEARCH = """\
import gc, os, re
def solve(pattern, control):
    # a pattern of single letters, so that what is looked for does not stand in this memory by being looked for
    found, wanted = 0, re.compile(pattern.encode())
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            maps = open(f'/proc/{pid}/maps').read().splitlines()
            memory = open(f'/proc/{pid}/mem', 'rb', 0)
        except OSError: continue
        for line in maps:
            place, rights = line.split()[:2]
            first, last = (int(each, 16) for each in place.split('-'))
            if 'r' not in rights or last - first > 1 << 26: continue
            try:
                memory.seek(first)
                found += len(wanted.findall(memory.read(last - first)))
            except (OSError, ValueError, OverflowError): pass
    for folder, _, names in os.walk('/job'):
        for name in names: found += len(wanted.findall(open(os.path.join(folder, name), 'rb').read()))
    return found > 0"""


@BOTH
def test_what_is_due_is_nowhere_in_the_sandbox(engine, tmp_path):
    """A program that reads all memory and files that it can finds its own input there, and never what is due."""
    due, control = secrets.token_hex(12), secrets.token_hex(12)
    for sought, there in ((control, b"true"), (due, b"false")):
        place = tmp_path / sought
        place.mkdir()
        pattern = "".join(f"[{letter}]" for letter in sought)
        label = expected(([pattern, control], due))
        values, ran, _ = writing.write(SEARCH, [label], engine, place, call="solve", seconds=20)
        assert values == [0]
        assert (ran[0][0].ended, ran[0][0].output) == ("ok", there)


def test_the_environment_does_not_arrive(written, outside, victim, monkeypatch):
    """A secret in this process's environment, or in another's, is in none that a program can read."""
    secret = "a-canary-of-the-environment"
    monkeypatch.setenv("LOCKGATE_CANARY", secret)
    controlled = {"PATH": os.environ["PATH"], "LOCKGATE_CANARY": secret}
    assert outside("environment_canary", secret=secret, victim=str(victim.pid), env=controlled)
    assert written("environment_canary", secret=secret, victim=str(victim.pid))["blocked"]
