"""The supervisor's process and its socket: JSON lines, length-capped, from the run's owner only.

Requests: status, ask, submit, settle, halt, resume, rollback, stop. All that changes the run's
course is done by one thread, in the order in which it came, except `halt`, which takes effect at
once: the supervisor looks for it before each decision and right before the swap. While `settle`
works, every entry of the log is sent to its caller as an event.

Started as `python -m harness.service OUT SUBJECT …`, with the passphrase of its keys, if they have one, as the first
line of its standard input; tells its parent on stdout what takes time,
then `ready` or the error. It ends when its standard input does: no supervisor outlives its client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from harness.canonical import canonical_bytes, parse_json
from harness.cosigning import witness_standing
from harness.desk import Halt
from harness.entries import Entry, Halted, Resumed
from harness.errors import CanonicalError, LockgateError, ServiceError
from harness.keyring import standing
from harness.opening import Opened, open_run
from harness.passphrase import Passphrase
from harness.records import Record, first_problem
from harness.supervisor import Slot
from harness.views import ask_view, event_view, next_generation, summary

MAX_FRAME = 16 << 20
"""Bytes of one line: a generation of whole source files fits, a flood does not."""
MAX_CLIENTS = 16


class SlotFrame(Record):
    """One proposal as the client passes it on."""

    proposer: str
    document: str
    scripted: bool = False
    label: str = ""


class StatusRequest(Record):
    """Asks where the run stands."""

    op: Literal["status"]


class AskRequest(Record):
    """Asks what proposers are to be asked with."""

    op: Literal["ask"]


class SubmitRequest(Record):
    """Fill a generation."""

    op: Literal["submit"]
    generation: Annotated[int, Field(ge=1)]
    slots: list[SlotFrame]


class SettleRequest(Record):
    """Bring a generation to its end."""

    op: Literal["settle"]
    generation: int


class HaltRequest(Record):
    """Stop before the next swap."""

    op: Literal["halt"]
    reason: str = ""


class ResumeRequest(Record):
    """Lift a halt."""

    op: Literal["resume"]


class RollbackRequest(Record):
    """Make an earlier version live again."""

    op: Literal["rollback"]
    version: int
    reason: str = ""


class StopRequest(Record):
    """End the supervisor."""

    op: Literal["stop"]


Request = Annotated[
    StatusRequest
    | AskRequest
    | SubmitRequest
    | SettleRequest
    | HaltRequest
    | ResumeRequest
    | RollbackRequest
    | StopRequest,
    Field(discriminator="op"),
]
_REQUEST: TypeAdapter[Any] = TypeAdapter(Request)


def parse_request(line: bytes) -> Any:
    """One line → one request; ServiceError for anything else."""
    try:
        return _REQUEST.validate_json(json.dumps(parse_json(line, max_bytes=MAX_FRAME)))
    except CanonicalError as error:
        raise ServiceError(f"not a request: {error}") from error
    except ValidationError as error:
        place, message = first_problem(error)
        raise ServiceError(f"not a request: {message}", where=place) from error


class Service:
    """One supervisor behind one socket."""

    def __init__(self, opened: Opened) -> None:
        """Serve an opened run."""
        self._opened = opened
        self._work = ThreadPoolExecutor(1, thread_name_prefix="supervisor")
        self._loop = asyncio.get_running_loop()
        self._watchers: set[asyncio.Queue[dict[str, Any]]] = set()
        self._clients = 0
        self.stopped = asyncio.Event()

    def tell(self, index: int, entry: Entry) -> None:
        """Pass an entry on to whoever watches; called from the supervisor's threads."""
        view = event_view(self._opened.supervisor.state, index, entry)

        def put() -> None:
            for queue in self._watchers:
                queue.put_nowait(view)

        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody watches any more
            self._loop.call_soon_threadsafe(put)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client to its end."""
        self._clients += 1
        try:
            if self._clients > MAX_CLIENTS:
                await self._send(writer, _problem(ServiceError(f"more than {MAX_CLIENTS} clients")))
                return
            if _peer(writer.get_extra_info("socket")) not in (os.geteuid(), 0):
                await self._send(writer, _problem(ServiceError("only the run's owner may speak here")))
                return
            while not self.stopped.is_set():
                try:
                    line = await reader.readuntil(b"\n")
                except (asyncio.IncompleteReadError, ConnectionError):
                    return
                except asyncio.LimitOverrunError:
                    await self._send(writer, _problem(ServiceError(f"a line of more than {MAX_FRAME} bytes")))
                    return
                try:
                    await self._answer(parse_request(line), writer)
                except LockgateError as error:
                    await self._send(writer, _problem(error))
                except ConnectionError:
                    return
                except Exception as error:  # noqa: BLE001 - a defect ends a request, with its name, and not the supervisor
                    told = f"{type(error).__name__}: {error}"
                    await self._send(writer, _problem(LockgateError(f"the supervisor failed: {told}")))
        except ConnectionError:
            return
        finally:
            self._clients -= 1
            writer.close()

    async def _answer(self, request: Any, writer: asyncio.StreamWriter) -> None:
        supervisor, rooms = self._opened.supervisor, self._opened.rooms
        match request:
            case StatusRequest():
                state, folder = supervisor.state, rooms.folder
                told = {"keys": standing(folder), "witnesses": witness_standing(folder, state)}
                await self._send(writer, {"ok": {**summary(state, rooms.blobs), **told}})
            case AskRequest():
                asked = await self._do(lambda: ask_view(supervisor.state, rooms.blobs))
                filled = bool(supervisor.state.generation(asked["generation"]))
                await self._send(writer, {"ok": {"ask": asked, "filled": filled}})
            case SubmitRequest():
                slots = [Slot(s.proposer, s.document.encode(), s.scripted, s.label) for s in request.slots]
                await self._do(lambda: supervisor.submit(request.generation, slots))
                await self._send(writer, {"ok": {"generation": request.generation}})
            case SettleRequest():
                await self._settle(request.generation, writer)
            case HaltRequest():
                self.halt(request.reason or "by request")
                await self._send(writer, {"ok": {"halted": True}})
            case ResumeRequest():
                await self._do(self._resume)
                await self._send(writer, {"ok": {"halted": False, "generation": next_generation(supervisor.state)}})
            case RollbackRequest():
                why = request.reason or "by request"
                await self._do(lambda: supervisor.rollback(request.version, by="operator", reason=why))
                await self._send(writer, {"ok": {"live": supervisor.state.live}})
            case StopRequest():
                self.stopped.set()
                await self._send(writer, {"ok": {"stopped": True}})

    async def _do(self, step: Callable[[], Any]) -> Any:
        try:
            return await self._loop.run_in_executor(self._work, step)
        except OSError as error:
            raise _of_the_disk(error) from error

    async def _settle(self, generation: int, writer: asyncio.StreamWriter) -> None:
        """Work, and meanwhile send every entry; the answer comes last."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._watchers.add(queue)
        work = asyncio.ensure_future(self._do(lambda: self._opened.supervisor.settle(generation)))
        try:
            while not (work.done() and queue.empty()):
                waiting = asyncio.ensure_future(queue.get())
                await asyncio.wait({waiting, work}, return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    await self._send(writer, waiting.result())
                else:
                    waiting.cancel()
            try:
                held = await work
            except Halt:
                self.halt("the kill-switch file is there")
                await self._send(writer, {"ok": {"generation": generation, "halted": True, "held": []}})
            else:
                await self._send(writer, {"ok": {"generation": generation, "halted": False, "held": held}})
        finally:
            self._watchers.discard(queue)

    def halt(self, reason: str) -> None:
        """Log a halt, once; in force from this entry on."""
        journal = self._opened.rooms.journal
        with journal.lock:
            if not journal.state.halted:
                journal.commit(Halted(by="operator", reason=reason))

    def _resume(self) -> None:
        rooms = self._opened.rooms
        rooms.folder.halt.unlink(missing_ok=True)
        with rooms.journal.lock:
            if rooms.journal.state.halted:
                rooms.journal.commit(Resumed(by="operator"))

    async def _send(self, writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        writer.write(canonical_bytes(message) + b"\n")
        await writer.drain()


def _peer(connection: Any) -> int:
    """The uid at the other end (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def _of_the_disk(error: OSError) -> ServiceError:
    """A disk that is full or refuses, told as one clear error."""
    where = str(error.filename) if error.filename else None
    return ServiceError(str(error.strerror or error), where=where, remedy="make room, then `lockgate resume`")


def _problem(error: LockgateError) -> dict[str, Any]:
    return {
        "error": {"type": type(error).__name__, "message": error.message, "where": error.where, "remedy": error.remedy}
    }


async def serve(
    arguments: dict[str, Any],
    tell_parent: Callable[[dict[str, Any]], None],
    parent: Parent,
    passphrase: Passphrase | None,
) -> None:
    """Open the run, listen, and work until told to stop or the parent is gone."""
    from harness.telemetry import configure

    log = configure(Path(arguments["out"]) / "supervisor.jsonl")
    service: Service | None = None

    def listener(index: int, entry: Entry) -> None:
        log.info("entry", index=index, **event_fields(entry))
        if service is not None:
            service.tell(index, entry)

    loop = asyncio.get_running_loop()
    opened = await loop.run_in_executor(
        None,
        lambda: open_run(
            Path(arguments["out"]),
            Path(arguments["subject"]),
            seed=arguments.get("seed"),
            workers=arguments.get("workers"),
            vault_key=Path(arguments["vault_key"]) if arguments.get("vault_key") else None,
            passphrase=passphrase,
            listener=listener,
            note=lambda text: tell_parent({"note": text}),
        ),
    )
    try:
        service = Service(opened)
        path = opened.rooms.folder.socket
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(service.connection, sock=listen(path), limit=MAX_FRAME)
        parent.on_end(lambda: _stop(loop, service))
        tell_parent({"ready": True, "generation": next_generation(opened.supervisor.state)})
        await service.stopped.wait()
        server.close()
        path.unlink(missing_ok=True)
        with contextlib.suppress(LockgateError, OSError):  # a courtesy to readers: what was halted meanwhile is shown
            await loop.run_in_executor(None, opened.supervisor.show_witnesses)
    finally:
        opened.close()


def listen(path: Path) -> socket.socket:
    """Bind a Unix socket that its owner alone may open, however long the path (sun_path holds 108 bytes)."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    old = os.umask(0o177)
    try:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        bound.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.umask(old)
        os.close(folder)
    return bound


def event_fields(entry: Entry) -> dict[str, Any]:
    """What a log line says of an entry: no scores, no documents."""
    from harness.kinds import kind_of

    fields: dict[str, Any] = {"kind": kind_of(entry)}
    for name in ("number", "version", "candidate", "reason"):
        value = getattr(entry, name, None)
        if isinstance(value, (int, str)):
            fields[name] = value
    return fields


class Parent:
    """The client whose process this one lives for: it holds standard input open."""

    def __init__(self) -> None:
        """Watch from the very beginning: before the run is open, the parent's end is this process's end."""
        self._then: Callable[[], None] = lambda: os._exit(1)  # nothing is open that recovery would not mend
        threading.Thread(target=self._wait, daemon=True).start()

    def on_end(self, then: Callable[[], None]) -> None:
        """From now on, end in order."""
        self._then = then

    def _wait(self) -> None:
        sys.stdin.buffer.read()
        self._then()


def _stop(loop: asyncio.AbstractEventLoop, service: Service) -> None:
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(service.stopped.set)


def main() -> None:
    """Run one supervisor; see the module's docstring."""
    arguments = json.loads(sys.argv[1])
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints, prints to stderr

    def tell_parent(message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            channel.write(json.dumps(message) + "\n")
            channel.flush()

    try:
        passphrase = Passphrase.read(sys.stdin.buffer) if arguments.get("unlock") else None
        asyncio.run(serve(arguments, tell_parent, Parent(), passphrase))
    except LockgateError as error:
        tell_parent(_problem(error))
        sys.exit(1)
    except OSError as error:
        tell_parent(_problem(_of_the_disk(error)))
        sys.exit(1)
    # Threads of a step that was under way are not waited for: recovery is the normal path.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
