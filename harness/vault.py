"""The vault's ledger, durable: stakes and burned items survive every run and every crash.

It is a signed log of its own in the vault's folder, under a key derived from the vault
key, and each entry carries the LedgerState after it. Every operation has a key (which run,
which proposal, which epoch), so that a supervisor which was killed between this log and its
own asks again and gets the same answer: no refund, no second spending.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.auditlog import AuditLog
from harness.canonical import digest
from harness.envelope import seal, unseal
from harness.errors import AuditError, ConfigError, StateError, StatisticsError
from harness.fresh_ledger import FreshState
from harness.keys import Signer, VaultKey
from harness.ledger import LedgerState, Stake
from harness.notes import TreeHead


class Vault:
    """One vault, opened with its key: the secret order of its items and the ledger of their use."""

    def __init__(
        self,
        folder: Path,
        key: VaultKey,
        *,
        data: str,
        items: int,
        delta: float,
        minimum: int,
        fresh: bool = False,
        known: tuple[int, str] | None = None,
        own: str = "",
        first: Callable[[int], str] | None = None,
    ) -> None:
        """Open the ledger in `folder`, or begin it.

        `data` is the digest of the items, `items` their number; `fresh` ones are made for each test. `known` is the
        size and root that a run's log names: a ledger that is gone, or older, would give spent error back, and is
        refused. `own` is that run's origin: a test that another run left open is abandoned, and all its items count as
        used. `first` gives the digest of the items with only so many held-out ones: where items were added to those
        that the vault knows, `grown` says how many there are, and the end of an epoch takes them in where the run's
        log has them; without it, none may be added. ConfigError where the folder belongs to other data, another key
        or another delta; AuditError where the ledger does not verify.
        """
        self._key = key
        self._signer = Signer.from_seed("lockgate-vault", key.derive(b"ledger signing key v1"))
        self._last: dict[str, Any] = {}
        self._ended = self._new = ""
        self._fixed: dict[str, Any] = {"data": data, "delta": delta, "items": "fresh" if fresh else None}
        self._kind = FreshState if fresh else LedgerState
        self._order: list[int] | None = None
        self._sizes: list[int] = []
        self.grown = 0
        """How many items there are, where they are more than the ledger knows; else 0."""
        place = folder / "ledger"
        begun = (place / "checkpoint").exists()
        origin = f"lockgate-vault-{key.commitment()[7:23]}"
        if not begun and known is not None:
            raise ConfigError(
                "the vault's ledger is gone, and the run's log says that it was there",
                where=str(place),
                remedy="restore it: beginning it anew would give back the error that was spent",
            )
        if not begun:
            folder.mkdir(parents=True, exist_ok=True)
            self._log = AuditLog.create(place, self._signer, origin)
        else:
            try:
                head = None if known is None else TreeHead(origin, known[0], bytes.fromhex(known[1]))
                self._log = AuditLog.open(place, self._signer, known=head)
            except AuditError as error:
                raise ConfigError(
                    f"the vault's ledger does not verify under this vault key, or is older than the run: {error}",
                    where=str(place),
                    remedy="use the vault key that it was begun with, and one run at a time",
                ) from error
        try:
            self._begin(folder, items, minimum, first)
            self._abandon_stranger(own)
        except BaseException:
            self._log.close()
            raise

    def _begin(self, folder: Path, items: int, minimum: int, first: Callable[[int], str] | None) -> None:
        """Take over the last entry's state; write the first entry where there is none, a crash before it included."""
        if not self._log.size:
            state = self._kind(delta=self._fixed["delta"], size=items, minimum=minimum)
            self._sizes = [items]
            self._write("vault-begun", state, {})
            return
        body = unseal(next(iter(self._log.read(self._log.size - 1))), self._signer.verifier).body
        known = {name: body.get(name) for name in self._fixed}
        if known != self._fixed and first is not None:
            size = int(body["state"]["size"])
            if size < items and known == {**self._fixed, "data": first(size)}:
                self.grown, self._new, self._fixed = items, self._fixed["data"], known
        if known != self._fixed:
            raise ConfigError(
                "the vault was begun with other items or another delta",
                where=str(folder),
                remedy="name another vault folder, or restore the configuration",
            )
        try:
            self.state, self._last, self._ended = self._kind.parse(body["state"]), body["last"], body["ended"]
            self._sizes = list(body["sizes"])
        except (KeyError, ValidationError) as error:
            raise AuditError(f"the vault's last entry is malformed: {error}", where=str(folder)) from error

    def _abandon_stranger(self, own: str) -> None:
        """Close a test that another run left open: the ledger is ours alone now, so that run is not at work."""
        pending = self.state.pending
        if pending is not None and pending.key.rpartition("/")[0] != own:
            self._write("vault-abandoned", self.state.abandon(pending.key), {"op": "abandon", "key": pending.key})

    @property
    def head(self) -> tuple[int, str]:
        """Size and root (hexadecimal) of the ledger: what the run's log says of it."""
        return self._log.size, self._log.tree_head.root.hex()

    @property
    def commitment(self) -> str:
        """What `genesis` publishes of the vault key."""
        return self._key.commitment()

    def items(self, offset: int, count: int) -> list[int]:
        """The ids of `count` items of the secret order, from `offset` on; fresh ones are in no order but their own."""
        if self._kind is FreshState:
            return list(range(offset, offset + count))
        if self._order is None:
            self._order = order_of(self._key, *self._sizes)
        return self._order[offset : offset + count]

    def blind(self, label: str, what: str) -> str:
        """A commitment to `what` that tells nothing of it to who lacks the key, as a digest; see `blinded`."""
        return blinded(self._key, label, what)

    def shuffle(self, offset: int, count: int) -> str:
        """The seed (64 hexadecimal digits) under which this prefix is presented to candidates."""
        return shuffle_of(self._key, offset, count)

    def draw(self, label: str, n: int, count: int) -> list[int]:
        """Draw `count` of `range(n)` as `label` and the key decide: nobody without the key can tell which."""
        return sorted(self._key.order(n, b"draw\n" + label.encode())[:count])

    def stake(self, key: str, cap: int) -> Stake:
        """Stake for a test before its first item; the same open key gives the same stake.

        StateError where the ledger does not allow it: no fault of the candidate.
        """
        try:
            state, stake = self.state.stake(key, cap)
        except StatisticsError as error:
            raise StateError(f"the vault's ledger: {error.message}", where=error.where, remedy=error.remedy) from error
        if state != self.state:
            self._write("vault-staked", state, {"op": "stake", "key": key})
        return stake

    def close_test(
        self, key: str, used: int, *, promoted: bool, log_es: Sequence[float] = (), asked: bool = False
    ) -> None:
        """Close a test; where its candidate was promoted, burn the prefix and begin the next epoch.

        `log_es`: the log evidence that its gates ended with, which gives back some of the stake where items are fresh.
        `asked`: people let it past a ceiling, so that its evidence need not bear the promotion.
        """
        last = {"op": "promote" if promoted else "reject", "key": key}
        if self._last == last:
            return
        state = self.state
        if isinstance(state, FreshState):
            state = state.promote(key, used, log_es, asked=asked) if promoted else state.reject(key, used, log_es)
        else:
            state = state.promote(key, used) if promoted else state.reject(key, used)
        self._write("vault-promoted" if promoted else "vault-rejected", state, last)

    def has_ended(self, key: str) -> bool:
        """Whether the epoch's end of this key is in the ledger already: the last one is."""
        return self._ended == key

    def end_epoch(self, key: str, items: int = 0) -> None:
        """End the epoch for another cause; an open test is abandoned: its items count as used, its stake as spent.

        `items`: how many the run's log says that there are. Added items join only where it has all of them: not while
        they are only proposed.
        """
        if self.has_ended(key):
            return
        size = self.grown if self.grown == items else 0
        state = self.state
        if state.pending is not None:
            state = state.abandon(state.pending.key)
        self._ended = key
        if size:
            self._sizes, self._order = [*self._sizes, size], None
            self._fixed = {**self._fixed, "data": self._new}
        self._write("vault-epoch-ended", state.end_epoch(size=size or None), {"op": "end", "key": key})
        self.grown -= size

    def close(self) -> None:
        """Release the ledger's lock."""
        self._log.close()

    def _write(self, kind: str, state: LedgerState, last: dict[str, Any]) -> None:
        body = {**self._fixed, "state": state.json_value(), "last": last, "ended": self._ended, "sizes": self._sizes}
        self._log.append([seal(kind, body, {"state": digest(repr(state).encode())}, self._signer)])
        self.state, self._last = state, last


def order_of(key: VaultKey, size: int, *later: int) -> list[int]:
    """The secret order of a vault's items: which key decides, and nobody without it can tell.

    `later`: its sizes after items were added, each time. They come after those that were there, in an order of their
    own, so that what was asked before is never asked of other items.
    """
    order = key.order(size, b"items")
    for grown in later:
        order += [len(order) + place for place in key.order(grown - len(order), f"items after {len(order)}".encode())]
    return order


def shuffle_of(key: VaultKey, offset: int, count: int) -> str:
    """The seed (64 hexadecimal digits) under which a prefix of that order is presented."""
    return key.derive(f"shuffle {offset} {count}".encode()).hex()


def blinded(key: VaultKey, label: str, what: str) -> str:
    """HMAC-SHA256 of `what` under a key derived from the vault key, as a digest (FORMAT §8.3).

    A plain digest would let who guesses an item, or a whole data set, see that the guess is right.
    """
    return "sha256:" + hmac.digest(key.derive(f"blind {label} v1".encode()), what.encode(), "sha256").hex()


def item_list(ids: Sequence[int]) -> str:
    """Items as `blinded` takes them: their numbers in decimal, in order, separated by commas."""
    return ",".join(map(str, ids))
