"""The guarded loop, as a client of the supervisor: ask the proposers, submit, settle, tell, again.

It holds no key and decides nothing. A proposer's process has ended before its generation's
first vault test begins, so that it cannot time one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.allotting import allot
from harness.client import Connection, SupervisorProcess
from harness.config import Config, load_config
from harness.errors import ConfigError, ProposerError, SandboxError
from harness.passphrase import Passphrase
from harness.proposers import Ask, Feedback
from harness.proposing import Proposing


@dataclass(frozen=True)
class Watcher:
    """Who is told of a run as it goes: notes in words, events as records."""

    note: Callable[[str], None]
    event: Callable[[dict[str, Any]], None]


def guarded_loop(
    subject: Path,
    out: Path,
    watcher: Watcher,
    *,
    seed: int | None = None,
    generations: int | None = None,
    proposers: list[str] | None = None,
    workers: int | None = None,
    vault_key: Path | None = None,
    passphrase: Passphrase | None = None,
    lift_halt: bool = False,
) -> dict[str, Any]:
    """Run generations until the number asked for is there; returns the run's summary.

    `generations` counts from the run's beginning, so that a resumed run ends where it would have ended.
    Raises LockgateError with a remedy; nothing that was finished is lost.
    """
    config = load_config(subject)
    wanted = generations or config.generations
    allotment = _allotment(config, proposers)
    plans = {name: proposer_settings(subject, config, name) for name in allotment}
    arguments = {
        "out": str(out.absolute()),
        "subject": str(subject.absolute()),
        "seed": seed,
        "workers": workers,
        "vault_key": str(vault_key.absolute()) if vault_key else None,
    }
    process = SupervisorProcess(arguments, watcher.note, passphrase)
    proposers_room = ExitStack()
    try:
        connection = Connection(out)
        if lift_halt:
            connection.ask({"op": "resume"})
        elif connection.ask({"op": "status"})["state"] == "halted":
            raise ConfigError("the run is halted", where=str(out), remedy=f"`lockgate resume {out}` lifts the halt")
        generation = int(process.ready["generation"])
        watcher.event({"event": "status", "summary": connection.ask({"op": "status"})})
        proposing = proposers_room.enter_context(Proposing())
        while generation <= wanted:
            watcher.event({"event": "generation", "generation": generation, "of": wanted})
            asked = connection.ask({"op": "ask"})
            # What is filled already, from before a crash, is not asked for a second time.
            slots = None
            if not asked["filled"]:
                slots = slots_of(asked, generation, config, allotment, plans, proposing, watcher)
            if slots is not None and not slots:
                watcher.note(f"generation {generation}: the proposers have nothing more to propose")
                break
            if slots is not None:
                connection.ask({"op": "submit", "generation": generation, "slots": slots})
            answer = connection.ask({"op": "settle", "generation": generation}, watcher.event)
            if answer["halted"] or answer["held"]:
                break
            generation += 1
        result = connection.ask({"op": "status"})
        connection.ask({"op": "stop"})
        connection.close()
        return result
    finally:
        proposers_room.close()
        process.close()


@dataclass(frozen=True)
class _Asking:
    """One generation's asks: what all proposers are asked with, and how a document becomes a slot."""

    asked: dict[str, Any]
    generation: int
    proposing: Proposing
    watcher: Watcher

    def slots(self, name: str, count: int, settings: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        """What a proposer answers, as slots; none where it fails, or is asked for none."""
        if not count:
            return []
        ask = Ask.parse({**self.asked, "count": count, "settings": settings, **more})
        self.watcher.note(f"asking {name} for {count}")
        try:
            documents = self.proposing.propose(name, ask)
        except (ProposerError, SandboxError) as error:
            self.watcher.note(f"proposer {name} failed: {error}")
            return []
        labels = settings.get("plan") if name == "scripted" else None
        return [
            {
                "proposer": name,
                "document": json.dumps(document),
                "scripted": name == "scripted",
                "label": _label(labels, self.generation, index),
            }
            for index, document in enumerate(documents)
        ]

    def pairs(self, name: str, count: int, old: dict[str, Any], trial: dict[str, Any]) -> list[dict[str, Any]]:
        """The slots of a proposer of which other settings are tried: in pairs, and one more with the old where odd.

        Each arm draws by a seed of its own, or both would propose the same; a coin says which of a pair comes first,
        for of two proposals of one candidate the second is a duplicate.
        """
        half = count // 2
        arms = {
            arm: self.slots(name, half, settings, seed=self._drawn(f"{trial['proposal']}/{arm}"))
            for arm, settings in (("old", old), ("new", trial["settings"]))
        }
        slots = []
        for index in range(max(map(len, arms.values()))):
            pair = [{**made[index], "arm": arm} for arm, made in arms.items() if index < len(made)]
            slots += pair[::-1] if self._drawn(f"{trial['proposal']}/{self.generation}/{index}") % 2 else pair
        return slots + self.slots(name, count - 2 * half, old)

    def _drawn(self, purpose: str) -> int:
        text = f"lockgate/pairs/{self.asked['seed']}/{purpose}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def slots_of(
    answer: dict[str, Any],
    generation: int,
    config: Config,
    allotment: dict[str, int],
    plans: dict[str, dict[str, Any]],
    proposing: Proposing,
    watcher: Watcher,
) -> list[dict[str, Any]]:
    """All slots of a generation, in the order of the configuration. A proposer that fails leaves its slots empty.

    They are a function of what the supervisor answers to `ask`, so a run which is resumed asks as it would have: by a
    bandit, with the settings in force, and in pairs where others are tried.
    """
    asked, tuning = answer["ask"], answer["proposers"]
    if asked["generation"] != generation:
        raise ProposerError(f"the run is at generation {asked['generation']}, not {generation}")
    trial = tuning["trial"]
    if config.allotment == "bandit":
        history = [Feedback.parse(told) for told in asked["history"]]
        paired = trial["proposer"] if trial else None
        allotment = allot(allotment, history, seed=asked["seed"], generation=generation, paired=paired)
    asking = _Asking(asked, generation, proposing, watcher)
    slots = []
    for name, count in allotment.items():
        found = tuning["in_force"].get(name, {"version": 0})
        settings = found["settings"] if found["version"] else plans[name]
        if trial and trial["proposer"] == name and count > 1:
            slots += asking.pairs(name, count, settings, trial)
        else:
            slots += asking.slots(name, count, settings)
    return slots


def _label(plan: Any, generation: int, index: int) -> str:
    """What a scripted plan calls its candidate, for people to read."""
    if not isinstance(plan, list):
        return ""
    mine = [step for step in plan if isinstance(step, dict) and step.get("generation") == generation]
    return str(mine[index].get("label", "")) if index < len(mine) else ""


def _allotment(config: Config, chosen: list[str] | None) -> dict[str, int]:
    if chosen is None:
        return dict(config.proposers)
    unknown = [name for name in chosen if name not in config.proposers]
    if unknown:
        raise ConfigError(
            f"no proposer '{unknown[0]}' in the subject's configuration",
            where="--proposers",
            remedy=f"there are: {', '.join(config.proposers)}",
        )
    return {name: config.proposers[name] for name in chosen}


def proposer_settings(subject: Path, config: Config, name: str) -> dict[str, Any]:
    """A proposer's settings; for `scripted`, the plan is read from the file that they name."""
    settings = dict(config.proposer_settings.get(name, {}))
    if name == "scripted":
        path = subject / str(settings.pop("file", "scripted.json"))
        try:
            settings["plan"] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the scripted plan cannot be read: {error}", where=str(path)) from error
    return settings
