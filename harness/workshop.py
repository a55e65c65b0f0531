"""The supervisor's side of a worker: stage a job, run it in the sandbox, check what comes out.

Nothing that a worker says is believed. Its bytes are parsed after its namespace is empty;
tensors are checked before they are read; parameters are counted from the tensor header; time
and memory are taken from outside. A failed job is a value (`Failure`), with a reason code.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.artifacts import BlobStore, TensorSpec, read_tensors, tensor_header
from harness.canonical import canonical_bytes, parse_json
from harness.config import Config
from harness.engines import Engine
from harness.errors import ArtifactError, CanonicalError, SandboxError, SubjectError
from harness.executing import execute
from harness.execution import Execution
from harness.live import candidate_digest
from harness.perturbing import ATTACK, PERTURBED, Perturbation
from harness.proposers.space import read_space
from harness.records import Candidate, Digest, Reason
from harness.sandbox import Job, Limits, Outcome
from harness.starting import AnyStart

PREDICT_ROWS = 512
"""Rows of one forward pass in a predict job."""


MAX_RECIPE = 16 * 1024
MAX_RECIPE_DEPTH = 8
"""Bounds of a recipe as JSON: it is part of entries of the log, which hold 64 kB."""
MAX_SCHEMA = 256 * 1024


@dataclass(frozen=True)
class Failure:
    """A job that gave nothing: why, by code and in words."""

    code: Reason
    text: str


@dataclass(frozen=True)
class Made:
    """A sealed candidate, and what its making took."""

    candidate: Candidate
    steps: int
    seconds: float
    peak_mb: float
    read: list[str] | None = None
    """The recipe's fields that its code read, by the worker's word; None where it gave none that can be used."""


@dataclass(frozen=True)
class Answered:
    """The digest of a candidate's answers, [rows, *output] float32 in a blob; `flops` per row is the worker's word.

    Seconds of the wall clock and MiB of memory were taken from outside, over the whole job.
    """

    answers: Digest
    flops: int | None
    seconds: float
    peak_mb: float


class Workshop:
    """Builds candidates and has them answer, through one engine."""

    PREDICT = '{"job":"predict"}'
    """The job by which an eval that asks has rows answered."""
    BATCHES: ClassVar[dict[str, int]] = {PREDICT: PREDICT_ROWS, '{"batch":1,"job":"predict"}': 1}
    """Rows of one forward pass, by job: all together, or each alone."""

    def __init__(
        self, engine: Engine, blobs: BlobStore, config: Config, work: Path, *, seed: int, output: list[int]
    ) -> None:
        """`work` is a folder for staging; `output` the shape of one row of answers."""
        self._engine = engine
        self._blobs = blobs
        self._config = config
        self.work = work
        self._seed = seed
        self._output = tuple(output)

    def store_source(self, files: Mapping[str, bytes]) -> Digest:
        """Put a source tree among the blobs; returns the digest of its manifest."""
        manifest = {path: self._blobs.put(content) for path, content in sorted(files.items())}
        return self._blobs.put(canonical_bytes(manifest))

    def keep(self, data: bytes) -> Digest:
        """Put bytes among the blobs."""
        return self._blobs.put(data)

    def blob(self, answers: Digest) -> Path:
        """Where a blob lies, for the evaluator to read."""
        return self._blobs.path(answers)

    def load_source(self, source: Digest) -> dict[str, bytes]:
        """The files of a stored source tree."""
        manifest = parse_json(self._blobs.get(source))
        if not isinstance(manifest, dict):
            raise SubjectError("a source tree's manifest is malformed", where=source)
        return {path: self._blobs.get(str(blob)) for path, blob in manifest.items()}

    def schema(self, candidate: Candidate) -> dict[str, Any]:
        """The JSON schema of a candidate's Recipe."""
        value = parse_json(self._blobs.get(candidate.schema_digest))
        return value if isinstance(value, dict) else {}

    def describe(self, source: Digest) -> tuple[dict[str, Any], dict[str, Any]]:
        """The default recipe and the schema of a source tree's Recipe. SubjectError where it has none."""
        outcome = self._run("describe", source, {}, {}, seconds=self._config.budgets.predict_seconds)
        failure = _failure(outcome, "build")
        recipe, schema = outcome.header.get("recipe"), outcome.header.get("schema")
        if failure or not isinstance(recipe, dict) or not isinstance(schema, dict):
            raise SubjectError(failure.text if failure else "describe answered no recipe", where="model.py")
        return recipe, schema

    def build(
        self,
        recipe: Mapping[str, Any],
        source: Digest,
        training: Path,
        *,
        start: AnyStart | None = None,
        sources: Sequence[Candidate] = (),
        seconds: float = math.inf,
    ) -> Made | Failure:
        """Train one candidate in the sandbox, within `seconds`, and seal what it leaves behind.

        It begins from scratch, or as `start` says from the weights of `sources`, the candidates that it names.
        """
        budgets = self._config.budgets
        payload: dict[str, Any] = {
            "recipe": dict(recipe),
            "seed": self._seed,
            "threads": self._config.workers.threads,
        }
        files = {"train.safetensors": training}
        if start is not None:
            payload["start"] = {**start.json_value(), "recipe": sources[0].recipe}
            files |= {f"start-{at}.safetensors": self._blobs.path(each.weights) for at, each in enumerate(sources)}
        outcome = self._run("build", source, payload, files, seconds=min(budgets.build_seconds, seconds))
        failure = _failure(outcome, "build")
        if failure:
            return failure
        normal, schema = outcome.header.get("recipe"), outcome.header.get("schema")
        if not isinstance(normal, dict) or not isinstance(schema, dict):
            return Failure("build-output", "the build answered without a recipe or a schema")
        if not sound_recipe(normal):
            return Failure("build-output", f"the recipe is larger than {MAX_RECIPE} bytes, or nested too deeply")
        try:
            specs = tensor_header(outcome.output)
            if not specs:
                return Failure("build-output", "the weights: there are none")
            read_tensors(outcome.output, expect=None, max_bytes=budgets.output_mb << 20)
            read_space(schema)  # a space that cannot be read could never be searched further
            encoded = canonical_bytes(schema)
            if len(encoded) > MAX_SCHEMA:
                return Failure("build-output", f"the recipe's schema is larger than {MAX_SCHEMA} bytes")
            schema_digest = self._blobs.put(encoded)
        except ArtifactError as error:
            code: Reason = "non-finite" if "finite" in error.message else "build-output"
            return Failure(code, f"the weights: {error.message}")
        except (CanonicalError, SubjectError) as error:
            return Failure("build-output", f"the recipe or its schema: {error.message}")
        weights = self._blobs.put(outcome.output)
        candidate = Candidate(
            digest=candidate_digest(normal, source, weights),
            recipe=normal,
            source=source,
            weights=weights,
            parameters=sum(_count(spec) for spec in specs.values()),
            bytes=len(outcome.output),
            schema_digest=schema_digest,
        )
        steps, read = _told(outcome.header.get("steps")) or 0, _names(outcome.header.get("read"), normal)
        return Made(candidate, steps, outcome.wall_seconds, outcome.peak_mb, read)

    def predict(
        self,
        candidate: Candidate,
        inputs: Path,
        rows: int,
        *,
        folder: Path | None = None,
        batch: int = PREDICT_ROWS,
    ) -> Answered | Failure:
        """Have a sealed candidate answer `rows` unlabelled rows, in a fresh sandbox.

        With `folder`, weights and source are taken from that staged version instead of the blobs: the smoke test.
        """
        outcome = self._predicted(candidate, inputs, rows, folder=folder, batch=batch)
        if isinstance(outcome, Failure):
            return outcome
        return Answered(
            self._blobs.put(outcome.output),
            _told(outcome.header.get("flops")),
            outcome.wall_seconds,
            outcome.peak_mb,
        )

    def _predicted(
        self, candidate: Candidate, inputs: Path, rows: int, *, folder: Path | None = None, batch: int = PREDICT_ROWS
    ) -> Outcome | Failure:
        payload = {"recipe": candidate.recipe, "batch": batch, "threads": self._config.workers.threads}
        weights = self._blobs.path(candidate.weights) if folder is None else folder / "weights.safetensors"
        files = {"inputs.safetensors": inputs, "weights.safetensors": weights}
        seconds = self._config.budgets.predict_seconds
        outcome = self._run("predict", candidate.source, payload, files, seconds=seconds, folder=folder)
        failure = _failure(outcome, "predict")
        if failure:
            return failure
        try:
            spec = TensorSpec(dtype="F32", shape=(rows, *self._output))
            read_tensors(outcome.output, expect={"answers": spec}, max_bytes=1 << 32)
        except ArtifactError as error:
            return Failure("predict-output", f"the answers: {error.message}")
        return outcome

    def perform(self, candidate: Candidate, job: str, inputs: Path, rows: int, outputs: Path) -> Failure | None:
        """Have a sealed candidate do a job that an eval asks for on `rows` rows, and write what comes of it.

        Programs that it wrote are run without it. Raises SubjectError for a job that there is not.
        """
        programs = Execution.of(job)
        if programs is not None:
            execute(self._engine, programs, inputs, outputs)
            return None
        attack = Perturbation.of(job)
        if attack is not None:
            return self._attack(candidate, attack, inputs, outputs)
        if job not in self.BATCHES:
            raise SubjectError(f"no worker does the job {job[:100]}", where="guards.py")
        output = self._predicted(candidate, inputs, rows, batch=self.BATCHES[job])
        if isinstance(output, Failure):
            return output
        outputs.write_bytes(output.output)
        return None

    def _attack(self, candidate: Candidate, attack: Perturbation, inputs: Path, outputs: Path) -> Failure | None:
        """Have rows perturbed, in as many jobs as the budget of output asks for; all within what was declared."""
        import numpy as np
        from safetensors.numpy import save_file

        given = read_tensors(inputs, None, max_bytes=1 << 32)
        clean, budgets = given.get(attack.key), self._config.budgets
        if clean is None or clean.dtype != np.float32 or clean.ndim < 2:
            raise SubjectError(f"an attack on '{attack.key}', which is no float32 input of rows", where="guards.py")
        payload = {"recipe": candidate.recipe, "batch": PREDICT_ROWS, "threads": self._config.workers.threads}
        at_once = max(1, ((budgets.output_mb << 20) - 65_536) // max(1, clean[0].nbytes))
        part, moved = outputs.with_suffix(".part"), []
        for first in range(0, len(clean), at_once):
            rows = {name: np.ascontiguousarray(each[first : first + at_once]) for name, each in given.items()}
            save_file(rows, part)
            files = {"inputs.safetensors": part, "weights.safetensors": self._blobs.path(candidate.weights)}
            outcome = self._run(
                ATTACK,
                candidate.source,
                {**payload, "attack": attack.json_value()},
                files,
                seconds=budgets.predict_seconds,
            )
            failure = _failure(outcome, ATTACK)
            if failure:
                return failure
            spec = TensorSpec(dtype="F32", shape=rows[attack.key].shape)
            try:
                tensors = read_tensors(outcome.output, expect={PERTURBED: spec}, max_bytes=1 << 32)
            except ArtifactError as error:
                return Failure("predict-output", f"what an attack gave: {error.message}")
            astray = attack.strays(rows[attack.key], tensors[PERTURBED])
            if astray is not None:
                return Failure("predict-output", f"what an attack gave: {astray}")
            moved.append(tensors[PERTURBED])
        save_file({PERTURBED: np.concatenate(moved)}, outputs)
        return None

    def _run(
        self,
        entry: str,
        source: Digest,
        payload: dict[str, Any],
        files: dict[str, Path],
        *,
        seconds: float,
        folder: Path | None = None,
    ) -> Outcome:
        budgets = self._config.budgets
        limits = Limits(
            wall_seconds=seconds,
            idle_seconds=budgets.idle_seconds,
            memory_mb=budgets.memory_mb,
            output_mb=budgets.output_mb,
        )
        place = Path(tempfile.mkdtemp(prefix=f"{entry}-", dir=self.work))
        try:
            tree = place / "source" if folder is None else folder / "source"
            if folder is None:
                for name, content in self.load_source(source).items():
                    path = tree / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
            payload = {**payload, "device": self._engine.device}
            job = Job(entry=entry, files={"source": tree, **files}, payload=payload, limits=limits)
            return self._engine.submit(job).result()
        finally:
            shutil.rmtree(place, ignore_errors=True)


def sound_recipe(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe is JSON within bounds, so that every entry and every ask can carry it."""
    try:
        return len(canonical_bytes(dict(recipe), max_depth=MAX_RECIPE_DEPTH)) <= MAX_RECIPE
    except CanonicalError:
        return False


def _told(value: object) -> int | None:
    """A count that a worker claims; None where it is no count, which no entry could carry."""
    return value if type(value) is int and value >= 0 else None


def _names(value: object, recipe: Mapping[str, Any]) -> list[str] | None:
    """The fields of a recipe that a worker claims were read; None for anything but a list of them."""
    if not isinstance(value, list) or len(value) > len(recipe):
        return None
    names = [name for name in value if isinstance(name, str) and name in recipe]
    return sorted(set(names)) if len(names) == len(value) else None


def _count(spec: TensorSpec) -> int:
    total = 1
    for size in spec.shape:
        total *= size
    return total


_BY_ERROR: dict[str, Reason] = {
    "NonFiniteLoss": "non-finite",
    "NonFiniteWeights": "non-finite",
    "InvalidRecipe": "invalid-recipe",
    "BadAnswers": "predict-output",
}
"""What the worker says of itself: believed for the words of a rejection only."""


def _failure(outcome: Outcome, phase: str) -> Failure | None:
    """The reason code and the words for a job that did not end well."""
    if outcome.status == "ok":
        return None
    error = outcome.header.get("error") if isinstance(outcome.header, dict) else None
    told = ""
    if isinstance(error, dict):
        where = f" at {error.get('where')}" if error.get("where") else ""
        told = f"{error.get('type', 'Error')}{where}: {error.get('message', '')}"
    text = f"{phase}: {told or outcome.message or outcome.status}"[:1000]
    if outcome.status in ("unavailable", "refused"):
        # No candidate is to blame for a machine that gives no sandbox, or for an engine that is being closed.
        raise SandboxError(text, remedy="see `lockgate doctor`; then resume")
    code = _BY_ERROR.get(str(error.get("type"))) if isinstance(error, dict) else None
    if code is not None:
        return Failure(code, text)
    if phase != "build":
        return Failure("predict-output" if outcome.status == "oversize" else "predict-failed", text)
    by_status: dict[str, Reason] = {
        "timeout": "build-timeout",
        "idle": "build-timeout",
        "memory": "build-memory",
        "oversize": "build-output",
    }
    return Failure(by_status.get(outcome.status, "build-failed"), text)
