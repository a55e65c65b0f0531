"""Where training begins, when it is not from scratch: in the sandbox, beside the worker, by torch alone.

A start (`harness.starting` has its records) says how the weights of one or more known candidates become those of a
new one. The worker builds the model, calls `begin`, then `train` of what it gave, then `end`.

Not covered: soups of candidates that lie in different basins (their mean is as bad as it is; the gates see it), and
batch statistics of a mean, which are the mean of the statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from harness import growth
from harness.context import StartError

__all__ = ["Run", "begin"]

Train = Callable[..., None]
Weights = dict[str, Tensor]
PROBED = 32
"""Rows of the training data that parent and child are asked, to see how new layers begin."""


class Run:
    """A training that begins somewhere: `train` has the signature of a subject's; `end` comes after it."""

    def __init__(self, model: nn.Module, train: Train) -> None:
        """Train a model by the subject's own function."""
        self.model = model
        self.train: Train = train

    def end(self) -> None:
        """Put the model into the form in which it is saved."""


def begin(
    model: nn.Module,
    subject: Any,
    start: dict[str, Any],
    sources: list[Weights],
    data: Weights,
    *,
    seed: int,
    parent: Any,
) -> Run:
    """Give a freshly built model the weights that it starts with; StartError where that cannot be.

    `start` is a start's JSON, `sources` the weights that it names, in order, `data` the training tensors, `subject` the
    module of the candidate's code. `parent` builds the source's own model, for `inherit`.
    """
    method = start["method"]
    if method == "inherit":
        before = parent()
        _load(before, sources[0])
        rows = {name: value[:PROBED] for name, value in data.items()}
        growth.grow(before, model, seed=seed, ask=lambda asked: subject.predict(asked, dict(rows)))
        return Run(model, subject.train)
    if method == "average":
        _load(model, _mean(sources))
        return Run(model, lambda *_: None)
    _load(model, sources[0])
    if method == "continue":
        return Run(model, subject.train)
    if method == "low-rank":
        return _LowRank(model, subject.train, int(start["rank"]), seed)
    if method == "reinforce":
        return Run(model, _reinforcing(subject, start, seed))
    raise StartError(f"there is no start called {str(method)[:40]!r}")


def _load(model: nn.Module, weights: Weights) -> None:
    """Load weights that fit exactly; StartError names the first tensor that does not."""
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | weights.keys()):
        have = tuple(weights[name].shape) if name in weights else None
        want = tuple(wanted[name].shape) if name in wanted else None
        if have != want:
            raise StartError(f"the source's {name[:100]!r} is {have}, the model's {want}: of another architecture")
    model.load_state_dict(weights)


def _mean(sources: list[Weights]) -> Weights:
    """The mean of each tensor, in float64 and back; of whole numbers, such as counts of batches, the first's."""
    first = sources[0]
    for other in sources[1:]:
        for name in sorted(first.keys() | other.keys()):
            if name not in first or name not in other or first[name].shape != other[name].shape:
                raise StartError(
                    f"{name[:100]!r} is not of one shape in all sources: only equal architectures are averaged"
                )
    return {
        name: torch.stack([each[name].double() for each in sources]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


class _Delta(nn.Module):
    """A matrix and a delta of low rank: `forward` gives their sum, in the shape of the weight."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        drawn = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.right = nn.Parameter(drawn.to(weight.device, weight.dtype))
        self.left = nn.Parameter(torch.zeros(rows, rank, device=weight.device, dtype=weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.left @ self.right).view_as(weight)


class _LowRank(Run):
    """Training in which only the deltas move; what the subject's code did to anything else is undone in the end."""

    def __init__(self, model: nn.Module, train: Train, rank: int, seed: int) -> None:
        super().__init__(model, train)
        generator = torch.Generator().manual_seed(seed)
        self._before = {name: value.detach().clone() for name, value in model.named_parameters()}
        matrices = nn.Linear | nn.Embedding | nn.modules.conv._ConvNd  # noqa: SLF001  # the one base of all convolutions
        self._modules = [module for module in model.modules() if isinstance(module, matrices)]
        if not self._modules:
            raise StartError("the model has no linear, convolutional or embedding matrix to give a delta to")
        model.requires_grad_(requires_grad=False)
        names = {id(value): name for name, value in model.named_parameters()}
        self._deltas: dict[str, _Delta] = {}
        for module in self._modules:  # tied weights have one name, and get one delta
            name = names[id(module.weight)]
            if name not in self._deltas:
                self._deltas[name] = _Delta(self._before[name], rank, generator)
            parametrize.register_parametrization(module, "weight", self._deltas[name], unsafe=True)

    def end(self) -> None:
        """Merge: each matrix is what it was plus its delta, and everything else what it was."""
        for module in self._modules:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                old = self._before[name]
                value.copy_(self._deltas[name](old) if name in self._deltas else old)


def _reinforcing(subject: Any, start: dict[str, Any], seed: int) -> Train:
    """A training loop of group-relative policy gradient (GRPO, Shao et al. 2024, arXiv:2402.03300, §4.1).

    For each row of a batch a group of answers is drawn from the model's own distribution over classes; the reward of
    each is 1 where it is the label, else 0; its advantage is the reward less the group's mean, over the group's
    standard deviation. Every draw is used for one step: the ratio to the sampling model is 1, and nothing is clipped.
    The divergence from the model at the start is taken exactly, over all classes.
    """

    def train(model: nn.Module, data: Weights, _recipe: Any, context: Any) -> None:
        inputs = {name: value for name, value in data.items() if name != start["label"]}
        label = _label(data, start["label"]).to(context.device)
        optimiser = torch.optim.AdamW(
            [each for each in model.parameters() if each.requires_grad], lr=float(start["lr"])
        )
        generator = torch.Generator().manual_seed(seed)
        steps, group = int(start["steps"]), int(start["group"])
        before = copy.deepcopy(model).eval()
        for step, rows in zip(range(steps), _batches(len(label), int(start["batch"]), generator), strict=False):
            part = {name: value[rows].to(context.device) for name, value in inputs.items()}
            with torch.no_grad():
                reference = _logits(subject, before, part, label[rows])
            chances = _logits(subject, model, part, label[rows])
            if not chances.requires_grad:
                raise StartError("predict gives answers without a gradient: it may not detach, nor leave autograd")
            flat = chances.detach().exp().flatten(0, -2)
            drawn = torch.multinomial(flat.cpu(), group, replacement=True, generator=generator).to(flat.device)
            reward = (drawn == label[rows].flatten()[:, None]).float()
            spread = reward.std(1, keepdim=True, correction=0)
            advantage = (reward - reward.mean(1, keepdim=True)) / (spread + 1e-6)
            gained = (advantage * chances.flatten(0, -2).gather(1, drawn)).mean()
            strayed = (chances.exp() * (chances - reference)).sum(-1).mean()
            loss = float(start["kl"]) * strayed - gained
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            context.progress(step, loss.item())

    return train


def _label(data: Weights, name: str) -> Tensor:
    if name not in data:
        raise StartError(f"no training tensor is called {name[:60]!r}: there are {', '.join(sorted(data))[:300]}")
    label = data[name]
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool or label.dim() < 1:
        raise StartError(f"{name[:60]!r} is {label.dtype} {list(label.shape)}: a label is a whole number of each row")
    return label.long()


def _logits(subject: Any, model: nn.Module, inputs: Weights, label: Tensor) -> Tensor:
    """The logarithms of the model's chances, [rows, ..., classes]; StartError where they do not fit the label."""
    answers = subject.predict(model, dict(inputs))
    if not isinstance(answers, Tensor) or answers.shape[:-1] != label.shape:
        shape = list(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
        raise StartError(f"predict gives {shape} for labels {list(label.shape)}: not one row of classes for each")
    if answers.shape[-1] < 2 or bool((label < 0).any()) or bool((label >= answers.shape[-1]).any()):
        raise StartError(f"a label that is none of the {answers.shape[-1]} classes that predict answers with")
    if not bool(torch.isfinite(answers).all()):
        raise StartError("predict gives answers that are not finite: the fine-tune has diverged")
    return answers.float().log_softmax(-1)


def _batches(rows: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows without end, each shuffled round whole before the next."""
    left = torch.empty(0, dtype=torch.long)
    while True:
        while len(left) < min(size, rows):
            left = torch.cat([left, torch.randperm(rows, generator=generator)])
        yield left[:size]
        left = left[size:]
