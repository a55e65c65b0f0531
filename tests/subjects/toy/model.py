"""A small network on six numbers: the part that proposals may change."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn


class Recipe(BaseModel):
    """What can be set."""

    model_config = ConfigDict(extra="forbid")

    hidden: int = Field(default=3, ge=1, le=64, json_schema_extra={"group": "architecture"})
    steps: int = Field(default=20, ge=1, le=1000, json_schema_extra={"group": "training"})
    lr: float = Field(default=0.02, ge=1e-4, le=1.0, json_schema_extra={"group": "training", "scale": "log"})


def build(recipe):
    """Make the network."""
    return nn.Sequential(nn.Linear(6, recipe.hidden), nn.ReLU(), nn.Linear(recipe.hidden, 4))


def train(model, data, recipe, context):
    """Train by steps, never by seconds."""
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    for step in range(recipe.steps):
        rows = torch.randint(0, len(data["x"]), (128,))
        loss = nn.functional.cross_entropy(model(data["x"][rows]), data["y"][rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        context.progress(step, float(loss))


def predict(model, inputs):
    """Answer with probabilities."""
    return model(inputs["x"]).softmax(-1)
