"""Facts about RFC 6962 trees, proofs and tiles."""

from __future__ import annotations

import functools
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import AuditError
from harness.merkle import (
    EMPTY_ROOT,
    TileTree,
    consistency_proof,
    edge_peaks,
    inclusion_proof,
    leaf_hash,
    node_hash,
    peaks_root,
    span_hash,
    subtree_hash,
    tile_path,
    tree_hash,
    verify_consistency,
    verify_inclusion,
)

# The eight leaves of certificate-transparency's own tests, with their roots and proofs.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
LEAVES = [leaf_hash(bytes.fromhex(text)) for text in INPUTS]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = [(0, 8, [A, B, C]), (5, 8, [D, E, ROOTS[4]]), (2, 3, [ROOTS[2]]), (1, 5, [ROOTS[1], B, D])]
CONSISTENCY = [(1, 1, []), (1, 8, [A, B, C]), (6, 8, [F, E, ROOTS[4]]), (2, 5, [B, D])]

MANY = [leaf_hash(b"%d" % number) for number in range(300)]


def plain_root(leaves):
    """MTH as RFC 6962 §2.1 writes it, by recursion: the reference for everything below."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + plain_root(leaves[:split]) + plain_root(leaves[split:])).digest()


@functools.cache
def many_root(size):
    """Compute the root of a front of MANY, by definition."""
    return plain_root(MANY[:size])


def nodes_of(leaves):
    """Give the complete subtrees over leaves."""
    return lambda level, index: tree_hash(leaves[index << level : (index + 1) << level])


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size):
    """Trees of 0 to 8 of the published leaves have the published roots."""
    assert tree_hash(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_published_inclusion_proofs(index, size, proof):
    """The published inclusion proofs are what is made, and what verifies."""
    assert [node.hex() for node in inclusion_proof(index, size, nodes_of(LEAVES))] == proof
    verify_inclusion(LEAVES[index], index, size, [bytes.fromhex(node) for node in proof], bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "size", "proof"), CONSISTENCY)
def test_published_consistency_proofs(old, size, proof):
    """The published consistency proofs are what is made, and what verifies."""
    assert [node.hex() for node in consistency_proof(old, size, nodes_of(LEAVES))] == proof
    hashes = [bytes.fromhex(node) for node in proof]
    verify_consistency(old, size, hashes, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[size]))


@given(st.integers(0, 300))
def test_the_root_is_the_definition(size):
    """The streaming root is RFC 6962's recursive one."""
    assert tree_hash(MANY[:size]) == many_root(size)
    assert span_hash(0, size, nodes_of(MANY)) == many_root(size)


@given(st.data())
def test_inclusion_proofs_verify_and_nothing_else_does(data):
    """A proof verifies for its leaf, index, size and root, and for no other, nor longer, shorter or changed."""
    size = data.draw(st.integers(1, 300))
    index = data.draw(st.integers(0, size - 1))
    proof, root = inclusion_proof(index, size, nodes_of(MANY)), many_root(size)
    verify_inclusion(MANY[index], index, size, proof, root)
    other = data.draw(st.integers(0, 299).filter(lambda value: value != index))
    wrong = [
        (MANY[other], index, size, proof, root),
        (MANY[index], other, size, proof, root),
        (MANY[index], index, size, [*proof, EMPTY_ROOT], root),
        (MANY[index], index, size, [EMPTY_ROOT, *proof], root),
        (MANY[index], index, size, proof, EMPTY_ROOT),
        (MANY[index], -1, size, proof, root),
        (MANY[index][:-1], index, size, proof, root),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong.append((MANY[index], index, size, proof[:at] + proof[at + 1 :], root))
        wrong.append((MANY[index], index, size, [*proof[:at], EMPTY_ROOT, *proof[at + 1 :]], root))
        wrong.append((MANY[index], index, size, [*proof[:at], proof[at] + b"x", *proof[at + 1 :]], root))
    for arguments in wrong:
        with pytest.raises(AuditError):
            verify_inclusion(*arguments)


@given(st.data())
def test_consistency_proofs_verify_and_nothing_else_does(data):
    """A proof verifies for its two sizes and roots only, unchanged."""
    size = data.draw(st.integers(0, 300))
    old = data.draw(st.integers(0, size))
    proof = consistency_proof(old, size, nodes_of(MANY))
    verify_consistency(old, size, proof, many_root(old), many_root(size))
    wrong = [
        (old, size, [*proof, EMPTY_ROOT], many_root(old), many_root(size)),
        (old, size, proof, leaf_hash(b"x"), many_root(size)),
        (size + 1, size, proof, many_root(old), many_root(size)),
        (-1, size, proof, many_root(old), many_root(size)),
        (old, size, proof, many_root(old)[:31], many_root(size)),
    ]
    if old:
        wrong.append((old, size, proof, many_root(old), leaf_hash(b"x")))
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong.append((old, size, proof[:at] + proof[at + 1 :], many_root(old), many_root(size)))
        changed = [*proof[:at], node_hash(proof[at], b""), *proof[at + 1 :]]
        wrong.append((old, size, changed, many_root(old), many_root(size)))
    for arguments in wrong:
        with pytest.raises(AuditError):
            verify_consistency(*arguments)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 3)])
def test_no_proof_outside_the_tree(index, size):
    """An entry or an old size that the tree does not have is an AuditError."""
    with pytest.raises(AuditError):
        inclusion_proof(index, size, nodes_of(MANY))
    with pytest.raises(AuditError):
        consistency_proof(size + 1, size, nodes_of(MANY))


def test_leaf_and_node_are_apart():
    """An entry that looks like two hashes does not hash like a node (second preimages)."""
    left, right = MANY[:2]
    assert leaf_hash(left + right) != node_hash(left, right)
    assert leaf_hash(b"\x01" + left + right) != node_hash(left, right)


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 1234067, 8, "tile/0/x001/x234/067.p/8"),
        (2, 255, 1, "tile/2/255.p/1"),
        (None, 1234067, 256, "tile/entries/x001/x234/067"),
        (None, 67, 3, "tile/entries/067.p/3"),
        (5, 1000, 256, "tile/5/x001/000"),
    ],
)
def test_tile_paths(level, index, width, path):
    """Tiles lie where tlog-tiles puts them."""
    assert tile_path(level, index, width) == path


def tiles_of(leaves):
    """All tiles of a tree by (level, index, width), made the plain way."""
    tiles, row, level = {}, list(leaves), 0
    while row:
        for start in range(0, len(row), 256):
            part = row[start : start + 256]
            tiles[level, start // 256, len(part)] = b"".join(part)
        row = [tree_hash(row[at : at + 256]) for at in range(0, len(row) - 255, 256)]
        level += 1
    return tiles


BIG = [leaf_hash(b"big %d" % number) for number in range(256 * 258 + 5)]
BIG_ROOT = tree_hash(BIG)
BIG_TILES = tiles_of(BIG)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 65535, 65536, 65537, len(BIG)])
def test_tiles_give_the_root(size):
    """At the borders of tiles and levels, the right edge gives the root of the tree."""
    tiles = tiles_of(BIG[:size])
    tree = TileTree(size, tree_hash(BIG[:size]), lambda *key: tiles[key])
    assert tree.root_at(size) == tree_hash(BIG[:size]) == peaks_root(edge_peaks(tree.edge))


@settings(max_examples=20)
@given(st.data())
def test_a_tile_tree_proves_what_the_leaves_prove(data):
    """Nodes, earlier roots and proofs out of tiles are those over all the leaves."""
    tree = TileTree(len(BIG), BIG_ROOT, lambda *key: BIG_TILES[key])
    index = data.draw(st.integers(0, len(BIG) - 1))
    verify_inclusion(BIG[index], index, len(BIG), inclusion_proof(index, len(BIG), tree.node), BIG_ROOT)
    old = data.draw(st.integers(0, len(BIG)))
    assert tree.root_at(old) == tree_hash(BIG[:old])
    verify_consistency(old, len(BIG), consistency_proof(old, len(BIG), tree.node), tree_hash(BIG[:old]), BIG_ROOT)


@given(st.sampled_from(sorted(BIG_TILES)), st.data())
def test_a_changed_tile_is_never_handed_out(key, data):
    """A tile with a changed byte, cut or lengthened, is an AuditError when it is asked for."""
    level, index, _ = key
    tile = BIG_TILES[key]
    at = data.draw(st.integers(0, len(tile) - 1))
    changed = data.draw(st.sampled_from([tile[:at] + bytes([tile[at] ^ 4]) + tile[at + 1 :], tile[:at], tile + b"x"]))
    with pytest.raises(AuditError):
        TileTree(len(BIG), BIG_ROOT, lambda *k: changed if k == key else BIG_TILES[k]).tile(level, index)


def test_nothing_beyond_the_edge():
    """Tiles and nodes that are not in the tree are AuditErrors."""
    tree = TileTree(300, many_root(300), lambda *key: tiles_of(MANY)[key])
    for level, index in [(0, 2), (0, -1), (1, 1), (2, 0)]:
        with pytest.raises(AuditError):
            tree.tile(level, index)
    for level, index in [(8, 1), (3, 37), (0, 300), (9, 0)]:
        with pytest.raises(AuditError):
            tree.node(level, index)
    for size in (-1, 301):
        with pytest.raises(AuditError):
            tree.root_at(size)
    assert tree.node(0, 299) == MANY[299]
    assert tree.node(8, 0) == subtree_hash(b"".join(MANY[:256]))
