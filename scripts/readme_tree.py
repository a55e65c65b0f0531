"""README's file tree: read it, compare it with the files, and bring it up to date.

Run as `python scripts/readme_tree.py`. Purposes that stand in README stay; a file that is new gets the first sentence
of its own docstring, for a person to improve; a file that is gone goes. `tests/test_readme.py` fails on any difference.
One `*.json` stands for all vectors of a folder: each says itself what it is about.
A line of `test_*.py` stands for every `tests/test_NAME.py` that mirrors the module or folder NAME of `harness`.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(## The tree\n\n```text\n)(.*?)(\n```)", re.DOTALL)
FOLDERS = ["harness", "policies", "examples", "audits", "tests", "scripts", ".ci"]
COLUMN = 30
MIRRORS = "tests/test_*.py"
VECTOR = re.compile(r"(audits/vectors/(?:valid|invalid)/)[^/]+\.json")


def listed(readme: str) -> dict[str, str]:
    """Purpose by path, as README's tree has them; folders end in a slash."""
    found = BLOCK.search(readme)
    if found is None:
        raise ValueError("README has no tree")
    above: list[str] = []
    purposes = {}
    for line in found[2].splitlines():
        name, _, purpose = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        path = "".join(above[:depth]) + name
        if path in purposes:
            raise ValueError(f"README's tree has {path} twice")
        purposes[path] = purpose.strip()
        above = [*above[:depth], name]
    return purposes


def files() -> list[str]:
    """Every file of the project that git does not ignore, by path from the root."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted({path for path in output.splitlines() if (ROOT / path).exists()})


def mirrored(path: str) -> bool:
    """Whether a test has its place by its name alone."""
    folder, _, name = path.rpartition("/")
    if folder != "tests" or not name.startswith("test_"):
        return False
    inner = name.removeprefix("test_").removesuffix(".py")
    return (ROOT / "harness" / f"{inner}.py").exists() or (ROOT / "harness" / inner).is_dir()


def wanted() -> list[str]:
    """What the tree must list, in the order in which it is printed: files of a folder before the folders in it."""
    paths = sorted({VECTOR.sub(r"\1*.json", path) for path in files() if not mirrored(path)})
    lines: list[str] = []

    def walk(folder: str) -> None:
        lines.append(folder)
        if folder == "tests/":
            lines.append(MIRRORS)
        inner = sorted(path for path in paths if path.startswith(folder))
        lines.extend(path for path in inner if "/" not in path.removeprefix(folder))
        for name in sorted(
            {path.removeprefix(folder).split("/")[0] for path in inner if "/" in path.removeprefix(folder)}
        ):
            walk(f"{folder}{name}/")

    tops = {path.split("/")[0] for path in paths if "/" in path}
    for folder in [*FOLDERS, *sorted(tops - set(FOLDERS))]:
        if folder in tops:
            walk(f"{folder}/")
    return lines + [path for path in paths if "/" not in path]


def purpose(path: str) -> str:
    """The first sentence of a docstring, or a text file's first comment or heading; else a question mark."""
    if "*" in path:
        return "?"
    if not path.endswith(".py"):
        first = (ROOT / path).read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        return first.lstrip("#! ").rstrip(".") if first.startswith("# ") else "?"
    text = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or "?"
    sentence = re.split(r"(?<=[a-z)`])[.:]? ?\n\n|(?<=[a-z)`])\. ", text)[0].rstrip(".")
    sentence = " ".join(sentence.replace("`", "").split())
    return sentence[0].lower() + sentence[1:] if sentence[1:2] in " abcdefghijklmnopqrstuvwxyz" else sentence


def tree(purposes: dict[str, str]) -> str:
    """The tree as text, with the purposes given and those of new files."""
    lines = []
    for path in wanted():
        depth = path.rstrip("/").count("/")
        name = "  " * depth + path.rstrip("/").rpartition("/")[2] + ("/" if path.endswith("/") else "")
        known = purposes.get(path) or ("" if path.endswith("/") else purpose(path))
        lines.append(f"{name:<{COLUMN - 2}}  {known}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Rewrite the tree in README.md."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    new = tree(listed(text))
    readme.write_text(BLOCK.sub(lambda found: found[1] + new + found[3], text), encoding="utf-8")


if __name__ == "__main__":
    main()
