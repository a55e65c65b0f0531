"""Untrusted bytes → Proposal, and the change that it really makes.

A proposal says what it wants to change; what counts is what it changes *in effect*: values equal to the
base's are dropped, a file whose text differs only in comments and white space is dropped, and so is
nothing-but-knobs that no file reads. What is left over is the `Change` that policies judge and people
review. A proposal whose change is empty is a no-op.

Rules. Size and depth are bounded before anything is parsed, one error (`ProposalError`) leaves this module,
and nothing here runs, imports or compiles what a proposal carries: text is parsed to a syntax tree only to
be compared. Paths are relative, plain and within the subject's `mutable` globs.

Not covered: whether the change is allowed (policy), or does anything to the model (the built candidate's
digest tells: an identical candidate is a no-op, too).
"""

from __future__ import annotations

import ast
import difflib
import re
import warnings
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, field_validator, model_validator

from harness.canonical import canonical_bytes, parse_json
from harness.errors import CanonicalError, ProposalError, SubjectError
from harness.proposers.space import Group, Scalar, read_space, same
from harness.records import Digest, Record, first_problem
from harness.starting import TRAINING, AnyStart, Average, Base, Continue, Inherit, LowRank, Reinforce, Start

__all__ = [
    "MAX_FILES",
    "MAX_PROPOSAL_BYTES",
    "MAX_TEXT_BYTES",
    "AnyProposal",
    "Architecture",
    "Change",
    "Code",
    "FileChange",
    "Hyperparameters",
    "KnobChange",
    "Proposal",
    "Weights",
    "effective_change",
    "is_mutable",
    "parse_proposal",
    "start_of",
    "successor",
    "unified_diff",
]

MAX_PROPOSAL_BYTES = 512 * 1024
"""Bound on a whole proposal document, in bytes."""

MAX_TEXT_BYTES = 128 * 1024
"""Bound on the new text of one file, in bytes of UTF-8."""

MAX_FILES = 16
MAX_CHANGES = 64
MAX_STRING = 200
_MAX_DIFF_WORK = 1_000_000  # lines times lines: beyond it difflib takes seconds on text made to be slow

KnobName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Path = Annotated[
    str,
    StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*){0,7}$"),
]
"""A path within the subject: no `..`, nothing hidden, nothing absolute, no character with a second meaning."""

Text = Annotated[str, StringConstraints(max_length=MAX_STRING)]
Value: TypeAlias = bool | int | float | Text | None
Changes: TypeAlias = Annotated[dict[KnobName, Value], Field(max_length=MAX_CHANGES)]

# Control characters and the marks that turn the direction of writing: a rationale is shown to people.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_WHOLE_RECIPE = re.compile(
    r"model_dump|model_copy|model_fields|getattr|__dict__|\b(?:vars|dict|iter)\s*\(|\*\*\s*recipe|\bin\s+recipe\b"
)


class _Common(Record):
    base: Base
    rationale: Annotated[str, StringConstraints(max_length=2000)] = ""

    @field_validator("rationale")
    @classmethod
    def _showable(cls, text: str) -> str:
        if _UNSHOWABLE.search(text):
            raise ValueError("a control character")
        return text

    def document(self) -> dict[str, Any]:
        """Return the proposal as the JSON document that parses to it."""
        return self.json_value()


class Hyperparameters(_Common):
    """Other values for knobs of the training process."""

    kind: Literal["hyperparameters"]
    changes: Annotated[Changes, Field(min_length=1)]


class Architecture(_Common):
    """Other values for knobs of the network; knobs of training may change with them.

    With `inherit` the child begins with what its base's weights say of it (`growth`), else from scratch.
    """

    kind: Literal["architecture"]
    changes: Annotated[Changes, Field(min_length=1)]
    inherit: bool = False


class Code(_Common):
    """Whole new texts of files of the subject, by path; knobs may change with them."""

    kind: Literal["code"]
    files: Annotated[dict[Path, str], Field(min_length=1, max_length=MAX_FILES)]
    changes: Changes = {}

    @field_validator("files")
    @classmethod
    def _bounded(cls, files: dict[str, str]) -> dict[str, str]:
        for path, text in files.items():
            if "\0" in text:
                raise ValueError(f"a NUL in {path}")
            if len(text.encode("utf-8")) > MAX_TEXT_BYTES:
                raise ValueError(f"{path} is longer than {MAX_TEXT_BYTES} bytes")
            if any(other.startswith(f"{path}/") for other in files):
                raise ValueError(f"{path} is a file and a folder")
        return files


class Weights(_Common):
    """Other weights for the base's recipe and code; where they are trained, knobs of training may change with them."""

    kind: Literal["weights"]
    start: Annotated[Continue | Average | LowRank | Reinforce, Field(discriminator="method")]
    changes: Changes = {}

    @model_validator(mode="after")
    def _read_in_training(self) -> Self:
        if self.changes and self.start.method not in TRAINING:
            raise ValueError(f"{self.start.method} calls no train, which could read what changes")
        return self


AnyProposal: TypeAlias = Hyperparameters | Architecture | Code | Weights
Proposal: TypeAlias = Annotated[AnyProposal, Field(discriminator="kind")]
"""What a proposer may ask for: one of four kinds, told apart by `kind`."""

_PROPOSAL: TypeAdapter[AnyProposal] = TypeAdapter(Proposal)


def parse_proposal(data: bytes, *, mutable: Iterable[str] = ("model.py",)) -> AnyProposal:
    """Parse one proposal document from untrusted bytes; ProposalError for anything else.

    `mutable` are the globs of the files that the subject lets proposals change. The document is read in its
    canonical form, so a value written 1.0 is the integer 1.
    """
    try:
        value = parse_json(data, max_bytes=MAX_PROPOSAL_BYTES, max_depth=4)
        canonical = canonical_bytes(value)
    except CanonicalError as error:
        raise ProposalError(error.message, where=error.where) from error
    try:
        proposal = _PROPOSAL.validate_json(canonical)
    except ValidationError as error:
        place, message = first_problem(error)
        raise ProposalError(_printable(message), where=_printable(place)) from error
    if isinstance(proposal, Code):
        globs = tuple(mutable)
        for path in proposal.files:
            if not is_mutable(path, globs):
                raise ProposalError(
                    f"{path} is not among the files that may be changed", remedy=f"these are: {', '.join(globs)}"
                )
    return proposal


def is_mutable(path: str, globs: Iterable[str]) -> bool:
    """Whether a path matches one of the globs: `*` stays within a folder, `**` stands for any number of them."""
    parts = tuple(path.split("/"))
    return any(_matches(parts, tuple(glob.split("/"))) for glob in globs)


def _matches(parts: tuple[str, ...], globs: tuple[str, ...]) -> bool:
    if not globs:
        return not parts
    if globs[0] == "**":
        return any(_matches(parts[skipped:], globs[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], globs[0]) and _matches(parts[1:], globs[1:])


class KnobChange(Record):
    """One knob with another value; `old` and `new` are canonical JSON. `unknown`: the base has no such knob."""

    name: str
    group: Group | Literal["unknown"]
    old: str
    new: str


class FileChange(Record):
    """One file with other code, and by how many lines."""

    path: str
    lines_added: int
    lines_removed: int


class Change(Record):
    """What a proposal changes in effect. `unread` names changed knobs that no file of the candidate mentions."""

    knobs: list[KnobChange]
    files: list[FileChange]
    lines_changed: int
    unread: list[str]
    is_noop: bool
    start: Start | None = None
    """Where training begins, if not from scratch."""

    def json_value(self) -> dict[str, Any]:
        """As a JSON value; one that starts from scratch reads as it did before there were starts."""
        value = super().json_value()
        if self.start is None:
            del value["start"]
        return value


def start_of(proposal: AnyProposal, base: Digest, incumbent: Digest) -> AnyStart | None:
    """Where the training of a proposal's candidate begins, by digests; None from scratch.

    `base` and `incumbent` are the candidates that it starts from and that is live. Raises ProposalError where two
    names stand for one candidate.
    """
    if isinstance(proposal, Architecture):
        return Inherit(method="inherit", sources=[base]) if proposal.inherit else None
    if not isinstance(proposal, Weights):
        return None
    sources = [incumbent if source == "incumbent" else source for source in proposal.start.sources]
    if len(set(sources)) != len(sources):
        raise ProposalError("the incumbent twice", where="start.sources")
    if isinstance(proposal.start, Average):
        sources.sort()  # in whatever order, it is one mean
    return proposal.start.model_copy(update={"sources": sources})


def effective_change(
    base_recipe: Mapping[str, Any],
    base_files: Mapping[str, str],
    proposal: AnyProposal,
    *,
    schema: Mapping[str, Any],
    start: AnyStart | None = None,
) -> Change:
    """Work out what the proposal changes against its base: a verified change, not a claimed one.

    `base_recipe` is the base's normalised recipe, `base_files` its source files (path → text), `schema` the JSON
    schema of its Recipe, `start` what `start_of` says. Raises ProposalError where the proposal contradicts its kind or
    its base: an unknown knob, a value outside the knob's declared range, an `architecture` proposal that changes no
    knob of the architecture, one of `hyperparameters` or `weights` that does. A proposal of code may set knobs that its
    own code brings with it, so its values are left for the worker to judge.
    """
    try:
        space = read_space(schema)
    except SubjectError as error:
        raise ProposalError(f"the base cannot be changed: {error.message}") from error
    code = isinstance(proposal, Code)
    knobs = []
    for name, new in sorted(proposal.changes.items()):
        known = space.get(name)
        if known is None and not code:
            raise ProposalError(f"the Recipe has no knob {name!r}", where=f"changes.{name}")
        if known is not None and not code and not known.admits(new):
            raise ProposalError(f"{_shown(new)} is not a value that the knob {name!r} admits", where=f"changes.{name}")
        old = base_recipe.get(name)
        if (known is not None or name in base_recipe) and same(old, new):
            continue
        knobs.append(KnobChange(name=name, group=known.group if known else "unknown", old=_shown(old), new=_shown(new)))
    _check_kind(proposal, knobs)
    texts = proposal.files if isinstance(proposal, Code) else {}
    files = [
        _file_change(path, base_files.get(path), text)
        for path, text in sorted(texts.items())
        if not _same_code(path, base_files.get(path), text)
    ]
    sources = {**base_files, **texts}
    unread = [knob.name for knob in knobs if not _is_read(knob.name, sources)]
    return Change(
        knobs=knobs,
        files=files,
        lines_changed=sum(file.lines_added + file.lines_removed for file in files),
        unread=unread,
        is_noop=not files and len(unread) == len(knobs) and not isinstance(proposal, Weights),
        start=start,
    )


def successor(
    base_recipe: Mapping[str, Any], base_files: Mapping[str, str], proposal: AnyProposal
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the recipe and the files that the proposal makes of its base's; neither argument is changed."""
    files = proposal.files if isinstance(proposal, Code) else {}
    return {**base_recipe, **proposal.changes}, {**base_files, **files}


def unified_diff(path: str, old: str, new: str) -> str:
    """Return the change of one file as a unified diff, for people; above a bound of work, all old and all new lines."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    if len(before) * len(after) > _MAX_DIFF_WORK:
        lines = [f"--- a/{path}\n", f"+++ b/{path}\n"]
        lines += [*(f"-{line}" for line in before), *(f"+{line}" for line in after)]
    else:
        lines = list(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}"))
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _check_kind(proposal: AnyProposal, knobs: list[KnobChange]) -> None:
    shaping = [knob.name for knob in knobs if knob.group == "architecture"]
    if isinstance(proposal, Hyperparameters | Weights) and shaping:
        raise ProposalError(f"{proposal.kind}, but it changes the architecture: {', '.join(shaping)}", where="kind")
    if isinstance(proposal, Architecture) and knobs and not shaping:
        raise ProposalError("architecture, but it changes no knob of the architecture", where="kind")


def _shown(value: Scalar | list[Any] | dict[str, Any]) -> str:
    try:
        return canonical_bytes(value).decode("utf-8")
    except CanonicalError as error:
        raise ProposalError(f"the base's recipe holds a value that is not JSON: {error}") from error


def _printable(text: str) -> str:
    """Shorten and escape what a document brought into an error's message."""
    return text[:300].encode("unicode_escape").decode("ascii")


def _tree(path: str, text: str) -> str | None:
    """Return the syntax tree of Python code as text, or None for what is no Python that can be read."""
    if not path.endswith(".py"):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string is the author's matter
            return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the parser's own limits come as the last two
        return None


def _same_code(path: str, old: str | None, new: str) -> bool:
    if old is None:
        return False
    if old == new:
        return True
    tree = _tree(path, new)
    return tree is not None and tree == _tree(path, old)


def _file_change(path: str, old: str | None, new: str) -> FileChange:
    """Count lines by difflib; where that would take long, the whole middle counts as replaced: never too few."""
    before, after = (old or "").splitlines(), new.splitlines()
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    before, after = before[start : len(before) - end], after[start : len(after) - end]
    added, removed = len(after), len(before)
    if added * removed <= _MAX_DIFF_WORK:
        kept = sum(block.size for block in difflib.SequenceMatcher(None, before, after).get_matching_blocks())
        added, removed = added - kept, removed - kept
    return FileChange(path=path, lines_added=added, lines_removed=removed)


def _is_read(name: str, sources: Mapping[str, str]) -> bool:
    """Whether any file mentions the knob besides declaring it: as an attribute, or as a word in a string.

    Where a file uses the recipe as a whole (`model_dump`, `getattr`, `vars`, …) every knob counts as read: only
    what is plainly dead is called dead.
    """
    mentions = (re.compile(rf"\.\s*{name}\b"), re.compile(rf"['\"]{name}['\"]"), _WHOLE_RECIPE)
    return any(mention.search(text) for text in sources.values() for mention in mentions)
