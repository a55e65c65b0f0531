"""`lockgate.yaml`: what is guarded, by which policies and gates, with which budgets.

Strict: an unknown field, a duplicate key or a number written as text is an error
that names file and line. The loaded configuration is a frozen record and is part
of the log's first entry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, ValidationError, model_validator

from harness.errors import ConfigError
from harness.quorum import Approvers, Witnesses
from harness.records import Record, first_problem
from harness.strict_yaml import Located, load

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
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

    eval: Name
    kind: Literal["improve", "parent", "anchor", "floor", "rare", "ceiling"]
    margin: Annotated[float, Field(gt=0, le=1)] | None = None
    threshold: float | None = None
    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    cap: Annotated[int, Field(gt=0, le=200_000)] | None = None

    @model_validator(mode="after")
    def _fields_fit(self) -> GateRule:
        needed = {"improve": None, "parent": "margin", "anchor": "margin", "floor": "threshold", "rare": "rate"}.get(
            self.kind, "threshold"
        )
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
    """What a candidate must gain on the development items before held-out items are staked."""

    min_gain: float = 0.0


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
    policies: Annotated[list[str | PolicyRef], Field(min_length=1)] = ["baseline"]
    development: DevelopmentRule = DevelopmentRule()
    budgets: Budgets = Budgets()
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
        unknown = set(self.proposer_settings) - set(self.proposers)
        if unknown:
            raise ValueError(f"settings for a proposer that is not listed: {sorted(unknown)}")
        brought = [each.name for each in self.evals]
        if len(set(brought)) != len(brought):
            raise ValueError("two evals of the same name")
        return self

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
        return Config.parse(located.value)
    except ValidationError as error:
        _, message = first_problem(error)
        loc = error.errors(include_url=False, include_context=False)[0]["loc"]
        field = ".".join(str(part) for part in loc)
        raise ConfigError(
            f"{field}: {message.removeprefix('Value error, ')}" if field else message.removeprefix("Value error, "),
            where=f"{name}:{_line(located, loc)}",
            remedy="the fields are listed under 'lockgate.yaml' in README.md",
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
