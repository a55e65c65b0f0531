"""Facts about the life of held-out items: refilled from a data file without touching code, retired, and then listed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rigs
from people import ANN, BEN, CAT, Person, armoured
from rigs import generation, knobs
from typer.testing import CliRunner

from harness.approving import leave, to_sign
from harness.cli import app
from harness.errors import ConfigError, LockgateError
from harness.evals import item_key, load_guards
from harness.folder import RunFolder
from harness.guarding import add_items, guard_on_disk
from harness.keys import VaultKey
from harness.passphrase import PassphraseSource
from harness.replay import replay_run
from harness.retirement import retired_items

pytestmark = pytest.mark.usefixtures("quick_disk")
BETTER, WIDER = knobs(steps=150), knobs("architecture", steps=150, hidden=24)
LISTED = "".join(f"{person.name},role:{person.role} {person.key.line}\n" for person in (ANN, BEN, CAT))
PEOPLE = ("policies: [baseline]", "policies: [baseline]\napprovers: {require: 2}")
FROM_A_FILE = (
    ("vault=Items(*draw(12_000, rng)),", "vault=held_out(),"),
    (
        "def scaled(raw):",
        '''def held_out():
    """Held-out digits, from the file beside this one."""
    from pathlib import Path

    with np.load(Path(__file__).with_name("held_out.npz")) as kept:
        return Items(kept["images"], kept["digits"])


def scaled(raw):''',
    ),
)


def lay(subject, images, labels):
    """Write the held-out items of a subject."""
    np.savez(subject / "held_out.npz", images=images, digits=labels)


def items(digits, count, seed):
    """Draw digits that are nowhere else."""
    draw = load_guards(digits / "guards.py").load_data.__globals__["draw"]
    return draw(count, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def filed(digits, tmp_path_factory):
    """Give the digits with approvers, and with their held-out items in a data file."""
    place = tmp_path_factory.mktemp("filed")
    asking = rigs.vary(digits, place / "asking", PEOPLE)
    subject = rigs.vary(asking, place / "digits", *FROM_A_FILE, name="guards.py")
    (subject / "approvers").write_text(LISTED)
    lay(subject, *items(digits, 6000, 1))
    return subject


@pytest.fixture(scope="module")
def tried(rig, filed, tmp_path_factory):
    """Make a run over them with one promotion and one test after it."""
    out = tmp_path_factory.mktemp("tried") / "run"
    run = rig.open(out, filed)
    generation(run, 1, BETTER)
    generation(run, 2, knobs("architecture", hidden=64, steps=400, rare_share=0.05))
    kept = run.rooms.vault.state
    run.close()
    assert rigs.trail_of(out)[0].live == 1
    assert kept.high_water > 0, "the second one was tested, too"
    return out


@pytest.fixture
def begun(tried, tmp_path):
    """Give a copy of it."""
    return rigs.copy_run(tried, tmp_path / "run")


@pytest.fixture
def grown(filed, digits, tmp_path):
    """Give the subject with 500 items more in its file."""
    place = rigs.vary(filed, tmp_path / "grown")
    with np.load(filed / "held_out.npz") as kept:
        more = items(digits, 500, 2)
        lay(place, np.concatenate([kept["images"], more[0]]), np.concatenate([kept["digits"], more[1]]))
    return place


def add(out, subject, **told):
    """Propose the items that a folder has more."""
    told = {"by": "operator", "reason": "a test", "vault_key": None, **told}
    return add_items(RunFolder(out), subject, PassphraseSource(None), **told)


def answer(out, person: Person):
    """Approve the change as a person does."""
    state, _ = rigs.trail_of(out)
    signature = armoured(person.sign(to_sign(state, None, "approve", ""))).encode()
    leave(RunFolder(out), state, None, "approve", "", signature)


def key_of(out):
    """Read the vault key of a run."""
    return VaultKey.load(RunFolder(out).vault_key)


# --- refilling


def test_items_in_a_data_file_are_added_without_a_change_of_code(rig, begun, filed, grown):
    """The guard stays the very same; people agree on the items alone, and the next start takes them in."""
    told = add(begun, grown, expected=500)
    assert guard_on_disk(grown).digest == guard_on_disk(filed).digest == told["guard"]
    assert [(each["where"], each["verdict"]) for each in told["comparison"]["points"]] == [
        ("held-out items", "unknown")
    ]
    assert (told["items_added"], told["require"], told["rejected"]) == (500, 2, None)
    before, _ = rigs.trail_of(begun)
    answer(begun, ANN)
    answer(begun, CAT)
    run = rig.open(begun, grown)
    try:
        state, vault = run.supervisor.state, run.rooms.vault
        assert (state.guarding.vault_items, vault.state.size, state.epoch) == (6500, 6500, before.epoch + 1)
        assert vault.state.remaining == told["lasts"]["left"]
        assert sorted(vault.items(0, 6500)) == list(range(6500))
        generation(run, 3, WIDER)
    finally:
        run.close()
    assert replay_run(RunFolder(begun))["guards"] == 1


def test_anything_else_that_differs_is_refused_and_named(begun, grown):
    """With another margin, or other code, nothing is proposed: what differs is told, and how it is compared."""
    config = (grown / "lockgate.yaml").read_text()
    (grown / "lockgate.yaml").write_text(config.replace("margin: 0.08", "margin: 0.07"))
    with pytest.raises(ConfigError, match=r"more than held-out items differs.*margin 0\.08 → 0\.07") as caught:
        add(begun, grown)
    assert "guard compare" in caught.value.remedy
    (grown / "lockgate.yaml").write_text(config)
    (grown / "guards.py").write_text((grown / "guards.py").read_text() + "\n# a word\n")
    with pytest.raises(ConfigError, match=r"guards\.py: is another") as caught:
        add(begun, grown)
    assert "data file beside guards.py" in caught.value.remedy
    assert rigs.trail_of(begun)[0].change is None


def test_no_items_or_another_number_of_them_are_refused(begun, filed, grown):
    """Nothing added, or not as many as were meant, is an error, and nothing is proposed."""
    with pytest.raises(ConfigError, match="no held-out items were added"):
        add(begun, filed)
    with pytest.raises(ConfigError, match="500 held-out items were added, and not 501"):
        add(begun, grown, expected=501)
    assert rigs.trail_of(begun)[0].change is None


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ("held out before", "the added vault item 6010 is vault item 17 again"),
        ("added twice", "the added vault item 6010 is vault item 6003 again"),
        ("trained on", "1 raw items stand both among the training items and in the vault"),
        ("developed on", "1 raw items stand both among the development items and in the vault"),
    ],
)
def test_items_that_were_seen_are_not_added(begun, grown, taken, message):
    """An item that comes back, stands twice, or is trained or developed on is refused: a retired one has been revealed."""
    data = load_guards(grown / "guards.py").load()
    images, labels = data.vault.raw.copy(), data.vault.labels
    images[6010] = {
        "held out before": images[17],
        "added twice": images[6003],
        "trained on": data.train_raw[5],
        "developed on": data.development.raw[5],
    }[taken]
    lay(grown, images, labels)
    with pytest.raises(LockgateError, match=message):
        add(begun, grown)
    assert rigs.trail_of(begun)[0].change is None


def test_items_that_are_not_at_the_end_are_refused(begun, grown):
    """What was there must be there still, in its order: else no one could say which items were asked."""
    with np.load(grown / "held_out.npz") as kept:
        lay(grown, np.roll(kept["images"], 1, axis=0), np.roll(kept["digits"], 1))
    with pytest.raises(ConfigError, match="held-out items added at the end"):
        add(begun, grown)


def test_a_run_without_approvers_has_nobody_to_say_that_items_are_as_good(rig, digits, tmp_path):
    """Then the log has the attempt as rejected, and the command says so by its exit code."""
    subject = rigs.vary(digits, tmp_path / "subject", *FROM_A_FILE, name="guards.py")
    images, labels = items(digits, 6300, 1)
    lay(subject, images[:6000], labels[:6000])
    out = tmp_path / "run"
    rig.open(out, subject).close()
    lay(subject, images, labels)
    done = CliRunner().invoke(app, ["vault", "add", str(out), "--items", "300"])
    assert done.exit_code == 3
    assert "300 held-out items are added, and nothing else differs" in done.output
    assert "rejected: it is not at least as strict, and the run has no approvers" in done.output


def test_the_command_says_how_many_promotions_they_may_last_for(begun, grown):
    """What is left once the epoch ends, how many promotions that is at least, and by this run's median."""
    state = json.loads(CliRunner().invoke(app, ["vault", "status", str(begun), "--json"]).output)
    done = CliRunner().invoke(app, ["vault", "add", str(begun), str(grown), "--json"])
    assert done.exit_code == 4
    lasts = json.loads(done.output)["lasts"]
    left = 6500 - state["retired"] - state["seen"]
    median = state["epochs"][0]["retired"]
    cap = rigs.trail_of(begun)[0].guarding.config.ledger.cap
    assert lasts == {"left": left, "at_least": left // cap, "likely": left // median, "median": median}
    shown = CliRunner().invoke(app, ["vault", "status", str(begun)]).output
    assert f"epoch 1: 1 tests, {median:,} items retired; ended: promoted" in shown


# --- retired


def test_what_is_listed_is_what_was_retired_and_nothing_that_may_be_asked_again(begun, filed):
    """The listed items are the prefix of the secret order that epochs which ended have burned, each with its digest."""
    state = json.loads(CliRunner().invoke(app, ["vault", "status", str(begun), "--json"]).output)
    assert 0 < state["retired"] < state["retired"] + state["seen"] < state["items"]
    order = key_of(begun).order(6000, b"items")
    raw = load_guards(filed / "guards.py").load().vault.raw
    found = retired_items(RunFolder(begun), filed, key_of(begun))
    assert [each.place for each in found] == sorted(order[: state["retired"]])
    assert {each.place for each in found}.isdisjoint(order[state["retired"] :])
    assert [each.digest for each in found] == [f"sha256:{item_key(raw[each.place]).hex()}" for each in found]
    assert {each.epoch for each in found} == {1}


def test_the_command_prints_no_digest_of_an_item_that_is_not_retired(begun, filed):
    """Neither as text nor as JSON does any digest of an unretired item leave the command."""
    raw = load_guards(filed / "guards.py").load().vault.raw
    listed = {each.place for each in retired_items(RunFolder(begun), filed, key_of(begun))}
    secret = {item_key(raw[place]).hex() for place in range(6000) if place not in listed}
    for more in ([], ["--json"]):
        done = CliRunner().invoke(app, ["vault", "retired", str(begun), "--subject", str(filed), *more])
        assert done.exit_code == 0
        assert done.output.count("sha256:") == len(listed) > 0
        assert not any(digest in done.output for digest in secret)


def test_after_items_were_added_retired_ones_are_listed_from_both(rig, begun, filed, grown):
    """Items that a guard change retired are listed with their epoch; the subject as it was before is refused."""
    add(begun, grown)
    answer(begun, ANN)
    answer(begun, BEN)
    rig.open(begun, grown).close()
    state = json.loads(CliRunner().invoke(app, ["vault", "status", str(begun), "--json"]).output)
    assert [each["ended"] for each in state["epochs"]] == ["promoted", "guard-changed"]
    assert sum(each["retired"] for each in state["epochs"]) == state["retired"]
    found = retired_items(RunFolder(begun), grown, key_of(begun))
    for each in state["epochs"]:
        assert sum(item.epoch == each["epoch"] for item in found) == each["retired"]
    with pytest.raises(ConfigError, match="not those of the log"):
        retired_items(RunFolder(begun), filed, key_of(begun))


def test_nothing_is_listed_under_another_key_or_for_other_items(begun, filed, digits, tmp_path):
    """The key that genesis committed to and the run's own items are needed, or nothing is told."""
    with pytest.raises(ConfigError, match="not the vault key"):
        retired_items(RunFolder(begun), filed, VaultKey.create(tmp_path / "other.key"))
    with pytest.raises(ConfigError, match="not those of the log"):
        retired_items(RunFolder(begun), digits, key_of(begun))
