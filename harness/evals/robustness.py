"""Ready-made corruptions of images and texts at five severities, and the decorator that makes evaluations of them.

    @corrupted("noise", gaussian_noise)
    @corrupted("blur", blur)
    def shown(images):
        return {"images": images}

makes the views `noise_1` to `noise_5` and the evaluation `noise`, right or not, its mean over the five; and so for
`blur`. A **corruption** is a pure function of (raw items, severity 1 to 5, rng). Its randomness is the view's: fixed by
the vault's shuffle and the view's name. So candidate and incumbent meet the same noise, another prefix of the vault
meets other noise, and nobody can train against it. On average more severe means further from the original, and values
stay in their range by the way they are made.

Images are [n, h, w] or [n, h * w] (squares): uint8 from 0 to 255, or floats from 0 to 1. Noise, impulses, contrast and
the others go by Hendrycks and Dietterich (ICLR 2019), whose parameters are for large photographs; where a length is
meant it is a share of the image's side here. Texts are strings, or rows of letter numbers, padded with 0 ([n, width]).

Not covered: corruptions that nobody lists, and those made to deceive one model (adversarial ones).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from harness.errors import SubjectError
from harness.evals.capability import Scorer, right
from harness.evals.items import Array, Inputs, Raw
from harness.evals.scoring import EvaluationKind, View, specify
from harness.evals.tagging import checked_name, declare, where_of

Corruption = Callable[[Any, int, np.random.Generator], Any]
"""Raw items, a severity from 1 to 5 and a generator in; as many raw items of the same form out."""

SEVERITIES: Final = (1, 2, 3, 4, 5)

_F = TypeVar("_F", bound=Callable[..., Any])


def corrupted(
    name: str,
    corruption: Corruption,
    *,
    score: Scorer = right,
    kind: EvaluationKind = "robustness",
    each: bool = False,
    drawn: bool = False,
    severities: Sequence[int] = SEVERITIES,
    applies: Callable[[Array], Array] | None = None,
    slices: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Callable[[_F], _F]:
    """Tag `def shown(raw) -> dict[str, ndarray]`, which makes model inputs, with views of corrupted items and a score.

    There is one view for each severity, `name_1` to `name_5`, and the evaluation `name`, the mean of `score(labels,
    answers)` over them; with `each`, five evaluations `name_1` to `name_5` instead, each with a gate of its own.
    `drawn` makes one view only, in which every item meets a severity that chance draws: the same mean in expectation,
    for a fifth of the answers, and with more noise. Decorators can be stacked. `score` lies in [0, 1].
    """

    def tag(shown: _F) -> _F:
        where = where_of(shown)
        if each and drawn:
            raise SubjectError(f"{name!r}: either each severity is an evaluation, or chance draws one", where=where)
        if not severities or len(set(severities)) != len(severities) or not set(severities) <= set(SEVERITIES):
            raise SubjectError(f"{name!r}: severities are some of 1 to 5, not {severities!r}", where=where)
        own = [checked_name(f"{name}_{severity}", where) for severity in severities]
        names = (checked_name(name, where),) if drawn else tuple(own)
        makers = [_mixed(severities, corruption)] if drawn else [_at(severity, corruption) for severity in severities]
        for view_name, corrupt in zip(names, makers, strict=True):
            declare(shown, View(view_name, _view(shown, corrupt), where))
        for one, views in [(one, (one,)) for one in names] if each else [(name, names)]:
            measure = _mean(score, views)
            declare(shown, specify(one, measure, where, kind, views, applies=applies, slices=slices))
        return shown

    return tag


def _at(severity: int, corruption: Corruption) -> Callable[[Raw, np.random.Generator], Raw]:
    return lambda raw, rng: _same_length(raw, corruption(raw, severity, rng))


def _mixed(severities: Sequence[int], corruption: Corruption) -> Callable[[Raw, np.random.Generator], Raw]:
    def corrupt(raw: Raw, rng: np.random.Generator) -> Raw:
        drawn = rng.choice(severities, size=len(raw))
        made = np.copy(raw) if isinstance(raw, np.ndarray) else list(raw)
        for severity in severities:
            places = np.flatnonzero(drawn == severity).tolist()
            part = raw[places] if isinstance(raw, np.ndarray) else [raw[place] for place in places]
            for place, item in zip(places, _same_length(part, corruption(part, severity, rng)), strict=True):
                made[place] = item
        return made

    return corrupt


def _same_length(raw: Raw, made: Raw) -> Raw:
    if len(made) != len(raw):
        raise ValueError(f"a corruption made {len(made)} of {len(raw)} items")
    return made


def _view(
    shown: Callable[[Raw], Inputs], corrupt: Callable[[Raw, np.random.Generator], Raw]
) -> Callable[[Raw, np.random.Generator], Inputs]:
    return lambda raw, rng: shown(corrupt(raw, rng))


def _mean(score: Scorer, views: Sequence[str]) -> Callable[[Array, dict[str, Array]], Array]:
    def measure(labels: Array, answers: dict[str, Array]) -> Array:
        total = np.zeros(len(labels))
        for shown in views:
            values = np.asarray(score(labels, answers[shown]), dtype=np.float64)
            if values.shape != total.shape:
                raise ValueError(f"a score gave {values.shape} for {len(labels)} items")
            total += values
        return total / len(views)

    return measure


def _level(severity: int, levels: Sequence[float]) -> float:
    if severity not in SEVERITIES:
        raise ValueError(f"a severity is one of 1 to 5, not {severity!r}")
    return levels[severity - 1]


# --- images


def _image(change: Callable[[Array, int, np.random.Generator], Array]) -> Callable[..., Array]:
    """Let a function of floats [n, h, w] in 0..1 work on images as they come, and give them back in their own form."""

    def corrupt(images: Array, severity: int, rng: np.random.Generator) -> Array:
        _level(severity, SEVERITIES)
        given = np.asarray(images)
        side = math.isqrt(given.shape[1]) if given.ndim == 2 else 0
        if given.ndim != 3 and not (given.ndim == 2 and 0 < side * side == given.shape[1]):
            raise ValueError(f"images are [n, h, w], or [n, h * w] where they are squares, not {given.shape}")
        if given.dtype != np.uint8 and given.dtype.kind != "f":
            raise ValueError(f"images are uint8 or floats, not {given.dtype}")
        scale = 255.0 if given.dtype == np.uint8 else 1.0
        plain = given.reshape(len(given), side, side) if given.ndim == 2 else given
        plain = plain.astype(np.float64) / scale
        if plain.size and not (plain.min() >= 0.0 and plain.max() <= 1.0):
            raise ValueError("images of floats lie in 0..1: scale them before, and back where they are shown")
        # Rounding alone could leave the range here; noise is bounded where it is added.
        made = np.clip(change(plain, severity, rng), 0.0, 1.0) * scale
        made = np.rint(made) if given.dtype == np.uint8 else made
        return made.astype(given.dtype).reshape(given.shape)

    corrupt.__name__, corrupt.__doc__ = change.__name__, change.__doc__
    return corrupt


@_image
def gaussian_noise(images: Array, severity: int, rng: np.random.Generator) -> Array:
    """Noise on every pixel, of standard deviation .08 to .38, cut at black and white as a sensor would."""
    return np.clip(images + _level(severity, (0.08, 0.12, 0.18, 0.26, 0.38)) * rng.normal(size=images.shape), 0.0, 1.0)


@_image
def impulse_noise(images: Array, severity: int, rng: np.random.Generator) -> Array:
    """Black or white in place of .03 to .27 of the pixels."""
    hit = rng.random(images.shape) < _level(severity, (0.03, 0.06, 0.09, 0.17, 0.27))
    return np.where(hit, rng.integers(0, 2, images.shape), images)


@_image
def blur(images: Array, severity: int, _rng: np.random.Generator) -> Array:
    """A Gaussian blur of .04 to .2 of the shorter side, the edge continued outwards."""
    sigma = _level(severity, (0.04, 0.07, 0.1, 0.14, 0.2)) * min(images.shape[1:])
    reach = max(1, math.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        padded = np.pad(images, [(reach, reach) if each == axis else (0, 0) for each in range(3)], mode="edge")
        length = images.shape[axis]
        images = sum(
            (weight * padded.take(range(k, k + length), axis=axis) for k, weight in enumerate(kernel)),
            np.zeros_like(images),
        )
    return images


@_image
def contrast(images: Array, severity: int, _rng: np.random.Generator) -> Array:
    """The differences from the image's own mean shrink to .6 to .1 of what they were."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    shrunk: Array = mean + _level(severity, (0.6, 0.45, 0.3, 0.2, 0.1)) * (images - mean)
    return shrunk


@_image
def brightness(images: Array, severity: int, _rng: np.random.Generator) -> Array:
    """Every pixel goes .1 to .5 of its way to white."""
    return images + _level(severity, (0.1, 0.2, 0.3, 0.4, 0.5)) * (1.0 - images)


@_image
def shift(images: Array, severity: int, rng: np.random.Generator) -> Array:
    """The image moves by .05 to .3 of its shorter side in a direction drawn for it; black comes in."""
    distance = _level(severity, (0.05, 0.1, 0.16, 0.22, 0.3)) * min(images.shape[1:])
    angle = rng.random(len(images)) * 2 * np.pi
    moved = _moved(images, distance * np.sin(angle), axis=1)
    return _moved(moved, distance * np.cos(angle), axis=2)


def _moved(images: Array, by: Array, axis: int) -> Array:
    """Each image moved along an axis by its own, perhaps broken, number of pixels."""
    length = images.shape[axis]
    source = np.arange(length)[None, :] - by[:, None]
    below = np.floor(source).astype(np.int64)
    part = source - below
    total = np.zeros_like(images)
    for places, weight in ((below, 1.0 - part), (below + 1, part)):
        inside = (places >= 0) & (places < length)
        form = (len(images), length, 1) if axis == 1 else (len(images), 1, length)
        taken = np.take_along_axis(images, np.where(inside, places, 0).reshape(form), axis=axis)
        total += taken * (weight * inside).reshape(form)
    return total


@_image
def pixelate(images: Array, severity: int, _rng: np.random.Generator) -> Array:
    """.75 to .25 as many rows and columns, each pixel the mean of what it covers, drawn as large as the image was."""
    share = _level(severity, (0.75, 0.6, 0.45, 0.35, 0.25))
    for axis in (1, 2):
        length = images.shape[axis]
        coarse = max(1, round(length * share))
        edges = np.linspace(0, length, coarse + 1)
        pixels = np.arange(length)
        covered = np.maximum(np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0.0)
        spread = covered.T @ (covered * coarse / length)
        images = spread @ images if axis == 1 else images @ spread.T
    return images


@_image
def occlusion(images: Array, severity: int, rng: np.random.Generator) -> Array:
    """A grey rectangle somewhere over the image, .25 to .65 of its sides."""
    share = _level(severity, (0.25, 0.35, 0.45, 0.55, 0.65))
    hidden = np.ones(images.shape, dtype=bool)
    for axis in (1, 2):
        length = images.shape[axis]
        side = max(1, round(length * share))
        start = np.floor(rng.random(len(images)) * (length - side + 1))
        place = np.arange(length)[None, :]
        inside = (place >= start[:, None]) & (place < start[:, None] + side)
        hidden &= inside[:, :, None] if axis == 1 else inside[:, None, :]
    return np.where(hidden, 0.5, images)


IMAGE_CORRUPTIONS: Final[Mapping[str, Corruption]] = {
    "gaussian_noise": gaussian_noise, "impulse_noise": impulse_noise, "blur": blur, "contrast": contrast,
    "brightness": brightness, "shift": shift, "pixelate": pixelate, "occlusion": occlusion,
}  # fmt: skip

# --- texts

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
EDITED: Final = (0.05, 0.1, 0.2, 0.3, 0.4)
"""The share of a text's letters that are edited; of a broken number of them, chance rounds up or down."""

Edit = Callable[[list[Any], int, np.random.Generator, Sequence[Any]], None]


def _wrong(symbols: list[Any], place: int, rng: np.random.Generator, alphabet: Sequence[Any]) -> None:
    others = [letter for letter in alphabet if letter != symbols[place]]
    symbols[place] = others[int(rng.integers(len(others)))]


def _swap(symbols: list[Any], place: int, _rng: np.random.Generator, _alphabet: Sequence[Any]) -> None:
    left = min(place, len(symbols) - 2)
    if left >= 0:
        symbols[left], symbols[left + 1] = symbols[left + 1], symbols[left]


def _double(symbols: list[Any], place: int, _rng: np.random.Generator, _alphabet: Sequence[Any]) -> None:
    symbols.insert(place, symbols[place])


def _drop(symbols: list[Any], place: int, _rng: np.random.Generator, _alphabet: Sequence[Any]) -> None:
    if len(symbols) > 1:  # a text does not vanish
        del symbols[place]


def _edited(
    edits: Sequence[Edit], texts: Any, severity: int, rng: np.random.Generator, alphabet: Sequence[Any] | None
) -> Any:
    """Texts with a share of their letters edited, at places and in ways that chance draws."""
    share = _level(severity, EDITED)
    table = isinstance(texts, np.ndarray) and texts.dtype.kind in "iu"
    if table and texts.ndim != 2:
        raise ValueError(f"letter numbers are [n, width], not {texts.shape}")
    letters = alphabet if alphabet is not None else range(1, 27) if table else LETTERS
    if len(set(letters)) < 2:
        raise ValueError("an alphabet has two letters or more")
    made = []
    for text in texts:
        symbols = text[text != 0].tolist() if table else list(str(text))
        for _ in range(math.floor(len(symbols) * share + rng.random())):
            edits[int(rng.integers(len(edits)))](symbols, int(rng.integers(len(symbols))), rng, letters)
        made.append(symbols)
    if not table:
        return ["".join(symbols) for symbols in made]
    rows = np.zeros_like(texts)
    for row, symbols in zip(rows, made, strict=True):
        kept = symbols[: len(row)]  # what grows beyond the width loses its end
        row[: len(kept)] = kept
    return rows


def wrong_letters(texts: Any, severity: int, rng: np.random.Generator, alphabet: Sequence[Any] | None = None) -> Any:
    """Some letters become others of the alphabet: a to z, or the numbers 1 to 26, where none is given."""
    return _edited([_wrong], texts, severity, rng, alphabet)


def swapped_letters(texts: Any, severity: int, rng: np.random.Generator) -> Any:
    """Some letters change places with their neighbour."""
    return _edited([_swap], texts, severity, rng, None)


def doubled_letters(texts: Any, severity: int, rng: np.random.Generator) -> Any:
    """Some letters are typed twice. A row of letter numbers that is full loses its last."""
    return _edited([_double], texts, severity, rng, None)


def dropped_letters(texts: Any, severity: int, rng: np.random.Generator) -> Any:
    """Some letters are left out, though never the last one that there is."""
    return _edited([_drop], texts, severity, rng, None)


def typing_errors(texts: Any, severity: int, rng: np.random.Generator, alphabet: Sequence[Any] | None = None) -> Any:
    """Letters wrong, swapped, doubled and dropped, mixed by chance."""
    return _edited([_wrong, _swap, _double, _drop], texts, severity, rng, alphabet)


def stripped_diacritics(texts: Sequence[str], severity: int, rng: np.random.Generator) -> list[str]:
    """A fifth of the letters with diacritics, for each severity one more, lose them: all of them at severity 5.

    Of strings only. Letters that Unicode does not decompose, such as ø and ł, stay as they are.
    """
    share = _level(severity, (0.2, 0.4, 0.6, 0.8, 1.0))
    return ["".join(_bare(letter) if rng.random() < share else letter for letter in str(text)) for text in texts]


def _bare(letter: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFD", letter) if not unicodedata.combining(part)) or letter


TEXT_CORRUPTIONS: Final[Mapping[str, Corruption]] = {
    "wrong_letters": wrong_letters, "swapped_letters": swapped_letters, "doubled_letters": doubled_letters,
    "dropped_letters": dropped_letters, "typing_errors": typing_errors, "stripped_diacritics": stripped_diacritics,
}  # fmt: skip
