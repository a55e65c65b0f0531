"""A small network for drawn digits; it trains in a fraction of a second."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class Recipe(BaseModel):
    """The knobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: int = Field(16, ge=8, le=128, json_schema_extra={"group": "architecture", "scale": "log"})
    lr: float = Field(0.01, ge=0.001, le=0.1, json_schema_extra={"group": "training", "scale": "log"})
    steps: int = Field(60, ge=10, le=400, json_schema_extra={"group": "training", "scale": "log"})
    rare_share: float = Field(1.0, ge=0.0, le=1.0, json_schema_extra={"group": "training"})


def build(recipe: Recipe) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(64, recipe.hidden), nn.ReLU(), nn.Linear(recipe.hidden, 10))


def train(model: nn.Module, data: dict[str, Tensor], recipe: Recipe, context) -> None:
    """Train by steps of 64 digits, drawn by weight."""
    image, digit = data["image"], data["digit"]
    generator = torch.Generator().manual_seed(context.seed)
    weight = torch.where(data["rare"], recipe.rare_share, 1.0)
    drawn = torch.multinomial(weight, recipe.steps * 64, replacement=True, generator=generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    for step in range(recipe.steps):
        rows = drawn[step * 64 :][:64]
        loss = nn.functional.cross_entropy(model(image[rows].to(context.device)), digit[rows].to(context.device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        context.progress(step, loss.item())


def predict(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits."""
    return model(inputs["image"])
