"""`lockgate policy explain`: a document of a run, or one from a file, and why each rule said what it said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.artifacts import BlobStore
from harness.base_document import base_document
from harness.canonical import parse_json
from harness.errors import CanonicalError, ConfigError, PolicyError
from harness.explanation import Explanation, Part
from harness.folder import RunFolder
from harness.genesis import policies_of
from harness.journal import read_run
from harness.judge import Judge
from harness.keys import VerifierChain
from harness.plain import plain
from harness.policy import PolicySet, load_policies
from harness.policy_document import STAGES, Stage

if TYPE_CHECKING:
    from rich.tree import Tree

MAX_DOCUMENT = 16 << 20
_SHOWN = 160


def explain_proposal(folder: RunFolder, number: int, stage: Stage | None = None) -> list[Explanation]:
    """Explain what the rules said of a proposal of a run, at each stage that it came to, or at one of them.

    ConfigError where the run has no such proposal or stage, AuditError and ArtifactError where its trail is damaged.
    """
    state, _ = read_run(folder.log, VerifierChain.load(folder.public_key))
    found = state.proposals.get(number)
    if found is None:
        raise ConfigError(
            f"has no proposal {number}", where=str(folder.root), remedy="`lockgate status RUN` counts them"
        )
    blobs = BlobStore(folder.blobs)
    policies = policies_of(found.guard, blobs)
    names = {"screen": found.screened.document if found.screened else None, "decide": found.document}
    wanted = [(each, names[each]) for each in STAGES if stage in (None, each) and names[each] is not None]
    if not wanted:
        raise ConfigError(
            f"proposal {number} came to no rules{f' at the stage {stage}' if stage else ''}",
            where=str(folder.root),
            remedy=f"`lockgate show RUN {number}` says why",
        )
    explained = []
    with Judge() as judge:
        for each, name in wanted:
            document: Any = parse_json(blobs.get(str(name)), max_bytes=MAX_DOCUMENT)
            document.pop("salt", None)  # what keeps the digest from telling scores (FORMAT §8.3) is no part of it
            explained.append(_ask(judge, policies, each, document))
    return explained


def explain_files(policy: Path, document: Path | None, stage: Stage | None = None) -> list[Explanation]:
    """Explain what a policy file says of a JSON document, or of the base document where there is none.

    PolicyError for the policy, ConfigError for the document.
    """
    policies = load_policies([policy])
    stages = [each for each in STAGES if any(each == known.stage for known in policies.policies)]
    explained = []
    with Judge() as judge:
        for each in stages if stage is None else [stage]:
            value = base_document(each) if document is None else _document(document)
            explained.append(_ask(judge, policies, each, value))
    return explained


def _document(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes(), max_bytes=MAX_DOCUMENT)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except CanonicalError as error:
        raise ConfigError(str(error), where=str(path), remedy="a document is one JSON object") from error


def _ask(judge: Judge, policies: PolicySet, stage: Stage, document: Any) -> Explanation:
    proposal = document.get("proposal") if isinstance(document, dict) else None
    kind = proposal.get("kind") if isinstance(proposal, dict) else None
    explained = Explanation.parse(judge.study(policies, "explain", stage=stage, kind=kind, document=document))
    if explained.outcome == "invalid" and not explained.policies:
        raise PolicyError(explained.reason, where="document", remedy="policies/SCHEMA.md lists what a document holds")
    return explained


def drawn(explanation: Explanation) -> Tree:
    """Return an explanation as a tree for a terminal: rules that fail in full, the others with their parts, too."""
    from rich.text import Text
    from rich.tree import Tree

    top = Tree(Text(f"{explanation.stage}, {explanation.kind}: {explanation.outcome}", style="bold"))
    for policy in explanation.policies:
        branch = top.add(Text(policy.policy, style="bold"))
        for name, value in policy.params.items():
            branch.add(Text(f"params.{name} = {_value(value)}", style="dim"))
        for variable in policy.variables:
            _add(branch.add(Text(f"{variable.text} = {_value(variable.value)}", style="cyan")), variable.parts)
        for rule in policy.rules:
            sign, style = {True: ("✓", "green"), False: ("✗", "red"), None: ("!", "red")}[rule.passed]
            otherwise = "" if rule.passed else f" → {rule.otherwise if rule.passed is False else 'invalid'}"
            label = f"{sign} {rule.id}{otherwise}: {plain(rule.message, 300)}  ({rule.where})"
            _add(branch.add(Text(label, style=style)), [rule.tree])
    return top


def _add(branch: Tree, parts: list[Part]) -> None:
    from rich.text import Text

    for part in parts:
        note = f"  [{part.note}]" if part.note else ""
        style = {True: "green", False: "red"}.get(part.value, "") if isinstance(part.value, bool) else ""
        if isinstance(part.value, dict) and set(part.value) == {"error"}:
            style = "red"
        _add(branch.add(Text(f"{plain(part.text, _SHOWN)} = {_value(part.value)}{note}", style=style)), part.parts)


def _value(value: Any) -> str:
    return plain(json.dumps(value, ensure_ascii=False, sort_keys=True), _SHOWN)


def lines_of(explanation: Explanation) -> Iterator[str]:
    """Yield the tree as plain lines, for what is no terminal."""
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    Console(file=out, width=240, no_color=True).print(drawn(explanation))
    yield from (line.rstrip() for line in out.getvalue().splitlines())
