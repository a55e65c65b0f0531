"""Facts about durable writes."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys

import pytest

from harness.durable import TEMPORARY, make_directory, sync_directory, write_durably, write_together


def test_bytes_and_mode(tmp_path):
    """The file has all the bytes and exactly the mode, whatever the umask."""
    old = os.umask(0o077)
    try:
        write_durably(tmp_path / "x", iter([b"a", b"", b"bc"]), mode=0o444)
    finally:
        os.umask(old)
    assert (tmp_path / "x").read_bytes() == b"abc"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o444


def test_short_writes_are_continued(tmp_path, monkeypatch):
    """A kernel that takes a byte at a time still gets all of them."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, bytes(data[:1])))
    write_durably(tmp_path / "x", b"hello")
    assert (tmp_path / "x").read_bytes() == b"hello"


def test_the_order_of_the_calls(tmp_path, monkeypatch):
    """The file is synced before the rename, and the directory after it."""
    calls = []

    def spy(name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            directory = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            calls.append("sync directory" if directory else name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("write", "fsync", "rename"):
        spy(name)
    write_durably(tmp_path / "x", b"1")
    assert calls == ["write", "fsync", "rename", "sync directory"]


@pytest.mark.parametrize("name", ["write", "fsync", "rename"])
def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch, name):
    """When any call fails, the error is passed on, the old bytes stay and no temporary file does."""
    write_durably(tmp_path / "x", b"old")

    def fail(*_args, **_kwargs):
        raise OSError(5, "EIO")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="EIO"):
        write_durably(tmp_path / "x", b"new")
    monkeypatch.undo()
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_iterator_that_raises_writes_nothing(tmp_path):
    """An error from the pieces is passed on and nothing appears."""

    def pieces():
        yield b"a"
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_durably(tmp_path / "x", pieces())
    assert list(tmp_path.iterdir()) == []


def test_without_replace_the_first_stays(tmp_path):
    """Without `replace`, a taken name is FileExistsError, and the bytes there stay."""
    write_durably(tmp_path / "x", b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "x", b"second", replace=False)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"first"


def test_a_link_at_the_target_is_replaced_not_followed(tmp_path):
    """A symbolic link at the target is replaced; what it names is untouched."""
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "x").symlink_to("secret")
    write_durably(tmp_path / "x", b"new")
    assert (tmp_path / "secret").read_bytes() == b"s"
    assert not (tmp_path / "x").is_symlink()


def test_every_new_directory_is_synced_into_its_parent(tmp_path, monkeypatch):
    """Each directory that is made is made durable in its parent; with `below`, those that were there too."""
    synced = []
    monkeypatch.setattr("harness.durable.sync_directory", synced.append)
    make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    (tmp_path / "c" / "d").mkdir(parents=True)
    synced.clear()
    make_directory(tmp_path / "c" / "d")
    assert synced == []
    make_directory(tmp_path / "c" / "d", below=tmp_path)
    assert synced == [tmp_path, tmp_path / "c"]
    make_directory(tmp_path / "c" / "d", below=tmp_path)
    assert len(synced) == 2


def test_a_removed_directory_is_made_again(tmp_path):
    """A directory that was made, and removed by somebody, is made again."""
    make_directory(tmp_path / "a", below=tmp_path)
    (tmp_path / "a").rmdir()
    make_directory(tmp_path / "a", below=tmp_path)
    assert (tmp_path / "a").is_dir()


def test_syncing_a_file_as_a_directory_fails(tmp_path):
    """What is no directory is an OSError."""
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        sync_directory(tmp_path / "x")
    assert TEMPORARY.startswith(".")


WATCHER = """
import pathlib, sys
paths, size = [pathlib.Path(path) for path in sys.argv[2:]], int(sys.argv[1])
last, changes = {}, 0
while changes < 300:
    for path in paths:
        data = path.read_bytes()
        if len(data) != size or data != data[:1] * size:
            sys.exit(f"torn: {len(data)} bytes, {len(set(data))} different")
        changes += last.get(path) not in (None, data[:1])
        last[path] = data[:1]
"""


def watched(folder, write):
    """Let `write` replace two files until a reader in a process of its own met 300 changes or a torn file; its exit."""
    size, paths = 1 << 18, [folder / "a", folder / "b"]
    letters = itertools.cycle(b"abcdefgh")
    for path in paths:
        path.write_bytes(b"h" * size)
    command = [sys.executable, "-c", WATCHER, str(size), *map(str, paths)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as reader:
        while reader.poll() is None:
            write([(path, bytes([letter]) * size) for path, letter in zip(paths, letters, strict=False)])
        return reader.returncode, reader.stderr.read()


def in_place(files):
    """Write over the files themselves: a mistake."""
    for path, data in files:
        path.write_bytes(data)


@pytest.mark.usefixtures("quick_disk")
def test_a_reader_beside_a_writer_meets_whole_files(tmp_path):
    """While files are replaced again and again, a reader in another process finds each there, and whole, at every look."""
    assert watched(tmp_path, write_together) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_reader_beside_a_writer_in_place_meets_torn_ones(tmp_path):
    """The same reader does catch a writer that writes in place: the fact above can fail."""
    code, told = watched(tmp_path, in_place)
    assert code == 1
    assert "torn" in told
