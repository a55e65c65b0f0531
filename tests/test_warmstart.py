"""Where training begins: each start on a real subject, run by the worker without a sandbox."""

from __future__ import annotations

import json
import sys

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load, save_file  # noqa: E402

from harness import worker  # noqa: E402  # after torch, as in the sandbox

MODEL = """
import torch
from pydantic import BaseModel, Field

class Recipe(BaseModel):
    width: int = Field(8, ge=1, le=64, json_schema_extra={"group": "architecture"})
    layers: int = Field(1, ge=1, le=3, json_schema_extra={"group": "architecture"})
    rate: float = Field(0.05, gt=0)
    steps: int = Field(5, ge=0, le=500)
    unused: int = 0

def build(recipe):
    hidden = [torch.nn.Linear(recipe.width, recipe.width) for _ in range(recipe.layers - 1)]
    hidden = [each for layer in hidden for each in (layer, torch.nn.ReLU())]
    ends = torch.nn.Linear(4, recipe.width), torch.nn.Linear(recipe.width, 3)
    return torch.nn.Sequential(ends[0], torch.nn.ReLU(), *hidden, ends[1])

def train(model, data, recipe, context):
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate)
    for step in range(recipe.steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(data["x"]), data["y"])
        loss.backward()
        optimizer.step()
        context.progress(step, loss.item())

def predict(model, inputs):
    return model(inputs["x"])
"""


@pytest.fixture(autouse=True)
def whole_process():
    """Leave torch as it was for other tests."""
    yield
    torch.use_deterministic_algorithms(mode=False)
    sys.modules.pop("model", None)


@pytest.fixture
def folder(tmp_path):
    """A job's folder with the subject above, and data in which the class can be read off the inputs."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "model.py").write_text(MODEL)
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    save_file({"x": x, "y": x[:, :3].argmax(1)}, tmp_path / "train.safetensors")
    return tmp_path


def built(folder, start=None, sources=(), **recipe):
    """Build from a start; the header and the weights."""
    for at, source in enumerate(sources):
        save_file(source, folder / f"start-{at}.safetensors")
    payload = {"recipe": recipe, "seed": 3}
    if start is not None:
        payload["start"] = {"sources": ["sha256:" + "0" * 64] * len(sources), "recipe": {}, **start}
    header, rest = worker.run_entry("build", folder, payload)
    return header, load(rest) if rest else {}


def right(folder, weights, **recipe):
    """The share of the training rows that a model answers rightly."""
    save_file(weights, folder / "weights.safetensors")
    data = load((folder / "train.safetensors").read_bytes())
    save_file({"x": data["x"]}, folder / "inputs.safetensors")
    answers = load(worker.run_entry("predict", folder, {"recipe": recipe})[1])["answers"]
    return (answers.argmax(1) == data["y"]).float().mean().item()


def equal(left, right):
    """Whether two sets of weights are the same bits."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_training_goes_on_from_given_weights(folder):
    """Without a step the weights come back as they were; with steps they learn on."""
    _, first = built(folder)
    assert equal(built(folder, {"method": "continue"}, [first], steps=0)[1], first)
    _, more = built(folder, {"method": "continue"}, [first])
    assert not equal(more, first)
    assert right(folder, more) > right(folder, first)


@pytest.mark.parametrize(
    "start",
    [
        {"method": "continue"},
        {"method": "low-rank", "rank": 2},
        {"method": "reinforce", "label": "y", "steps": 5, "lr": 0.01, "batch": 32, "group": 4, "kl": 0.02},
        {"method": "inherit"},
    ],
)
def test_equal_starts_are_equal_to_the_bit(folder, start):
    """The same start, data and seed give the same weights."""
    _, first = built(folder)
    assert equal(built(folder, start, [first], width=8)[1], built(folder, start, [first], width=8)[1])


def test_an_average_is_the_mean_of_its_sources(folder):
    """Each tensor is the mean, and nothing is trained: no step is counted, and no knob of training read."""
    sources = [built(folder, rate=rate)[1] for rate in (0.05, 0.02, 0.01)]
    header, mean = built(folder, {"method": "average"}, sources)
    for name, value in mean.items():
        assert torch.allclose(value, torch.stack([source[name] for source in sources]).mean(0))
    assert header["steps"] == 0
    assert header["read"] == ["layers", "width"]


def test_a_low_rank_delta_is_of_low_rank_and_all_else_stays(folder):
    """Matrices differ from the source's by no more than the rank, vectors not at all; and it learns."""
    _, first = built(folder)
    _, tuned = built(folder, {"method": "low-rank", "rank": 1}, [first], steps=50)
    assert tuned.keys() == first.keys()
    for name in first:
        if name.endswith("bias"):
            assert torch.equal(tuned[name], first[name])
        else:
            assert torch.linalg.matrix_rank(tuned[name] - first[name], rtol=1e-4) == 1
    assert right(folder, tuned) > right(folder, first)


def test_a_low_rank_start_undoes_what_else_was_trained(folder):
    """Code that thaws all weights changes nothing but by the deltas."""
    text = MODEL.replace("    optimizer = ", "    model.requires_grad_(True)\n    optimizer = ")
    (folder / "source" / "model.py").write_text(text)
    _, first = built(folder)
    _, tuned = built(folder, {"method": "low-rank", "rank": 1}, [first], steps=50)
    assert torch.equal(tuned["0.bias"], first["0.bias"])
    assert torch.linalg.matrix_rank(tuned["0.weight"] - first["0.weight"], rtol=1e-4) == 1


def test_tied_weights_share_a_delta(folder):
    """Two layers of one matrix stay one, and are in the end what they were while they were trained."""
    (folder / "source" / "model.py").write_text(
        MODEL.replace(
            "    ends = ", "    tied = torch.nn.Linear(recipe.width, recipe.width, bias=False)\n    ends = "
        ).replace("torch.nn.ReLU(), *hidden", "tied, torch.nn.Tanh(), tied, *hidden")
    )
    _, first = built(folder, steps=30)
    _, tuned = built(folder, {"method": "low-rank", "rank": 2}, [first], steps=50)
    assert torch.equal(tuned["1.weight"], tuned["3.weight"])
    assert torch.linalg.matrix_rank(tuned["1.weight"] - first["1.weight"], rtol=1e-4) == 2
    assert right(folder, tuned) > right(folder, first)


def test_a_reward_teaches(folder):
    """By the reward alone, whether a sampled answer is the label, more answers become right; and train is not called."""
    _, first = built(folder, steps=1)
    (folder / "source" / "model.py").write_text(MODEL.replace("(model.parameters(), lr", "(None, lr"))
    start = {"method": "reinforce", "label": "y", "steps": 60, "lr": 0.02, "batch": 64, "group": 8, "kl": 0.0}
    header, tuned = built(folder, start, [first], steps=1)
    assert right(folder, tuned) > right(folder, first) + 0.1
    assert header["steps"] == 59


def test_a_divergence_holds_a_fine_tune_back(folder):
    """The heavier it weighs, the nearer the weights stay to the start's."""
    _, first = built(folder)
    start = {"method": "reinforce", "label": "y", "steps": 40, "lr": 0.01, "batch": 64, "group": 8}
    far = []
    for kl in (0.0, 10.0):
        _, tuned = built(folder, {**start, "kl": kl}, [first])
        far.append(sum((tuned[name] - first[name]).square().sum().item() for name in first))
    assert far[1] < far[0] / 2


@pytest.mark.parametrize(("recipe", "exact"), [({"width": 13}, True), ({"layers": 3}, True), ({"width": 4}, False)])
def test_a_child_inherits(folder, recipe, exact):
    """A wider or deeper child answers as its parent before training, and a narrower one trains on what is left of it."""
    _, first = built(folder, steps=100)
    header, child = built(folder, {"method": "inherit"}, [first], steps=0, **recipe)
    assert "error" not in header
    before, after = right(folder, first), right(folder, child, **recipe)
    assert before > 0.9
    assert after == before if exact else after > 0.4


@pytest.mark.parametrize(
    ("start", "change", "message"),
    [
        ({"method": "continue"}, {"width": 9}, "of another architecture"),
        ({"method": "guess"}, {}, "no start called 'guess'"),
        ({"method": "reinforce", "label": "z"}, {}, "no training tensor is called 'z': there are x, y"),
        ({"method": "reinforce", "label": "x"}, {}, "a label is a whole number"),
    ],
)
def test_a_start_that_cannot_be_is_an_answer(folder, start, change, message):
    """Weights of other shapes, unknown starts and labels that are none end as errors that say so."""
    _, first = built(folder)
    header, rest = built(folder, {"steps": 5, "lr": 0.1, "batch": 8, "group": 4, "kl": 0, **start}, [first], **change)
    assert header["error"]["type"] == "Start"
    assert message in header["error"]["message"]
    assert not rest


def test_sources_of_other_shapes_are_not_averaged(folder):
    """A mean of different architectures is refused with the tensor's name."""
    sources = [built(folder)[1], built(folder, width=9)[1]]
    header, _ = built(folder, {"method": "average"}, sources)
    assert "'0.bias' is not of one shape" in header["error"]["message"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('model(inputs["x"])\n', 'model(inputs["x"]).detach()\n', "without a gradient"),
        ('return model(inputs["x"])', 'return model(inputs["x"])[:, :2]', "none of the 2 classes"),
        ('return model(inputs["x"])', 'return model(inputs["x"])[:-1]', "not one row of classes for each"),
    ],
)
def test_answers_that_cannot_be_rewarded_are_an_error(folder, old, new, message):
    """Without gradients, with fewer classes than labels, or with other rows there is no policy gradient."""
    _, first = built(folder)
    assert old in MODEL
    (folder / "source" / "model.py").write_text(MODEL.replace(old, new))
    start = {"method": "reinforce", "label": "y", "steps": 5, "lr": 0.01, "batch": 8, "group": 4, "kl": 0.0}
    assert message in built(folder, start, [first])[0]["error"]["message"]


def test_a_fine_tune_that_diverges_is_an_answer(folder):
    """Answers that are no numbers any more end the fine-tune with an error that says so."""
    _, first = built(folder)
    (folder / "source" / "model.py").write_text(
        MODEL.replace('model(inputs["x"])\n', 'model(inputs["x"] * 1e38).exp()\n')
    )
    start = {"method": "reinforce", "label": "y", "steps": 5, "lr": 1.0, "batch": 8, "group": 4, "kl": 0.1}
    assert "diverged" in built(folder, start, [first])[0]["error"]["message"]


def test_the_header_tells_which_fields_were_read(folder):
    """What build, train and predict read is named; a field that nothing reads is not."""
    header, _ = built(folder)
    assert header["read"] == ["layers", "rate", "steps", "width"]
    json.dumps(header, allow_nan=False)


@pytest.mark.parametrize(
    "look",
    ["recipe.model_dump()", "dict(recipe)", "vars(recipe)", "hash(str(recipe))", "recipe.model_copy()", "[*recipe]"],
)
def test_whoever_takes_the_whole_recipe_reads_all_of_it(folder, look):
    """Dumping, iterating, printing and copying count as reading every field."""
    (folder / "source" / "model.py").write_text(
        MODEL.replace("    hidden = [torch", f"    {look}\n    hidden = [torch", 1)
    )
    assert "unused" in built(folder)[0]["read"]


def test_what_only_answering_reads_is_read(folder):
    """A field that is looked at in predict alone, by a recipe that the model kept, counts."""
    text = MODEL.replace("    return torch.nn.Sequential(ends", "    model = torch.nn.Sequential(ends").replace(
        "*hidden, ends[1])\n", "*hidden, ends[1])\n    model.recipe = recipe\n    return model\n"
    )
    text = text.replace('return model(inputs["x"])', 'return model(inputs["x"]) * (1 + model.recipe.unused)')
    (folder / "source" / "model.py").write_text(text)
    header, _ = built(folder)
    assert "unused" in header["read"]


def test_what_a_validator_made_of_a_field_is_a_reading_of_it(folder):
    """A private attribute, set before anybody could watch, may hold any field: who reads it reads all."""
    text = MODEL.replace("from pydantic import BaseModel, Field", "from pydantic import BaseModel, Field, PrivateAttr")
    text = text.replace(
        "    unused: int = 0\n",
        "    unused: int = 0\n    _made: int = PrivateAttr(0)\n\n    def model_post_init(self, _):\n"
        "        self._made = self.unused + 1\n",
    ).replace("range(recipe.steps)", "range(recipe.steps * recipe._made)")
    (folder / "source" / "model.py").write_text(text)
    assert "unused" in built(folder)[0]["read"]


def test_where_the_model_cannot_answer_training_rows_all_counts_as_read(folder):
    """What is not known is not held against a candidate."""
    (folder / "source" / "model.py").write_text(MODEL.replace('inputs["x"]', 'inputs["rows"]'))
    assert "unused" in built(folder)[0]["read"]
