"""Is an answer right under the worst of several attacks on the item? Evals that ask, of one line in `guards.py`.

    from harness.evals import adversarial, edited

    attacked = adversarial("attacked", key="image", epsilon=8 / 255, inputs=plain)
    mistyped = edited("mistyped", inputs=plain, edit=one_typo, edits=2, tries=6)

An item scores 1 where the answer is right and stays right under everything that was tried, else 0.

What it bounds: an attack that succeeds is a fact, so the score is an **upper bound** of the share of items that no
attack within epsilon (or within so many edits) can turn; it is no certificate that the others cannot be turned.
A gradient is the candidate's own word: code that detaches, flattens or falsifies it makes the gradient attacks find
nothing, and so do rows that carry the clean answer as a hidden mark. Such a candidate keeps only what the search
through plain questions leaves it, which needs answers and no gradient (obfuscated gradients: Athalye et al. 2018,
arXiv:1802.00420). So between two models of which one hides its gradients the scores compare two attacks: where that
matters, gate on a floor, or on an eval with `gradient=False`, which puts the same search to all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from harness.errors import SubjectError
from harness.evals.inquiry import Ask
from harness.evals.items import MAIN, Array, Encode, Inputs, Raw, encoded, rows_of
from harness.evals.scoring import EvaluationKind, inquiry
from harness.evals.tagging import called_from
from harness.perturbing import PERTURBED, Perturbation
from harness.records import first_problem

Floats = npt.NDArray[np.float64]
Margin = Callable[[Array, Array], Array]
"""Labels [n, …] and answers [n, *output] to [n] floats: above 0 where the answer is right; greater, the surer it is."""
Edit = Callable[[Inputs, np.random.Generator], Inputs]
"""Model inputs to the same with one random edit a row, each within what is called one edit."""


def by_class(labels: Array, answers: Array) -> Floats:
    """How far the answer for the label, a class, is above the best other one; answers [n, classes]."""
    if answers.ndim != 2 or answers.shape[1] < 2 or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise SubjectError(
            f"answers {answers.shape} to labels {labels.dtype} {labels.shape} are no classes",
            remedy="give the attack a margin=: labels and answers to floats, above 0 where right",
        )
    rows = np.arange(len(labels))
    others = answers.astype(np.float64)
    own = others[rows, labels].copy()
    others[rows, labels] = -np.inf
    margins: Floats = own - others.max(1)
    return margins


def adversarial(
    name: str,
    *,
    key: str,
    epsilon: float,
    inputs: Encode,
    norm: Literal["linf", "l2"] = "linf",
    low: float = 0.0,
    high: float = 1.0,
    steps: int = 10,
    size: float | None = None,
    seed: int = 0,
    gradient: bool = True,
    rounds: int = 6,
    tries: int = 3,
    margin: Margin = by_class,
    kind: EvaluationKind = "robustness",
    of: str = MAIN,
    applies: Callable[[Array], Array] | None = None,
) -> Callable[..., Any]:
    """The share of items that are right under each attack on input `key` within `epsilon` in the norm.

    key: a float32 input [rows, …] of values in `low` to `high`. With `gradient`, a worker takes one step of the fast
    gradient sign method, and `steps` of projected gradient descent by two losses (`worker._perturbed`), each of `size`
    (2.5 epsilon / steps unless given, as Madry et al. do). Then a search by plain questions, `tries` rows an item in
    each of `rounds`: random corners, and windows of the best so far put to another corner (the square attack:
    Andriushchenko et al. 2020, arXiv:1912.00049). Items that were turned are not asked again.

    Raises SubjectError for a spec that is none; when it is run, for inputs that are not of it.
    """
    where = called_from()
    base = {"key": key, "norm": norm, "epsilon": epsilon, "low": low, "high": high, "seed": seed}
    size = 2.5 * epsilon / max(1, steps) if size is None else size
    try:
        fast = Perturbation.parse({**base, "size": epsilon, "steps": 1})
        slow = Perturbation.parse({**base, "size": size, "steps": steps, "random": True})
        other = Perturbation.parse({**slow.json_value(), "loss": "margin"})
    except (ValidationError, TypeError, ValueError) as error:
        place, message = first_problem(error) if isinstance(error, ValidationError) else ("value", str(error))
        raise SubjectError(f"adversarial({name!r}): {place}: {message}", where=where) from error
    if rounds < (0 if gradient else 1) or tries < 1:
        raise SubjectError(f"adversarial({name!r}) tries nothing: rounds and tries are counts from 1", where=where)

    def measure(ask: Ask, raw: Raw, labels: Array) -> Floats:
        clean = encoded(inputs, raw)
        rows = clean.get(key)
        if rows is None or rows.dtype != np.float32 or rows.ndim < 2:
            raise SubjectError(f"{key!r} is no float32 input [rows, …] of inputs()", where=where)
        if not (len(rows) and rows.min() >= low and rows.max() <= high):
            raise SubjectError(f"{key!r} is not within {low} to {high}", where=where)
        hunt = _Hunt(ask, labels, clean, key, margin)
        standing = hunt.standing
        if gradient and len(standing):
            attacks = (fast, slow, other)
            given = ask.jobs([attack.job for attack in attacks], _some(clean, standing))
            moved = [each[PERTURBED] for each in given]
            for attack, each in zip(attacks, moved, strict=True):
                astray = attack.strays(rows[standing], each)
                if astray is not None:
                    raise SubjectError(f"a table holds what no attack may give: {astray}", where=where)
            hunt.put(standing, np.stack(moved, axis=1))
        for step in range(rounds):
            patches = _patches(ask.rng, rows.shape, tries, 0.0 if rounds == 1 else step / rounds)
            standing = hunt.standing
            if len(standing):
                at = hunt.best[standing] if step else rows[standing]
                hunt.put(standing, _moved(fast, rows[standing], at, patches.take(standing)))
        return hunt.held.astype(float)

    return _tagged(measure, name, kind, of, applies, where)


def edited(
    name: str,
    *,
    inputs: Encode,
    edit: Edit,
    edits: int = 1,
    tries: int = 8,
    margin: Margin = by_class,
    kind: EvaluationKind = "robustness",
    of: str = MAIN,
    applies: Callable[[Array], Array] | None = None,
) -> Callable[..., Any]:
    """The share of items that are right under the worst of random edits, at most `edits` of them to an item.

    For inputs that no gradient moves: letters, say. `edit(inputs, rng)` makes one random edit to each row; each time
    `tries` of them are made to the worst inputs found so far, which is kept where it makes the answer less sure. The
    number of random draws in `edit` may hang on the shapes only, or one item's edits would hang on another's answers.
    """
    where = called_from()
    if edits < 1 or tries < 1:
        raise SubjectError(f"edited({name!r}) tries nothing: edits and tries are counts from 1", where=where)

    def measure(ask: Ask, raw: Raw, labels: Array) -> Floats:
        clean = encoded(inputs, raw)
        least = _margins(margin, labels, ask(clean))
        worst = {key: array.copy() for key, array in clean.items()}
        for _ in range(edits):
            made = [dict(edit(worst, ask.rng)) for _ in range(tries)]
            form = {key: (array.dtype, array.shape) for key, array in clean.items()}
            for each in made:
                rows_of(each, f"what edit() of '{name}' gave")
                if {key: (array.dtype, array.shape) for key, array in each.items()} != form:
                    raise SubjectError(f"edit() of {name!r} gave inputs of another form", where=where)
            standing = np.flatnonzero(least > 0)
            if not len(standing):
                break
            asked = {key: np.concatenate([each[key][standing] for each in made]) for key in clean}
            repeated = np.concatenate([labels[standing]] * tries)
            found = _margins(margin, repeated, ask(asked)).reshape(tries, len(standing))
            which, lower = found.argmin(0), found.min(0) < least[standing]
            least[standing] = np.minimum(found.min(0), least[standing])
            for key, array in worst.items():
                array[standing[lower]] = np.stack([each[key][standing] for each in made])[which, range(len(standing))][
                    lower
                ]
        return (least > 0).astype(float)

    return _tagged(measure, name, kind, of, applies, where)


class _Hunt:
    """Which items still stand, and for each the row under which it stood least firmly."""

    def __init__(self, ask: Ask, labels: Array, clean: dict[str, Array], key: str, margin: Margin) -> None:
        self._ask, self._labels, self._clean, self._key, self._margin = ask, labels, clean, key, margin
        self.least = _margins(margin, labels, ask(clean))
        self.best: Array = clean[key].copy()

    @property
    def held(self) -> npt.NDArray[np.bool_]:
        return self.least > 0

    @property
    def standing(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.held)

    def put(self, items: npt.NDArray[np.int64], moved: Array) -> None:
        """Ask rows [items, tries, …] in the place of the items' own, and keep the worst of each."""
        tries = moved.shape[1]
        repeated = np.repeat(items, tries)
        asked = _some(self._clean, repeated) | {self._key: moved.reshape(-1, *moved.shape[2:])}
        found = _margins(self._margin, self._labels[repeated], self._ask(asked)).reshape(len(items), tries)
        worst = found.argmin(1)
        lower = found.min(1) < self.least[items]
        which = np.flatnonzero(lower)
        self.best[items[which]] = moved[which, worst[which]]
        self.least[items[which]] = found[which, worst[which]]


class _Patches:
    """For each item and try: where a window of the last one or two axes lies, and to which corner it is put."""

    def __init__(self, windows: list[Array], signs: Array) -> None:
        self.windows, self.signs = windows, signs

    def take(self, items: npt.NDArray[np.int64]) -> _Patches:
        return _Patches([each[items] for each in self.windows], self.signs[items])


def _patches(rng: np.random.Generator, shape: tuple[int, ...], tries: int, done: float) -> _Patches:
    """Draw them for all items, standing or not, so that no item's hang on another's answers.

    At first (`done` 0) the whole row is put to a random corner, in columns; then windows of a share that shrinks.
    """
    count, axes = shape[0], shape[1:]
    plane, lead = axes[-2:], axes[:-2]
    if done == 0.0:
        columns = (*lead, *[1] * (len(plane) - 1), plane[-1])
        return _Patches([], rng.integers(0, 2, (count, tries, *columns), dtype=np.int8) * 2 - 1)
    share = 0.5 * (1 - done)
    side = [max(1, round(width * share ** (1 / len(plane)))) for width in plane]
    windows = []
    for axis, (width, some) in enumerate(zip(plane, side, strict=True)):
        first = rng.integers(0, width, (count, tries, 1))
        inside = (np.arange(width) - first) % width < some
        windows.append(
            inside.reshape(count, tries, *[1] * (len(axes) - len(plane) + axis), width, *[1] * (len(plane) - 1 - axis))
        )
    return _Patches(windows, rng.integers(0, 2, (count, tries, *lead, *[1] * len(plane)), dtype=np.int8) * 2 - 1)


def _moved(attack: Perturbation, clean: Array, at: Array, patches: _Patches) -> Array:
    """Rows [items, tries, …] float32 within epsilon of the clean ones: `at`, with each patch put to its corner."""
    clean, at = clean[:, None].astype(np.float64), at[:, None].astype(np.float64)
    inside: Array = np.ones((1,) * at.ndim, dtype=np.bool_)
    for each in patches.windows:
        inside = inside & each
    away = np.where(inside, attack.epsilon * patches.signs, at - clean)
    if attack.norm == "l2":
        lengths = np.sqrt((away**2).sum(tuple(range(2, away.ndim)), keepdims=True))
        away *= attack.epsilon / np.maximum(lengths, 1e-12)
    moved: Array = np.clip(clean + away, attack.low, attack.high).astype(np.float32)
    return moved


def _margins(margin: Margin, labels: Array, answers: Array) -> Floats:
    found = np.asarray(margin(labels, answers), dtype=np.float64)
    if found.shape != (len(labels),) or np.isnan(found).any():
        raise SubjectError(f"a margin gave {found.shape} for {len(labels)} labels, or NaN")
    return found


def _some(inputs: dict[str, Array], rows: npt.NDArray[np.int64]) -> dict[str, Array]:
    return {name: array[rows] for name, array in inputs.items()}


def _tagged(
    measure: Callable[..., Any],
    name: str,
    kind: EvaluationKind,
    of: str,
    applies: Callable[[Array], Array] | None,
    where: str,
) -> Callable[..., Any]:
    return inquiry(name, kind=kind, of=of, applies=applies, where=where)(measure)


__all__ = ["adversarial", "by_class", "edited"]
