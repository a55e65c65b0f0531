"""Facts about the bodies of entries: each comes back from its bytes as it was, and nothing else comes back."""

from __future__ import annotations

import pytest
import trails
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.canonical import canonical_bytes, parse_json
from harness.entries import Entry
from harness.envelope import seal, unseal
from harness.errors import AuditError
from harness.keys import Signer
from harness.kinds import KINDS, kind_of, read_entry

SIGNER = Signer.from_seed("example.org/run", bytes(32))
SAMPLES = {kind_of(entry): entry for entry in [*trails.samples(), trails.ROTATION]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e15, 1e15)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def test_there_is_a_sample_of_every_kind():
    """The round trips below are of every kind of entry that there is."""
    assert set(SAMPLES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_comes_back_from_its_seal(kind):
    """Sealed and unsealed, an entry is what it was, with the time that it was given."""
    entry = SAMPLES[kind].model_copy(update={"time": "2026-01-01T00:00:00+00:00"})
    signers = trails.KEYS if kind == "key-rotated" else [SIGNER]
    sealed = unseal(seal(kind, entry.json_value(), {"x": trails.sha(1)}, *signers), signers[0].verifier)
    assert read_entry(sealed.kind, sealed.body, 0) == entry


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_too_many_is_refused(kind):
    """A body with a field that its kind does not know is an AuditError that names the entry."""
    with pytest.raises(AuditError) as error:
        read_entry(kind, {**SAMPLES[kind].json_value(), "note": "hidden"}, 7)
    assert error.value.where == "entry 7"


@pytest.mark.parametrize("kind", KINDS)
def test_a_required_field_too_few_is_refused(kind):
    """A body that lacks a field without a default is an AuditError."""
    body = SAMPLES[kind].json_value()
    for name in [name for name, field in KINDS[kind].model_fields.items() if field.is_required()]:
        with pytest.raises(AuditError):
            read_entry(kind, {key: value for key, value in body.items() if key != name}, 0)


def test_an_unknown_kind_is_refused():
    """A kind that is none is an AuditError."""
    with pytest.raises(AuditError, match="unknown kind"):
        read_entry("blessed", {}, 0)


@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_body_is_an_entry_or_an_audit_error(kind, data):
    """A body with any JSON in any of its fields is either an entry that comes back the same, or an AuditError."""
    body = SAMPLES[kind].json_value()
    name = data.draw(st.sampled_from(sorted(body)))
    body[name] = data.draw(JSON)
    body = parse_json(canonical_bytes(body))
    try:
        entry = read_entry(kind, body, 0)
    except AuditError:
        return
    assert read_entry(kind, parse_json(canonical_bytes(entry.json_value())), 0) == entry


STRANGE = [
    None, True, False, 0, 1, -1, 1.0, 1.5, 2**53 - 1, 1e300, 5e-324, "", "1", "true", "é", "\x00", "promote", "pass", [], {}, [1], ["x"], [{}],
    [[]], {"a": 1}, {"a": "b"}, {"a": 1.5}, {"a": True}, {"a": None}, trails.sha(1), trails.sha(1)[7:], "2026-02-30T00:00:00Z",
    "2026-01-01T00:00:00Z", {"verdict": "reject", "reasons": [{"code": "policy", "text": ""}]}, {"verdict": "reject", "reasons": []},
]  # fmt: skip


def changed(value):
    """Give what a JSON value may be changed to in one place, and without each of its members."""
    yield from STRANGE
    for name in list(value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
        for new in changed(value[name]):
            copy = value.copy()
            copy[name] = new
            yield copy
        copy = value.copy()
        del copy[name]
        yield copy


def reading(call, body):
    """Give what a reading makes of a body, in bytes; or where its first problem is."""
    try:
        return call(body).model_dump_json()
    except ValidationError as error:
        return error.errors(include_url=False)[0]["loc"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("genesis", "guard-proposed")])
def test_a_body_is_judged_as_json_although_it_is_not_written_out_again(kind):
    """Of thousands of changed bodies each is read to the same record, or refused at the same place, as from JSON."""
    record, answers = KINDS[kind], set()
    for body in changed(SAMPLES[kind].json_value()):
        answer = reading(record.model_validate, body)
        assert answer == reading(record.parse, body), body
        answers.add(type(answer))
    assert answers == {str, tuple}


def test_a_body_of_no_kind_has_no_name():
    """What is not one of the kinds cannot be named, and so cannot be written."""
    with pytest.raises(KeyError):
        kind_of(Entry())
