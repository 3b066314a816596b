# SPDX-License-Identifier: Apache-2.0
"""New keys for a role: the next root, signed by what was trusted and by what will be.

What devices believe moves from one version to the next, so a device that missed several
follows them one by one. Everything that the new keys must sign is signed and written first, by the
old keys too as far as they are at hand; the new root comes last. So there is no moment at which
a device is told something that neither root accepts. A rotated snapshot or timestamp key makes
devices forget the versions that the old one signed: the way back after a fast-forward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from securesystemslib.signer import Signer  # type: ignore[attr-defined]  # re-exported in its documents

from mamplus_enterprise.ble import repository, roles
from mamplus_enterprise.ble.keys import (
    REVOKED,
    Signers,
    belongs,
    key_files,
    make_named,
    make_signer,
    places,
    written_files,
)
from mamplus_enterprise.ble.repository import State
from mamplus_enterprise.ble.roles import CARRIER, DELEGATED, FIELD, MAINTENANCE, NAMED, TOP_LEVEL, Quorum
from mamplus_enterprise.home import Home
from mamplus_enterprise.lock import locked
from mamplus_host.errors import ConfigInvalid
from mamplus_host.files import sync_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be rotated, and to what."""

    roles: Sequence[str]
    quorum: Quorum | None = None  # None: as it is
    adopted: Signer | None = None  # the one new key, on a token; None: new files are made
    keep: bool = False  # add the adopted key to those that the role has


@dataclass(frozen=True, slots=True)
class Rotated:
    """What came of it."""

    version: int  # of the root
    keyids: Mapping[str, list[str]]  # by role, the new keys
    files: Mapping[str, list[Path]]  # by role, what was written; none for a token's key


def rotate(home: Home, signers: Signers, wish: Wish, folders: Sequence[Path], passphrase: bytes | None) -> Rotated:
    """Give the roles new keys, their files beside the old ones (`keys.places`), and publish the root that says so.

    KeysUnavailable when the keys that must sign are not at hand; then nothing has changed.
    """
    _check(wish)
    with locked(home.publish_lock):
        state = repository.read(home)
        _want_keys(state, signers, wish)
        before = {role: list(having) for role, having in signers.items()}
        fresh = {role: _new_keys(state, role, wish, folders, passphrase) for role in wish.roles}
        gone = {role: _replace(state, role, fresh[role], wish) for role in wish.roles if role not in NAMED}
        for role in (role for role in wish.roles if role in NAMED):
            gone[role] = _renamed(state, role, places(role, folders)[0], passphrase)
        after = {**signers, **{role: [*signers.get(role, []), *new] for role, new in fresh.items()}}
        _publish(home, state, after, before, wish)
    _put_away(folders, gone)
    return _rotated(state, fresh, folders)


def _rotated(state: State, fresh: Mapping[str, Sequence[Signer]], folders: Sequence[Path]) -> Rotated:
    keyids = {role: [one.public_key.keyid for one in new] for role, new in fresh.items()}
    keyids |= {role: [_named_id(state, role)] for role in keyids if role in NAMED}
    files = {role: written_files(folders, role, new) for role, new in keyids.items()}
    return Rotated(state.root.version, keyids, files)


def _renamed(state: State, role: str, folder: Path, passphrase: bytes | None) -> list[str]:
    """Have the root name a new key; return the ids of those whose files go away: what was sealed must stay legible."""
    field = state.root.unrecognized_fields[FIELD]
    gone = [_named_id(state, role)] if role == MAINTENANCE and role in field else []
    field[role] = make_named(folder, role, passphrase)
    return gone


def _named_id(state: State, role: str) -> str:
    return sha256(bytes.fromhex(state.root.unrecognized_fields[FIELD][role])).hexdigest()


def _check(wish: Wish) -> None:
    unknown = [role for role in wish.roles if role not in roles.ALL]
    if unknown or not wish.roles:
        raise ConfigInvalid(
            f"there is no role {', '.join(unknown) or '(none said)'}; want some of {', '.join(roles.ALL)}"
        )
    if wish.quorum and any(role in (*NAMED, CARRIER) for role in wish.roles) and wish.quorum != Quorum():
        raise ConfigInvalid("carrier, seal and maintenance have one key each; say no threshold for them")
    if wish.quorum and "timestamp" in wish.roles and wish.quorum.threshold != 1:
        raise ConfigInvalid("one key signs a timestamp: the carriers' has none beside it; say no --threshold for it")
    if wish.adopted is not None and (len(wish.roles) != 1 or wish.roles[0] in NAMED):
        raise ConfigInvalid("a token's key signs for one role, and not for seal or maintenance; say one")


def _want_keys(state: State, signers: Signers, wish: Wish) -> None:
    """Raise KeysUnavailable before anything is made."""
    needed = {"snapshot", "timestamp"} - set(wish.roles)
    needed |= {"root"} if set(wish.roles) & {*TOP_LEVEL, CARRIER, *NAMED} else set()
    needed |= {"targets"} if set(wish.roles) & set(DELEGATED) and "targets" not in wish.roles else set()
    for role in sorted(needed):
        repository.sign(state, role, signers, state.signed(role))


def _new_keys(state: State, role: str, wish: Wish, folders: Sequence[Path], passphrase: bytes | None) -> list[Signer]:
    if role in NAMED:
        return []
    if wish.adopted is not None:
        if wish.adopted.public_key.keyid in state.keyids(role):
            raise ConfigInvalid(f"role {role} has this key already; one key signs once, whatever the threshold")
        return [wish.adopted]
    count = wish.quorum.keys if wish.quorum else len(state.keyids(role))
    where = places(role, folders)
    return [make_signer(where[number % len(where)], role, passphrase) for number in range(count)]


def _replace(state: State, role: str, fresh: Sequence[Signer], wish: Wish) -> list[str]:
    """Put the new keys into the state in the place of the old ones; return the old ones' ids."""
    gone = [] if wish.keep else state.keyids(role)
    holder = state.targets if role in DELEGATED else state.root
    name = "timestamp" if role == CARRIER else role
    for signer in fresh:
        holder.add_key(signer.public_key, name)
    for keyid in gone:
        holder.revoke_key(keyid, name)
    if role == CARRIER:
        state.root.unrecognized_fields[FIELD]["carrier"] = [one.public_key.keyid for one in fresh]
    if wish.quorum is not None and role != CARRIER:
        delegator = state.targets if role in DELEGATED else state.root
        delegator.get_delegated_role(role).threshold = wish.quorum.threshold
    _want_quorum(state, role)
    return gone


def _want_quorum(state: State, role: str) -> None:
    keys, threshold = len(state.keyids(role)), state.threshold(role)
    if threshold > keys:
        raise ConfigInvalid(f"role {role} would want {threshold} of {keys} keys; say --threshold, or keep the others")


def _publish(home: Home, state: State, signers: Signers, before: Signers, wish: Wish) -> None:
    delegated = [role for role in wish.roles if role in DELEGATED]
    has_new_root = bool(set(wish.roles) - set(DELEGATED))
    changed = [*delegated, *(["targets"] if delegated or "targets" in wish.roles else [])]
    if has_new_root:
        state.root.version += 1
        state.root.expires = roles.expiry("root")
        repository.sign(state, "root", signers, state.root, beside=before.get("root", ()))  # for its error, in time
    repository.save(home, signers, state, changed, also=before)
    if has_new_root:
        repository.write_root(home, state, signers, also=before)


def _put_away(folders: Sequence[Path], gone: Mapping[str, Sequence[str]]) -> None:
    """Move the files of revoked keys to where nothing loads them."""
    for role, keyids in gone.items():
        for path in key_files(folders, role):
            if belongs(path, keyids):
                away = path.parent / REVOKED
                away.mkdir(mode=0o700, exist_ok=True)
                path.rename(away / path.name)
                sync_directory(away)


def shown(home: Home, folders: Sequence[Path]) -> dict[str, object]:
    """Return root and delegations for people and programs: who signs, how many must, where the keys are."""
    state = repository.read(home)
    listed: list[dict[str, object]] = [
        {
            "role": role,
            "threshold": state.threshold(role),
            "keys": [_key(folders, role, keyid) for keyid in state.keyids(role)],
            "expires": None if role == CARRIER else f"{state.signed(role).expires:%Y-%m-%dT%H:%M:%SZ}",
        }
        for role in roles.SIGNING
    ]
    field = state.root.unrecognized_fields[FIELD]
    named = {role: field.get(role, "") for role in roles.NAMED}
    listed += [_named(folders, role, public) for role, public in named.items() if public]
    return {"version": state.root.version, "roles": listed, **named, "aged": repository.aged(home)}


def _named(folders: Sequence[Path], role: str, public: str) -> dict[str, object]:
    """Return a role whose key signs no metadata, so that no signature of it ends; `public` is hex."""
    keyid = sha256(bytes.fromhex(public)).hexdigest()
    return {"role": role, "threshold": 0, "keys": [_key(folders, role, keyid)], "expires": None}


def _key(folders: Sequence[Path], role: str, keyid: str) -> dict[str, str]:
    path = next((path for path in key_files(folders, role) if belongs(path, [keyid])), None)
    kinds = {".pem": "file", ".uri": "token"}
    return {"keyid": keyid, "where": "elsewhere" if path is None else f"{kinds[path.suffix]} {path}"}
