"""Code proposals by typed rewrites of the incumbent's own files: the proposer of code that needs no language model.

Each proposal applies one rewrite (`rewrites`) to one file, or puts a definition of an archived candidate's file in the
place of its namesake there (`crossover`), and carries the file's whole new text. It is a pure function of the ask: the
seed and the generation order what there is, one of each kind before a second, and no text is proposed twice.

Settings, optional: `rewrites` (names of those to use, `crossover` among them; default: all).
"""

from __future__ import annotations

import ast
import hashlib
import random
import warnings
from typing import Any

from harness.errors import ProposerError
from harness.proposal import MAX_TEXT_BYTES, is_mutable
from harness.proposers import Ask, settings_of
from harness.records import Record

__all__ = ["Settings", "propose"]


CROSSOVER = "crossover"


class Settings(Record):
    """What a configuration may set; see the module's docstring."""

    rewrites: list[str] = []


def propose(ask: Ask) -> list[dict[str, Any]]:
    """Return up to `ask.count` proposals of code, each by another rewrite as long as there are any.

    None at all where no pattern stands in the files. Raises ProposerError for settings that do not fit.
    """
    settings = settings_of(ask, Settings, "codegen")
    wanted = _wanted(settings)
    seed = hashlib.sha256(f"lockgate/codegen/{ask.seed}/{ask.generation}".encode()).digest()
    rng = random.Random(int.from_bytes(seed[:8], "big"))  # noqa: S311 - a search, not a secret
    seen = _seen_trees(ask)
    pool = []
    for path in sorted(ask.incumbent.files):
        if path.endswith(".py") and is_mutable(path, ask.mutable):
            pool += [(name, why, path, text) for name, why, text in _texts(ask.incumbent.files[path], wanted)]
            pool += [(CROSSOVER, why, path, text) for why, text in _crossed(ask, path)] if CROSSOVER in wanted else []
    rng.shuffle(pool)
    uses = dict.fromkeys(wanted, 0)
    documents: list[dict[str, Any]] = []
    while pool and len(documents) < ask.count:
        name, why, path, text = min(pool, key=lambda item: uses[item[0]])
        pool.remove((name, why, path, text))
        tree = _tree(text)
        if tree is None or tree in seen or len(text.encode()) > MAX_TEXT_BYTES:
            continue
        seen.add(tree)
        uses[name] += 1
        documents.append(
            {"kind": "code", "base": ask.incumbent.digest, "files": {path: text}, "rationale": f"{name}: {why}"}
        )
    return documents


def _wanted(settings: Settings) -> list[str]:
    from harness.proposers.rewrites import REWRITES

    known = [*(rewrite.name for rewrite in REWRITES), CROSSOVER]
    for name in settings.rewrites:
        if name not in known:
            raise ProposerError(
                f"no rewrite is called {name!r}", where="codegen", remedy=f"there are: {', '.join(known)}"
            )
    return settings.rewrites or known


def _crossed(ask: Ask, path: str) -> list[tuple[str, str]]:
    """Return (why, new text) of every definition that an archived candidate has otherwise, the best donors first.

    Of what several donors would make alike the first stays.
    """
    from harness.proposers.crossover import children

    made: dict[str, str] = {}
    for donor in ask.archive:
        text = donor.files.get(path)
        if text is None or text == ask.incumbent.files[path]:
            continue
        for name, child in children(ask.incumbent.files[path], text):
            made.setdefault(child, f"{name} of candidate {donor.digest[7:19]} in {ask.incumbent.digest[7:19]}")
    return [(why, child) for child, why in made.items()]


def _texts(text: str, wanted: list[str]) -> list[tuple[str, str, str]]:
    """Return (rewrite, why, new text) of everything that the rewrites make of one file."""
    import libcst

    from harness.proposers.rewrites import REWRITES

    try:
        module = libcst.parse_module(text)
    except libcst.ParserSyntaxError:
        return []  # not this proposer's to mend
    return [
        (rewrite.name, rewrite.why, variant.code)
        for rewrite in REWRITES
        if rewrite.name in wanted
        for variant in rewrite.variants(module)
    ]


def _seen_trees(ask: Ask) -> set[str]:
    """Return the syntax trees of all texts that are known or were proposed: of each, another spelling is no news."""
    known = [text for archived in (ask.incumbent, *ask.archive) for text in archived.files.values()]
    for entry in ask.history:
        files = entry.proposal.get("files")
        if isinstance(files, dict):
            known += [text for text in files.values() if isinstance(text, str)]
    return {tree for text in set(known) if (tree := _tree(text)) is not None}


def _tree(text: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
