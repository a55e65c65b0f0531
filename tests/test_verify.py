"""Facts about audits/verify.py: it stands alone, its answers have their exit codes, and it goes on from where it ended."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import paper_run
import pytest
import two_verifiers as two
from paper_run import OLD, THIEF

from harness.canonical import canonical_bytes, digest
from harness.live import candidate_digest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "audits" / "verify.py"


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """Write the paper run and the reader's own files beside it."""
    place = tmp_path_factory.mktemp("paper")
    paper_run.write(place / "run")
    (place / "key").write_text(f"{OLD.verifier.vkey}\n")
    (place / "other").write_text(f"{THIEF.verifier.vkey}\n")
    (place / "junk").write_text("junk\n")
    (place / "head").write_bytes((place / "run" / "log" / "checkpoint").read_bytes())
    return place


def verify(paper, *arguments, run="run"):
    """Run it as a stranger would: in a folder of its own, without this project on the path."""
    command = [sys.executable, "-I", SCRIPT, paper / run, *arguments]
    return subprocess.run(command, cwd=paper, capture_output=True, text=True, check=False)


def test_it_imports_nothing_of_the_house():
    """Its imports are of the standard library and of `cryptography`, and it names no module of harness."""
    names = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"__import__", "eval", "exec"}
    assert names - set(sys.stdlib_module_names) == {"cryptography"}
    assert "importlib" not in names


ANSWERS = [
    (["--key", "key"], 0, "valid at size 27, freshness unproven"),
    (["--key", "key", "--head", "head"], 0, "valid and fresh"),
    (["--key", "key", "--max-age", "60"], 7, "valid at size 27, freshness unproven"),
    ([], 6, "identity unproven"),
    (["--key", "other"], 5, "invalid"),
    (["--key", "junk"], 1, "error"),
    (["--key", "missing"], 1, "error"),
    (["--key", "key", "--witness", "junk"], 1, "error"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "verdict"), ANSWERS, ids=[" ".join(case[0]) or "none" for case in ANSWERS]
)
def test_answers_have_their_exit_codes(paper, arguments, code, verdict):
    """Each verdict of FORMAT §11 has its exit code, in words and as JSON, and nothing is told on stderr."""
    done, as_json = verify(paper, *arguments), verify(paper, *arguments, "--json")
    assert (done.returncode, as_json.returncode) == (code, code), done.stdout + done.stderr
    assert done.stdout.startswith(f"{verdict}: ")
    assert json.loads(as_json.stdout)["verdict"] == verdict
    assert done.stderr == as_json.stderr == ""


NONSENSE = [["--yes"], ["--witness", "key", "--quorum", "-1"], ["--quorum", "1"], ["--log-only", "--save", "seen"]]


@pytest.mark.parametrize("arguments", NONSENSE, ids=[" ".join(each) for each in NONSENSE])
def test_words_that_make_no_sense_are_usage(paper, arguments):
    """Unknown options, a quorum of none, and saving what was not read end with 2, as usage does."""
    done = verify(paper, "--key", "key", *arguments)
    assert (done.returncode, done.stdout) == (2, "")


def longer(paper):
    """The story, and a word of the operator's after it."""
    halt = paper_run.Item("halted", {"time": "2026-01-02T05:00:00Z", "by": "operator", "reason": "a look"})
    return [*paper_run.story(paper), halt]


@pytest.fixture
def grown(paper, tmp_path):
    """Save where the verification of the paper run ended; give the same run with an entry more."""
    assert verify(paper, "--key", "key", "--save", str(tmp_path / "seen")).returncode == 0
    paper_run.write(tmp_path / "run", longer)
    return tmp_path


def test_it_goes_on_from_where_it_ended(paper, grown):
    """From a saved state or a bare head, what is new is verified, to the verdict that the whole has."""
    told = []
    for since in ([], ["--since", grown / "seen"], ["--since", paper / "head"]):
        done = verify(paper, "--key", "key", *since, "--json", run=grown / "run")
        assert done.returncode == 0, done.stdout
        told.append({name: value for name, value in json.loads(done.stdout).items() if name != "summary"})
    assert told[0] == told[1] == told[2]
    assert told[0]["size"] == 28


def test_a_bare_head_takes_no_blob_as_read(paper, tmp_path):
    """From a bare head only signatures are taken as verified: a blob that was changed before it is found."""
    shutil.copytree(paper / "run", tmp_path / "run", symlinks=True)
    blob = next(path for path in sorted((tmp_path / "run" / "blobs").rglob("*")) if path.is_file())
    blob.chmod(0o600)
    blob.write_bytes(b"forged")
    done = verify(paper, "--key", "key", "--since", paper / "head", "--json", run=tmp_path / "run")
    assert (done.returncode, json.loads(done.stdout)["clause"]) == (5, "§8.1")


def test_an_illegal_entry_after_a_saved_state_is_found(paper, grown, tmp_path):
    """The saved state is one that the next entries are held against: an illegal one is refused, with its index."""

    def illegal(paper_):
        return [*longer(paper_), paper_run.Item("resumed", {"time": "2026-01-02T05:00:01Z", "by": "x"}),
                paper_run.Item("resumed", {"time": "2026-01-02T05:00:02Z", "by": "x"})]  # fmt: skip

    paper_run.write(tmp_path / "bad", illegal)
    done = verify(paper, "--key", "key", "--since", grown / "seen", "--json", run=tmp_path / "bad")
    assert done.returncode == 5
    assert (json.loads(done.stdout)["entry"], json.loads(done.stdout)["clause"]) == (29, "§7.15")


def test_a_log_that_was_cut_or_forked_since_is_refused(paper, grown, tmp_path):
    """A log with less than what was seen, or with another history, does not extend it."""
    assert verify(paper, "--key", "key", "--save", tmp_path / "later", run=grown / "run").returncode == 0
    done = verify(paper, "--key", "key", "--since", tmp_path / "later", "--json")
    assert (done.returncode, json.loads(done.stdout)["clause"]) == (5, "§11.1")


@pytest.mark.parametrize("where", ["state", "head", "digest", "all"])
def test_a_saved_state_that_was_changed_is_the_reader_s_own_error(paper, grown, where):
    """A saved file that does not hold together is no verdict on the run: exit 1, and it is named."""
    saved = json.loads((grown / "seen").read_text("utf-8"))
    if where == "all":
        (grown / "seen").write_text("{}")
    else:
        saved[where] = {**saved["state"], "size": 3} if where == "state" else saved[where][:-2] + "x\n"
        (grown / "seen").write_text(json.dumps(saved))
    done = verify(paper, "--key", "key", "--since", grown / "seen", run=grown / "run")
    assert done.returncode == 1, done.stdout
    assert str(grown / "seen") in done.stdout


def since(place, data, key, run):
    """Ask, in this process, with a saved file of these bytes."""
    (place / "changed").write_bytes(data)
    return two.by_script(run, "--key", str(key), "--since", str(place / "changed"))


def test_no_cut_or_changed_byte_of_a_saved_state_passes(paper, grown):
    """Cut or changed at any place, a saved state is the reader's own error, which names the file."""
    data = (grown / "seen").read_bytes()
    assert since(grown, data, paper / "key", grown / "run").code == 0
    for at in range(0, len(data), 5):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            answer = since(grown, changed, paper / "key", grown / "run")
            assert (answer.code, answer.verdict) == (1, "error"), (at, answer)
            assert str(grown / "changed") in answer.told


def resaved(saved, **changes):
    """Write a saved state anew as another implementation would (FORMAT, appendix A), whole or not."""
    state = {name: value for name, value in {**saved["state"], **changes}.items() if value != "left out"}
    return canonical_bytes(
        {"head": saved["head"], "state": state, "digest": digest(canonical_bytes([saved["head"], state]))}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 26}, {"size": 0}, {"size": "27"}, {"live": 7}, {"keys": []}, {"keys": ["x"]}, {"versions": []},
        {"terms": None}, {"time": "soon"}, {"alphas": "left out"}, {"more": 1}, {"open": {"1": {"ended": False, "x": 1}}},
        {"terms": "left out"}, {"guards": [1]}, {"permits": {"1": None}}, {"keys": [THIEF.verifier.vkey.replace("paper", "other")]},
    ],
    ids=str,
)  # fmt: skip
def test_a_saved_state_in_another_format_is_refused(paper, grown, changes):
    """A whole saved file whose state has other members, other types or another size than its head is no state."""
    saved = json.loads((grown / "seen").read_text("utf-8"))
    answer = since(grown, resaved(saved, **changes), paper / "key", grown / "run")
    assert (answer.code, answer.verdict) == (1, "error"), answer
    assert "nor what --save wrote" in answer.told


def test_a_saved_state_may_leave_out_what_is_null(paper, grown):
    """What appendix A marks with `?` may be null or left out: the verdict is the same."""
    saved = json.loads((grown / "seen").read_text("utf-8"))
    assert saved["state"]["stake"] is saved["state"]["intent"] is None
    plain = since(grown, resaved(saved), paper / "key", grown / "run")
    assert plain.code == 0
    assert since(grown, resaved(saved, stake="left out", intent="left out"), paper / "key", grown / "run") == plain


def test_a_file_that_is_no_head_is_the_reader_s_own_error(paper):
    """What is neither a state nor a note is an error with exit code 1."""
    for data in (b"", b"junk\n", b"{}", b"{", b"[1]", b"null", "\u00e9".encode("latin-1"), b"{" + b"[" * 100_000):
        answer = since(paper, data, paper / "key", paper / "run")
        assert (answer.code, answer.verdict) == (1, "error"), data[:10]


def test_a_saved_state_of_another_log_is_not_extended(paper, grown, tmp_path):
    """A whole saved state of another history under the same key makes the run invalid, and so does its bare head."""

    def other(paper_):
        items = paper_run.story(paper_)
        items[-1].body["by"] = "another"
        return items

    paper_run.write(tmp_path / "other", other)
    assert verify(paper, "--key", "key", "--save", tmp_path / "theirs", run=tmp_path / "other").returncode == 0
    for data in ((tmp_path / "theirs").read_bytes(), (tmp_path / "other/log/checkpoint").read_bytes()):
        answer = since(grown, data, paper / "key", grown / "run")
        assert (answer.code, answer.clause) == (5, "§11.1")


def change(path):
    """Change the last byte of a file but its newline."""
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])


def test_what_a_saved_state_does_not_spare(paper, grown):
    """From a saved state old blobs are taken as read; the head, the keys, every model and what is new are not."""
    run, data = grown / "run", (grown / "seen").read_bytes()
    for name, clause in (
        ("models/0/weights.safetensors", "§9.2"), ("models/1/authorisation.json", "§9.3"), ("keys/log.pub", "§2.1"),
        ("log/checkpoint", None), ("log/tile/entries/000.p/28", "§4.2"), ("log/tile/0/000.p/28", "§4.2"),
    ):  # fmt: skip
        before = (run / name).read_bytes()
        change(run / name)
        answer = since(grown, data, paper / "key", run)
        (run / name).write_bytes(before)
        assert answer.code == 5, name
        assert clause in (None, answer.clause), answer
    for path in (run / "blobs").rglob("*"):
        if path.is_file():
            change(path)
    assert since(grown, data, paper / "key", run).code == 0
    assert two.by_script(run, "--key", str(paper / "key")).clause == "§8.1"


def test_a_bare_head_spares_only_signatures_below_it(paper, tmp_path):
    """An entry that another key signed is refused, unless it lies below a head that the reader holds."""

    def tell(paper_):
        items = longer(paper_)
        items[5].signers = (THIEF,)
        return items

    paper_run.write(tmp_path / "run", tell)
    assert two.by_script(tmp_path / "run", "--key", str(paper / "key")).clause == "§5.3"
    heads = {}
    for size in (3, 9):
        paper_run.write(tmp_path / str(size), lambda paper_, size=size: tell(paper_)[:size])
        heads[size] = (tmp_path / str(size) / "log/checkpoint").read_bytes()
    assert since(tmp_path, heads[9], paper / "key", tmp_path / "run").code == 0
    early = since(tmp_path, heads[3], paper / "key", tmp_path / "run")
    assert (early.entry, early.clause) == (5, "§5.3")


def test_a_recipe_as_deep_as_an_entry_lets_it_be_is_saved_and_read(paper, tmp_path):
    """What nests a recipe deeper in a saved state than in its entry does not make the state unreadable."""

    def tell(paper_):
        items = longer(paper_)
        deep = {"a": 1}
        for _ in range(27):
            deep = {"a": deep}
        base = items[0].body["baseline"]
        old, base["recipe"] = base["digest"], deep
        base["digest"] = candidate_digest(deep, base["source"], base["weights"])
        made = paper_.candidates["base"]
        paper_.candidates["base"] = made.model_copy(update={"recipe": deep, "digest": base["digest"]})
        for item in items[1:]:
            item.body |= {name: base["digest"] for name, value in item.body.items() if value == old}
        return items

    paper_run.write(tmp_path / "run", tell)
    done = verify(paper, "--key", "key", "--save", tmp_path / "seen", run=tmp_path / "run")
    assert done.returncode == 0, done.stdout
    assert since(tmp_path, (tmp_path / "seen").read_bytes(), paper / "key", tmp_path / "run").code == 0


def test_a_place_that_cannot_be_written_is_said(paper):
    """Where --save cannot write, the answer is the reader's own error, and no traceback."""
    done = verify(paper, "--key", "key", "--save", "/proc/nowhere")
    assert (done.returncode, done.stderr) == (1, "")
