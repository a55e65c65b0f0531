"""Facts about two copies of a trail: the same, longer, shorter or forked, and where, without reading what is before."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import paper_run
import pytest
import rigs
from hypothesis import given
from hypothesis import strategies as st
from paper_run import NEW, ORIGIN

from harness.artifacts import BlobStore
from harness.auditlog import AuditLog
from harness.comparing import _common, compare, since
from harness.errors import AuditError, LockgateError
from harness.folder import RunFolder
from harness.keys import VerifierChain
from harness.logreader import LogReader


def written(place, size=27, change=27):
    """Write the first entries of the paper run; from the index `change` on, at other times."""
    items = paper_run.story(paper_run.Paper(BlobStore(place / "blobs")))[:size]
    for item in items[change:]:
        item.body["time"] = item.body["time"].replace("03:00", "05:00")
    paper_run.write_log(place, items)
    (place / "keys").mkdir()
    VerifierChain.of([paper_run.OLD.verifier]).save(place / "keys" / "log.pub")
    return place


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Write a run, its shorter backup, and forks of it from entry 12 on."""
    root = tmp_path_factory.mktemp("copies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        return {
            "whole": written(root / "whole"),
            "again": written(root / "again"),
            "backup": written(root / "backup", 20),
            "fork": written(root / "fork", change=12),
            "short fork": written(root / "short fork", 14, 12),
            "late fork": written(root / "late fork", change=26),
            "other": written(root / "other", change=0),
        }


CASES = [
    ("whole", "again", "same", 27, []),
    ("backup", "whole", "longer", 20, [("b", n) for n in range(20, 27)]),
    ("whole", "backup", "shorter", 20, [("a", n) for n in range(20, 27)]),
    ("whole", "fork", "forked", 12, [("a", 12), ("b", 12)]),
    ("short fork", "whole", "forked", 12, [("a", 12), ("b", 12)]),
    ("whole", "late fork", "forked", 26, [("a", 26), ("b", 26)]),
    ("whole", "other", "forked", 0, [("a", 0), ("b", 0)]),
]


@pytest.mark.parametrize(("first", "second", "relation", "common", "rows"), CASES)
def test_two_copies_are_told_apart(copies, first, second, relation, common, rows):
    """The relation, the number of common entries, and the entries that one side alone has; of a fork the first two."""
    report = compare(RunFolder(copies[first]), RunFolder(copies[second])).report()
    assert (report["relation"], report["common"]) == (relation, common)
    assert [(row["in"], row["index"]) for row in report["entries"]] == rows
    assert all(row["kind"] != "?" for row in report["entries"])


def test_a_fork_is_shown_from_both_sides(copies):
    """The first entry that differs is told from each copy, in its own words."""
    one, two = compare(RunFolder(copies["whole"]), RunFolder(copies["fork"])).report()["entries"]
    assert (one["time"], two["time"]) == ("2026-01-02T03:00:12Z", "2026-01-02T05:00:12Z")


@given(data=st.data())
def test_the_first_difference_is_found(data, tmp_path_factory):
    """Of two logs of any sizes that part at any entry, the halving finds exactly that entry."""
    sizes = data.draw(st.tuples(st.integers(0, 300), st.integers(0, 300)))
    parting = data.draw(st.integers(0, 300))
    place = tmp_path_factory.mktemp("logs")
    readers = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        for name, size in zip("ab", sizes, strict=True):
            with AuditLog.create(place / name, NEW, ORIGIN) as log:
                if size:
                    log.append([f"{name if at >= parting else ''}{at}".encode() for at in range(size)])
            readers.append(LogReader.open(place / name, NEW.verifier))
    assert _common(*readers, min(sizes)) == min(*sizes, parting)


def test_what_is_new_since_a_head(copies, tmp_path):
    """Against a head that the reader holds, the entries after it are told; of the newest head, none."""
    head = tmp_path / "head"
    head.write_bytes((copies["backup"] / "log" / "checkpoint").read_bytes())
    report = since(RunFolder(copies["whole"]), head).report()
    assert (report["relation"], report["common"], report["sizes"]) == ("longer", 20, [20, 27])
    assert [(row["in"], row["index"]) for row in report["entries"]] == [("b", n) for n in range(20, 27)]
    assert since(RunFolder(copies["backup"]), head).report()["relation"] == "same"


def test_a_head_that_is_not_extended_is_refused(copies, tmp_path):
    """A trail that was cut, or forked, since the head that the reader holds is an AuditError with the clause."""
    for held, now, words in (
        ("whole", "backup", "cut"),
        ("fork", "whole", "rewritten"),
        ("short fork", "whole", "rew"),
    ):
        head = tmp_path / "head"
        head.write_bytes((copies[held] / "log" / "checkpoint").read_bytes())
        with pytest.raises(AuditError, match=words) as caught:
            since(RunFolder(copies[now]), head)
        assert caught.value.clause == "§11.1"
    head.write_bytes(b"no head\n")
    with pytest.raises(AuditError):
        since(RunFolder(copies["whole"]), head)
    with pytest.raises(LockgateError):
        since(RunFolder(copies["whole"]), tmp_path / "nothing")


def test_a_copy_that_does_not_hold_together_is_refused(copies, tmp_path):
    """A copy with a changed byte is no fork, but an AuditError: its own head does not cover it."""
    broken = rigs.copy_run(copies["whole"], tmp_path / "broken")
    tile = broken / "log" / "tile" / "0" / "000.p" / "27"
    data = bytearray(tile.read_bytes())
    data[0] ^= 1
    tile.chmod(0o644)
    tile.write_bytes(data)
    with pytest.raises(AuditError):
        compare(RunFolder(copies["whole"]), RunFolder(broken))


def lockgate(*arguments):
    """Run the command line; give exit code and output."""
    command = [sys.executable, "-m", "harness.cli", "audit", "diff", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_the_command_tells_a_fork_by_its_exit_code(copies, tmp_path):
    """`audit diff` exits 0 where one copy extends the other, 5 for a fork, and 2 unless it has one thing to compare."""
    code, out = lockgate(copies["backup"], copies["whole"])
    assert (code, len(out.splitlines())) == (0, 8)
    assert out.startswith("the second has the first's 20 entries, and 7 more\n+    20  2026-01-02T03:00:20")
    code, out = lockgate(copies["whole"], copies["fork"], "--json")
    assert (code, json.loads(out)["relation"]) == (5, "forked")
    head = tmp_path / "head"
    head.write_bytes((copies["backup"] / "log" / "checkpoint").read_bytes())
    assert lockgate(copies["whole"], "--since", head)[0] == 0
    assert lockgate(copies["whole"])[0] == 2
    assert lockgate(copies["whole"], copies["fork"], "--since", head)[0] == 2
