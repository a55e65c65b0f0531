"""A run's log told again with a lie in it, by whoever holds the run's own key: signed rightly, entry by entry."""

from __future__ import annotations

import json
import shutil

import rigs

from harness.artifacts import BlobStore
from harness.auditlog import AuditLog
from harness.canonical import canonical_bytes
from harness.envelope import seal
from harness.folder import RunFolder
from harness.keys import Signer
from harness.kinds import kind_of, subjects_of


def told_again(run, change):
    """Write the run's log anew, each body changed by `change(kind, body, blobs)`, all signed by the run's own key.

    What is no body of its kind any more is signed as well, about what it was about.
    """
    folder = RunFolder(run)
    signer, blobs = Signer.load(folder.signing_key), BlobStore(folder.blobs)
    entries = rigs.trail_of(run)[1]
    shutil.rmtree(folder.log)
    with AuditLog.create(folder.log, signer, signer.name) as log:
        for entry in entries:
            kind, body = kind_of(entry), entry.json_value()
            change(kind, body, blobs)
            log.append([seal(kind, body, subjects_of(entry.model_copy(update=_known(entry, body))), signer)])
    return folder


def edited(blobs, name, edit):
    """Keep a blob like this one with something changed, and name it."""
    value = json.loads(blobs.get(name))
    edit(value)
    return blobs.put(canonical_bytes(value))


def _known(entry, body):
    """Give what of a changed body an entry's subjects follow from: digests, and what is left out."""
    return {
        name: body.get(name)
        for name in type(entry).model_fields
        if isinstance(body.get(name), str | None) and isinstance(getattr(entry, name), str | None)
    }
