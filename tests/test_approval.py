"""Facts about approvers: how their file is read, and that nothing else than their own words counts as an answer."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from people import ANN, BEN, CAT, SK_ED25519, Person, string

from harness.approval import NAMESPACE, Answer, answered_by, load_approvers, message, parse_allowed_signers
from harness.errors import AuditError, ConfigError
from harness.quorum import Approver, Approvers

HOLD = "sha256:" + "0" * 64


def line(person: Person, principals: str | None = None, options: str = f'namespaces="{NAMESPACE}" ') -> str:
    """Write a line of allowed_signers."""
    return f"{principals or person.name} {options}{person.key.line} a comment"


def test_the_file_is_that_of_openssh():
    """Names, roles and keys are read from allowed_signers; comments, empty lines and other namespaces do not disturb."""
    text = "\n".join(
        [
            "# those who answer",
            "",
            line(ANN, "ann@example.org,role:safety"),
            line(BEN, options=f'namespaces="git,{NAMESPACE}" '),
            f"  {line(CAT, options='')}  ",
        ]
    )
    assert parse_allowed_signers(text, "approvers") == [
        Approver(name="ann@example.org", role="safety", key=ANN.key.line),
        Approver(name="ben@example.org", role="human", key=BEN.key.line),
        Approver(name="cat", role="human", key=CAT.key.line),
    ]


def as_token(person: Person, application: bytes = b"ssh:") -> str:
    """Write the key of somebody's point as a hardware token has it."""
    blob = b"".join(map(string, [SK_ED25519.encode(), person.key.secret, application]))
    return f"{SK_ED25519} {base64.b64encode(blob).decode()}"


def elsewhere(person: Person) -> str:
    """The same for another application."""
    return as_token(person, b"ssh:elsewhere")


BAD_LINES = {
    "no key": ("ann@example.org", "not a line"),
    "a key that is none": ("ann ssh-ed25519 AAAA", "form|base64|cut"),
    "for another purpose": (line(ANN, options='namespaces="git" '), "other namespaces"),
    "an authority": (line(ANN, options="cert-authority "), "not read"),
    "valid for a time": (line(ANN, options='valid-before="20300101" '), "not read"),
    "two roles": (line(ANN, "ann,role:a,role:b"), "at most one role"),
    "a pattern": (line(ANN, "*@example.org"), "name"),
    "a negation": (line(ANN, "!ann"), "name"),
    "a role that is none": (line(ANN, "ann,role:-"), "role"),
    "the same key again": (f"{line(ANN)}\n{line(ANN, 'another')}", "above already"),
    "a token's key of one point": (f"{line(BEN)}\nanother {elsewhere(BEN)}", "above already"),
    "a point as a token's": (f"{line(ANN)}\nanother {as_token(ANN)}", "above already"),
    "one person in other letters": (f"{line(ANN, 'ann')}\n{line(CAT, 'Ann')}", "other letters"),
    "one person in two roles": (f"{line(ANN, 'ann')}\n{line(BEN, 'ann,role:safety')}", "two roles"),
    "a kind of key that is not read": ("ann ssh-dss AAAAB3NzaC1kc3MAAACBAPAAAAAAAAAA", "not a line|not read|base64"),
}


@pytest.mark.parametrize("defect", BAD_LINES)
def test_a_line_that_is_not_read_is_told(defect):
    """Whatever is not understood of the file is one error, with file and line and what to do."""
    text, why = BAD_LINES[defect]
    with pytest.raises(ConfigError, match=why) as error:
        parse_allowed_signers(f"# first\n{text}", "approvers")
    assert error.value.where in ("approvers:2", "approvers:3")


@given(st.text(max_size=200))
def test_any_text_is_read_or_told(text):
    """Any text gives approvers or a ConfigError."""
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_allowed_signers(text, "approvers"), list)


def test_as_many_people_must_be_there_as_must_agree(tmp_path):
    """A file with fewer people than must agree is an error; two keys of one person are one person."""
    rule = Approvers(require=2)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_approvers(tmp_path, rule)
    (tmp_path / "approvers").write_text(f"{line(ANN, 'ann')}\n{line(BEN, 'ann')}\n")
    with pytest.raises(ConfigError, match="2 must agree, and 1"):
        load_approvers(tmp_path, rule)
    (tmp_path / "approvers").write_text(f"{line(ANN)}\n{line(BEN)}\n")
    assert len(load_approvers(tmp_path, rule)) == 2
    (tmp_path / "approvers").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_approvers(tmp_path, rule)


def test_an_answer_is_its_signers_own():
    """A signature tells whose it is, over this hold, verdict and reason; anything else, or a stranger's, is refused."""
    approvers = [ANN.approver, BEN.approver]
    signature = base64.b64encode(BEN.sign(message(HOLD, "approve", "fine"))).decode()
    assert answered_by(HOLD, "approve", "fine", signature, approvers) == BEN.approver
    for hold, verdict, reason in (
        (HOLD.replace("0", "1"), "approve", "fine"),
        (HOLD, "refuse", "fine"),
        (HOLD, "approve", "fine "),
    ):
        with pytest.raises(AuditError):
            answered_by(hold, verdict, reason, signature, approvers)
    with pytest.raises(AuditError, match="none of this run's"):
        answered_by(HOLD, "approve", "fine", signature, approvers[:1])
    with pytest.raises(AuditError, match="base64"):
        answered_by(HOLD, "approve", "fine", f"{signature}\n", approvers)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_an_answer_or_an_error(data):
    """Whatever lies in the folder for answers is read as one or is an AuditError."""
    with pytest.raises(AuditError):
        Answer.read(data)
