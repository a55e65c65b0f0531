"""What all guards cost: seconds a candidate through the whole loop against the bare train-and-evaluate of the same.

Both train the same recipes of the digits subject on one thread and answer the same number of rows. The bare
loop does it in this process, without sandbox, log, policies, gates or tests, and keeps whatever is best. The
guarded one has every guard on and one worker. Starting either is not counted; both are shown as they are.
Run as `python tests/benchmarks/overhead.py [CANDIDATES]`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

SUBJECT = Path(__file__).resolve().parent.parent / "subjects" / "digits"


def recipes(count: int) -> list[dict[str, object]]:
    """Make distinct recipes whose training takes about as long."""
    return [{"steps": 300, "lr": 0.01 + 0.0005 * k} for k in range(count)]


def bare(changes: list[dict[str, object]], rows: int) -> float:
    """Train and evaluate in this process, as unguarded loops do."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(SUBJECT))
    from harness.evals import load_guards

    suite = load_guards(SUBJECT / "guards.py")
    data = suite.load()
    spec = importlib.util.spec_from_file_location("digits_model", SUBJECT / "model.py")
    model_code = importlib.util.module_from_spec(spec)
    sys.modules["digits_model"] = model_code
    spec.loader.exec_module(model_code)
    train = {key: torch.from_numpy(value) for key, value in data.train.items()}
    inputs = suite.encode({"items": data.development.take(range(min(rows, len(data.development)))).raw}, 0)
    from harness.worker import Context

    begun = time.perf_counter()
    best = 0.0
    for change in changes:
        torch.manual_seed(0)
        recipe = model_code.Recipe(**change)
        model = model_code.build(recipe)
        model_code.train(model, train, recipe, Context(0, torch.device("cpu")))
        with torch.inference_mode():
            answers = {
                name: model_code.predict(model, {k: torch.from_numpy(v) for k, v in view.items()}).numpy()
                for name, view in inputs.items()
            }
        scores = suite.evaluations["accuracy"].score(data.development.labels, answers).values
        best = max(best, float(scores.mean()))
    return (time.perf_counter() - begun) / len(changes)


def guarded(changes: list[dict[str, object]]) -> tuple[float, float, dict[str, int]]:
    """Send the same candidates through every room; returns seconds a candidate, seconds to start, and what came of them."""
    from harness.opening import open_run
    from harness.supervisor import Slot
    from harness.views import summary

    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        opened = open_run(Path(place) / "run", SUBJECT, seed=0, workers=1)
        started = time.perf_counter() - begun
        try:
            documents = [{"kind": "hyperparameters", "base": "incumbent", "changes": change} for change in changes]
            begun = time.perf_counter()
            opened.supervisor.submit(1, [Slot("scripted", json.dumps(d).encode(), scripted=True) for d in documents])
            opened.supervisor.settle(1)
            seconds = (time.perf_counter() - begun) / len(changes)
            told = summary(opened.supervisor.state)
        finally:
            opened.close()
    return seconds, started, {"promoted": told["promoted"], **told["rejected"]}


def main() -> None:
    """Print both, and their ratio and difference."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    changes = recipes(count)
    seconds, started, came = guarded(changes)
    plain = bare(changes, 500)
    print(f"{count} candidates, one worker, one thread; what came of them: {came}")
    print(f"bare train-and-evaluate  {plain * 1e3:8.1f} ms a candidate")
    print(f"all guards on            {seconds * 1e3:8.1f} ms a candidate  (start, baseline included: {started:.1f} s)")
    print(
        f"overhead                 {(seconds - plain) * 1e3:8.1f} ms a candidate, {seconds / plain:.2f} times the bare loop"
    )


if __name__ == "__main__":
    main()
