"""Python modules executed from bytes in memory: a verified source tree, importable under a private name.

The files become modules of one package, `_lockgate_…`, that nothing else can name by accident. Inside them an absolute
import of a neighbour (`import network`, `from parts.layer import x`) finds the neighbour's verified bytes; every other
import finds what the sandbox had, where the candidate was measured, or nothing (`importable.py`).

Rules. In the sandbox, the standard library and installed packages came before a file of the same name. A tree with such
a file is refused: imported here, it would run code that was never measured.

Not covered: compiled modules and data files beside the source, and `importlib.import_module` on a neighbour's plain
name. A module stays for the life of the process, as any other.
"""

from __future__ import annotations

import builtins
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, spec_from_loader
from types import CodeType, MappingProxyType, ModuleType
from typing import Any

from harness.errors import SubjectError
from harness.importable import Importable

__all__ = ["SourceTree"]

_COUNT = itertools.count()


class SourceTree(MetaPathFinder, InspectLoader):
    """One source tree as a private package."""

    def __init__(self, files: Mapping[str, bytes], label: str, packages: Iterable[str] = ()) -> None:
        """Take path → bytes. `label` (letters and digits) becomes part of the package's name; SubjectError.

        `packages` are distributions that the sandbox had besides the worker's own.
        """
        self._importable = Importable(packages)
        self._files = MappingProxyType(dict(files))
        self.package = f"_lockgate_{label}_{next(_COUNT)}"
        """The name of the package; files appear in tracebacks as `<package>/path`."""
        self._tops = {path.partition("/")[0].removesuffix(".py") for path in self._files if path.endswith(".py")}
        for name in sorted(self._tops):
            if self._importable.comes_first(name):
                raise SubjectError(
                    f"a source file named as the installed module '{name}', which came before it where it was measured",
                    where=name,
                    remedy="rename the file, and have the change measured again",
                )
        self._builtins = {**vars(builtins), "__import__": self._import}

    @property
    def root(self) -> str:
        """What stands before a file's path in tracebacks."""
        return f"<{self.package}>"

    def load(self, name: str) -> ModuleType:
        """Execute one module and what it imports; whatever that raises is raised."""
        if self not in sys.meta_path:
            sys.meta_path.append(self)
        return import_module(f"{self.package}.{name}")

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of this package, as Python would in a folder: a package, a file, a folder without code."""
        file = self._file(fullname)
        if file is None:
            return None
        inside = file.endswith("/__init__.py") or not file.endswith(".py")
        return spec_from_loader(fullname, self, origin=f"{self.root}/{file}", is_package=inside)

    def get_source(self, fullname: str) -> str | None:
        """The text of a module, for tracebacks and for code that reads its own source."""
        data = self._files.get(self._file(fullname) or "")
        return None if data is None else decode_source(data)

    def get_code(self, fullname: str) -> CodeType:
        """Compile the verified bytes; a folder without code is an empty module."""
        file = self._file(fullname)
        if file is None:
            raise ImportError(f"no module {fullname}")
        return compile(self._files.get(file, b""), f"{self.root}/{file}", "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Run it, with imports that know its neighbours."""
        vars(module)["__builtins__"] = self._builtins
        super().exec_module(module)

    def is_package(self, fullname: str) -> bool:
        """Tell whether modules may lie below it."""
        file = self._file(fullname)
        return file is not None and (file.endswith("/__init__.py") or not file.endswith(".py"))

    def _file(self, fullname: str) -> str | None:
        """The file of a module; for a folder without code, and for the package itself, a name that is no file."""
        if fullname == self.package:
            return ""
        if not fullname.startswith(f"{self.package}."):
            return None
        inner = fullname.removeprefix(f"{self.package}.").replace(".", "/")
        for file in (f"{inner}/__init__.py", f"{inner}.py"):
            if file in self._files:
                return file
        return f"{inner}/" if any(path.startswith(f"{inner}/") for path in self._files) else None

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the names of builtins.__import__
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` for the modules of this tree."""
        top = name.partition(".")[0]
        if not level and top not in self._tops:
            self._importable.check(name, fromlist or ())
        if level or top not in self._tops:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = builtins.__import__(f"{self.package}.{name}", globals, locals, fromlist or (), 0)
        return found if fromlist else sys.modules[f"{self.package}.{top}"]
