# SPDX-License-Identifier: Apache-2.0
"""Found an enterprise: keys, repository, database, certificate, admin token (`init`)."""

import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import msgspec

from mamplus_enterprise.ble import repository
from mamplus_enterprise.ble.keys import Signers, make_named, make_signer, places
from mamplus_enterprise.ble.roles import NAMED, SIGNING, Quorum
from mamplus_enterprise.ble.shelf import LayerChange
from mamplus_enterprise.errors import EnterpriseError
from mamplus_enterprise.home import Home, Settings
from mamplus_enterprise.storage import migrate
from mamplus_enterprise.storage.schema import GenerationRow
from mamplus_enterprise.storage.store import Store, note
from mamplus_enterprise.tls import make_certificate
from mamplus_host.ble.encode import encode
from mamplus_host.ble.format import Generation
from mamplus_host.ble.layer import Layer
from mamplus_host.files import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What `init` is asked for."""

    name: str
    url: str = ""
    hosts: Sequence[str] = ()  # names and addresses in the certificate, besides this machine's
    dev: bool = False
    passphrase: bytes | None = None
    quorums: Mapping[str, Quorum] = field(default_factory=dict)  # of root and targets; one key each where missing
    offline: Sequence[Path] = ()  # where the keys of root and targets go, in turn; none: DIR/keys


def found(directory: Path, wishes: Wishes) -> Home:
    """Make the enterprise in `directory`, which must be missing or empty; EnterpriseError otherwise.

    What was made is removed again when something fails: a half enterprise would look like one.
    """
    existed = _claim(directory)
    try:
        return _fill(directory, wishes)
    except BaseException:
        for path in directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not existed:
            directory.rmdir()
        raise


def _claim(directory: Path) -> bool:
    try:
        existed = directory.is_dir()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise EnterpriseError(f"{str(directory)!r} is not empty; say a new directory, nothing was changed")
    except OSError as error:
        raise EnterpriseError(f"cannot make {str(directory)!r}: {error.strerror}; say another directory") from None
    return existed


def _fill(directory: Path, wishes: Wishes) -> Home:
    keys = directory / "keys"
    keys.mkdir(mode=0o700)
    signers = _make_signers(keys, wishes)
    home = Home(directory, Settings(_enterprise_id(signers), wishes.name, wishes.url.rstrip("/"), wishes.dev))
    make_certificate(keys, wishes.name, wishes.hosts, wishes.passphrase)
    write_whole(directory / "admin.token", secrets.token_urlsafe(32).encode() + b"\n", mode=0o600)
    now_s = time.time()
    named = {role: make_named(keys, role, wishes.passphrase) for role in NAMED}
    repository.create(home, signers, named, [_empty(layer, int(now_s)) for layer in Layer], wishes.quorums)
    store = Store(home)
    try:
        migrate.upgrade(store.engine)
        home.database.chmod(0o600)
        with store.writing() as session:
            session.add(GenerationRow(number=1, created_at=now_s, entries=0, why="founded", layers={}))
            note(session, who="init", what="founded", subject=wishes.name, detail="development" if wishes.dev else "")
    finally:
        store.close()
    # Last, and what `Home.open` looks for: a power cut before leaves no enterprise.
    write_whole(directory / "enterprise.json", msgspec.json.format(msgspec.json.encode(home.settings)), mode=0o644)
    return home


def _make_signers(keys: Path, wishes: Wishes) -> Signers:
    signers: Signers = {}
    for role in SIGNING:
        where = places(role, [keys, *wishes.offline])
        count = wishes.quorums.get(role, Quorum()).keys
        signers[role] = [make_signer(where[at % len(where)], role, wishes.passphrase) for at in range(count)]
    return signers


def _enterprise_id(signers: Signers) -> str:
    return sha256(bytes.fromhex(signers["root"][0].public_key.keyval["public"])).hexdigest()


def _empty(layer: Layer, now_s: int) -> LayerChange:
    data = encode([], generation=1, created_s=now_s, may_shrink=True)
    return LayerChange(layer=layer, number=1, entries=0, root=Generation(data).root, full=data)
