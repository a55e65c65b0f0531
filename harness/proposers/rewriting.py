"""What every rewrite is: one pattern, one idea, and all modules that it makes of a given one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import libcst as cst

__all__ = ["Rewrite"]


class Rewrite(ABC):
    """One idea for better code."""

    name: ClassVar[str]
    why: ClassVar[str]

    @abstractmethod
    def variants(self, module: cst.Module) -> list[cst.Module]:
        """Return all modules that this rewrite makes of `module`, in a fixed order."""
