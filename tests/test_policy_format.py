"""Facts about the layout of policies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import PolicyError
from harness.policy_format import format_policy

ROOT = Path(__file__).parent.parent
FILES = [*(ROOT / "policies").glob("*.yaml"), *(ROOT / "examples").glob("*/policies/*.yaml")]

UNTIDY = """\


# header
kind: ChangePolicy \x20
apiVersion: lockgate/v1
# about the rules
# two lines
rules:
  # first rule
  - require: |
      change.lines_changed <= 3
        && code.parses
    # why hold
    otherwise: hold
    id: small   # trailing
  - {id: b, require: code.parses, otherwise: deny}



match:
    kinds: all
    stage: decide
metadata: {name: x, owner: y}
---
metadata:
  owner: z
  # n
  name: q
kind: ChangePolicy
apiVersion: lockgate/v1
match: {stage: decide, kinds: all}
rules:
- require: code.parses
  id: zz
  otherwise: deny
# end
"""
TIDY = """\
# yaml-language-server: $schema=policy.schema.json
# header
apiVersion: lockgate/v1
kind: ChangePolicy
metadata: {name: x, owner: y}
match:
    stage: decide
    kinds: all
# about the rules
# two lines
rules:
  # first rule
  - id: small   # trailing
    require: |
      change.lines_changed <= 3
        && code.parses
    # why hold
    otherwise: hold
  - {id: b, require: code.parses, otherwise: deny}

---
apiVersion: lockgate/v1
kind: ChangePolicy
metadata:
  # n
  name: q
  owner: z
match: {stage: decide, kinds: all}
rules:
- id: zz
  require: code.parses
  otherwise: deny
# end
"""


def comments(text: str) -> Counter[str]:
    """Return the comments of a text whose strings hold no number sign."""
    return Counter(line.partition("#")[2].strip() for line in text.splitlines() if "#" in line)


def test_keys_are_ordered_and_comments_go_with_them() -> None:
    """Keys come in the order of the schema, each with the comments above it; blanks are cleaned."""
    assert format_policy(UNTIDY, "core.yaml") == TIDY


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_ready_made_files_are_in_their_layout(path: Path) -> None:
    """The packs and examples are what `fmt` would write."""
    assert format_policy(path.read_text(), path.name) == path.read_text()


def test_other_ends_of_lines_are_mended() -> None:
    """A byte order mark and DOS ends of lines go."""
    assert format_policy("\ufeff" + UNTIDY.replace("\n", "\r\n"), "core.yaml") == TIDY


def test_blanks_that_mean_something_stay() -> None:
    """Trailing blanks and empty lines inside of a text that keeps them are part of its value."""
    text = TIDY.replace("description", "").replace("    # why hold\n", "    message: |+\n      a  \n\n\n\n      b\n")
    formatted = format_policy(text, "core.yaml")
    assert "      a  \n\n\n\n      b\n" in formatted


def test_what_is_no_yaml_is_refused_with_its_place() -> None:
    """A file that does not parse is a PolicyError, and is not touched."""
    with pytest.raises(PolicyError) as caught:
        format_policy("a: [", "core.yaml")
    assert (caught.value.where or "").startswith("core.yaml:1:")


BLOCKS = st.lists(st.sampled_from(UNTIDY.splitlines(keepends=True)), max_size=25).map("".join) | st.permutations(
    UNTIDY.split("\nrules:", maxsplit=1)[0].splitlines(keepends=True)
).map("".join)


@given(BLOCKS)
def test_any_file_keeps_its_meaning_and_its_comments(text: str) -> None:
    """Whatever the lines, the values and the comments stay, and a second pass changes nothing."""
    try:
        formatted = format_policy(text, "core.yaml")
    except PolicyError:
        return
    assert list(yaml.safe_load_all(formatted)) == list(yaml.safe_load_all(text))
    added = Counter({"yaml-language-server: $schema=policy.schema.json": 1})
    assert comments(formatted) == comments(text) + added
    assert format_policy(formatted, "core.yaml") == formatted
