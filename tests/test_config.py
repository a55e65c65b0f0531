"""Facts about `lockgate.yaml`: what is malformed is refused, and the place is named."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trails import CONFIG_TEXT

from harness.config import Config, load_config, parse_config
from harness.errors import ConfigError

LINES = CONFIG_TEXT.splitlines()
GATES = LINES.index("gates:") + 1


def test_the_least_configuration_has_defaults():
    """Name, objective, gates and proposers suffice; everything else has a default."""
    config = parse_config(CONFIG_TEXT)
    assert (config.mutable, config.policies, config.ledger.delta, config.vault.dir) == (
        ["model.py"],
        ["baseline"],
        0.05,
        None,
    )
    assert config.generation_size == 2


def test_a_configuration_comes_back_from_its_record():
    """A configuration that went into the log as JSON is the same when it is read back."""
    config = parse_config(CONFIG_TEXT)
    assert Config.parse(config.json_value()) == config


def test_fixed_slots_are_written_as_before_there_were_others():
    """Slots as configured leave no member in the log; slots by a bandit do, and come back from it."""
    fixed, bandit = parse_config(CONFIG_TEXT + "allotment: fixed\n"), parse_config(CONFIG_TEXT + "allotment: bandit\n")
    assert fixed.json_value() == parse_config(CONFIG_TEXT).json_value()
    assert "allotment" not in fixed.json_value()
    assert Config.parse(bandit.json_value()).allotment == "bandit"


@pytest.mark.parametrize("pattern", ["**/*.py", "*", "*.py", "lib/**/a*b?.py", "[ab]*.py", "a*"])
def test_a_pattern_of_mutable_files_is_one_that_finds_files(tmp_path, pattern):
    """Every pattern that a configuration may have can be looked for."""
    assert list(tmp_path.glob(parse_config(f"{CONFIG_TEXT}mutable: ['{pattern}']\n").mutable[0])) == []


MALFORMED = {
    "no YAML": ("gates: [", "expected|while|not YAML"),
    "not a mapping": ("- apiVersion", "mapping"),
    "an unknown field": (CONFIG_TEXT + "gate: []\n", "Extra inputs"),
    "a duplicate key": (CONFIG_TEXT + "name: other\n", "duplicate"),
    "another version": (CONFIG_TEXT.replace("lockgate/v1", "lockgate/v2"), "lockgate/v1"),
    "another kind": (CONFIG_TEXT.replace("Subject", "Policy"), "Subject"),
    "a name with a space": (CONFIG_TEXT.replace("name: paper", "name: my paper"), "pattern"),
    "an anchor": (CONFIG_TEXT.replace("name: paper", "name: &a paper"), "anchors"),
    "a number as text": (CONFIG_TEXT + "generations: '3'\n", "integer"),
    "a number that is no integer": (CONFIG_TEXT + "generations: 2.5\n", "integer"),
    "no generation": (CONFIG_TEXT + "generations: 0\n", "greater than 0"),
    "no gate": (
        CONFIG_TEXT.replace(LINES[GATES], "").replace(LINES[GATES + 1], "").replace("gates:", "gates: []"),
        "item",
    ),
    "an unknown kind of gate": (CONFIG_TEXT.replace("kind: parent", "kind: uncle"), "'improve'"),
    "a gate without its margin": (CONFIG_TEXT.replace(", margin: 0.1", ""), "needs 'margin'"),
    "a gate with another's field": (CONFIG_TEXT.replace("margin: 0.1", "threshold: 0.1"), "margin|threshold"),
    "a margin of nothing": (CONFIG_TEXT.replace("margin: 0.1", "margin: 0"), "greater than 0"),
    "a margin that is no number": (CONFIG_TEXT.replace("margin: 0.1", "margin: .nan"), "finite"),
    "two gates alike": (
        CONFIG_TEXT.replace("{eval: parity, kind: parent, margin: 0.1}", "{eval: accuracy, kind: improve}"),
        "two gates",
    ),
    "no gate of the objective": (
        CONFIG_TEXT.replace("objective: accuracy", "objective: parity"),
        "no gate of kind improve",
    ),
    "improvement of what is not the objective": (
        CONFIG_TEXT.replace("kind: parent, margin: 0.1", "kind: improve"),
        "exactly one gate of kind improve",
    ),
    "no proposer": (CONFIG_TEXT.replace("{scripted: 2}", "{}"), "at least 1"),
    "a proposer without a share": (CONFIG_TEXT.replace("scripted: 2", "scripted: 0"), "greater than 0"),
    "settings for a proposer that is not there": (CONFIG_TEXT + "proposer_settings: {evolution: {}}\n", "not listed"),
    "a model without settings": (
        CONFIG_TEXT.replace("scripted: 2", "llm: 2"),
        r"proposer_settings.llm: endpoint: Field required",
    ),
    **{
        f"a model with {told}": (
            CONFIG_TEXT.replace("scripted: 2", "llm: 2")
            + f"proposer_settings:\n  llm: {{endpoint: 'http://127.0.0.1:1/v1', model: m, budget_tokens: 9, {told}}}\n",
            message,
        )
        for told, message in {
            "colour: blue": "colour: Extra inputs",
            "api_key: sk-1": "api_key: Extra inputs",
            "api_key_env: 'sk-proj-1'": "api_key_env: String should match",
            "budget_cost: 1.0": "needs price_in and price_out",
            "timeout_seconds: 0.0": "timeout_seconds: Input should be greater",
            "retries: 99": "retries: Input should be less",
            "proxy: 'http://10.0.0.1:3128'": "http:// is for this machine alone",
        }.items()
    },
    **{
        f"an endpoint at {url}": (
            CONFIG_TEXT.replace("scripted: 2", "llm: 2")
            + f"proposer_settings:\n  llm: {{model: m, budget_tokens: 9, endpoint: '{url}'}}\n",
            message,
        )
        for url, message in {
            "http://example.org/v1": "http:// is for this machine alone",
            "http://localhost.example.org/v1": "http:// is for this machine alone",
            "https://key@example.org/v1": "no user",
            "https://example.org/v1?key=1": "no user, no query",
            "ftp://example.org": "the URL is https://",
            "https:///v1": "the URL is https://",
            "127.0.0.1:8080": "the URL is https://",
            "https://[::1/v1": "Invalid IPv6",
            "https://example.org:99999/": "out of range",
        }.items()
    },
    "an unknown allotment": (CONFIG_TEXT + "allotment: fair\n", "'fixed' or 'bandit'"),
    "no policy": (CONFIG_TEXT + "policies: []\n", "at least 1"),
    "a delta of one half": (CONFIG_TEXT + "ledger: {delta: 0.5}\n", "less than 0.5"),
    "a delta of nothing": (CONFIG_TEXT + "ledger: {delta: 0}\n", "greater than 0"),
    "a budget below nothing": (CONFIG_TEXT + "budgets: {proposals: -1}\n", "greater than 0"),
    "too many workers": (CONFIG_TEXT + "workers: {count: 65}\n", "less than or equal to 64"),
    "no isolation": (CONFIG_TEXT + "workers: {isolation: none}\n", "zygote"),
    "a path out of the subject": (CONFIG_TEXT + "mutable: [../model.py]\n", "pattern"),
    "a path from the root": (CONFIG_TEXT + "mutable: [/model.py]\n", "pattern"),
    "a pattern without a meaning": (CONFIG_TEXT + "mutable: ['a**']\n", "pattern"),
    "another pattern without a meaning": (CONFIG_TEXT + "mutable: ['lib/***/a.py']\n", "pattern"),
    "an empty path": (CONFIG_TEXT + "mutable: ['']\n", "pattern"),
    "two documents": (CONFIG_TEXT + "---\na: 1\n", "more than one"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_malformed_is_refused_with_its_line(case):
    """Each mistake is a ConfigError that names file and line, and says what is wrong."""
    text, message = MALFORMED[case]
    with pytest.raises(ConfigError, match=message) as error:
        parse_config(text)
    assert re.fullmatch(r"lockgate\.yaml:[1-9][0-9]*(:[1-9][0-9]*)?", error.value.where)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: paper", "name: my paper"),
        ("objective: accuracy", "objective: 3"),
        ("{eval: parity, kind: parent, margin: 0.1}", "{eval: parity, kind: parent}"),
        ("proposers: {scripted: 2}", "proposers: {scripted: none}"),
    ],
)
def test_the_line_is_the_one_with_the_mistake(old, new):
    """The line named is the one on which the mistake stands."""
    text = CONFIG_TEXT.replace(old, new)
    with pytest.raises(ConfigError) as error:
        parse_config(text)
    line = int(error.value.where.split(":")[1])
    assert new in text.splitlines()[line - 1]


def test_the_line_of_a_model_is_the_one_with_the_mistake():
    """Of settings of a model over several lines, the line named is the mistake's; sound ones are taken as written."""
    text = CONFIG_TEXT.replace("scripted: 2", "llm: 2") + (
        "proposer_settings:\n  llm:\n    endpoint: https://example.org/v1\n    model: m\n    budget_tokens: 9\n    retries: 2\n"
    )
    assert parse_config(text).proposer_settings["llm"]["retries"] == 2
    with pytest.raises(ConfigError) as error:
        parse_config(text.replace("retries: 2", "retries: two"))
    assert (
        "retries: two"
        in text.replace("retries: 2", "retries: two").splitlines()[int(error.value.where.split(":")[1]) - 1]
    )


@given(st.integers(0, len(LINES) - 1), st.text(st.characters(max_codepoint=0x2FF), max_size=30))
def test_any_line_is_read_or_refused(number, text):
    """With any line put in place of another, the text is a configuration, or a ConfigError that names a line."""
    lines = [*LINES[:number], text, *LINES[number + 1 :]]
    try:
        config = parse_config("\n".join(lines))
    except ConfigError as error:
        assert re.fullmatch(r"lockgate\.yaml:[1-9][0-9]*(:[1-9][0-9]*)?", error.where)  # noqa: PT017 - one of two good ends
    else:
        assert Config.parse(config.json_value()) == config


@given(st.sampled_from(["ledger", "vault", "budgets", "workers", "development", "policies", "mutable", "gates", "packages"]),
       st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.sampled_from(["a", "b: c"]),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["cap", "delta", "dir"]), inner),
                    max_leaves=4))  # fmt: skip
def test_any_value_of_a_field_is_read_or_refused(field, value):
    """A field of any JSON value is read, or refused by a ConfigError that names a line."""
    import json

    try:
        parse_config(f"{CONFIG_TEXT}{field}: {json.dumps(value)}\n")
    except ConfigError as error:
        assert error.where.startswith("lockgate.yaml:")  # noqa: PT017 - one of two good ends


def test_no_folder_is_one_clear_error(tmp_path):
    """A subject that is no folder, one without the file, and one that is not UTF-8 are ConfigErrors naming the place."""
    with pytest.raises(ConfigError, match="no such folder"):
        load_config(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="cannot be read") as error:
        load_config(tmp_path)
    assert error.value.where == str(tmp_path / "lockgate.yaml")
    (tmp_path / "lockgate.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path)
    (tmp_path / "lockgate.yaml").write_bytes(b"#" * 300_000)
    with pytest.raises(ConfigError, match="larger than"):
        load_config(tmp_path)
