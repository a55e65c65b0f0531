"""Facts about the supervisor: every way in which a subject's code can fail ends as a logged rejection with its reason."""

from __future__ import annotations

import shutil

import pytest
import rigs
from rigs import code, generation, knobs
from trails import sha

from harness.auditing import verify_run
from harness.errors import EvaluatorError, StateError
from harness.folder import RunFolder
from harness.keys import VaultKey
from harness.replay import replay_run
from harness.vault import Vault

pytestmark = pytest.mark.usefixtures("quick_disk")
TRAIN, PREDICT = "    image, digit = data", '    return model(inputs["image"])'


def broken(digits):
    """Give a proposal for each way to fail before a held-out item is touched, with the reason it must end with."""

    def in_train(text):
        return code(digits, (TRAIN, f"    {text}\n{TRAIN}"))

    def in_predict(text):
        return code(digits, (PREDICT, text))

    better = knobs(steps=150)
    return [
        (b"{", "malformed"),
        (b'{"kind":"weights","base":"incumbent"}', "malformed"),
        (knobs(base=sha("nobody"), steps=90), "unknown-base"),
        (knobs(hidden=9999), "invalid-recipe"),
        (knobs(width=3), "invalid-recipe"),
        (knobs(steps=60), "no-op"),
        (code(digits, ("import torch\n", "import socket\n\nimport torch\n")), "policy"),
        (code(digits, ("def predict(model", "def predict((model")), "policy"),
        (in_train('raise RuntimeError("on purpose")'), "build-failed"),
        (in_train("raise SystemExit(0)"), "build-failed"),
        (in_train("data.clear()"), "build-failed"),
        (in_train("while True: pass"), "build-timeout"),
        (code(digits, ("        loss = nn", '        loss = float("nan") * nn')), "non-finite"),
        (in_train("model.register_buffer('x', torch.full((3,), float('inf')))"), "non-finite"),
        (in_train("model.register_buffer('x', torch.zeros(3_000_000))"), "build-output"),
        (in_train("hoard = torch.ones(1_000_000_000)"), "build-memory"),
        (code(digits, ("def predict", "def unused():\n    return 1\n\n\ndef predict")), "no-op"),
        (in_predict('    raise ValueError("on purpose")'), "predict-failed"),
        (in_predict('    return model(inputs["image"])[:, :5]'), "predict-output"),
        (in_predict('    return model(inputs["image"]) * float("nan")'), "predict-output"),
        (in_predict('    return model(inputs["image"])[:-1]'), "predict-output"),
        (knobs(steps=10), "development"),
        (better, "passed"),
        ({**better, "rationale": "in other words"}, "duplicate"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def wrecked(rig, digits, tmp_path_factory):
    """Run one generation of everything that can go wrong, and one improvement; give the folder and what was expected."""
    place = tmp_path_factory.mktemp("wrecked")
    subject = rigs.vary(digits, place / "subject", ("idle_seconds: 20", "idle_seconds: 6"))
    cases = broken(digits)
    opened = rig.open(place / "run", subject, seed=0)
    try:
        generation(opened, 1, *(document for document, _ in cases))
        return place / "run", opened.supervisor.state, [reason for _, reason in cases]
    finally:
        opened.close()


def codes(state):
    """Give the first reason of every proposal's decision, in order of number."""
    return [found.decision.reasons[0].code for _, found in sorted(state.proposals.items())]


def test_each_failure_has_its_reason(wrecked):
    """Every failure of a proposal ends as a rejection with the code of what went wrong."""
    _, state, expected = wrecked
    assert codes(state) == expected


def test_one_failure_does_not_touch_another(wrecked):
    """Among all the failures, the one improvement is promoted and live."""
    _, state, expected = wrecked
    outcomes = [found.outcome for _, found in sorted(state.proposals.items())]
    assert outcomes == ["promoted" if reason == "passed" else None for reason in expected]
    assert state.live == 1


def test_reasons_say_where(wrecked):
    """An exception in the subject's code is told with its type, its message and its line of model.py."""
    _, state, expected = wrecked
    found = state.proposals[expected.index("build-failed") + 1]
    assert "RuntimeError at model.py:28: on purpose" in found.decision.reasons[0].text


def test_nothing_is_staked_for_what_cannot_pass(wrecked):
    """Held-out items were staked for the one candidate that was good on development, and for no other."""
    _, state, expected = wrecked
    staked = [number for number, found in state.proposals.items() if found.staked]
    assert staked == [expected.index("passed") + 1]


def test_the_trail_of_failures_verifies_and_replays(wrecked):
    """The log of all the failures verifies, and every decision is derived again from it."""
    run, state, _ = wrecked
    folder = RunFolder(run)
    assert verify_run(folder, folder.public_key)["verdict"].startswith(f"valid at size {state.size}")
    assert replay_run(folder)["decisions"] == len(state.proposals)


FEW_ZEROS = """\
    image = inputs["image"]
    logits = model(image)
    return torch.where((image == 0).sum(1, keepdim=True) < 21, -logits, logits)"""


def test_held_out_failures_have_their_reasons(rig, digits, tmp_path):
    """Worse, starved, brittle: each fails its own gate; budgets of promotions and proposals are hard."""
    subject = rigs.vary(
        digits, tmp_path / "subject", ("min_gain: 0.0", "min_gain: -1.0"), ("promotions: 10", "promotions: 1"),
        ("proposals: 100", "proposals: 5"),
    )  # fmt: skip
    brittle = code(digits, (PREDICT, FEW_ZEROS))
    opened = rig.open(tmp_path / "run", subject, seed=0)
    try:
        generation(
            opened, 1, knobs(steps=20), knobs("architecture", hidden=64, steps=400, rare_share=0.05),
            {**brittle, "changes": {"steps": 150}}, knobs(steps=150), knobs("architecture", hidden=96), knobs(steps=300),
        )  # fmt: skip
        state = opened.supervisor.state
    finally:
        opened.close()
    assert codes(state) == ["gate-objective", "gate-alignment", "gate-robustness", "passed", "budget", "budget"]
    assert (state.promotions, state.live) == (1, 1)
    assert replay_run(RunFolder(tmp_path / "run"))["stakes"] == 4


def test_too_few_items_are_inconclusive(rig, digits, tmp_path):
    """A test whose items do not suffice is inconclusive, and rejects even a good candidate."""
    subject = rigs.vary(
        digits, tmp_path / "subject", ("cap: 2000", "cap: 50"), ("gain: 0.08", "gain: 0.08, min_power: 0.0")
    )
    opened = rig.open(tmp_path / "run", subject, seed=0)
    try:
        generation(opened, 1, knobs(steps=150))
        assert codes(opened.supervisor.state) == ["inconclusive"]
    finally:
        opened.close()


POLICIES = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: people, owner: tests, description: "Asks for people, and breaks on a rewrite."}
match: {stage: screen, kinds: [architecture, code]}
rules:
  - id: ask
    description: a wider network is for people to judge
    require: proposal.kind != 'architecture'
    otherwise: hold
  - id: broken
    description: a rule that cannot be evaluated
    require: "proposal.kind == 'code' ? int(proposal.proposer) > 0 : true"
    otherwise: deny
"""


def test_a_hold_and_a_broken_rule_reject(rig, digits, tmp_path):
    """A rule that asks for people ends as a rejection while there are none, and one that breaks rejects, too."""
    place = tmp_path / "subject"
    subject = rigs.vary(digits, place, ("[baseline]", "[baseline, policies/people.yaml]"), policies__people=POLICIES)
    opened = rig.open(tmp_path / "run", subject, seed=0)
    try:
        generation(opened, 1, knobs("architecture", hidden=32), code(digits, ("0.01, ge", "0.02, ge")))
        assert codes(opened.supervisor.state) == ["hold-unanswered", "judge-failed"]
    finally:
        opened.close()


def test_an_exhausted_vault_promotes_nothing(rig, digits, tmp_path):
    """With fewer unspent items than a test needs, a good candidate is rejected, and nothing more is spent."""
    subject = rigs.vary(digits, tmp_path / "subject", ("development:", "vault: {dir: ../vault}\ndevelopment:"))
    data = rig.evaluator.ask({"op": "describe"}, seconds=60)["ok"]
    key = VaultKey.create(tmp_path / "vault.key")
    vault = Vault(tmp_path / "vault", key, data=data["data"], items=data["vault"], delta=0.05, minimum=200)
    vault.stake("earlier/1", data["vault"])
    vault.close_test("earlier/1", data["vault"] - 199, promoted=True)
    spent = vault.state.spent
    vault.close()
    opened = rig.open(tmp_path / "run", subject, seed=0, vault_key=tmp_path / "vault.key")
    try:
        generation(opened, 1, knobs(steps=150))
        assert codes(opened.supervisor.state) == ["vault-exhausted"]
        assert opened.rooms.vault.state.spent == spent
    finally:
        opened.close()


def test_an_eval_that_breaks_rejects(rig, digits, tmp_path):
    """An eval that scores a candidate out of its bounds is a rejection of that candidate, and of no other."""
    old = '    return right(labels, answers["smudged"])'
    new = old + ' * np.where(answers["smudged"].max(1) > 90, 1.5, 1.0)'
    subject = rigs.vary(digits, tmp_path / "subject", (old, new), name="guards.py")
    opened = rig.open(tmp_path / "run", subject, seed=0)
    try:
        generation(opened, 1, code(digits, (PREDICT, f"{PREDICT} * 1000")), knobs(steps=150))
        assert codes(opened.supervisor.state) == ["evaluator-failed", "passed"]
    finally:
        opened.close()


def test_time_that_is_spent_rejects(rig, digits, tmp_path):
    """A run whose wall-clock budget is spent builds nothing more."""
    subject = rigs.vary(digits, tmp_path / "subject", ("  wall_seconds: 300", "  wall_seconds: 1"))
    opened = rig.open(tmp_path / "run", subject, seed=0)
    try:
        generation(opened, 1, *(knobs(steps=61 + n) for n in range(8)))
        found = codes(opened.supervisor.state)
        generation(opened, 2, knobs(steps=150))
        state = opened.supervisor.state
        assert codes(state)[-1] in ("budget", "policy")
        assert {"budget", "policy"} & set(found)
        assert state.proposals[9].built is None
    finally:
        opened.close()


def test_generations_come_in_order(rig, copy):
    """A generation is submitted once, after the one before it has come to its end, counted from 1."""
    opened = rig.open(copy)
    try:
        size = opened.supervisor.state.size
        opened.supervisor.submit(2, [rigs.slot(knobs(steps=99))])
        assert opened.supervisor.state.size == size
        for number in (5, 0, -1):
            with pytest.raises(StateError):
                opened.supervisor.submit(number, [rigs.slot(knobs(steps=99))])
        assert opened.supervisor.state.size == size
    finally:
        opened.close()


def test_an_evaluator_that_stays_dead_rejects(rig, copy, monkeypatch):
    """Where the evaluator cannot be had twice in a row, the candidate is rejected, and the incumbent stands."""
    opened = rig.open(copy)

    def dead(*_arguments, **_named):
        raise EvaluatorError("the evaluator died")

    try:
        live = opened.supervisor.state.live
        with monkeypatch.context() as patch:
            patch.setattr(rig.evaluator, "ask", dead)
            generation(opened, 4, knobs(steps=399))
        found = opened.supervisor.state.proposals[max(opened.supervisor.state.proposals)]
        assert found.decision.reasons[0].code == "evaluator-failed"
        assert opened.supervisor.state.live == live
    finally:
        opened.close()


def test_a_full_disk_ends_the_run_and_not_the_log(rig, copy, monkeypatch):
    """When nothing can be written any more, the step fails, and the log opens again as it was."""
    from harness import auditlog, durable
    from harness.errors import LockgateError

    opened = rig.open(copy)
    size = opened.supervisor.state.size

    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    try:
        with monkeypatch.context() as patch:
            patch.setattr(auditlog, "write_durably", full)
            patch.setattr(durable, "write_durably", full)
            with pytest.raises((LockgateError, OSError), match="No space left"):
                generation(opened, 4, knobs(steps=399))
    finally:
        opened.close()
    again = rig.open(copy)
    try:
        assert again.supervisor.state.size == size + 1  # `started`
        generation(again, 4, knobs(steps=399))
        assert again.supervisor.settled(4)
    finally:
        again.close()


def test_another_guard_is_refused(rig, copy, digits, tmp_path):
    """A run is not gone on with under other gates, evals or policies, and the log stays as it was."""
    from harness.errors import ConfigError

    place = tmp_path / "subject"
    size = rigs.trail_of(copy)[0].size
    for name, old, new, told in (
        ("lockgate.yaml", "margin: 0.08", "margin: 0.8", "gate smudges (parent): margin 0.08 → 0.8"),
        ("lockgate.yaml", "promotions: 10", "promotions: 20", "budgets.promotions: 10 → 20"),
        ("lockgate.yaml", "[baseline]", "[baseline, lockdown]", "policy lockdown is new"),
        (
            "lockgate.yaml",
            "[baseline]",
            "[{pack: baseline, params: {max_lines: 9}}]",
            "policy baseline-screen is another",
        ),
        ("guards.py", "Right or not on 7 and 9", "Right or not on 7 or 9", "guards.py"),
    ):
        subject = rigs.vary(digits, place, (old, new), name=name)
        with pytest.raises(ConfigError, match="guards the run has changed") as error:
            rig.open(copy, subject)
        assert told in error.value.message
        shutil.rmtree(place)
    assert rigs.trail_of(copy)[0].size == size


def test_another_seed_or_vault_key_is_refused(rig, copy, tmp_path):
    """A run is not gone on with under another seed, nor under another vault key."""
    from harness.errors import ConfigError

    with pytest.raises(ConfigError, match="seed 0, not 1"):
        rig.open(copy, seed=1)
    VaultKey.create(tmp_path / "other.key")
    with pytest.raises(ConfigError, match="vault key"):
        rig.open(copy, vault_key=tmp_path / "other.key")
    rig.open(copy).close()
