"""The private keys of a run: who made them, which is in force, the change from one to the next, and how they lie there.

A rotation, and what a crash after each step leaves:

    private/signing.key.next        the next private key: the log knows nothing of it, it is forgotten
    keys/log.pub, one line longer   the same: readers ignore a last line that the log never puts in force (FORMAT §2.2)
    the entry, signed by both       the head is by the next key, which is in force: it takes the old one's place
    rename over private/signing.key the old private key is gone

The rename is the end of the old key: nobody accepts what it signs any more but those who know no later head (FORMAT
§12.3), so that a copy kept would serve a thief alone. `key_in_force` finds out by the signature under the tree head
where a rotation stopped, and goes on from there, at every opening.

Rules. Whoever calls what writes here holds the run's lock. One passphrase opens all of a run's key files.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from harness.durable import sync_directory
from harness.entries import KeyRotated
from harness.errors import AuditError, ConfigError, KeyFileError
from harness.folder import RunFolder
from harness.journal import Journal, follow
from harness.keyfile import inside, is_encrypted
from harness.keys import Signer, VaultKey, Verifier, VerifierChain
from harness.notes import open_note
from harness.passphrase import Passphrase, PassphraseSource

_MAX_HEAD = 1 << 16


def unlock(folder: RunFolder, source: PassphraseSource, *others: Path) -> Passphrase | None:
    """The passphrase that the signing key, or one of the others, needs, asked for only where one does.

    For a run to come whose keys need none: what is offered, to encrypt those that it makes.
    """
    for path in (folder.signing_key, folder.next_signing_key, *others):
        if path.exists() and is_encrypted(path):
            return source.ask(str(path))
    return None if folder.exists else source.offered()


def make_keys(folder: RunFolder, name: str, passphrase: Passphrase | None, *, own: bool) -> Signer:
    """Make the signing key of a run to come. `own`: by the run itself, for nobody had configured one."""
    signer = Signer.generate(f"{name}-{secrets.token_hex(4)}")
    if own:  # before the key, lest a run that was cut here take it for one that somebody had made
        signer.verifier.save(folder.own_key)
    signer.save(folder.signing_key, passphrase)
    signer.verifier.save(folder.public_key)
    return signer


def key_in_force(folder: RunFolder, passphrase: Passphrase | None) -> Signer:
    """The key that signs; a rotation that was cut short is finished, or forgotten, first. KeyFileError, AuditError."""
    if not folder.next_signing_key.exists():
        return Signer.load(folder.signing_key, passphrase)
    old, new = (Signer.load(path, passphrase) for path in (folder.signing_key, folder.next_signing_key))
    head = _head(folder)
    if _signed(head, new.verifier):
        _take_over(folder)
        return new
    if not _signed(head, old.verifier):
        raise AuditError(
            "neither private key here has signed the tree head",
            where=str(folder.private),
            remedy="restore the newer key",
            clause="§3.2",
        )
    chain = VerifierChain.load(folder.public_key)
    if chain.last == new.verifier:
        VerifierChain.of(chain[:-1]).save(folder.public_key)
    folder.next_signing_key.unlink()
    sync_directory(folder.private)
    return old


def rotate(folder: RunFolder, journal: Journal, passphrase: Passphrase | None, reason: str) -> int:
    """Let a fresh key sign from here on; returns the index of the entry that says so. ConfigError inside a swap."""
    if journal.state.intent is not None:
        raise ConfigError(
            "a swap is open, and the log takes nothing else before its outcome",
            where=str(folder.root),
            remedy=f"`lockgate resume {folder.root}` finishes it",
        )
    successor = Signer.generate(journal.verifier.name)
    chain = VerifierChain.of(journal.state.keys).extend(successor.verifier)
    successor.save(folder.next_signing_key, passphrase)
    chain.save(folder.public_key)
    index = journal.rotate(successor, reason)
    _take_over(folder)
    return index


def change_passphrase(folder: RunFolder, old: Passphrase | None, new: Passphrase | None) -> list[Path]:
    """Write the key files in the run's folder again, under another passphrase or none; cut short, do it again."""
    if folder.next_signing_key.exists():
        key_in_force(folder, old)
    changed = []
    for kind, path in ((Signer, folder.signing_key), (VaultKey, folder.vault_key)):
        if not path.exists():
            continue
        try:
            key: Signer | VaultKey = kind.load(path, old)
        except KeyFileError:
            if new is None:
                raise
            key = kind.load(path, new)  # changed already, before it was cut
        key.save(path, new, replace=True)
        changed.append(path)
    return changed


def list_keys(folder: RunFolder, vault_key: Path) -> dict[str, Any]:
    """Every key that the log proves, the oldest first, and where its private half is. AuditError, StateError."""
    since = {0: 0} if folder.exists else {}
    keys: tuple[Verifier, ...] = VerifierChain.load(folder.public_key)
    if folder.exists:
        for step in follow(folder.log, keys):
            proven = step.state.keys
            if isinstance(step.entry, KeyRotated):
                since[len(proven) - 1] = step.index + 1
        keys = proven
    return {
        "origin": keys[0].name,
        "keys": [
            {
                "vkey": key.vkey,
                "digest": key.key_digest,
                "since": since.get(number),
                "in_force": number == len(keys) - 1,
                "private": _private_half(folder, key),
            }
            for number, key in enumerate(keys)
        ],
        "vault_key": _vault_key(vault_key),
        **standing(folder),
    }


def standing(folder: RunFolder) -> dict[str, Any]:
    """Who made the run's keys, whether they are encrypted (None: not to be seen), and what that means, in words."""
    own = encrypted = None
    try:
        own = folder.own_key.exists() and Verifier.load(folder.own_key) == VerifierChain.load(folder.public_key).first
        encrypted = is_encrypted(folder.signing_key)
    except KeyFileError:
        pass
    told = []
    if own:
        told.append(
            "The run made its own key: who can write its folder could have replaced key and log together, "
            "until somebody keeps a copy of keys/log.pub elsewhere. Keep one now."
        )
    if encrypted is False:
        told.append(
            "The private key is not encrypted: who can read it can sign as this run. "
            "`lockgate keys passphrase` encrypts it."
        )
    return {"own": bool(own), "encrypted": encrypted, "meaning": " ".join(told)}


def _private_half(folder: RunFolder, key: Verifier) -> str:
    """Where the private half of a key is, as far as can be told without a passphrase."""
    for path in (folder.signing_key, folder.next_signing_key):
        try:
            if not is_encrypted(path):
                if Signer.load(path).verifier == key:
                    return "here, not encrypted"
            elif inside(path) == key.vkey:
                return "here, encrypted"
        except KeyFileError:
            continue
    return "not here"


def _vault_key(path: Path) -> dict[str, Any]:
    """Where the vault key is, and its commitment; of an encrypted one as its header has it."""
    if not path.exists():
        return {"path": str(path), "commitment": None, "private": "not here"}
    if is_encrypted(path):
        return {"path": str(path), "commitment": inside(path), "private": "here, encrypted"}
    return {"path": str(path), "commitment": VaultKey.load(path).commitment(), "private": "here, not encrypted"}


def _take_over(folder: RunFolder) -> None:
    folder.next_signing_key.rename(folder.signing_key)
    sync_directory(folder.private)


def _head(folder: RunFolder) -> bytes:
    try:
        with (folder.log / "checkpoint").open("rb") as file:
            return file.read(_MAX_HEAD)
    except OSError as error:
        raise AuditError(f"the tree head cannot be read: {error.strerror}", where=str(folder.log)) from error


def _signed(head: bytes, verifier: Verifier) -> bool:
    try:
        open_note(head, [verifier])
    except AuditError:
        return False
    return True
