"""RFC 6962 Merkle trees: hashes, proofs and their verification, and the tiles a log is stored in.

Hashes are 32-byte SHA-256 values. A *node* is the hash of a complete subtree: node (level, index)
covers the leaves [index·2^level, (index+1)·2^level). A *tile* (C2SP tlog-tiles) is up to 256
nodes of one level 8·L, side by side; the last one of a level is partial until it is full. The partial
tiles together determine the root, and a full tile is one hash in the tile above it: so a few hundred
hashes authenticate any part of a log of any size.

Functions are pure. `TileTree` fetches through a callable that it is given and believes nothing fetched.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

from harness.errors import AuditError

__all__ = [
    "EMPTY_ROOT",
    "HASH",
    "WIDTH",
    "Nodes",
    "TileTree",
    "consistency_proof",
    "edge_peaks",
    "grow",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "peaks_root",
    "span_hash",
    "subtree_hash",
    "tile_path",
    "tree_hash",
    "verify_consistency",
    "verify_inclusion",
]

HASH = 32
"""Bytes of a hash."""

WIDTH = 256
"""Hashes in a full tile."""

EMPTY_ROOT = hashlib.sha256().digest()
"""The root of no leaves (RFC 6962 §2.1)."""

Nodes = Callable[[int, int], bytes]
"""(level, index) → the hash of that complete subtree."""

_CACHED_TILES = 64


def leaf_hash(entry: bytes) -> bytes:
    """Hash an entry into a leaf: SHA-256(0x00 || entry) (RFC 6962 §2.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into one: SHA-256(0x01 || left || right) (RFC 6962 §2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes: the definition of RFC 6962 §2.1, for trees that fit in memory."""
    peaks: list[bytes] = []
    for size, leaf in enumerate(leaves):
        grow(peaks, size, leaf)
    return peaks_root(peaks)


def grow(peaks: list[bytes], size: int, leaf: bytes) -> None:
    """Add leaf number `size` to the complete subtrees, from the left, of a tree of `size` leaves, in place."""
    while size & 1:
        leaf, size = node_hash(peaks.pop(), leaf), size >> 1
    peaks.append(leaf)


def span_hash(start: int, stop: int, nodes: Nodes) -> bytes:
    """Return MTH(D[start:stop]) from nodes, where `start` is where RFC 6962's splits put it."""
    parts: list[bytes] = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        parts.append(nodes(level, start >> level))
        start += 1 << level
    return peaks_root(parts)


def inclusion_proof(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """Return PATH(index, D[size]), from the leaf up (RFC 6962 §2.1.1); raises AuditError outside the tree."""
    if not 0 <= index < size:
        raise AuditError(f"no entry {index} in a tree of {size}")
    start, stop, proof = 0, size, list[bytes]()
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            proof.append(span_hash(middle, stop, nodes))
            stop = middle
        else:
            proof.append(span_hash(start, middle, nodes))
            start = middle
    return proof[::-1]


def consistency_proof(old: int, size: int, nodes: Nodes) -> list[bytes]:
    """Return PROOF(old, D[size]) (RFC 6962 §2.1.2), empty for `old` 0 or `size`; raises AuditError beyond."""
    if not 0 <= old <= size:
        raise AuditError(f"no tree of {old} within a tree of {size}")
    if old == 0:
        return []
    start, stop, whole, proof = 0, size, True, list[bytes]()
    while old < stop:
        middle = start + _split(stop - start)
        if old <= middle:
            proof.append(span_hash(middle, stop, nodes))
            stop = middle
        else:
            proof.append(span_hash(start, middle, nodes))
            start, whole = middle, False
    if not whole:
        proof.append(span_hash(start, stop, nodes))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Return when `proof` shows leaf hash `leaf` at `index` (RFC 9162 §2.1.3.2); raises AuditError otherwise."""
    if not 0 <= index < size:
        raise AuditError(f"no entry {index} in a tree of {size}")
    _check_hashes([leaf, *proof, root])
    node, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise AuditError("the inclusion proof is too long")
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise AuditError("the inclusion proof is too short")
    if result != root:
        raise AuditError("the inclusion proof leads to another root")


def verify_consistency(old: int, size: int, proof: Sequence[bytes], old_root: bytes, root: bytes) -> None:
    """Return when the tree of `old` leaves is a prefix of that of `size` (RFC 9162 §2.1.4.2), else AuditError."""
    if not 0 <= old <= size:
        raise AuditError(f"no tree of {old} within a tree of {size}")
    _check_hashes([*proof, old_root, root])
    if old in (0, size):
        if proof:
            raise AuditError("the consistency proof is too long")
        if old_root != (root if old == size else EMPTY_ROOT):
            raise AuditError("the two roots differ")
        return
    rest = list(proof)
    if old & (old - 1) == 0:  # the old tree is one complete subtree, so its root starts the proof
        rest.insert(0, old_root)
    if not rest:
        raise AuditError("the consistency proof is too short")
    node, last = old - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    from_old = from_new = rest[0]
    for sibling in rest[1:]:
        if last == 0:
            raise AuditError("the consistency proof is too long")
        if node & 1 or node == last:
            from_old, from_new = node_hash(sibling, from_old), node_hash(sibling, from_new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            from_new = node_hash(from_new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise AuditError("the consistency proof is too short")
    if from_old != old_root or from_new != root:
        raise AuditError("the consistency proof leads to other roots: history was rewritten")


def subtree_hash(hashes: bytes) -> bytes:
    """Return the root over 1, 2, 4, … concatenated nodes of one level."""
    sha256 = hashlib.sha256  # `node_hash` spelt out: every tile that is read goes through here
    while len(hashes) > HASH:
        pairs = range(0, len(hashes), 2 * HASH)
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 2 * HASH]).digest() for at in pairs])
    return hashes


def edge_peaks(edge: Sequence[bytes]) -> list[bytes]:
    """Return the complete subtrees, from the left, of the tree whose partial tile at level L is `edge[L]`.

    It is empty where the level ends with a full one.
    """
    peaks: list[bytes] = []
    for tile in edge:
        width = stop = len(tile) // HASH
        for height in range(8):
            if width >> height & 1:
                start = stop - (1 << height)
                peaks.append(subtree_hash(tile[start * HASH : stop * HASH]))
                stop = start
    return peaks[::-1]


def tile_path(level: int | None, index: int, width: int = WIDTH) -> str:
    """Return where a tile lies (tlog-tiles §Parameters); level None is an entry bundle.

    `tile_path(0, 1234067, 8)` is `tile/0/x001/x234/067.p/8`.
    """
    groups = [f"{index % 1000:03}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03}")
    name = f"tile/{'entries' if level is None else level}/{'/'.join(groups)}"
    return name if width == WIDTH else f"{name}.p/{width}"


class TileTree:
    """A tree read from tiles that need not be trusted: every tile handed out leads to the given root."""

    def __init__(self, size: int, root: bytes, fetch: Callable[[int, int, int], bytes]) -> None:
        """Fetch the right edge (at most one tile for each level) and check the root over it.

        `fetch(level, index, width)` returns the tile's bytes. Raises AuditError, and what `fetch` raises.
        """
        self.size = size
        self.root = root
        self._fetch = fetch
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._edge: list[bytes] = []
        count = size
        while count:
            index, width = divmod(count, WIDTH)
            self._edge.append(self._sized(len(self._edge), index, width) if width else b"")
            count = index
        if peaks_root(edge_peaks(self._edge)) != root:
            raise AuditError(f"the right edge of the tree of {size} does not lead to the signed root", where="tile")

    @property
    def edge(self) -> list[bytes]:
        """The partial tiles by level, b"" where a level ends with a full one."""
        return list(self._edge)

    def tile(self, level: int, index: int) -> bytes:
        """Return the hashes of one tile, checked; raises AuditError."""
        last, width = divmod(self.size >> 8 * level, WIDTH)
        if index == last and width:
            return self._edge[level]
        if not 0 <= index < last:
            raise AuditError(f"no tile {index} at level {level} in a tree of {self.size}")
        if (level, index) in self._cache:
            self._cache.move_to_end((level, index))
            return self._cache[level, index]
        tile = self._sized(level, index, WIDTH)
        at = index % WIDTH * HASH
        if subtree_hash(tile) != self.tile(level + 1, index // WIDTH)[at : at + HASH]:
            raise AuditError("the tile is not the one that the tree head covers", where=tile_path(level, index))
        self._cache[level, index] = tile
        if len(self._cache) > _CACHED_TILES:
            self._cache.popitem(last=False)
        return tile

    def node(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree; raises AuditError."""
        tile_level, height = divmod(level, 8)
        start = index << height
        at = start % WIDTH * HASH
        part = self.tile(tile_level, start // WIDTH)[at : at + (HASH << height)]
        if len(part) != HASH << height:
            raise AuditError(f"no complete subtree {index} at level {level} in a tree of {self.size}")
        return subtree_hash(part)

    def root_at(self, size: int) -> bytes:
        """Return the root that the log had at an earlier size; raises AuditError."""
        if not 0 <= size <= self.size:
            raise AuditError(f"no tree of {size} within a tree of {self.size}")
        return span_hash(0, size, self.node)

    def _sized(self, level: int, index: int, width: int) -> bytes:
        tile = self._fetch(level, index, width)
        if len(tile) != width * HASH:
            raise AuditError(
                f"a tile of {width} hashes has {width * HASH} bytes, not {len(tile)}",
                where=tile_path(level, index, width),
            )
        return tile


def peaks_root(peaks: Sequence[bytes]) -> bytes:
    """Return the root above complete subtrees, given from the left."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def _split(size: int) -> int:
    """Return the largest power of two below `size` (RFC 6962 §2.1)."""
    return 1 << (size - 1).bit_length() - 1


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for value in hashes:
        if len(value) != HASH:
            raise AuditError(f"a hash of {len(value)} bytes in a proof")
