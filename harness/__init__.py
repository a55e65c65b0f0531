"""Lockgate: a safety-gated self-improvement harness for torch models.

Serving code takes what it needs from here: `load_promoted` and `Trust`. They are fetched when they are asked for,
because every room imports this page and most of them serve nothing.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = ["PromotedModel", "ServedModel", "Trust", "__version__", "load_promoted"]

_ROOMS = {"Trust": "bundle", "PromotedModel": "serving", "ServedModel": "serving", "load_promoted": "serving"}


def __getattr__(name: str) -> Any:
    """Fetch a public name from its room. By a string: whoever reads the version must not depend on all below it."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
