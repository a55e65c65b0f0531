"""Candidate code reaches no file, no variable, no label of this machine."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("attack", ["key_by_path", "key_by_dots", "key_by_proc_root"])
def test_a_key_is_out_of_reach(attack, blocked, key, victim):
    """A key that anybody may read outside cannot be opened inside, by any path."""
    blocked(attack, key=str(key), victim=str(victim.pid))


def test_a_leaked_descriptor_does_not_arrive(inside, outside, key):
    """A descriptor that the launcher left inheritable is closed inside."""
    descriptor = os.open(key, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        assert outside("key_by_leaked_descriptor", pass_fds=(descriptor,), secret=key.read_text())
        outcome = inside("key_by_leaked_descriptor", secret=key.read_text())
    finally:
        os.close(descriptor)
    assert outcome.header["blocked"]


def test_the_environment_does_not_arrive(inside, outside, victim, monkeypatch):
    """A secret in the launcher's environment, or in another process's, is in no environment inside."""
    secret = "a-canary-of-the-environment"
    monkeypatch.setenv("LOCKGATE_CANARY", secret)
    assert outside("environment_canary", secret=secret, victim=str(victim.pid), env={"LOCKGATE_CANARY": secret})
    assert inside("environment_canary", secret=secret, victim=str(victim.pid)).header["blocked"]


def test_a_package_with_labels_cannot_be_imported(blocked):
    """A data package that is installed here cannot be imported inside, not even from its real path."""
    pytest.importorskip("wordfreq")
    assert "ModuleNotFoundError" in blocked("label_canary", packages=sysconfig.get_path("purelib"))


def test_nothing_of_the_evaluator_is_mounted(blocked, tmp_path):
    """No guards, no evaluator, no keys and no data package lie below anything that can be listed inside."""
    (tmp_path / "guards.py").write_text("labels = [1, 2, 3]")
    blocked("label_by_walk", extra_roots=[str(tmp_path)])


def test_nothing_outside_can_be_written(blocked, key):
    """A folder that anybody may write outside does not change from inside."""
    folder = key.parent / "open"
    folder.mkdir()
    folder.chmod(0o777)
    blocked("write_outside", folder=str(folder))
    assert len(list(folder.iterdir())) == 1, "the control's own file, and no other"


def test_nothing_mounted_can_be_written(blocked, tmp_path):
    """The root, the devices, the job's files, kernel settings and the site are read-only inside."""
    blocked("write_system", extra_roots=[str(tmp_path)])


def test_a_job_file_cannot_be_changed(inside, key):
    """A file of the job itself is the launcher's own, and stays as it was."""
    outcome = inside("write_outside", files={"given": key.parent}, folder="/job/given")
    assert outcome.header["blocked"]
    assert list(Path(key.parent).iterdir()) == [key]


def test_nothing_is_left_for_the_next_job(inside):
    """What one job leaves in its scratch is gone when the next one looks."""
    for _ in range(2):
        assert inside("leave_leftovers", secret="left-by-a-job").header["blocked"]


def test_one_job_cannot_patch_the_next(inside):
    """Modules that one job patches are whole in the next one."""
    for _ in range(2):
        assert "nobody was here" in str(inside("poison").header["blocked"])
