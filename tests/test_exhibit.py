"""Facts about one entry in full: its place in the tree is checked, its blobs are looked for, and its words do nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import paper_run
import pytest
import rigs

from harness.errors import AuditError, ConfigError
from harness.exhibit import entry_page, entry_row, page_text, row_text
from harness.folder import RunFolder
from harness.keys import VerifierChain
from harness.logreader import LogReader
from harness.merkle import leaf_hash, verify_inclusion

HOSTILE = "\x1b[2J\x9b1m\u202e[red]</pre>\nentry 0: forged"


def story(paper):
    """Tell the paper run's story with a label that would act on a terminal."""
    items = paper_run.story(paper)
    next(item for item in items if item.kind == "proposed").body["label"] = HOSTILE
    return items


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Write the run once; tests that change it copy it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        run = tmp_path_factory.mktemp("paper") / "run"
        paper_run.write(run, story)
    return run


@pytest.fixture
def copy(paper, tmp_path):
    """Give a copy of it."""
    return rigs.copy_run(paper, tmp_path / "run")


def raw_of(run, index):
    """Give the bytes of one entry."""
    chain = VerifierChain.load(run / "keys" / "log.pub")
    return next(iter(LogReader.open(run / "log", chain).read(index, index + 1))), chain


def test_an_entry_is_shown_with_its_proof(paper):
    """The page holds what a reader needs to check the entry's place: leaf, hashes, size and root."""
    page = entry_page(RunFolder(paper), 13)
    assert (page["index"], page["kind"], page["time"]) == (13, "authorised", "2026-01-02T03:00:13Z")
    proof = page["proof"]
    assert page["leaf"] == leaf_hash(raw_of(paper, 13)[0]).hex()
    hashes = [bytes.fromhex(each) for each in proof["hashes"]]
    verify_inclusion(bytes.fromhex(page["leaf"]), 13, proof["size"], hashes, bytes.fromhex(proof["root"]))
    assert set(page["subjects"]) == {"candidate", "weights.safetensors"}
    assert page["signer"] == {"name": paper_run.ORIGIN, "key": paper_run.OLD.verifier.key_digest, "place": 0}
    assert page["body"]["version"] == 1


def test_every_entry_of_a_run_whose_guard_was_changed_is_shown(tmp_path):
    """Each has its page, with every blob that it names: of a proposed guard, its policies and how it compares."""
    paper_run.write(tmp_path / "run", paper_run.changing)
    pages = [entry_page(RunFolder(tmp_path / "run"), index) for index in range(78)]
    assert all(blob["state"] == "there" for page in pages for blob in page["blobs"])
    proposed = [page for page in pages if page["kind"] == "guard-proposed"]
    assert len(proposed) == 5
    for page in proposed:
        assert {name for blob in page["blobs"] for name in blob["names"]} == {"policy_sources", "comparison"}
        assert set(page["subjects"]) == {"guard"}


def test_each_blob_is_looked_for(copy):
    """Blobs are listed by the members that name them, as there, missing or damaged."""
    assert entry_page(RunFolder(copy), 1)["blobs"] == []
    blobs = {name: blob for blob in entry_page(RunFolder(copy), 0)["blobs"] for name in blob["names"]}
    assert set(blobs) == {"policy_sources", "answers", "baseline.source", "baseline.weights", "baseline.schema_digest"}
    assert {blob["state"] for blob in blobs.values()} == {"there"}
    assert blobs["baseline.weights"]["bytes"] == 72

    def place(name):
        digits = blobs[name]["digest"].removeprefix("sha256:")
        return copy / "blobs" / "sha256" / digits[:2] / digits

    place("answers").unlink()
    place("policy_sources").chmod(0o600)
    place("policy_sources").write_bytes(b"{}")
    states = {name: b["state"] for b in entry_page(RunFolder(copy), 0)["blobs"] for name in b["names"]}
    assert (states["answers"], states["policy_sources"], states["baseline.source"]) == ("missing", "damaged", "there")


def test_hostile_words_are_text(paper):
    """A label with escapes, marks of direction and newlines is spelt out, on the page and in a row."""
    index = next(i for i in range(27) if entry_page(RunFolder(paper), i)["kind"] == "proposed")
    page = entry_page(RunFolder(paper), index)
    text = page_text(page)
    for shown in (text, row_text(page)):
        assert not {"\x1b", "\x9b", "\u202e", "\r"} & set(shown)
    assert "[red]" in text
    assert [line for line in text.splitlines() if line.startswith("entry ")] == [text.splitlines()[0]]
    assert "\n" not in row_text(page)


@pytest.mark.parametrize("index", [-1, 27, 10**9])
def test_an_entry_that_is_not_there(paper, index):
    """An index outside the log is one clear error that says which there are."""
    with pytest.raises(ConfigError) as caught:
        entry_page(RunFolder(paper), index)
    assert caught.value.remedy == "there are 0 to 26"


def test_a_changed_entry_is_not_shown(copy):
    """What the tree head does not cover is an AuditError."""
    bundle = copy / "log" / "tile" / "entries" / "000.p" / "27"
    data = bytearray(bundle.read_bytes())
    data[20] ^= 1
    bundle.chmod(0o644)
    bundle.write_bytes(data)
    with pytest.raises(AuditError):
        entry_page(RunFolder(copy), 0)


def test_an_entry_by_no_key_of_the_log_is_not_shown(tmp_path, monkeypatch):
    """An entry in the tree that none of the log's keys signed is an AuditError, and in a row it is the problem."""
    monkeypatch.setattr(os, "fsync", lambda _file: None)

    def tell(paper):
        items = paper_run.story(paper)
        items[5].signers = (paper_run.THIEF,)
        return items

    run = tmp_path / "run"
    paper_run.write(run, tell)
    with pytest.raises(AuditError) as caught:
        entry_page(RunFolder(run), 5)
    assert (caught.value.where, caught.value.clause) == ("entry 5", "§5.3")
    raw, chain = raw_of(run, 5)
    assert entry_row(raw, chain, 5)["problem"] == "signed by no key of the log"
    assert "problem" not in entry_row(*raw_of(run, 4), 4)


def lockgate(*arguments):
    """Run the command line."""
    command = [sys.executable, "-m", "harness.cli", "audit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_shows_it(paper):
    """`audit show` prints the page, `--json` one document, and an index that is not there is one line."""
    done = lockgate("show", paper, 13)
    assert done.stdout.startswith("entry 13 of 27: authorised, at 2026-01-02T03:00:13Z\n")
    assert json.loads(lockgate("show", paper, 13, "--json").stdout) == entry_page(RunFolder(paper), 13)
    done = lockgate("show", paper, 27)
    assert (done.returncode, done.stderr.count("\n")) == (1, 2)
