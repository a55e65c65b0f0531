"""The guarded loop, as a client of the supervisor: ask the proposers, submit, settle, tell, again.

It holds no key of the run and decides nothing. A proposer's process has ended before its generation's
first vault test begins, so that it cannot time one. Where a proposer asks a language model, the loop has it asked.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.allotting import allot
from harness.chat import split
from harness.client import Connection, SupervisorProcess
from harness.config import Config, load_config
from harness.endpoint import Broker
from harness.errors import ConfigError, ProposerError, SandboxError
from harness.passphrase import Passphrase
from harness.plain import plain
from harness.proposers import Ask, Feedback, find
from harness.proposing import Proposing

MOST_GENERATIONS = 100_000
"""A run that is bounded by time alone ends by it, or by its budgets, long before."""
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
    minutes: float | None = None,
    proposers: dict[str, int | None] | None = None,
    workers: int | None = None,
    vault_key: Path | None = None,
    passphrase: Passphrase | None = None,
    lift_halt: bool = False,
    replay: Path | None = None,
) -> dict[str, Any]:
    """Run generations until the number asked for is there; returns the run's summary.

    `generations` counts from the run's beginning, so that a resumed run ends where it would have ended. With `minutes`
    no generation begins after as many from now, and `generations` bounds it only where it is given. `proposers` are
    those to ask and for how many slots, None for as many as the configuration says. With `replay`, another run, models
    are not asked: their replies are those that are recorded there.
    Raises LockgateError with a remedy; nothing that was finished is lost.
    """
    config = load_config(subject)
    wanted = generations or (config.generations if minutes is None else MOST_GENERATIONS)
    until = None if minutes is None else time.monotonic() + 60 * minutes
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
    process = SupervisorProcess(arguments, watcher.note, passphrase)
    rooms = ExitStack()
    try:
        connection = Connection(out)
        rooms.callback(connection.close)
        if lift_halt:
            connection.ask({"op": "resume"})
        elif connection.ask({"op": "status"})["state"] == "halted":
            raise ConfigError("the run is halted", where=str(out), remedy=f"`lockgate resume {out}` lifts the halt")
        generation = int(process.ready["generation"])
        watcher.event({"event": "status", "summary": connection.ask({"op": "status"})})
        for name, model in models.items():
            model.open(out / REPLIES / name, None if replay is None else replay / REPLIES / name)
        proposing = rooms.enter_context(Proposing(models=models))
        while generation <= wanted:
            if until is not None and time.monotonic() >= until:
                watcher.note(f"the {minutes:g} minutes are over")
                break
            watcher.event({"event": "generation", "generation": generation, "of": None if until else wanted})
            asked = connection.ask({"op": "ask"})
            # What is filled already, from before a crash, is not asked for a second time.
            slots = None
            if not asked["filled"]:
                slots_of = _allotted(config, allotment, asked["ask"])
                slots = _filled(asked["ask"], generation, slots_of, plans, proposing, models, watcher)
            if slots is not None and not slots:
                watcher.note(f"generation {generation}: no proposer has anything to propose")
                break
            if slots is not None:
                connection.ask({"op": "submit", "generation": generation, "slots": slots})
            answer = connection.ask({"op": "settle", "generation": generation}, watcher.event)
            if answer["halted"] or answer["held"]:
                break
            if slots is not None and all(slot["document"] == slot["label"] for slot in slots):
                watcher.note(f"generation {generation}: no proposer had anything but a failure")
                break
            generation += 1
        result = connection.ask({"op": "status"})
        if models:
            result["models"] = {name: model.spent for name, model in models.items()}
        connection.ask({"op": "stop"})
        return result
    finally:
        rooms.close()
        process.close()


def _allotted(config: Config, allotment: dict[str, int], asked: dict[str, Any]) -> dict[str, int]:
    """Slots by proposer: by a bandit they follow from what is asked with, so that a resumed run has the same."""
    if config.allotment == "fixed":
        return allotment
    history = [Feedback.parse(told) for told in asked["history"]]
    return allot(allotment, history, seed=asked["seed"], generation=asked["generation"])


def _filled(
    asked: dict[str, Any],
    generation: int,
    allotment: dict[str, int],
    plans: dict[str, dict[str, Any]],
    proposing: Proposing,
    models: dict[str, Broker],
    watcher: Watcher,
) -> list[dict[str, Any]]:
    """All slots of a generation. Where models alone are why there are none, they are asked again, with other seeds.

    What failed has a slot of its own: no proposal, so it is rejected as malformed, is in the log with its reason,
    counts against the budget of proposals, and the run goes on.
    """
    rounds, fresh = 0, 0
    while True:
        before = sum(model.fresh for model in models.values())
        slots, failed, in_vain = _slots(
            {**asked, "round": rounds}, generation, allotment, plans, proposing, models, watcher
        )
        rounds += 1
        fresh += sum(model.fresh for model in models.values()) > before  # replies from the record cost no round
        if slots or not in_vain:
            return [*slots, *failed]
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
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Slots in the order of the configuration, slots of what failed, and how many replies of models led to none."""
    if asked["generation"] != generation:
        raise ProposerError(f"the run is at generation {asked['generation']}, not {generation}")
    slots, failed, in_vain = [], list[dict[str, Any]](), 0
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
            failed.append(_failure(name, f"failed: {error}"))
            continue
        if reasons:
            in_vain += len(documents.skipped)
            told = "; ".join(why if times == 1 else f"{times} times {why}" for why, times in reasons.items())
            watcher.note(f"{name}: {len(documents.skipped)} of {count} replies led to no proposal: {told}")
            failed.append(_failure(name, f"{len(documents.skipped)} of {count} replies led to no proposal: {told}"))
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
    return slots, failed, in_vain


def _failure(name: str, why: str) -> dict[str, Any]:
    """A slot whose document is in words what went wrong, which is no proposal."""
    said = plain(why, 500)
    return {"proposer": name, "document": said, "scripted": False, "label": said}


def _label(plan: Any, generation: int, index: int) -> str:
    """What a scripted plan calls its candidate, for people to read."""
    if not isinstance(plan, list):
        return ""
    mine = [step for step in plan if isinstance(step, dict) and step.get("generation") == generation]
    return str(mine[index].get("label", "")) if index < len(mine) else ""


def _allotment(config: Config, chosen: dict[str, int | None] | None) -> dict[str, int]:
    """Slots by proposer. One that the configuration does not list takes as many as all of its together."""
    if chosen is None:
        return dict(config.proposers)
    for name in chosen:
        if name not in config.proposers:
            try:
                find(name)
            except ProposerError as error:
                raise ConfigError(error.message, where="--proposers", remedy=error.remedy) from error
    return {
        name: config.proposers.get(name, config.generation_size) if count is None else count
        for name, count in chosen.items()
    }


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
