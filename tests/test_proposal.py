"""harness.proposal: untrusted bytes, and the change that they really make."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import proposal as p
from harness.canonical import canonical_bytes
from harness.errors import ProposalError

BASE = "sha256:" + "0" * 64
OTHER = "sha256:" + "1" * 64
RECIPE = {"width": 32, "lr": 0.01, "mix": "natural", "deep": False}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "width": {"type": "integer", "minimum": 8, "maximum": 64, "group": "architecture"},
        "lr": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "scale": "log"},
        "mix": {"enum": ["natural", "balanced"]},
        "deep": {"type": "boolean", "group": "architecture"},
    },
}
SOURCE = "class Recipe:\n    width: int\n\n\ndef build(r):\n    return r.width, r.lr, r.mix, r.deep\n"
FILES = {"model.py": SOURCE}


def parse(document: Any, **options: Any) -> p.AnyProposal:
    """Parse a document given as a JSON value."""
    return p.parse_proposal(json.dumps(document).encode(), **options)


def knobs(kind: str = "architecture", **changes: Any) -> p.AnyProposal:
    """Propose other values of knobs."""
    return parse({"kind": kind, "base": "incumbent", "changes": changes})


def code(files: dict[str, str], **extra: Any) -> p.AnyProposal:
    """Propose other texts of files."""
    return parse({"kind": "code", "base": BASE, "files": files, **extra}, mutable=("*.py", "sub/**"))


def change(proposal: Any, recipe: dict[str, Any] = RECIPE, files: dict[str, str] = FILES) -> p.Change:
    """Work out the effective change against the base of these tests."""
    return p.effective_change(recipe, files, proposal, schema=SCHEMA)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(-1e12, 1e12),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True)
CHANGES = st.dictionaries(NAMES, SCALARS, min_size=1, max_size=6)
RATIONALE = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=100)
DOCUMENTS = st.one_of(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["hyperparameters", "architecture"]),
            "base": st.sampled_from(["incumbent", BASE]),
            "changes": CHANGES,
        },
        optional={"rationale": RATIONALE},
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("weights"),
            "base": st.just(BASE),
            "start": st.fixed_dictionaries(
                {"method": st.sampled_from(["average"]), "sources": st.just(["incumbent", OTHER, BASE])}
            )
            | st.fixed_dictionaries(
                {
                    "method": st.just("reinforce"),
                    "sources": st.just([BASE]),
                    "label": NAMES,
                    "steps": st.integers(1, 5000),
                    "lr": st.floats(1e-6, 1),
                    "batch": st.integers(1, 1024),
                    "group": st.integers(2, 64),
                    "kl": st.floats(0, 10),
                }
            ),
        },
        optional={"rationale": RATIONALE},
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("weights"),
            "base": st.just(BASE),
            "start": st.fixed_dictionaries({"method": st.just("continue"), "sources": st.just(["incumbent"])})
            | st.fixed_dictionaries(
                {"method": st.just("low-rank"), "sources": st.just([OTHER]), "rank": st.integers(1, 64)}
            ),
        },
        optional={"changes": CHANGES, "rationale": RATIONALE},
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("code"),
            "base": st.just(BASE),
            "files": st.dictionaries(
                st.from_regex(r"[a-z]{1,5}\.py", fullmatch=True),
                st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
                min_size=1,
                max_size=3,
            ),
        },
        optional={"changes": CHANGES, "rationale": RATIONALE},
    ),
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_proposal_or_a_proposal_error(data):
    """Nothing but a proposal or a ProposalError comes out, whatever bytes go in."""
    with contextlib.suppress(ProposalError):
        assert isinstance(p.parse_proposal(data), p.AnyProposal)


@given(
    DOCUMENTS,
    st.lists(
        st.tuples(st.sampled_from(["kind", "base", "changes", "files", "start", "inherit", "rationale", "more"]), JSON),
        max_size=2,
    ),
)
def test_a_damaged_document_gives_a_proposal_or_a_proposal_error(document, damage):
    """Nothing else comes out of a document with any of its fields replaced by any JSON."""
    with contextlib.suppress(ProposalError):
        proposal = parse({**document, **dict(damage)}, mutable=("*.py",))
        assert isinstance(proposal, p.AnyProposal)


@given(DOCUMENTS)
def test_a_proposal_is_its_document(document):
    """A proposal's document parses to an equal proposal, and keeps every value."""
    proposal = parse(document, mutable=("*.py",))
    assert p.parse_proposal(canonical_bytes(proposal.document()), mutable=("*.py",)) == proposal
    given = {"rationale": "", "changes": {}, **({"inherit": False} if document["kind"] == "architecture" else {})}
    assert given | document == {"changes": {}} | proposal.document()


@given(DOCUMENTS)
def test_an_effective_change_is_worked_out_or_refused(document):
    """Any well-formed proposal has an effective change, or a ProposalError says why it has none."""
    try:
        found = change(parse(document, mutable=("*.py",)))
    except ProposalError:
        return
    idle = not found.files and len(found.knobs) == len(found.unread)
    assert found.is_noop == (idle and document["kind"] != "weights")


@pytest.mark.parametrize(
    "path",
    [
        "../model.py", "sub/../../key.py", "/etc/passwd.py", "./model.py", "sub//x.py", "a\0.py", ".hidden.py", "sub/.git/x.py",
        "model.py\n", "a\\b.py", "", "x" * 201, "é.py", "guards.py/", "C:x.py",
    ],
)  # fmt: skip
def test_a_path_that_is_not_plain_and_relative_is_refused(path):
    """Paths with parents, roots, NUL, hidden parts, line breaks or odd characters are no paths of a proposal."""
    with pytest.raises(ProposalError):
        code({path: "x = 1\n"})


def test_a_file_outside_of_the_globs_is_refused_with_the_globs():
    """guards.py cannot be proposed where only model.py may change, and the error says what may."""
    with pytest.raises(ProposalError, match=r"guards\.py is not among the files that may be changed .*model\.py"):
        parse({"kind": "code", "base": BASE, "files": {"guards.py": "x"}})


@pytest.mark.parametrize(
    ("path", "globs", "expected"),
    [
        ("model.py", ["model.py"], True),
        ("sub/model.py", ["model.py"], False),
        ("sub/model.py", ["*.py"], False),
        ("sub/model.py", ["sub/*.py"], True),
        ("sub/deep/model.py", ["sub/*"], False),
        ("sub/deep/model.py", ["sub/**"], True),
        ("sub/deep/model.py", ["**/model.py"], True),
        ("model.py", ["**/model.py"], True),
        ("model.pyc", ["model.py"], False),
        ("model.py", [], False),
    ],
)
def test_a_star_stays_within_its_folder(path, globs, expected):
    """`*` matches within a folder, `**` any number of folders, and no glob matches a path by its end."""
    assert p.is_mutable(path, globs) is expected


@pytest.mark.parametrize(
    "document",
    [
        {"kind": "guesses", "base": "incumbent"},
        {"kind": "architecture", "base": "incumbent", "changes": {}},
        {"kind": "architecture", "base": "newest", "changes": {"width": 1}},
        {"kind": "architecture", "base": "incumbent", "changes": {"width": [1]}},
        {"kind": "architecture", "base": "incumbent", "changes": {"__class__": 1}},
        {"kind": "architecture", "base": "incumbent", "changes": {"width": "x" * 201}},
        {"kind": "architecture", "base": "incumbent", "changes": {"width": 1}, "rationale": "\x1b[2J"},
        {"kind": "architecture", "base": "incumbent", "changes": {"width": 1}, "rationale": "\u202eevil"},
        {"kind": "architecture", "base": "incumbent", "changes": {"width": 1}, "rationale": "x" * 2001},
        {"kind": "architecture", "base": "incumbent", "changes": {"width": 1}, "files": {"model.py": ""}},
        {"kind": "hyperparameters", "base": "incumbent", "changes": {"lr": 1}, "inherit": True},
        {"kind": "weights", "base": "incumbent"},
        {"kind": "weights", "base": "incumbent", "start": {"method": "inherit", "sources": [BASE]}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "continue", "sources": []}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "continue", "sources": [BASE, OTHER]}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "continue", "sources": [BASE], "rank": 2}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "average", "sources": [BASE]}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "average", "sources": [BASE, BASE]}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "low-rank", "sources": [BASE]}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "low-rank", "sources": [BASE], "rank": 65}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "reinforce", "sources": [BASE]}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "reinforce", "sources": [BASE], "label": "../y"}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "reinforce", "sources": [BASE], "label": "y", "lr": 2}},
        {"kind": "weights", "base": "incumbent", "start": {"method": "average", "sources": [BASE, OTHER]}, "changes": {"lr": 1}},
        {"kind": "code", "base": "incumbent", "files": {}},
        {"kind": "code", "base": "incumbent", "files": {"model.py": "a\0b"}},
        {"kind": "code", "base": "incumbent", "files": {"model.py": "é" * (p.MAX_TEXT_BYTES // 2 + 1)}},
    ],
)  # fmt: skip
def test_a_document_that_says_too_much_or_too_little_is_refused(document):
    """Unknown kinds and bases, empty or nested changes, control characters and over-long texts are refused."""
    with pytest.raises(ProposalError):
        parse(document)


def test_a_file_cannot_be_a_folder_too():
    """Two paths of which one is the other's folder are refused."""
    with pytest.raises(ProposalError, match="a file and a folder"):
        code({"sub/x": "", "sub/x/y.py": ""})


def test_equal_values_are_no_change():
    """A proposal of the values that the base has is a no-op, 32.0 being the same number as 32."""
    found = change(knobs(width=32.0, lr=0.01))
    assert found.is_noop
    assert not found.knobs


def test_true_is_not_one():
    """JSON's true is not the number 1: a knob of numbers does not admit it."""
    with pytest.raises(ProposalError, match="true is not a value that the knob 'width' admits"):
        change(knobs(width=True))


def test_a_change_names_its_knobs_with_old_and_new():
    """Each changed knob comes with its group and both values, as JSON, in order of name."""
    found = change(knobs(width=64, lr=0.02, mix="natural"))
    assert [knob.json_value() for knob in found.knobs] == [
        {"name": "lr", "group": "training", "old": "0.01", "new": "0.02"},
        {"name": "width", "group": "architecture", "old": "32", "new": "64"},
    ]
    assert not found.is_noop


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("hyperparameters", {"width": 64}, "changes the architecture: width"),
        ("architecture", {"lr": 0.02}, "changes no knob of the architecture"),
        ("architecture", {"height": 1}, "no knob 'height'"),
        ("architecture", {"width": 65}, "65 is not a value that the knob 'width' admits"),
        ("architecture", {"width": 8.5}, "admits"),
        ("weights", {"width": 64}, "changes the architecture: width"),
        ("hyperparameters", {"lr": 0}, "admits"),
        ("hyperparameters", {"mix": "poisoned"}, "admits"),
    ],
)
def test_a_proposal_that_contradicts_its_kind_or_its_base_is_refused(kind, changes, message):
    """A kind that does not fit, an unknown knob and a value out of range are errors that name the knob."""
    start = {"start": {"method": "continue", "sources": [BASE]}} if kind == "weights" else {}
    with pytest.raises(ProposalError, match=message):
        change(parse({"kind": kind, "base": BASE, "changes": changes, **start}))


def test_comments_and_white_space_are_no_change():
    """A text with the same syntax tree is a no-op, whatever its comments and layout."""
    found = change(code({"model.py": "# new\n" + SOURCE.replace("    return r", "\n    return  r") + "\n# end"}))
    assert found.is_noop
    assert found.lines_changed == 0


def test_lines_are_counted():
    """A changed line is one added and one removed; a new file is all added."""
    found = change(code({"model.py": SOURCE.replace("r.width", "r.width * 2"), "sub/new.py": "a = 1\nb = 2\n"}))
    assert [(file.path, file.lines_added, file.lines_removed) for file in found.files] == [
        ("model.py", 1, 1),
        ("sub/new.py", 2, 0),
    ]
    assert found.lines_changed == 4


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_line_counts_balance(before, after):
    """Lines added minus lines removed is the difference of the lengths, and never more than there are."""
    old, new = ("".join(f"{line}\n" for line in lines) for lines in (before, after))
    found = change(
        parse({"kind": "code", "base": BASE, "files": {"model.txt": new}}, mutable=("*",)), files={"model.txt": old}
    )
    assert bool(found.files) == (old != new)
    for file in found.files:
        assert file.lines_added - file.lines_removed == len(after) - len(before)
        assert 0 <= file.lines_added <= len(after)
        assert 0 <= file.lines_removed <= len(before)


def test_a_large_change_is_counted_without_delay_and_never_too_low():
    """Above a bound of work every line of the changed middle counts."""
    old = "".join(f"a{n} = {n}\n" for n in range(3000))
    new = "".join(f"a{n} = {n}\n" for n in reversed(range(3000)))
    found = change(code({"model.py": new}), files={"model.py": old})
    assert found.lines_changed >= 2 * 2999


def test_text_that_does_not_parse_is_a_change():
    """Broken code is no no-op: the screen is to see it."""
    assert not change(code({"model.py": SOURCE + "def ("})).is_noop


@pytest.mark.parametrize("bomb", ["(" * 5000, "-" * 60000 + "1", "a" + ".a" * 40000, "if 1:\n" * 200, "1\x0c\r;"])
def test_code_made_to_break_a_parser_breaks_nothing(bomb):
    """Nesting beyond the parser's limits is a change like any other."""
    assert not change(code({"model.py": bomb})).is_noop


def test_a_knob_that_no_file_reads_is_a_no_op():
    """A changed knob that no file mentions changes nothing, and is named."""
    found = change(knobs(width=64), files={"model.py": SOURCE.replace("r.width, ", "")})
    assert found.is_noop
    assert found.unread == ["width"]


def test_code_may_bring_its_own_knobs():
    """A code proposal may set a knob that the base does not have; its group is unknown."""
    found = change(code({"model.py": SOURCE + "DEPTH = 'depth'\n"}, changes={"depth": 3}))
    assert [(knob.name, knob.group, knob.old) for knob in found.knobs] == [("depth", "unknown", "null")]


def test_the_successor_has_the_changes_and_the_rest_of_its_base():
    """The successor keeps what the proposal leaves alone, and the base is not touched."""
    recipe, files = p.successor(RECIPE, {**FILES, "other.py": "x"}, code({"model.py": "y"}, changes={"width": 9}))
    assert recipe == {**RECIPE, "width": 9}
    assert files == {"model.py": "y", "other.py": "x"}
    assert RECIPE["width"] == 32


def test_a_unified_diff_shows_both_sides():
    """The diff names the file and has a line for each side."""
    assert "-b\n+c\n" in p.unified_diff("model.py", "a\nb\n", "a\nc\n")
    assert "No newline" in p.unified_diff("model.py", "a\n", "a")


def test_no_error_repeats_control_characters():
    """What a document smuggles into an error's text is escaped."""
    with pytest.raises(ProposalError) as caught:
        parse({"kind": "\x1b[31m" + "x" * 5000, "base": "incumbent"})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_a_start_names_its_candidates():
    """Where training begins is told by digests, whatever the proposal called them; other kinds begin from scratch."""
    average = parse({"kind": "weights", "base": BASE, "start": {"method": "average", "sources": ["incumbent", OTHER]}})
    assert p.start_of(average, BASE, BASE).sources == [BASE, OTHER]
    assert p.start_of(average, OTHER, BASE) == p.start_of(average, BASE, BASE)
    child = parse({"kind": "architecture", "base": BASE, "changes": {"width": 9}, "inherit": True})
    assert p.start_of(child, BASE, OTHER).json_value() == {"method": "inherit", "sources": [BASE]}
    assert p.start_of(knobs(width=9), BASE, OTHER) is None
    with pytest.raises(ProposalError, match="the incumbent twice"):
        p.start_of(average, BASE, OTHER)


def test_a_change_that_begins_from_scratch_reads_as_before_there_were_starts():
    """The blob of a change holds a start only where there is one, and either is read back as it was."""
    plain = change(knobs(width=64))
    assert "start" not in plain.json_value()
    assert p.Change.parse(plain.json_value()) == plain
    asked = parse({"kind": "architecture", "base": BASE, "changes": {"width": 64}, "inherit": True})
    begun = p.effective_change(RECIPE, FILES, asked, schema=SCHEMA, start=p.start_of(asked, BASE, BASE))
    assert p.Change.parse(begun.json_value()) == begun
    assert begun.json_value()["start"] == {"method": "inherit", "sources": [BASE]}


def test_an_architecture_that_stays_is_no_change_whatever_it_inherits():
    """What inherits and changes no knob would be more training by another name: it is a no-op."""
    asked = parse({"kind": "architecture", "base": BASE, "changes": {"width": 32}, "inherit": True})
    assert p.effective_change(RECIPE, FILES, asked, schema=SCHEMA, start=p.start_of(asked, BASE, BASE)).is_noop
