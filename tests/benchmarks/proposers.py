"""What asking a proposer costs a candidate, beside OpenEvolve's loop on the same trivial program and scripted server.

Ours is a proposer asked for generations of four, in its sandbox, with the history and archive grown as in a run: its
answer is bounded and parsed; building, measuring and deciding are not in it. `llm` asks the scripted server through the
broker, which records every request before it is sent. OpenEvolve's is its whole loop with an evaluator that answers at
once, since its proposer cannot be had alone: prompt, request, parsing, database. Run as
`python tests/benchmarks/proposers.py [CANDIDATES]`; OPENEVOLVE names a Python that has openevolve, and without it that
row is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

import chat_server  # noqa: E402

from harness.chat import split  # noqa: E402
from harness.endpoint import Broker  # noqa: E402
from harness.proposal import parse_proposal, successor  # noqa: E402
from harness.proposers import Archived, Ask, Feedback  # noqa: E402
from harness.proposing import Proposing  # noqa: E402

OURS = ("random", "evolution", "architecture", "codegen", "reinforcement", "weights", "llm")
PROGRAM = """import torch
from torch import nn
from torch.nn import functional


def build(recipe):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def train(model, data, recipe, context):
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    for step in range(recipe.steps):
        x = data["x"]
        loss = functional.cross_entropy(model(x), data["y"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "width": {"type": "integer", "minimum": 8, "maximum": 512, "group": "architecture", "scale": "log"},
        "lr": {"type": "number", "minimum": 0.001, "maximum": 0.1, "scale": "log"},
        "steps": {"type": "integer", "minimum": 100, "maximum": 2000},
    },
}
RIVAL = """
import asyncio, sys, tempfile, time
from openevolve import OpenEvolve
from openevolve.config import Config, LLMModelConfig

async def main(url, count, program, evaluator):
    config = Config()
    config.max_iterations, config.checkpoint_interval, config.log_level = count, 10**6, "ERROR"
    config.diff_based_evolution, config.evaluator.cascade_evaluation = False, False
    config.evaluator.parallel_evaluations = 1
    model = LLMModelConfig(name="m", api_base=url, api_key="none", weight=1.0, temperature=0.5, top_p=0.9,
                           max_tokens=2000, timeout=30, retries=0, retry_delay=0)
    config.llm.models = config.llm.evaluator_models = [model]
    with tempfile.TemporaryDirectory() as out:
        loop = OpenEvolve(initial_program_path=program, evaluation_file=evaluator, config=config, output_dir=out)
        begun = time.perf_counter()
        await loop.run(iterations=count)
        print("took", time.perf_counter() - begun, len(loop.database.programs))

if __name__ == "__main__":  # its workers are spawned
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
"""


def programs() -> Iterator[str]:
    """Texts of the program, no two the same."""
    number = 0
    while True:
        number += 1
        yield PROGRAM.replace("nn.Linear(4, 8)", f"nn.Linear(4, {8 + number})").replace(
            "Linear(8, 2)", f"Linear({8 + number}, 2)"
        )


def answering() -> chat_server.Step:
    """Answer each request with the whole of another program."""
    texts = programs()

    def step(handler: chat_server.Handler) -> None:
        server: Any = handler.server
        with server.lock:
            text = f"model.py\n```python\n{next(texts)}```\n"
        handler.send(200, chat_server.completion(text, server.requests[-1][2]))

    return step


def ours(name: str, count: int, url: str, place: Path) -> tuple[float, int]:
    """Ask a proposer until it has made so many candidates: seconds, and how many there were."""
    first = Archived(
        digest=f"sha256:{0:064x}", recipe={"width": 16, "lr": 0.01, "steps": 200}, files={"model.py": PROGRAM},
        development={"accuracy": 0.5},
    )  # fmt: skip
    endpoint, settings = split({"endpoint": url, "model": "m", "budget_tokens": 10**9} if name == "llm" else {})
    models = {}
    if endpoint:
        models[name] = Broker(name, endpoint)
        models[name].open(place / "replies")
    archive, history, made, seconds = [first], list[Feedback](), 0, 0.0
    with Proposing(models=models) as proposing:

        def asked(generation: int) -> Ask:
            return Ask(
                seed=1, generation=generation, count=4, settings=settings, schema=SCHEMA, objective="accuracy",
                incumbent=first, archive=archive[-16:], history=history,
            )  # fmt: skip

        proposing.propose("random", asked(0).model_copy(update={"settings": {}}))  # what is warm in a run is warm here
        if name == "reinforcement":
            proposing.propose(name, asked(0))
        for generation in range(1, count // 4 + 1):
            begun = time.perf_counter()
            documents = proposing.propose(name, asked(generation))
            proposals = [parse_proposal(json.dumps(document).encode()) for document in documents]
            seconds += time.perf_counter() - begun
            for index, (document, proposal) in enumerate(zip(documents, proposals, strict=True)):
                base = next(each for each in archive if each.digest == document["base"])
                recipe, files = successor(base.recipe, base.files, proposal)
                made += 1
                archive.append(
                    Archived(digest=f"sha256:{made:064x}", recipe=recipe, files=files, development={"accuracy": 0.5})
                )
                history.append(
                    Feedback(
                        generation=generation, index=index, proposer=name, proposal=document,
                        candidate=archive[-1].digest, stage="developed", development={"accuracy": 0.5 - made / 1e4},
                    )
                )  # fmt: skip
    return seconds, made


def theirs(python: str, count: int, url: str, place: Path) -> tuple[float, int]:
    """Run OpenEvolve's loop: seconds, and how many programs it has in the end."""
    (place / "loop.py").write_text(RIVAL)
    (place / "program.py").write_text(f"# EVOLVE-BLOCK-START\n{PROGRAM}# EVOLVE-BLOCK-END\n")
    (place / "evaluator.py").write_text('def evaluate(path):\n    return {"combined_score": 0.5}\n')
    command = [python, "loop.py", url, str(count), "program.py", "evaluator.py"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    told = [line.split() for line in done.stdout.splitlines() if line.startswith("took ")]
    if not told:
        raise SystemExit(f"OpenEvolve failed: {done.stderr[-1000:]}")
    return float(told[0][1]), int(told[0][2]) - 1


def main() -> int:
    """Print a row for each proposer, and one for OpenEvolve."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    rival = os.environ.get("OPENEVOLVE")
    print(f"{'proposer':16} {'candidates':>10} {'ms a candidate':>15}")
    with chat_server.chat_server(answering()) as chat:
        for name in OURS:
            with tempfile.TemporaryDirectory() as place:
                seconds, made = ours(name, count, chat.url, Path(place))
            print(f"{name:16} {made:10} {1000 * seconds / max(1, made):15.1f}", flush=True)
        if rival is None:
            print("OpenEvolve: skipped; OPENEVOLVE names no Python that has it (pip install openevolve==0.4.1)")
            return 0
        with tempfile.TemporaryDirectory() as place:
            seconds, made = theirs(rival, count, chat.url, Path(place))
        print(f"{'OpenEvolve':16} {made:10} {1000 * seconds / max(1, made):15.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
