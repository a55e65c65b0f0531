"""Facts about changes of the guard at work: proposed, answered by the old approvers, and in force from a start on."""

from __future__ import annotations

import json

import pytest
import rigs
from people import ANN, BEN, CAT, Person, armoured
from rigs import generation, knobs
from typer.testing import CliRunner

from harness import guarding, opening, promotion, regime
from harness.approving import leave, to_sign
from harness.auditing import verify_run
from harness.cli import app
from harness.config import load_config
from harness.errors import AuditError, ConfigError, SubjectError
from harness.folder import RunFolder
from harness.guard_change import GuardComparison
from harness.keys import VaultKey
from harness.kinds import kind_of
from harness.operating import rotate_keys
from harness.passphrase import PassphraseSource
from harness.replay import replay_run
from harness.rescoring import rescore
from harness.review.site import write_pages
from harness.vault import Vault

pytestmark = pytest.mark.usefixtures("quick_disk")
BETTER, WIDER = knobs(steps=150), knobs("architecture", steps=150, hidden=24)
LISTED = "".join(f"{person.name},role:{person.role} {person.key.line}\n" for person in (ANN, BEN, CAT))
PEOPLE = ("policies: [baseline]", "policies: [baseline]\napprovers: {require: 2}")
TIGHTER = ("margin: 0.08", "margin: 0.07")
LOOSER = ("margin: 0.08", "margin: 0.09")
EVAL = (
    '    """Right or not."""\n    return right(labels, answers["plain"])',
    '    """Right or not."""\n    return 0.9 * right(labels, answers["plain"])',
)
MORE = """@view("more")
def more(raw, _rng):
    \"\"\"The digit, darker.\"\"\"
    return {"image": scaled(raw) / 2}


def right("""
VAULT = "vault=Items(*draw(12_000, rng)),"
GROWN = ((VAULT, "vault=Items(*map(np.concatenate, zip(draw(12_000, rng), draw(500, rng)))),"),)
FEWER = ((VAULT, "vault=Items(*draw(11_000, rng)),"),)


@pytest.fixture(scope="module")
def asking(digits, tmp_path_factory):
    """Give the digits with three approvers, two of whom must agree."""
    place = rigs.vary(digits, tmp_path_factory.mktemp("asking") / "digits", PEOPLE)
    (place / "approvers").write_text(LISTED)
    return place


@pytest.fixture
def begun(rig, asking, tmp_path):
    """Begin a run over them with one generation, and leave it."""
    out = tmp_path / "run"
    run = rig.open(out, asking)
    generation(run, 1, BETTER)
    run.close()
    return out


def propose(out, subject, **told):
    """Propose what stands in a folder."""
    told = {"by": "operator", "reason": "a test", "vault_key": None, "seconds": 20.0, **told}
    return guarding.propose_guard(RunFolder(out), subject, PassphraseSource(None), **told)


def withdraw(out):
    """Take back the change that is open."""
    return guarding.withdraw_guard(RunFolder(out), PassphraseSource(None), reason="a mistake")


def answer(out, person, verdict="approve"):
    """Answer the guard as a person does."""
    state, _ = rigs.trail_of(out)
    signature = armoured(person.sign(to_sign(state, None, verdict, ""))).encode()
    return leave(RunFolder(out), state, None, verdict, "", signature)


def kinds(out):
    """Name the entries of a run's log that are about its guard."""
    return [kind for entry in rigs.trail_of(out)[1] if (kind := kind_of(entry)).startswith(("guard", "appr", "refu"))]


def verified(out, listed=LISTED):
    """Verify and replay a run as an outsider."""
    folder, own = RunFolder(out), out.parent / "listed"
    own.write_text(listed)
    assert verify_run(folder, folder.public_key, approvers=own)["verdict"].startswith("valid")
    return replay_run(folder)


def test_a_stricter_guard_is_in_force_at_the_next_start_without_people(rig, begun, asking, tmp_path):
    """A tighter margin needs nobody: the start makes it the guard, the epoch ends, and what follows is judged by it."""
    tighter = rigs.vary(asking, tmp_path / "tighter", TIGHTER)
    told = propose(begun, tighter)
    assert (told["verdict"], told["require"], told["rejected"]) == ("at-least-as-strict", 0, None)
    before, _ = rigs.trail_of(begun)
    run = rig.open(begun, tighter)
    try:
        state = run.supervisor.state
        assert (state.change, state.epoch) == (None, before.epoch + 1)
        assert (state.terms.guard, state.guard.config.gates[3].margin) == (told["guard"], 0.07)
        generation(run, 2, WIDER)
        assert run.supervisor.state.proposals[2].measured is not None
        assert run.rooms.vault.state.epoch == run.supervisor.state.epoch
    finally:
        run.close()
    assert kinds(begun) == ["guard-proposed", "guard-changed"]
    assert verified(begun)["guards"] == 1
    key = VaultKey.load(RunFolder(begun).vault_key)
    assert rescore(RunFolder(begun), tighter, key) == {"measurements": 2, "other_evals": 0}


def test_a_weaker_guard_waits_for_a_quorum_of_the_approvers_in_force(rig, begun, asking, tmp_path):
    """Neither one approval nor those of people whom only the new guard lists put a weaker guard in force; two old ones do."""
    looser = rigs.vary(asking, tmp_path / "looser", LOOSER)
    dan = Person("dan")
    (looser / "approvers").write_text(LISTED.replace(f"{CAT.name},role:{CAT.role} {CAT.key.line}\n", dan.line))
    told = propose(begun, looser)
    assert (told["verdict"], told["require"]) == ("weaker", 2)
    with pytest.raises(ConfigError, match="0 of 2 approvals"):
        rig.open(begun, looser)
    with pytest.raises(ConfigError, match="approver"):
        answer(begun, dan)
    answer(begun, CAT)
    with pytest.raises(ConfigError, match="1 of 2 approvals"):
        rig.open(begun, looser)
    answer(begun, ANN)
    run = rig.open(begun, looser)
    try:
        assert [each.name for each in run.supervisor.state.terms.approvers] == [ANN.name, BEN.name, "dan"]
        generation(run, 2, WIDER)
    finally:
        run.close()
    assert kinds(begun) == ["guard-proposed", "approved", "approved", "guard-changed"]
    assert verified(begun)["guards"] == 1


def test_with_the_old_guard_on_the_disk_a_run_goes_on_while_people_are_asked(rig, begun, asking, tmp_path):
    """A proposed guard that is nobody's yet changes nothing: the run goes on by the old one, and may be asked later."""
    told = propose(begun, rigs.vary(asking, tmp_path / "looser", LOOSER))
    run = rig.open(begun, asking)
    try:
        generation(run, 2, WIDER)
        state = run.supervisor.state
        assert state.change is not None
        assert state.terms.guard != told["guard"]
        authorised = [entry for entry in rigs.trail_of(begun)[1] if kind_of(entry) == "authorised"]
        assert {entry.guard for entry in authorised} == {state.terms.guard}
    finally:
        run.close()
    assert verified(begun)["guards"] == 0


def test_one_refusal_ends_a_proposed_guard(rig, begun, asking, tmp_path):
    """A person refuses: the next start logs that the guard stays, and refuses to work under the other one."""
    looser = rigs.vary(asking, tmp_path / "looser", LOOSER)
    propose(begun, looser)
    answer(begun, ANN)
    answer(begun, BEN, "refuse")
    with pytest.raises(ConfigError, match="what guards the run has changed"):
        rig.open(begun, looser)
    assert kinds(begun) == ["guard-proposed", "approved", "refused", "guard-rejected"]
    rig.open(begun, asking).close()
    verified(begun)


def test_a_refusal_ends_even_what_needs_nobody(rig, begun, asking, tmp_path):
    """What is as strict needs no approval, and yet an approver may refuse it before it is in force."""
    tighter = rigs.vary(asking, tmp_path / "tighter", TIGHTER)
    propose(begun, tighter)
    answer(begun, CAT, "refuse")
    with pytest.raises(ConfigError, match="what guards the run has changed"):
        rig.open(begun, tighter)
    assert kinds(begun)[-1] == "guard-rejected"


def test_who_proposes_does_not_approve(begun, asking, tmp_path):
    """An approver in whose name a guard was proposed cannot answer it."""
    propose(begun, rigs.vary(asking, tmp_path / "looser", LOOSER), by=ANN.name)
    with pytest.raises(ConfigError, match="their own proposal"):
        answer(begun, ANN)


@pytest.mark.parametrize(
    ("name", "raced"),
    [("lockgate.yaml", ("margin: 0.08", "margin: 0.5")), ("approvers", (CAT.key.line, Person("dan").key.line))],
)
def test_what_is_written_while_a_guard_is_read_is_not_put_in_force(
    rig, begun, asking, tmp_path, monkeypatch, name, raced
):
    """Files that were changed between the reading and the hashing of a proposed guard are no guard of the run."""
    place = rigs.vary(asking, tmp_path / "place", TIGHTER)
    read = guarding.guard_files

    def racing(subject, config):
        (subject / name).write_text((asking / name).read_text().replace(*raced))
        return read(subject, config)

    with monkeypatch.context() as patch:
        patch.setattr(guarding, "guard_files", racing)
        assert propose(begun, place)["require"] == 0
    with pytest.raises(ConfigError, match="other settings or approvers"):
        rig.open(begun, place)
    assert kinds(begun) == ["guard-proposed"]


def test_evals_that_are_written_while_a_guard_is_read_are_not_proposed(begun, asking, tmp_path, monkeypatch):
    """The data and evals of a proposed guard come from the files that were hashed, or nothing is logged."""
    place = rigs.vary(asking, tmp_path / "place", TIGHTER)
    described = guarding._data

    def racing(subject, *rest):
        text = (subject / "guards.py").read_text()
        (subject / "guards.py").write_text(text.replace(*EVAL))
        return described(subject, *rest)

    monkeypatch.setattr(guarding, "_data", racing)
    with pytest.raises(SubjectError, match="has changed"):
        propose(begun, place)
    assert kinds(begun) == []


@pytest.mark.parametrize("by", ["", "two\nlines", "\udcff", "x" * 201])
def test_who_proposes_is_named_in_one_line(begun, asking, tmp_path, by):
    """A name that does not fit a line is an error that names the option, and nothing is logged."""
    looser = rigs.vary(asking, tmp_path / "looser", LOOSER)
    told = CliRunner().invoke(app, ["guard", "propose", str(begun), str(looser), "--by", by])
    assert isinstance(told.exception, ConfigError)
    assert told.exception.where == "--by"
    assert kinds(begun) == []


def test_a_test_by_other_bars_than_those_of_the_guard_is_found(rig, asking, tmp_path, monkeypatch):
    """A writer that tests by a looser margin than its guard names is found by a replay, which needs no labels."""
    out = tmp_path / "run"
    looser = load_config(rigs.vary(asking, tmp_path / "looser", LOOSER))
    check = opening.check_gates
    with monkeypatch.context() as patch:
        patch.setattr(opening, "check_gates", lambda _config, *rest: check(looser, *rest))
        run = rig.open(out, asking)
    generation(run, 1, BETTER)
    run.close()
    with pytest.raises(AuditError, match="the bars of the gates"):
        verified(out)


def test_without_approvers_what_is_weaker_is_rejected_at_once_and_logged(rig, digits, tmp_path):
    """A run that has nobody to ask takes stricter guards alone; an attempt at another one stays in the log."""
    out = tmp_path / "run"
    rig.open(out, digits).close()
    told = propose(out, rigs.vary(digits, tmp_path / "looser", LOOSER))
    assert "no approvers" in told["rejected"]
    assert kinds(out) == ["guard-proposed", "guard-rejected"]
    naming = rigs.vary(digits, tmp_path / "naming", PEOPLE)
    (naming / "approvers").write_text(LISTED)
    assert propose(out, naming)["rejected"], "people may let through what was rejected before"
    tighter = rigs.vary(digits, tmp_path / "tighter", TIGHTER)
    assert propose(out, tighter)["rejected"] is None
    rig.open(out, tighter).close()
    assert kinds(out)[-1] == "guard-changed"
    verified(out)


def test_a_guard_does_not_change_under_a_proposal(rig, begun, asking, tmp_path):
    """While a proposal has not come to its end no guard is put in force: each is judged by one guard from first to last."""
    run = rig.open(begun, asking)
    run.supervisor.submit(2, [rigs.slot(WIDER)])
    run.close()
    tighter = rigs.vary(asking, tmp_path / "tighter", TIGHTER)
    propose(begun, tighter)
    with pytest.raises(ConfigError, match="proposals have not come to their end: 2"):
        rig.open(begun, tighter)
    run = rig.open(begun, asking)
    run.supervisor.settle(2)
    run.close()
    rig.open(begun, tighter).close()
    assert kinds(begun)[-1] == "guard-changed"


def test_what_is_a_runs_for_good_cannot_be_proposed(begun, asking, tmp_path):
    """Another delta is no change of a guard: the budget of error is the vault's, for its life."""
    other = rigs.vary(asking, tmp_path / "other", ("delta: 0.05", "delta: 0.04"))
    with pytest.raises(ConfigError, match=r"ledger\.delta is the run's for good"):
        propose(begun, other)
    assert kinds(begun) == []


def test_a_guard_that_is_the_same_is_not_proposed_and_one_is_open_at_a_time(begun, asking, tmp_path):
    """Nothing to change, or a change that is open already, is an error, and nothing is logged; withdrawn, it is."""
    with pytest.raises(ConfigError, match="nothing has changed"):
        propose(begun, asking)
    looser = rigs.vary(asking, tmp_path / "looser", LOOSER)
    propose(begun, looser)
    with pytest.raises(ConfigError, match="a change of the guard is open"):
        propose(begun, looser)
    withdraw(begun)
    assert kinds(begun) == ["guard-proposed", "guard-rejected"]
    assert propose(begun, looser)["rejected"] is None


def test_other_evals_score_every_version_anew(rig, begun, asking, tmp_path):
    """Evals that changed need people, and then each version has its development metrics by the evals in force."""
    stricter = rigs.vary(asking, tmp_path / "evals", EVAL, name="guards.py")
    told = propose(begun, stricter)
    assert told["verdict"] == "unknown"
    for person in (ANN, BEN):
        answer(begun, person)
    before, _ = rigs.trail_of(begun)
    run = rig.open(begun, stricter)
    try:
        state = run.supervisor.state
        live = state.candidates()[state.incumbent.digest][1]
        assert live != before.candidates()[state.incumbent.digest][1]
        assert set(state.rescored) == {made.digest for made in state.versions.values()}
        generation(run, 2, WIDER)
    finally:
        run.close()
    verified(begun)
    key = VaultKey.load(RunFolder(begun).vault_key)
    counts = rescore(RunFolder(begun), stricter, key)
    assert counts["other_evals"] == 1
    assert counts["measurements"] + counts["other_evals"] == sum(
        found.measured is not None for found in rigs.trail_of(begun)[0].proposals.values()
    )


@pytest.mark.parametrize(
    "edit",
    [
        (("0.15 * rng", "0.9 * rng"),),
        (("def right(", MORE), ('views=("smudged",)', 'views=("smudged", "more")')),
    ],
    ids=["another view", "one view more"],
)
def test_other_views_are_answered_anew_by_every_version(rig, begun, asking, tmp_path, edit):
    """After a change of views a version has the metrics that it has in a run which was begun with them."""
    other = rigs.vary(asking, tmp_path / "views", *edit, name="guards.py")
    propose(begun, other)
    for person in (ANN, BEN):
        answer(begun, person)
    rig.open(begun, other).close()
    state, _ = rigs.trail_of(begun)
    rig.open(tmp_path / "fresh", other).close()
    fresh = rigs.trail_of(tmp_path / "fresh")[0].genesis
    assert fresh.baseline.digest == state.baseline.digest
    assert state.rescored[state.baseline.digest] == fresh.development
    verified(begun)


def test_a_candidate_measured_again_is_known_by_the_evals_in_force(rig, begun, asking, tmp_path):
    """What was rejected under other evals and proposed once more has the metrics that it was measured with last."""
    worse = knobs(steps=40)
    run = rig.open(begun, asking)
    generation(run, 2, worse)
    run.close()
    stricter = rigs.vary(asking, tmp_path / "evals", EVAL, name="guards.py")
    propose(begun, stricter)
    for person in (ANN, BEN):
        answer(begun, person)
    run = rig.open(begun, stricter)
    generation(run, 3, worse)
    run.close()
    state, _ = rigs.trail_of(begun)
    before, again = state.proposals[2], state.proposals[3]
    assert before.built.candidate.digest == again.built.candidate.digest
    assert before.developed.development != again.developed.development
    assert state.candidates()[again.built.candidate.digest][1] == again.developed.development


def test_held_out_items_are_added_by_a_quorum(rig, begun, asking, tmp_path):
    """Items added at the end join the vault with an epoch of their own; fewer, or others, are refused."""
    grown = rigs.vary(asking, tmp_path / "grown", *GROWN, name="guards.py")
    fewer = rigs.vary(asking, tmp_path / "fewer", *FEWER, name="guards.py")
    with pytest.raises(ConfigError, match="held-out items added at the end"):
        propose(begun, fewer)
    told = propose(begun, grown)
    assert told["items_added"] > 0
    for person in (CAT, BEN):
        answer(begun, person)
    before, _ = rigs.trail_of(begun)
    run = rig.open(begun, grown)
    try:
        size = before.guarding.vault_items + told["items_added"]
        vault = run.rooms.vault
        assert (run.supervisor.state.guarding.vault_items, vault.state.size) == (size, size)
        assert sorted(vault.items(0, size)) == list(range(size))
        generation(run, 2, WIDER)
    finally:
        run.close()
    rig.open(begun, grown).close()
    assert verified(begun)["stakes"] == 2
    key = VaultKey.load(RunFolder(begun).vault_key)
    assert rescore(RunFolder(begun), grown, key)["measurements"] >= 1


def test_items_join_the_vault_only_once_the_log_has_them(rig, begun, asking, tmp_path, monkeypatch):
    """A start cut before an approved growth is logged leaves the vault as it was, though an epoch has just ended."""
    tighter = rigs.vary(asking, tmp_path / "tighter", TIGHTER)
    propose(begun, tighter)
    rig.open(begun, tighter).close()  # nothing is staked before the next change
    grown = rigs.vary(tighter, tmp_path / "grown", *GROWN, name="guards.py")
    added = propose(begun, grown)["items_added"]
    for person in (CAT, BEN):
        answer(begun, person)

    def cut(_rooms):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(opening, "put_in_force", cut)
        with pytest.raises(KeyboardInterrupt):
            rig.open(begun, grown)
    run = rig.open(begun, tighter)
    assert run.rooms.vault.state.size == run.supervisor.state.guarding.vault_items
    run.close()
    run = rig.open(begun, grown)
    try:
        vault, state = run.rooms.vault.state, run.supervisor.state
        assert (vault.epoch, vault.size) == (state.epoch, state.guarding.vault_items)
        assert vault.size == rigs.trail_of(begun)[0].genesis.vault_items + added
        generation(run, 2, WIDER)
    finally:
        run.close()
    assert verified(begun)["stakes"] == 2


def test_pages_and_the_command_show_each_change(rig, begun, asking, tmp_path):
    """Of each proposed change is shown what differs, who said what with which key and role, and what became of it."""
    dan = Person("dan", role="counsel")
    looser = rigs.vary(asking, tmp_path / "looser", LOOSER, ("require: 2", "require: 1"))
    (looser / "approvers").write_text(LISTED.replace(f"{CAT.name},role:{CAT.role} {CAT.key.line}\n", dan.line))
    propose(begun, looser, reason="<b>too strict</b>")
    for person in (CAT, ANN):
        answer(begun, person)
    rig.open(begun, looser).close()
    stricter = rigs.vary(looser, tmp_path / "stricter", ("margin: 0.09", "margin: 0.085"))
    propose(begun, stricter)
    answer(begun, dan, "refuse")
    rig.open(begun, looser).close()
    shown = CliRunner().invoke(app, ["guard", "show", str(begun), "--json"])
    first, second = json.loads(shown.output)
    assert [(each["by"], each["role"]) for each in first["answers"]] == [("cat", "human"), (ANN.name, "safety")]
    assert [(each["by"], each["role"]) for each in second["answers"]] == [("dan", "counsel")]
    assert (first["outcome"], second["outcome"]) == ("in force", "rejected")
    assert {"where": "approvers", "what": "approver dan (counsel) is new", "verdict": "weaker"} in first["comparison"][
        "points"
    ]
    told = CliRunner().invoke(app, ["guard", "show", str(begun)]).output
    assert "WEAKER  lockgate.yaml: gate smudges (parent): margin 0.08 → 0.09" in told
    assert "→ rejected: dan refused" in told
    write_pages(RunFolder(begun), tmp_path / "pages")
    page = (tmp_path / "pages" / "index.html").read_text()
    assert "margin 0.08 → 0.09" in page
    assert "dan (counsel)" in page
    assert "<b>too strict" not in page


def test_a_crash_before_the_vault_knows_of_the_change_is_made_good(rig, begun, asking, tmp_path, monkeypatch):
    """The log says that the guard has changed, and the vault's ledger does not yet: the next start ends the epoch there."""
    tighter = rigs.vary(asking, tmp_path / "tighter", TIGHTER)
    propose(begun, tighter)

    def cut(_self, _key, _items):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Vault, "end_epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            rig.open(begun, tighter)
    assert kinds(begun)[-1] == "guard-changed"
    run = rig.open(begun, tighter)
    try:
        assert run.rooms.vault.state.epoch == run.supervisor.state.epoch
        generation(run, 2, WIDER)
    finally:
        run.close()
    assert verified(begun)["stakes"] == 2


def test_a_swap_that_was_cut_is_finished_before_a_change_comes_to_its_end(rig, begun, asking, tmp_path, monkeypatch):
    """With a swap open a refused change, or one that expired, does not keep the run from starting; the answer stays."""
    looser = rigs.vary(asking, tmp_path / "looser", LOOSER)
    propose(begun, looser)

    def cut(*_):
        raise KeyboardInterrupt

    run = rig.open(begun, asking)
    with monkeypatch.context() as patch:
        patch.setattr(promotion, "swap", cut)
        with pytest.raises(KeyboardInterrupt):
            run.supervisor.rollback(0, by="operator", reason="a test")
    run.close()
    answer(begun, ANN, "refuse")
    for change in (lambda: propose(begun, looser), lambda: withdraw(begun)):
        with pytest.raises(ConfigError, match="a swap of the live model was cut"):
            change()
    with pytest.raises(ConfigError, match="a swap was cut"):
        rig.open(begun, looser)
    rig.open(begun, asking).close()
    assert rigs.trail_of(begun)[0].live == 0
    rig.open(begun, asking).close()
    assert kinds(begun) == ["guard-proposed", "refused", "guard-rejected"]
    verified(begun)


def test_an_expired_proposal_is_rejected(rig, begun, asking, tmp_path, monkeypatch):
    """What was not put in force in time is rejected at the next start, approved or not."""
    looser = rigs.vary(asking, tmp_path / "looser", LOOSER)
    propose(begun, looser)
    for person in (ANN, BEN):
        answer(begun, person)
    monkeypatch.setattr(regime, "_now", lambda: "2100-01-01T00:00:00.000+00:00")
    with pytest.raises(ConfigError, match="what guards the run has changed"):
        rig.open(begun, looser)
    assert kinds(begun)[-1] == "guard-rejected"


def test_a_reader_with_another_list_of_approvers_does_not_believe_a_change(rig, begun, asking, tmp_path):
    """A guard that somebody else's quorum let in force is invalid for a reader who knows other approvers."""
    looser = rigs.vary(asking, tmp_path / "looser", LOOSER)
    propose(begun, looser)
    for person in (ANN, BEN):
        answer(begun, person)
    rig.open(begun, looser).close()
    with pytest.raises(AuditError, match="whom your list of approvers does not have"):
        verified(begun, LISTED.replace(ANN.key.line, Person("eve").key.line))


def test_a_comparison_that_says_less_than_there_is_is_found(rig, begun, asking, tmp_path, monkeypatch):
    """A writer that calls a weaker guard as strict is found by whoever replays the run."""
    looser = rigs.vary(asking, tmp_path / "looser", LOOSER)
    strict = GuardComparison(verdict="at-least-as-strict", points=[], policies=None)
    with monkeypatch.context() as patch:
        patch.setattr(guarding, "compare_guards", lambda *_, **__: strict)
        propose(begun, looser)
    rig.open(begun, looser).close()
    assert kinds(begun)[-1] == "guard-changed"
    with pytest.raises(AuditError, match="differs from the log"):
        verified(begun)


def test_the_ledger_derived_from_the_log_is_the_vaults(rig, begun, asking, tmp_path):
    """After tests, promotions, and items added, what `vault status` derives from the log is what the vault's ledger says."""
    grown = rigs.vary(asking, tmp_path / "grown", *GROWN, name="guards.py")
    propose(begun, grown)
    for person in (CAT, BEN):
        answer(begun, person)
    run = rig.open(begun, grown)
    try:
        generation(run, 2, WIDER)
        kept = run.rooms.vault.state
    finally:
        run.close()
    told = json.loads(CliRunner().invoke(app, ["vault", "status", str(begun), "--json"]).output)
    names = {"items": "size", "retired": "offset", "seen": "high_water", "left": "remaining", "spent": "spent"}
    assert {name: told[name] for name in names} == {name: getattr(kept, own) for name, own in names.items()}
    assert (told["epoch"], told["tests_of_epoch"]) == (kept.epoch, kept.test)


def test_another_key_between_a_proposal_and_its_start_changes_nothing(rig, begun, asking, tmp_path):
    """What people signed holds under the log's next key, too: they sign the change, and not the log."""
    looser = rigs.vary(asking, tmp_path / "looser", LOOSER)
    propose(begun, looser)
    answer(begun, ANN)
    rotate_keys(RunFolder(begun), "a test", PassphraseSource(None))
    answer(begun, BEN)
    rig.open(begun, looser).close()
    assert kinds(begun)[-1] == "guard-changed"
    assert verified(begun)["guards"] == 1
