"""What tests of holds share: whom a run may ask, and how they answer."""

from __future__ import annotations

import rigs
from people import ANN, BEN, CAT, armoured

from harness.approving import leave, to_sign
from harness.auditing import verify_run
from harness.folder import RunFolder
from harness.kinds import kind_of
from harness.replay import replay_run

LISTED = "".join(
    f"{person.name}{f',role:{person.role}' if person.role != 'human' else ''} {person.key.line}\n"
    for person in (ANN, BEN, CAT)
)


def answer(run, number, person, verdict="approve", reason=""):
    """Answer as a person does: sign what is to be signed, and leave it."""
    state = run.supervisor.state
    signature = armoured(person.sign(to_sign(state, number, verdict, reason))).encode()
    return leave(run.rooms.folder, state, number, verdict, reason, signature)


def kinds(run):
    """Name the entries of a run's log."""
    return [kind_of(entry) for entry in rigs.trail_of(run.rooms.folder.root)[1]]


def settle(run, number=1):
    """Go on."""
    return run.supervisor.settle(number)


def verified(run):
    """Verify and replay a run as an outsider."""
    folder = RunFolder(run.rooms.folder.root)
    listed = folder.root.parent / "listed"
    listed.write_text(LISTED)
    assert verify_run(folder, folder.public_key, approvers=listed)["verdict"].startswith("valid")
    return replay_run(folder)
