"""Facts about programs at work: real ones, in real sandboxes; a bad end is the program's own, a bad sandbox nobody's."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from harness.engines.local import LocalEngine
from harness.errors import SandboxError, SubjectError
from harness.executing import execute, run_programs
from harness.execution import RAN, ROW, Execution, Ran, write_row
from harness.isolation import bwrap
from harness.sandbox import Outcome, Site

pytestmark = pytest.mark.timeout(120)

BRIEF = Execution(seconds=1, output_kb=1)
CALLED = Execution(call="solve", seconds=1, output_kb=1)


@pytest.fixture(scope="module")
def engine():
    """Two workers; the site of candidates is as small as that of programs, since no torch is wanted here."""
    with LocalEngine(count=2, site=Site(Site.bare().distributions, Site.bare().entries, ("json",))) as local:
        yield local


def run(engine, program, *inputs, spec=BRIEF):
    """Run one program; how it ended on each input, and what it gave."""
    ((ran),) = run_programs(engine, spec, [(program, list(inputs))])
    return ran


def test_a_script_reads_and_prints(engine):
    """A script reads its input and prints; each input meets a process of its own."""
    program = "import builtins\nbuiltins.n = getattr(builtins, 'n', 0) + 1\nprint(int(input()) * builtins.n)"
    assert run(engine, program, "4\n", "5\n") == [Ran("ok", b"4\n"), Ran("ok", b"5\n")]


def test_a_function_is_called(engine):
    """A function gets an input's arguments, and its result comes back as JSON, whatever is printed meanwhile."""
    program = "def solve(a, b):\n    print('noise')\n    return {'sum': a + b, 'big': 10**30}"
    (ran,) = run(engine, program, "[1, 2.5]", spec=CALLED)
    assert json.loads(ran.output) == {"sum": 3.5, "big": 10**30}


def test_a_long_input_arrives_whole(engine):
    """An input beyond what a pipe holds arrives whole, and one that is not read holds nobody up."""
    assert run(engine, "import sys; print(len(sys.stdin.read()))", "x" * 200_000) == [Ran("ok", b"200000\n")]
    assert run(engine, "print(1)", "x" * 200_000) == [Ran("ok", b"1\n")]


@pytest.mark.parametrize(
    ("program", "ended"),
    [
        ("syntax error(", "failed"),
        ("raise ValueError", "failed"),
        ("import sys; sys.exit(3)", "failed"),
        ("import os; os.kill(os.getpid(), 9)", "failed"),
        ("x = bytearray(800 << 20)", "failed"),
        ("import numpy", "failed"),
        ("while True: pass", "time"),
        ("print('x' * 100_000)", "output"),
        ("import time\nwhile True: print('x' * 4000, flush=True)", "output"),
    ],
)
def test_a_bad_end_is_told(engine, program, ended):
    """A program that fails, is too slow, too large or too loud has no output, and a word for why."""
    assert run(engine, program, "x") == [Ran(ended)]


@pytest.mark.parametrize(
    ("program", "ended"),
    [
        ("import os; os._exit(0)", Ran("ok")),
        ("def solve(x): import sys; sys.exit(0)", Ran("ok")),
        ("def other(x): return x", Ran("failed")),
        ("def solve(x): return {1}", Ran("failed")),
        ("def solve(x): return float('nan')", Ran("failed")),
        ("solve = 3", Ran("failed")),
    ],
)
def test_a_call_that_gives_nothing_is_told(engine, program, ended):
    """A program that ends early, or whose function is missing or gives no JSON, gives nothing."""
    assert run(engine, program, "[1]", spec=CALLED) == [ended]


def test_one_that_is_too_slow_is_not_begun_again(engine):
    """After an input on which it took too long a program is not run on the others; before it, what it gave stays."""
    program = "n = int(input())\nwhile n == 2: pass\nprint(n)"
    assert run(engine, program, "1", "2", "3") == [Ran("ok", b"1\n"), Ran("time"), Ran("unrun")]


def test_a_daemon_does_not_meet_the_next_input(engine):
    """Processes that a program leaves behind are ended before its next input, and hold up nobody."""
    program = """\
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait()
running = 0
for name in os.listdir("/proc"):
    try:
        running += name.isdigit() and open(f"/proc/{name}/stat").read().split()[2] != "Z"
    except OSError:
        pass
print(running)"""
    first, second = run(engine, program, "1", "2")
    assert first == second
    assert first.ended == "ok"


def test_what_a_program_leaves_is_gone_for_the_next(engine):
    """A program finds no file that another one has written; its own stay until its last input."""
    program = "import os\nprint('left' in os.listdir('/tmp'))\nopen('/tmp/left', 'w').close()"
    ran = run_programs(engine, BRIEF, [(program, ["x", "y"])] * 2)
    assert list(ran) == [[Ran("ok", b"False\n"), Ran("ok", b"True\n")]] * 2


def test_rows_are_answered_in_their_order(engine, tmp_path):
    """A file of rows is answered by a file of as many, in order."""
    rows = [write_row(f"print({number})", ["x"]) for number in range(5)]
    save_file({ROW: np.stack([np.frombuffer(row, np.uint8) for row in rows])}, tmp_path / "in")
    execute(engine, BRIEF, tmp_path / "in", tmp_path / "out")
    answered = load_file(tmp_path / "out")[RAN]
    assert [BRIEF.unpack(row, 1) for row in answered] == [[Ran("ok", f"{n}\n".encode())] for n in range(5)]


@pytest.mark.parametrize(
    "tensors",
    [{"x": np.zeros((1, 4), np.uint8)}, {ROW: np.zeros((1, 4), np.int64)}, {ROW: np.zeros((1, 256), np.uint8)}],
)
def test_rows_of_something_else_are_refused(engine, tensors, tmp_path):
    """What is no row of a program is the guard's mistake, and told as such."""
    save_file(tensors, tmp_path / "in")
    with pytest.raises(SubjectError):
        execute(engine, BRIEF, tmp_path / "in", tmp_path / "out")


@pytest.mark.skipif(bwrap.find() is None, reason="there is no bubblewrap")
def test_a_fresh_interpreter_comes_to_the_same():
    """Under bubblewrap programs end as they do in a warm process; the first process may be killed, which helps nobody."""
    with LocalEngine(count=1, isolation="bwrap") as cold:
        assert run(cold, "print(input())", "a", "b") == [Ran("ok", b"a\n"), Ran("ok", b"b\n")]
        assert run(cold, "while True: pass", "a") == [Ran("time")]
        assert run(cold, "import os, signal; os.kill(os.getppid(), signal.SIGKILL); print(1)", "a") == [Ran("crashed")]


def test_a_sandbox_that_dies_is_nobodys_score(engine):
    """Where the warm process is killed while a program runs nothing is scored: that is an error, and the next one runs."""
    run(engine, "print(1)", "x")

    def kill():
        time.sleep(0.7)
        os.kill(engine._bare.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(SandboxError, match="could not be run"):
        run(engine, "import time; time.sleep(600)", "x", spec=Execution(seconds=60))
    killer.join()
    assert run(engine, "print(1)", "x") == [Ran("ok", b"1\n")]


class Answering:
    """An engine whose sandboxes all end in one way."""

    def __init__(self, outcome):
        """Answer every job so."""
        self.outcome = outcome

    def submit(self, _job):
        """Answer at once."""
        done: Future[Outcome] = Future()
        done.set_result(self.outcome)
        return done


@pytest.mark.parametrize("status", ["ok", "crashed", "error", "memory", "timeout", "unavailable", "refused"])
def test_a_sandbox_in_which_nothing_runs_right_is_an_error(status, tmp_path):
    """Where a program of our own does not give what it must nothing is scored: all would fail alike."""
    row = np.frombuffer(write_row("print(1)", ["x"]), np.uint8)
    save_file({ROW: row[None]}, tmp_path / "in")
    broken = Outcome(status=status, header={"ended": ["ok"], "sizes": [0]}, wall_seconds=0.1)
    with pytest.raises(SandboxError):
        execute(Answering(broken), BRIEF, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


HEADER = st.dictionaries(
    st.sampled_from(["ended", "sizes", "more"]),
    st.one_of(
        st.none(),
        st.lists(
            st.one_of(st.sampled_from(["ok", "failed", "x"]), st.integers(-2, 9), st.booleans(), st.none()), max_size=3
        ),
        st.text(max_size=3),
    ),
)


@given(
    st.sampled_from(["ok", "error", "timeout", "idle", "memory", "crashed", "oversize"]),
    HEADER,
    st.binary(max_size=12),
    st.integers(1, 3),
)
def test_whatever_a_sandbox_leaves_is_what_became_of_a_program(status, header, output, count):
    """Any header and bytes of hostile code are an ending for each input, and fit a row."""
    outcome = Outcome(status=status, header=header, output=output, wall_seconds=0.1)
    (ran,) = run_programs(Answering(outcome), BRIEF, [("x", ["1"] * count)])
    assert len(ran) == count
    assert BRIEF.unpack(BRIEF.pack(ran), count) == ran


def test_outputs_beyond_what_was_allowed_are_none():
    """A sandbox that says more than its program may is one that was brought down."""
    told = {"ended": ["ok"], "sizes": [2000]}
    outcome = Outcome(status="ok", header=told, output=b"x" * 2000, wall_seconds=0.1)
    assert list(run_programs(Answering(outcome), BRIEF, [("x", ["1"])])) == [[Ran("crashed")]]
