"""Facts about loading, checking and naming sets of policies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import PolicyRef
from harness.errors import PolicyError
from harness.policy import check, load_policies, load_subject_policies, policy_set_of, resolve
from harness.policy_file import PolicySource

ROOT = Path(__file__).parent.parent
BASELINE = ROOT / "policies" / "baseline.yaml"

POLICY = """\
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: core, owner: safety}
match: {stage: decide, kinds: [code]}
params: {max_n: 3, ratio: 1.5, trusted: [evolution]}
variables:
  - {name: humans, expr: "approvals.filter(a, a.role == 'human')"}
rules:
  - id: few
    require: change.lines_changed <= params.max_n
    otherwise: hold
    messageExpr: "string(change.lines_changed) + ' lines'"
    audit: {lines: change.lines_changed}
  - id: people
    require: size(humans) > 0
    otherwise: deny
"""


def source(text: str = POLICY, **params: Any) -> PolicySource:
    """Return a policy file's source."""
    return PolicySource(name="core.yaml", text=text, params=params)


def test_a_policy_loads_with_its_parts() -> None:
    """Stage, kinds, params and rules of a file are those of its text."""
    loaded = policy_set_of([source()])
    (policy,) = loaded.policies
    assert (policy.name, policy.stage, policy.kinds) == ("core", "decide", ("code",))
    assert policy.params == {"max_n": 3, "ratio": 1.5, "trusted": ["evolution"]}
    assert loaded.applicable("decide", "code") == [policy]
    assert loaded.applicable("screen", "code") == []
    assert ("decide", "architecture") in loaded.uncovered()
    assert ("decide", "code") not in loaded.uncovered()


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("lockgate/v1", "lockgate/v2", "core.yaml:1", "v1"),
        ("owner: safety", "owner: ''", "core.yaml:3", "at least 1"),
        (", owner: safety", "", "core.yaml:3", "owner"),
        ("stage: decide", "stage: later", "core.yaml:4", "screen"),
        ("kinds: [code]", "kinds: []", "core.yaml:4", "kinds"),
        ("kinds: [code]", "kinds: [guesses]", "core.yaml:4", "kinds"),
        (", kinds: [code]", "", "core.yaml:4", "kinds"),
        ("otherwise: hold", "otherwise: ignore", "core.yaml:11", "deny"),
        ("    otherwise: hold\n", "", "core.yaml:9", "otherwise"),
        ("    otherwise: hold", "    otherwise: hold\n    failurePolicy: Ignore", "core.yaml:12", "Extra"),
        ("id: few", "id: Few!", "core.yaml:9", "pattern"),
        ("id: people", "id: few", "core.yaml:14", "taken, at core.yaml:9"),
        ("params.max_n", "params.max_m", "core.yaml:10:44", "undefined field 'max_m'"),
        ("<= params.max_n", "<= params.ratio", "core.yaml:10:35", "no matching overload"),
        ("require: size(humans) > 0", "require: size(humans)", "core.yaml:15:14", "INT, not BOOL"),
        ("a.role == 'human'", "a.rol == 'human'", "core.yaml:7:48", "undefined field 'rol'"),
        ("name: humans", "name: gates", "core.yaml:7", "taken"),
        ("name: humans", "name: in", "core.yaml:7", "reserved"),
        ("string(change.lines_changed) +", "change.lines_changed +", "core.yaml:12:40", "no matching overload"),
        ("\"string(change.lines_changed) + ' lines'\"", "change.lines_changed", "core.yaml:12", "must be a string"),
        ("{lines: change.lines_changed}", "{lines: change.lines}", "core.yaml:13:26", "undefined field 'lines'"),
        ("trusted: [evolution]", "trusted: []", "core.yaml:5", "not empty"),
        ("trusted: [evolution]", "trusted: [a, 1]", "core.yaml:5", "of one kind"),
        ("trusted: [evolution]", "Trusted: [a]", "core.yaml:5", "cannot name"),
        ("trusted: [evolution]", "trusted: null", "core.yaml:5", "a param is"),
        ("rules:", "rules: []\nmore:", "core.yaml:9", "more"),
        ("kind: ChangePolicy", "kind: ChangePolicy\nkind: ChangePolicy", "core.yaml:3", "duplicate"),
    ],
)
def test_mistakes_are_told_with_file_line_and_column(old: str, new: str, where: str, message: str) -> None:
    """Whatever is wrong with a policy is a PolicyError at its place when the policy is loaded."""
    assert old in POLICY
    with pytest.raises(PolicyError, match=message) as caught:
        policy_set_of([source(POLICY.replace(old, new))])
    place = caught.value.where or ""
    assert re.fullmatch(r"core\.yaml:[0-9]+:[0-9]+", place)
    assert f"{place}:".startswith(f"{where}:")


def test_a_block_expression_has_the_line_of_its_mistake() -> None:
    """In a block scalar the line of a mistake is counted within the block, and its column within the line."""
    text = POLICY.replace(
        "require: size(humans) > 0", "require: |\n      code.parses\n      && code.pars\n     ".rstrip()
    )
    with pytest.raises(PolicyError, match="pars") as caught:
        policy_set_of([source(text)])
    assert caught.value.where == "core.yaml:17:14"


def test_the_digest_covers_text_and_overrides_only() -> None:
    """Equal sources have equal digests in any order and under any file name; another text or override has another."""
    other = POLICY.replace("name: core", "name: other")
    same = policy_set_of([source(), source(other)]).digest
    assert policy_set_of([source(other), PolicySource(name="elsewhere.yaml", text=POLICY)]).digest == same
    assert policy_set_of([source()]).digest != same
    assert policy_set_of([source(max_n=4)]).digest != policy_set_of([source()]).digest
    assert policy_set_of([source(POLICY + "# more\n")]).digest != policy_set_of([source()]).digest


def test_sources_make_the_same_set_again() -> None:
    """A set made from a set's JSON is the same set: a reviewer can judge by the very rules."""
    first = policy_set_of([source(max_n=4)])
    again = policy_set_of([PolicySource.parse(value) for value in first.json_value()])
    assert again.digest == first.digest
    assert again.policies[0].params == first.policies[0].params


def test_overrides_keep_the_type() -> None:
    """An override replaces a value of the same type, an integer does for a float, and nothing else is taken."""
    assert policy_set_of([source(max_n=9, ratio=2)]).policies[0].params["ratio"] == 2.0
    for wrong in (
        {"max_n": 2.5},
        {"max_n": "9"},
        {"trusted": []},
        {"trusted": "x"},
        {"max_n": True},
        {"trusted": ["\0"]},
    ):
        with pytest.raises(PolicyError, match=r"type|param"):
            policy_set_of([source(**wrong)])
    with pytest.raises(PolicyError, match="no param 'max_m'"):
        policy_set_of([source(max_m=1)])


def test_names_are_unique_in_a_set() -> None:
    """Two policies of one name cannot be told apart in a record, so they do not load together."""
    with pytest.raises(PolicyError, match="called core"):
        policy_set_of([source(), source(POLICY + "# other\n")])


def test_the_baseline_covers_every_stage_and_kind() -> None:
    """With the baseline pack alone every kind of proposal meets rules at both stages."""
    assert load_policies([BASELINE]).uncovered() == []


def test_a_subject_names_packs_paths_and_globs(tmp_path: Path) -> None:
    """Bare names are packs, others paths of the subject; overrides stand beside either."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "core.yaml").write_text(POLICY)
    (tmp_path / "policies" / "core.test.yaml").write_text("not: a policy")
    entries = [PolicyRef(pack="baseline", params={"max_lines": 7}), "policies/*.yaml"]
    loaded = load_subject_policies(entries, tmp_path)
    assert [s.name for s in loaded.sources] == ["policies/baseline.yaml", "policies/core.yaml"]
    assert loaded.policies[0].params["max_lines"] == 7
    direct = load_policies([BASELINE, tmp_path / "policies" / "core.yaml"], {BASELINE: {"max_lines": 7}})
    assert direct.digest == loaded.digest


@pytest.mark.parametrize("entry", ["nothing", "policies/*.yaml", "/etc/*.yaml", "gone.yaml", ""])
def test_an_entry_that_names_nothing_is_an_error(entry: str, tmp_path: Path) -> None:
    """A name or glob without a file is refused: a guard that is not there guards nothing."""
    with pytest.raises(PolicyError):
        resolve(entry, tmp_path)


def test_a_misspelt_pack_is_told_with_the_one_meant(tmp_path: Path) -> None:
    """A name near a pack's is answered with that pack, and any other with all of them."""
    for name, remedy in (("baselin", "did you mean baseline?"), ("zebra", "baseline, capability-thresholds, code")):
        with pytest.raises(PolicyError) as caught:
            resolve(name, tmp_path)
        assert remedy in str(caught.value)


def test_the_same_file_twice_is_an_error(tmp_path: Path) -> None:
    """A file named by two entries is refused."""
    with pytest.raises(PolicyError, match="twice"):
        load_subject_policies(["baseline", "baseline"], tmp_path)


def test_check_reports_every_problem(tmp_path: Path) -> None:
    """A check lists all problems of all files, the sound policies, and what no rule covers."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(POLICY.replace("params.max_n", "params.max_m").replace("size(humans) > 0", "1 == 1"))
    report = check([bad, tmp_path / "gone.yaml", BASELINE])
    assert not report.ok
    assert sorted(problem.where for problem in report.problems) == [
        f"{bad.as_posix()}:10:44",
        f"{bad.as_posix()}:15:14",
        (tmp_path / "gone.yaml").as_posix(),
    ]
    assert check([BASELINE]).ok
    assert not check([]).ok


def test_check_warns_of_what_nothing_reads(tmp_path: Path) -> None:
    """A param or variable that no expression reads is a warning with its place, and no problem."""
    path = tmp_path / "core.yaml"
    path.write_text(POLICY.replace("size(humans) > 0", "size(approvals) > 0"))
    report = check([path])
    assert report.ok
    told = [(warning.where.rpartition("/")[2], warning.message) for warning in report.warnings]
    assert told == [
        ("core.yaml:5:20", "no rule reads params.ratio"),
        ("core.yaml:5:32", "no rule reads params.trusted"),
        ("core.yaml:7:5", "no rule reads the variable humans"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ("require: size(humans)", "requires: size(humans)", "did you mean require?"),
        ("require: size(humans)", "must: size(humans)", "there is id, description, require"),
        ("otherwise: hold", "otherwise: ignore", "`deny` rejects, `hold` waits"),
        ("stage: decide", "stage: later", "`screen`, before anything is built"),
        ("owner: safety", "ownr: safety", "did you mean owner?"),
        ("kinds: [code]", "kinds: [guesses]", "Kinds of proposal"),
    ],
)
def test_mistakes_of_structure_say_what_to_write(old: str, new: str, remedy: str) -> None:
    """A key or value that the format does not know is told with the one that was probably meant."""
    with pytest.raises(PolicyError) as caught:
        policy_set_of([source(POLICY.replace(old, new))])
    assert remedy in str(caught.value)


def test_every_mistake_of_a_file_is_reported_at_once(tmp_path: Path) -> None:
    """Three mistakes in two policies of one file are three problems."""
    path = tmp_path / "core.yaml"
    other = POLICY.replace("name: core", "name: other").replace("id: few", "id: f").replace("id: people", "id: p")
    path.write_text(POLICY.replace("otherwise: hold", "otherwise: x").replace("owner: safety", "owner: 3") + "---\n"
                    + other.replace("params.max_n", "params.max_m"))  # fmt: skip
    places = [problem.where.rpartition("/")[2].split(":")[1] for problem in check([path]).problems]
    assert places == ["3", "11", "27"]


@given(st.text(max_size=100) | st.lists(st.sampled_from(POLICY.splitlines(keepends=True)), max_size=20).map("".join))
def test_any_text_loads_or_is_a_policy_error(text: str) -> None:
    """No policy file makes the loader raise anything but PolicyError."""
    try:
        policies = policy_set_of([source(text)]).policies
    except PolicyError as error:
        place = error.where or ""
    else:
        place = policies[0].located.where()
    assert place.startswith("core.yaml")
