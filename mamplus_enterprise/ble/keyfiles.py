# SPDX-License-Identifier: Apache-2.0
"""Key files on their way: to a stick, from a stick, onto a token."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported in its documents

from mamplus_enterprise.ble import hsm, repository
from mamplus_enterprise.ble.keys import (
    Signers,
    belongs,
    key_files,
    key_path,
    load_private,
    named_id,
    places,
    write_key,
)
from mamplus_enterprise.ble.repository import State
from mamplus_enterprise.ble.roles import ALL, FIELD, MAINTENANCE, NAMED, OFFLINE, SEAL, SIGNING
from mamplus_enterprise.ble.rotation import Wish, rotate
from mamplus_enterprise.errors import KeysUnavailable
from mamplus_enterprise.home import Home
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import sync_directory, write_whole


def listed(home: Home, folders: Iterable[Path]) -> list[dict[str, str]]:
    """Return every key file with its role, its kind, and whether the role still has that key."""
    state = repository.read(home)
    return [_shown(state, role, path) for role in ALL for path in key_files(list(folders), role)]


def _shown(state: State, role: str, path: Path) -> dict[str, str]:
    kind = "token" if path.suffix == ".uri" else "encrypted" if b"ENCRYPTED" in path.read_bytes()[:64] else "plain"
    trusted = role in NAMED or belongs(path, state.keyids(role))
    return {"role": role, "file": str(path), "kind": kind, "state": "in use" if trusted else "not of this role"}


def export(home: Home, role: str, out: Path, *, keep: bool) -> list[Path]:
    """Copy the keys of `role` to the directory `out`, then remove them here unless they are to be kept."""
    if role not in ALL:
        raise ConfigInvalid(f"there is no role {role!r}; want one of {', '.join(ALL)}")
    paths = key_files([home.keys], role)
    if not paths:
        raise KeysUnavailable(f"no key of {role} is in {str(home.keys)!r}; `root show` says where they are")
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    copies = [out / path.name for path in paths]
    for path, copy in zip(paths, copies, strict=True):
        if copy.exists():
            raise ConfigInvalid(f"{str(copy)!r} is there already; say another directory")
        write_whole(copy, path.read_bytes(), mode=0o600)
    sync_directory(out)  # before the only other copy goes
    for path in () if keep else paths:
        path.unlink()
    return copies


def take_in(home: Home, file: Path, passphrase: bytes | None) -> tuple[str, Path]:
    """Write the key in `file` into DIR/keys; return its role. ConfigInvalid when no role has it."""
    if passphrase is None and not home.settings.dev:
        raise ConfigInvalid("this enterprise keeps its keys encrypted; say --passphrase-file FILE")
    private = load_private(file, passphrase)
    state = repository.read(home)
    if isinstance(private, X25519PrivateKey):
        is_ours = state.root.unrecognized_fields[FIELD]["seal"] == private.public_key().public_bytes_raw().hex()
        keyid, having = named_id(private), [SEAL] if is_ours else []
    elif isinstance(private, Ed25519PrivateKey):
        keyid = CryptoSigner(private).public_key.keyid
        having = [role for role in SIGNING if keyid in state.keyids(role)]
        if state.root.unrecognized_fields[FIELD].get(MAINTENANCE) == private.public_key().public_bytes_raw().hex():
            keyid, having = named_id(private), [MAINTENANCE]
    else:
        raise ConfigInvalid(f"{str(file)!r} holds a {type(private).__name__}, want an Ed25519 or X25519 key")
    if not having:
        raise ConfigInvalid(f"no role of this enterprise has the key in {str(file)!r} (id {keyid[:16]})")
    path = key_path(home.keys, having[0], keyid)
    write_key(path, private, None if home.settings.dev else passphrase)
    return having[0], path


def use(home: Home, signers: Signers, role: str, uri: str, *, folders: Sequence[Path], keep: bool) -> tuple[Path, int]:
    """Make a token's key the key of `role` (`keep`: one of them); return its `.uri` file and the root's version."""
    if role not in SIGNING:
        raise ConfigInvalid(f"a token cannot sign for {role!r}; want one of {', '.join(SIGNING)}")
    signer = hsm.adopt(uri)
    keyid = signer.public_key.keyid
    # The note of an online role's key is no secret, and whoever publishes looks for it in DIR/keys.
    where = places(role, folders) if role in OFFLINE else folders
    path = key_path(where[0], role, keyid, "uri")
    if keyid in repository.read(home).keyids(role):  # the note was lost, or the stick is new
        hsm.write_reference(path, uri, signer.public_key)
        return path, repository.read(home).root.version
    done = rotate(home, signers, Wish(roles=(role,), adopted=signer, keep=keep), folders, None)
    hsm.write_reference(path, uri, signer.public_key)
    return path, done.version
