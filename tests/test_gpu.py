"""The path to an accelerator: what can be said without one, and the whole of it where there is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import SandboxError
from harness.sandbox import Job, Site, cuda_devices, run_cold

BENCHMARK = Path(__file__).parent / "benchmarks" / "gpu.py"


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_devices(), reason="no CUDA device on this machine")
def test_a_build_reaches_its_device():
    """A sandboxed build runs on CUDA, warm and cold."""
    done = subprocess.run([sys.executable, str(BENCHMARK)], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(bool(cuda_devices()), reason="there is a CUDA device")
def test_without_a_device_the_benchmark_says_so():
    """The benchmark names the reason, and does not fail."""
    done = subprocess.run([sys.executable, str(BENCHMARK)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "skipped: no CUDA device\n"


@pytest.mark.parametrize("device", ["cuda:99", "cuda:x", "cuda:../null", "tpu", ""])
def test_a_device_that_is_not_there_is_refused(device):
    """A device is mounted by its number, and nothing else can be named as one."""
    with pytest.raises(SandboxError, match="no device"):
        run_cold(Job(entry="build", device=device, site=Site.of(())), "zygote")
