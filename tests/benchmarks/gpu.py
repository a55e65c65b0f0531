"""Whether a worker gets its accelerator through the walls, and how fast: says so, or says why it was skipped.

Run: python tests/benchmarks/gpu.py. Without a CUDA device it prints "skipped: no CUDA device" and ends with status 0.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from harness.engines.local import LocalEngine
from harness.sandbox import Job, Limits, cuda_devices

MODEL = """
import torch
from pydantic import BaseModel

class Recipe(BaseModel):
    width: int = 2048

def build(recipe):
    return torch.nn.Sequential(torch.nn.Linear(512, recipe.width), torch.nn.ReLU(), torch.nn.Linear(recipe.width, 10))

def train(model, data, recipe, context):
    if context.device.type != "cuda":
        raise RuntimeError(f"the device is {context.device}")
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(50):
        optimizer.zero_grad()
        with context.autocast():
            loss = torch.nn.functional.cross_entropy(model(data["x"]), data["y"])
        loss.backward()
        optimizer.step()
        context.progress(step, loss.item())

def predict(model, inputs):
    return model(inputs["x"])
"""


def main() -> int:
    """Build twice on the first device, in both isolations, and compare."""
    if not cuda_devices():
        print("skipped: no CUDA device")
        return 0
    answers: set[bytes] = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        (folder / "source" / "model.py").write_text(MODEL)
        rng = np.random.default_rng(0)
        save_file(
            {"x": rng.normal(size=(4096, 512)).astype(np.float32), "y": np.arange(4096) % 10},
            folder / "train.safetensors",
        )
        files = {"source": folder / "source", "train.safetensors": folder / "train.safetensors"}
        limits = Limits(memory_mb=8000, output_mb=256, processes=256, files=1024)
        job = Job(entry="build", files=files, payload={"seed": 1, "device": "cuda"}, limits=limits)
        for isolation in ("zygote", "bwrap"):
            with LocalEngine(count=1, isolation=isolation, device="cuda") as engine:
                engine.warm()
                for turn in range(2):
                    start = time.perf_counter()
                    outcome = engine.submit(job).result()
                    seconds = time.perf_counter() - start
                    print(f"{isolation} {turn}: {outcome.status} in {seconds:.2f} s, {outcome.message} {outcome.text}")
                    if not outcome.ok:
                        return 1
                    answers.add(outcome.output)
    print(f"equal answers: {len(answers) == 1}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
