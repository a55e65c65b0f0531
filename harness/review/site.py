"""Write the pages of a run into a folder: verified first, all of them or none, and never over somebody's own files.

Rules. A log that does not verify has no pages. Every page stands alone: its style is inside it, nothing is fetched,
and its content security policy lets no script run. Every text goes through `plain`, then through Jinja's escaping: no
page holds a stranger's markup, and none of their characters acts. The pages are written beside OUT and take its place
by one rename, so that OUT is the old set or the new one.

Not covered: who may see them. They say what held-out items say, unless they were written with `public`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.artifacts import BlobStore
from harness.auditing import Freshness, verify_run
from harness.errors import AuditError, ConfigError
from harness.folder import RunFolder
from harness.guard_history import guard_history
from harness.journal import follow
from harness.keys import VerifierChain
from harness.logreader import LogReader
from harness.plain import plain
from harness.review.content import Pages, decision, index
from harness.state import RunState
from harness.telling import Notebook, proposal_page

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["write_pages"]

MARKER = ".lockgate-review"
OURS = {MARKER, "index.html", "decisions"}
_PAGE = re.compile(r"[1-9][0-9]*\.html", re.ASCII)
NOTHING_HELD = Freshness()
_TEXT = 20_000
"""Characters of one text on a page."""
_SOME = 50


def write_pages(
    folder: RunFolder,
    out: Path,
    *,
    key: Path | None = None,
    approvers: Path | None = None,
    freshness: Freshness = NOTHING_HELD,
    public: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Verify a run and write its pages to `out`; returns the verification's report, and what was written.

    `note` is told what takes time. Raises AuditError and StateError as `verify_run` does, and ConfigError where `out`
    holds anything but an earlier set of pages, or cannot be written.
    """
    _check_place(out)
    note("verifying the run")
    report = verify_run(folder, key, freshness=freshness, approvers=approvers)
    chain = VerifierChain.load(folder.public_key if key is None or folder.public_key.exists() else key)
    reader = LogReader.open(folder.log, chain)
    if (reader.origin, reader.size, reader.root.hex()) != (report["origin"], report["size"], report["root"]):
        raise AuditError(
            "the log changed while its pages were written", where=str(folder.log), remedy="write them again"
        )
    state, notebook = RunState(), Notebook()
    for step in follow(reader, chain):
        notebook.take(step)
        state = step.state
    report |= {"head": reader.head.decode(), "time": state.last_time}
    blobs = BlobStore(folder.blobs)
    pages = Pages(report, state, notebook, public, guard_history(blobs, state, notebook), blobs)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            count = _write(pages, BlobStore(folder.blobs), reader, fresh, note)
            fresh.chmod(0o755 if public else 0o700)
            _check_place(out)  # again: somebody may have put something there meanwhile
            _take_place(fresh, out)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"the pages cannot be written: {error.strerror}",
            where=str(error.filename or out),
            remedy="name another OUT",
        ) from error
    return {**report, "pages": count, "out": str(out), "index": str(out / "index.html"), "public": public}


def _check_place(out: Path) -> None:
    """OUT is new, empty, or an earlier set of pages; ConfigError."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError("not a folder of its own", where=str(out), remedy="name a folder that is not there yet")
    strangers = [path.name for path in out.iterdir() if path.name not in OURS] if out.is_dir() else []
    if out.is_dir() and (out / "decisions").is_dir():
        strangers += [path.name for path in (out / "decisions").iterdir() if not _PAGE.fullmatch(path.name)]
    if strangers or (out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file()):
        raise ConfigError(
            "the folder holds other files than an earlier set of pages",
            where=str(out),
            remedy="name a folder that is not there yet",
        )


def _take_place(fresh: Path, out: Path) -> None:
    """Put the new set where the old one is."""
    if out.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            out.rename(old / "old")
            try:
                fresh.rename(out)
            except OSError:
                with contextlib.suppress(OSError):
                    (old / "old").rename(out)
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    else:
        fresh.rename(out)


def _write(pages: Pages, blobs: BlobStore, reader: LogReader, place: Path, note: Callable[[str], None]) -> int:
    environment = _environment()
    (place / MARKER).write_text(json.dumps({"origin": reader.origin, "size": reader.size}), "utf-8")
    (place / "decisions").mkdir()
    known = pages.state.candidates()
    numbers = sorted(pages.state.proposals)
    template = environment.get_template("decision.html")
    for done, number in enumerate(numbers, 1):
        page = proposal_page(blobs, pages.state, pages.notebook, number, known=known, confidential=not pages.public)
        proofs = {
            line["index"]: [each.hex() for each in reader.inclusion_proof(line["index"])] for line in page["trail"]
        }
        _page(place / "decisions" / f"{number}.html", template.render(decision(pages, page, proofs)))
        if done % _SOME == 0:
            note(f"{done} of {len(numbers)} pages")
    shown = environment.get_template("index.html").render(index(pages), public=pages.public)
    _page(place / "index.html", shown)
    return len(numbers) + 1


def _page(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def text(value: Any) -> Any:
        """What an expression gives: numbers as they are, markup of ours as it is, and every other text made plain."""
        return plain(value, _TEXT) if isinstance(value, str) and not isinstance(value, Markup) else value

    templates = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (templates / "style.css").read_text("utf-8")
    environment.globals["style"] = Markup(style)  # noqa: S704 - our own file
    environment.globals["style_hash"] = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment.filters["drawn"] = Markup  # `drawing` has escaped what is not its own
    environment.filters["short"] = lambda digest: str(digest).removeprefix("sha256:")[:12]
    environment.filters["figure"] = lambda value: "" if value is None else f"{value:.4f}"
    environment.filters["signed"] = lambda value: "" if value is None else f"{value:+.3f}"
    environment.filters["as_json"] = lambda value: json.dumps(value, ensure_ascii=False, sort_keys=True)
    environment.filters["when"] = lambda time: str(time)[:19].replace("T", " ")
    return environment
