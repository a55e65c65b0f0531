"""Candidate code gets no privilege and no way into the kernel beyond training's needs."""

from __future__ import annotations

import platform
import sys

import pytest

from harness.isolation import seccomp

pytestmark = pytest.mark.timeout(60)

DANGEROUS = [
    "io_uring_setup", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "setns", "pivot_root", "fsopen",
    "open_tree", "mount_setattr", "memfd_secret", "open_by_handle_at", "mq_open", "msgget", "semget", "ptrace",
    "process_vm_writev", "pidfd_getfd", "personality", "kcmp", "fanotify_init", "name_to_handle_at",
]  # fmt: skip


@pytest.mark.parametrize("attack", ["remount", "user_namespace", "clone3", "terminal_injection"])
def test_no_namespace_mount_or_terminal(attack, blocked):
    """What makes namespaces, changes mounts or types into a terminal is refused."""
    blocked(attack)


@pytest.mark.root
def test_nobody_becomes_root(blocked):
    """The uid that the sandbox dropped cannot be had back."""
    assert "PermissionError" in blocked("become_root")


def test_nothing_can_be_executed(blocked):
    """No program starts, not even the interpreter itself."""
    blocked("execute", program=sys.executable)


@pytest.mark.parametrize("name", DANGEROUS)
def test_a_dangerous_call_is_refused(name, blocked):
    """A call that the kernel looks at outside is refused inside before it does."""
    assert "Operation not permitted" in blocked("system_call", number=seccomp.number(name, platform.machine()))
