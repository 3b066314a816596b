# SPDX-License-Identifier: Apache-2.0
"""The keys that sign the repository: Ed25519, one a role, PKCS#8 files in DIR/keys.

Publishing needs targets, snapshot and timestamp. The root key is needed by `init` and
to renew the root: between these it may lie on a stick in a safe.
"""

from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported in its documents

from mamplus_enterprise.errors import KeysUnavailable
from mamplus_enterprise.home import Home
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import write_whole

ROLES = ("root", "targets", "snapshot", "timestamp")
PUBLISHING = ("targets", "snapshot", "timestamp")
MAX_PASSPHRASE_BYTES = 1024
Signers = dict[str, CryptoSigner]


def read_passphrase(path: Path | None) -> bytes | None:
    """Return the first line of `path`; ConfigInvalid when it is empty, unreadable or too long."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            line = file.read(MAX_PASSPHRASE_BYTES + 1).split(b"\n")[0].rstrip(b"\r")
    except OSError as error:
        raise ConfigInvalid(f"--passphrase-file {str(path)!r}: {error.strerror}; want a readable file") from None
    if not 0 < len(line) <= MAX_PASSPHRASE_BYTES:
        raise ConfigInvalid(
            f"--passphrase-file {str(path)!r}: its first line has {len(line)} bytes, want 1 to {MAX_PASSPHRASE_BYTES}"
        )
    return line


def encryption(passphrase: bytes | None) -> KeySerializationEncryption:
    return NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)


def make_keys(folder: Path, passphrase: bytes | None) -> tuple[Signers, str]:
    """Write a new key for every role; return the signers and the enterprise's id (hash of the root key)."""
    signers = {}
    for role in ROLES:
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption(passphrase))
        write_whole(folder / f"{role}.pem", pem, mode=0o600)
        signers[role] = CryptoSigner(private)
    public = bytes.fromhex(signers["root"].public_key.keyval["public"])
    return signers, sha256(public).hexdigest()


def load_signers(home: Home, passphrase: bytes | None, roles: tuple[str, ...] = PUBLISHING) -> Signers:
    """Return the signers of `roles`; KeysUnavailable names the key and what it lacks."""
    return {role: CryptoSigner(_ed25519(home.keys / f"{role}.pem", passphrase)) for role in roles}


def load_root_signer(home: Home, passphrase: bytes | None) -> Signers:
    """Return the root's signer, or nothing where its key is kept elsewhere."""
    return load_signers(home, passphrase, ("root",)) if (home.keys / "root.pem").exists() else {}


def _ed25519(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    key = load_private(path, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeysUnavailable(f"{str(path)!r} holds a {type(key).__name__}, want an Ed25519 key: restore it")
    return key


def load_private(path: Path, passphrase: bytes | None) -> PrivateKeyTypes:
    """Return the key in `path`. A passphrase that an unencrypted key does not need is ignored."""
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise KeysUnavailable(f"key {str(path)!r}: {error.strerror}; put it back, or restore a backup") from None
    encrypted = b"ENCRYPTED" in pem.split(b"\n", 1)[0]
    if encrypted and passphrase is None:
        raise KeysUnavailable(f"key {str(path)!r} is encrypted; say --passphrase-file FILE")
    try:
        return load_pem_private_key(pem, passphrase if encrypted else None)
    except ValueError:
        raise KeysUnavailable(f"key {str(path)!r} cannot be read: wrong passphrase, or it is damaged") from None
