# SPDX-License-Identifier: Apache-2.0
"""Fills the memory of what this device uses, and names its lifelines.

Journey: /proc, kernel tables, enterprise -> [usage] -> shadow load.

A program that runs is known to the kernel by its SHA-256 already, so a look at all of them reads no file.
The few that are lifelines are hashed here, once for each content.
"""

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mamplus_host.analyzer.accounts import Accounts
from mamplus_host.ble import guard, guarded
from mamplus_host.ble.endpoint import Endpoint, endpoint_value
from mamplus_host.ble.entry import PROTOCOLS, Kind, address_key
from mamplus_host.ble.paths import spelled_path
from mamplus_host.ble.shadow import Use
from mamplus_host.collector import in_use
from mamplus_host.enterprise import Enterprise
from mamplus_host.errors import ConfigInvalid
from mamplus_host.kernel import pins
from mamplus_host.kernel.tables import Tables, file_of
from mamplus_host.policy.policy import NeverBlock, Policy

LOG = logging.getLogger("mamplus")
RESOLVERS = Path("/etc/resolv.conf")
MAX_RESOLVERS = 3  # as resolv.conf(5) has it
DNS_PORT = 53
_PROGRAMS = (Path("/proc/1/exe"), Path("/proc/self/exe"), pins.RESPONDER)


class Usage:
    """What the tasks of a cgroup use, and what the device cannot do without."""

    def __init__(self, cgroup: Path, tables: Tables | None) -> None:
        """`tables`: of the agent, which knows programs by their content; None: they are named by their path alone."""
        self._cgroup, self._tables = cgroup, tables
        self._accounts = Accounts()
        self._asked_ns = 0  # of names, those that were asked for since: what was forgotten meanwhile stays so

    def in_use(self) -> Iterator[Use]:
        """Yield what is in use at this moment."""
        tgids = in_use.tasks(self._cgroup)
        for tgid in tgids:
            yield from _program(Path(f"/proc/{tgid}/exe"), self._tables)
            yield from self._account(tgid)
        for peer in in_use.peers(tgids):
            yield destination(peer.address, peer.port, peer.protocol, peer.by)
        yield from self._names()

    def _account(self, tgid: int) -> Iterator[Use]:
        """Yield the user and the groups that `tgid` runs under; those of uid 0 are never refused."""
        try:
            uid, where = os.stat(f"/proc/{tgid}").st_uid, os.readlink(f"/proc/{tgid}/exe")
        except OSError:
            return  # ended meanwhile, or a kernel thread
        if uid:
            user, groups = self._accounts.names(uid)
            yield from (Use(Kind.USER, name, where) for name in user)
            yield from (Use(Kind.GROUP, name, where) for name in groups)

    def _names(self) -> list[Use]:
        """Return the DNS names that were asked for since the last look."""
        if self._tables is None:
            return []
        since_ns, self._asked_ns = self._asked_ns, time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return [Use(Kind.DOMAIN, name, comm) for name, comm in self._tables.asked_names(since_ns)]

    def lifelines(self, enterprise: Enterprise | None, chosen: Policy) -> list[Use]:
        """Return what no list may newly block unasked."""
        return lifelines(enterprise, chosen.never_block)


def destination(address: str, port: int, protocol: str, by: str) -> Use:
    """Return the other end of a connection as the list would name it; port 0: the address alone."""
    if not port:
        return Use(Kind.IP, address, by)
    kind, value = endpoint_value(Endpoint(address_key(address), 128, PROTOCOLS[protocol], port))
    return Use(kind, value, by)


def lifelines(enterprise: Enterprise | None, never: NeverBlock) -> list[Use]:
    """Return what this device cannot do without: no list may newly block it unasked."""
    found = [*_own_programs(), *_device_programs(), *_resolvers()]
    for address, port in never.guards():
        found.append(destination(str(address), port, "tcp", "guarded by the policy"))
    found += [Use(Kind.DOMAIN, name, "guarded by the policy") for name in never.dns_names()]
    if enterprise is not None:
        found += [destination(one, enterprise.endpoint.port, "tcp", "the enterprise") for one in enterprise.addresses]
        found += [Use(Kind.DOMAIN, name, "the enterprise") for name in guard.names(enterprise.endpoint.host)]
    return found


def _program(path: Path, tables: Tables | None) -> Iterator[Use]:
    """Yield the program at a /proc path, by its path, and by its content when the kernel remembers that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # ended meanwhile, or a kernel thread
    try:
        where = os.readlink(path)
        yield Use(Kind.PATH, spelled_path(where), where)
        if tables is not None and (sha256 := tables.known(file_of(descriptor))):
            yield Use(Kind.SHA256, sha256, where)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _own_programs() -> Iterator[Use]:
    return _hashed_programs(_PROGRAMS)


def _device_programs() -> Iterator[Use]:
    """Yield what of the guard set this device has: a list that blocks one is held back, whatever it names it by."""
    return _hashed_programs(Path(path) for path in guarded.PATHS if os.path.exists(path))


def _hashed_programs(paths: Iterable[Path]) -> Iterator[Use]:
    for path in paths:
        try:
            with path.open("rb") as file:
                where = os.path.realpath(path)
                yield Use(Kind.SHA256, _hashed(file.fileno()), where)
                yield Use(Kind.PATH, spelled_path(where), where)
        except OSError as error:
            LOG.debug("a lifeline cannot be looked at: %s", error)


_HASHED: dict[tuple[int, int, int, int], str] = {}  # (device, inode, size, ctime) to SHA-256
_MAX_HASHED = 400


def _hashed(descriptor: int) -> str:
    stat = os.fstat(descriptor)
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns)
    if key not in _HASHED:
        if len(_HASHED) > _MAX_HASHED:
            _HASHED.clear()
        with os.fdopen(os.dup(descriptor), "rb") as file:
            _HASHED[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _HASHED[key]


def _resolvers() -> Iterator[Use]:
    try:
        lines = RESOLVERS.read_text(errors="replace").splitlines()
    except OSError:
        return
    named = [words[1] for line in lines if (words := line.split())[:1] == ["nameserver"] and len(words) > 1]
    for address in named[:MAX_RESOLVERS]:
        try:
            yield destination(address.partition("%")[0], DNS_PORT, "udp", "name server")
        except (ValueError, ConfigInvalid):
            continue
