"""Hypothesis profiles, chosen explicitly: with CI set, hypothesis would load one of its own."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("LOCKGATE_HYPOTHESIS", "ci" if os.environ.get("CI") else "dev"))
