"""A verifier that nobody here wrote, golang.org/x/mod's note and tlog, reads the logs that our code writes."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from harness.auditlog import AuditLog
from harness.keys import Signer
from harness.merkle import leaf_hash, verify_consistency, verify_inclusion
from harness.notes import TreeHead, open_head, sign_head

SOURCE = Path(__file__).parent / "auditverify"
LIBRARY = Path("/usr/share/gocode")  # where Debian puts Go sources
ORIGIN = "example.org/run"
SIGNER, THIEF = (Signer.from_seed(ORIGIN, bytes([number] * 32)) for number in (0, 1))
SIZES = [1, 255, 256, 257, 700]


@pytest.fixture(scope="session")
def verifier(tmp_path_factory):
    """Build the Go program once; return what runs it: (log, key, older head) → (exit code, report, stderr)."""
    if shutil.which("go") is None or not (LIBRARY / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.skip("needs Debian's golang-go and golang-golang-x-mod-dev")
    folder = tmp_path_factory.mktemp("go")
    shutil.copytree(SOURCE, folder / "src" / "auditverify")
    settings = {"GO111MODULE": "off", "GOPATH": f"{folder}:{LIBRARY}", "GOFLAGS": "", "CGO_ENABLED": "0"}
    settings["GOCACHE"] = str(folder / "cache")
    binary = folder / "auditverify"
    built = subprocess.run(
        ["go", "build", "-o", str(binary), "auditverify"],
        env={**os.environ, **settings}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr

    def run(*arguments):
        done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, json.loads(done.stdout) if done.returncode == 0 else None, done.stderr

    return run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write a log of 700 in several groups, its key, and the head after each group."""
    folder = tmp_path_factory.mktemp("log")
    entries = [b"entry %d" % number * (number % 7) for number in range(SIZES[-1])]
    with AuditLog.create(folder / "log", SIGNER, ORIGIN) as log:
        for start, stop in pairwise([0, *SIZES]):
            log.append(entries[start:stop])
            (folder / f"head-{stop}").write_bytes(log.head)
    SIGNER.verifier.save(folder / "log.pub")
    return folder, entries


@pytest.fixture
def copied(written, tmp_path):
    """Give a copy of that log that a test may spoil."""
    shutil.copytree(written[0], tmp_path / "copy")
    return tmp_path / "copy"


def refused(result, words):
    """Require a refusal, and that it is for the reason meant."""
    code, _, errors = result
    assert code == 1
    assert re.search(words, errors), errors


@pytest.mark.parametrize("size", SIZES)
def test_go_accepts_our_log_and_we_accept_its_proofs(verifier, written, size):
    """Go verifies head, tiles, leaves, inclusion and consistency; the proofs that it makes hold here, too."""
    folder, entries = written
    code, report, errors = verifier(folder / "log", folder / "log.pub", folder / f"head-{size}")
    assert code == 0, errors
    head = open_head((folder / "log" / "checkpoint").read_bytes(), SIGNER.verifier)
    before = open_head((folder / f"head-{size}").read_bytes(), SIGNER.verifier)
    assert (report["size"], base64.b64decode(report["root"]), report["old"]) == (head.size, head.root, size)
    assert report["tiles"] == 4
    assert len(report["inclusion"]) == len(entries)
    for index, proof in enumerate(report["inclusion"]):
        hashes = [base64.b64decode(each) for each in proof or []]
        verify_inclusion(leaf_hash(entries[index]), index, head.size, hashes, head.root)
    hashes = [base64.b64decode(each) for each in report["consistency"] or []]
    verify_consistency(before.size, head.size, hashes, before.root, head.root)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tile/entries/000", "entry"),
        ("tile/entries/002.p/188", "entry"),
        ("tile/0/001", "inconsistent|invalid transparency proof"),
        ("tile/1/000.p/2", "inconsistent"),
    ],
)
def test_go_refuses_a_flipped_bit(verifier, copied, name, words):
    """One bit of an entry or of a tile is enough."""
    path = copied / "log" / name
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    refused(verifier(copied / "log", copied / "log.pub"), words)


def test_go_refuses_another_root(verifier, copied):
    """A head that is well signed and names another root is not this log's."""
    (copied / "log" / "checkpoint").write_bytes(sign_head(TreeHead(ORIGIN, SIZES[-1], b"\x07" * 32), SIGNER))
    refused(verifier(copied / "log", copied / "log.pub"), "inconsistent")


def test_go_refuses_another_key(verifier, copied):
    """A key of the same name that did not sign the head opens nothing."""
    THIEF.verifier.save(copied / "other.pub")
    refused(verifier(copied / "log", copied / "other.pub"), "no verifiable signatures")


def test_go_refuses_a_forked_head(verifier, copied):
    """An older head that is signed by the key, but of another history, is not extended."""
    (copied / "forked").write_bytes(sign_head(TreeHead(ORIGIN, 256, b"\x07" * 32), SIGNER))
    refused(verifier(copied / "log", copied / "log.pub", copied / "forked"), "history was rewritten")


def test_go_refuses_a_cut_log(verifier, copied):
    """A log put back to an earlier head is shorter than the head that is held."""
    shutil.copy(copied / "head-257", copied / "log" / "checkpoint")
    refused(verifier(copied / "log", copied / "log.pub", copied / "head-700"), "cut")
