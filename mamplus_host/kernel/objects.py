# SPDX-License-Identifier: Apache-2.0
"""Puts the probes into the kernel, finds them there again, and takes them out.

Everything is pinned, so enforcement outlives the agent; the next agent adopts it without a
gap. Objects of another release, or attached to another cgroup, are replaced: the new ones
are attached when their tables are filled (`retire_predecessors`), and then the old ones go.

Loading is done by a short-lived process (kernel_probes/native/loader.c); this one only
opens pins.
"""

import contextlib
import logging
import mmap
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from mamplus_host.config import Config
from mamplus_host.errors import KernelRefused, NotPossible
from mamplus_host.kernel import births, guard, layout, pins, responder, takeover
from mamplus_host.kernel._native import lib
from mamplus_host.kernel.bpf import Fd, Map, checked
from mamplus_host.kernel.guard import Guard
from mamplus_host.kernel.interpreters import Interpreters
from mamplus_host.kernel.ring import EventRing
from mamplus_host.kernel.tables import Tables
from mamplus_host.kernel.watching import Watching

LOG = logging.getLogger("mamplus")
_LOAD_TIMEOUT_S = 120
_COMPILE_TIMEOUT_S = 400  # bcc compiles every probe: a minute on a slow processor, and more on a busy one
_AGENT_NS = struct.Struct("=Q")
_AGENT_REST = struct.Struct("=IQI")  # agent_tgid, agent_awake_ns, agent_stopped
_AGENT_NS_OFFSET, _AGENT_REST_OFFSET = 8, 20  # in struct mamplus_heartbeat


class Kernel:
    """The probes of one agent, attached. Closing it leaves them attached; `detach` takes them out."""

    def __init__(self, config: Config, directory: Path, tables: Tables, *, adopted: bool) -> None:
        self.guard: Guard | None = (
            None  # what refuses hands on us; None: this kernel has no BPF LSM, or it is not wanted
        )
        self.adopted = adopted  # an earlier agent had attached them: its tables are in force
        self._config, self._directory = config, directory
        self._cgroup, self._responder_pid = Path(), 0
        self._waits = False  # loaded, and attached when our tables are filled: others stand
        self.tables = tables
        self.watching = Watching(directory)
        self.interpreters = Interpreters(directory, self.tables)
        with Fd.open(directory / "events") as events, Fd.open(directory / "waiting") as waiting:
            self.ring = EventRing(events, waiting)
        with Fd.open(directory / "heartbeat") as heartbeat:
            self._heartbeat = mmap.mmap(heartbeat.number, mmap.PAGESIZE)

    @classmethod
    def attach(cls, config: Config, cgroup: Path) -> "Kernel":
        """Attach the probes to `cgroup`, or adopt those that are attached; the posture is set either way.

        A responder is started before anything can wait for it. NotPossible when this machine
        lacks something, KernelRefused when the kernel would not take a program.
        """
        _require_machine(cgroup)
        pins.make_room(config)
        guard.claim(config)
        directory = pins.directory_for(config, cgroup)
        adopted, old = pins.is_complete(directory), takeover.predecessors(config, directory)
        if not adopted:
            _load(directory, cgroup, old)
        tables = Tables(directory)
        tables.set_posture(config)
        there = responder.ensure_running(config, cgroup)
        kernel = cls(config, directory, tables, adopted=adopted)
        kernel._cgroup, kernel._responder_pid = cgroup, there.pid
        if old and not adopted:
            for one in old:
                takeover.inherit(one, directory)
            kernel._waits = True  # until our tables are filled the old hooks stand alone
        else:
            kernel._stand(is_attached=adopted)
            kernel._stand_waker_hook()
        return kernel

    def _stand(self, *, is_attached: bool) -> None:
        """Attach what is not attached, but for WAKER_HOOKS, and everything that hangs on it."""
        if not is_attached:
            _attach(self._directory, self._cgroup)
        _pin_packet_programs(self._config, self._directory)
        self.guard = _stand_guard(self._config, self._directory)
        self.settle_guard(self._responder_pid)

    def _stand_waker_hook(self) -> None:
        """Attach the first of WAKER_HOOKS that this kernel has. Not while another responder answers what ours is to."""
        for name in pins.WAKER_HOOKS:
            if not pins.link_pin(self._directory, name).exists():
                _attach_optional(self._directory, name)
            if pins.link_pin(self._directory, name).exists():
                self._guard_what_came()
                return

    def settle_guard(self, responder_pid: int) -> None:
        """Tell the guard, where one stands, which processes are ours now."""
        if self.guard is not None:
            self.guard.settle(responder_pid, self.keeper)

    @contextlib.contextmanager
    def defended(self) -> Iterator[bool]:
        """Have the self-protection stand meanwhile, whatever the configuration says; False where the kernel lacks it.

        For trials: as long as it stands, also who started this process cannot end it.
        """
        wanted = msgspec.structs.replace(self._config.agent, self_protection=True)
        self.guard = _stand_guard(msgspec.structs.replace(self._config, agent=wanted), self._directory)
        self.settle_guard(self._responder_pid)
        try:
            yield self.guard is not None
        finally:
            guard.withdraw(self._directory)
            if self.guard is not None:
                self.guard.close()
                self.guard = None

    def stand_file_hooks(self) -> None:
        """Have the LSM hooks of guarded paths attached, where the kernel takes them: some seconds on a slow device.

        Apart from `attach`: without rules about files they are not loaded.
        """
        if pins.has_btf() and not pins.link_pin(self._directory, pins.LAST_FILE_HOOK).exists():
            _stand_file_hooks(self._directory)
            self._guard_what_came()

    def _guard_what_came(self) -> None:
        if self.guard is not None:
            self.guard.learn()

    def hooks(self) -> dict[str, str]:
        """Return what is attached: hook -> the kernel's name of the place. What is missing here is not enforced."""
        places = pins.places() | {name: section for name, (section, _type) in pins.CGROUP.items()}
        return {
            name.removeprefix("mamplus_"): place
            for name, place in places.items()
            if pins.link_pin(self._directory, name).exists()
        }

    @property
    def directory(self) -> Path:
        """Where the maps, programs and links of this agent are pinned."""
        return self._directory

    def packet_program_path(self, direction: str) -> Path:
        """Return the pin for `iptables -m bpf --object-pinned`; `direction` is "in" or "out".

        iptables-legacy opens it anew at every change of its table, so rules go before the pin does.
        """
        return pins.packet_pin(self._config, direction)

    def retire_predecessors(self) -> int:
        """Take over from probes of other releases or cgroups, and detach those; return how many sets.

        To be called once our tables are filled: until then the others stand, and ours are not attached.
        """
        others = takeover.predecessors(self._config, self._directory)
        for directory in others:
            takeover.stand_aside(directory)
        waited, self._waits = self._waits, False
        if waited:
            self._stand(is_attached=False)
        for directory in others:
            takeover.retire(self._config, directory)
        if waited:
            self._stand_waker_hook()
        return len(others)

    def beat(self, boot_ns: int) -> None:
        """Note that this process is the agent, and lives; CLOCK_BOOTTIME."""
        _AGENT_NS.pack_into(self._heartbeat, _AGENT_NS_OFFSET, boot_ns)
        _AGENT_REST.pack_into(self._heartbeat, _AGENT_REST_OFFSET, os.getpid(), time.monotonic_ns(), 0)

    def heartbeats(self) -> dict[str, int]:
        """Return when the responder and the agent lived last, CLOCK_BOOTTIME; 0: they ended, or never began.

        `agent_missed`: how often the responder found the agent silent, or stopped, and woke it.
        """
        found = self._heart()
        return {name: found[name] for name in ("responder_ns", "agent_ns", "agent_missed")}

    @property
    def keeper(self) -> int:
        """Pid of the process that answers when the responder does not; 0: none."""
        return self._heart()["keeper_tgid"]

    def _heart(self) -> dict[str, int]:
        return dict(zip(layout.HEARTBEAT_FIELDS, layout.HEARTBEAT.unpack_from(self._heartbeat), strict=True))

    def close(self) -> None:
        """Close what this process holds; all hooks stay attached."""
        if self.guard is not None:
            self.guard.close()
        self.ring.close()
        self.watching.close()
        self._heartbeat.close()

    @staticmethod
    def detach(config: Config) -> None:
        """Remove every pin of ours, and only ours: nothing is enforced after that. The responder ends by itself.

        NotPossible when the self-protection stands, and does not take this process for the next agent.
        """
        guard.claim(config)
        pins.remove_all(config)


def _require_machine(cgroup: Path) -> None:
    if os.geteuid() != 0:
        raise NotPossible("the agent runs as another user than root; BPF programs need root: start it with sudo")
    if not (cgroup / "cgroup.procs").exists():
        raise NotPossible(f"{str(cgroup)!r} is no cgroup; want a directory below a cgroup v2 mount")


def _load(directory: Path, cgroup: Path, old: Iterable[Path]) -> None:
    """Load all objects into `directory`, and name the scope; nothing is attached yet."""
    if directory.exists():
        pins.remove(directory)  # left by an attach that was cut off
    directory.mkdir(mode=0o700, exist_ok=True)
    try:
        births.share(old, directory)
        if pins.has_btf():
            _run_loader(directory, pins.OBJECTS)
        else:
            _run_loader(directory, pins.PLAIN_OBJECTS)
            _run_bcc(directory)
    except (KernelRefused, NotPossible):
        pins.remove(directory)
        raise
    for path in pins.OPTIONAL_OBJECTS if pins.has_btf() else ():
        with contextlib.suppress(KernelRefused):  # `hooks` does not name it then, and `features` says why
            _run_loader(directory, [path])
    descriptor = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        Map.pinned(directory / "scope", 4, 4).set(bytes(4), struct.pack("=i", descriptor))
    finally:
        os.close(descriptor)


def _run_loader(directory: Path, objects: Iterable[Path]) -> None:
    command = [str(pins.LOADER), str(directory), *map(str, objects)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LOAD_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotPossible(f"the BPF loader does not run: {error}; build it with `make build`") from None
    if done.returncode:
        seen = done.stderr.strip()[-2000:]
        raise KernelRefused(f"the kernel did not take the probes: {seen!r}", errno=done.returncode)


def _run_bcc(directory: Path) -> None:
    command = [sys.executable, "-m", "mamplus_host.kernel.bcc_exec", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotPossible(f"bcc does not end: {error}") from None
    if done.returncode:
        seen = done.stderr.strip()[-2000:]
        raise NotPossible(f"{pins.BTF} is missing, and bcc cannot load the probes without it: {seen}")


def _attach(directory: Path, cgroup: Path) -> None:
    """Attach and pin every program but those of WAKER_HOOKS; on failure nothing of `directory` stays attached."""
    descriptor = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name, (_section, attach_type) in pins.CGROUP.items():
            with Fd.open(pins.program_pin(directory, name)) as program:
                link = lib.mamplus_attach_cgroup(program.number, descriptor, attach_type)
                _pin_link(directory, name, link)
        for name in pins.TRACING:
            _attach_tracing(directory, name)
        for name in pins.OPTIONAL_TRACING:
            if not pins.link_pin(directory, name).exists():  # files' hooks may stand already
                _attach_optional(directory, name)
    except KernelRefused:
        pins.remove(directory)
        raise
    finally:
        os.close(descriptor)


def _attach_tracing(directory: Path, name: str) -> None:
    with Fd.open(pins.program_pin(directory, name)) as program:
        if pins.has_btf():
            link = lib.mamplus_attach_tracing(program.number)
        else:
            link = lib.mamplus_attach_raw_tracepoint(program.number, pins.places()[name].partition("/")[2].encode())
        _pin_link(directory, name, link)


def _stand_guard(config: Config, directory: Path) -> Guard | None:
    """Return the guard, standing; None where the kernel has no BPF LSM, or the configuration wants none."""
    if guard.is_whole(directory) and config.agent.self_protection:
        return Guard(config, directory)
    guard.withdraw(directory)
    if not config.agent.self_protection:
        return None
    try:
        _run_loader(directory, [pins.GUARD_OBJECT])
        for name in pins.GUARD:
            _attach_tracing(directory, name)
        return Guard(config, directory)
    except KernelRefused as error:
        LOG.info("hands on the agent are noticed, not refused: %s", error)
        guard.withdraw(directory)
        return None


def _stand_file_hooks(directory: Path) -> None:
    for path in pins.of_file_hooks(directory):
        path.unlink()  # left by an attempt that was cut off
    try:
        _run_loader(directory, [pins.FILES_OBJECT])
    except (KernelRefused, NotPossible) as error:
        LOG.info("guarded paths are watched, not refused by the kernel: %s", error)
        return
    for name in pins.FILE_HOOKS:
        _attach_optional(directory, name)


def _attach_optional(directory: Path, name: str) -> None:
    """Attach it where it was loaded; one that the kernel does not attach is left out, as if it had not loaded."""
    pin = pins.program_pin(directory, name)
    if not pin.exists():
        return
    try:
        _attach_tracing(directory, name)
    except KernelRefused as error:
        LOG.warning("%s; it is left out", error)
        pin.unlink()


def _pin_link(directory: Path, name: str, descriptor: int) -> None:
    with Fd(checked(descriptor, f"attach {name}")) as link:
        link.pin(pins.link_pin(directory, name))


def _pin_packet_programs(config: Config, directory: Path) -> None:
    """Put the packet programs where iptables rules look for them, in one step each."""
    for direction, name in pins.PACKET.items():
        path, beside = pins.packet_pin(config, direction), pins.packet_pin(config, f"{direction}_new")
        beside.unlink(missing_ok=True)
        with Fd.open(pins.program_pin(directory, name)) as program:
            program.pin(beside)
        beside.rename(path)
