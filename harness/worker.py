"""The only program that runs candidate code, inside the sandbox: describe, build, predict, attack.

It needs the standard library, torch, numpy, safetensors and pydantic, and of the harness only `context`, `growth`,
`warmstart` and `watching`, which are mounted beside it. It is not trusted: whatever it answers is a claim, checked
outside. Its care is for honest candidates, that equal inputs give equal bytes, and that a mistake is reported with its
place in `model.py`.
`serving` builds and asks a promoted model by `restored` and `answers`, so that there is one way to do it.

A subject's `model.py` gives: `Recipe` (a pydantic model, all fields with defaults); `build(recipe) -> Module`;
`train(model, data, recipe, context) -> None`; `predict(model, inputs) -> float32 [rows, *output]`.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import random
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.context import (
    BadAnswersError,
    Context,
    InvalidRecipeError,
    NonFiniteLossError,
    NonFiniteWeightsError,
    NotDifferentiableError,
    Progress,
    WorkerError,
)
from harness.watching import Reads, watched

__all__ = ["Context", "NonFiniteLossError", "WorkerError", "answers", "describe_error", "main", "restored", "run_entry"]

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_MESSAGE = 2000
_HEADER = 900_000  # bytes; the other side reads at most 1 MiB

Answer = tuple[dict[str, Any], bytes]


def main() -> None:
    """Run the entry that the environment names on the files below /job, and write the answer."""
    folder = Path("/job")
    payload = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    progress_fd = int(os.environ["LOCKGATE_PROGRESS_FD"])

    def progress(step: int, loss: float) -> None:
        os.write(progress_fd, json.dumps({"step": step, "loss": loss}).encode() + b"\n")

    header, rest = run_entry(os.environ["LOCKGATE_ENTRY"], folder, payload, progress)
    output_fd = int(os.environ["LOCKGATE_OUTPUT_FD"])
    text = json.dumps(header, allow_nan=False).encode()
    with os.fdopen(os.dup(output_fd), "wb") as stream:
        stream.write(len(text).to_bytes(8, "big") + text)
        stream.write(rest)
    fcntl.fcntl(output_fd, fcntl.F_ADD_SEALS, _SEALS)


def run_entry(entry: str, folder: Path, payload: dict[str, Any], progress: Progress | None = None) -> Answer:
    """Run one entry on the files of `folder`; return a header and bytes. Every mistake of a candidate is an answer.

    entry: `describe`, `build`, `predict`, `attack`. The header of a failure is {"error": {"type", "message", "where"}}.
    """
    entries = {"describe": _describe, "build": _build, "predict": _predict, "attack": _attack}
    source = folder / "source"
    try:
        run = entries.get(entry, _unknown)
        answer = _bounded(run(folder, payload, progress or (lambda _step, _loss: None)))
    except BaseException as error:  # noqa: BLE001  # a candidate may raise anything, SystemExit too
        return {"error": describe_error(error, source)}, b""
    return answer


def describe_error(error: BaseException, source: Path) -> dict[str, str]:
    """Name an error's type, message and the deepest line of the candidate's own files, as `model.py:LINE`."""
    kind = type(error).__name__.removesuffix("Error") if isinstance(error, WorkerError) else type(error).__name__
    text = str(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in text or kind == "OutOfMemoryError":
        kind = "OutOfMemory"
    where = ""
    with contextlib.suppress(Exception):
        prefix = str(source) + "/"
        if isinstance(error, SyntaxError) and str(error.filename).startswith(prefix):
            where = f"{str(error.filename)[len(prefix) :]}:{error.lineno}"
        else:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(prefix)]
            if frames:
                where = f"{frames[-1].filename[len(prefix) :]}:{frames[-1].lineno}"
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return {"type": kind, "message": clean[:_MESSAGE], "where": where[:200]}


def _bounded(answer: Answer) -> Answer:
    if len(json.dumps(answer[0], allow_nan=False)) > _HEADER:
        raise WorkerError("the recipe and its schema are too large")
    return answer


def _load(source: Path) -> ModuleType:
    """Import model.py; its neighbours can be imported too, and come after everything else."""
    path = source / "model.py"
    if not path.is_file():
        raise WorkerError("there is no model.py")
    if str(source) not in sys.path:
        sys.path.append(str(source))
    spec = importlib.util.spec_from_file_location("model", path)
    if spec is None or spec.loader is None:
        raise WorkerError("model.py cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules["model"] = module  # pydantic and dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _recipe(module: ModuleType, values: dict[str, Any] | None) -> Any:
    import pydantic

    recipe = getattr(module, "Recipe", None)
    if not (isinstance(recipe, type) and issubclass(recipe, pydantic.BaseModel)):
        raise WorkerError("model.py defines no pydantic model called Recipe")
    unknown = set(values or {}) - set(recipe.model_fields)
    if unknown:
        raise WorkerError(f"the recipe has no field {min(unknown)!r}")
    try:
        return recipe.model_validate_json(json.dumps(values or {}), strict=True)  # "8" is no width
    except pydantic.ValidationError as error:
        raise InvalidRecipeError(str(error)) from error


def _prepare(payload: dict[str, Any]) -> tuple[int, Any]:
    """Fix seeds, threads and algorithms; return the seed and the device."""
    import numpy as np
    import torch

    seed = int(payload.get("seed", 0))
    torch.set_num_threads(int(payload.get("threads", 1)))
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = False
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # candidates may use the global generator
    torch.manual_seed(seed)
    return seed, torch.device(str(payload.get("device", "cpu")))


def _module(source: ModuleType, recipe: Any, device: Any) -> Any:
    import torch

    model = source.build(recipe)
    if not isinstance(model, torch.nn.Module):
        raise WorkerError(f"build(recipe) gave {type(model).__name__}, not a torch Module")
    return model.to(device)


def _tensors(path: Path, device: Any) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: value.to(device) for name, value in load_file(path).items()}


def _unknown(folder: Path, _payload: dict[str, Any], _progress: Progress) -> Answer:
    raise WorkerError(f"there is no such entry for {folder}")


def _describe(folder: Path, _payload: dict[str, Any], _progress: Progress) -> Answer:
    module = _load(folder / "source")
    recipe = _recipe(module, None)
    return {"recipe": recipe.model_dump(mode="json"), "schema": type(recipe).model_json_schema()}, b""


def _build(folder: Path, payload: dict[str, Any], progress: Progress) -> Answer:
    """Build and train; the header tells which fields of the recipe were read on the way."""
    import torch
    from safetensors.torch import save

    seed, device = _prepare(payload)
    module = _load(folder / "source")
    recipe = _recipe(module, payload.get("recipe"))
    context = Context(seed, device, progress)
    with watched(recipe) as reads:
        torch.manual_seed(seed)  # whatever the import drew, the weights start from the seed
        model = _module(module, recipe, device)
        data = _tensors(folder / "train.safetensors", device)
        _train(folder, payload.get("start"), module, model, data, recipe, context)
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
        _ask_once(module, model, data, reads)
    if not weights:
        raise WorkerError("the model has no weights")
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NonFiniteWeightsError(f"the weights of {name!r} are not finite after training")
    header = {
        "recipe": recipe.model_dump(mode="json"),
        "schema": type(recipe).model_json_schema(),
        "steps": context.steps,
        "loss": context.loss,
        "progress": [list(pair) for pair in context.kept],
        "read": reads.names,
    }
    return header, save(weights)


def _train(
    folder: Path,
    start: dict[str, Any] | None,
    module: ModuleType,
    model: Any,
    data: dict[str, Any],
    recipe: Any,
    context: Context,
) -> None:
    """Train from scratch, or from where the job's start says."""
    import torch

    if start is None:
        model.train()
        module.train(model, data, recipe, context)
        return
    from harness import warmstart

    sources = [_tensors(folder / f"start-{at}.safetensors", context.device) for at in range(len(start["sources"]))]

    def parent() -> Any:
        return _module(module, _recipe(module, start["recipe"]), context.device)

    run = warmstart.begin(model, module, start, sources, data, seed=context.seed, parent=parent)
    torch.manual_seed(context.seed)  # whatever was drawn on the way, training starts from the seed
    model.train()
    run.train(model, data, recipe, context)
    run.end()


def _ask_once(module: ModuleType, model: Any, data: dict[str, Any], reads: Reads) -> None:
    """Have the model answer once, for what of the recipe only answering reads; where it cannot, all counts as read."""
    import torch

    try:
        model.eval()
        with torch.inference_mode():
            module.predict(model, {name: value[:2] for name, value in data.items()})
    except Exception:  # noqa: BLE001  # training tensors need not be inputs, and what is not known is not held against it
        reads.everything()


def _predict(folder: Path, payload: dict[str, Any], progress: Progress) -> Answer:
    import torch
    from safetensors.torch import save

    _, device = _prepare(payload)
    module = _load(folder / "source")
    model = restored(module, payload.get("recipe"), _tensors(folder / "weights.safetensors", device), device)
    inputs = _tensors(folder / "inputs.safetensors", torch.device("cpu"))
    joined = answers(module, model, inputs, device, max(1, int(payload.get("batch", 256))), progress)
    with torch.inference_mode():
        flops = _flops(module, model, {name: value[:1].to(device) for name, value in inputs.items()})
    return {"rows": len(joined), "flops": flops}, save({"answers": joined})


def restored(module: ModuleType, recipe: dict[str, Any] | None, weights: dict[str, Any], device: Any) -> Any:
    """Build a subject's model of a recipe on a device, give it its weights, and make it ready to be asked."""
    model = _module(module, _recipe(module, recipe), device)
    model.load_state_dict(weights)
    model.eval()
    return model


def answers(
    module: ModuleType, model: Any, inputs: dict[str, Any], device: Any, batch: int, progress: Progress | None = None
) -> Any:
    """Ask a model in batches; return all answers on the CPU, each batch checked."""
    import torch

    sizes = {len(value) if value.dim() else -1 for value in inputs.values()}
    if len(sizes) != 1 or (rows := sizes.pop()) < 1:
        raise WorkerError("the inputs are not tensors of one number of rows")
    given = []
    with torch.inference_mode():
        for first in range(0, rows, batch):
            part = {name: value[first : first + batch].to(device) for name, value in inputs.items()}
            answer = module.predict(model, part)
            given.append(_checked(answer, min(batch, rows - first)))
            if progress is not None:
                progress(first, 0.0)
    return torch.cat(given)


def _attack(folder: Path, payload: dict[str, Any], progress: Progress) -> Answer:
    """Perturb each row of one input as `payload["attack"]` says (a `Perturbation`), by the model's own gradients."""
    import torch
    from safetensors.torch import save

    _, device = _prepare(payload)
    module, attack = _load(folder / "source"), payload["attack"]
    model = restored(module, payload.get("recipe"), _tensors(folder / "weights.safetensors", device), device)
    model.requires_grad_(requires_grad=False)
    inputs = _tensors(folder / "inputs.safetensors", torch.device("cpu"))
    batch, moved = max(1, int(payload.get("batch", 256))), []
    with torch.backends.cudnn.flags(enabled=False):  # it has no gradient of a recurrent network that is not in training
        for first in range(0, len(inputs[attack["key"]]), batch):
            part = {name: value[first : first + batch].to(device) for name, value in inputs.items()}
            moved.append(_perturbed(module, model, part, attack, progress).cpu())
    return {"rows": sum(map(len, moved))}, save({"perturbed": torch.cat(moved).contiguous()})


def _perturbed(module: ModuleType, model: Any, part: dict[str, Any], attack: dict[str, Any], progress: Progress) -> Any:
    """Climb the loss by steps, each brought back within epsilon and range.

    The gradient is of the sum of the rows' losses, so that each row's is its own. One step from the clean row is the
    fast gradient sign method (Goodfellow et al. 2015, arXiv:1412.6572), several from a random one are projected
    gradient descent (Madry et al. 2018, arXiv:1706.06083). No label is needed: the loss is against the model's own
    answer, as in virtual adversarial training (Miyato et al. 2018, arXiv:1704.03976).
    """
    import torch

    clean, epsilon, size = part[attack["key"]], float(attack["epsilon"]), float(attack["size"])
    if clean.dtype != torch.float32 or clean.dim() < 2:
        raise WorkerError(f"the input {attack['key']!r} is no float32 [rows, ...], and cannot be moved by a gradient")

    def back(at: Any) -> Any:
        if attack["norm"] == "linf":
            at = torch.clamp(at, clean - epsilon, clean + epsilon)
        else:
            away = at - clean
            at = clean + away * torch.clamp(epsilon / _length(away).clamp_min(1e-12), max=1.0)
        return torch.clamp(at, float(attack["low"]), float(attack["high"]))

    with torch.no_grad():
        own = _checked(module.predict(model, dict(part)), len(clean)).to(clean.device)
    at = clean
    if attack["random"]:
        drawn = torch.rand(clean.shape[1:], generator=torch.Generator().manual_seed(int(attack["seed"])))
        at = back(clean + epsilon * (2 * drawn.to(clean.device) - 1))
    for step in range(int(attack["steps"])):
        leaf = at.detach().requires_grad_(requires_grad=True)
        loss = _loss(module.predict(model, {**part, attack["key"]: leaf.clone()}), own, attack["loss"])
        slope = torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None
        if slope is None:
            raise NotDifferentiableError(
                f"predict gives answers without a gradient to {attack['key']!r}: it may not detach, nor leave autograd"
            )
        slope = torch.nan_to_num(slope, 0.0, 0.0, 0.0)
        direction = slope.sign() if attack["norm"] == "linf" else slope / _length(slope).clamp_min(1e-12)
        at = back(at + size * direction)
        progress(step, 0.0)
    return at.detach()


def _length(rows: Any) -> Any:
    """The Euclidean length of each row, of a shape that divides it."""
    return rows.flatten(1).norm(dim=1).reshape(-1, *[1] * (rows.dim() - 1))


def _loss(answers: Any, own: Any, kind: str) -> Any:
    """How far answers [rows, ..., classes] are from a model's own to the clean rows, summed. One class is a number."""
    if own.shape[-1] == 1:
        return (answers - own).square().sum()
    best = own.argmax(-1, keepdim=True)
    if kind == "cross-entropy":
        return -answers.log_softmax(-1).gather(-1, best).sum()
    # A margin has a slope where a softmax is saturated (Carlini and Wagner 2017, arXiv:1608.04644).
    others = answers.scatter(-1, best, float("-inf"))
    return (others.amax(-1, keepdim=True) - answers.gather(-1, best)).sum()


def _checked(answer: Any, rows: int) -> Any:
    """Return a batch of answers on the CPU, or raise BadAnswersError: float32, [rows, ...], 2 or more axes, finite."""
    import torch

    if not isinstance(answer, torch.Tensor):
        raise BadAnswersError(f"predict gave {type(answer).__name__}, not a tensor")
    if answer.dtype != torch.float32 or answer.dim() < 2 or len(answer) != rows:
        raise BadAnswersError(f"predict gave {answer.dtype} {list(answer.shape)}, not float32 [{rows}, ...]")
    if not bool(torch.isfinite(answer).all()):
        raise BadAnswersError("predict gave NaN or infinity")
    return answer.detach().cpu().contiguous().clone()


def _flops(module: ModuleType, model: Any, row: dict[str, Any]) -> int | None:
    """Count the floating-point operations of one row, as far as the counter knows them: advice, no evidence."""
    try:
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            module.predict(model, row)
        return int(counter.get_total_flops())
    except Exception:  # noqa: BLE001  # a model that the counter cannot follow is still a model
        return None


if __name__ == "__main__":
    main()
