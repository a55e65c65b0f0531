"""A small model that writes a program, a byte at a place; it trains in no time, and on as many forms as it is told."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

SIZE, BYTES = 32, 129  # and one more for no byte


class Recipe(BaseModel):
    """The knobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forms: int = Field(3, ge=1, le=6, json_schema_extra={"group": "training"})
    steps: int = Field(60, ge=10, le=400, json_schema_extra={"group": "training", "scale": "log"})


def build(_recipe: Recipe) -> nn.Module:
    """One layer."""
    return nn.Linear(10, SIZE * BYTES)


def train(model: nn.Module, data: dict[str, Tensor], recipe: Recipe, context) -> None:
    """Train on all requests of the first forms at once."""
    known = data["form"] < recipe.forms
    asked, text = data["asked"][known].to(context.device), data["text"][known].to(context.device)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for step in range(recipe.steps):
        loss = nn.functional.cross_entropy(model(asked).reshape(-1, BYTES), (text % BYTES).reshape(-1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        context.progress(step, loss.item())


def predict(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The bytes of a program, and -1 where it has ended."""
    best = model(inputs["asked"]).reshape(-1, SIZE, BYTES).argmax(-1)
    return torch.where(best == BYTES - 1, -1, best).float()
