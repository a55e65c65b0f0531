"""Facts about every byte of a small run: what of it may change without any verifier's noticing, and nothing else.

Both verifiers are asked of each change, in process and in memory. What a change cannot touch is not verified again for
each: a byte of a blob is shown to the check of blobs, one of a model to the check of models, with the state of a
verification that was whole; `test_the_shortcuts_agree_with_whole_verifications` asks the whole of a change of every
file. The log, its head and its keys are asked whole, log only.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path

import paper_run
import pytest
import two_verifiers as two
from paper_run import NEW, OLD, ORIGIN

from harness import auditing
from harness.errors import AuditError, StateError
from harness.folder import RunFolder
from harness.journal import verify
from harness.keys import VerifierChain
from harness.logreader import LogReader
from harness.notes import TreeHead, sign_head

STRANGER = paper_run.Signer.from_seed("stranger", bytes(32))


def tell(paper):
    """Tell the shortest whole story: one proposal, promoted and watched."""
    items = paper_run.story(paper)
    kept = [item for item in items if item.body.get("number") != 1 and item.body.get("number") != 3]
    kept = [item for item in kept if item.kind not in ("halted", "resumed")]
    for item in kept:
        if item.body.get("number") == 2:
            item.body["number"] = 1
        if item.kind == "intended":
            item.body["authorisation"] = next(at for at, other in enumerate(kept) if other.kind == "authorised")
    return kept


class Run:
    """One run in memory, with what a whole verification of it knows, for both verifiers."""

    def __init__(self, place: Path):
        """Write it, with a signature line by a stranger and tiles that were superseded."""
        self.root, self.key, self.head = place / "run", place / "key", place / "head"
        paper_run.write(self.root, tell)
        self.key.write_text(f"{OLD.verifier.vkey}\n")
        checkpoint = self.root / "log/checkpoint"
        checkpoint.chmod(0o644)
        note = checkpoint.read_bytes()
        self.head.write_bytes(note)
        self.size = int(note.split(b"\n")[1])
        head = TreeHead.parse(note.partition(b"\n\n")[0].decode() + "\n")
        self.unknown = sign_head(head, STRANGER).rpartition(b"\n\n")[2]
        checkpoint.write_bytes(note + self.unknown)
        for path in self.root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(0o644)
        self.forget()
        bundle, tile = self.root / f"log/tile/entries/000.p/{self.size}", self.root / f"log/tile/0/000.p/{self.size}"
        self.raws = split(bundle.read_bytes())
        shorter = len(join(self.raws[:3]))
        (tile.parent / "3").write_bytes(tile.read_bytes()[:96])
        (bundle.parent / "3").write_bytes(bundle.read_bytes()[:shorter])
        self.keep()

    def forget(self):
        """Remove blobs that no entry names: the story that this one is cut from has more."""
        bundle = (self.root / f"log/tile/entries/000.p/{self.size}").read_bytes()
        named = b"".join(base64.b64decode(json.loads(raw)["payload"]) for raw in split(bundle))
        sources = [path.read_bytes() for path in self.files("blobs") if path.name.encode() in named]
        for path in self.files("blobs"):
            if not any(path.name.encode() in text for text in (named, *sources)):
                path.unlink()

    def keep(self):
        """Keep what the partial checks begin with."""
        folder, v = RunFolder(self.root), two.verifier
        chain = VerifierChain.load(folder.public_key)
        self.reader = LogReader.open(folder.log, chain)
        self.steps = list(verify(self.reader, chain))
        keys = v.parse_keys((self.root / "keys/log.pub").read_text())
        (_, size, root), _ = v.open_head((self.root / "log/checkpoint").read_bytes(), keys, "§3.1")
        self.tiles_root = root
        self.tiles, self.state, self.bodies = v.Tiles(folder.log, size, root), v.beginning(keys), []
        for raw in self.raws:
            kind, body = v.open_entry(raw, *keys[0])
            v.fold(self.state, kind, body, raw)
            self.bodies.append(body)

    def files(self, *tops):
        """List the files below some folders of the trail."""
        return [path for top in tops for path in sorted((self.root / top).rglob("*")) if path.is_file()]

    def whole(self, *, log_only=False, head=None):
        """Ask both for everything; they agree."""
        more = (["--log-only"] if log_only else []) + (["--head", str(head)] if head else [])
        script = two.by_script(self.root, "--key", str(self.key), *more)
        held = auditing.Freshness(head=head)
        harness = two.by_harness(self.root, self.key, log_only=log_only, freshness=held)
        assert script.verdict == harness.verdict, (script, harness)
        assert (script.entry, script.content) == (harness.entry, harness.content), (script, harness)
        return script

    def entries(self):
        """Ask both for the entries under the head alone: whatever else they say follows from these."""
        v, folder = two.verifier, self.root / "log"
        return self._both(
            lambda _: must(v.Tiles(folder, self.size, self.tiles_root).entries(0) == self.raws),
            lambda: must(LogReader(folder, self.reader.head, self.reader.tree_head).bundle(0) == self.raws),
        )

    def blobs(self):
        """Ask both for the blobs alone; give the verdicts."""
        return self._both(
            lambda seen: [two.verifier.check_blobs(self.root, body, seen) for body in self.bodies],
            lambda: [
                auditing._Blobs.check(blobs, step)
                for blobs in [auditing._Blobs(RunFolder(self.root))]
                for step in self.steps
            ],
        )

    def models(self):
        """Ask both for the models alone."""
        return self._both(
            lambda _: two.verifier.check_models(self.root, self.state, self.tiles),
            lambda: auditing._check_models(RunFolder(self.root), self.reader, self.steps[-1].state),
        )

    @staticmethod
    def _both(script, harness):
        answers = []
        for ask, errors in ((lambda: script({}), two.verifier.Invalid), (harness, (AuditError, StateError))):
            try:
                ask()
                answers.append("valid")
            except errors:
                answers.append("invalid")
        assert len(set(answers)) == 1, answers
        return answers[0]


def must(holds):
    """Fail where a verifier hands out other entries than were written, without a word."""
    assert holds


def split(bundle):
    """Take a bundle apart into its entries."""
    found, at = [], 0
    while at < len(bundle):
        stop = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        found.append(bundle[at + 2 : stop])
        at = stop
    return found


def join(raws):
    """Put entries together into a bundle."""
    return b"".join(len(raw).to_bytes(2, "big") + raw for raw in raws)


@pytest.fixture(scope="module")
def run():
    """Give the run, in memory."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(dir=two.in_memory()) as place,
        two.remembered(),
    ):
        patch.setattr(os, "fsync", lambda _file: None)
        yield Run(Path(place))


DEEP = os.environ.get("LOCKGATE_HYPOTHESIS") == "deep"


def changes(data, *, bits=False, sparse=False):
    """Every byte changed, left out and doubled, and every front: (what, place, bytes).

    `sparse` is for files that are held against a digest: every byte is changed, and one in 16 left out, doubled and
    cut, a different one in each file. `make deep` does all.
    """
    first = len(data) % 16
    for at in range(len(data)):
        for flip in [1 << bit for bit in range(8)] if bits else [1 << at % 8]:
            yield "changed", at, data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
        if sparse and not DEEP and at % 16 != first:
            continue
        yield "left out", at, data[:at] + data[at + 1 :]
        yield "doubled", at, data[: at + 1] + data[at:]
        yield "cut", at, data[:at]


def attempt(path, data, ask):
    """Ask with other bytes in a file; give the answer, and put the file back."""
    original = path.read_bytes()
    try:
        path.write_bytes(data)
        return ask()
    finally:
        path.write_bytes(original)


def unnoticed(path, ask, plain, **how):
    """Where in a file a change is not seen: [(what, place)]; everything said to be verified is then the same."""
    data, found = path.read_bytes(), []
    for what, at, changed in changes(data, **how):
        answer = attempt(path, changed, ask) if changed != data else plain
        if changed != data and verdict(answer) != "invalid":
            assert answer == plain
            found.append((what, at))
    return found


def test_the_run_is_valid(run):
    """As it was written it is valid, with the stranger's line and the superseded tiles."""
    answer = run.whole()
    assert (answer.code, answer.verdict) == (0, f"valid at size {run.size}, freshness unproven")


def test_every_byte_of_the_tree_head(run):
    """Every bit, deletion, doubling and cut of the head is seen, but for what leaves a line by an unknown key."""
    path = run.root / "log/checkpoint"
    start = len(path.read_bytes()) - len(run.unknown)
    quiet = unnoticed(path, lambda: run.whole(log_only=True), run.whole(log_only=True), bits=True)
    assert quiet
    assert all(at >= start for _, at in quiet)
    # and a line that is gone whole is a line that was ignored
    assert ("cut", start) in quiet


def test_every_byte_of_the_key(run):
    """Every bit, deletion, doubling and cut of the log's keys is seen, but for the newline after the last one."""
    path = run.root / "keys/log.pub"
    last = len(path.read_bytes()) - 1
    quiet = unnoticed(path, lambda: run.whole(log_only=True), run.whole(log_only=True), bits=True)
    assert quiet == [("left out", last), ("cut", last)]


def test_every_byte_of_tiles_and_entries(run):
    """Every changed byte of the tile and of the entries is seen, and what is left out or doubled; superseded ones are not read."""
    for path in run.files("log/tile"):
        quiet = unnoticed(path, run.entries, "valid", sparse=True)
        assert len(quiet) in (0, len(list(changes(path.read_bytes(), sparse=True))) - same(path))
        assert bool(quiet) == (path.name == "3"), path


def same(path):
    """Count the changes that change nothing: a byte left out or doubled beside its like is the same either way."""
    data = path.read_bytes()
    return sum(changed == data for _, _, changed in changes(data, sparse=True))


def test_every_byte_of_blobs_and_models(run):
    """Every byte of every blob and of every file of a model that is changed is seen, and what is left out or doubled."""
    for top, ask in (("blobs", run.blobs), ("models", run.models)):
        assert ask() == "valid"
        for path in run.files(top):
            assert not unnoticed(path, ask, "valid", sparse=True), path


def test_the_shortcuts_agree_with_whole_verifications(run):
    """One changed byte of every file of the trail, asked whole: the verdict is that of the part alone."""
    plain = run.whole()
    for path in run.files("blobs", "models", "log", "keys"):
        data = path.read_bytes()
        middle = len(data) // 2
        answer = attempt(path, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], run.whole)
        assert answer == plain if path.name == "3" else answer.verdict == "invalid", path


def test_every_file_gone_or_in_anothers_place(run):
    """Each file deleted, made a folder, made a link to its own bytes, or swapped with another of its kind, is seen."""
    plain = run.whole()
    aside, seen = run.root.parent / "aside", 0
    kinds = {
        run.blobs: run.files("blobs"), run.models: run.files("models"),
        run.whole: [*run.files("log"), run.root / "keys/log.pub"],
    }  # fmt: skip
    for ask, files in kinds.items():
        for path in files:
            data = path.read_bytes()
            aside.write_bytes(data)
            for made in ("nothing", "folder", "link", "pipe"):
                path.unlink()
                if made == "folder":
                    path.mkdir()
                elif made == "link":
                    path.symlink_to(aside)
                elif made == "pipe":
                    os.mkfifo(path)
                answer = verdict(ask())
                path.rmdir() if made == "folder" else path.unlink(missing_ok=True)
                path.write_bytes(data)
                # superseded tiles are not read, and a reader with a key of their own needs no list of keys
                quiet = path.name == "3" or (made == "nothing" and path.name == "log.pub")
                assert (answer == "invalid") != quiet, (path, made)
        for one, other in itertools.combinations(files, 2):
            first, second = one.read_bytes(), other.read_bytes()
            if first != second:
                one.write_bytes(second)
                answer = verdict(attempt(other, first, ask))
                one.write_bytes(first)
                seen += 1
                assert (answer == "invalid") != (one.name == other.name == "3"), (one, other)
    assert seen > 100
    assert run.whole() == plain


def verdict(answer):
    """Give the verdict of an answer, or the word that is one."""
    return answer if isinstance(answer, str) else answer.verdict


def rebuilt(run, raws, signer=None):
    """Ask about a log of these entries: tiles that fit them, under the old head or one that `signer` signs anew."""
    folder, aside = run.root / "log", run.root.parent / "kept"
    shutil.copytree(folder, aside)
    try:
        note = (folder / "checkpoint").read_bytes()
        two.write_entries(run.root, raws, signer or OLD, ORIGIN)
        if signer is None:
            size, made = run.size, len(raws)
            for part in ("0", "entries"):  # under the names that the old head asks for
                (folder / "tile" / part / "000.p" / str(made)).rename(folder / "tile" / part / "000.p" / str(size))
            (folder / "checkpoint").write_bytes(note)
        return run.whole(log_only=True), run.whole(log_only=True, head=run.head)
    finally:
        shutil.rmtree(folder)
        aside.rename(folder)


def test_every_entry_dropped_doubled_or_swapped(run):
    """With the bundle alone or with tiles rebuilt, under the head that was signed: any other list of entries is seen."""
    raws, bundle = run.raws, run.root / f"log/tile/entries/000.p/{run.size}"
    lists = [raws[:at] + raws[at + 1 :] for at in range(len(raws))]
    lists += [raws[: at + 1] + raws[at:] for at in range(len(raws))]
    for one, other in itertools.combinations(range(len(raws)), 2):
        swapped = list(raws)
        swapped[one], swapped[other] = raws[other], raws[one]
        lists.append(swapped)
    for each in lists:
        assert attempt(bundle, join(each), lambda: run.whole(log_only=True)).verdict == "invalid"
    for each in lists[:: 1 if os.environ.get("LOCKGATE_HYPOTHESIS") == "deep" else 3]:
        assert [answer.verdict for answer in rebuilt(run, each)] == ["invalid", "invalid"]


def test_a_cut_to_each_older_head(run):
    """A cut to an older signed head is invalid for who holds a newer one; freshness is unproven for who holds none."""
    for size in range(1, run.size):
        alone, held = rebuilt(run, run.raws[:size], OLD)
        assert (alone.code, alone.verdict) == (0, f"valid at size {size}, freshness unproven")
        assert (held.code, held.clause) == (5, "§11.1")


def test_a_fork_at_each_entry(run):
    """History rewritten from any entry on, signed by the log's own key, does not extend the head that the reader holds."""
    for at in range(run.size):
        item = {"kind": "halted", "body": {"time": "2026-01-02T04:00:00Z", "by": "thief", "reason": str(at)}}
        statement = {
            "_type": "https://in-toto.io/Statement/v1", "predicateType": "urn:lockgate:entry:v1:halted",
            "subject": [{"name": "run", "digest": {"sha256": paper_run.digest(ORIGIN.encode())[7:]}}],
            "predicate": item["body"],
        }  # fmt: skip
        fork = two.encode(two.envelope(two.encode(statement), (OLD,)))
        alone, held = rebuilt(run, [*run.raws[:at], fork], OLD)
        legal = at > 0  # a log of something else than genesis is none; a halt may stand anywhere after it
        assert alone.code == (0 if legal else 5)
        assert held.code == 5
        assert held.clause == "§11.1"


def test_another_key(run):
    """The same entries under a head that another key signed are invalid."""
    assert rebuilt(run, run.raws, NEW)[0].clause == "§3.2"


def test_links_of_the_live_version(run):
    """Whatever `current` is but `models/1`, exactly so spelt, is invalid."""
    link = run.root / "current"
    for target in (
        "models/0",
        "models/2",
        "models//1",
        "./models/1",
        "models/1/",
        "models/01",
        "/models/1",
        "models",
        "",
    ):
        link.unlink()
        if target:
            link.symlink_to(target)
        assert run.models() == "invalid", target
        link.unlink(missing_ok=True)
        link.symlink_to("models/1")
    assert run.models() == "valid"
