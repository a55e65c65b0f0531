"""Write which candidates of a run were stopped by which kind of eval: `python scripts/results.py RUN --out FILE`.

The run is verified and every decision derived again first. What stopped a candidate is read from the codes of its
decision, the kinds that `guards.py` gives its evals, and what a failed rule has read; labels of proposals are printed
and never read. 1, and nothing written, where the trail does not hold or a kind of eval has stopped nobody.

An eval of one of guards.py's kinds stops a candidate by a gate on held-out items; efficiency by a rule of the decide
stage that read what the candidate costs; a property by a counterexample. What the development items alone stopped, and
gates that the items allowed did not suffice for, count for no kind.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.artifacts import BlobStore  # noqa: E402
from harness.auditing import verify_run  # noqa: E402
from harness.entries import Decided  # noqa: E402
from harness.errors import AuditError, ConfigError, LockgateError  # noqa: E402
from harness.evals.scoring import EvaluationKind  # noqa: E402
from harness.folder import RunFolder  # noqa: E402
from harness.journal import follow  # noqa: E402
from harness.keys import VerifierChain  # noqa: E402
from harness.plain import plain  # noqa: E402
from harness.policy_document import LatencyFacts, MemoryFacts  # noqa: E402
from harness.replay import replay_run  # noqa: E402
from harness.state import RunState  # noqa: E402
from harness.telling import Notebook, proposal_page  # noqa: E402

KINDS: tuple[str, ...] = (*get_args(EvaluationKind), "efficiency", "property")
COSTS = {
    "candidate.parameters", "candidate.bytes",
    *(f"latency.{name}" for name in LatencyFacts.model_fields),
    *(f"memory.{name}" for name in MemoryFacts.model_fields),
}  # fmt: skip
SUBJECT = "examples/quickstart"
COLUMNS = ("kind of eval", "proposal", "what was better (development items)", "what stopped it", "entries", "see it")


def stops(page: dict[str, Any], eval_kinds: dict[str, str]) -> dict[str, list[str]]:
    """What stopped a rejected candidate, in lines, by kind of eval; `page` is `telling.proposal_page`'s."""
    codes = {why["code"] for why in page["reasons"]}
    found: dict[str, list[str]] = {}
    told = {gate["name"]: gate["line"] for gate in page["evidence_by_gate"]}
    for gate in page["gates"]:
        kind = eval_kinds[gate["eval"]]
        code = "gate-objective" if gate["kind"] == "improve" else f"gate-{kind}"
        if gate["verdict"] == "fail" and code in codes:
            found.setdefault(kind, []).append(f"{code}: {told[gate['name']]}")
    for rule in page["rules"]:
        dear = rule["stage"] == "decide" and rule["passed"] is False and COSTS & rule["values"].keys()
        if dear and "policy" in codes:
            found.setdefault("efficiency", []).append(f"policy: {rule['policy']}/{rule['rule']}: {rule['message']}")
    refuted = [f"property: {why['text']}" for why in page["reasons"] if why["code"] == "property"]
    return found | ({"property": refuted} if refuted else {})


def rejected(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Each rejected candidate that was measured on the development items, with what stopped it, by kind of eval."""
    state, notebook, incumbents = RunState(), Notebook(), dict[int, str]()
    for step in follow(folder.log, VerifierChain.load(folder.public_key)):
        notebook.take(step)
        state = step.state
        if isinstance(step.entry, Decided):
            incumbents[step.entry.number] = state.incumbent.digest
    known, blobs = state.candidates(), BlobStore(folder.blobs)
    for number, proposal in sorted(state.proposals.items()):
        if proposal.decision is None or proposal.decision.verdict != "reject" or proposal.developed is None:
            continue
        page = proposal_page(blobs, state, notebook, number, known=known)
        if page["problems"]:
            raise AuditError(page["problems"][0], where=f"proposal {number}")
        objective = proposal.guard.config.objective
        yield {
            "proposal": number,
            "proposer": page["proposer"],
            "label": page["label"],
            "objective": objective,
            "development": page["development"][objective],
            "incumbent": known[incumbents[number]][1][objective],
            "stopped_by": stops(page, proposal.guard.eval_kinds),
            "entries": {line["kind"]: line["index"] for line in page["trail"]},
        }


def results(folder: RunFolder, key: Path | None = None) -> dict[str, Any]:
    """The run's trail, and of each kind of eval the candidate to show and the numbers of the others; LockgateError.

    Shown is the one that only this kind stopped, and of several the one that gained most on the development items.
    """
    if not folder.exists:
        raise ConfigError("no run here", where=str(folder.root), remedy="`lockgate run SUBJECT` begins one")
    trail = verify_run(folder, key)
    trail["decisions"] = replay_run(folder)["decisions"]
    of: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for each in rejected(folder):
        for kind in each["stopped_by"]:
            of[kind].append(each)
    missing = [kind for kind in KINDS if not of[kind]]
    if missing:
        raise ConfigError(
            f"no candidate was stopped by an eval of kind: {', '.join(missing)}",
            where=str(folder.root),
            remedy="plant one that such an eval should stop, and run again",
        )
    shown = {
        kind: min(there, key=lambda each: (len(each["stopped_by"]), each["incumbent"] - each["development"]))
        for kind, there in of.items()
    }
    others = {kind: [each["proposal"] for each in there if each is not shown[kind]] for kind, there in of.items()}
    kept = ("verdict", "size", "root", "decisions", "promotions")
    return {
        "run": f"runs/{folder.root.name}",
        "trail": {name: trail[name] for name in kept},
        "kinds": {kind: {**shown[kind], "others": others[kind]} for kind in KINDS},
    }


def render(found: dict[str, Any], subject: str) -> str:
    """The page: Markdown, without anything of the machine that the run was on."""
    trail, run = found["trail"], found["run"]
    lines = [
        f"# What stopped whom in one run of `{subject}`",
        "",
        "Written by `scripts/results.py` from the signed log of one true run, each decision of which was derived",
        "again first. Another run draws its own order of held-out items: other numbers. It, and this page from it:",
        "",
        "```sh",
        f"lockgate run {subject}" + ("" if run == f"runs/{Path(subject).name}" else f" --out {run}"),
        f"python scripts/results.py {run} --out {subject}/RESULTS.md"
        + ("" if subject == SUBJECT else f" --subject {subject}"),
        "```",
        "",
        "That ends with 1, and writes nothing, where the trail does not hold or a kind of eval has stopped nobody.",
        "",
        f"The log has {trail['size']} entries under the root `{trail['root']}`.",
        f"Of its proposals {trail['decisions']} were decided and {trail['promotions']} promoted. To see that it holds:",
        f"`lockgate audit verify {run}`, which said *{trail['verdict']}*, and `lockgate audit replay {run}`.",
        "",
        _row(COLUMNS),
        _row(["---"] * len(COLUMNS)),
    ]
    for kind in KINDS:
        each = found["kinds"][kind]
        entries = each["entries"]
        label = f"{each['proposal']}, {each['proposer']}" + (f": {each['label']}" if each["label"] else "")
        evidence = "developed" if kind == "property" else "measured"
        index = entries["decided"]
        also = f" (likewise {_numbers(each['others'])})" if each["others"] else ""
        lines.append(
            _row(
                [
                    kind,
                    _cell(label),
                    _cell(_better(each)),
                    _cell("; ".join(each["stopped_by"][kind])) + also,
                    f"decided {index}, {evidence} {entries[evidence]}",
                    f"`lockgate show {run} {each['proposal']}`, `lockgate audit show {run} {index}`",
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _better(each: dict[str, Any]) -> str:
    name, mine, other = each["objective"], each["development"], each["incumbent"]
    way = "better" if mine > other else "not better"
    return f"{way}: {name} {mine:.4f}, the incumbent's {other:.4f} ({mine - other:+.4f})"


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """A stranger's words as words: nothing in them marks up, ends a cell or a line."""
    return re.sub(r"([\\`*<>|\[\]])", r"\\\1", plain(text, 2000))


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or the results as JSON; 1 where there is nothing true to write."""
    parser = argparse.ArgumentParser(description="Write which candidates of a run each kind of eval has stopped.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--subject", default=SUBJECT, help="the subject, as the page names it")
    parser.add_argument("--key", type=Path, help="your own copy of the log's public key")
    parser.add_argument("--out", type=Path, help="the page to write; printed when left out")
    parser.add_argument("--json", action="store_true", help="JSON in place of the page")
    given = parser.parse_args(arguments)
    try:
        found = results(RunFolder(given.run), given.key)
    except LockgateError as error:
        print(f"results: {error}", file=sys.stderr)
        return 1
    text = json.dumps(found, indent=2) + "\n" if given.json else render(found, given.subject)
    if given.out is None:
        print(text, end="")
    else:
        given.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
