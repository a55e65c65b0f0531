"""What the worker makes of honest candidates and of clumsy ones; here it runs without a sandbox."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import load, save_file  # noqa: E402

from harness import worker  # noqa: E402  # after torch, as in the sandbox

MODEL = """
import torch
from pydantic import BaseModel, Field

class Recipe(BaseModel):
    width: int = Field(8, ge=1, le=64, json_schema_extra={"group": "architecture"})
    rate: float = Field(0.05, gt=0, json_schema_extra={"group": "training", "scale": "log"})

def build(recipe):
    return torch.nn.Sequential(torch.nn.Linear(4, recipe.width), torch.nn.ReLU(), torch.nn.Linear(recipe.width, 3))

def train(model, data, recipe, context):
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate)
    for step in range(5):
        optimizer.zero_grad()
        with context.autocast():
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
    """A job's folder with the subject above and a little data."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "model.py").write_text(MODEL)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 4, generator=generator)
    save_file({"x": x, "y": torch.arange(20) % 3}, tmp_path / "train.safetensors")
    save_file({"x": x[:7].clone()}, tmp_path / "inputs.safetensors")
    return tmp_path


def change(folder, old, new):
    """Edit the candidate."""
    path = folder / "source" / "model.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def built(folder, **payload):
    """Build, and put the weights where predict finds them."""
    header, rest = worker.run_entry("build", folder, {"seed": 3, **payload})
    if rest:
        (folder / "weights.safetensors").write_bytes(rest)
    return header, rest


def test_it_imports_nothing_else_of_the_harness():
    """It can be mounted alone: stdlib, torch, numpy, safetensors, pydantic and four files beside it are all there is."""
    beside = {"context", "growth", "warmstart", "watching"}
    for module in ("worker", *beside):
        tree = ast.parse(Path(worker.__file__).with_name(f"{module}.py").read_text())
        names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        origins = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        names |= {n.module.split(".")[0] for n in origins}
        assert names - set(sys.stdlib_module_names) <= {"torch", "numpy", "safetensors", "pydantic", "harness"}
        own = {name.name for n in origins if n.module == "harness" for name in n.names}
        own |= {n.module.partition(".")[2] for n in origins if n.module.startswith("harness.")}
        assert own <= beside


def test_describe_names_defaults_and_ranges(folder):
    """The header holds the default recipe and its JSON schema, with each knob's group."""
    header, rest = worker.run_entry("describe", folder, {})
    assert header["recipe"] == {"width": 8, "rate": 0.05}
    assert header["schema"]["properties"]["width"]["group"] == "architecture"
    assert rest == b""


def test_build_answers_with_weights_and_their_story(folder):
    """The header holds the normalised recipe, steps, last loss and progress; the rest is the state_dict."""
    signs = []
    header, rest = worker.run_entry(
        "build", folder, {"recipe": {"width": 5}, "seed": 3}, lambda s, v: signs.append((s, v))
    )
    assert header["recipe"] == {"width": 5, "rate": 0.05}
    assert header["steps"] == 4
    assert header["loss"] == header["progress"][-1][1] == signs[-1][1]
    assert {name: tuple(value.shape) for name, value in load(rest).items()} == {
        "0.weight": (5, 4), "0.bias": (5,), "2.weight": (3, 5), "2.bias": (3,),
    }  # fmt: skip
    json.dumps(header, allow_nan=False)


def test_equal_builds_are_equal_to_the_bit(folder):
    """The same recipe, data and seed give the same bytes; another seed does not."""
    assert built(folder)[1] == built(folder)[1]
    assert built(folder)[1] != built(folder, seed=4)[1]


def test_global_generators_are_seeded(folder):
    """Candidates that draw from random, numpy or torch without a seed of their own still repeat."""
    change(
        folder,
        "for step in range(5):",
        "import random, numpy\n    model[0].bias.data += random.random() + numpy.random.rand()\n    for step in range(5):",
    )
    assert built(folder)[1] == built(folder)[1]


def test_tied_weights_are_saved(folder):
    """Two names for one tensor are two tensors in the answer."""
    change(
        folder,
        "    return torch.nn.Sequential",
        "    a = torch.nn.Linear(4, 4)\n    return torch.nn.Sequential(a, a, torch.nn.Linear(4, 3))\n    return torch.nn.Sequential",
    )
    header, rest = built(folder)
    assert "error" not in header
    assert torch.equal(load(rest)["0.weight"], load(rest)["1.weight"])


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_batches_do_not_change_answers(folder, batch):
    """Answers are float32 [rows, classes] in order, whatever the batch."""
    built(folder)
    header, rest = worker.run_entry("predict", folder, {"batch": batch})
    answers = load(rest)["answers"]
    assert header["rows"] == 7
    assert answers.dtype == torch.float32
    whole = load(worker.run_entry("predict", folder, {"batch": 7})[1])["answers"]
    assert torch.allclose(answers, whole, atol=1e-6)


def test_operations_are_counted_per_row(folder):
    """One row of a 4-8-3 perceptron takes 2·(4·8 + 8·3) operations."""
    built(folder)
    assert worker.run_entry("predict", folder, {})[0]["flops"] == 2 * (4 * 8 + 8 * 3)


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("loss.item())", "float('nan'))", "NonFiniteLoss", "nan at step 0"),
        ("loss.item())", "float('inf'))", "NonFiniteLoss", "inf at step 0"),
        ("context.progress(step", "raise ValueError('mine') #", "ValueError", "mine"),
        ("context.progress(step", "raise SystemExit(0) #", "SystemExit", "0"),
        ("context.progress(step", "raise MemoryError #", "OutOfMemory", ""),
        (
            "    return torch.nn.Sequential",
            "    return 7\n    return torch.nn.Sequential",
            "Worker",
            "not a torch Module",
        ),
        (
            "for step in range(5):",
            "model[0].bias.data[0] = float('nan')\n    for step in range(0):",
            "NonFiniteWeights",
            "not finite after",
        ),
        ("def train", "def no_train", "AttributeError", "train"),
        ("class Recipe(BaseModel)", "class Other(BaseModel)", "Worker", "Recipe"),
        ("def build(recipe):", "def build(recipe:", "SyntaxError", ""),
    ],
)
def test_a_mistake_in_build_is_an_answer(folder, old, new, kind, message):
    """Whatever a candidate raises or forgets becomes a header with type, message and no weights."""
    change(folder, old, new)
    header, rest = built(folder)
    assert rest == b""
    assert header["error"]["type"] == kind
    assert message in header["error"]["message"]


def test_a_mistake_has_a_place(folder):
    """An exception names the deepest line of the candidate's own files, a syntax error its line."""
    change(folder, "    optimizer.zero_grad()", "    optimizer.zero_grad()\n        torch.ones(2) @ torch.ones(3)")
    lines = (folder / "source" / "model.py").read_text().splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "torch.ones(2)" in text)
    assert built(folder)[0]["error"]["where"] == f"model.py:{line}"
    (folder / "source" / "model.py").write_text("x = 1\ny = (\n")
    assert built(folder)[0]["error"]["where"] == "model.py:2"


@pytest.mark.parametrize("recipe", [{"width": 0}, {"width": 65}, {"width": "8"}, {"rate": -1.0}, {"depth": 3}])
def test_a_recipe_out_of_range_is_refused(folder, recipe):
    """A value outside of its range, and a knob that there is not, are errors, not defaults."""
    assert "error" in built(folder, recipe=recipe)[0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return model(inputs['x'])[:-1]", "not float32"),
        ("return model(inputs['x']).double()", "float64"),
        ("return model(inputs['x'])[:, 0]", "not float32"),
        ("return model(inputs['x']) / 0", "NaN or infinity"),
        ("return [1, 2]", "list, not a tensor"),
    ],
)
def test_a_malformed_prediction_is_an_answer(folder, body, message):
    """Rows that are missing, another type, too few axes, NaN and no tensor at all are each refused."""
    built(folder)
    change(folder, 'return model(inputs["x"])', body)
    header, rest = worker.run_entry("predict", folder, {})
    assert rest == b""
    assert message in header["error"]["message"]


def test_a_neighbour_can_be_imported_and_shadows_nothing(folder):
    """model.py imports files beside it, and a neighbour called numpy.py does not replace numpy."""
    (folder / "source" / "helper.py").write_text("WIDTH = 6\n")
    (folder / "source" / "numpy.py").write_text("raise RuntimeError('shadowed')\n")
    change(folder, "import torch\n", "import torch, numpy, helper\n")
    change(folder, "Field(8,", "Field(helper.WIDTH,")
    try:
        assert worker.run_entry("describe", folder, {})[0]["recipe"]["width"] == 6
    finally:
        sys.path.remove(str(folder / "source"))
        sys.modules.pop("helper", None)


def test_an_unknown_entry_is_an_answer(folder):
    """An entry that there is not is an error in the header."""
    assert "no such entry" in worker.run_entry("steal", folder, {})[0]["error"]["message"]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=600))
def test_progress_keeps_finite_losses_only(losses):
    """Progress keeps at most 200 finite pairs, and raises at the first loss that is not finite."""
    context = worker.Context(1, torch.device("cpu"))
    finite = 0
    for step, loss in enumerate(losses):
        if loss != loss or loss in (float("inf"), float("-inf")):
            with pytest.raises(worker.NonFiniteLossError):
                context.progress(step, loss)
            break
        context.progress(step, loss)
        finite += 1
    assert len(context.kept) <= 200
    assert (context.loss is None) == (finite == 0)


@given(st.text(max_size=5000))
def test_any_message_fits_the_header(text):
    """An error's message is at most 2,000 characters of valid text, whatever was raised."""
    found = worker.describe_error(ValueError(text), Path("/nowhere"))
    assert len(found["message"]) <= 2000
    json.dumps(found).encode()
