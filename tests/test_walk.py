"""The walks in README, line by line as they stand there.

A policy author's: write a policy, be told of a slip, mend a test, read a denial, be told of a bound that was loosened.
A reviewer's: clone the kit, take a trail, verify it, find who allowed what.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rigs

from harness.kinds import kind_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
AUTHOR = next(block for block in BLOCKS if "policy new" in block)
WALK = next(block for block in BLOCKS if "$LOCKGATE" in block)


def walk(block, place, **told):
    """Run each line of a block in a folder; give what each printed. A line ends with 0, or as its comment says."""
    (place / "bin").mkdir()
    (place / "bin" / "python").symlink_to(sys.executable)
    (place / "bin" / "lockgate").write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m harness.cli "$@"\n')
    (place / "bin" / "lockgate").chmod(0o755)
    told |= {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "HOME": str(place), "COLUMNS": "200"}
    out = []
    for line in block.splitlines():
        expected = int((re.findall(r"# exit (\d):", line) or ["0"])[0])
        done = subprocess.run(["sh", "-euc", line], cwd=place, env=told, capture_output=True, text=True, check=False)
        if done.returncode != expected:
            pytest.fail(f"{line}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        out.append((line, done.stdout))
    return out


@pytest.fixture(scope="module")
def authored(finished, tmp_path_factory):
    """Walk the author's walk, about a proposal that the rules of a run have stopped; give what each line printed."""
    decided = next(
        e for e in rigs.trail_of(finished)[1] if kind_of(e) == "decided" and e.decision.reasons[0].code == "policy"
    )
    return walk(AUTHOR, tmp_path_factory.mktemp("author"), RUN=str(finished), PROPOSAL=str(decided.number))


def lines_of(authored, command):
    """What the lines of the author's walk with this command have printed, in order."""
    return [told for line, told in authored if f"lockgate policy {command} " in line]


def test_a_slip_is_told_with_its_place_and_what_was_meant(authored):
    """A misspelt field is an error with file, line, column and the field that was meant."""
    (told,) = lines_of(authored, "check")
    assert "mine/cautious.yaml:16:20: undefined field 'line_changed'" in told
    assert "(did you mean change.lines_changed?)" in told


def test_a_changed_bound_fails_the_suite_until_its_cases_say_so(authored):
    """One case fails by name and line with the rule's own message; mended, all pass, and no mutant lives."""
    failing, passing = lines_of(authored, "test")
    (told,) = re.findall("^FAIL (.*)$", failing, re.MULTILINE)
    assert told.startswith("mine/cautious.test.yaml:7:5: as large and as soon as allowed: expected pass")
    assert told.endswith("the outcome is hold: cautious/small: 100 lines changed, of at most 40")
    assert "4 of 4 cases ok" in passing
    assert re.search(r"(\d+) of \1 mutants killed", passing)


def test_a_denial_is_explained_to_the_part_that_was_false(authored):
    """The rule that stopped the proposal is shown with the value at fault, which the run itself had recorded."""
    (told,) = lines_of(authored, "explain")
    assert "deny" in told.splitlines()[0]
    assert "✗ packages-allowed → deny: imports socket, which is not on the list" in told
    assert 'foreign = ["socket"]' in told


def test_a_loosened_bound_is_caught_with_a_witness(authored):
    """`compare` blames the one rule, and shows a document just past the old bound."""
    (told,) = lines_of(authored, "compare")
    assert "WEAKER  cautious/small" in told
    assert "change.lines_changed = 41" in told
    assert "OLD: hold (cautious/small); NEW: pass" in told
    assert "ok      cautious/rested" in told


def test_the_author_s_walk_is_short(authored):
    """It is ten lines: a command of `lockgate policy` each, or one edit of a file."""
    assert len(authored) == 10
    assert all(line.startswith(("lockgate policy ", "sed ")) for line, _ in authored)


@pytest.fixture(scope="module")
def walked(finished, tmp_path_factory):
    """Walk it on a copy of a run's trail, without its private half; give the folder and what each line printed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is nothing to clone")
    place = tmp_path_factory.mktemp("walk")
    rigs.copy_run(finished, place / "whole")
    (place / "trail").mkdir()
    for part in ("log", "keys", "blobs", "models", "current"):  # what FORMAT.md calls the trail
        (place / "whole" / part).rename(place / "trail" / part)
    shutil.copy(finished / "keys" / "log.pub", place / "log.pub")  # kept since the run began
    entries = rigs.trail_of(finished)[1]
    index = next(at for at, entry in enumerate(entries) if kind_of(entry) == "authorised")
    told = {
        "RUN": str(place / "trail"), "ENTRY": str(index), "PROPOSAL": str(entries[index].number), "LOCKGATE": str(ROOT),
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
    }  # fmt: skip
    out = walk(WALK, place, **told)
    return place, out, entries[index]


def output(walked, start):
    """What the line of the walk that begins so has printed."""
    return next(told for line, told in walked[1] if line.startswith(start))


def test_the_walk_ends_well(walked):
    """Every line of the walk ends with 0, on the trail alone: nothing of it needs a private file of the run."""
    assert len(walked[1]) == len(WALK.splitlines()) >= 8
    assert output(walked, "python kit").startswith("valid at size ")


def test_the_verifier_is_the_clone_s(walked):
    """The verifier that ran is the one file in the clone, beside FORMAT.md and the vectors."""
    assert (walked[0] / "kit" / "audits" / "FORMAT.md").exists()
    command = ["git", "-c", "safe.directory=*", "show", "HEAD:audits/verify.py"]
    committed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    assert (walked[0] / "kit" / "audits" / "verify.py").read_bytes() == committed


def test_it_tells_who_allowed_what(walked):
    """The entry that allowed the version is shown with its signer, candidate and policies, which are the log's."""
    told, permission = output(walked, "lockgate audit show"), walked[2]
    for part in (permission.candidate, permission.policies, permission.evidence):
        assert part.removeprefix("sha256:")[:12] in told
    assert (walked[0] / "log.pub").read_text().split("+")[0] in told


def test_what_was_seen_is_not_verified_again(walked):
    """What --save wrote holds the head, and the last line of the walk goes on from there."""
    last = walked[1][-1]
    assert "--since seen.json" in last[0]
    assert json.loads((walked[0] / "seen.json").read_text())["state"]["size"] == int(
        re.findall(r"size (\d+)", last[1])[0]
    )


def test_a_walk_on_a_changed_trail_stops(walked, tmp_path):
    """The same first steps on a trail of which one byte of a blob was changed end with 5, and name the entry."""
    shutil.copytree(walked[0] / "trail", tmp_path / "trail", symlinks=True)
    evidence = walked[2].evidence.removeprefix("sha256:")
    blob = tmp_path / "trail" / "blobs" / "sha256" / evidence[:2] / evidence
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b" ")
    command = [
        sys.executable,
        walked[0] / "kit" / "audits" / "verify.py",
        tmp_path / "trail",
        "--key",
        walked[0] / "log.pub",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert re.match(r"invalid: entry \d+: the blob", done.stdout)
