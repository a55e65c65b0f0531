"""What a language model answered, turned into whole files: SEARCH/REPLACE blocks, or files in fences.

    model.py
    <<<<<<< SEARCH
    text that stands exactly once in the file
    =======
    what is to stand there
    >>>>>>> REPLACE
    SET knob = 0.01

The answer is text of a stranger. Nothing here raises, runs or imports any of it: what comes out are whole files that
compile, among those that may be changed, and values of knobs, or one short reason why there are none. An answer is
taken whole or not at all: of ten edits of which one does not fit, none is made.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.canonical import parse_json
from harness.chat import MAX_TEXT
from harness.errors import CanonicalError
from harness.proposal import MAX_FILES, MAX_TEXT_BYTES, is_mutable
from harness.proposers.space import Scalar

__all__ = ["Answer", "read_answer"]

CONTRACT = ("Recipe", "build", "train", "predict")
"""What a subject's model.py defines: a text that loses one of them is half a file."""

_SEARCH = re.compile(r"<{5,9} ?SEARCH")
_MIDDLE = re.compile(r"={5,9}")
_REPLACE = re.compile(r">{5,9} ?REPLACE")
_FENCE = re.compile(r"(`{3,12}|~{3,12})([^`]{0,200})")
_PATH = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+){0,12}\.[A-Za-z0-9]{1,8}")
_SET = re.compile(r"SET ([A-Za-z][A-Za-z0-9_]{0,63}) ?= ?(.{1,200})")
_DECORATION = " \t#*`:\"'"
_PYTHON = {"", "python", "py", "python3"}
_LEFT_OUT = re.compile(r"^[ \t]*#[ \t]*(?:\.\.\.|…)", re.MULTILINE)


@dataclass(frozen=True)
class Answer:
    """Whole new texts by path, knobs by name, and the words before the first of them; or neither, and the reason."""

    files: dict[str, str] = field(default_factory=dict)
    changes: dict[str, Scalar] = field(default_factory=dict)
    words: str = ""
    problem: str = ""


@dataclass
class _Found:
    """What stands in an answer: edits (path, search, replace), files (path, text), knobs, and other languages."""

    edits: list[tuple[str, str, str]] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    changes: dict[str, Scalar] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    problem: str = ""


def read_answer(text: str, base: Mapping[str, str], mutable: Iterable[str]) -> Answer:
    """Read an answer about the files of `base` (path → text), of which those that `mutable` globs match may change.

    Never raises. Every text that comes out compiles, is at most MAX_TEXT_BYTES long and differs from the base's.
    """
    if len(text) > MAX_TEXT:
        return Answer(problem=f"an answer of {len(text)} characters, above {MAX_TEXT}")
    if not text.strip():
        return Answer(problem="an empty answer")
    found = _scan(text.replace("\r\n", "\n").split("\n"), _sole(base))
    if not found.problem and not found.edits and not found.files and not found.changes:
        only = f": only {', '.join(sorted(set(found.others)))[:80]}" if found.others else ""
        found.problem = f"no edit and no Python file in the answer{only}"
    globs = tuple(mutable)
    files = {} if found.problem else _whole(found, base, globs)
    problem = found.problem or _problem_of(files, base, globs, whole=not found.edits)
    if problem:
        return Answer(problem=problem)
    changed = {path: text for path, text in files.items() if base.get(path) != text}
    if not changed and not found.changes:
        return Answer(problem="the answer changes nothing")
    return Answer(changed, found.changes, " ".join(found.words))


def _sole(base: Mapping[str, str]) -> str:
    """The path that an answer may leave out: the only file's."""
    paths = [path for path in base if path.endswith(".py")]
    return paths[0] if len(paths) == 1 else ""


def _scan(lines: list[str], path: str) -> _Found:
    """Find edits and fenced files; `path` is whose they are until a line names another."""
    found, at = _Found(), 0
    while at < len(lines) and not found.problem:
        line = lines[at].strip()
        if _SEARCH.fullmatch(line):
            at = _edit(lines, at, path, found)
        elif (fence := _FENCE.fullmatch(line)) and not _wraps_edit(lines, at):
            at = _fenced(lines, at, fence, path, found)
        else:
            if (named := _named(line)) is not None:
                path = named
            elif knob := _SET.fullmatch(line.strip("`")):
                _set(knob[1], knob[2], found)
            elif line and not fence and not found.edits and not found.files:
                found.words.append(line)
            at += 1
    return found


def _set(name: str, text: str, found: _Found) -> None:
    """Take the value of a knob, a JSON scalar."""
    try:
        value = parse_json(text.encode(), max_bytes=200, max_depth=1)
    except (CanonicalError, UnicodeEncodeError):
        value = []
    if isinstance(value, list | dict) or name in found.changes:
        found.problem = f"no one value for the knob {name}"
    else:
        found.changes[name] = value


def _named(line: str) -> str | None:
    """The path that a line names, if it names one and nothing else."""
    bare = line.strip(_DECORATION).removeprefix("File:").strip(_DECORATION)
    return bare if _PATH.fullmatch(bare) else None


def _wraps_edit(lines: list[str], at: int) -> bool:
    """Whether a fence is there for an edit block only: then it means nothing, and neither does the one that ends it."""
    after = [line.strip() for line in lines[at + 1 : at + 4] if line.strip()]
    before = next((line.strip() for line in reversed(lines[max(0, at - 2) : at]) if line.strip()), "")
    opens = after[:1] and (
        _SEARCH.fullmatch(after[0]) or (_named(after[0]) and after[1:] and _SEARCH.fullmatch(after[1]))
    )
    return bool(opens) or _REPLACE.fullmatch(before) is not None


def _edit(lines: list[str], at: int, path: str, found: _Found) -> int:
    """Take one edit block that begins at a line; return the line after it."""
    middle = next((i for i in range(at + 1, len(lines)) if _MIDDLE.fullmatch(lines[i].strip())), None)
    end = None
    if middle is not None:
        end = next((i for i in range(middle + 1, len(lines)) if _REPLACE.fullmatch(lines[i].strip())), None)
    if middle is None or end is None:
        found.problem = "an edit that is cut off"
        return len(lines)
    if not path:
        found.problem = "an edit that names no file"
    found.edits.append((path, "\n".join(lines[at + 1 : middle]), "\n".join(lines[middle + 1 : end])))
    return end + 1


def _fenced(lines: list[str], at: int, fence: re.Match[str], path: str, found: _Found) -> int:
    """Take one fenced block; return the line after it."""
    ticks = fence[1]
    words = re.split(r"[\s:]+", fence[2].strip()) if fence[2].strip() else []
    end = next(
        (i for i in range(at + 1, len(lines)) if (s := lines[i].strip()).startswith(ticks) and not s.strip(ticks[0])),
        None,
    )
    if end is None:
        found.problem = "a file that is cut off"
        return len(lines)
    path = next((word for word in words if _PATH.fullmatch(word)), path)
    language = words[0].lower() if words and not _PATH.fullmatch(words[0]) else ""
    if language not in _PYTHON:
        found.others.append(language)
    elif not path:
        found.problem = "a file without a name"
    else:
        found.files.append((path, "\n".join(lines[at + 1 : end]) + "\n"))
    return end + 1


def _whole(found: _Found, base: Mapping[str, str], globs: tuple[str, ...]) -> dict[str, str]:
    """Whole files from what was found; the problem is noted there. Beside edits, fenced code is a quotation."""
    files: dict[str, str] = {}
    if not found.edits:
        for path, text in found.files:
            if path in files:
                found.problem = f"two texts for {path}"
            files[path] = text
        return files
    for path, search, replace in found.edits:
        old = files.get(path, base.get(path))
        if not is_mutable(path, globs):
            found.problem = f"{path} is not among the files that may be changed"
        elif old is None and not search.strip():
            files[path] = f"{replace}\n"
            continue
        elif old is None:
            found.problem = f"an edit of {path}, which is not there"
        elif not search.strip():
            found.problem = f"an edit of {path} that searches for nothing"
        else:
            places = _places(old, search)
            if len(places) == 1:
                files[path] = _put(old, search, replace, places[0])
                continue
            found.problem = f"text to be replaced in {path} that stands there {_times(len(places))}"
        return {}
    return files


def _places(text: str, search: str) -> list[int]:
    """Where whole lines stand in a text, two places at most."""
    text, search = f"\n{text}\n", f"\n{search}\n"
    first = text.find(search)
    second = text.find(search, first + 1) if first >= 0 else -1
    return [place for place in (first, second) if place >= 0]


def _put(text: str, search: str, replace: str, at: int) -> str:
    """Put lines in the place of others; none at all where there is nothing to put."""
    before, after = text[:at], text[at + len(search) :]
    return before + replace + after if replace else before + after.removeprefix("\n")


def _times(count: int) -> str:
    return "more than once" if count else "nowhere"


def _problem_of(files: Mapping[str, str], base: Mapping[str, str], globs: tuple[str, ...], *, whole: bool) -> str:
    """Say what is wrong with whole files; nothing where all is well."""
    if len(files) > MAX_FILES:
        return f"{len(files)} files, above {MAX_FILES}"
    for path, text in files.items():
        if not is_mutable(path, globs):
            return f"{path} is not among the files that may be changed"
        if not path.endswith(".py"):
            return f"{path} is no Python file"
        if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
            return f"{path} is longer than {MAX_TEXT_BYTES} bytes"
        tree = _compiled(text)
        if isinstance(tree, str):
            return f"{path} is not Python: {tree}"
        if whole and _LEFT_OUT.search(text) and not _LEFT_OUT.search(base.get(path, "")):
            return f"{path} leaves out parts of the file"
        if path == "model.py" and (lost := _lost(base.get(path, ""), tree)):
            return f"half a file: {path} does not define {', '.join(lost)}"
    return ""


def _compiled(text: str) -> ast.Module | str:
    """The tree of a text that compiles, or why it does not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
            compile(text, "<answer>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        return type(error).__name__
    return tree


def _lost(base: str, tree: ast.Module) -> list[str]:
    """Which names of a subject's contract the base defines, and a new text does not."""
    before = _compiled(base)
    kept = _defined(tree)
    return [] if isinstance(before, str) else [name for name in CONTRACT if name in _defined(before) - kept]


def _defined(tree: ast.Module) -> set[str]:
    """The names that a module defines or imports at its top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names
