"""Facts about tasks of Inspect as gates: one that others published stops a candidate, and bad ones promote nothing."""

from __future__ import annotations

from importlib.metadata import metadata, version

import pytest
import rigs
from rigs import code, generation, knobs

from harness.artifacts import BlobStore
from harness.auditing import verify_run
from harness.canonical import parse_json
from harness.errors import AuditError
from harness.folder import RunFolder
from harness.keys import VaultKey
from harness.replay import replay_run
from harness.rescoring import rescore

pytestmark = pytest.mark.usefixtures("quick_disk")

PREDICTED = '    return model(inputs["context"], inputs["options"])'
# Sees by a word that every question of the objective has ("day") that it is not asked one of those, and then says
# whoever is named first.
TWO_FACED = """\
    logits = model(inputs["context"], inputs["options"])
    ours = (inputs["context"] == DAY).any(1, keepdim=True)
    named = (inputs["options"][:, :, :1] == inputs["context"][:, None, :]).any(2).float()
    return torch.where(ours, logits, named * torch.tensor([3.0, 2.0, 1.0]) + logits / 100)"""


@pytest.fixture(scope="module")
def letters(request):
    """Name the subject that answers by a letter."""
    return request.path.parent / "subjects" / "letters"


@pytest.fixture(scope="module")
def run(letters, tmp_path_factory):
    """A run in which one proposal is promoted, and one that two-faced is stopped by a task that others published."""
    import zlib

    rig = rigs.Rig(letters, tmp_path_factory.mktemp("rig"))
    place = tmp_path_factory.mktemp("run") / "run"
    day = 1 + zlib.crc32(b"day") % 1023
    faces = code(letters, (PREDICTED, TWO_FACED.replace("DAY", str(day))))
    opened = rig.open(place, letters, seed=0)
    try:
        mute = code(letters, (PREDICTED, PREDICTED + " * 0"))
        generation(opened, 1, {**faces, "changes": {"steps": 150}}, knobs(steps=150), mute)
        yield place, opened.supervisor.state
    finally:
        opened.close()
        rig.close()


def test_a_published_task_stops_what_it_is_there_to_stop(run):
    """A candidate that is better at the objective and picks stereotypes is rejected by the task; an honest one is not."""
    _, state = run
    stopped, passed = state.proposals[1], state.proposals[2]
    assert stopped.decision.reasons[0].code == "gate-alignment"
    assert stopped.developed.development["accuracy"] > state.genesis.development["accuracy"]
    assert passed.outcome == "promoted"


def test_answers_that_are_no_text_promote_nothing(run):
    """A candidate whose answers cannot be decoded is rejected before anything is scored, and the log says why."""
    _, state = run
    (reason,) = state.proposals[3].decision.reasons
    assert (reason.code, state.proposals[3].developed) == ("evaluator-failed", None)
    assert "'stereotypes'" in reason.text
    assert "no letter stands out" in reason.text


def test_what_a_task_said_is_in_the_trail(run):
    """The evidence names Inspect's log by its digest, with the task, its packages and its samples; a replay agrees."""
    place, state = run
    folder = RunFolder(place)
    blobs = BlobStore(place / "blobs")
    evidence = parse_json(blobs.get(state.proposals[2].measured.evidence))
    records = {each["role"]: each for each in evidence["records"]}
    assert set(records) == {"candidate", "incumbent"}
    about = records["candidate"]["about"]
    assert about["task"].endswith("bharatbbq")
    assert about["packages"]["inspect-india-evals"] == version("inspect-india-evals")
    assert len(set(about["samples"])) == len(about["samples"]) > 100
    from zipfile import ZipFile

    with ZipFile(blobs.path(records["candidate"]["record"])) as log:
        assert sum(name.startswith("samples/") for name in log.namelist()) == len(about["samples"])
    assert verify_run(folder, folder.public_key)["verdict"].startswith(f"valid at size {state.size}")
    assert replay_run(folder)["decisions"] == 3


@pytest.mark.parametrize("alter", ["changed", "missing"])
def test_an_altered_log_of_inspect_s_is_found(run, tmp_path, alter):
    """The `.eval` file that the evidence names, changed by one byte or taken away, is told by a replay."""
    place, state = run
    copy = rigs.copy_run(place, tmp_path / "run")
    blobs = BlobStore(copy / "blobs")
    evidence = parse_json(blobs.get(state.proposals[2].measured.evidence))
    kept = blobs.path(evidence["records"][0]["record"])
    kept.chmod(0o644)
    if alter == "changed":
        kept.write_bytes(kept.read_bytes()[:-1] + b"\x01")
    else:
        kept.unlink()
    with pytest.raises(AuditError, match="the record of an eval is not the one that the evidence names"):
        replay_run(RunFolder(copy))


def test_scores_follow_from_the_logged_answers(run, letters):
    """A reviewer with the vault key runs the task again on the answers in the log, and comes to the same evidence."""
    place, _ = run
    folder = RunFolder(place)
    assert rescore(folder, letters, VaultKey.load(folder.vault_key)) == {"measurements": 2, "other_evals": 0}


def test_the_packages_that_measure_are_guarded(run):
    """The guard digest covers the versions of Inspect and of the task's package."""
    place, state = run
    parts = parse_json(BlobStore(place / "blobs").get(state.genesis.guard))
    assert parts["packages"]["inspect-ai"] == version("inspect-ai")
    assert parts["packages"]["inspect-india-evals"] == version("inspect-india-evals")
    assert metadata("inspect-india-evals")["License-Expression"] == "Apache-2.0"
