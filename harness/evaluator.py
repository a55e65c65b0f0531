"""The evaluator: the one process that holds held-out labels. It sees answers as plain tensors.

Started by the supervisor as `python -m harness.evaluator SUBJECT`; answers one JSON line
for each (see `channel.py`). It imports the subject's trusted `guards.py` and numpy, never
torch, and runs no candidate code. It holds no key: the supervisor tells it which items,
in which order, under which shuffle.

What the predict job is given is one flat table of rows: the inputs of all views of all
items, shuffled, so that a candidate cannot tell by its place which eval a row serves.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.canonical import canonical_bytes, digest, digest_file, parse_json
from harness.channel import MAX_LINE, serve_lines
from harness.errors import EvaluatorError, LockgateError, SubjectError

if TYPE_CHECKING:
    import numpy as np

    from harness.evals import Evaluation, Items


class Evaluator:
    """The subject's data and evals, loaded once, and the operations that the supervisor asks for."""

    def __init__(self, subject: Path, expected: dict[str, str] | None = None) -> None:
        """Load `guards.py` and its data. SubjectError where they are not sound.

        `expected` maps files of the subject to their digests: what the log's guard digest covers. An evaluator
        that is started again in the middle of a run loads exactly that, or nothing.
        """
        from harness.evals import load_guards

        # A stale or planted .pyc would run in place of the text that was hashed: below a device there can be none.
        sys.pycache_prefix, sys.dont_write_bytecode = os.devnull, True
        self._path = subject / "guards.py"
        _check_files(subject, expected or {})
        self._suite = load_guards(self._path, expected)
        _check_files(subject, expected or {})  # and nothing was changed between the hash and the import
        self._data = self._suite.load()
        self._suite.check(self._data)

    def operate(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request, by its `op`."""
        operations: dict[str, Callable[..., dict[str, Any]]] = {
            "describe": self.describe,
            "fingerprint": self.fingerprint,
            "added": self.added,
            "digests": self.digests,
            "training": self.training,
            "inputs": self.inputs,
            "develop": self.develop,
            "test": self.test,
            "pick": self.pick,
            "agree": self.agree,
        }
        arguments = dict(request)
        operation = operations.get(str(arguments.pop("op", "")))
        if operation is None:
            raise EvaluatorError(f"unknown operation {request.get('op')!r}")
        return operation(**arguments)

    def describe(self) -> dict[str, Any]:
        """What there is: sizes, evals with their kinds and bounds, the shape of an answer, the data's digest."""
        return {
            "data": self.fingerprint(len(self._data.vault))["digest"],
            "development": len(self._data.development),
            "vault": len(self._data.vault),
            "output": list(self._data.output),
            "evals": [
                {
                    "name": e.name,
                    "kind": e.kind,
                    "views": list(e.views),
                    "bounds": list(e.bounds),
                    "applies": self._share(e),
                }
                for e in self._suite.evaluations.values()
            ],
        }

    def _share(self, evaluation: Evaluation) -> float:
        """The share of development items that an eval applies to: what the power calculation needs to know."""
        return float(evaluation.mask(self._data.development.labels).mean())

    def fingerprint(self, vault: int) -> dict[str, Any]:
        """A digest over every item and label, in order: what the guarantees are about.

        Of the held-out items, the first `vault` ones: what there was before more were added.
        """
        import hashlib

        from harness.evals import item_key

        whole = hashlib.sha256()
        for items in (self._data.development, self._data.vault.take(range(min(vault, len(self._data.vault))))):
            whole.update(len(items).to_bytes(8, "big"))
            for raw in items.raw:
                key = item_key(raw)
                whole.update(len(key).to_bytes(8, "big") + key)
            whole.update(_plain(items.labels).tobytes())
        return {"digest": f"sha256:{whole.hexdigest()}"}

    def added(self, before: int) -> dict[str, Any]:
        """Check the held-out items that stand after the first `before` ones: none of them was held out before."""
        self._data.check_added(before)
        return {"added": len(self._data.vault) - before}

    def digests(self, ids: list[int]) -> dict[str, Any]:
        """Name some held-out items by the digests of their contents, labels left out."""
        from harness.evals import item_key

        return {"digests": [f"sha256:{item_key(raw).hex()}" for raw in self._data.vault.take(ids).raw]}

    def training(self, dest: str) -> dict[str, Any]:
        """Write the training tensors, labels and all, to `dest` for build jobs."""
        from safetensors.numpy import save_file

        save_file({k: _plain(v) for k, v in self._data.train.items()}, dest)
        return {"digest": digest(Path(dest).read_bytes())}

    def _items(self, split: str, ids: list[int] | None) -> Items:
        whole = {"development": self._data.development, "vault": self._data.vault}[split]
        return whole if ids is None else whole.take(ids)

    def inputs(self, split: str, ids: list[int] | None, shuffle: str, dest: str) -> dict[str, Any]:
        """Write the unlabelled, shuffled inputs of all views of these items to `dest`.

        `shuffle` is 64 hexadecimal digits; it seeds the views' own randomness and the order of rows.
        """
        import numpy as np
        from safetensors.numpy import save_file

        items = self._items(split, ids)
        tables = list(self._suite.encode(items.raw, _seed(shuffle, "views")).values())
        keys = sorted(tables[0])
        flat = {key: np.concatenate([table[key] for table in tables]) for key in keys}
        rows = len(flat[keys[0]])
        order = _generator(shuffle, "order of rows").permutation(rows)
        save_file({key: _plain(table[order]) for key, table in flat.items()}, dest)
        return {"rows": rows, "items": len(items)}

    def _answers(self, path: str, items: int, shuffle: str) -> dict[str, np.ndarray]:
        """Read a candidate's answers, checked before they are read, and put them back in order by view."""
        import numpy as np

        from harness.artifacts import TensorSpec, read_tensors

        views = list(self._suite.views)
        rows = items * len(views)
        spec = TensorSpec(dtype="F32", shape=(rows, *self._data.output))
        flat = read_tensors(Path(path), expect={"answers": spec}, max_bytes=1 << 32)["answers"]
        order = _generator(shuffle, "order of rows").permutation(rows)
        straight = np.empty_like(flat)
        straight[order] = flat
        return {view: straight[k * items : (k + 1) * items] for k, view in enumerate(views)}

    def develop(self, answers: str, shuffle: str) -> dict[str, Any]:
        """Score every eval on all development items: the mean of each, which a proposer may see."""
        items = self._data.development
        by_view = self._answers(answers, len(items), shuffle)
        means = {}
        for name in self._suite.evaluations:
            scores = self._suite.evaluations[name].score(items.labels, by_view).values
            if not len(scores):
                raise SubjectError(f"eval '{name}' applies to no development item", where=str(self._path))
            means[name] = float(scores.mean())
        return {"development": means}

    def pick(self, inputs: str, rows: list[int], dest: str) -> dict[str, Any]:
        """Write some rows of staged inputs to `dest`, to be answered again on their own."""
        from safetensors.numpy import load_file, save_file

        save_file({key: _plain(table[rows]) for key, table in load_file(inputs).items()}, dest)
        return {"rows": len(rows)}

    def agree(self, answers: str, again: str, rows: list[int], total: int) -> dict[str, Any]:
        """Say whether answers [total, *output] and those given to some rows alone agree, up to rounding."""
        import numpy as np

        from harness.artifacts import TensorSpec, read_tensors

        shape = self._data.output
        first = read_tensors(Path(answers), {"answers": TensorSpec("F32", (total, *shape))}, max_bytes=1 << 32)
        second = read_tensors(Path(again), {"answers": TensorSpec("F32", (len(rows), *shape))}, max_bytes=1 << 32)
        one, two = first["answers"][rows], second["answers"]
        # Sums are ordered by batch size, and bfloat16 keeps 8 bits: rounding is let through, another answer is not.
        return {"agree": bool(np.allclose(one, two, rtol=1e-2, atol=1e-3 * float(np.abs(one).max(initial=0.0))))}

    def test(
        self,
        ids: list[int],
        shuffle: str,
        candidate: str,
        incumbent: str,
        baseline: str,
        gates: list[dict[str, Any]],
        alpha: float,
        cap: int,
        batch: int,
    ) -> dict[str, Any]:
        """Run the sequential test of all gates on this prefix of the vault; stop as soon as it is decided."""
        import numpy as np

        from harness.statistics import GateSpec, run_test

        specs = [GateSpec.parse(gate) for gate in gates]
        items = self._items("vault", ids)
        answers: dict[str, dict[str, np.ndarray]] = {}
        for role, path in (("candidate", candidate), ("incumbent", incumbent), ("baseline", baseline)):
            answers[role] = self._answers(path, len(items), shuffle)

        # Everything is scored at once, and the test then reads as much as it needs: so the time that a test takes,
        # which a proposer might measure from outside, tells next to nothing of where it stopped.
        values, before = {}, {}
        for spec in specs:
            evaluation = self._suite.evaluations[spec.eval]
            own = evaluation.score(items.labels, answers["candidate"])
            other = None if spec.paired is None else evaluation.score(items.labels, answers[spec.paired]).values
            values[spec.name] = spec.observe(own.values, other)
            before[spec.name] = np.concatenate([[0], np.cumsum(own.applies)])

        def draw(gate: str, start: int, stop: int) -> np.ndarray:
            return values[gate][before[gate][start] : before[gate][stop]]

        # How many items an eval applies to is known before any is scored: it only tells what is hopeless.
        applicable = {
            spec.name: int(self._suite.evaluations[spec.eval].mask(items.labels[: spec.cap or cap]).sum())
            for spec in specs
        }
        result = run_test(specs, draw, alpha, cap, batch, applicable=applicable, available=len(items))
        return {"result": result.json_value(), "salt": secrets.token_hex(16)}


def _check_files(subject: Path, expected: dict[str, str]) -> None:
    for name, wanted in expected.items():
        try:
            found = digest_file(subject / name)
        except OSError as error:
            raise SubjectError(f"cannot be read: {error.strerror}", where=str(subject / name)) from error
        if found != wanted:
            raise SubjectError(
                "has changed while the run is at work: nothing is scored by it",
                where=str(subject / name),
                remedy="restore it, then resume; or begin a new run with --out",
            )


def _plain(array: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(array)


def _seed(shuffle: str, label: str) -> int:
    """A seed for one purpose; the same shuffle and purpose give the same seed."""
    return int(digest(f"{shuffle}/{label}".encode()).removeprefix("sha256:")[:32], 16)


def _generator(shuffle: str, label: str) -> np.random.Generator:
    import numpy as np

    return np.random.Generator(np.random.PCG64(_seed(shuffle, label)))


def main() -> None:
    """Serve requests until the supervisor goes away."""
    requests, answers = serve_lines()
    evaluator: Evaluator | None = None
    while line := requests.readline(MAX_LINE):
        try:
            request = parse_json(line, max_bytes=MAX_LINE)
            if not isinstance(request, dict):
                raise EvaluatorError("a request is an object")  # noqa: TRY301 - one way out for all of them
            if evaluator is None:
                evaluator = Evaluator(Path(sys.argv[1]), json.loads(sys.argv[2]) if len(sys.argv) > 2 else None)
            answer: dict[str, Any] = {"ok": evaluator.operate(request)}
        except LockgateError as error:
            answer = {
                "error": type(error).__name__,
                "message": error.message,
                "where": error.where,
                "remedy": error.remedy,
            }
        except Exception as error:  # noqa: BLE001 - guards.py may raise anything: it is reported, and denies
            answer = {
                "error": "SubjectError",
                "message": f"{type(error).__name__}: {error}",
                "where": None,
                "remedy": None,
            }
        answers.write(canonical_bytes(answer) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
