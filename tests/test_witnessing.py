"""Facts about asking witnesses: honest ones, lying ones, slow ones, and one that was put back."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import shutil
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from witnesses import CHAIN, LOG, NEXT, ORIGIN, Process, Script, SmallLog, http_answer, served

from harness.auditlog import AuditLog
from harness.cosignature import WitnessVerifier, cosign, cosignatures
from harness.errors import AuditError, KeyFileError
from harness.keys import _SMALL_ORDER_Y, Signer, VerifierChain
from harness.notes import open_head
from harness.quorum import Witnesses
from harness.witness import make_witness
from harness.witnessing import Quorum

SIGNERS = {name: Signer.from_seed(f"witness.example/{name}", name.encode() * 32) for name in "abc"}
KEYS = {name: WitnessVerifier(signer.verifier) for name, signer in SIGNERS.items()}
FIVE = SmallLog.of(5)


def quorum(require, urls, *, timeout=5.0, keys=KEYS, clock=time.time):
    """Configure witnesses by name and URL, under the keys that the tests know."""
    of = [{"name": name, "url": url, "key": keys[name].vkey} for name, url in urls.items()]
    return Quorum(Witnesses.parse({"require": require, "of": of, "timeout_seconds": timeout}), clock=clock)


def honest(folder, name):
    """Serve a witness with the key of this name."""
    if not folder.exists():
        folder.mkdir(mode=0o700)
        SIGNERS[name].save(folder / "witness.key")
    return served(folder)


def signed(name="a", log=FIVE, at=None, signer=None):
    """Make the answer of a witness that signs whatever it is told to."""
    line = cosign(log.tree_head.text, signer or SIGNERS[name], int(time.time() if at is None else at))
    return http_answer(200, line.encode())


def problem_of(answer, **more):
    """What a quorum of one says of a witness that answers so; require that it was refused, and in time."""
    with Script(answer if callable(answer) else lambda _, connection, __: connection.sendall(answer)) as script:
        asking = quorum(1, {"a": script.url}, **more)
        started = time.monotonic()
        gathered = asking.gather(FIVE)
        assert time.monotonic() - started < more.get("timeout", 5.0) + 0.5
        assert (gathered.lines, gathered.times, list(gathered.problems)) == (b"", {}, ["a"])
        with pytest.raises(AuditError, match="0 of 1 required"):
            asking.require(gathered)
        return gathered.problems["a"]


def test_two_of_three(tmp_path):
    """With one of three witnesses away, two processes cosign the log's head, and the quorum is there."""
    CHAIN.save(tmp_path / "log.pub")
    witnesses, processes = {}, {}
    try:
        for name in "ab":
            witnesses[name] = make_witness(tmp_path / name, f"witness.example/{name}")
            processes[name] = Process(tmp_path / name, tmp_path / "log.pub")
        urls = {name: process.url for name, process in processes.items()} | {"c": "http://127.0.0.1:1"}
        asking = quorum(2, urls, keys=KEYS | witnesses)
        with AuditLog.create(tmp_path / "log", LOG, ORIGIN) as log:
            for count in (1, 2, 300):
                log.append([b"x"] * count)
                gathered = asking.gather(log)
                asking.require(gathered)
                assert sorted(gathered.times) == ["a", "b"]
                assert list(gathered.problems) == ["c"]
                times = cosignatures(gathered.note, asking.verifiers)
                assert times == {witnesses[name].key_digest: at for name, at in gathered.times.items()}
                assert open_head(gathered.note, LOG.verifier).size == log.size
    finally:
        codes = [process.stop()[0] for process in processes.values()]
    assert codes == [0, 0]


def test_the_sizes_are_remembered(tmp_path):
    """The first question begins at 0 and is put again from the size of the 409; the later ones go right through."""
    with honest(tmp_path / "w", "a") as server:
        bodies = []
        real = server.witness.add_checkpoint
        server.witness.add_checkpoint = lambda body: bodies.append(body.split(b"\n")[0]) or real(body)
        first = quorum(1, {"a": server.url})
        first.require(first.gather(SmallLog.of(3)))
        asking = quorum(1, {"a": server.url})
        for size in (5, 8):
            asking.require(asking.gather(SmallLog.of(size)))
        assert bodies == [b"old 0", b"old 0", b"old 3", b"old 5"]


def test_a_log_that_was_put_back(tmp_path):
    """A witness that has seen more entries than the log has is a problem that says so."""
    with honest(tmp_path / "w", "a") as server:
        asking = quorum(1, {"a": server.url})
        asking.require(asking.gather(SmallLog.of(9)))
        for again in (asking, quorum(1, {"a": server.url})):
            gathered = again.gather(FIVE)
            assert gathered.problems == {"a": "the witness has seen 9 entries, this log has 5: this log was put back"}
            with pytest.raises(AuditError, match="put back"):
                again.require(gathered)


def test_a_forked_log(tmp_path):
    """An honest witness refuses another history, of the same size and of a greater one, and the problem says which."""
    with honest(tmp_path / "w", "a") as server:
        asking = quorum(1, {"a": server.url})
        asking.require(asking.gather(FIVE))
        assert "forked" in asking.gather(SmallLog.of(5, "b")).problems["a"]
        assert "422" in asking.gather(SmallLog.of(9, "b", common=4)).problems["a"]
        asking.require(asking.gather(SmallLog.of(9)))


def test_a_witness_restored_from_a_backup(tmp_path):
    """A witness whose folder was put back is given a proof from where it stands; that it forgot is told as a remark."""
    folder = tmp_path / "w"
    with honest(folder, "a") as server:
        asking = quorum(1, {"a": server.url})
        asking.require(asking.gather(SmallLog.of(3)))
    shutil.copytree(folder, tmp_path / "backup")
    with honest(folder, "a") as server:
        asking = quorum(1, {"a": server.url})
        assert asking.gather(SmallLog.of(6)).remarks == {}
    shutil.rmtree(folder)
    (tmp_path / "backup").rename(folder)
    with honest(folder, "a") as server:
        asking._of["a"] = asking._of["a"].model_copy(update={"url": server.url})  # it comes back at another port
        gathered = asking.gather(SmallLog.of(9))
        asking.require(gathered)
        assert gathered.remarks == {"a": "it had seen 6 entries and now says 3: it was put back"}
        assert server.witness.size(ORIGIN) == 9


def test_a_lost_answer(tmp_path):
    """When an answer was lost on the way, the same head is cosigned at the next try, after a 409 with its own size."""
    with honest(tmp_path / "w", "a") as server:
        assert server.witness.add_checkpoint(FIVE.request(0)).status == 200
        asking = quorum(1, {"a": server.url})
        asking.require(asking.gather(FIVE))


def test_a_head_after_a_rotation(tmp_path):
    """Witnesses follow the log to its next key, and the old one gets nothing from them any more."""
    with honest(tmp_path / "w", "a") as server:
        asking = quorum(1, {"a": server.url})
        for log in (FIVE, SmallLog.of(6, signer=NEXT)):
            asking.require(asking.gather(log))
        assert "403" in asking.gather(SmallLog.of(7)).problems["a"]
        asking.require(asking.gather(SmallLog.of(7, signer=NEXT)))


def test_a_witness_that_does_not_know_the_log(tmp_path):
    """404 is a problem that carries the witness's own words."""
    with honest(tmp_path / "w", "a") as server:
        stranger = Signer.from_seed("example.org/other", b"\x09" * 32)
        gathered = quorum(1, {"a": server.url}).gather(SmallLog.of(5, signer=stranger))
        assert gathered.problems["a"] == "it answered 404: this witness does not know the log"


def test_the_script_that_lies_can_tell_the_truth():
    """The control of the lies below: the same server with the right answer makes a quorum."""
    with Script(lambda _, connection, __: connection.sendall(signed())) as script:
        asking = quorum(1, {"a": script.url})
        asking.require(asking.gather(FIVE))


def two_lines(first, second):
    """Two cosignature lines as one answer."""
    return http_answer(200, (first + second).encode())


def now_by(name, log=FIVE):
    """A cosignature of now."""
    return cosign(log.tree_head.text, SIGNERS[name], int(time.time()))


def signed_with_more():
    """A line that is good for a longer text than the head's, which the answer smuggles in before it."""
    longer = f"{FIVE.tree_head.text}\nmore\n"
    return http_answer(200, b"more\n\n" + cosign(longer, SIGNERS["a"], int(time.time())).encode())


BLOB = base64.b64encode(KEYS["a"].id + bytes(72)).decode()
LIES = {
    "another root": lambda: signed(log=SmallLog.of(5, "b")),
    "an older head": lambda: signed(log=SmallLog.of(4)),
    "another log": lambda: signed(log=SmallLog.of(5, signer=Signer.from_seed("x", bytes(32)))),
    "another key": lambda: signed("b"),
    "another key under its name": lambda: signed(signer=Signer.from_seed("witness.example/a", b"z" * 32)),
    "an old time": lambda: signed(at=time.time() - 3700),
    "a time to come": lambda: signed(at=time.time() + 400),
    "no time at all": lambda: signed(at=0),
    "zeros": lambda: http_answer(200, f"— witness.example/a {BLOB}\n".encode()),
    "a good line and a bad one": lambda: two_lines(now_by("a"), f"— witness.example/a {BLOB}\n"),
    "text before the line": lambda: http_answer(200, b"more\n\n" + now_by("a").encode()),
    "more text, signed as well": signed_with_more,
    "an empty line before it": lambda: http_answer(200, b"\n" + now_by("a").encode()),
    "no newline": lambda: http_answer(200, now_by("a").encode()[:-1]),
    "loose base64": lambda: http_answer(200, now_by("a").rstrip("\n").encode() + b"=\n"),
    "nothing": lambda: http_answer(200, b""),
    "noise": lambda: http_answer(200, bytes(range(256))),
    "a note of its own": lambda: http_answer(200, SmallLog.of(5, "b").head),
    "101 lines": lambda: http_answer(200, now_by("a").encode() * 101),
    "no HTTP": lambda: b"hello\r\n\r\n",
    "nothing at all": lambda: b"",
    "an endless header": lambda: b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    "a broken length": lambda: b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "less than promised": lambda: b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + now_by("a").encode(),
    "a broken chunk": lambda: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a redirect": lambda: http_answer(302, now_by("a").encode(), more="Location: http://127.0.0.1:1/\r\n"),
    "a server's fault": lambda: http_answer(500, now_by("a").encode()),
    "201": lambda: http_answer(201, now_by("a").encode()),
    "409 without a type": lambda: http_answer(409, b"3\n"),
    "409 without a newline": lambda: http_answer(409, b"3", "text/x.tlog.size"),
    "409 with a sign": lambda: http_answer(409, b"+3\n", "text/x.tlog.size"),
    "409 with a signature": lambda: http_answer(409, now_by("a").encode(), "text/x.tlog.size"),
    "409 with what it was told": lambda: http_answer(409, b"0\n", "text/x.tlog.size"),
    "409 for ever": lambda: http_answer(409, b"3\n", "text/x.tlog.size"),
    "409 with another end of the world": lambda: http_answer(409, b"9" * 18 + b"\n", "text/x.tlog.size"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lying_witness(lie):
    """What is not this witness's cosignature, of now, on this head, in this form, counts for nothing and is told."""
    assert problem_of(lie())


def test_a_replayed_cosignature(tmp_path):
    """An honest witness's line on an older head, sent again for the next one, does not count."""
    with honest(tmp_path / "w", "a") as server:
        older = quorum(1, {"a": server.url}).gather(SmallLog.of(4))
        assert older.problems == {}
    assert "verify" in problem_of(http_answer(200, older.lines))


def test_strangers_lines_are_left_out():
    """Of an answer with lines by others only the witness's own line is taken."""
    with Script(lambda _, c, __: c.sendall(two_lines(now_by("b"), now_by("a")))) as script:
        asking = quorum(1, {"a": script.url})
        gathered = asking.gather(FIVE)
        asking.require(gathered)
        assert gathered.lines.decode().count("—") == 1
        assert list(cosignatures(gathered.note, KEYS.values())) == [KEYS["a"].key_digest]


def test_one_witness_cannot_answer_for_another():
    """Two URLs that lead to one witness are one cosignature, and no quorum of two."""
    with Script(lambda _, c, __: c.sendall(signed("a"))) as script:
        asking = quorum(2, {"a": script.url, "b": script.url})
        gathered = asking.gather(FIVE)
        assert (list(gathered.times), list(gathered.problems)) == (["a"], ["b"])
        with pytest.raises(AuditError, match=r"1 of 2 required.*b: "):
            asking.require(gathered)


def endless(head, piece, pause):
    """Answer with a beginning, then with a piece again and again until the test is over."""

    def answer(script, connection, _):
        connection.sendall(head)
        while not script.ended.wait(pause):
            connection.sendall(piece)

    return answer


SLOW = {
    "silence": endless(b"", b"", 0.05),
    "headers that drip": endless(b"HTTP/1.1 200 OK\r\n", b"X", 0.05),
    "headers without an end": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.05),
    "a body that drips": endless(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x", 0.05),
    "chunks that drip": endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.05),
    "100 Continue for ever": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW.keys())
def test_a_slow_witness(answer):
    """The deadline holds whatever a server does to draw it out, and the thread ends while the server still goes on."""
    with Script(answer) as script:
        asking = quorum(1, {"a": script.url}, timeout=0.5)
        started = time.monotonic()
        gathered = asking.gather(FIVE)
        assert time.monotonic() - started < 1.0
        assert (gathered.times, list(gathered.problems)) == ({}, ["a"])
        while any(each.name == "witness a" for each in threading.enumerate()):
            assert time.monotonic() - started < 2.0
            time.sleep(0.02)


def test_a_witness_is_asked_twice_at_most():
    """One that names another size each time is not asked again and again."""

    def wavering(script, connection, _):
        connection.sendall(http_answer(409, f"{1 + script.asked % 3}\n".encode(), "text/x.tlog.size"))

    with Script(wavering) as script:
        assert "refuses with 409" in quorum(1, {"a": script.url}).gather(FIVE).problems["a"]
        assert script.asked == 2


def test_a_huge_body_is_not_read():
    """A server that sends without an end is left after 32 KiB."""
    assert "more than 32768 bytes" in problem_of(endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, 0))


def test_a_slow_one_does_not_hold_up_a_quorum(tmp_path):
    """Once enough have cosigned, a silent witness costs a fraction of the timeout and is named."""
    with honest(tmp_path / "w", "a") as one, Script(SLOW["silence"]) as silent:
        asking = quorum(1, {"a": one.url, "b": silent.url}, timeout=20.0)
        started = time.monotonic()
        gathered = asking.gather(FIVE)
        asking.require(gathered)
        assert time.monotonic() - started < 5
        assert (list(gathered.times), list(gathered.problems)) == (["a"], ["b"])


def test_all_are_asked_side_by_side():
    """Three witnesses that take half a second each take half a second together."""

    def later(name):
        def answer(_, connection, __):
            time.sleep(0.5)
            connection.sendall(signed(name))

        return answer

    with Script(later("a")) as a, Script(later("b")) as b, Script(later("c")) as c:
        asking = quorum(3, {"a": a.url, "b": b.url, "c": c.url})
        started = time.monotonic()
        asking.require(asking.gather(FIVE))
        assert 0.5 <= time.monotonic() - started < 1.2


def test_no_redirect_and_no_proxy(monkeypatch):
    """A redirect is not followed, and a proxy of the environment is not used."""
    with Script(lambda _, c, __: c.sendall(signed())) as elsewhere:
        monkeypatch.setenv("http_proxy", elsewhere.url)
        more = f"Location: {elsewhere.url}/add-checkpoint\r\n"
        assert "307" in problem_of(http_answer(307, b"", more=more))
        assert elsewhere.asked == 0


def test_hostile_words_are_made_plain():
    """What a server says is one line without what acts on a terminal, and not long."""
    told = problem_of(http_answer(500, b"\x1b[31mred\nnext" + b"x" * 5000))
    assert told.startswith("it answered 500: ")
    assert told.isprintable()
    assert len(told) < 300


def test_the_url_is_a_prefix():
    """`/add-checkpoint` is put after the path of the URL, with one slash between."""
    seen = []

    class Listening(Script):
        def _serve(self, connection):
            with connection:
                seen.append(connection.recv(4096).split(b"\r\n")[0])

    with Listening(None) as script:
        for prefix in ("", "/", "/w/1", "/w/1/"):
            quorum(1, {"a": script.url + prefix}).gather(FIVE)
    assert [line.split()[1] for line in seen] == [b"/add-checkpoint"] * 2 + [b"/w/1/add-checkpoint"] * 2


def test_the_clock_decides_what_is_now():
    """The bounds are an hour back and five minutes ahead of the caller's clock, both inclusive."""
    for offset, good in [(-3600, True), (-3601, False), (300, True), (301, False)]:
        answer = signed(at=1_000_000_000 + offset)
        with Script(lambda _, c, __, answer=answer: c.sendall(answer)) as script:
            gathered = quorum(1, {"a": script.url}, clock=lambda: 1_000_000_000).gather(FIVE)
            assert (gathered.problems == {}) is good, offset


def test_a_key_that_anybody_can_sign_for_is_refused():
    """A configured point of small order is a KeyFileError before anything is asked."""
    import hashlib

    material = b"\x04" + min(_SMALL_ORDER_Y - {0}).to_bytes(32, "little")
    key_id = hashlib.sha256(b"w\n" + material).digest()[:4].hex()
    line = f"w+{key_id}+{base64.b64encode(material).decode()}"
    told = {"require": 1, "of": [{"name": "a", "url": "http://127.0.0.1:1", "key": line}]}
    with pytest.raises(KeyFileError):
        Quorum(Witnesses.parse(told))


def test_every_missing_witness_is_named():
    """The refusal says how many there are, how many there must be, and why each one is missing."""
    asking = quorum(2, {"a": "http://127.0.0.1:1", "b": "http://127.0.0.1:2", "c": "https://127.0.0.1:3"})
    gathered = asking.gather(FIVE)
    with pytest.raises(
        AuditError, match=r"0 of 2 required witnesses.*a: it cannot.*b: it cannot.*c: it cannot"
    ) as told:
        asking.require(gathered)
    assert told.value.clause == "§10.3"


def test_a_log_that_cannot_be_read():
    """An error of the log itself is raised, for it is no witness's fault."""

    class Broken(SmallLog):
        def consistency_proof(self, _old):
            raise AuditError("a tile is gone")

    with Script(lambda _, c, __: c.sendall(signed())) as script, pytest.raises(AuditError, match="tile"):
        quorum(1, {"a": script.url}).gather(Broken.of(5))


def test_tls_without_a_known_certificate_is_refused():
    """An https witness that does not speak TLS is a problem, not an answer in the clear."""
    with Script(lambda _, c, __: c.sendall(signed())) as script:
        asking = quorum(1, {"a": script.url.replace("http://", "https://")}, timeout=2.0)
        gathered = asking.gather(FIVE)
        assert (gathered.times, list(gathered.problems)) == ({}, ["a"])
        assert script.asked <= 1


class Secure(Script):
    """The same over TLS, with a certificate of its own making for 127.0.0.1."""

    def __init__(self, answer, folder):
        """Make the certificate; `folder / "ca.pem"` is what a client must trust."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "w")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256())
        )
        (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "key.pem").write_bytes(private + certificate.public_bytes(Encoding.PEM))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "key.pem")
        super().__init__(answer)
        self.url = self.url.replace("http://", "https://")

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            super()._serve(self._context.wrap_socket(connection, server_side=True))


def test_tls(tmp_path, monkeypatch):
    """An https witness is asked when its certificate is trusted, and is a problem when it is not."""
    with Secure(lambda _, c, __: c.sendall(signed()), tmp_path) as script:
        assert "certificate verify failed" in quorum(1, {"a": script.url}).gather(FIVE).problems["a"]
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        asking = quorum(1, {"a": script.url})
        asking.require(asking.gather(FIVE))


def test_a_slow_one_over_tls(tmp_path, monkeypatch):
    """The deadline holds inside TLS, too."""
    with Secure(SLOW["a body that drips"], tmp_path) as script:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        asking = quorum(1, {"a": script.url}, timeout=0.6)
        started = time.monotonic()
        assert "no answer" in asking.gather(FIVE).problems["a"]
        assert time.monotonic() - started < 1.2


def test_a_chain_of_one_key_is_a_log(tmp_path):
    """The control of the rotation: a witness that was given one key serves it."""
    folder = tmp_path / "w"
    folder.mkdir()
    SIGNERS["a"].save(folder / "witness.key")
    with served(folder, chains=[VerifierChain.of([LOG.verifier])]) as server:
        asking = quorum(1, {"a": server.url})
        asking.require(asking.gather(FIVE))
