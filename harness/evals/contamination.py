"""Held-out texts that were seen in training: the same once written alike, or nearly the same.

Two texts are **the same** where they agree after NFKC, case folding, what nobody sees (zero-width characters, soft
hyphens, variation selectors, controls) left out, and runs of white space made one. They are **near
duplicates** where both have at least `shortest` characters by then, and their sets of `shingle` neighbouring characters
have a Jaccard similarity of at least `threshold`. A shorter text has so few shingles that one letter decides, and is
told by the first rule alone. What has no text (arrays, numbers) is compared by content only, in `data`.

Which pairs to compare is found by MinHash (Broder 1997) in bands (Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3), by the library rensa. Each pair is then compared by its shingles themselves, so that no hash ever
refuses what is not alike; a pair right at the threshold is missed with probability at most 1e-4 (`missed`), and one
that is more alike with far less.

It does not cover a translation, a paraphrase or a question that is told in other words: those share few shingles; nor
letters of another script that look alike.
"""

from __future__ import annotations

import functools
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.errors import SubjectError

MISSED = 1e-4
"""The probability at most with which a pair right at the threshold is not compared."""
HASHES = 128
"""MinHash values of a text, at most: as many bands of equal length as fit into them are used."""
SEED = 1
_CHUNK = 1 << 20
"""Characters that are hashed at once: some 30 MB."""
MOST_COMPARED = 2_000_000
"""Pairs that are compared in full, one after another: about two minutes of them."""
TOLD = 3
"""So many pairs are named in an error."""


@dataclass(frozen=True)
class NearDuplicates:
    """When two texts are nearly the same: what a subject may declare, `Data(…, near_duplicates=NearDuplicates(…))`.

    threshold   of the Jaccard similarity of their shingles, from .5 to 1. n characters that are changed one by one, far
                from each other, leave about (1 - sn/N) / (1 + sn/N) of N shingles of s characters
    shingle     characters of a shingle
    shortest    characters below which a text is told by sameness alone: at the defaults, one changed letter of 50 is
                found wherever it stands, where no shingle repeats
    text        gives an item's text, or None where it has none. Without it, a string is its own text, and a list or
                dict of nothing but strings is theirs, in order. Declare it where items have other parts or a template
                of their own, which is no part of what is asked
    """

    threshold: float = 0.8
    shingle: int = 5
    shortest: int = 50
    text: Callable[[Any], str | None] | None = None

    def __post_init__(self) -> None:
        """Raise SubjectError for numbers that say nothing."""
        where = "guards.py: NearDuplicates"
        if not 0.5 <= self.threshold <= 1.0:
            raise SubjectError(f"threshold {self.threshold!r} is not from .5 to 1", where=where)
        whole = all(type(size) is int for size in (self.shingle, self.shortest))
        if not whole or not 1 <= self.shingle <= self.shortest:
            raise SubjectError(
                f"shingles of {self.shingle} characters in texts of {self.shortest} or more are none", where=where
            )

    @property
    def bands(self) -> tuple[int, int]:
        """How many bands, of how many hashes each: the longest that miss few enough."""
        return next((HASHES // r, r) for r in range(HASHES, 0, -1) if _missed(self.threshold, r) <= MISSED)

    @property
    def missed(self) -> float:
        """The probability that a pair right at the threshold is not compared: (1 - threshold^r)^b."""
        return _missed(self.threshold, self.bands[1])


def _missed(similarity: float, r: int) -> float:
    return float((1.0 - similarity**r) ** (HASHES // r))


class Alike(NamedTuple):
    """A held-out item that was seen: its place, the first place where it was seen, and how alike the two are."""

    held_out: int
    seen: int
    similarity: float


def alike(seen: Any, held_out: Any, rule: NearDuplicates | None = None) -> list[Alike]:
    """The held-out items whose text stands among those seen, or nearly: for `load()`, to drop them.

    Both are lists or arrays of raw items. Each held-out item is named once, in order.
    """
    rule = rule or NearDuplicates()
    return list(Texts(seen, rule).seen_by(Texts(held_out, rule)))


def refuse_alike(parts: Mapping[str, Any], rule: NearDuplicates) -> None:
    """SubjectError where a text of one part stands in a later one, or nearly; parts by name, what is seen first."""
    texts: list[tuple[str, Texts]] = []
    for name, raw in parts.items():
        held_out = Texts(raw, rule)
        for seen_name, seen in texts:
            _refuse(list(seen.seen_by(held_out)), seen_name, name, len(raw))
        texts.append((name, held_out))


def _refuse(found: Sequence[Alike], seen: str, held_out: str, total: int) -> None:
    if not found:
        return
    pairs = ", ".join(f"{seen} {a.seen} and {held_out} {a.held_out} ({a.similarity:.2f})" for a in found[:TOLD])
    raise SubjectError(
        f"{len(found)} of {total} {held_out} items have a text that is, nearly or once written alike, that of a {seen} "
        f"item. By place: {pairs}{', …' if len(found) > TOLD else ''}",
        where="guards.py: load()",
        remedy="drop them: harness.evals.alike(seen, held_out) gives their places. Where such texts are different "
        "questions: Data(…, near_duplicates=NearDuplicates(threshold=…, text=…)), or None to compare exactly alone",
    )


def written_alike(text: str) -> str:
    """A text after NFKC and case folding, without what nobody sees, and runs of white space made one."""
    folded = unicodedata.normalize("NFKC", text.translate(_unseen())).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())  # folding may leave what is not in its normal form


@functools.cache
def _unseen() -> dict[int, None]:
    """The characters that leave no mark: formats, controls that are no space, and Unicode's other ignorable ones."""
    kinds = {"Cf", "Cc"}
    marks = (each for each in range(0xE0200) if unicodedata.category(chr(each)) in kinds and not chr(each).isspace())
    others = (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, 0xFFA0)
    selectors = (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
    return dict.fromkeys((*marks, *others, *selectors))


def text_of(item: Any) -> str | None:
    """The text of a raw item: a string, or the strings of a list or dict that holds nothing else; else None."""
    if isinstance(item, str):
        return str(item)
    if isinstance(item, Mapping):
        item = [item[key] for key in sorted(item)]
    if not isinstance(item, (list, tuple)):
        return None
    parts: list[str] = []
    for each in item:
        part = text_of(each)
        if part is None:
            return None
        parts.append(part)
    return "\n".join(parts)


class Texts:
    """The texts of one part, written alike, with their places; MinHash bands are made where they are first needed."""

    def __init__(self, raw: Any, rule: NearDuplicates) -> None:
        """Read the texts; SubjectError where the subject's own `text` fails."""
        self._rule = rule
        self._shingles = functools.lru_cache(maxsize=2048)(self._cut)
        self._texts: list[str | None] = [self._read(item) for item in raw] if _may_hold_text(raw) else []
        self._first: dict[str, int] = {}
        for place, text in enumerate(self._texts):
            if text:
                self._first.setdefault(text, place)

    def _read(self, item: Any) -> str | None:
        if self._rule.text is None:
            text = text_of(item)
        else:
            try:
                text = self._rule.text(item)
            except Exception as error:
                raise SubjectError(
                    f"text() of near_duplicates raised {type(error).__name__}: {error}", where="guards.py: load()"
                ) from error
            if text is not None and not isinstance(text, str):
                raise SubjectError(
                    f"text() of near_duplicates gave {type(text).__name__}, no str", where="guards.py: load()"
                )
        return None if text is None else written_alike(text)

    def seen_by(self, held_out: Texts) -> Iterator[Alike]:
        """Each text of `held_out` that stands here, or nearly, in order; SubjectError where that takes too long."""
        same = {place: self._first[text] for place, text in enumerate(held_out._texts) if text and text in self._first}
        near = self._near(held_out, same)
        for place in sorted(same.keys() | near.keys()):
            yield near[place] if place in near else Alike(place, same[place], 1.0)

    def _near(self, held_out: Texts, same: Mapping[int, int]) -> dict[int, Alike]:
        """Near duplicates among what is not the same anyway."""
        found: dict[int, Alike] = {}
        (places, keys), (others, other_keys) = self._bands, held_out._bands
        if not len(places) or not len(others):
            return found
        order = np.argsort(keys, axis=1, kind="stable")
        sorted_ = np.take_along_axis(keys, order, axis=1)
        starts, stops = (
            np.stack([np.searchsorted(*pair, side=side) for pair in zip(sorted_, other_keys, strict=True)])
            for side in ("left", "right")
        )  # [bands, held out] each: where in the order those lie that have the same key
        compared = 0
        for row in np.flatnonzero((stops > starts).any(axis=0)):
            place = int(others[row])
            if place in same:
                continue
            bands = np.flatnonzero(stops[:, row] > starts[:, row])
            rows = np.unique(np.concatenate([order[b, starts[b, row] : stops[b, row]] for b in bands]))
            for candidate in places[rows].tolist():
                compared += 1
                if compared > MOST_COMPARED:
                    raise SubjectError(
                        f"more than {MOST_COMPARED:,} pairs of texts are alike enough to be compared one by one",
                        where="guards.py: load()",
                        remedy="texts from one template: declare near_duplicates=NearDuplicates(text=…) without it, or "
                        "a higher threshold",
                    )
                similarity = self._similarity(candidate, held_out._shingles(place))
                if similarity >= self._rule.threshold:
                    found[place] = Alike(place, candidate, similarity)
                    break
        return found

    def _similarity(self, place: int, other: frozenset[str]) -> float:
        own = self._shingles(place)
        common = len(own & other)
        return common / (len(own) + len(other) - common)

    def _cut(self, place: int) -> frozenset[str]:
        text, size = self._texts[place] or "", self._rule.shingle
        return frozenset(text[start : start + size] for start in range(len(text) - size + 1))

    @functools.cached_property
    def _bands(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        """The places [n] of the texts that are long enough, the first of each kind, and their keys by band [b, n]."""
        long = [place for text, place in self._first.items() if len(text) >= self._rule.shortest]
        keys = [_band_keys(chunk, self._rule) for chunk in _chunks([self._texts[place] or "" for place in long])]
        none = np.zeros((self._rule.bands[0], 0), np.uint64)
        return np.array(long, np.int64), np.concatenate([none, *keys], axis=1)


def _may_hold_text(raw: Any) -> bool:
    """Whether to look at the items at all: an array of numbers holds none, and may have millions."""
    return not isinstance(raw, np.ndarray) or raw.dtype.kind not in "biufc"


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _band_keys(texts: Sequence[str], rule: NearDuplicates) -> npt.NDArray[np.uint64]:
    """The keys of the bands of texts of at least a shingle: [b, n] uint64, equal where all hashes of a band are."""
    import rensa  # late: most subjects have no texts

    bands, length = rule.bands
    hashes, offsets = _shingle_hashes(texts, rule.shingle)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, bands * length, SEED)
    rows = b"".join(array("I", row).tobytes() for row in matrix.to_rows())  # twice as fast as numpy makes one of lists
    values = np.frombuffer(rows, dtype=np.uintc).astype(np.uint64).reshape(len(texts), bands, length).transpose(2, 1, 0)
    keys = np.zeros((bands, len(texts)), np.uint64)
    for part in values:
        keys = _mixed(keys * _ODD + part)
    return keys


_ODD = np.uint64(0x9E3779B97F4A7C15)


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread every bit over the word (the finaliser of SplitMix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _shingle_hashes(texts: Sequence[str], size: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """A hash of each shingle of each text, one after another, and where each text begins, and the last ends."""
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    points = np.frombuffer(joined, dtype=np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in texts])
    whole = len(points) - size + 1
    hashes = np.zeros(whole, np.uint64)
    for shift in range(size):
        hashes = hashes * _ODD + points[shift : shift + whole]
    inside = np.ones(len(points), dtype=np.bool_)
    for back in range(1, size):
        inside[np.cumsum(lengths) - back] = False  # these would run on into the next text
    offsets = np.concatenate([[0], np.cumsum(lengths - size + 1)]).astype(np.uint64)
    return _mixed(hashes[inside[:whole]]), offsets
