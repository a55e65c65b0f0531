"""Evals that `lockgate.yaml` names are found by their entry points and merged with those of `guards.py`.

`inspect` is built in; a package adds its own (`evals/brought.py`). They run in the evaluator, by the rules of
guards.py, and the packages that they come from are part of the run's guard by their versions.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from harness.config import Config, EvalRule, load_config, place_of
from harness.errors import ConfigError, LockgateError, SubjectError

if TYPE_CHECKING:
    from harness.evals import Brought, Data, Suite, Wanted

GROUP = "lockgate.evals"
"""The entry-point group."""
_BUILT_IN = {"inspect": ("harness.evals.inspect:bring", "inspect-ai")}
"""Where they are, and the distribution that measures."""


def find(use: str, where: str) -> EntryPoint:
    """The entry point of this name, without importing it; ConfigError where there is none, or more than one.

    A built-in name cannot be taken by a package.
    """
    if use in _BUILT_IN:
        return EntryPoint(name=use, group=GROUP, value=_BUILT_IN[use][0])
    found = list(entry_points(group=GROUP, name=use))
    if not found:
        there = sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})
        raise ConfigError(f"no installed package brings evals as {use!r}", where=where, remedy=f"there are: {there}")
    if len(found) > 1:
        raise ConfigError(f"{len(found)} packages bring evals as {use!r}", where=where, remedy="uninstall all but one")
    return found[0]


def distributions(config: Config) -> list[str]:
    """The distributions that a configuration's evals come from: by entry point, and by a package named as `task`.

    Only metadata are read. ConfigError where one is not installed: its version could not be guarded.
    """
    names: set[str] = set()
    homes = packages_distributions() if config.evals else {}
    for index, rule in enumerate(config.evals):
        where = f"lockgate.yaml: evals[{index}]"
        point = find(rule.use, where)
        names |= {_BUILT_IN[rule.use][1]} if rule.use in _BUILT_IN else {point.dist.name} if point.dist else set()
        package = _package(rule)
        if package is not None:
            if package not in homes:
                raise ConfigError(f"no installed package holds '{package}'", where=where, remedy="install it")
            names |= set(homes[package])
    for name in names:
        try:
            version(name)
        except PackageNotFoundError:
            raise ConfigError(
                f"evals are measured by '{name}', which is not installed",
                where="lockgate.yaml: evals",
                remedy=f"pip install {name}",
            ) from None
    return sorted(names)


def _package(rule: EvalRule) -> str | None:
    """The top-level package of a `task` that is not a file of the subject."""
    task = rule.settings.get("task")
    if not isinstance(task, str):
        return None
    place = task.partition("@")[0]
    return None if place.endswith(".py") else place.partition("/")[0].partition(".")[0]


def bring(subject: Path, suite: Suite, guarded: Container[str] | None = None) -> Suite:
    """The suite with what the subject's `lockgate.yaml` brings besides; `guarded` as for `load_guards`.

    Raises ConfigError or SubjectError, at the line of the eval, for an unknown `use`, settings that are wrong, a name
    that is taken, or whatever the entry point raises.
    """
    from harness.evals import Wanted

    if not (subject / "lockgate.yaml").is_file():
        return suite
    for index, rule in enumerate(load_config(subject).evals):
        where = place_of(subject, "evals", index)
        wanted = Wanted(
            name=rule.name,
            kind=rule.kind,
            settings=rule.settings,
            where=where,
            subject=subject,
            module=lambda name: _module(subject, name, guarded),
            codec=suite.codec,
        )
        suite = _merged(suite, _brought(find(rule.use, where), wanted), where)
    return suite


def _module(subject: Path, name: str, guarded: Container[str] | None) -> ModuleType:
    """Import a file of the subject that holds evals: one that proposals cannot change."""
    from harness.evals.loading import load_module

    path = subject / name
    if ".." in Path(name).parts or Path(name).is_absolute() or (guarded is not None and name not in guarded):
        raise SubjectError(
            f"'{name}' is not guarded: proposals may change it, or it lies elsewhere",
            remedy="put it beside guards.py, under a name that no proposal has",
        )
    return load_module(path, guarded)


def _brought(point: EntryPoint, wanted: Wanted) -> Brought:
    from harness.evals import Brought

    where = wanted.where
    try:
        made = point.load()(wanted)
    except LockgateError as error:
        told = error.message if error.where in (None, where) else f"{error.where}: {error.message}"
        raise SubjectError(f"eval '{wanted.name}': {told}", where=where, remedy=error.remedy) from error
    except ImportError as error:
        remedy = f"install what it needs: pip install 'lockgate[{point.name}]'"
        raise SubjectError(
            f"eval '{wanted.name}': {error}", where=where, remedy=remedy if point.name in _BUILT_IN else "install it"
        ) from error
    except Exception as error:
        raise SubjectError(f"eval '{wanted.name}': {type(error).__name__}: {error}", where=where) from error
    if not isinstance(made, Brought) or not made.evaluations:
        raise SubjectError(f"eval '{wanted.name}': {point.value} returned no evals", where=where)
    for several in (made.views, made.evaluations):
        names = [each.name for each in several]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SubjectError(f"eval '{wanted.name}': {point.value} returned '{twice[0]}' twice", where=where)
    return made


def _merged(suite: Suite, made: Brought, where: str) -> Suite:
    from harness.evals import Data

    for new, old in ((made.views, suite.views), (made.evaluations, suite.evaluations)):
        for each in new:
            if each.name in old:
                raise SubjectError(
                    f"the name '{each.name}' is used already, at {old[each.name].where}",
                    where=where,
                    remedy="give this eval another name",
                )

    def load() -> Data:
        data = suite.load_data()
        if not isinstance(data, Data):
            return data  # the suite that is loaded in the end says so
        clash = sorted(made.populations.keys() & data.populations.keys())
        if clash:
            raise SubjectError(
                f"a population is called '{clash[0]}' already", where=where, remedy="give this eval another name"
            )
        return replace(data, also={**data.also, **made.populations})

    return replace(
        suite,
        load_data=load,
        views={**suite.views, **{each.name: each for each in made.views}},
        evaluations={**suite.evaluations, **{each.name: each for each in made.evaluations}},
    )
