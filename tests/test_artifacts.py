"""Facts about blobs, and about tensor files that are checked before they are read."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.artifacts import DTYPES, MAX_HEADER, BlobStore, TensorSpec, open_regular, read_tensors, tensor_header
from harness.canonical import digest
from harness.errors import ArtifactError, DiskError

LIMIT = 1 << 20


def container(header, data=b""):
    """Make a tensor file of any header and data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def one(dtype, shape, data, **changes):
    """Make a tensor file with one tensor, and changes to what its header says of it."""
    member = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)], **changes}
    return container({"x": member}, data)


def test_blobs_come_back_by_their_digest(tmp_path):
    """What is put is got by its digest, lies where it should, read-only, and a second put changes nothing."""
    store = BlobStore(tmp_path / "blobs")
    name = store.put(b"hello")
    assert name == digest(b"hello") == store.put(b"hello")
    assert store.get(name) == b"hello"
    path = store.path(name)
    assert path == tmp_path / "blobs" / "sha256" / name[7:9] / name[7:]
    assert path.stat().st_mode & 0o777 == 0o444
    assert store.has(name)
    assert not store.has(digest(b"other"))
    assert store.check(name) == 5


def test_a_file_is_stored_like_its_bytes(tmp_path):
    """A file of several pieces gets the digest of its bytes."""
    data = os.urandom(3 << 20)
    (tmp_path / "x").write_bytes(data)
    store = BlobStore(tmp_path / "blobs", mode=0o400)
    name = store.put_file(tmp_path / "x")
    assert name == digest(data)
    assert store.get(name) == data
    assert store.path(name).stat().st_mode & 0o777 == 0o400
    with pytest.raises(ArtifactError, match="at most"):
        store.put_file(tmp_path / "x", max_bytes=(3 << 20) - 1)
    with pytest.raises(ArtifactError, match="at most"):
        store.get(name, max_bytes=5)


def test_a_damaged_blob_is_seen_and_mended(tmp_path):
    """Changed bytes are an ArtifactError when got, and putting the right ones again restores the blob."""
    store = BlobStore(tmp_path)
    name = store.put(b"hello")
    store.path(name).chmod(0o644)
    store.path(name).write_bytes(b"jello")
    for call in (store.get, store.check):
        with pytest.raises(ArtifactError, match="not those"):
            call(name)
    store.put(b"hello")
    assert store.get(name) == b"hello"
    with pytest.raises(ArtifactError):
        store.get(digest(b"never put"))


@pytest.mark.parametrize(
    "name", ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "0" * 63, "../../etc/passwd", "sha256:" + "0" * 64 + "\n"]
)
def test_names_that_are_no_digests(tmp_path, name):
    """A name that is not exactly a digest never becomes a path."""
    store = BlobStore(tmp_path)
    for call in (store.path, store.get, store.has, store.check):
        with pytest.raises(ArtifactError, match="no digest"):
            call(name)


def test_many_writers_of_one_blob(tmp_path):
    """Threads that put the same blob at once all succeed, and leave one whole file and no other."""
    store, names = BlobStore(tmp_path), []
    threads = [threading.Thread(target=lambda: names.append(store.put(b"x" * 100_000))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(names) == {digest(b"x" * 100_000)}
    assert len(names) == 8
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [store.path(names[0])]


def test_a_failing_disk_is_a_disk_error(tmp_path, monkeypatch):
    """A blob that cannot be made durable is not there."""
    store = BlobStore(tmp_path)

    def fail(_file):
        raise OSError(5, "EIO")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskError, match="written"):
        store.put(b"x")
    assert not store.has(digest(b"x"))


def test_a_file_that_changes_while_it_is_stored(tmp_path, monkeypatch):
    """A file whose second reading differs from the first is an ArtifactError, and nothing is stored."""
    (tmp_path / "x").write_bytes(b"first")
    store = BlobStore(tmp_path / "blobs")
    real = store._store

    def meddle(name, data):
        (tmp_path / "x").write_bytes(b"second")
        real(name, data)

    monkeypatch.setattr(store, "_store", meddle)
    with pytest.raises(ArtifactError, match="not those"):
        store.put_file(tmp_path / "x")
    assert not store.has(digest(b"first"))
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "device", "missing", "two names"])
def test_only_a_regular_file_is_opened(tmp_path, kind):
    """A link, FIFO, folder, device or missing file is refused without hanging; a second name, where that matters."""
    (tmp_path / "secret").write_bytes(b"s")
    path = tmp_path / "x"
    if kind == "link":
        path.symlink_to("secret")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = "/dev/zero"
    elif kind == "two names":
        path.hardlink_to(tmp_path / "secret")
        open_regular(path).close()
    with pytest.raises(ArtifactError):
        open_regular(path, one_link=True)


ARRAYS = st.dictionaries(
    st.text("abc.é_0", min_size=1, max_size=6),
    st.sampled_from(["<f4", "<f8", "<f2", "<i8", "<i4", "|u1", "|b1"]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
            elements={"allow_nan": False, "allow_infinity": False} if "f" in dtype else None,
        )
    ),
    max_size=4,
)


@given(ARRAYS)
def test_what_safetensors_writes_is_read_back(arrays):
    """Files written by the safetensors library are read bit by bit the same, and match their own header."""
    from safetensors.numpy import save

    raw = save(arrays)
    specs = tensor_header(raw)
    tensors = read_tensors(raw, expect=specs, max_bytes=LIMIT)
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].shape == array.shape == specs[name].shape
        assert tensors[name].tobytes() == array.tobytes()
        assert not tensors[name].flags.writeable
        assert (specs[name].items, specs[name].bytes) == (array.size, array.nbytes)


@given(st.binary(max_size=80) | st.binary(max_size=80).map(container))
def test_only_artifact_error_escapes(data):
    """Any bytes are tensors or an ArtifactError."""
    try:
        assert tensor_header(data).keys() == read_tensors(data, None, LIMIT, finite=False).keys()
    except ArtifactError:
        return


VALID = container(
    {
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "U8", "shape": [3], "data_offsets": [16, 19]},
    },
    np.ones(4, "<f4").tobytes() + b"abc",
)


@given(st.data())
def test_a_changed_header_is_refused_or_says_something_else(data):
    """No changed byte of a header yields the tensors that were expected."""
    expect = tensor_header(VALID)
    at = data.draw(st.integers(0, len(VALID) - 20))
    changed = VALID[:at] + bytes([VALID[at] ^ data.draw(st.integers(1, 255))]) + VALID[at + 1 :]
    if changed[8:].startswith(b"{") and changed[:8] == VALID[:8]:
        try:
            if json.loads(changed[8:-19]) == json.loads(VALID[8:-19]):
                return  # a blank became another blank
        except ValueError:
            pass
    with pytest.raises(ArtifactError):
        read_tensors(changed, expect, LIMIT)


F32 = np.ones(2, "<f4").tobytes()
HOSTILE = {
    "empty": b"",
    "header cut": (100).to_bytes(8, "little") + b"{}",
    "header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + b"{}",
    "header over 64 KiB": container(b"{" + b" " * MAX_HEADER + b"}"),
    "header not an object": container(b"[]"),
    "blank before the brace": container(b" {}"),
    "duplicate name": container(b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "deep header": container(b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}"),
    "trailing bytes": VALID + b"x",
    "data cut": VALID[:-1],
    "unknown dtype": one("F8_E4M3", [8], F32),
    "lower-case dtype": one("f32", [2], F32),
    "extra member": one("F32", [2], F32, extra=1),
    "missing member": container({"x": {"dtype": "F32", "shape": [2]}}, F32),
    "negative dimension": one("F32", [-2], F32),
    "bool dimension": one("U8", [True], b"x"),
    "float dimension": one("F32", [2.0], F32),
    "gigantic dimension": one("F32", [1 << 60], F32),
    "gigantic beside zero": one("F32", [0, 1 << 52], b""),
    "product that overflows": one("F32", [1 << 32, 1 << 32], b""),
    "seventeen dimensions": one("U8", [1] * 17, b"x"),
    "size of another shape": one("F32", [3], F32),
    "offsets swapped": one("F32", [2], F32, data_offsets=[8, 0]),
    "three offsets": one("F32", [2], F32, data_offsets=[0, 8, 8]),
    "gap before the data": one("U8", [1], b"abc", data_offsets=[2, 3]),
    "overlap": container({"x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}, "y": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}}, b"abc"),
    "same bytes twice": container({"x": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}, "y": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}, b"abc"),
    "metadata": container({"__metadata__": {"format": "pt", "note": "hidden"}}),
    "long metadata": container({"__metadata__": {"format": "x" * 50_000}}),
    "metadata that is no map": container({"__metadata__": 1}),
    "empty name": container({"": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}),
    "long name": container({"x" * 256: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}),
    "name with a control character": container({"\x1b[2J": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}),
    "member that is no object": container({"x": 1}),
    "NaN": one("F32", [2], np.array([1, np.nan], "<f4").tobytes()),
    "infinity": one("F64", [1], np.array([-np.inf]).tobytes()),
    "half infinity": one("F16", [1], np.array([np.inf], "<f2").tobytes()),
    "bfloat NaN": one("BF16", [2], b"\x80\x3f\xc1\xff"),
    "bfloat infinity": one("BF16", [1], b"\x80\x7f"),
    "a bool of 2": one("BOOL", [2], b"\x01\x02"),
}  # fmt: skip


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_quickly(tmp_path, raw):
    """Each malformed or hostile file is an ArtifactError, as bytes and as a file, in little time."""
    (tmp_path / "x").write_bytes(raw)
    begin = time.process_time()
    for source in (raw, tmp_path / "x", str(tmp_path / "x")):
        with pytest.raises(ArtifactError):
            read_tensors(source, None, LIMIT)
    assert time.process_time() - begin < 1


def test_the_plain_file_beside_the_hostile_ones_is_read(tmp_path):
    """What the hostile files are made from is itself accepted, with the usual metadata too."""
    assert read_tensors(one("F32", [2], F32), None, LIMIT)["x"].tolist() == [1, 1]
    assert read_tensors(VALID, None, LIMIT)["b"].tobytes() == b"abc"
    assert read_tensors(container({"__metadata__": {"format": "pt"}}), {}, LIMIT) == {}
    assert read_tensors(one("U8", [0, 5], b""), None, LIMIT)["x"].shape == (0, 5)
    assert read_tensors(one("F32", [2], np.array([1, np.nan], "<f4").tobytes()), None, LIMIT, finite=False)
    (tmp_path / "x").write_bytes(VALID)
    assert tensor_header(tmp_path / "x") == tensor_header(VALID)


@given(hnp.arrays("<f4", 5, elements={"allow_nan": False, "allow_infinity": False}))
def test_bfloat16_is_widened_exactly(values):
    """BF16 comes as the float32 whose upper half it is."""
    bits = values.view("<u4") >> 16
    tensor = read_tensors(one("BF16", [5], bits.astype("<u2").tobytes()), None, LIMIT)["x"]
    assert tensor.dtype == np.float32
    assert (tensor.view("<u4") == bits << 16).all()


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ({}, "nobody"),
        ({"x": TensorSpec("F32", (2,)), "y": TensorSpec("F32", (2,))}, "missing"),
        ({"x": TensorSpec("F32", (1, 2))}, "wanted"),
        ({"x": TensorSpec("I32", (2,))}, "wanted"),
        ({"X": TensorSpec("F32", (2,))}, "nobody|missing"),
    ],
)
def test_only_what_is_expected(tmp_path, expect, message):
    """A name, dtype or shape that differs from the expected is an ArtifactError, before data is read."""
    (tmp_path / "x").write_bytes(one("F32", [2], F32))
    for source in (one("F32", [2], F32), tmp_path / "x"):
        with pytest.raises(ArtifactError, match=message):
            read_tensors(source, expect, LIMIT)


def test_a_file_over_the_bound_is_not_read(tmp_path):
    """One byte over `max_bytes` is an ArtifactError, and a sparse terabyte takes no memory."""
    assert read_tensors(VALID, None, len(VALID))
    with pytest.raises(ArtifactError, match="at most"):
        read_tensors(VALID, None, len(VALID) - 1)
    with (tmp_path / "x").open("wb") as file:
        file.write((2).to_bytes(8, "little") + b"{}")
        file.truncate(1 << 40)
    with pytest.raises(ArtifactError, match="at most"):
        read_tensors(tmp_path / "x", None, LIMIT)
    with pytest.raises(ArtifactError, match="for tensors"):
        tensor_header(tmp_path / "x")


def test_every_dtype_has_its_size():
    """Each dtype that is read holds as many bytes as numpy's."""
    for name, numpy_name in DTYPES.items():
        assert TensorSpec(name, (3, 2)).bytes == 6 * np.dtype(numpy_name).itemsize


def test_importing_needs_neither_numpy_nor_torch():
    """The module imports no array library: the supervisor and the command line stay light."""
    import subprocess

    code = "import harness.artifacts, harness.auditlog, sys; print(sorted({'numpy', 'torch', 'cryptography', 'pydantic'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
