"""A child network begins with its parent's weights: what is preserved exactly, and what is left as it was drawn."""

from __future__ import annotations

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from harness.growth import grow  # noqa: E402

WIDTHS = st.integers(1, 12)
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def mlp(widths: list[int], activation: str = "relu", norm: str = "none") -> nn.Sequential:
    """4 inputs to 3 outputs over hidden layers of these widths."""
    layers: list[nn.Module] = []
    before = 4
    for width in widths:
        layers.append(nn.Linear(before, width))
        if norm == "batch":
            layers.append(nn.BatchNorm1d(width))
        if norm == "layer":
            layers.append(nn.LayerNorm(width))
        layers.append(ACTIVATIONS[activation]())
        before = width
    return nn.Sequential(*layers, nn.Linear(before, 3))


class Convolved(nn.Module):
    """Letters to classes: an embedding, convolutions, each channel's maximum, a linear layer."""

    def __init__(self, channels: int, layers: int, embedding: int = 5, *, flat: bool = False) -> None:
        """Pool the places, or read them one by one with `flat`."""
        super().__init__()
        self.flat = flat
        self.embed = nn.Embedding(20, embedding)
        widths = [embedding] + [channels] * layers
        self.convolutions = nn.ModuleList(nn.Conv1d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.out = nn.Linear(widths[-1] * (6 if flat else 1), 3)

    def forward(self, letters):
        """[rows, 6] letters to [rows, 3]."""
        x = self.embed(letters).transpose(1, 2)
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        return self.out(x.flatten(1) if self.flat else x.amax(2))


class Residual(nn.Module):
    """Blocks that are added to what they are given, under one width."""

    def __init__(self, width: int, blocks: int) -> None:
        """So many blocks."""
        super().__init__()
        self.first = nn.Linear(4, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(blocks)
        )
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        """[rows, 4] to [rows, 3]."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def settled(model: nn.Module) -> nn.Module:
    """In eval mode, with batch statistics that are not those of a new layer."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def same(left: nn.Module, right: nn.Module, inputs) -> bool:
    """Whether two models answer alike."""
    with torch.no_grad():
        return torch.allclose(left.eval()(inputs), right.eval()(inputs), atol=1e-4, rtol=1e-4)


@given(
    st.lists(st.tuples(WIDTHS, st.integers(0, 9)), min_size=1, max_size=3),
    st.sampled_from(sorted(ACTIVATIONS)),
    st.sampled_from(["none", "batch"]),
    st.integers(0, 2**31),
)
def test_a_wider_network_answers_as_its_parent(widths, activation, norm, seed):
    """Whatever layers grow by whatever number of units, the outputs are equal before any training."""
    torch.manual_seed(seed)
    parent = settled(mlp([width for width, _ in widths], activation, norm))
    child = settled(mlp([width + more for width, more in widths], activation, norm))
    found = grow(parent, child, seed=seed)
    assert same(parent, child, torch.randn(16, 4))
    assert not found.fresh
    assert bool(found.resized) == any(more for _, more in widths)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 3), st.integers(0, 2), st.booleans(), st.integers(0, 2**31))
def test_a_wider_and_deeper_convolution_answers_as_its_parent(channels, more, layers, deeper, flat, seed):
    """Channels that grow and convolutions that are added, over pooled and over flattened places, change no output."""
    torch.manual_seed(seed)
    parent = Convolved(channels, layers, flat=flat)
    child = Convolved(channels + more, layers + deeper, flat=flat)
    found = grow(parent, child, seed=seed)
    assert same(parent, child, torch.randint(20, (16, 6)))
    assert len(found.added) == deeper
    assert not found.fresh


@given(WIDTHS, st.integers(0, 5), st.integers(1, 2), st.integers(0, 2**31))
def test_a_deeper_network_answers_as_its_parent(width, more, deeper, seed):
    """Layers put in between are the identity, though they shift the numbers of all that follow."""
    torch.manual_seed(seed)
    parent, child = mlp([width]), mlp([width + more] * (1 + deeper))
    found = grow(parent, child, seed=seed)
    assert same(parent, child, torch.randn(16, 4))
    assert len(found.added) == deeper


@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 2), st.integers(1, 2), st.integers(0, 2**31))
def test_a_new_residual_block_begins_as_nothing(width, more, blocks, deeper, seed):
    """Where answers can be had, a block that is added to what it was given begins as zero, and widths may grow too."""
    torch.manual_seed(seed)
    inputs = torch.randn(16, 4)
    parent, child = Residual(width, blocks), Residual(width + more, blocks + deeper)
    found = grow(parent, child, seed=seed, ask=lambda model: model(inputs))
    assert same(parent, child, inputs)
    assert found.kept
    assert found.added == [name for name in found.added if name.endswith(".2")]
    assert len(found.added) == deeper


@given(st.integers(1, 6), st.integers(2, 4), st.integers(0, 2**31))
def test_layer_normalisation_is_preserved_at_multiples(width, times, seed):
    """Where each unit is copied equally often, mean and variance over the units stay what they were."""
    torch.manual_seed(seed)
    parent, child = mlp([width], norm="layer"), mlp([width * times], norm="layer")
    grow(parent, child, seed=seed)
    assert same(parent, child, torch.randn(16, 4))


def test_copies_part_in_training():
    """The copies of a unit get different gradients: with equal shares they would stay one unit for good."""
    torch.manual_seed(0)
    parent, child = mlp([4]), mlp([8])
    grow(parent, child)
    optimiser = torch.optim.Adam(child.parameters(), lr=0.01)
    inputs, labels = torch.randn(64, 4), torch.randint(3, (64,))
    for _ in range(20):
        optimiser.zero_grad()
        nn.functional.cross_entropy(child(inputs), labels).backward()
        optimiser.step()
    rows = child[0].weight.detach()
    assert torch.pdist(rows).min() > 1e-3


def test_a_narrower_network_keeps_its_heavy_units():
    """Of units without any weight around them none stays while others can, and the outputs are equal then."""
    torch.manual_seed(0)
    parent, child = mlp([8]), mlp([5])
    with torch.no_grad():
        for unit in (0, 3, 6):
            parent[0].weight[unit] = 0
            parent[0].bias[unit] = 0
            parent[2].weight[:, unit] = 0
    found = grow(parent, child)
    assert same(parent, child, torch.randn(16, 4))
    assert found.resized == ["0", "2"]


def test_a_vocabulary_keeps_its_words():
    """An embedding with more rows keeps those that there were."""
    torch.manual_seed(0)
    parent, child = nn.Sequential(nn.Embedding(5, 3)), nn.Sequential(nn.Embedding(9, 3))
    drawn = child[0].weight.detach().clone()
    grow(parent, child)
    assert torch.equal(child[0].weight[:5], parent[0].weight)
    assert torch.equal(child[0].weight[5:], drawn[5:])


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        (lambda: nn.LSTM(4, 3), lambda: nn.LSTM(4, 5)),
        (lambda: nn.MultiheadAttention(4, 2), lambda: nn.MultiheadAttention(8, 2)),
        (lambda: nn.Linear(4, 3), lambda: nn.Linear(6, 3)),
        (lambda: nn.Conv1d(4, 4, 1, groups=2), lambda: nn.Conv1d(8, 8, 1, groups=2)),
        (lambda: nn.Bilinear(2, 3, 4), lambda: nn.Bilinear(2, 5, 4)),
        (lambda: nn.Conv1d(2, 2, 3), lambda: nn.Conv1d(2, 2, 5)),
        (lambda: nn.Linear(4, 3), lambda: nn.Conv1d(4, 3, 1)),
    ],
)
def test_what_cannot_be_inherited_is_left_as_it_was_drawn(parent, child):
    """Recurrent and packed weights, inputs that nobody widened, groups, kernels and other types start anew."""
    torch.manual_seed(0)
    old, new = nn.ModuleDict({"only": parent()}), nn.ModuleDict({"only": child()})
    drawn = {name: value.clone() for name, value in new.only.named_parameters(recurse=False)}
    found = grow(old, new)
    assert found.fresh[:1] == ["only"]
    for name, value in drawn.items():
        assert torch.equal(dict(new.only.named_parameters())[name], value)


def test_answers_that_cannot_be_had_stop_nothing():
    """An `ask` that fails leaves open whether the answers are kept; equal shapes are inherited all the same."""
    torch.manual_seed(0)
    parent, child = mlp([4]), mlp([4])

    def ask(_model):
        raise ValueError("no inputs")

    found = grow(parent, child, ask=ask)
    assert found.kept is None
    assert torch.equal(child[0].weight, parent[0].weight)


def test_it_is_told_that_answers_changed():
    """A deeper network whose activation is not idempotent is not preserved, and `kept` says so."""
    torch.manual_seed(0)
    parent, child, inputs = mlp([4], "tanh"), mlp([4, 4], "tanh"), torch.randn(8, 4)
    assert grow(parent, child, ask=lambda model: model(inputs)).kept is False


def test_tied_weights_are_inherited_once():
    """Of a tensor under two names the first holder decides, and the child's stay tied."""
    torch.manual_seed(0)

    def tied(width):
        model = nn.Sequential(nn.Embedding(6, width), nn.Linear(width, 6, bias=False))
        model[1].weight = model[0].weight
        return model

    parent, child = tied(3), tied(6)
    grow(parent, child)
    assert child[1].weight is child[0].weight
    assert torch.equal(child[0].weight[:, :3], parent[0].weight)
