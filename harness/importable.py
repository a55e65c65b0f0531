"""What code that was measured in the sandbox may import where it is served: the same names, from the same places.

In the sandbox there are the standard library, the closure of the site's distributions, and the candidate's own files
(`isolation/site.py`). A serving process has more on its path, in another order. Here a name is judged before it is
imported: one that the sandbox did not have is a ModuleNotFoundError, as it was there, so that code which tries it and
does without does the same; one that the sandbox had, and that would come from elsewhere here, is a SubjectError, which
no `except ImportError` takes for an absence.

Not covered: what installed packages import in their turn, `importlib.import_module` called by the code itself, and
that installed versions are those of the sandbox.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

from harness.errors import SandboxError, SubjectError
from harness.isolation.site import Site, standard_library

__all__ = ["Importable"]

_THIRD_PARTY = {"site-packages", "dist-packages"}
_IN_THE_INTERPRETER = {"built-in", "frozen"}


class Importable:
    """The names of one site and of the standard library, and where each must come from."""

    def __init__(self, packages: Iterable[str] = ()) -> None:
        """Take the distributions that the site has besides the worker's; SubjectError where one is not installed."""
        self._places: dict[str, str] = {}
        for path, source in _entries(tuple(sorted(packages))):
            name = path.removesuffix("/__init__.py").removesuffix(".py")
            if name.endswith(".so"):
                above, slash, file = path.rpartition("/")
                name = above + slash + file.partition(".")[0]
            if "." not in name:  # not the metadata beside a package
                self._places[name.replace("/", ".")] = source
        self._spaces = {name[:at] for name in self._places for at, mark in enumerate(name) if mark == "."}
        self._sound: set[str] = set()

    def comes_first(self, top: str) -> bool:
        """Whether a top-level name was the standard library's or the site's, before any file of that name."""
        return top in sys.stdlib_module_names or top in self._places or top in self._spaces

    def check(self, name: str, fromlist: Iterable[str] = ()) -> None:
        """Return where the sandbox had this module, and it comes from its own place; see the module's docstring."""
        if name not in self._sound:
            self._check(name)
            self._sound.add(name)
        if name in self._spaces:  # elsewhere all that lies below a name is the sandbox's, too
            for item in fromlist:
                inner = f"{name}.{item}"
                if inner in self._places or inner in self._spaces or _spec(inner) is not None:
                    self.check(inner)

    def _check(self, name: str) -> None:
        parts = name.split(".")
        if parts[0] in sys.stdlib_module_names:
            self._from(parts[0], standard_library(), third_party=False)
            return
        for depth in range(1, len(parts) + 1):
            above = ".".join(parts[:depth])
            place = self._places.get(above)
            if place is not None:
                self._from(above, (place,), third_party=True)
                if above == name or above not in self._spaces:
                    return
            elif above not in self._spaces:
                break
            elif above == name:
                return
        raise ModuleNotFoundError(
            f"no module '{name}' where this model was measured, beside the standard library, its own source and what "
            "torch, numpy, safetensors and pydantic bring; distributions that `packages` of the run's lockgate.yaml "
            "names are given to `build(packages=[…])`",
            name=name,
        )

    @staticmethod
    def _from(name: str, places: Iterable[str], *, third_party: bool) -> None:
        """SubjectError where a module that is here comes from none of these places; one that is not here is no harm."""
        spec = _spec(name)
        if spec is None or (not third_party and spec.origin in _IN_THE_INTERPRETER):
            return
        origins = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
        if origins and all(any(_below(origin, place, third_party) for place in places) for origin in origins):
            return
        raise SubjectError(
            f"'{name}' would come from {', '.join(origins) or 'nowhere'}, and not from where it was measured",
            where=name,
            remedy="take what lies there off sys.path, and start again",
        )


def _spec(name: str) -> ModuleSpec | None:
    """How a module was or would be found; nothing of it runs, but packages above it."""
    module = sys.modules.get(name)
    if module is not None:
        found = getattr(module, "__spec__", None)
        return (
            found if isinstance(found, ModuleSpec) else ModuleSpec(name, None, origin=getattr(module, "__file__", None))
        )
    try:
        return find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def _below(path: str, place: str, third_party: bool) -> bool:
    real = os.path.realpath(path)
    if real == place:
        return True
    inner = real.removeprefix(place.rstrip("/") + "/")
    return inner != real and (third_party or not _THIRD_PARTY & set(inner.split("/")))


@cache
def _entries(packages: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The site's files, once a process: it reads all metadata."""
    try:
        return Site.minimal(packages).entries
    except SandboxError as error:
        raise SubjectError(error.message, where="packages", remedy=error.remedy) from error
