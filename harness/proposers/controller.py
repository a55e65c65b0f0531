"""The controller of `reinforcement`: a small recurrent network that keeps each knob's value or says which one to take.

Tokens are numbers: 0 keeps the knob as it is, 1 to n take the knob's first to last value (`values`). A proposal is one
token for each knob, in the order of their names; each is drawn given those before it. Learning is REINFORCE with a
moving baseline and a bonus for entropy (Williams 1992; Zoph and Le 2017, arXiv:1611.01578, did it for architectures).

It is deterministic: one thread, its own generators, parameters drawn from a seed. Source of float differences
between machines: torch's own kernels, so equal proposals are promised for one build of torch on one kind of machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.proposers.space import Knob, Scalar, options, same, snapped, span

__all__ = ["Controller", "Diverged", "Episode", "nearest", "values"]

_EMBEDDING = 16


class Diverged(Exception):  # noqa: N818 - what happened to it
    """Parameters or a loss that are not finite."""


@dataclass(frozen=True)
class Episode:
    """One earlier proposal: its tokens, and its advantage (any finite number)."""

    tokens: list[int]
    advantage: float


def values(knob: Knob, bins: int) -> list[Scalar]:
    """Return what a knob may be set to: all of few options, else `bins` values evenly over its scale, ends included."""
    few = options(knob)
    if few:
        return few
    low, high = span(knob)
    found: list[Scalar] = []
    for place in range(bins):
        share = place / (bins - 1)
        at = (
            math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
            if knob.log
            else low + share * (high - low)
        )
        value = snapped(knob, at, at)
        if not any(same(value, other) for other in found):
            found.append(value)
    return found


def nearest(knob: Knob, every: Sequence[Scalar], value: Scalar) -> int:
    """Return the token of the value, or of the nearest one on the knob's scale; 0 for what is no value of it."""
    for place, other in enumerate(every):
        if same(value, other):
            return place + 1
    numbers = [other for other in every if isinstance(other, int | float) and not isinstance(other, bool)]
    if not isinstance(value, int | float) or isinstance(value, bool) or len(numbers) != len(every):
        return 0

    def scaled(number: float) -> float:
        return math.log(number) if knob.log and number > 0 else float(number)

    return min(range(len(numbers)), key=lambda place: abs(scaled(numbers[place]) - scaled(value))) + 1


class _Network(nn.Module):
    """A GRU over knobs: the embedding of the token before goes in, logits of [1 + values of the knob] come out."""

    def __init__(self, sizes: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.start = nn.Parameter(torch.zeros(1, _EMBEDDING))
        self.cell = nn.GRUCell(_EMBEDDING, hidden)
        self.heads = [nn.Linear(hidden, 1 + size) for size in sizes]
        self.tokens = [nn.Embedding(1 + size, _EMBEDDING) for size in sizes]
        self.parts = nn.ModuleList([*self.heads, *self.tokens])

    def forward(self, place: int, before: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits for the knob at `place` [rows, 1 + values], and the new state [rows, hidden]."""
        given = self.start.expand(len(state), -1) if before is None else self.tokens[place - 1](before)
        state = self.cell(given, state)
        return self.heads[place](state), state


class Controller:
    """A policy over tokens, trained on episodes and asked for new ones."""

    def __init__(self, sizes: Sequence[int], *, seed: int, hidden: int, lr: float, entropy: float, keep: float) -> None:
        """Draw the parameters; `sizes` are the numbers of values by knob, `keep` the chance to leave one at first."""
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(mode=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = _Network(sizes, hidden)
        with torch.no_grad():
            for head, size in zip(self._network.heads, sizes, strict=True):
                nn.init.zeros_(head.bias)
                head.bias[0] = math.log(keep / (1 - keep) * size)
        self._optimiser = torch.optim.Adam(self._network.parameters(), lr=lr)
        self._entropy = entropy
        self._sizes = list(sizes)

    def _told(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log probability of token rows [rows, knobs], and the policy's entropy along them, both [rows]."""
        state = torch.zeros(len(tokens), self._network.hidden)
        before: Tensor | None = None
        logs, entropies = torch.zeros(len(tokens)), torch.zeros(len(tokens))
        for place in range(len(self._sizes)):
            logits, state = self._network(place, before, state)
            chances = torch.log_softmax(logits, 1)
            before = tokens[:, place]
            logs = logs + chances.gather(1, before[:, None])[:, 0]
            entropies = entropies - (chances.exp() * chances).sum(1)
        return logs, entropies

    def learn(self, episodes: Sequence[Episode]) -> None:
        """Take one step on a generation's episodes. Raises Diverged."""
        tokens = torch.tensor([episode.tokens for episode in episodes])
        advantages = torch.tensor([episode.advantage for episode in episodes], dtype=torch.float32)
        logs, entropies = self._told(tokens)
        loss = -(advantages * logs + self._entropy * entropies).mean()
        if not bool(torch.isfinite(loss)):
            raise Diverged("its loss is not finite")
        self._optimiser.zero_grad()
        torch.autograd.backward([loss])
        nn.utils.clip_grad_norm_(self._network.parameters(), 5.0)
        self._optimiser.step()
        if not all(bool(torch.isfinite(each).all()) for each in self._network.parameters()):
            raise Diverged("its parameters are not finite")

    def draw(self, seed: int) -> list[int]:
        """Draw the tokens of one proposal."""
        generator = torch.Generator().manual_seed(seed)
        state, before = torch.zeros(1, self._network.hidden), None
        drawn: list[int] = []
        with torch.no_grad():
            for place in range(len(self._sizes)):
                logits, state = self._network(place, before, state)
                chances = torch.softmax(logits.double(), 1)
                if not bool(torch.isfinite(chances).all()):
                    raise Diverged("its logits are not finite")
                before = torch.multinomial(chances, 1, generator=generator)[:, 0]
                drawn.append(int(before))
        return drawn
