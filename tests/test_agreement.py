"""Facts about two verifiers that share no code: on any entries, signed rightly, they come to one verdict.

A story is told, changed in a few places (values, types, members, kinds, order, subjects, signers), and every entry is
sealed with the log's own key over a tree of its own: so what is tried is not the signatures, but everything behind.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import os
import re
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import paper_run
import pytest
import two_verifiers as two
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paper_run import NEW, OLD, ORIGIN, THIEF

from harness.approval import message
from harness.auditing import read_approvers
from harness.canonical import digest, digest_json
from harness.errors import CanonicalError, ConfigError

EXAMPLES = {"ci": 2_500, "dev": 1_000, "deep": 100_000}  # and half as many of each of two more: 5,000 in CI
PROFILE = os.environ.get("LOCKGATE_HYPOTHESIS", "ci" if os.environ.get("CI") else "dev")
SHA = re.compile("sha256:[0-9a-f]{64}")
HALT = {"time": "2026-01-02T04:00:00Z", "by": "operator", "reason": "a look"}


def told():
    """Tell the stories: (kind, body) of each entry, with what has to be said of it besides."""
    with tempfile.TemporaryDirectory() as place:
        items = paper_run.story(paper_run.Paper(paper_run.BlobStore(Path(place))))
        stories = [
            tell(paper_run.Paper(paper_run.BlobStore(Path(place) / tell.__name__)))
            for tell in (
                paper_run.asking,
                paper_run.changing,
                paper_run.freshly,
                paper_run.reaching,
                paper_run.improving,
            )
        ]
    asked, changed, fresh, reached, tuned = (
        [{"kind": item.kind, "body": item.body} for item in told] for told in stories
    )
    among = copy.deepcopy(fresh)  # of several runs on a named vault: less is staked, of later items
    among[0]["body"]["vault_named"] = True
    for k, item in enumerate(each for each in among if each["kind"] == "staked"):
        item["body"] |= {"test": 2 * k + 1, "offset": 2000 * k + 7, "alpha": item["body"]["alpha"] / 9}
    for item in among:
        if item["kind"] == "measured":
            item["body"]["charged"] /= 9
    made = [n for n, each in enumerate(changed) if each["kind"] == "guard-changed"]
    whole = [{"kind": item.kind, "body": item.body} for item in items]
    place = {kind: [n for n, each in enumerate(whole) if each["kind"] == kind] for kind in {e["kind"] for e in whole}}

    def again(kind, nth=0, **changes):
        found = copy.deepcopy(whole[place[kind][nth]])
        found["body"] |= {"time": "2026-01-02T04:00:00Z", **changes}
        return found

    base, one = whole[0]["body"]["baseline"]["digest"], whole[place["promoted"][0]]["body"]["candidate"]
    rollback = again("intended", action="rollback", version=0, candidate=base, authorisation=None)
    back = {"kind": "rolled-back", "body": {**HALT, "version": 0, "candidate": base}}
    void = {"kind": "voided", "body": {"time": HALT["time"], "number": 2, "reason": "a test"}}
    turn = {"kind": "key-rotated", "body": paper_run.rotation().body}
    short = whole[: place["proposed"][2]]
    begun = copy.deepcopy(short)
    begun[0]["body"]["vault_named"] = True
    returned = [again("intended", action="rollback", version=1, candidate=one, authorisation=None)]
    returned.append({"kind": "rolled-back", "body": {**HALT, "version": 1, "candidate": one}})
    return [
        whole,
        short,
        [*short, rollback, back, *returned],
        [*short[: place["authorised"][0] + 1], void, *whole[place["halted"][0] :]],
        [
            *short[: place["intended"][0] + 1],
            again("halted"),
            again("started", ledger_size=2, ledger_root="01" * 32),
            void,
            again("resumed"),
        ],
        asked,
        asked[: next(n for n, each in enumerate(asked) if each["kind"] == "staked")],
        [*short[:2], turn, *short[2 : place["authorised"][0]]],
        [
            *begun[: place["authorised"][0] + 1],
            again("started", ledger_size=2, ledger_root="01" * 32),
            *begun[place["intended"][0] :],
        ],
        short[: place["staked"][0]],
        changed,
        changed[: made[0] + 1],
        changed[: made[1] + 1],
        fresh,
        fresh,
        among,
        reached,
        tuned,
        tuned[: next(n for n, each in enumerate(tuned) if each["kind"] == "improver-ended")],
        reached[: next(n for n, each in enumerate(reached) if each["kind"] == "authorised")],
    ]


def named(item):
    """What others call an entry by its digest, where they do: a hold, or an approval (FORMAT §7.17, §7.18)."""
    whole = {"held": {"candidate": None}, "approved": {"number": None}, "guard-proposed": {}}.get(item["kind"])
    if whole is None or not isinstance(item["body"], dict):
        return None
    body = {name: value for name, value in item["body"].items() if name != "gates" or value is not None}
    try:
        return digest_json({**whole, **body})
    except CanonicalError:
        return None


STORIES = [[{**item, "named": named(item)} for item in story] for story in told()]
CHANGED = [story for story in STORIES if any(item["kind"] == "guard-changed" for item in story)]
REACHED = [story for story in STORIES if any(item["body"].get("gates") == ["jumps/ceiling"] for item in story)]
POOL = {kind: [each for story in STORIES for each in story if each["kind"] == kind] for kind in two.verifier.BODIES}
STRANGE = [
    None, True, False, 0, 1, 2, 3, -1, 1.0, 0.5, 0.0, 1e300, 2**53 - 1, 2**53, 10**17, "", "pass", "promote", "hold", "rollback", [], {},
    [1], {"a": 1}, digest(b"x"), "sha256:" + "\u0660" * 64, "0" * 64, "00" * 32 + "\n", "2026-01-02T03:00:00Z",
    "2026-13-02T03:00:00Z", "٢٠٢٦-01-02T03:00:00Z", "2030-01-01T00:00:00.000001+00:00", "2026-01-02T24:00:00Z",
    "2026-01-02T03:00:60Z", "0000-01-02T03:00:00Z", "9999-12-31T23:59:59.999999Z", "\u0000", "é", "\ud800", "promoted", ORIGIN,
    OLD.verifier.vkey, NEW.verifier.vkey, THIEF.verifier.vkey,
]  # fmt: skip


def leaves(value, path=()):
    """List the paths to every value in a body, the containers themselves as well."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        if "config" not in path:  # what is in a configuration, Lockgate may judge more strictly (FORMAT §6)
            yield from leaves(each, (*path, name))


CONFIG = [("config", "ledger", "delta"), ("config", "budgets", "promotions"), ("config", "gates"), ("config", "ledger")]
CONFIG += [("config", "approvers"), ("config", "approvers", "require")]


def put(value, path, new):
    """Set what stands at a path."""
    for name in path[:-1]:
        value = value[name]
    value[path[-1]] = new


def look(value, path):
    """Get what stands at a path."""
    for name in path:
        value = value[name]
    return value


def there(value, path):
    """Tell whether anything stands at a path: an edit before this one may have removed it."""
    try:
        look(value, path)
    except (KeyError, TypeError, IndexError):
        return False
    return True


EDITS = [
    "value", "value", "sibling", "sibling", "near", "near", "remove", "add", "drop", "repeat", "swap", "move", "insert", "insert", "kind", "subject",
    "signer", "statement", "envelope", "time", "cut", "turn",
]  # fmt: skip


def edit(draw, story, edits=EDITS, places=None):
    """Change one thing, anywhere or at one of these places; return what was done, in a word."""
    what = draw(st.sampled_from(edits))
    at = draw(st.integers(0, len(story) - 1) if places is None else st.sampled_from(places))
    item = story[at] = copy.deepcopy(story[at])
    paths = [path for path in leaves(item["body"]) if path]
    paths += [path for path in CONFIG if item["kind"] in ("genesis", "guard-proposed") and there(item["body"], path)]
    path = draw(st.sampled_from(paths)) if paths else ()
    if what in ("value", "sibling", "near") and path:
        if what == "value":
            new = draw(st.sampled_from(STRANGE))
        elif what == "near":
            old = look(item["body"], path)
            number = isinstance(old, int | float) and not isinstance(old, bool)
            new = draw(st.sampled_from([old + 1, old - 1, old * (1 + 1e-13), -old])) if number else not old
            new = old[:-1] if isinstance(old, str | list) else new
        else:
            if item["kind"] not in POOL:
                return "nothing"
            other = POOL[item["kind"]][draw(st.integers(0, len(POOL[item["kind"]]) - 1))]["body"]
            new = copy.deepcopy(other.get(path[0]))
            path = path[:1]
        try:
            put(item["body"], path, new)
        except (KeyError, TypeError):
            return "nothing"
    elif what == "remove" and path:
        parent = look(item["body"], path[:-1])
        del parent[path[-1]]
    elif what == "add":
        item["body"][draw(st.sampled_from(["extra", "number", "candidate", "evidence", "authorisation", "flops"]))] = (
            draw(st.sampled_from(STRANGE))
        )
    elif what == "drop":
        del story[at]
    elif what == "repeat":
        story.insert(draw(st.integers(at, len(story))), copy.deepcopy(item))
    elif what == "swap":
        other = draw(st.integers(0, len(story) - 1))
        story[at], story[other] = story[other], story[at]
    elif what == "move":
        story.insert(draw(st.integers(0, len(story) - 1)), story.pop(at))
    elif what == "insert":
        kind = draw(st.sampled_from(sorted(POOL)))
        if POOL[kind]:
            story.insert(at, copy.deepcopy(POOL[kind][draw(st.integers(0, len(POOL[kind]) - 1))]))
    elif what == "kind":
        item["kind"] = draw(st.sampled_from([*sorted(POOL), "unknown", "Started", "", "authorised "]))
    elif what == "signer":
        item["signers"] = draw(st.sampled_from([(THIEF,), (NEW,), (OLD, OLD), (OLD, NEW), ()]))
    elif what in ("subject", "statement", "envelope"):
        item[what] = draw(st.integers(0, 7))
    elif what == "time":
        times = [text for text in STRANGE if isinstance(text, str) and "T" in text and ":" in text]
        item["body"]["time"] = draw(st.sampled_from(times))
    elif what == "turn":
        old, new = (draw(st.sampled_from((OLD, NEW, THIEF))) for _ in range(2))
        body = {**HALT, "old": old.verifier.vkey, "new": new.verifier.vkey}
        del body["by"]
        story.insert(at, {"kind": "key-rotated", "body": body, "signers": (OLD, new)})
    elif what == "cut":
        del story[at + 1 :]
    return what


def about(kind, body):
    """Say what a body is about (FORMAT §5.8), as well as it can be said of a body that may be anything."""
    named = [("run", digest(ORIGIN.encode()))]
    for name in ("candidate", "baseline", "document", "evidence", "answers", "hold", "guard"):
        value = body.get(name) if isinstance(body, dict) else None
        if value is not None:
            named = [(name, value.get("digest") if isinstance(value, dict) else value)]
            break
    if kind == "authorised":
        named.append(("weights.safetensors", body.get("weights")))
    return [
        {"name": name, "digest": {"sha256": value[7:] if SHA.fullmatch(str(value)) else digest(b"none")[7:]}}
        for name, value in named
    ]


def summary(body):
    """Give an authorisation as a verification summary (FORMAT §5.7)."""
    inner = {name: value for name, value in body.items() if name != "time"}
    bare = {name: str(inner.get(name)).removeprefix("sha256:") for name in ("policies", "evidence")}
    return {
        "verifier": {"id": f"urn:lockgate:log:{ORIGIN}"}, "timeVerified": body.get("time"),
        "resourceUri": f"urn:lockgate:model:{ORIGIN}:{inner.get('version')}",
        "policy": {"uri": "urn:lockgate:policies", "digest": {"sha256": bare["policies"]}},
        "inputAttestations": [{"uri": "urn:lockgate:evidence", "digest": {"sha256": bare["evidence"]}}],
        "verificationResult": "PASSED", "verifiedLevels": ["LOCKGATE_GATES_V1"], "authorisation": inner,
    }  # fmt: skip


def sealed(item, signer):
    """Seal one entry as its story says, legal or not."""
    kind, body = item["kind"], item["body"]
    subjects = about(kind, body)
    match item.get("subject"):
        case 0:
            subjects = subjects[::-1]
        case 1:
            subjects = subjects * 2
        case 2:
            subjects = []
        case 3:
            subjects = [{**subjects[0], "uri": "x"}]
        case 4:
            subjects = [{"name": "run", "digest": {"sha256": digest(ORIGIN.encode())[7:]}}]
        case 5:
            subjects = [*subjects, {"name": "run", "digest": {"sha256": digest(ORIGIN.encode())[7:]}}]
        case 6:
            subjects = {"name": "run"}
        case 7:
            subjects = [{"name": subjects[0]["name"], "digest": {"sha256": digest(b"another")[7:]}}]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://slsa.dev/verification_summary/v1" if kind == "authorised" else f"urn:lockgate:entry:v1:{kind}",
        "subject": subjects,
        "predicate": summary(body) if kind == "authorised" else body,
    }  # fmt: skip
    match item.get("statement"):
        case 0:
            statement["extra"] = 1
        case 1:
            statement["predicateType"] = "urn:lockgate:entry:v1:authorised"
        case 2:
            statement["predicateType"] = 7
        case 3:
            statement["predicate"] = [statement["predicate"]]
        case 4:
            statement["predicate"]["verifiedLevels"] = []
        case 5:
            statement["_type"] = "https://in-toto.io/Statement/v0.1"
        case 6:
            del statement["subject"]
        case 7:
            statement["predicate"]["timeVerified"] = "2026-01-02T03:00:01Z"
    payload = two.encode(statement)
    if item.get("envelope") == 5:
        payload = payload.replace(b'{"_type"', b'{"_type":1,"_type"')
    signers = item.get("signers", (OLD, NEW) if kind == "key-rotated" else (signer,))
    whole = two.envelope(payload, signers)
    match item.get("envelope"):
        case 0:
            whole["extra"] = None
        case 1:
            whole["payload"] = whole["payload"].rstrip("=") + "\n"
        case 2:
            whole["signatures"] = whole["signatures"] * 2
        case 3:
            whole["payloadType"] = "application/json"
        case 4:
            whole["signatures"] = [{"sig": each["sig"]} for each in whole["signatures"]]
        case 6:
            whole["signatures"] = [{**each, "keyid": "nobody"} for each in whole["signatures"]]
        case 7:
            return two.encode(whole).replace(b'"payload"', b'"p":' + b"[" * 33 + b"]" * 33 + b',"payload"')
    return two.encode(whole)


@pytest.fixture(scope="module")
def place():
    """Give a folder in memory with the keys that a reader holds, and let no signature be checked twice."""
    with tempfile.TemporaryDirectory(dir=two.in_memory()) as folder, two.remembered():
        run = Path(folder) / "run"
        (run / "keys").mkdir(parents=True)
        (run / "keys" / "log.pub").write_text(f"{OLD.verifier.vkey}\n{NEW.verifier.vkey}\n")
        (Path(folder) / "key").write_text(f"{OLD.verifier.vkey}\n")
        (Path(folder) / "approvers").write_text("".join(dict.fromkeys(person.line for person in EVERYBODY)))
        yield Path(folder)


EVERYBODY = (*paper_run.ASKED, *paper_run.LISTED)
PEOPLE = {person.name: person for person in EVERYBODY}


def signed_again(story):
    """Let people sign what their answers say now: what is tried then is not their signatures, but all behind them.

    What an entry was called by its digest it is called by its new one, wherever it is named.
    """
    names = {}
    for item in story:
        body = item["body"]
        if isinstance(body, dict):
            for name in {"hold", "approvals"} & body.keys():
                item["body"] = body = {**body, name: renamed(body[name], names)}
        person = PEOPLE.get(str(body.get("by"))) if isinstance(body, dict) else None
        said = {"approved": "approve", "refused": "refuse"}.get(item["kind"])
        if person and said and isinstance(body.get("hold"), str) and isinstance(body.get("reason"), str):
            with contextlib.suppress(CanonicalError):
                data = message(body["hold"], said, body["reason"])
                item["body"] = {**body, "signature": base64.b64encode(person.sign(data)).decode()}
        if item.get("named") is not None:
            names[item["named"]] = named(item)


def renamed(value, names):
    """A digest, or each in a list, as what it names is called now."""
    if isinstance(value, list):
        return [renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def both(place, story):
    """Write the log of a story and ask both verifiers."""
    signer, raws = OLD, []
    for item in story:
        raws.append(sealed(item, signer))
        if item["kind"] == "key-rotated":
            signer = NEW
    two.write_entries(place / "run", raws, signer, ORIGIN)
    key = place / "key"
    approvers = place / "approvers"
    asked = ("--key", str(key), "--approvers", str(approvers), "--log-only")
    return two.by_script(place / "run", *asked), two.by_harness(place / "run", key, log_only=True, approvers=approvers)


@pytest.mark.parametrize("story", range(len(STORIES)))
def test_the_stories_are_legal(place, story):
    """Each story is valid as it is told: what is found below is what was changed."""
    script, harness = both(place, STORIES[story])
    assert (script.code, script.told) == (0, script.told)
    assert script == harness


SEEN = Counter()


@settings(max_examples=EXAMPLES[PROFILE], suppress_health_check=list(HealthCheck))
@given(st.data())
def test_both_verifiers_agree_on_any_entries(place, data):
    """Verdict and first bad entry are the same on thousands of changed stories; so is the clause, where one thing is."""
    story = list(STORIES[data.draw(st.integers(0, len(STORIES) - 1))])
    edits = [edit(data.draw, story) for _ in range(data.draw(st.integers(1, 3))) if story]
    if data.draw(st.booleans()):
        story = [dict(item) for item in story]
        signed_again(story)
    script, harness = both(place, story)
    SEEN[script.clause] += 1
    if len(edits) > 1:  # an entry may break more than one clause then, and a verifier name any of them
        script, harness = (replace(each, clause=None) for each in (script, harness))
    assert script == harness, f"{edits}\n{script.told}\n{harness.told}"


GUARD = {"guard-proposed", "guard-rejected", "guard-changed", "approved", "refused", "watched", "decided"}
OF_ORDER = [
    "value",
    "sibling",
    "sibling",
    "near",
    "near",
    "near",
    "drop",
    "drop",
    "repeat",
    "repeat",
    "swap",
    "move",
    "move",
]


def quorate(story):
    """Tell, from the entries alone, whether nobody refused a guard that was made, and as many agreed as had to."""
    guard, new, said = story[0]["body"], {}, []
    for item in story:
        kind, body = item["kind"], item["body"]
        if kind == "guard-proposed":
            new, said = body, []
        elif kind in ("approved", "refused") and body.get("number") is None:
            said.append((kind, body["by"]))
        elif kind == "guard-changed":
            agreed = {by for verdict, by in said if verdict == "approved"} & {
                each["name"] for each in guard["approvers"]
            }
            free = new["verdict"] == "at-least-as-strict" and new["data"] == guard["data"]
            asked = guard["config"]["approvers"]
            if len(agreed) != len(said) or not (free or (asked and len(agreed) >= asked["require"])):
                return False
            guard = new
    return True


@settings(max_examples=EXAMPLES[PROFILE] // 2, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_both_verifiers_agree_on_changes_of_the_guard(place, data):
    """They agree where what is said of a change of the guard was changed, and none is made without its old quorum."""
    story = [dict(item) for item in CHANGED[data.draw(st.integers(0, len(CHANGED) - 1))]]
    for _ in range(data.draw(st.integers(1, 2))):
        places = [at for at, item in enumerate(story) if item["kind"] in GUARD]
        edits = edit(data.draw, story, OF_ORDER, places)
    signed_again(story)
    script, harness = both(place, story)
    SEEN[script.clause] += 1
    script, harness = (replace(each, clause=None) for each in (script, harness))
    assert script == harness, f"{edits}\n{script.told}\n{harness.told}"
    assert script.code or quorate(story), edits


ASKING = {"measured", "held", "approved", "refused", "decided"}


def asked_about_ceilings(story):
    """Tell, from the entries alone, whether a quorum let each one go on that was promoted over a ceiling, knowingly."""
    require, missed, said = story[0]["body"]["config"]["approvers"]["require"], {}, {}
    for item in story:
        kind, body = item["kind"], item["body"]
        number = body.get("number")
        if kind == "measured":
            missed[number] = [gate for gate in body["gates"] if gate["verdict"] != "pass"]
        elif kind == "held":
            said[number] = [sorted(body.get("gates") or [])]
        elif kind in ("approved", "refused"):
            said[number].append(body["by"] if kind == "approved" else None)
        elif kind == "decided" and body["decision"]["verdict"] == "promote" and missed[number]:
            names = sorted(f"{gate['eval']}/{gate['kind']}" for gate in missed[number])
            told, *by = said.get(number, [None])
            if told != names or {gate["kind"] for gate in missed[number]} != {"ceiling"} or None in by:
                return False
            if len(set(by)) < require:
                return False
    return True


@settings(max_examples=EXAMPLES[PROFILE] // 2, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_both_verifiers_agree_on_ceilings(place, data):
    """They agree where what is said of a ceiling was changed, and nothing is promoted over one without its quorum."""
    story = [dict(item) for item in REACHED[data.draw(st.integers(0, len(REACHED) - 1))]]
    for _ in range(data.draw(st.integers(1, 2))):
        places = [at for at, item in enumerate(story) if item["kind"] in ASKING]
        edits = edit(data.draw, story, OF_ORDER, places)
    signed_again(story)
    script, harness = both(place, story)
    SEEN[script.clause] += 1
    script, harness = (replace(each, clause=None) for each in (script, harness))
    assert script == harness, f"{edits}\n{script.told}\n{harness.told}"
    assert script.code or asked_about_ceilings(story), edits


def test_the_changes_reach_every_clause(place):
    """What was tried reaches every clause of the order, valid stories among it."""
    del place
    if sum(SEEN.values()) < 5000:
        pytest.skip("only where thousands were tried")
    wanted = {f"§7.{number}" for number in range(1, 19)} | {"§6", "§5.8", None}
    assert not wanted - set(SEEN), SEEN


LISTS = {
    "another purpose": ('{name} namespaces="git" {key}', None),
    "among others": ('{name},role:{role} namespaces="git,lockgate-approval" {key}', "role"),
    "an authority": ("{name} cert-authority {key}", None),
    "no role": ("{name} {key} a comment", "human"),
    "an empty role": ("{name},role: {key}", None),
    "hidden in a comment": ("# nobody\x0b{name},role:{role} {key}", ""),
    "hidden behind a return": ("# nobody\r{name},role:{role} {key}", ""),
    "hidden behind a line separator": ("# nobody\u2028{name},role:{role} {key}", ""),
    "one key for two": ("{name},role:{role} {key}\neve {key}", None),
    "a key of another type": ("{name},role:{role} ssh-rsa {bare}", None),
    "a pattern": ("*@example.org {key}", None),
}


@pytest.mark.parametrize("defect", LISTS)
def test_both_read_a_reader_s_list_of_approvers_alike(tmp_path, defect):
    """What a list does not say plainly is an error of the reader's own file, to both; nobody hides in a comment."""
    line, role = LISTS[defect]
    ann = PEOPLE["ann@example.org"]
    words = {"name": ann.name, "role": ann.role, "key": ann.key.line, "bare": ann.key.line.split(" ")[1]}
    (tmp_path / "list").write_bytes(line.format(**words).encode())
    if role is None:
        with pytest.raises(two.verifier.Unreadable):
            two.verifier.own_people(str(tmp_path / "list"))
        with pytest.raises(ConfigError):
            read_approvers(tmp_path / "list")
        return
    people = {f"{ann.name} { ({'role': ann.role}.get(role, role)) } {ann.key.line}"} if role else set()
    assert two.verifier.own_people(str(tmp_path / "list")) == people
    assert {f"{each.name} {each.role} {each.key}" for each in read_approvers(tmp_path / "list")} == people
