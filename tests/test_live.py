"""Facts about the live model: cut at any write it is one whole version, and what was touched by hand is seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import live
from harness.artifacts import BlobStore
from harness.canonical import canonical_bytes
from harness.errors import PromotionError
from harness.live import candidate_digest, check_version, live_version, stage, swap
from harness.records import Candidate

pytestmark = pytest.mark.usefixtures("quick_disk")


class Cut(BaseException):
    """The power goes."""


def made(blobs, name):
    """Put a candidate of two source files among the blobs."""
    files = {"model.py": f"NAME = {name!r}\n".encode(), "parts/layer.py": b"WIDTH = 3\n"}
    source = blobs.put(canonical_bytes({path: blobs.put(text) for path, text in files.items()}))
    weights = blobs.put(f"weights of {name}".encode())
    recipe = {"name": name}
    return Candidate(
        digest=candidate_digest(recipe, source, weights), recipe=recipe, source=source, weights=weights,
        parameters=1, bytes=1, schema_digest=weights,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """Give a run's folder in which version 0 is live and version 1 is to come."""
    blobs = BlobStore(tmp_path / "blobs")
    first, second = made(blobs, "first"), made(blobs, "second")
    stage(tmp_path, 0, first, blobs, b"{}", b"")
    swap(tmp_path, 0)
    return tmp_path, blobs, first, second


def steps(patch, cut_at):
    """Cut before the step of this number: every write, sync, rename and link of `live` counts as one."""
    count = [0]

    def counted(function):
        def wrapped(*arguments, **named):
            if count[0] == cut_at:
                raise Cut
            count[0] += 1
            return function(*arguments, **named)

        return wrapped

    for name in ("write_durably", "make_directory", "sync_directory"):
        patch.setattr(live, name, counted(getattr(live, name)))
    for name in ("rename", "symlink_to", "unlink"):
        patch.setattr(Path, name, counted(getattr(Path, name)))
    patch.setattr(live.shutil, "rmtree", counted(live.shutil.rmtree))
    return count


def test_cut_anywhere_the_live_model_is_whole(run):
    """Cut before every step of stage and swap: the live version is the old or the new one, whole, and going on ends well."""
    root, blobs, first, second = run
    seen = set()
    for number in range(200):
        with pytest.MonkeyPatch.context() as patch:
            steps(patch, number)
            try:
                stage(root, 1, second, blobs, b"{}", b"")
                swap(root, 1)
            except Cut:
                cut = True
            else:
                cut = False
        version = live_version(root)
        check_version(root, version, (first, second)[version])
        seen.add((version, cut))
        if not cut:
            break
        if version != 1:
            stage(root, 1, second, blobs, b"{}", b"")
        swap(root, 1)
        check_version(root, 1, second)
        swap(root, 0)
    assert seen == {(0, True), (1, True), (1, False)}
    assert number > 10


def test_a_version_that_is_live_is_not_staged_over(run):
    """Staging the version that is live is refused."""
    root, blobs, first, _ = run
    with pytest.raises(PromotionError, match="live already"):
        stage(root, 0, first, blobs, b"{}", b"")


def test_a_full_disk_is_a_promotion_error(run, monkeypatch):
    """A write that fails while staging is a PromotionError, and the live version stays."""
    root, blobs, _, second = run

    def full(*_arguments, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(live, "write_durably", full)
    with pytest.raises(PromotionError, match="No space left"):
        stage(root, 1, second, blobs, b"{}", b"")
    assert live_version(root) == 0


def test_a_missing_blob_is_a_promotion_error(run):
    """A candidate whose weights are not among the blobs cannot be staged."""
    root, blobs, _, second = run
    blobs.path(second.weights).unlink()
    with pytest.raises(PromotionError):
        stage(root, 1, second, blobs, b"{}", b"")
    assert not (root / "models" / "1").exists()


def overwrite(path, data):
    """Change a file that nobody may write to."""
    path.chmod(0o644)
    path.write_bytes(data)


TAMPERING = {
    "other weights": lambda v: overwrite(v / "weights.safetensors", b"other"),
    "no weights": lambda v: (v / "weights.safetensors").unlink(),
    "another recipe": lambda v: overwrite(v / "recipe.json", b'{"name":"worse"}'),
    "a recipe that is no JSON": lambda v: overwrite(v / "recipe.json", b"{"),
    "other source": lambda v: overwrite(v / "source" / "model.py", b"import os\n"),
    "a file more": lambda v: (v / "source" / "more.py").write_bytes(b""),
    "a file less": lambda v: (v / "source" / "parts" / "layer.py").unlink(),
    "a file renamed": lambda v: (v / "source" / "parts").rename(v / "source" / "bits"),
    "a link for a file": lambda v: (
        (v / "source" / "model.py").unlink(),
        (v / "source" / "model.py").symlink_to("/dev/null"),
    ),
    "a pipe among the files": lambda v: os.mkfifo(v / "source" / "pipe"),
    "no folder": lambda v: v.rename(v.with_name("gone")),
}


@pytest.mark.parametrize("case", TAMPERING)
def test_a_touched_version_is_seen(run, case):
    """A version's folder in which anything of the candidate was changed, added or removed is refused."""
    root, _, first, _ = run
    check_version(root, 0, first)
    TAMPERING[case](root / "models" / "0")
    with pytest.raises(PromotionError):
        check_version(root, 0, first)


@pytest.mark.parametrize(
    "target", ["models/01", "models/1/..", "elsewhere/1", "models/-1", "/models/1", "models/x", "models"]
)
def test_a_link_to_anything_else_is_refused(run, target):
    """A live link that names no version is a PromotionError."""
    root = run[0]
    (root / "current").unlink()
    (root / "current").symlink_to(target)
    with pytest.raises(PromotionError):
        live_version(root)


def test_a_folder_for_the_link_is_refused(run):
    """A folder where the live link should be is a PromotionError."""
    root = run[0]
    (root / "current").unlink()
    (root / "current").mkdir()
    with pytest.raises(PromotionError, match="not a symbolic link"):
        live_version(root)


def test_without_a_link_nothing_is_live(tmp_path):
    """A folder without the link has no live version."""
    assert live_version(tmp_path) is None


def test_a_version_is_not_written_by_going_away_and_back(run):
    """Swapped away and back, a version's files have the very bytes and times that they had."""
    root, blobs, _, second = run
    files = sorted(path for path in (root / "models" / "0").rglob("*") if path.is_file())
    before = [(path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in files]
    stage(root, 1, second, blobs, b"{}", b"")
    swap(root, 1)
    swap(root, 0)
    assert before == [(path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in files]
