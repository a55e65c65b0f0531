"""The reviewer's walk in README, as it stands there: clone the kit, take a trail, verify it, find who allowed what."""

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

from harness.entries import kind_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
WALK = next(
    block for block in re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE) if "$LOCKGATE" in block
)


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
    (place / "bin").mkdir()
    (place / "bin" / "python").symlink_to(sys.executable)
    (place / "bin" / "lockgate").write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m harness.cli "$@"\n')
    (place / "bin" / "lockgate").chmod(0o755)
    told = {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "HOME": str(place), "RUN": str(place / "trail"),
        "LOCKGATE": str(ROOT), "ENTRY": str(index), "PROPOSAL": str(entries[index].number), "COLUMNS": "200",
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
    }  # fmt: skip
    out = []
    for line in WALK.splitlines():
        done = subprocess.run(["sh", "-euc", line], cwd=place, env=told, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"{line}: exit code {done.returncode}: {done.stdout}{done.stderr}")
        out.append((line, done.stdout))
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
