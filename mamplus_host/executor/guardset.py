# SPDX-License-Identifier: Apache-2.0
"""What no action touches, whatever the list says: asked by every deed in `prepare`.

Journey: deeds -> [guardset] -> /proc.

A process is spared when it is named by its number (the agent's own), when the program that it runs is the very
file that lies where the device keeps one of the set (`ble/guarded.py`), or when it is in a system unit that is
spared as a whole. Names that a process picks itself (comm, argv) count for nothing, nor does a program of that
name in another mount namespace. Everything is looked up when it is asked: what was true a while ago may be another
program's by now.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from mamplus_host.ble import guarded
from mamplus_host.ble.entry import unmapped
from mamplus_host.ble.guard import EVERY_PORT, Guard
from mamplus_host.ble.paths import seen_bytes
from mamplus_host.errors import ActionFailed
from mamplus_host.executor.plan import NEVER
from mamplus_host.executor.processes.tasks import cgroup_of
from mamplus_host.policy.actions import Spared

_DELETED = " (deleted)"
_SYSTEM = "/system.slice/"


class GuardSet:
    """The set, as it is at the moment that it is asked."""

    def __init__(
        self,
        pids: Callable[[], Iterable[int]] = lambda: (),
        *,
        never: Callable[[], Iterable[Guard]] = lambda: (),
        spared: Callable[[], Spared] = Spared,
        trees: Iterable[Path] = (),
    ) -> None:
        """`pids`: of the agent and its helpers. `never`: addresses that stay reachable. `trees`: the agent's own.

        `spared`: what the policy in force adds.
        """
        self._pids, self._never, self._spared = pids, never, spared
        self._trees = tuple(trees)

    @classmethod
    def of_pids(cls, pids: Iterable[int]) -> "GuardSet":
        """Return a set that names some processes besides the device's own programs."""
        fixed = frozenset(pids)
        return cls(lambda: fixed)

    def numbers(self) -> frozenset[int]:
        """Return the processes that are spared by their number."""
        return frozenset(self._pids()) | NEVER

    def units(self) -> tuple[str, ...]:
        """Return patterns of the units of which some program is spared, or all."""
        return (*guarded.UNITS, *self._spared().units)

    def programs(self) -> tuple[str, ...]:
        """Return where the programs are that are spared."""
        return (*guarded.PATHS, *map(os.path.realpath, self._spared().programs))

    def why_process(self, tgid: int, cgroup: str | None = None) -> str:
        """Return why nothing acts on a process, "" when something may. `cgroup`: its own, when that was just read."""
        if tgid in self.numbers():
            return f"process {tgid} is guarded: nothing acts on it"
        unit = unit_of(cgroup or cgroup_of(tgid) or "")
        if role := program_role(tgid, unit):
            return f"process {tgid} is guarded: it is part of {guarded.in_words(role)}"
        return f"process {tgid} is guarded: the policy spares it" if self._is_spared(tgid, unit) else ""

    def _is_spared(self, tgid: int, unit: str) -> bool:
        said = self._spared()
        if unit and unit in said.units:
            return True
        link = f"/proc/{tgid}/exe"
        for path in said.programs:
            with suppress(OSError):
                if os.path.samestat(os.stat(link), os.stat(path)):
                    return True
        return False

    def among(self, tgids: Iterable[int]) -> frozenset[int]:
        """Return those of `tgids` that nothing acts on."""
        return frozenset(tgid for tgid in tgids if self.why_process(tgid))

    def refuse_process(self, tgid: int, cgroup: str | None = None) -> None:
        """Raise ActionFailed when nothing may act on this process."""
        if why := self.why_process(tgid, cgroup):
            raise ActionFailed(why)

    def refuse_path(self, path: str) -> None:
        """Raise ActionFailed when the device cannot do without the file or directory at `path`, or the agent cannot."""
        real = os.path.realpath(path)
        role = guarded.role_of(merged(real)) or guarded.role_of(merged(path))
        if real in self._spared().programs:
            raise ActionFailed(f"{path!r} is guarded: the policy spares it")
        if role:
            raise ActionFailed(f"{path!r} is guarded: it is part of {guarded.in_words(role)}")
        if any(Path(real).is_relative_to(tree) or tree.is_relative_to(real) for tree in self._trees):
            raise ActionFailed(f"{path!r} is guarded: it is the agent's own")
        if is_of_init(real):
            raise ActionFailed(f"{path!r} is guarded: what starts the device, or the agent, is made of it")

    def refuse_address(self, address: str, port: int = EVERY_PORT) -> None:
        """Raise ActionFailed when `address` (with `port`; 0: any) has to stay reachable: the enterprise's, say."""
        wanted = unmapped(ip_address(address))
        for never, at in self._never():
            if never == wanted and (not port or not at or at == port):
                raise ActionFailed(f"{address} is guarded: it is the way to the enterprise, or the policy names it")

    def never(self) -> tuple[tuple[IPv4Address | IPv6Address, int], ...]:
        """Return the addresses that stay reachable, with their ports (0: every port)."""
        return tuple(self._never())


def program_role(tgid: int, unit: str) -> str:
    """Return what a process in system unit `unit` ("": in none) is to the device, by program or unit; "" for others."""
    role = guarded.unit_role(unit)
    if role in guarded.WHOLE:
        return role
    link = f"/proc/{tgid}/exe"
    try:
        path = os.readlink(link)
        name = path.removesuffix(_DELETED)
        found = guarded.role_of(merged(name))
        if not found:
            return ""
        if os.path.samestat(os.stat(link), os.stat(name)):
            return found
    except OSError:
        return ""  # a kernel thread, or it has ended
    return found if path.endswith(_DELETED) and role == found else ""  # replaced by an update while it runs


def unit_of(cgroup: str) -> str:
    """Return the system unit that a cgroup v2 path lies in; "" for none, a user's own units among them."""
    if not cgroup.startswith(_SYSTEM):
        return ""
    return next((part for part in cgroup[len(_SYSTEM) :].split("/") if part.endswith(".service")), "")


def is_of_init(path: str) -> bool:
    """Say whether process 1 or the agent runs or has mapped the file at `path`: a library of all programs, mostly."""
    return any(_uses(process, path) for process in ("/proc/1", "/proc/self"))


def _uses(process: str, path: str) -> bool:
    with suppress(OSError):  # process 1 of a container may let nobody look at it
        found = os.stat(path)
        if os.path.samestat(found, os.stat(f"{process}/exe")):
            return True
        for line in Path(f"{process}/maps").read_bytes().splitlines():
            fields = line.split(None, 5)
            if len(fields) == 6 and int(fields[4]) == found.st_ino and fields[5] == os.fsencode(path):
                return True
    return False


def merged(path: str) -> str:
    """Return a path as it is spelled since the usr-merge, bytes that are no UTF-8 as surrogates."""
    return os.fsdecode(seen_bytes(path))
