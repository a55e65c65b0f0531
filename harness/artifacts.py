"""Content-addressed blobs, and tensor files that are checked before they are read.

A blob lies at `sha256/ab/<64 hex>`, mode 0444, durable, and is hashed again whenever it is got. A tensor
file (safetensors: eight bytes of length, a JSON header, data) comes from code that nobody trusts, and
reading one naively costs seconds and gigabytes, so the header is held to this before a value is looked at:

- the header has at most 64 KiB and is strict JSON; `__metadata__` may only say {"format": …};
- names, dtypes and shapes are those expected, and every dtype is one of `DTYPES`;
- the tensors lie side by side from the first byte of data to the last: no gap, no overlap, nothing after;
- a tensor's size is its shape's, with every dimension bounded by the file that must hold it;
- every value is finite, and every bool is 0 or 1.

Never a pickle. Values are views of bytes already in memory: a file that changes later changes nothing.

Not covered: what the numbers mean; weights that behave badly are for the gates.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.canonical import digest, parse_json
from harness.durable import make_directory, sync_directory, write_durably
from harness.errors import ArtifactError, CanonicalError, DiskError

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "DTYPES", "MAX_HEADER", "BlobStore", "TensorSpec", "behind_link", "open_regular", "read_tensors", "tensor_header",
]  # fmt: skip

MAX_HEADER = 64 * 1024
"""The most bytes that a tensor file's header may have."""

DTYPES: Mapping[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # numpy has no bfloat16: the bits, until they are widened
    "I64": "<i8",
    "I32": "<i4",
    "U8": "|u1",
    "BOOL": "|b1",
}
"""safetensors' names of the dtypes that are read, and numpy's of what holds them."""

_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
_DIMENSIONS = 16
_PIECE = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is: a dtype of `DTYPES` and a shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def items(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The number of bytes that hold them."""
        return self.items * _SIZES[self.dtype]


class BlobStore:
    """Files named by their digest, under one folder. Safe to use from several threads and processes."""

    def __init__(self, folder: Path | str, *, mode: int = 0o444) -> None:
        """Keep blobs under `folder` (made when the first is put), each with file mode `mode`."""
        self._folder = Path(folder)
        self._mode = mode

    def path(self, name: str) -> Path:
        """Return where the blob of a digest lies, whether it is there or not; raises ArtifactError for no digest."""
        if not _DIGEST.fullmatch(name):
            raise ArtifactError(f"{name[:80]!a} is no digest")
        hexadecimal = name.removeprefix("sha256:")
        return self._folder / "sha256" / hexadecimal[:2] / hexadecimal

    def has(self, name: str) -> bool:
        """Tell whether a blob is there, by its name alone."""
        return self.path(name).is_file()

    def put(self, data: bytes) -> str:
        """Store bytes durably and return their digest; raises ArtifactError when the disk fails."""
        name = digest(data)
        self._store(name, data)
        return name

    def put_file(self, path: Path | str, *, max_bytes: int | None = None) -> str:
        """Store a regular file's bytes durably, in pieces, and return their digest.

        Raises ArtifactError: for a link, a device, a file over `max_bytes`, one that changes meanwhile, a failing disk.
        """
        with open_regular(path, max_bytes=max_bytes) as file:
            name = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            file.seek(0)
            self._store(name, _checked(file, name, str(path)))
        return name

    def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
        """Return a blob's bytes, hashed again; raises ArtifactError when it is missing, too long or damaged."""
        with self._open(name, max_bytes) as file:
            data = file.read()
        if digest(data) != name:
            raise ArtifactError("the blob's bytes are not those of its name", where=name)
        return data

    def check(self, name: str) -> int:
        """Hash a blob again without holding it in memory and return its size; raises ArtifactError."""
        with self._open(name) as file:
            return sum(len(piece) for piece in _checked(file, name, name))

    def _open(self, name: str, max_bytes: int | None = None) -> BufferedReader:
        path = self.path(name)
        if behind_link(path, self._folder):
            raise ArtifactError("a folder above it is a link", where=str(path))
        return open_regular(path, max_bytes=max_bytes)

    def _holds(self, name: str) -> bool:
        """Tell whether the blob is there and whole: a damaged one is written again."""
        try:
            self.check(name)
        except ArtifactError:
            return False
        return True

    def _store(self, name: str, data: bytes | Iterator[bytes]) -> None:
        path = self.path(name)
        try:
            make_directory(self._folder)
            make_directory(path.parent, below=self._folder)
            if self._holds(name):
                sync_directory(path.parent)  # whoever wrote it may have died before its name was durable
            else:
                write_durably(path, data, mode=self._mode)
        except OSError as error:
            raise DiskError(
                f"a blob cannot be written: {error.strerror}", where=str(path), remedy="free some space, then resume"
            ) from error


def behind_link(path: Path, root: Path) -> bool:
    """Tell whether a folder between `root` and `path` is a link; `root` itself is where somebody said that it is."""
    between = path.relative_to(root).parents
    return any((root / inner).is_symlink() for inner in between if inner.name)


def open_regular(path: Path | str, *, max_bytes: int | None = None, one_link: bool = False) -> BufferedReader:
    """Open a file that somebody else may have put there: no link followed, no device, no FIFO, a bounded size.

    With `one_link`, a file that has a second name is refused too: in a folder that untrusted code wrote to,
    a hard link may name a secret. Raises ArtifactError.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactError(f"cannot be opened: {error.strerror}", where=str(path)) from error
    status = os.fstat(file)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "not a regular file"
    elif one_link and status.st_nlink != 1:
        problem = "a file with more than one name"
    elif max_bytes is not None and status.st_size > max_bytes:
        problem = f"{status.st_size} bytes, where at most {max_bytes} are read"
    if problem:
        os.close(file)
        raise ArtifactError(problem, where=str(path))
    return os.fdopen(file, "rb")


def tensor_header(source: bytes | Path | str) -> dict[str, TensorSpec]:
    """Return what a tensor file says it holds, in the order of its data, after all checks of form.

    Reads the header only: of a file, at most 64 KiB. Raises ArtifactError.
    """
    if isinstance(source, bytes):
        return _parse(source[: 8 + MAX_HEADER], len(source))[1]
    with open_regular(source) as file:
        return _parse(file.read(8 + MAX_HEADER), os.fstat(file.fileno()).st_size)[1]


def read_tensors(
    source: bytes | Path | str, expect: Mapping[str, TensorSpec] | None, max_bytes: int, *, finite: bool = True
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors of a safetensors file as read-only numpy arrays, after every check above.

    `expect` is the exact set of names with their dtypes and shapes; None accepts any. BF16 comes widened to
    float32, which is exact. With `finite` (the default) NaN and infinities are refused. Raises ArtifactError.
    """
    import numpy as np

    if isinstance(source, bytes):
        if len(source) > max_bytes:
            raise ArtifactError(f"{len(source)} bytes of tensors, where at most {max_bytes} are read")
        data = source
    else:
        with open_regular(source, max_bytes=max_bytes) as file:
            size = os.fstat(file.fileno()).st_size
            specs = _parse(file.read(8 + MAX_HEADER), size)[1]
            _compare(specs, expect)  # before the data is read into memory
            file.seek(0)
            data = file.read(size)
    start, specs = _parse(data[: 8 + MAX_HEADER], len(data))
    _compare(specs, expect)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name, spec in specs.items():
        flat = np.frombuffer(data, dtype=DTYPES[spec.dtype], count=spec.items, offset=start)
        start += spec.bytes
        _check_values(name, spec.dtype, flat, finite=finite)
        if spec.dtype == "BF16":
            flat = (flat.astype("<u4") << 16).view("<f4")
            flat.flags.writeable = False
        tensors[name] = flat.reshape(spec.shape)
    return tensors


def _parse(front: bytes, total: int) -> tuple[int, dict[str, TensorSpec]]:
    """Check the header in `front` against the file's size; return where data begins, and the tensors in order."""
    length = int.from_bytes(front[:8], "little")
    if len(front) < 8 or length > MAX_HEADER or 8 + length > total:
        raise ArtifactError("no tensor file: its header is cut, or has more than 64 KiB")
    raw = front[8 : 8 + length]
    if not raw.startswith(b"{"):
        raise ArtifactError("no tensor file: its header does not begin with a brace")
    try:
        header = parse_json(raw, max_bytes=MAX_HEADER, max_depth=4)
    except CanonicalError as error:
        raise ArtifactError(f"the header is not JSON: {error}") from error
    room = total - 8 - length
    found: list[tuple[int, int, str, TensorSpec]] = []
    match header:
        case dict(members):
            pass
        case _:
            raise ArtifactError("the header is no JSON object")
    for name, value in members.items():
        if name == "__metadata__":
            _check_metadata(value)
            continue
        match value:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest} if not rest:
                pass
            case _:
                raise ArtifactError("a tensor has a dtype, a shape and two offsets, no more", where=_shown(name))
        if not name or len(name) > 255 or not name.isprintable():
            raise ArtifactError("a name of 1 to 255 printable characters is wanted", where=_shown(name))
        if dtype not in _SIZES:
            raise ArtifactError(f"the dtype {dtype[:20]!a} is not read", where=_shown(name))
        spec = TensorSpec(dtype, tuple(_natural(size, name) for size in shape))
        begin, end = _natural(begin, name), _natural(end, name)
        # A dimension of 0 must not hide a gigantic one beside it, so zeros do not count here.
        if len(shape) > _DIMENSIONS or math.prod(size or 1 for size in spec.shape) * _SIZES[dtype] > max(room, 1 << 16):
            raise ArtifactError("a shape that this file cannot hold", where=_shown(name))
        if end - begin != spec.bytes:
            raise ArtifactError(f"{end - begin} bytes for a tensor that has {spec.bytes}", where=_shown(name))
        found.append((begin, end, name, spec))
    at = 0
    found.sort(key=lambda item: item[:2])
    for begin, end, name, _ in found:
        if begin != at:
            raise ArtifactError("a gap or an overlap before this tensor", where=_shown(name))
        at = end
    if at != room:
        raise ArtifactError(f"{room} bytes of data for tensors that have {at}")
    return 8 + length, {name: spec for _, _, name, spec in found}


def _compare(specs: Mapping[str, TensorSpec], expect: Mapping[str, TensorSpec] | None) -> None:
    if expect is None:
        return
    for name in sorted(specs.keys() | expect.keys()):
        if name not in specs:
            raise ArtifactError("the tensor is missing", where=_shown(name))
        if name not in expect:
            raise ArtifactError("a tensor that nobody asked for", where=_shown(name))
        if specs[name] != expect[name]:
            raise ArtifactError(f"{_said(specs[name])}, where {_said(expect[name])} is wanted", where=_shown(name))


def _check_values(name: str, dtype: str, flat: np.ndarray[Any, Any], *, finite: bool) -> None:
    """Look at the values in pieces, so that the masks stay small; raises ArtifactError."""
    import numpy as np

    for at in range(0, flat.size, _PIECE):
        part = flat[at : at + _PIECE]
        if dtype == "BOOL" and part.view("|u1").max() > 1:
            raise ArtifactError("a bool that is neither 0 nor 1", where=_shown(name))
        if finite and dtype == "BF16" and ((part & 0x7F80) == 0x7F80).any():  # all exponent bits set: IEEE 754 §3.4
            raise ArtifactError("a value that is not finite", where=_shown(name))
        if finite and dtype in ("F64", "F32", "F16") and not np.isfinite(part).all():
            raise ArtifactError("a value that is not finite", where=_shown(name))


def _check_metadata(value: object) -> None:
    match value:
        case {"format": str(text), **rest} if not rest and len(text) <= 16:
            return
        case _:
            raise ArtifactError("the metadata may only say the format")


def _natural(value: object, name: str) -> int:
    if type(value) is not int or value < 0:  # a bool is an int too
        raise ArtifactError("sizes and offsets are whole numbers from 0", where=_shown(name))
    return value


def _checked(file: BufferedReader, name: str, where: str) -> Iterator[bytes]:
    """Yield a file in pieces, and raise ArtifactError at its end unless their digest is `name`."""
    seen = hashlib.sha256()
    while piece := file.read(_PIECE):
        seen.update(piece)
        yield piece
    if f"sha256:{seen.hexdigest()}" != name:
        raise ArtifactError("the bytes are not those of the name", where=where)


def _said(spec: TensorSpec) -> str:
    return f"{spec.dtype} [{', '.join(map(str, spec.shape))}]"


def _shown(name: str) -> str:
    return ascii(name[:80])
