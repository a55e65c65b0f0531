"""Is what guards a run at least as strict as before? Each difference, and whether a bar was lowered by it.

A guard is the configuration, the policies, the approvers, and files and packages by digest. Each difference is one
point, with a verdict as policies have it (`strictness`): **at-least-as-strict** is only said where no bar is lowered,
**weaker** where something may that could not, and **unknown** for whatever this page has no rule for: then people
decide. A guard's verdict is the worst of its points.

A gate is judged by what it guarantees: its null hypothesis is tested at the whole alpha of the stake, so a smaller
margin, a higher floor or a lower ceiling is stricter, whatever it does to the power: that a candidate is not shown to
be below a ceiling is for people to answer, and without one nobody would be asked. But a gate with a cap of its own
moves the batches at which the others are looked at, and is unknown. What an eval in `guards.py` means, or another
version of a package, is never compared: a file that differs is unknown.

A rule may read what a guard sets, and ask for a *small* budget, or for a gate that only the new guard has: where that
may be (`reading`), a change is unknown.

It does not cover the held-out items and the keys, which `genesis.same_run` compares, nor the baseline: a run begun anew
over another model.py has another model to beat.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from harness.canonical import digest_json
from harness.config import Config, GateRule
from harness.folder import IMPORTED
from harness.plain import plain
from harness.policy import PolicySet
from harness.quorum import Approver, Witnesses
from harness.reading import Reader
from harness.records import Digest, Record
from harness.strictness import Comparison, Verdict, compare_sets, differences, worst

if TYPE_CHECKING:
    from harness.judge import Judge

Better = Literal["lower", "higher"]

ORDERED: Final[dict[str, Better]] = {
    "ledger.delta": "lower",
    "development.min_gain": "higher",
    "budgets.wall_seconds": "lower",
    "budgets.build_seconds": "lower",
    "budgets.idle_seconds": "lower",
    "budgets.predict_seconds": "lower",
    "budgets.memory_mb": "lower",
    "budgets.output_mb": "lower",
    "budgets.promotions": "lower",
    "budgets.proposals": "lower",
}
"""The values of which one direction is stricter: an error budget, a bar, and limits that end in a rejection."""
LOSSES: Final = "development.max_loss."
"""Before the name of an eval: what it may lose on the development items, where there is such a bar."""
MARGINS: Final[dict[str, Better]] = {"margin": "lower", "rate": "lower"}
APPROVAL: Final[dict[str, Better]] = {"require": "higher", "hours": "lower"}
SEARCH: Final = ("generations", "workers.count", "allotment")
"""How much is searched, how fast and by whom: the budgets and gates are the same for all of it."""
BUDGETS: Final = ("budgets.promotions", "budgets.proposals", "budgets.wall_seconds")
"""Of which rules are shown what is left."""
ITEMS: Final = "held-out items"
"""Where a point about the data is: which are compared by whoever has them."""
ELSEWHERE: Final = ("policies", "gates", "approvers", "witnesses", "mutable")
"""Compared by what they come to, and not as values."""


@dataclass(frozen=True)
class Guard:
    """What guards a run at one time."""

    config: Config
    policies: PolicySet
    approvers: tuple[Approver, ...]
    digest: Digest
    parts: dict[str, Any] | None
    """What the digest is of (`folder.guard_parts`); None where a run has kept only the digest."""

    @classmethod
    def of(cls, config: Config, policies: PolicySet, approvers: Iterable[Approver], parts: dict[str, Any]) -> Guard:
        """Make one of what stands on the disk."""
        return cls(config, policies, tuple(approvers), digest_json(parts), parts)


class Point(Record):
    """One difference: where, what it is in words, and whether it lowers a bar."""

    where: str
    what: str
    verdict: Verdict


class GuardComparison(Record):
    """All that differs between two guards; `verdict` is the worst of it."""

    verdict: Verdict
    points: list[Point]
    policies: Comparison | None
    """Rule by rule, where the policies differ."""


def compare_guards(old: Guard, new: Guard, *, seconds: float = 30.0, judge: Judge | None = None) -> GuardComparison:
    """Compare NEW with OLD; `seconds` bound the solver, which is asked only where the policies differ."""
    found = list(points(old, new))
    if found:
        readers = Reader.all_of(old.policies)
        found = [_as_rules_read_it(point, old, new, readers) for point in found]
    verdicts = [point.verdict for point in found]
    policies = None
    if old.policies.digest != new.policies.digest:
        policies = compare_sets(old.policies, new.policies, seconds=seconds, judge=judge)
        verdicts.append(policies.verdict)
    return GuardComparison(verdict=worst(verdicts), points=found, policies=policies)


def points(old: Guard, new: Guard) -> Iterator[Point]:
    """Each difference but those of the policies' rules."""
    found = list(_differences(old, new))
    yield from found
    if not found and old.digest != new.digest and old.policies.digest == new.policies.digest:
        what = "another layout, or the list of approvers under another name: they say the same"
        yield Point(where="lockgate.yaml and approvers", what=what, verdict="at-least-as-strict")


def _differences(old: Guard, new: Guard) -> Iterator[Point]:
    yield from _values(old.config, new.config)
    yield from _gates(old.config.gates, new.config.gates)
    yield from _mutable(old.config.mutable, new.config.mutable)
    yield from _witnesses(old.config.witnesses, new.config.witnesses)
    yield from _people(old, new)
    yield from _parts(old, new)


def changed_policies(old: PolicySet, new: PolicySet) -> list[str]:
    """Which policies are new, gone or another, in words."""
    before, now = ({each.name: each for each in every.policies} for every in (old, new))
    words = [f"policy {name} is gone" for name in sorted(before.keys() - now.keys())]
    words += [f"policy {name} is new" for name in sorted(now.keys() - before.keys())]
    words += [
        f"policy {name} is another"
        for name in sorted(before.keys() & now.keys())
        if (before[name].document, before[name].params) != (now[name].document, now[name].params)
    ]
    return words or (["the policies' texts, though not what they say"] if old.digest != new.digest else [])


def _as_rules_read_it(point: Point, old: Guard, new: Guard, readers: list[Reader]) -> Point:
    """A point that counts as strict is unknown where a rule of the old guard may pass by it that did not.

    What the new rules let pass, the old ones do too, of the same document: `compare_sets` says so. So it is enough that
    the old ones let pass no less of the document as it was.
    """
    where = point.where.removeprefix("lockgate.yaml: ").removeprefix("policies: ")
    who: list[str] = []
    if point.verdict != "at-least-as-strict":
        return point
    if where in BUDGETS:
        who = [each.name for each in readers if not each.grows_with(f"{where}_left")]
    elif where.startswith("gate "):
        names = [[gate.name for gate in guard.config.gates] for guard in (old, new)]
        # a stricter ceiling is missed more often, and a rule may pass by that once people have let the proposal go on
        if {*names[0]} != {*names[1]} or where.endswith("(ceiling)"):
            who = [each.name for each in readers if each.reads("gates") and each.gains_by(*names)]
        if point.what != "is new":
            who += [each.name for each in readers if not each.reads_verdicts_only()]
    elif where.startswith("approvers") and where != "approvers.hours":
        who = [each.name for each in readers if each.reads("approvals")]
    if not who:
        return point
    what = plain(f"{point.what}; what the rule {who[0]} reads of it may let it pass", 300)
    return Point(where=point.where, what=what, verdict="unknown")


def _moved(better: Better, old: float, new: float) -> Verdict:
    return "at-least-as-strict" if (new < old) == (better == "lower") else "weaker"


def _values(old: Config, new: Config) -> Iterator[Point]:
    """Values of lockgate.yaml, by path."""
    screens = (dict(config.development) for config in (old, new))  # all of it: what says nothing is not written
    documents = (config.json_value() for config in (old, new))
    before, now = (
        {**document, **dict.fromkeys(ELSEWHERE), "development": screen, "allotment": config.allotment}
        for document, screen, config in zip(documents, screens, (old, new), strict=True)
    )
    for path, was, is_ in differences(before, now):
        verdict: Verdict = "unknown"
        if path in ORDERED:
            verdict = _moved(ORDERED[path], was, is_)
        elif path.startswith(LOSSES):
            # one bar more stops more, one that is gone stops less
            verdict = _moved("lower", math.inf if was is None else was, math.inf if is_ is None else is_)
        elif path in SEARCH:
            verdict = "at-least-as-strict"
        yield Point(where=f"lockgate.yaml: {path}", what=_arrow(was, is_), verdict=verdict)


def _gates(old: list[GateRule], new: list[GateRule]) -> Iterator[Point]:
    """A gate is known by eval and kind: one more lets less pass, for all of them must."""
    before, now = ({(gate.eval, gate.kind): gate for gate in gates} for gates in (old, new))
    for name in sorted(before.keys() | now.keys()):
        whose = {gate.policy for gate in (before.get(name), now.get(name)) if gate is not None and gate.policy}
        where = f"{'policies' if whose else 'lockgate.yaml'}: gate {name[0]} ({name[1]})"
        if name not in now:
            yield Point(where=where, what="is gone", verdict="weaker")
        elif name not in before:
            # a cap of its own moves the batches at which every other gate is looked at
            verdict: Verdict = "unknown" if now[name].cap else "at-least-as-strict"
            yield Point(where=where, what="is new", verdict=verdict)
        else:
            for field, was, is_ in differences(before[name].json_value(), now[name].json_value()):
                verdict = "unknown"
                if field == "policy":
                    verdict = "at-least-as-strict"  # who demands it; rules may read its name, which is another
                elif field in MARGINS:
                    verdict = _moved(MARGINS[field], was, is_)
                elif field == "threshold":
                    verdict = _moved("lower" if name[1] == "ceiling" else "higher", was, is_)
                if verdict == "at-least-as-strict" and now[name].cap:
                    verdict = "unknown"  # it runs for longer, and so may be the one that moves them
                yield Point(where=where, what=f"{field} {_arrow(was, is_)}", verdict=verdict)


def _mutable(old: list[str], new: list[str]) -> Iterator[Point]:
    """Fewer files that proposals may change are stricter; patterns are compared as they are written."""
    for name in sorted(set(old) - set(new)):
        yield Point(where="lockgate.yaml: mutable", what=plain(f"{name} is gone", 200), verdict="at-least-as-strict")
    for name in sorted(set(new) - set(old)):
        yield Point(where="lockgate.yaml: mutable", what=plain(f"{name} is new", 200), verdict="weaker")


def _witnesses(old: Witnesses | None, new: Witnesses | None) -> Iterator[Point]:
    """More of the same witnesses are stricter; whether others are as good is not known."""
    if old == new:
        return
    verdict: Verdict = "unknown"
    if old is None or new is None:
        verdict = "at-least-as-strict" if old is None else "weaker"
    elif old.model_copy(update={"require": new.require}) == new:
        verdict = _moved("higher", old.require, new.require)
    before, now = ((0, 0) if rule is None else (rule.require, len(rule.of)) for rule in (old, new))
    what = f"{before[0]} of {before[1]} → {now[0]} of {now[1]} required"
    if before == now:
        what = "other names, addresses, keys or times"
    yield Point(where="lockgate.yaml: witnesses", what=what, verdict=verdict)


def _people(old: Guard, new: Guard) -> Iterator[Point]:
    """Whom a hold may ask: fewer keys, more that must agree and less time are stricter.

    Without approvers a hold is a rejection, so that to name some lets more pass.
    """
    before, now = old.config.approvers, new.config.approvers
    where = "lockgate.yaml: approvers"
    if before is None and now is not None:
        yield Point(where=where, what=f"people may release a hold: {now.require} must agree", verdict="weaker")
    elif before is not None and now is None:
        yield Point(where=where, what="nobody is asked: every hold is a rejection", verdict="at-least-as-strict")
    elif before is not None and now is not None:
        for field, better in APPROVAL.items():
            was, is_ = getattr(before, field), getattr(now, field)
            if was != is_:
                yield Point(where=f"{where}.{field}", what=_arrow(was, is_), verdict=_moved(better, was, is_))
    known, listed = ({each.key: each for each in every} for every in (old.approvers, new.approvers))
    for key in sorted(known.keys() | listed.keys(), key=lambda key: ((listed.get(key) or known[key]).name, key)):
        was, is_ = known.get(key), listed.get(key)
        if was is None and is_ is not None:
            yield Point(where="approvers", what=f"approver {is_.name} ({is_.role}) is new", verdict="weaker")
        elif is_ is None and was is not None:
            # fewer may approve, but one fewer may refuse, and a refusal ends a hold
            verdict: Verdict = "at-least-as-strict" if now is None else "unknown"
            yield Point(where="approvers", what=f"approver {was.name} ({was.role}) is gone", verdict=verdict)
        elif was != is_ and was is not None and is_ is not None:
            what = f"the key of {was.name} ({was.role}) is that of {is_.name} ({is_.role}) now"
            yield Point(where="approvers", what=what, verdict="unknown")


def _parts(old: Guard, new: Guard) -> Iterator[Point]:
    """Files, packages and the harness itself: what another one does is not known."""
    if old.digest == new.digest:
        return
    if old.parts is None or new.parts is None:
        what = "only their digest was kept: guards.py, another file that it may import, a package, or the harness"
        yield Point(where="files and packages", what=what, verdict="unknown")
        return
    before, now = ({**parts, "policies": None} for parts in (old.parts, new.parts))
    for path, was, is_ in differences(before, now):
        kind, _, name = path.partition(".")
        if kind == "files":
            if name == "lockgate.yaml" or (_lists(old, name, was) and _lists(new, name, is_)):
                continue  # read above, and compared by what they say
            word = "is new" if was is None else "is gone" if is_ is None else "is another"
            yield Point(where=plain(name, 200), what=word, verdict="unknown")
        elif kind == "code":
            yield Point(where="the harness", what="its code is another", verdict="unknown")
        else:
            yield Point(
                where=plain(path.replace("packages.", "package "), 200), what=_arrow(was, is_), verdict="unknown"
            )


def _lists(guard: Guard, name: str, digest: Digest | None) -> bool:
    """Whether a file is a guard's list of approvers, and no code: then it was read as that. Or it has no such file."""
    rule = guard.config.approvers
    return digest is None or (rule is not None and name == rule.file and Path(name).suffix not in IMPORTED)


def _arrow(old: Any, new: Any) -> str:
    return plain(f"{json.dumps(old)} → {json.dumps(new)}", 200)
