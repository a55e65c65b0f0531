"""Facts about the judge's process: what it holds, and what follows from its death."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.canonical import canonical_bytes
from harness.judge import Judge
from harness.policy import PolicySet, load_policies, policy_set_of
from harness.policy_file import PolicySource
from harness.policy_test import base_document

ROOT = Path(__file__).parent.parent


BASELINE = load_policies([ROOT / "policies" / "baseline.yaml"])


@pytest.fixture
def baseline() -> PolicySet:
    """Return the baseline pack."""
    return BASELINE


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """Return one warm judge for all tests that leave it alive."""
    with Judge() as judge:
        yield judge


def growing(rule: str, doublings: int) -> PolicySet:
    """Return a policy whose variables double a string again and again."""
    variables = ["  - {name: v0, expr: \"code.problem + 'x'\"}"]
    variables += [f'  - {{name: v{i}, expr: "v{i - 1} + v{i - 1}"}}' for i in range(1, doublings + 1)]
    head = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: greedy, owner: test}
match: {stage: screen, kinds: all}
"""
    text = (
        head + "variables:\n" + "\n".join(variables) + f'\nrules:\n  - {{id: r, require: "{rule}", otherwise: deny}}\n'
    )
    return policy_set_of([PolicySource(name="greedy.yaml", text=text)])


def test_it_judges_what_the_rules_say(judge: Judge, baseline: PolicySet) -> None:
    """A sound document passes at both stages, and a fault is denied by the rule that names it."""
    assert judge.decide(baseline, "screen", "code", base_document("screen")).outcome == "pass"
    assert judge.decide(baseline, "decide", "code", base_document("decide")).outcome == "pass"
    document = base_document("screen")
    document["code"]["dynamic"] = ["model.py:1 eval"]
    judgement = judge.decide(baseline, "screen", "code", document)
    assert (judgement.outcome, judgement.failed) == ("deny", ["baseline-screen/nothing-dynamic"])


def test_it_stays_warm(judge: Judge, baseline: PolicySet) -> None:
    """Decisions in a row are made by one process."""
    judge.decide(baseline, "screen", "code", base_document("screen"))
    first = judge.pid
    judge.decide(baseline, "decide", "code", base_document("decide"))
    assert judge.pid == first


def test_it_starts_clean(judge: Judge, baseline: PolicySet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has none of the supervisor's environment, its own session, and no open file but one socket."""
    monkeypatch.setenv("LOCKGATE_SECRET", "x")
    judge.decide(baseline, "screen", "code", base_document("screen"))
    folder = Path(f"/proc/{judge.pid}")
    assert (folder / "environ").read_bytes() == b""
    assert os.getsid(judge.pid or 0) == judge.pid
    targets = {str(fd.readlink()) for fd in (folder / "fd").iterdir()}
    assert len([target for target in targets if target != "/dev/null"]) == 1


@pytest.mark.parametrize(
    ("stage", "kind", "document"),
    [
        ("screen", "code", {}),
        ("screen", "code", None),
        ("screen", "code", {"proposal": float("nan")}),
        ("screen", "architecture", base_document("screen")),
        ("decide", "code", base_document("screen")),
        ("screen", "code", base_document("decide")),
        ("other", "code", base_document("screen")),
        ("screen", "weights", base_document("screen")),
        (["screen"], {}, base_document("screen")),
    ],
)
def test_a_bad_document_is_invalid(judge: Judge, baseline: PolicySet, stage: Any, kind: Any, document: Any) -> None:
    """A missing, malformed or misdirected document is invalid, with a reason."""
    judgement = judge.decide(baseline, stage, kind, document)
    assert judgement.outcome == "invalid"
    assert judgement.reason


@given(st.recursive(st.none() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_document_is_judged(document: Any) -> None:
    """No document makes the client raise."""
    with Judge() as own:
        assert own.decide(BASELINE, "screen", "code", document).outcome == "invalid"


def test_killed_in_the_middle_is_invalid_and_then_works_again(baseline: PolicySet) -> None:
    """A judge that is killed while it decides gives invalid, and the next decision is made by a new one."""
    with Judge(seconds=30) as judge:
        judge.decide(baseline, "screen", "code", base_document("screen"))
        first = judge.pid or 0
        os.kill(first, signal.SIGSTOP)
        killer = threading.Timer(0.2, os.kill, (first, signal.SIGKILL))
        killer.start()
        judgement = judge.decide(baseline, "screen", "code", base_document("screen"))
        killer.join()
        assert (judgement.outcome, judgement.reason) == ("invalid", "the judge died")
        assert judge.decide(baseline, "screen", "code", base_document("screen")).outcome == "pass"
        assert judge.pid != first


def test_killed_while_idle_is_replaced(baseline: PolicySet) -> None:
    """A judge that died between decisions is replaced before the next is asked."""
    with Judge() as judge:
        judge.decide(baseline, "screen", "code", base_document("screen"))
        os.kill(judge.pid or 0, signal.SIGKILL)
        os.waitid(os.P_PID, judge.pid or 0, os.WEXITED | os.WNOWAIT)
        assert judge.decide(baseline, "screen", "code", base_document("screen")).outcome == "pass"


def test_late_is_invalid_and_the_process_is_killed(baseline: PolicySet) -> None:
    """An answer past the deadline is invalid, the late process is gone, and the next decision works."""
    with Judge() as judge:
        judge.decide(baseline, "screen", "code", base_document("screen"))
        first = judge.pid or 0
        os.kill(first, signal.SIGSTOP)
        judge._seconds = 0.3
        judgement = judge.decide(baseline, "screen", "code", base_document("screen"))
        assert judgement.outcome == "invalid"
        assert "within 0.3 s" in judgement.reason
        assert not Path(f"/proc/{first}").exists()
        judge._seconds = 30
        assert judge.decide(baseline, "screen", "code", base_document("screen")).outcome == "pass"


def test_a_runaway_evaluation_is_cut_off(baseline: PolicySet) -> None:
    """An evaluation that would run for long is killed at the deadline."""
    policies = growing("[1,2,3,4,5,6,7,8].all(i, ['a','b','c','d','e','f','g','h'].all(j, !v12.contains(v11 + j)))", 12)
    document = base_document("screen")
    document["code"]["problem"] = "x" * 10_000
    with Judge(memory_mb=2048) as judge:
        judge.decide(baseline, "screen", "code", base_document("screen"))
        judge._seconds = 0.3
        started = time.monotonic()
        judgement = judge.decide(policies, "screen", "code", document)
        assert judgement.reason == "the judge did not answer within 0.3 s"
        assert time.monotonic() - started < 5


def test_memory_is_capped(baseline: PolicySet) -> None:
    """An evaluation that grows past the cap is invalid, and the next decision works."""
    document = base_document("screen")
    document["code"]["problem"] = "x" * 10_000
    with Judge(seconds=60, memory_mb=256) as judge:
        judgement = judge.decide(growing("size(v18) > 0", 18), "screen", "code", document)
        assert judgement.outcome == "invalid"
        peak = 256 * 1024
        assert (
            judge.pid is None
            or int(Path(f"/proc/{judge.pid}/status").read_text().split("VmPeak:")[1].split()[0]) <= peak
        )
        assert judge.decide(baseline, "screen", "code", base_document("screen")).outcome == "pass"


def test_nul_does_not_shorten_a_name(judge: Judge) -> None:
    """A name with a NUL never reaches the evaluator, for which it would end there."""
    text = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: trusted, owner: test}
match: {stage: screen, kinds: all}
params: {trusted: [alice]}
rules: [{id: r, require: proposal.proposer in params.trusted, otherwise: deny}]
"""
    policies = policy_set_of([PolicySource(name="t.yaml", text=text)])
    document = base_document("screen")
    outcomes = {}
    for name in ("alice", "bob", "alice\0evil", "alice\ud800"):
        document["proposal"]["proposer"] = name
        outcomes[name] = judge.decide(policies, "screen", "code", document).outcome
    assert list(outcomes.values()) == ["pass", "deny", "invalid", "invalid"]


def test_answers_about_other_rules_are_not_believed(judge: Judge, baseline: PolicySet) -> None:
    """An answer that leaves out a rule is invalid, whatever it says."""
    first, second = baseline.policies
    longer = PolicySet(baseline.digest, baseline.sources, (first, second, first))
    judgement = judge.decide(longer, "screen", "code", base_document("screen"))
    assert (judgement.outcome, judgement.reason) == ("invalid", "the judge answered about other rules than were asked")


def test_policies_that_are_not_what_their_digest_names_are_invalid(judge: Judge, baseline: PolicySet) -> None:
    """The process judges only by the text that the digest covers."""
    forged = PolicySet("sha256:" + "0" * 64, baseline.sources, baseline.policies)
    judgement = judge.decide(forged, "screen", "code", base_document("screen"))
    assert judgement.outcome == "invalid"
    assert "digest" in judgement.reason


def test_processes_agree_to_the_byte_about_maps() -> None:
    """What is recorded of rules that walk maps, errors and audit values too, is the same from every fresh process."""
    text = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: maps, owner: safety}
match: {stage: decide, kinds: all}
variables:
  - {name: failed, expr: "gates.filter(g, gates[g].verdict != 'pass')"}
rules:
  - id: none-failed
    require: size(failed) == 0
    otherwise: deny
    messageExpr: string(size(failed)) + ' failed'
    audit: {failed: failed, means: "gates.map(g, gates[g].mean)"}
  - id: developed
    require: size(gates) > 0 && gates.all(g, candidate.development[g] > 0.5)
    otherwise: deny
"""
    policies = policy_set_of([PolicySource(name="maps.yaml", text=text)])
    document = base_document("decide")
    gate = document["gates"]["refusal"]
    document["gates"] = {f"g{n}": {**gate, "verdict": "fail", "mean": n / 16} for n in range(16)}
    told = set()
    for _ in range(4):
        with Judge() as judge:
            judgement = judge.decide(policies, "decide", "code", document)
            told.add(canonical_bytes(judgement.json_value()))
    assert judgement.outcome == "invalid"
    assert judgement.verdicts[0].audit["failed"] == sorted(document["gates"])
    assert len(told) == 1


def test_many_sets_in_turn_are_each_judged(judge: Judge, baseline: PolicySet) -> None:
    """A process that keeps a few sets is told a forgotten one again, so that no order of asking makes it invalid."""
    text = baseline.sources[0].text
    sets = [policy_set_of([PolicySource(name="b.yaml", text=f"{text}# {n}\n")]) for n in range(6)]
    for policies in [*sets, *reversed(sets), sets[0], sets[5]]:
        assert judge.decide(policies, "screen", "code", base_document("screen")).outcome == "pass"


def test_no_applicable_rule_is_invalid(judge: Judge, baseline: PolicySet) -> None:
    """A set without a rule for the stage gives invalid."""
    screen_only = PolicySet(baseline.digest, baseline.sources, baseline.policies[:1])
    assert judge.decide(screen_only, "decide", "code", base_document("decide")).outcome == "invalid"


def test_many_threads_share_one_judge(judge: Judge, baseline: PolicySet) -> None:
    """Decisions asked from many threads at once each get their own answer."""
    answers: dict[int, str] = {}

    def ask(lines: int) -> None:
        document = base_document("screen")
        document["change"]["lines_changed"] = lines
        answers[lines] = judge.decide(baseline, "screen", "code", document).verdicts[5].message

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: f"{n} lines changed, of at most 400" for n in range(12)}
