"""The slow rooms of a run, opened once and lent to one run after another; and the loop over them.

Nothing here is pretended: sandbox, evaluator and judge are the real processes, and none of them keeps
anything of a run. Only their opening, seconds each, is shared between tests.
"""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness import opening, sandbox
from harness.engines import local
from harness.journal import read_run
from harness.keys import VerifierChain
from harness.kinds import kind_of
from harness.proposers import Ask, propose
from harness.supervisor import Slot
from harness.views import ask_view, next_generation


class Lent:
    """A room that stays open when a run closes it."""

    def __init__(self, room):
        """Lend this room."""
        self._room = room

    def __getattr__(self, name):
        """Pass everything on."""
        return getattr(self._room, name)

    def close(self):
        """Stay open."""


class Rig:
    """The rooms for one subject and what it is varied to."""

    def __init__(self, subject: Path, place: Path):
        """Open them for the data and evals of this subject."""
        self.subject = subject
        self._stack = ExitStack()
        self.engine = local.LocalEngine(count=2)
        self._stack.callback(self.engine.close)
        self.engine.warm()
        self.probe = sandbox.probe("zygote")
        self.judge = opening.Judge()
        self._stack.callback(self.judge.close)
        arguments = ["-m", "harness.evaluator", str(subject)]
        self.evaluator = opening.Child(arguments, name="evaluator", stderr=place / "evaluator.stderr")
        self._stack.callback(self.evaluator.close)

    def close(self):
        """Close the rooms in earnest."""
        self._stack.close()

    def open(self, out: Path, subject: Path | None = None, *, workers=2, **arguments):
        """Open a run with the rooms of this rig; a subject given must have this rig's guards.py."""
        subject = subject or self.subject
        own = (subject / "guards.py").read_bytes() == (self.subject / "guards.py").read_bytes()
        if "vault_key" not in arguments:
            lay_vault_key(out)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local, "LocalEngine", lambda **_: Lent(self.engine))
            patch.setattr(sandbox, "probe", lambda _isolation: self.probe)
            patch.setattr(opening, "Judge", lambda: Lent(self.judge))
            if own:
                patch.setattr(opening, "Child", lambda *_, **__: Lent(self.evaluator))
            return opening.open_run(out, subject, workers=workers, **arguments)


def lay_vault_key(out: Path, secret: bytes = bytes(range(32))) -> None:
    """Give a run to come the same vault key every time: which items are drawn decides whether a good candidate passes.

    A gate has the power that it has; a test of the loop must not fail as often as that leaves over.
    """
    key = out / "private" / "vault.key"
    if not key.exists() and not (out / "log").exists():
        key.parent.mkdir(parents=True, mode=0o700)
        key.touch(0o600)
        key.write_bytes(secret)


def vary(subject: Path, place: Path, *replacements: tuple[str, str], name: str = "lockgate.yaml", **files: str) -> Path:
    """Copy a subject, with replacements in one of its files and new texts for others (`a__b` names `a/b.yaml`)."""
    shutil.copytree(subject, place, ignore=shutil.ignore_patterns("__pycache__"))
    text = (place / name).read_text()
    for old, new in replacements:
        if text.count(old) != 1:
            raise ValueError(f"{old!r} stands {text.count(old)} times in {name}")
        text = text.replace(old, new)
    (place / name).write_text(text)
    for path, content in files.items():
        target = place / f"{path.replace('__', '/')}.yaml"
        target.parent.mkdir(exist_ok=True)
        target.write_text(content)
    return place


def code(subject: Path, *replacements: tuple[str, str], base: str = "incumbent") -> dict:
    """Make a code proposal: the subject's model.py with replacements."""
    text = (subject / "model.py").read_text()
    for old, new in replacements:
        if text.count(old) != 1:
            raise ValueError(f"{old!r} stands {text.count(old)} times in model.py")
        text = text.replace(old, new)
    return {"kind": "code", "base": base, "files": {"model.py": text}, "rationale": "a test"}


def knobs(kind="hyperparameters", base="incumbent", **changes) -> dict:
    """Make a proposal of other knobs."""
    return {"kind": kind, "base": base, "changes": changes, "rationale": "a test"}


def slot(document: dict | bytes, label: str = "") -> Slot:
    """Make a slot of a document."""
    return Slot("scripted", document if isinstance(document, bytes) else json.dumps(document).encode(), True, label)


def generation(opened, number: int, *documents: dict | bytes) -> None:
    """Submit and settle one generation."""
    opened.supervisor.submit(number, [slot(document) for document in documents])
    opened.supervisor.settle(number)


def drive(opened, last: int = 3) -> None:
    """Run the subject's scripted plan to the end of a generation, from wherever the run stands."""
    supervisor, blobs = opened.supervisor, opened.rooms.blobs
    subject = Path(json.loads(opened.rooms.folder.subject_link.read_text())["subject"])
    plan = json.loads((subject / "scripted.json").read_text())
    while (number := next_generation(supervisor.state)) <= last:
        ask = Ask.parse({**ask_view(supervisor.state, blobs), "count": 4, "settings": {"plan": plan}})
        supervisor.submit(number, [slot(document) for document in propose("scripted", ask)])
        supervisor.settle(number)


def trail_of(run: Path):
    """Read a run's log as an outsider: the state, and the entries."""
    return read_run(run / "log", VerifierChain.load(run / "keys" / "log.pub"))


def essence(run: Path) -> list[tuple]:
    """What P9 promises to be equal: candidates, metrics, stakes, verdicts, decisions, promotions, in order of number.

    Evidence is salted and times differ, so neither is in it; nor is the order in which side-by-side builds ended.
    """
    keep = {
        "genesis": ("seed", "development", "answers", "data", "vault_commitment"),
        "proposed": ("number", "generation", "index"),
        "screened": ("number", "recipe", "source", "outcome", "failed"),
        "built": ("number",),
        "developed": ("number", "development", "answers"),
        "staked": ("number", "epoch", "test", "alpha", "incumbent", "offset", "cap"),
        "predicted": ("candidate", "epoch", "offset", "cap", "answers"),
        "measured": ("number", "passed", "gates"),
        "decided": ("number", "decision"),
        "authorised": ("number", "version", "incumbent", "candidate"),
        "promoted": ("number", "version", "candidate"),
        "watched": ("version", "candidate", "ok"),
    }
    facts = []
    for entry in trail_of(run)[1]:
        kind, body = kind_of(entry), entry.json_value()
        if kind in keep:
            built = body["candidate"]["digest"] if kind == "built" else body.get("baseline", {}).get("digest")
            facts.append((kind, built, *(json.dumps(body[name], sort_keys=True) for name in keep[kind])))
    return sorted(facts, key=repr)


def copy_run(run: Path, place: Path) -> Path:
    """Copy a run's folder as it lies, links and all."""
    sockets = {path.name for path in run.iterdir() if path.is_socket()}
    shutil.copytree(run, place, symlinks=True, ignore=lambda _folder, names: sockets & set(names))
    return place
