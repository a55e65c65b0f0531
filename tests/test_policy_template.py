"""Facts about the policy that `policy new` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.policy import check
from harness.policy_format import format_policy
from harness.policy_template import new_policy
from harness.policy_test import test as run_tests


def test_a_new_policy_passes_its_own_tests(tmp_path: Path) -> None:
    """What is written compiles without a warning, is in its layout, and passes its suite."""
    policy, suite, *schemas = new_policy("cautious-2", tmp_path / "policies")
    report = check([policy])
    assert report.ok
    assert report.warnings == []
    assert report.policies[0].name == "cautious-2"
    assert run_tests([policy]).ok
    for path in (policy, suite):
        assert format_policy(path.read_text(), path.name) == path.read_text()
        assert (path.parent / path.read_text().splitlines()[0].partition("schema=")[2]) in schemas


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A second policy of the name is refused, and a schema that is there stays."""
    (tmp_path / "policy.schema.json").write_text("mine")
    new_policy("a", tmp_path)
    assert (tmp_path / "policy.schema.json").read_text() == "mine"
    with pytest.raises(ConfigError, match="there already"):
        new_policy("a", tmp_path)


@pytest.mark.parametrize("name", ["", "A", "../a", "a b", "a" * 64, "-a", "a\n"])
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: str) -> None:
    """A name that no policy can bear is refused before anything is written."""
    with pytest.raises(ConfigError, match="cannot name"):
        new_policy(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
