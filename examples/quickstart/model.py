"""Which language is this word? The only file that proposals may change.

It starts as a bag of characters. Proposals turn knobs of the recipe, or rewrite this file.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

LETTERS, LANGUAGES, EMBEDDING, BATCH = 160, 24, 24, 128

ARCHITECTURE, TRAINING = {"group": "architecture"}, {"group": "training"}


class Recipe(BaseModel):
    """The knobs. With no convolution the model is a bag of characters, and `channels` means nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    convolutions: int = Field(0, ge=0, le=2, json_schema_extra=ARCHITECTURE)
    channels: int = Field(32, ge=16, le=64, json_schema_extra={**ARCHITECTURE, "scale": "log"})
    lr: float = Field(0.003, ge=0.002, le=0.03, json_schema_extra={**TRAINING, "scale": "log"})
    steps: int = Field(300, ge=300, le=1200, json_schema_extra={**TRAINING, "scale": "log"})
    small_share: float = Field(1.0, ge=0.0, le=1.0, json_schema_extra=TRAINING)


class Words(nn.Module):
    """Embed the letters, convolve, take each channel's maximum over the word (a bag takes the sum)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embed = nn.Embedding(LETTERS, EMBEDDING, padding_idx=0)
        widths = [EMBEDDING, *[recipe.channels] * recipe.convolutions]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel_size=3, padding=1) for before, after in pairwise(widths)
        )
        self.out = nn.Linear(widths[-1], LANGUAGES)

    def forward(self, letters: Tensor) -> Tensor:
        x = self.embed(letters.long())
        if not self.convolutions:
            return self.out(x.sum(1))
        x = x.transpose(1, 2)
        for convolution in self.convolutions:
            x = functional.relu(convolution(x))
        return self.out(x.amax(2))


def build(recipe: Recipe) -> nn.Module:
    return Words(recipe)


def train(model: nn.Module, data: dict[str, Tensor], recipe: Recipe, context) -> None:
    letters, language = data["letters"], data["language"]
    # `small_share` of 1 trains on all words alike; less shows the small languages' words less often.
    weight = torch.where(data["small"], recipe.small_share, 1.0)
    generator = torch.Generator().manual_seed(context.seed)
    drawn = torch.multinomial(weight, recipe.steps * BATCH, replacement=True, generator=generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    for step in range(recipe.steps):
        rows = drawn[step * BATCH :][:BATCH]
        words, answers = letters[rows].to(context.device), language[rows].to(context.device)
        with context.autocast():
            loss = functional.cross_entropy(model(words), answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        context.progress(step, loss.item())


def predict(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return torch.cat([model(letters) for letters in inputs["letters"].split(1024)])
