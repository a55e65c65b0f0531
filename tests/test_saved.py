"""Facts about verifying from where the last verification ended: the same verdict, at the price of what is new."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import paper_run
import pytest
import rigs
import two_verifiers as two

from harness import journal, saved
from harness.auditing import verify_run
from harness.canonical import canonical_bytes, digest
from harness.errors import AuditError, LockgateError, StateError
from harness.folder import RunFolder
from harness.keys import VerifierChain
from harness.logreader import LogReader

SIZES = [size for size in range(1, 29) if size != 14]
"""Not under an authorisation without its intent: the paper run's link is already moved there."""


def longer(paper):
    """The story with a rotation of keys in it, and a word of the operator's at its end."""
    told = [*paper_run.story(paper), paper_run.rotation()]
    return [*told, paper_run.Item("halted", {"time": "2026-01-02T05:00:00Z", "by": "operator", "reason": "a look"})]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Write the run as it was at every size, and as it ended, with the reader's copy of its key."""
    place = tmp_path_factory.mktemp("runs")
    VerifierChain.of([paper_run.OLD.verifier]).save(place / "key")
    for size in SIZES:
        paper_run.write(place / str(size), lambda paper, size=size: longer(paper)[:size])
    paper_run.write(place / "whole", longer)
    return place


def verified(runs, run, **more):
    """Verify a run with the reader's copy of the key."""
    return verify_run(RunFolder(runs / str(run)), runs / "key", **more)


def reader(runs, run):
    """Open a run's log."""
    folder = RunFolder(runs / str(run))
    return LogReader.open(folder.log, VerifierChain.load(folder.public_key))


@pytest.fixture(scope="module")
def seen(runs):
    """Save where the verification ended at every size."""
    for size in SIZES:
        verified(runs, size, save=runs / f"seen-{size}")
    return runs


@pytest.mark.parametrize("size", SIZES)
def test_the_verdict_is_that_of_the_whole(seen, size):
    """From any size on, verdict, summary and all that is told are those of a full verification; blobs are fewer."""
    whole, since = verified(seen, "whole"), verified(seen, "whole", since=seen / f"seen-{size}")
    assert since.pop("blobs") < whole.pop("blobs")
    assert since == whole


@pytest.mark.parametrize("size", SIZES)
def test_both_verifiers_write_the_same_file(seen, tmp_path, size):
    """What the other verifier saves is the same, byte for byte, and what either saved the other goes on from."""
    by_script = two.by_script(seen / str(size), "--key", str(seen / "key"), "--save", str(tmp_path / "theirs"))
    assert by_script.code == 0
    assert (tmp_path / "theirs").read_bytes() == (seen / f"seen-{size}").read_bytes()
    assert two.by_script(seen / "whole", "--key", str(seen / "key"), "--since", str(seen / f"seen-{size}")).code == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_file_comes_back_as_it_was(seen, tmp_path, size):
    """Loaded and saved again, a file has the same bytes."""
    order, note = saved.load(seen / f"seen-{size}")
    assert order.size == size
    assert note == reader(seen, size).head
    saved.save(tmp_path / "again", order, reader(seen, size))
    assert (tmp_path / "again").read_bytes() == (seen / f"seen-{size}").read_bytes()


@pytest.mark.parametrize(
    ("tell", "people"),
    [
        (paper_run.asking, paper_run.ASKED),
        (paper_run.changing, paper_run.LISTED),
        (paper_run.reaching, paper_run.LISTED),
    ],
    ids=("asking", "changing", "reaching"),
)
def test_a_run_that_asks_people_is_saved_alike_at_every_size(tmp_path, tell, people):
    """Open holds and changes of the guard, and their answers: both verifiers save the same bytes, and go on alike."""
    key, listed = tmp_path / "key", tmp_path / "listed"
    VerifierChain.of([paper_run.OLD.verifier]).save(key)
    listed.write_text("".join(person.line for person in people))
    told = tell(paper_run.write(tmp_path / "whole", tell))
    words = ("--key", str(key), "--approvers", str(listed))
    whole = two.by_script(tmp_path / "whole", *words)
    for size in range(1, len(told) + 1):
        if told[size - 1].kind == "authorised":
            continue  # the paper run's link is already moved there
        run, ours, theirs = (tmp_path / f"{name}-{size}" for name in ("run", "ours", "theirs"))
        paper_run.write(run, lambda paper, size=size: tell(paper)[:size])
        verify_run(RunFolder(run), key, approvers=listed, save=ours)
        two.by_script(run, *words, "--save", str(theirs))
        assert ours.read_bytes() == theirs.read_bytes(), size
        by_harness = two.by_harness(tmp_path / "whole", key, approvers=listed, since=theirs)
        assert two.by_script(tmp_path / "whole", *words, "--since", str(ours)) == by_harness == whole


def test_what_was_saved_after_a_later_verification_is_what_a_full_one_saves(seen, tmp_path):
    """Verified in two steps or in one, where it ended is the same."""
    verified(seen, "whole", save=tmp_path / "one")
    verified(seen, "whole", since=seen / "seen-20", save=tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_new_is_all_that_is_read(seen, tmp_path, monkeypatch):
    """From a saved state on, as many signatures are verified as there are new entries."""
    count, unseal = [], journal.unseal
    monkeypatch.setattr(journal, "unseal", lambda *sealed: (count.append(1), unseal(*sealed))[1])
    verified(seen, "whole", since=seen / "seen-25")
    assert len(count) == 29 - 25
    verified(seen, "whole", save=tmp_path / "end")
    count.clear()
    verified(seen, "whole", since=tmp_path / "end")
    assert count == []


DAMAGE = {
    "a byte of the state": lambda data: data.replace(b'"epoch":2', b'"epoch":3', 1),
    "a byte of the head": lambda data: data.replace("— ".encode(), b"- ", 1),
    "its end cut off": lambda data: data[:-1],
    "a space more": lambda data: data + b" ",
    "nothing in it": lambda _: b"",
    "no JSON": lambda _: b"lockgate\n27\n",
    "not UTF-8": lambda data: data[:40] + b"\xff" + data[40:],
    "another file": lambda _: b"{}",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(seen, tmp_path, damage):
    """A file that is not, in every byte, one that was saved is one error that names it, and no verdict on the run."""
    data = DAMAGE[damage]((seen / "seen-25").read_bytes())
    assert data != (seen / "seen-25").read_bytes()
    (tmp_path / "seen").write_bytes(data)
    with pytest.raises(LockgateError, match="not what --save of this version wrote") as error:
        verified(seen, "whole", since=tmp_path / "seen")
    assert error.value.where == str(tmp_path / "seen")
    assert not isinstance(error.value, AuditError | StateError)


def forge(data, change):
    """Change a saved state, and put the right digest on it."""
    value = json.loads(data)
    change(value["state"])
    value["digest"] = digest(canonical_bytes([value["head"], value["state"]]))
    return canonical_bytes(value)


MISFITS = {
    "a member more": lambda s: s.update(extra=1),
    "a member less": lambda s: s.pop("nonces"),
    "another size than its head's": lambda s: s.update(size=24),
    "no keys": lambda s: s.update(keys=[]),
    "a key that is none": lambda s: s.update(keys=["key"]),
    "a live version that never was": lambda s: s.update(live=7),
    "no versions": lambda s: s.update(versions=[]),
    "a version that an entry beyond its head allowed": lambda s: s["versions"][1].update(index=99),
    "a permit of no proposal": lambda s: s.update(
        permits={"9": {"number": 9, "version": 2, "raw": s["versions"][0]["raw"], "expires": "2030-01-01T00:00:00Z"}
                 | dict.fromkeys(("candidate", "incumbent"), s["versions"][0]["raw"])}),
    "an intent without its permit": lambda s: s.update(
        intent={"action": "promote", "version": 2, "candidate": s["versions"][0]["raw"], "authorisation": 9}),
    "a proposal numbered in words": lambda s: s["open"].update({"one": s["open"]["3"]}),
    "an answer to nothing": lambda s: s["answered"].update({"x": True}),
    "a boolean for a number": lambda s: s.update(epoch=True),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_parts_that_do_not_fit_are_refused(seen, tmp_path, misfit):
    """Even under the right digest, a state that no verification ends in is the same one error, and no traceback."""
    data = (seen / "seen-22").read_bytes()
    assert forge(data, lambda _: None) == data
    (tmp_path / "seen").write_bytes(forge(data, MISFITS[misfit]))
    with pytest.raises(LockgateError, match="not what --save of this version wrote"):
        verified(seen, "whole", since=tmp_path / "seen")


def test_a_log_shorter_than_what_was_seen_is_refused(seen):
    """A log cut back behind the saved state does not extend it."""
    with pytest.raises(AuditError, match="the log was cut") as error:
        verified(seen, 20, since=seen / "seen-25")
    assert error.value.clause == "§11.1"


def test_another_log_is_refused(seen, tmp_path):
    """A log with another history, signed by the very same key, does not extend what was seen."""

    def other(paper):
        told = longer(paper)
        told[3].body["failed"] = ["pack/other"]
        return told

    paper_run.write(tmp_path / "run", other)
    with pytest.raises(AuditError, match="history was rewritten") as error:
        verify_run(RunFolder(tmp_path / "run"), seen / "key", since=seen / "seen-25")
    assert error.value.clause == "§11.1"


def test_a_state_under_a_stranger_s_head_is_refused(seen, tmp_path):
    """A saved state of a log by another key is none of this log."""
    value = json.loads((seen / "seen-25").read_bytes())
    head = two.sign_head(reader(seen, 25).tree_head, paper_run.THIEF).decode()
    value = {"head": head, "state": value["state"], "digest": digest(canonical_bytes([head, value["state"]]))}
    (tmp_path / "seen").write_bytes(canonical_bytes(value))
    with pytest.raises(AuditError) as error:
        verified(seen, "whole", since=tmp_path / "seen")
    assert error.value.clause == "§11.1"


def test_an_entry_that_was_changed_after_the_save_is_found(seen, tmp_path):
    """One byte of an entry that is new since then, in the bundle on disk, is found and its index named."""
    shutil.copytree(seen / "whole", tmp_path / "run", symlinks=True)
    bundle = max((tmp_path / "run" / "log" / "tile" / "entries" / "000.p").iterdir(), key=lambda path: int(path.name))
    data = bytearray(bundle.read_bytes())
    data[-5] ^= 1
    bundle.chmod(0o600)
    bundle.write_bytes(data)
    with pytest.raises(AuditError) as error:
        verify_run(RunFolder(tmp_path / "run"), seen / "key", since=seen / "seen-25")
    assert error.value.where == "entry 28"


def test_an_illegal_entry_after_the_save_is_found(seen, tmp_path):
    """What is new is held against the saved order: an entry that it does not allow is refused, by index and clause."""

    def twice(paper):
        resumed = {"time": "2026-01-02T06:00:00Z", "by": "operator"}
        return [*longer(paper), *[paper_run.Item("resumed", resumed, signers=(paper_run.NEW,))] * 2]

    paper_run.write(tmp_path / "run", twice)
    with pytest.raises(StateError) as error:
        verify_run(RunFolder(tmp_path / "run"), seen / "key", since=seen / "seen-25")
    assert (error.value.where, error.value.clause) == ("entry 30", "§7.15")


def test_nothing_is_saved_where_anything_fails(seen, tmp_path):
    """A run that does not verify leaves no saved state behind, and what was there before as it was."""
    shutil.copytree(seen / "whole", tmp_path / "run", symlinks=True)
    shutil.rmtree(tmp_path / "run" / "models" / "1")
    (tmp_path / "seen").write_bytes(b"before")
    with pytest.raises(AuditError):
        verify_run(RunFolder(tmp_path / "run"), seen / "key", save=tmp_path / "seen")
    assert (tmp_path / "seen").read_bytes() == b"before"


def test_who_reads_no_blobs_saves_nothing(seen, tmp_path):
    """What goes on from a saved state takes its blobs as read, so `log_only` has none to save."""
    with pytest.raises(ValueError, match="blobs"):
        verified(seen, "whole", log_only=True, save=tmp_path / "seen")


def test_a_file_that_cannot_be_read_or_written_is_named(seen):
    """The reader's own files are one error with their name."""
    for more in ({"since": seen / "missing"}, {"save": seen / "missing" / "seen"}):
        with pytest.raises(LockgateError, match="cannot be") as error:
            verified(seen, "whole", **more)
        assert str(seen / "missing") in str(error.value.where)


def test_a_real_run_verified_as_it_grows_has_the_verdict_of_the_whole(rig, tmp_path):
    """After each generation of a real run, going on from any earlier end tells what a full verification tells."""
    folder, ends, opened = RunFolder(tmp_path / "run"), [], rig.open(tmp_path / "run")
    try:
        for last in (1, 2, 3):
            rigs.drive(opened, last)
            whole = verify_run(folder, folder.public_key, save=tmp_path / f"seen-{last}")
            for end in ends:
                since = verify_run(folder, folder.public_key, since=end, save=tmp_path / "again")
                assert {**since, "blobs": 0} == {**whole, "blobs": 0}
                assert (tmp_path / "again").read_bytes() == (tmp_path / f"seen-{last}").read_bytes()
            ends.append(tmp_path / f"seen-{last}")
    finally:
        opened.close()
    assert whole["promotions"] >= 1
    assert whole["size"] > 40


def test_the_command_line_saves_and_goes_on(seen, tmp_path):
    """`--save` and `--since` have the exit codes of FORMAT §11: valid, the reader's own file, and usage."""

    def ask(*more):
        command = [sys.executable, "-m", "harness.cli", "audit", "verify", seen / "whole", "--key", seen / "key", *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    whole, since = ask("--save", tmp_path / "seen"), ask("--since", tmp_path / "seen")
    assert (whole.returncode, since.returncode) == (0, 0), whole.stderr + since.stderr
    assert whole.stdout == since.stdout
    (tmp_path / "seen").chmod(0o600)
    (tmp_path / "seen").write_bytes(b"{}")
    damaged = ask("--since", tmp_path / "seen")
    assert (damaged.returncode, damaged.stdout) == (1, "")
    assert str(tmp_path / "seen") in damaged.stderr
    assert ask("--save", tmp_path / "seen", "--log-only").returncode == 2


def test_a_refutation_is_not_forgotten(tmp_path):
    """What a saved state knows to be refuted is staked by nobody, and both verifiers save it alike."""
    key = tmp_path / "key"
    VerifierChain.of([paper_run.OLD.verifier]).save(key)

    def until(paper):
        told = paper_run.refuting(paper)
        at = next(at for at, item in enumerate(told) if "refuted" in (item.body.get("properties") or {}).values())
        return told[: at + 1]

    def staked(paper):
        told = until(paper)
        stake = [item for item in paper_run.story(paper) if item.kind == "staked"][1]
        stake.body["number"] = told[-1].body["number"]
        return [*told, stake]

    paper_run.write(tmp_path / "until", until)
    paper_run.write(tmp_path / "staked", staked)
    verify_run(RunFolder(tmp_path / "until"), key, save=tmp_path / "ours")
    two.by_script(tmp_path / "until", "--key", str(key), "--save", str(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    with pytest.raises(StateError, match="a property of proposal 3 is refuted"):
        verify_run(RunFolder(tmp_path / "staked"), key, since=tmp_path / "ours")
    words = ("--key", str(key), "--since", str(tmp_path / "theirs"))
    assert two.by_script(tmp_path / "staked", *words).code == 5
