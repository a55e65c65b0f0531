"""Proposals of other settings for the proposers beside it, one setting at a time.

What a proposer may be set to is what its `Settings` declare, read as a subject's Recipe is (`space`): ranges, choices,
flags; and of `codegen` the list of rewrites, of which one is left out, or taken back in. The proposer whose settings
were proposed least goes first, then the setting that was. While other settings are being tried nothing is proposed,
for no second trial begins. It is a pure function of the ask; the same settings are proposed once.

Settings, optional: `of` (names of the proposers to improve; default: all that are asked with and declare what can be
moved). Proposers of other packages are left out: their code is not in this sandbox.
"""

from __future__ import annotations

import hashlib
import random
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.errors import LockgateError, ProposerError
from harness.proposers import Ask, find
from harness.proposers.space import Knob, options, read_space, same, snapped, uniform
from harness.records import Record, first_problem

__all__ = ["Settings", "propose"]

_DRAWS = 32
_SELF = "improver"


class Settings(Record):
    """What a configuration may set; see the module's docstring."""

    of: list[str] = []


def propose(ask: Ask) -> list[dict[str, Any]]:
    """Return up to `ask.count` proposals of settings, none of them proposed before or in force.

    Raises ProposerError for settings that do not fit, and where `of` names no proposer that could be improved.
    """
    try:
        settings = Settings.parse(ask.settings)
    except ValidationError as error:
        place, message = first_problem(error)
        raise ProposerError(message, where=f"improver: {place}") from error
    known = {name: read for name in sorted(ask.proposers) if (read := _settings_of(name, ask.proposers[name]))}
    for name in settings.of:
        if name not in known:
            raise ProposerError(f"{name!r} has no settings that can be moved", where="improver: of")
    if ask.trial:
        return []
    told = [entry.proposal for entry in ask.history if entry.proposal.get("kind") == "improver"]
    tried = [(each.get("proposer"), each.get("settings")) for each in told]
    wanted = [name for name in known if not settings.of or name in settings.of]
    documents: list[dict[str, Any]] = []
    for slot in range(ask.count):
        text = f"lockgate/improver/{ask.seed}/{ask.generation}/{slot}"
        rng = random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))  # noqa: S311
        for name in sorted(wanted, key=lambda name: (sum(who == name for who, _ in tried), rng.random())):
            found = _moved(rng, *known[name], [each for who, each in tried if who == name])
            if found is not None:
                key, new = found
                tried.append((name, new))
                documents.append(_document(name, key, known[name][0], new))
                break
    return documents


def _document(name: str, key: str, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "improver",
        "proposer": name,
        "settings": new,
        "rationale": f"{key} of {name}: {old[key]!r} to {new[key]!r}"[:2000],
    }


def _settings_of(name: str, in_force: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Knob]] | None:
    """The settings in force with all defaults, and those that can be moved; None where there are none."""
    if name == _SELF:
        return None
    try:
        record = getattr(import_module(find(name).module), "Settings", None)
        if not isinstance(record, type) or not issubclass(record, BaseModel):
            return None
        present = record.model_validate(in_force).model_dump(mode="json")
        space = {key: knob for key, knob in read_space(record.model_json_schema()).items() if knob.searchable}
    except (LockgateError, ImportError, ValidationError):
        return None  # of another package, or not as this version has them
    if name == "codegen":
        from harness.proposers.codegen import CROSSOVER
        from harness.proposers.rewrites import REWRITES

        names: list[Any] = [*(rewrite.name for rewrite in REWRITES), CROSSOVER]
        space["rewrites"] = Knob(name="rewrites", group="training", type="other", choices=names)
    return (present, space) if space else None


def _moved(
    rng: random.Random, present: dict[str, Any], space: dict[str, Knob], tried: list[Any]
) -> tuple[str, dict[str, Any]] | None:
    """One setting moved, the one that was least; None where nothing new is found in a bounded number of draws."""
    moves = {key: sum(_differs(each, present, key) for each in tried) for key in space}
    for key in sorted(space, key=lambda key: (moves[key], rng.random())):
        for _ in range(_DRAWS):
            new = {**present, key: _other(rng, space[key], present[key])}
            if not same(new, present) and not any(same(new, each) for each in tried):
                return key, new
    return None


def _differs(settings: Any, present: dict[str, Any], key: str) -> bool:
    return isinstance(settings, dict) and not same(settings.get(key), present[key])


def _other(rng: random.Random, knob: Knob, value: Any) -> Any:
    """Another value of a setting; of a list of names, with one of them less or more."""
    if isinstance(value, list):
        names = value or list(knob.choices)  # none named means all
        missing = [name for name in knob.choices if name not in names]
        if missing and (len(names) == 1 or rng.random() < 0.5):
            back = rng.choice(missing)
            return [name for name in knob.choices if name in names or name == back]
        gone = rng.choice(names)
        return [name for name in names if name != gone] if len(names) > 1 else names
    if few := options(knob):
        return rng.choice([each for each in few if not same(each, value)] or few)
    drawn = uniform(rng, knob)
    return snapped(knob, drawn, drawn)
