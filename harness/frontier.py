"""The right edge of a growing log, and the files that a group of entries adds to it. Nothing here touches a disk.

The edge is held twice over: as the bytes of the files that are not full yet, from which the next ones are written,
and as the complete subtrees above all leaves (a compact range), from which the next root is signed. So a file that
holds other hashes than were counted, for whatever reason, does not lead to the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from harness.merkle import HASH, WIDTH, edge_peaks, grow, leaf_hash, peaks_root, subtree_hash, tile_path

__all__ = ["Frontier", "partials"]


@dataclass(frozen=True)
class Frontier:
    """A log of `size` entries, as far as the next append needs it."""

    size: int = 0
    bundle: bytes = b""
    """The entries after the last full bundle, as they lie on disk."""
    edge: tuple[bytes, ...] = ()
    """The partial tiles by level, b"" where a level ends with a full one."""
    peaks: tuple[bytes, ...] = ()
    """The complete subtrees, from the left."""

    @classmethod
    def of(cls, size: int, edge: Sequence[bytes], last: Sequence[bytes]) -> Self:
        """Begin at a log of `size` entries with this edge, `last` being the entries of its partial bundle."""
        return cls(size, b"".join(map(_framed, last)), tuple(edge), tuple(edge_peaks(edge)))

    @property
    def root(self) -> bytes:
        """The RFC 6962 root, 32 bytes."""
        return peaks_root(self.peaks)

    def with_entries(self, entries: Sequence[bytes]) -> tuple[Self, list[tuple[str, bytes]]]:
        """Return the edge after these entries, and what its log has that this one's has not: (name, bytes)."""
        size, peaks = self.size, list(self.peaks)
        bundle, edge = bytearray(self.bundle), [bytearray(tile) for tile in self.edge]
        bundles, tiles = list[tuple[str, bytes]](), list[tuple[str, bytes]]()
        for entry in entries:
            bundle += _framed(entry)
            leaf = leaf_hash(entry)
            _add_leaf(edge, size, leaf, tiles)
            grow(peaks, size, leaf)
            size += 1
            if size % WIDTH == 0:
                bundles.append((tile_path(None, size // WIDTH - 1), bytes(bundle)))
                bundle = bytearray()
        grown = type(self)(size, bytes(bundle), tuple(map(bytes, edge)), tuple(peaks))
        if bundle:
            bundles.append((tile_path(None, size // WIDTH, size % WIDTH), grown.bundle))
        there = set(partials(self.size))
        for level, tile in enumerate(grown.edge):
            name = tile_path(level, size >> 8 * level + 8, len(tile) // HASH)
            if tile and name not in there:  # the bytes do not tell: a later tile may hold the same hashes
                tiles.append((name, tile))
        return grown, bundles + tiles


def partials(size: int) -> list[str]:
    """Name the partial files that a log of `size` entries has: at most one bundle, and one tile for each level."""
    names, level, count = list[str](), 0, size
    if size % WIDTH:
        names.append(tile_path(None, size // WIDTH, size % WIDTH))
    while count:
        index, width = divmod(count, WIDTH)
        if width:
            names.append(tile_path(level, index, width))
        level, count = level + 1, index
    return names


def _add_leaf(edge: list[bytearray], size: int, node: bytes, full: list[tuple[str, bytes]]) -> None:
    """Put leaf number `size` on the right edge; tiles that become full move to `full`, their hash a level up."""
    for level in range(64):
        if level == len(edge):
            edge.append(bytearray())
        edge[level] += node
        if len(edge[level]) < WIDTH * HASH:
            return
        tile = bytes(edge[level])
        full.append((tile_path(level, size >> 8 * level + 8), tile))
        node, edge[level] = subtree_hash(tile), bytearray()


def _framed(entry: bytes) -> bytes:
    return len(entry).to_bytes(2, "big") + entry
