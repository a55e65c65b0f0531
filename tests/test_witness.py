"""Facts about a witness's decisions and its memory; what it says over HTTP is in test_witness_server.py."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from witnesses import CHAIN, LOG, NEXT, ORIGIN, SmallLog

from harness.cosignature import cosignatures
from harness.errors import AuditError, ConfigError, KeyFileError, LockgateError
from harness.keys import Signer, VerifierChain
from harness.merkle import EMPTY_ROOT
from harness.notes import TreeHead, open_note, parse_note, sign_head, sign_note
from harness.witness import MAX_BODY, Request, Witness, make_witness

NOW = 1_800_000_000
HASH = hashlib.sha256(ORIGIN.encode()).hexdigest()
LINE = base64.b64encode(bytes(32)).decode()


@pytest.fixture
def folder(tmp_path):
    """Make a witness."""
    make_witness(tmp_path / "w", "witness.example/w")
    return tmp_path / "w"


@pytest.fixture
def witness(folder):
    """Open it."""
    opened = Witness.open(folder, [CHAIN], clock=lambda: NOW + 0.7)
    yield opened
    opened.close()


def cosigned(witness, log, old):
    """Show a head; require that it is cosigned."""
    answer = witness.add_checkpoint(log.request(old))
    assert answer.status == 200, answer
    assert cosignatures(log.head + answer.body, [witness.verifier]) == {witness.verifier.key_digest: NOW}
    return answer


def test_the_first_head_is_cosigned(witness):
    """A log that the witness has never seen begins at any size, without a proof."""
    cosigned(witness, SmallLog.of(5), 0)
    assert witness.size(ORIGIN) == 5


def test_a_log_grows(witness):
    """Every extension with its proof is cosigned, at every pair of sizes."""
    old = 0
    for size in [0, 1, 2, 3, 7, 8, 20]:
        cosigned(witness, SmallLog.of(size), old)
        old = size
    assert witness.size(ORIGIN) == 20


def test_the_same_head_is_cosigned_again(witness):
    """A client that lost the answer gets another one for the same head."""
    cosigned(witness, SmallLog.of(5), 0)
    cosigned(witness, SmallLog.of(5), 5)


@pytest.mark.parametrize("old", [0, 3, 4, 6])
def test_another_size_is_a_conflict_that_names_the_size(witness, old):
    """From any size but the one it has seen, the witness answers 409, its size, and the type of the specification."""
    cosigned(witness, SmallLog.of(5), 0)
    answer = witness.add_checkpoint(SmallLog.of(8).request(old))
    assert (answer.status, answer.body, answer.type) == (409, b"5\n", "text/x.tlog.size")


def test_a_shorter_log_is_a_conflict(witness):
    """A head of fewer entries than were seen is not cosigned."""
    cosigned(witness, SmallLog.of(5), 0)
    assert witness.add_checkpoint(SmallLog.of(4).request(4)).status == 409
    assert witness.add_checkpoint(SmallLog.of(4).request(0)).status == 409


def test_another_root_at_the_same_size_is_a_conflict_and_kept(witness, folder):
    """Two histories of one size: 409, and both signed heads are kept as the proof of it."""
    cosigned(witness, SmallLog.of(5), 0)
    answer = witness.add_checkpoint(SmallLog.of(5, "b").request(5))
    assert (answer.status, answer.body) == (409, b"5\n")
    (fork,) = (folder / "forks").iterdir()
    first, second = fork.read_bytes().split(b"\n\n" + ORIGIN.encode())
    second = ORIGIN.encode() + second
    heads = [TreeHead.parse(open_note(note, CHAIN)[0]) for note in (first + b"\n", second)]
    assert [head.size for head in heads] == [5, 5]
    assert heads[0].root != heads[1].root


def test_a_forked_log_is_refused(witness):
    """A longer log with another history has no proof that verifies."""
    cosigned(witness, SmallLog.of(5), 0)
    assert witness.add_checkpoint(SmallLog.of(9, "b", common=4).request(5)).status == 422
    cosigned(witness, SmallLog.of(9, "a"), 5)


@given(at=st.integers(0, 3), flip=st.integers(0, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_a_proof_is_exact(witness, at, flip):
    """A changed, missing or additional hash is 422."""
    if witness.size(ORIGIN) == 0:
        cosigned(witness, SmallLog.of(5), 0)
    log = SmallLog.of(9)
    proof = log.consistency_proof(5)
    bad = list(proof)
    bad[at % len(bad)] = bytes([bad[at % len(bad)][0] ^ (flip or 1)]) + bad[at % len(bad)][1:]
    for hashes in (bad, proof[:-1], [*proof, proof[0]], []):
        assert witness.add_checkpoint(Request(5, tuple(hashes), log.head, log.tree_head).encode()).status == 422
    assert witness.size(ORIGIN) == 5


def test_a_proof_from_nothing_is_empty(witness):
    """With the old size 0, and between equal sizes, any hash in the proof is 422."""
    log = SmallLog.of(5)
    request = Request(0, (bytes(32),), log.head, log.tree_head).encode()
    assert witness.add_checkpoint(request).status == 422
    cosigned(witness, log, 0)
    request = Request(5, (bytes(32),), log.head, log.tree_head).encode()
    assert witness.add_checkpoint(request).status == 422


def test_an_empty_log_has_one_root(witness):
    """A head of no entries with a root of its own is 422, with the root of no entries it is cosigned."""
    bad = sign_head(TreeHead(ORIGIN, 0, b"\x01" * 32), LOG)
    assert witness.add_checkpoint(b"old 0\n\n" + bad).status == 422
    assert witness.add_checkpoint(b"old 0\n\n" + sign_head(TreeHead(ORIGIN, 0, EMPTY_ROOT), LOG)).status == 200


def test_unknown_logs_and_unknown_keys(witness):
    """A log that nobody named is 404; a known log under another key is 403."""
    stranger = Signer.from_seed("example.org/other", b"\x09" * 32)
    assert witness.add_checkpoint(SmallLog.of(5, signer=stranger).request(0)).status == 404
    thief = Signer.from_seed(ORIGIN, b"\x09" * 32)
    assert witness.add_checkpoint(SmallLog.of(5, signer=thief).request(0)).status == 403
    assert witness.size(ORIGIN) == 0


def test_a_known_key_that_does_not_verify_is_refused(witness):
    """A line by the log's key over another text is 403."""
    log, other = SmallLog.of(5), SmallLog.of(6)
    note = log.head.split(b"\n\n")[0] + b"\n\n" + other.head.split(b"\n\n")[1]
    assert witness.add_checkpoint(b"old 0\n\n" + note).status == 403


def test_the_old_size_is_within_the_new_one(witness):
    """An old size beyond the head's is malformed: 400."""
    log = SmallLog.of(5)
    assert witness.add_checkpoint(Request(6, (), log.head, log.tree_head).encode()).status == 400


def test_strangers_lines_are_not_carried_on(witness):
    """The head that is given out bears the log's lines and the witness's, and nobody else's."""
    stranger = Signer.from_seed("x", b"\x09" * 32)
    log = SmallLog.of(5)
    line = f"— x {base64.b64encode(stranger.verifier.id + bytes(64)).decode()}\n".encode()
    assert witness.add_checkpoint(log.request(0) + line * 90).status == 200
    note = witness.checkpoint(HASH).body
    assert [each.name for each in parse_note(note).signatures] == [ORIGIN, witness.verifier.name]


def test_after_a_rotation_the_old_key_signs_nothing(witness, folder):
    """Once a head by the newer key was seen, one by the older key only is 403, also after a restart."""
    cosigned(witness, SmallLog.of(5), 0)
    cosigned(witness, SmallLog.of(6, signer=NEXT), 5)
    assert witness.add_checkpoint(SmallLog.of(7).request(6)).status == 403
    assert witness.add_checkpoint(SmallLog.of(6).request(6)).status == 403
    witness.close()
    again = Witness.open(folder, [CHAIN], clock=lambda: NOW)
    assert again.add_checkpoint(SmallLog.of(7).request(6)).status == 403
    cosigned(again, SmallLog.of(7, signer=NEXT), 6)
    again.close()


def test_before_a_rotation_both_keys_sign(witness):
    """The control: until the newer key was seen, the older one signs."""
    cosigned(witness, SmallLog.of(5), 0)
    cosigned(witness, SmallLog.of(6), 5)


def test_a_head_by_both_keys_ends_the_older_one(witness):
    """A head with both signatures counts as one by the newer key."""
    log = SmallLog.of(5)
    assert witness.add_checkpoint(b"old 0\n\n" + sign_note(log.tree_head.text, LOG, NEXT)).status == 200
    assert witness.add_checkpoint(SmallLog.of(6).request(5)).status == 403


def test_the_memory_outlives_the_process(witness, folder):
    """What was cosigned is known after a restart, and given out with the cosignature."""
    cosigned(witness, SmallLog.of(5), 0)
    note = witness.checkpoint(HASH)
    assert note.status == 200
    assert open_note(note.body, CHAIN)[0] == SmallLog.of(5).tree_head.text
    assert cosignatures(note.body, [witness.verifier]) == {witness.verifier.key_digest: NOW}
    witness.close()
    again = Witness.open(folder, [CHAIN])
    assert again.checkpoint(HASH) == note
    assert again.add_checkpoint(SmallLog.of(5, "b").request(5)).status == 409
    again.close()


def test_the_times_of_a_log_never_go_back(folder):
    """When the clock was set back, also across a restart, a later head bears no earlier time than the one before."""
    times = []
    for size, clock in [(3, NOW), (4, NOW - 500), (5, NOW - 1000), (6, NOW + 1)]:
        again = Witness.open(folder, [CHAIN], clock=lambda clock=clock: clock)
        log = SmallLog.of(size)
        answer = again.add_checkpoint(log.request(again.size(ORIGIN)))
        times += cosignatures(log.head + answer.body, [again.verifier]).values()
        again.close()
    assert times == [NOW, NOW, NOW, NOW + 1]


def test_no_head_is_given_out_before_one_was_seen(witness):
    """An unknown log, one not seen yet, and nonsense are 404."""
    assert {witness.checkpoint(each).status for each in [HASH, "0" * 64, "", "../../witness.key"]} == {404}


def test_a_second_process_is_refused(witness, folder):
    """While one holds the folder, another cannot be the same witness; afterwards it can."""
    with pytest.raises(ConfigError, match="another process"):
        Witness.open(folder, [CHAIN])
    witness.close()
    Witness.open(folder, [CHAIN]).close()


def test_a_closed_witness_signs_nothing(witness):
    """After `close` a request is refused."""
    witness.close()
    assert witness.add_checkpoint(SmallLog.of(5).request(0)).status == 503


def test_a_changed_memory_is_refused(witness, folder):
    """Any changed byte of the remembered head keeps the witness from starting."""
    cosigned(witness, SmallLog.of(5), 0)
    witness.close()
    path = folder / "logs" / HASH
    good = path.read_bytes()
    for at in range(len(good)):
        path.chmod(0o600)
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(AuditError):
            Witness.open(folder, [CHAIN])
    path.write_bytes(good)
    Witness.open(folder, [CHAIN]).close()


def test_a_retired_key_may_not_be_left_out_of_the_list(witness, folder):
    """A key file without the key that signed the remembered head is refused: it would let an older one sign again."""
    cosigned(witness, SmallLog.of(5, signer=NEXT), 0)
    witness.close()
    with pytest.raises(AuditError, match="known key"):
        Witness.open(folder, [VerifierChain.of([LOG.verifier])])


def test_mistakes_at_the_start(folder, tmp_path):
    """No log, two files for one log, no key, and a second key are each an error of their own."""
    with pytest.raises(ConfigError, match="without logs"):
        Witness.open(folder, [])
    with pytest.raises(ConfigError, match="one log"):
        Witness.open(folder, [VerifierChain.of([LOG.verifier]), VerifierChain.of([NEXT.verifier])])
    with pytest.raises(KeyFileError):
        Witness.open(tmp_path / "none", [CHAIN])
    with pytest.raises(KeyFileError, match="already"):
        make_witness(folder, "another")


def test_the_key_is_its_owners_alone(folder):
    """The private key is 0600, its folder 0700, and a key open to others is not used."""
    assert (folder / "witness.key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "witness.key").chmod(0o644)
    with pytest.raises(KeyFileError):
        Witness.open(folder, [CHAIN])


def test_a_disk_that_refuses_ends_the_signing(witness, folder, monkeypatch):
    """When what was decided cannot be made durable, nothing is answered but 500, and nothing is signed any more."""

    def broken(_file):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        answer = witness.add_checkpoint(SmallLog.of(5).request(0))
    assert (answer.status, witness.disk_error is not None) == (500, True)
    assert b"\xe2\x80\x94" not in answer.body
    assert witness.add_checkpoint(SmallLog.of(5).request(0)).status == 503
    witness.close()
    again = Witness.open(folder, [CHAIN], clock=lambda: NOW)
    cosigned(again, SmallLog.of(5), again.size(ORIGIN))
    again.close()


KILLED = """
import os, sys
sys.path[:0] = sys.argv[3:]
from witnesses import CHAIN, SmallLog
from harness import durable
from harness.witness import Witness
witness = Witness.open(sys.argv[1], [CHAIN])
left = int(sys.argv[2])
def killing(real):
    def call(*arguments, **more):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return real(*arguments, **more)
    return call
for name in ("open", "write", "fchmod", "fsync", "close", "rename"):
    setattr(os, name, killing(getattr(os, name)))
print(witness.add_checkpoint(SmallLog.of(9).request(5)).status)
"""


def test_killed_at_any_step_it_forgets_nothing_and_goes_on(folder, witness):
    """Killed at each call of the write in turn: the old head or the new one is there, and the client's retry works."""
    cosigned(witness, SmallLog.of(5), 0)
    witness.close()
    kept = (folder / "logs" / HASH).read_bytes()
    support = str(Path(sys.modules["witnesses"].__file__).parent)
    sizes = []
    for step in range(1, 40):
        (folder / "logs" / HASH).unlink()
        (folder / "logs" / HASH).write_bytes(kept)
        command = [sys.executable, "-c", KILLED, str(folder), str(step), support]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        again = Witness.open(folder, [CHAIN], clock=lambda: NOW)
        sizes.append(again.size(ORIGIN))
        assert again.add_checkpoint(SmallLog.of(9, "b").request(sizes[-1])).status in {409, 422}
        cosigned(again, SmallLog.of(9), sizes[-1])
        assert not list((folder / "logs").glob(".tmp-*"))
        again.close()
        if done.returncode == 0:
            assert done.stdout == "200\n"
            break
        assert done.returncode == 9, done.stderr
    assert len(sizes) > 8  # the write has that many steps
    assert set(sizes) == {5, 9}
    assert sizes == sorted(sizes)


requests = st.builds(
    lambda old, proof, tail: "".join(f"{line}\n" for line in [f"old {old}", *proof, ""]).encode() + tail,
    st.integers(-1, 2**62) | st.sampled_from(["+5", "05", "1_0", "\u0663", "", " 1", "1 ", "0x1"]),
    st.lists(st.just(LINE) | st.text(alphabet="AZaz09+/=\r \t", max_size=46), max_size=4),
    st.just(SmallLog.of(5).head) | st.binary(max_size=80),
)


@given(requests | st.binary(max_size=300))
def test_only_audit_error_escapes_the_parser(data):
    """Any bytes are one request in its one form, or an AuditError."""
    try:
        request = Request.parse(data)
    except AuditError:
        return
    assert request.encode() == data


@given(st.integers(0, 10**17), st.lists(st.binary(min_size=32, max_size=32), max_size=63))
def test_a_request_is_read_back(old, proof):
    """Every request that can be made is read back as it was."""
    log = SmallLog.of(3)
    request = Request(old, tuple(proof), log.head, log.tree_head)
    assert Request.parse(request.encode()) == request


HEAD = SmallLog.of(5).head
BAD = {
    "nothing": b"",
    "no old size": b"\n" + HEAD,
    "a sign": b"old +5\n\n" + HEAD,
    "a leading zero": b"old 05\n\n" + HEAD,
    "digits of another script": "old \u0665\n\n".encode() + HEAD,
    "an underscore": b"old 1_0\n\n" + HEAD,
    "nineteen digits": b"old 1000000000000000000\n\n" + HEAD,
    "two spaces": b"old  5\n\n" + HEAD,
    "a capital": b"Old 5\n\n" + HEAD,
    "a carriage return": b"old 5\r\n\r\n" + HEAD,
    "no empty line": b"old 5\n" + HEAD,
    "64 hashes": b"old 5\n" + (LINE + "\n").encode() * 64 + b"\n" + HEAD,
    "loose bits": b"old 5\n" + LINE[:-2].encode() + b"B=\n\n" + HEAD,
    "no padding": b"old 5\n" + LINE[:-1].encode() + b"\n\n" + HEAD,
    "31 bytes": b"old 5\n" + base64.b64encode(bytes(31)) + b"\n\n" + HEAD,
    "a space after a hash": b"old 5\n" + LINE.encode() + b" \n\n" + HEAD,
    "no signature": b"old 0\n\n" + HEAD.split(b"\n\n")[0] + b"\n",
    "an extension line": b"old 0\n\n" + HEAD.replace(b"\n\n", b"\nmore\n\n", 1),
    "cut short": b"old 0\n\n" + HEAD[:-1],
    "too long": b"old 0\n\n" + HEAD + b"x" * MAX_BODY,
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_malformed_requests(witness, body):
    """What is not exactly a request is 400, in one line."""
    answer = witness.add_checkpoint(body)
    assert (answer.status, answer.body.count(b"\n")) == (400, 1)


def test_63_hashes_are_a_request():
    """The control: 63 hashes, and none, are read."""
    for count in (0, 63):
        assert len(Request.parse(b"old 5\n" + (LINE + "\n").encode() * count + b"\n" + HEAD).proof) == count


class Histories(RuleBasedStateMachine):
    """Two histories of a log, shown to one witness in any order from any size, with restarts in between."""

    def __init__(self):
        """Begin with nothing seen."""
        super().__init__()
        self.room = tempfile.TemporaryDirectory()
        self.folder = Path(self.room.name) / "w"
        make_witness(self.folder, "w")
        self.witness = Witness.open(self.folder, [CHAIN], clock=lambda: NOW)
        self.signed: list[SmallLog] = []

    @rule(size=st.integers(0, 8), old=st.none() | st.integers(0, 8), history=st.sampled_from("ab"))
    def show(self, size, old, history):
        """Show a head of one of the two."""
        log = SmallLog.of(size, history, common=3)
        old = self.witness.size(ORIGIN) if old is None else old
        if old <= size and self.witness.add_checkpoint(log.request(old)).status == 200:
            self.signed.append(log)

    @rule()
    def restart(self):
        """End the process and begin again."""
        self.witness.close()
        self.witness = Witness.open(self.folder, [CHAIN], clock=lambda: NOW)

    @invariant()
    def one_history_was_signed(self):
        """What was signed grows, and the memory is the last of it."""
        for before, after in zip(self.signed, self.signed[1:], strict=False):
            assert after.entries[: len(before.entries)] == before.entries
        assert self.witness.size(ORIGIN) == (len(self.signed[-1].entries) if self.signed else 0)

    def teardown(self):
        """Leave nothing."""
        self.witness.close()
        self.room.cleanup()


Histories.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)


@pytest.mark.usefixtures("quick_disk")
class TestHistories(Histories.TestCase):
    """Whatever it is shown, the heads that a witness signs are of one history that only grows."""


def test_errors_are_of_one_tree(folder):
    """What can go wrong at the start is an error that the command line prints."""
    (folder / "logs").write_text("no folder")
    with pytest.raises(LockgateError):
        Witness.open(folder, [CHAIN])
