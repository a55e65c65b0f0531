"""Facts about a promoted model's folder by itself: what holds together is read once, and nothing else is accepted."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import stat

import paper_run
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_run import NEW, OLD, ORIGIN, THIEF

from harness import bundle as room
from harness.artifacts import BlobStore
from harness.auditlog import AuditLog
from harness.bundle import Trust, read_bundle
from harness.canonical import canonical_bytes, digest, parse_json
from harness.cosignature import WitnessVerifier, cosign
from harness.errors import AuditError, ConfigError, KeyFileError
from harness.keys import Signer, VerifierChain
from harness.notes import LogProof, TreeHead, open_head, parse_note, sign_head
from harness.records import Candidate

W1, W2 = (Signer.from_seed(name, bytes([number] * 32)) for name, number in (("w1", 11), ("w2", 12)))
TRUST = Trust(VerifierChain.of([OLD.verifier]))
BOTH = Trust(VerifierChain.of([OLD.verifier, NEW.verifier]))
FLAT = ["authorisation.json", "authorisation.proof", "candidate.json", "recipe.json", "weights.safetensors"]
FILES = [*FLAT, "source/model.py", "source/parts/layer.py"]


def story(paper):
    """Tell the paper run's story of candidates whose records have the true size of their weights."""
    make = paper.candidate

    def candidate(name):
        paper.candidates[name] = make(name).model_copy(update={"bytes": 72})
        return paper.candidates[name]

    paper.candidate = candidate
    return paper_run.story(paper)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Write the paper run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _file: None)
        run = tmp_path_factory.mktemp("paper") / "run"
        paper_run.write(run, story)
    return run


@pytest.fixture
def copy(run, tmp_path):
    """Give a copy of version 1 under another name, with nothing around it."""
    return shutil.copytree(run / "models" / "1", tmp_path / "elsewhere")


def write(path, data):
    """Write over a file that nobody may write to."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def entry(run, index):
    """Give one entry of the run's log and its proof."""
    with AuditLog.open(run / "log", OLD) as log:
        return next(iter(log.read(index, index + 1))), log.prove(index).encode()


def refused(folder, file, clause, trust=TRUST, **arguments):
    """Require one AuditError that names this file and this clause; give its message."""
    with pytest.raises(AuditError) as caught:
        read_bundle(folder, trust, **arguments)
    assert (caught.value.where, caught.value.clause) == (str(folder / file), clause), caught.value
    return caught.value.message


def test_a_copy_is_read_whole(copy):
    """A folder copied anywhere is accepted, and what is handed out is its bytes and what its entry says."""
    found = read_bundle(copy, TRUST)
    assert (found.origin, found.version, found.index, found.head.size) == (ORIGIN, 1, 13, 27)
    assert found.source == {"model.py": b"NAME = 'two'\n", "parts/layer.py": b"WIDTH = 3\n"}
    assert found.weights == (copy / "weights.safetensors").read_bytes()
    assert found.recipe == {"name": "two", "rate": 0.5}
    assert (
        found.candidate == found.authorisation.candidate == parse_json((copy / "candidate.json").read_bytes())["digest"]
    )
    assert (found.parameters, found.signer, found.cosigned) == (2, OLD.verifier, ())


def test_the_baseline_is_authorised_by_genesis(run):
    """Version 0 is accepted with the genesis entry, at index 0."""
    found = read_bundle(run / "models" / "0", TRUST)
    assert (found.version, found.index) == (0, 0)
    assert found.authorisation.origin == ORIGIN


def test_a_run_s_live_link_may_name_it(run):
    """The folder itself may be named by a link; nothing in it may be one."""
    assert read_bundle(run / "current", TRUST).version == 1


def test_what_is_handed_out_cannot_be_changed(copy):
    """Recipe and source are fresh or read-only: what was verified stays."""
    found = read_bundle(copy, TRUST)
    found.recipe["rate"] = 1.0
    assert found.recipe["rate"] == 0.5
    with pytest.raises(TypeError):
        found.source["model.py"] = b""


def test_each_file_is_opened_once(copy, monkeypatch):
    """No name is looked up twice: between a check and a use there is no second opening."""
    opened = []
    real = os.open

    def counted(path, flags, *more, **named):
        opened.append(os.fspath(path))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(room.os, "open", counted)
    read_bundle(copy, TRUST)
    assert sorted(opened) == sorted([str(copy), *FLAT, "source", "model.py", "parts", "layer.py"])


def link(path, folder):
    """Put a link to the true thing, moved out of the folder, in its place."""
    outside = folder.parent / f"{path.name}-outside"
    path.rename(outside)
    path.symlink_to(outside)


SHAPES = {
    "a file more": (lambda f: (f / "README").touch(), "", "§9.1"),
    "a file less": (lambda f: (f / "recipe.json").unlink(), "", "§9.1"),
    "no folder": (shutil.rmtree, "", "§9.1"),
    "a link for a file": (lambda f: link(f / "recipe.json", f), "recipe.json", "§9.1"),
    "a link for the weights": (lambda f: link(f / "weights.safetensors", f), "weights.safetensors", "§9.1"),
    "a link for the source": (lambda f: link(f / "source", f), "source", "§9.1"),
    "a link for a source file": (lambda f: link(f / "source" / "model.py", f), "source/model.py", "§9.1"),
    "a pipe": (lambda f: ((f / "recipe.json").unlink(), os.mkfifo(f / "recipe.json")), "recipe.json", "§9.1"),
    "a pipe in the source": (lambda f: os.mkfifo(f / "source" / "pipe"), "source/pipe", "§9.1"),
    "a folder for a file": (lambda f: ((f / "recipe.json").unlink(), (f / "recipe.json").mkdir()), "recipe.json", "§9.1"),
    "a file for the source": (lambda f: (shutil.rmtree(f / "source"), (f / "source").touch()), "source", "§9.1"),
    "an empty source": (lambda f: (shutil.rmtree(f / "source"), (f / "source").mkdir()), "source", "§9.1"),
    "an empty folder in the source": (lambda f: (f / "source" / "empty").mkdir(), "source/empty", "§9.1"),
    "a source nested too deeply": (lambda f: (f / "source" / "/".join("a" * 20)).mkdir(parents=True), f"source/{'/'.join('a' * 17)}", "§9.1"),
    "an oversized file": (lambda f: os.truncate(f / "authorisation.json", 70_000), "authorisation.json", "§9.1"),
    "an oversized source file": (lambda f: os.truncate(f / "source" / "model.py", 2 << 20), "source/model.py", "§9.1"),
    "a name that is no text": (lambda f: (f / "source" / os.fsdecode(b"\xff.py")).touch(), "candidate.json and recipe.json", "§9.2"),
    "a source file more": (lambda f: (f / "source" / "more.py").touch(), "source", "§9.2"),
    "a source file less": (lambda f: (f / "source" / "parts" / "layer.py").rename(f / "source" / "layer.py"), "source/parts", "§9.1"),
    "a source file changed": (lambda f: write(f / "source" / "model.py", b"import os\n"), "source", "§9.2"),
    "other weights": (lambda f: write(f / "weights.safetensors", b"other"), "weights.safetensors", "§9.2"),
    "another recipe": (lambda f: write(f / "recipe.json", b'{"name":"two","rate":0.6}'), "recipe.json", "§9.2"),
    "a recipe in another form": (lambda f: write(f / "recipe.json", b'{"name":"two", "rate":0.5}'), "recipe.json", "§9.2"),
    "a record that is no JSON": (lambda f: write(f / "candidate.json", b"{"), "candidate.json and recipe.json", "§9.2"),
    "a record of no candidate": (lambda f: write(f / "candidate.json", b"{}"), "candidate.json", "§9.2"),
}  # fmt: skip


@pytest.mark.parametrize("case", SHAPES)
def test_another_folder_than_was_written_is_refused(copy, case):
    """Anything more, less, linked, too large or changed is one AuditError with the file and the clause."""
    change, file, clause = SHAPES[case]
    for path in copy.rglob("*"):
        path.chmod(0o755)
    change(copy)
    refused(copy, file, clause)


def record(folder, **changes):
    """Write the candidate record anew, with changes."""
    value = parse_json((folder / "candidate.json").read_bytes())
    write(folder / "candidate.json", canonical_bytes({**value, **changes}))


@pytest.mark.parametrize(("name", "value"), [("bytes", 73), ("parameters", 3), ("digest", digest(b"x"))])
def test_a_record_that_does_not_follow_is_refused(copy, name, value):
    """Size, count and digest of the record are derived again from the files."""
    record(copy, **{name: value})
    refused(copy, "candidate.json", "§9.2")


def test_a_record_in_another_form_is_refused(copy):
    """A record that says the same in other bytes is not the one that was written."""
    write(copy / "candidate.json", (copy / "candidate.json").read_bytes() + b"\n")
    refused(copy, "candidate.json", "§9.2")


def test_source_beyond_its_bounds_is_not_read(copy, monkeypatch):
    """Names in one folder, files of the whole tree, and bytes of the whole tree are bounded."""
    monkeypatch.setattr(room, "_MAX_FILES", 7)
    (copy / "source" / "more").mkdir()
    for number in range(6):
        (copy / "source" / "more" / f"{number}.py").touch()
    refused(copy, "source", "§9.1")
    for number in range(6, 8):
        (copy / "source" / "more" / f"{number}.py").touch()
    refused(copy, "source/more", "§9.1")
    shutil.rmtree(copy / "source" / "more")
    monkeypatch.setattr(room, "_MAX_SOURCE", 20)
    refused(copy, "source", "§9.1")


def test_a_file_that_grows_while_it_is_read_is_refused(copy, monkeypatch):
    """What was measured is what is read: a file that is longer by then is refused."""
    real = os.fstat

    def grown(handle):
        status = real(handle)
        if stat.S_ISREG(status.st_mode):
            with (copy / "authorisation.json").open("ab") as file:
                file.write(b" ")
        return status

    (copy / "authorisation.json").chmod(0o644)
    monkeypatch.setattr(room.os, "fstat", grown)
    assert "changed" in refused(copy, "authorisation.json", "§9.1")


def test_what_only_the_log_can_vouch_for_is_not_handed_out(copy):
    """The record's schema digest is bound by nothing in the folder, so that it changes nothing of what is read."""
    before = read_bundle(copy, TRUST)
    record(copy, schema_digest=digest(b"another"), flops=7)
    assert read_bundle(copy, TRUST) == before


def test_the_record_of_the_baseline_is_bound_whole(run, tmp_path):
    """Genesis names the baseline's whole record: there, every member counts."""
    copy = shutil.copytree(run / "models" / "0", tmp_path / "0")
    record(copy, schema_digest=digest(b"another"))
    refused(copy, "candidate.json", "§9.3")


@pytest.mark.parametrize(("version", "unbound"), [("0", set()), ("1", {"schema_digest", "flops"})])
def test_each_member_of_the_record_is_bound_or_said_not_to_be(run, tmp_path, version, unbound):
    """Whatever of candidate.json can be changed without refusal is what the result names as unbound, no more, no less."""
    other = {"recipe": {"name": "other", "rate": 0.5}, "parameters": 3, "bytes": 73, "flops": 7}
    changeable = set()
    for member in Candidate.model_fields:
        copy = shutil.copytree(run / "models" / version, tmp_path / member)
        record(copy, **{member: other.get(member, digest(b"another"))})
        with contextlib.suppress(AuditError):
            read_bundle(copy, TRUST)
            changeable.add(member)
    bundle = read_bundle(run / "models" / version, TRUST)
    assert set(bundle.unbound) == set(bundle.report()["unbound"]) == changeable == unbound
    assert ("schema_digest and flops of candidate.json" in bundle.summary) == bool(unbound)


def test_weights_beyond_the_caller_s_bound_are_not_read(copy):
    """The caller says how large weights may be."""
    assert "at most 71 bytes" in refused(copy, "weights.safetensors", "§9.1", max_weights=71)
    assert read_bundle(copy, TRUST, max_weights=72).version == 1


def test_another_candidate_s_authorisation_is_refused(run, copy):
    """A true authorisation with its true proof allows its own candidate only, in both directions."""
    for name in ("authorisation.json", "authorisation.proof"):
        shutil.copy(run / "models" / "0" / name, copy / name)
    refused(copy, "candidate.json", "§9.3")
    back = shutil.copytree(run / "models" / "0", copy.with_name("0"))
    for name in ("authorisation.json", "authorisation.proof"):
        shutil.copy(run / "models" / "1" / name, back / name)
    refused(back, "candidate.json", "§9.3")


@pytest.mark.parametrize("index", [1, 12, 14, 15])
def test_an_entry_that_authorises_nothing_is_refused(run, copy, index):
    """No other entry will do: neither the decision before it, nor the intent or the promotion after it."""
    raw, proof = entry(run, index)
    write(copy / "authorisation.json", raw)
    write(copy / "authorisation.proof", proof)
    assert "authorises nothing" in refused(copy, "authorisation.json", "§9.3")


def test_a_proof_of_another_entry_is_refused(run, copy):
    """The proof must be that of the very entry."""
    write(copy / "authorisation.proof", entry(run, 14)[1])
    refused(copy, "authorisation.proof", "§9.3")


def test_genesis_is_proved_at_the_beginning(run, copy, tmp_path):
    """A proof that puts an authorisation at index 0, or genesis elsewhere, is refused for its place alone."""
    for folder, place in ((copy, 0), (shutil.copytree(run / "models" / "0", tmp_path / "0"), 1)):
        proof = LogProof.parse((folder / "authorisation.proof").read_bytes())
        write(folder / "authorisation.proof", LogProof(place, proof.hashes, proof.head).encode())
        refused(folder, "authorisation.proof", "§7.1")


def test_a_key_that_is_not_trusted_is_refused(copy):
    """Under another key nothing is believed, whatever its name."""
    refused(copy, "authorisation.json", "§2.3", Trust(VerifierChain.of([THIEF.verifier])))


def test_an_entry_signed_by_somebody_else_is_refused(copy):
    """An envelope that names the trusted key and was signed by another is refused."""
    raw = parse_json((copy / "authorisation.json").read_bytes())
    raw["signatures"][0]["sig"] = base64.b64encode(THIEF.sign(b"anything")).decode()
    write(copy / "authorisation.json", canonical_bytes(raw))
    refused(copy, "authorisation.json", "§5.3")


HEADS = {
    "another origin": (lambda head: TreeHead("another-log", head.size, head.root), OLD),
    "another root": (lambda head: TreeHead(head.origin, head.size, bytes(32)), OLD),
    "another size": (lambda head: TreeHead(head.origin, 13, head.root), OLD),
    "another key": (lambda head: head, THIEF),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_proof_under_another_head_is_refused(copy, case):
    """The head must be this log's, by a trusted key, and the proof must lead to its root."""
    change, signer = HEADS[case]
    proof = LogProof.parse((copy / "authorisation.proof").read_bytes())
    head = sign_head(change(open_head(proof.head, [OLD.verifier])), signer)
    write(copy / "authorisation.proof", LogProof(proof.index, proof.hashes, head).encode())
    refused(copy, "authorisation.proof", "§9.3")


def lie(item):
    """Let an authorisation's statement be about its candidate alone."""
    item.about = {"candidate": item.body["candidate"]}


LIES = {
    "other subjects": (13, lie, "§5.8"),
    "version 0": (13, lambda item: item.body.update(version=0), "§7.10"),
    "no version": (13, lambda item: item.body.update(version=-1), "§6"),
    "another genesis": (0, lambda item: item.body.update(origin="another-log"), "§7.1"),
}


@pytest.mark.parametrize("case", LIES)
@pytest.mark.usefixtures("quick_disk")
def test_an_entry_that_was_never_legal_is_refused(run, tmp_path, case):
    """What is wrong with an entry by itself is seen without the log, though the log's own key signed it."""
    index, change, clause = LIES[case]
    items = story(paper_run.Paper(BlobStore(tmp_path / "blobs")))
    change(items[index])
    paper_run.write_log(tmp_path, items)
    folder = shutil.copytree(run / "models" / str(min(index, 1)), tmp_path / "copy")
    for name, data in zip(("authorisation.json", "authorisation.proof"), entry(tmp_path, index), strict=True):
        write(folder / name, data)
    refused(folder, "authorisation.json", clause)


def rotated(folder, mine, head):
    """Write a run whose authorisation is signed by `mine`, and its log's head by `head`."""

    def tell(paper):
        items = story(paper)
        for item in items:
            if item.kind == "authorised":
                item.signers = (mine,)
        return [*items, paper_run.rotation()] if head is NEW else items

    paper_run.write(folder, tell)
    return folder / "models" / "1"


@pytest.mark.usefixtures("quick_disk")
def test_after_a_rotation_both_keys_are_needed(tmp_path):
    """A version of the old key's time, under a head by the new one, needs both: a key left out is not believed."""
    folder = rotated(tmp_path / "run", OLD, NEW)
    assert read_bundle(folder, BOTH).signer == OLD.verifier
    refused(folder, "authorisation.json", "§2.3", Trust(VerifierChain.of([NEW.verifier])))
    refused(folder, "authorisation.proof", "§9.3", TRUST)


@pytest.mark.usefixtures("quick_disk")
def test_an_older_key_signs_no_head_over_a_newer_one(tmp_path):
    """An entry by the new key under a head by the old one cannot come from an honest log."""
    refused(rotated(tmp_path / "run", NEW, OLD), "authorisation.proof", "§9.3", BOTH)


def cosigned(folder, *witnesses):
    """Put cosignatures under the head in the proof."""
    proof = LogProof.parse((folder / "authorisation.proof").read_bytes())
    lines = "".join(cosign(parse_note(proof.head).text, each, 1_800_000_000) for each in witnesses)
    write(folder / "authorisation.proof", LogProof(proof.index, proof.hashes, proof.head + lines.encode()).encode())


def watched(*witnesses, quorum=None):
    """Trust the log's key and these witnesses."""
    return Trust(TRUST.keys, tuple(WitnessVerifier(each.verifier) for each in witnesses), quorum)


def test_witnesses_are_counted(copy):
    """As many trusted witnesses as required must have cosigned the head; all of them where no number is given."""
    refused(copy, "authorisation.proof", "§10.2", watched(W1))
    cosigned(copy, W1)
    assert read_bundle(copy, watched(W1)).cosigned == ("w1",)
    assert read_bundle(copy, watched(W1, W2, quorum=1)).cosigned == ("w1",)
    assert "1 of 2" in refused(copy, "authorisation.proof", "§10.2", watched(W1, W2))
    assert read_bundle(copy, TRUST).cosigned == ()


def test_one_key_under_two_names_is_one_witness(copy):
    """Witnesses are counted by their 32 bytes."""
    again = Signer.from_seed("again", bytes([11] * 32))
    cosigned(copy, W1, again)
    assert read_bundle(copy, watched(W1, again)).cosigned in (("w1",), ("again",))
    refused(copy, "authorisation.proof", "§10.2", watched(W1, again, W2, quorum=2))
    with pytest.raises(ConfigError):
        watched(W1, again, quorum=2)


def test_a_cosignature_that_does_not_verify_is_refused(copy):
    """A trusted witness's line over another head makes the proof invalid."""
    proof = LogProof.parse((copy / "authorisation.proof").read_bytes())
    line = cosign(TreeHead(ORIGIN, 1, bytes(32)).text, W1, 1_800_000_000)
    write(copy / "authorisation.proof", LogProof(proof.index, proof.hashes, proof.head + line.encode()).encode())
    refused(copy, "authorisation.proof", "§3.2", watched(W1, W2, quorum=1))


def test_a_line_by_an_unknown_key_changes_nothing(copy):
    """Lines of keys that the reader does not know are ignored (signed-note), and change nothing of what is read."""
    before = read_bundle(copy, TRUST)
    cosigned(copy, W1)
    assert read_bundle(copy, TRUST) == before


def test_a_reader_may_insist(run, copy):
    """On a lowest version, and on the policies by which it was judged."""
    policies = digest(b"policies")
    assert read_bundle(copy, Trust(TRUST.keys, policies=policies, at_least=1)).version == 1
    refused(copy, "authorisation.json", "§9.6", Trust(TRUST.keys, at_least=2))
    refused(copy, "authorisation.json", "§9.6", Trust(TRUST.keys, policies=digest(b"others")))
    refused(run / "models" / "0", "authorisation.json", "§9.6", Trust(TRUST.keys, at_least=1))


def test_trust_that_is_empty_is_refused():
    """No key, a quorum of no witnesses, a quorum of none or of more than there are: none of them is trust."""
    with pytest.raises(KeyFileError):
        Trust(())
    for quorum, witnesses in ((1, ()), (0, (W1,)), (2, (W1,))):
        with pytest.raises(ConfigError):
            watched(*witnesses, quorum=quorum)


def test_trust_comes_from_files(tmp_path):
    """Keys and witnesses are read from the reader's own files."""
    TRUST.keys.save(tmp_path / "log.pub")
    (tmp_path / "w").write_text(f"{WitnessVerifier(W1.verifier).vkey}\n{WitnessVerifier(W2.verifier).vkey}\n")
    loaded = Trust.load(tmp_path / "log.pub", witnesses=[tmp_path / "w"], quorum=1)
    assert loaded == watched(W1, W2, quorum=1)
    assert loaded.required == 1


@pytest.fixture(scope="module")
def scratch(run, tmp_path_factory):
    """Give a copy that is put right again after each change, and its bytes."""
    folder = tmp_path_factory.mktemp("scratch") / "1"
    shutil.copytree(run / "models" / "1", folder)
    return folder, {name: (folder / name).read_bytes() for name in FILES}, read_bundle(folder, TRUST)


@settings(max_examples=300)
@given(data=st.data())
def test_no_changed_byte_is_accepted(scratch, data):
    """Flip, cut, insert or repeat bytes of any file: it is refused, but for the schema digest, which is not handed out."""
    folder, true, before = scratch
    name = data.draw(st.sampled_from(FILES))
    old = true[name]
    at = data.draw(st.integers(0, len(old) - 1))
    more = data.draw(st.integers(1, 64))
    new = data.draw(
        st.sampled_from(
            [
                old[:at] + bytes([old[at] ^ data.draw(st.integers(1, 255))]) + old[at + 1 :],
                old[:at],
                old[:at] + old[at + more :],
                old[:at] + data.draw(st.binary(min_size=1, max_size=8)) + old[at:],
                old[:at] + old[at : at + more] + old[at:],
            ]
        )
    )
    if new == old:
        return
    write(folder / name, new)
    found = problem = None
    try:
        found = read_bundle(folder, TRUST)
    except AuditError as error:
        problem = error
    write(folder / name, old)
    if problem is not None:
        assert problem.clause
        assert str(folder) in str(problem.where)
    else:
        first = old.index(b"schema_digest") + len('schema_digest":"sha256:')
        outside = (old[:first] + old[first + 64 :], new[:first] + new[first + 64 :])
        assert name == "candidate.json"
        assert outside[0] == outside[1]
        assert found == before
