# SPDX-License-Identifier: Apache-2.0
"""The process behind `update.py`: here python-tuf is loaded, and gone when it ends.

    python -m mamplus_host.ble.update_helper --state DIR (--network | --source SRC | --compact) --json

One update at a time: a lock in the state directory, waited for a bounded time. A power cut
at any moment leaves the old generation or the new one.
"""

import argparse
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import BadStatusLine
from pathlib import Path

import msgspec

from mamplus_host import errors
from mamplus_host.ble.apply import DeltaMisfit
from mamplus_host.ble.carrier import Missing, Source, open_local
from mamplus_host.ble.layer import Layer
from mamplus_host.ble.network import Network
from mamplus_host.ble.record import NETWORK, Installed, Part
from mamplus_host.ble.store import BleStore, is_long
from mamplus_host.ble.trust import Held, Offered, Trust
from mamplus_host.ble.update import TOTAL_S, FetchResult, Prepared
from mamplus_host.clock import DeviceClock
from mamplus_host.enterprise import Enterprise, load_enterprise
from mamplus_host.errors import ConfigInvalid, EnrollRefused, MamplusError, NotPossible, UplinkFailed
from mamplus_host.files import no_room
from mamplus_host.pinned import Endpoint, stranger
from mamplus_host.policy import policy

LOCK_WAIT_S = 60.0  # for another update to end
CONNECT_TIMEOUT_S = 5.0
REPOSITORY = "/repo/"
_LOCK_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class _Verified:
    """What earned trust, checked and ready to be installed."""

    store: BleStore
    clock: DeviceClock
    trust: Trust
    offered: Offered
    before: Installed | None
    record: Installed
    verified_ns: int  # CLOCK_MONOTONIC


@contextmanager
def _verified(state: Path, source: str | None, total_s: float, lock_wait_s: float) -> Iterator[_Verified]:
    """Fetch, verify and check what is offered, and hold the lock of all updates meanwhile."""
    enterprise = load_enterprise(state)
    if enterprise is None:
        raise EnrollRefused("this device is not enrolled; run: mamplus enroll URL --token TOKEN")
    store, clock = BleStore(state), DeviceClock(state)
    with _lock(store.folder, lock_wait_s), _work(store.folder) as work:
        before = _before(store, enterprise)
        trust = Trust(state, device_id=enterprise.device_id)
        with _source(enterprise, source, work, total_s) as opened:
            offered = trust.verify(opened, work / "1", held_of(before), now_s=clock.accept_s)
            verified_ns = time.monotonic_ns()
            try:
                record = _prepared(store, offered, before, source or NETWORK, enterprise)
            except DeltaMisfit as misfit:  # what is installed is not what the record says of it: the list mends it
                store.note = f"{misfit}; took the whole list"
                offered = trust.verify(opened, work / "2", held_of(before), now_s=clock.accept_s, lists_only=True)
                record = _prepared(store, offered, before, source or NETWORK, enterprise)
        yield _Verified(store, clock, trust, offered, before, record, verified_ns)


def update_here(
    state: Path, source: str | None, *, total_s: float = TOTAL_S, lock_wait_s: float = LOCK_WAIT_S
) -> FetchResult:
    """What `update` does, in this process."""
    began = time.monotonic()
    with _verified(state, source, total_s, lock_wait_s) as found:
        store, offered, record = found.store, found.offered, found.record
        if offered.is_new:
            store.install(msgspec.structs.replace(record, bytes=offered.bytes))
        # Not before: a new key excuses a number that falls only while the old key is what is remembered of its role.
        found.trust.remember()
        # The enterprise's time: the device's clock cannot be before it.
        found.clock.confirm(offered.signed_at_s, offered.time_signers, trusted=offered.time_keys)
        store.note = _keep_policy(state, offered.policy) or store.note
    return FetchResult(
        generation=record.number, entries=record.entries, new=offered.is_new,
        took_s=round(time.monotonic() - began, 3), note=store.note, bytes=offered.bytes,
        layers={layer.layer: layer.number for layer in record.layers},
        patched=[part.name for part in _added(record, found.before)], verified_ns=found.verified_ns,
        is_long=any(map(is_long, record.layers)),
    )  # fmt: skip


def prepare_here(
    state: Path, source: str | None, *, total_s: float = TOTAL_S, lock_wait_s: float = LOCK_WAIT_S
) -> Prepared:
    """What `prepare` does, in this process."""
    with _verified(state, source, total_s, lock_wait_s) as found:
        known = {part.name for record in found.store.records() for part in record.parts}
        fresh = [part.name for part in found.record.parts if part.name not in known]
        return Prepared(
            record=found.record, new=found.offered.is_new, fresh=fresh, bytes=found.offered.bytes,
            note=found.store.note,
        )  # fmt: skip


def compact_here(state: Path, *, lock_wait_s: float = LOCK_WAIT_S) -> bool:
    """What `compact` does, in this process."""
    store = BleStore(state)
    with _lock(store.folder, lock_wait_s):
        return store.compact()


def _before(store: BleStore, enterprise: Enterprise) -> Installed | None:
    """Return what is installed, when it is this enterprise's."""
    installed = store.installed()
    return installed if installed and installed.enterprise_id in ("", enterprise.enterprise_id) else None


def held_of(before: Installed | None) -> dict[Layer, Held]:
    """Return what is installed of each layer, as `trust` asks for it."""
    layers = before.layers if before else ()
    return {
        one.which: Held(one.number, one.entries, bytes.fromhex(one.root), one.created_s) for one in layers
    }  # fmt: skip


def _prepared(
    store: BleStore, offered: Offered, before: Installed | None, source: str, enterprise: Enterprise
) -> Installed:
    """Return the record of what is offered; `before` when that is nothing new."""
    if before is not None and not offered.is_new:
        return before
    return store.prepare(offered.layers, before, source=source, enterprise_id=enterprise.enterprise_id)


def _keep_policy(state: Path, data: bytes | None) -> str:
    """Make the policy this device's; return what is wrong with it. A policy that it cannot read stops no list."""
    try:
        if data is not None and (not policy.path_of(state).exists() or policy.path_of(state).read_bytes() != data):
            policy.keep(state, data)
    except ConfigInvalid as error:
        return f"the enterprise's policy cannot be used ({error}); keeping the one before"
    return ""


def _added(record: Installed, before: Installed | None) -> list[Part]:
    """Return the deltas that came on top of what was installed, when nothing else changed; else nothing."""
    old = before.parts if before else ()
    if any(change.is_delta is False for change in record.changed):
        return []
    return [part for part in record.parts if part not in old]


@contextmanager
def _lock(folder: Path, wait_s: float) -> Iterator[None]:
    """Hold the one lock of all updates; NotPossible when another holds it for longer than `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    descriptor = os.open(folder / "update.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise NotPossible(f"another update runs since more than {wait_s:g} s; wait for it, then try again")
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _work(folder: Path) -> Iterator[Path]:
    """Yield an empty private directory in the file system of the generations."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)  # of an update that was cut off
    try:
        work.mkdir(mode=0o700)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _source(enterprise: Enterprise, source: str | None, work: Path, total_s: float) -> Iterator[Source]:
    if source is None:
        with closing(_network(enterprise.endpoint, REPOSITORY, total_s)) as network:
            yield network
    elif source.startswith(("http://", "https://")):
        with _address(enterprise, source, work, total_s) as opened:
            yield opened
    else:
        with open_local(Path(source)) as opened:
            yield opened


def _network(where: Endpoint, prefix: str, total_s: float) -> Network:
    return Network(where, prefix, connect_timeout_s=CONNECT_TIMEOUT_S, total_s=total_s)


@contextmanager
def _address(enterprise: Enterprise, source: str, work: Path, total_s: float) -> Iterator[Source]:
    """Open the repository or the carrier at an address. Whoever answers, the signatures decide."""
    where = stranger(source)
    known = enterprise.endpoint
    if (where.host, where.port, where.is_tls) == (known.host, known.port, known.is_tls):
        where = Endpoint(where.host, where.port, where.path, known.fingerprint)
    for prefix in ("/", REPOSITORY):
        with closing(_network(where, prefix, total_s)) as network:
            if _answers(network, source):
                yield network
                return
    copy = work / "carrier"
    with closing(_network(where, "" if where.path else "/", total_s)) as network:
        try:
            network.download(copy)
        except Missing:
            raise UplinkFailed(f"{source!r} has neither a repository nor a carrier; want one of them") from None
        except OSError as error:
            raise no_room(error, copy) from None
    with open_local(copy) as opened:
        yield opened


def _answers(network: Network, source: str) -> bool:
    """Whether a repository is there; who speaks no HTTP at an http:// address most likely speaks TLS."""
    try:
        return network.has("metadata/timestamp.json")
    except UplinkFailed as error:
        if source.startswith("http://") and isinstance(error.__context__, (BadStatusLine, ConnectionResetError)):
            secure = "https" + source.removeprefix("http")
            raise UplinkFailed(f"{error}; if that server speaks TLS, say {secure!r}") from None
        raise


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="mamplus_host.ble.update_helper", description="Update the BLE of this device."
    )
    parser.add_argument("--state", type=Path, required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--network", action="store_true", help="from the enterprise")
    where.add_argument("--source", help="from a carrier file, a directory or an address")
    where.add_argument("--compact", action="store_true", help="fetch nothing; merge long chains of deltas")
    parser.add_argument("--prepare", action="store_true", help="install nothing; say what could be")
    parser.add_argument("--total-s", type=float, default=TOTAL_S)
    parser.add_argument("--json", action="store_true", help="answer with one JSON object, errors too")
    options = parser.parse_args(arguments)
    try:
        said, text = _done(options)
    except MamplusError as error:
        failed = {"error": str(error), "kind": _kind(error)}
        print(
            json.dumps(failed) if options.json else f"{error}; keeping what is installed",
            file=sys.stdout if options.json else sys.stderr,
        )
        return error.exit_code
    print(said.decode() if options.json else text)
    return 0


def _done(options: argparse.Namespace) -> tuple[bytes, str]:
    """Do what is asked; return the answer as JSON, and for people."""
    if options.compact:
        is_merged = compact_here(options.state)
        return msgspec.json.encode({"merged": is_merged}), "merged" if is_merged else "nothing to merge"
    if options.prepare:
        prepared = prepare_here(options.state, options.source, total_s=options.total_s)
        return msgspec.json.encode(prepared), f"generation {prepared.record.number} could be installed"
    result = update_here(options.state, options.source, total_s=options.total_s)
    state = "installed" if result.new else "already installed"
    return msgspec.json.encode(result), f"generation {result.generation} is {state}"


def _kind(error: MamplusError) -> str:
    """Return the name under which `errors` knows this error, or what it derives from."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        code
    )  # the agent waits for this process's end, and taking modules down in order takes longer than installing
