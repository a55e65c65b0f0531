"""Facts about repair: whatever was damaged of a run's models comes back byte for byte from the log, or not at all."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rigs
from paper_run import OLD, story, write
from two_verifiers import by_harness, by_script

from harness import live, promotion
from harness.artifacts import BlobStore
from harness.bundle import Trust, read_bundle
from harness.errors import AuditError, ConfigError, LockgateError, PromotionError
from harness.folder import RunFolder
from harness.keys import VerifierChain
from harness.live import live_version
from harness.repair import repair

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Write a run of two versions by hand, the second one live."""
    run = tmp_path_factory.mktemp("paper") / "run"
    write(run)
    return run


@pytest.fixture
def run(paper, tmp_path):
    """Give a copy of it."""
    return rigs.copy_run(paper, tmp_path / "run")


def contents(folder):
    """Every file below a folder by its path; links by what they name."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()  # noqa: PTH115
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def models(run):
    """What serving code finds: the live link, and every file of every version."""
    return live_version(run), contents(run / "models")


def verdicts(run):
    """The exit codes of both verifiers, under the key from outside."""
    key = run.parent / "log.pub"
    VerifierChain.of([OLD.verifier]).save(key)
    return by_harness(run, key).code, by_script(run, "--key", str(key)).code


def mended(run):
    """Repair, and give what was put back, by name."""
    told = []
    repair(RunFolder(run), told.append)
    return {each.what: each for each in told}


def overwrite(path, data=b"{}"):
    """Change a file that nobody may write to."""
    path.chmod(0o644)
    path.write_bytes(data)


def link_out(path):
    """Put a link in the place of a file or folder, to the same bytes elsewhere."""
    away = path.parent.parent.parent / f"away-{path.name}"
    path.rename(away)
    path.symlink_to(away)


FILES = ["weights.safetensors", "recipe.json", "candidate.json", "authorisation.json", "authorisation.proof"]
SOURCE = "source/model.py"
DAMAGE = (
    {f"{name} changed": lambda v, name=name: overwrite(v / name) for name in [*FILES, SOURCE]}
    | {f"{name} gone": lambda v, name=name: (v / name).unlink() for name in [*FILES, SOURCE]}
    | {f"{name} a link": lambda v, name=name: link_out(v / name) for name in [*FILES, "source"]}
    | {
        "a flipped bit": lambda v: overwrite(
            v / "weights.safetensors", (v / "weights.safetensors").read_bytes()[:-1] + b"\x01"
        ),
        "another version's proof": lambda v: overwrite(
            v / "authorisation.proof", (v.parent / "0" / "authorisation.proof").read_bytes()
        ),
        "another version's folder": lambda v: (shutil.rmtree(v), shutil.copytree(v.parent / "0", v)),
        "a file more": lambda v: (v / "more").write_bytes(b"x"),
        "a source file more": lambda v: (v / "source" / "more.py").write_bytes(b"x"),
        "a pipe": lambda v: ((v / SOURCE).unlink(), os.mkfifo(v / SOURCE)),
        "weights that are a folder": lambda v: ((v / FILES[0]).unlink(), (v / FILES[0]).mkdir()),
        "the folder gone": shutil.rmtree,
        "the folder a link": link_out,
        "the folder a file": lambda v: (shutil.rmtree(v), v.write_bytes(b"")),
        "the folder empty": lambda v: (shutil.rmtree(v), v.mkdir()),
    }
)


@pytest.mark.parametrize(
    ("version", "case"),
    [(version, case) for version in (0, 1) for case in DAMAGE if version or not case.startswith("another version")],
)
def test_a_damaged_version_comes_back(run, case, version):
    """Any damage to a version's folder is refused by both verifiers before, and gone after, with the very bytes back."""
    before, place = models(run), run / "models" / str(version)
    DAMAGE[case](place)
    damage = contents(place) if place.is_dir() and not place.is_symlink() else None
    assert verdicts(run) == (5, 5)
    done = mended(run)
    assert list(done) == [f"models/{version}"]
    assert models(run) == before
    assert verdicts(run) == (0, 0)
    assert read_bundle(place, Trust(VerifierChain.of([OLD.verifier]))).version == version
    kept = done[f"models/{version}"].kept
    assert (kept is None) == (case == "the folder gone")
    if kept is not None:
        assert kept.parent == run / "damaged"
        assert damage is None or contents(kept) == damage
    assert mended(run) == {}


def test_what_is_sound_is_not_touched(run):
    """Where nothing is damaged, nothing is written: files have the times and the places on disk that they had."""

    def marks():
        return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in sorted((run / "models").rglob("*"))}

    before = marks()
    assert mended(run) == {}
    assert (marks(), (run / "damaged").exists()) == (before, False)


LINKS = {
    "gone": lambda link: link.unlink(),
    "to another version": lambda link: (link.unlink(), link.symlink_to("models/0")),
    "to no version": lambda link: (link.unlink(), link.symlink_to("/etc")),
    "a file": lambda link: (link.unlink(), link.write_bytes(b"models/1")),
    "a folder": lambda link: (link.unlink(), shutil.copytree(link.parent / "models" / "0", link)),
}


@pytest.mark.parametrize("case", LINKS)
def test_the_live_link_comes_back(run, case):
    """A live link that is gone, names another thing or is none names the log's live version again."""
    LINKS[case](run / "current")
    assert verdicts(run) == (5, 5)
    done = mended(run)
    assert (list(done), live_version(run), verdicts(run)) == (["current"], 1, (0, 0))
    assert (done["current"].kept is not None) == (case in {"a file", "a folder"})


@pytest.mark.parametrize("case", ["gone", "a link", "a file"])
def test_the_folder_of_all_versions_comes_back(run, case):
    """Without `models`, or with something else in its place, every version is rebuilt."""
    before = models(run)
    (run / "models").rename(run.parent / "away")
    if case == "a link":
        (run / "models").symlink_to(run.parent / "away")
    elif case == "a file":
        (run / "models").write_bytes(b"")
    assert verdicts(run) == (5, 5)
    assert {"models/0", "models/1"} <= set(mended(run))
    assert (models(run), verdicts(run)) == (before, (0, 0))
    assert not (run / "models").is_symlink()


def test_a_version_that_never_was_live_is_not_made(run):
    """A folder of a version that the log does not know is nobody's to rebuild."""
    shutil.copytree(run / "models" / "1", run / "models" / "2")
    overwrite(run / "models" / "2" / "recipe.json")
    assert mended(run) == {}


@pytest.mark.parametrize("part", ["weights", "source", "a source file"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_without_a_blob_nothing_is_made_up(run, part, how):
    """A blob that is missing or damaged is named with the version, whose folder stays as it is; the link comes back."""
    candidate = rigs.trail_of(run)[0].versions[1].json_value()
    blobs = BlobStore(run / "blobs")
    name = candidate.get(part) or json.loads(blobs.get(candidate["source"]))["model.py"]
    blob = blobs.path(name)
    blob.unlink() if how == "missing" else overwrite(blob, b"other")
    overwrite(run / "models" / "1" / "recipe.json")
    (run / "current").unlink()
    damaged = contents(run / "models" / "1")
    with pytest.raises(PromotionError, match="version 1 cannot be rebuilt") as caught:
        mended(run)
    assert name in caught.value.message
    assert caught.value.where == str(blob)
    assert "backup" in caught.value.remedy
    assert (contents(run / "models" / "1"), live_version(run), verdicts(run)) == (damaged, 1, (5, 5))


def test_one_that_cannot_be_rebuilt_keeps_no_other_from_it(run):
    """Where the live version's blob is gone, an earlier version comes back all the same: it is the way out."""
    BlobStore(run / "blobs").path(rigs.trail_of(run)[0].versions[1].weights).unlink()
    before = contents(run / "models" / "0")
    shutil.rmtree(run / "models")
    with pytest.raises(PromotionError, match="version 1 cannot be rebuilt"):
        mended(run)
    assert contents(run / "models" / "0") == before


class Cut(BaseException):
    """The power goes."""


@pytest.mark.parametrize("case", ["recipe.json changed", "the folder gone", "the folder a link", "all of it"])
def test_cut_anywhere_a_second_repair_ends_it(paper, tmp_path, case):
    """Cut before any write, sync, rename or removal of a repair, the next one ends with the very bytes, and both verify."""
    before = models(paper)
    cuts = 0
    for number in itertools.count():
        (tmp_path / str(number)).mkdir()
        run = rigs.copy_run(paper, tmp_path / str(number) / "run")
        if case == "all of it":
            LINKS["a folder"](run / "current")
            shutil.rmtree(run / "models")
        else:
            DAMAGE[case](run / "models" / "1")
        with pytest.MonkeyPatch.context() as patch:
            count_to(patch, number)
            try:
                mended(run)
            except Cut:
                cuts += 1
            else:
                break
        mended(run)
        assert (models(run), verdicts(run)) == (before, (0, 0))
        assert not list((run / "models").glob(".staging*"))
    assert cuts > 8


def count_to(patch, cut_at):
    """Cut before the step of this number."""
    steps = itertools.count()

    def counted(function):
        def wrapped(*arguments, **named):
            if next(steps) == cut_at:
                raise Cut
            return function(*arguments, **named)

        return wrapped

    for name in ("write_durably", "make_directory", "sync_directory"):
        patch.setattr(live, name, counted(getattr(live, name)))
    for name in ("rename", "symlink_to", "unlink"):
        patch.setattr(Path, name, counted(getattr(Path, name)))
    patch.setattr(live.shutil, "rmtree", counted(live.shutil.rmtree))


def test_a_run_at_work_is_not_repaired(run):
    """While a supervisor holds the run, repair is refused and touches nothing."""
    overwrite(run / "models" / "1" / "recipe.json")
    other = RunFolder(run)
    other.lock()
    try:
        with pytest.raises(ConfigError, match="at work"):
            mended(run)
    finally:
        other.unlock()
    assert (run / "models" / "1" / "recipe.json").read_bytes() == b"{}"


def test_nothing_is_repaired_from_a_log_that_does_not_hold(run):
    """Where the log was changed, too, it is no source for anything: an error, and the models stay as they are."""
    overwrite(run / "models" / "1" / "recipe.json")
    bundle = next((run / "log" / "tile" / "entries" / "000.p").iterdir())
    overwrite(bundle, bundle.read_bytes().replace(b"e", b"f", 1))
    with pytest.raises(LockgateError):
        mended(run)
    assert (run / "models" / "1" / "recipe.json").read_bytes() == b"{}"


def test_nothing_is_made_to_agree_with_a_log_that_was_cut(run, tmp_path):
    """A log put back behind the head in a version's proof is refused: the proof is what shows it, and stays."""
    write(tmp_path / "older", lambda paper: story(paper)[:-2])
    shutil.rmtree(run / "log")
    shutil.copytree(tmp_path / "older" / "log", run / "log")
    overwrite(run / "models" / "1" / "recipe.json")
    before = models(run)
    assert verdicts(run) == (5, 5)
    with pytest.raises(AuditError, match="the log was cut: 25 entries, where 27 were signed before"):
        mended(run)
    assert models(run) == before


@pytest.mark.parametrize("how", ["a link", "a file", "a folder"])
def test_what_stands_in_the_way_of_staging_is_removed(run, how):
    """Something else under the name of the staging folder does not keep a version from coming back."""
    before, way = models(run), run / "models" / ".staging-1"
    if how == "a link":
        way.symlink_to(run / "blobs")
    elif how == "a file":
        way.write_bytes(b"")
    else:
        (way / "source").mkdir(parents=True)
    overwrite(run / "models" / "1" / "recipe.json")
    blobs = contents(run / "blobs")
    mended(run)
    assert (models(run), contents(run / "blobs"), verdicts(run)) == (before, blobs, (0, 0))


def test_the_command_says_what_was_done(run):
    """`lockgate repair` names what was put back, why and where the damage is, in words, as JSON and in the log lines."""

    def said(*options):
        command = [sys.executable, "-m", "harness.cli", "repair", str(run), *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    overwrite(run / "models" / "1" / "recipe.json")
    (run / "current").unlink()
    told = json.loads(said("--json"))["repaired"]
    assert [each["what"] for each in told] == ["models/1", "current"]
    assert "recipe.json" in told[0]["why"]
    assert (run / told[0]["kept"] / "recipe.json").read_bytes() == b"{}"
    lines = [json.loads(line) for line in (run / "supervisor.jsonl").read_text().splitlines()]
    assert [(line["event"], line["what"]) for line in lines] == [("repaired", "models/1"), ("repaired", "current")]
    assert "nothing to repair" in said()
    (run / "current").unlink()
    assert "put back current: there was none" in said()


def bound(run):
    """What is live, and all that a digest binds: a proof that was lost is made under a later head."""
    version, files = models(run)
    return version, {path: data for path, data in files.items() if not path.endswith("authorisation.proof")}


@pytest.fixture
def real(copy):
    """Give a real run whose loop has ended, and what was live in it."""
    return copy, bound(copy)


@pytest.mark.parametrize("case", ["recipe.json changed", "the folder gone", "the link"])
def test_a_run_that_does_not_open_opens_after_a_repair(rig, real, case):
    """With its live model damaged a run does not open and names the remedy, and the remedy works."""
    run, before = real
    if case == "the link":
        LINKS["to another version"](run / "current")
    else:
        DAMAGE[case](run / "models" / str(before[0]))
    with pytest.raises(PromotionError) as caught:
        rig.open(run)
    assert "lockgate repair" in caught.value.remedy
    mended(run)
    opened = rig.open(run)
    opened.close()
    assert bound(run) == before
    assert by_script(run, "--key", str(run / "keys" / "log.pub")).code == 0
    assert by_harness(run, run / "keys" / "log.pub").code == 0


@pytest.mark.parametrize("when", ["before the rename", "after it"])
def test_a_rollback_that_was_cut_ends_after_a_repair(rig, real, when):
    """Cut inside a rollback whose target is then damaged, the run opens after a repair, and the rollback is made."""
    run, (_, before) = real

    def cut(*_):
        raise PromotionError("cut here")

    opened = rig.open(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "swap" if when == "before the rename" else "sync", cut)
        with pytest.raises(PromotionError, match="cut here"):
            opened.supervisor.rollback(0, by="operator", reason="a test")
    opened.close()
    overwrite(run / "models" / "0" / "recipe.json")
    size = rigs.trail_of(run)[0].size
    with pytest.raises(PromotionError) as caught:
        rig.open(run)
    assert "lockgate repair" in caught.value.remedy
    state, _ = rigs.trail_of(run)
    assert (state.size, state.intent is not None) == (size + 1, True)  # it started, and went no further
    assert list(mended(run)) == ["models/0"]
    assert by_script(run, "--key", str(run / "keys" / "log.pub")).code == 0
    opened = rig.open(run)
    opened.close()
    assert (bound(run), rigs.trail_of(run)[0].intent) == ((0, before), None)
    assert by_script(run, "--key", str(run / "keys" / "log.pub")).code == 0
    assert by_harness(run, run / "keys" / "log.pub").code == 0


def test_a_promotion_that_was_cut_and_damaged_is_not_finished(rig, copy):
    """What is live inside an open intent and not what was authorised is taken back: repaired, the run voids it."""
    run = copy
    opened = rig.open(run)
    opened.supervisor.rollback(0, by="operator", reason="a test")

    def cut(_run):
        raise PromotionError("cut here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promotion, "sync", cut)
        with pytest.raises(PromotionError, match="cut here"):
            rigs.generation(opened, 4, rigs.knobs(steps=150))
    opened.close()
    intended = live_version(run)
    assert intended not in rigs.trail_of(run)[0].versions
    overwrite(run / "models" / str(intended) / "recipe.json")
    overwrite(run / "models" / "0" / "recipe.json")
    assert list(mended(run)) == ["models/0", "current"]
    assert live_version(run) == 0
    assert by_script(run, "--key", str(run / "keys" / "log.pub")).code == 0
    opened = rig.open(run)
    assert [found.outcome for found in opened.supervisor.state.generation(4)] == ["voided"]
    opened.close()
    assert by_script(run, "--key", str(run / "keys" / "log.pub")).code == 0
