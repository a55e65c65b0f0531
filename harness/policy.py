"""Policies: their schema, how they are loaded and checked, and what they compile to.

A policy is YAML in the structure of Kubernetes' ValidatingAdmissionPolicy: `match` (a stage
and kinds of proposal), `params`, `variables`, and `rules`, each of which must be exactly
true. There is no way to say that a failure is ignored. A file may hold several policies,
divided by `---` (a pack); a subject may override a pack's params, with values of the same type.

Rules: everything wrong with a policy is found when it is loaded, with file, line and column;
the digest of a policy set covers the source text and the overrides, because what the
compiler makes of them is not the same bytes twice.

It does not cover evaluation (`judgement`, and `judge` for the process) or tests (`policy_test`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.canonical import digest_json
from harness.errors import LockgateError, PolicyError
from harness.expression_advice import near
from harness.policy_compiler import Problem, compile_policy, unused
from harness.policy_document import KINDS, STAGES, Stage
from harness.policy_file import TEST_SUFFIX, Policy, PolicySource, parse_source
from harness.records import Digest, Kind, Record

MAX_RULES = 1_000


@dataclass(frozen=True)
class PolicySet:
    """Policies that are judged together, and the digest that names them."""

    digest: Digest
    sources: tuple[PolicySource, ...]
    policies: tuple[Policy, ...]

    def applicable(self, stage: Stage, kind: Kind) -> list[Policy]:
        """Return the policies that apply to a kind of proposal at a stage."""
        return [policy for policy in self.policies if policy.stage == stage and kind in policy.kinds]

    def uncovered(self) -> list[tuple[Stage, Kind]]:
        """Return the stages and kinds to which no rule applies: there nothing can pass."""
        return [(stage, kind) for stage in STAGES for kind in KINDS if not self.applicable(stage, kind)]

    def json_value(self) -> list[dict[str, Any]]:
        """Return the sources as JSON, from which `policy_set_of` makes the same set."""
        return [source.json_value() for source in self.sources]


class PolicySummary(Record):
    """A line on each policy that was checked."""

    file: str
    name: str
    owner: str
    stage: Stage
    kinds: list[Kind]
    rules: list[str]
    params: dict[str, Any]
    floors: dict[str, float]


class CheckReport(Record):
    """What `check` found. `uncovered` is no problem of a file alone, but of a subject that has no other policy."""

    ok: bool
    policies: list[PolicySummary]
    problems: list[Problem]
    warnings: list[Problem]
    uncovered: list[str]


def load_policies(paths: Sequence[Path], params: Mapping[Path, Mapping[str, Any]] | None = None) -> PolicySet:
    """Load and compile policy files; `params` overrides those of a file, by its path.

    Raises PolicyError (where="file:line:column") for the first thing wrong with any of them.
    """
    overrides = params or {}
    return policy_set_of([_read(path, path.as_posix(), overrides.get(path, {})) for path in paths])


def load_subject_policies(entries: Iterable[Any], root: Path) -> PolicySet:
    """Load what a subject's `policies:` list names, relative to its folder.

    An entry is the bare name of a ready-made pack, a path or glob, or a record or mapping {pack, params}
    whose pack is either. Raises PolicyError, also for a glob that names nothing: that is a typo, not a wish.
    """
    sources: list[PolicySource] = []
    for entry in entries:
        pack = entry if isinstance(entry, str) else _get(entry, "pack")
        params = {} if isinstance(entry, str) else _get(entry, "params")
        for path, name in resolve(pack, root):
            source = _read(path, name, params)
            if any(source.name == other.name for other in sources):
                raise PolicyError(f"{source.name} is named twice", where="policies")
            sources.append(source)
    return policy_set_of(sources)


def resolve(pack: str, root: Path) -> list[tuple[Path, str]]:
    """Return the files that a pack's name, a path or a glob stands for, each with its name for messages."""
    if is_pack_name(pack):
        packs: dict[str, Path] = {}
        for folder in (Path(__file__).parent / "_policies", Path(__file__).parent.parent / "policies"):
            packs |= {path.stem: path for path in folder.glob("*.yaml") if not path.name.endswith(TEST_SUFFIX)}
        if pack in packs:
            return [(packs[pack], f"policies/{pack}.yaml")]
        meant = near(pack, packs)
        known = f"did you mean {meant}?" if meant else f"there is {', '.join(sorted(packs))}."
        message = f"no ready-made pack is called {pack!r}"
        raise PolicyError(message, where="policies", remedy=f"{known} A path ends in .yaml")
    try:
        found = sorted(path for path in root.glob(pack) if not path.name.endswith(TEST_SUFFIX) and path.is_file())
    except (ValueError, NotImplementedError, OSError) as error:
        raise PolicyError(f"{pack!r} is no path within the subject: {error}", where="policies") from error
    if not found:
        raise PolicyError(f"{pack!r} names no policy file", where="policies")
    return [(path, path.relative_to(root).as_posix()) for path in found]


def is_pack_name(text: str) -> bool:
    """Return whether an entry is the bare name of a pack, and no path."""
    return text.replace("-", "").isalnum() and text.isascii()


def policy_set_of(sources: Iterable[PolicySource]) -> PolicySet:
    """Return the set that the sources make; raises PolicyError for the first thing wrong."""
    loaded = tuple(sources)
    policies, problems = examine(loaded)
    if problems:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise PolicyError(first.message + more, where=first.where, remedy=first.remedy or None)
    covered = sorted(digest_json({"text": source.text, "params": source.params}) for source in loaded)
    return PolicySet(digest_json(covered), loaded, tuple(policies))


def check(paths: Sequence[Path]) -> CheckReport:
    """Check policy files and report every problem; raises nothing for what the files hold."""
    sources, problems = [], []
    for path in paths:
        try:
            sources.append(_read(path, path.as_posix(), {}))
        except LockgateError as error:
            problems.append(_problem(error))
    warnings: list[Problem] = []
    policies, more = examine(tuple(sources), warnings)
    problems += more
    covered = PolicySet(digest_json([]), (), tuple(policies)).uncovered()
    return CheckReport(
        ok=not problems and bool(policies),
        policies=[summary(policy) for policy in policies],
        problems=problems,
        warnings=warnings,
        uncovered=[f"{kind} at {stage}" for stage, kind in covered],
    )


def summary(policy: Policy) -> PolicySummary:
    """Return a policy's line for a report."""
    metadata = policy.document.metadata
    return PolicySummary(
        file=policy.located.name,
        name=metadata.name,
        owner=metadata.owner,
        stage=policy.stage,
        kinds=list(policy.kinds),
        rules=[rule.id for rule in policy.document.rules],
        params=policy.params,
        floors={floor.eval: floor.floor for floor in policy.document.floors},
    )


def examine(
    sources: Sequence[PolicySource], warnings: list[Problem] | None = None
) -> tuple[list[Policy], list[Problem]]:
    """Return the policies that load, and every problem of those that do not or do not compile.

    What is no error, and yet seldom meant, is added to `warnings`.
    """
    policies: list[Policy] = []
    problems: list[Problem] = []
    for source in sources:
        try:
            loaded = parse_source(source, lambda error: problems.append(_problem(error)))
        except LockgateError as error:
            problems.append(_problem(error))
            continue
        for policy in loaded:
            before = len(problems)
            compiled = compile_policy(policy, problems)
            if warnings is not None and len(problems) == before:
                warnings += unused(compiled)
        policies += loaded
    names: dict[str, Policy] = {}
    for policy in policies:
        first = names.setdefault(policy.name, policy)
        if first is not policy:
            where = policy.located.at(("metadata", "name"))
            problems.append(
                Problem(
                    where=where,
                    message=f"a policy called {policy.name} stands in {first.located.name}, too",
                    remedy="choose another name",
                )
            )
    rules = [(policy, index) for policy in policies for index in range(len(policy.document.rules))]
    if len(rules) > MAX_RULES:
        policy, index = rules[MAX_RULES]
        where = policy.located.at(("rules", index))
        remedy = "say the same with lists in params"
        problems.append(Problem(where=where, message=f"more than {MAX_RULES} rules", remedy=remedy))
    return policies, problems


def read_text(path: Path, name: str | None = None) -> str:
    """Return the text of a policy file; PolicyError where it cannot be read."""
    where = name or path.as_posix()
    try:
        data = path.read_bytes()
        return data.decode("utf-8")  # with its own ends of lines: a digest covers them
    except OSError as error:
        raise PolicyError(f"cannot be read: {error.strerror}", where=where) from error
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = f"{before.count(10) + 1}:{error.start - (before.rfind(10) + 1) + 1}"
        raise PolicyError("cannot be read: not UTF-8", where=f"{where}:{place}", remedy="save it as UTF-8") from error


def _read(path: Path, name: str, params: Mapping[str, Any]) -> PolicySource:
    return PolicySource(name=name, text=read_text(path, name), params=dict(params))


def _problem(error: LockgateError) -> Problem:
    return Problem(where=error.where or "policies", message=error.message, remedy=error.remedy or "")


def _get(entry: Any, name: str) -> Any:
    return entry.get(name, {}) if isinstance(entry, Mapping) else getattr(entry, name)
