"""Facts about the reviewer's pages: they say what the log says, they act on nothing, and nothing hostile acts in them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import paper_run
import pytest
import rigs
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness import auditing
from harness.canonical import canonical_bytes
from harness.cli import app
from harness.errors import AuditError, ConfigError
from harness.folder import RunFolder
from harness.kinds import kind_of
from harness.plain import plain
from harness.review.drawing import Node, interval, lineage, process
from harness.review.site import MARKER, _environment, write_pages

VOID = {"meta", "br", "link", "img", "input", "hr", "rect", "line", "circle", "path", "polyline"}
HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style><script>x</script>", "{{7*7}}{% raw %}",
    "javascript:alert(1)", "\u202egnp.exe\u202c", "\x1b[2J\x07", "a\x00b", "' onmouseover='x", "&lt;b&gt;", "]]>-->",
    "https://example.org/track.png", "../../../etc/passwd", "é" * 300,
]  # fmt: skip


class Page(HTMLParser):
    """One page taken apart."""

    def __init__(self, text):
        """Parse it."""
        super().__init__(convert_charrefs=True)
        self.tags, self.links, self.ids, self.words, self.bad, self.stack = [], [], set(), [], [], []
        self.style = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Note a tag, and what must not be in it."""
        self.tags.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name in {"style", "src", "srcset", "xlink:href", "action", "data"}:
                self.bad.append((tag, name, value))
            if name == "href":
                self.links.append(value)
            if name == "id":
                self.ids.add(value)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        """Every end has its beginning."""
        if tag not in VOID and (not self.stack or self.stack.pop() != tag):
            self.bad.append(("unbalanced", tag, None))

    def handle_data(self, data):
        """Collect what is read."""
        if self.stack and self.stack[-1] == "style":
            self.style += data
        else:
            self.words.append(data)

    @property
    def text(self):
        """All that a person reads."""
        return "".join(self.words)


ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "nav", "footer", "section", "h1", "h2", "h3", "p", "a", "b",
    "br", "span", "code", "pre", "blockquote", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td",
    "details", "summary", "div", "svg", "g", "rect", "line", "circle", "path", "polyline", "text",
}  # fmt: skip


def pages_of(out):
    """Every page below a folder, taken apart."""
    return {path.relative_to(out).as_posix(): Page(path.read_text("utf-8")) for path in sorted(out.rglob("*.html"))}


def check_harmless(out):
    """Nothing on any page acts: no script, no handler, no address but of pages of the set and places in them."""
    pages = pages_of(out)
    for name, page in pages.items():
        assert set(page.tags) <= ALLOWED, name
        assert not page.bad, name
        assert not page.stack, name
        for link in page.links:
            path, _, anchor = link.partition("#")
            assert re.fullmatch(r"(\.\./)?[a-z0-9/]*(\.html)?", path), link
            target = (out / name).parent.joinpath(path).resolve() if path else (out / name).resolve()
            inner = target.relative_to(out.resolve()).as_posix()
            assert inner in pages, link
            assert not anchor or anchor in pages[inner].ids, link
    return pages


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):
    """Write the pages of a finished run, once: give the folder and the report."""
    out = tmp_path_factory.mktemp("review") / "pages"
    return out, write_pages(RunFolder(finished), out, key=finished / "keys" / "log.pub")


def test_every_decision_has_its_page(written, finished):
    """There is an index, which links to a page for each proposal, and no other page."""
    out, report = written
    state, _ = rigs.trail_of(finished)
    pages = check_harmless(out)
    assert set(pages) == {"index.html", *(f"decisions/{number}.html" for number in state.proposals)}
    assert {link for link in pages["index.html"].links if "#" not in link} == set(pages) - {"index.html"}
    assert report["pages"] == len(pages)


def test_a_page_says_what_the_log_says(written, finished):
    """The page of a decision has its reasons, its rules, its gates with their verdicts, and every entry about it."""
    out, _ = written
    state, entries = rigs.trail_of(finished)
    for number, found in state.proposals.items():
        text = pages_of(out)[f"decisions/{number}.html"].text
        for why in found.decision.reasons:
            assert plain(why.text) in text
        for gate in found.measured.gates if found.measured else []:
            assert f"{gate.eval} is " in text
            assert gate.verdict in text
        for index, entry in enumerate(entries):
            if getattr(entry, "number", None) == number:
                assert f"{index} {kind_of(entry)}" in text


def test_the_index_tells_the_run(written, finished):
    """The index names the live version, the verdict, the root, every version and every reason code."""
    state, _ = rigs.trail_of(finished)
    text = pages_of(written[0])["index.html"].text
    assert f"Version {state.live} is live" in text
    assert "valid at size" in text
    assert written[1]["root"] in text
    for candidate in state.versions.values():
        assert candidate.digest[7:19] in text
    for found in state.proposals.values():
        assert found.decision.reasons[0].code in text or found.outcome == "promoted"


def test_the_curve_is_the_evidence(written, finished):
    """A gate's curve has a point for each point of the logged evidence, and one for the start; none is made up."""
    out, _ = written
    state, _ = rigs.trail_of(finished)
    blobs = RunFolder(finished).blobs
    measured = [found for found in state.proposals.values() if found.measured]
    assert measured
    for found in measured:
        name = found.measured.evidence.removeprefix("sha256:")
        evidence = json.loads((blobs / "sha256" / name[:2] / name).read_bytes())
        drawn = re.findall(
            r'<polyline class="path (\w+)" points="([^"]*)"',
            (out / "decisions" / f"{found.proposed.number}.html").read_text(),
        )
        wanted = [
            (gate["verdict"], len(gate["trajectory"]) + 1) for gate in evidence["result"]["gates"] if gate["trajectory"]
        ]
        assert [(verdict, len(points.split())) for verdict, points in drawn] == wanted


def test_the_policy_lets_the_one_style_in(written):
    """Each page allows its own style by digest, and nothing else at all."""
    for path in written[0].rglob("*.html"):
        text = path.read_text("utf-8")
        style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        assert f'content="{policy}"' in text


def test_what_is_confidential_can_be_left_out(finished, written, tmp_path):
    """With `public` no score, count or bound of held-out items is on any page, which otherwise are; verdicts remain."""
    report = write_pages(RunFolder(finished), tmp_path / "pages", key=finished / "keys" / "log.pub", public=True)
    ours, theirs = pages_of(written[0]), check_harmless(tmp_path / "pages")
    assert report["public"]
    state, _ = rigs.trail_of(finished)
    for number, found in state.proposals.items():
        if found.measured:
            for secret in ("held-out items:", "Evidence grew", "it must exceed", "items better"):
                assert secret in ours[f"decisions/{number}.html"].text
                assert secret not in theirs[f"decisions/{number}.html"].text
            assert "svg" not in theirs[f"decisions/{number}.html"].tags
            assert found.measured.gates[0].verdict in theirs[f"decisions/{number}.html"].text
    assert "Confidential" in ours["index.html"].text
    assert "Confidential" not in theirs["index.html"].text


def hostile(paper):
    """The story of paper_run, in which every text that a stranger chooses is hostile."""
    items = paper_run.story(paper)
    every = " ".join(HOSTILE)
    put = lambda value: paper.blobs.put(canonical_bytes(value))  # noqa: E731
    files = {"model.py": paper.blobs.put(every.encode()), "x<script>'\".py": paper.blobs.put(b"<b>\n{{7*7}}\n")}
    rule = {
        "policy": every, "rule": every, "passed": False, "require": every, "message": every, "error": every,
        "values": {every: [every]}, "audit": {}, "otherwise": "deny", "where": every,
    }  # fmt: skip
    knob = {"name": every, "old": every, "new": every, "group": every}
    for item in items:
        body = item.body
        if item.kind == "proposed":
            body |= {"label": every, "proposer": every, "document": put({"rationale": "\n".join(HOSTILE)})}
        if item.kind == "screened":
            body |= {
                "source": put(files),
                "judgement": put({"verdicts": [rule]}),
                "change": put({"change": {"knobs": [knob]}}),
            }
        if item.kind == "decided" and body["decision"]["verdict"] == "reject":
            body["decision"]["reasons"][0]["text"] = every
        if item.kind == "halted":
            body |= {"reason": every, "by": every}
        if item.kind == "measured":
            gate = {
                "name": every, "verdict": f'x">{every}', "n": 5, "mean": 0.1, "theta": 0.0, "log_e": 1.0, "threshold": 6.0,
                "interval": [-1.0, 1.0], "wins": 1, "losses": 1, "ties": 3, "trajectory": [[5, 1.0]],
            }  # fmt: skip
            told = {"gates": [gate], "items": 5, "alpha": 0.01, "passed": False, "held": False}
            body["evidence"] = put({"result": told, "salt": "0" * 32})
        if item.kind == "authorised":
            body["evidence"] = next(each.body["evidence"] for each in items if each.kind == "measured")
    return items


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """Write the pages of that run."""
    place = tmp_path_factory.mktemp("hostile")
    paper_run.write(place / "run", hostile)
    write_pages(RunFolder(place / "run"), place / "pages", key=place / "run" / "keys" / "log.pub")
    return place / "pages"


def test_hostile_strings_are_text(attacked):
    """Markup, template syntax and marks of direction in anything that strangers choose are read, and do nothing."""
    pages = check_harmless(attacked)
    for number in (1, 2, 3):
        text = pages[f"decisions/{number}.html"].text
        for string in HOSTILE:
            assert plain(string, 20_000) in text
        assert "\u202e" not in text
        assert "\x1b" not in text
    assert plain(HOSTILE[0]) in pages["index.html"].text
    assert "the evidence is malformed" in pages["decisions/2.html"].text


def test_evidence_that_is_none_is_told(tmp_path):
    """Evidence of another shape than a test leaves hides nothing else: the page says what is wrong with it."""

    def empty(paper):
        items = paper_run.story(paper)
        name = paper.blobs.put(canonical_bytes({"result": {}}))
        for item in items:
            if item.kind in ("measured", "authorised"):
                item.body["evidence"] = name
        return items

    paper_run.write(tmp_path / "run", empty)
    write_pages(RunFolder(tmp_path / "run"), tmp_path / "pages", key=tmp_path / "run" / "keys" / "log.pub")
    assert "the evidence is malformed" in check_harmless(tmp_path / "pages")["decisions/2.html"].text


def test_the_pages_are_of_the_log_that_was_verified(finished, tmp_path, monkeypatch):
    """A log that changes between its verification and its pages has none."""
    from harness.review import site

    run = rigs.copy_run(finished, tmp_path / "run")
    paper_run.write(tmp_path / "other")

    def verified_then_exchanged(folder, key, **named):
        report = auditing.verify_run(folder, key, **named)
        for part in ("log", "keys"):
            shutil.rmtree(folder.root / part)
            shutil.copytree(tmp_path / "other" / part, folder.root / part)
        return report

    monkeypatch.setattr(site, "verify_run", verified_then_exchanged)
    with pytest.raises(AuditError, match="the log changed"):
        write_pages(RunFolder(run), tmp_path / "pages", key=finished / "keys" / "log.pub")
    assert not (tmp_path / "pages").exists()


@given(st.text(), st.text())
def test_no_text_escapes_a_template(one, two):
    """Whatever a text holds, in an element or an attribute, it is that text made plain, and nothing more."""
    made = _environment().from_string('<p title="{{ one }}">{{ two }}</p>').render(one=one, two=two)
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, dict(attrs)))

    page = Reader(convert_charrefs=True)
    page.feed(made)
    page.close()
    assert found == [("p", {"title": plain(one, 20_000)})]
    assert Page(made).text == plain(two, 20_000)


FIGURES = st.floats(-1e300, 1e300) | st.floats(-1, 1)


@given(
    st.lists(st.tuples(st.integers(1, 10**6), FIGURES), min_size=1, max_size=5),
    FIGURES,
    st.text(),
    st.sampled_from(["pass", "fail", "inconclusive"]),
)
def test_pictures_hold_numbers_and_escaped_text(points, goal, name, verdict):
    """A picture of any figures and any name is well-formed, without markup of the name's."""
    gate = {
        "trajectory": points,
        "threshold": abs(goal),
        "log_e": points[-1][1],
        "n": points[-1][0],
        "name": name,
        "verdict": verdict,
    }
    drawn = process(gate) + interval(goal, points[0][1], points[-1][1], goal, "above")
    drawn += lineage(
        [Node(name, name, "rejected", 0, 0, None, "decisions/1.html"), Node(name, name, "promoted", 1, 0, 0, None)],
        [name, name],
    )
    page = Page(drawn)
    assert not page.bad
    assert not page.stack
    assert set(page.tags) <= ALLOWED
    assert "nan" not in re.sub(r'aria-label="[^"]*"|>[^<]*<', "", drawn)


def test_an_invalid_run_has_no_pages(finished, tmp_path, written):
    """Where a byte of the trail was changed, nothing is written, an earlier set stays, and the command exits with 5."""
    run = rigs.copy_run(finished, tmp_path / "run")
    shutil.copytree(written[0], tmp_path / "pages")
    before = {path: path.read_bytes() for path in (tmp_path / "pages").rglob("*.html")}
    bundle = max((run / "log" / "tile" / "entries").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    bundle.chmod(0o600)
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"?")
    arguments = ["review", str(run), "--static", str(tmp_path / "pages"), "--key", str(finished / "keys" / "log.pub")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 5
    assert done.stdout.startswith("invalid: ")
    assert {path: path.read_bytes() for path in (tmp_path / "pages").rglob("*.html")} == before
    with pytest.raises(AuditError):
        write_pages(RunFolder(run), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_without_a_key_the_page_says_so(finished, tmp_path):
    """Checked by the run's own key, pages are written that say *identity unproven*, and the command exits with 6."""
    done = CliRunner().invoke(app, ["review", str(finished), "--static", str(tmp_path / "pages"), "--json"])
    assert done.exit_code == 6
    assert json.loads(done.stdout)["verdict"] == "identity unproven"
    assert "identity unproven" in pages_of(tmp_path / "pages")["index.html"].text


def test_nobody_s_files_are_written_over(finished, written, tmp_path):
    """A folder that holds anything else, a file, or a link is refused and left alone; an earlier set is replaced whole."""
    key = finished / "keys" / "log.pub"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(written[0])
    for place in ("mine", "file", "link"):
        with pytest.raises(ConfigError, match=r"other files|not a folder"):
            write_pages(RunFolder(finished), tmp_path / place, key=key)
    assert (mine / "thesis.txt").read_text() == "mine"
    for stranger in ("notes.txt", "decisions/notes.txt"):
        shutil.copytree(written[0], tmp_path / "annotated")
        (tmp_path / "annotated" / stranger).write_text("mine")
        with pytest.raises(ConfigError, match="other files"):
            write_pages(RunFolder(finished), tmp_path / "annotated", key=key)
        assert (tmp_path / "annotated" / stranger).read_text() == "mine"
        shutil.rmtree(tmp_path / "annotated")
    shutil.copytree(written[0], tmp_path / "pages")
    (tmp_path / "pages" / "decisions" / "99.html").write_text("of another run")
    write_pages(RunFolder(finished), tmp_path / "pages", key=key)
    assert not (tmp_path / "pages" / "decisions" / "99.html").exists()
    assert (tmp_path / "pages" / MARKER).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "file", "link", "pages"}
