"""Facts of source code for policies to read, found by parsing; nothing here is ever run.

Rules: total over any text (what does not parse, is too large, too deep or declares another
encoding has `parses` false, and a policy refuses it); names are normalised (import and
assignment aliases, NFKC), so that `import os as math` is a use of `os`; a list of facts is
never cut short in silence.

This is a screen, not a wall: code can hide from any such list, and the sandbox is what
holds it. What is found here is what an honest reviewer would ask about first.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import re
import unicodedata
import warnings
from collections.abc import Mapping

from pydantic import Field

from harness.records import Record

MAX_FILE_CHARACTERS = 256 * 1024
MAX_FILES = 200
MAX_CHARACTERS = 1024 * 1024
MAX_NAMES = 2000
MAX_DIFF_LINES = 1000
MAX_MEANINGS = 32


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BUILTINS = frozenset(dir(builtins))
_BANNED_BUILTINS = _words(
    """
    eval exec compile __import__ globals locals open breakpoint
    """
)
# Names that people give to their own variables, too: only a call of them tells
_BANNED_CALLS = _words(
    """
    input help vars dir memoryview
    """
)
_LITERAL_ATTRIBUTE = _words(
    """
    getattr setattr delattr hasattr
    """
)
_BANNED_MODULES = _words(
    """
    os posix sys subprocess socket ssl ctypes cffi importlib pkgutil runpy builtins inspect gc shutil
    pathlib pickle cPickle marshal shelve dill cloudpickle joblib codecs base64 binascii zlib io
    tempfile glob mmap pty threading _thread multiprocessing concurrent asyncio http urllib requests
    webbrowser ftplib smtplib codeop traceback faulthandler fcntl platform sysconfig
    """
)
# Attributes through which one climbs from any object to the interpreter's globals
_BANNED_ATTRIBUTES = _words(
    """
    f_globals f_locals f_builtins f_back f_code tb_frame tb_next gi_frame gi_code cr_frame cr_code
    ag_frame ag_code func_globals func_code co_code co_consts mro fromhex meta_path path_hooks
    """
)
_HARMLESS_DUNDERS = _words(
    """
    __init__ __post_init__ __call__ __len__ __getitem__ __iter__ __next__ __repr__ __name__ __version__
    __doc__ __all__ __annotations__ __future__ __main__
    """
)
_DUNDER = re.compile(r"__[A-Za-z][A-Za-z0-9_]*?__")
_BLOB = re.compile(r"[A-Za-z0-9+/=_\-\s]{200,}")
_BLOB_BYTES = 200
_CODING = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-_.a-zA-Z0-9]+)")  # PEP 263
_BIDIRECTIONAL = re.compile("[\u202a-\u202e\u2066-\u2069]")

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Aliases = dict[str, set[str]]


class CodeFacts(Record):
    """What parsing tells of a source tree. All lists are sorted and hold no name twice."""

    parses: bool = Field(
        description="Whether every .py file was read, whole and within bounds; if not, the other facts are partial."
    )
    problem: str = Field(description="Why `parses` is false, or empty.")
    packages: list[str] = Field(description="Top-level packages that are imported; a relative import counts as '.'.")
    imports: list[str] = Field(description="Modules that are imported, dotted.")
    attributes: list[str] = Field(
        description="Names reached through imports, dotted, and their prefixes: `torch.nn.Linear` gives `torch.nn`."
    )
    calls: list[str] = Field(
        description="What is called, dotted; `?.name` is a method of something that is not a plain name."
    )
    dynamic: list[str] = Field(description="Constructs that escape static reading, as `path:line what`.")
    defines: list[str] = Field(description="Top-level functions and classes, as `path:name`.")
    max_complexity: int = Field(
        ge=0, description="The highest cyclomatic complexity (McCabe 1976) of a function, or of a file's top level."
    )


class FileChange(Record):
    """How much of one file changed."""

    path: str = Field(description="Path within the subject.")
    lines_added: int = Field(ge=0, description="Lines that the change adds.")
    lines_removed: int = Field(ge=0, description="Lines that the change removes.")


class _Unreadable(Exception):  # noqa: N818 - it never leaves this module
    """A file that cannot be read as Python within bounds."""


def facts(files: Mapping[str, str]) -> CodeFacts:
    """Return the facts of a source tree, given as texts by path; raises nothing, whatever the text.

    Files that do not end in .py are not code and are left out. No Python file at all is `parses` false.
    """
    found = _Found()
    problem = ""
    sources = {path: text for path, text in sorted(files.items()) if path.endswith(".py")}
    if not sources:
        problem = "no Python file"
    if len(files) > MAX_FILES:
        problem, sources = f"more than {MAX_FILES} files", {}
    if sum(map(len, sources.values())) > MAX_CHARACTERS:
        problem, sources = f"more than {MAX_CHARACTERS} characters of code", {}
    for path, text in sources.items():
        try:
            found.read(path, text)
        except _Unreadable as error:
            problem = problem or f"{path}: {error}"
        except (RecursionError, MemoryError):
            problem = problem or f"{path}: nested too deeply"
    lists = found.lists()
    for name, names in lists.items():
        if len(names) > MAX_NAMES:
            problem = problem or f"more than {MAX_NAMES} {name}"
            lists[name] = names[:MAX_NAMES]
    return CodeFacts(parses=not problem, problem=_printable(problem), max_complexity=found.complexity, **lists)


def changed_files(before: Mapping[str, str], after: Mapping[str, str]) -> list[FileChange]:
    """Return the files that differ between two source trees, with line counts, sorted by path."""
    changes = []
    for path in sorted(set(before) | set(after)):
        old, new = before.get(path), after.get(path)
        if old != new:
            added, removed = changed_lines(old or "", new or "")
            changes.append(FileChange(path=path, lines_added=added, lines_removed=removed))
    return changes


def changed_lines(old: str, new: str) -> tuple[int, int]:
    """Return how many lines a diff from `old` to `new` adds and removes.

    Beyond MAX_DIFF_LINES lines between the first and the last difference, all of them count
    as changed: difflib is quadratic there, and more than the truth is the cautious error.
    """
    a, b = old.splitlines(keepends=True), new.splitlines(keepends=True)
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    a, b = a[start : len(a) - end], b[start : len(b) - end]
    if not a or not b or max(len(a), len(b)) > MAX_DIFF_LINES:
        return len(b), len(a)
    same = sum(block.size for block in difflib.SequenceMatcher(None, a, b).get_matching_blocks())
    return len(b) - same, len(a) - same


def _tree(text: str) -> ast.Module:
    if len(text) > MAX_FILE_CHARACTERS:
        raise _Unreadable(f"longer than {MAX_FILE_CHARACTERS} characters")
    for line in re.split(r"\r\n|\r|\n", text, maxsplit=2)[:2]:
        coding = _CODING.match(line)
        # The interpreter would decode the file otherwise than it was read here.
        if coding and coding[1].lower().replace("_", "-") not in ("utf-8", "utf8", "us-ascii", "ascii"):
            raise _Unreadable(f"declares the encoding {coding[1]}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a string is the author's affair
            return ast.parse(text)
    except SyntaxError as error:
        raise _Unreadable(f"line {error.lineno}: {error.msg}") from error
    except (ValueError, OverflowError) as error:  # NUL, lone surrogates, integers too long to read
        raise _Unreadable(str(error)) from error


class _Found:
    """Collects facts file by file."""

    def __init__(self) -> None:
        self.complexity = 0
        self._sets: dict[str, set[str]] = {
            name: set() for name in ("packages", "imports", "attributes", "calls", "dynamic", "defines")
        }

    def lists(self) -> dict[str, list[str]]:
        return {name: sorted(_printable(item) for item in items) for name, items in self._sets.items()}

    def read(self, path: str, text: str) -> None:
        tree = _tree(text)
        nodes = list(ast.walk(tree))
        inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        documentation = _docstrings(nodes)
        aliases = self._aliases(path, nodes)
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self._sets["defines"].add(f"{path}:{_nfkc(statement.name)}")
        for node in nodes:
            if isinstance(node, ast.Name | ast.Attribute):
                if id(node) not in inner:
                    self._reference(path, node, aliases, called=id(node) in called)
            elif isinstance(node, ast.Call):
                self._call(path, node)
            elif isinstance(node, ast.Constant) and id(node) not in documentation:
                self._constant(path, node)
        if _BIDIRECTIONAL.search(text):
            self._dynamic(path, tree, "bidirectional control character")
        functions = [node for node in nodes if isinstance(node, _Function)]
        self.complexity = max(self.complexity, _complexity(tree), *(_complexity(f) for f in functions), 0)

    def _dynamic(self, path: str, node: ast.AST, what: str) -> None:
        self._sets["dynamic"].add(f"{path}:{getattr(node, 'lineno', 1)} {what}")

    def _aliases(self, path: str, nodes: list[ast.AST]) -> _Aliases:
        """Read the imports, and what each name may stand for: by import, then by assignment, to a fixed point."""
        aliases: _Aliases = {}
        for node in nodes:
            if isinstance(node, ast.Import):
                for item in node.names:
                    self._import(item.name)
                    bound, target = (item.asname, item.name) if item.asname else (item.name.split(".")[0],) * 2
                    aliases.setdefault(_nfkc(bound), set()).add(_nfkc(target))
                    self._attribute(item.name)
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                self._import(module)
                for item in node.names:
                    if item.name == "*":
                        self._dynamic(path, node, f"from {module} import *")
                        continue
                    target = _nfkc(f"{module}.{item.name}")
                    aliases.setdefault(_nfkc(item.asname or item.name), set()).add(target)
                    self._attribute(target)
        for _ in range(8):  # aliases of aliases; eight links deep is nobody's honest code
            before = sum(map(len, aliases.values()))
            roots = {m.split(".", 1)[0] for meanings in aliases.values() for m in meanings} | _BUILTINS
            for node in nodes:
                value = node.value if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) else None
                if not isinstance(value, ast.Name | ast.Attribute):
                    continue
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[attr-defined]
                # only what leads back to an import or a builtin: other locals are no aliases worth following
                meant = {name for name in _resolve(value, aliases) if name.split(".", 1)[0] in roots}
                for place in targets:
                    if isinstance(place, ast.Name) and meant:
                        meanings = aliases.setdefault(_nfkc(place.id), set())
                        meanings |= meant
                        if len(meanings) > MAX_MEANINGS:
                            raise _Unreadable(f"a name with more than {MAX_MEANINGS} meanings")
            if sum(map(len, aliases.values())) == before:
                break
        return aliases

    def _import(self, module: str) -> None:
        self._sets["imports"].add(_nfkc(module))
        self._sets["packages"].add("." if module.startswith(".") else _nfkc(module).split(".")[0])

    def _attribute(self, dotted: str) -> None:
        parts = dotted.split(".")
        if not dotted.startswith("."):
            self._sets["attributes"].update(".".join(parts[:end]) for end in range(1, len(parts) + 1))

    def _reference(self, path: str, node: ast.Name | ast.Attribute, aliases: _Aliases, *, called: bool) -> None:
        """Note one whole dotted name, in each of its meanings."""
        written = _written(node)
        imported = written.split(".")[0] in aliases
        for dotted in _resolve(node, aliases):
            parts = dotted.split(".")
            if called:
                self._sets["calls"].add(dotted)
            if imported and not dotted.startswith("?"):
                self._attribute(dotted)
            if parts[0] in _BANNED_BUILTINS or (called and dotted in _BANNED_CALLS):
                self._dynamic(path, node, parts[0])
            if parts[0] in _LITERAL_ATTRIBUTE and not called:
                self._dynamic(path, node, f"{parts[0]} as a value")
            if imported and parts[0] in _BANNED_MODULES:
                self._dynamic(path, node, f"{dotted} (module {parts[0]})")
            for part in parts[1:]:
                if part in _BANNED_ATTRIBUTES or (_DUNDER.fullmatch(part) and part not in _HARMLESS_DUNDERS):
                    self._dynamic(path, node, f"attribute {part}")
                elif part.lstrip("_") in _BANNED_MODULES and (imported or part.startswith("_")):
                    self._dynamic(path, node, f"{dotted} (module {part})")
            root = parts[0]
            if _DUNDER.fullmatch(root) and root not in _HARMLESS_DUNDERS and root not in _BANNED_BUILTINS:
                self._dynamic(path, node, f"name {root}")

    def _call(self, path: str, node: ast.Call) -> None:
        """Note calls whose arguments make them dynamic."""
        name = _nfkc(node.func.id) if isinstance(node.func, ast.Name) else ""
        literal: object = None
        if name in _LITERAL_ATTRIBUTE:
            second = node.args[1] if len(node.args) > 1 else None
            literal = second.value if isinstance(second, ast.Constant) else None
            if not isinstance(literal, str) or literal in _BANNED_ATTRIBUTES | _BANNED_MODULES:
                self._dynamic(path, node, f"{name} with a name that is computed or banned")
        if name == "type" and (len(node.args) != 1 or node.keywords):
            self._dynamic(path, node, "type that makes a class")

    def _constant(self, path: str, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, str):
            if any(name not in _HARMLESS_DUNDERS for name in _DUNDER.findall(unicodedata.normalize("NFKC", value))):
                self._dynamic(path, node, "dunder name in a string")
            if _BLOB.search(value) and len(re.sub(r"\s", "", value)) >= _BLOB_BYTES and " " not in value:
                self._dynamic(path, node, "encoded blob")
        elif isinstance(value, bytes) and len(value) >= _BLOB_BYTES:
            self._dynamic(path, node, "encoded blob")


def _resolve(node: ast.expr, aliases: _Aliases) -> set[str]:
    """Return every dotted name that a Name or Attribute may stand for."""
    root, *rest = _written(node).split(".")
    return {".".join((meaning, *rest)) for meaning in aliases.get(root, {root})}


def _written(node: ast.expr) -> str:
    """Return a dotted name as written, `?` standing for what is not a plain name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(_nfkc(node.attr))
        node = node.value
    parts.append(_nfkc(node.id) if isinstance(node, ast.Name) else "?")
    return ".".join(reversed(parts))


def _docstrings(nodes: list[ast.AST]) -> set[int]:
    """Return the ids of expression statements that are bare strings: documentation, not values."""
    return {id(node.value) for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}


def _complexity(scope: ast.AST) -> int:
    """Count the decisions of one scope, nested functions apart (McCabe, 1976)."""
    total, waiting = 1, list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        if isinstance(node, _Function):
            continue
        if isinstance(node, ast.If | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.IfExp | ast.Assert):
            total += 1
        elif isinstance(node, ast.BoolOp):
            total += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            total += 1 + len(node.ifs)
        elif isinstance(node, ast.match_case):
            total += 1
        waiting.extend(ast.iter_child_nodes(node))
    return total


def _nfkc(name: str) -> str:
    """Return a name as the interpreter would compare it (Python reference §2.3)."""
    return unicodedata.normalize("NFKC", name)


def _printable(text: str) -> str:
    """Return text that any record may carry: no control character, no surrogate, at most 300 characters."""
    clean = "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "\ufffd" for c in text)
    return clean if len(clean) <= 300 else clean[:299] + "…"
