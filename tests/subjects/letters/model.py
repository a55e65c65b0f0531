"""A small model that points at one of three options; it trains in about a second."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class Recipe(BaseModel):
    """The knobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(16, ge=8, le=64, json_schema_extra={"group": "architecture", "scale": "log"})
    lr: float = Field(0.01, ge=0.001, le=0.1, json_schema_extra={"group": "training", "scale": "log"})
    steps: int = Field(30, ge=10, le=400, json_schema_extra={"group": "training", "scale": "log"})
    unsure_share: float = Field(1.0, ge=0.0, le=1.0, json_schema_extra={"group": "training"})


class Pointer(nn.Module):
    """Reads where an option stands in the context, and whether it owns to not knowing, and weighs the two."""

    def __init__(self, width: int) -> None:
        """Begin with places that weigh nothing."""
        super().__init__()
        self.word = nn.Embedding(1024, width, padding_idx=0)
        self.place = nn.Parameter(torch.zeros(64))
        self.unsure = nn.Linear(width, 1)
        self.told = nn.Linear(width, 2)

    def forward(self, context: Tensor, options: Tensor) -> Tensor:
        """[rows, 64] and [rows, 3, 8] numbers of words to [rows, 3] logits."""
        around, each = self.word(context), self.word(options).sum(2)
        said = (context != 0).float()
        match = torch.einsum("rkw,rcw->rkc", each, around) / each.shape[-1] ** 0.5
        match = match.masked_fill(said[:, None] == 0, -1e9).softmax(2)
        weigh = self.told((around * said[..., None]).sum(1) / said.sum(1, keepdim=True).clamp(min=1))
        return weigh[:, :1] * (match @ self.place) + weigh[:, 1:] * self.unsure(each).squeeze(2)


def build(recipe: Recipe) -> nn.Module:
    """One pointer."""
    return Pointer(recipe.width)


def train(model: nn.Module, data: dict[str, Tensor], recipe: Recipe, context) -> None:
    """Train by steps of 64 questions, drawn by weight."""
    generator = torch.Generator().manual_seed(context.seed)
    weight = torch.where(data["told"], 1.0, recipe.unsure_share)
    drawn = torch.multinomial(weight, recipe.steps * 64, replacement=True, generator=generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    for step in range(recipe.steps):
        rows = drawn[step * 64 :][:64]
        inputs = (data[name][rows].to(context.device) for name in ("context", "options"))
        loss = nn.functional.cross_entropy(model(*inputs), data["right"][rows].to(context.device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        context.progress(step, loss.item())


def predict(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits."""
    return model(inputs["context"], inputs["options"])
