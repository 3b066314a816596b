# SPDX-License-Identifier: Apache-2.0
"""Stands up lsm_guard.bpf.c, which refuses hands on the agent, and tells it what is ours.

Nobody gets a descriptor of what stands here as ours, so the next agent has to take the place of one that ended
before it opens anything else: `claim`. Where the kernel has no BPF LSM there is no guard, and nothing to claim.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mamplus_host.config import CGROUP2_MOUNTS, Config
from mamplus_host.errors import KernelRefused, NotPossible
from mamplus_host.executor.processes.tasks import cgroup_of, task
from mamplus_host.kernel import layout, pins
from mamplus_host.kernel._native import ffi, lib
from mamplus_host.kernel.bpf import Fd, Map, checked, map_id
from mamplus_host.kernel.tables import file_of

_FIRST = bytes(4)
# Who has a descriptor of a program can run it (BPF_PROG_TEST_RUN), and have a program of its own stand for a function
# of it (freplace). Not the packets': iptables opens those.
_OPENED_BY_OTHERS = tuple(f"prog_{name}" for name in pins.PACKET.values())


def claim(config: Config) -> None:
    """Take the place of an agent that ended, wherever a guard of ours stands; to be called before all else.

    NotPossible when the kernel does not let us: there is an agent, or this is another program than it was.
    """
    for directory in pins.directories(config):
        if not (directory / "own").exists():
            continue
        try:
            Fd.open(directory / "own").close()
        except KernelRefused as error:
            raise NotPossible(
                f"{error}: the self-protection of {str(directory)!r} stands, and this program is not the one that it"
                " knows; open a maintenance window (mamplus maintenance CODE), or restart the device"
            ) from None


def stands(config: Config) -> bool:
    """Whether a guard of ours stands, of whatever release."""
    return any((directory / "own").exists() for directory in pins.directories(config))


class Guard:
    """The guard of one directory of pins, standing."""

    def __init__(self, config: Config, directory: Path) -> None:
        self._config, self._directory = config, directory
        self._own = Map.pinned(directory / "own", 4, layout.OWN.size)
        self._objects = Map.pinned(directory / "own_objects", layout.OBJECT_KEY.size, 4)
        self._state = Map.pinned(directory / "guard_state", 4, layout.GUARD_STATE.size)
        self._fixed = self._fixed_objects()
        self._held_in: dict[bytes, int] = {}  # cgroups
        self._written: tuple[object, ...] = ()

    def settle(self, responder_pid: int, keeper_pid: int = 0) -> None:
        """Tell the kernel which processes, cgroups and program are ours now; writes only what has changed."""
        pids = [pid for pid in (os.getpid(), responder_pid, keeper_pid) if pid]
        starts = {pid: found.start_ns // layout.TICK_NS for pid in pids if (found := task(pid)) is not None}
        wanted = (starts, self._cgroups(pids), _program())
        if wanted == self._written:
            return
        self._write_processes(starts)
        self._held_in = wanted[1]
        self._write_objects(self._fixed | self._held_in)
        self._write_state(exe=wanted[2])
        self._written = wanted

    def learn(self) -> None:
        """More was loaded or attached: guard that, too."""
        self._fixed = self._fixed_objects()
        self._write_objects(self._fixed | self._held_in)

    def open_window(self, until_ns: int) -> None:
        """Let everything through until `until_ns` of CLOCK_BOOTTIME; 0: not any more."""
        if until_ns != self.window_until_ns():
            self._write_state(until_ns=until_ns)

    def window_until_ns(self) -> int:
        return int(self._now()["window_until_ns"])

    def close(self) -> None:
        for one in (self._own, self._objects, self._state):
            one.close()

    def _now(self) -> dict[str, Any]:
        value = self._state.get(_FIRST) or bytes(layout.GUARD_STATE.size)
        return dict(zip(layout.GUARD_STATE_FIELDS, layout.GUARD_STATE.unpack(value), strict=True))

    def _write_state(self, *, exe: tuple[int, int] | None = None, until_ns: int | None = None) -> None:
        label = pins.table_label(self._directory).encode("ascii")
        now = self._now() | {"agent_tgid": os.getpid(), "own_map": map_id(self._own), "table_name": label}
        if exe is not None:
            now["exe_dev"], now["exe_ino"] = exe
        if until_ns is not None:
            now["window_until_ns"] = until_ns
        self._state.set(_FIRST, layout.GUARD_STATE.pack(*(now[name] for name in layout.GUARD_STATE_FIELDS)))

    def _write_processes(self, starts: dict[int, int]) -> None:
        wanted = {pid.to_bytes(4, sys.byteorder): layout.OWN.pack(ticks) for pid, ticks in starts.items()}
        for key, value in wanted.items():
            self._own.set(key, value)
        for key in set(self._own.keys()) - set(wanted):
            self._own.remove(key)

    def _write_objects(self, wanted: dict[bytes, int]) -> None:
        for key, value in wanted.items():
            self._objects.set(key, value.to_bytes(4, sys.byteorder))
        for key in set(self._objects.keys()) - set(wanted):
            self._objects.remove(key)

    def _fixed_objects(self) -> dict[bytes, int]:
        """Return the maps, programs, links and directories of this agent."""
        found = {}
        for path in self._directory.iterdir():
            if path.name in (*pins.MAPS, *pins.GUARD_MAPS, *pins.OPTIONAL_MAPS):
                with Fd.open(path) as map_:
                    found[_key(layout.OBJECT_MAP, checked(lib.mamplus_map_id(map_.number), f"ask for {path.name}"))] = 0
            elif path.name.startswith("link_"):
                with Fd.open(path) as link:
                    about = ffi.new("struct mamplus_link *")
                    checked(lib.mamplus_link_about(link.number, about), f"ask for {path.name}")
                    found[_key(layout.OBJECT_LINK, about.id)] = int(about.program)
            elif path.name.startswith("prog_") and path.name not in _OPENED_BY_OTHERS:
                with Fd.open(path) as program:
                    number = checked(lib.mamplus_program_id(program.number), f"ask for {path.name}")
                    found[_key(layout.OBJECT_PROGRAM, number)] = 0
        device = _device(self._directory)
        for directory in (self._directory, self._config.bpffs):
            found[_key(layout.OBJECT_DIRECTORY, directory.stat().st_ino, device)] = 0
        found[_key(layout.OBJECT_MOUNT, 0, device)] = 0
        return found

    def _cgroups(self, pids: Iterable[int]) -> dict[bytes, int]:
        """Return the cgroups that hold us and those above, but for the root: that can be neither frozen nor killed."""
        mount = next((Path(one) for one in CGROUP2_MOUNTS if Path(one, "cgroup.controllers").exists()), None)
        found: dict[bytes, int] = {}
        for pid in pids:
            path = (cgroup_of(pid) or "/").strip("/")
            while mount is not None and path:
                if (mount / path).is_dir():
                    found[_key(layout.OBJECT_CGROUP, (mount / path).stat().st_ino)] = 0
                path = path.rpartition("/")[0]
        return found


def is_whole(directory: Path) -> bool:
    """Whether every part of a guard is pinned in `directory`."""
    parts = [pins.link_pin(directory, name) for name in pins.GUARD] + [directory / name for name in pins.GUARD_MAPS]
    return all(path.exists() for path in parts)


def withdraw(directory: Path) -> None:
    """Take a guard, or what there is of one, out of `directory`: its links first."""
    for name in pins.GUARD:
        pins.link_pin(directory, name).unlink(missing_ok=True)
    for name in pins.GUARD:
        pins.program_pin(directory, name).unlink(missing_ok=True)
    for name in pins.GUARD_MAPS:
        (directory / name).unlink(missing_ok=True)


def _key(kind: int, number: int, device: int = 0) -> bytes:
    return layout.OBJECT_KEY.pack(kind, device, number)


def _device(path: Path) -> int:
    number = path.stat().st_dev
    return os.major(number) << 20 | os.minor(number)


def _program() -> tuple[int, int]:
    """Return device and inode of the program that a next agent would run: that of the path, were it replaced."""
    path = os.readlink("/proc/self/exe").removesuffix(" (deleted)")
    try:
        with open(path, "rb") as file:
            found = file_of(file.fileno())
    except OSError:
        return 0, 0  # nobody can take our place until it is there again
    return found.dev, found.ino
