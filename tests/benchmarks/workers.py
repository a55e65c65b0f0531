"""How much a warm worker saves: the same small build as a fork of a zygote and as a fresh process in bubblewrap.

Run: python tests/benchmarks/workers.py [REPEATS]. Prints minimum and median wall-clock seconds from submit to outcome, and the
ratio of the medians; the answers are compared, and must be equal to the bit.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from harness.engines.local import LocalEngine
from harness.sandbox import Job, Limits

MODEL = """
import torch
from pydantic import BaseModel

class Recipe(BaseModel):
    width: int = 16

def build(recipe):
    return torch.nn.Sequential(torch.nn.Linear(16, recipe.width), torch.nn.ReLU(), torch.nn.Linear(recipe.width, 4))

def train(model, data, recipe, context):
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(5):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(data["x"]), data["y"])
        loss.backward()
        optimizer.step()
        context.progress(step, loss.item())

def predict(model, inputs):
    return model(inputs["x"])
"""


def main() -> int:
    """Measure both, and print."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        (folder / "source" / "model.py").write_text(MODEL)
        rng = np.random.default_rng(0)
        save_file(
            {"x": rng.normal(size=(256, 16)).astype(np.float32), "y": np.arange(256) % 4}, folder / "train.safetensors"
        )
        files = {"source": folder / "source", "train.safetensors": folder / "train.safetensors"}
        job = Job(entry="build", files=files, payload={"seed": 1}, limits=Limits(memory_mb=2000))
        times: dict[str, list[float]] = {}
        answers: set[bytes] = set()
        for isolation, count in (("zygote", repeats), ("bwrap", max(3, repeats // 3))):
            with LocalEngine(count=1, isolation=isolation) as engine:
                start = time.perf_counter()
                engine.warm()
                print(f"{isolation}: ready after {time.perf_counter() - start:.2f} s")
                times[isolation] = []
                for _ in range(count):
                    start = time.perf_counter()
                    outcome = engine.submit(job).result()
                    times[isolation].append(time.perf_counter() - start)
                    if not outcome.ok:
                        print(outcome)
                        return 1
                    answers.add(outcome.output)
    for isolation, values in times.items():
        print(f"{isolation}: min {min(values):.3f} s, median {statistics.median(values):.3f} s, {len(values)} jobs")
    print(f"equal answers: {len(answers) == 1}")
    print(f"ratio: {statistics.median(times['bwrap']) / statistics.median(times['zygote']):.1f}")
    return 0 if len(answers) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
