"""The supervisor's side of witnesses: the log's head is shown to them, and what they sign is put under it.

Rules. Where the configuration requires a quorum, nothing goes live before as many witnesses have cosigned a head that
covers its authorisation (FORMAT §10.3): `require` says so or raises. At other times `show` is a courtesy, so that
whoever reads the log finds it cosigned: what a witness does then stops nothing. What the witnesses last said is kept
in `witnesses.json`, for people to read; nothing hangs on that file.

Not covered: a rollback. It brings back what was allowed under a quorum before, and must work while no witness does.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from harness.cosignature import WitnessVerifier, cosignatures
from harness.durable import write_durably
from harness.errors import AuditError, LockgateError
from harness.folder import RunFolder
from harness.journal import Journal
from harness.notes import TreeHead, parse_note
from harness.plain import plain
from harness.quorum import Witnesses
from harness.state import RunState
from harness.witnessing import Gathered, Quorum

__all__ = ["Cosigning", "witness_standing"]

_ATTEMPTS = 3
_TOLD = 1 << 16
_PARTS = ("problems", "remarks")


class Cosigning:
    """The witnesses of one run; without any in its configuration, nothing is asked and nothing required."""

    def __init__(self, journal: Journal, folder: RunFolder) -> None:
        """Ask for this journal's heads; the configuration is the one that genesis names."""
        self._journal = journal
        self._folder = folder
        self._quorum: Quorum | None = None

    def require(self) -> None:
        """Return when the quorum has cosigned the present head; AuditError says who did not, and why."""
        quorum = self._asked()
        if quorum is None:
            return
        for _ in range(_ATTEMPTS):
            gathered, moved = self._gather(quorum)
            quorum.require(gathered)
            if not moved:
                return
        raise AuditError("the log grows faster than its witnesses sign", clause="§10.3", remedy="try again")

    def show(self) -> str | None:
        """Show the present head, as a courtesy to readers; returns why there is no quorum, None where all is well."""
        quorum = self._asked()
        if quorum is None or self._complete(quorum):
            return None
        try:
            quorum.require(self._gather(quorum)[0])
        except AuditError as error:
            return str(error)
        return None

    def _asked(self) -> Quorum | None:
        genesis = self._journal.state.genesis
        if self._quorum is None and genesis is not None and genesis.config.witnesses is not None:
            self._quorum = Quorum(genesis.config.witnesses)
        return self._quorum

    def _complete(self, quorum: Quorum) -> bool:
        """Whether every witness has cosigned this very head already."""
        return len(cosignatures(self._journal.log.head, quorum.verifiers)) == len(quorum.verifiers)

    def _gather(self, quorum: Quorum) -> tuple[Gathered, bool]:
        """Ask all, put what they sign under the head; and whether the log has moved on meanwhile."""
        gathered = quorum.gather(self._journal.log.reader)
        moved = bool(gathered.lines) and not self._journal.log.cosign(gathered.head, gathered.lines)
        self._keep(gathered)
        return gathered, moved

    def _keep(self, gathered: Gathered) -> None:
        told = {
            "size": TreeHead.parse(parse_note(gathered.head).text).size,
            "problems": gathered.problems,
            "remarks": gathered.remarks,
        }
        with contextlib.suppress(OSError):  # it is for people to read; a disk that fails is met again by the log
            write_durably(self._folder.witnesses, json.dumps(told).encode(), mode=0o644)


def witness_standing(folder: RunFolder, state: RunState) -> dict[str, Any] | None:
    """What witnesses have signed of the present head, and what the last ones said; None where none is configured.

    Reads the tree head itself and believes only cosignatures that verify.
    """
    rule = None if state.genesis is None else state.genesis.config.witnesses
    if rule is None:
        return None
    keys = {each.name: WitnessVerifier.parse(each.key) for each in rule.of}
    try:
        with (folder.log / "checkpoint").open("rb") as file:
            note = file.read(_TOLD + 1)
        times = cosignatures(note, keys.values())
        size = TreeHead.parse(parse_note(note).text).size
    except (OSError, LockgateError) as error:
        return _told(rule, {}, 0, {"*": str(error)}, {})
    signed = {name: times[key.key_digest] for name, key in keys.items() if key.key_digest in times}
    problems, remarks = _last_words(folder)
    return _told(rule, signed, size, {name: why for name, why in problems.items() if name not in signed}, remarks)


def _told(
    rule: Witnesses, signed: dict[str, int], size: int, problems: dict[str, str], remarks: dict[str, str]
) -> dict[str, Any]:
    return {
        "required": rule.require,
        "of": [each.name for each in rule.of],
        "size": size,
        "cosigned": signed,
        "quorum": len(signed) >= rule.require,
        "problems": problems,
        "remarks": remarks,
    }


def _last_words(folder: RunFolder) -> tuple[dict[str, str], dict[str, str]]:
    """What the witnesses last said, by name; nothing where that cannot be read."""
    try:
        with folder.witnesses.open("rb") as file:
            told = json.loads(file.read(_TOLD))
        problems, remarks = ({str(k): plain(str(v), 300) for k, v in told[part].items()} for part in _PARTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}
    return problems, remarks
