"""Facts about the right edge of a log that grows: any grouping of the same entries comes to the same files and root."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from harness.frontier import Frontier, partials
from harness.merkle import HASH, leaf_hash, tile_path, tree_hash


def written(frontier, groups):
    """Grow by each group; return the edge after them, and every file by its name."""
    files = {}
    for group in groups:
        frontier, added = frontier.with_entries(group)
        assert len({name for name, _ in added}) == len(added)
        files.update(added)
    return frontier, files


@given(st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_any_grouping_comes_to_the_same_edge(sizes):
    """However entries are grouped, edge, root and files are those of one group, save partial files between."""
    entries = [b"%d" % number for number in range(sum(sizes))]
    groups = [entries[sum(sizes[:at]) : sum(sizes[: at + 1])] for at in range(len(sizes))]
    frontier, files = written(Frontier(), groups)
    at_once, needed = written(Frontier(), [entries])
    assert frontier == at_once
    assert frontier.root == tree_hash([leaf_hash(entry) for entry in entries])
    assert needed.items() <= files.items()
    assert set(partials(len(entries))) <= needed.keys()
    assert {name for name in needed if ".p/" in name} == set(partials(len(entries)))
    assert all(".p/" in name for name in files.keys() - needed.keys())


@given(st.integers(0, 600), st.integers(1, 20))
def test_an_edge_that_was_read_goes_on_as_one_that_grew(size, more):
    """An edge made of the tiles and entries of a log is the one that grew with them, and grows alike."""
    entries = [b"%d" % number for number in range(size + more)]
    grown, _ = Frontier().with_entries(entries[:size])
    read = Frontier.of(size, grown.edge, entries[size - size % 256 : size])
    assert read == grown
    assert read.with_entries(entries[size:]) == grown.with_entries(entries[size:])


def test_a_full_tile_is_a_hash_one_level_up():
    """256 entries leave an empty level 0, a full tile and bundle, and one hash at level 1."""
    frontier, files = written(Frontier(), [[b"x"] * 256])
    assert (frontier.bundle, frontier.edge[0], len(frontier.edge[1])) == (b"", b"", HASH)
    assert sorted(files) == sorted([tile_path(None, 0), tile_path(0, 0), tile_path(1, 0, 1)])
    assert frontier.root == frontier.edge[1]


def test_hashes_other_than_those_counted_do_not_change_the_root():
    """The root comes from the subtrees, not from the tiles' bytes: a bit that flips in those leads elsewhere."""
    frontier, _ = Frontier().with_entries([b"a", b"b", b"c"])
    flipped = bytes([frontier.edge[0][0] ^ 1]) + frontier.edge[0][1:]
    changed, files = dataclasses.replace(frontier, edge=(flipped,)).with_entries([b"d"])
    honest, _ = frontier.with_entries([b"d"])
    assert changed.root == honest.root
    assert dict(files)[tile_path(0, 0, 4)] != honest.edge[0]
