"""Facts about the command line: each command on a finished run, and a user's mistake is one line."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rigs

from harness.errors import StatisticsError
from harness.keys import VaultKey
from harness.live import live_version
from harness.records import REASONS


def lockgate(*arguments, cwd=None, typed=None):
    """Run the command line, with this on its standard input if given; give what it did."""
    command = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment, input=typed)


def answer(*arguments, code=0, typed=None):
    """Run a command with --json; give its one document."""
    done = lockgate(*arguments, "--json", typed=typed)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def complaint(done):
    """Require that a command failed with one clear line and perhaps a remedy, and no traceback; give the line."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("lockgate: ")
    assert [line for line in lines[1:] if not line.startswith("  remedy: ")] == []
    return lines[0]


def test_a_run_ends_with_its_summary(finished):
    """`run --json` prints one document: the counts of what was promoted and rejected, by codes of the closed list."""
    told = json.loads((finished.parent / "summary.json").read_text())
    assert (told["proposals"], told["promoted"], told["undecided"]) == (9, 2, 0)
    assert sum(told["rejected"].values()) == 7
    assert set(told["rejected"]) <= set(REASONS)
    assert (told["keys"]["own"], told["keys"]["encrypted"]) == (True, False)
    assert set(told["rejected"]) >= {"no-op", "policy", "non-finite", "build-failed", "development", "gate-alignment"}


def test_status_is_the_summary_of_the_run(finished):
    """`status --json` prints the same summary as the run did."""
    told = json.loads((finished.parent / "summary.json").read_text())
    assert answer("status", finished) == told


def test_status_for_people_names_what_is_live(finished):
    """`status` names the live version, and each reason for which something was stopped."""
    done = lockgate("status", finished)
    assert done.returncode == 0, done.stderr
    for word in ("version 2", "gate-alignment", "policy", "no-op", "The run made its own key", "not encrypted"):
        assert word in done.stdout


def test_show_gives_one_proposal(finished):
    """`show --json` gives a proposal with its change, rules, gates with evidence, and trail; so does a failed build and a syntax error."""
    page = answer("show", finished, 8)
    assert page["reasons"][0]["code"] == "gate-alignment"
    assert {rule["stage"] for rule in page["rules"]} == {"screen", "decide"}
    assert {gate["name"] for gate in page["evidence_by_gate"]} >= {"accuracy/improve", "parity/parent"}
    assert page["trail"][0]["kind"] == "proposed"
    for number in (1, 3, 7):
        done = lockgate("show", finished, number)
        assert done.returncode == 0, done.stderr


def test_each_gate_is_told_in_a_line(finished):
    """`show` says of each gate what was shown, with which error, or that it was not; `status` says what stopped one."""
    stopped, promoted = (" ".join(lockgate("show", finished, number).stdout.split()) for number in (8, 9))
    assert "not shown: parity is not worse than the" in stopped
    told = answer("show", finished, 8)["evidence_by_gate"]
    assert all((gate["verdict"] == "pass") != gate["line"].startswith("not shown: ") for gate in told)
    assert promoted.count("with error at most") == len(answer("show", finished, 9)["evidence_by_gate"])
    assert "not shown: parity is not worse than the" in " ".join(lockgate("status", finished).stdout.split())


def test_show_marks_what_was_scripted(finished):
    """`show` says that a scripted proposal was scripted."""
    assert "(scripted)" in lockgate("show", finished, 1).stdout


def test_audit_verify_says_what_is_proven(finished, tmp_path):
    """`audit verify` exits 0 with a key held outside the run, and 6, identity unproven, with the run's own."""
    key = tmp_path / "log.pub"
    key.write_bytes((finished / "keys" / "log.pub").read_bytes())
    told = answer("audit", "verify", finished, "--key", key)
    assert told["verdict"] == f"valid at size {told['size']}, freshness unproven"
    assert answer("audit", "verify", finished, code=6)["verdict"] == "identity unproven"


def test_audit_log_is_the_whole_trail(finished):
    """`audit log --json` prints one JSON line for each entry, in order."""
    done = lockgate("audit", "log", finished, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["index"] for row in rows] == list(range(rigs.trail_of(finished)[0].size))
    assert (rows[0]["kind"], rows[-1]["kind"]) == ("genesis", "watched")
    assert len(lockgate("audit", "log", finished).stdout.splitlines()) == len(rows)


def test_audit_replay_derives_every_decision(finished):
    """`audit replay` derives all nine decisions again."""
    assert answer("audit", "replay", finished)["decisions"] == 9


def test_a_changed_log_fails_the_audit(copy):
    """One changed byte of the log: `audit verify` and `status` exit 5 with one line."""
    bundle = next(path for path in (copy / "log" / "tile" / "entries").rglob("*") if path.is_file())
    raw = bytearray(bundle.read_bytes())
    raw[len(raw) // 3] ^= 1
    bundle.chmod(0o644)
    bundle.write_bytes(raw)
    for command in (("status",), ("audit", "replay"), ("audit", "log")):
        done = lockgate(*command, copy)
        complaint(done)
        assert done.returncode == 5
    done = lockgate("audit", "verify", copy)
    assert done.returncode == 5
    assert done.stdout.startswith("invalid: entry ")
    assert done.stdout.count("\n") == 1


def test_a_changed_blob_fails_the_audit(copy):
    """A blob that was changed by hand: `audit verify` exits 5 and names the entry."""
    evidence = next(found.measured.evidence for found in rigs.trail_of(copy)[0].proposals.values() if found.measured)
    blob = next((copy / "blobs").rglob(evidence.removeprefix("sha256:")))
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().replace(b"pass", b"fail", 1))
    done = lockgate("audit", "verify", copy)
    assert done.returncode == 5
    assert done.stdout.startswith("invalid: entry ")
    assert "§8.1" in done.stdout


def test_halt_resume_and_rollback(copy):
    """A halted run is not run on; `resume` lifts it; `rollback` brings a version back bit-identical; all is in the log."""
    assert answer("halt", copy, "--reason", "a test")["halted"] is True
    assert answer("status", copy)["state"] == "halted"
    subject = json.loads((copy / "subject.path").read_text())["subject"]
    done = lockgate("run", subject, "--out", copy)
    assert "halted" in complaint(done)
    assert answer("resume", copy)["state"] == "at rest"
    before = {p: p.read_bytes() for p in (copy / "models" / "1").rglob("*") if p.is_file()}
    assert answer("rollback", copy, "--to", 1, "--reason", "a test")["live"] == 1
    assert {p: p.read_bytes() for p in (copy / "models" / "1").rglob("*") if p.is_file()} == before
    assert live_version(copy) == 1
    kinds = [json.loads(line)["kind"] for line in lockgate("audit", "log", copy, "--json").stdout.splitlines()]
    assert kinds[-3:] == ["started", "intended", "rolled-back"]
    assert {"halted", "resumed"} <= set(kinds)
    assert answer("audit", "verify", copy, "--key", copy / "keys" / "log.pub")["live"] == 1


def test_two_runs_on_one_folder_are_refused(rig, copy):
    """While one supervisor is at work on a run, `run`, `resume` and `rollback` end with one line, and the log stands."""
    opened = rig.open(copy)
    try:
        size = opened.supervisor.state.size
        for command in (("run", rig.subject, "--out", copy), ("resume", copy), ("rollback", copy, "--to", 0)):
            assert "another supervisor" in complaint(lockgate(*command))
        assert opened.supervisor.state.size == size
    finally:
        opened.close()


def test_gates_power_is_told(digits):
    """`gates power --json` gives the probability for each gate, and whether the whole is above the floor."""
    told = answer("gates", "power", digits)
    assert told["ok"] is True
    assert told["joint"] >= told["floor"]
    assert len(told["rows"]) == 4


def test_gates_power_at_the_next_test_of_a_run(digits, copy, tmp_path):
    """`gates power --run` takes alpha and the items left from the run's log, as `vault status` does, for these effects."""
    left = answer("vault", "status", copy)
    told = answer("gates", "power", digits, "--run", copy, "--effect", "0.1", "--effect", "0.02")
    assert told["alpha"] == left["next_alpha"]
    assert (told["run"]["items_left"], told["run"]["epoch"]) == (left["left"], left["epoch"])
    assert told["run"]["in_force"] is True
    by_gate = {(one["gate"], one["effect"]): one for one in told["effects"]}
    assert len(by_gate) == 8
    large, small = (by_gate["accuracy/improve", effect] for effect in (0.1, 0.02))
    assert (large["detectable"], small["detectable"], small["median"]) == (True, False, None)
    shown = lockgate("gates", "power", digits, "--run", copy, "--effect", "0.02").stdout
    assert f"accuracy/improve: not detectable within {small['cap']:,} items: +0.02" in shown
    other = rigs.vary(digits, tmp_path / "subject", ("margin: 0.08", "margin: 0.1"))
    assert answer("gates", "power", other, "--run", copy)["run"]["in_force"] is False
    assert "no run here" in complaint(lockgate("gates", "power", digits, "--run", tmp_path))
    assert "above 0" in complaint(lockgate("gates", "power", digits, "--effect", "nan"))


def test_gates_that_can_hardly_pass_are_refused(rig, digits, tmp_path):
    """`gates power` exits 3 on gates that can hardly pass, and no run is begun with them."""
    subject = rigs.vary(digits, tmp_path / "subject", ("cap: 2000", "cap: 100"))
    assert answer("gates", "power", subject, code=3)["ok"] is False
    with pytest.raises(StatisticsError, match="below"):
        rig.open(tmp_path / "run", subject)
    assert not (tmp_path / "run" / "log" / "checkpoint").exists()


def test_policies_are_checked_and_tested(tmp_path):
    """`policy check` and `policy test` pass the baseline pack, and `check` exits 3 naming the line of a mistake."""
    assert answer("policy", "check", "baseline")["ok"] is True
    assert answer("policy", "test", "baseline")["ok"] is True
    bad = tmp_path / "bad.yaml"
    bad.write_text("apiVersion: lockgate/v1\nkind: ChangePolicy\n")
    done = lockgate("policy", "check", bad)
    assert done.returncode == 3
    assert "bad.yaml:" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_policy_is_written_formatted_and_held_to_its_tests(tmp_path):
    """`new` writes what `check`, `fmt --check` and `test --mutate` pass; a weaker suite ends with 3 and names the change."""
    written = answer("policy", "new", "mine", "--dir", tmp_path)["written"]
    policy, suite = (Path(path) for path in written[:2])
    assert answer("policy", "check", policy)["warnings"] == []
    assert answer("policy", "fmt", "--check", policy, suite) == {"ok": True, "unformatted": []}
    told = answer("policy", "test", policy, "--mutate", "--coverage")
    assert all(mutant["killed"] for mutant in told["suites"][0]["mutants"])
    assert all(each["true"] and each["false"] for each in told["suites"][0]["coverage"])
    suite.write_text(suite.read_text().replace("change.lines_changed: 100, ", ""))
    done = lockgate("policy", "test", policy, "--mutate")
    assert done.returncode == 3
    assert f"LIVES {policy}:16:35: small: <= becomes <: change.lines_changed < params.max_lines" in done.stdout
    suite.write_text(suite.read_text() + "\n\n\n")
    assert answer("policy", "fmt", "--check", suite, code=3)["unformatted"] == [suite.as_posix()]
    assert answer("policy", "fmt", suite)["written"] == [suite.as_posix()]


def test_every_pack_is_held_by_its_suite():
    """`policy test PACK… --coverage --mutate` ends with 0 for all packs by name, and says that every mutant was killed."""
    packs = sorted(path.stem for path in Path("policies").glob("*.yaml") if not path.name.endswith(".test.yaml"))
    done = lockgate("policy", "test", *packs, "--coverage", "--mutate")
    assert done.returncode == 0, done.stdout
    assert len(re.findall(r"^\S+: (\d+) of \1 mutants killed$", done.stdout, re.MULTILINE)) == len(packs) >= 6


def test_the_reference_is_checked_and_written(tmp_path):
    """`policy schema` writes three files, and with --check exits 3 where one is not current."""
    assert len(answer("policy", "schema", tmp_path)["written"]) == 3
    assert answer("policy", "schema", tmp_path, "--check")["ok"] is True
    (tmp_path / "SCHEMA.md").write_text("")
    assert answer("policy", "schema", tmp_path, "--check", code=3)["stale"] == [str(tmp_path / "SCHEMA.md")]


def test_a_decision_is_explained(finished):
    """`policy explain` says of a run's proposal, and of a file, which parts of which rule were true, as words or JSON."""
    told = answer("policy", "explain", finished, 1, "--stage", "screen")["explanations"]
    assert told[0]["policies"][0]["rules"][0]["tree"]["text"] == "code.parses"
    done = lockgate("policy", "explain", "--policy", "policies/baseline.yaml", "--stage", "decide")
    assert done.returncode == 0
    assert "✓ gates-pass: 0 of 2 gates have not passed" in done.stdout
    complaint(lockgate("policy", "explain"))
    complaint(lockgate("policy", "explain", finished, 1, "--stage", "later"))


def test_policies_are_compared(tmp_path):
    """`policy compare` exits 0 where strictness is proved, else 3, and shows a witness as the fields that differ."""
    pack = (Path(__file__).parent.parent / "policies" / "baseline.yaml").read_text()
    (tmp_path / "new").mkdir()
    new = tmp_path / "new" / "new.yaml"
    new.write_text(pack.replace("max_lines: 400", "max_lines: 300"))
    assert answer("policy", "compare", "baseline", tmp_path / "new")["verdict"] == "at-least-as-strict"
    done = lockgate("policy", "compare", new, "baseline")
    assert done.returncode == 3
    assert "WEAKER  baseline-screen/small-diff" in done.stdout
    assert "change.lines_changed = 301\n" in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("weaker: ")
    assert answer("policy", "compare", new, "baseline", code=3)["verdict"] == "weaker"
    assert "cannot be read" in complaint(lockgate("policy", "compare", new, tmp_path / "gone.yaml"))


def test_keys_are_made_before_the_run(tmp_path):
    """`keys init` makes keys that only their owner may read, and a second time is refused."""
    told = answer("keys", "init", tmp_path / "run", "--name", "mine", "--unencrypted")
    assert told["vkey"].startswith("mine-")
    assert Path(told["signing_key"]).stat().st_mode & 0o077 == 0
    assert VaultKey.load(tmp_path / "run" / "private" / "vault.key")
    complaint(lockgate("keys", "init", tmp_path / "run", "--unencrypted"))


def test_a_run_that_makes_its_own_keys_says_so_at_once(finished):
    """The first lines of a run that made its own keys say so, and what that means; later ones, and other runs, do not."""
    from rich.console import Console

    from harness.display import RunDisplay

    told = {**json.loads((finished.parent / "summary.json").read_text()), "proposals": 0, "details": []}
    for change, said in (({}, True), ({"proposals": 9}, False), ({"keys": {**told["keys"], "own": False}}, False)):
        shown = io.StringIO()
        RunDisplay(Console(file=shown), finished).event({"event": "status", "summary": {**told, **change}})
        assert ("Keep one now" in shown.getvalue()) == said


PASSPHRASE = "correct horse battery\n"


def test_keys_are_encrypted_unless_it_is_said(tmp_path):
    """`keys init` without terminal, passphrase or --unencrypted is one error with the remedy; with a passphrase, encrypted."""
    done = lockgate("keys", "init", tmp_path / "run")
    assert "no passphrase" in complaint(done)
    assert "--unencrypted" in done.stderr
    assert not (tmp_path / "run" / "private").exists()
    assert answer("keys", "init", tmp_path / "run", "--passphrase-fd", 0, typed=PASSPHRASE)["encrypted"] is True
    told = answer("keys", "list", tmp_path / "run")
    assert (told["keys"][0]["private"], told["vault_key"]["private"], told["own"]) == (
        "here, encrypted", "here, encrypted", False,
    )  # fmt: skip
    both = lockgate("keys", "init", tmp_path / "x", "--unencrypted", "--passphrase-fd", 0, typed=PASSPHRASE)
    assert "only one of them" in complaint(both)


def test_keys_are_encrypted_rotated_and_used(copy, tmp_path):
    """A finished run's keys are encrypted and rotated; without the passphrase only looking and halting work, with it all."""
    old = tmp_path / "old.pub"
    old.write_bytes((copy / "keys" / "log.pub").read_bytes())
    assert answer("keys", "passphrase", copy, "--new-passphrase-fd", 0, typed=PASSPHRASE)["encrypted"] is True
    back = ("rollback", copy, "--to", 1)
    with ThreadPoolExecutor(2) as pool:
        wrong = pool.submit(
            lockgate, *back, "--passphrase-fd", 0, typed="wrong\n"
        )  # it is the supervisor that finds out
        for done in pool.map(lambda command: lockgate(*command), (("resume", copy), back)):
            assert "there is no passphrase" in complaint(done)
            assert "--passphrase-fd" in done.stderr
        assert "not the passphrase" in complaint(wrong.result())
    assert "there is no passphrase" in complaint(lockgate("keys", "rotate", copy))
    rotated = answer("keys", "rotate", copy, "--passphrase-fd", 0, typed=PASSPHRASE)
    listed = answer("keys", "list", copy)
    assert [key["since"] for key in listed["keys"]] == [0, rotated["entry"] + 1]
    assert [key["private"] for key in listed["keys"]] == ["not here", "here, encrypted"]
    for line in (rotated["old"], rotated["new"]):
        assert line in lockgate("keys", "list", copy).stdout
    assert answer(*back, "--passphrase-fd", 0, typed=PASSPHRASE)["live"] == 1
    assert answer("audit", "verify", copy, "--key", old)["live"] == 1
    assert answer("status", copy)["keys"]["encrypted"] is True


def test_doctor_says_what_there_is():
    """`doctor --json` lists what was looked for, each with what was found."""
    done = lockgate("doctor", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode == 0) == told["ok"]
    assert all({"what", "found", "ok", "needed", "remedy"} <= set(row) for row in told["checks"])


def mistakes(tmp_path, digits):
    """Give commands that are mistakes, each with a word of its complaint."""
    empty = tmp_path / "empty"
    empty.mkdir()
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    spoilt = rigs.vary(digits, tmp_path / "spoilt", ("delta: 0.05", "delta: 5"))
    wide = rigs.vary(digits, tmp_path / "wide", ("[model.py]", "['*.py']"))
    nothing = rigs.vary(digits, tmp_path / "nothing")
    (nothing / "model.py").unlink()
    unguarded = rigs.vary(digits, tmp_path / "unguarded", ("def load()", "def lode()"), name="guards.py")
    broken = rigs.vary(digits, tmp_path / "broken", ("def predict(model", "def predict((model"), name="model.py")
    failing = rigs.vary(
        digits, tmp_path / "failing", ("    image, digit", "    raise ValueError\n    image, digit"), name="model.py"
    )
    return [
        (("status", empty), "no run here"),
        (("show", empty, 1), "no run here"),
        (("resume", empty), "no run here"),
        (("halt", empty), "no run here"),
        (("rollback", empty, "--to", 0), "no run here"),
        (("run", empty), "lockgate.yaml"),
        (("run", tmp_path / "nowhere"), "no such folder"),
        (("run", digits, "--out", full), "not empty"),
        (("run", digits, "--out", "/proc/nowhere"), "/proc"),
        (("run", digits, "--out", tmp_path / "x", "--proposers", "wizard"), "wizard"),
        (("run", digits, "--out", tmp_path / "x", "--proposers", "evolution=0"), "evolution=0"),
        (("run", digits, "--out", tmp_path / "x", "--proposers", "evolution,evolution=2"), "second of its name"),
        (("run", digits, "--out", tmp_path / "y", "--vault-key", full / "letter.txt"), "letter.txt"),
        (("run", spoilt, "--out", tmp_path / "r1"), "lockgate.yaml:11"),
        (("run", wide, "--out", tmp_path / "r2"), "guards.py"),
        (("run", nothing, "--out", tmp_path / "r3"), "model.py"),
        (("run", unguarded, "--out", tmp_path / "r4"), "load"),
        (("run", broken, "--out", tmp_path / "r5"), "model.py"),
        (("run", failing, "--out", tmp_path / "r6"), "ValueError"),
        (("gates", "power", spoilt), "lockgate.yaml:11"),
    ]


def test_a_mistake_is_one_line(digits, finished, tmp_path):
    """Each mistake of a user ends with exit code 1 and one line that names what is wrong, never a traceback."""
    cases = [*mistakes(tmp_path, digits), (("show", finished, 99), "no proposal 99")]
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(lambda case: lockgate(*case[0], cwd=tmp_path), cases))
    for (command, word), done in zip(cases, ended, strict=True):
        assert word in complaint(done), command
        assert done.returncode == 1, command


def test_a_mistake_with_json_is_one_document(tmp_path):
    """With `--json` the error is the one document on stdout, with type, message, place and remedy."""
    told = answer("status", tmp_path, code=1)
    assert set(told["error"]) == {"type", "message", "where", "remedy"}
    assert told["error"]["type"] == "ConfigError"


def test_minutes_and_proposers_that_are_not_configured(digits, tmp_path):
    """With `--minutes` no generation begins after them; a proposer that is not configured is asked for what was said."""
    out = tmp_path / "run"
    asked = ("run", digits, "--out", out, "--proposers", "evolution=2", "--minutes")
    assert answer(*asked, "0.01")["details"] == []
    told = answer(*asked, "5", "--generations", "1")
    assert [each["proposer"] for each in told["details"]] == ["evolution", "evolution"]


def test_a_proposer_that_fails_is_in_the_log_and_the_run_goes_on(digits, tmp_path):
    """Its slot holds its failure, which is rejected as malformed; where all of them failed, the run ends in order."""
    asked = ("run", digits, "--out", tmp_path / "run", "--generations")
    told = answer(*asked, "1", "--proposers", "random=1,llm=2")
    assert [each["proposer"] for each in told["details"]] == ["random", "llm"]
    failed = told["details"][1]
    assert (failed["verdict"], failed["reasons"][0]["code"]) == ("reject", "malformed")
    assert "has none (name one in lockgate.yaml: proposer_settings.llm.endpoint)" in failed["label"]
    told = answer(*asked, "9", "--proposers", "llm=2")
    assert [each["generation"] for each in told["details"]] == [1, 1, 2]


def test_misuse_is_exit_code_2():
    """An unknown command or option exits 2."""
    for arguments in (("improve",), ("status",), ("status", ".", "--loud")):
        assert lockgate(*arguments).returncode == 2


def test_the_version_is_printed():
    """`--version` prints the version."""
    assert lockgate("--version").stdout.startswith("lockgate ")
