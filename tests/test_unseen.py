"""Facts about what may change without any verifier's noticing: every item of FORMAT §12.4, and its nearest neighbours.

Both verifiers are asked of the whole run, before and after: verdict and all that is said to be verified stay the same.
What is beside an item and not in the list is refused by both. tests/test_verify_bytes.py tries every byte of a run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import paper_run
import pytest
import two_verifiers as two
from paper_run import NEW, OLD, THIEF

from harness.auditlog import AuditLog
from harness.notes import TreeHead, sign_head


@pytest.fixture(scope="module")
def whole():
    """Write the paper run and the reader's key once, in memory."""
    with tempfile.TemporaryDirectory(dir=two.in_memory()) as folder, two.remembered():
        place = Path(folder)
        paper_run.write(place / "run")
        for path in (place / "run").rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(0o644)
        (place / "key").write_text(f"{OLD.verifier.vkey}\n")
        yield place


@pytest.fixture
def place(whole):
    """Give a copy to be changed."""
    with tempfile.TemporaryDirectory(dir=two.in_memory()) as folder:
        shutil.copytree(whole, Path(folder) / "copy", symlinks=True)
        yield Path(folder) / "copy"


def ask(place):
    """Ask both for everything; they agree on the verdict and on all that they say is verified."""
    script, harness = (
        two.by_script(place / "run", "--key", str(place / "key")),
        two.by_harness(place / "run", place / "key"),
    )
    assert (script.code, script.verdict, script.content) == (harness.code, harness.verdict, harness.content)
    return script


def add(run, name, data=b"whatever"):
    """Put a file where there is none."""
    path = run / name
    assert not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def line_of(run, signer):
    """Sign the run's head; give the signature line alone."""
    note = (run / "log/checkpoint").read_bytes()
    head = TreeHead.parse(note.partition(b"\n\n")[0].decode() + "\n")
    return sign_head(head, signer).rpartition(b"\n\n")[2]


def append(path, data):
    """Write more at the end of a file."""
    path.write_bytes(path.read_bytes() + data)


def stranger(run):
    """A line by an unknown key on the head, and one of the log's name."""
    append(run / "log/checkpoint", line_of(run, paper_run.Signer.from_seed("stranger", bytes(32))))
    append(run / "log/checkpoint", line_of(run, THIEF))


def stranger_on_a_proof(run):
    """The same on the head in a version's proof."""
    append(run / "models/1/authorisation.proof", line_of(run, paper_run.Signer.from_seed("stranger", bytes(32))))


def turned_lines(run):
    """Signature lines in another order, and one of them twice."""
    text, _, line = (run / "log/checkpoint").read_bytes().rpartition(b"\n\n")
    other = line_of(run, paper_run.Signer.from_seed("stranger", bytes(32)))
    (run / "log/checkpoint").write_bytes(text + b"\n\n" + other + line + line)


def spare_line(run):
    """A whole line by a known key that is not asked for."""
    more_keys(run)
    append(run / "log/checkpoint", line_of(run, NEW))


def superseded(run):
    """Narrower tiles and bundles than the head needs, of any bytes."""
    add(run, "log/tile/0/000.p/9")
    add(run, "log/tile/entries/000.p/26", b"")


def wider(run):
    """Wider ones beside those that the head needs: a writer has gone on."""
    add(run, "log/tile/0/000.p/200")
    add(run, "log/tile/entries/000.p/28")
    add(run, "log/tile/0/000")


def behind_the_front(run):
    """What stands in a wider tile behind the front that the head needs."""
    size = (run / "log/checkpoint").read_bytes().split(b"\n")[1].decode()
    for part in ("0", "entries"):
        path = run / "log/tile" / part / "000.p" / size
        append(path, b"whatever" * 4)
        path.rename(path.with_name("100"))


def beyond(run):
    """Tiles beyond the head, and levels that a tree of its size does not have."""
    add(run, "log/tile/0/001.p/7")
    add(run, "log/tile/entries/001")
    add(run, "log/tile/3/000.p/1")


def other_names_in_the_log(run):
    """Names in the log's folders that no tile has."""
    add(run, "log/notes.txt")
    add(run, "log/tile/0/000.p/027")
    add(run, "log/tile/0/000.p/x")


def more_keys(run):
    """A line after the chain."""
    append(run / "keys/log.pub", f"{NEW.verifier.vkey}\n".encode())


def no_newline(run):
    """The last newline of the keys."""
    path = run / "keys/log.pub"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))


def no_keys(run):
    """All of the list of keys, for a reader with a key of their own."""
    (run / "keys/log.pub").unlink()


def unnamed_blobs(run):
    """Blobs that no entry names, damaged ones among them, and whatever else lies among the blobs."""
    add(run, f"blobs/sha256/ab/{'ab' * 32}")
    add(run, "blobs/sha256/zz/x")
    add(run, "blobs/notes.txt")


def other_versions(run):
    """Whatever lies beside the versions."""
    add(run, "models/2/weights.safetensors")
    add(run, "models/.staging-2/x")
    add(run, "models/01/x")
    add(run, "models/notes.txt")


def empty_folders(run):
    """Empty folders below a source tree."""
    (run / "models/1/source/empty/empty").mkdir(parents=True)


def another_proof(run):
    """A proof of the same entry under another signed head of the log."""
    size = int((run / "log/checkpoint").read_bytes().split(b"\n")[1])
    before = (run / "models/1/authorisation.proof").read_bytes()
    with tempfile.TemporaryDirectory(dir=two.in_memory()) as other:
        items = paper_run.story(paper_run.Paper(paper_run.BlobStore(Path(other) / "blobs")))
        index = next(place for place, item in enumerate(items) if item.kind == "authorised")
        paper_run.write_log(Path(other), items[: size - 3])
        with AuditLog.open(Path(other) / "log", OLD) as log:
            (run / "models/1/authorisation.proof").write_bytes(log.prove(index).encode())
    assert (run / "models/1/authorisation.proof").read_bytes() != before


def outside(run):
    """What is no part of the trail."""
    for name in ("HALT", "lock", "private/x", "work/x", "keys/own.pub", "notes.txt"):
        add(run, name)


def times_and_modes(run):
    """Times and modes of files and folders."""
    for path in run.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o444)
            os.utime(path, (0, 0))


UNSEEN = [
    stranger, stranger_on_a_proof, turned_lines, spare_line, superseded, wider, behind_the_front, beyond, other_names_in_the_log,
    more_keys, no_newline, no_keys, unnamed_blobs, other_versions, empty_folders, another_proof, outside, times_and_modes,
]  # fmt: skip


@pytest.mark.parametrize("change", UNSEEN, ids=lambda change: change.__name__)
def test_what_may_change_unseen(place, change):
    """Verdict and verified content of both verifiers are what they were."""
    plain = ask(place)
    assert plain.code == 0
    change(place / "run")
    assert ask(place) == plain


def test_all_of_it_at_once(place):
    """All items together change nothing that either verifier says."""
    plain = ask(place)
    for change in UNSEEN:
        if change not in (
            no_newline,
            no_keys,
            behind_the_front,
            turned_lines,
            spare_line,
        ):  # each of these excludes another
            change(place / "run")
    assert ask(place) == plain


def known_line(run):
    """A second line under the log's own key that does not verify."""
    line = line_of(run, OLD)
    append(run / "log/checkpoint", line[:-12] + (b"A" if line[-12:-11] != b"A" else b"B") + line[-11:])


def no_line(run):
    """A line that is no signature line."""
    append(run / "log/checkpoint", b"whatever\n")


def front_of_a_wider_one(run):
    """A wider tile whose front is another."""
    behind_the_front(run)
    path = run / "log/tile/0/000.p/100"
    path.write_bytes(b"x" + path.read_bytes()[1:])


def key_before(run):
    """A line before the chain."""
    path = run / "keys/log.pub"
    path.write_bytes(f"{NEW.verifier.vkey}\n".encode() + path.read_bytes())


def key_that_is_none(run):
    """A line after the chain that is no key."""
    append(run / "keys/log.pub", b"whatever\n")


def named_blob(run):
    """A blob that an entry names."""
    append(next(path for path in sorted((run / "blobs").rglob("*")) if path.is_file()), b"x")


def file_in_a_version(run):
    """A file more in the folder of a version."""
    add(run, "models/0/notes.txt")


def empty_folder_in_a_version(run):
    """An empty folder beside a version's source."""
    (run / "models/0/empty").mkdir()


def file_in_a_source(run):
    """An empty file in a source tree."""
    add(run, "models/0/source/empty/__init__.py", b"")


def proof_of_another_entry(run):
    """A whole proof, of another entry."""
    shutil.copy(run / "models/0/authorisation.proof", run / "models/1/authorisation.proof")


SEEN = [
    known_line, no_line, front_of_a_wider_one, key_before, key_that_is_none, named_blob, file_in_a_version,
    empty_folder_in_a_version, file_in_a_source, proof_of_another_entry,
]  # fmt: skip


@pytest.mark.parametrize("change", SEEN, ids=lambda change: change.__name__)
def test_what_lies_beside_it_is_seen(place, change):
    """The nearest neighbour of each item, which is not in the list, is refused by both verifiers."""
    change(place / "run")
    assert ask(place).verdict == "invalid"
