"""`lockgate policy new`: a policy and its suite that pass, for an author to replace rule by rule."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from harness.errors import ConfigError
from harness.policy_file import TEST_SUFFIX
from harness.policy_schema import POLICY_SCHEMA, TEST_SCHEMA, schema_files


def new_policy(name: str, folder: Path) -> list[Path]:
    """Write NAME.yaml, its suite, and the JSON Schemas where they are not there yet; returns the files written.

    No policy is overwritten: ConfigError where one of that name is there, or where nothing can be written.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise ConfigError(f"{name!r} cannot name a policy", where="NAME", remedy="write lower-case words and dashes")
    template = resources.files("harness") / "template"
    files = {
        folder / f"{name}{suffix}": (template / origin).read_text(encoding="utf-8").replace("NAME", name)
        for suffix, origin in ((".yaml", "policy.yaml.txt"), (TEST_SUFFIX, "policy.test.yaml.txt"))
    }
    for path in files:
        if path.exists():
            raise ConfigError("is there already", where=str(path), remedy="choose another name, or remove it")
    schemas = {folder / name: text for name, text in schema_files().items() if name in (POLICY_SCHEMA, TEST_SCHEMA)}
    files |= {path: text for path, text in schemas.items() if not path.exists()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(error.filename or folder)) from error
    return list(files)
