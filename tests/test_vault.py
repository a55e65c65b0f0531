"""Facts about the vault: a stake is made once, whatever is cut, and only with its own key and data."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trails import sha

from harness import auditlog
from harness.errors import AuditError, ConfigError, StateError
from harness.fresh_ledger import charge, share
from harness.keys import VaultKey
from harness.ledger import LedgerState
from harness.vault import Vault

KEY, OTHER = VaultKey(bytes(range(32))), VaultKey(bytes(32))
pytestmark = pytest.mark.usefixtures("quick_disk")


def open_vault(folder, key=KEY, **changes):
    """Open the vault of the tests."""
    return Vault(
        folder, key, **{"data": sha("data"), "items": 5000, "delta": 0.05, "minimum": 200, "own": "run", **changes}
    )


def test_an_open_stake_comes_back(tmp_path):
    """Asked again under the same key, in the same process and after a restart, the vault gives the same stake."""
    vault = open_vault(tmp_path)
    stake, spent = vault.stake("run/1", 1000), vault.state.spent
    assert vault.stake("run/1", 1000) == stake
    vault.close()
    vault = open_vault(tmp_path)
    assert vault.stake("run/1", 1000) == stake
    assert vault.state.spent == spent == stake.alpha
    vault.close()


def test_a_test_is_closed_once(tmp_path):
    """Closing a test again after a restart changes nothing: no second burning, no second epoch."""
    vault = open_vault(tmp_path)
    vault.stake("run/1", 1000)
    vault.close_test("run/1", 300, promoted=True)
    state = vault.state
    vault.close()
    vault = open_vault(tmp_path)
    vault.close_test("run/1", 300, promoted=True)
    assert vault.state == state
    assert (state.epoch, state.offset) == (2, 300)
    vault.close()


def test_an_epoch_is_ended_once(tmp_path):
    """A rollback's end of the epoch, asked for again after a restart, is not made again; its open test is abandoned."""
    vault = open_vault(tmp_path)
    vault.stake("run/1", 1000)
    vault.end_epoch("run/rollback/7")
    state = vault.state
    assert (state.epoch, state.offset, state.pending) == (2, 1000, None)
    vault.close()
    vault = open_vault(tmp_path)
    vault.end_epoch("run/rollback/7")
    assert vault.state == state
    vault.close()


def test_a_second_test_waits_for_the_first(tmp_path):
    """While one test is open, another one gets no stake, and nothing is spent."""
    vault = open_vault(tmp_path)
    vault.stake("run/1", 1000)
    state = vault.state
    with pytest.raises(StateError, match="is open"):
        vault.stake("run/2", 1000)
    assert vault.state == state
    vault.close()


def test_another_key_is_refused(tmp_path):
    """A vault begun with another key is a ConfigError with a remedy, and stands as it was."""
    open_vault(tmp_path).close()
    with pytest.raises(ConfigError, match="does not verify") as error:
        open_vault(tmp_path, OTHER)
    assert "vault key" in error.value.remedy
    open_vault(tmp_path).close()


@pytest.mark.parametrize("changes", [{"data": sha("other data")}, {"delta": 0.1}])
def test_other_data_or_another_delta_are_refused(tmp_path, changes):
    """A vault begun with other items, or another delta, is a ConfigError."""
    open_vault(tmp_path).close()
    with pytest.raises(ConfigError, match="other items or another delta"):
        open_vault(tmp_path, **changes)
    open_vault(tmp_path).close()


def test_two_runs_at_once_are_refused(tmp_path):
    """While one run has a vault open, another cannot open it."""
    vault = open_vault(tmp_path)
    with pytest.raises(ConfigError, match="another writer"):
        open_vault(tmp_path)
    vault.close()
    open_vault(tmp_path).close()


def test_the_order_of_items_is_secret_and_fixed():
    """The order is a permutation that depends on the key alone."""
    first, second = KEY.order(500, b"items"), OTHER.order(500, b"items")
    assert sorted(first) == sorted(second) == list(range(500))
    assert first == KEY.order(500, b"items") != second


def test_a_prefix_is_a_prefix(tmp_path):
    """The items of a shorter prefix are the first of a longer one, and shuffles differ."""
    vault = open_vault(tmp_path)
    assert vault.items(0, 100) == vault.items(0, 300)[:100]
    assert vault.items(100, 200) == vault.items(0, 300)[100:]
    assert len({vault.shuffle(0, 100), vault.shuffle(0, 300), vault.shuffle(100, 200)}) == 3
    vault.close()


def test_a_changed_ledger_is_refused(tmp_path):
    """A ledger in which one byte of an entry was changed does not open."""
    vault = open_vault(tmp_path)
    vault.stake("run/1", 1000)
    vault.close()
    (bundle,) = [path for path in (tmp_path / "ledger" / "tile" / "entries").rglob("*") if path.name == "2"]
    raw = bytearray(bundle.read_bytes())
    raw[len(raw) // 2] ^= 1
    bundle.chmod(0o644)
    bundle.write_bytes(raw)
    with pytest.raises((ConfigError, AuditError)):
        open_vault(tmp_path)


class Cut(BaseException):
    """The power goes."""


@given(
    step=st.sampled_from(["reject", "promote", "rollback"]),
    cut=st.integers(0, 40),
    again=st.integers(0, 40),
    fresh=st.booleans(),
)
def test_cut_at_any_write_the_ledger_is_what_it_would_have_been(tmp_path_factory, step, cut, again, fresh):
    """Cut at any write, twice, and asked again, a stake and its close leave the state of an uninterrupted ledger.

    Where items are fresh, what the evidence gives back comes back once.
    """

    def once(vault):
        stake = vault.stake("run/1", 500)
        if step == "rollback":
            vault.end_epoch("run/rollback/9")
        else:
            log_es = [9.0, 7.0] if step == "promote" else [0.5, -0.7]
            vault.close_test("run/1", 120, promoted=step == "promote", log_es=log_es)
        return stake

    whole = open_vault(tmp_path_factory.mktemp("whole"), fresh=fresh)
    expected, ended = once(whole), whole.state
    whole.close()
    folder = tmp_path_factory.mktemp("cut")
    for number in (cut, again):
        count = [0]

        def cutting(*arguments, number=number, count=count, real=auditlog.write_durably, **named):
            count[0] += 1
            if count[0] > number:
                raise Cut
            return real(*arguments, **named)

        vault = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(auditlog, "write_durably", cutting)
            try:
                vault = open_vault(folder, fresh=fresh)
                if vault.state != ended:
                    once(vault)
            except Cut:
                pass
            finally:
                if vault is not None:
                    vault.close()
    vault = open_vault(folder, fresh=fresh)
    if vault.state != ended:
        assert once(vault) == expected
    assert vault.state == ended
    vault.close()


def test_fresh_items_are_spent_by_every_test(tmp_path):
    """A rejected test burns all items of its stake, costs what its evidence does not pay, and is closed once."""
    vault = open_vault(tmp_path, fresh=True)
    assert vault.items(1000, 3) == [1000, 1001, 1002]
    stake = vault.stake("run/1", 1000)
    vault.close_test("run/1", 300, promoted=False, log_es=[-1.0, 2.0])
    state = vault.state
    assert state.spent == charge(stake.alpha, [-1.0, 2.0])
    assert (state.test, state.epoch, state.offset) == (1, 1, 1000)
    vault.close()
    vault = open_vault(tmp_path, fresh=True)
    vault.close_test("run/1", 300, promoted=False, log_es=[-1.0, 2.0])
    assert vault.state == state
    assert vault.stake("run/2", 1000).offset == 1000
    vault.end_epoch("run/rollback/7")
    assert vault.state.spent == pytest.approx(state.spent + (0.05 - state.spent) * share(2))
    vault.close()


def test_more_may_be_made_from_the_end_of_an_epoch_on(tmp_path):
    """Where a generator may make more, they join at the end of an epoch, as items do that are added; tests count on."""
    vault = open_vault(tmp_path, fresh=True, items=500)
    vault.stake("run/1", 450)
    vault.close_test("run/1", 450, promoted=False, log_es=[-1.0])
    assert vault.state.exhausted
    vault.close()
    vault = open_vault(tmp_path, fresh=True, items=900, data=sha("more"), first=lambda _: sha("data"))
    vault.end_epoch("run/guard/9", 900)
    assert (vault.state.size, vault.state.test, vault.state.offset) == (900, 1, 450)
    assert vault.stake("run/2", 1000).items == 450
    vault.close()
    open_vault(tmp_path, fresh=True, items=900, data=sha("more")).close()


@pytest.mark.parametrize("fresh", [True, False])
def test_a_vault_is_of_one_kind_for_good(tmp_path, fresh):
    """A vault that was begun with shared items gives nothing back later, and none of fresh items shares any."""
    open_vault(tmp_path, fresh=fresh).close()
    with pytest.raises(ConfigError, match="other items"):
        open_vault(tmp_path, fresh=not fresh)
    open_vault(tmp_path, fresh=fresh).close()


def test_a_ledger_cut_before_its_first_entry_is_begun_again(tmp_path):
    """A ledger whose log was made, and nothing written to it yet, opens as a new one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auditlog.AuditLog, "append", lambda *_: (_ for _ in ()).throw(Cut()))
        with pytest.raises(Cut):
            open_vault(tmp_path)
    vault = open_vault(tmp_path)
    assert vault.state == LedgerState(delta=0.05, size=5000, minimum=200)
    vault.close()


def test_a_ledger_that_is_gone_or_older_is_refused(tmp_path):
    """Once a run's log has spoken of the ledger, a vault without it, or with an earlier state of it, does not open."""
    vault = open_vault(tmp_path / "vault")
    shutil.copytree(tmp_path / "vault", tmp_path / "older")
    vault.stake("run/1", 1000)
    known = vault.head
    vault.close()
    open_vault(tmp_path / "vault", known=known).close()
    with pytest.raises(ConfigError, match="older than the run"):
        open_vault(tmp_path / "older", known=known)
    with pytest.raises(ConfigError, match="gone"):
        open_vault(tmp_path / "nowhere", known=known)


def test_a_test_that_another_run_left_open_is_used_up(tmp_path):
    """A run that opens the vault after another was killed in its test goes on, and that test's items count as used."""
    vault = open_vault(tmp_path)
    stake = vault.stake("run/1", 1000)
    vault.close()
    vault = open_vault(tmp_path, own="other")
    assert vault.state.pending is None
    assert (vault.state.high_water, vault.state.spent) == (1000, stake.alpha)
    assert vault.stake("other/1", 500).test == 2
    vault.close()
