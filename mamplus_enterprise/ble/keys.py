# SPDX-License-Identifier: Apache-2.0
"""The private keys: one file a key, `<role>.<start of its id>.pem`, in DIR/keys or on another disk.

PKCS#8, encrypted with the passphrase of --passphrase-file; only an enterprise made with --dev has
them plain. Ed25519, but for `seal`: X25519. A key on a PKCS#11 token leaves a `.uri` file in the place
of its `.pem` (`hsm.py`). What was revoked lies in `revoked/` and is never loaded.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, Signer  # type: ignore[attr-defined]  # re-exported in its documents

from mamplus_enterprise.ble.hsm import load_token_signer
from mamplus_enterprise.ble.roles import MAINTENANCE, OFFLINE, ONLINE, SEAL, SERVING
from mamplus_enterprise.errors import KeysUnavailable
from mamplus_enterprise.home import Home
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import write_whole

MAX_PASSPHRASE_BYTES = 1024
REVOKED = "revoked"
_ID_DIGITS = 16  # of the key's id, in the name of its file
Signers = dict[str, list[Signer]]  # by role; a role without a key at hand is missing


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


def make_signer(folder: Path, role: str, passphrase: bytes | None) -> CryptoSigner:
    """Write a new signing key of `role` and return its signer."""
    private = Ed25519PrivateKey.generate()
    signer = CryptoSigner(private)
    write_key(key_path(folder, role, signer.public_key.keyid), private, passphrase)
    return signer


def make_named(folder: Path, role: str, passphrase: bytes | None) -> str:
    """Write a new key of a role that the root names (`roles.NAMED`); return its public half, hex."""
    private = X25519PrivateKey.generate() if role == SEAL else Ed25519PrivateKey.generate()
    write_key(key_path(folder, role, named_id(private)), private, passphrase)
    return private.public_key().public_bytes_raw().hex()


def named_id(private: X25519PrivateKey | Ed25519PrivateKey) -> str:
    return sha256(private.public_key().public_bytes_raw()).hexdigest()


def load_maintenance(
    home: Home, public: str, passphrase: bytes | None, elsewhere: Sequence[Path] = ()
) -> Ed25519PrivateKey:
    """Return the key whose public half (hex) the root names; KeysUnavailable when it is not at hand."""
    for path in key_files(key_folders(home, elsewhere), MAINTENANCE):
        key = load_private(path, passphrase)
        if isinstance(key, Ed25519PrivateKey) and key.public_key().public_bytes_raw().hex() == public:
            return key
    raise KeysUnavailable(
        "the key for maintenance codes is not here; bring it with --keys DIR, or make one:"
        " mamplus-enterprise root rotate --role maintenance"
    )


def written_files(folders: Sequence[Path], role: str, keyids: Iterable[str]) -> list[Path]:
    """Return where the keys with these ids lie."""
    wanted = list(keyids)
    return [path for path in key_files(folders, role) if belongs(path, wanted)]


def write_key(path: Path, private: PrivateKeyTypes, passphrase: bytes | None) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption(passphrase)), mode=0o600)


def key_path(folder: Path, role: str, keyid: str, kind: str = "pem") -> Path:
    return folder / f"{role}.{keyid[:_ID_DIGITS]}.{kind}"


def key_files(folders: Iterable[Path], role: str) -> list[Path]:
    """Return the files of `role`'s keys in `folders`, tokens' included."""
    found = [path for folder in folders for kind in ("pem", "uri") for path in sorted(folder.glob(f"{role}.*.{kind}"))]
    return list({path.name: path for path in reversed(found)}.values())[::-1]


def belongs(path: Path, keyids: Iterable[str]) -> bool:
    """Whether the file at `path` is that of one of the keys."""
    return path.name.split(".")[1] in {keyid[:_ID_DIGITS] for keyid in keyids}


def load_signers(
    home: Home, passphrase: bytes | None, roles: Iterable[str] = ONLINE, elsewhere: Sequence[Path] = ()
) -> Signers:
    """Return the signers of `roles` whose keys are in DIR/keys or in `elsewhere`.

    KeysUnavailable names a key that is there and cannot be read. Who signs says which are missing.
    """
    folders = key_folders(home, elsewhere)
    loaded = {role: [load_signer(path, passphrase) for path in key_files(folders, role)] for role in roles}
    return {role: signers for role, signers in loaded.items() if signers}


class Keyring:
    """The signers of a server that runs: read again when the files are others, as after `root rotate`."""

    def __init__(self, home: Home, passphrase: bytes | None, roles: Iterable[str] = ONLINE) -> None:
        """KeysUnavailable when a key that is there cannot be read."""
        self._home, self._passphrase, self._roles = home, passphrase, tuple(roles)
        self._lock = threading.Lock()
        self._seen = self._look()
        self._signers = load_signers(home, passphrase, self._roles)

    def signers(self) -> Signers:
        """Return the signers; KeysUnavailable when a key has come that cannot be read."""
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._signers, self._seen = load_signers(self._home, self._passphrase, self._roles), seen
            return self._signers

    def _look(self) -> list[tuple[str, int]]:
        files = [path for role in self._roles for path in key_files([self._home.keys], role)]
        try:
            return [(path.name, path.stat().st_mtime_ns) for path in files]
        except FileNotFoundError:  # one is just being put away
            return []


def key_folders(home: Home, elsewhere: Sequence[Path]) -> list[Path]:
    """Return where keys are looked for: DIR/keys first, then what --keys named."""
    return [home.keys, *elsewhere]


def places(role: str, folders: Sequence[Path]) -> list[Path]:
    """Return where new keys of `role` go, in turn: where its keys are; else to --keys (offline roles) or DIR/keys.

    Those of snapshot and timestamp always go to DIR/keys: --keys may name a copy, and every publisher needs them.
    """
    if role in SERVING:
        return [folders[0]]
    having = list(dict.fromkeys(path.parent for path in key_files(folders, role)))
    return having or (list(folders[1:]) if role in OFFLINE else []) or [folders[0]]


def load_signer(path: Path, passphrase: bytes | None) -> Signer:
    """Return the signer of one key file."""
    if path.suffix == ".uri":
        return load_token_signer(path)
    key = load_private(path, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeysUnavailable(f"{str(path)!r} holds a {type(key).__name__}, want an Ed25519 key: restore it")
    return CryptoSigner(key)


def load_seals(home: Home, passphrase: bytes | None, elsewhere: Sequence[Path] = ()) -> Iterator[X25519PrivateKey]:
    """Yield the keys that devices encrypted for; earlier ones too: a stick may take months."""
    folders = key_folders(home, elsewhere)
    for path in key_files([*folders, *(folder / REVOKED for folder in folders)], SEAL):
        key = load_private(path, passphrase)
        if not isinstance(key, X25519PrivateKey):
            raise KeysUnavailable(f"{str(path)!r} holds a {type(key).__name__}, want an X25519 key: restore it")
        yield key


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
