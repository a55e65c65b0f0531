"""The guarded loop, as a client of the supervisor: ask the proposers, submit, settle, tell, again.

It holds no key of the run and decides nothing. A proposer's process has ended before its generation's
first vault test begins, so that it cannot time one. Where a proposer asks a language model, the loop has it asked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.chat import split
from harness.client import Connection, SupervisorProcess
from harness.config import Config, load_config
from harness.endpoint import Broker
from harness.errors import ConfigError, ProposerError, SandboxError
from harness.passphrase import Passphrase
from harness.proposers import Ask
from harness.proposing import Proposing

REPLIES = "replies"
"""The folder of a run where the replies of models are recorded, by proposer."""
ROUNDS = 3
"""How often a generation is asked for in which no reply of a model led to a proposal, and no other proposer had any."""


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
    replay: Path | None = None,
) -> dict[str, Any]:
    """Run generations until the number asked for is there; returns the run's summary.

    With `replay`, another run, models are not asked: their replies are those that are recorded there.
    `generations` counts from the run's beginning, so that a resumed run ends where it would have ended.
    Raises LockgateError with a remedy; nothing that was finished is lost.
    """
    config = load_config(subject)
    wanted = generations or config.generations
    allotment = _allotment(config, proposers)
    plans = {name: proposer_settings(subject, config, name) for name in allotment}
    models = {}
    for name in allotment:
        endpoint, plans[name] = split(plans[name])
        if endpoint:
            models[name] = Broker(name, endpoint)
    arguments = {
        "out": str(out.absolute()),
        "subject": str(subject.absolute()),
        "seed": seed,
        "workers": workers,
        "vault_key": str(vault_key.absolute()) if vault_key else None,
    }
    # Keys of endpoints are for this process alone, and not for the supervisor, nor for the evals that it starts.
    keys = {model.key_variable for model in models.values() if model.key_variable}
    process = SupervisorProcess(arguments, watcher.note, passphrase, without=keys)
    proposers_room = ExitStack()
    try:
        connection = Connection(out)
        if lift_halt:
            connection.ask({"op": "resume"})
        elif connection.ask({"op": "status"})["state"] == "halted":
            raise ConfigError("the run is halted", where=str(out), remedy=f"`lockgate resume {out}` lifts the halt")
        generation = int(process.ready["generation"])
        watcher.event({"event": "status", "summary": connection.ask({"op": "status"})})
        for name, model in models.items():
            model.open(out / REPLIES / name, None if replay is None else replay / REPLIES / name)
        proposing = proposers_room.enter_context(Proposing(models=models))
        while generation <= wanted:
            watcher.event({"event": "generation", "generation": generation, "of": wanted})
            asked = connection.ask({"op": "ask"})
            # What is filled already, from before a crash, is not asked for a second time.
            slots = None
            if not asked["filled"]:
                slots = _filled(asked["ask"], generation, allotment, plans, proposing, models, watcher)
            if slots is not None and not slots:
                watcher.note(f"generation {generation}: no proposer has anything to propose")
                break
            if slots is not None:
                connection.ask({"op": "submit", "generation": generation, "slots": slots})
            answer = connection.ask({"op": "settle", "generation": generation}, watcher.event)
            if answer["halted"] or answer["held"]:
                break
            generation += 1
        result = connection.ask({"op": "status"})
        if models:
            result["models"] = {name: model.spent for name, model in models.items()}
        connection.ask({"op": "stop"})
        connection.close()
        return result
    finally:
        proposers_room.close()
        process.close()


def _filled(
    asked: dict[str, Any],
    generation: int,
    allotment: dict[str, int],
    plans: dict[str, dict[str, Any]],
    proposing: Proposing,
    models: dict[str, Broker],
    watcher: Watcher,
) -> list[dict[str, Any]]:
    """All slots of a generation. Where models alone are why there are none, they are asked again, with other seeds."""
    rounds, fresh = 0, 0
    while True:
        before = sum(model.fresh for model in models.values())
        slots, in_vain = _slots({**asked, "round": rounds}, generation, allotment, plans, proposing, models, watcher)
        rounds += 1
        fresh += sum(model.fresh for model in models.values()) > before  # replies from the record cost no round
        if slots or not in_vain:
            return slots
        if fresh >= ROUNDS:
            watcher.note(f"no reply of a model led to a proposal, {rounds} times over; going on with the run asks anew")
            return []


def _slots(
    asked: dict[str, Any],
    generation: int,
    allotment: dict[str, int],
    plans: dict[str, dict[str, Any]],
    proposing: Proposing,
    models: dict[str, Broker],
    watcher: Watcher,
) -> tuple[list[dict[str, Any]], int]:
    """All slots of a generation, in the order of the configuration, and how many replies of models led to none.

    A proposer that fails leaves its slots empty.
    """
    if asked["generation"] != generation:
        raise ProposerError(f"the run is at generation {asked['generation']}, not {generation}")
    slots, in_vain = [], 0
    for name, count in allotment.items():
        ask = Ask.parse({**asked, "count": count, "settings": plans[name]})
        watcher.note(f"asking {name} for {count}")
        try:
            documents = proposing.propose(name, ask, watcher.note)
            reasons = dict(Counter(documents.skipped).most_common())
            if reasons:
                models[name].skipped(ask.generation, ask.round, reasons)
        except (ProposerError, SandboxError) as error:
            watcher.note(f"proposer {name} failed: {error}")
            continue
        if reasons:
            in_vain += len(documents.skipped)
            told = "; ".join(why if times == 1 else f"{times} times {why}" for why, times in reasons.items())
            watcher.note(f"{name}: {len(documents.skipped)} of {count} replies led to no proposal: {told}")
            watcher.event({"event": "skipped", "generation": generation, "proposer": name, "reasons": reasons})
        labels = plans[name].get("plan") if name == "scripted" else None
        slots += [
            {
                "proposer": name,
                "document": json.dumps(document),
                "scripted": name == "scripted",
                "label": _label(labels, generation, index),
            }
            for index, document in enumerate(documents)
        ]
    return slots, in_vain


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
