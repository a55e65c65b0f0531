"""Power cuts, by model: every disk state that POSIX allows after a cut at any call is built and opened.

The writer runs once while its calls are recorded. From each prefix of the record, states are made: bytes
that no fsync covered may be there or lost; names that no fsync of their folder covered may be there or
not, each by itself. (Compare ALICE, OSDI 2014.) The checker is checked too: writers with one seeded mistake
each must be caught.

Not covered: a file that keeps some unsynced bytes and loses others; a disk that lies.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from harness import auditlog, durable
from harness.auditlog import AuditLog, check_log
from harness.errors import AuditError
from harness.keys import Signer

SIGNER = Signer.from_seed("example.org/run", bytes(32))
GROUPS = [[b"a"], [b"b", b"c"], [b"%d" % number for number in range(254)], [b"z"]]


class Recorder:
    """Stands before `os`, does what it is asked, and keeps what a disk would need to know."""

    def __init__(self, root, patch):
        """Record calls below `root` for as long as `patch` lasts."""
        self.root, self.events, self.paths = str(root), [], {}
        real = {
            name: getattr(os, name)
            for name in ("open", "close", "write", "fsync", "rename", "mkdir", "unlink", "rmdir")
        }

        def opened(path, flags, *args, **kwargs):
            file = real["open"](path, flags, *args, **kwargs)
            self.paths[file] = str(path)
            if flags & os.O_CREAT:
                self.note("create", path)
            elif flags & os.O_WRONLY and not flags & os.O_APPEND:
                raise NotImplementedError("the model knows no writing to an old file")
            return file

        def renamed(old, new):
            real["rename"](old, new)
            self.note("rename", old, new)
            self.paths.update({file: str(new) for file, path in self.paths.items() if path == str(old)})

        def written(file, data):
            count = real["write"](file, data)
            self.note("write", self.paths[file], bytes(data[:count]))
            return count

        def closed(file):
            self.paths.pop(file, None)
            real["close"](file)

        def named(name):
            def call(*paths, **kwargs):
                real[name](*paths, **kwargs)
                self.note(name, *paths[:1])

            return call

        patch.setattr(os, "open", opened)
        patch.setattr(os, "write", written)
        patch.setattr(os, "close", closed)
        patch.setattr(os, "fsync", lambda file: self.note("fsync", self.paths[file]))
        patch.setattr(os, "rename", renamed)
        for name in ("mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, named(name))

    def note(self, call, path, *rest):
        """Keep one call, paths relative to the root; others' files are not ours."""
        if str(path).startswith(self.root):
            rest = [str(other)[len(self.root) + 1 :] if isinstance(other, str | Path) else other for other in rest]
            self.events.append((call, str(path)[len(self.root) + 1 :], *rest))


class Disk:
    """What a disk may hold: files by number, the names there are, and changes of names that may be lost."""

    def __init__(self, folders):
        """Begin with empty folders that are durable."""
        self.files, self.synced = {}, {}
        self.names = dict.fromkeys(folders)
        self.durable = dict(self.names)
        self.pending = []  # (path, file or None for a folder, or "gone")

    def play(self, event):
        """Take in one recorded call."""
        call, path, *rest = event
        if call == "create":
            number = len(self.files)
            self.files[number], self.synced[number] = b"", b""
            self.change((path, number))
        elif call == "write":
            self.files[self.names[path]] += rest[0]
        elif call == "fsync" and self.names[path] is None:
            done = [change for change in self.pending if change[0][0].rpartition("/")[0] == path]
            for change in done:
                self.pending.remove(change)
                self.apply(self.durable, change)
        elif call == "fsync":
            self.synced[self.names[path]] = self.files[self.names[path]]
        elif call == "mkdir":
            self.change((path, None))
        elif call == "rename":
            self.change((rest[0], self.names[path]), (path, "gone"))
        else:
            self.change((path, "gone"))

    def change(self, *steps):
        """Change names at once; on the disk they wait for an fsync of the folder."""
        self.apply(self.names, steps)
        self.pending.append(steps)

    @staticmethod
    def apply(names, steps):
        """Make one atomic change of names."""
        for path, what in steps:
            if what == "gone":
                names.pop(path, None)
            else:
                names[path] = what

    def states(self):
        """Yield each possible content: {path: bytes, or None for a folder}."""
        some = range(len(self.pending) + 1) if len(self.pending) <= 4 else (0, 1, len(self.pending))
        for count in some:
            for kept in itertools.combinations(self.pending, count):
                names = dict(self.durable)
                for change in kept:
                    self.apply(names, change)
                reachable = {
                    p: w
                    for p, w in names.items()
                    if not p or all(str(up) in names for up in Path(p).parents if str(up) != ".")
                }
                for files in (self.files, self.synced):
                    yield {path: what if what is None else files[what] for path, what in reachable.items()}


def record(root):
    """Run the writer over GROUPS; return the calls, and how many entries were acknowledged after how many calls."""
    with AuditLog.create(root / "log", SIGNER, "example.org/run"):
        pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "_made", set())
        log = AuditLog.open(root / "log", SIGNER)
        recorder, acknowledged = Recorder(root / "log", patch), [(0, 0)]
        for group in GROUPS:
            log.append(group)
            acknowledged.append((len(recorder.events), log.size))
    log.close()
    return recorder.events, acknowledged


def bad_states(root):
    """Count the states after a cut in which the log does not open, or has lost or torn something; and all states."""
    (root / "start").mkdir(parents=True)
    events, acknowledged = record(root / "start")
    with AuditLog.create(root / "empty" / "log", SIGNER, "example.org/run") as log:
        head = log.head
    entries = [entry for group in GROUPS for entry in group]
    ends = [size for _, size in acknowledged]
    disk, seen, bad, total = Disk([""]), set(), 0, 0
    disk.files[0] = disk.synced[0] = head
    disk.names["checkpoint"] = disk.durable["checkpoint"] = 0
    for played in range(len(events) + 1):
        if played:
            disk.play(events[played - 1])
        promised = max(size for calls, size in acknowledged if calls <= played)
        for state in disk.states():
            key = (promised, frozenset(state.items()))
            if key in seen:
                continue
            seen.add(key)
            total += 1
            folder = root / "state"
            for path, data in sorted(state.items()):
                target = folder / path
                if data is None:
                    target.mkdir()
                else:
                    target.write_bytes(data)
            try:
                with AuditLog.open(folder, SIGNER) as log:
                    held = list(log.read())
                    fine = len(held) >= promised and len(held) in ends and held == entries[: len(held)]
                    log.append([b"after"])
                check_log(folder, SIGNER.verifier)
            except AuditError:
                fine = False
            bad += not fine
            shutil.rmtree(folder)
    return bad, total


@pytest.fixture
def tmp_path():
    """Give a folder in memory where there is one: thousands of small files, none of which need last."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Skip the real fsync: the model decides what it is good for."""
    monkeypatch.setattr(os, "fsync", lambda _file: None)


def test_no_power_cut_loses_or_tears_what_was_acknowledged(tmp_path):
    """In every state after every cut, the log opens, holds all acknowledged groups and no torn one, and goes on."""
    bad, total = bad_states(tmp_path)
    assert total > 80
    assert bad == 0


def unsynced_file(path, data, *, mode=0o444):
    """Write without fsync of the file: a mistake."""
    temporary = path.with_name(".tmp-x")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    os.write(file, data)
    os.close(file)
    temporary.rename(path)
    durable.sync_directory(path.parent)


def unsynced_folder(path, data, *, mode=0o444):
    """Write without fsync of the folder: a mistake."""
    temporary = path.with_name(".tmp-x")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    os.write(file, data)
    os.fsync(file)
    os.close(file)
    temporary.rename(path)


def in_place(path, data, *, mode=0o444):
    """Write over the name itself: a mistake."""
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    os.write(file, data)
    os.fsync(file)
    os.close(file)
    durable.sync_directory(path.parent)


MISTAKES = [unsynced_file, unsynced_folder, in_place]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_writer_of_heads_with_a_mistake_is_caught(tmp_path, monkeypatch, mistake):
    """The model tells a right writer from one without an fsync of the head, or of its folder, or without the rename."""
    monkeypatch.setattr(auditlog, "write_durably", mistake)
    bad, _ = bad_states(tmp_path)
    assert bad > 0


@pytest.mark.parametrize("mistake", MISTAKES[:2])
def test_a_writer_of_tiles_with_a_mistake_is_caught(tmp_path, monkeypatch, mistake):
    """The model tells a right writer from one without an fsync of tiles, or of their folders."""

    def each(files, *, mode):
        for path, data in files:
            mistake(path, data, mode=mode)

    monkeypatch.setattr(auditlog, "write_together", each)
    bad, _ = bad_states(tmp_path)
    assert bad > 0


@pytest.mark.parametrize("which", ["first", "last"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_group_that_syncs_all_but_one_is_caught(tmp_path, monkeypatch, what, which):
    """The model sees a single file or folder of a group that was left out."""

    def left_out(files, *, mode):
        odd = files[0 if which == "first" else -1]
        rest = [each for each in files if each is not odd]
        if what == "folder":
            rest = [each for each in rest if each[0].parent != odd[0].parent]
        durable.write_together(rest, mode=mode)
        (unsynced_file if what == "file" else unsynced_folder)(*odd, mode=mode)

    monkeypatch.setattr(auditlog, "write_together", left_out)
    bad, _ = bad_states(tmp_path)
    assert bad > 0


def test_a_writer_that_makes_folders_carelessly_is_caught(tmp_path, monkeypatch):
    """The model sees a new folder whose own name was never synced."""
    monkeypatch.setattr(auditlog, "make_directory", lambda path, **_: path.mkdir(parents=True, exist_ok=True))
    bad, _ = bad_states(tmp_path)
    assert bad > 0


def test_a_head_before_its_tiles_is_caught(tmp_path, monkeypatch):
    """The model sees a head that becomes durable before what it covers."""
    waiting = []

    def late(files, *, mode):
        for path, data in files:
            unsynced_file(path, data, mode=mode)  # readable, but not durable
        waiting.extend(files)

    def early(path, data, *, mode):
        durable.write_durably(path, data, mode=mode)
        durable.write_together(waiting)
        waiting.clear()

    monkeypatch.setattr(auditlog, "write_together", late)
    monkeypatch.setattr(auditlog, "write_durably", early)
    bad, _ = bad_states(tmp_path)
    assert bad > 0
