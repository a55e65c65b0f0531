"""Facts about comparing sets of policies: what is proved, what is refuted, and what is left to people."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import rule_maker
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import solver as solver_room
from harness.base_document import base_document
from harness.judge import Judge
from harness.judgement import rank
from harness.policy import PolicySet, policy_set_of
from harness.policy_file import PolicySource
from harness.strictness import Comparison, compare_sets, replay

BASELINE = (Path(__file__).parent.parent / "policies" / "baseline.yaml").read_text()


def sets(*texts: str) -> PolicySet:
    """Return the set of these files."""
    return policy_set_of([PolicySource(name=f"p{i}.yaml", text=text) for i, text in enumerate(texts)])


def policy(*rules: str, stage: str = "decide", kinds: str = "all", name: str = "core", more: str = "") -> str:
    """Return a policy of rules, each as `expression` or `hold: expression`."""
    head = f"apiVersion: lockgate/v1\nkind: ChangePolicy\nmetadata: {{name: {name}, owner: tests}}\n"
    lines = [head, f"match: {{stage: {stage}, kinds: {kinds}}}\n", more, "rules:\n"]
    for index, rule in enumerate(rules):
        otherwise, text = ("hold", rule[6:]) if rule.startswith("hold: ") else ("deny", rule)
        require = json.dumps(text)
        lines.append(f"  - id: {name}-{index}\n    require: {require}\n    otherwise: {otherwise}\n")
    return "".join(lines)


def compared(old: PolicySet, new: PolicySet) -> Comparison:
    """Compare in this process, with the engine and the solver that the processes run."""
    return compare_sets(old, new, judge=rule_maker.Engine(), solver=rule_maker.SameProcess())


def verdict(old: str, new: str, **more: Any) -> str:
    """Return the verdict on one rule in place of another."""
    return compared(sets(policy(old, **more)), sets(policy(new, **more))).verdict


def edited(*pairs: tuple[str, str]) -> Comparison:
    """Compare the baseline pack with an edit of it."""
    text = BASELINE
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return compared(sets(BASELINE), sets(text))


EACH = "gates.all(g, gates[g].verdict == 'pass' || g.endsWith('/ceiling'))"
STRICTER = [
    ("max_lines: 400", "max_lines: 300"),
    ("max_growth: 8.0", "max_growth: 7.9"),
    ("__future__, abc,", "__future__,"),
    ("[numpy.ctypeslib,", "[os.system, numpy.ctypeslib,"),
    ("[model.py:Recipe,", "[model.py:more, model.py:Recipe,"),
    ("require: code.parses", "require: code.parses && size(code.calls) < 100"),
    ("budgets.promotions_left > 0", "budgets.promotions_left >= 1"),
    ("require: size(code.dynamic) == 0", 'require: "!code.dynamic.exists(d, d == d) && size(code.dynamic) < 2"'),
    ("size(foreign) == 0\n", '"size(code.packages) == 0 ? true : code.packages.all(p, p in params.packages)"\n'),
    (EACH, "!gates.exists(g, gates[g].verdict in ['fail', 'inconclusive'] && !g.endsWith('/ceiling'))"),
    (EACH, "gates.all(g, gates[g].verdict == 'pass')"),
    ("candidate.bytes <= params.max_bytes", "candidate.bytes * 2 <= params.max_bytes"),
]
WEAKER = [
    ("max_lines: 400", "max_lines: 401"),
    ("max_growth: 8.0", "max_growth: 8.5"),
    ("__future__, abc,", "__future__, abc, os,"),
    ("[numpy.ctypeslib,", "["),
    ("[model.py:Recipe,", "["),
    ("require: code.parses", "require: code.parses || size(code.calls) < 100"),
    ("budgets.promotions_left > 0", "budgets.promotions_left >= 0"),
    ("size(code.dynamic) == 0", "size(code.dynamic) <= 1"),
    (f"size(gates) > 0 && {EACH}", "gates.exists(g, gates[g].verdict == 'pass')"),
    (EACH, EACH.replace("'/ceiling'", "'ceiling'")),
    ("gates[g].verdict != 'pass' && g.endsWith('/ceiling')", "gates[g].verdict == 'fail' && g.endsWith('/ceiling')"),
    ("require: code.parses\n    otherwise: deny", "require: code.parses\n    otherwise: hold"),
]


@pytest.mark.parametrize("edit", STRICTER, ids=lambda edit: edit[1][:40])
def test_a_stricter_edit_of_the_baseline_is_proved(edit: tuple[str, str]) -> None:
    """A bound tightened, a list shrunk or grown on the strict side, a conjunct more, another way to say the same."""
    found = edited(edit)
    assert found.verdict == "at-least-as-strict", [line for line in found.rules if line.verdict != found.verdict]


@pytest.mark.parametrize("edit", WEAKER, ids=lambda edit: edit[1][:40])
def test_a_weaker_edit_of_the_baseline_has_a_witness(edit: tuple[str, str]) -> None:
    """What is weaker comes with a document that OLD stops and NEW lets further, and exactly the edited rule is blamed."""
    found = edited(edit)
    assert found.verdict == "weaker"
    (line,) = [line for line in found.rules if line.verdict != "at-least-as-strict"]
    witness = line.witness
    assert witness is not None
    assert witness.stopped_by == [f"{line.policy}/{line.rule}"]
    engine, old = rule_maker.Engine(), sets(BASELINE)
    before = engine.decide(old, witness.stage, witness.kind, witness.document)
    after = engine.decide(sets(BASELINE.replace(*edit)), witness.stage, witness.kind, witness.document)
    assert (before.outcome, after.outcome) == (witness.before, witness.after)
    assert rank(after) < rank(before)
    assert witness.changed.keys() != base_document(witness.stage).keys()


def test_the_same_set_is_proved_by_structure_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set compared with itself needs no solver, in any order of its policies and rules."""
    monkeypatch.setattr(solver_room.importlib.util, "find_spec", lambda _name: None)
    parts = BASELINE.split("---\n")
    found = compare_sets(sets(*parts), sets(*parts[::-1]), judge=rule_maker.Engine())
    assert found.verdict == "at-least-as-strict"
    assert {line.why for line in found.rules} == {"the same"}


def test_a_rule_or_a_policy_more_is_stricter() -> None:
    """What is added is named, and makes nothing weaker."""
    more = policy("change.lines_changed < 10", name="more")
    found = compared(sets(BASELINE), sets(BASELINE, more))
    assert (found.verdict, found.added) == ("at-least-as-strict", ["more/more-0"])
    assert compared(sets(BASELINE, more), sets(BASELINE)).verdict == "weaker"


def test_a_removed_rule_is_missed_unless_others_imply_it() -> None:
    """A rule that follows from another may go; one that follows from several, too; another not."""
    both = policy("change.lines_changed <= 400", "change.lines_changed <= 300")
    assert compared(sets(both), sets(policy("change.lines_changed <= 300"))).verdict == "at-least-as-strict"
    assert compared(sets(both), sets(policy("change.lines_changed <= 400"))).verdict == "weaker"
    sum_ = policy("change.lines_changed + code.max_complexity <= 100")
    parts = policy("change.lines_changed <= 60", "code.max_complexity <= 40")
    assert compared(sets(sum_), sets(parts)).verdict == "at-least-as-strict"
    assert compared(sets(parts), sets(sum_)).verdict == "weaker"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("code.parses", "hold: code.parses", "weaker"),
        ("hold: code.parses", "code.parses", "at-least-as-strict"),
        ("hold: code.parses", "hold: code.parses", "at-least-as-strict"),
        ("hold: candidate.parameters < 10", "hold: candidate.parameters < 5", "at-least-as-strict"),
        ("candidate.parameters < 10", "hold: candidate.parameters < 5", "weaker"),
        # an error of a rule that holds is a denial: a hold in its place is weaker
        ("hold: gates['a'].mean > 0.5", "hold: 'a' in gates && gates['a'].mean > 0.5", "weaker"),
        ("hold: 'a' in gates && gates['a'].mean > 0.5", "hold: gates['a'].mean > 0.5", "at-least-as-strict"),
    ],
)
def test_outcomes_are_ordered(old: str, new: str, expected: str) -> None:
    """Deny is stricter than hold, hold than pass, and an error is a denial."""
    assert verdict(old, new) == expected


ASKS = "hold: approvals.exists(a, a.role == 'safety')"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (ASKS, "hold: candidate.bytes < 0", "weaker"),  # nobody in particular is asked: any quorum would do
        (ASKS, "hold: approvals.exists(a, a.role == 'safety' && a.by == 'ann')", "at-least-as-strict"),
        (ASKS, "approvals.exists(a, a.role == 'safety')", "at-least-as-strict"),
        (ASKS, "candidate.bytes < 0", "at-least-as-strict"),
        ("hold: candidate.bytes < 9", "hold: candidate.bytes < 9 && size(approvals) > 9", "at-least-as-strict"),
        ("hold: candidate.bytes < 9", "hold: candidate.bytes < 9 || size(approvals) > 0", "weaker"),
    ],
)
def test_a_quorum_does_not_answer_what_asks_for_people(old: str, new: str, expected: str) -> None:
    """A hold for people whom a rule names is stricter than one that any quorum answers, be that one never satisfied."""
    assert verdict(old, new) == expected


def test_where_a_policy_applies_is_compared() -> None:
    """A policy that applies to fewer kinds is missed where another lets them pass; where none applies, nothing can."""
    wide, narrow = policy("code.parses"), policy("code.parses", kinds="[code]")
    other = policy("code.max_complexity < 90", name="other")
    found = compared(sets(wide, other), sets(narrow, other))
    assert found.verdict == "weaker"
    assert [line.kinds for line in found.rules if line.witness] == [["hyperparameters", "architecture", "weights"]]
    found = compared(sets(wide), sets(narrow))
    assert found.verdict == "at-least-as-strict"
    assert found.notes == [
        "no rule of NEW applies to hyperparameters, architecture, weights at decide: nothing can pass there"
    ]
    assert compared(sets(narrow), sets(wide)).verdict == "weaker"
    assert compared(sets(wide), sets(policy("code.parses", stage="screen"))).verdict == "weaker"


def test_params_and_variables_are_what_they_stand_for() -> None:
    """A value written out, a param and a variable mean the same; another value does not."""
    more = "params: {most: 3}\nvariables:\n  - {name: few, expr: 'size(change.knobs) <= params.most'}\n"
    long = sets(policy("few && code.parses", more=more))
    short = sets(policy("size(change.knobs) <= 3 && code.parses"))
    assert compared(long, short).verdict == compared(short, long).verdict == "at-least-as-strict"
    assert (
        compared(long, sets(policy("few && code.parses", more=more.replace("most: 3", "most: 4")))).verdict == "weaker"
    )
    override = policy_set_of([PolicySource(name="p0.yaml", text=policy("few", more=more), params={"most": 2})])
    assert compared(sets(policy("few", more=more)), override).verdict == "at-least-as-strict"


def test_a_variable_that_fails_breaks_its_rules() -> None:
    """A variable is evaluated first, so that its error denies even where the rule would not have reached it."""
    more = "variables:\n  - {name: m, expr: \"gates['a'].mean\"}\n"
    by_variable = sets(policy("size(gates) == 1 ? m > 0.5 : true", more=more))
    inline = sets(policy("size(gates) == 1 ? gates['a'].mean > 0.5 : true"))
    assert compared(by_variable, inline).verdict == "weaker"
    assert compared(inline, by_variable).verdict == "at-least-as-strict"


NO_NUMBER = "budgets.wall_seconds_left * 1e308 - budgets.wall_seconds_left * 1e308"
EQUAL = "at-least-as-strict"
TRAPS = [
    # fifteen lists that must have something in them prove nothing about a bound on another
    (
        " && ".join(f"code.packages.exists(p, p == 'x{i}')" for i in range(15)) + " && candidate.parameters <= 125",
        " && ".join(f"code.packages.exists(p, p == 'x{i}')" for i in range(15)) + " && candidate.parameters <= 130",
        "weaker",
    ),
    ("size(change.files) <= 40", "size(change.files) <= 41", "weaker"),
    ("size(change.files) <= 41", "size(change.files) <= 40", EQUAL),
    # a count is never negative, so both say the same
    ("change.lines_changed != 0", "change.lines_changed > 0", EQUAL),
    ("incumbent.parameters * 1000000000000 > 5", "incumbent.parameters > 0", "weaker"),  # an overflow is an error
    ("incumbent.parameters > 0", "incumbent.parameters * 1000000000000 > 5", EQUAL),
    # rounded: 0.1 + 0.2 is more than 0.3
    ("budgets.wall_seconds_left + 0.2 <= 0.3", "budgets.wall_seconds_left <= 0.1", "weaker"),
    ("budgets.wall_seconds_left + 0.2 <= 0.4", "budgets.wall_seconds_left <= 0.1", EQUAL),
    ("budgets.wall_seconds_left * 3.0 <= 1.0", "budgets.wall_seconds_left * 3.0 <= 0.9", EQUAL),
    ("gates['a'].mean / 3.0 > 0.1", "gates['a'].mean > 0.31", EQUAL),
    # of the reals, ten tenths are more than one, as 0.1 is a little more than a tenth; of doubles they are not
    ("candidate.parameters <= 9", "double(candidate.parameters) * 0.1 <= 1.0", "weaker"),
    ("candidate.parameters <= 10", "double(candidate.parameters) * 0.1 <= 1.0", EQUAL),
    ("candidate.parameters <= 300", "double(candidate.parameters) / 3.0 <= 99.5", EQUAL),
    # no number: inf - inf is none, and no comparison of it is true, whatever the reals say
    (f"{NO_NUMBER} <= 5.0", "code.parses", "weaker"),
    (f"({NO_NUMBER} <= 5.0) || ({NO_NUMBER} > 5.0)", "code.parses", "weaker"),
    ("budgets.wall_seconds_left * 1e308 <= 1.0", "budgets.wall_seconds_left * 1e308 <= 0.5", EQUAL),
    # one element of each kind is not one element of both
    (
        "change.files.exists(f, f.lines_added > 5 && f.path == 'a')",
        "change.files.exists(f, f.lines_added > 5) && change.files.exists(f, f.path == 'a')",
        "weaker",
    ),
    (
        "change.files.exists(f, f.lines_added > 5) && change.files.exists(f, f.path == 'a')",
        "change.files.exists(f, f.lines_added > 5 && f.path == 'a')",
        EQUAL,
    ),
    (
        "size(change.files.filter(f, f.lines_added > 5)) <= 2",
        "size(change.files.filter(f, f.lines_added > 3)) <= 2",
        EQUAL,
    ),
    (
        "size(change.files.filter(f, f.lines_added > 3)) <= 2",
        "size(change.files.filter(f, f.lines_added > 5)) <= 2",
        "weaker",
    ),
    ("change.files.exists_one(f, f.path == 'a')", "change.files.exists(f, f.path == 'a')", "weaker"),
    ("change.files.exists(f, f.path == 'a')", "change.files.exists_one(f, f.path == 'a')", EQUAL),
    ("proposal.proposer.startsWith('a')", "proposal.proposer.startsWith('ab')", EQUAL),
    ("proposal.proposer.startsWith('ab')", "proposal.proposer.startsWith('a')", "weaker"),
    ("proposal.proposer.contains('b')", "proposal.proposer.startsWith('ab')", EQUAL),
    ("proposal.proposer != 'ab'", "!proposal.proposer.startsWith('a')", EQUAL),
    ("size(proposal.proposer) >= 2", "proposal.proposer.endsWith('ab')", EQUAL),
    ("gates['a'].mean >= 0.5", "'a' in gates ? gates['a'].mean >= 0.5 : true", "weaker"),
    ("'a' in gates", "has(gates.a) && gates.a.n > 3", EQUAL),
    ("gates['a'].mean >= 0.5", "size(gates) == 2 && gates.all(g, gates[g].mean >= 0.6) && has(gates.a)", EQUAL),
    ("proposal.proposer in ['a', 'b', 'c']", "proposal.proposer in ['a', 'c']", EQUAL),
    ("!(proposal.proposer in ['a'])", "!(proposal.proposer in ['a', 'c'])", EQUAL),
    ("proposal.proposer in ['a', 'c']", "proposal.proposer in ['a', 'b', 'c']", "weaker"),
    ("gates.b.verdict != 'fail'", "gates.b.verdict in ['pass', 'inconclusive']", EQUAL),
    # every file smaller than another is true of no list but the empty one, which no number of views shows
    (
        "size(change.files) > 0 && change.files.all(f, change.files.exists(g, g.lines_added > f.lines_added))",
        "change.files.exists(f, f.lines_added > 3)",
        "weaker",
    ),
    (
        "code.max_complexity < 5",
        "size(change.files) > 0 && change.files.all(f, change.files.exists(g, g.lines_added > f.lines_added))",
        None,
    ),
    (
        "size(change.files) > 0 && change.files.all(f, change.knobs.exists(k, k.name == f.path && k.old == 'a'))",
        "size(change.files) > 0 && change.files.all(f, f.path == 'x') && change.knobs.exists(k, k.name == 'x' && k.old == 'a')",
        "unknown",  # there is a proof, but not about the limit on iterations
    ),
    (
        "code.packages == ['a', 'b']",
        "size(code.packages) == 2 && code.packages[0] == 'a' && code.packages[1] == 'b'",
        None,
    ),
    ("size(['a', proposal.proposer].filter(x, x == 'b')) == 1", "proposal.proposer == 'b'", EQUAL),
    ("'x' in change.files.map(f, f.path)", "change.files.exists(f, f.path == 'x')", EQUAL),
    ("size(change.files.map(f, f.lines_added * 9)) <= 3", "size(change.files) <= 3", EQUAL),
    ("size(change.files.map(f, f.lines_added * 9223372036854775807)) <= 3", "size(change.files) <= 3", "weaker"),
    # not followed: what leans on it is unknown, what does not is proved
    ("proposal.proposer + 'x' == 'ax'", "proposal.proposer == 'a'", "unknown"),
    ("candidate.parameters / 2 <= 50", "candidate.parameters / 2 <= 49", EQUAL),
    ("candidate.parameters <= 101", "candidate.parameters / 2 <= 50", "unknown"),
    ("proposal.proposer < 'b'", "proposal.proposer < 'a'", "unknown"),
    ("string(candidate.parameters) == '5'", "candidate.parameters == 5", "unknown"),
    ("code.packages[0] == 'a'", "code.packages[0] == 'a' && code.parses", EQUAL),
    (
        "timestamp(proposal.proposer) < timestamp('2030-01-01T00:00:00Z')",
        "proposal.proposer == '2020-01-01T00:00:00Z'",
        "unknown",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), TRAPS, ids=lambda part: str(part)[:50])
def test_traps(old: str, new: str, expected: str | None) -> None:
    """What comparisons of rules have fallen for: each pair has its verdict (None: whatever is sound)."""
    found = compared(sets(policy(old)), sets(policy(new)))
    if expected is not None:
        assert found.verdict == expected, found.rules
    if found.verdict == "unknown":
        assert all(line.constructs for line in found.rules)
    if found.verdict == EQUAL:
        assert not refuted(sets(policy(old)), sets(policy(new)), 300, 0)


def refuted(old: PolicySet, new: PolicySet, count: int, seed: int) -> dict[str, Any] | None:
    """Return a document near the rules' constants on which NEW is weaker, of as many as are tried."""
    engine = rule_maker.Engine()
    texts = [source.text for source in (*old.sources, *new.sources)]
    stages = {found.stage for found in (*old.policies, *new.policies)}
    for stage in sorted(stages):
        documents = rule_maker.Documents(random.Random(seed), texts, stage)  # noqa: S311
        for _ in range(count):
            document = documents.one()
            kind = document["proposal"]["kind"]
            before = engine.decide(old, stage, kind, document)
            after = engine.decide(new, stage, kind, document)
            if rank(after) < rank(before):
                return document
    return None


def test_unknown_names_the_construct_and_its_place() -> None:
    """What stopped a proof is named with file, line and column of the policy."""
    text = policy("candidate.parameters <= 101")
    found = compared(sets(text), sets(policy("candidate.parameters / 2 <= 50")))
    (line,) = found.rules
    assert line.constructs == ["p0.yaml:7:36: a division"]
    assert "division" in line.constructs[0]


def test_the_limit_on_iterations_is_not_overlooked() -> None:
    """Three loops over long lists end in an error, which denies: apart, they would pass, and this is no proof."""
    loops = [f"(size(code.{name}) == 0 || code.{name}.all(x, x != 'y'))" for name in ("packages", "imports", "calls")]
    old, new = sets(policy(" && ".join(loops))), sets(policy(*loops))
    document = base_document("decide")
    for name in ("packages", "imports", "calls"):
        document["code"][name] = ["x"] * 4000
    engine = rule_maker.Engine()
    assert engine.decide(old, "decide", "code", document).outcome == "invalid"
    assert engine.decide(new, "decide", "code", document).outcome == "pass"
    found = compared(old, new)
    assert found.verdict == "unknown"
    assert "iterations" in found.rules[0].why
    assert compared(old, old).verdict == "at-least-as-strict"
    assert compared(new, old).verdict == "at-least-as-strict"


def test_a_set_that_admits_nothing_is_as_strict_as_any() -> None:
    """A contradiction in NEW stops everything, which no proof needs to be ashamed of: and it is the engine's, too."""
    new = sets(policy("code.max_complexity < 5", "code.max_complexity > 5"))
    assert compared(sets(policy("code.parses")), new).verdict == "at-least-as-strict"
    assert not refuted(sets(policy("code.parses")), new, 100, 1)


def test_comparing_is_transitive_and_reflexive_on_tightened_bounds() -> None:
    """Of bounds in a row each is as strict as the ones before it, and weaker than the ones after it."""
    bounds = [sets(policy(f"candidate.parameters <= {n}")) for n in (30, 20, 10)]
    for (i, one), (j, two) in itertools.product(enumerate(bounds), repeat=2):
        assert compared(one, two).verdict == ("at-least-as-strict" if j >= i else "weaker")


def test_no_document_is_believed_but_by_the_engine() -> None:
    """A document is a witness only where the engine lets it further with NEW; a judge that is late shows nothing."""
    old, new = sets(policy("change.lines_changed <= 4")), sets(policy("change.lines_changed <= 40"))
    document = base_document("decide")
    witness = replay("decide", document, old, new, rule_maker.Engine())
    assert witness is not None
    assert (witness.before, witness.after, witness.changed) == ("deny", "pass", {})
    assert replay("decide", document, new, old, rule_maker.Engine()) is None
    assert replay("decide", document, old, old, rule_maker.Engine()) is None
    with Judge(seconds=0.0, start_seconds=0.0) as late:
        assert late.decide(old, "decide", "code", document).outcome == "invalid"
        assert replay("decide", document, old, new, late) is None


def test_a_comparison_is_json_and_comes_back() -> None:
    """What is found is a record that goes through JSON unchanged, with its witness."""
    found = edited(("max_lines: 400", "max_lines: 401"))
    assert Comparison.parse(json.loads(json.dumps(found.json_value()))) == found


@settings(max_examples=3 * settings.default.max_examples)
@given(st.integers(0, 2**32))
def test_proved_is_never_contradicted(seed: int) -> None:
    """Of random rules and edits of them: where strictness is proved, no document near their constants says otherwise."""
    old, new = rule_maker.random_sets(seed)
    found = compared(old, new)
    document = refuted(old, new, 40, seed)
    assert found.verdict != "at-least-as-strict" or document is None


@settings(max_examples=max(10, settings.default.max_examples // 5))
@given(st.integers(0, 2**32))
def test_proved_edits_of_the_baseline_are_never_contradicted(seed: int) -> None:
    """The same of the baseline pack, with numbers, comparisons, names and outcomes of it changed at random."""
    old, new = sets(BASELINE), sets(rule_maker.edited_text(BASELINE, seed))
    found = compared(old, new)
    document = refuted(old, new, 40, seed)
    assert found.verdict != "at-least-as-strict" or document is None


@given(st.integers(0, 2**32))
def test_more_rules_or_another_order_admit_nothing_more(seed: int) -> None:
    """In the engine: with a rule added, and in another order, no document has a better outcome."""
    rng = random.Random(seed)  # noqa: S311
    old, new = rule_maker.grown_sets(rng)
    assert refuted(old, new, 25, seed) is None
    assert compared(old, new).verdict == "at-least-as-strict"
