"""The client's end of the supervisor's socket, and the supervisor's process where this client owns it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from harness import errors
from harness.chat import key_variables
from harness.config import load_config
from harness.errors import ConfigError, LockgateError, ServiceError
from harness.passphrase import Passphrase


def raise_problem(problem: dict[str, Any]) -> None:
    """Raise what the other side reported, as the error that it was."""
    kind = getattr(errors, str(problem.get("type")), LockgateError)
    if not (isinstance(kind, type) and issubclass(kind, LockgateError)):
        kind = LockgateError
    raise kind(str(problem.get("message")), where=problem.get("where"), remedy=problem.get("remedy"))


class Connection:
    """One connection to a supervisor."""

    def __init__(self, run: Path) -> None:
        """Connect to the supervisor of the run in this folder; ServiceError where none listens."""
        self._run = run
        folder = None
        try:
            folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                # Through the descriptor, for sun_path holds 108 bytes only.
                self._socket.connect(f"/proc/self/fd/{folder}/supervisor.sock")
            except OSError:
                self._socket.close()
                raise
        except OSError as error:
            raise ServiceError("no supervisor listens", where=str(run)) from error
        finally:
            if folder is not None:
                os.close(folder)
        self._file = self._socket.makefile("rwb")

    def ask(
        self, request: dict[str, Any], on_event: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> dict[str, Any]:
        """Send a request, pass events on, return the answer; the other side's error is raised here."""
        try:
            self._file.write(json.dumps(request).encode() + b"\n")
            self._file.flush()
            while line := self._file.readline():
                message = json.loads(line)
                if "event" in message:
                    on_event(message)
                elif "error" in message:
                    raise_problem(message["error"])
                else:
                    return dict(message["ok"])
        except (OSError, ValueError) as error:
            raise ServiceError(f"the supervisor went away: {error}", remedy=self._remedy()) from error
        raise ServiceError("the supervisor went away", where=str(self._run), remedy=self._remedy())

    def _remedy(self) -> str:
        return f"nothing is lost: `lockgate resume {self._run}` goes on where it stopped"

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._file.close()
            self._socket.close()


class SupervisorProcess:
    """The supervisor, started for this client's life."""

    def __init__(
        self,
        arguments: dict[str, Any],
        note: Callable[[str], None],
        passphrase: Passphrase | None = None,
    ) -> None:
        """Start it and wait until it is ready; its error is raised here. `note` is told what takes time.

        The passphrase of its keys goes through its standard input: arguments can be read by everybody here. It gets
        this process's environment but for the variables that hold keys of endpoints, whoever is asked this time: they
        are for the loop alone, and not for the supervisor, nor for the evals that it starts.
        """
        run = Path(arguments["out"])
        without = key_variables(load_config(Path(arguments["subject"])).proposer_settings)
        arguments = {**arguments, "unlock": passphrase is not None}
        try:
            run.mkdir(parents=True, exist_ok=True)
            told = (run / "supervisor.stderr").open("ab")
        except OSError as error:
            raise ConfigError(
                f"cannot be written: {error.strerror}", where=str(run), remedy="name another with --out"
            ) from error
        with told as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.service", json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={name: value for name, value in os.environ.items() if name not in without},
                start_new_session=True,  # Ctrl-C is for the client, which ends the supervisor in order
            )
        self.ready: dict[str, Any] = {}
        out = self.process.stdout
        if out is None:
            raise ServiceError("the supervisor has no pipes")
        try:
            if passphrase is not None and self.process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):  # it has ended: what it says of that is read below
                    self.process.stdin.write(passphrase.reveal() + b"\n")
                    self.process.stdin.flush()
            self._wait(out, run, note)
        except BaseException:
            self.close()  # an interrupted client leaves no supervisor that holds the lock
            raise

    def _wait(self, out: IO[bytes], run: Path, note: Callable[[str], None]) -> None:
        for line in out:
            message = json.loads(line)
            if "error" in message:
                raise_problem(message["error"])
            if "ready" in message:
                self.ready = message
                return
            note(str(message.get("note")))
        status = self.process.wait()
        raise ServiceError(
            f"the supervisor ended before it was ready (status {status})", remedy=f"see {run / 'supervisor.stderr'}"
        )

    def close(self) -> None:
        """Close its standard input, on which it ends; kill it where it does not."""
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.close()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
