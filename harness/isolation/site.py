"""The minimal site: the few packages that code in the sandbox can import, and nothing else of this machine.

A mounted data package is a mounted answer sheet, so a site is the closure of named distributions over their
declared requirements, taken from the metadata of what is installed, and never a whole site-packages. A
directory that a distribution shares with others (a namespace package) is opened up, until each part belongs
to the closure alone.

`Farm` lays a site out as a directory of symbolic links. A warm worker imports from it; inside a sandbox the
same path holds read-only mounts of the same files, so that what was imported and what is imported later agree.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path

from harness.errors import SandboxError

WORKER = ("torch", "numpy", "safetensors", "pydantic")
"""The distributions that every worker needs."""

_CODE = Path(__file__).resolve().parent.parent
# Of the harness, what runs inside: never guards, never keys
_OWN = ("__init__.py", "context.py", "errors.py", "growth.py", "warmstart.py", "watching.py", "worker.py")


@dataclass(frozen=True)
class Site:
    """A set of files by their path below the site: what can be imported, and from where it is mounted.

    `entries` are (path below the site, path on this machine), sorted; `distributions` their names. Make one by
    `minimal` or `of`.
    """

    distributions: tuple[str, ...]
    entries: tuple[tuple[str, str], ...]
    preload: tuple[str, ...] = field(default=())

    @classmethod
    def minimal(cls, extra: Iterable[str] = ()) -> Site:
        """Return the worker's site: torch, numpy, safetensors, pydantic, `extra` distributions, the worker's code.

        Raises SandboxError when one of them is not installed.
        """
        site = cls.of((*WORKER, *extra))
        preload = ("torch", "torch._dynamo", "torch.utils.flop_counter", "numpy", "safetensors.torch", "pydantic")
        return cls(site.distributions, site.entries, (*preload, "harness.warmstart", "harness.worker"))

    @classmethod
    def of(cls, distributions: Iterable[str], packages: Iterable[Path] = ()) -> Site:
        """Return a site of the closure of `distributions` and of whole package directories, or modules, by path.

        The harness's own inner files are always part of it; passing the harness's directory in `packages` mounts
        all of it instead. Raises SandboxError for what is not there, or cannot be told apart from its neighbours.
        """
        closure = _closure(distributions)
        entries = _entries(closure)
        own = True
        for package in packages:
            path = Path(package).resolve()
            if not path.exists():
                raise SandboxError(f"no package at {package}")
            own = own and path != _CODE
            entries[path.name] = str(path)
        if own:
            entries |= {f"harness/{name}": str(_CODE / name) for name in _OWN if (_CODE / name).exists()}
            entries["harness/isolation"] = str(_CODE / "isolation")
        return cls(tuple(sorted(closure)), tuple(sorted(entries.items())))

    @classmethod
    @cache
    def bare(cls) -> Site:
        """Return the smallest site, made once: the standard library, and the harness's inner files.

        It is what programs that candidates write run on.
        """
        return cls.of(())


class Farm:
    """A site on disk as symbolic links below `path`, until `close`."""

    def __init__(self, site: Site) -> None:
        """Lay the links out in a fresh directory of the caller's own."""
        self._folder = Path(tempfile.mkdtemp(prefix="lockgate-"))
        self.path = self._folder / "site"
        self.root = self._folder / "root"  # an empty directory, for the job's root to be mounted on
        self.site = site
        self.root.mkdir()
        for name, source in site.entries:
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
        self.path.mkdir(exist_ok=True)

    @property
    def binds(self) -> list[tuple[str, str]]:
        """What to mount, as (path on this machine, path in the sandbox)."""
        return [(source, str(self.path / name)) for name, source in self.site.entries]

    def close(self) -> None:
        """Remove the links; the files they point at stay."""
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True)
class Python:
    """What of this machine an interpreter needs: `executable`, `binds` (source, target), `covers` to hide."""

    executable: str
    binds: tuple[tuple[str, str], ...]
    covers: tuple[str, ...]


def python_mounts(*, executable: bool) -> Python:
    """Find the interpreter's standard library and the shared libraries that it may load.

    Third-party directories below them are listed in `covers`, to be hidden under an empty directory.
    `executable` adds the program itself, which a fork does not need.
    """
    folders = {*standard_library(), *_library_folders()}
    program = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    binds = {path: path for path in folders if not any(_below(path, other) for other in folders - {path})}
    if executable:
        loader = os.path.realpath("/lib64")  # where the ABI of x86-64 has the dynamic loader
        if Path(loader).is_dir() and not any(_below(loader, path) or loader == path for path in binds):
            binds[loader] = loader
        binds[program] = program
        shared = sysconfig.get_config_var("LDLIBRARY") or ""
        library = Path(sysconfig.get_config_var("LIBDIR") or "/nowhere", str(shared))
        if shared.endswith(".so") and os.path.exists(library):  # noqa: PTH110  # False also where it may not be looked at
            for name in {str(library), str(library.resolve())}:
                if not any(_below(name, folder) for folder in folders):
                    binds[name] = str(library.resolve())
    covers = set()
    for folder in binds:
        if Path(folder).is_dir():
            for pattern in ("site-packages", "dist-packages", "python3*/site-packages", "python3*/dist-packages"):
                covers |= {str(path) for path in Path(folder).glob(pattern) if path.is_dir() and not path.is_symlink()}
    pairs = sorted((target, source) for target, source in binds.items())
    return Python(program, tuple((source, target) for target, source in pairs), tuple(sorted(covers)))


def standard_library() -> frozenset[str]:
    """The folders of the interpreter's standard library, whatever environment is active."""
    return frozenset(os.path.realpath(sysconfig.get_path(name, vars=_base())) for name in ("stdlib", "platstdlib"))


def _base() -> dict[str, str]:
    return {"installed_base": sys.base_prefix, "base": sys.base_prefix, "platbase": sys.base_exec_prefix,
            "installed_platbase": sys.base_exec_prefix}  # fmt: skip


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _library_folders() -> list[str]:
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    candidates = [f"/usr/lib/{triplet}", f"/lib/{triplet}"] if triplet else []
    if not any(Path(path).is_dir() for path in candidates):
        candidates = ["/usr/lib64", "/lib64"]
    return sorted({os.path.realpath(path) for path in candidates if Path(path).is_dir()})


def _closure(names: Iterable[str]) -> dict[str, metadata.Distribution]:
    """Follow declared requirements, without extras that nobody asked for, as PEP 508 markers say."""
    closure: dict[str, metadata.Distribution] = {}
    waiting = [(name, False) for name in names]
    while waiting:
        text, optional = waiting.pop()
        name, extras = _requirement_name(text)
        key = _normal(name)
        if key in closure:
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            if optional:  # a marker that we cannot evaluate (another platform's requirement)
                continue
            raise SandboxError(
                f"the sandbox's site needs {name!r}, which is not installed", remedy=f"pip install {name}"
            ) from error
        closure[key] = found
        for requirement in found.requires or []:
            wanted, certain = _applies(requirement, extras)
            if wanted:
                waiting.append((requirement, not certain))
    return closure


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _requirement_name(text: str) -> tuple[str, frozenset[str]]:
    """Split `name[extra] >=1; marker` into its name and extras (PEP 508)."""
    head = text.partition(";")[0].strip()
    end = next((i for i, letter in enumerate(head) if not (letter.isalnum() or letter in "-_.")), len(head))
    rest = head[end:].strip()
    extras = rest[1 : rest.index("]")].split(",") if rest.startswith("[") and "]" in rest else []
    return head[:end], frozenset(extra.strip() for extra in extras)


def _applies(requirement: str, extras: frozenset[str]) -> tuple[bool, bool]:
    """Whether a requirement holds here, and whether that is certain."""
    if ";" not in requirement:
        return True, True
    marker = requirement.split(";", 1)[1]
    if "extra" in marker:
        return any(f'"{extra}"' in marker or f"'{extra}'" in marker for extra in extras), False
    try:
        from packaging.markers import Marker
    except ImportError:
        return True, False
    return bool(Marker(marker).evaluate()), True


def _entries(closure: dict[str, metadata.Distribution]) -> dict[str, str]:
    """Map the smallest set of paths that holds the closure's files and nobody else's."""
    ours: dict[str, str] = {}
    for distribution in closure.values():
        for file in distribution.files or []:
            parts = file.parts
            if parts[0] in ("..", "__pycache__") or (len(parts) == 1 and not parts[0].endswith((".py", ".so"))):
                continue
            ours["/".join(parts)] = str(distribution.locate_file(file))
    shared = {prefix for name, prefixes in _installed().items() if name not in closure for prefix in prefixes}
    entries: dict[str, str] = {}
    for path, source in ours.items():
        prefixes = _prefixes(path)
        for depth, prefix in enumerate(prefixes, start=1):
            if prefix in entries:
                break
            if prefix not in shared:
                above = Path(source).parents[len(prefixes) - depth - 1] if depth < len(prefixes) else Path(source)
                if above.exists():
                    entries[prefix] = os.path.realpath(above)
                break
    if ours and not entries:
        raise SandboxError("the site's packages cannot be told apart from their neighbours")
    return entries


@cache
def _installed() -> dict[str, frozenset[str]]:
    """List every distribution's files and the directories above them, once a process: it reads all metadata."""
    found: dict[str, frozenset[str]] = {}
    for distribution in metadata.distributions():
        paths = ("/".join(file.parts) for file in distribution.files or [] if file.parts[0] != "..")
        name = _normal(distribution.metadata["Name"] or "")
        found[name] = found.get(name, frozenset()) | {prefix for path in paths for prefix in _prefixes(path)}
    return found


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
