"""`lockgate new`: write a subject that runs, for people to replace piece by piece by their own.

The files lie in `template/` as data. They need nothing but what Lockgate itself needs, and load in no time.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from harness.errors import ConfigError

__all__ = ["new_subject"]

FILES = {
    "lockgate.yaml": "lockgate.yaml",
    "model.py": "model.py.txt",
    "guards.py": "guards.py.txt",
    "README.md": "README.md",
}
"""What is written, and the template it is made from: `.txt`, because they are no modules of this package."""


def new_subject(folder: Path) -> list[Path]:
    """Write a subject into a folder that is empty or not there yet; returns the files written.

    Nothing is overwritten: ConfigError where the folder holds anything, cannot be made, or cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError("the folder is not empty", where=str(folder), remedy="name a new one")
        name = subject_name(folder.resolve().name)
        template = resources.files("harness") / "template"
        written = []
        for target, origin in FILES.items():
            text = (template / origin).read_text(encoding="utf-8").replace("NAME", name)
            path = folder / target
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text)
            written.append(path)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror}", where=str(error.filename or folder), remedy="name another folder"
        ) from error
    return written


def subject_name(text: str) -> str:
    """Make a name that `lockgate.yaml` accepts out of any folder's name: letters, digits, - and _, a letter first."""
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")
    return (kept if kept[:1].isalpha() else f"subject-{kept}".rstrip("-"))[:64]
