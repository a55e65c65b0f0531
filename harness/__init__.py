"""Lockgate: a safety-gated self-improvement harness for torch models."""

from __future__ import annotations

__version__ = "0.1.0"
