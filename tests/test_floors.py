"""Facts about floors that policies demand: gates on held-out items, tested and compared like those of lockgate.yaml."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import rigs
from rigs import generation, knobs
from typer.testing import CliRunner
from waiting import verified

from harness.canonical import canonical_bytes
from harness.cli import app
from harness.config import Config, GateRule, parse_config
from harness.entries import Genesis
from harness.errors import AuditError, ConfigError, PolicyError
from harness.floors import bare, check_floors, compare_floors, floors_of, guarded
from harness.folder import RunFolder
from harness.gates import compile_gates
from harness.guard_change import Guard, compare_guards
from harness.guarding import guard_on_disk, propose_guard
from harness.keys import VaultKey
from harness.operating import power_of
from harness.passphrase import PassphraseSource
from harness.policy import policy_set_of
from harness.policy_file import PolicySource
from harness.policy_format import format_policy
from harness.replay import replay_run
from harness.rescoring import rescore

BETTER = knobs(steps=150)
CONFIG = """\
apiVersion: lockgate/v1
kind: Subject
name: s
objective: accuracy
proposers: {scripted: 1}
gates:
  - {eval: accuracy, kind: improve}
"""
UNIT = {"accuracy": (0.0, 1.0), "parity": (0.0, 1.0), "wide": (-1.0, 2.0)}


def text(*floors: str, name="core", match="{stage: decide, kinds: all}", require="candidate.bytes > 0") -> str:
    """Write a policy with these floors."""
    listed = f"floors: [{', '.join(floors)}]\n" if floors else ""
    return (
        f"apiVersion: lockgate/v1\nkind: ChangePolicy\nmetadata: {{name: {name}, owner: safety}}\nmatch: {match}\n"
        f"{listed}rules:\n  - {{id: {name}-rule, require: {json.dumps(require)}, otherwise: deny}}\n"
    )


def policies(*texts: str):
    """Make a set of policies."""
    return policy_set_of([PolicySource(name=f"p{index}.yaml", text=each) for index, each in enumerate(texts)])


def config(*gates: str) -> Config:
    """Make a configuration with these gates more."""
    return parse_config(CONFIG + "".join(f"  - {gate}\n" for gate in gates))


def demanding(floor: float, eval_: str = "parity", **more: str):
    """Make policies that demand one floor."""
    return policies(text(f"{{eval: {eval_}, floor: {floor}}}", **more))


def test_a_floor_becomes_a_gate_that_names_its_policy():
    """A policy's floor is a gate of kind `floor` at its height, named after eval and policy; all others stay."""
    told = guarded(config(), demanding(0.4))
    assert [gate.name for gate in told.gates] == ["accuracy/improve", "parity/floor@core"]
    (_, spec) = compile_gates([gate.json_value() for gate in told.gates], UNIT)
    assert (spec.name, spec.kind, spec.theta) == ("parity/floor@core", "floor", 0.4)
    assert bare(told) == config()
    assert guarded(bare(told), demanding(0.4)) == told
    assert Config.parse(told.json_value()) == told


def test_without_floors_a_configuration_is_written_as_it_was():
    """A gate of lockgate.yaml is written without a policy: logs from before say the same."""
    assert guarded(config(), policies(text())) == config()
    assert all("policy" not in gate for gate in config().json_value()["gates"])
    assert "policy" not in GateRule(eval="a", kind="improve").json_value()


def test_of_several_floors_the_highest_is_tested():
    """Two policies' floors on one eval are one gate, at the higher; of equal ones that of the first name."""
    low, high = text("{eval: parity, floor: 0.4}"), text("{eval: parity, floor: 0.6}", name="strict")
    for both in ((low, high), (high, low)):
        assert [gate.name for gate in guarded(config(), policies(*both)).gates[1:]] == ["parity/floor@strict"]
    same = (low, text("{eval: parity, floor: 0.4}", name="also"))
    assert floors_of(policies(*same))["parity"].policy == "also"


@pytest.mark.parametrize("own", [0.4, 0.5])
def test_a_floor_of_lockgate_yaml_that_is_as_high_is_the_one_tested(own):
    """Where lockgate.yaml has the bar already, or a higher one, nothing is added."""
    mine = config(f"{{eval: parity, kind: floor, threshold: {own}}}")
    assert guarded(mine, demanding(0.4)) == mine


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("{eval: parity, kind: floor, threshold: 0.3}", "lockgate.yaml's own is only 0.3"),
        ("{eval: parity, kind: ceiling, threshold: 0.4}", "a ceiling of 0.4: nothing is above"),
        ("{eval: parity, kind: ceiling, threshold: 0.2}", "a ceiling of 0.2: nothing is above"),
    ],
)
def test_a_floor_that_contradicts_lockgate_yaml_is_one_error(gate, words):
    """A lower floor of lockgate.yaml's own, or a ceiling that is not above, is refused with file, line and remedy."""
    with pytest.raises(ConfigError, match=words) as error:
        guarded(config(gate), demanding(0.4))
    assert error.value.where.startswith("p0.yaml:5:")
    assert error.value.remedy


@pytest.mark.parametrize(
    ("floor", "words"),
    [
        ("{eval: partiy, floor: 0.4}", "no eval is called so"),
        ("{eval: parity, floor: 1}", "between 0 and 1"),
        ("{eval: parity, floor: 0.0}", "between 0 and 1"),
        ("{eval: wide, floor: -1.5}", "between -1 and 2"),
    ],
)
def test_a_floor_that_cannot_be_tested_is_one_error(floor, words):
    """An eval that is not there, or a floor out of its bounds, is refused with file, line and remedy."""
    with pytest.raises(ConfigError, match=words) as error:
        check_floors(policies(text(floor)), UNIT)
    assert error.value.where.startswith("p0.yaml:5:")
    assert error.value.remedy
    check_floors(policies(text("{eval: wide, floor: -0.5}")), UNIT)


@pytest.mark.parametrize(
    ("floors", "match", "words"),
    [
        (["{eval: a, floor: 0.4}", "{eval: a, floor: 0.5}"], "{stage: decide, kinds: all}", "another floor on a"),
        (["{eval: a, floor: 0.4}"], "{stage: screen, kinds: all}", "of every candidate"),
        (["{eval: a, floor: 0.4}"], "{stage: decide, kinds: [code]}", "of every candidate"),
        (["{eval: a, flor: 0.4}"], "{stage: decide, kinds: all}", "flor"),
        (["{eval: a, floor: high}"], "{stage: decide, kinds: all}", "floor"),
        (["{eval: a, floor: .nan}"], "{stage: decide, kinds: all}", ""),
        (["{eval: a/b, floor: 0.4}"], "{stage: decide, kinds: all}", "eval"),
    ],
)
def test_what_is_no_floor_is_found_by_check(tmp_path, floors, match, words):
    """`policy check` names the line of a floor that is double, for some candidates alone, misspelt, or no number."""
    path = tmp_path / "p.yaml"
    path.write_text(text(*floors, match=match))
    done = CliRunner().invoke(app, ["policy", "check", str(path)])
    assert done.exit_code == 3, done.output
    assert words in done.output
    assert f"{path}:5:" in done.output
    with pytest.raises(PolicyError):
        policies(text(*floors, match=match))


def test_check_and_fmt_know_floors(tmp_path):
    """`policy check` tells of a policy's floors, and `policy fmt` puts them between variables and rules."""
    lines = text("{eval: parity, floor: 0.4}").splitlines()
    path = tmp_path / "p.yaml"
    path.write_text("\n".join(lines))
    assert "parity above 0.4" in CliRunner().invoke(app, ["policy", "check", str(path)]).output
    moved = "\n".join([*lines[:4], *lines[5:], lines[4]])
    assert format_policy(moved, "p.yaml").splitlines()[1:] == lines


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ([0.4], [0.5], "at-least-as-strict"),
        ([0.5], [0.4], "weaker"),
        ([], [0.4], "at-least-as-strict"),
        ([0.4], [], "weaker"),
        ([0.4], [0.4], "at-least-as-strict"),
    ],
)
def test_lowering_or_removing_a_floor_is_weaker(tmp_path, old, new, verdict):
    """`policy compare` and the comparison of guards agree: raised or new is as strict, lowered or gone is weaker."""
    sets = [policies(text(*(f"{{eval: parity, floor: {floor}}}" for floor in each))) for each in (old, new)]
    points = compare_floors(*sets)
    assert [point.verdict for point in points] == ([] if old == new else [verdict])
    guards = [Guard(guarded(config(), each), each, (), f"sha256:{n}" + "0" * 63, {}) for n, each in enumerate(sets)]
    assert compare_guards(*guards).verdict == verdict
    paths = []
    for number, each in enumerate(sets):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(each.sources[0].text)
    done = CliRunner().invoke(app, ["policy", "compare", *map(str, paths), "--json"])
    assert (json.loads(done.output)["verdict"], done.exit_code) == (verdict, 0 if verdict.startswith("at") else 3)


@pytest.mark.parametrize(
    ("require", "verdict"),
    [
        ("size(gates) > 0 && gates.all(g, gates[g].verdict == 'pass')", "at-least-as-strict"),
        ("size(gates) > 1", "unknown"),
        ("size(gates) > 0 && gates.all(g, gates[g].theta > -1.0)", "unknown"),
    ],
)
def test_a_floor_is_strict_only_where_no_rule_passes_by_it(require, verdict):
    """A rule that asks for more gates, or reads a bar, may pass by a new floor: then people decide."""
    old, new = policies(text(require=require)), demanding(0.4, require=require)
    assert [point.verdict for point in compare_floors(old, new)] == [verdict]
    guards = [
        Guard(guarded(config(), each), each, (), f"sha256:{n}" + "0" * 63, {}) for n, each in enumerate((old, new))
    ]
    assert compare_guards(*guards).verdict == verdict


def test_a_bar_that_moves_between_lockgate_yaml_and_a_policy_is_as_strict():
    """The same floor, asked for by the other of the two, lowers no bar; where a rule reads its name, people decide."""
    mine = config("{eval: parity, kind: floor, threshold: 0.4}")
    for require, verdict in (("candidate.bytes > 0", "at-least-as-strict"), ("'parity/floor' in gates", "at-least-as-strict"),
                             ("'parity/floor@core' in gates", "unknown")):  # fmt: skip
        old, new = policies(text(require=require)), demanding(0.4, require=require)
        before, after = (
            Guard(mine, old, (), "sha256:" + "0" * 64, {}),
            Guard(guarded(config(), new), new, (), "sha256:" + "1" * 64, {}),
        )
        assert compare_guards(before, after).verdict == verdict
        lower = demanding(0.3, require=require)
        assert (
            compare_guards(before, replace(after, config=guarded(config(), lower), policies=lower)).verdict == "weaker"
        )


def test_lockgate_yaml_cannot_write_in_a_policy_s_name():
    """A gate of lockgate.yaml that says it is a policy's is refused, with its line."""
    with pytest.raises(ConfigError, match="only the floor that a policy demands") as error:
        config("{eval: parity, kind: floor, threshold: 0.4, policy: core}")
    assert error.value.where == "lockgate.yaml:8"


FLOOR = text("{eval: parity, floor: 0.1}")


@pytest.fixture(scope="module")
def floored(digits, tmp_path_factory):
    """Give the digits with a policy that demands a floor."""
    place = tmp_path_factory.mktemp("floored") / "digits"
    return rigs.vary(
        digits, place, ("policies: [baseline]", "policies: [baseline, policies/core.yaml]"), policies__core=FLOOR
    )


@pytest.mark.usefixtures("quick_disk")
def test_a_run_tests_the_floor_and_a_replay_derives_it(rig, floored, tmp_path):
    """A candidate above the floor is promoted by a test that names it; log, blobs and replay agree on the gates."""
    run = rig.open(tmp_path / "run", floored)
    try:
        generation(run, 1, BETTER)
        state = run.supervisor.state
        assert "parity/floor@core" in [gate.name for gate in state.proposals[1].measured.gates]
        assert state.live == 1
        verified(run)
    finally:
        run.close()


@pytest.mark.usefixtures("quick_disk")
def test_a_higher_floor_is_in_force_without_people_and_a_lower_one_waits(rig, floored, tmp_path):
    """At a change of the guard the gates follow the floors: raised at the next start, lowered not without approvers."""
    out = tmp_path / "run"
    run = rig.open(out, floored)
    generation(run, 1, BETTER)
    run.close()
    told = {"by": "operator", "reason": "a test", "vault_key": None, "seconds": 20.0}
    for name, floor in (("lower", 0.05), ("higher", 0.2)):
        place = tmp_path / name
        rigs.vary(floored, place, policies__core=text(f"{{eval: parity, floor: {floor}}}"))
        said = propose_guard(RunFolder(out), place, PassphraseSource(None), **told)
        assert said["verdict"] == ("weaker" if name == "lower" else "at-least-as-strict")
        assert (said["rejected"] is not None) == (name == "lower")
    run = rig.open(out, tmp_path / "higher")
    try:
        (gate,) = [gate for gate in run.supervisor.state.guarding.config.gates if gate.policy]
        assert (gate.name, gate.threshold) == ("parity/floor@core", 0.2)
        generation(run, 2, knobs("architecture", steps=150, hidden=24))
        assert "parity/floor@core" in [gate.name for gate in run.supervisor.state.proposals[2].measured.gates]
        assert verified(run)["guards"] == 1
        key = VaultKey.load(RunFolder(out).vault_key)
    finally:
        run.close()
    assert rescore(RunFolder(out), tmp_path / "higher", key) == {"measurements": 2, "other_evals": 0}


@pytest.mark.usefixtures("quick_disk")
def test_a_candidate_below_a_policy_s_floor_is_rejected(rig, digits, tmp_path):
    """A floor that no candidate reaches stops a better one, as an alignment gate that has failed."""
    high = text("{eval: parity, floor: 0.99}")
    more = ("gain: 0.08}", "gain: 0.08, min_power: 0.0, levels: {parity: 0.995}}")
    place = rigs.vary(
        digits,
        tmp_path / "high",
        ("policies: [baseline]", "policies: [baseline, policies/core.yaml]"),
        more,
        policies__core=high,
    )
    run = rig.open(tmp_path / "run", place)
    try:
        generation(run, 1, BETTER)
        state = run.supervisor.state
        verdicts = {gate.name: gate.verdict for gate in state.proposals[1].measured.gates}
        assert verdicts["parity/floor@core"] == "fail"
        assert "gate-alignment" in {why.code for why in state.proposals[1].decision.reasons}
        assert state.live == 0
        verified(run)
    finally:
        run.close()


@pytest.mark.usefixtures("quick_disk")
@pytest.mark.parametrize("drop", [True, False])
def test_a_log_whose_gates_are_not_those_of_its_policies_is_found(rig, floored, tmp_path, monkeypatch, drop):
    """A supervisor that leaves a policy's floor out of the gates, or invents one, is found by replay."""
    honest = Genesis.json_value

    def dishonest(entry):
        body = honest(entry)
        gates = body["config"]["gates"]
        kept = (
            [gate for gate in gates if "policy" not in gate]
            if drop
            else [{**g, "threshold": 0.05} if "policy" in g else g for g in gates]
        )
        return {**body, "config": {**body["config"], "gates": kept}}

    with monkeypatch.context() as patch:
        patch.setattr(Genesis, "json_value", dishonest)
        run = rig.open(tmp_path / "run", floored)
        run.close()
    with pytest.raises(AuditError, match="the gates with the floors that policies demand"):
        replay_run(run.rooms.folder)


def test_gates_power_shows_it_and_demands_power(floored, digits, tmp_path):
    """`gates power` has a row for a policy's floor, and counts it in the probability that it demands."""
    told = power_of(floored)
    assert "parity/floor@core" in [row.gate for row in told.table.rows]
    high = text("{eval: parity, floor: 0.9}")
    more = ("gain: 0.08}", "gain: 0.08, levels: {parity: 0.9001}}")
    place = rigs.vary(
        digits,
        tmp_path / "high",
        ("policies: [baseline]", "policies: [baseline, policies/core.yaml]"),
        more,
        policies__core=high,
    )
    assert told.ok
    assert not power_of(place).ok


def test_a_misspelt_floor_stops_a_run_before_it_begins(rig, digits, tmp_path):
    """A floor on an eval that is not there is an error with the policy's file and line: nothing is logged."""
    place = rigs.vary(
        digits, tmp_path / "odd", ("policies: [baseline]", "policies: [baseline, policies/core.yaml]"),
        policies__core=text("{eval: partiy, floor: 0.1}"),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="no eval is called so") as error:
        rig.open(tmp_path / "run", place)
    assert "policies/core.yaml:5:" in error.value.where
    assert not (tmp_path / "run" / "log").exists() or not list((tmp_path / "run" / "log" / "tile").glob("**/*"))


def test_the_guard_of_a_subject_has_the_floor(floored):
    """What is on the disk is compared with a log as it would be tested: with the floors."""
    assert "parity/floor@core" in [gate.name for gate in guard_on_disk(floored).config.gates]
    assert canonical_bytes(guard_on_disk(floored).config.json_value())
