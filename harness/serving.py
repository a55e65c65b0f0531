"""What serving code calls: a promoted model, verified, and built from the very bytes that were verified.

    model = load_promoted("models/3", trust="log.pub").build()
    answers = model.predict({"image": rows})

Rules. Nothing unverified is handed out, and nothing is read again after it was checked. The model is built, and asked,
by the same functions as in the sandbox where it was measured (`worker`): on the same device, with the same number of
torch threads and versions of packages, the answers are the same bits.

Not covered. `build` runs the candidate's code in this process, with this process's rights: it passed the policies and
the gates, and here no sandbox is around it. What a folder alone cannot show is listed in `bundle`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.bundle import MAX_WEIGHTS, Bundle, Trust, read_bundle
from harness.entries import Authorised, Genesis
from harness.errors import SubjectError
from harness.modules import SourceTree

__all__ = ["PromotedModel", "ServedModel", "load_promoted"]

BATCH = 256
"""Rows that are asked at once, as in the sandbox: sums may round otherwise in other batches."""


def load_promoted(directory: Path | str, *, trust: Trust | Path | str, max_weights: int = MAX_WEIGHTS) -> PromotedModel:
    """Read and verify a version's folder, wherever it was copied; AuditError for anything that does not hold.

    `trust` is what this server believes, or the path of a file with the log's keys: a copy from outside the run.
    """
    return PromotedModel(
        read_bundle(directory, trust if isinstance(trust, Trust) else Trust.load(trust), max_weights=max_weights)
    )


@dataclass(frozen=True)
class PromotedModel:
    """A verified version. All that is here was bound to its signed authorisation."""

    bundle: Bundle

    @property
    def origin(self) -> str:
        """The name of the log that authorised it."""
        return self.bundle.origin

    @property
    def version(self) -> int:
        """The number under which it was authorised; 0 is the baseline."""
        return self.bundle.version

    @property
    def candidate(self) -> str:
        """The digest of recipe, source and weights."""
        return self.bundle.candidate

    @property
    def authorisation(self) -> Authorised | Genesis:
        """The entry that allowed it."""
        return self.bundle.authorisation

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe's values."""
        return self.bundle.recipe

    @property
    def source(self) -> Mapping[str, bytes]:
        """Path → bytes of the source tree."""
        return self.bundle.source

    @property
    def weights(self) -> bytes:
        """The safetensors file."""
        return self.bundle.weights

    def build(self, device: str = "cpu", *, packages: Iterable[str] = ()) -> ServedModel:
        """Run the verified source, build the recipe's model on a device and load the weights; SubjectError.

        The source imports what it could import where it was measured, from the same places, and nothing else of this
        process: name in `packages` what the run's `lockgate.yaml` names there. Genesis, for version 0, says it itself.
        """
        from safetensors.torch import load

        from harness import worker

        entry = self.authorisation
        named = {*packages, *(entry.config.packages if isinstance(entry, Genesis) else ())}
        tree = SourceTree(self.source, self.candidate.removeprefix("sha256:")[:12], named)
        with _told(tree.root):
            source = tree.load("model")
            model = worker.restored(source, self.recipe, load(self.weights), device)
        return ServedModel(self, model, device, source, tree.root)


@dataclass(frozen=True)
class ServedModel:
    """A built model: `model` is the torch module in eval mode, `predict` the subject's own function over it."""

    promoted: PromotedModel
    model: Any
    device: str
    source: ModuleType = field(repr=False)
    """The module that model.py became."""
    root: str = field(repr=False)

    def predict(self, inputs: Mapping[str, Any], *, batch: int = BATCH) -> Any:
        """The answers to rows, as a float32 tensor on the CPU; SubjectError where the subject's code fails."""
        from harness import worker

        with _told(self.root):
            return worker.answers(self.source, self.model, dict(inputs), self.device, batch)


@contextlib.contextmanager
def _told(root: str) -> Iterator[None]:
    """Whatever the subject's code raises is one clear error, with the line of the subject's file."""
    from harness import worker

    try:
        yield
    except Exception as error:
        told = worker.describe_error(error, Path(root))
        raise SubjectError(f"{told['type']}: {told['message']}", where=told["where"] or "model.py") from error
