"""What the rules of a log's order (audits/FORMAT.md §7) ask of the log so far: where `legality` stands.

Of a proposal that came to its end (rejected, promoted, voided) nothing is kept: no rule asks for more than that there
was one, which its number tells. So an `Order` grows with what was promoted and what is under way, and not with the
log. What a supervisor or a reader wants to know beyond that is the record in `state`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar

from harness.entries import Genesis, Guarding, GuardProposed
from harness.errors import StateError
from harness.holds import Hold
from harness.keys import Verifier
from harness.pages import Numbered
from harness.quorum import Approver
from harness.records import Candidate, Digest

BASELINE: Final = 0
"""The version number of the baseline: `models/0`."""


@dataclass(frozen=True)
class Terms:
    """What is in force: what genesis has laid down, but for what a change of guard has replaced."""

    origin: str
    guard: Digest
    policies: Digest
    delta: float
    fresh: bool
    """Whether each test has held-out items of its own."""
    promotions: int
    """The most that there may be."""
    gates: tuple[tuple[str, str], ...]
    """(eval, kind) of each, sorted."""
    vault_named: bool
    required: int
    """How many of the witnesses must have cosigned what authorises a version."""
    witnesses: tuple[str, ...]
    """Their verifier keys, a line each."""
    agree: int
    """How many approvers must let a held proposal go on; 0 where nobody is asked."""
    approvers: tuple[Approver, ...]
    data: Digest
    vault_items: int

    @classmethod
    def of(cls, entry: Genesis) -> Self:
        """Read them from genesis."""
        return cls(origin=entry.origin, vault_named=entry.vault_named, **_laid_down(entry))

    def under(self, entry: GuardProposed) -> Self:
        """What they would be under another guard."""
        return replace(self, **_laid_down(entry))


def _laid_down(entry: Guarding) -> dict[str, Any]:
    config, rule, people = entry.config, entry.config.witnesses, entry.config.approvers
    return {
        "guard": entry.guard,
        "policies": entry.policies,
        "delta": config.ledger.delta,
        "fresh": config.ledger.items == "fresh",
        "promotions": config.budgets.promotions,
        "gates": tuple(sorted((gate.eval, gate.kind) for gate in config.gates)),
        "required": 0 if rule is None else rule.require,
        "witnesses": () if rule is None else tuple(each.key for each in rule.of),
        "agree": 0 if people is None else people.require,
        "approvers": tuple(entry.approvers),
        "data": entry.data,
        "vault_items": entry.vault_items,
    }


@dataclass(frozen=True)
class Change:
    """A change of the guard that was proposed, and is neither made nor rejected."""

    hold: Hold
    by: str
    free: bool
    """Whether it needs nobody's approval: it is at least as strict, and the held-out items are the same."""
    terms: Terms
    """What would be in force."""


class Shown(NamedTuple):
    """What a screen was about: people are asked about it, and a second screen must be of the same."""

    base: Digest
    recipe: dict[str, Any]
    source: Digest
    change: Digest
    document: Digest
    judgement: Digest


class Stake(NamedTuple):
    """Over what a test was begun."""

    epoch: int
    incumbent: Digest
    alpha: float | None = None
    """What it may cost; None where items are shared, and all of it is spent at once."""


class Measurement(NamedTuple):
    """What a test has shown."""

    passed: bool
    evidence: Digest
    ceilings: tuple[str, ...] = ()
    """Which ask for people, as eval/kind (`decision.ceilings`)."""


@dataclass(frozen=True)
class Open:
    """A proposal that has not come to its end."""

    proposer: str
    screened: str | None = None
    """The outcome of the screen, of the second one where people were asked."""
    shown: Shown | None = None
    """What a screen that asks for people has named."""
    built: Candidate | None = None
    developed: bool | None = None
    """Whether all its properties hold, once it is developed."""
    staked: Stake | None = None
    measured: Measurement | None = None
    verdict: str | None = None
    authorisation: int | None = None
    """The index of its authorisation."""
    hold: Hold | None = None
    over: Digest | None = None
    """The incumbent over which people let it through the screen: it is tested over no other."""
    asked: bool = False
    """Whether it was released from a hold of the stage `decide`: there is one such hold."""
    approvals: tuple[Digest, ...] = ()
    """Of the holds that it was released from, in the order of the log."""


class Permit(Protocol):
    """What is asked of an authorisation before it is used."""

    @property
    def number(self) -> int: ...  # noqa: D102 - as in `Authorised`
    @property
    def version(self) -> int: ...  # noqa: D102
    @property
    def incumbent(self) -> Digest: ...  # noqa: D102
    @property
    def candidate(self) -> Digest: ...  # noqa: D102
    @property
    def expires(self) -> str: ...  # noqa: D102


class Swap(Protocol):
    """What is asked of an open intent."""

    @property
    def action(self) -> str: ...  # noqa: D102 - as in `Intended`
    @property
    def version(self) -> int: ...  # noqa: D102
    @property
    def candidate(self) -> Digest: ...  # noqa: D102
    @property
    def authorisation(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class Order:
    """What the rules ask of the log so far."""

    size: int = 0
    keys: tuple[Verifier, ...] = ()
    """The log's keys, the oldest first; the last one is in force. Empty where the reader does not say."""
    terms: Terms | None = None
    ledger: tuple[int, str] | None = None
    """Size and root of the vault's ledger when this log last spoke of it: it may only have grown since."""
    proposed: int = 0
    """How many proposals there have been."""
    open: Numbered[Open] = field(default_factory=Numbered)
    """Those that have not come to their end, by number."""
    versions: dict[int, Candidate] = field(default_factory=dict)
    allowed_by: dict[int, int] = field(default_factory=dict)
    """Version → the index of the entry that allowed it."""
    live: int = BASELINE
    epoch: int = 1
    answered: frozenset[tuple[Digest, int, int]] = frozenset()
    """(candidate, offset, cap) of the answers in this epoch."""
    open_stake: int | None = None
    tests: int = 0
    """Stakes of this epoch; where items are fresh, of the life of the ledger."""
    alphas: float = 0.0
    """The sum of all stakes; where items are fresh, less what the tests' evidence gave back."""
    burned: int = 0
    """Where the next stake begins at the least: where the last one did, and one more after a promotion."""
    used: int = 0
    """Where the items of the last stake end."""
    authorised: Mapping[int, Permit] = field(default_factory=dict)
    """Authorisations not yet used, by entry index."""
    nonces: tuple[str, ...] = ()
    """Of all authorisations."""
    intent: Swap | None = None
    unwatched: bool = False
    """A promotion whose smoke test has not been logged."""
    halted: bool = False
    change: Change | None = None
    """The proposed change of the guard that is open."""
    guards: tuple[Digest, ...] = ()
    """Of all changes of the guard that were proposed, what people signed: what was said of one is said of no other."""
    people: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """(name, role, key) of those who have answered holds → the entry of their first answer."""
    last_time: str = ""

    def after(self, **changes: Any) -> Self:
        """A copy with these changes. It is made for every entry of a log, and `dataclasses.replace` is far slower."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self), **changes)
        return copy

    @property
    def held(self) -> frozenset[int]:
        """The proposals that wait for people. Nothing is staked while there are any."""
        return frozenset(number for number, found in self.open.items() if found.hold is not None)

    @property
    def incumbent(self) -> Candidate:
        """The candidate that is live."""
        return self.versions[self.live]

    @property
    def promotions(self) -> int:
        """How many promotions there have been, undone ones too."""
        return len(self.versions) - 1


Some = TypeVar("Some", bound=Order)


Illegal = Callable[[str], StateError]
"""How a rule refuses an entry where it stands."""


def proposal(order: Order, number: int, illegal: Illegal) -> Open:
    """What is known of a proposal that has not come to its end; raises what `illegal` makes."""
    found = order.open.get(number)
    if found is None:
        known = "has come to its end" if 1 <= number <= order.proposed else "is unknown"
        raise illegal(f"proposal {number} {known}")
    return found


def undecided(order: Order, number: int, illegal: Illegal) -> Open:
    """The same, of one that is not decided."""
    found = proposal(order, number, illegal)
    if found.verdict is not None:
        raise illegal(f"proposal {number} is decided already")
    return found


def free(order: Order, number: int, illegal: Illegal) -> Open:
    """The same, of one that does not wait for people."""
    found = undecided(order, number, illegal)
    if found.hold is not None:
        raise illegal(f"proposal {number} is held: people have not answered")
    return found


def with_proposal(order: Order, number: int, found: Open) -> dict[str, Any]:
    """The change of an order by which a proposal stands so."""
    return {"open": order.open.with_value(number, found)}


def next_epoch(order: Order) -> dict[str, Any]:
    """The change of an order by which the epoch ends: stakes are counted anew, on items that nothing was asked of.

    Where all items are fresh, they are counted on.
    """
    tests = order.tests if terms_of(order).fresh else 0
    return {"epoch": order.epoch + 1, "tests": tests, "answered": frozenset()}


def terms_of(order: Order) -> Terms:
    """What genesis has laid down; StateError before there is one."""
    if order.terms is None:
        raise StateError("the log has no genesis", where="entry 0")
    return order.terms
