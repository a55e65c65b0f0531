"""Architecture search: evolution over the knobs of the network alone, whose children grow out of their parents.

The space is what the subject's `Recipe` declares with `json_schema_extra={"group": "architecture"}`, its ranges,
choices and conditions. A child inherits its parent's weights wherever that preserves what the parent answers
(`harness.growth`), so it needs less training to show whether the change helps; `inherit: false` trains from scratch.

It is a pure function of the ask. Settings: `inherit`, and those of `evolution`.
"""

from __future__ import annotations

from typing import Any

from harness.proposers import Ask, evolution, settings_of

__all__ = ["Settings", "propose"]


class Settings(evolution.Settings):
    """What a configuration may set; see the module's docstring."""

    inherit: bool = True


def propose(ask: Ask) -> list[dict[str, Any]]:
    """Return up to `ask.count` proposals of kind `architecture`, none of a point that was proposed before.

    Raises ProposerError for settings that do not fit, or a Recipe without a knob of the architecture.
    """
    settings = settings_of(ask, Settings, "architecture")
    documents = evolution.search(ask, settings, who="architecture", of=lambda knob: knob.group == "architecture")
    return [{**document, "inherit": True} for document in documents] if settings.inherit else documents
