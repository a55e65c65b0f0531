"""A child network begins with what its parent's weights say: wider, deeper, narrower, without forgetting.

Runs in the sandbox, beside the worker; it needs torch and the standard library. What is inherited, module by module:

* **Equal shapes** are copied. Numbered children (`Sequential`, `ModuleList`) are matched in order by what they hold,
  not by their numbers, so that a layer put in between shifts nobody.
* **Wider** (Net2WiderNet, Chen et al. 2016, arXiv:1511.05641): new units are copies of old ones, and whatever reads
  them splits its old weights among the copies, so the outputs are the same. Each reading weight is split in its own
  random way: copies with equal shares would get equal gradients, and stay copies for good.
* **Deeper** (Net2DeeperNet, same source): a new square layer is the identity, or, in a block that is added to what it
  was given, zero; which of the two leaves the answers as they were is tried out where answers can be had (`ask`).
* **Narrower**: the units with the largest weights around them stay (by norm, as Li et al. 2017, arXiv:1608.08710).
* **All else** that has no equal shape is left as `build` drew it.

Widening is exact for units that are treated one by one between layers (activations, dropout in eval mode, pooling,
batch normalisation). Layer normalisation needs every unit copied equally often (a multiple of the old width); scaled
dot products, group normalisation with changed groups, recurrent and packed attention weights are not preserved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = ["Grown", "grow"]

_MOST_PAIRS = 10_000  # of numbered children, compared each with each

Ask = Callable[[nn.Module], Tensor]


@dataclass
class Grown:
    """What became of each module of the child that holds tensors, by name; and whether the answers are the parent's."""

    copied: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    """New ones that were made to change nothing."""
    fresh: list[str] = field(default_factory=list)
    kept: bool | None = None
    """None where no answers could be had."""


def grow(parent: nn.Module, child: nn.Module, *, seed: int = 0, ask: Ask | None = None) -> Grown:
    """Give a freshly built child what it can inherit of its parent, in place.

    `ask` puts a few inputs to a model and returns its answers; it decides how layers that the parent lacks begin, and
    fills `kept`. Both models are put into eval mode while they are asked.
    """
    generator = torch.Generator().manual_seed(seed)
    found = Grown()
    pairs = dict(_pairs(parent, child, "", ""))
    old, new = dict(parent.named_modules()), dict(child.named_modules())
    holders = [name for name, module in new.items() if _own(module)]
    matched = {
        name: old[pairs[name]] for name in holders if name in pairs and type(old[pairs[name]]) is type(new[name])
    }
    maps = _maps(matched, new, generator)
    done: set[int] = set()
    with torch.no_grad():
        for name, source in matched.items():
            values = _inherited(source, new[name], maps, generator, done)
            if values is None:
                found.fresh.append(name)
                continue
            same = all(_own(source)[key].shape == tensor.shape for key, tensor in _own(new[name]).items())
            (found.copied if same else found.resized).append(name)
            for key, value in values.items():
                _own(new[name])[key].copy_(value)
        added = [name for name in holders if name not in matched]
        _deepen(parent, child, {name: new[name] for name in added}, set(pairs), ask, found)
    return found


def _own(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a module holds itself."""
    held = {**module._parameters, **module._buffers}  # noqa: SLF001  # the registries that state_dict is made of
    return {name: tensor for name, tensor in held.items() if tensor is not None}


# Who is who


def _pairs(parent: nn.Module, child: nn.Module, above: str, below: str) -> Iterator[tuple[str, str]]:
    """Pair the names of modules, (child's, parent's): by name, and numbered children in order."""
    yield below, above
    before, after = dict(parent.named_children()), dict(child.named_children())
    names = [(name, name) for name in after if name in before]
    numbered = all(name.isdigit() for name in (*before, *after))
    if numbered and before and after and len(before) * len(after) <= _MOST_PAIRS:
        names = _aligned(before, after, ends=isinstance(child, nn.Sequential))
    for old, new in names:
        yield from _pairs(before[old], after[new], f"{above}.{old}".lstrip("."), f"{below}.{new}".lstrip("."))


def _aligned(before: dict[str, nn.Module], after: dict[str, nn.Module], *, ends: bool) -> list[tuple[str, str]]:
    """The pairing in order whose members are most alike in sum.

    Where several are: with `ends` that of the last members, for what gives a network's answers stays last; else that of
    the earliest.
    """
    olds, news = list(before), list(after)
    like = [[_likeness(before[old], after[new]) for new in news] for old in olds]
    if ends and like[-1][-1] >= 1.0:
        like[-1][-1] += 1e-4
    best = [[0.0] * (len(news) + 1) for _ in range(len(olds) + 1)]
    for i in reversed(range(len(olds))):
        for j in reversed(range(len(news))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], like[i][j] + best[i + 1][j + 1])
    i, j, pairs = 0, 0, []
    while i < len(olds) and j < len(news):
        if like[i][j] and best[i][j] == like[i][j] + best[i + 1][j + 1]:
            pairs.append((olds[i], news[j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i][j + 1]:
            j += 1
        else:
            i += 1
    return pairs


def _likeness(old: nn.Module, new: nn.Module) -> float:
    """0 for modules of different types, else 1 and the share of tensors' axes that are equally long."""
    if type(old) is not type(new):
        return 0.0
    before, after = old.state_dict(), new.state_dict()
    if not before and not after:
        return 1e-3  # nothing to inherit: they only must not stand in the way
    equal = 0.0
    for name in before.keys() & after.keys():
        left, right = before[name].shape, after[name].shape
        if len(left) == len(right):
            equal += sum(map(int.__eq__, left, right)) / len(left) if left else 1.0
    return 1.0 + equal / max(len(before), len(after))


# What an axis is for


def _roles(module: nn.Module, name: str, tensor: Tensor) -> tuple[str, ...] | None:
    """What each axis of a module's tensor counts: units that it gives (`out`), units that it reads (`in`), or else."""
    kernel = ("kernel",) * (tensor.dim() - 2)
    match module:
        case nn.Linear():
            return ("out", "in") if name == "weight" else ("out",)
        case _ConvNd() if name == "bias":
            return ("out",)
        case _ConvTransposeNd():
            return ("in", "out", *kernel) if module.groups == 1 else None
        case _ConvNd():
            if module.groups == 1:
                return "out", "in", *kernel
            return ("out", "one", *kernel) if module.groups == module.in_channels == module.out_channels else None
        case nn.Embedding():
            return "rows", "out"
        case _NormBase() | nn.GroupNorm() | nn.LayerNorm() | nn.RMSNorm() | nn.PReLU() if tensor.dim() <= 1:
            return ("out",) * tensor.dim()
    if type(module).__module__.startswith("torch.nn."):
        return None
    return (*("fixed",) * (tensor.dim() - 1), "out")[
        : tensor.dim()
    ]  # a table: one entry for each unit, in its last axis


def _changes(source: nn.Module, target: nn.Module) -> Iterator[tuple[str, int, str, int, int]]:
    """Each axis of a module's tensors that has another length: tensor, axis, role, old and new length."""
    after = _own(target)
    for name, tensor in _own(source).items():
        if name in after and after[name].dim() == tensor.dim():
            roles = _roles(source, name, tensor) or ("unknown",) * tensor.dim()
            for axis, (old, new) in enumerate(zip(tensor.shape, after[name].shape, strict=True)):
                if old != new:
                    yield name, axis, roles[axis], old, new


def _maps(
    matched: dict[str, nn.Module], new: dict[str, nn.Module], generator: torch.Generator
) -> dict[tuple[int, int], Tensor]:
    """For each (old, new) number of units that some layer gives: of which old unit each new one is made.

    All layers that go from one number to another share one map, so that what is added together stays together.
    """
    weight: dict[tuple[int, int], Tensor] = {}
    for name, source in matched.items():
        for tensor, axis, role, old, after in _changes(source, new[name]):
            if role == "out":
                weight.setdefault((old, after), torch.zeros(old))
            value = _own(source)[tensor]
            if value.dim() > 1 and (old, after) in weight and role in ("out", "in"):
                norm = value.float().cpu().transpose(0, axis).reshape(old, -1).square().sum(1)
                weight[old, after] += norm / norm.sum().clamp_min(1e-12)
    maps = {}
    for (old, after), heavy in sorted(weight.items()):
        if after < old:
            maps[old, after] = heavy.topk(after).indices.sort().values
        else:
            rounds = [torch.randperm(old, generator=generator) for _ in range(math.ceil((after - old) / old))]
            maps[old, after] = torch.cat([torch.arange(old), *rounds])[:after]
    return maps


def _inherited(
    source: nn.Module,
    target: nn.Module,
    maps: dict[tuple[int, int], Tensor],
    generator: torch.Generator,
    done: set[int],
) -> dict[str, Tensor] | None:
    """The tensors of a child's module made of its parent's; None where one of them cannot be."""
    before, after = _own(source), _own(target)
    if before.keys() != after.keys() or any(before[name].dim() != after[name].dim() for name in after):
        return None
    values = {name: before[name].to(after[name].device) for name in after if id(after[name]) not in done}
    done |= {id(tensor) for tensor in after.values()}  # of tied weights the first holder says what they are
    for name, axis, role, old, new in sorted(_changes(source, target), key=lambda change: change[2] == "rows"):
        if name not in values:
            continue
        value = values[name]
        if role == "rows":  # a vocabulary: the other axis has its new length by now
            values[name] = torch.cat([value[:new], after[name][old:]])
            continue
        chosen = _chosen(maps, old, new, lifted=role == "in") if role in ("out", "in") else None
        if chosen is None:
            return None
        value = value.index_select(axis, chosen.to(value.device))
        if role == "in" and new > old:
            value = value * _shares(value.shape, axis, chosen, old, generator).to(value.device, value.dtype)
        values[name] = value
    return values


def _chosen(maps: dict[tuple[int, int], Tensor], old: int, new: int, *, lifted: bool) -> Tensor | None:
    """The map for an axis; of an axis that reads flattened channels, the map of the channels, place by place."""
    if (old, new) in maps:
        return maps[old, new]
    if not lifted:
        return None
    fitting = [
        (few, many) for few, many in maps if old % few == 0 and new % many == 0 and old // few == new // many > 1
    ]
    if len(fitting) != 1:
        return None
    places = old // fitting[0][0]
    return (maps[fitting[0]][:, None] * places + torch.arange(places)).flatten()


def _shares(shape: torch.Size, axis: int, chosen: Tensor, old: int, generator: torch.Generator) -> Tensor:
    """How much of an old weight each copy gets: random, adding up to 1 over the copies of one unit."""
    drawn = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    total = torch.zeros([old if at == axis else size for at, size in enumerate(shape)], dtype=torch.float64)
    total.index_add_(axis, chosen, drawn)
    return drawn / total.index_select(axis, chosen)


# Layers that the parent lacks


def _deepen(
    parent: nn.Module,
    child: nn.Module,
    added: dict[str, nn.Module],
    known: set[str],
    ask: Ask | None,
    found: Grown,
) -> None:
    """Begin new layers in the way that leaves the answers nearest to the parent's: as the identity, zero, or drawn."""
    answers = None if ask is None else _asked(ask, parent)
    drawn = {name: {key: value.clone() for key, value in _own(module).items()} for name, module in added.items()}
    blocks: dict[str, list[str]] = {}
    for name in added:
        paths = [name[:end] for end in (*(at for at, letter in enumerate(name) if letter == "."), len(name))]
        blocks.setdefault(next((path for path in paths if path not in known), name), []).append(name)
    last = {name for names in blocks.values() for name in [each for each in names if _layer(added[each])][-1:]}
    ways = ("identity", "zero", "drawn") if added else ("drawn",)

    def put(way: str) -> list[str]:
        for name, values in drawn.items():
            for key, value in values.items():
                _own(added[name])[key].copy_(value)
        if way == "zero":
            return [name for name in added if name in last and _zero(added[name])]
        return [name for name in added if way == "identity" and _identity(added[name])]

    tried: list[tuple[float, int]] = []
    for turn, way in enumerate(ways):
        put(way)
        tried.append((math.inf if answers is None or ask is None else _distance(_asked(ask, child), answers), turn))
        if answers is None:
            break
    far, turn = min(tried)
    found.added += put(ways[turn])
    found.fresh += [name for name in added if name not in found.added]
    if answers is not None:
        found.kept = far <= 1e-4 * (1.0 + float(answers.abs().max()))


def _layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | _ConvNd)


def _zero(module: nn.Module) -> bool:
    for tensor in _own(module).values():
        tensor.zero_()
    return True


def _identity(module: nn.Module) -> bool:
    """Make a layer give what it is given; whether that can be done."""
    if isinstance(module, _NormBase) and module.running_var is not None:
        module.running_var.fill_(1.0 - module.eps)
        return True
    if isinstance(module, nn.Linear) and module.in_features == module.out_features:
        nn.init.eye_(module.weight)
    elif isinstance(module, _ConvNd) and _keeps_shape(module):
        nn.init.zeros_(module.weight)
        middle = tuple(size // 2 for size in module.kernel_size)
        for unit in range(module.out_channels):
            module.weight[(unit, unit if module.groups == 1 else 0, *middle)] = 1.0
    else:
        return False
    if isinstance(module.bias, Tensor):
        nn.init.zeros_(module.bias)
    return True


def _keeps_shape(module: _ConvNd) -> bool:
    """Whether a convolution gives as many channels and places as it is given, each at the middle of its kernel."""
    single = module.groups in (1, module.in_channels)
    odd = all(size % 2 for size in module.kernel_size) and all(step == 1 for step in module.stride)
    reach = tuple(gap * (size - 1) // 2 for gap, size in zip(module.dilation, module.kernel_size, strict=True))
    padded = module.padding == "same" or tuple(module.padding) == reach
    return single and odd and padded and not module.transposed and module.in_channels == module.out_channels


def _asked(ask: Ask, model: nn.Module) -> Tensor | None:
    """A model's answers in eval mode; None where it gives none, which is no reason not to train it."""
    training = model.training
    model.eval()
    try:
        answers: Any = ask(model)
        return answers.detach().float().cpu() if isinstance(answers, Tensor) else None
    except Exception:  # noqa: BLE001  # it is the candidate's code, asked with inputs that may be none
        return None
    finally:
        model.train(training)


def _distance(answers: Tensor | None, before: Tensor) -> float:
    if answers is None or answers.shape != before.shape:
        return math.inf
    far = float((answers - before).abs().max())
    return far if math.isfinite(far) else math.inf
