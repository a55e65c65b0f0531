"""Write audits/vectors anew: `python scripts/vectors.py [FOLDER]`. The same bytes every time.

Each invalid vector is one defect in a run that is otherwise valid; those of order and of bodies are signed rightly.
"""

from __future__ import annotations

import base64
import copy
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import paper_run  # noqa: E402
import people  # noqa: E402
from paper_run import NEW, OLD, THIEF, Item  # noqa: E402

from harness.approval import message  # noqa: E402
from harness.canonical import digest, digest_json  # noqa: E402
from harness.envelope import pae  # noqa: E402
from harness.fresh_ledger import tail  # noqa: E402
from harness.keys import Signer  # noqa: E402
from harness.notes import TreeHead, sign_head  # noqa: E402

WITNESSES = [Signer.from_seed(f"witness-{name}", bytes([number] * 32)) for number, name in enumerate("abc", 11)]
COSIGNED = 1_800_000_000 - 40_000_000  # long before any reader's clock: never fresh
Change = dict[str, bytes | None]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file of a run that is of the trail, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(above.is_symlink() for above in (path, *path.parents))
    }


def told(tell: Callable[[paper_run.Paper], list[Item]] = paper_run.story) -> dict[str, bytes]:
    """The files of a run that this story makes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        paper_run.write(folder, tell)
        return snapshot(folder)


def log_of(items: list[Item]) -> dict[str, bytes]:
    """The files of a log of these entries."""
    with tempfile.TemporaryDirectory() as place:
        paper_run.write_log(Path(place), items)
        return snapshot(Path(place))


def encoded(files: dict[str, bytes] | Change) -> dict[str, str | None]:
    """Bytes as base64, a deleted file as null."""
    return {name: None if data is None else base64.b64encode(data).decode() for name, data in sorted(files.items())}


class Vectors:
    """The vectors under construction."""

    def __init__(self, folder: Path) -> None:
        """Begin with the plain run."""
        self.folder = folder
        self.plain = told()
        self.bases = {
            "plain": self.plain,
            "asked": told(paper_run.asking),
            "changed": told(paper_run.changing),
            "fresh": told(paper_run.freshly),
            "properties": told(paper_run.refuting),
            "ceilings": told(paper_run.reaching),
        }
        with tempfile.TemporaryDirectory() as place:
            self.items = paper_run.story(paper_run.Paper(paper_run.BlobStore(Path(place))))
        self.key = {"key": OLD.verifier.vkey.encode() + b"\n"}

    def write(self, group: str, name: str, vector: dict[str, Any]) -> None:
        """Write one vector."""
        path = self.folder / group / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(vector, indent=1, sort_keys=True) + "\n", "utf-8")

    def valid(
        self, name: str, why: str, files: dict[str, bytes], *, reader: dict[str, bytes] | None = None,
        arguments: list[str] | None = None, verdict: str | None = None, code: int = 0, live: int = 1,
    ) -> None:  # fmt: skip
        """A run on which a verifier must not say `invalid`."""
        size = int(files["log/checkpoint"].split(b"\n")[1])
        expect = {"exit": code, "verdict": verdict or f"valid at size {size}, freshness unproven"}
        self.write("valid", name, {
            "why": why, "files": encoded(files), "links": {"current": f"models/{live}"},
            "reader": encoded(reader or self.key), "arguments": arguments or ["--key", "READER/key"], "expect": expect,
        })  # fmt: skip

    def invalid(
        self, name: str, why: str, change: Change, clause: str, entry: int | None = None, *, base: str = "plain",
        links: dict[str, str | None] | None = None, reader: dict[str, bytes] | None = None,
        arguments: list[str] | None = None,
    ) -> None:  # fmt: skip
        """One defect."""
        vector: dict[str, Any] = {"why": why, "base": base, "files": encoded(change)}
        vector["expect"] = {"exit": 5, "verdict": "invalid", "clause": clause, "entry": entry}
        if links:
            vector["links"] = links
        if reader:
            vector["reader"] = encoded(reader)
        if arguments:
            vector["arguments"] = arguments
        self.write("invalid", name, vector)

    def illegal(
        self, name: str, why: str, clause: str, items: list[Item], entry: int | None = None, *, base: str = "plain"
    ) -> None:
        """Entries signed rightly of which the last (or `entry`) may not stand there."""
        change: Change = {path: None for path in self.bases[base] if path.startswith("log/tile/")}
        change |= {f"{path}": data for path, data in log_of(items).items()}
        self.invalid(name, why, change, clause, len(items) - 1 if entry is None else entry, base=base)

    def upto(self, kind: str, nth: int = 1) -> list[Item]:
        """The story up to and without the nth entry of a kind."""
        places = [place for place, item in enumerate(self.items) if item.kind == kind]
        return copy.deepcopy(self.items[: places[nth - 1]])

    def one(self, kind: str, nth: int = 1, **changes: Any) -> Item:
        """The nth entry of a kind, with changes to its body."""
        item = copy.deepcopy([item for item in self.items if item.kind == kind][nth - 1])
        item.body |= changes
        return item


def cosigned(note: bytes, *signers: Signer, time: int = COSIGNED) -> bytes:
    """A note with cosignatures of type 0x04 (tlog-cosignature)."""
    text = note.rpartition(b"\n\n")[0] + b"\n"
    for signer in signers:
        blob = time.to_bytes(8, "big") + signer.sign(b"cosignature/v1\ntime %d\n" % time + text)
        note += f"— {signer.name} {base64.b64encode(witness_id(signer) + blob).decode()}\n".encode()
    return note


def witness_id(signer: Signer) -> bytes:
    """The key id of a witness's key."""
    import hashlib

    return hashlib.sha256(signer.name.encode() + b"\n\x04" + signer.verifier.key).digest()[:4]


def witness_line(signer: Signer) -> bytes:
    """The verifier key line of a witness."""
    key = base64.b64encode(b"\x04" + signer.verifier.key).decode()
    return f"{signer.name}+{witness_id(signer).hex()}+{key}\n".encode()


def rotated(paper: paper_run.Paper) -> list[Item]:
    """The story, and then another key."""
    return [*paper_run.story(paper), paper_run.rotation(),
            Item("halted", {"time": "2026-01-02T04:00:01Z", "by": "operator", "reason": "a look"})]  # fmt: skip


def timed(paper: paper_run.Paper) -> list[Item]:
    """The story, in which what was measured was also timed."""
    items = paper_run.story(paper)
    taken = {"seconds": [0.5, 1, 0.25], "incumbent_seconds": [1, 1e-3, 2], "peak_mb": 410.5, "incumbent_peak_mb": 400}
    for item in items:
        if item.kind == "measured":
            item.body["timed"] = copy.deepcopy(taken)
    return items


def quorate(version: str, *signers: Signer) -> dict[str, bytes]:
    """A run that requires two of three witnesses: both versions under them, or one version under these signers."""

    def tell(paper: paper_run.Paper) -> list[Item]:
        items = paper_run.story(paper)
        of = [
            {"name": signer.name, "url": "http://127.0.0.1:1", "key": witness_line(signer).decode().strip()}
            for signer in WITNESSES
        ]
        items[0].body["config"] = {**items[0].body["config"], "witnesses": {"require": 2, "of": of}}
        return items

    files = told(tell)
    for number in ("0", "1"):
        path = f"models/{number}/authorisation.proof"
        head, gap, note = files[path].partition(b"\n\n")
        files[path] = head + gap + cosigned(note, *(signers if number == version else WITNESSES[1:]))
    return files


def valid(v: Vectors) -> None:
    """The runs that hold together."""
    plain, note = v.plain, v.plain["log/checkpoint"]
    size = int(note.split(b"\n")[1])
    v.valid("plain", "a proposal denied, one promoted, one not better", plain)
    v.valid("no-key", "the key in the run is no evidence of whose run it is", plain, arguments=["--log-only"],
            verdict="identity unproven", code=6)  # fmt: skip
    v.valid("own-head", "the log is the one whose head the reader holds", plain, reader={**v.key, "head": note},
            arguments=["--key", "READER/key", "--head", "READER/head"], verdict="valid and fresh")  # fmt: skip
    earlier = log_of(v.items[:9])["log/checkpoint"]
    v.valid("earlier-head", "the log extends an earlier head that the reader holds", plain,
            reader={**v.key, "head": earlier}, arguments=["--key", "READER/key", "--head", "READER/head"],
            verdict="valid and fresh")  # fmt: skip
    v.valid("too-old", "valid, but its newest entry is older than asked", plain,
            arguments=["--key", "READER/key", "--max-age", "60"], code=7)  # fmt: skip
    v.valid("young-enough", "its newest entry is as young as asked", plain,
            arguments=["--key", "READER/key", "--max-age", "1e12"], verdict="valid and fresh")  # fmt: skip
    short = told(lambda paper: paper_run.story(paper)[:18])
    v.valid("cut-to-an-old-head", "a tail that was cut cannot be seen without a newer head", short)
    keys = {"key": OLD.verifier.vkey.encode() + b"\n", "new": NEW.verifier.vkey.encode() + b"\n"}
    v.valid("rotated", "the new key follows the old one, both have signed; the reader holds the old one", told(rotated),
            reader=keys)  # fmt: skip
    v.valid("rotated-new-key", "the same, and the reader holds the new one", told(rotated), reader=keys,
            arguments=["--key", "READER/new"])  # fmt: skip
    v.valid("timed", "what candidate and incumbent took stands beside a measurement", told(timed))
    cut = {**plain, "keys/log.pub": plain["keys/log.pub"] + NEW.verifier.vkey.encode() + b"\n"}
    v.valid("rotation-cut-short", "a last key that was never put in force is ignored", cut)
    unknown = sign_head(
        TreeHead.parse(note.partition(b"\n\n")[0].decode() + "\n"), Signer.from_seed("stranger", bytes(32))
    )
    line = unknown.rpartition(b"\n\n")[2]
    v.valid("unknown-signature", "a line by an unknown key is ignored", {**plain, "log/checkpoint": note + line})
    witnesses = {**v.key, "w": b"".join(witness_line(each) for each in WITNESSES)}
    v.valid("cosigned", "two of three witnesses have cosigned the head", {**plain, "log/checkpoint": cosigned(note, *WITNESSES[:2])},
            reader=witnesses, arguments=["--key", "READER/key", "--witness", "READER/w", "--quorum", "2", "--max-age", "1e12"],
            verdict="valid and fresh")  # fmt: skip
    v.valid("cosigned-too-old", "two witnesses have cosigned the head, long ago",
            {**plain, "log/checkpoint": cosigned(note, *WITNESSES[:2])}, reader=witnesses,
            arguments=["--key", "READER/key", "--witness", "READER/w", "--quorum", "2"], code=7)  # fmt: skip
    v.valid("cosigned-by-too-few", "one of two witnesses required has cosigned the head",
            {**plain, "log/checkpoint": cosigned(note, WITNESSES[0])}, reader=witnesses,
            arguments=["--key", "READER/key", "--witness", "READER/w", "--quorum", "2", "--max-age", "1e12"], code=7)  # fmt: skip
    twin = Signer.from_seed("witness-twin", bytes([11] * 32))
    v.valid("one-key-counted-twice", "one witness's key under two names is one witness",
            {**plain, "log/checkpoint": cosigned(note, WITNESSES[0], twin)},
            reader={**v.key, "w": witness_line(WITNESSES[0]) + witness_line(twin) + witness_line(WITNESSES[1])},
            arguments=["--key", "READER/key", "--witness", "READER/w", "--quorum", "2", "--max-age", "1e12"], code=7)  # fmt: skip
    bundle, tile = (f"log/tile/{part}/000.p/{size}" for part in ("entries", "0"))
    wider = {path: data for path, data in plain.items() if path not in (bundle, tile)}
    more = log_of([*v.items, Item("halted", {"time": "2026-01-02T04:00:00Z", "by": "operator", "reason": ""})])
    wider |= {path: data for path, data in more.items() if path.endswith(f"/{size + 1}")}
    v.valid("wider-tiles", "tiles wider than the head needs serve by their front", wider)
    left = {
        "log/tile/0/001": b"left over",
        f"log/tile/0/000.p/{size - 1}": b"superseded",
        "log/tile/entries/000.p/9": b"\0",
    }
    v.valid("leftover-tiles", "superseded tiles and tiles beyond the head are not read", {**plain, **left})
    swap = 1 + next(place for place, item in enumerate(v.items) if item.kind == "intended")
    v.valid("cut-inside-a-swap", "a crash after the rename and before its outcome was logged: the intended version is live",
            told(lambda paper: paper_run.story(paper)[:swap]))  # fmt: skip
    v.valid("quorum", "a run that requires two witnesses: both versions were allowed under them", quorate(""))
    asked, listed = v.bases["asked"], "".join(person.line for person in paper_run.ASKED).encode()
    v.valid("asked", "people let a proposal go on at both stages, by every kind of key, and refused another", asked,
            reader={**v.key, "approvers": listed}, arguments=["--key", "READER/key", "--approvers", "READER/approvers"])  # fmt: skip
    v.valid("asked-no-approvers", "who the people are is not shown by the run's own list of them", asked,
            verdict="identity unproven", code=6)  # fmt: skip
    v.valid("asked-approvers-not-needed", "a list of approvers, and a run that asked nobody", plain,
            reader={**v.key, "approvers": listed}, arguments=["--key", "READER/key", "--approvers", "READER/approvers"])  # fmt: skip
    few = "".join(person.line for person in paper_run.ASKED[1:]).encode()
    v.invalid("approver-that-the-reader-does-not-have", "ann is not on the reader's own list", {}, "§11",
              1 + next(place for place, item in enumerate(asking(v)) if item.kind == "held"), base="asked",
              reader={**v.key, "approvers": few})  # fmt: skip
    renamed = listed.replace(b"ann@example.org,", b"eve@example.org,")
    v.invalid("approver-under-another-name", "the key is on the reader's list, and not as ann's", {}, "§11",
              1 + next(place for place, item in enumerate(asking(v)) if item.kind == "held"), base="asked",
              reader={**v.key, "approvers": renamed})  # fmt: skip
    demoted = listed.replace(b"role:safety", b"role:human")
    v.invalid("approver-in-another-role", "ann is on the reader's list, and not of safety", {}, "§11",
              1 + next(place for place, item in enumerate(asking(v)) if item.kind == "held"), base="asked",
              reader={**v.key, "approvers": demoted})  # fmt: skip
    bare = {path: data for path, data in plain.items() if path.startswith(("log/", "keys/"))}
    v.valid("log-only", "a reader without access to blobs and models verifies the log", bare,
            arguments=["--key", "READER/key", "--log-only"])  # fmt: skip


def asking(v: Vectors) -> list[Item]:
    """The story of a run that asks people."""
    del v
    with tempfile.TemporaryDirectory() as place:
        return paper_run.asking(paper_run.Paper(paper_run.BlobStore(Path(place))))


def answers(v: Vectors) -> None:
    """§5.9 and §7.17: what people are asked, and what they say."""
    items = asking(v)
    screen, decide, third = (place for place, item in enumerate(items) if item.kind == "held")
    asked = next(item for item in items if item.kind == "genesis")

    def upto(place: int, **genesis: Any) -> list[Item]:
        return [Item("genesis", {**asked.body, **genesis}), *copy.deepcopy(items[1:place])]

    def changed(place: int, kind: str = "", **body: Any) -> Item:
        item = copy.deepcopy(items[place])
        return Item(kind or item.kind, {**item.body, **body})

    def said(place: int, person: people.Person, verdict: str = "approve", **body: Any) -> Item:
        held = digest_json(items[max(at for at in (screen, decide, third) if at < place)].body)
        signature = base64.b64encode(person.sign(message(held, verdict, ""))).decode()
        entry = {"number": items[place].body["number"], "hold": held, "by": person.name, "key": person.key.line}
        whole = {**entry, "reason": "", "signature": signature, "time": items[place].body["time"], **body}
        return Item("approved" if verdict == "approve" else "refused", whole)

    def case(name: str, why: str, before: list[Item], last: Item, clause: str = "§7.17") -> None:
        v.illegal(name, why, clause, [*before, last], base="asked")

    case("approvers-too-few", "fewer approvers than must agree", [],
         Item("genesis", {**asked.body, "approvers": asked.body["approvers"][:1]}), "§7.1")  # fmt: skip
    without = {**asked.body["config"], "approvers": None}
    case("approvers-for-nothing", "approvers of a run that asks nobody", [],
         Item("genesis", {**asked.body, "config": without}), "§7.1")  # fmt: skip
    none = {**asked.body["config"], "approvers": {"require": 0}}
    case("approvers-none-required", "a quorum of nobody", [], Item("genesis", {**asked.body, "config": none}), "§6")
    odd = [{**asked.body["approvers"][0], "name": "an n"}, *asked.body["approvers"][1:]]
    case("approver-with-an-odd-name", "a name with a space in it", [],
         Item("genesis", {**asked.body, "approvers": odd}), "§6")  # fmt: skip
    twice = [*asked.body["approvers"], {**asked.body["approvers"][0], "name": "eve"}]
    case(
        "approver-s-key-twice",
        "one key under two names",
        [],
        Item("genesis", {**asked.body, "approvers": twice}),
        "§7.1",
    )
    roles = [*asked.body["approvers"], people.Person(people.ANN.name, people.SK_ECDSA).approver.json_value()]
    case(
        "approver-in-two-roles",
        "one name in two roles",
        [],
        Item("genesis", {**asked.body, "approvers": roles}),
        "§7.1",
    )
    case("held-without-approvers", "a hold where nobody can answer", upto(screen, config=without, approvers=[]),
         changed(screen))  # fmt: skip
    for name, why, place, body in (
        ("held-for-another-log", "the hold names another log", screen, {"origin": "lockgate-other"}),
        ("held-under-another-guard", "the hold names another guard", screen, {"guard": digest(b"x")}),
        ("held-under-other-policies", "the hold names other policies", decide, {"policies": digest(b"x")}),
        ("held-over-another-incumbent", "the hold names another incumbent", decide, {"incumbent": digest(b"x")}),
        ("held-for-no-rule", "no rule asks for people", decide, {"rules": []}),
        ("held-and-expired", "the hold expires before it begins", screen, {"expires": "2026-01-01T00:00:00Z"}),
        ("held-with-another-document", "another document than the screen's", screen, {"document": items[3].body["document"]}),
        ("held-with-another-candidate", "another candidate than the one measured", decide, {"candidate": digest(b"x")}),
        ("held-with-no-candidate", "no candidate after its test", decide, {"candidate": None}),
        ("held-at-the-wrong-stage", "held at the end of a test that was not made", screen, {"stage": "decide"}),
    ):  # fmt: skip
        case(name, why, upto(place), changed(place, **body))
    case("held-twice", "a second hold while one is open", upto(screen + 1), changed(screen))
    case("held-again-after-release", "people are asked what they have answered", upto(decide + 6), changed(decide))
    first = screen + 1
    case("approved-and-not-held", "an answer to nothing", upto(screen), changed(first))
    case("approved-another-hold", "an answer to another hold", upto(first), said(first, people.ANN, hold=digest(b"x")))
    case("approved-by-a-stranger", "signed by a key that genesis does not list", upto(first),
         said(first, people.Person("dan")))  # fmt: skip
    case("approved-in-anothers-name", "the signer's key under another's name", upto(first),
         said(first, people.ANN, by=people.BEN.name))  # fmt: skip
    case("approved-with-anothers-key", "the entry names another key than the signer's", upto(first),
         said(first, people.ANN, key=people.BEN.key.line))  # fmt: skip
    case("approved-twice-by-one-person", "one person is counted once", upto(first + 1), said(first, people.ANN))
    case("approved-from-a-refusal", "a refusal turned into an approval", upto(first),
         Item("approved", said(first, people.ANN, "refuse").body))  # fmt: skip
    case("approved-for-another-reason", "the reason is not the one signed", upto(first),
         said(first, people.ANN, reason="because"))  # fmt: skip
    case("approved-too-late", "an answer after the hold has expired", upto(first),
         said(first, people.ANN, time="2026-01-05T00:00:00Z"))  # fmt: skip
    own = [Item(item.kind, {**item.body, "proposer": people.ANN.name}) if item.kind == "proposed" else item
           for item in upto(first)]  # fmt: skip
    case("approved-by-the-proposer", "whoever proposed it answers", own, said(first, people.ANN))
    other = base64.b64encode(people.ANN.sign(message(digest_json(items[screen].body), "approve", ""), "git")).decode()
    case("approved-in-another-namespace", "a signature that was made for another purpose", upto(first),
         said(first, people.ANN, signature=other))  # fmt: skip
    untouched = people.Person(people.BEN.name, people.BEN.kind, flags=0)
    case("approved-by-an-untouched-token", "a hardware key that says that nobody was there", upto(first),
         said(first, untouched))  # fmt: skip
    good = said(first, people.ANN).body["signature"]
    longer = base64.b64encode(base64.b64decode(good) + b"x").decode()
    for name, why, signature in (
        ("approved-with-more-behind", "a byte after the SSH signature", longer),
        ("approved-by-nothing", "an empty signature", ""),
        ("approved-not-base64", "loose bits at the end of the base64", f"{good[:-2]}{chr(ord(good[-2]) + 1)}="),
    ):
        case(name, why, upto(first), said(first, people.ANN, signature=signature))
    case("approved-after-a-refusal", "one has refused, and another approves",
         [*upto(first), said(first, people.CAT, "refuse")], said(first, people.ANN))  # fmt: skip
    with_rsa = next(person for person in people.OTHERS if person.kind == "ssh-rsa")
    blob = with_rsa.key.blob
    padded = blob[:18] + people.string(b"\0" + blob[22:])
    spelled = {**with_rsa.approver.json_value(), "key": f"ssh-rsa {base64.b64encode(padded).decode()}"}
    listed = [spelled if each["name"] == with_rsa.name else each for each in asked.body["approvers"]]
    before, answer = upto(first, approvers=listed), said(first, with_rsa)
    signature = base64.b64decode(answer.body["signature"]).replace(people.string(blob), people.string(padded))
    answer.body |= {"key": spelled["key"], "signature": base64.b64encode(signature).decode()}
    case("approved-by-a-key-respelled", "an RSA key whose modulus begins with one zero more", before, answer)
    case("screened-again-at-the-end", "a screen while people are asked at the stage `decide`", upto(decide + 1),
         changed(first + 2), "§7.5")  # fmt: skip
    case("screened-again-too-early", "one of two approvals", upto(first + 1), changed(first + 2), "§7.5")
    case("screened-again-otherwise", "the second screen is of another source", upto(first + 2),
         changed(first + 2, source=items[3].body["document"]), "§7.5")  # fmt: skip
    case("screened-again-and-held", "the second screen asks again", upto(first + 2),
         changed(first + 2, outcome="hold"), "§7.5")  # fmt: skip
    case("built-while-held", "built before people have answered", upto(first + 2), changed(first + 3), "§7.5")
    staked = next(place for place, item in enumerate(items) if item.kind == "staked")
    fourth = [changed(third - 2, number=3), changed(third - 1, number=3, base=items[3].body["base"])]
    more = changed(third, number=3, incumbent=items[screen].body["incumbent"])
    before = [*upto(staked), *fourth, more]
    case("staked-while-another-is-held", "a test while people are asked", before, changed(staked), "§7.6")
    # Another proposal, let through the screen over the baseline, waits until the first one is live.
    ended = next(place for place, item in enumerate(items) if item.kind == "watched")
    later = next(place for place, item in enumerate(items) if item.kind == "staked" and item.body["number"] == 3)
    opened = changed(screen, number=3, time="2026-01-02T03:00:09Z", document=fourth[1].body["document"],
                     judgement=fourth[1].body["judgement"], incumbent=items[screen].body["incumbent"])  # fmt: skip
    name, told = digest_json(opened.body), []
    for person in (people.ANN, people.BEN):
        made = base64.b64encode(person.sign(message(name, "approve", ""))).decode()
        told.append(said(first, person, number=3, hold=name, signature=made))
    third_screen = Item("screened", {**fourth[1].body, "outcome": "pass"})
    built = [item for item in items[ended:later] if item.kind in ("built", "developed")]
    number_three = [item for item in items[ended:later] if item.kind == "proposed"]
    between = [*number_three, fourth[1], opened, *told, third_screen]
    moved = copy.deepcopy([*items[staked : ended + 1], *built])
    for item in moved:
        if item.kind == "intended":  # by as many entries as stand before it now
            item.body["authorisation"] += len(between)
    before = [*upto(staked), *between, *moved]
    case("staked-over-another-incumbent-than-approved", "people let it through the screen over another incumbent", before,
         changed(later), "§7.6")  # fmt: skip
    case("promoted-while-held", "promoted with no approval", upto(decide + 1), changed(decide + 6), "§7.9")
    late = changed(decide + 6, time="2026-01-05T00:00:00Z")
    case("promoted-after-the-hold-expired", "promoted when the hold had expired", upto(decide + 6), late, "§7.9")
    refusal = said(decide + 3, people.CAT, "refuse")
    case("promoted-though-refused", "promoted although one refused", [*upto(decide + 6), refusal],
         changed(decide + 6), "§7.9")  # fmt: skip
    permit = next(place for place, item in enumerate(items) if item.kind == "authorised")
    names = items[permit].body["approvals"]
    for name, why, approvals in (
        ("authorised-without-the-approvals", "the authorisation names no approvals", []),
        ("authorised-with-fewer-approvals", "the authorisation leaves an approval out", names[1:]),
        ("authorised-with-an-approval-twice", "the authorisation names one approval twice", [*names, names[0]]),
    ):
        case(name, why, upto(permit), changed(permit, approvals=approvals), "§7.10")


def fresh(v: Vectors) -> None:
    """§7.6, §7.8 and §8.5 where every test has items of its own."""
    with tempfile.TemporaryDirectory() as place:
        items = paper_run.freshly(paper_run.Paper(paper_run.BlobStore(Path(place))))
    v.valid("fresh", "items made for every test: two rejected, one promoted, one rejected, one cut, and one more rejected",
            v.bases["fresh"])  # fmt: skip
    bare = {path: data for path, data in v.bases["fresh"].items() if path.startswith(("log/", "keys/"))}
    v.valid("fresh-log-only", "who has no access to blobs checks what was staked, and believes what it cost", bare,
            arguments=["--key", "READER/key", "--log-only"])  # fmt: skip
    delta = items[0].body["config"]["ledger"]["delta"]

    def nth(kind: str, number: int) -> int:
        return next(at for at, item in enumerate(items) if item.kind == kind and item.body.get("number") == number)

    def case(
        name: str, why: str, at: int, *, clause: str = "§7.6", genesis: dict[str, Any] | None = None,
        before: dict[int, dict[str, Any]] | None = None, **last: Any,
    ) -> None:  # fmt: skip
        told = copy.deepcopy(items[: at + 1])
        for place, changes in (before or {}).items():
            told[place].body |= changes
        told[0].body |= genesis or {}
        told[-1].body |= last
        v.illegal(name, why, clause, told, base="fresh")

    one, two, three, four, six = (nth("staked", number) for number in (1, 2, 3, 4, 6))
    alphas = {at: items[at].body["alpha"] for at in (one, two, three, four, six)}
    charged = {n: items[nth("measured", n)].body["charged"] for n in (1, 2, 3, 4)}
    case(
        "fresh-alpha-above-the-rule",
        "the first stake is a billionth more than its share",
        one,
        alpha=alphas[one] * (1 + 1e-9),
    )
    case("fresh-alpha-below-the-rule", "less is staked than the rule says, so that more is left for a later test", two,
         alpha=alphas[two] / 2)  # fmt: skip
    case("fresh-alpha-of-the-shared-rule", "the stake that a ledger of shared items would give", one,
         alpha=delta * 5.5916**-2)  # fmt: skip
    case("fresh-tail-of-the-first", "the sum over all tests in place of that over those to come", two,
         alpha=(delta - charged[1]) * 2**-1.2 / 5.591582441177751)  # fmt: skip
    case("fresh-nothing-spent", "the second stake as if the first had cost nothing", two,
         alpha=alphas[two] * delta / (delta - charged[1]))  # fmt: skip
    case("fresh-promotion-that-charges", "a promoted test that costs its stake", nth("measured", 3), clause="§7.8",
         charged=alphas[three])  # fmt: skip
    case("fresh-refund-beyond-the-stake", "a rejected test that gives back more than it staked", nth("measured", 1),
         clause="§7.8", charged=-charged[1])  # fmt: skip
    case("fresh-charged-beyond-the-stake", "a test that costs more than its stake", nth("measured", 1), clause="§7.8",
         charged=2 * alphas[one])  # fmt: skip
    case("fresh-charge-left-out", "a test of fresh items that does not say what it costs", nth("measured", 1), clause="§7.8",
         charged=None)  # fmt: skip
    shared = {"config": paper_run.FIRST}
    case("refund-with-shared-items", "a test of shared items that gives back of its stake", nth("measured", 1), clause="§7.8",
         genesis=shared, before={one: {"alpha": delta * 5.5916**-2}})  # fmt: skip
    case("fresh-items-asked-again", "the second test has the items of the first", two, offset=0)
    case("fresh-items-overlap", "the second test begins inside the items of the first", two, offset=999)
    case("fresh-items-left-out", "items between two tests that no test of the log had", two, offset=1001)
    case("fresh-test-restarted", "after a promotion tests are counted from 1 again, and stakes are the larger", four, test=1,
         alpha=alphas[four] / (4**-1.2 / tail(4)) * (1 / tail(1)))  # fmt: skip
    case("fresh-refund-of-a-cut-test", "a test of which nothing was measured, and that cost nothing", six,
         alpha=alphas[six] / (1 - items[nth("staked", 5)].body["alpha"] / left_before(items, six)))  # fmt: skip
    case("fresh-of-an-unknown-kind", "items that are neither scarce nor fresh", 0, clause="§6",
         genesis={"config": {**paper_run.FIRST, "ledger": {**paper_run.FIRST["ledger"], "items": "both"}}})  # fmt: skip
    # What the evidence does not bear: the log alone cannot show it, who has the blobs sees it.
    case("fresh-refund-of-the-greatest-evidence", "the gate with the most evidence decides what comes back", nth("measured", 1),
         clause="§8.5", charged=0.0)  # fmt: skip
    evidence = items[nth("measured", 1)].body["evidence"]
    other = json.loads(v.bases["fresh"][blob_of(evidence)])
    for name, why, edit in (
        ("fresh-evidence-of-another-gate", "evidence that names another gate", lambda gates: gates[0].update(name="else")),
        ("fresh-evidence-of-a-gate-fewer", "evidence that leaves the gate out that was against it", lambda gates: gates.pop(0)),
        ("fresh-evidence-that-is-no-number", "evidence that is true", lambda gates: gates[0].update(log_e=True)),
    ):  # fmt: skip
        changed = copy.deepcopy(other)
        edit(changed["result"]["gates"])
        data = json.dumps(changed).encode()
        told = copy.deepcopy(items[: nth("measured", 1) + 1])
        told[-1].body["evidence"] = digest(data)
        change: Change = {path: None for path in v.bases["fresh"] if path.startswith("log/tile/")}
        change |= {**log_of(told), blob_of(digest(data)): data}
        v.invalid(name, why, change, "§8.5", len(told) - 1, base="fresh")


def left_before(items: list[Item], at: int) -> float:
    """What is left of delta before this stake, had the test that was cut before it cost nothing."""
    delta = items[0].body["config"]["ledger"]["delta"]
    return float(delta - sum(item.body["charged"] for item in items[:at] if item.kind == "measured"))


def blob_of(name: str) -> str:
    """Where a blob lies."""
    return f"blobs/sha256/{name[7:9]}/{name[7:]}"


def ceilings(v: Vectors) -> None:
    """§7.17: capabilities that are not shown to be below a ceiling ask for people, and nothing else lets them go on."""
    by_list = {**v.key, "approvers": "".join(person.line for person in people.PEOPLE).encode()}
    v.valid("ceilings", "people let a candidate go on that is not shown to be below a ceiling, and refuse another",
            v.bases["ceilings"], reader=by_list, arguments=BY_LIST, live=2)  # fmt: skip
    v.valid("floor-of-a-policy", "a gate that a policy demands stands among those of the configuration",
            told(paper_run.demanding))  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        items = paper_run.reaching(paper_run.Paper(paper_run.BlobStore(Path(place))))
    measured, held, decided = (
        next(at for at, item in enumerate(items) if item.kind == kind) for kind in ("measured", "held", "decided")
    )
    second = next(at for at in range(decided, len(items)) if items[at].kind == "held")

    def changed(place: int, **body: Any) -> Item:
        return Item(items[place].kind, {**copy.deepcopy(items[place].body), **body})

    def case(name: str, why: str, clause: str, *entries: Item) -> None:
        v.illegal(name, why, clause, [*copy.deepcopy(items[: held - 1]), *entries], base="ceilings")

    def verdicts(*told: str) -> Item:
        gates = [{**gate, "verdict": each} for gate, each in zip(items[measured].body["gates"], told, strict=True)]
        return changed(measured, gates=gates, passed=set(told) == {"pass"})

    missed, hold, first, last = items[measured], items[held], items[held + 1], items[decided]
    rules = {"rules": ["pack/rule"]}
    improve, parent, ceiling = items[measured].body["gates"]
    swapped = [
        improve,
        {**parent, "verdict": "inconclusive", "eval": ceiling["eval"], "kind": ceiling["kind"]},
        {**ceiling, "verdict": "pass", "eval": parent["eval"], "kind": parent["kind"]},
    ]
    case("measured-under-anothers-name", "a gate that was not shown is passed off as a ceiling", "§7.8",
         changed(measured, gates=swapped))  # fmt: skip
    case("measured-as-passed-over-a-ceiling", "a ceiling that was not shown counts as passed", "§7.8",
         changed(measured, passed=True))  # fmt: skip
    case(
        "promoted-over-a-ceiling",
        "promoted, not shown to be below a ceiling, and nobody was asked",
        "§7.9",
        missed,
        last,
    )
    case(
        "promoted-over-a-ceiling-by-nobody",
        "promoted over a ceiling while people are asked",
        "§7.9",
        missed,
        hold,
        last,
    )
    case("promoted-over-a-ceiling-by-one", "promoted over a ceiling with one of two approvals", "§7.9",
         missed, hold, first, last)  # fmt: skip
    case("promoted-over-a-failed-gate", "promoted with a gate that has failed beside the ceiling", "§7.9",
         verdicts("pass", "fail", "inconclusive"), last)  # fmt: skip
    case("held-for-no-rule-and-no-gate", "a hold that nothing asks for", "§7.17", missed, changed(held, gates=None))
    case("held-without-its-ceiling", "a hold by a rule that hides the ceiling from people", "§7.17",
         missed, changed(held, gates=None, **rules))  # fmt: skip
    case("held-for-another-ceiling", "a hold that names another ceiling", "§7.17",
         missed, changed(held, gates=["accuracy/ceiling"]))  # fmt: skip
    case("held-for-a-ceiling-more", "a hold that names one ceiling more", "§7.17",
         missed, changed(held, gates=["accuracy/ceiling", "jumps/ceiling"]))  # fmt: skip
    case("held-for-a-ceiling-that-passed", "a hold by a rule that names a ceiling which was shown", "§7.17",
         verdicts("pass", "pass", "pass"), changed(held, **rules))  # fmt: skip
    case("held-for-an-empty-list-of-gates", "a hold by a rule with a list of no gates", "§7.17",
         verdicts("pass", "pass", "pass"), changed(held, gates=[], **rules))  # fmt: skip
    case("held-for-a-ceiling-beside-a-failed-gate", "a hold by the ceiling although another gate has failed", "§7.17",
         verdicts("pass", "fail", "inconclusive"), hold)  # fmt: skip
    case("held-by-a-rule-beside-a-failed-gate", "a hold by a rule although a gate has failed", "§7.17",
         verdicts("pass", "fail", "inconclusive"), changed(held, gates=None, **rules))  # fmt: skip
    case("held-for-an-inconclusive-floor", "a gate of another kind that was not shown counts as a ceiling", "§7.17",
         verdicts("pass", "inconclusive", "pass"), changed(held, gates=["parity/parent"]))  # fmt: skip
    other = paper_run.hold_digest({**hold.body, "gates": None, **rules})
    signature = base64.b64encode(people.ANN.sign(message(other, "approve", first.body["reason"]))).decode()
    case("approved-without-the-ceiling", "what ann signed does not say that a ceiling asks", "§7.17",
         missed, hold, changed(held + 1, hold=other, signature=signature))  # fmt: skip
    case("promoted-over-a-ceiling-on-anothers-words", "an approval of another hold than the one that names the ceiling",
         "§7.17", missed, hold, changed(held + 1, signature=signature))  # fmt: skip
    screen = next(at for at, item in enumerate(items) if item.kind == "screened")
    asked = changed(screen, outcome="hold", failed=["pack/rule"])
    shown = {name: asked.body[name] for name in ("document", "judgement")}
    early = changed(held, stage="screen", candidate=None, **shown, **rules)
    v.illegal("held-for-a-ceiling-at-the-screen", "a hold at the screen that names a gate", "§7.17",
              [*copy.deepcopy(items[:screen]), asked, early], base="ceilings")  # fmt: skip
    refused = Item("decided", {**copy.deepcopy(items[decided].body), "number": 2})
    v.illegal("promoted-over-a-ceiling-though-refused", "promoted over a ceiling although one refused", "§7.9",
              [*copy.deepcopy(items[: second + 3]), refused], base="ceilings")  # fmt: skip


BY_LIST = ["--key", "READER/key", "--approvers", "READER/approvers"]


def lists(v: Vectors) -> None:
    """§11: a run whose guard was changed, and the reader's own list of who may have answered, over time."""
    changed = v.bases["changed"]
    everybody = {person.line: person for person in paper_run.LISTED}
    with tempfile.TemporaryDirectory() as place:
        items = paper_run.changing(paper_run.Paper(paper_run.BlobStore(Path(place))))
    cat, ann, ben = (next(at for at, item in enumerate(items) if item.body.get("by") == person.name) for person in
                     (people.CAT, people.ANN, people.BEN))  # fmt: skip
    again = next(at for at, item in enumerate(items) if item.kind == "approved" and item.body.get("number") == 4)

    def without(*gone: people.Person) -> dict[str, bytes]:
        return {
            **v.key,
            "approvers": "".join(line for line in everybody if line not in {each.line for each in gone}).encode(),
        }

    v.valid("changed", "a guard that is changed to a stricter one, to a weaker one with other approvers, and to more items",
            changed, reader=without(), arguments=BY_LIST, live=3)  # fmt: skip

    def by_nobody(paper: paper_run.Paper) -> list[Item]:
        tell = paper_run.Teller(paper, paper.candidate("base"))
        tell.begin(config=paper_run.config_of(3), approvers=paper_run.listed(*people.PEOPLE))
        tell.propose_guard(STRICT, guard=digest(b"stricter"), config=paper_run.config_of(2, paper_run.MORE, require=3),
                           approvers=paper_run.listed(*people.PEOPLE[::-1]))  # fmt: skip
        tell.change_guard()
        tell.propose(1)
        tell.test(1, paper.candidate("two"))
        tell.promote(1, paper.candidate("two"))
        return paper_run.signed(copy.deepcopy(tell.items))

    v.valid("changed-by-nobody", "a stricter guard with the same approvers, in another order: nobody need agree, and nobody did",
            told(by_nobody))  # fmt: skip
    v.valid("changed-no-approvers", "who the people are is not shown by the lists that the run had over time", changed,
            live=3, verdict="identity unproven", code=6)  # fmt: skip
    for name, why, entry, gone in (
        ("approver-who-left-not-listed", "ben is on no list any more, and had answered", ben, (people.BEN,)),
        ("approver-in-an-earlier-role", "ann answered as of safety, and the reader knows her later role alone", ann, (people.ANN,)),
        ("approver-in-a-later-role", "ann answered in her later role, and the reader knows the earlier one alone", again,
         (paper_run.ANN_LATER,)),
        ("approvers-all-unknown", "the reader's list names nobody: the first answer is the first bad entry", cat, paper_run.LISTED),
    ):  # fmt: skip
        v.invalid(name, why, {}, "§11", entry, base="changed", reader=without(*gone), arguments=BY_LIST)
    compared = next(path for path in changed if path.startswith("blobs/") and b'"comparison"' in changed[path])
    first = next(at for at, item in enumerate(items) if item.kind == "guard-proposed")
    v.invalid("comparison-missing", "what the comparison of guards came to is gone", {compared: None}, "§8.1", first,
              base="changed")  # fmt: skip


YES, NO = "approve", "refuse"
STRICT = "at-least-as-strict"


def guards(v: Vectors) -> None:
    """§7.18, and what a change of the guard means for the rest of §7: the last entry may not stand there."""
    ann, ben, cat, dan = ((person, YES) for person in (*people.PEOPLE, paper_run.DAN))
    config_of, other, more = paper_run.config_of, digest(b"other"), {"data": digest(b"more data"), "vault_items": 6000}

    def begun(require: int | None = 2, **changes: Any) -> paper_run.Teller:
        paper = paper_run.Paper(paper_run.BlobStore(Path(place)))
        tell = paper_run.Teller(paper, paper.candidate("base"))
        listed = paper_run.listed(*people.PEOPLE) if require else []
        tell.begin(**{"config": config_of(3, paper_run.MORE, require=require), "approvers": listed, **changes})
        return tell

    def case(name: str, why: str, tell: paper_run.Teller, clause: str = "§7.18", **last: Any) -> None:
        items = paper_run.signed(copy.deepcopy(tell.items))
        items[-1].body |= last
        v.illegal(name, why, clause, items, base="changed")

    def proposed(verdict: str = "weaker", tell: paper_run.Teller | None = None, **changes: Any) -> paper_run.Teller:
        tell = tell or begun()
        tell.propose_guard(verdict, **{"guard": other, **changes})
        return tell

    def answered(*said: tuple[people.Person, str], verdict: str = "weaker", **changes: Any) -> paper_run.Teller:
        tell = proposed(verdict, **changes)
        tell.answer(*said)
        return tell

    def made(tell: paper_run.Teller) -> paper_run.Teller:
        tell.change_guard()
        return tell

    def and_then(tell: paper_run.Teller, kind: str, **body: Any) -> paper_run.Teller:
        tell.add(kind, **body)
        return tell

    with tempfile.TemporaryDirectory() as place:
        same = {"guard": digest(b"guard")}
        listed = paper_run.listed(*people.PEOPLE)
        twice = [*listed, {**listed[0], "name": "eve"}]
        role = [*listed, people.Person(people.ANN.name, people.SK_ECDSA, role="release").approver.json_value()]
        delta = {**config_of(3), "ledger": {**config_of(3)["ledger"], "delta": 0.04}}
        bare = {
            **config_of(3),
            "ledger": {name: value for name, value in config_of(3)["ledger"].items() if name != "delta"},
        }
        witness = {"name": "w", "url": "http://127.0.0.1:1", "key": witness_line(WITNESSES[0]).decode().strip()}
        seen = {**config_of(3), "witnesses": {"require": 1, "of": [witness]}}
        for name, why, changes in (
            ("guard-for-another-log", "the new guard is another log's", {"origin": "lockgate-other"}),
            ("guard-over-another-base", "the guard that it would replace is not in force", {"base": digest(b"x")}),
            ("guard-that-changes-nothing", "neither guard nor data are others", same),
            ("guard-with-too-few-approvers", "fewer approvers than must agree", {"approvers": listed[:1]}),
            ("guard-with-a-key-twice", "one key under two names", {"approvers": twice}),
            ("guard-with-an-approver-in-two-roles", "one name in two roles", {"approvers": role}),
            ("guard-with-approvers-for-nothing", "approvers whom nobody asks", {"config": config_of(3, require=None)}),
            ("guard-with-another-delta", "the budget of error is the run's, for good", {"config": delta}),
            ("guard-with-other-witnesses", "whom the run asks to witness it is the run's, for good", {"config": seen}),
            ("guard-with-fewer-items", "held-out items are taken away", {"vault_items": 4999}),
            ("guard-with-more-items-of-the-same-data", "more held-out items, of the very data", {"vault_items": 5001}),
            ("guard-with-other-data-of-as-many-items", "held-out items are exchanged", {"data": digest(b"more data")}),
            ("guard-with-other-data-of-fewer-items", "other data with fewer items", {**more, "vault_items": 4000}),
            ("guard-that-has-expired", "nobody could answer in time", {"expires": "2026-01-01T00:00:00Z"}),
        ):  # fmt: skip
            case(name, why, proposed(), **{"guard": other, **changes})
        case("guard-without-a-delta", "a configuration that names no delta", proposed(), "§6", config=bare)
        case("guard-of-an-unknown-verdict", "a verdict that is none", proposed(), "§6", verdict="stricter")
        about = paper_run.signed(proposed().items)
        about[-1].about = {"base": about[-1].body["base"]}
        v.illegal(
            "guard-about-the-one-before",
            "its subject is the guard that it would replace",
            "§5.8",
            about,
            base="changed",
        )
        case("guard-proposed-twice", "another change is open", proposed(tell=proposed(), guard=digest(b"third")))
        # What the entry itself shows is not the writer's word.
        for name, why, changes in (
            ("as-strict-with-a-gate-fewer", "said to be as strict, with a gate fewer", {"config": config_of(3)}),
            ("as-strict-with-another-gate", "said to be as strict, with a gate in place of another",
             {"config": {**config_of(3), "gates": [*paper_run.GATES, {**paper_run.MORE, "kind": "ceiling"}]}}),
            ("as-strict-with-more-promotions", "said to be as strict, with a promotion more",
             {"config": config_of(4, paper_run.MORE)}),
            ("as-strict-with-fewer-who-must-agree", "said to be as strict, and one must agree where two had to",
             {"config": config_of(3, paper_run.MORE, require=1)}),
            ("as-strict-with-an-approver-more", "said to be as strict, with somebody more who may agree",
             {"approvers": [*listed, paper_run.DAN.approver.json_value()]}),
            ("as-strict-with-an-approver-fewer", "said to be as strict, without somebody who might have refused",
             {"approvers": listed[:2]}),
            ("as-strict-with-an-approver-in-another-role", "said to be as strict, and somebody has another role",
             {"approvers": [paper_run.ANN_LATER.approver.json_value(), *listed[1:]]}),
            ("as-strict-with-all-approvers-exchanged", "said to be as strict, and other people are asked",
             {"approvers": paper_run.listed(paper_run.DAN, people.Person("eve"))}),
        ):  # fmt: skip
            case(name, why, proposed(STRICT, **changes))
        first = {"config": config_of(3, paper_run.MORE), "approvers": listed}
        case("as-strict-with-the-first-approvers", "said to be as strict, and people may let go on what nobody could",
             proposed(STRICT, begun(None), **first))  # fmt: skip
        gone = made(proposed(STRICT, config=config_of(3, paper_run.MORE, require=None), approvers=[]))
        case("as-strict-to-nobody-and-back-to-others", "all approvers leave, which is stricter, and others come",
             proposed(STRICT, gone, **{**first, "approvers": paper_run.listed(paper_run.DAN, people.Person("eve"))},
                      guard=digest(b"third")))  # fmt: skip

        # What people say.
        tell = begun()
        tell.propose(1, "hold")
        tell.hold(1, "screen", None)
        tell.propose_guard("weaker", guard=other)
        tell.answer(ann)
        case(
            "guard-approved-under-a-number",
            "an approval of the guard as one of a proposal that is held",
            tell,
            "§7.17",
            number=1,
        )
        tell = proposed()
        tell.answer(ann)
        unheard = paper_run.signed(copy.deepcopy(tell.items))
        del unheard[-2]
        v.illegal("guard-approved-and-not-open", "an answer about nothing", "§7.18", unheard, base="changed")
        case("guard-approved-another", "an answer about another change", answered(ann), hold=digest(b"x"))
        others = paper_run.listed(paper_run.DAN, people.CAT)
        case(
            "guard-approved-by-who-is-only-proposed",
            "the list that is proposed is not in force",
            answered(dan, approvers=others),
        )
        case("guard-approved-by-its-proposer", "whoever proposed it answers", answered(cat, by=people.CAT.name))
        case("guard-approved-twice-by-one", "one person is counted once", answered(ann, ann))
        case("guard-approved-after-a-refusal", "one has refused, and another approves", answered((people.CAT, NO), ann))
        case("guard-approved-too-late", "an answer after the change has expired", answered(ann), time=paper_run.EXPIRES)
        case(
            "guard-approved-by-a-stranger", "signed by a key that is on no list", answered((people.Person("eve"), YES))
        )
        turned = answered((people.CAT, NO))
        turned = paper_run.signed(copy.deepcopy(turned.items))
        turned[-1].kind = "approved"
        v.illegal("guard-approved-from-a-refusal", "a refusal turned into an approval", "§7.18", turned, base="changed")
        left = answered(ann, ben, approvers=others)
        left.change_guard()
        left.propose_guard("weaker", guard=digest(b"third"))
        left.answer(ben)
        case("guard-approved-by-who-has-left", "an approver of the guard before", left)
        asked = made(answered(ann, ben, approvers=others))
        asked.propose(1, "hold")
        asked.hold(1, "screen", None, ben)
        case(
            "approved-by-who-has-left",
            "a proposal's hold is answered by an approver of the guard before",
            asked,
            "§7.17",
        )

        # What comes to nothing.
        case("guard-rejected-another", "another change than the open one", and_then(proposed(), "guard-rejected", reason="x"),
             hold=digest(b"x"))  # fmt: skip
        case(
            "guard-rejected-without-a-reason",
            "a rejection that says nothing",
            and_then(proposed(), "guard-rejected", reason=""),
        )
        case("guard-rejected-twice", "it has come to nothing already",
             and_then(and_then(proposed(), "guard-rejected", reason="x"), "guard-rejected", reason="x"))  # fmt: skip

        # What is made.
        rejected = and_then(answered(ann, ben), "guard-rejected", reason="x")
        case("changed-after-its-rejection", "it had come to nothing", made(rejected))
        case("changed-twice", "it was made already", made(made(answered(ann, ben))))
        case(
            "changed-to-another-guard",
            "another guard than the one proposed",
            made(answered(ann, ben)),
            guard=digest(b"x"),
        )
        case(
            "changed-to-other-policies",
            "other policies than those proposed",
            made(answered(ann, ben)),
            policies=digest(b"x"),
        )
        case("changed-by-another-hold", "another change than the open one", made(answered(ann, ben)), hold=digest(b"x"))
        case("changed-after-it-expired", "too late", made(answered(ann, ben)), time=paper_run.EXPIRES)
        case("changed-though-refused", "two approved and one refused", made(answered(ann, ben, (people.CAT, NO))))
        case("as-strict-though-refused", "nobody need agree, and one has refused",
             made(answered((people.CAT, NO), verdict=STRICT)))  # fmt: skip
        case("weaker-by-nobody", "a weaker guard, with no approval", made(proposed()))
        case("weaker-by-one-of-two", "a weaker guard, with one approval of two", made(answered(ann)))
        case("unknown-by-nobody", "a guard that may be weaker, with no approval", made(proposed("unknown")))
        case(
            "weaker-where-nobody-is-asked",
            "a weaker guard of a run without approvers",
            made(proposed("weaker", begun(None))),
        )
        case("weaker-by-the-quorum-that-it-proposes", "one approval, of the one that it would ask for from then on",
             made(answered(ann, config=config_of(3, require=1))))  # fmt: skip
        case(
            "more-items-by-nobody",
            "held-out items are added, and nobody was asked",
            made(proposed(STRICT, **same, **more)),
        )
        case("more-items-where-nobody-is-asked", "held-out items are added to a run without approvers",
             made(proposed(STRICT, begun(None), **same, **more)))  # fmt: skip
        signed = paper_run.signed(copy.deepcopy(made(answered(ann, ben)).items))[-1].body["approvals"]
        for name, why, approvals in (
            ("changed-without-its-approvals", "no approvals are named", []),
            ("changed-with-fewer-approvals", "an approval is left out", signed[:1]),
            ("changed-with-approvals-in-another-order", "approvals in another order", signed[::-1]),
            ("changed-with-an-approval-twice", "an approval is named twice", [*signed, signed[0]]),
        ):
            case(name, why, made(answered(ann, ben)), approvals=approvals)
        case("changed-with-metrics-of-a-stranger", "development metrics of what was never live", made(answered(ann, ben)),
             development={digest(b"x"): {"accuracy": 1}})  # fmt: skip
        working = proposed(STRICT)
        working.propose(1)
        case("changed-while-a-proposal-is-open", "a proposal would be judged by two guards", made(working))
        working = proposed(STRICT)
        working.propose(1)
        working.test(1, working.paper.candidate("two"))
        working.decide(1, "promote", "passed")
        case(
            "changed-between-decision-and-promotion",
            "what one guard has let through would go live under another",
            made(working),
        )
        for cut, name, why, clause in (
            (1, "changed-before-the-smoke-test", "a promotion waits for its smoke test", "§7.18"),
            (2, "changed-inside-a-swap", "the outcome of a swap comes first", "§7.2"),
        ):
            working = proposed(STRICT)
            working.propose(1)
            working.test(1, working.paper.candidate("two"))
            working.promote(1, working.paper.candidate("two"))
            del working.items[-cut:]
            case(name, why, made(working), clause)

        # What was said of one change is said of no other.
        def repeated(tell: paper_run.Teller, *more: Item) -> list[Item]:
            items = paper_run.signed(copy.deepcopy([*tell.items, *more]))
            first = next(at for at, item in enumerate(items) if item.kind == "guard-proposed")
            return [*items, copy.deepcopy(items[first])]

        refused = and_then(answered(ann, ben, (people.CAT, NO)), "guard-rejected", reason="refused")
        v.illegal("guard-proposed-again-after-a-refusal", "the very body that was refused, which old approvals would fit", "§7.18",
                  repeated(refused), base="changed")  # fmt: skip
        undone = made(answered(ann, ben, config=config_of(3)))
        undone.propose_guard(STRICT, **same, config=config_of(3, paper_run.MORE))
        undone.change_guard()
        v.illegal("guard-proposed-again-after-it-was-undone", "the very body that was made and undone, which old approvals would fit",
                  "§7.18", repeated(undone), base="changed")  # fmt: skip
        carried = and_then(answered(ann, ben), "guard-rejected", reason="x")
        carried.propose_guard("weaker", guard=digest(b"third"))
        carried.answer(ann)
        items = paper_run.signed(copy.deepcopy(carried.items))
        items[-1] = copy.deepcopy(items[3])
        v.illegal(
            "guard-approved-by-what-was-said-of-another",
            "an approval of a change before",
            "§7.18",
            items,
            base="changed",
        )

        # From then on.
        changed = made(answered(ann, ben, policies=digest(b"other policies"), config=config_of(1)))
        tell = begun()
        tell.test(1, tell.paper.candidate("two"))
        before = tell.items[-1].body["gates"]
        for name, why, clause, kind, body in (
            ("measured-by-the-gates-before", "the gates of the guard before", "§7.8", "measured", {"gates": before}),
            ("staked-in-the-epoch-before", "the epoch ended with the guard", "§7.6", "staked", {"epoch": 1}),
            ("predicted-in-the-epoch-before", "items of the epoch before", "§7.7", "predicted", {"epoch": 1}),
            ("held-under-the-guard-before", "a hold that names the guard before", "§7.17", "held", {"guard": same["guard"]}),
            ("held-under-the-policies-before", "a hold that names the policies before", "§7.17", "held",
             {"policies": digest(b"policies")}),
            ("authorised-under-the-guard-before", "permission by the guard before", "§7.10", "authorised", {"guard": same["guard"]}),
            ("authorised-under-the-policies-before", "permission by the policies before", "§7.10", "authorised",
             {"policies": digest(b"policies")}),
        ):  # fmt: skip
            tell = copy.deepcopy(changed)
            tell.propose(1)
            tell.test(1, tell.paper.candidate("two"))
            if kind == "held":
                tell.hold(1, "decide", tell.paper.candidate("two"))
            if kind == "authorised":
                tell.promote(1, tell.paper.candidate("two"))
            last = max(at for at, item in enumerate(tell.items) if item.kind == kind)
            del tell.items[last + 1 :]
            case(name, why, tell, clause, **body)
        tell = copy.deepcopy(changed)
        for number, name in ((1, "two"), (2, "three")):
            tell.propose(number)
            tell.test(number, tell.paper.candidate(name))
            tell.promote(number, tell.paper.candidate(name))
        del tell.items[-3:]
        case(
            "promotions-beyond-the-budget-in-force", "a second promotion, where the new guard allows one", tell, "§7.10"
        )


def heads(v: Vectors) -> None:
    """§2, §3 and §11."""
    note = v.plain["log/checkpoint"]
    text, _, lines = note.decode().partition("\n\n")
    origin, size, root = text.split("\n")

    def signed(words: str, signer: Signer = OLD) -> Change:
        blob = signer.verifier.id + signer.sign(words.encode())
        return {"log/checkpoint": f"{words}\n— {signer.name} {base64.b64encode(blob).decode()}\n".encode()}

    loose = root[:-2] + chr(ord(root[-2]) + 1) + "="
    for name, why, words in (
        ("size-with-a-plus", "`+27` is no decimal number", f"{origin}\n+{size}\n{root}\n"),
        ("size-with-a-zero", "a leading zero", f"{origin}\n0{size}\n{root}\n"),
        ("size-in-other-digits", "digits of another script", f"{origin}\n٢٧\n{root}\n"),
        ("size-with-an-underscore", "`2_7` is no decimal number", f"{origin}\n2_7\n{root}\n"),
        ("size-beyond-2-60", "a size that no reader's int64 holds", f"{origin}\n{10**18}\n{root}\n"),
        ("extension-line", "a fourth line", f"{origin}\n{size}\n{root}\nextension\n"),
        ("two-lines", "no root", f"{origin}\n{size}\n"),
        ("root-with-loose-bits", "base64 whose last bits are not zero", f"{origin}\n{size}\n{loose}\n"),
        ("root-without-padding", "base64 without its padding", f"{origin}\n{size}\n{root.rstrip('=')}\n"),
        ("root-too-short", "a root of 31 bytes", f"{origin}\n{size}\n{base64.b64encode(bytes(31)).decode()}\n"),
        ("carriage-returns", "lines that end as on another system", f"{origin}\r\n{size}\r\n{root}\r\n"),
    ):
        v.invalid(name, why, signed(words), "§3.1")
    v.invalid(
        "another-origin", "a head of another log, rightly signed", signed(f"lockgate-other\n{size}\n{root}\n"), "§3.2"
    )
    v.invalid("another-size", "a head of a smaller log with this one's root", signed(f"{origin}\n9\n{root}\n"), "§4.2")
    v.invalid("head-by-another-key", "the key bears the log's name, and is another", signed(f"{text}\n", THIEF), "§3.2")
    v.invalid("bad-signature", "a signature line by the right key that does not verify",
              {"log/checkpoint": note[:-8] + (b"A" if note[-8:-7] != b"A" else b"B") + note[-7:]}, "§3.2")  # fmt: skip
    v.invalid("no-signature", "text alone", {"log/checkpoint": f"{text}\n\n".encode()}, "§3.1")
    v.invalid("a-hundred-and-one-lines", "more signature lines than are read",
              {"log/checkpoint": note + lines.encode() * 100}, "§3.1")  # fmt: skip
    v.invalid("head-too-long", "a note of more than 65,536 bytes", {"log/checkpoint": b"x" * 70_000}, "§3.1")
    v.invalid("no-head", "the tree head is missing", {"log/checkpoint": None}, "§3.1")
    v.invalid("small-order-key", "a key for which anybody can sign", {
        "keys/log.pub": vkey_bytes(b"\x01" + bytes(31)),
    }, "§2.1", arguments=["--log-only"])  # fmt: skip
    v.invalid("key-not-canonical", "the same point in a second spelling", {
        "keys/log.pub": vkey_bytes((2**255 - 19 + 3).to_bytes(32, "little")),
    }, "§2.1", arguments=["--log-only"])  # fmt: skip
    v.invalid("key-id-of-another", "the id in the line is not the key's", {
        "keys/log.pub": OLD.verifier.vkey.replace(OLD.verifier.id.hex(), "00000000").encode() + b"\n",
    }, "§2.1", arguments=["--log-only"])  # fmt: skip
    v.invalid("readers-key-is-another", "a whole log under another key than the reader's", {}, "§2.3",
              reader={"key": THIEF.verifier.vkey.encode() + b"\n"})  # fmt: skip
    fork = copy.deepcopy(v.items[:20])
    fork[19].body["reason" if "reason" in fork[19].body else "time"] = "2026-01-02T03:59:59Z"
    ours = log_of(fork)["log/checkpoint"]
    v.invalid("forked", "history after the reader's head is another", {}, "§11.1", reader={**v.key, "head": ours},
              arguments=["--key", "READER/key", "--head", "READER/head"])  # fmt: skip
    change: Change = {path: None for path in v.plain if path.startswith("log/tile/")}
    v.invalid("cut-below-the-head-held", "fewer entries than the reader's head names", {**change, **log_of(v.items[:18])},
              "§11.1", reader={**v.key, "head": note}, arguments=["--key", "READER/key", "--head", "READER/head"])  # fmt: skip
    bad = cosigned(note, WITNESSES[0])
    v.invalid("bad-cosignature", "a cosignature by a known witness that does not verify",
              {"log/checkpoint": bad[:-8] + (b"A" if bad[-8:-7] != b"A" else b"B") + bad[-7:]}, "§3.2",
              reader={**v.key, "w": witness_line(WITNESSES[0])},
              arguments=["--key", "READER/key", "--witness", "READER/w", "--max-age", "1e12"])  # fmt: skip


def vkey_bytes(key: bytes) -> bytes:
    """A verifier key line for bytes that are no sound key."""
    import hashlib

    name, typed = paper_run.ORIGIN, b"\x01" + key
    key_id = hashlib.sha256(name.encode() + b"\n" + typed).digest()[:4].hex()
    return f"{name}+{key_id}+{base64.b64encode(typed).decode()}\n".encode()


def tiles(v: Vectors) -> None:
    """§4."""
    size = int(v.plain["log/checkpoint"].split(b"\n")[1])
    bundle, tile = (f"log/tile/{part}/000.p/{size}" for part in ("entries", "0"))
    data, hashes = v.plain[bundle], v.plain[tile]
    first = int.from_bytes(data[:2], "big")
    second = int.from_bytes(data[2 + first : 4 + first], "big")
    one, two = data[: 2 + first], data[2 + first : 4 + first + second]
    rest = data[4 + first + second :]
    v.invalid("hash-changed", "one bit of a tile", {tile: bytes([hashes[0] ^ 1]) + hashes[1:]}, "§4.2")
    v.invalid("tile-missing", "a tile that the head needs is not there", {tile: None}, "§4.2")
    v.invalid("tile-too-short", "a tile cut by a hash", {tile: hashes[:-32]}, "§4.2")
    v.invalid("tile-too-long", "a tile with a byte more", {tile: hashes + b"\0"}, "§4.2")
    v.invalid("bundle-missing", "the entries are not there", {bundle: None}, "§4.2")
    v.invalid(
        "entry-changed", "one bit of an entry", {bundle: data[:40] + bytes([data[40] ^ 1]) + data[41:]}, "§4.2", 0
    )
    v.invalid("entries-swapped", "two entries in each other's place", {bundle: two + one + rest}, "§4.2", 0)
    v.invalid("entry-twice", "an entry in place of the next", {bundle: one + one + rest}, "§4.2", 1)
    v.invalid("entry-removed", "an entry is gone", {bundle: one + rest}, "§4.2", 1)
    v.invalid("bundle-cut", "the last entry is cut", {bundle: data[:-1]}, "§4.2", size - 1)
    v.invalid("bundle-with-more", "a byte after the last entry", {bundle: data + b"\0"}, "§4.2")
    v.invalid("tile-is-a-link", "a file of the log that is a link", {tile: None, "elsewhere": hashes}, "§4.3",
              links={tile: "../../../../elsewhere"})  # fmt: skip


def envelopes(v: Vectors) -> None:
    """§1 and §5: what stands in an entry, hashed and placed rightly."""
    begun = copy.deepcopy(v.items[:2])

    def spoilt(name: str, why: str, clause: str, raw: Callable[[bytes], bytes]) -> None:
        v.illegal(name, why, clause, [*begun[:1], Item("started", begun[1].body, raw=raw)])

    def resigned(payload: Callable[[bytes], bytes], signer: Signer = OLD) -> Callable[[bytes], bytes]:
        def change(raw: bytes) -> bytes:
            envelope = json.loads(raw)
            made = payload(base64.b64decode(envelope["payload"]))
            signature = base64.b64encode(signer.sign(pae(envelope["payloadType"], made))).decode()
            envelope["payload"] = base64.b64encode(made).decode()
            envelope["signatures"] = [{**envelope["signatures"][0], "sig": signature}]
            return json.dumps(envelope, separators=(",", ":")).encode()

        return change

    def doubled(raw: bytes) -> bytes:
        envelope = json.loads(raw)
        envelope["signatures"] *= 2
        return json.dumps(envelope).encode()

    spoilt("duplicate-member", "a name twice in the envelope", "§5.1", lambda raw: b'{"payload":"",' + raw[1:])
    spoilt("member-too-many", "an unknown member of the envelope", "§5.1", lambda raw: b'{"a":1,' + raw[1:])
    spoilt("payload-type", "another payload type", "§5.1", lambda raw: raw.replace(b"vnd.in-toto", b"vnd.out-toto"))
    spoilt("space-in-base64", "a line break in base64", "§5.1", lambda raw: raw.replace(b'"sig":"', b'"sig":"\\n'))
    spoilt("two-signatures", "the same signature twice", "§5.3", doubled)
    spoilt("not-utf-8", "bytes that are no text", "§5.1", lambda raw: raw + b"\xff")
    spoilt("not-json", "no JSON", "§5.1", lambda raw: raw[:-1])
    spoilt("too-deep", "nested deeper than 32", "§5.1", lambda raw: b'{"a":' + b"[" * 40 + b"]" * 40 + b"," + raw[1:])
    spoilt("another-key", "signed by a key that is not in force", "§5.3", resigned(lambda payload: payload, THIEF))
    spoilt("signature-of-another", "the payload was changed after it was signed", "§5.3", lambda raw: json.dumps(
        {**json.loads(raw), "payload": base64.b64encode(b"{}").decode()}).encode())  # fmt: skip
    for name, why, clause, old, new in (
        (
            "duplicate-in-payload",
            "a name twice in the predicate",
            "§1.2",
            b'"device":"cpu"',
            b'"device":"cpu","device":"gpu"',
        ),
        ("nan", "NaN is no JSON", "§1.2", b'"ledger_size":1', b'"ledger_size":NaN'),
        (
            "number-too-large",
            "an integer that no double holds",
            "§1.2",
            b'"ledger_size":1',
            b'"ledger_size":9007199254740993',
        ),
        ("number-overflows", "a number that no double holds", "§1.2", b'"ledger_size":1', b'"ledger_size":1e999'),
        ("lone-surrogate", "half of a character", "§1.2", b'"device":"cpu"', b'"device":"\\ud800"'),
        ("statement-type", "another version of statements", "§5.5", b"Statement/v1", b"Statement/v2"),
        ("statement-member", "an unknown member of the statement", "§5.5", b'{"_type"', b'{"a":1,"_type"'),
        ("predicate-unknown", "a predicate of nobody's", "§5.6", b"urn:lockgate:entry", b"urn:lockgate:entry2"),
        ("kind-unknown", "a kind that this version does not have", "§6", b"v1:started", b"v1:stopped"),
        ("subject-of-another", "about something else than its body", "§5.8", b'"sha256":"', b'"sha256":"00'),
        ("member-missing", "a body without a member", "§6", b'"device":"cpu",', b""),
        ("member-unknown", "a body with a member more", "§6", b'"device":"cpu"', b'"device":"cpu","extra":1'),
        ("member-of-another-type", "a number as text", "§6", b'"ledger_size":1', b'"ledger_size":"1"'),
        ("truth-as-a-number", "`true` is no number", "§6", b'"ledger_size":1', b'"ledger_size":true'),
        ("number-below-zero", "a negative count", "§6", b'"ledger_size":1', b'"ledger_size":-1'),
        ("time-without-a-zone", "a time that is not in UTC", "§6", b'01Z"', b'01"'),
        ("time-that-is-none", "the thirteenth month", "§6", b"2026-01-02", b"2026-13-02"),
        ("time-in-other-digits", "digits of another script", "§6", b"2026-01-02", "2026-01-٠٢".encode()),
        ("time-at-24", "an hour that some readers take for the next day's first", "§6", b"T03:00:01", b"T24:00:00"),
    ):

        def change(payload: bytes, old: bytes = old, new: bytes = new, name: str = name) -> bytes:
            if old not in payload:
                raise ValueError(name)
            if name == "subject-of-another":
                return payload.replace(b'"sha256":"', b'"sha256":"00', 1).replace(payload.partition(b'"sha256":"')[2][:64],
                                                                             payload.partition(b'"sha256":"')[2][:62])  # fmt: skip
            return payload.replace(old, new, 1)

        spoilt(name, why, clause, resigned(change))
    upto = v.upto("authorised")
    for name, why, old, new in (
        (
            "summary-of-another-version",
            "the summary names another version than the authorisation",
            b"00000000:1",
            b"00000000:2",
        ),
        ("summary-failed", "a summary of a verification that failed", b"PASSED", b"FAILED"),
        ("summary-member", "an unknown member of the summary", b'"verificationResult"', b'"a":1,"verificationResult"'),
    ):
        item = v.one("authorised")
        item.raw = resigned(lambda payload, old=old, new=new: payload.replace(old, new, 1))
        v.illegal(name, why, "§5.7", [*upto, item])
    for name, why, old, new in (
        ("expiry-in-other-digits", "a time in digits of another script", b"2030-01-01", "٢٠٣٠-01-01".encode()),
        ("expiry-that-is-none", "the thirtieth of February", b"2030-01-01", b"2030-02-30"),
    ):
        item = v.one("authorised")
        item.raw = resigned(lambda payload, old=old, new=new: payload.replace(old, new, 1))
        v.illegal(name, why, "§6", [*upto, item])
    swapped = v.one("authorised")
    swapped.raw = resigned(lambda payload: json.dumps(
        {**json.loads(payload), "subject": json.loads(payload)["subject"][::-1]}).encode())  # fmt: skip
    v.illegal("subjects-in-another-order", "the weights before the candidate", "§5.8", [*upto, swapped])
    weights = v.one("authorised")
    weights.about = {"candidate": weights.body["candidate"], "weights.safetensors": digest(b"others")}
    v.illegal("summary-about-other-weights", "the subject names other weights than the body", "§5.8", [*upto, weights])


def order(v: Vectors) -> None:
    """§7: every entry signed rightly, the last one where it may not stand."""
    one, upto, items = v.one, v.upto, copy.deepcopy(v.items)

    def case(name: str, why: str, clause: str, before: list[Item], last: Item) -> None:
        v.illegal(name, why, clause, [*before, last])

    case("second-genesis", "genesis twice", "§7.1", items[:2], one("genesis"))
    case("no-genesis", "a log that begins with something else", "§7.1", [], one("started"))
    case(
        "genesis-of-another-log",
        "the origin is not that of the tree head",
        "§7.1",
        [],
        one("genesis", origin="lockgate-other"),
    )
    poor = one("genesis")
    del poor.body["config"]["ledger"]["delta"]
    case("budget-of-error-left-out", "a configuration that names no delta", "§6", [], poor)
    case(
        "work-while-an-intent-is-open",
        "something else before the outcome of a swap",
        "§7.2",
        upto("promoted"),
        one("proposed", 3),
    )
    case("ledger-shrinks", "the error ledger of a backup", "§7.3", items, one("started"))
    case(
        "ledger-changes", "as many ledger entries, and others", "§7.3", items[:2], one("started", ledger_root="11" * 32)
    )
    case("number-left-out", "a proposal is missing", "§7.4", items[:2], one("proposed", 2))
    case(
        "built-after-a-denied-screen",
        "built although a rule denied it",
        "§7.5",
        upto("decided"),
        one("built", number=1),
    )
    case("screened-twice", "a second screen", "§7.5", upto("built"), one("screened", 2))
    case("developed-before-built", "measured before it was built", "§7.5", upto("built"), one("developed"))
    case("proposal-unknown", "a screen of nothing", "§7.5", items[:2], one("screened"))
    case("decided-twice", "a second decision", "§7.9", upto("proposed", 2), one("decided"))
    case("stake-of-another-epoch", "a stake of an epoch to come", "§7.6", upto("staked"), one("staked", epoch=2))
    case(
        "stake-over-another-incumbent",
        "the incumbent is another",
        "§7.6",
        upto("staked"),
        one("staked", incumbent=digest(b"x")),
    )
    case("stake-too-large", "more than the budget of error", "§7.6", upto("staked"), one("staked", alpha=0.06))
    case(
        "stake-not-by-the-rule",
        "another share than the ledger's rule gives",
        "§7.6",
        upto("staked"),
        one("staked", alpha=0.001),
    )
    case("stake-of-a-later-test", "a test was left out", "§7.6", upto("staked"), one("staked", test=2))
    case("stake-that-leaves-items-out", "the first test begins behind items that none had", "§7.6", upto("staked"),
         one("staked", offset=1))  # fmt: skip
    for name, why, offset in (
        ("stake-on-burned-items", "after a promotion a test has the items of the first again", 0),
        ("stake-beyond-the-items-burned", "it begins behind what the test before it might have scored", 1001),
    ):
        case(name, why, "§7.6", upto("staked", 2), one("staked", 2, offset=offset))
    case("stake-twice", "staked again for the same test", "§7.6", upto("predicted"), one("staked", ledger_size=9))
    case("answered-twice", "the same items answered again", "§7.7", upto("measured"), one("predicted"))
    case(
        "answers-of-another-epoch",
        "answers to another epoch's items",
        "§7.7",
        upto("predicted"),
        one("predicted", epoch=2),
    )
    case("measured-without-a-stake", "a test that nothing was staked for", "§7.8", upto("staked"), one("measured"))
    case(
        "passed-that-does-not-follow",
        "passed, although a gate was not",
        "§7.8",
        upto("measured", 2),
        one("measured", 2, passed=True),
    )
    case("gate-left-out", "one of the configuration's gates is missing", "§7.8", upto("measured"),
         one("measured", gates=one("measured").body["gates"][:1]))  # fmt: skip
    case("gate-twice", "one gate in place of another", "§7.8", upto("measured"),
         one("measured", gates=one("measured").body["gates"][:1] * 2))  # fmt: skip
    for name, told_, taken in (
        ("timed-in-words", "a time as text", {"seconds": ["1"]}),
        ("timed-on-one-side", "the incumbent's times are left out", {"incumbent_seconds": None}),
        ("timed-with-more", "a member that no measurement has", {"ratio": 1.0}),
    ):
        sides = {"seconds": [1.0], "incumbent_seconds": [1.0], "peak_mb": 1.0, "incumbent_peak_mb": 1.0}
        case(name, told_, "§6", upto("measured"), one("measured", timed={**sides, **taken}))
    case("no-gates", "no gate at all", "§7.8", upto("measured"), one("measured", gates=[]))
    promote = one("decided", 2).body["decision"]
    case(
        "promoted-although-not-passed",
        "a decision to promote what did not pass",
        "§7.9",
        upto("decided", 3),
        one("decided", 3, decision=promote),
    )
    case(
        "promoted-unmeasured", "a decision to promote what was not measured", "§7.9", upto("staked"), one("decided", 2)
    )
    case("rejected-without-a-reason", "a rejection that says nothing", "§7.9", upto("decided", 3),
         one("decided", 3, decision={"verdict": "reject", "reasons": []}))  # fmt: skip
    before = upto("authorised")
    case(
        "authorised-after-a-rejection",
        "permission for what was rejected",
        "§7.10",
        upto("halted"),
        one("authorised", number=3),
    )
    case("authorised-twice", "permission twice", "§7.10", upto("intended"), one("authorised", nonce="2"))
    case(
        "authorised-while-halted",
        "permission while the run is halted",
        "§7.10",
        [*before, one("halted")],
        one("authorised"),
    )
    for field in ("candidate", "weights", "evidence", "guard", "policies", "incumbent"):
        case(
            f"authorised-with-another-{field}",
            f"permission that names another {field}",
            "§7.10",
            before,
            one("authorised", **{field: digest(b"x")}),
        )
    case("authorised-as-another-version", "a version number is left out", "§7.10", before, one("authorised", version=2))
    case(
        "approvals-of-nobody",
        "approvals that no entry gave",
        "§7.10",
        before,
        one("authorised", approvals=[digest(b"x")]),
    )
    again = [*upto("decided", 3), one("decided", 3, decision=promote)]
    again[-2] = one("measured", 3 - 1, passed=True, gates=one("measured").body["gates"])
    three = one("built", 2).body["candidate"]
    case("nonce-used-before", "the nonce of an earlier permission", "§7.10", again, one(
        "authorised", number=3, version=2, incumbent=one("authorised").body["candidate"], candidate=three["digest"],
        weights=three["weights"], evidence=one("measured", 2).body["evidence"]))  # fmt: skip
    poor = copy.deepcopy(again)
    poor[0].body["config"]["budgets"]["promotions"] = 1
    case("promotions-beyond-the-budget", "more promotions than the configuration allows", "§7.10", poor, one(
        "authorised", number=3, version=2, incumbent=one("authorised").body["candidate"], candidate=three["digest"],
        weights=three["weights"], evidence=one("measured", 2).body["evidence"], nonce="2" * 32))  # fmt: skip
    case("intent-without-permission", "a swap that nothing authorised", "§7.11", before, one("intended"))
    case(
        "permission-used-twice", "the same permission for a second swap", "§7.11", upto("proposed", 3), one("intended")
    )
    case(
        "intent-after-expiry",
        "the permission had expired",
        "§7.11",
        upto("intended"),
        one("intended", time="2030-01-01T00:00:00Z"),
    )
    case(
        "intent-while-halted",
        "a swap while the run is halted",
        "§7.11",
        [*upto("intended"), one("halted")],
        one("intended"),
    )
    case(
        "intent-for-another-candidate",
        "another candidate than was authorised",
        "§7.11",
        upto("intended"),
        one("intended", candidate=digest(b"x")),
    )
    back = one("intended", action="rollback", version=7, authorisation=None)
    case("rollback-to-nothing", "a version that never was", "§7.11", items, back)
    case(
        "rollback-with-a-permission",
        "a rollback that would use a permission up",
        "§7.11",
        items,
        one("intended", action="rollback", version=0, candidate=one("genesis").body["baseline"]["digest"]),
    )
    here = one("intended", action="rollback", authorisation=None)
    case("rollback-to-the-live-one", "back to where it is", "§7.11", items, here)
    case("promoted-without-an-intent", "a swap out of nothing", "§7.12", upto("intended"), one("promoted"))
    case(
        "promoted-as-another-version",
        "another version than was intended",
        "§7.12",
        upto("promoted"),
        one("promoted", version=2),
    )
    case("rolled-back-for-promoted", "a rollback as the outcome of a promotion", "§7.12", upto("promoted"), Item(
        "rolled-back", {"time": "2026-01-02T04:00:00Z", "version": 1, "candidate": one("promoted").body["candidate"],
                        "by": "operator", "reason": ""}))  # fmt: skip
    case("watched-twice", "a second smoke test", "§7.13", upto("proposed", 3), one("watched"))
    case(
        "watched-that-does-not-follow",
        "good, although the answers differ",
        "§7.13",
        upto("watched"),
        one("watched", answers=digest(b"x")),
    )
    void = Item("voided", {"time": "2026-01-02T04:00:00Z", "number": 2, "reason": "a test"})
    case("voided-after-promotion", "undone on paper", "§7.14", items, void)
    case("resumed-without-a-halt", "a halt lifted that was not", "§7.15", items, one("resumed"))
    turned = paper_run.rotation()
    case(
        "rotated-by-one-key",
        "the new key has not signed",
        "§5.4",
        items[:2],
        Item("key-rotated", turned.body, signers=(OLD, THIEF)),
    )
    case(
        "rotated-by-the-new-key",
        "the key in force has not signed",
        "§5.3",
        items[:2],
        Item("key-rotated", turned.body, signers=(THIEF, NEW)),
    )
    other = {**turned.body, "new": Signer.from_seed("other", bytes([2] * 32)).verifier.vkey}
    case("rotated-to-another-name", "the new key bears another name", "§7.16", items[:2],
         Item("key-rotated", other, signers=(OLD, Signer.from_seed("other", bytes([2] * 32)))))  # fmt: skip
    halted = Item("halted", {"time": "2026-01-02T04:00:01Z", "by": "thief", "reason": ""}, signers=(OLD,))
    change: Change = {path: None for path in v.plain if path.startswith("log/tile/")}
    change |= log_of([*items[:2], turned, halted])
    change["keys/log.pub"] = "".join(f"{each.verifier.vkey}\n" for each in (OLD, NEW)).encode()
    v.invalid("old-key-after-its-rotation", "a stolen old key goes on with the log", change, "§5.3", 3)
    with tempfile.TemporaryDirectory() as place:
        paper_run.write_log(Path(place), [*items[:2], turned])
        head = TreeHead.parse((Path(place) / "log/checkpoint").read_text("utf-8").partition("\n\n")[0] + "\n")
        change = {path: None for path in v.plain if path.startswith("log/tile/")}
        change |= snapshot(Path(place))
    change["log/checkpoint"] = sign_head(head, OLD)
    change["keys/log.pub"] = "".join(f"{each.verifier.vkey}\n" for each in (OLD, NEW)).encode()
    v.invalid(
        "head-by-the-old-key",
        "the tree head over a rotation is by the old key",
        change,
        "§3.2",
        arguments=["--log-only"],
    )
    change = {**change, "log/checkpoint": sign_head(head, NEW)}
    change["keys/log.pub"] = "".join(f"{each.verifier.vkey}\n" for each in (OLD, THIEF, NEW)).encode()
    v.invalid(
        "chain-of-other-keys",
        "keys/log.pub lists a key that the log never had",
        change,
        "§2.2",
        arguments=["--log-only"],
    )


def properties(v: Vectors) -> None:
    """§7.6: what is refuted costs no held-out item."""
    with tempfile.TemporaryDirectory() as place:
        items = paper_run.refuting(paper_run.Paper(paper_run.BlobStore(Path(place))))
    v.valid("properties", "properties hold of one candidate, and one of another is refuted", v.bases["properties"])
    refuted = 1 + next(place for place, item in enumerate(items)
                       if "refuted" in (item.body.get("properties") or {}).values())  # fmt: skip
    staked = v.one("staked", 2)
    staked.body["number"] = items[refuted - 1].body["number"]

    def case(name: str, why: str, clause: str, *last: Item, upto: int = refuted) -> None:
        v.illegal(name, why, clause, [*copy.deepcopy(items[:upto]), *last], base="properties")

    case("staked-although-a-property-is-refuted", "a test of what a counterexample refutes", "§7.6", staked)
    better = copy.deepcopy(items[refuted - 1])
    better.body["properties"] = dict.fromkeys(better.body["properties"], "held")
    case("developed-again-after-a-refutation", "properties judged until they hold", "§7.5", better)
    proved = copy.deepcopy(items[refuted - 1])
    proved.body["properties"] = dict.fromkeys(proved.body["properties"], "proved")
    case("property-said-to-be-proved", "a verdict that no search can give", "§6", proved, upto=refuted - 1)
    genesis = copy.deepcopy(items[0])
    genesis.body["properties"] = dict.fromkeys(genesis.body["properties"], "refuted")
    case("baseline-refuted", "a baseline that does not keep its own properties", "§6", genesis, upto=0)
    gone = items[refuted - 1].body["counterexamples"][7:]
    v.invalid("counterexamples-missing", "the evidence of properties is gone",
              {f"blobs/sha256/{gone[:2]}/{gone}": None}, "§8.1", refuted - 1, base="properties")  # fmt: skip


def declared(v: Vectors) -> None:
    """§6: what a build read, and one that was more than declared."""
    v.valid("undeclared", "a candidate that is not what was proposed ends with its build", told(paper_run.declaring))
    for name, read in (("read-of-no-names", [1]), ("read-that-is-no-list", "lr")):
        built = v.one("built", 1)
        built.body["read"] = read
        v.illegal(name, "the fields that a build read are names", "§6", [*v.upto("built"), built])


def models(v: Vectors) -> None:
    """§8 and §9."""
    plain = v.plain
    blob = next(path for path in plain if path.startswith("blobs/") and b"evidence 2" in plain[path])
    code = next(path for path in plain if path.startswith("blobs/") and plain[path].startswith(b"NAME = 'two'"))
    entry = next(place for place, item in enumerate(v.items) if item.kind == "measured")
    made = next(place for place, item in enumerate(v.items) if item.kind == "built")
    v.invalid("blob-missing", "the evidence is gone", {blob: None}, "§8.1", entry)
    v.invalid("blob-changed", "the evidence was changed", {blob: plain[blob].replace(b"2", b"3")}, "§8.1", entry)
    v.invalid("source-file-missing", "a file of a source tree is gone", {code: None}, "§8.1", made)
    weights = "models/1/weights.safetensors"
    v.invalid("weights-changed", "one bit of the live weights", {weights: plain[weights][:-1] + b"\x01"}, "§9.2")
    v.invalid(
        "weights-of-another-version",
        "version 1 with the baseline's weights",
        {weights: plain["models/0/weights.safetensors"]},
        "§9.2",
    )
    v.invalid("source-changed", "the live code is another", {"models/1/source/model.py": b"NAME = 'mine'\n"}, "§9.2")
    v.invalid("source-file-more", "a file that nobody authorised", {"models/1/source/extra.py": b""}, "§9.2")
    v.invalid("file-more", "a file beside the model's", {"models/1/readme": b""}, "§9.1")
    v.invalid(
        "recipe-spelt-otherwise",
        "the recipe with a space",
        {"models/1/recipe.json": plain["models/1/recipe.json"].replace(b":", b": ", 1)},
        "§9.2",
    )
    v.invalid(
        "candidate-record-changed",
        "candidate.json says more parameters",
        {"models/1/candidate.json": plain["models/1/candidate.json"].replace(b'"parameters":2', b'"parameters":3')},
        "§9.2",
    )
    v.invalid(
        "permission-of-another",
        "the baseline's permission beside version 1",
        {"models/1/authorisation.json": plain["models/0/authorisation.json"]},
        "§9.3",
    )
    v.invalid(
        "proof-of-another",
        "the proof of another entry",
        {"models/1/authorisation.proof": plain["models/0/authorisation.proof"]},
        "§9.3",
    )
    proof = plain["models/1/authorisation.proof"]
    lines = proof.split(b"\n")
    v.invalid(
        "proof-changed",
        "another hash in the proof",
        {"models/1/authorisation.proof": proof.replace(lines[2], base64.b64encode(bytes(32)), 1)},
        "§9.3",
    )
    v.invalid(
        "proof-too-short",
        "a hash less in the proof",
        {"models/1/authorisation.proof": proof.replace(lines[2] + b"\n", b"", 1)},
        "§9.3",
    )
    v.invalid(
        "version-missing",
        "an earlier version is gone",
        {path: None for path in plain if path.startswith("models/0/")},
        "§9.1",
    )
    v.invalid(
        "live-model-is-another", "the link names a version that is not live", {}, "§9.4", links={"current": "models/0"}
    )
    v.invalid("live-model-spelt-otherwise", "a link that leads there by another spelling", {}, "§9.4",
              links={"current": "models//1"})  # fmt: skip
    v.invalid("live-model-elsewhere", "the link leads out of the run", {}, "§9.4", links={"current": "/tmp/model"})
    v.invalid("cut-inside-a-swap-to-another-model", "the intended version is live, and is not what was authorised",
              {weights: plain[weights][:-1] + b"\x01"}, "§9.2", base="cut-inside-a-swap")  # fmt: skip
    proof = "models/1/authorisation.proof"
    for name, why, signers in (
        ("quorum-too-small", "version 1 was allowed under one of the two witnesses required", WITNESSES[:1]),
        ("quorum-of-strangers", "version 1 was allowed under one witness and a stranger", [WITNESSES[0], THIEF]),
        ("quorum-missing", "version 1 was allowed under no witness at all", []),
    ):
        v.invalid(name, why, {proof: quorate("1", *signers)[proof]}, "§10.3", base="quorum")
    v.invalid("no-live-model", "there is no link", {}, "§9.4", links={"current": None})


def links(v: Vectors) -> None:
    """§4.3: a folder of the trail that is a link, to a folder that holds the very same files."""
    plain, size = v.plain, int(v.plain["log/checkpoint"].split(b"\n")[1])
    shard = next(path for path in plain if path.startswith("blobs/") and b"evidence 2" in plain[path]).rpartition("/")[
        0
    ]
    named = [json.dumps(item.body) for item in v.items]
    first = next(place for place, body in enumerate(named) if f"sha256:{shard[-2:]}" in body)
    for folder, clause, entry in (
        ("keys", "§2.2", None), ("log", "§4.3", None), ("log/tile", "§4.3", None), ("log/tile/0", "§4.3", None),
        ("log/tile/0/000.p", "§4.3", None), ("log/tile/entries", "§4.3", None), ("log/tile/entries/000.p", "§4.3", None),
        ("blobs", "§8.1", None), ("blobs/sha256", "§8.1", 0), (shard, "§8.1", first), ("models", "§9.1", None),
        ("models/0", "§9.1", None), ("models/1", "§9.1", None), ("models/1/source", "§9.1", None),
        ("models/1/source/parts", "§9.1", None),
    ):  # fmt: skip
        moved: Change = {path: None for path in plain if path.startswith(f"{folder}/")}
        moved |= {path.replace(folder, "elsewhere", 1): plain[path] for path in list(moved)}
        name = folder.replace("/", "-").replace(shard.replace("/", "-"), "blobs-shard").replace(".", "-")
        v.invalid(f"linked-{name}", f"{folder} is a link", moved, clause, entry,
                  links={folder: "../" * folder.count("/") + "elsewhere"})  # fmt: skip
    bundle, tile = (f"log/tile/{part}/000.p/{size}" for part in ("entries", "0"))
    v.invalid("linked-beside-a-full-tile", "a partial tile's folder is a link to nowhere, and a full tile would serve",
              {tile: None, bundle: None, "log/tile/0/000": plain[tile] * 9, "log/tile/entries/000": plain[bundle]},
              "§4.3", links={"log/tile/0/000.p": "nowhere", "log/tile/entries/000.p": "nowhere"})  # fmt: skip


def main() -> None:
    """Write them all."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "audits" / "vectors"
    for group in ("valid", "invalid"):
        shutil.rmtree(folder / group, ignore_errors=True)
    vectors = Vectors(folder)
    for part in (
        valid, answers, ceilings, fresh, lists, guards, heads, tiles, envelopes, order, properties, declared, models, links
    ):  # fmt: skip
        part(vectors)
    counts = {group: len(list((folder / group).glob("*.json"))) for group in ("valid", "invalid")}
    print(f"{counts['valid']} valid, {counts['invalid']} invalid")


if __name__ == "__main__":
    main()
