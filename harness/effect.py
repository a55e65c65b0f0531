"""What a build really changed, against what its proposal said it would: `undeclared`, `no-op`, or nothing to say.

A screen judges what is declared. So what came out of the build must be that, and no more: the recipe that was asked
for, field by field; the base's own space of knobs where no file changed; the base's tensors, by name, type and shape,
where neither code nor architecture did. And it must be something: knobs that changed, and that nothing read while the
candidate was built, trained and asked, are none.

It is derived from log and blobs alone, so that a replay derives it again. What was read is the worker's word.
"""

from __future__ import annotations

from pydantic import ValidationError

from harness.artifacts import BlobStore, tensor_header
from harness.canonical import parse_json
from harness.decision import reject
from harness.entries import Built, Screened
from harness.errors import AuditError
from harness.proposal import Change
from harness.proposers.space import same
from harness.records import Candidate, Decision, Digest, first_problem

__all__ = ["change_of", "shortcoming"]


def change_of(blobs: BlobStore, name: Digest) -> tuple[str, Change]:
    """The kind of a proposal and its effective change, from the blob that its screen names; AuditError for no such."""
    value = parse_json(blobs.get(name))
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise AuditError("the effective change is malformed", where=name)
    try:
        return str(value["kind"]), Change.parse(value.get("change"))
    except ValidationError as error:
        raise AuditError(f"the effective change is malformed: {first_problem(error)}", where=name) from error


def shortcoming(blobs: BlobStore, screened: Screened, base: Candidate, built: Built) -> Decision | None:
    """Why a built candidate is rejected for what it changes or does not; None where it is what was proposed."""
    kind, change = change_of(blobs, screened.change)
    made = built.candidate
    more = _undeclared_fields(kind, screened, made) or _undeclared_matter(blobs, kind, base, made)
    if more:
        return reject("undeclared", more)
    names = [knob.name for knob in change.knobs]
    idle = built.read is not None and not set(names) & set(built.read)
    if names and idle and not change.files and kind != "weights":
        return reject("no-op", f"nothing read {', '.join(names)[:500]} while it was built, trained and asked")
    return None


def _undeclared_fields(kind: str, screened: Screened, made: Candidate) -> str | None:
    """What of the recipe is not as it was asked for. Code may bring fields of its own: its text declares them."""
    for name, asked in sorted(screened.recipe.items()):
        if name not in made.recipe:
            return f"the recipe that came out of the build has no {name!r}"
        if not same(asked, made.recipe[name]):
            return f"{name!r} came out of the build as {made.recipe[name]!r:.200}, and {asked!r:.200} was proposed"
    added = sorted(made.recipe.keys() - screened.recipe.keys())
    if added and kind != "code":
        return f"the recipe that came out of the build has {added[0]!r}, which its base has not"
    return None


def _undeclared_matter(blobs: BlobStore, kind: str, base: Candidate, made: Candidate) -> str | None:
    """What else changed that is not this kind's to change: the space of knobs, the shapes of the weights."""
    if kind != "code" and made.schema_digest != base.schema_digest:
        return "the same files declare other knobs than those of its base"
    if kind not in ("hyperparameters", "weights"):
        return None
    before, after = (tensor_header(blobs.path(each.weights)) for each in (base, made))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            return f"the tensor {name!r} is of another type or shape than its base's: {kind} change no architecture"
    return None
