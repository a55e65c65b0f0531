"""`lockgate.yaml`: what is guarded, by which policies and gates, with which budgets.

Strict: an unknown field, a duplicate key or a number written as text is an error
that names file and line. The loaded configuration is a frozen record and is part
of the log's first entry.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from harness.chat import Settings
from harness.errors import ConfigError
from harness.latency import FEWEST, MOST
from harness.quorum import Approvers, Witnesses
from harness.records import Record, first_problem
from harness.strict_yaml import Located, load

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"
Gated = Annotated[str, StringConstraints(pattern=rf"^{_NAME}(\[(\*|{_NAME})\])?$")]
"""An eval; one slice of it, `name[slice]`; or every slice of it, `name[*]`, until the evals are known."""
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
"""What a view or an eval may be called, as in guards.py."""
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
MAX_CONFIG_BYTES = 256 * 1024
_FIRST, _REST = r"[A-Za-z0-9_?\[\]]", r"[A-Za-z0-9_.?\[\]-]"
_PART = rf"(\*\*|\*|(\*{_REST}|{_FIRST})(\*?{_REST})*\*?)"
"""A name in which a star follows no star, or the two that stand for any folders: `a**` has no meaning."""
Glob = Annotated[str, StringConstraints(pattern=rf"^{_PART}(/{_PART})*$")]
"""Names files below the subject: relative, nothing hidden, no `..`."""


class GateRule(Record):
    """One gate: which eval, tested how. Exactly the field that its kind needs is given."""

    eval: Gated
    kind: Literal["improve", "parent", "anchor", "floor", "rare", "ceiling"]
    margin: Annotated[float, Field(gt=0, le=1)] | None = None
    threshold: float | None = None
    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    cap: Annotated[int, Field(gt=0, le=200_000)] | None = None
    policy: str | None = None
    """The policy that demands it as a floor (`floors`); never written in lockgate.yaml, nor where there is none."""

    @model_serializer(mode="wrap")
    def _as_written(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = fields(self)
        if self.policy is None:
            del value["policy"]
        return value

    @property
    def name(self) -> str:
        """By which results, rules and pages name it."""
        return f"{self.eval}/{self.kind}" + ("" if self.policy is None else f"@{self.policy}")

    @property
    def bar(self) -> float | None:
        """Its margin, threshold or rate; None where it has none of them."""
        return next((value for value in (self.margin, self.threshold, self.rate) if value is not None), None)

    @model_validator(mode="after")
    def _fields_fit(self) -> GateRule:
        needed = {"improve": None, "parent": "margin", "anchor": "margin", "floor": "threshold", "rare": "rate"}.get(
            self.kind, "threshold"
        )
        if self.policy is not None and self.kind != "floor":
            raise ValueError("a policy demands floors, and no other gates")
        for field in ("margin", "threshold", "rate"):
            given = getattr(self, field) is not None
            if given != (field == needed):
                word = "needs" if field == needed else "takes no"
                raise ValueError(f"a gate of kind {self.kind} {word} '{field}'")
        return self


class EvalRule(Record):
    """An eval that is brought by an entry point (`bringing`), in place of code in guards.py.

    Fields besides these are settings of that `use`, which checks them.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)

    use: Name
    name: Word
    kind: Literal["capability", "alignment", "robustness"]

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that only its `use` knows."""
        return dict(self.model_extra or {})


class LedgerRule(Record):
    """The error budget: delta over the life of the vault, items a test may use, items a batch."""

    delta: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    items: Literal["scarce", "fresh"] = "scarce"
    """Whether an epoch's tests share held-out items, or each has items of its own, which are generated."""
    cap: Annotated[int, Field(gt=0, le=200_000)] = 6000
    batch: Positive = 50
    discordance: Share | dict[str, Share] = 0.2
    """The share of items on which neighbours differ, by eval or by gate: what the power calculation assumes."""
    levels: dict[str, float] = {}
    """The true mean assumed of an eval that is tested without a pair (floor, rare, ceiling)."""
    gain: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The true gain of the objective that should be found: likewise."""
    min_power: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """A configuration whose gates pass a good candidate more seldom than this is refused."""


class VaultRule(Record):
    """Where the held-out items' ledger lives; none means one of the run's own."""

    dir: str | None = None


class DevelopmentRule(Record):
    """What a candidate must show on the development items before held-out items are staked."""

    min_gain: float = 0.0
    """What the objective must gain on the incumbent, at least."""
    max_loss: dict[Name, Annotated[float, Field(ge=0)]] = {}
    """What other evals may lose on the incumbent, at most."""

    @model_serializer(mode="wrap")
    def _as_before(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing: a configuration without it is written as before there was such a field."""
        value: dict[str, Any] = told(self)
        return value if self.max_loss else {name: each for name, each in value.items() if name != "max_loss"}


class Budgets(Record):
    """Hard limits. Seconds are of the wall clock; megabytes are 2**20 bytes."""

    wall_seconds: Positive = 3600
    build_seconds: Positive = 300
    idle_seconds: Positive = 60
    predict_seconds: Positive = 120
    memory_mb: Positive = 3000
    output_mb: Positive = 64
    promotions: Positive = 100
    proposals: Positive = 1000


class EfficiencyRule(Record):
    """What is measured of a candidate's cost beside the incumbent's, for rules to read; times are no two runs' same."""

    latency_pairs: Annotated[int, Field(ge=FEWEST, le=MOST)]
    """With fewer there would be no interval."""


class Workers(Record):
    """How many workers, in which isolation, with how many torch threads each, on which device."""

    count: Annotated[int, Field(gt=0, le=64)] = 2
    isolation: Literal["zygote", "bwrap"] = "zygote"
    threads: Positive = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"


class PolicyRef(Record):
    """A policy pack by name or path, with the params that this subject overrides."""

    pack: str
    params: dict[str, Any] = {}


LATER = frozenset({"allotment", "efficiency", "evals"})


class Config(Record):
    """The whole of `lockgate.yaml`."""

    apiVersion: Literal["lockgate/v1"]  # noqa: N815 - the name that policy files use, too
    kind: Literal["Subject"]
    name: Name
    mutable: Annotated[list[Glob], Field(min_length=1)] = ["model.py"]
    packages: list[str] = []
    evals: list[EvalRule] = []
    objective: Name
    gates: Annotated[list[GateRule], Field(min_length=1)]
    ledger: LedgerRule = LedgerRule()
    vault: VaultRule = VaultRule()
    generations: Positive = 3
    proposers: Annotated[dict[Name, Positive], Field(min_length=1)]
    proposer_settings: dict[Name, dict[str, Any]] = {}
    allotment: Literal["fixed", "bandit"] = "fixed"
    """Whether `proposers` are the slots of every generation, or what a bandit begins with (`allotting`)."""
    policies: Annotated[list[str | PolicyRef], Field(min_length=1)] = ["baseline"]
    development: DevelopmentRule = DevelopmentRule()
    budgets: Budgets = Budgets()
    efficiency: EfficiencyRule | None = None
    workers: Workers = Workers()
    witnesses: Witnesses | None = None
    approvers: Approvers | None = None

    @model_validator(mode="after")
    def _gates_fit(self) -> Config:
        names = [(gate.eval, gate.kind) for gate in self.gates]
        if len(set(names)) != len(names):
            raise ValueError("two gates of the same eval and kind")
        if (self.objective, "improve") not in names:
            raise ValueError(f"no gate of kind improve for the objective '{self.objective}'")
        if sum(gate.kind == "improve" for gate in self.gates) != 1:
            raise ValueError("exactly one gate of kind improve: the objective's")
        if self.objective in self.development.max_loss:
            raise ValueError(f"development.max_loss names the objective '{self.objective}': min_gain is its own bar")
        unknown = set(self.proposer_settings) - set(self.proposers)
        if unknown:
            raise ValueError(f"settings for a proposer that is not listed: {sorted(unknown)}")
        brought = [each.name for each in self.evals]
        if len(set(brought)) != len(brought):
            raise ValueError("two evals of the same name")
        return self

    @model_serializer(mode="wrap")
    def _as_it_was(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A field that came later than the first logs is left out where it says nothing, so that they read the same."""
        value: dict[str, Any] = handler(self)
        return {name: each for name, each in value.items() if each not in (None, [], "fixed") or name not in LATER}

    @property
    def names_slices(self) -> bool:
        """Whether a gate stands for every slice of an eval, so that only its evals tell which gates there are."""
        return any(gate.eval.endswith("[*]") for gate in self.gates)

    def with_slices(self, evals: Collection[str], where: str) -> Config:
        """The same with one gate for each slice where a gate names them all: what a run is guarded by, and logs.

        All gates must pass, so a gate on each slice is one on the worst of them. `evals` are all that there are.
        ConfigError for an eval without slices, and where one gate is asked for twice.
        """
        gates: list[GateRule] = []
        for index, gate in enumerate(self.gates):
            own = [gate]
            if gate.eval.endswith("[*]"):
                whole = gate.eval.removesuffix("[*]")
                own = [gate.model_copy(update={"eval": name}) for name in evals if name.startswith(f"{whole}[")]
                if not own:
                    raise ConfigError(
                        f"gates[{index}]: no eval is called '{whole}'; there are {sorted(evals)}"
                        if whole not in evals
                        else f"gates[{index}]: the eval '{whole}' has no slices",
                        where=where,
                        remedy=f"declare slices={{…}} where guards.py declares it, or write a gate on '{whole}' alone",
                    )
            gates += own
        names = [f"{gate.eval}/{gate.kind}" for gate in gates]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"two gates are called {twice[0]}, one by the name of all slices",
                where=where,
                remedy="keep one of them, or write a gate for each slice",
            )
        return self.model_copy(update={"gates": gates})

    @property
    def generation_size(self) -> int:
        """How many slots a generation has, whatever the number of workers."""
        return sum(self.proposers.values())


def load_config(subject: Path) -> Config:
    """Read and validate `subject/lockgate.yaml`; ConfigError names file, line and remedy."""
    path = subject / "lockgate.yaml"
    if not subject.is_dir():
        raise ConfigError("no such folder", where=str(subject), remedy="name the folder that holds lockgate.yaml")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            remedy="`lockgate new DIR` writes a subject to begin with",
        ) from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"larger than {MAX_CONFIG_BYTES} bytes", where=str(path))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8", where=f"{path}: byte {error.start}") from error
    return parse_config(text, str(path))


def parse_config(text: str, name: str = "lockgate.yaml") -> Config:
    """Validate the text of a `lockgate.yaml`; ConfigError names `name:line`."""
    located = load(text, name)
    if not isinstance(located.value, dict):
        raise ConfigError("not a mapping", where=f"{name}:1")
    try:
        config = Config.parse(located.value)
    except ValidationError as error:
        _, message = first_problem(error)
        loc = error.errors(include_url=False, include_context=False)[0]["loc"]
        field = ".".join(str(part) for part in loc)
        raise ConfigError(
            f"{field}: {message.removeprefix('Value error, ')}" if field else message.removeprefix("Value error, "),
            where=f"{name}:{_line(located, loc)}",
            remedy="the fields are listed under 'lockgate.yaml' in README.md",
        ) from error
    for index, gate in enumerate(config.gates):
        if gate.policy is not None:
            raise ConfigError(
                f"gates.{index}.policy: only the floor that a policy demands has one",
                where=f"{name}:{_line(located, ('gates', index, 'policy'))}",
                remedy="remove it here; a policy's `floors` become gates by themselves",
            )
    if "llm" in config.proposers:
        _check_llm(config.proposer_settings.get("llm", {}), name, located)
    return config


def _check_llm(settings: dict[str, Any], name: str, located: Located) -> None:
    """Refuse settings of the one proposer that reaches out before anything is built; ConfigError names `name:line`."""
    try:
        Settings.parse(settings)
    except ValidationError as error:
        field, message = first_problem(error)
        loc = ("proposer_settings", "llm", *error.errors(include_url=False, include_context=False)[0]["loc"])
        raise ConfigError(
            f"proposer_settings.llm: {'' if field == '(top)' else f'{field}: '}{message.removeprefix('Value error, ')}",
            where=f"{name}:{_line(located, loc)}",
            remedy="the settings of `llm` are listed under 'A language model as a proposer' in README.md",
        ) from error


def place_of(subject: Path, *loc: str | int) -> str:
    """`lockgate.yaml:LINE` of a value in a subject's configuration, which could be loaded."""
    located = load((subject / "lockgate.yaml").read_text("utf-8"), "lockgate.yaml")
    return f"lockgate.yaml:{_line(located, loc)}"


def _line(located: Located, loc: tuple[str | int, ...]) -> int:
    """The line of the nearest place on the way to `loc` that stands in the text."""
    for end in range(len(loc), 0, -1):
        try:
            return located.line(loc[:end])
        except (KeyError, IndexError, LookupError, ConfigError):
            continue
    return 1
