"""What proposals may change: the script's numbers became a Recipe, its functions stay where they are."""

from network import Net, fit
from pydantic import BaseModel, Field


class Recipe(BaseModel):
    hidden: int = Field(16, ge=4, le=128, json_schema_extra={"group": "architecture", "scale": "log"})
    lr: float = Field(0.05, ge=0.005, le=0.5, json_schema_extra={"group": "training", "scale": "log"})
    momentum: float = Field(0.0, ge=0.0, le=0.95, json_schema_extra={"group": "training"})
    epochs: int = Field(8, ge=2, le=60, json_schema_extra={"group": "training", "scale": "log"})


def build(recipe):
    return Net(recipe.hidden)


def train(model, data, recipe, context):
    fit(model, data["images"], data["labels"], recipe.lr, recipe.momentum, recipe.epochs, context.progress)


def predict(model, inputs):
    return model(inputs["images"])
